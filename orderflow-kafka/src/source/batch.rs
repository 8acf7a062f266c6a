//! Consecutive messages of one partition, still lying in librdkafka's memory: nothing is copied before a format reads them.
//!
//! Invariant: the messages are given back before the consumer they came from, wherever the batch is dropped.

use crate::ffi::{Consumer, Message};
use orderflow_core::source::{Fingerprint, RawBatch, RawRecord};
use orderflow_core::time::Position;
use std::sync::Arc;

/// One message and what was read of it once already.
struct Row {
    message: Message,
    timestamp: Option<i64>,
}

/// A batch in the making, then a [`RawBatch`].
pub(crate) struct Batch {
    // before `_consumer`: fields drop in this order
    rows: Vec<Row>,
    bytes: usize,
    fingerprint: Fingerprint,
    _consumer: Arc<Consumer>,
}

impl Batch {
    pub(crate) fn new(consumer: Arc<Consumer>, capacity: usize) -> Self {
        Self { rows: Vec::with_capacity(capacity), bytes: 0, fingerprint: Fingerprint::default(), _consumer: consumer }
    }

    /// Appends a message that carries no error.
    pub(crate) fn push(&mut self, message: Message) {
        let size = message.value().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
        let timestamp = message.timestamp();
        self.fingerprint.add(position(&message), size, timestamp);
        self.bytes += size;
        self.rows.push(Row { message, timestamp });
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn first(&self) -> Option<Position> {
        self.rows.first().map(|r| position(&r.message))
    }

    pub(crate) fn last_timestamp(&self) -> Option<i64> {
        self.rows.last().and_then(|r| r.timestamp)
    }
}

/// A record's offset; only the offsets of events can be negative.
pub(crate) fn position(message: &Message) -> Position {
    u64::try_from(message.offset()).unwrap_or(0)
}

impl RawBatch for Batch {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let Row { message, timestamp } = &self.rows[i];
        RawRecord { value: message.value(), key: message.key(), position: position(message), timestamp: *timestamp }
    }

    fn headers(&self, i: usize, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.rows[i].message.headers(visit);
    }
}
