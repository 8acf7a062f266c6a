//! A sink whose lanes commit by themselves is started again with another number of them: every row that it refuses has one letter, also if the lane
//! that told of it is no more.
//!
//! Invariant of the sink, as of Kafka's: all rows of an epoch are shared among as many lanes as there were when the first of them took it; there are as
//! many as are wanted now once all lanes hold the same.

use super::refused::{Place, dead_after, is_refused, letter, numbers_in};
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::epoch::Log;
use orderflow_core::sink::{
    Bound, Closed, Column, Committed, Guarantee, Input, Opened, Progress, Refused, Sink, SinkContext, Writer, WriterId,
};
use orderflow_core::time::Epoch;
use std::sync::{Mutex, MutexGuard};

/// What the sink holds for good.
#[derive(Default)]
struct Held {
    rows: Vec<i64>,
    /// Up to where each lane holds everything: as many as shared the newest epoch.
    lanes: Vec<Epoch>,
    writer: Option<WriterId>,
}

impl Held {
    fn most(&self) -> Epoch {
        self.lanes.iter().copied().max().unwrap_or_default()
    }

    fn is_apart(&self) -> bool {
        self.lanes.iter().any(|lane| *lane < self.most())
    }

    /// What all lanes hold.
    fn progress(&self) -> Option<Progress> {
        let epoch = self.lanes.iter().copied().min()?;
        self.writer.map(|writer| Progress { writer, epoch, part: 0 }).filter(|p| p.epoch > Epoch(0))
    }
}

/// Takes no number that ends in five. Its lanes write an epoch, or some, one after the other.
#[derive(Clone)]
struct Laned {
    held: Arc<Mutex<Held>>,
    /// How many are wanted.
    lanes: usize,
}

struct LanedWriter {
    sink: Laned,
    me: WriterId,
    taken: Vec<Closed>,
    flush: bool,
    lanes: Vec<Epoch>,
    /// Until where all lanes write before there are others.
    until: Option<Epoch>,
    act: Option<Act>,
}

/// What a lane writes of the epochs until then.
struct Act {
    lane: usize,
    upto: Epoch,
    rows: Vec<i64>,
    bound: Option<Bound>,
}

/// The lane of a number; what is refused last goes to the last one of three.
fn lane_of(n: i64, lanes: usize) -> usize {
    (n + n / 10 + 2) as usize % lanes
}

impl Laned {
    fn new(lanes: usize) -> Self {
        Self { held: Arc::default(), lanes }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }
}

impl Sink for Laned {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "laned"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let held = self.held();
        let (most, progress) = (held.most(), held.progress());
        let (lanes, until) = if held.is_apart() { (held.lanes.clone(), Some(most)) } else { (vec![most; self.lanes], None) };
        drop(held);
        let writer = LanedWriter { sink: *self, me: context.writer, taken: vec![], flush: false, lanes, until, act: None };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

impl LanedWriter {
    /// Begins the act of the first lane that lacks something, when all of it is there: what that leaves out.
    fn begin(&mut self) -> Option<Refused> {
        let upto = self.until.filter(|until| self.taken.last().is_some_and(|closed| closed.epoch >= *until))?;
        let lane = self.lanes.iter().position(|held| *held < upto)?;
        let is_its = |closed: &&Closed| closed.epoch > self.lanes[lane] && closed.epoch <= upto;
        let rows = numbers_in(self.taken.iter().filter(is_its)).into_iter().filter(|n| lane_of(*n, self.lanes.len()) == lane);
        let (bad, rows): (Vec<i64>, Vec<i64>) = rows.partition(|n| is_refused(*n));
        let refused = (!bad.is_empty()).then(|| Refused::new(lane, upto, bad.into_iter().map(|n| letter("laned", n)).collect()));
        self.act = Some(Act { lane, upto, rows, bound: refused.as_ref().map(Refused::bound) });
        refused
    }

    /// Commits the act, if it may; when all lanes hold the same, there are as many as are wanted.
    fn commit(&mut self) {
        let Some(Act { lane, upto, rows, .. }) = self.act.take_if(|act| act.bound.as_ref().is_none_or(Bound::is_bound)) else { return };
        self.lanes[lane] = upto;
        let mut held = self.sink.held();
        held.rows.extend(rows);
        held.lanes.clone_from(&self.lanes);
        held.writer = Some(self.me);
        if !held.is_apart() {
            self.lanes = vec![upto; self.sink.lanes];
            self.until = None;
            self.taken.retain(|closed| closed.epoch > upto);
        }
    }
}

impl Writer for LanedWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.taken.push(closed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flush = true;
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        if self.until.is_none() && !self.taken.is_empty() && (std::mem::take(&mut self.flush) || self.taken.len() > 1) {
            self.until = self.taken.last().map(|closed| closed.epoch);
        }
        let mut refused = None;
        if self.act.is_some() {
            self.commit();
        } else {
            refused = self.begin();
        }
        Ok(Committed { progress: self.sink.held().progress(), refused: refused.into_iter().collect(), ..Committed::default() })
    }

    fn lanes(&self) -> Vec<Epoch> {
        self.lanes.clone()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A life with so many lanes that nothing kills: what is wrong after it.
fn go_on(place: &Place<Laned>, lanes: usize) -> std::result::Result<(), String> {
    of_lanes(place, lanes).live(|| false).map_err(|e| e.to_string())?;
    let mut rows = place.sink.held().rows.clone();
    rows.sort_unstable();
    place.judge(&rows)
}

fn of_lanes(place: &Place<Laned>, lanes: usize) -> Place<Laned> {
    place.with(Laned { held: place.sink.held.clone(), lanes })
}

/// A life with `before` lanes that dies at an operation of a store, and one with `after`: what is wrong.
fn dies_at([before, after]: [usize; 2], at: u64, fault: Fault) -> std::result::Result<(), String> {
    let (place, faulty) = (Place::of(Laned::new(before)), Faulty::new(Arc::new(Memory::new()), at, fault));
    let _ = place.through(&faulty).live(|| faulty.is_dead()); // it died, while it was opened or later
    go_on(&place, after).map_err(|wrong| format!("{before} lanes, {fault:?} at {at}, {after} lanes: {wrong}"))
}

/// Whether a letter counts that was told by a lane which is none of so many.
fn waits_of_a_lane_that_goes(place: &Place<Laned>, lanes: usize) -> bool {
    let seen = Log::look(place.state.clone(), "state").unwrap();
    let held = place.sink.held();
    seen.is_some_and(|seen| {
        let mut letters = seen.found.letters.iter().filter(|l| l.lane >= lanes && l.epoch.is_none());
        letters.any(|l| held.lanes.get(l.lane).is_some_and(|epoch| l.upto <= *epoch))
    })
}

/// Lanes of a life, and of the next one.
const CHANGES: [[usize; 2]; 4] = [[3, 1], [2, 3], [3, 2], [1, 3]];

#[test]
fn with_another_number_of_lanes_a_refused_row_has_one_letter_whatever_killed_the_process() {
    for change in &CHANGES[..tier::of(2, 4, 4)] {
        let (operations, _) = Place::of(Laned::new(change[0])).live_undisturbed();
        for at in (1..=operations).step_by(tier::of(11, 3, 1)) {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                dies_at(*change, at, fault).unwrap();
            }
        }
    }
}

#[test]
fn between_any_two_steps_the_number_of_lanes_may_change() {
    for [before, after] in CHANGES.into_iter().take(tier::of(2, 4, 4)) {
        let (_, steps) = Place::of(Laned::new(before)).live_undisturbed();
        // starts that found lanes at different epochs, and those that found all at one and a letter of a lane that goes
        let (mut apart, mut gone) = (0, 0);
        for last in 1..=steps {
            let place = Place::of(Laned::new(before));
            place.live(dead_after(last)).unwrap();
            let is_apart = place.sink.held().is_apart();
            apart += usize::from(is_apart);
            gone += usize::from(!is_apart && waits_of_a_lane_that_goes(&place, after));
            go_on(&place, after).unwrap_or_else(|wrong| panic!("{before} lanes until step {last}, then {after}: {wrong}"));
        }
        assert_eq!((apart > 0, gone > 0), (before > 1, before > after), "{before} lanes, then {after}: {apart} and {gone} of {steps}");
    }
}

#[test]
fn killed_again_and_again_with_other_lanes_every_time_no_letter_is_lost_or_doubled() {
    let (operations, _) = Place::of(Laned::new(3)).live_undisturbed();
    for every in (7..operations / 2).step_by(tier::of(61, 13, 3)) {
        let place = Place::of(Laned::new(3));
        // each life has a few operations more than the one before
        for (life, lanes) in (0..operations).zip([3, 1, 2, 4].into_iter().cycle()) {
            let faulty = Faulty::new(Arc::new(Memory::new()), every + 5 * life, Fault::CrashAfter);
            let _ = of_lanes(&place, lanes).through(&faulty).live(|| faulty.is_dead());
            if !faulty.is_dead() {
                break;
            }
        }
        go_on(&place, 2).unwrap_or_else(|wrong| panic!("killed at operation {every} first: {wrong}"));
    }
}

#[test]
fn letters_that_count_too_early_are_found_with_lanes_as_well() {
    let (operations, _) = Place::of(Laned::new(3)).live_undisturbed();
    for planted in [Bug::CommitsUnstored, Bug::BelievesWhatWasTold] {
        let wrong = bug::with(planted, || (1..=operations).find_map(|at| dies_at([3, 1], at, Fault::CrashAfter).err()));
        assert!(wrong.is_some(), "{planted:?} goes unnoticed");
    }
}
