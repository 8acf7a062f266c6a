//! A binding says which input an epoch is: law 1, the same epoch is the same input.

use crate::source::Fetch;
use crate::time::{Epoch, Partition, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A partition of a source, with the source's name.
pub type Input = (Arc<str>, Partition);

/// The input of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Which epoch.
    pub epoch: Epoch,
    /// For each source and partition, what was read.
    pub ranges: BTreeMap<Input, Range>,
    /// When it was closed, in milliseconds since 1970.
    pub minted_at: i64,
    /// Partitions that were idle then: their watermarks hold nobody back.
    pub idle: BTreeSet<Input>,
    /// Where the rows are stored that their sources cannot give again, the oldest first.
    pub spool: Vec<SpoolRef>,
    /// Names of the objects with [`Letters`](super::Letters) that the dead letters are given with this epoch; none once every sink holds it.
    pub letters: Vec<String>,
}

/// A stored object with rows of spooled sources, and what it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolRef {
    /// The newest epoch whose rows are in it.
    pub upto: Epoch,
    /// Its name in the store.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 of all its bytes.
    pub crc: u32,
}

/// What was read of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First position.
    pub from: Position,
    /// Position after the last.
    pub to: Position,
    /// Records in between.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sum of the records' fingerprints.
    pub fingerprint: u64,
    /// The partition's watermark when the epoch was closed: the newest timestamp of all its records until then, in milliseconds since 1970; `None` if none
    /// of them had one. It never goes back.
    pub watermark: Option<i64>,
}

impl Range {
    /// Nothing yet, from `from`.
    pub(super) fn empty(from: Position) -> Self {
        Self { from, to: from, rows: 0, bytes: 0, fingerprint: 0, watermark: None }
    }
}

impl Binding {
    /// Adds a fetch of source `source`.
    pub fn add(&mut self, source: &Arc<str>, fetch: &Fetch) {
        let range = self.ranges.entry((source.clone(), fetch.partition.clone())).or_insert(Range::empty(fetch.from));
        range.to = range.to.max(fetch.to);
        range.rows += fetch.rows as u64;
        range.bytes += fetch.bytes as u64;
        range.fingerprint = range.fingerprint.wrapping_add(fetch.fingerprint);
        range.watermark = range.watermark.max(fetch.latest);
    }

    /// Records in all.
    pub fn rows(&self) -> u64 {
        self.ranges.values().map(|r| r.rows).sum()
    }

    /// Records of one source.
    pub fn rows_of(&self, source: &str) -> u64 {
        self.ranges.iter().filter(|((of, _), _)| **of == *source).map(|(_, range)| range.rows).sum()
    }

    /// Adds the epoch that comes after this one: together they are bound to the input of both.
    pub fn extend(&mut self, next: Binding) {
        (self.epoch, self.minted_at) = (next.epoch, next.minted_at);
        self.idle = next.idle;
        self.spool.extend(next.spool);
        self.letters.extend(next.letters);
        for (partition, range) in next.ranges {
            let so_far = self.ranges.entry(partition).or_insert(Range::empty(range.from));
            so_far.to = so_far.to.max(range.to);
            so_far.rows += range.rows;
            so_far.bytes += range.bytes;
            so_far.fingerprint = so_far.fingerprint.wrapping_add(range.fingerprint);
            so_far.watermark = so_far.watermark.max(range.watermark);
        }
    }
}
