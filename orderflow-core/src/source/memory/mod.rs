//! The memory channel: a host program pushes rows, the engine takes them, and the host learns how many are safe.
//! ```text
//!   Sender::send ──► permits (one a row) ──► queue ──► Reader::poll ──► … ──► acknowledged()
//! ```
//! With state, rows are stored with their epoch before anything of it leaves: they are acknowledged then, and a channel of the next start says with
//! [`Sender::resumed_at`] how many rows there are, from which on the host sends again what it may have lost.
//!
//! Invariant: rows get their numbers, from 0, in the order in which they enter the queue; a batch enters whole and only with permits for
//! its rows (a batch larger than the capacity enters alone), so memory is bounded by the capacity or one batch.

use super::{Fetch, Fingerprint, Partition, PartitionStatus, Payload, Polled, Reader, Rewind, Source, SourceContext, SourceStatus, Waker};
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
use tokio::sync::{Semaphore, TryAcquireError, watch};

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
    let (opened, base) = watch::channel(None);
    let shared = Arc::new(Shared {
        schema,
        base,
        capacity,
        permits: Semaphore::new(capacity),
        senders: AtomicUsize::new(1),
        acknowledged: AtomicU64::new(0),
        queue: Mutex::new(Queue { batches: VecDeque::new(), sent: 0, waker: Waker::default() }),
    });
    (Sender(shared.clone()), ChannelSource(Receiver { shared, opened }))
}

struct Shared {
    schema: SchemaRef,
    /// Rows of earlier channels of the same source, once the engine has opened this one.
    base: watch::Receiver<Option<u64>>,
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
        self.try_enter(Changes::inserts(self.conform(rows)?))
    }

    /// [`Sender::try_send`] of rows with multiplicities.
    ///
    /// # Errors
    /// As [`Sender::send_signed`].
    pub fn try_send_signed(&self, rows: RecordBatch, diffs: Vec<i64>) -> Result<Option<u64>> {
        let changes = self.signed(rows, diffs)?;
        self.try_enter(changes)
    }

    fn try_enter(&self, changes: Changes) -> Result<Option<u64>> {
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

    /// How many of the rows sent over this channel are safe, so that the host need not keep them: with
    /// [`Pipeline::state`](crate::Pipeline::state) they are stored with the epoch that they belong to, and come out exactly once from then on,
    /// whatever crashes; without, every sink holds them. To be compared with what [`Sender::send`] answered.
    ///
    /// With state that takes as long as an epoch and a write to the disk, however long sinks take to commit: the host is not held up by a file that closes
    /// once a minute, and need not keep rows for so long.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Acquire)
    }

    /// How many rows of this source were safe before this channel, in all earlier lives of a pipeline with
    /// [`Pipeline::state`](crate::Pipeline::state); 0 for a new one. Waits until the pipeline has opened the source. A host that begins with this row of
    /// its own log, after every start, has each of its rows exactly once in the pipeline, and so in every exactly-once sink:
    ///
    /// ```
    /// # use orderflow_core::arrow::{array::{Int64Array, RecordBatch}, datatypes::{DataType, Field, Schema, SchemaRef}};
    /// # use orderflow_core::{Pipeline, Running, source::memory::{self, Sender}};
    /// # use std::sync::Arc;
    /// # fn schema() -> SchemaRef { Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])) }
    /// # fn batch(rows: &[i64]) -> RecordBatch { RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(rows.to_vec()))]).unwrap() }
    /// # let dir = std::env::temp_dir().join(format!("orderflow-doc-{}", std::process::id()));
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let log: Vec<i64> = (0..100).collect(); // what the host has, in order, until it is acknowledged
    /// # let start = async || -> orderflow_core::Result<(Sender, Running)> {
    /// # let (sender, source) = memory::channel(schema(), 1000);
    /// # let mut flow = Pipeline::new("doc");
    /// # flow.source("numbers", source)?;
    /// # flow.view("total", "SELECT count(*) AS sent, count(DISTINCT n) AS numbers FROM numbers")?;
    /// # Ok((sender, flow.state(&dir).start().await?))
    /// # };
    /// for _life in 0..3 {
    ///     let (sender, running) = start().await?; // a channel, a pipeline with state(…) that reads it
    ///     let first = sender.resumed_at().await? as usize;
    ///     let until = (first + 40).min(log.len());
    ///     for row in &log[first..until] {
    ///         sender.send(batch(&[*row])).await?;
    ///     }
    ///     // log[..first + sender.acknowledged()] may be forgotten, now or whenever one looks
    ///     drop(sender);
    ///     running.wait().await?;
    ///     let once = running.query(&format!("SELECT * FROM total WHERE sent = {until} AND numbers = {until}")).await?;
    ///     assert_eq!(once[0].num_rows(), 1);
    /// }
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), orderflow_core::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// A pipeline that was not started, or could not be.
    pub async fn resumed_at(&self) -> Result<u64> {
        let mut base = self.0.base.clone();
        let known = base.wait_for(Option::is_some).await.map_err(|_| stopped())?;
        known.ok_or_else(stopped)
    }

    /// [`Sender::resumed_at`] for threads: blocks, so not to be called from async code.
    ///
    /// # Errors
    /// As [`Sender::resumed_at`].
    pub fn blocking_resumed_at(&self) -> Result<u64> {
        futures::executor::block_on(self.resumed_at())
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
            .or_else(|e| refuse(format!("the rows that were sent do not fit the channel's columns: {e}")))
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
        .hint("ask its handle why; after a restart send again, with state(…) from Sender::resumed_at() on")
}

/// The engine's end, as a source.
pub struct ChannelSource(Receiver);

impl fmt::Debug for ChannelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSource").field("schema", &self.0.shared.schema).finish_non_exhaustive()
    }
}

/// Tells the senders when it goes, opened or not.
struct Receiver {
    shared: Arc<Shared>,
    opened: watch::Sender<Option<u64>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.permits.close();
        self.shared.queue().batches.clear();
    }
}

impl Source for ChannelSource {
    fn schema(&self) -> SchemaRef {
        self.0.shared.schema.clone()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn rewind(&self) -> Rewind {
        Rewind::Spooled
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let partition = Partition::new(context.name, 0);
        let base = context.resume.and_then(|positions| positions.get(&partition).copied()).unwrap_or(0);
        self.0.shared.queue().waker = context.wake;
        self.0.opened.send_replace(Some(base));
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
        let shared = &self.receiver.shared;
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
        Ok(Polled::Fetch(Fetch { partition, from, to, rows, bytes, fingerprint, latest: None, payload: Payload::Rows(changes) }))
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        if let Some(position) = positions.get(&self.partition) {
            self.receiver.shared.acknowledged.fetch_max(position.saturating_sub(self.base), Ordering::AcqRel);
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let end = Some(self.base + self.receiver.shared.queue().sent);
        SourceStatus {
            partitions: vec![PartitionStatus { partition: self.partition.clone(), position: self.base + self.taken, end }],
            warnings: Vec::new(),
        }
    }

    fn close(&mut self) -> Result<()> {
        self.receiver.shared.permits.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
