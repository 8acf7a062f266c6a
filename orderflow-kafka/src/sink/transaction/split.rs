//! Which lane writes what: a pure function of the output partition, and where lanes go on that stopped at different epochs.
//!
//! ```text
//!   epoch        … 7  8 │ 9 10 11 │ 12 …
//!   lane 0 holds ───────┼─────────┤              a split is kept as long as some lane lacks an epoch that another one holds;
//!   lane 1 holds ───────┤         │              what was asked for meanwhile (other lanes, new partitions) holds from 12 on
//!        progress of the sink = 8 ┘
//! ```
//! Invariant: all rows of an epoch are split in one way only, whoever writes them and however often. So a lane's record says how the epoch it names
//! was split: the number of lanes, and the number of partitions of each topic that is spread over several. A topic that it does not name has all its
//! partitions in one lane, so that nothing depends on how many they are. A split begins only where every lane of the one before holds everything.

use super::progress::{Held, hash};
use orderflow_core::sink::Progress;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::collections::BTreeMap;

/// Topics that are spread over several lanes; every record of progress names them, so they are not many.
const MOST_SPREAD: usize = 100;

/// How rows are shared among lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Number of lanes.
    pub(super) lanes: u8,
    /// It holds for later epochs only: up to here every lane holds everything.
    pub(super) since: Epoch,
    /// A fingerprint of what chooses topics and keys.
    pub(super) by: u64,
    /// Number of partitions of each topic that is spread over several lanes.
    pub(super) spread: BTreeMap<String, i32>,
}

impl Split {
    pub(super) fn new(lanes: u8, since: Epoch, by: u64) -> Self {
        Self { lanes, since, by, spread: BTreeMap::new() }
    }

    /// Takes a topic that is seen for the first time since the split began: one more is spread while there is room for its name.
    pub(super) fn note(&mut self, topic: &str, partitions: i32) {
        if self.lanes > 1 && self.spread.len() < MOST_SPREAD && !self.spread.contains_key(topic) {
            self.spread.insert(topic.to_owned(), partitions);
        }
    }

    /// The lane of a partition. The number is pinned: what one version has written another one must not write again.
    pub(super) fn lane(&self, topic: &str, partition: i32) -> u8 {
        let lanes = u64::from(self.lanes);
        let turn = if self.spread.contains_key(topic) { u64::from(partition.unsigned_abs()) } else { 0 };
        ((hash([topic].into_iter()) % lanes + turn % lanes) % lanes) as u8
    }
}

/// From where the lanes go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Course {
    /// How the next epochs are split.
    pub(super) split: Split,
    /// Up to where each of its lanes holds everything.
    pub(super) held: Vec<Epoch>,
    /// Everything up to here is split like that, so that all lanes get where one already is; `None` if they are there.
    pub(super) until: Option<Epoch>,
    /// What the sink as a whole holds.
    pub(super) progress: Option<Progress>,
}

/// Decides, from what all lanes hold that were ever used (each won, so that no other writer can add to it), for `lanes` that are wanted and rows shared `by`.
///
/// # Errors
/// Records that contradict each other, and epochs that some lanes hold and that would be split otherwise now.
pub(super) fn course(sink: &str, found: &[Held], lanes: u8, by: u64) -> Result<Course> {
    let newest = found.iter().filter(|h| h.at.is_some()).max_by_key(|h| (h.at, h.split.spread.len()));
    let Some(newest) = newest else {
        return Ok(Course { split: Split::new(lanes, Epoch(0), by), held: vec![Epoch(0); lanes.into()], until: None, progress: None });
    };
    let (mut split, most) = (Split::clone(&newest.split), newest.epoch());
    if split.lanes == 1 {
        // one lane is always where it is; when it began to be the only one is not written down
        split.since = most;
    }
    for (lane, held) in found.iter().enumerate().filter(|(_, h)| h.epoch() > split.since) {
        if lane >= usize::from(split.lanes) || (held.split.lanes, held.split.since) != (split.lanes, split.since) {
            return Err(Error::user(format!("the records of progress of the Kafka sink '{sink}' contradict each other"))
                .why(format!("epoch {} of lane {lane} and epoch {most} were not split among lanes in the same way", held.epoch()))
                .hint("they were changed by hand, or restored in parts: write into new topics with another state"));
        }
    }
    let held: Vec<Epoch> =
        (0..usize::from(split.lanes)).map(|lane| found.get(lane).map_or(Epoch(0), Held::epoch).max(split.since)).collect();
    let least = held.iter().copied().min().unwrap_or_default();
    let progress = newest.progress().map(|p| Progress { epoch: least, part: 0, ..p }).filter(|p| p.epoch > Epoch(0));
    if least == most {
        return Ok(Course { split: Split::new(lanes, most, by), held: vec![most; lanes.into()], until: None, progress });
    }
    if split.by != by {
        return Err(Error::user(format!("the Kafka sink '{sink}' stopped amid epochs that other topics or keys would split otherwise"))
            .why(format!("one lane holds epoch {most}, another one epoch {least} only"))
            .hint("start once more with the topics and the key as they were and stop with drain(); then change them"));
    }
    Ok(Course { split, held, until: Some(most), progress })
}

#[cfg(test)]
mod tests;
