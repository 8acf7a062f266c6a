//! A channel to the host program: closed epochs go in, and the host says which it has stored.
//!
//! ```text
//!   MemorySink ─open─► writer ─► backlog ─► queue (capacity epochs) ─► Deliveries::recv ─► host
//!                        ▲                                                                  │
//!                        └────────────── progress ◄──────────── Delivery::ack ◄─────────────┘
//! ```
//! Invariant: the progress is the newest epoch that the host acknowledged, never one that it merely could have seen. A new
//! opening starts after that epoch: what was delivered and not acknowledged is delivered again, and a late acknowledgement of
//! an older opening is ignored.
//!
//! It needs no runtime: `recv` can be awaited on any, `blocking_recv` works outside of one. A pipeline that drains waits until
//! the host has acknowledged everything, so the host must keep receiving while it drains.

use crate::data::Changes;
use crate::error::{Error, Result};
use crate::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId};
use crate::time::Epoch;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A sink and the host's end of it. `capacity` is the number of epochs (at least 1) that lie ready for the host; what is beyond
/// counts as pending and slows the pipeline down.
pub fn sink(capacity: usize) -> (MemorySink, Deliveries) {
    let state = State { capacity: capacity.max(1), ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), to_host: Notify::new(), moved: Condvar::new() });
    (MemorySink { end: SinkEnd::new(&shared), auto_ack: false, stored: None }, Deliveries { shared })
}

/// The pipeline's end. A clone opens the same channel again, for a pipeline that is restarted.
#[derive(Clone)]
pub struct MemorySink {
    end: SinkEnd,
    auto_ack: bool,
    stored: Option<Progress>,
}

impl MemorySink {
    /// An epoch counts as stored as soon as the host has received it: a host that dies then loses it.
    pub fn auto_ack(mut self) -> Self {
        self.auto_ack = true;
        self
    }

    /// What the host stored last in an earlier life ([`Delivery::progress`]): the pipeline goes on after it.
    pub fn resume_after(mut self, stored: Progress) -> Self {
        self.stored = Some(stored);
        self
    }
}

impl Sink for MemorySink {
    fn columns(&self, _input: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        if self.auto_ack { Guarantee::AtLeastOnce } else { Guarantee::ExactlyOnce }
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let mut state = self.end.0.state();
        if state.host_gone {
            return Err(host_gone());
        }
        state.opening += 1;
        state.queue.clear();
        state.received = None;
        state.auto_ack = self.auto_ack;
        state.acked = state.acked.or(self.stored);
        let (opening, progress) = (state.opening, state.acked);
        drop(state);
        let taken = progress.map(|p| p.epoch);
        let writer = MemoryWriter { end: self.end, opening, id: context.writer, taken, backlog: VecDeque::new() };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

/// The host's end: one epoch after the other.
pub struct Deliveries {
    shared: Arc<Shared>,
}

impl Deliveries {
    /// The next epoch; `None` when no sink and no writer is left and everything was received. May be cancelled: nothing is lost.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            match self.try_recv() {
                Ok(delivery) => return delivery,
                // what was queued since left a permit, so this returns at once
                Err(Empty) => self.shared.to_host.notified().await,
            }
        }
    }

    /// As [`Deliveries::recv`], for a thread that is no runtime's.
    pub fn blocking_recv(&mut self) -> Option<Delivery> {
        let mut state = self.shared.state();
        loop {
            match self.take(&mut state) {
                Ok(delivery) => return delivery,
                Err(Empty) => state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What is there now: an epoch, or `None` as [`Deliveries::recv`].
    ///
    /// # Errors
    /// [`Empty`]: nothing yet.
    pub fn try_recv(&mut self) -> std::result::Result<Option<Delivery>, Empty> {
        self.take(&mut self.shared.state())
    }

    /// The host has stored everything up to `epoch` of what it received.
    pub fn ack(&self, epoch: Epoch) {
        let mut state = self.shared.state();
        if let Some(received) = state.received.filter(|r| epoch <= r.epoch) {
            state.ack(Progress { epoch, ..received });
            self.shared.moved.notify_all();
        }
    }

    fn take(&self, state: &mut State) -> std::result::Result<Option<Delivery>, Empty> {
        match state.queue.pop_front() {
            Some((progress, changes)) => {
                state.received = Some(progress);
                if state.auto_ack {
                    state.ack(progress);
                }
                self.shared.moved.notify_all();
                Ok(Some(Delivery { progress, changes, opening: state.opening, shared: self.shared.clone() }))
            }
            None if state.ends == 0 => Ok(None),
            None => Err(Empty),
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.host_gone = true;
        state.queue.clear();
        self.shared.moved.notify_all();
    }
}

/// Nothing to receive yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no epoch was closed since the last one received")]
pub struct Empty;

/// One closed epoch.
pub struct Delivery {
    /// What is stored once this epoch is: to be kept with the rows by a host that wants to go on exactly here ([`MemorySink::resume_after`]).
    pub progress: Progress,
    /// Its rows, in canonical order; possibly none.
    pub changes: Vec<Changes>,
    opening: u64,
    shared: Arc<Shared>,
}

impl Delivery {
    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.progress.epoch
    }

    /// The host has stored this epoch, and all before it.
    pub fn ack(&self) {
        let mut state = self.shared.state();
        if state.opening == self.opening {
            state.ack(self.progress);
            self.shared.moved.notify_all();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("progress", &self.progress).field("changes", &self.changes).finish()
    }
}

struct Shared {
    state: Mutex<State>,
    to_host: Notify,
    /// Something was queued, received, acknowledged or dropped.
    moved: Condvar,
}

#[derive(Default)]
struct State {
    capacity: usize,
    queue: VecDeque<(Progress, Vec<Changes>)>,
    /// Sinks and writers that can still put something in.
    ends: usize,
    /// Number of openings; only the newest one counts.
    opening: u64,
    auto_ack: bool,
    received: Option<Progress>,
    acked: Option<Progress>,
    host_gone: bool,
}

impl State {
    fn ack(&mut self, progress: Progress) {
        if self.acked.is_none_or(|a| a.epoch < progress.epoch) {
            self.acked = Some(progress);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // no call panics with the lock held, so what a poisoned lock guards is whole
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as one who can still put something in.
struct SinkEnd(Arc<Shared>);

impl SinkEnd {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.state().ends += 1;
        SinkEnd(shared.clone())
    }
}

impl Clone for SinkEnd {
    fn clone(&self) -> Self {
        SinkEnd::new(&self.0)
    }
}

impl Drop for SinkEnd {
    fn drop(&mut self) {
        self.0.state().ends -= 1;
        self.0.moved.notify_all();
        self.0.to_host.notify_one();
    }
}

struct MemoryWriter {
    end: SinkEnd,
    opening: u64,
    id: WriterId,
    taken: Option<Epoch>,
    /// What found no room in the queue.
    backlog: VecDeque<Closed>,
}

impl MemoryWriter {
    /// Moves the backlog into the queue as far as there is room.
    fn push<'a>(&mut self, shared: &'a Shared) -> Result<MutexGuard<'a, State>> {
        let mut state = shared.state();
        if state.host_gone {
            return Err(host_gone());
        }
        if state.opening != self.opening {
            return Err(Error::external("the memory channel was opened again").hint("this pipeline was replaced and stops").permanent());
        }
        let before = state.queue.len();
        while state.queue.len() < state.capacity
            && let Some(closed) = self.backlog.pop_front()
        {
            let progress = Progress { writer: self.id, epoch: closed.epoch, part: 0 };
            state.queue.push_back((progress, closed.changes));
        }
        if state.queue.len() > before {
            shared.to_host.notify_one();
            shared.moved.notify_all();
        }
        Ok(state)
    }
}

impl Writer for MemoryWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        if self.taken.is_some_and(|t| closed.epoch <= t) {
            return Err(Error::internal(format!("epoch {} was given after epoch {}", closed.epoch, self.taken.unwrap_or_default())));
        }
        let shared = self.end.0.clone();
        drop(self.push(&shared)?); // the only thing that can fail comes first
        self.taken = Some(closed.epoch);
        self.backlog.push_back(closed);
        self.push(&shared).map(drop)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        let shared = self.end.0.clone();
        let mut state = self.push(&shared)?;
        let acked = state.acked;
        let nothing_to_do = |s: &mut State| {
            let all_out = s.acked.map(|a| a.epoch) >= self.taken;
            let room = s.queue.len() < s.capacity && !self.backlog.is_empty();
            s.acked == acked && !all_out && !room && !s.host_gone && s.opening == self.opening
        };
        if !wait.is_zero() {
            drop(shared.moved.wait_timeout_while(state, wait, nothing_to_do).unwrap_or_else(PoisonError::into_inner));
            state = self.push(&shared)?;
        }
        let pending_bytes = self.backlog.iter().map(Closed::memory).sum();
        Ok(Committed { progress: state.acked, pending_bytes, refused: Vec::new() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        let mut state = self.end.0.state();
        if state.opening == self.opening {
            state.queue.clear();
        }
        Ok(())
    }
}

fn host_gone() -> Error {
    Error::external("the host dropped the receiver").hint("keep the Deliveries of a memory sink as long as its pipeline runs").permanent()
}

#[cfg(test)]
mod tests;
