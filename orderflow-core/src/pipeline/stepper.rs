//! A pipeline that runs whole on the calling thread: what a seed did once it does again.

use super::Pipeline;
use super::start::Inline;
use crate::error::Result;
use crate::runtime::{Request, Status, Step};
use std::sync::PoisonError;

/// A pipeline that runs whole on the calling thread, a step at a time.
pub struct Stepper(Inline);

impl Pipeline {
    /// Opens everything inline, with one worker.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    pub fn stepper(self) -> Result<Stepper> {
        self.inline().map(Stepper)
    }
}

impl Stepper {
    /// One step; true if there was something to do, false if not, or the end.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn step(&mut self) -> Result<Option<bool>> {
        match self.0.engine.step() {
            Step::Busy => Ok(Some(true)),
            Step::Idle(_) => Ok(Some(false)),
            Step::Finished(outcome) => outcome.map(|()| None),
        }
    }

    /// Steps until there is nothing to do.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn settle(&mut self) -> Result<()> {
        while self.step()? == Some(true) {}
        Ok(())
    }

    /// Takes no more input from the next step on, and ends when everything is out.
    pub fn begin_drain(&mut self) {
        let _ = self.0.requests.send(Request::Drain); // an engine that has ended is drained
    }

    /// Takes no more input and steps until everything is out.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn drain(&mut self) -> Result<()> {
        self.begin_drain();
        while self.step()?.is_some() {}
        Ok(())
    }

    /// A snapshot of progress and counts.
    pub fn status(&self) -> Status {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
