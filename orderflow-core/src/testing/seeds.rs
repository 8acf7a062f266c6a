//! Which schedules a pipeline is put to: those of an undisturbed run's operations, so many random ones, and fresh ones for as long as there is time.
//!
//! Invariant: a seed alone brings its schedule back, and fresh seeds begin at a number made of the day: what one night tries no other does.

use super::crash::Report;
use super::schedule::Kinds;
use crate::operator::closure::panic_text;
use crate::time::Clock;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Fresh seeds of a day: more than anybody runs, and all days' are far below the seeds that name a point.
const A_DAY: u64 = 1_000_000_000;
/// Environment variable with the one seed to be run.
pub(super) const SEED: &str = "ORDERFLOW_SEED";

/// How a pipeline is to be tried.
#[derive(Clone, Debug)]
pub struct Schedules {
    pub(super) points: u64,
    pub(super) at_the_disk: u64,
    pub(super) acts: Option<fn(&str) -> bool>,
    random: u64,
    from: u64,
    time: Duration,
    pub(super) workers: Vec<usize>,
    pub(super) kinds: Kinds,
}

impl Schedules {
    /// So many random schedules.
    pub fn random(n: u64) -> Self {
        let kinds = Kinds { shuffled: true, truncated: true, lost: true };
        Self { points: 0, at_the_disk: 0, acts: None, random: n, from: 1, time: Duration::ZERO, workers: vec![], kinds }
    }

    /// One fault at each of about `n` operations, spread evenly over an undisturbed run, the four faults in turn; all four at every operation if
    /// there are no more than `n`.
    pub fn points(n: u64) -> Self {
        Self { points: n, ..Self::random(0) }
    }

    /// Each kind of act for which `of` holds, in the middle of those of its kind in an undisturbed run: a call to a store and an act on a sink meet each of the
    /// four faults; at a call to the disk the process dies, before it and after it, and the power is cut. [`Report::acts`] has the kinds.
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

    /// Then random schedules of fresh seeds, which begin at a number made of today's date, until so much time is over since the first schedule:
    /// [`tier::hours`](super::tier::hours) is what the occasion allows, none by default. [`Report::fresh`] says which they were.
    ///
    /// ```
    /// use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
    /// use orderflow_core::format::json::Json;
    /// use orderflow_core::testing::{Schedules, Topic, crash_anywhere, tier};
    /// use orderflow_core::Pipeline;
    /// use std::sync::Arc;
    ///
    /// let schema = Arc::new(Schema::new(vec![Field::new("qty", DataType::Int64, true)]));
    /// let orders = Topic::records(Json::new(schema), [(0..30).map(|i| format!(r#"{{"qty":{i}}}"#)).collect::<Vec<_>>()]);
    /// // five schedules; with ORDERFLOW_HOURS=8 as many more as fit into eight hours
    /// let schedules = Schedules::random(5).for_as_long_as(tier::hours());
    /// let report = crash_anywhere(schedules, |world| {
    ///     let mut flow = Pipeline::new("orders");
    ///     flow.source("orders", world.source(&orders))?;
    ///     flow.view("total", "SELECT count(*) AS orders, sum(qty) AS qty FROM orders")?.sink(world.sink("total"))?;
    ///     world.keep(flow)
    /// });
    /// println!("{report}");
    /// ```
    pub fn for_as_long_as(mut self, time: Duration) -> Self {
        self.time = time;
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

    /// No start is over a state that was lost or exchanged: for sinks that cannot tell whose rows they hold.
    pub fn own_state(mut self) -> Self {
        self.kinds.lost = false;
        self
    }

    /// Calls `run` with each random seed, for a test that draws from it what goes wrong; deaths are for the caller to count.
    /// `ORDERFLOW_SEED=n` runs that seed only.
    ///
    /// ```
    /// # fn held_after(deaths: u64, rows: u64) -> u64 {
    /// #     let _ = deaths;
    /// #     rows
    /// # }
    /// use orderflow_core::testing::{Schedules, tier};
    ///
    /// let report = Schedules::random(10).for_as_long_as(tier::hours()).each(|seed| {
    ///     let (deaths, rows) = (seed % 4, 1 + seed % 100);
    ///     assert_eq!(held_after(deaths, rows), rows, "every row once");
    /// });
    /// println!("{report}");
    /// ```
    ///
    /// # Panics
    /// At the first seed for which `run` does: the message has its seed.
    pub fn each(self, run: impl FnMut(u64)) -> Report {
        self.each_of(given(), run)
    }

    fn each_of(&self, given: Option<u64>, mut run: impl FnMut(u64)) -> Report {
        let (clock, mut report) = (Clock::system(), Report::default());
        let mut seeds = self.seeds(given, vec![], clock.clone());
        for seed in seeds.by_ref() {
            report.schedules += 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                panic!("{}\nrun it again with {SEED}={seed}", panic_text(&*panic));
            }
        }
        (report.fresh, report.took) = (seeds.fresh(), clock.elapsed());
        report
    }

    /// The seed that is given, alone; else these points, random seeds, and fresh ones while there is time.
    pub(super) fn seeds(&self, given: Option<u64>, points: Vec<u64>, clock: Clock) -> Seeds {
        let today = clock.unix_millis().unsigned_abs() / 86_400_000 * A_DAY;
        let known: Box<dyn Iterator<Item = u64>> = match given {
            Some(seed) => Box::new(std::iter::once(seed)),
            None => Box::new(points.into_iter().chain(self.from..self.from + self.random)),
        };
        let time = if given.is_some() { Duration::ZERO } else { self.time };
        Seeds { known, fresh: today..today, until: clock.elapsed() + time, clock }
    }
}

/// Seeds to be run, in order.
pub(super) struct Seeds {
    known: Box<dyn Iterator<Item = u64>>,
    fresh: Range<u64>,
    until: Duration,
    clock: Clock,
}

impl Seeds {
    /// The fresh ones among those that were handed out.
    pub(super) fn fresh(&self) -> Range<u64> {
        self.fresh.clone()
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let Self { known, fresh, until, clock } = self;
        known.next().or_else(|| {
            let next = (clock.elapsed() < *until).then_some(fresh.end);
            fresh.end += u64::from(next.is_some());
            next
        })
    }
}

/// The one seed that the environment asks for.
pub(super) fn given() -> Option<u64> {
    setting(SEED).map(|text| text.parse().unwrap_or_else(|_| panic!("{SEED} is '{text}': it must be a number")))
}

#[expect(clippy::disallowed_methods, reason = "what to run again comes from outside the test")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn fresh_seeds_come_last_are_those_of_the_day_and_end_with_the_time() {
        let schedules = Schedules::random(2).from_seed(7).for_as_long_as(Duration::from_secs(3600));
        let clock = Clock::manual(20_000 * DAY + 5);
        let mut seeds = schedules.seeds(None, vec![1 << 63], clock.clone());
        let first: Vec<u64> = seeds.by_ref().take(5).collect();
        assert_eq!(first, [1 << 63, 7, 8, 20_000 * A_DAY, 20_000 * A_DAY + 1]);
        clock.advance(Duration::from_secs(3600));
        assert_eq!((seeds.next(), seeds.fresh()), (None, 20_000 * A_DAY..20_000 * A_DAY + 2));
        let tomorrow = schedules.seeds(None, vec![], Clock::manual(20_001 * DAY)).nth(2);
        assert_eq!(tomorrow, Some(20_001 * A_DAY), "others than today's");
    }

    #[test]
    fn without_time_or_for_a_seed_that_is_given_none_is_fresh() {
        let clock = || Clock::manual(20_000 * DAY);
        assert_eq!(Schedules::random(2).seeds(None, vec![], clock()).collect::<Vec<_>>(), [1, 2]);
        let hour = Schedules::random(2).for_as_long_as(Duration::from_secs(3600));
        assert_eq!(hour.seeds(Some(42), vec![9], clock()).collect::<Vec<_>>(), [42]);
    }

    #[test]
    fn a_panic_is_told_with_its_seed() {
        let mut seen = vec![];
        let tried = catch_unwind(AssertUnwindSafe(|| {
            Schedules::random(5).each_of(None, |seed| {
                seen.push(seed);
                assert!(seed < 3, "three is too much");
            })
        }));
        let text = panic_text(&*tried.unwrap_err());
        assert!(text.contains("three is too much") && text.contains("ORDERFLOW_SEED=3"), "{text}");
        assert_eq!(seen, [1, 2, 3], "it ends there");
    }
}
