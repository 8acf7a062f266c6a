//! The ledger's side of the engine: entries go to the log in order, and what is durable is said.
//!
//! Invariant: an epoch is called durable only when its binding, and everything written before it, survives a crash. The log is written by
//! one thread (or by the engine's own, when it runs inline); it lets go of its store when it is closed.

use super::backoff::Backoff;
use crate::epoch::{Entry, Log};
use crate::error::{Error, Retry};
use crate::time::{Clock, Epoch};
use std::collections::VecDeque;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogState {
    /// The newest epoch whose binding survives a crash.
    pub(crate) durable: Epoch,
    /// Why it is waiting, if it is.
    pub(crate) waits: Option<String>,
    /// Why it is out of order.
    pub(crate) failed: Option<Error>,
}

/// Drives the log.
pub(crate) struct LogDriver {
    log: Log,
    queue: VecDeque<Entry>,
    clock: Clock,
    backoff: Backoff,
    state: LogState,
}

impl LogDriver {
    /// A driver of a log in which all epochs up to `durable` are bound.
    pub(crate) fn new(log: Log, durable: Epoch, clock: Clock) -> Self {
        let (backoff, state) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogState { durable, ..LogState::default() });
        Self { log, queue: VecDeque::new(), clock, backoff, state }
    }

    pub(crate) fn write(&mut self, entry: Entry) {
        self.queue.push_back(entry);
    }

    /// Whether everything is written, or never will be.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() || self.state.failed.is_some()
    }

    /// How long until a retry is due.
    pub(crate) fn pause(&self) -> Duration {
        self.backoff.left(self.clock.elapsed()).unwrap_or_default()
    }

    /// Writes what is queued.
    pub(crate) fn step(&mut self) -> LogState {
        while self.state.failed.is_none() && self.pause().is_zero() {
            let Some(next) = self.queue.front() else { break };
            match self.log.write(next) {
                Ok(()) => {
                    if let Some(Entry::Bound(binding)) = self.queue.pop_front() {
                        self.state.durable = binding.epoch;
                    }
                    self.backoff.worked();
                    self.state.waits = None;
                }
                Err(e) if e.retry() == Retry::Backoff => {
                    if self.state.waits.is_none() {
                        tracing::warn!("waiting for the state: {e}");
                    }
                    self.backoff.failed(self.clock.elapsed());
                    self.state.waits = Some(e.to_string());
                }
                Err(e) => self.state.failed = Some(e.at("state")),
            }
        }
        self.state.clone()
    }
}

/// Where the log is written.
pub(crate) enum LogPort {
    /// Nowhere: it is as durable as the process.
    None,
    /// By the engine's own thread.
    Inline(Box<LogDriver>),
    /// By a thread of its own.
    Thread(super::shell::LogThread),
}

impl LogPort {
    pub(crate) fn write(&mut self, entry: Entry) {
        match self {
            LogPort::None => {}
            LogPort::Inline(driver) => driver.write(entry),
            LogPort::Thread(thread) => thread.write(entry),
        }
    }

    /// How it stands; inline, after writing what is queued.
    pub(super) fn step(&mut self) -> LogState {
        match self {
            LogPort::None => LogState { durable: Epoch(u64::MAX), ..LogState::default() },
            LogPort::Inline(driver) => driver.step(),
            LogPort::Thread(thread) => thread.state(),
        }
    }

    /// Whether there is a log at all.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(self, LogPort::None)
    }

    /// Lets go of the log; with `write`, after what is queued is written.
    pub(super) fn close(&mut self, write: bool) -> LogState {
        match std::mem::replace(self, LogPort::None) {
            LogPort::None => LogState::default(),
            LogPort::Inline(mut driver) => {
                if write {
                    driver.step()
                } else {
                    LogState::default()
                }
            }
            LogPort::Thread(thread) => thread.close(write),
        }
    }
}
