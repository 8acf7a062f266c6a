//! What the tools of the host are told: the `metrics` facade, the numbers that the handle names, and the spans around the engine, its
//! workers and the threads that write.
//!
//! Invariant: a counter counts what was read or refused and never goes back, a gauge says how it stood at the last quiet moment or, under
//! load, a second ago at most, and everything carries the name of its pipeline.

use crate::feed::collect;
use ::metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::data::Changes;
use orderflow_core::datafusion::prelude::{col, lit};
use orderflow_core::epoch::Limits;
use orderflow_core::format::{Format, json::Json};
use orderflow_core::pipeline::Stream;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::{Fetch, Fingerprint, PartitionStatus, Payload, Polled, Reader, Source, SourceContext, SourceStatus};
use orderflow_core::source::{file, memory};
use orderflow_core::store::Memory;
use orderflow_core::time::{Clock, Epoch, Partition, Positions};
use orderflow_core::{Pipeline, Result, sink};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field as Named, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

/// Five records: two are cut off or no object, and of the others one has no successor.
const RECORDS: &str = "{\"n\":1}\n{\"n\":\n{\"n\":2}\n[]\n{\"n\":9223372036854775807}\n";

/// A partition of [`Backlog::END`] records, record `i` of second `i + 1` since 1970, of which only the first ones may be read.
#[derive(Clone)]
struct Backlog(Arc<AtomicU64>);

struct BacklogReader {
    readable: Arc<AtomicU64>,
    at: u64,
    closed: bool,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn batch(numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef]).unwrap()
}

impl Backlog {
    const END: u64 = 5;

    fn readable(n: u64) -> Self {
        Self(Arc::new(AtomicU64::new(n)))
    }
}

impl Source for Backlog {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, _: SourceContext) -> Result<Box<dyn Reader>> {
        Ok(Box::new(BacklogReader { readable: self.0, at: 0, closed: false }))
    }
}

impl Reader for BacklogReader {
    fn poll(&mut self) -> Result<Polled> {
        let (from, to) = (self.at, self.readable.load(Ordering::SeqCst));
        if from == to {
            return Ok(Polled::Idle);
        }
        self.at = to;
        let mut fingerprint = Fingerprint::default();
        (from..to).for_each(|p| fingerprint.add(p, 0, None));
        let rows = (to - from) as usize;
        Ok(Polled::Fetch(Fetch {
            partition: Partition::new("events", 0),
            from,
            to,
            rows,
            bytes: 8 * rows,
            fingerprint: fingerprint.finish(),
            latest: Some(1000 * to as i64),
            payload: Payload::Rows(Changes::inserts(batch((from..to).map(|p| p as i64)))),
        }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    /// As Kafka's reader, it knows nothing any more when it was closed.
    fn status(&self) -> SourceStatus {
        if self.closed {
            return SourceStatus::default();
        }
        let partition = PartitionStatus { partition: Partition::new("events", 0), position: self.at, end: Some(Backlog::END) };
        SourceStatus { partitions: vec![partition], warnings: vec![] }
    }

    fn close(&mut self) -> Result<()> {
        self.closed = true;
        Ok(())
    }
}

/// A pipeline over the records above and a backlog, and the stream of its view `more`.
fn pipeline(folder: &Path, events: Backlog, clock: &Clock) -> (Pipeline, Stream) {
    let path = folder.join("numbers.jsonl");
    std::fs::write(&path, RECORDS).unwrap();
    let mut flow = Pipeline::new("measured");
    flow.source("numbers", file::JsonLines::file(path, Json::new(schema()))).unwrap();
    flow.source("events", events).unwrap();
    let more = flow.view("more", "SELECT n + 1 AS m FROM numbers").unwrap();
    flow.view("counts", "SELECT m, count(*) AS n FROM more GROUP BY m").unwrap();
    flow.view("seen", "SELECT sum(n) AS n FROM events").unwrap();
    (flow.clock(clock.clone()), more)
}

/// By name and labels: where a counter or a gauge stands, or all that a histogram was given.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<String, Vec<f64>>>>);

/// One of its lines.
struct Line {
    book: Book,
    name: String,
}

impl Book {
    fn line(&self, key: &Key) -> Arc<Line> {
        let labels: Vec<String> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        Arc::new(Line { book: self.clone(), name: format!("{}{{{}}}", key.name(), labels.join(",")) })
    }

    /// What is written under a name with the label of the pipeline, which all have, and one more.
    fn of(&self, name: &str, label: &str) -> Vec<f64> {
        self.0.lock().unwrap().get(&format!("{name}{{pipeline=measured{label}}}")).cloned().unwrap_or_default()
    }
}

impl Line {
    fn change(&self, to: impl FnOnce(f64) -> f64) {
        let mut book = self.book.0.lock().unwrap();
        let values = book.entry(self.name.clone()).or_insert_with(|| vec![0.0]);
        values[0] = to(values[0]);
    }
}

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        self.change(|at| at + value as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|at| at.max(value as f64));
    }
}

impl GaugeFn for Line {
    fn increment(&self, value: f64) {
        self.change(|at| at + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|at| at - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for Line {
    fn record(&self, value: f64) {
        self.book.0.lock().unwrap().entry(self.name.clone()).or_default().push(value);
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[test]
fn the_facade_is_told_what_was_read_and_refused_and_how_far_behind_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, events, book) = (Clock::manual(10_000), Backlog::readable(3), Book::default());
    let (flow, _) = pipeline(folder.path(), events.clone(), &clock);
    let flow = flow.dead_letters(DataSet::on(Arc::new(Memory::new()), "letters", JsonLines));
    ::metrics::with_local_recorder(&book, || {
        let mut stepper = flow.stepper().unwrap();
        stepper.settle().unwrap();
        assert_eq!(book.of("orderflow_source_rows_total", ",source=numbers"), [5.0]);
        assert_eq!(book.of("orderflow_source_bytes_total", ",source=numbers"), [RECORDS.len() as f64]);
        assert_eq!(book.of("orderflow_source_rows_total", ",source=events"), [3.0]);
        assert_eq!(book.of("orderflow_source_bytes_total", ",source=events"), [24.0]);
        assert_eq!(book.of("orderflow_source_lag", ",source=numbers"), [0.0]);
        assert_eq!(book.of("orderflow_source_lag", ",source=events"), [2.0]);
        let none: [f64; 0] = [];
        assert_eq!(book.of("orderflow_rejected_total", ",source=numbers"), none, "the epoch is not closed");
        assert_eq!(book.of("orderflow_source_watermark_seconds", ",source=events"), none);
        assert_eq!(book.of("orderflow_epoch_seconds", ""), none);

        // the epoch closes, and a quarter of a second later it is complete
        clock.advance(Duration::from_secs(1));
        stepper.step().unwrap();
        assert_eq!((stepper.status().minted, stepper.status().complete), (Epoch(1), Epoch(0)));
        clock.advance(Duration::from_millis(250));
        stepper.settle().unwrap();
        assert_eq!(stepper.status().complete, Epoch(1));
        assert_eq!(book.of("orderflow_epoch_seconds", ""), [0.25]);
        assert_eq!(book.of("orderflow_rejected_total", ",source=numbers"), [2.0]);
        assert_eq!(book.of("orderflow_rejected_total", ",source=more"), [1.0], "it has no successor");
        assert_eq!(book.of("orderflow_operator_rows_total", ",view=more,operator=map"), [2.0]);
        assert_eq!(book.of("orderflow_operator_rows_total", ",view=counts,operator=aggregate"), [2.0]);
        assert_eq!(book.of("orderflow_source_watermark_seconds", ",source=events"), [3.0]);
        assert_eq!(book.of("orderflow_source_watermark_seconds", ",source=numbers"), none, "lines of a file have no timestamps");
        assert_eq!(book.of("orderflow_source_lag_seconds", ",source=events"), [8.25]);
        assert_eq!(book.of("orderflow_source_lag_seconds", ",source=numbers"), [0.0]);

        // nothing is left to be read
        events.0.store(Backlog::END, Ordering::SeqCst);
        stepper.settle().unwrap();
        assert_eq!(book.of("orderflow_source_lag", ",source=events"), [0.0]);
        assert_eq!(book.of("orderflow_source_lag_seconds", ",source=events"), [0.0]);
        stepper.drain().unwrap();
        assert_eq!(book.of("orderflow_source_watermark_seconds", ",source=events"), [5.0]);
        assert_eq!(book.of("orderflow_source_rows_total", ",source=events"), [5.0]);
        assert_eq!(book.of("orderflow_epoch_seconds", ""), [0.25, 0.0]);
        assert_eq!(book.of("orderflow_rejected_total", ",source=numbers"), [2.0], "nothing is counted twice");

        // the end says how sources stood when they were closed
        let status = stepper.status();
        let last = &status.sources[1];
        let stand: Vec<_> = last.status.partitions.iter().map(|p| (p.position, p.end)).collect();
        assert_eq!((stand, last.lag(), last.watermark()), (vec![(Backlog::END, Some(Backlog::END))], 0, Some(5000)));
        assert_eq!(book.of("orderflow_source_lag", ",source=events"), [0.0]);
    });
}

#[test]
fn gauges_go_on_while_the_engine_is_never_idle() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, events, book) = (Clock::manual(10_000), Backlog::readable(0), Book::default());
    // the first epoch closes with the second event, the next one never
    let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 7, bytes: u64::MAX };
    let flow = pipeline(folder.path(), events.clone(), &clock).0.epochs(limits);
    let flow = flow.dead_letters(DataSet::on(Arc::new(Memory::new()), "letters", JsonLines));
    ::metrics::with_local_recorder(&book, || {
        let mut stepper = flow.stepper().unwrap();
        let told = || (book.of("orderflow_source_lag", ",source=events"), book.of("orderflow_source_watermark_seconds", ",source=events"));
        let mut seen = vec![];
        for readable in 1..=Backlog::END {
            events.0.store(readable, Ordering::SeqCst);
            assert_eq!(stepper.step().unwrap(), Some(true), "there is always something to do");
            seen.push(told());
            clock.advance(Duration::from_millis(500));
        }
        let (none, after) = ((vec![], vec![]), |lag: f64, watermark: f64| (vec![lag], vec![watermark]));
        assert_eq!(seen, [none.clone(), none, after(2.0, 2.0), after(2.0, 2.0), after(0.0, 2.0)]);
    });
}

#[test]
fn two_sinks_of_one_kind_on_one_view_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, book) = (Clock::manual(10_000), Book::default());
    let (flow, more) = pipeline(folder.path(), Backlog::readable(3), &clock);
    let set = |name: &str| DataSet::on(Arc::new(Memory::new()), name, JsonLines);
    for (name, least) in [("one", 3i64), ("both", 2)] {
        more.filter(col("m").gt_eq(lit(least))).unwrap().sink(set(name)).unwrap();
    }
    let flow = flow.dead_letters(set("letters"));
    ::metrics::with_local_recorder(&book, || {
        let mut stepper = flow.stepper().unwrap();
        stepper.settle().unwrap();
        stepper.drain().unwrap();
        let sinks: Vec<(String, u64)> = stepper.status().sinks.into_iter().map(|s| (s.label, s.rows)).collect();
        let expected = [("jsonl of more", 1), ("jsonl of more #2", 2), ("jsonl of dead letters", 3)];
        assert_eq!(sinks, expected.map(|(label, rows)| (label.to_owned(), rows)));
        for (whose, rows) in [("more", 2.0), ("jsonl of more", 1.0), ("jsonl of more #2", 2.0)] {
            assert_eq!(book.of("orderflow_operator_rows_total", &format!(",view={whose},operator=map")), [rows], "{whose}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handle_names_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(10_000);
    let (flow, more) = pipeline(folder.path(), Backlog::readable(3), &clock);
    let (out, rows) = sink::memory::sink(100);
    let (again, same_rows) = sink::memory::sink(100);
    let (dead, letters) = sink::memory::sink(100);
    more.sink(out.auto_ack()).unwrap().sink(again.auto_ack()).unwrap();
    let hosts = [collect(rows), collect(same_rows), collect(letters)];
    let running = flow.dead_letters(dead.auto_ack()).workers(2).start().await.unwrap();
    running.settled().await.unwrap();
    let status = running.drain().await.unwrap();
    let mut metrics: BTreeMap<String, f64> = running.metrics().into_iter().collect();
    let updates = metrics.remove("state_updates").unwrap();
    assert!(updates > 0.0 && updates == status.state_updates as f64, "{updates}");
    // of each partition, too: those of a file are called by its path
    let behind: Vec<_> = status.sources.iter().map(|s| s.lags.iter().map(|l| (l.records, l.time)).collect::<Vec<_>>()).collect();
    assert_eq!(behind, [[(Some(0), Some(Duration::ZERO))], [(Some(2), Some(Duration::from_secs(7)))]]);
    for (source, lag) in status.sources.iter().flat_map(|s| s.lags.iter().map(move |lag| (&s.name, lag))) {
        let labels = format!("{{source={source},partition={}}}", lag.partition);
        assert_eq!(metrics.remove(&format!("lag{labels}")), lag.records.map(|n| n as f64), "{labels}");
        assert_eq!(metrics.remove(&format!("lag_seconds{labels}")), lag.time.map(|t| t.as_secs_f64()), "{labels}");
    }
    let expected = [
        ("rows{source=numbers}", 5.0),
        ("bytes{source=numbers}", RECORDS.len() as f64),
        ("lag{source=numbers}", 0.0),
        ("lag_seconds{source=numbers}", 0.0),
        ("rows{source=events}", 3.0),
        ("bytes{source=events}", 24.0),
        ("lag{source=events}", 2.0),
        ("lag_seconds{source=events}", 7.0),
        ("watermark_seconds{source=events}", 3.0),
        ("rows{sink=memory of more}", 2.0),
        ("pending_bytes{sink=memory of more}", 0.0),
        ("rows{sink=memory of more #2}", 2.0),
        ("pending_bytes{sink=memory of more #2}", 0.0),
        ("rows{sink=memory of dead letters}", 3.0),
        ("pending_bytes{sink=memory of dead letters}", 0.0),
        ("rows{view=counts,operator=map}", 2.0),
        ("rows{view=counts,operator=aggregate}", 2.0),
        ("rows{view=more,operator=map}", 2.0),
        ("rows{view=seen,operator=map}", 1.0),
        ("rows{view=seen,operator=aggregate}", 1.0),
        ("rejected{from=numbers}", 2.0),
        ("rejected{from=more}", 1.0),
        ("epoch{at=minted}", 1.0),
        ("epoch{at=complete}", 1.0),
        ("epoch{at=committed}", 1.0),
        ("epoch_seconds", 0.0),
    ];
    assert_eq!(metrics, BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value))));
    let given = hosts.map(|host| host.join().unwrap().iter().flat_map(|d| &d.changes).map(Changes::len).sum::<usize>());
    assert_eq!(given, [2, 2, 3], "what the sinks were given is what they are said to have been given");
}

/// The pipeline whose spans and events are listened to.
const HEARD: &str = "heard";

/// Its spans, and its events with the span around them. It is the subscriber of all threads of the process, so it hears every test.
#[derive(Clone, Default)]
struct Listener {
    spans: Arc<Mutex<BTreeMap<u64, String>>>,
    /// Which thread was in which of them.
    entered: Arc<Mutex<BTreeSet<String>>>,
    events: Arc<Mutex<Vec<String>>>,
    last: Arc<AtomicU64>,
}

thread_local! {
    /// Spans that this thread is in, the innermost last.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(vec![]) };
}

/// Fields by name, as text.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Named, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Fields {
    fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    fn are_of(&self, pipeline: &str) -> bool {
        self.0.get("pipeline").is_some_and(|p| p == pipeline)
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("orderflow_core")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let (id, mut fields) = (self.last.fetch_add(1, Ordering::SeqCst) + 1, Fields::default());
        span.record(&mut fields);
        if fields.are_of(HEARD) {
            self.spans.lock().unwrap().insert(id, format!("{}{{{}}}", span.metadata().name(), fields.text()));
        }
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.are_of(HEARD) {
            let around = INSIDE.with_borrow(|inside| inside.last().and_then(|id| self.spans.lock().unwrap().get(id).cloned()));
            self.events.lock().unwrap().push(format!("{}: {}", around.unwrap_or_default(), fields.text()));
        }
    }

    fn enter(&self, span: &Id) {
        if let Some(name) = self.spans.lock().unwrap().get(&span.into_u64()) {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            self.entered.lock().unwrap().insert(format!("{thread}: {name}"));
        }
        INSIDE.with_borrow_mut(|inside| inside.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        INSIDE.with_borrow_mut(|inside| inside.retain(|id| *id != span.into_u64()));
    }
}

#[tokio::test]
async fn each_thread_runs_in_a_span_with_the_name_of_the_pipeline() {
    let listener = Listener::default();
    tracing::subscriber::set_global_default(listener.clone()).expect("no other test of this binary sets one");
    let folder = tempfile::tempdir().unwrap();
    let (sender, source) = memory::channel(schema(), 10);
    let (out, rows) = sink::memory::sink(100);
    let (dead, letters) = sink::memory::sink(100);
    let hosts = [collect(rows), collect(letters)];
    let mut flow = Pipeline::new(HEARD);
    flow.source("numbers", source).unwrap();
    flow.view("total", "SELECT sum(n) AS n FROM numbers").unwrap().sink(out.auto_ack()).unwrap();
    let flow = flow.dead_letters(dead.auto_ack()).state(folder.path().join("state"));
    let running = flow.workers(2).start().await.unwrap();
    sender.send(batch([1, 2])).await.unwrap();
    running.settled().await.unwrap();
    drop(sender);
    running.wait().await.unwrap();
    hosts.into_iter().for_each(|host| drop(host.join().unwrap()));
    let entered: Vec<String> = listener.entered.lock().unwrap().iter().cloned().collect();
    let expected = [
        "heard-checkpoints: orderflow_state{part=checkpoints pipeline=heard}",
        "heard-engine: orderflow{pipeline=heard}",
        "heard-ledger: orderflow_state{part=ledger pipeline=heard}",
        "heard-sink: orderflow_sink{pipeline=heard sink=memory of dead letters}",
        "heard-sink: orderflow_sink{pipeline=heard sink=memory of total}",
        "heard-worker-0: orderflow_worker{pipeline=heard worker=0}",
        "heard-worker-1: orderflow_worker{pipeline=heard worker=1}",
    ];
    assert_eq!(entered, expected);
    let events = listener.events.lock().unwrap();
    let closed = "orderflow{pipeline=heard}: epoch=1 message=epoch closed pipeline=heard rows=2";
    assert!(events.iter().any(|e| e == closed), "{events:?}");
}
