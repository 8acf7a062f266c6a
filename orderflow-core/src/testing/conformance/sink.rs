//! The sink contract as a suite: what is committed stays, in order and once; what is not is not seen.
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
    run.close();
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
