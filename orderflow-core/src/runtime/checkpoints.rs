//! When a checkpoint is taken, and when it is complete: the engine's side of [`checkpoint`](super::checkpoint).
//!
//! Invariant: one at a time. It is complete when its files survive a crash and every sink holds its epoch; then a base in the ledger says so, and when
//! that is durable the files of older ones may go. What is counted with it is what was counted when all workers were through with its epoch: no more, no less.

use super::background::Port;
use super::checkpoint::{CheckpointDriver, CheckpointState, Job};
use super::engine::Engine;
use super::worker::{SealedRoots, ToWorker};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::state::Counts;
use crate::time::Epoch;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

/// Bytes that roots may at least have been given since the last checkpoint before one is taken early.
const UNSAVED: usize = 64 << 20;

/// Checkpoints of an engine.
pub(crate) struct Checkpoints {
    pub(crate) port: Port<CheckpointDriver>,
    /// How often one is taken while there is input.
    pub(crate) every: Duration,
    /// Until which epoch state was restored.
    pub(crate) restored: Option<Epoch>,
    /// Until which epoch refused rows were counted already, and of whom: a view that is new is none of them.
    pub(crate) counted: Option<(Epoch, BTreeSet<String>)>,
    pub(super) last: Duration,
    pub(super) state: CheckpointState,
    /// Bytes that roots were given and that were not sealed, as the workers said last.
    pub(super) unsaved: usize,
    /// So many are too many to wait until a checkpoint is due.
    most: usize,
    under_way: Option<UnderWay>,
    /// The newest complete one.
    pub(super) complete: Option<Epoch>,
    /// The base that says that the newest one is complete, by number.
    settling: Option<u64>,
    /// Who waits for one of at least this epoch.
    asked: Vec<(Epoch, CheckpointReply)>,
}

/// Takes the epoch of a complete checkpoint.
pub(crate) type CheckpointReply = tokio::sync::oneshot::Sender<Result<Epoch>>;

struct UnderWay {
    epoch: Epoch,
    /// By worker, until all are there.
    sealed: Vec<Option<SealedRoots>>,
    /// As of the end of the epoch, once all workers are through with it.
    counts: Option<Counts>,
    given: bool,
    asked: bool,
}

impl Checkpoints {
    /// None were taken yet; what was not stored may take `memory`.
    pub(crate) fn new(port: Port<CheckpointDriver>, every: Duration, memory: usize, restored: Option<Epoch>, now: Duration) -> Self {
        Self {
            port,
            every,
            restored,
            counted: None,
            last: now,
            state: CheckpointState::default(),
            unsaved: 0,
            most: memory.max(UNSAVED),
            under_way: None,
            complete: restored,
            settling: None,
            asked: vec![],
        }
    }

    fn is_quiet(&self) -> bool {
        self.under_way.is_none() && self.settling.is_none()
    }

    /// Whether roots were given so much since the checkpoint under way began that nothing more should be read before it is complete.
    pub(super) fn is_full(&self) -> bool {
        self.under_way.is_some() && self.unsaved > usize::max(2 * self.most, 4 * UNSAVED)
    }
}

impl Engine {
    /// Somebody wants everything that was read until now to be stored.
    pub(super) fn ask_checkpoint(&mut self, reply: CheckpointReply) {
        let newest = if self.mint.is_empty() { self.ledger.tail() } else { self.mint.epoch() };
        if self.checkpoints.port.is_there() {
            return self.checkpoints.asked.push((newest, reply));
        }
        let e = Error::user(format!("nothing of pipeline {} is stored", self.pipeline));
        let why = "it was started without state(…), or has an operator of its own, of which nobody knows what it remembers";
        let _ = reply.send(Err(e.why(why))); // the asker may have gone
    }

    /// Answers who waits for what is there, and begins what no epoch would begin.
    fn answer_checkpoints(&mut self) -> bool {
        if self.checkpoints.asked.is_empty() {
            return false;
        }
        let complete = self.checkpoints.complete.unwrap_or_default();
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.checkpoints.asked).into_iter().partition(|(until, _)| *until <= complete);
        self.checkpoints.asked = waiting;
        let answered = !done.is_empty();
        for (_, reply) in done {
            let _ = reply.send(Ok(complete)); // the asker may have gone
        }
        let quiet = self.checkpoints.is_quiet() && self.mint.is_empty() && self.flight.minted.is_empty() && self.replay.epoch().is_none();
        if quiet && self.checkpoints.asked.iter().any(|(until, _)| *until <= self.flight.complete) {
            self.begin_checkpoint(self.flight.complete);
            return true;
        }
        answered
    }

    /// Begins a checkpoint as of `epoch`, which was just closed, if it is time.
    pub(super) fn checkpoint_if_due(&mut self, epoch: Epoch) {
        let c = &self.checkpoints;
        let due = self.clock.elapsed() >= c.last + c.every || c.unsaved >= c.most || !c.asked.is_empty();
        if c.port.is_there() && c.is_quiet() && due {
            self.begin_checkpoint(epoch);
        }
    }

    fn begin_checkpoint(&mut self, epoch: Epoch) {
        self.ledger.checkpoint_begins(epoch);
        self.checkpoints.last = self.clock.elapsed();
        let sealed = self.workers.iter().map(|_| None).collect();
        self.checkpoints.under_way = Some(UnderWay { epoch, sealed, counts: None, given: false, asked: false });
        self.count_for_checkpoint(self.flight.complete);
        for worker in &mut self.workers {
            worker.send(ToWorker::Seal { epoch: epoch.0 });
        }
    }

    /// All workers are through with `epoch`, and its refused rows are counted: so much belongs to a checkpoint as of it.
    pub(super) fn count_for_checkpoint(&mut self, epoch: Epoch) {
        if let Some(c) = self.checkpoints.under_way.as_mut().filter(|c| c.epoch == epoch) {
            let rejected = self.status.lock().unwrap_or_else(PoisonError::into_inner).rejected.clone();
            c.counts = Some(Counts { rejected });
        }
    }

    /// Takes what a worker's roots were given.
    pub(super) fn sealed(&mut self, worker: usize, epoch: u64, roots: SealedRoots) {
        if let Some(c) = self.checkpoints.under_way.as_mut().filter(|c| c.epoch.0 == epoch) {
            c.sealed[worker] = Some(roots);
        }
    }

    /// Drives the checkpoint under way; true if something happened.
    pub(super) fn step_checkpoints(&mut self) -> Result<bool> {
        let checkpoints = &mut self.checkpoints;
        let Some(state) = checkpoints.port.step() else { return Ok(false) };
        if let Some(e) = &state.failed {
            return Err(e.clone());
        }
        checkpoints.state = state;
        if self.answer_checkpoints() {
            return Ok(true);
        }
        let checkpoints = &mut self.checkpoints;
        if checkpoints.settling.is_some_and(|base| self.written.bases >= base) {
            checkpoints.settling = None;
            checkpoints.complete = self.ledger.checkpoints().last().map(|c| c.epoch);
            checkpoints.port.give(Job::Kept { kept: self.ledger.checkpoints().to_vec() });
            return Ok(true);
        }
        let Some(c) = checkpoints.under_way.as_mut() else { return Ok(false) };
        if !c.given
            && c.sealed.iter().all(Option::is_some)
            && let Some(counts) = c.counts.take()
        {
            c.given = true;
            checkpoints.unsaved = 0;
            let sealed = c.sealed.iter_mut().filter_map(Option::take).collect();
            checkpoints.port.give(Job::Write { epoch: c.epoch, sealed, counts });
            return Ok(true);
        }
        if !c.asked && self.flight.complete >= c.epoch {
            // a lane rolls at the latest when a checkpoint asks
            c.asked = true;
            self.outputs.iter_mut().for_each(|o| o.port.flush());
            return Ok(true);
        }
        let held = self.ledger.retired() >= c.epoch || planted(Bug::CheckpointBeforeSinks);
        let written = checkpoints.state.written.clone().filter(|w| w.epoch == c.epoch && held);
        let Some(checkpoint) = written else { return Ok(false) };
        checkpoints.under_way = None;
        tracing::debug!(pipeline = %self.pipeline, epoch = checkpoint.epoch.0, "checkpoint complete");
        self.ledger.checkpoint_ends(checkpoint);
        self.compact(true, true);
        self.checkpoints.settling = Some(self.bases);
        Ok(true)
    }

    /// Before a good end: whether everything is stored; begins the last checkpoint where it is not.
    pub(super) fn is_stored(&mut self) -> bool {
        if !self.checkpoints.port.is_there() {
            return true;
        }
        let newest = self.ledger.checkpoints().last().map_or(Epoch(0), |c| c.epoch);
        if !self.checkpoints.is_quiet() {
            return false;
        }
        if newest < self.flight.complete {
            self.begin_checkpoint(self.flight.complete);
            return false;
        }
        true
    }
}
