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

use super::ports::{Flight, Output, SourcePort, WorkerPort};
use super::status::{Phase, Status};
use super::worker::{Share, ToWorker};
use crate::data::Rejected;
use crate::egress::canonical;
use crate::epoch::{Ledger, Mint};
use crate::error::{Error, Result, Retry};
use crate::sink::Closed;
use crate::source::Fetch;
use crate::time::{Clock, Epoch};
use arrow::array::RecordBatch;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Epochs closed by the mint that workers may be behind.
const EPOCHS_IN_FLIGHT: usize = 3;
/// How long the engine sleeps at most: sources with a rate are polled at least this often.
const TICK: Duration = Duration::from_millis(100);
/// Fetches taken from one source in one step, so that control never waits long.
const FETCHES_A_STEP: usize = 64;

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
}

/// The engine.
pub(crate) struct Engine {
    pub(crate) pipeline: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) mint: Mint,
    pub(crate) ledger: Ledger,
    pub(crate) bounds: Bounds,
    pub(crate) sources: Vec<SourcePort>,
    pub(crate) workers: Vec<WorkerPort>,
    /// The sinks of views; the last one takes the dead letters.
    pub(crate) outputs: Vec<Output>,
    pub(crate) reports: crossbeam_channel::Receiver<Result<(usize, Share)>>,
    pub(crate) requests: crossbeam_channel::Receiver<Request>,
    pub(crate) status: Arc<Mutex<Status>>,
    pub(crate) flight: Flight,
    pub(crate) phase: Phase,
    pub(crate) next_worker: usize,
    pub(crate) refused: Vec<Rejected>,
    pub(crate) retired: Epoch,
    /// Who waits for what was handed in: until which epoch (none: sources were not found idle yet).
    pub(crate) settling: Vec<(Option<Epoch>, tokio::sync::oneshot::Sender<()>)>,
}

impl Engine {
    /// Does what there is to do, without waiting for anything.
    pub(crate) fn step(&mut self) -> Step {
        match self.work() {
            Ok(step) => step,
            Err(e) => Step::Finished(Err(self.fail(e))),
        }
    }

    fn work(&mut self) -> Result<Step> {
        let mut busy = self.take_requests();
        if matches!(self.phase, Phase::Stopped) {
            self.abandon();
            self.finish(Phase::Stopped);
            return Ok(Step::Finished(Ok(())));
        }
        busy |= self.step_workers()?;
        busy |= self.collect_shares()?;
        busy |= self.step_sinks()?;
        let mut wait = TICK;
        if matches!(self.phase, Phase::Running) {
            busy |= self.poll_sources(&mut wait)?;
            if !self.sources.is_empty() && self.sources.iter().all(|s| s.ended) {
                self.phase = Phase::Draining;
                busy = true;
            }
        }
        // sources that could not be asked, for want of room, may hold more
        let asked = !matches!(self.phase, Phase::Running) || self.has_room();
        if !busy && asked && self.sources.iter().all(|s| s.held.is_none()) {
            let newest = if self.mint.is_empty() { self.ledger.tail() } else { self.mint.epoch() };
            self.settling.iter_mut().for_each(|(until, _)| *until = until.or(Some(newest)));
        }
        busy |= self.mint_if_due(&mut wait);
        self.retire()?;
        self.settle();
        self.publish(busy);
        if matches!(self.phase, Phase::Draining) && self.drained()? {
            self.close()?;
            self.finish(Phase::Finished);
            return Ok(Step::Finished(Ok(())));
        }
        Ok(if busy { Step::Busy } else { Step::Idle(wait) })
    }

    fn take_requests(&mut self) -> bool {
        let mut any = false;
        while let Ok(request) = self.requests.try_recv() {
            any = true;
            match (request, &self.phase) {
                (Request::Stop, _) => self.phase = Phase::Stopped,
                (Request::Drain, Phase::Running | Phase::Paused) => self.phase = Phase::Draining,
                (Request::Pause, Phase::Running) => self.phase = Phase::Paused,
                (Request::Resume, Phase::Paused) => self.phase = Phase::Running,
                (Request::Read { views, reply }, _) => self.read(&views, reply),
                (Request::Settle(answer), _) => self.settling.push((None, answer)),
                _ => {}
            }
        }
        any
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
        let mut busy = false;
        for (i, worker) in self.workers.iter_mut().enumerate() {
            if let WorkerPort::Inline(core) = worker {
                core.step(None)?;
                while let Some(share) = core.closed() {
                    self.flight.take(i, share);
                    busy = true;
                }
                busy |= core.is_behind();
            }
        }
        Ok(busy)
    }

    fn collect_shares(&mut self) -> Result<bool> {
        let mut busy = false;
        while let Ok(report) = self.reports.try_recv() {
            let (worker, share) = report?;
            self.flight.take(worker, share);
            busy = true;
        }
        while let Some((epoch, shares)) = self.flight.next_complete() {
            self.egress(epoch, shares)?;
            busy = true;
        }
        Ok(busy)
    }

    /// Hands a complete epoch to every sink. Its binding is in the ledger: the mint appended it before the workers were told to close.
    fn egress(&mut self, epoch: Epoch, shares: Vec<Share>) -> Result<()> {
        let mut by_output: Vec<Vec<crate::data::Changes>> = self.outputs.iter().map(|_| vec![]).collect();
        let mut rejected = std::mem::take(&mut self.refused);
        let mut updates = 0;
        for share in shares {
            share.outputs.into_iter().for_each(|(o, c)| by_output[o].push(c));
            rejected.extend(share.rejected);
            updates += share.updates;
        }
        Rejected::sort(&mut rejected);
        self.count_rejected(&rejected, updates);
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
        for output in &mut self.outputs {
            let before = (output.state.done, output.state.pending);
            output.state = output.port.step();
            self.refused.append(&mut output.state.refused);
            if let Some(e) = &output.state.failed {
                return Err(e.clone());
            }
            busy |= before != (output.state.done, output.state.pending);
        }
        Ok(busy)
    }

    fn has_room(&self) -> bool {
        let reading = self.flight.open_bytes + self.flight.minted.iter().map(|m| m.1).sum::<usize>();
        let writing: usize = self.outputs.iter().map(|o| o.port.pending(&o.state)).sum();
        self.flight.minted.len() < EPOCHS_IN_FLIGHT && reading < self.bounds.reading && writing < self.bounds.writing
    }

    fn poll_sources(&mut self, wait: &mut Duration) -> Result<bool> {
        let mut busy = false;
        for i in 0..self.sources.len() {
            for _ in 0..FETCHES_A_STEP {
                if self.sources[i].ended || !self.has_room() || self.mint.due(self.clock.elapsed(), false) == Some(Duration::ZERO) {
                    break;
                }
                let now = self.clock.elapsed();
                let source = &mut self.sources[i];
                if let Some((until, _)) = source.pause
                    && until > now
                {
                    *wait = (*wait).min(until - now);
                    break;
                }
                let fetch = match source.held.take() {
                    Some(held) => held,
                    None => match source.poll(now) {
                        Ok(Some(fetch)) => fetch,
                        Ok(None) => break,
                        Err(e) => return Err(e.at(format!("source {}", source.name))),
                    },
                };
                // a fetch that no worker has room for is no work: the worker that makes room wakes the engine
                if !self.dispatch(i, fetch, now) {
                    break;
                }
                busy = true;
            }
        }
        Ok(busy)
    }

    /// Gives a fetch to a worker; if all of them are full the fetch is held back, and false is returned.
    fn dispatch(&mut self, source: usize, fetch: Fetch, now: Duration) -> bool {
        let name = self.sources[source].name.clone();
        let (rows, bytes) = (fetch.rows, fetch.bytes);
        if rows == 0 {
            self.mint.add(source as u32, &fetch, now);
            return true;
        }
        let shadow = Fetch {
            partition: fetch.partition.clone(),
            from: fetch.from,
            to: fetch.to,
            rows,
            bytes,
            fingerprint: fetch.fingerprint,
            payload: crate::source::Payload::None,
        };
        let epoch = self.mint.epoch().0;
        let mut message = ToWorker::Fetch { source, epoch, fetch };
        for turn in 0..self.workers.len() {
            let worker = (self.next_worker + turn) % self.workers.len();
            match self.workers[worker].offer(message) {
                None => {
                    self.next_worker = worker + 1;
                    self.mint.add(source as u32, &shadow, now);
                    self.flight.open_bytes += bytes;
                    self.sources[source].report.rows += rows as u64;
                    self.sources[source].report.bytes += bytes as u64;
                    let labels = [("pipeline", self.pipeline.to_string()), ("source", name.to_string())];
                    metrics::counter!("orderflow_source_rows_total", &labels).increment(rows as u64);
                    metrics::counter!("orderflow_source_bytes_total", &labels).increment(bytes as u64);
                    return true;
                }
                Some(back) => message = back,
            }
        }
        if let ToWorker::Fetch { fetch, .. } = message {
            self.sources[source].held = Some(fetch);
        }
        false
    }

    fn mint_if_due(&mut self, wait: &mut Duration) -> bool {
        let now = self.clock.elapsed();
        let held = self.sources.iter().any(|s| s.held.is_some());
        if held && matches!(self.phase, Phase::Draining | Phase::Paused) {
            // what was read before still belongs to the stream
            for i in 0..self.sources.len() {
                if let Some(fetch) = self.sources[i].held.take() {
                    self.dispatch(i, fetch, now);
                }
            }
            return true;
        }
        let hurry = matches!(self.phase, Phase::Draining | Phase::Paused) || self.settling.iter().any(|s| s.0.is_some());
        let due = match self.mint.due(now, hurry) {
            // rows that sinks refused still have to reach the dead letters
            None if hurry && !self.refused.is_empty() && self.flight.minted.is_empty() => Duration::ZERO,
            // an aggregate without groups has a row even before the first record
            None if hurry && self.ledger.tail() == Epoch(0) => Duration::ZERO,
            None => return false,
            Some(due) => due,
        };
        if !due.is_zero() || self.flight.minted.len() >= EPOCHS_IN_FLIGHT {
            *wait = (*wait).min(due.max(Duration::from_millis(1)));
            return false;
        }
        let binding = self.mint.close(self.clock.unix_millis());
        let epoch = binding.epoch;
        tracing::debug!(pipeline = %self.pipeline, epoch = epoch.0, rows = binding.rows(), "epoch closed");
        self.ledger.append(binding);
        self.flight.minted.push_back((epoch, std::mem::take(&mut self.flight.open_bytes), now));
        let forget = self.flight.complete.0;
        for worker in &mut self.workers {
            worker.send(ToWorker::Close { epoch: epoch.0, forget });
        }
        true
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
        let done = self.outputs.iter().map(|o| o.state.done).min().unwrap_or(self.flight.complete).min(self.flight.complete);
        if done <= self.retired {
            return Ok(());
        }
        self.retired = done;
        for (source, positions) in self.ledger.retire(done) {
            let port = &mut self.sources[source as usize];
            if let Err(e) = port.reader.acknowledge(&positions) {
                if e.retry() == Retry::Never {
                    return Err(e.at(format!("source {}", port.name)));
                }
                tracing::warn!(source = %port.name, "progress could not be acknowledged: {e}");
            }
        }
        Ok(())
    }

    fn drained(&mut self) -> Result<bool> {
        let quiet = self.mint.is_empty() && self.flight.minted.is_empty() && self.sources.iter().all(|s| s.held.is_none());
        if !quiet || !self.refused.is_empty() || self.ledger.tail() == Epoch(0) {
            return Ok(false);
        }
        let all = self.outputs.iter().all(|o| o.state.done >= self.flight.complete && o.port.is_idle(&o.state));
        if !all {
            self.outputs.iter_mut().filter(|o| o.state.done < self.flight.complete).for_each(|o| o.port.flush());
        }
        Ok(all && self.retired >= self.flight.complete)
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
                Ok(Request::Stop) | Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    self.stop_workers();
                    return false;
                }
                Ok(Request::Settle(answer)) => {
                    let _ = answer.send(()); // the asker may have gone
                }
                Ok(_) => {}
                Err(crossbeam_channel::TryRecvError::Empty) => return true,
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        let mut first = Ok(());
        for source in &mut self.sources {
            if let Err(e) = source.reader.close() {
                first = first.and(Err(e.at(format!("source {}", source.name))));
            }
        }
        for output in &mut self.outputs {
            output.state = output.port.close();
            if let Some(e) = &output.state.failed {
                first = first.and(Err(e.clone()));
            }
        }
        first
    }

    /// Ends without waiting for what is not out.
    fn abandon(&mut self) {
        for source in &mut self.sources {
            if let Err(e) = source.reader.close() {
                tracing::warn!(source = %source.name, "closing: {e}");
            }
        }
        for output in &mut self.outputs {
            output.state = output.port.close();
        }
        self.stop_workers();
    }

    fn stop_workers(&mut self) {
        for worker in self.workers.drain(..) {
            match worker {
                WorkerPort::Inline(core) => core.stop(),
                WorkerPort::Thread(mut thread) => thread.send(ToWorker::Stop),
            }
        }
    }

    /// Ends with an error that came from outside a step.
    pub(crate) fn fail(&mut self, e: Error) -> Error {
        self.abandon();
        self.finish(Phase::Failed(e.clone()));
        e
    }

    /// Ends after a panic of its own: a bug, but not the host's.
    pub(crate) fn panicked(&mut self, text: String) -> Error {
        self.fail(Error::internal("the engine panicked").why(text))
    }

    fn finish(&mut self, phase: Phase) {
        self.phase = phase;
        self.publish(false);
    }
}

/// The error of an engine whose thread is gone.
pub(crate) fn gone() -> Error {
    Error::user("the pipeline has ended").hint("start it again to go on")
}
