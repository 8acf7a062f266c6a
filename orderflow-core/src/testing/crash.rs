//! A pipeline killed anywhere and started again, over and over, compared with one that never was.
//!
//! ```text
//!   seed ─► schedule: life 1 … dies at operation 57, power cut; life 2 … dies; …; a life that is left alone ─► every sink ─┐
//!   the same pipeline, undisturbed ─────────────────────────────────────────────────────────────────────────► every sink ─┴─ equal?
//! ```
//! Invariant: everything is drawn from the seed, and with one worker everything runs on the caller's thread, so that a failure comes back by its seed.

use super::lost;
use super::schedule::{Kinds, Schedule, Sizes};
use super::seeds::{SEED, Schedules, given};
use super::takeover::{self, Build};
use super::trace::Act;
use super::world::{Outside, Rows, World};
use crate::error::{Error, Kind, Result, Retry};
use crate::pipeline::Pipeline;
use crate::plan::Plans;
use crate::store::faulty::{Fate, Fault};
use crate::store::volatile::Draw;
use crate::time::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// Steps after which a run is held to be one that never ends.
pub(super) const STEPS: usize = 200_000;

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Schedules, each counted once for every number of workers.
    pub schedules: u64,
    /// Lives that ended badly.
    pub deaths: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Schedules whose log had lost what was needed, which the pipeline said.
    pub refused: u64,
    /// Starts over a state that was empty or another run's, which the pipeline refused.
    pub lost: u64,
    /// Operations of an undisturbed run.
    pub operations: u64,
    /// Calls to the disk of an undisturbed run.
    pub disk_calls: u64,
    /// Kinds of acts that were tried: calls to stores by the folder of the object (`put_if_absent ledger`, `finish roots`, `publish top`), acts on sinks, and calls
    /// to the disk below stores (`disk: sync_folder ledger`); with the faults that they met.
    pub acts: BTreeMap<String, BTreeSet<Fault>>,
    /// Seeds that were fresh ([`Schedules::for_as_long_as`]).
    pub fresh: Range<u64>,
    /// Time that it took.
    pub took: Duration,
}

impl Report {
    fn note(&mut self, fate: &Fate) {
        for (act, fault) in fate.tried() {
            self.acts.entry(act).or_default().extend(fault);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per_second, seconds) = (self.schedules as f64 / self.took.as_secs_f64().max(1e-9), self.took.as_secs_f64());
        write!(f, "{} schedules in {seconds:.1} s ({per_second:.1} a second): ", self.schedules)?;
        write!(
            f,
            "{} deaths, {} power cuts, {} truncated logs and {} wrong states reported; ",
            self.deaths, self.power_cuts, self.refused, self.lost
        )?;
        write!(f, "an undisturbed run has {} operations, {} calls to the disk", self.operations, self.disk_calls)?;
        match self.fresh.clone().next_back() {
            None => Ok(()),
            Some(last) => write!(f, "; {} fresh seeds, {} to {last}", self.fresh.end - self.fresh.start, self.fresh.start),
        }
    }
}

/// A schedule after which a sink is not what it should be, or that ended with an error that nothing in it explains.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that brings it back.
    pub seed: u64,
    /// With how many workers.
    pub workers: usize,
    /// What went wrong in the run, as text.
    pub schedule: String,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, workers, schedule, found } = self;
        write!(f, "{found}\nwith {workers} workers, {schedule}\nrun it again with {SEED}={seed}")
    }
}

impl std::error::Error for Failure {}

/// Builds a pipeline on simulated worlds, runs it undisturbed and then by every schedule, and compares every sink row by row.
///
/// With one worker a run is a function of its seed. Where fetches come in another order in every life (or with several sources, which take
/// turns as they can) epochs are cut otherwise, and what is compared is the sum of each row's changes; else every line is. In some schedules there is a start
/// over a wrong state, which must be refused ([`Schedules::own_state`] leaves that out).
///
/// `ORDERFLOW_SEED=n` runs only that schedule.
///
/// # Panics
/// At the first schedule that fails: the message has its seed.
pub fn crash_anywhere(schedules: Schedules, build: impl Fn(&World) -> Result<Pipeline>) -> Report {
    find_failure(schedules, build).unwrap_or_else(|failure| panic!("{failure}"))
}

/// As [`crash_anywhere`], with the failure as a value.
///
/// # Errors
/// The first schedule that fails.
pub fn find_failure(schedules: Schedules, build: impl Fn(&World) -> Result<Pipeline>) -> Result<Report, Box<Failure>> {
    let clock = Clock::system();
    let build = planned_once(build);
    let mut trial = Trial::of(&build);
    let sizes = trial.measure()?;
    let mut points = self::points(sizes.calls, schedules.points);
    points.extend(self::points(sizes.disk, schedules.at_the_disk).into_iter().map(Schedule::at_the_disk));
    points.extend(schedules.acts.into_iter().flat_map(|of| Schedule::acts(&trial.calls, &trial.disk, of)));
    let mut seeds = schedules.seeds(given(), points, clock.clone());
    for seed in seeds.by_ref() {
        let schedule = Schedule::of(seed, sizes, schedules.kinds);
        for workers in [1].into_iter().chain(schedules.workers.iter().copied()) {
            trial.run(&schedule, workers)?;
        }
    }
    (trial.report.fresh, trial.report.took) = (seeds.fresh(), clock.elapsed());
    Ok(trial.report)
}

/// What every sink holds after a run in which nothing goes wrong: to be compared with an answer that is computed otherwise.
///
/// # Errors
/// A pipeline that fails undisturbed.
pub fn undisturbed(build: impl Fn(&World) -> Result<Pipeline>) -> Result<Rows, Box<Failure>> {
    let build = planned_once(build);
    let mut trial = Trial::of(&build);
    trial.measure()?;
    Ok(trial.expected)
}

/// What a schedule did.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Its acts in order, each with the process that did it: 0, and 1 for those that took over from it.
    pub acts: Vec<(usize, Act)>,
    /// Whether it failed.
    pub failure: Option<Box<Failure>>,
}

/// What the schedule of a seed does, act by act, with stores in memory and a log that keeps everything; and whether it fails.
///
/// # Errors
/// A pipeline that fails undisturbed.
pub fn trace(seed: u64, build: impl Fn(&World) -> Result<Pipeline>) -> Result<Traced, Box<Failure>> {
    let build = planned_once(build);
    let mut trial = Trial::of(&build);
    let sizes = trial.measure()?;
    Ok(trial.trace(seed, sizes))
}

/// The same of schedules in which one operation meets trouble: of each kind of act for which `of` holds (as [`Schedules::acts`]) the middle one, and every fault.
///
/// # Errors
/// A pipeline that fails undisturbed.
pub fn trace_acts(of: fn(&str) -> bool, build: impl Fn(&World) -> Result<Pipeline>) -> Result<Vec<Traced>, Box<Failure>> {
    let build = planned_once(build);
    let mut trial = Trial::of(&build);
    let sizes = trial.measure()?;
    let seeds = Schedule::acts(&trial.calls, &[], of);
    Ok(seeds.into_iter().map(|seed| trial.trace(seed, sizes)).collect())
}

/// The same of two processes on one shared store, of which a newer one takes over: either the older is paused just before one of its operations, and goes on
/// late; or the newer one is paused in the middle of its start, and the older goes on. The newer may die, and come again. The older meets the faults of the
/// schedule's first life but its death, the newer those of the others. What sinks hold at the end is compared as well. For sources by position.
///
/// # Errors
/// A pipeline that fails undisturbed.
pub fn trace_takeover(seed: u64, build: impl Fn(&World) -> Result<Pipeline> + 'static) -> Result<Traced, Box<Failure>> {
    let build: Build = Rc::new(planned_once(build));
    let mut trial = Trial::of(&*build);
    let sizes = trial.measure()?;
    Ok(trial.takeover(seed, sizes, true, &build))
}

/// Runs two processes at once by every random schedule, as [`trace_takeover`] says, on one worker, over a log that keeps everything, and compares what sinks
/// hold at the end. For sources by position.
///
/// `ORDERFLOW_SEED=n` runs only that schedule.
///
/// # Panics
/// At the first schedule that fails: the message has its seed. If points, acts or numbers of workers are asked for.
pub fn takeover_anywhere(schedules: Schedules, build: impl Fn(&World) -> Result<Pipeline> + 'static) -> Report {
    find_takeover_failure(schedules, build).unwrap_or_else(|failure| panic!("{failure}"))
}

/// As [`takeover_anywhere`], with the failure as a value.
///
/// # Errors
/// The first schedule that fails. Panics if points, acts or numbers of workers are asked for.
pub fn find_takeover_failure(schedules: Schedules, build: impl Fn(&World) -> Result<Pipeline> + 'static) -> Result<Report, Box<Failure>> {
    let is_random = schedules.points + schedules.at_the_disk == 0 && schedules.acts.is_none() && schedules.workers.is_empty();
    assert!(is_random, "two processes take random schedules on one worker");
    let clock = Clock::system();
    let build: Build = Rc::new(planned_once(build));
    let mut trial = Trial::of(&*build);
    let sizes = trial.measure()?;
    let mut seeds = schedules.seeds(given(), vec![], clock.clone());
    for seed in seeds.by_ref() {
        trial.takeover(seed, sizes, schedules.kinds.shuffled, &build).failure.map_or(Ok(()), Err)?;
    }
    (trial.report.fresh, trial.report.took) = (seeds.fresh(), clock.elapsed());
    Ok(trial.report)
}

/// The same with one plan, however often it is built.
fn planned_once(build: impl Fn(&World) -> Result<Pipeline>) -> impl Fn(&World) -> Result<Pipeline> {
    let plans = Plans::default();
    move |world| plans.used(|| build(world))
}

fn points(operations: u64, wanted: u64) -> Vec<u64> {
    let stride = if wanted == 0 { return vec![] } else { operations.div_ceil(wanted).max(1) };
    let at = (1..=operations + 1).step_by(stride as usize).enumerate();
    at.flat_map(|(turn, at)| {
        let faults = if stride == 1 { 0..4 } else { turn % 4..turn % 4 + 1 };
        faults.map(move |fault| Schedule::point(at, fault))
    })
    .collect()
}

/// One life on the calling thread, to the end of its input or to its death; time passes when everybody waits.
///
/// # Errors
/// What could not be opened, or ended the pipeline.
pub fn live(flow: Result<Pipeline>, clock: &Clock, dead: impl Fn() -> bool) -> Result<()> {
    live_in(None, flow, clock, dead)
}

/// The same; the world's hosts send between steps, and it takes what the process says of itself.
pub(super) fn live_in(world: Option<&World>, flow: Result<Pipeline>, clock: &Clock, dead: impl Fn() -> bool) -> Result<()> {
    let mut stepper = flow?.stepper()?;
    for n in 0..STEPS {
        world.map_or(Ok(()), World::feed)?;
        let step = stepper.step()?;
        world.map_or(Ok(()), |world| world.note(&stepper.status(), n == 0))?;
        match step {
            _ if dead() => return Ok(()),
            Some(true) => {}
            Some(false) if world.is_some_and(World::end_channels) => {}
            Some(false) => clock.advance(Duration::from_secs(1)),
            None => return Ok(()),
        }
    }
    Err(Error::internal("the run does not end").why(format!("{:?}", stepper.status())))
}

/// The same with threads; time passes all the while.
fn live_on_threads(world: &World, flow: Result<Pipeline>, workers: usize, clock: &Clock, dead: impl Fn() -> bool) -> Result<()> {
    let flow = flow?.workers(workers);
    futures::executor::block_on(async {
        let running = flow.start().await?;
        for _ in 0..STEPS {
            if running.status().phase.is_over() {
                return running.wait().await.map(drop);
            }
            if dead() {
                let _ = running.stop().await; // what it says is of no use any more
                return Ok(());
            }
            if let Err(e) = world.feed() {
                let _ = running.stop().await; // the host's reason is the one that counts
                return Err(e);
            }
            world.end_channels();
            clock.advance(Duration::from_millis(200));
            std::thread::park_timeout(Duration::from_micros(200));
        }
        Err(Error::internal("the run does not end").why(format!("{:?}", running.status())))
    })
}

/// How a schedule ended.
enum End {
    Whole(Rows, usize),
    /// The log had lost what was needed.
    Refused(Rows, usize),
}

struct Trial<'a> {
    build: &'a dyn Fn(&World) -> Result<Pipeline>,
    /// What an undisturbed run holds.
    expected: Rows,
    report: Report,
    /// What it does, operation by operation: at the stores, and at the disk below.
    calls: Vec<String>,
    disk: Vec<String>,
}

impl<'a> Trial<'a> {
    fn of(build: &'a dyn Fn(&World) -> Result<Pipeline>) -> Self {
        Self { build, expected: Rows::new(), report: Report::default(), calls: vec![], disk: vec![] }
    }

    /// Runs it undisturbed, and counts.
    fn measure(&mut self) -> Result<Sizes, Box<Failure>> {
        let count = |on_disk: bool| {
            let schedule = Schedule::calm(on_disk);
            let outside = Outside::new(&schedule);
            let world = World::of(outside.clone(), Fate::default(), on_disk, None);
            let outcome = live_in(Some(&world), (self.build)(&world), &outside.clock, || false);
            let fate = world.fate();
            drop(world);
            let rows = outcome.and_then(|()| outside.rows()).map_err(|e| failure(&schedule, 1, format!("undisturbed, it fails: {e}")))?;
            Ok::<_, Box<Failure>>((fate, rows))
        };
        let (at_stores, rows) = count(false)?;
        let (at_the_disk, again) = count(true)?;
        if let Some(difference) = difference(&again, &rows) {
            return Err(failure(&Schedule::calm(true), 1, format!("two undisturbed runs are not alike: {difference}")));
        }
        self.expected = rows;
        let sizes = Sizes { calls: at_stores.operations(), disk: at_the_disk.operations() };
        (self.report.operations, self.report.disk_calls) = (sizes.calls, sizes.disk);
        [&at_stores, &at_the_disk].into_iter().for_each(|fate| self.report.note(fate));
        let acts = |fate: Fate| fate.tried().into_iter().map(|(act, _)| act).collect::<Vec<_>>();
        (self.calls, self.disk) = (acts(at_stores), acts(at_the_disk));
        Ok(sizes)
    }

    /// Runs the schedule of a seed in memory, and writes down its acts.
    fn trace(&mut self, seed: u64, sizes: Sizes) -> Traced {
        let schedule = Schedule::of(seed, sizes, Kinds { shuffled: true, truncated: false, lost: false }).in_memory();
        let outside = Outside::new(&schedule);
        let failure = self.run_in(&schedule, 1, &outside).err();
        Traced { acts: outside.trace.acts(), failure }
    }

    /// Runs two processes by the schedule of a seed, and writes down their acts.
    fn takeover(&mut self, seed: u64, sizes: Sizes, shuffled: bool, build: &Build) -> Traced {
        let schedule = Schedule::of(seed, sizes, Kinds { shuffled, truncated: false, lost: false }).in_memory();
        let outside = Outside::new(&schedule);
        let judged = self.judge(&schedule, 1, |trial| {
            trial.report.deaths += takeover::run(&schedule, &outside, build, sizes.calls)?;
            let rows = outside.rows().map_err(|e| e.to_string())?;
            Ok(End::Whole(rows, outside.sources()))
        });
        Traced { acts: outside.trace.acts(), failure: judged.err() }
    }

    fn run(&mut self, schedule: &Schedule, workers: usize) -> Result<(), Box<Failure>> {
        self.run_in(schedule, workers, &Outside::new(schedule))
    }

    fn run_in(&mut self, schedule: &Schedule, workers: usize, outside: &Rc<Outside>) -> Result<(), Box<Failure>> {
        self.judge(schedule, workers, |trial| trial.lives(schedule, workers, outside))
    }

    /// Runs it, and compares what sinks hold at its end with what they should.
    fn judge(
        &mut self,
        schedule: &Schedule,
        workers: usize,
        run: impl FnOnce(&mut Self) -> Result<End, String>,
    ) -> Result<(), Box<Failure>> {
        self.report.schedules += 1;
        let end = catch_unwind(AssertUnwindSafe(|| run(&mut *self)));
        let end = end.unwrap_or_else(|panic| Err(format!("it panics: {}", crate::operator::closure::panic_text(&*panic))));
        let expected = &self.expected;
        let wrong = match end {
            Err(text) => Some(text),
            Ok(End::Whole(rows, sources)) if schedule.shuffled || sources > 1 => {
                difference(&sums(&rows), &sums(expected)).map(|d| format!("in sum, {d}"))
            }
            Ok(End::Whole(rows, _)) => difference(&rows, expected),
            Ok(End::Refused(rows, sources)) => {
                self.report.refused += 1;
                // what is there is the beginning of what should be
                let beyond = |(name, lines): (&String, &Vec<String>)| !expected.get(name).is_some_and(|all| all.starts_with(lines));
                let odd = rows.iter().find(|(name, lines)| !schedule.shuffled && sources == 1 && beyond((name, lines)));
                odd.map(|(name, _)| format!("it refused to go on, but {name} holds what it should not"))
            }
        };
        wrong.map_or(Ok(()), |found| Err(failure(schedule, workers, found)))
    }

    /// Life after life, and one that is left alone.
    fn lives(&mut self, schedule: &Schedule, workers: usize, outside: &Rc<Outside>) -> Result<End, String> {
        let live = |world: &World| {
            outside.trace.note(Act::Began);
            let (flow, fate) = ((self.build)(world), world.fate());
            let outcome = match workers {
                1 => live_in(Some(world), flow, &outside.clock, || fate.is_dead()),
                n => live_on_threads(world, flow, n, &outside.clock, || fate.is_dead()),
            };
            outside.trace.note(Act::Gone);
            outcome
        };
        let truncated = |e: &Error| schedule.truncated && e.kind() == Kind::User && e.to_string().contains("no longer holds");
        let mut lost = schedule.lost.map(|lost| (lost, lost::state(lost, self.build)));
        for (n, life) in schedule.lives.iter().enumerate() {
            if n > 0 && schedule.truncated {
                outside.truncate(&mut Draw(life.seed));
            }
            let world = World::in_life(outside, life, schedule.shuffled);
            let outcome = live(&world);
            let (fate, died) = (world.fate(), world.fate().is_dead());
            drop(world);
            self.report.note(&fate);
            self.report.deaths += u64::from(died);
            match outcome {
                Err(e) if truncated(&e) => {
                    return outside.rows().map(|rows| End::Refused(rows, outside.sources())).map_err(|e| e.to_string());
                }
                Err(e) if !died && e.retry() == Retry::Never => return Err(format!("life {} ended: {e}", n + 1)),
                _ => {}
            }
            if let (Some(seed), Some(machine)) = (life.power_cut, &outside.machine) {
                machine.cut_power(seed);
                self.report.power_cuts += 1;
            }
            if let Some((_, wrong)) = lost.as_ref().filter(|(lost, _)| lost.after <= n)
                && lost::refused(wrong, outside, &live)?
            {
                self.report.lost += 1;
                lost = None;
            }
        }
        if schedule.truncated {
            outside.truncate(&mut Draw(schedule.seed));
        }
        let world = World::alone(outside, schedule);
        let (outcome, fate) = (live(&world), world.fate());
        drop(world);
        self.report.note(&fate);
        let end: fn(Rows, usize) -> End = match outcome {
            Ok(()) => End::Whole,
            Err(e) if truncated(&e) => End::Refused,
            Err(e) => return Err(format!("left alone, it does not come up again: {e}")),
        };
        let rows = outside.rows().map_err(|e| e.to_string())?;
        Ok(end(rows, outside.sources()))
    }
}

fn failure(schedule: &Schedule, workers: usize, found: String) -> Box<Failure> {
    Box::new(Failure { seed: schedule.seed, workers, schedule: schedule.to_string(), found })
}

/// The first line in which a sink is not what it should be.
pub(super) fn difference(found: &Rows, expected: &Rows) -> Option<String> {
    for (name, want) in expected {
        let none = vec![];
        let got = found.get(name).unwrap_or(&none);
        let at = (0..want.len().max(got.len())).find(|i| want.get(*i) != got.get(*i));
        if let Some(at) = at {
            let line = |lines: &Vec<String>| lines.get(at).cloned().unwrap_or_else(|| "nothing".to_owned());
            let counts = format!("{} rows, and {} were expected", got.len(), want.len());
            return Some(format!("{name} holds {counts}; row {} is {}, expected {}", at + 1, line(got), line(want)));
        }
    }
    None
}

/// Each row with the sum of its changes, whatever epochs they came in.
fn sums(rows: &Rows) -> Rows {
    let sum = |lines: &Vec<String>| {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for line in lines {
            // a line that is no object counts as it is
            let (key, diff) = match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line) {
                Err(_) => (line.clone(), 1),
                Ok(mut row) => {
                    let diff = row.remove("diff").and_then(|d| d.as_i64()).unwrap_or(1);
                    row.remove("epoch");
                    // a dead letter of a computed row names where its fetch began
                    if let Some(serde_json::Value::String(reason)) = row.get_mut("reason") {
                        reason.truncate(reason.find(" (in a record of ").unwrap_or(reason.len()));
                    }
                    (serde_json::Value::Object(row).to_string(), diff)
                }
            };
            *sums.entry(key).or_default() += diff;
        }
        sums.into_iter().filter(|(_, n)| *n != 0).map(|(row, n)| format!("{n} × {row}")).collect()
    };
    rows.iter().map(|(name, lines)| (name.clone(), sum(lines))).collect()
}
