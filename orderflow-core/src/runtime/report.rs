//! What the engine tells the outside: the status behind the handle, and the `metrics` facade.

use super::engine::Engine;
use super::status::SinkStatus;
use crate::data::Rejected;
use std::sync::PoisonError;

impl Engine {
    pub(super) fn count_rejected(&mut self, rejected: &[Rejected], updates: usize) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state_updates = updates;
        for r in rejected {
            *status.rejected.entry(r.from.to_string()).or_default() += r.diff;
            let amount = u64::try_from(r.diff).unwrap_or(0);
            metrics::counter!("orderflow_rejected_total", "pipeline" => self.pipeline.to_string(), "source" => r.from.to_string())
                .increment(amount);
        }
    }

    pub(super) fn publish(&mut self, busy: bool) {
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
        for (source, report) in self.sources.iter_mut().zip(&mut status.sources) {
            report.rows = source.report.rows;
            report.bytes = source.report.bytes;
            report.waits.clone_from(&source.report.waits);
            // asking a source costs more than counting: only when nothing else is to be done, or at the end
            if !busy {
                report.status = source.reader.status();
                let lag = report.lag();
                metrics::gauge!("orderflow_source_lag", "pipeline" => self.pipeline.to_string(), "source" => source.name.to_string())
                    .set(lag as f64);
            }
        }
        for (output, report) in self.outputs.iter().zip(&mut status.sinks) {
            *report = SinkStatus {
                name: output.name.to_string(),
                kind: output.kind.to_string(),
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
