//! Work that may wait for the disk, beside the engine: by a thread of its own, or by the engine's when it runs inline.
//!
//! Invariant: jobs are done in the order in which they were given; whoever closes a port knows that the driver has let go of its store.

use super::backoff::Backoff;
use crate::error::{Error, Result, Retry};
use crate::time::Clock;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Does jobs one after the other, and may have to try one again.
pub(crate) trait Driver: Send + 'static {
    /// What it is given.
    type Job: Send + 'static;
    /// What is known of its work.
    type State: Clone + Default + Send + 'static;

    /// Takes a job.
    fn take(&mut self, job: Self::Job);

    /// Whether everything is done, or never will be.
    fn is_idle(&self) -> bool;

    /// How long until a retry is due.
    fn pause(&self) -> Duration;

    /// Does what there is to do, and says how it stands.
    fn step(&mut self) -> Self::State;

    /// Notes that the driver is out of order.
    fn fail(state: &mut Self::State, e: Error);
}

/// How tries at the state's disk went, and when the next one is due.
pub(crate) struct Tries {
    clock: Clock,
    backoff: Backoff,
    /// Why it is waiting, if it is.
    pub(super) waits: Option<String>,
    /// Why it is out of order.
    pub(super) failed: Option<Error>,
}

impl Tries {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), waits: None, failed: None }
    }

    /// What is left of the pause before the next try.
    pub(super) fn pause(&self) -> Duration {
        self.backoff.left(self.clock.elapsed()).unwrap_or_default()
    }

    /// Whether the next try may be made now.
    pub(super) fn is_due(&self) -> bool {
        self.failed.is_none() && self.pause().is_zero()
    }

    /// Notes how a try went; true if it worked.
    pub(super) fn note(&mut self, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                self.backoff.worked();
                self.waits = None;
                return true;
            }
            Err(e) if e.retry() == Retry::Backoff => {
                if self.waits.is_none() {
                    tracing::warn!("waiting for the state: {e}");
                }
                self.backoff.failed(self.clock.elapsed());
                self.waits = Some(e.to_string());
            }
            Err(e) => self.failed = Some(e.at("state")),
        }
        false
    }
}

/// Where a driver runs.
pub(crate) enum Port<D: Driver> {
    /// Nowhere: there is none.
    None,
    /// On the engine's own thread.
    Inline(Box<D>),
    /// On a thread of its own.
    Thread(super::shell::DriverThread<D>),
}

impl<D: Driver> Port<D> {
    pub(crate) fn give(&mut self, job: D::Job) {
        match self {
            Port::None => {}
            Port::Inline(driver) => driver.take(job),
            Port::Thread(thread) => thread.give(job),
        }
    }

    /// How it stands; inline, after doing what there is to do.
    pub(super) fn step(&mut self) -> Option<D::State> {
        match self {
            Port::None => None,
            Port::Inline(driver) => Some(driver.step()),
            Port::Thread(thread) => Some(thread.state()),
        }
    }

    /// Whether there is a driver at all.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self, Port::None)
    }

    /// Lets go of the driver; with `finish`, after what it was given is done, as far as it can be.
    pub(super) fn close(&mut self, finish: bool) -> D::State {
        match std::mem::replace(self, Port::None) {
            Port::None => D::State::default(),
            Port::Inline(mut driver) => {
                if finish {
                    driver.step()
                } else {
                    D::State::default()
                }
            }
            Port::Thread(thread) => thread.close(finish),
        }
    }
}
