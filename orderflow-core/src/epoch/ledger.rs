//! The ledger of epochs, kept in memory: its id is random, its generation 1, and what it held is gone with the process.

use super::Binding;
use crate::sink::WriterId;
use crate::time::{Epoch, Positions};
use std::collections::VecDeque;

/// Bindings from the oldest that a sink still lacks to the newest.
#[derive(Debug)]
pub struct Ledger {
    writer: WriterId,
    bindings: VecDeque<Binding>,
    tail: Epoch,
}

impl Ledger {
    /// A new ledger in memory.
    pub fn in_memory() -> Self {
        Self { writer: WriterId { ledger: rand::random(), generation: 1 }, bindings: VecDeque::new(), tail: Epoch(0) }
    }

    /// Who writes under this ledger.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The newest epoch bound.
    pub fn tail(&self) -> Epoch {
        self.tail
    }

    /// Appends a binding; in memory it is as durable as it gets, so its output may leave.
    pub fn append(&mut self, binding: Binding) {
        self.tail = binding.epoch;
        self.bindings.push_back(binding);
    }

    /// Every sink holds all epochs up to `epoch`: their bindings are dropped, and the positions they ended at are returned, by source.
    pub fn retire(&mut self, epoch: Epoch) -> Vec<(u32, Positions)> {
        let mut ends: Vec<(u32, Positions)> = vec![];
        while let Some(binding) = self.bindings.pop_front_if(|b| b.epoch <= epoch) {
            for ((source, partition), range) in binding.ranges {
                match ends.iter_mut().find(|(s, _)| *s == source) {
                    Some((_, positions)) => {
                        positions.insert(partition, range.to);
                    }
                    None => ends.push((source, Positions::from([(partition, range.to)]))),
                }
            }
        }
        ends
    }
}
