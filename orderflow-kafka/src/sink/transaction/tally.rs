//! What a transaction did.
//!
//! Invariant: it is told when the transaction is committed, once, or never.

use crate::sink::feed::Feed;
use crate::sink::topics::TopicId;
use orderflow_core::data::Rejected;

#[derive(Default)]
pub(super) struct Tally {
    /// Records confirmed, by the number of their topic.
    records: Vec<u64>,
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

    /// Tells the topics, and gives the rows that were refused.
    pub(super) fn tell(self, feed: &Feed) -> Vec<Rejected> {
        for (topic, records) in (0..).zip(self.records).filter(|(_, records)| *records > 0) {
            feed.topics.get(topic).delivered(records);
        }
        self.refused
    }
}
