//! One sink's side of the engine: the gate, the retries and the account of what is out.
//!
//! Invariant: the writer sees epochs in order, each once, none that it already held (law 3); an epoch without rows is not given to it at all.
//! What is given and not out is counted at every step, also while the writer fails: it is what holds the sources back.

use super::backoff::Backoff;
use crate::bug::{Bug, planted};
use crate::error::{Error, Result, Retry};
use crate::operator::closure::caught_outside;
use crate::sink::{Closed, Progress, Refused, Writer};
use crate::time::{Clock, Epoch};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of a sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkState {
    /// Every row up to here is in the outside world for good.
    pub(crate) done: Epoch,
    /// The newest progress that the sink itself told of, of an epoch with rows; empty ones may follow it. It is behind what it holds where it has no row of
    /// the oldest epochs.
    pub(crate) told: Option<Progress>,
    /// How far each of its lanes is, where they commit by themselves.
    pub(crate) lanes: Vec<Epoch>,
    /// Bytes given and not yet out.
    pub(crate) pending: usize,
    /// Rows given.
    pub(crate) rows: u64,
    /// Why it is waiting, if it is.
    pub(crate) waits: Option<String>,
    /// Why it is out of order.
    pub(crate) failed: Option<Error>,
    /// What it told since the last look of rows that it leaves out, and which epoch the lane held then.
    pub(crate) refused: Vec<(Epoch, Refused)>,
    /// Whether it has let go of the outside.
    pub(crate) closed: bool,
}

impl SinkState {
    /// The newest epoch that a lane holds, or the sink as a whole where its lanes do not commit by themselves.
    pub(super) fn held(&self, lane: usize) -> Epoch {
        self.lanes.get(lane).copied().unwrap_or(self.told.map_or(Epoch(0), |p| p.epoch))
    }
}

/// Drives one writer.
pub(crate) struct SinkDriver {
    name: Arc<str>,
    writer: Option<Box<dyn Writer>>,
    gate: Epoch,
    queue: VecDeque<Closed>,
    queued: usize,
    /// Bytes that the writer said it holds, and those it was given since it last said so.
    held: usize,
    unheard: usize,
    offered: Epoch,
    last_rows: Epoch,
    committed: Epoch,
    flush: bool,
    clock: Clock,
    backoff: Backoff,
    state: SinkState,
}

impl SinkDriver {
    /// A driver of an opened writer that holds everything up to `gate`, and told so itself by `told`.
    pub(crate) fn new(name: Arc<str>, writer: Box<dyn Writer>, gate: Epoch, told: Option<Progress>, clock: Clock) -> Self {
        let state = SinkState { told, lanes: writer.lanes(), ..SinkState::default() };
        Self {
            name,
            writer: Some(writer),
            gate,
            queue: VecDeque::new(),
            queued: 0,
            held: 0,
            unheard: 0,
            offered: Epoch(0),
            last_rows: Epoch(0),
            committed: gate,
            flush: false,
            clock,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            state,
        }
    }

    /// What messages call the sink.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes a closed epoch.
    pub(crate) fn offer(&mut self, closed: Closed) {
        self.offered = closed.epoch;
        if closed.epoch > self.gate && closed.rows() > 0 {
            self.last_rows = closed.epoch;
            self.queued += closed.memory();
            self.state.rows += closed.rows() as u64;
            self.queue.push_back(closed);
        }
    }

    /// Asks that everything be committed.
    pub(crate) fn flush(&mut self) {
        self.flush = true;
    }

    /// Whether there is anything to drive.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.flush && self.last_rows <= self.committed
    }

    /// How long until a retry is due.
    pub(crate) fn pause(&self) -> Option<Duration> {
        self.backoff.left(self.clock.elapsed())
    }

    /// Gives what is queued, drives the writer (waiting at most `wait`), and says how it stands.
    pub(crate) fn step(&mut self, wait: Duration) -> SinkState {
        if self.state.failed.is_none() && self.writer.is_some() && self.backoff.is_over(self.clock.elapsed()) {
            match self.drive(wait) {
                Ok(()) => {
                    self.backoff.worked();
                    if self.state.waits.take().is_some() {
                        tracing::info!(sink = %self.name, "the sink goes on");
                    }
                }
                Err(e) if e.retry() == Retry::Backoff => {
                    if self.state.waits.is_none() {
                        tracing::warn!(sink = %self.name, "waiting for the sink: {e}");
                    }
                    self.backoff.failed(self.clock.elapsed());
                    self.state.waits = Some(e.to_string());
                }
                Err(e) => self.state.failed = Some(e.at(format!("sink {}", self.name))),
            }
        }
        self.state.pending = self.held + self.unheard + self.queued;
        self.state.done = if self.last_rows <= self.committed { self.offered.max(self.committed) } else { self.committed };
        let refused = std::mem::take(&mut self.state.refused);
        SinkState { refused, ..self.state.clone() }
    }

    /// As [`SinkDriver::step`], with the time that it took.
    pub(crate) fn timed_step(&mut self, wait: Duration) -> (SinkState, Duration) {
        let from = self.clock.elapsed();
        let state = self.step(wait);
        (state, self.clock.elapsed().saturating_sub(from))
    }

    fn drive(&mut self, wait: Duration) -> Result<()> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        while let Some(next) = self.queue.front() {
            if let Err(e) = writer.write(next.clone()) {
                if planted(Bug::DropsWhatIsRefused) {
                    self.queue.pop_front();
                }
                return Err(e);
            }
            let memory = next.memory();
            self.queued = self.queued.saturating_sub(memory);
            self.unheard += memory;
            self.queue.pop_front();
            if self.queue.is_empty() || self.state.pending > 0 {
                break;
            }
        }
        if self.flush && self.queue.is_empty() {
            writer.flush()?;
            self.flush = false;
        }
        let committed = writer.poll(wait)?;
        self.state.lanes = writer.lanes();
        (self.held, self.unheard) = (committed.pending_bytes, 0);
        if let Some(p) = committed.progress {
            self.committed = self.committed.max(p.epoch);
            self.state.told = self.state.told.filter(|told| told.epoch >= p.epoch).or(Some(p));
        }
        let refused: Vec<_> = committed.refused.into_iter().map(|r| (self.state.held(r.lane), r)).collect();
        self.state.refused.extend(refused);
        Ok(())
    }

    /// Lets go of the outside. An error of it does not hide what broke the sink before.
    pub(crate) fn close(&mut self) -> SinkState {
        if let Some(writer) = self.writer.take()
            && let Err(e) = caught_outside(|| writer.close())
        {
            let e = e.at(format!("closing sink {}", self.name));
            if self.state.failed.is_some() {
                tracing::warn!(sink = %self.name, "while it ended: {e}");
            } else {
                self.state.failed = Some(e);
            }
        }
        self.state.closed = true;
        self.state.clone()
    }
}
