//! Which partitions have nothing to give for the moment, so that nobody waits for their time to go on.
//!
//! Invariant: a partition is idle only while it stands at the end of its log, as its source says, and has stood there without a record for the
//! declared time. One that has more to give and is not read, because another one is, is not.

use super::Input;
use crate::bug::{Bug, planted};
use crate::source::PartitionStatus;
use crate::time::Position;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Since when partitions have stood at their ends. Pure: told the time, never asks for it.
#[derive(Debug, Default)]
pub struct Idleness {
    after: Option<Duration>,
    stand: BTreeMap<Input, (Position, Duration)>,
}

impl Idleness {
    /// Partitions are idle after this time; `None`: never.
    pub fn new(after: Option<Duration>) -> Self {
        Self { after, stand: BTreeMap::new() }
    }

    /// Whether it wants to see anything.
    pub fn is_declared(&self) -> bool {
        self.after.is_some()
    }

    /// What a source says about its partitions at `now`; nothing is remembered where none is ever idle.
    pub fn see(&mut self, source: &Arc<str>, partitions: &[PartitionStatus], now: Duration) {
        if self.after.is_none() {
            return;
        }
        for p in partitions {
            let key = (source.clone(), p.partition.clone());
            if p.end.is_some_and(|end| p.position >= end) || planted(Bug::IdleWithBacklog) {
                let (at, since) = self.stand.entry(key).or_insert((p.position, now));
                if *at != p.position {
                    (*at, *since) = (p.position, now);
                }
            } else {
                self.stand.remove(&key);
            }
        }
    }

    /// The partitions that are idle at `now`.
    pub fn idle(&self, now: Duration) -> BTreeSet<Input> {
        let Some(after) = self.after else { return BTreeSet::new() };
        self.stand.iter().filter(|(_, (_, since))| now.saturating_sub(*since) >= after).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Partition;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn at(id: i32, position: Position, end: Option<Position>) -> PartitionStatus {
        PartitionStatus { partition: Partition::new("t", id), position, end }
    }

    fn numbers(idle: &BTreeSet<Input>) -> Vec<i32> {
        idle.iter().map(|(_, p)| p.id).collect()
    }

    /// Partition 0 stands at its end, 1 has a backlog that nobody reads, 2 moves, 3 does not know its end.
    fn watched() -> Idleness {
        let mut idle = Idleness::new(Some(S(10)));
        for second in 0..=10 {
            let partitions = [at(0, 5, Some(5)), at(1, 5, Some(9)), at(2, second, Some(second)), at(3, 5, None)];
            idle.see(&"s".into(), &partitions, S(second));
        }
        idle
    }

    #[test]
    fn only_who_stood_at_its_end_for_the_declared_time_is_idle() {
        let mut idle = watched();
        assert!(idle.idle(S(9)).is_empty());
        assert_eq!(numbers(&idle.idle(S(10))), [0]);
        // a record comes, and is read: it stands at another end from now on
        idle.see(&"s".into(), &[at(0, 6, Some(6))], S(12));
        assert!(idle.idle(S(19)).is_empty());
        assert_eq!(numbers(&idle.idle(S(22))), [0, 2], "partition 2 has stood since second 10");
        // a record comes, and is not read
        idle.see(&"s".into(), &[at(0, 6, Some(7))], S(23));
        assert_eq!(numbers(&idle.idle(S(40))), [2]);
        let mut never = Idleness::new(None);
        never.see(&"s".into(), &[at(0, 5, Some(5))], S(0));
        assert!(!never.is_declared() && never.stand.is_empty() && never.idle(S(1000)).is_empty());
    }

    #[test]
    fn a_planted_bug_is_seen() {
        let idle = crate::bug::with(Bug::IdleWithBacklog, watched);
        assert_eq!(numbers(&idle.idle(S(10))), [0, 1, 3]);
    }
}
