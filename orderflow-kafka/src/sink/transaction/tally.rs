//! What a transaction did.
//!
//! Invariant: counts are told when the transaction is committed, once, or never; the rows that it leaves out are told before.

use crate::sink::feed::Feed;
use crate::sink::topics::TopicId;
use orderflow_core::data::Rejected;

#[derive(Default)]
pub(super) struct Tally {
    /// Records confirmed, by the number of their topic.
    records: Vec<u64>,
    /// Rows that it leaves out, until they are told.
    pub(super) refused: Vec<Rejected>,
}

impl Tally {
    pub(super) fn count(&mut self, topic: TopicId) {
        let topic = usize::from(topic);
        if self.records.len() <= topic {
            self.records.resize(topic + 1, 0);
        }
        self.records[topic] += 1;
    }

    /// Tells the topics.
    pub(super) fn tell(self, feed: &Feed) {
        for (topic, records) in (0..).zip(self.records).filter(|(_, records)| *records > 0) {
            feed.topics.get(topic).delivered(records);
        }
    }
}
