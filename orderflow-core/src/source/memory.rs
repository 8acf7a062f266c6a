//! The memory channel: a host program pushes rows, the engine takes them, and the host learns how many are safe.
//! ```text
//!   Sender::send ──► permits (one a row) ──► queue ──► Reader::poll ──► … ──► acknowledged()
//! ```
//! Invariant: rows get their numbers, from 0, in the order in which they enter the queue; a batch enters whole and only with permits for
//! its rows (a batch larger than the capacity enters alone), so memory is bounded by the capacity or one batch.

use super::{Fetch, Fingerprint, Partition, PartitionStatus, Payload, Polled, Reader, Source, SourceContext, SourceStatus, Waker};
use crate::data::Changes;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::time::Positions;
use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, TryAcquireError};

/// Small batches that wait together leave as one fetch of up to so many rows.
const FETCH_ROWS: usize = 8192;

/// A channel for rows of `schema` that holds at most `capacity_rows` (at least 1) of them until the engine takes them.
///
/// ```
/// use orderflow_core::arrow::{array::{Int64Array, RecordBatch}, datatypes::{DataType, Field, Schema}};
/// use orderflow_core::source::memory;
/// use std::sync::Arc;
///
/// let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
/// let (sender, source) = memory::channel(schema.clone(), 1000);
/// let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2, 3]))])?;
/// assert_eq!(sender.try_send(rows)?, Some(3));
/// # drop(source);
/// # Ok::<(), orderflow_core::Error>(())
/// ```
pub fn channel(schema: SchemaRef, capacity_rows: usize) -> (Sender, ChannelSource) {
    let capacity = capacity_rows.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let shared = Arc::new(Shared {
        schema,
        capacity,
        permits: Semaphore::new(capacity),
        senders: AtomicUsize::new(1),
        acknowledged: AtomicU64::new(0),
        queue: Mutex::new(Queue { batches: VecDeque::new(), sent: 0, waker: Waker::default() }),
    });
    (Sender(shared.clone()), ChannelSource(Receiver(shared)))
}

struct Shared {
    schema: SchemaRef,
    capacity: usize,
    /// One for each row that may still enter; closed when the engine is gone.
    permits: Semaphore,
    senders: AtomicUsize,
    acknowledged: AtomicU64,
    queue: Mutex<Queue>,
}

struct Queue {
    /// What waits, with the permits to give back.
    batches: VecDeque<(Changes, u32)>,
    /// Rows that ever entered.
    sent: u64,
    waker: Waker,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // nothing that holds the lock can leave the queue half changed
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's end; clones feed the same channel, and when the last one is dropped the source ends.
pub struct Sender(Arc<Shared>);

impl Sender {
    /// Sends rows to be inserted, waiting for room, and answers with the number of rows sent over this channel up to these: they are safe
    /// once [`Sender::acknowledged`] is as high. Needs no runtime of a particular kind.
    ///
    /// # Errors
    /// Columns that are not those of the channel, or an engine that has stopped.
    pub async fn send(&self, rows: RecordBatch) -> Result<u64> {
        self.enter(Changes::inserts(self.conform(rows)?)).await
    }

    /// [`Sender::send`] of rows with multiplicities: +1 inserts, −1 deletes a row that was inserted before.
    ///
    /// # Errors
    /// As [`Sender::send`]; not one number a row, or a 0.
    pub async fn send_signed(&self, rows: RecordBatch, diffs: Vec<i64>) -> Result<u64> {
        let changes = self.signed(rows, diffs)?;
        self.enter(changes).await
    }

    /// [`Sender::send`] for threads: blocks until there is room, so not to be called from async code.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn blocking_send(&self, rows: RecordBatch) -> Result<u64> {
        futures::executor::block_on(self.send(rows))
    }

    /// [`Sender::send`] that does not wait: `None` if there is no room now.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn try_send(&self, rows: RecordBatch) -> Result<Option<u64>> {
        let changes = Changes::inserts(self.conform(rows)?);
        let permits = self.permits(&changes);
        match self.0.permits.try_acquire_many(permits) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) => return Ok(None),
            Err(TryAcquireError::Closed) => return Err(stopped()),
        }
        Ok(Some(self.push(changes, permits)))
    }

    /// [`Sender::blocking_send`] of rows with multiplicities.
    ///
    /// # Errors
    /// As [`Sender::send_signed`].
    pub fn blocking_send_signed(&self, rows: RecordBatch, diffs: Vec<i64>) -> Result<u64> {
        futures::executor::block_on(self.send_signed(rows, diffs))
    }

    /// How many of the rows sent are held by every sink: the rows below this number need not be kept by the host.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Acquire)
    }

    /// Columns that the channel takes.
    pub fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    async fn enter(&self, changes: Changes) -> Result<u64> {
        let permits = self.permits(&changes);
        self.0.permits.acquire_many(permits).await.map_err(|_| stopped())?.forget();
        Ok(self.push(changes, permits))
    }

    fn permits(&self, changes: &Changes) -> u32 {
        changes.len().min(self.0.capacity) as u32
    }

    fn push(&self, changes: Changes, permits: u32) -> u64 {
        let mut queue = self.0.queue();
        queue.sent += changes.len() as u64;
        let sent = queue.sent;
        if !changes.is_empty() {
            queue.batches.push_back((changes, permits));
            let waker = queue.waker.clone();
            drop(queue);
            waker.wake();
        }
        sent
    }

    fn signed(&self, rows: RecordBatch, diffs: Vec<i64>) -> Result<Changes> {
        if diffs.len() != rows.num_rows() {
            return Err(
                Error::user(format!("{} rows were sent with {} multiplicities", rows.num_rows(), diffs.len())).hint("send one a row")
            );
        }
        if let Some(row) = diffs.iter().position(|d| *d == 0) {
            return Err(Error::user(format!("row {row} was sent with multiplicity 0")).hint("leave out rows that do not change"));
        }
        Ok(Changes::signed(self.conform(rows)?, diffs))
    }

    /// The batch under the channel's schema.
    fn conform(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let (ours, theirs) = (&self.0.schema, rows.schema());
        let refuse = |what: String| Err(Error::user(what).hint("build the batch with Sender::schema()"));
        for (i, field) in ours.fields().iter().enumerate() {
            let name = field.name();
            match theirs.fields().get(i) {
                None => return refuse(format!("column '{name}' is missing in the rows that were sent")),
                Some(sent) if sent.name() != name => {
                    return refuse(format!("column {i} of the rows that were sent is '{}', not '{name}'", sent.name()));
                }
                Some(sent) if sent.data_type() != field.data_type() => {
                    return refuse(format!("column '{name}' was sent as {}, not as {}", sent.data_type(), field.data_type()));
                }
                Some(_) if !field.is_nullable() && rows.column(i).logical_null_count() > 0 => {
                    return refuse(format!("column '{name}' was sent with nulls, which it must not have"));
                }
                Some(_) => {}
            }
        }
        if let Some(extra) = theirs.fields().get(ours.fields().len()) {
            return refuse(format!("column '{}' of the rows that were sent is unknown", extra.name()));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(ours.clone(), rows.columns().to_vec(), &options)
            .map_err(|e| Error::user("the rows that were sent do not fit the channel's columns").caused_by(e).permanent())
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waker = self.0.queue().waker.clone();
            waker.wake();
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("capacity", &self.0.capacity).field("acknowledged", &self.acknowledged()).finish_non_exhaustive()
    }
}

fn stopped() -> Error {
    Error::user("the rows cannot be sent: the pipeline has stopped")
        .hint("ask its handle why, and send again from Sender::acknowledged() on after a restart")
}

/// The engine's end, as a source.
pub struct ChannelSource(Receiver);

impl fmt::Debug for ChannelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSource").field("schema", &self.0.0.schema).finish_non_exhaustive()
    }
}

/// Tells the senders when it goes, opened or not.
struct Receiver(Arc<Shared>);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.permits.close();
        self.0.queue().batches.clear();
    }
}

impl Source for ChannelSource {
    fn schema(&self) -> SchemaRef {
        self.0.0.schema.clone()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn rewinds(&self) -> bool {
        false
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let partition = Partition::new(context.name, 0);
        let base = context.resume.and_then(|positions| positions.get(&partition).copied()).unwrap_or(0);
        self.0.0.queue().waker = context.wake;
        Ok(Box::new(ChannelReader { receiver: self.0, partition, base, taken: 0 }))
    }
}

struct ChannelReader {
    receiver: Receiver,
    partition: Partition,
    /// Position of this channel's row 0: rows of earlier channels of the same name come before.
    base: u64,
    /// Rows taken from the queue.
    taken: u64,
}

impl Reader for ChannelReader {
    fn poll(&mut self) -> Result<Polled> {
        let shared = &self.receiver.0;
        // the senders are counted before the queue is looked at: what the last one sent is then in it
        let ended = shared.senders.load(Ordering::Acquire) == 0;
        let (mut parts, mut rows, mut permits) = (Vec::new(), 0, 0);
        {
            let mut queue = shared.queue();
            while let Some((next, _)) = queue.batches.front()
                && (rows == 0 || rows + next.len() <= FETCH_ROWS)
                && let Some((changes, held)) = queue.batches.pop_front()
            {
                rows += changes.len();
                permits += held as usize;
                parts.push(changes);
            }
        }
        if rows == 0 {
            return Ok(if ended { Polled::Ended } else { Polled::Idle });
        }
        shared.permits.add_permits(permits);
        let changes = match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Changes::concat(&shared.schema, &parts)?
            }
        };
        let from = self.base + self.taken;
        self.taken += rows as u64;
        let to = self.base + self.taken;
        let mut fingerprint = Fingerprint::default();
        (from..to).for_each(|position| fingerprint.add(position, 0, None));
        let (partition, bytes, fingerprint) = (self.partition.clone(), changes.memory(), fingerprint.finish());
        Ok(Polled::Fetch(Fetch { partition, from, to, rows, bytes, fingerprint, payload: Payload::Rows(changes) }))
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        if let Some(position) = positions.get(&self.partition) {
            self.receiver.0.acknowledged.fetch_max(position.saturating_sub(self.base), Ordering::AcqRel);
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let end = Some(self.base + self.receiver.0.queue().sent);
        SourceStatus {
            partitions: vec![PartitionStatus { partition: self.partition.clone(), position: self.base + self.taken, end }],
            warnings: Vec::new(),
        }
    }

    fn close(&mut self) -> Result<()> {
        self.receiver.0.permits.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;
    use arrow::array::{Int32Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
    }

    fn rows(n: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(n))]).unwrap()
    }

    fn open(source: ChannelSource, resume: Option<u64>, wake: Waker) -> Box<dyn Reader> {
        let resume = resume.map(|at| Positions::from([(Partition::new("in", 0), at)]));
        let context = SourceContext { pipeline: "p".into(), name: "in".into(), resume, wake, clock: Clock::manual(0) };
        Box::new(source).open(context).unwrap()
    }

    fn fetch(reader: &mut dyn Reader) -> Option<(u64, u64, Changes)> {
        match reader.poll().unwrap() {
            Polled::Fetch(Fetch { from, to, rows, payload: Payload::Rows(changes), .. }) => {
                assert_eq!((rows, to - from), (changes.len(), rows as u64));
                Some((from, to, changes))
            }
            _ => None,
        }
    }

    #[test]
    fn a_full_channel_takes_no_more_until_it_is_read() {
        let (sender, source) = channel(schema(), 5);
        let mut reader = open(source, Some(100), Waker::default());
        assert!(matches!(reader.poll().unwrap(), Polled::Idle));
        assert_eq!(sender.try_send(rows(0..3)).unwrap(), Some(3));
        assert_eq!(sender.try_send(rows(3..6)).unwrap(), None);
        assert_eq!(sender.try_send(rows(3..5)).unwrap(), Some(5));
        let (from, to, changes) = fetch(&mut *reader).unwrap();
        assert_eq!((from, to, changes.rows()), (100, 105, &rows(0..5)));
        assert_eq!(sender.try_send(rows(0..1000)).unwrap(), Some(1005), "a batch that is too large for the channel goes alone");
        assert_eq!(sender.try_send(rows(0..1)).unwrap(), None);
        assert_eq!(reader.status().partitions[0].end, Some(1105));
        reader.acknowledge(&Positions::from([(Partition::new("in", 0), 103)])).unwrap();
        assert_eq!(sender.acknowledged(), 3);
    }

    #[test]
    fn it_ends_with_its_last_sender_and_refuses_after_its_reader() {
        let (sender, source) = channel(schema(), 10);
        let other = sender.clone();
        let mut reader = open(source, None, Waker::default());
        drop(sender);
        assert_eq!(other.blocking_send_signed(rows(0..2), vec![1, -1]).unwrap(), 2);
        drop(other);
        let (_, _, changes) = fetch(&mut *reader).unwrap();
        assert_eq!(changes.diff_iter().collect::<Vec<_>>(), [1, -1]);
        assert!(matches!(reader.poll().unwrap(), Polled::Ended));
        let (sender, source) = channel(schema(), 1);
        drop(source);
        assert!(sender.blocking_send(rows(0..1)).unwrap_err().to_string().contains("the pipeline has stopped"));
    }

    #[test]
    fn other_columns_are_refused_by_name() {
        let (sender, _source) = channel(schema(), 10);
        let other = |fields: Vec<Field>, columns| RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let int = |name, nullable| Field::new(name, DataType::Int64, nullable);
        let column = || Arc::new(Int64Array::from(vec![1])) as Arc<dyn Array>;
        let null = Arc::new(Int64Array::from(vec![None])) as Arc<dyn Array>;
        let narrow = Arc::new(Int32Array::from(vec![1])) as Arc<dyn Array>;
        for (batch, what) in [
            (other(vec![int("m", false)], vec![column()]), "'m', not 'n'"),
            (other(vec![Field::new("n", DataType::Int32, false)], vec![narrow]), "sent as Int32, not as Int64"),
            (other(vec![int("n", true)], vec![null]), "'n' was sent with nulls"),
            (other(vec![int("n", false), int("o", false)], vec![column(), column()]), "'o' of the rows that were sent is unknown"),
        ] {
            let e = sender.try_send(batch).unwrap_err().to_string();
            assert!(e.contains(what), "{e}");
        }
        assert_eq!(sender.try_send(other(vec![int("n", true)], vec![column()])).unwrap(), Some(1));
        assert!(sender.blocking_send_signed(rows(0..1), vec![0]).is_err() && sender.blocking_send_signed(rows(0..1), vec![]).is_err());
    }

    #[tokio::test]
    async fn a_waiting_sender_goes_on_when_rows_are_taken() {
        let (sender, source) = channel(schema(), 2);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let mut reader = open(source, None, Waker::new(move || _ = count.fetch_add(1, Ordering::SeqCst)));
        let producer = tokio::spawn(async move {
            for i in 0..50 {
                sender.send(rows(i..i + 1)).await.unwrap();
            }
        });
        let (mut seen, mut next) = (0, 0);
        loop {
            match reader.poll().unwrap() {
                Polled::Fetch(fetch) => {
                    assert!(fetch.from == next && fetch.rows <= 2);
                    (seen, next) = (seen + fetch.rows, fetch.to);
                }
                Polled::Idle => tokio::task::yield_now().await,
                Polled::Ended => break,
            }
        }
        producer.await.unwrap();
        assert_eq!(seen, 50);
        assert!(woken.load(Ordering::SeqCst) >= 50);
    }
}
