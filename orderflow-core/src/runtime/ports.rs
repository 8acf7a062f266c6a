//! What the engine drives: sources, workers and sinks, each inline or behind a thread, and the epochs between them.
//!
//! Invariant: a port never makes the engine wait.

use super::backoff::Backoff;
use super::sinks::{SinkDriver, SinkState};
use super::status::SourceReport;
use super::worker::{Core, Share, ToWorker};
use crate::bug::{Bug, planted};
use crate::error::{Result, Retry};
use crate::operator::Order;
use crate::operator::closure::caught_outside;
use crate::sink::{Closed, Progress, WriterId};
use crate::source::{Fetch, Polled, Reader, SourceStatus};
use crate::time::{Clock, Epoch, Positions};
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Where a worker runs.
pub(crate) enum WorkerPort {
    Inline(Box<Core>),
    Thread(super::shell::WorkerThread),
}

/// Where a sink runs.
pub(crate) enum SinkPort {
    Inline(Box<SinkDriver>),
    Thread(super::shell::SinkThread),
}

/// A source under way.
pub(crate) struct SourcePort {
    pub(crate) name: Arc<str>,
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) ended: bool,
    pub(crate) held: Option<Fetch>,
    /// Read during a replay, and belonging to later epochs.
    pub(crate) later: VecDeque<Fetch>,
    /// Its columns, if its rows are stored with their epochs and read from there.
    pub(crate) spooled: Option<SchemaRef>,
    pub(crate) backoff: Backoff,
    pub(crate) report: SourceReport,
}

/// A sink under way.
pub(crate) struct Output {
    pub(crate) name: Arc<str>,
    pub(crate) kind: &'static str,
    /// What messages and metrics call it: as no other sink of the pipeline.
    pub(crate) title: Arc<str>,
    pub(crate) schema: SchemaRef,
    pub(crate) order: Order,
    /// What the ledger calls it, and whether it keeps its progress itself.
    pub(crate) label: String,
    pub(crate) keeps_progress: bool,
    /// How far it was when it was opened, as it or the ledger said.
    pub(crate) remembered: Option<Progress>,
    pub(crate) port: SinkPort,
    pub(crate) state: SinkState,
}

/// Epochs between the mint and the sinks.
pub(crate) struct Flight {
    /// Shares of epochs that some worker has not finished.
    pub(crate) shares: BTreeMap<u64, Vec<Option<Share>>>,
    /// Bytes read and when, of each epoch not yet closed by all workers.
    pub(crate) minted: VecDeque<(Epoch, usize, Duration)>,
    /// Bytes of the open epoch.
    pub(crate) open_bytes: usize,
    /// The newest epoch that all workers are through with.
    pub(crate) complete: Epoch,
    workers: usize,
    pub(super) latency: Option<Duration>,
    clock: Clock,
}

impl SourcePort {
    /// An opened source, from which nothing was read in this run and `bound` records in earlier ones.
    pub(crate) fn new(name: Arc<str>, reader: Box<dyn Reader>, spooled: Option<SchemaRef>, bound: u64) -> Self {
        let report = SourceReport { name: name.to_string(), bound, ..SourceReport::default() };
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        Self { name, reader, ended: false, held: None, later: VecDeque::new(), spooled, backoff, report }
    }

    pub(super) fn poll(&mut self, now: Duration) -> Result<Option<Fetch>> {
        match caught_outside(|| self.reader.poll()) {
            Ok(polled) => {
                self.backoff.worked();
                self.report.waits = None;
                match polled {
                    Polled::Fetch(fetch) => Ok(Some(fetch)),
                    Polled::Idle => Ok(None),
                    Polled::Ended => {
                        self.ended = true;
                        Ok(None)
                    }
                }
            }
            Err(e) if e.retry() == Retry::Backoff => {
                if self.report.waits.is_none() {
                    tracing::warn!(source = %self.name, "waiting for the source: {e}");
                }
                self.report.waits = Some(e.to_string());
                self.backoff.failed(now);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Lets go of the outside, of the reader and all that came from it: whoever hears of the end finds no connection open. A second time there is nothing
    /// to do.
    pub(super) fn close(&mut self) -> Result<()> {
        let mut reader = std::mem::replace(&mut self.reader, Box::new(LetGo));
        let (held, later) = (self.held.take(), std::mem::take(&mut self.later));
        let close = move || {
            let told = reader.close();
            drop((held, later, reader));
            told
        };
        caught_outside(close).map_err(|e| e.at(format!("closing source {}", self.name)))
    }
}

/// What stands in the place of a reader that was closed.
struct LetGo;

impl Reader for LetGo {
    fn poll(&mut self) -> Result<Polled> {
        Ok(Polled::Idle)
    }

    fn acknowledge(&mut self, _positions: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Flight {
    pub(super) fn take(&mut self, worker: usize, share: Share) {
        let workers = self.workers;
        let shares = self.shares.entry(share.epoch).or_insert_with(|| (0..workers).map(|_| None).collect());
        shares[worker] = Some(share);
    }

    /// The next epoch that all workers are through with, if its binding survives a crash.
    pub(super) fn next_complete(&mut self, durable: Epoch) -> Option<(Epoch, Vec<Share>)> {
        let entry = self.shares.first_entry()?;
        let unbound = *entry.key() > durable.0 && !planted(Bug::LeavesUnbound);
        if unbound || entry.get().iter().any(Option::is_none) {
            return None;
        }
        let (epoch, shares) = entry.remove_entry();
        self.complete = Epoch(epoch);
        let (_, _, minted) = self.minted.pop_front().unwrap_or_default();
        self.latency = Some(self.clock.elapsed().saturating_sub(minted));
        Some((Epoch(epoch), shares.into_iter().flatten().collect()))
    }

    /// Everything up to `complete` is behind it already.
    pub(crate) fn new(workers: usize, clock: Clock, complete: Epoch) -> Self {
        Self { workers, shares: BTreeMap::new(), minted: VecDeque::new(), open_bytes: 0, complete, latency: None, clock }
    }
}

impl WorkerPort {
    /// Gives a message that must arrive.
    pub(crate) fn send(&mut self, message: ToWorker) {
        match self {
            WorkerPort::Inline(core) => {
                // an error of the dataflow is found by the next step
                let _ = core.handle(message);
            }
            WorkerPort::Thread(thread) => thread.send(message),
        }
    }

    /// Gives a message if there is room, else gives it back.
    pub(super) fn offer(&mut self, message: ToWorker) -> Option<ToWorker> {
        match self {
            WorkerPort::Inline(_) => {
                self.send(message);
                None
            }
            WorkerPort::Thread(thread) => thread.offer(message),
        }
    }
}

impl Output {
    /// How far it is, as the ledger remembers it: with the generation that brought it there, `writer` being the one of this run. Nothing where it holds
    /// no row.
    pub(super) fn progress(&self, writer: WriterId) -> Option<Progress> {
        let told = self.state.told.or(self.remembered);
        if self.keeps_progress {
            return told.filter(|p| p.epoch > Epoch(0));
        }
        let done = self.state.done;
        told.filter(|p| p.epoch >= done).or(Some(Progress { writer, epoch: done, part: 0 }).filter(|_| done > Epoch(0)))
    }
}

impl SinkPort {
    pub(super) fn offer(&mut self, closed: Closed) {
        match self {
            SinkPort::Inline(driver) => driver.offer(closed),
            SinkPort::Thread(thread) => thread.offer(closed),
        }
    }

    pub(super) fn step(&mut self) -> SinkState {
        match self {
            SinkPort::Inline(driver) => driver.step(Duration::ZERO),
            SinkPort::Thread(thread) => thread.state(),
        }
    }

    pub(super) fn flush(&mut self) {
        match self {
            SinkPort::Inline(driver) => driver.flush(),
            SinkPort::Thread(thread) => thread.flush(),
        }
    }

    pub(super) fn pending(&self, state: &SinkState) -> usize {
        match self {
            SinkPort::Inline(_) => state.pending,
            SinkPort::Thread(thread) => thread.pending(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        match self {
            SinkPort::Inline(driver) => driver.is_idle(),
            SinkPort::Thread(thread) => thread.pending() == 0,
        }
    }

    pub(super) fn close(&mut self) -> SinkState {
        match self {
            SinkPort::Inline(driver) => driver.close(),
            SinkPort::Thread(thread) => thread.close(),
        }
    }
}
