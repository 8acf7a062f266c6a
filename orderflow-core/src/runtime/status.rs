//! What a running pipeline says about itself.

use crate::error::Error;
use crate::source::{PartitionStatus, SourceStatus};
use crate::time::{Epoch, Partition};
use std::collections::{BTreeMap, BTreeSet};
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

/// What a health check asks of a pipeline, by [`Status::health`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Health {
    /// It does what it was told to, which may be to pause.
    Well,
    /// It waits for something outside, and goes on by itself when that is back: who waits, and for what.
    Waits(Vec<String>),
    /// It has ended, because it was through or was told to.
    Ended,
    /// It ended with this error.
    Failed(Error),
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
    /// Bad records and rows since the pipeline began, by the source or view that refused them; withdrawn ones are taken off. It is stored with the views,
    /// so what is read again after a crash is counted once. Where all input is read again, it is counted again with it. A view whose query changed and that
    /// reads stored views only begins anew with what it refuses of their rows; one that is gone is not named.
    pub rejected: BTreeMap<String, i64>,
    /// What left each operator of this run, by whose it is and which; none that nothing has left.
    pub operators: Vec<OperatorReport>,
    /// Updates held in kept state, before merging.
    pub state_updates: usize,
    /// Why what must survive a crash cannot be written at the moment: nothing leaves until it can.
    pub waits: Option<String>,
    /// The epoch as of which views were taken from what was stored, when this run began; `None` if they were computed from the beginning.
    pub restored: Option<Epoch>,
    /// Checkpoints that this run passed over when it began, because they were damaged, and why: what [`Status::restored`] names is older.
    pub damaged: Vec<String>,
    /// The epoch of the newest complete checkpoint.
    pub checkpoint: Option<Epoch>,
    /// Bytes of files written by checkpoints of this run, of what had changed.
    pub checkpoint_bytes: u64,
    /// Bytes of files written by merging small ones.
    pub merged_bytes: u64,
}

impl Status {
    /// Whether the pipeline lives, waits or has ended, in one word for a health check.
    pub fn health(&self) -> Health {
        match &self.phase {
            Phase::Failed(e) => return Health::Failed(e.clone()),
            Phase::Finished | Phase::Stopped => return Health::Ended,
            Phase::Running | Phase::Paused | Phase::Draining => {}
        }
        let waits = |who: String, why: &Option<String>| why.as_ref().map(|why| format!("{who}: {why}"));
        let sources = self.sources.iter().filter_map(|s| waits(format!("source {}", s.name), &s.waits));
        let sinks = self.sinks.iter().filter_map(|s| waits(format!("sink {}", s.label), &s.waits));
        let all: Vec<String> = sources.chain(sinks).chain(waits("state".into(), &self.waits)).collect();
        if all.is_empty() { Health::Well } else { Health::Waits(all) }
    }
}

/// How far one partition is behind, as of the last look at its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Which.
    pub partition: Partition,
    /// Positions between what was read and its end: records of a topic, bytes of a file; `None` where the end is not known.
    pub records: Option<u64>,
    /// The age of the newest record that was read, or zero if nothing is to be read; `None` where the end or the timestamps are not known.
    pub time: Option<Duration>,
}

/// One source.
#[derive(Clone, Debug, Default)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Records read by this run since it began at 0, those among them that an earlier one had read. What all runs read is [`SourceReport::bound`].
    pub rows: u64,
    /// Bytes of the records read by this run.
    pub bytes: u64,
    /// Records in closed epochs since the pipeline began: each counts once, however often it is read.
    pub bound: u64,
    /// Positions, ends and warnings, as of the last quiet moment; under load at most about a second old. After the end, as they were left.
    pub status: SourceStatus,
    /// The newest timestamp of each partition's records in closed epochs, in milliseconds since 1970; records of later positions may be older.
    pub watermarks: BTreeMap<Partition, i64>,
    /// Partitions that have stood at their ends for the time declared by [`Pipeline::idle_after`](crate::Pipeline::idle_after).
    pub idle: BTreeSet<Partition>,
    /// How far each partition is behind, as of the same moment.
    pub lags: Vec<Lag>,
    /// Why it is waiting, if it is.
    pub waits: Option<String>,
}

impl SourceReport {
    /// Positions between what was read and the end of every partition, where the end is known: records of a topic, bytes of a file.
    pub fn lag(&self) -> u64 {
        self.status.partitions.iter().filter_map(PartitionStatus::lag).sum()
    }

    /// The time up to which every partition has been read that is not [idle](SourceReport::idle), in milliseconds since 1970: the least of their
    /// watermarks, or the greatest of all if all are idle. `None` if one of them had no record with a timestamp.
    pub fn watermark(&self) -> Option<i64> {
        let mut busy = self.status.partitions.iter().filter(|p| !self.idle.contains(&p.partition)).peekable();
        match busy.peek() {
            None => self.watermarks.values().max().copied(),
            Some(_) => busy.map(|p| self.watermarks.get(&p.partition).copied()).min().flatten(),
        }
    }

    /// How far the source is behind in time: the most of its [lags](SourceReport::lags). Zero where nothing is to be read; `None` where one is not known.
    pub fn lag_time(&self) -> Option<Duration> {
        self.lags.iter().try_fold(Duration::ZERO, |most, lag| Some(most.max(lag.time?)))
    }

    /// [`SourceReport::lags`] at wall-clock time `now`, in milliseconds since 1970.
    pub(super) fn lags_at(&self, now: i64) -> Vec<Lag> {
        let time = |p: &PartitionStatus| {
            if p.lag()? == 0 {
                return Some(Duration::ZERO);
            }
            let age = now.saturating_sub(*self.watermarks.get(&p.partition)?);
            Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
        };
        let lag = |p: &PartitionStatus| Lag { partition: p.partition.clone(), records: p.lag(), time: time(p) };
        self.status.partitions.iter().map(lag).collect()
    }
}

/// The operators of one kind of a view, or of the query of one of its sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorReport {
    /// The view, or [`SinkStatus::label`] of the sink.
    pub view: String,
    /// `map` (filters and projections), `aggregate` (groups, distinct) or `closure`.
    pub operator: &'static str,
    /// Changes that left it since this run began at 0, all workers together, as of the newest complete epoch; some of the next ones may be among them.
    pub rows: u64,
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub struct SinkStatus {
    /// The view that is written.
    pub name: String,
    /// What kind of sink it is.
    pub kind: String,
    /// What messages and metrics call it, as no other sink of the pipeline: `console of totals`, and a second one `console of totals #2`.
    pub label: String,
    /// Rows given to it by this run since it began at 0; those that it held already are not given again. What it holds in all is its own to say.
    pub rows: u64,
    /// The newest epoch that it holds for good.
    pub committed: Epoch,
    /// Bytes given and not yet out.
    pub pending_bytes: usize,
    /// Why it is waiting, if it is.
    pub waits: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_and_watermark_of_a_source() {
        let part = |id| Partition::new("t", id);
        let stand = |id, position, end| PartitionStatus { partition: part(id), position, end };
        let mut report = SourceReport::default();
        let behind = |report: &SourceReport, now| SourceReport { lags: report.lags_at(now), ..report.clone() }.lag_time();
        assert_eq!((report.watermark(), behind(&report, 5000)), (None, Some(Duration::ZERO)));
        report.status.partitions = vec![stand(0, 10, Some(10)), stand(1, 5, Some(8)), stand(2, 0, Some(0))];
        report.watermarks = [(part(0), 3000), (part(1), 1000)].into();
        assert_eq!((report.lag(), behind(&report, 5000)), (3, Some(Duration::from_secs(4))));
        assert_eq!(behind(&report, 500), Some(Duration::ZERO), "a record from the future");
        let lag = |id, records, time: Option<u64>| Lag { partition: part(id), records, time: time.map(Duration::from_secs) };
        assert_eq!(report.lags_at(5000), [lag(0, Some(0), Some(0)), lag(1, Some(3), Some(4)), lag(2, Some(0), Some(0))]);
        assert_eq!(report.watermark(), None, "nobody knows what partition 2 will bring");
        report.idle = [part(2)].into();
        assert_eq!(report.watermark(), Some(1000));
        report.idle = [part(0), part(1), part(2)].into();
        assert_eq!(report.watermark(), Some(3000));
        report.watermarks.remove(&part(1));
        assert_eq!(behind(&report, 5000), None, "how old its next record is nobody knows");
        assert_eq!(report.lags_at(5000)[1], lag(1, Some(3), None));
        report.status.partitions = vec![stand(0, 10, None)];
        assert_eq!((report.lag(), behind(&report, 5000)), (0, None));
        assert_eq!(report.lags_at(5000), [lag(0, None, None)]);
    }

    #[test]
    fn health_names_everybody_who_waits() {
        let source = SourceReport { name: "orders".into(), ..SourceReport::default() };
        let sink = SinkStatus { label: "kafka of big".into(), ..SinkStatus::default() };
        let mut status = Status { sources: vec![source], sinks: vec![sink], ..Status::default() };
        assert!(matches!(status.health(), Health::Well));
        status.sources[0].waits = Some("no broker answers".into());
        status.sinks[0].waits = Some("the disk is full".into());
        status.waits = Some("no room".into());
        let Health::Waits(all) = status.health() else { panic!("three wait") };
        assert_eq!(all, ["source orders: no broker answers", "sink kafka of big: the disk is full", "state: no room"]);
        status.phase = Phase::Stopped;
        assert!(matches!(status.health(), Health::Ended));
        status.phase = Phase::Failed(Error::user("no"));
        assert!(matches!(status.health(), Health::Failed(e) if e.to_string().starts_with("no")));
    }
}
