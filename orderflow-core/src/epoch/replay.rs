//! After a crash the epochs that were bound are read again, each exactly as it was: law 1. A pure decision over positions.
//!
//! Invariant: a record belongs to the epoch whose binding names its position, whatever the fetches it comes in; an epoch is whole when
//! every range has been read to its end, and then it has the rows and the fingerprint of its binding, or the source has changed.

use super::{Binding, Range, SpoolRef};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::source::Fetch;
use crate::time::{Epoch, Partition, Position, Positions};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a fetch belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// All of it into the epoch that is read now.
    Now,
    /// What stands before this position now, the rest later.
    Until(Position),
    /// A later epoch.
    Later,
}

/// Epochs to be read again, the oldest first.
#[derive(Debug, Default)]
pub struct Replay {
    epochs: VecDeque<Binding>,
    found: Binding,
}

impl Replay {
    /// Of these epochs, in order.
    pub fn new(epochs: impl IntoIterator<Item = Binding>) -> Self {
        Self { epochs: epochs.into_iter().collect(), found: Binding::default() }
    }

    /// The epoch that is read now; `None` when all are read.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epochs.front().map(|b| b.epoch)
    }

    /// Whether one of the epochs that are left ends as `epoch`.
    pub fn ends(&self, epoch: Epoch) -> bool {
        self.epochs.iter().any(|b| b.epoch == epoch)
    }

    /// Where each partition of a source is read from.
    pub fn positions(&self, source: &str) -> Positions {
        let mut positions = Positions::new();
        for ((of, partition), range) in self.epochs.iter().flat_map(|b| &b.ranges) {
            if **of == *source {
                positions.entry(partition.clone()).or_insert(range.from);
            }
        }
        positions
    }

    fn range(&self, source: &Arc<str>, partition: &Partition) -> Option<&Range> {
        self.epochs.front()?.ranges.get(&(source.clone(), partition.clone()))
    }

    /// Where a fetch belongs.
    pub fn admit(&self, source: &Arc<str>, fetch: &Fetch) -> Admit {
        match self.range(source, &fetch.partition) {
            Some(range) if fetch.to <= range.to || fetch.from < range.to && planted(Bug::FetchNotCut) => Admit::Now,
            Some(range) if fetch.from < range.to => Admit::Until(range.to),
            _ => Admit::Later,
        }
    }

    /// Notes a fetch that comes later, when all before it of its partition were [counted](Replay::add). If it begins behind a range of the epoch that is read now, what is left of the range holds no record (markers of
    /// transactions, records that were aborted or compacted away), and nothing else will ever say so: the range is at its end.
    pub fn pass(&mut self, source: &Arc<str>, fetch: &Fetch) {
        let Some(range) = self.range(source, &fetch.partition).copied().filter(|range| fetch.from >= range.to) else { return };
        let found = self.found.ranges.entry((source.clone(), fetch.partition.clone())).or_insert(Range::empty(range.from));
        found.to = found.to.max(range.to);
    }

    /// Counts a fetch of the epoch that is read now.
    pub fn add(&mut self, source: &Arc<str>, fetch: &Fetch) {
        self.found.add(source, fetch);
    }

    /// The next stored object with rows of the epoch that is read now.
    pub fn spooled(&self) -> Option<&SpoolRef> {
        self.epochs.front()?.spool.first()
    }

    /// Notes that the object that [`Replay::spooled`] names was read, and gives it.
    pub fn take_spooled(&mut self) -> Option<SpoolRef> {
        let spool = &mut self.epochs.front_mut()?.spool;
        (!spool.is_empty()).then(|| spool.remove(0))
    }

    /// Whether every range of the epoch that is read now has been read to its end.
    pub fn is_whole(&self) -> bool {
        self.epochs.front().is_some_and(|b| b.spool.is_empty() && self.is_read(b, |_| true))
    }

    /// Whether a source still has to give something for the epoch that is read now.
    pub fn lacks(&self, source: &str) -> bool {
        self.epochs.front().is_some_and(|b| !self.is_read(b, |s| s == source))
    }

    fn is_read(&self, binding: &Binding, of: impl Fn(&str) -> bool) -> bool {
        let read = |key| self.found.ranges.get(key).map(|f| f.to);
        binding.ranges.iter().filter(|((source, _), _)| of(source)).all(|(key, range)| read(key).unwrap_or(range.from) >= range.to)
    }

    /// Ends the epoch that is read now if it is whole.
    ///
    /// # Errors
    /// What was read is not what the epoch was bound to.
    pub fn close(&mut self) -> Result<Option<Binding>> {
        let Some(bound) = self.epochs.front().filter(|_| self.is_whole()) else { return Ok(None) };
        for (key @ (source, partition), range) in &bound.ranges {
            let none = Range::empty(range.from);
            let read = self.found.ranges.get(key).unwrap_or(&none);
            // bytes are counted by fetch, and a fetch may be cut otherwise now: sizes are in the fingerprint
            if (read.rows, read.fingerprint) != (range.rows, range.fingerprint) {
                return Err(changed(source, partition, bound.epoch, range, read));
            }
        }
        self.found = Binding::default();
        Ok(self.epochs.pop_front())
    }

    /// The error of a source that ended before the epoch was whole.
    pub fn cut_short(&self, source: &str) -> Error {
        let epoch = self.epoch().unwrap_or_default();
        let ranges = self.epochs.front().into_iter().flat_map(|b| &b.ranges).filter(|((of, _), _)| **of == *source);
        let missing = ranges.filter_map(|(key @ (_, partition), range)| {
            let read = self.found.ranges.get(key).map_or(range.from, |found| found.to);
            (read < range.to).then(|| format!("{partition}, positions {read} to {}", range.to - 1))
        });
        let missing: Vec<String> = missing.collect();
        Error::user(format!("source {source} no longer holds all that epoch {epoch} was made of: it lacks {}", missing.join("; ")))
            .why("it ended before the position that the state names")
            .hint("put the missing input back, or start anew with another state and other sinks")
    }

    /// The error of a spooled source whose rows were not stored with the epoch.
    pub fn not_stored(&self, source: &str) -> Error {
        let epoch = self.epoch().unwrap_or_default();
        Error::user(format!("the rows of source {source} that epoch {epoch} was made of are not stored"))
            .why("it was a source that could be read again when they came, and is not one now")
            .hint("put the source back that it was, or start anew with another state and other sinks")
    }
}

fn changed(source: &str, partition: &Partition, epoch: Epoch, bound: &Range, read: &Range) -> Error {
    Error::user(format!("source {source} is not what it was: {partition}, positions {} to {}", bound.from, bound.to))
        .why(format!(
            "epoch {epoch} was made of {} records with fingerprint {:016x}; now there are {} with fingerprint {:016x}",
            bound.rows, bound.fingerprint, read.rows, read.fingerprint
        ))
        .hint("put the input back as it was, or start anew with another state and other sinks; nothing was written")
}
