//! Rows that a sink refuses: the rest of their epoch is there once, and each of them has one dead letter, whatever kills the process.

use super::*;
use orderflow_core::arrow::array::AsArray;
use orderflow_core::arrow::datatypes::Int64Type;
use orderflow_core::bug::{self, Bug};
use orderflow_core::data::Rejected;
use orderflow_core::sink::{
    Bound, Closed, Column, Committed, Guarantee, Input, Opened, Progress, Refused, Sink, SinkContext, Writer, WriterId,
};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

const NUMBERS: i64 = 60;

/// What a sink holds for good, and how often it told what it leaves out.
#[derive(Default)]
struct Held {
    rows: Vec<i64>,
    told: usize,
    progress: Option<Progress>,
}

/// Takes no number that ends in five; rows and progress are one act. The first try of an act that leaves something out takes none that ends in zero
/// either, and fails.
#[derive(Clone, Default)]
struct Picky(Arc<Mutex<Held>>);

struct PickyWriter {
    sink: Picky,
    me: WriterId,
    taken: Vec<Closed>,
    flush: bool,
    /// Under way.
    act: Vec<Closed>,
    tries: u64,
    bound: Option<Bound>,
}

pub(super) fn is_refused(n: i64) -> bool {
    n % 10 == 5
}

/// The numbers in the rows of these epochs.
pub(super) fn numbers_in<'a>(closed: impl IntoIterator<Item = &'a Closed>) -> Vec<i64> {
    let changes = closed.into_iter().flat_map(|closed| &closed.changes);
    changes.flat_map(|c| c.rows().column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// The letter of a number that a sink of this kind refuses.
pub(super) fn letter(from: &str, n: i64) -> Rejected {
    Rejected { from: from.into(), place: None, bytes: vec![], reason: format!("{n} is refused"), diff: 1 }
}

impl Picky {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }
}

impl Sink for Picky {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "picky"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let progress = self.held().progress;
        let (taken, act, me) = (vec![], vec![], context.writer);
        let writer = PickyWriter { sink: *self, me, taken, flush: false, act, tries: 0, bound: None };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

impl PickyWriter {
    /// Tries the act: what it leaves out. Whoever told tells again.
    fn attempt(&mut self) -> Option<Refused> {
        self.tries += 1;
        let bad: Vec<i64> = numbers_in(&self.act).into_iter().filter(|n| is_refused(*n) || self.tries == 1 && n % 10 == 0).collect();
        let upto = self.act.last().filter(|_| self.tries > 1 || !bad.is_empty())?.epoch;
        let refused = Refused::new(0, upto, bad.into_iter().map(|n| letter("picky", n)).collect());
        self.bound = Some(refused.bound());
        Some(refused)
    }

    fn commit(&mut self) {
        let Some(epoch) = self.act.last().map(|closed| closed.epoch) else { return };
        let mut held = self.sink.held();
        held.rows.extend(numbers_in(&self.act).into_iter().filter(|n| !is_refused(*n)));
        held.progress = Some(Progress { writer: self.me, epoch, part: 0 });
        drop(held);
        (self.act, self.bound) = (vec![], None);
    }
}

impl Writer for PickyWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.taken.push(closed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flush = true;
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        let mut refused = None;
        if self.act.is_empty() && (std::mem::take(&mut self.flush) || self.taken.len() > 1) {
            (self.act, self.tries) = (std::mem::take(&mut self.taken), 0);
            refused = self.attempt();
        } else if self.tries == 1 && self.bound.as_ref().is_some_and(Bound::is_bound) {
            refused = self.attempt();
        }
        if self.bound.as_ref().is_none_or(Bound::is_bound) {
            self.commit();
        }
        let mut held = self.sink.held();
        held.told += usize::from(refused.is_some());
        Ok(Committed { progress: held.progress, refused: refused.into_iter().collect(), ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Takes no letter at all.
struct Full;

struct FullWriter {
    me: WriterId,
    taken: Vec<Closed>,
    progress: Option<Progress>,
}

impl Sink for Full {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "full"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Ok(Opened { writer: Box::new(FullWriter { me: context.writer, taken: vec![], progress: None }), progress: None })
    }
}

impl Writer for FullWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.taken.push(closed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        let mut refused = vec![];
        for closed in self.taken.drain(..) {
            let letter = Rejected { from: "full".into(), place: None, bytes: vec![b'x'; 1_000], reason: "it is full".into(), diff: 1 };
            refused.push(Refused::new(0, closed.epoch, vec![letter; closed.rows()]));
            self.progress = Some(Progress { writer: self.me, epoch: closed.epoch, part: 0 });
        }
        Ok(Committed { progress: self.progress, refused, ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn numbers() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_new(numbers(), vec![Arc::new(Int64Array::from_iter_values(range))]).unwrap()
}

/// What outlives a process.
pub(super) struct Place<S> {
    pub(super) sink: S,
    pub(super) state: Arc<dyn Store>,
    letters: Arc<dyn Store>,
}

impl<S: Sink + Clone> Place<S> {
    pub(super) fn of(sink: S) -> Self {
        Self { sink, state: Arc::new(Memory::new()), letters: Arc::new(Memory::new()) }
    }

    /// The same with what is said of the sink otherwise.
    pub(super) fn with(&self, sink: S) -> Self {
        Self { sink, state: self.state.clone(), letters: self.letters.clone() }
    }

    /// The same, seen through what goes wrong.
    pub(super) fn through(&self, faulty: &Faulty) -> Self {
        let through = |store: &Arc<dyn Store>| Arc::new(faulty.beside(store.clone())) as Arc<dyn Store>;
        Self { sink: self.sink.clone(), state: through(&self.state), letters: through(&self.letters) }
    }

    /// Files of dead letters close after so many.
    fn flow(&self, source: impl Source, letters: u64, clock: &Clock) -> Result<Pipeline> {
        let mut flow = Pipeline::new("picky");
        flow.source("numbers", source)?;
        flow.sql("SELECT n FROM numbers")?.sink(self.sink.clone())?;
        let dead_letters = DataSet::on(self.letters.clone(), "dead letters", JsonLines).roll_rows(letters);
        let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 7, bytes: u64::MAX };
        let flow = flow.dead_letters(dead_letters).epochs(limits).clock(clock.clone()).state_on(self.state.clone(), "state");
        Ok(flow.checkpoint_every(ALWAYS))
    }

    pub(super) fn live(&self, dead: impl Fn() -> bool) -> Result<()> {
        let clock = Clock::manual(1_000_000);
        testing::live(self.flow(Topic::rows(vec![batch(0..NUMBERS)]), 1_000, &clock), &clock, dead)
    }

    /// The operations of the stores and the steps of a life that nothing kills.
    pub(super) fn live_undisturbed(&self) -> (u64, u64) {
        let (counting, steps) = (Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused), Cell::new(0));
        let count = || {
            steps.set(steps.get() + 1);
            false
        };
        self.through(&counting).live(count).unwrap();
        (counting.operations(), steps.get())
    }

    /// The numbers that dead letters name, in order.
    fn letters(&self) -> Vec<i64> {
        let files = self.letters.list("").unwrap().into_iter().filter(|name| name.starts_with("lane-"));
        let text: String = files.map(|name| String::from_utf8(self.letters.get(&name).unwrap().unwrap()).unwrap()).collect();
        let number = |line: &str| {
            let letter: serde_json::Value = serde_json::from_str(line).unwrap();
            letter["reason"].as_str().unwrap().split(' ').next().unwrap().parse::<i64>().unwrap()
        };
        let mut numbers: Vec<i64> = text.lines().map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whether these rows are every good number once, every other one has one letter, and nothing is stored of them any more.
    pub(super) fn judge(&self, rows: &[i64]) -> std::result::Result<(), String> {
        let (good, bad): (Vec<i64>, Vec<i64>) = (0..NUMBERS).partition(|n| !is_refused(*n));
        let (letters, stored) = (self.letters(), self.state.list("spool/").unwrap());
        if (rows, &letters, stored.len()) == (&good[..], &bad, 0) {
            Ok(())
        } else {
            Err(format!("rows {rows:?}, letters {letters:?}, stored {stored:?}"))
        }
    }
}

impl Place<Picky> {
    fn new() -> Self {
        Self::of(Picky::default())
    }

    /// How often the sink told, if all is as it should be.
    fn judged(&self) -> std::result::Result<usize, String> {
        let held = self.sink.held();
        self.judge(&held.rows).map(|()| held.told)
    }
}

/// How often the sink tells what it leaves out, the operations of the stores and the steps in a run that nothing kills.
fn undisturbed() -> (usize, u64, u64) {
    let place = Place::new();
    let (operations, steps) = place.live_undisturbed();
    (place.judged().unwrap(), operations, steps)
}

/// Dead after so many steps.
pub(super) fn dead_after(last: u64) -> impl Fn() -> bool {
    let steps = Cell::new(0);
    move || {
        steps.set(steps.get() + 1);
        steps.get() >= last
    }
}

/// A run that dies at an operation of a store, and one after it: how often the sink told, or what is wrong.
fn dies_at(at: u64, fault: Fault) -> std::result::Result<usize, String> {
    let (place, faulty) = (Place::new(), Faulty::new(Arc::new(Memory::new()), at, fault));
    let _ = place.through(&faulty).live(|| faulty.is_dead()); // it died, while it was opened or later
    place.live(|| false).unwrap();
    place.judged().map_err(|wrong| format!("{fault:?} at {at}: {wrong}"))
}

fn deaths(operations: u64) -> impl Iterator<Item = (u64, Fault)> {
    (1..=operations).step_by(tier::of(3, 1, 1)).flat_map(|at| [(at, Fault::CrashBefore), (at, Fault::CrashAfter)])
}

#[test]
fn a_refused_row_has_one_letter_whatever_kills_the_process() {
    let (once, operations, steps) = undisturbed();
    let mut again = 0;
    for (at, fault) in deaths(operations) {
        again += usize::from(dies_at(at, fault).unwrap() > once);
    }
    assert!(again > 0, "nobody died after a row was told and before it was committed");
    // and between any two steps, between which a sink commits as well
    for last in (1..=steps).step_by(tier::of(7, 2, 1)) {
        let place = Place::new();
        place.live(dead_after(last)).unwrap();
        place.live(|| false).unwrap();
        place.judged().unwrap_or_else(|wrong| panic!("killed after step {last}: {wrong}"));
    }
}

#[test]
fn a_process_that_is_killed_again_and_again_loses_no_letter() {
    let (_, operations, _) = undisturbed();
    for every in (7..operations / 2).step_by(tier::of(41, 11, 3)) {
        let place = Place::new();
        // each life has a few operations more than the one before
        for life in 0..operations {
            let faulty = Faulty::new(Arc::new(Memory::new()), every + 5 * life, Fault::CrashAfter);
            let _ = place.through(&faulty).live(|| faulty.is_dead());
            if !faulty.is_dead() {
                break;
            }
        }
        place.live(|| false).unwrap();
        place.judged().unwrap_or_else(|wrong| panic!("killed at operation {every} first: {wrong}"));
    }
}

#[test]
fn bugs_that_are_planted_lose_letters_or_double_them() {
    let (_, operations, _) = undisturbed();
    for planted in [Bug::CommitsUnstored, Bug::BelievesWhatWasTold] {
        let wrong = bug::with(planted, || (1..=operations).find_map(|at| dies_at(at, Fault::CrashAfter).err()));
        println!("{planted:?}: {}", wrong.as_deref().unwrap_or("nothing"));
        assert!(wrong.is_some(), "{planted:?} goes unnoticed");
    }
}

#[test]
fn a_letter_that_is_refused_has_no_letter_of_its_own() {
    let (place, clock) = (Place::new(), Clock::manual(1_000_000));
    let flow = place.flow(Topic::rows(vec![batch(0..NUMBERS)]), 1_000, &clock).unwrap();
    let mut stepper = flow.dead_letters(Full).stepper().unwrap();
    let ends = (0..10_000).any(|_| match stepper.step().unwrap() {
        Some(busy) => {
            clock.advance(Duration::from_secs(u64::from(!busy)));
            false
        }
        None => true,
    });
    let rejected = stepper.status().rejected;
    assert!(ends, "letters of letters without end: {rejected:?}");
    let each = (0..NUMBERS).filter(|n| is_refused(*n)).count() as i64;
    assert_eq!(rejected, BTreeMap::from([("full".to_owned(), each), ("picky".to_owned(), each)]));
}

#[tokio::test]
async fn a_letter_does_not_wait_for_the_next_record() {
    let place = Place::new();
    let (sender, source) = memory::channel(numbers(), 100);
    let running = place.flow(source, 1, &Clock::system()).unwrap().start().await.unwrap();
    sender.send(batch(0..10)).await.unwrap();
    let began = Instant::now();
    while place.letters() != [5] {
        assert!(began.elapsed() < Duration::from_secs(30) && !running.status().phase.is_over(), "{:?}", running.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sender);
    running.wait().await.unwrap();
    assert_eq!((place.letters(), &place.sink.held().rows), (vec![5], &vec![0, 1, 2, 3, 4, 6, 7, 8, 9]));
}
