//! The writer without transactions: a queue of epochs that is fed to librdkafka as fast as it takes records and emptied by its confirmations.
//!
//! Invariant: progress needs no order among confirmations: it is the newest epoch at the head of the queue that has been sent whole and has
//! nothing outstanding. After a crash a row may be written again.

use super::KafkaSink;
use super::feed::{Feed, Flight, Manner, Sent, batch_size, configuration, flight_of, named, too_large};
use super::producers::Producers;
use crate::client::refused_property;
use crate::ffi::{Delivery, ProducerClient};
use orderflow_core::data::Rejected;
use orderflow_core::sink::{Closed, Committed, Progress, Refused, SinkContext, Writer, WriterId};
use orderflow_core::source::Waker;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct KafkaWriter {
    id: WriterId,
    feed: Feed,
    client: Arc<ProducerClient>,
    producers: Producers,
    flights: VecDeque<Flight>,
    progress: Option<Progress>,
    refused: Vec<Rejected>,
    failed: Option<Error>,
}

impl KafkaWriter {
    pub(super) fn open(sink: &KafkaSink, context: &SinkContext) -> Result<Self> {
        let config = configuration(sink, 1)?;
        let client = Arc::new(ProducerClient::new(&config).map_err(refused_property)?);
        let woken = client.clone();
        let feed = Feed::start(sink, context, Waker::new(move || woken.wake()), batch_size(&config), BTreeMap::new())?;
        let producers = Producers::new(client.clone(), config);
        Ok(Self { id: context.writer, feed, client, producers, flights: VecDeque::new(), progress: None, refused: vec![], failed: None })
    }

    /// Sends what librdkafka takes.
    fn pump(&mut self) {
        let mut manner = Manner { kept: false, spoiled: &HashMap::new(), refused: &mut self.refused, lane: None };
        for flight in &mut self.flights {
            match self.feed.send(flight, &mut self.producers, &mut manner) {
                Ok(Sent::Whole) => {}
                Ok(Sent::Later | Sent::Closed) => return,
                Err(e) => {
                    self.failed.get_or_insert(e);
                    return;
                }
            }
        }
    }

    /// Takes confirmations, waiting up to `wait` for the first where any is due.
    fn serve(&mut self, wait: Duration) {
        let mut wait = if self.feed.topics.waiting() || self.flights.iter().any(|f| f.unconfirmed > 0) { wait } else { Duration::ZERO };
        let clients = self.producers.clients();
        for client in &clients {
            // wait where an answer is due, once
            let due = clients.len() == 1 || self.feed.topics.waiting() || client.outstanding() > 0;
            let patience = if due { std::mem::take(&mut wait) } else { Duration::ZERO };
            let mut answered = false;
            client.serve(patience, &mut |delivery| {
                answered |= delivery.error.is_none();
                self.confirmed(&delivery);
            });
            if answered {
                self.client.context().alive();
            }
        }
    }

    fn confirmed(&mut self, delivery: &Delivery<'_>) {
        let (topic, row) = named(delivery.opaque);
        let Some(flight) = flight_of(&mut self.flights, row) else { return };
        flight.unconfirmed -= 1;
        flight.unconfirmed_bytes = flight.unconfirmed_bytes.saturating_sub(delivery.bytes);
        match delivery.error {
            None => self.feed.topics.get(topic).delivered(1),
            Some(code) if too_large(code) => self.refused.push(self.feed.letter(flight, delivery, code)),
            Some(code) => {
                let e = self.feed.undeliverable(delivery.opaque, code);
                self.failed.get_or_insert(e);
            }
        }
    }

    /// Moves progress over the epochs that are through.
    fn retire(&mut self) {
        while self.flights.front().is_some_and(|f| f.is_sent() && f.unconfirmed == 0) {
            if let Some(flight) = self.flights.pop_front() {
                self.progress = Some(Progress { writer: self.id, epoch: flight.epoch, part: 0 });
            }
        }
    }
}

impl Writer for KafkaWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let flight = self.feed.take(closed)?;
        self.feed.topics.serve()?;
        self.flights.push_back(flight);
        self.pump();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        // nothing rolls: what was taken is on its way already
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.serve(wait);
        self.feed.topics.serve()?;
        self.pump();
        self.retire();
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let Some(trouble) = self.client.context().trouble(&self.feed.brokers) {
            return Err(trouble);
        }
        // nothing waits here: they are told as of what is out
        let (rows, out) = (std::mem::take(&mut self.refused), self.progress.map_or(Epoch(0), |p| p.epoch));
        let refused = if rows.is_empty() { vec![] } else { vec![Refused::new(0, out, rows)] };
        let pending_bytes = self.flights.iter().map(|f| f.memory() + f.unconfirmed_bytes).sum();
        Ok(Committed { progress: self.progress, pending_bytes, refused })
    }

    fn close(self: Box<Self>) -> Result<()> {
        // what is not confirmed is given up when the clients are dropped
        Ok(())
    }
}
