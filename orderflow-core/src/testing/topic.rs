//! A simulated log: topics of partitions whose records are known beforehand, read as a broker would hand them out.
//!
//! Invariant: what stands at a position never changes. Where fetches end and which partition comes next is a function of the positions, so that
//! epochs are cut alike in every run, unless the log is *shuffled*: then order and cuts are drawn anew in every life, as after a rebalance.

use crate::bug::{Bug, planted};
use crate::data::Changes;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::source::{
    Fetch, Fingerprint, PartitionStatus, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus, Waker,
};
use crate::store::volatile::Draw;
use crate::time::{Partition, Position, Positions};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A topic with everything that will ever be in it. Clones share the records.
#[derive(Clone)]
pub struct Topic {
    schema: SchemaRef,
    format: Option<Arc<dyn Format>>,
    partitions: Arc<Vec<Log>>,
    /// Partitions that appear once partition 0 was read up to a position.
    appears: BTreeMap<i32, Position>,
    until: Position,
    altered: Option<(i32, Position)>,
    gone: BTreeMap<i32, Position>,
    shuffled: Option<Draw>,
    acknowledged: Option<Arc<Mutex<Positions>>>,
}

enum Log {
    Rows(Changes),
    Records(Arc<Vec<Vec<u8>>>),
}

impl Log {
    fn len(&self) -> Position {
        (match self {
            Log::Rows(rows) => rows.len(),
            Log::Records(records) => records.len(),
        }) as Position
    }

    /// Every `n`-th record stands twice.
    fn doubled(&self, n: usize) -> Log {
        let twice = |i: usize| if i % n == n - 1 { 2 } else { 1 };
        let order = (0..self.len() as usize).flat_map(|i| std::iter::repeat_n(i, twice(i)));
        match self {
            Log::Rows(rows) => {
                let order = UInt32Array::from_iter_values(order.map(|i| i as u32));
                Log::Rows(rows.take(&order).unwrap_or_else(|_| unreachable!("indices of its own rows")))
            }
            Log::Records(records) => Log::Records(Arc::new(order.map(|i| records[i].clone()).collect())),
        }
    }
}

impl Topic {
    /// A topic of rows, one batch a partition.
    ///
    /// # Panics
    /// Without a partition.
    pub fn rows(partitions: Vec<RecordBatch>) -> Self {
        Self::changes(partitions.into_iter().map(Changes::inserts).collect())
    }

    /// A topic of rows with multiplicities, one batch a partition. A row may be withdrawn by the partition that gave it, after it did; such a topic has no
    /// [duplicates](Topic::duplicates), for nobody withdraws a row twice.
    ///
    /// # Panics
    /// Without a partition.
    pub fn changes(partitions: Vec<Changes>) -> Self {
        assert!(!partitions.is_empty(), "a topic has a partition");
        let schema = partitions[0].schema();
        Self::of(schema, None, partitions.into_iter().map(Log::Rows).collect())
    }

    /// A topic of records that `format` decodes, by partition.
    pub fn records<R: Into<Vec<u8>>>(format: impl Format, partitions: impl IntoIterator<Item = Vec<R>>) -> Self {
        let logs = partitions.into_iter().map(|records| Log::Records(Arc::new(records.into_iter().map(Into::into).collect())));
        Self::of(format.schema(), Some(Arc::new(format)), logs.collect())
    }

    fn of(schema: SchemaRef, format: Option<Arc<dyn Format>>, partitions: Vec<Log>) -> Self {
        let (appears, gone) = (BTreeMap::new(), BTreeMap::new());
        let (shuffled, acknowledged) = (None, None);
        Self {
            schema,
            format,
            partitions: Arc::new(partitions),
            appears,
            until: Position::MAX,
            altered: None,
            gone,
            shuffled,
            acknowledged,
        }
    }

    /// Every `n`-th record stands twice, as after a producer's retry (`n` ≥ 1).
    pub fn duplicates(mut self, n: usize) -> Self {
        self.partitions = Arc::new(self.partitions.iter().map(|log| log.doubled(n.max(1))).collect());
        self
    }

    /// Partition `id` appears when partition 0 has been read up to `after`.
    pub fn appearing(mut self, id: i32, after: Position) -> Self {
        self.appears.insert(id, after);
        self
    }

    /// Each partition ends at this position for now.
    pub fn until(mut self, end: Position) -> Self {
        self.until = end;
        self
    }

    /// What stood before these positions is gone, by partition from 0.
    pub fn without(mut self, gone: &[Position]) -> Self {
        self.gone = (0..).zip(gone.iter().copied()).collect();
        self
    }

    /// At this position of a partition something else stands now.
    pub fn altered(mut self, id: i32, position: Position) -> Self {
        self.altered = Some((id, position));
        self
    }

    /// Fetches and the order of partitions are drawn from `seed`, and polls fail now and then.
    pub(super) fn shuffled(mut self, seed: Option<u64>) -> Self {
        self.shuffled = seed.map(Draw);
        self
    }

    /// Notes what is acknowledged.
    pub(super) fn acknowledging(mut self, to: Arc<Mutex<Positions>>) -> Self {
        self.acknowledged = Some(to);
        self
    }

    fn end(&self, id: i32) -> Position {
        self.partitions[id as usize].len().min(self.until)
    }

    fn gone_before(&self, id: i32) -> Position {
        self.gone.get(&id).copied().unwrap_or(0)
    }
}

impl Source for Topic {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        self.format.clone()
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let again = context.resume.is_some();
        let resume = context.resume.unwrap_or_default();
        let mut at = Vec::new();
        for id in 0..self.partitions.len() as i32 {
            let partition = Partition::new(context.name.clone(), id);
            // one that no run knew yet is read from its beginning
            let new = if again && planted(Bug::NewPartitionFromLatest) { self.end(id) } else { 0 };
            let from = resume.get(&partition).copied().unwrap_or(new);
            if from < self.gone_before(id) {
                let what = format!("{partition} no longer holds position {from}: it begins at {}", self.gone_before(id));
                return Err(Error::user(what).hint("keep records until a checkpoint no longer needs them"));
            }
            at.push((partition, from));
        }
        Ok(Box::new(TopicReader { topic: *self, at, wake: context.wake }))
    }
}

struct TopicReader {
    topic: Topic,
    /// By partition.
    at: Vec<(Partition, Position)>,
    wake: Waker,
}

impl TopicReader {
    fn is_there(&self, id: i32) -> bool {
        self.at[id as usize].1 > 0 || self.topic.appears.get(&id).is_none_or(|after| self.at[0].1 >= *after)
    }

    /// The partitions that have something to read.
    fn open(&self) -> Vec<i32> {
        (0..self.at.len() as i32).filter(|id| self.is_there(*id) && self.at[*id as usize].1 < self.topic.end(*id)).collect()
    }

    fn fetch(&self, id: i32, to: Position) -> Result<Fetch> {
        let (partition, from) = self.at[id as usize].clone();
        let rows = (to - from) as usize;
        let (mut fingerprint, mut bytes) = (Fingerprint::default(), 0);
        let altered = |p: Position| self.topic.altered.filter(|a| *a == (id, p)).map(|_| 7);
        let payload = match &self.topic.partitions[id as usize] {
            Log::Rows(all) => {
                (from..to).for_each(|p| fingerprint.add(p, 0, altered(p)));
                bytes += 16 * rows;
                Payload::Rows(all.slice(from as usize, rows))
            }
            Log::Records(all) => {
                let records = Records { all: all.clone(), from, rows };
                for i in 0..rows {
                    let record = records.record(i);
                    fingerprint.add(record.position, record.size(), altered(record.position));
                    bytes += record.size();
                }
                Payload::Raw(Box::new(records))
            }
        };
        Ok(Fetch { partition, from, to, rows, bytes, fingerprint: fingerprint.finish(), latest: fingerprint.latest(), payload })
    }
}

struct Records {
    all: Arc<Vec<Vec<u8>>>,
    from: Position,
    rows: usize,
}

impl RawBatch for Records {
    fn len(&self) -> usize {
        self.rows
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let position = self.from + i as Position;
        RawRecord { value: Some(&self.all[position as usize]), key: None, position, timestamp: None }
    }
}

impl Reader for TopicReader {
    fn poll(&mut self) -> Result<Polled> {
        let open = self.open();
        // the furthest behind first
        let Some(mut id) = open.iter().copied().min_by_key(|id| (self.at[*id as usize].1, *id)) else { return Ok(Polled::Ended) };
        let from = self.at[id as usize].1;
        let mut size = 1 + (from * 7 + id as u64) % 5;
        if let Some(draw) = &mut self.topic.shuffled {
            match draw.below(16) {
                0 => return Err(Error::external("the broker does not answer")),
                1 => {
                    self.wake.wake();
                    return Ok(Polled::Idle);
                }
                _ => {}
            }
            id = open[draw.below(open.len() as u64) as usize];
            size = 1 + draw.below(7);
        }
        let to = (self.at[id as usize].1 + size).min(self.topic.end(id));
        let fetch = self.fetch(id, to)?;
        self.at[id as usize].1 = to;
        Ok(Polled::Fetch(fetch))
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        if let Some(to) = &self.topic.acknowledged {
            to.lock().unwrap_or_else(PoisonError::into_inner).extend(positions.clone());
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let there = (0..self.at.len() as i32).filter(|id| self.is_there(*id));
        let of = |id: i32| {
            let (partition, position) = self.at[id as usize].clone();
            PartitionStatus { partition, position, end: Some(self.topic.end(id)) }
        };
        SourceStatus { partitions: there.map(of).collect(), warnings: vec![] }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
