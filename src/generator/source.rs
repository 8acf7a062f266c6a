//! The generator as a source: bytes like a broker's, decoded by whatever format one gives it.
//!
//! Invariant: one partition, positions are record numbers, timestamps are event times and never those of the machine, so that a
//! range of positions has the same fingerprint whenever it is read.
//!
//! A generator with a rate has no thread of its own to wake the engine: between two records it is idle, and is polled again at the
//! engine's next tick, where all records come that are due by then.

use super::{Orders, Records};
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::format::Format;
use orderflow_core::source::{
    Fetch, Fingerprint, PartitionStatus, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus,
};
use orderflow_core::time::{Clock, Partition, Positions};
use orderflow_core::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// Records of one fetch at most.
const FETCH: u64 = 2048;

/// [`Orders`] as a source of a pipeline.
pub struct OrdersSource {
    orders: Orders,
    format: Arc<dyn Format>,
}

impl Orders {
    /// A source of these records, to be decoded by `format`.
    pub fn source(self, format: Arc<dyn Format>) -> OrdersSource {
        OrdersSource { orders: self, format }
    }
}

impl Source for OrdersSource {
    fn schema(&self) -> SchemaRef {
        self.format.schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(self.format.clone())
    }

    fn identity(&self) -> Option<String> {
        Some(self.orders.recipe())
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let partition = Partition::new(context.name, 0);
        let first = context.resume.as_ref().and_then(|resume| resume.get(&partition)).copied().unwrap_or(0);
        if let Some(total) = self.orders.total.filter(|total| first > *total) {
            return Err(Error::user(format!("the generator '{}' cannot go on at record {first}", partition.topic))
                .why(format!("it makes {total} records"))
                .hint("give it the number of records it had before"));
        }
        let opened = context.clock.elapsed();
        Ok(Box::new(OrdersReader {
            records: self.orders.records(first),
            partition,
            first,
            opened,
            clock: context.clock,
            bytes_per_record: 400,
        }))
    }
}

struct OrdersReader {
    records: Records,
    partition: Partition,
    /// Where it was opened, and when: the rate counts from there.
    first: u64,
    opened: Duration,
    clock: Clock,
    bytes_per_record: usize,
}

impl OrdersReader {
    /// How many records may leave now.
    fn due(&self) -> u64 {
        let (orders, sent) = (self.records.orders(), self.records.position() - self.first);
        let left = orders.total.map_or(u64::MAX, |total| total - self.records.position());
        let allowed = match orders.rate {
            0 => u64::MAX,
            rate => {
                let micros = self.clock.elapsed().saturating_sub(self.opened).as_micros();
                u64::try_from(micros * u128::from(rate) / 1_000_000).unwrap_or(u64::MAX).saturating_sub(sent)
            }
        };
        left.min(allowed).min(FETCH)
    }
}

impl Reader for OrdersReader {
    fn poll(&mut self) -> Result<Polled> {
        let from = self.records.position();
        if self.records.orders().total == Some(from) {
            return Ok(Polled::Ended);
        }
        let due = self.due() as usize;
        if due == 0 {
            return Ok(Polled::Idle);
        }
        let mut batch = Batch { bytes: Vec::with_capacity(due * self.bytes_per_record), records: Vec::with_capacity(due), from };
        let mut fingerprint = Fingerprint::default();
        for _ in 0..due {
            let (position, timestamp) = (self.records.position(), self.records.orders().event_millis(self.records.position()));
            let Some(size) = self.records.next_into(&mut batch.bytes) else { break };
            fingerprint.add(position, size, Some(timestamp));
            batch.records.push((batch.bytes.len(), timestamp));
        }
        let (rows, bytes) = (batch.records.len(), batch.bytes.len());
        self.bytes_per_record = bytes / rows + 8;
        let (partition, to, latest) = (self.partition.clone(), self.records.position(), fingerprint.latest());
        let fingerprint = fingerprint.finish();
        Ok(Polled::Fetch(Fetch { partition, from, to, rows, bytes, fingerprint, latest, payload: Payload::Raw(Box::new(batch)) }))
    }

    fn acknowledge(&mut self, _positions: &Positions) -> Result<()> {
        Ok(()) // nobody else wants to know: every record can be made again
    }

    fn status(&self) -> SourceStatus {
        let (position, end) = (self.records.position(), self.records.orders().total);
        SourceStatus { partitions: vec![PartitionStatus { partition: self.partition.clone(), position, end }], warnings: Vec::new() }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Records one after the other.
struct Batch {
    bytes: Vec<u8>,
    /// End in `bytes`, and timestamp.
    records: Vec<(usize, i64)>,
    from: u64,
}

impl RawBatch for Batch {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let start = if i == 0 { 0 } else { self.records[i - 1].0 };
        let (end, timestamp) = self.records[i];
        RawRecord { value: Some(&self.bytes[start..end]), key: None, position: self.from + i as u64, timestamp: Some(timestamp) }
    }
}
