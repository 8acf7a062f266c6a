//! The sink contract as a suite: what is committed stays, in order and once; what is not is not seen; and of two writers only the newer one counts.
//!
//! Invariant: the suite behaves as the engine does: it never gives an epoch at or below the progress, and after a restart it
//! goes on after what the sink itself remembers or, for a sink that promises less, after what it had acknowledged.

use crate::data::Changes;
use crate::error::Retry;
use crate::sink::{Closed, Guarantee, Progress, Sink, SinkContext, Writer, WriterId};
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
    }
    Run::open(subject, 15, committed).close();
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
mod tests {
    use super::*;
    use crate::error::{Error, Result};
    use crate::operator::closure::panic_text;
    use crate::sink::{Column, Committed, Input, Opened};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Mutex, MutexGuard};

    /// Who may commit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fence {
        /// Whoever opened it last.
        Newest,
        /// Whoever brings what is not there yet.
        Progress,
        /// Everybody.
        Nobody,
    }

    /// Rows and progress, stored in one act.
    #[derive(Default)]
    struct Held {
        rows: Vec<SeenRow>,
        progress: Option<Progress>,
        newest: u64,
    }

    #[derive(Clone)]
    struct Shelf(Arc<Mutex<Held>>, Fence);

    impl Shelf {
        fn held(&self) -> MutexGuard<'_, Held> {
            self.0.lock().unwrap()
        }
    }

    impl Sink for Shelf {
        fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
            Ok(None)
        }

        fn guarantee(&self, _kept: bool) -> Guarantee {
            Guarantee::ExactlyOnce
        }

        fn kind(&self) -> &'static str {
            "shelf"
        }

        fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
            let mut held = self.held();
            held.newest = context.writer.generation;
            let progress = held.progress;
            drop(held);
            let writer = ShelfWriter { shelf: *self, writer: context.writer, taken: vec![], due: false, progress };
            Ok(Opened { writer: Box::new(writer), progress })
        }
    }

    struct ShelfWriter {
        shelf: Shelf,
        writer: WriterId,
        taken: Vec<Epoch>,
        due: bool,
        progress: Option<Progress>,
    }

    impl Writer for ShelfWriter {
        fn write(&mut self, closed: Closed) -> Result<()> {
            self.taken.push(closed.epoch);
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            self.due = !self.taken.is_empty();
            Ok(())
        }

        fn poll(&mut self, _: Duration) -> Result<Committed> {
            if std::mem::take(&mut self.due)
                && let (Some(first), Some(last)) = (self.taken.first().copied(), self.taken.last().copied())
            {
                let mut held = self.shelf.held();
                let may = match self.shelf.1 {
                    Fence::Newest => held.newest == self.writer.generation,
                    Fence::Progress => held.progress.is_none_or(|p| p.epoch < first),
                    Fence::Nobody => true,
                };
                if !may {
                    return Err(Error::external("another writer has taken over").permanent());
                }
                held.rows.extend(self.taken.drain(..).flat_map(|epoch| expected(epoch.0)));
                held.progress = Some(Progress { writer: self.writer, epoch: last, part: 0 });
                self.progress = held.progress;
            }
            Ok(Committed { progress: self.progress, ..Committed::default() })
        }

        fn close(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    impl SinkSubject for Shelf {
        fn sink(&mut self) -> Box<dyn Sink> {
            Box::new(self.clone())
        }

        fn seen(&mut self) -> Vec<SeenRow> {
            self.held().rows.clone()
        }
    }

    /// What the suite says of such a sink.
    fn judged(fence: Fence) -> std::result::Result<(), String> {
        let run = || sink(&mut Shelf(Arc::default(), fence));
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
    }

    #[test]
    fn a_sink_that_does_not_fence_its_older_writer_fails() {
        assert_eq!(judged(Fence::Newest), Ok(()));
        for fence in [Fence::Progress, Fence::Nobody] {
            let said = judged(fence).unwrap_err();
            assert!(said.contains("a writer that was replaced says that it committed"), "{fence:?}: {said}");
        }
    }
}
