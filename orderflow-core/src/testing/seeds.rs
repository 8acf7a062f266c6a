//! Which schedules a pipeline is put to.
//!
//! Invariant: a seed alone brings its schedule back.

use super::schedule::Kinds;

/// Environment variable with the one seed to be run.
pub(super) const SEED: &str = "ORDERFLOW_SEED";

/// How a pipeline is to be tried.
#[derive(Clone, Debug)]
pub struct Schedules {
    pub(super) points: u64,
    pub(super) at_the_disk: u64,
    pub(super) acts: Option<fn(&str) -> bool>,
    pub(super) random: u64,
    pub(super) from: u64,
    pub(super) workers: Vec<usize>,
    pub(super) kinds: Kinds,
}

impl Schedules {
    /// So many random schedules.
    pub fn random(n: u64) -> Self {
        let kinds = Kinds { shuffled: true, truncated: true };
        Self { points: 0, at_the_disk: 0, acts: None, random: n, from: 1, workers: vec![], kinds }
    }

    /// One fault at each of about `n` operations, spread evenly over an undisturbed run, the four faults in turn; all four at every operation if
    /// there are no more than `n`.
    pub fn points(n: u64) -> Self {
        Self { points: n, ..Self::random(0) }
    }

    /// Each kind of act for which `of` holds, in the middle of those of its kind in an undisturbed run: a call to a store and an act on a sink meet each of the
    /// four faults; at a call to the disk the process dies, before it and after it, and the power is cut. [`Report::acts`](super::Report::acts) has the kinds.
    pub fn acts(of: fn(&str) -> bool) -> Self {
        Self { acts: Some(of), ..Self::random(0) }
    }

    /// Also a death at each of about `n` calls to the disk below the stores: before and after it, with and without a power cut, in turn; all four at every call if
    /// there are no more than `n`.
    pub fn and_at_the_disk(mut self, n: u64) -> Self {
        self.at_the_disk = n;
        self
    }

    /// Also so many random schedules.
    pub fn and_random(mut self, n: u64) -> Self {
        self.random = n;
        self
    }

    /// Random schedules begin at this seed, not at 1.
    pub fn from_seed(mut self, seed: u64) -> Self {
        self.from = seed;
        self
    }

    /// Every schedule is run at these numbers of workers, too, by threads.
    pub fn also_on_workers(mut self, numbers: &[usize]) -> Self {
        self.workers = numbers.to_vec();
        self
    }

    /// The log keeps its order: for rows that depend on how epochs are cut.
    pub fn in_order(mut self) -> Self {
        self.kinds.shuffled = false;
        self
    }

    /// The log keeps everything: no run may end with the error that records are gone.
    pub fn whole_log(mut self) -> Self {
        self.kinds.truncated = false;
        self
    }
}

#[expect(clippy::disallowed_methods, reason = "what to run again comes from outside the test")]
pub(super) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
