//! The ledger's side of the engine: entries go to the log in order, and what is durable is said.
//!
//! Invariant: an epoch is called durable only when its binding, the rows that its sources cannot give again, and everything written before it survive
//! a crash. The log is written by one thread (or by the engine's own, when it runs inline).

use super::background::{Driver, Tries};
use super::spool::Spool;
use crate::epoch::{Entry, Log, SpoolRef};
use crate::error::{Error, Result};
use crate::state::Spooled;
use crate::time::{Clock, Epoch};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is to be done.
pub(crate) enum LogJob {
    /// Write an entry; of a binding, or of what a sink refuses, after these rows.
    Write { entry: Entry, rows: Vec<Spooled> },
    /// Write an entry that says what is stored.
    Prepared(Entry),
    /// Read stored rows.
    Read(SpoolRef),
    /// Delete stored rows that lower generations left and the ledger does not name.
    Clean,
}

impl From<Entry> for LogJob {
    fn from(entry: Entry) -> Self {
        LogJob::Write { entry, rows: vec![] }
    }
}

/// What is known of the log.
#[derive(Clone, Default)]
pub(crate) struct LogState {
    /// The newest epoch whose binding survives a crash.
    pub(crate) durable: Epoch,
    /// Bases written by this process.
    pub(crate) bases: u64,
    /// Entries written by this process of rows that sinks refuse.
    pub(crate) letters: u64,
    /// The rows that were read last, until they are taken.
    pub(crate) read: Arc<Mutex<Option<Vec<Spooled>>>>,
    /// Why it is waiting, if it is.
    pub(crate) waits: Option<String>,
    /// Why it is out of order.
    pub(crate) failed: Option<Error>,
}

impl LogState {
    /// The rows that were read, once.
    pub(super) fn take_read(&self) -> Option<Vec<Spooled>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Drives the log.
pub(crate) struct LogDriver {
    log: Log,
    spool: Spool,
    queue: VecDeque<LogJob>,
    tries: Tries,
    state: LogState,
}

impl LogDriver {
    /// A driver of a log in which all epochs up to `durable` are bound.
    pub(crate) fn new(log: Log, spool: Spool, durable: Epoch, clock: Clock) -> Self {
        Self { log, spool, queue: VecDeque::new(), tries: Tries::new(clock), state: LogState { durable, ..LogState::default() } }
    }

    /// A step of the first job; true when it is done.
    fn work(&mut self) -> Result<bool> {
        match self.queue.front_mut() {
            None => return Ok(true),
            Some(LogJob::Write { entry, rows }) => {
                self.spool.prepare(entry, rows)?;
                // from now on the entry stays as it is, whatever its writing needs
                let entry = std::mem::replace(entry, Entry::Opened(self.log.writer(), None));
                self.queue[0] = LogJob::Prepared(entry);
                return Ok(false);
            }
            Some(LogJob::Prepared(entry)) => {
                self.log.write(entry)?;
                match entry {
                    Entry::Bound(binding) => self.state.durable = binding.epoch,
                    Entry::Refused(_) => self.state.letters += 1,
                    Entry::Base(_) => {
                        self.state.bases += 1;
                        self.spool.sweep();
                    }
                    _ => {}
                }
            }
            Some(LogJob::Read(object)) => {
                let rows = self.spool.read(object)?;
                *self.state.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
            }
            Some(LogJob::Clean) => self.spool.clean()?,
        }
        Ok(true)
    }
}

impl Driver for LogDriver {
    type Job = LogJob;
    type State = LogState;

    fn take(&mut self, job: LogJob) {
        self.queue.push_back(job);
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() || self.tries.failed.is_some()
    }

    fn pause(&self) -> Duration {
        self.tries.pause()
    }

    fn step(&mut self) -> LogState {
        while !self.is_idle() && self.tries.is_due() {
            let outcome = self.work();
            let done = *outcome.as_ref().unwrap_or(&false);
            if self.tries.note(outcome.map(drop)) && done {
                self.queue.pop_front();
            }
        }
        (self.state.waits, self.state.failed) = (self.tries.waits.clone(), self.tries.failed.clone());
        self.state.clone()
    }

    fn fail(state: &mut LogState, e: Error) {
        state.failed.get_or_insert(e);
    }
}
