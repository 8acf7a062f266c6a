//! What brokers answer to the records of a lane's transaction.
//!
//! Invariant: an answer counts for the transaction that is under way or for none; one that refuses a record breaks the transaction, and names the record
//! only if it is the record's own fault.

use super::super::fence::{MARK, fenced};
use super::super::lanes::Common;
use super::{LaneWriter, Stage};
use crate::ffi::Delivery;
use crate::sink::feed::{Feed, flight_of, named, too_large};
use orderflow_core::Error;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::time::Duration;

impl LaneWriter {
    /// Takes answers of brokers that have come.
    pub(in super::super) fn serve(&mut self, common: &Common, failed: &mut Option<Error>) {
        let client = self.client.clone();
        let mut answered = false;
        client.serve(Duration::ZERO, &mut |delivery| {
            answered |= delivery.error.is_none();
            self.confirmed(&delivery, &common.feed, failed);
        });
        if answered {
            client.context().alive();
        }
    }

    fn confirmed(&mut self, delivery: &Delivery<'_>, feed: &Feed, failed: &mut Option<Error>) {
        let (topic, row) = named(delivery.opaque);
        let counts = matches!(self.stage, Stage::Open | Stage::Flushing | Stage::Waiting | Stage::Committing);
        if counts
            && delivery.opaque != MARK
            && let Some(flight) = flight_of(&mut self.flights, row)
        {
            flight.unconfirmed = flight.unconfirmed.saturating_sub(1);
            flight.unconfirmed_bytes = flight.unconfirmed_bytes.saturating_sub(delivery.bytes);
        }
        match delivery.error {
            None if counts && delivery.opaque != MARK => self.tally.count(topic),
            None => {}
            Some(code) if too_large(code) && delivery.opaque != MARK => {
                if let Some(flight) = flight_of(&mut self.flights, row) {
                    let letter = feed.letter(flight, delivery, code);
                    // with every such record one failure less is possible
                    self.attempts = 0;
                    self.spoiled.insert(delivery.opaque, letter);
                }
                self.broken.get_or_insert_with(|| format!("a record is refused: {code}"));
            }
            // these follow from a failure that the lane or the client tells
            Some(Code::PurgeQueue | Code::PurgeInflight | Code::State | Code::Fatal) => {
                self.broken.get_or_insert_with(|| "it has failed at a broker".into());
            }
            Some(code) if fenced(code) => {}
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId)
                if delivery.opaque == MARK =>
            {
                let topic = &self.opening.book.topic;
                let e = Error::external(format!("topic '{topic}' of the sink's progress was deleted while the pipeline wrote to it"));
                failed.get_or_insert(e.permanent());
            }
            Some(code) if delivery.opaque == MARK => {
                self.broken.get_or_insert_with(|| format!("the progress is refused: {code}"));
            }
            Some(code) => {
                failed.get_or_insert(feed.undeliverable(delivery.opaque, code));
            }
        }
    }
}
