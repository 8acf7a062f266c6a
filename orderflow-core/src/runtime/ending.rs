//! How an engine ends: sources and sinks let go of the outside first, then the state is let go, last the workers.
//!
//! Invariant: whoever waits for the state, the lock of its folder, finds the ends closed when they get it, whatever closing them did. The first error is the
//! reason of the end; every other one is said in the log, with its place.

use super::engine::Engine;
use super::ports::WorkerPort;
use super::status::Phase;
use super::worker::ToWorker;
use crate::error::{Error, Result};

impl Engine {
    /// The good end: everything is out, and the ledger is told so.
    pub(super) fn close(&mut self) -> Result<()> {
        self.look();
        let mut errors = self.close_ends();
        let finished = !self.sources.is_empty() && self.sources.iter().all(|s| s.ended) && self.ledger.finish();
        self.compact(true, finished);
        let stored = self.checkpoints.port.close(true);
        let log = self.log.close(true);
        errors.extend(log.failed.into_iter().chain(stored.failed));
        let mut errors = errors.into_iter();
        let first = errors.next();
        self.tell_errors(errors);
        first.map_or(Ok(()), Err)
    }

    /// Ends without waiting for what is not out. Sources are not asked any more: one of them may be closed, or have panicked.
    pub(super) fn abandon(&mut self) {
        // whatever closing does, the reason of this end stays the one that is told
        let errors = self.close_ends();
        self.tell_errors(errors);
        self.checkpoints.port.close(false);
        self.log.close(false);
        self.stop_workers();
    }

    /// Closes every source and every sink: what nobody heard of before.
    fn close_ends(&mut self) -> Vec<Error> {
        let mut errors: Vec<Error> = self.sources.iter_mut().filter_map(|s| s.close().err()).collect();
        for output in &mut self.outputs {
            let known = output.state.failed.is_some();
            output.state = output.port.close();
            errors.extend(output.state.failed.clone().filter(|_| !known));
        }
        errors
    }

    fn tell_errors(&self, errors: impl IntoIterator<Item = Error>) {
        errors.into_iter().for_each(|e| tracing::warn!(pipeline = %self.pipeline, "while it ended: {e}"));
    }

    pub(super) fn stop_workers(&mut self) {
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

    pub(super) fn finish(&mut self, phase: Phase) {
        self.phase = phase;
        self.publish();
    }
}
