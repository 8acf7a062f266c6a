//! The engine as a step function: poll sources, mint, step workers, hand closed epochs to sinks.
//!
//! ```text
//!   sources ──Fetch──► open epoch ──► workers (decode, dataflow) ──Share──► canonical order ──► gate ──► sinks
//!                          │ mint                                                                   │
//!                          ▼                                                                        ▼
//!                        ledger ◄──────────────── retire, acknowledge ◄──────────────────── everything out up to e
//! ```
//! [`Engine::step`] never waits: with its workers and sinks inline it runs whole on one thread; [`shell`](super::shell) gives
//! them threads. Invariants: output of an epoch leaves only after its binding is in the ledger; sources are polled only while what is under way stays
//! within bounds; a position is acknowledged only when every sink holds everything before it.

use super::background::Port;
use super::checkpoints::{CheckpointReply, Checkpoints};
use super::ledger::{LogDriver, LogState};
use super::letterbox::Letterbox;
use super::ports::{Flight, Output, SourcePort, WorkerPort};
use super::spool::Spooling;
use super::status::{Phase, Status};
use super::worker::{Report, Share, ToWorker};
use crate::bug::{Bug, planted};
use crate::data::Rejected;
use crate::egress::canonical;
use crate::epoch::{Entry, Idleness, Ledger, Mint, Replay};
use crate::error::{Error, Result, Retry};
use crate::sink::Closed;
use crate::time::{Clock, Epoch, Positions};
use arrow::array::RecordBatch;
use crossbeam_channel::TryRecvError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Epochs closed by the mint that workers may be behind.
pub(super) const EPOCHS_IN_FLIGHT: usize = 3;
/// How often the log is told what all sinks hold: so much a sink that keeps no progress may see again after a crash, and so many entries are kept.
const BASE_EVERY: Duration = Duration::from_secs(10);
/// How long the engine sleeps at most: sources with a rate are polled at least this often.
const TICK: Duration = Duration::from_millis(100);
/// How often sources are asked how they stand while there is always something else to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Fetches taken from one source in one step, so that control never waits long.
pub(super) const FETCHES_A_STEP: usize = 64;

/// Bounds of what is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes read and not yet through the dataflow.
    pub(crate) reading: usize,
    /// Bytes given to sinks and not yet out.
    pub(crate) writing: usize,
}

/// What a step found.
pub(crate) enum Step {
    /// There was something to do: step again.
    Busy,
    /// Nothing to do until woken, or for this long.
    Idle(Duration),
    /// The end: drained, stopped, or failed.
    Finished(Result<()>),
}

/// Takes the epoch that is read and one answer a view and worker, views first.
pub(crate) type ReadReply = Box<dyn FnOnce(Epoch, Vec<Answer>) + Send>;
/// The rows of one view on one worker, when they come.
pub(crate) type Answer = tokio::sync::oneshot::Receiver<Result<Vec<RecordBatch>>>;

/// What the host asks of a running engine.
pub(crate) enum Request {
    /// The rows of views as of one complete epoch, the same for all: by worker, then by view.
    Read { views: Vec<usize>, reply: ReadReply },
    /// Take no more input; end when everything that was read is out.
    Drain,
    /// End at once: what is not out is dropped.
    Stop,
    /// Take no input until told to.
    Pause,
    /// Take input again.
    Resume,
    /// Answer when everything that the sources hold now is in the views.
    Settle(tokio::sync::oneshot::Sender<()>),
    /// Store the views now; answer when that is complete.
    Checkpoint(CheckpointReply),
}

/// The engine.
pub(crate) struct Engine {
    pub(crate) pipeline: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) mint: Mint,
    pub(crate) idleness: Idleness,
    pub(crate) ledger: Ledger,
    /// Where the ledger is made durable, and how that stood at the last look.
    pub(crate) log: Port<LogDriver>,
    pub(crate) written: LogState,
    /// When the log was last told what all sinks hold, and how often.
    pub(crate) based: Duration,
    pub(crate) bases: u64,
    pub(crate) checkpoints: Checkpoints,
    /// When the sources were last asked how they stand.
    pub(crate) looked: Duration,
    /// Epochs of an earlier run that are read again.
    pub(crate) replay: Replay,
    pub(crate) spooling: Spooling,
    pub(crate) bounds: Bounds,
    pub(crate) sources: Vec<SourcePort>,
    pub(crate) workers: Vec<WorkerPort>,
    /// The sinks of views; the last one takes the dead letters.
    pub(crate) outputs: Vec<Output>,
    pub(crate) reports: crossbeam_channel::Receiver<Result<(usize, Report)>>,
    pub(crate) requests: crossbeam_channel::Receiver<Request>,
    pub(crate) status: Arc<Mutex<Status>>,
    pub(crate) flight: Flight,
    pub(crate) phase: Phase,
    pub(crate) next_worker: usize,
    pub(crate) letterbox: Letterbox,
    pub(crate) retired: Epoch,
    /// Who waits for what was handed in: until which epoch (none: sources were not found idle yet).
    pub(crate) settling: Vec<(Option<Epoch>, tokio::sync::oneshot::Sender<()>)>,
}

impl Engine {
    /// Does what there is to do, without waiting for anything.
    pub(crate) fn step(&mut self) -> Step {
        match self.work() {
            Ok(step) => step,
            Err(e) => {
                self.look_back();
                Step::Finished(Err(self.fail(e)))
            }
        }
    }

    fn work(&mut self) -> Result<Step> {
        let mut busy = self.take_requests();
        busy |= self.step_log()?;
        if matches!(self.phase, Phase::Stopped) {
            self.look();
            self.abandon();
            self.finish(Phase::Stopped);
            return Ok(Step::Finished(Ok(())));
        }
        busy |= self.step_workers()?;
        busy |= self.collect_shares()?;
        busy |= self.step_sinks()?;
        let mut wait = TICK;
        // what was bound is read again even if no more input is wanted: only then is everything out that was taken once
        let replaying = self.replay.epoch().is_some();
        let asking = matches!(self.phase, Phase::Running) || replaying;
        busy |= self.poll_sources(asking, &mut wait)?;
        let ended = !self.sources.is_empty() && self.sources.iter().all(|s| s.ended && s.later.is_empty());
        if ended && matches!(self.phase, Phase::Running) && !replaying {
            self.phase = Phase::Draining;
            busy = true;
        }
        // sources that could not be asked, for want of room, may hold more
        let asked = !matches!(self.phase, Phase::Running) || self.has_room();
        if !busy && asked && !replaying && self.sources.iter().all(|s| s.held.is_none() && s.later.is_empty()) {
            let newest = if self.mint.is_empty() { self.ledger.tail() } else { self.mint.epoch() };
            self.settling.iter_mut().for_each(|(until, _)| *until = until.or(Some(newest)));
        }
        busy |= if self.replay.epoch().is_some() { self.close_replayed()? } else { self.mint_if_due(&mut wait) };
        self.retire()?;
        busy |= self.step_checkpoints()?;
        self.settle();
        // asking a source costs more than counting: when nothing else is to be done, now and then under load, and at the end
        if !busy || self.clock.elapsed() >= self.looked + LOOK_EVERY {
            self.look();
        }
        self.publish();
        if matches!(self.phase, Phase::Draining) && self.drained()? {
            if let Err(e) = self.close() {
                // the sources are closed, and were asked before
                return Ok(Step::Finished(Err(self.fail(e))));
            }
            self.finish(Phase::Finished);
            return Ok(Step::Finished(Ok(())));
        }
        Ok(if busy { Step::Busy } else { Step::Idle(wait) })
    }

    fn take_requests(&mut self) -> bool {
        let mut any = false;
        loop {
            let request = match self.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return any,
                // whoever waited for the start has gone
                Err(TryRecvError::Disconnected) => {
                    self.phase = Phase::Stopped;
                    return true;
                }
            };
            any = true;
            match (request, &self.phase) {
                (Request::Stop, _) => self.phase = Phase::Stopped,
                (Request::Drain, Phase::Running | Phase::Paused) => self.phase = Phase::Draining,
                (Request::Pause, Phase::Running) => self.phase = Phase::Paused,
                (Request::Resume, Phase::Paused) => self.phase = Phase::Running,
                (Request::Read { views, reply }, _) => self.read(&views, reply),
                (Request::Settle(answer), _) => self.settling.push((None, answer)),
                (Request::Checkpoint(reply), _) => self.ask_checkpoint(reply),
                _ => {}
            }
        }
    }

    /// Looks how far the ledger is written.
    fn step_log(&mut self) -> Result<bool> {
        let state = self.log.step().unwrap_or(LogState { durable: Epoch(u64::MAX), letters: u64::MAX, ..LogState::default() });
        if let Some(e) = state.failed {
            return Err(e);
        }
        let before = std::mem::replace(&mut self.written, state);
        self.acknowledge_spooled()?;
        self.bind_refused();
        let stands = |s: &LogState| (s.durable, s.bases, s.letters);
        Ok(stands(&before) != stands(&self.written))
    }

    fn read(&mut self, views: &[usize], reply: ReadReply) {
        let epoch = self.flight.complete;
        let mut answers = vec![];
        for view in views {
            for worker in &mut self.workers {
                let (tx, rx) = tokio::sync::oneshot::channel();
                answers.push(rx);
                let reply = Box::new(move |rows| {
                    let _ = tx.send(rows); // the asker may have gone
                });
                worker.send(ToWorker::Read { view: *view, epoch: epoch.0, reply });
            }
        }
        reply(epoch, answers);
    }

    fn step_workers(&mut self) -> Result<bool> {
        let (mut busy, mut reports) = (false, vec![]);
        for (i, worker) in self.workers.iter_mut().enumerate() {
            if let WorkerPort::Inline(core) = worker {
                core.step(None)?;
                while let Some(report) = core.report() {
                    reports.push((i, report));
                    busy = true;
                }
                busy |= core.is_behind();
            }
        }
        reports.into_iter().for_each(|(worker, report)| self.take_report(worker, report));
        Ok(busy)
    }

    fn collect_shares(&mut self) -> Result<bool> {
        let mut busy = false;
        while let Ok(report) = self.reports.try_recv() {
            let (worker, report) = report?;
            self.take_report(worker, report);
            busy = true;
        }
        while let Some((epoch, shares)) = self.flight.next_complete(self.written.durable) {
            self.egress(epoch, shares)?;
            busy = true;
        }
        Ok(busy)
    }

    fn take_report(&mut self, worker: usize, report: Report) {
        match report {
            Report::Share(share) => self.flight.take(worker, share),
            Report::Sealed(epoch, roots) => self.sealed(worker, epoch, roots),
        }
    }

    /// Hands a complete epoch to every sink. Its binding survives a crash.
    fn egress(&mut self, epoch: Epoch, shares: Vec<Share>) -> Result<()> {
        let mut by_output: Vec<Vec<crate::data::Changes>> = self.outputs.iter().map(|_| vec![]).collect();
        let mut rejected = self.letterbox.take(epoch);
        let (mut updates, mut unsaved, mut left) = (0, 0, vec![]);
        for share in shares {
            share.outputs.into_iter().for_each(|(o, c)| by_output[o].push(c));
            rejected.extend(share.rejected);
            updates += share.updates;
            unsaved += share.unsaved;
            left.extend(share.left);
        }
        self.checkpoints.unsaved = unsaved;
        Rejected::sort(&mut rejected);
        // what restored roots show again, and what follows from it, was counted when it came
        let again = self.checkpoints.counted.as_ref().filter(|(upto, _)| epoch <= *upto);
        self.count_rejected(rejected.iter().filter(|r| again.is_none_or(|(_, whose)| !whose.contains(&*r.from))));
        self.count_work(updates, left);
        self.count_for_checkpoint(epoch);
        let dead = self.outputs.len() - 1;
        if !rejected.is_empty() {
            by_output[dead].push(Rejected::to_changes(&rejected)?);
        }
        for (output, batches) in self.outputs.iter_mut().zip(by_output) {
            let changes = canonical(output.order, &output.schema, batches)?;
            output.port.offer(Closed { epoch, changes });
        }
        Ok(())
    }

    fn step_sinks(&mut self) -> Result<bool> {
        let mut busy = false;
        for i in 0..self.outputs.len() {
            let output = &mut self.outputs[i];
            let before = (output.state.done, output.state.pending);
            output.state = output.port.step();
            if let Some(e) = &output.state.failed {
                return Err(e.clone());
            }
            let refused = std::mem::take(&mut output.state.refused);
            busy |= before != (output.state.done, output.state.pending) || !refused.is_empty();
            self.take_refused(i, refused)?;
            busy |= self.count_refused(i);
        }
        Ok(busy)
    }

    fn settle(&mut self) {
        let complete = self.flight.complete;
        let (done, waiting) = std::mem::take(&mut self.settling).into_iter().partition(|(until, _)| until.is_some_and(|u| u <= complete));
        self.settling = waiting;
        let done: Vec<_> = done;
        for (_, answer) in done {
            let _ = answer.send(()); // the asker may have gone
        }
    }

    /// Tells the sources what every sink holds.
    fn retire(&mut self) -> Result<()> {
        let done = self.outputs.iter().map(|o| o.state.done);
        let done = if planted(Bug::RetiresTooEarly) { done.max() } else { done.min() };
        let done = done.unwrap_or(self.flight.complete).min(self.flight.complete);
        if done <= self.retired {
            return Ok(());
        }
        self.retired = done;
        for (source, positions) in self.ledger.retire(done) {
            self.acknowledge(&source, &positions, false)?;
        }
        self.compact(false, false);
        Ok(())
    }

    /// Tells a source, if it is spooled or not as said, how far the host or the broker may forget.
    pub(super) fn acknowledge(&mut self, source: &str, positions: &Positions, spooled: bool) -> Result<()> {
        let Some(port) = self.sources.iter_mut().find(|s| *s.name == *source && s.spooled.is_some() == spooled) else { return Ok(()) };
        match port.reader.acknowledge(positions) {
            Err(e) if e.retry() == Retry::Never => return Err(e.at(format!("source {}", port.name))),
            Err(e) => tracing::warn!(source = %port.name, "progress could not be acknowledged: {e}"),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Tells the log what may stand for all epochs that every sink holds.
    pub(super) fn compact(&mut self, time: bool, now: bool) {
        if !self.log.is_there() {
            return;
        }
        let (outputs, writer) = (&self.outputs, self.ledger.writer());
        let held = || {
            let of = |o: &Output| (o.label.clone(), o.progress(writer));
            let lanes = outputs.iter().filter(|o| o.keeps_progress && !o.state.lanes.is_empty());
            (outputs.iter().map(of).collect(), lanes.map(|o| (o.label.clone(), o.state.lanes.clone())).collect())
        };
        let at = self.clock.elapsed();
        if let Some(base) = self.ledger.base_due(time || at >= self.based + BASE_EVERY, now, held) {
            self.based = at;
            self.bases += 1;
            self.log.give(Entry::Base(base).into());
        }
    }

    fn drained(&mut self) -> Result<bool> {
        let quiet = self.replay.epoch().is_none()
            && self.mint.is_empty()
            && self.flight.minted.is_empty()
            && self.sources.iter().all(|s| s.held.is_none() && s.later.is_empty());
        if !quiet || self.letterbox.has_due() || self.ledger.tail() == Epoch(0) {
            return Ok(false);
        }
        let all = self.outputs.iter().all(|o| o.state.done >= self.flight.complete && o.port.is_idle());
        if !all {
            self.outputs.iter_mut().filter(|o| o.state.done < self.flight.complete).for_each(|o| o.port.flush());
        }
        Ok(all && self.retired >= self.flight.complete && self.is_stored())
    }

    /// After the end: answers reads of what the views hold; false when nobody can ask any more, or told to stop.
    pub(crate) fn serve_reads(&mut self) -> bool {
        loop {
            // without workers there is nothing to read: who asks is told why when the queue is dropped
            if self.workers.is_empty() {
                return false;
            }
            match self.requests.try_recv() {
                Ok(Request::Read { views, reply }) => self.read(&views, reply),
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stop_workers();
                    return false;
                }
                Ok(Request::Settle(answer)) => {
                    let _ = answer.send(()); // the asker may have gone
                }
                Ok(Request::Checkpoint(reply)) => {
                    let _ = reply.send(self.checkpoints.complete.ok_or_else(gone)); // the asker may have gone
                }
                Ok(_) => {}
                Err(TryRecvError::Empty) => return true,
            }
        }
    }
}

/// The error of an engine whose thread is gone.
pub(crate) fn gone() -> Error {
    Error::user("the pipeline has ended").hint("start it again to go on")
}
