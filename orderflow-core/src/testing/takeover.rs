//! Two processes on one shared store: the older is paused just before one of its operations, a newer one takes over, and the older wakes up late; or the
//! newer one is paused in the middle of its start, while the older goes on.
//!
//! ```text
//!   older   opens ─ step ─ step ─ operation ┄┄┄┄┄ paused ┄┄┄┄┄ done at last ─ step ─ … ─ is told that it was replaced
//!   newer                             └─ opens ─ step ─ dies ─ opens ─ step ─┴─ in turn with the older ─ … ─ the end of the log
//!
//!   older   opens ─ step ─ … ─ step ┐             ┌─ step ─ step ─┐                ┌─ in turn with the newer ─ … ─ is told that it was replaced
//!   newer                           └─ operations ┴┄┄┄ paused ┄┄┄┄┴─ operations … ─┴─ step ─ dies ─ opens ─ … ─ the end of the log
//! ```
//! Invariant: everything is drawn from the schedule and runs on the caller's thread. The newer one comes only when the older has begun to work, so that what this
//! knows of the ledger is older than what the newer one does. When the newer one is sure of the ledger, that takes nothing of the older.

use super::crash::STEPS;
use super::schedule::{Life, Schedule};
use super::trace::Act;
use super::world::{Outside, World};
use crate::error::{Error, Kind, Result, Retry};
use crate::pipeline::{Pipeline, Stepper};
use crate::store::volatile::Draw;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Builds the pipeline of a process.
pub(super) type Build = Rc<dyn Fn(&World) -> Result<Pipeline>>;

/// Their numbers in the trace.
const OLDER: usize = 0;
const NEWER: usize = 1;
/// The most steps of the newer ones while the older sleeps: more than a whole run has.
const LONGEST_SLEEP: u64 = 150;
/// The most steps of the older before a newer one comes, and about the operations of a start, in the middle of which this is paused.
const LATEST_START: u64 = 60;
const START: u64 = 60;

/// Runs the older process with the faults of the first life, and the newer ones with those of the others; the last is left alone. An undisturbed run has so
/// many `operations`. How many processes died.
pub(super) fn run(schedule: &Schedule, outside: &Rc<Outside>, build: &Build, operations: u64) -> Result<u64, String> {
    let mut draw = Draw(!schedule.seed);
    let (paused_at, sleep) = (1 + draw.below(operations / 2), draw.below(LONGEST_SLEEP));
    let in_a_start =
        (draw.below(2) == 0).then(|| Halt { after: draw.below(LATEST_START), at: 1 + draw.below(START), steps: draw.below(sleep + 1) });
    let mut lives = schedule.lives.iter();
    let first = lives.next().map(Life::survived);
    let older = first.map(|life| World::in_life(outside, &life, schedule.shuffled).of_process(OLDER));
    let mut worlds: VecDeque<World> = lives.map(|life| World::in_life(outside, life, schedule.shuffled)).collect();
    worlds.push_back(World::alone(outside, schedule));
    let worlds = worlds.into_iter().map(|world| world.of_process(NEWER)).collect();
    let newer = Rc::new(RefCell::new(Successors {
        outside: outside.clone(),
        build: build.clone(),
        worlds,
        now: None,
        came: false,
        wrong: None,
        died: 0,
    }));

    let older = Rc::new(RefCell::new(older.and_then(|world| Process::open(world, build).ok())));
    if outside.has_hosts() {
        return Err("two processes at once cannot have one host behind a memory channel: this is for sources by position".to_owned());
    }
    // what the older one did wrong while the newer one was paused
    let wrong = Rc::new(RefCell::new(None));
    for n in 0..STEPS {
        let mut busy = false;
        if let Some(step) = Process::step_of(&older) {
            let mut newer = newer.borrow_mut();
            if let Some(wrong) = newer.wrong.take() {
                return Err(wrong);
            }
            match step {
                Ok(did) => busy = did,
                Err(e) => may_end(e, outside)?,
            }
        }
        match &in_a_start {
            None if n == 0 => {
                if let Some(process) = &*older.borrow() {
                    let (fate, newer) = (process.world.fate(), Rc::downgrade(&newer));
                    let meanwhile = move || newer.upgrade().into_iter().for_each(|newer| newer.borrow_mut().go(sleep));
                    fate.pause(fate.operations() + paused_at, meanwhile);
                }
            }
            Some(halt) if n as u64 == halt.after => {
                let mut newer = newer.borrow_mut();
                newer.came = true;
                if let Some(world) = newer.worlds.front() {
                    let (older, outside, wrong, steps) = (Rc::downgrade(&older), outside.clone(), wrong.clone(), halt.steps);
                    let meanwhile = move || {
                        let went = older.upgrade().map_or(Ok(()), |older| go_on(&older, &outside, steps));
                        wrong.replace(went.err());
                    };
                    world.fate().pause(halt.at, meanwhile);
                }
            }
            _ => {}
        }
        let gone = older.borrow().is_none();
        let mut newer = newer.borrow_mut();
        if gone || newer.came {
            busy |= newer.step()?;
        }
        if let Some(wrong) = wrong.take() {
            return Err(wrong);
        }
        if gone && newer.is_over() {
            return one_at_a_time(&outside.trace.acts()).map(|()| newer.died);
        }
        if !busy {
            outside.clock.advance(Duration::from_secs(1));
        }
    }
    Err("the run of two processes does not end".to_owned())
}

/// The newer process comes after so many steps of the older, and before operation `at` the older does some more.
struct Halt {
    after: u64,
    at: u64,
    steps: u64,
}

/// So many steps of the older process while the newer one is paused.
fn go_on(older: &RefCell<Option<Process>>, outside: &Outside, steps: u64) -> Result<(), String> {
    for _ in 0..steps {
        match Process::step_of(older) {
            None => return Ok(()),
            Some(Err(e)) => return may_end(e, outside),
            Some(Ok(true)) => {}
            Some(Ok(false)) => outside.clock.advance(Duration::from_secs(1)),
        }
    }
    Ok(())
}

/// Whether the older process may end with this: that it waits in vain is no matter here, and it may stumble over whatever others did, once they have replaced
/// it; but it never breaks a law.
fn may_end(error: Error, outside: &Outside) -> Result<(), String> {
    let replaced = || outside.trace.acts().iter().any(|(process, act)| *process == NEWER && matches!(act, Act::Opened(_)));
    match (error.kind(), error.retry()) {
        (Kind::Internal, _) => Err(format!("the older process ended: {error}")),
        (_, Retry::Backoff) => Ok(()),
        _ if replaced() => Ok(()),
        _ => Err(format!("the older process ended, and nobody had replaced it: {error}")),
    }
}

/// No entry of the older process comes when a newer one is sure of the ledger, as it is before it fences a sink.
fn one_at_a_time(acts: &[(usize, Act)]) -> Result<(), String> {
    let sure = acts.iter().position(|(process, act)| *process == NEWER && matches!(act, Act::Fenced(_) | Act::Read(_) | Act::Restored(_)));
    let is_entry = |act: &Act| matches!(act, Act::Opened(_) | Act::Bound(..) | Act::Completed(_) | Act::Entry(_));
    let late = acts[sure.unwrap_or(acts.len())..].iter().find(|(process, act)| *process == OLDER && is_entry(act));
    late.map_or(Ok(()), |(_, act)| Err(format!("the older process was replaced, and the ledger took {act:?} of it")))
}

/// A process that is open.
struct Process {
    world: World,
    stepper: Stepper,
    began: bool,
}

impl Process {
    fn open(world: World, build: &Build) -> Result<Self> {
        world.act(Act::Began);
        match build(&world).and_then(Pipeline::stepper) {
            Ok(stepper) => Ok(Self { world, stepper, began: false }),
            Err(e) => {
                world.act(Act::Gone);
                Err(e)
            }
        }
    }

    /// One step of a process, if there is one, and whether there was something to do; it is gone after its end or an error.
    fn step_of(process: &RefCell<Option<Process>>) -> Option<Result<bool>> {
        let mut process = process.borrow_mut();
        let step = process.as_mut()?.step();
        if !matches!(step, Ok(Some(_))) {
            *process = None;
        }
        Some(step.map(|did| did.unwrap_or(false)))
    }

    /// One step, and whether there was something to do; `None` at the end, or when it is dead.
    fn step(&mut self) -> Result<Option<bool>> {
        let step = self.stepper.step()?;
        self.world.note(&self.stepper.status(), !std::mem::replace(&mut self.began, true))?;
        Ok(step.filter(|_| !self.world.fate().is_dead()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.world.act(Act::Gone);
    }
}

/// The newer process, and those that come after its death.
struct Successors {
    outside: Rc<Outside>,
    build: Build,
    /// Of those that have not begun.
    worlds: VecDeque<World>,
    now: Option<Process>,
    /// Whether one has begun.
    came: bool,
    /// What went wrong while the older one slept.
    wrong: Option<String>,
    died: u64,
}

impl Successors {
    fn is_over(&self) -> bool {
        self.now.is_none() && self.worlds.is_empty()
    }

    /// So many steps while nobody else does anything.
    fn go(&mut self, steps: u64) {
        self.came = true;
        for _ in 0..steps {
            match self.step() {
                Err(wrong) => {
                    self.wrong = Some(wrong);
                    return;
                }
                Ok(_) if self.is_over() => return,
                Ok(true) => {}
                Ok(false) => self.outside.clock.advance(Duration::from_secs(1)),
            }
        }
    }

    /// One step of who is there, or the start of who comes next; whether there was something to do.
    fn step(&mut self) -> Result<bool, String> {
        let (outcome, fate) = if let Some(process) = &mut self.now {
            (process.step(), process.world.fate())
        } else if let Some(world) = self.worlds.pop_front() {
            let fate = world.fate();
            match Process::open(world, &self.build) {
                Ok(process) => {
                    self.now = Some(process);
                    return Ok(true);
                }
                Err(e) => (Err(e), fate),
            }
        } else {
            return Ok(false);
        };
        self.died += u64::from(fate.is_dead());
        match outcome {
            Ok(Some(busy)) => return Ok(busy),
            Err(e) if self.worlds.is_empty() => return Err(format!("left alone, the newer process does not come up again: {e}")),
            Err(e) if !fate.is_dead() && e.retry() == Retry::Never => return Err(format!("the newer process ended: {e}")),
            _ => self.now = None,
        }
        Ok(true)
    }
}
