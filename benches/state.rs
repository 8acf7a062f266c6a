//! State that comes back: how long a start takes until views answer and new output flows, from stored state against reading everything
//! again; what a checkpoint writes against what changed; and what state costs while records flow.
//!
//! `cargo bench --bench state -- [--scale N] [--only PART-OF-NAME]`: 5,000,000 groups of 50,000,000 records, and the minimum and maximum of
//! 5,000,000, both divided by N (default 50).
//!
//! Invariant: both sides read the same records, made from their numbers in memory (cheaper than any topic, so reading again is timed at its
//! best), on two workers, and come to the same answer. On the standard output stands one line a figure: name, ours, against, ratio, goal.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a measuring program is a host, not a guest")]

#[path = "limit/mod.rs"]
mod limit;

use limit::{Discard, runtime};
use orderflow::arrow::array::AsArray;
use orderflow::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use orderflow::format::{Format, json::Json};
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Sink, SinkContext, Writer};
use orderflow::source::{Fetch, Fingerprint, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus, Waker};
use orderflow::time::{Partition, Positions};
use orderflow::{Error, Pipeline, Result, Running};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Records of one fetch.
const FETCH: u64 = 8000;
/// Records that come after the state was stored, each of a group of its own that was not there before.
const NEW: u64 = 10_000;

/// Small records: record `i` is of one of `groups` groups, which take turns, and its value is `i`.
#[derive(Clone)]
struct Numbers {
    groups: u64,
    /// Records that were of these groups; those after them are of new ones.
    old: u64,
    there: Arc<There>,
}

/// How many records there are.
#[derive(Default)]
struct There {
    records: AtomicU64,
    waker: Mutex<Waker>,
}

impl Numbers {
    fn new(groups: u64, old: u64, records: u64) -> Self {
        Self { groups, old, there: Arc::new(There { records: records.into(), waker: Mutex::default() }) }
    }

    /// More records come in.
    fn grow(&self, by: u64) {
        self.there.records.fetch_add(by, Ordering::SeqCst);
        self.there.waker.lock().unwrap().wake();
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Int64, false)]))
    }

    fn key(&self, i: u64) -> u64 {
        // neighbours far apart: groups of a shop do not come in order
        if i < self.old { i.wrapping_mul(7_368_787) % self.groups } else { self.groups + (i - self.old) }
    }
}

impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        Self::schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(Arc::new(Json::new(Self::schema())))
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        *self.there.waker.lock().unwrap() = context.wake;
        let partition = Partition::new("numbers", 0);
        let at = context.resume.and_then(|r| r.get(&partition).copied()).unwrap_or(0);
        Ok(Box::new(NumbersReader { numbers: *self, partition, at }))
    }
}

struct NumbersReader {
    numbers: Numbers,
    partition: Partition,
    at: u64,
}

impl Reader for NumbersReader {
    fn poll(&mut self) -> Result<Polled> {
        use std::io::Write;
        let (from, to) = (self.at, (self.at + FETCH).min(self.numbers.there.records.load(Ordering::SeqCst)));
        if from == to {
            return Ok(Polled::Idle);
        }
        let (mut bytes, mut ends, mut fingerprint) = (vec![], vec![0], Fingerprint::default());
        for i in from..to {
            write!(bytes, "{{\"k\":{},\"v\":{i}}}", self.numbers.key(i)).unwrap();
            fingerprint.add(i, bytes.len() - ends[ends.len() - 1], None);
            ends.push(bytes.len());
        }
        self.at = to;
        Ok(Polled::Fetch(Fetch {
            partition: self.partition.clone(),
            from,
            to,
            rows: ends.len() - 1,
            bytes: bytes.len(),
            fingerprint: fingerprint.finish(),
            latest: fingerprint.latest(),
            payload: Payload::Raw(Box::new(Batch { bytes, ends, from })),
        }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let (partition, end) = (self.partition.clone(), Some(self.numbers.there.records.load(Ordering::SeqCst)));
        SourceStatus { partitions: vec![orderflow::source::PartitionStatus { partition, position: self.at, end }], warnings: vec![] }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    from: u64,
}

impl RawBatch for Batch {
    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let value = Some(&self.bytes[self.ends[i]..self.ends[i + 1]]);
        RawRecord { value, key: None, position: self.from + i as u64, timestamp: None }
    }
}

/// Notes when the first row of a new group comes.
struct Watch {
    new_from: i64,
    seen: Arc<OnceLock<Instant>>,
}

struct Watching {
    new_from: i64,
    seen: Arc<OnceLock<Instant>>,
    below: Box<dyn Writer>,
}

impl Sink for Watch {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        Discard::default().columns(input)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "watch"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let below = Box::new(Discard::default()).open(context)?.writer;
        Ok(Opened { writer: Box::new(Watching { new_from: self.new_from, seen: self.seen, below }), progress: None })
    }
}

impl Writer for Watching {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let new = |k: &i64| *k >= self.new_from;
        if closed.changes.iter().any(|c| c.rows().column(0).as_primitive::<Int64Type>().values().iter().any(new)) {
            self.seen.get_or_init(Instant::now);
        }
        self.below.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        self.below.flush()
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        self.below.poll(wait)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.below.close()
    }
}

/// A pipeline to be measured.
struct Case {
    sql: &'static str,
    groups: u64,
    records: u64,
}

impl Case {
    fn numbers(&self, records: u64) -> Numbers {
        Numbers::new(self.groups, self.records, records)
    }

    async fn start(&self, source: Numbers, state: Option<&Path>, seen: &Arc<OnceLock<Instant>>) -> Result<Running> {
        let mut flow = Pipeline::new("state");
        flow.source("numbers", source)?;
        flow.view("totals", self.sql)?.sink(Watch { new_from: self.groups as i64, seen: seen.clone() })?;
        let flow = flow.workers(2).dead_letters(Discard::default());
        match state {
            Some(folder) => flow.state(folder),
            None => flow,
        }
        .start()
        .await
    }

    /// (seconds until the views answer with everything, seconds until the first new row is with the sink).
    async fn comes_back(&self, state: Option<&Path>) -> Result<(f64, f64)> {
        let (seen, began) = (Arc::new(OnceLock::new()), Instant::now());
        let running = self.start(self.numbers(self.records + NEW), state, &seen).await?;
        let answered = loop {
            // from stored state everything is there before anything is read
            if state.is_none() {
                running.settled().await?;
            }
            let rows = running.query("SELECT count(*) FROM totals").await?;
            if rows[0].column(0).as_primitive::<Int64Type>().value(0) as u64 >= self.groups {
                break began.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        running.settled().await?;
        while seen.get().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(running.status().restored.is_some(), state.is_some(), "it began as it should");
        let rows = running.query("SELECT count(*) FROM totals").await?;
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0) as u64, self.groups + NEW, "nothing is missing");
        running.stop().await?;
        let flows = seen.get().map_or(Duration::MAX, |at| at.duration_since(began));
        Ok((answered.as_secs_f64(), flows.as_secs_f64()))
    }

    /// Seconds until all records but the new ones are in the views, without the last checkpoint.
    async fn runs(&self, state: Option<&Path>) -> Result<f64> {
        let began = Instant::now();
        let running = self.start(self.numbers(self.records), state, &Arc::default()).await?;
        running.settled().await?;
        let seconds = began.elapsed().as_secs_f64();
        running.drain().await?;
        Ok(seconds)
    }
}

fn line(name: &str, ours: f64, against: f64, goal: &str) {
    println!("{name}\t{ours:.3}\t{against:.3}\t{:.2}\t{goal}", against / ours);
}

async fn restore(name: &str, case: &Case, goal: &str, folder: &Path) -> Result<()> {
    let state = folder.join(name.replace(' ', "-"));
    let with = case.runs(Some(&state)).await?;
    let without = case.runs(None).await?;
    let (answers, flows) = case.comes_back(Some(&state)).await?;
    let (answers_again, flows_again) = case.comes_back(None).await?;
    line(&format!("{name}, s until views answer: stored, read again"), answers, answers_again, goal);
    line(&format!("{name}, s until new output flows: stored, read again"), flows, flows_again, goal);
    line(&format!("{name}, s for all records: with state, without"), with, without, ">= 0.95");
    Ok(())
}

/// Bytes that checkpoints write over those of the rows that changed, which are 24 each.
async fn written(groups: u64, folder: &Path) -> Result<()> {
    let case = Case { sql: TOTALS, groups, records: u64::MAX };
    let (numbers, touched) = (case.numbers(groups), groups / 20);
    let running = case.start(numbers.clone(), Some(&folder.join("written")), &Arc::default()).await?;
    running.settled().await?;
    running.checkpoint().await?;
    let (before, rounds) = (running.status(), 20);
    for _ in 0..rounds {
        numbers.grow(touched);
        running.settled().await?;
        running.checkpoint().await?;
    }
    let after = running.status();
    running.stop().await?;
    let changed = (rounds * touched * 24) as f64 / 1e6;
    let mb = |from: u64, to: u64| (to - from) as f64 / 1e6;
    let (bytes, merged) = (mb(before.checkpoint_bytes, after.checkpoint_bytes), mb(before.merged_bytes, after.merged_bytes));
    println!("MB written by checkpoints, of changed rows\t{bytes:.3}\t{changed:.3}\t{:.2}\t<= 2", bytes / changed);
    println!("MB written by merging, of changed rows\t{merged:.3}\t{changed:.3}\t{:.2}\tcounted apart", merged / changed);
    Ok(())
}

const TOTALS: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM numbers GROUP BY k";
const EXTREMES: &str = "SELECT k, min(v) AS low, max(v) AS high FROM numbers GROUP BY k";

fn main() -> Result<()> {
    let (mut scale, mut only) = (50, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Error::user(format!("{arg} wants a value")));
        match arg.as_str() {
            "--bench" => {} // from cargo
            "--scale" => scale = value()?.parse().map_err(|_| Error::user("--scale wants a number"))?,
            "--only" => only = value()?,
            _ => return Err(Error::user(format!("unknown option {arg}"))),
        }
    }
    let folder = std::env::temp_dir().join(format!("orderflow-state-{}", std::process::id()));
    let wanted = |name: &str| name.contains(&only);
    let outcome = runtime().block_on(async {
        if wanted("groups") {
            let case = Case { sql: TOTALS, groups: 5_000_000 / scale, records: 50_000_000 / scale };
            restore(&format!("{} groups of {} records", case.groups, case.records), &case, ">= 10", &folder).await?;
        }
        if wanted("extremes") {
            let case = Case { sql: EXTREMES, groups: 1000, records: 5_000_000 / scale };
            restore(&format!("extremes of {} records", case.records), &case, ">= 3", &folder).await?;
        }
        if wanted("written") {
            written(1_000_000 / scale, &folder).await?;
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&folder); // nothing is there if nothing ran
    outcome
}
