//! The ledger as the engine sees it: which epochs are bound, and which of them every sink holds. A [`Log`](super::Log) makes it durable.
//!
//! Invariant: the epochs that are retired and those that are not make up all that was ever bound, without a gap.

use super::{Base, Binding, Recovered, Start};
use crate::sink::{Progress, WriterId};
use crate::time::{Epoch, Positions};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Epochs retired before the log is told to replace their entries by one, however short the time.
const COMPACT: u64 = 256;

/// Bindings of all epochs: one by one those that a sink still lacks, as one the others.
#[derive(Debug)]
pub struct Ledger {
    writer: WriterId,
    start: Start,
    retired: Binding,
    bindings: VecDeque<Binding>,
    /// Epochs that were in the log's newest base.
    base: Epoch,
}

impl Ledger {
    /// A new ledger, with a random id, that is gone with the process.
    pub fn in_memory() -> Self {
        Self::of(WriterId { ledger: rand::random(), generation: 1 }, &Recovered::default())
    }

    /// The ledger of `writer`, as its log was found.
    pub fn of(writer: WriterId, found: &Recovered) -> Self {
        let retired = found.base.clone().unwrap_or_default();
        let (start, base) = (found.start.clone().unwrap_or_default(), retired.epoch);
        Self { writer, start, retired, bindings: found.bindings.iter().cloned().collect(), base }
    }

    /// Who writes under this ledger.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The newest epoch bound.
    pub fn tail(&self) -> Epoch {
        self.bindings.back().map_or(self.retired.epoch, |b| b.epoch)
    }

    /// Says where the pipeline began.
    pub fn started(&mut self, start: Start) {
        self.start = start;
    }

    /// Appends a binding.
    pub fn append(&mut self, binding: Binding) {
        self.bindings.push_back(binding);
    }

    /// Every sink holds all epochs up to `epoch`: gives the positions that they ended at, by source.
    pub fn retire(&mut self, epoch: Epoch) -> BTreeMap<Arc<str>, Positions> {
        let mut ends: BTreeMap<Arc<str>, Positions> = BTreeMap::new();
        while let Some(binding) = self.bindings.pop_front_if(|b| b.epoch <= epoch) {
            for ((source, partition), range) in &binding.ranges {
                ends.entry(source.clone()).or_default().insert(partition.clone(), range.to);
            }
            self.retired.extend(binding);
        }
        ends
    }

    /// What may stand for all retired epochs, if there are new ones and it is `time`, or once there are many; asked for once each time.
    pub fn base_due(&mut self, time: bool, held: impl FnOnce() -> BTreeMap<String, Option<Progress>>) -> Option<Base> {
        let new = self.retired.epoch.0 - self.base.0;
        if new < COMPACT && !(time && new > 0) {
            return None;
        }
        self.base = self.retired.epoch;
        Some(Base {
            start: self.start.clone(),
            binding: self.retired.clone(),
            after: self.bindings.iter().cloned().collect(),
            held: held(),
        })
    }
}
