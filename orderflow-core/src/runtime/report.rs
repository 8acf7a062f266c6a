//! What the engine tells the outside: the status behind the handle, and the `metrics` facade.

use super::engine::Engine;
use super::status::{OperatorReport, SinkStatus};
use crate::data::Rejected;
use crate::epoch::Input;
use crate::operator::closure::panic_text;
use crate::operator::tally::Whose;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

/// So many bytes of a letter are shown in the log.
const LETTER_SHOWN: usize = 300;

impl Engine {
    /// Updates held in kept state, and rows that left operators.
    pub(super) fn count_work(&self, updates: usize, left: Vec<(Whose, u64)>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state_updates = updates;
        for ((view, operator), rows) in left {
            let at = status.operators.binary_search_by(|o| (&*o.view, o.operator).cmp(&(&*view, operator)));
            let at = at.unwrap_or_else(|at| {
                status.operators.insert(at, OperatorReport { view: view.to_string(), operator, rows: 0 });
                at
            });
            status.operators[at].rows += rows;
        }
    }

    pub(super) fn count_rejected<'a>(&self, rejected: impl Iterator<Item = &'a Rejected>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        for r in rejected {
            *status.rejected.entry(r.from.to_string()).or_default() += r.diff;
            let amount = u64::try_from(r.diff).unwrap_or(0);
            metrics::counter!("orderflow_rejected_total", "pipeline" => self.pipeline.to_string(), "source" => r.from.to_string())
                .increment(amount);
        }
    }

    /// Counts letters that the sink of dead letters refused, and writes how each begins, which says where its record stood, to the log: there it is seen
    /// last.
    pub(super) fn tell_refused_letters(&self, letters: &[Rejected]) {
        if letters.is_empty() {
            return;
        }
        for letter in letters {
            let begins = String::from_utf8_lossy(&letter.bytes[..letter.bytes.len().min(LETTER_SHOWN)]);
            tracing::warn!(pipeline = %self.pipeline, "a dead letter is refused and is nowhere else: {}; it begins {begins}", letter.reason);
        }
        self.count_rejected(letters.iter());
    }

    /// Asks every source how it stands. A reader that was closed knows nothing any more, so that the last look is made before.
    pub(super) fn look(&mut self) {
        let now = self.clock.elapsed();
        self.looked = now;
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        for (source, report) in self.sources.iter().zip(&mut status.sources) {
            report.status = source.reader.status();
            self.idleness.see(&source.name, &report.status.partitions, now);
        }
        let idle = self.idleness.idle(now);
        for (source, report) in self.sources.iter().zip(&mut status.sources) {
            let own = |input: &Input| (input.0 == source.name).then(|| input.1.clone());
            report.watermarks = self.mint.watermarks().iter().filter_map(|(input, at)| Some((own(input)?, *at))).collect();
            report.idle = idle.iter().filter_map(own).collect();
            report.lags = report.lags_at(self.clock.unix_millis());
            let labels = [("pipeline", self.pipeline.to_string()), ("source", source.name.to_string())];
            metrics::gauge!("orderflow_source_lag", &labels).set(report.lag() as f64);
            if let Some(behind) = report.lag_time() {
                metrics::gauge!("orderflow_source_lag_seconds", &labels).set(behind.as_secs_f64());
            }
            if let Some(watermark) = report.watermark() {
                metrics::gauge!("orderflow_source_watermark_seconds", &labels).set(watermark as f64 / 1000.0);
            }
        }
    }

    /// The last look after an error. Whatever a source does when it is asked then, the reason of this end stays the one that is told.
    pub(super) fn look_back(&mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.look())) {
            tracing::warn!(pipeline = %self.pipeline, "a source panicked when it was asked how it stands: {}", panic_text(&*panic));
        }
    }

    pub(super) fn publish(&mut self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.phase = self.phase.clone();
        status.minted = self.ledger.tail();
        status.complete = self.flight.complete;
        status.committed = self.retired;
        status.waits = self.written.waits.clone().or_else(|| self.checkpoints.state.waits.clone());
        status.restored = self.checkpoints.restored;
        status.checkpoint = self.checkpoints.complete;
        status.checkpoint_bytes = self.checkpoints.state.bytes;
        status.merged_bytes = self.checkpoints.state.merged_bytes;
        for (source, report) in self.sources.iter().zip(&mut status.sources) {
            report.rows = source.report.rows;
            report.bytes = source.report.bytes;
            report.bound = source.report.bound;
            report.waits.clone_from(&source.report.waits);
        }
        for (output, report) in self.outputs.iter().zip(&mut status.sinks) {
            *report = SinkStatus {
                name: output.name.to_string(),
                kind: output.kind.to_string(),
                label: output.title.to_string(),
                rows: output.state.rows,
                committed: output.state.done,
                pending_bytes: output.state.pending,
                waits: output.state.waits.clone(),
            };
        }
        if let Some(latency) = self.flight.latency.take() {
            metrics::histogram!("orderflow_epoch_seconds", "pipeline" => self.pipeline.to_string()).record(latency.as_secs_f64());
            status.epoch_latency = Some(latency);
        }
    }
}
