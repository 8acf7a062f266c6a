//! The ledger as the engine sees it: which epochs are bound, and which of them every sink holds. A [`Log`](super::Log) makes it durable.
//!
//! Invariant: the epochs that are retired and those that are not make up all that was ever bound, without a gap. Retired ones are kept as few
//! bindings, but never as one across a checkpoint: what came after it can then be told from what came before.

use super::{Base, Binding, Checkpoint, Letters, Outbox, Recovered, Start};
use crate::bug::{Bug, planted};
use crate::sink::{Progress, WriterId};
use crate::time::{Epoch, Positions};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Epochs retired before the log is told to replace their entries by one, however short the time.
const COMPACT: u64 = 256;
/// Complete checkpoints that are kept: if a file of the newest is damaged there is another one.
const KEPT: usize = 2;

/// As in [`Base::held`].
type Held = BTreeMap<String, Option<Progress>>;
/// As in [`Base::lanes`].
type Lanes = BTreeMap<String, Vec<Epoch>>;

/// Bindings of all epochs: one by one those that a sink still lacks, as few as possible the others.
#[derive(Debug)]
pub struct Ledger {
    writer: WriterId,
    start: Start,
    ends: BTreeMap<Arc<str>, Positions>,
    segments: Vec<Binding>,
    bindings: VecDeque<Binding>,
    births: BTreeMap<String, u64>,
    letters: Outbox,
    /// Complete ones, the oldest first, and the epoch of the one under way.
    checkpoints: Vec<Checkpoint>,
    under_way: Option<Epoch>,
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
        Self {
            writer,
            start: found.start.clone().unwrap_or_default(),
            ends: found.ends.clone(),
            segments: found.segments.clone(),
            bindings: found.bindings.iter().cloned().collect(),
            births: found.births.clone(),
            letters: found.letters.clone(),
            checkpoints: found.checkpoints.clone(),
            under_way: None,
            base: found.base(),
        }
    }

    /// Who writes under this ledger.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The newest epoch bound.
    pub fn tail(&self) -> Epoch {
        self.bindings.back().map_or(self.retired(), |b| b.epoch)
    }

    /// The newest epoch that every sink holds.
    pub fn retired(&self) -> Epoch {
        self.segments.last().map_or(Epoch(0), |b| b.epoch)
    }

    /// Complete checkpoints, the oldest first.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// Only these checkpoints can be used: the others are damaged.
    pub fn keep_checkpoints(&mut self, good: impl Fn(&Checkpoint) -> bool) {
        self.checkpoints.retain(good);
    }

    /// A checkpoint as of `epoch` is being written, and none other is.
    pub fn checkpoint_begins(&mut self, epoch: Epoch) {
        self.under_way = Some(epoch);
    }

    /// The checkpoint under way is complete: its files survive a crash, and every sink holds its epoch.
    pub fn checkpoint_ends(&mut self, checkpoint: Checkpoint) {
        self.under_way = None;
        self.checkpoints.push(checkpoint);
        if self.checkpoints.len() > KEPT {
            self.checkpoints.remove(0);
        }
        for segment in std::mem::take(&mut self.segments) {
            self.add(segment);
        }
    }

    fn add(&mut self, binding: Binding) {
        let (checkpoints, under_way) = (&self.checkpoints, self.under_way);
        let ends = |b: &Binding| under_way == Some(b.epoch) || checkpoints.iter().any(|c| c.epoch == b.epoch);
        let open = |b: &&mut Binding| !ends(b) || planted(Bug::MergesAcrossCheckpoint);
        match self.segments.last_mut().filter(open) {
            Some(last) => last.extend(binding),
            None => self.segments.push(binding),
        }
    }

    /// Says where the pipeline began.
    pub fn started(&mut self, start: Start) {
        self.start = start;
    }

    /// Bounded sources end there.
    pub fn bounded(&mut self, ends: BTreeMap<Arc<str>, Positions>) {
        self.ends = ends;
    }

    /// All bounded sources are through: the next run resolves new ends. True if there were any.
    pub fn finish(&mut self) -> bool {
        !std::mem::take(&mut self.ends).is_empty()
    }

    /// Letters that somebody may still need.
    pub fn letters(&self) -> &Outbox {
        &self.letters
    }

    /// A sink was opened: see [`Outbox::settle`].
    pub fn settle(&mut self, sink: &str, held: impl Fn(usize) -> Epoch) {
        self.letters.settle(sink, held);
    }

    /// A sink told what it leaves out.
    pub fn tell(&mut self, letters: Letters) {
        self.letters.tell(letters);
    }

    /// Appends a binding.
    pub fn append(&mut self, binding: Binding) {
        self.letters.bind(binding.epoch, &binding.letters);
        self.bindings.push_back(binding);
    }

    /// Every sink holds all epochs up to `epoch`: gives the positions that they ended at, by source.
    pub fn retire(&mut self, epoch: Epoch) -> BTreeMap<Arc<str>, Positions> {
        let mut ends: BTreeMap<Arc<str>, Positions> = BTreeMap::new();
        self.letters.retire(epoch);
        while let Some(mut binding) = self.bindings.pop_front_if(|b| b.epoch <= epoch) {
            binding.letters.clear();
            for ((source, partition), range) in &binding.ranges {
                ends.entry(source.clone()).or_default().insert(partition.clone(), range.to);
            }
            self.add(binding);
        }
        ends
    }

    /// What may stand for all retired epochs: if it is `time` and there are new ones, or once there are many, or if it is told to (`now`); asked for
    /// once each time. `held` says what is known of sinks and of their lanes.
    pub fn base_due(&mut self, time: bool, now: bool, held: impl FnOnce() -> (Held, Lanes)) -> Option<Base> {
        let new = self.retired().0 - self.base.0;
        if !now && new < COMPACT && !(time && new > 0) {
            return None;
        }
        self.base = self.retired();
        let (held, lanes) = held();
        Some(Base {
            start: self.start.clone(),
            ends: self.ends.clone(),
            segments: self.segments.clone(),
            after: self.bindings.iter().filter(|_| !planted(Bug::BaseForgetsBindings)).cloned().collect(),
            held,
            lanes,
            births: self.births.clone(),
            checkpoints: self.checkpoints.clone(),
            // what is stored, and where, is known to whoever stores it
            dropped: Epoch(0),
            letters: self.letters.clone(),
        })
    }
}
