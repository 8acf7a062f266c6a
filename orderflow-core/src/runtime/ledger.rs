//! The ledger's side of the engine: entries go to the log in order, and what is durable is said.
//!
//! Invariant: an epoch is called durable only when its binding, and everything written before it, survives a crash. The log is written by
//! one thread (or by the engine's own, when it runs inline).

use super::background::{Driver, Tries};
use crate::epoch::{Entry, Log};
use crate::error::Error;
use crate::time::{Clock, Epoch};
use std::collections::VecDeque;
use std::time::Duration;

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
    tries: Tries,
    state: LogState,
}

impl LogDriver {
    /// A driver of a log in which all epochs up to `durable` are bound.
    pub(crate) fn new(log: Log, durable: Epoch, clock: Clock) -> Self {
        Self { log, queue: VecDeque::new(), tries: Tries::new(clock), state: LogState { durable, ..LogState::default() } }
    }
}

impl Driver for LogDriver {
    type Job = Entry;
    type State = LogState;

    fn take(&mut self, entry: Entry) {
        self.queue.push_back(entry);
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() || self.tries.failed.is_some()
    }

    fn pause(&self) -> Duration {
        self.tries.pause()
    }

    fn step(&mut self) -> LogState {
        while self.tries.is_due() {
            let Some(next) = self.queue.front() else { break };
            if self.tries.note(self.log.write(next)) {
                match self.queue.pop_front() {
                    Some(Entry::Bound(binding)) => self.state.durable = binding.epoch,
                    Some(Entry::Base(_)) => self.state.bases += 1,
                    _ => {}
                }
            }
        }
        (self.state.waits, self.state.failed) = (self.tries.waits.clone(), self.tries.failed.clone());
        self.state.clone()
    }

    fn fail(state: &mut LogState, e: Error) {
        state.failed.get_or_insert(e);
    }
}
