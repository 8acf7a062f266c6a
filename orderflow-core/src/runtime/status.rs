//! What a running pipeline says about itself.

use crate::error::Error;
use crate::source::SourceStatus;
use crate::time::Epoch;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a pipeline is in its life.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Phase {
    /// It takes input.
    #[default]
    Running,
    /// It takes no input until it is resumed.
    Paused,
    /// It takes no more input and brings out what it read.
    Draining,
    /// All input was processed and everything is out.
    Finished,
    /// It was stopped; what was not out is not out.
    Stopped,
    /// It ended with this error.
    Failed(Error),
}

impl Phase {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        matches!(self, Phase::Finished | Phase::Stopped | Phase::Failed(_))
    }
}

/// A snapshot of a pipeline: progress and counts.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where it is in its life.
    pub phase: Phase,
    /// The newest epoch that was closed.
    pub minted: Epoch,
    /// The newest epoch that is complete: views are read as of this one.
    pub complete: Epoch,
    /// The newest epoch that every sink holds.
    pub committed: Epoch,
    /// From closing the newest complete epoch to its completion.
    pub epoch_latency: Option<Duration>,
    /// Each source.
    pub sources: Vec<SourceReport>,
    /// Each sink; the last one takes the dead letters.
    pub sinks: Vec<SinkStatus>,
    /// Bad records and rows, by the source or view that refused them; withdrawn ones are taken off.
    pub rejected: BTreeMap<String, i64>,
    /// Updates held in kept state, before merging.
    pub state_updates: usize,
    /// Why what must survive a crash cannot be written at the moment: nothing leaves until it can.
    pub waits: Option<String>,
    /// The epoch as of which views were taken from what was stored, when this run began; `None` if they were computed from the beginning.
    pub restored: Option<Epoch>,
    /// The epoch of the newest complete checkpoint.
    pub checkpoint: Option<Epoch>,
    /// Bytes of files written by checkpoints of this run, of what had changed.
    pub checkpoint_bytes: u64,
    /// Bytes of files written by merging small ones.
    pub merged_bytes: u64,
}

/// One source.
#[derive(Clone, Debug, Default)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Records read.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Positions, ends and warnings, as of the last quiet moment.
    pub status: SourceStatus,
    /// Why it is waiting, if it is.
    pub waits: Option<String>,
}

impl SourceReport {
    /// Records between what was read and the end of every partition, where the end is known.
    pub fn lag(&self) -> u64 {
        self.status.partitions.iter().filter_map(|p| p.end.map(|e| e.saturating_sub(p.position))).sum()
    }
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub struct SinkStatus {
    /// The view that is written.
    pub name: String,
    /// What kind of sink it is.
    pub kind: String,
    /// Rows given to it.
    pub rows: u64,
    /// The newest epoch that it holds for good.
    pub committed: Epoch,
    /// Bytes given and not yet out.
    pub pending_bytes: usize,
    /// Why it is waiting, if it is.
    pub waits: Option<String>,
}
