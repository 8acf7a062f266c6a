//! Two processes on one shared store: the older is paused just before one of its operations, a newer one takes over, and the older wakes up late.
//!
//! ```text
//!   older   opens ─ step ─ step ─ operation ┄┄┄┄┄ paused ┄┄┄┄┄ done at last ─ step ─ … ─ is told that it was replaced
//!   newer                             └─ opens ─ step ─ dies ─ opens ─ step ─┴─ in turn with the older ─ … ─ the end of the log
//! ```
//! Invariant: everything is drawn from the schedule and runs on the caller's thread. The older is paused only when it has begun to work, so that what it knows
//! of the ledger is older than what the newer one does.

use super::crash::STEPS;
use super::schedule::{Life, Schedule};
use super::trace::Act;
use super::world::{Outside, World};
use crate::error::{Result, Retry};
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

/// Runs the older process with the faults of the first life, and the newer ones with those of the others; the last is left alone. An undisturbed run has so
/// many `operations`.
pub(super) fn run(schedule: &Schedule, outside: &Rc<Outside>, build: &Build, operations: u64) -> Result<(), String> {
    let mut draw = Draw(!schedule.seed);
    let (paused_at, sleep) = (1 + draw.below(operations / 2), draw.below(LONGEST_SLEEP));
    let mut lives = schedule.lives.iter();
    let first = lives.next().map(Life::survived);
    let older = first.map(|life| World::in_life(outside, &life, schedule.shuffled).of_process(OLDER));
    let mut worlds: VecDeque<World> = lives.map(|life| World::in_life(outside, life, schedule.shuffled)).collect();
    worlds.push_back(World::alone(outside, schedule));
    let worlds = worlds.into_iter().map(|world| world.of_process(NEWER)).collect();
    let newer =
        Rc::new(RefCell::new(Successors { outside: outside.clone(), build: build.clone(), worlds, now: None, came: false, wrong: None }));

    let mut older = older.and_then(|world| Process::open(world, build).ok());
    for n in 0..STEPS {
        let mut busy = false;
        if let Some(process) = &mut older {
            let step = process.step();
            let mut newer = newer.borrow_mut();
            if let Some(wrong) = newer.wrong.take() {
                return Err(wrong);
            }
            match step {
                Ok(Some(did)) => busy = did,
                Ok(None) => older = None,
                // whatever it stumbles over when others have gone on
                Err(e) if newer.came || e.retry() == Retry::Backoff => older = None,
                Err(e) => return Err(format!("the older process ended, and nobody had replaced it: {e}")),
            }
        }
        if let (0, Some(process)) = (n, &older) {
            let (fate, newer) = (process.world.fate(), Rc::downgrade(&newer));
            let meanwhile = move || newer.upgrade().into_iter().for_each(|newer| newer.borrow_mut().go(sleep));
            fate.pause(fate.operations() + paused_at, meanwhile);
        }
        let mut newer = newer.borrow_mut();
        if older.is_none() || newer.came {
            busy |= newer.step()?;
        }
        if older.is_none() && newer.is_over() {
            return Ok(());
        }
        if !busy {
            outside.clock.advance(Duration::from_secs(1));
        }
    }
    Err("the run of two processes does not end".to_owned())
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
        match outcome {
            Ok(Some(busy)) => return Ok(busy),
            Err(e) if self.worlds.is_empty() => return Err(format!("left alone, the newer process does not come up again: {e}")),
            Err(e) if !fate.is_dead() && e.retry() == Retry::Never => return Err(format!("the newer process ended: {e}")),
            _ => self.now = None,
        }
        Ok(true)
    }
}
