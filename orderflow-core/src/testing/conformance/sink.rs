//! The sink contract as a suite: what is committed stays, in order and once; what is not is not seen; of two writers only the newer one counts; and an
//! epoch with rows that the outside refuses is not committed before they are bound.
//!
//! Invariant: the suite behaves as the engine does: it never gives an epoch at or below the progress, and after a restart it
//! goes on after what the sink itself remembers or, for a sink that promises less, after what it had acknowledged.

use crate::data::Changes;
use crate::error::Retry;
use crate::sink::{Closed, Guarantee, Progress, Refused, Sink, SinkContext, Writer, WriterId};
use crate::time::{Clock, Epoch};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use std::time::Duration;

/// What is tested: a place in the outside world.
pub trait SinkSubject {
    /// A sink on that place, the same each time.
    fn sink(&mut self) -> Box<dyn Sink>;

    /// All rows that a reader of the outside world sees now, in its order.
    fn seen(&mut self) -> Vec<SeenRow>;

    /// Called before every poll: lets a host or another end do its part.
    fn between_polls(&mut self) {}

    /// Whether a commit that was asked for goes on by itself, so that it may come through after the writer is gone.
    fn commits_unheard(&self) -> bool {
        false
    }

    /// Epoch `epoch` with rows of the suite's columns all of which the outside refuses; `None` if it takes every row there is.
    fn refuses(&mut self, _epoch: u64) -> Option<Closed> {
        None
    }
}

/// A row in the outside world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenRow {
    /// Epoch in which it came.
    pub epoch: u64,
    /// Its multiplicity.
    pub diff: i64,
    /// Column `id`.
    pub id: i64,
    /// Column `name`.
    pub name: Option<String>,
}

/// Columns of the suite's rows: `id: Int64`, `name: Utf8` with nulls, quotes, line ends and other trouble, never empty.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
}

/// What a sink is opened with in tests: a clock that stands still.
pub fn context(ledger: u128, generation: u64, schema: &SchemaRef) -> SinkContext {
    let writer = WriterId { ledger, generation };
    SinkContext { pipeline: "test".into(), view: "view".into(), writer, schema: schema.clone(), kept: true, clock: Clock::manual(0) }
}

/// The rows of epoch `n`: none in every third, some withdrawn, in one or two batches.
pub fn expected(n: u64) -> Vec<SeenRow> {
    const NAMES: [&str; 5] = ["plain", "with \"quotes\"", "a,b;c", "two\nlines", "Zürich – 東京"];
    let rows = if n.is_multiple_of(3) { 0 } else { 1 + n % 7 };
    let name = |i: u64| if (n + i).is_multiple_of(4) { None } else { Some(NAMES[(n + i) as usize % NAMES.len()].to_owned()) };
    (0..rows).map(|i| SeenRow { epoch: n, diff: if i % 3 == 2 { -1 } else { 1 }, id: (n * 100 + i) as i64, name: name(i) }).collect()
}

/// Epoch `n` as a sink is given it.
pub fn closed(n: u64) -> Closed {
    let rows = expected(n);
    let batch = |rows: &[SeenRow]| {
        let ids = Int64Array::from_iter_values(rows.iter().map(|r| r.id));
        let names = StringArray::from_iter(rows.iter().map(|r| r.name.clone()));
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(names)]).expect("columns fit the schema");
        Changes::signed(batch, rows.iter().map(|r| r.diff).collect())
    };
    let (a, b) = rows.split_at(rows.len() / 2);
    Closed { epoch: Epoch(n), changes: [a, b].into_iter().filter(|part| !part.is_empty()).map(batch).collect() }
}

/// Runs the suite; panics at the first promise that is not kept.
///
/// # Panics
/// When the sink breaks its contract.
pub fn sink(subject: &mut dyn SinkSubject) {
    assert_eq!(subject.sink().columns(&schema().into()).expect("the suite's columns suit every sink"), None);

    let mut run = Run::open(subject, 1, 0);
    assert_eq!(run.held, None, "a new place holds nothing");
    (1..=3).for_each(|n| run.write(n));
    run.commit(3);
    run.write(4);
    run.poll();
    let mut committed = run.close();

    // many openings, some without a commit
    for generation in 2..=9 {
        let mut run = Run::open(subject, generation, committed);
        let last = run.committed + generation % 4;
        for n in run.committed + 1..=last {
            run.write(n);
            if n % 2 == 0 {
                run.poll();
            }
        }
        if generation % 3 == 0 {
            run.commit(last);
        }
        committed = run.close();
    }

    // a commit of nothing but an empty epoch moves the progress
    let mut run = Run::open(subject, 10, committed);
    let empty = (run.committed + 1..).find(|n| expected(*n).is_empty()).unwrap_or_default();
    for n in run.committed + 1..=empty {
        run.write(n);
        run.commit(n);
    }
    committed = run.close();

    // a sink that promises less has nobody to fence
    if subject.sink().guarantee(true) == Guarantee::ExactlyOnce {
        committed = late(subject, 11, committed, 0);
        committed = late(subject, 13, committed, 3);
        committed = refusing(subject, 15, committed);
    }
    Run::open(subject, 20, committed).close();
}

/// Rows that the outside refuses are told, whole, by every writer that tries to commit their epoch, and nothing of it is committed before they are bound. The
/// epochs have no other rows. Gives what is committed then.
fn refusing(subject: &mut dyn SinkSubject, generation: u64, committed: u64) -> u64 {
    let is_empty = |n: &u64| expected(*n).is_empty();
    let epoch = (committed + 1..).find(is_empty).unwrap_or_default();
    let Some(bad) = subject.refuses(epoch) else { return committed };
    let mut run = Run::open(subject, generation, committed);
    for n in committed + 1..epoch {
        run.write(n);
        run.commit(n);
    }
    run.close();
    // three that die before the rows are bound
    for generation in generation + 1..generation + 4 {
        let opened = subject.sink().open(context(1, generation, &schema())).expect("opens");
        assert_eq!(opened.progress.map_or(0, |p| p.epoch.0), epoch - 1, "an epoch was committed whose refused rows were never bound");
        let mut writer = opened.writer;
        let told = tell(subject, &mut *writer, &bad);
        assert_eq!((told.upto, told.rows.len()), (bad.epoch, bad.rows()), "{told:?}");
        for _ in 0..20 {
            subject.between_polls();
            let answer = writer.poll(Duration::from_millis(1)).expect("polls");
            assert!(answer.progress.is_none_or(|p| p.epoch.0 < epoch), "committed before its refused rows were bound");
            assert!(answer.refused.is_empty(), "told twice: {:?}", answer.refused);
        }
        writer.close().expect("closes");
        check(subject, generation, epoch - 1, epoch - 1);
    }
    let mut writer = subject.sink().open(context(1, generation + 4, &schema())).expect("opens").writer;
    assert_eq!(tell(subject, &mut *writer, &bad).bind().len(), bad.rows());
    commit(subject, &mut *writer, epoch);
    writer.close().expect("closes");
    check(subject, generation + 4, epoch, epoch);
    epoch
}

/// Gives the writer an epoch of which it has to tell something.
fn tell(subject: &mut dyn SinkSubject, writer: &mut dyn Writer, bad: &Closed) -> Refused {
    writer.write(bad.clone()).expect("takes an epoch");
    writer.flush().expect("flushes");
    for _ in 0..2000 {
        subject.between_polls();
        match writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => {}
            answer => {
                if let Some(refused) = answer.expect("polls").refused.pop() {
                    return refused;
                }
            }
        }
    }
    panic!("epoch {} has rows that are refused, and nobody is told", bad.epoch);
}

/// A writer that sleeps while a newer one takes its place, and wakes up when that has committed so many epochs: what it had taken fails, or nothing comes
/// of it, and the newer one goes on. Gives what is committed then.
fn late(subject: &mut dyn SinkSubject, generation: u64, committed: u64, epochs: u64) -> u64 {
    let mut old = subject.sink().open(context(1, generation, &schema())).expect("opens").writer;
    // two of which one has rows
    let taken = committed + 2;
    (committed + 1..=taken).for_each(|n| old.write(closed(n)).expect("takes an epoch"));
    let Ok(new) = subject.sink().open(context(1, generation + 1, &schema())) else {
        // whoever has the place keeps everybody else out: nobody was replaced
        commit(subject, &mut *old, taken);
        old.close().expect("closes");
        check(subject, generation, taken, taken);
        return taken;
    };
    assert_eq!(new.progress.map_or(0, |p| p.epoch.0), committed, "what the older writer had only taken is not held");
    let mut new = new.writer;
    let mut last = committed;
    let mut go_on = |subject: &mut dyn SinkSubject, epochs: u64| {
        for n in last + 1..=last + epochs {
            new.write(closed(n)).expect("takes an epoch");
            commit(subject, &mut *new, n);
            last = n;
        }
        last
    };
    let held = go_on(&mut *subject, epochs);
    wake(subject, &mut *old, generation, held);
    check(subject, generation + 1, held, held);
    let held = go_on(&mut *subject, 2);
    check(subject, generation + 1, held, held);
    let _ = old.close(); // whoever was replaced may say so
    check(subject, generation + 1, held, held);
    new.close().expect("closes");
    check(subject, generation + 1, held, held);
    held
}

/// Everything that the writer was given, the last of it `last`, is committed.
fn commit(subject: &mut dyn SinkSubject, writer: &mut dyn Writer, last: u64) {
    writer.flush().expect("flushes");
    for _ in 0..2000 {
        subject.between_polls();
        match writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => {}
            answer => {
                if answer.expect("polls").progress.is_some_and(|p| p.epoch.0 == last) {
                    return;
                }
            }
        }
    }
    panic!("epoch {last} was flushed and never committed");
}

/// Lets a writer that was replaced try to commit until it fails for good, for a bounded time; it must not say that it did.
fn wake(subject: &mut dyn SinkSubject, old: &mut dyn Writer, generation: u64, held: u64) {
    if old.flush().is_err_and(|e| e.retry() == Retry::Never) {
        return;
    }
    for _ in 0..400 {
        subject.between_polls();
        match old.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Never => return,
            Err(_) => {}
            Ok(answer) => {
                let own = answer.progress.filter(|p| p.writer.generation == generation && p.epoch.0 > held);
                assert!(own.is_none(), "a writer that was replaced says that it committed {own:?}");
            }
        }
    }
}

/// One opening, from open to close.
struct Run<'a> {
    subject: &'a mut dyn SinkSubject,
    writer: Box<dyn Writer>,
    held: Option<Progress>,
    generation: u64,
    written: u64,
    committed: u64,
}

impl<'a> Run<'a> {
    /// Opens after `committed`, and checks that a sink that promises it remembers that itself.
    fn open(subject: &'a mut dyn SinkSubject, generation: u64, committed: u64) -> Self {
        let strict = subject.sink().guarantee(true) == Guarantee::ExactlyOnce;
        // a look touches nothing, whoever looks, and sees no more than there is
        let _ = subject.sink().look(&context(2, generation + 50, &schema())); // a sink may refuse another ledger now, or when it is opened
        let seen = subject.sink().look(&context(1, generation + 50, &schema())).expect("can be looked at");
        let opened = subject.sink().open(context(1, generation, &schema())).expect("opens");
        let held = opened.progress;
        assert!(seen.is_none_or(|seen| held.is_some_and(|held| seen.epoch <= held.epoch)), "{seen:?} was seen, {held:?} is held");
        if strict && committed > 0 {
            let held = held.expect("the sink remembers what it committed");
            assert_eq!((held.part, held.writer.ledger), (0, 1));
            assert!(
                held.epoch.0 == committed || subject.commits_unheard() && held.epoch.0 > committed,
                "{held}, committed was {committed}"
            );
            assert!(held.writer.generation < generation, "an earlier generation wrote it");
        }
        let committed = committed.max(held.map_or(0, |p| p.epoch.0));
        Run { subject, writer: opened.writer, held, generation, written: committed, committed }
    }

    fn write(&mut self, n: u64) {
        self.writer.write(closed(n)).expect("takes an epoch");
        self.written = n;
    }

    fn poll(&mut self) {
        self.subject.between_polls();
        let answer = match self.writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => return,
            other => other.expect("polls"),
        };
        assert!(answer.refused.is_empty(), "nothing is wrong with these rows: {:?}", answer.refused);
        if let Some(progress) = answer.progress {
            assert_eq!((progress.writer.ledger, progress.part), (1, 0));
            assert!(progress.writer.generation <= self.generation, "{progress}");
            assert!(progress.epoch.0 >= self.committed, "progress {progress} went back");
            assert!(progress.epoch.0 <= self.written, "progress {progress} is beyond what was given");
            self.committed = progress.epoch.0;
        }
    }

    fn commit(&mut self, last: u64) {
        self.writer.flush().expect("flushes");
        for _ in 0..2000 {
            self.poll();
            if self.committed == last {
                check(self.subject, self.generation, self.committed, self.committed);
                return;
            }
        }
        panic!("epoch {last} was flushed and never committed");
    }

    /// Closes, and says up to which epoch the sink has committed.
    fn close(self) -> u64 {
        let Run { subject, writer, generation, committed, written, .. } = self;
        writer.close().expect("closes");
        let most = if subject.commits_unheard() { written } else { committed };
        check(subject, generation, committed, most);
        committed
    }
}

/// What is seen is what was committed: in order, once, and whole epochs up to `most` if a commit came through unheard. A sink that promises
/// less may show more.
fn check(subject: &mut dyn SinkSubject, generation: u64, committed: u64, most: u64) {
    let want: Vec<_> = (1..=committed).flat_map(expected).collect();
    let seen = subject.seen();
    if subject.sink().guarantee(true) == Guarantee::ExactlyOnce {
        let whole = (committed + 1..=most).any(|n| seen == (1..=n).flat_map(expected).collect::<Vec<_>>());
        assert!(whole || seen == want, "generation {generation}, committed up to epoch {committed}: {seen:?}");
    } else {
        let lost: Vec<_> = want.iter().filter(|r| !seen.contains(r)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}

#[cfg(test)]
mod tests;
