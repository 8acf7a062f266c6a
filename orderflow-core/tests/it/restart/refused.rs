//! Rows that a sink refuses: the rest of their epoch is there once; of each of them there is one dead letter, or none if the process died between the commit
//! of the sink and that of the dead letters.

use super::*;
use orderflow_core::arrow::array::AsArray;
use orderflow_core::arrow::datatypes::Int64Type;
use orderflow_core::data::Rejected;
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

const NUMBERS: i64 = 60;

/// What a sink holds for good, and what it refused since one last looked.
#[derive(Default)]
struct Held {
    rows: Vec<i64>,
    refused: Vec<i64>,
    progress: Option<Progress>,
}

/// Takes no number that five divides; rows and progress are one act.
#[derive(Clone, Default)]
struct Picky(Arc<Mutex<Held>>);

struct PickyWriter {
    sink: Picky,
    me: WriterId,
    taken: Vec<Closed>,
    flush: bool,
}

fn is_refused(n: i64) -> bool {
    n % 5 == 0
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
        Ok(Opened { writer: Box::new(PickyWriter { sink: *self, me: context.writer, taken: vec![], flush: false }), progress })
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
        let mut held = self.sink.held();
        let mut refused = vec![];
        if std::mem::take(&mut self.flush) || self.taken.len() > 1 {
            for closed in self.taken.drain(..) {
                let numbers = closed.changes.iter().flat_map(|c| c.rows().column(0).as_primitive::<Int64Type>().values().iter().copied());
                for n in numbers {
                    if is_refused(n) {
                        held.refused.push(n);
                        let (bytes, reason) = (vec![], format!("{n} is refused"));
                        refused.push(Rejected { from: "picky".into(), place: None, bytes, reason, diff: 1 });
                    } else {
                        held.rows.push(n);
                    }
                }
                held.progress = Some(Progress { writer: self.me, epoch: closed.epoch, part: 0 });
            }
        }
        Ok(Committed { progress: held.progress, refused, ..Committed::default() })
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
            refused.extend(std::iter::repeat_n(letter, closed.rows()));
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
struct Place {
    sink: Picky,
    state: Arc<dyn Store>,
    letters: Arc<dyn Store>,
}

impl Place {
    fn new() -> Self {
        Self { sink: Picky::default(), state: Arc::new(Memory::new()), letters: Arc::new(Memory::new()) }
    }

    /// The same, seen through what goes wrong.
    fn through(&self, faulty: &Faulty) -> Self {
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

    fn live(&self, dead: impl Fn() -> bool) -> Result<()> {
        let clock = Clock::manual(1_000_000);
        testing::live(self.flow(Topic::rows(vec![batch(0..NUMBERS)]), 1_000, &clock), &clock, dead)
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
}

#[test]
fn a_refused_row_has_one_letter_or_none_if_the_process_died_after_its_sink_had_committed() {
    let (good, bad): (Vec<i64>, Vec<i64>) = (0..NUMBERS).partition(|n| !is_refused(*n));
    // a run that ends well loses no letter, and there is none for what the sink holds
    let counting = Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused);
    let place = Place::new();
    place.through(&counting).live(|| false).unwrap();
    assert_eq!((&place.sink.held().rows, place.letters()), (&good, bad.clone()));

    let mut in_doubt = 0;
    for at in (1..=counting.operations()).step_by(tier::of(3, 1, 1)) {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let place = Place::new();
            let faulty = Faulty::new(Arc::new(Memory::new()), at, fault);
            let _ = place.through(&faulty).live(|| faulty.is_dead()); // it died, while it was opened or later
            let refused_before = std::mem::take(&mut place.sink.held().refused);
            place.live(|| false).unwrap();
            assert_eq!(place.sink.held().rows, good, "{fault:?} at {at}");
            let letters = place.letters();
            let mut once = letters.clone();
            once.dedup();
            assert!(once == letters && letters.iter().all(|n| is_refused(*n)), "{fault:?} at {at}: {letters:?}");
            let lost: Vec<&i64> = bad.iter().filter(|n| !letters.contains(n)).collect();
            assert!(lost.iter().all(|n| refused_before.contains(n)), "{fault:?} at {at}: {lost:?} lost, {refused_before:?} in doubt");
            in_doubt += refused_before.len();
        }
    }
    assert!(in_doubt > 0, "nobody died after a row was refused");
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
    while place.letters() != [0, 5] {
        assert!(began.elapsed() < Duration::from_secs(30) && !running.status().phase.is_over(), "{:?}", running.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sender);
    running.wait().await.unwrap();
    assert_eq!((place.letters(), &place.sink.held().rows), (vec![0, 5], &vec![1, 2, 3, 4, 6, 7, 8, 9]));
}
