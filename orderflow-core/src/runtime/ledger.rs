//! The ledger's side of the engine: entries go to the log in order, and what is durable is said.
//!
//! Invariant: an epoch is called durable only when its binding, and everything written before it, survives a crash. The log is written by
//! one thread (or by the engine's own, when it runs inline).

use super::background::Driver;
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
    /// Bases written by this process.
    pub(crate) bases: u64,
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
}

impl Driver for LogDriver {
    type Job = Entry;
    type State = LogState;

    fn take(&mut self, entry: Entry) {
        self.queue.push_back(entry);
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() || self.state.failed.is_some()
    }

    fn pause(&self) -> Duration {
        self.backoff.left(self.clock.elapsed()).unwrap_or_default()
    }

    fn step(&mut self) -> LogState {
        while self.state.failed.is_none() && self.pause().is_zero() {
            let Some(next) = self.queue.front() else { break };
            match self.log.write(next) {
                Ok(()) => {
                    match self.queue.pop_front() {
                        Some(Entry::Bound(binding)) => self.state.durable = binding.epoch,
                        Some(Entry::Base(_)) => self.state.bases += 1,
                        _ => {}
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

    fn fail(state: &mut LogState, e: Error) {
        state.failed.get_or_insert(e);
    }
}
