//! State that comes back: how long a start takes until views answer and new output flows, from stored state against reading everything
//! again; what a checkpoint writes against what changed; what checkpoints cost while records flow, and for how long they hold epochs up.
//!
//! `cargo bench --bench state -- [--scale N] [--seconds S] [--only groups|extremes|written|pause]`: 5,000,000 groups of 50,000,000 records, and the
//! minimum and maximum of 5,000,000, both divided by N (default 50, which takes minutes; 1 is the whole). Pauses are looked for in S seconds (default 10).
//!
//! Invariant: both sides read the same records, made from their numbers in memory (cheaper than any topic, so reading again is timed at its
//! best), on two workers, and come to the same answer. On the standard output stands one line a figure, by tabs: name, value, unit, goal.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a measuring program is a host, not a guest")]

#[path = "limit/mod.rs"]
mod limit;

use limit::{Discard, runtime};
use orderflow::arrow::array::AsArray;
use orderflow::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use orderflow::format::{Format, json::Json};
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Sink, SinkContext, Writer};
use orderflow::source::{Fetch, Fingerprint, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus, Waker};
use orderflow::time::{Epoch, Partition, Positions};
use orderflow::{Error, Pipeline, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Records of one fetch.
const FETCH: u64 = 8000;
/// Records that come after the state was stored, each of a group of its own that was not there before.
const NEW: u64 = 10_000;
/// How often views are stored at the full size; a cut has as many checkpoints for its records.
const EVERY: Duration = Duration::from_secs(10);
/// Records a second where pauses are looked for: few enough that the workers have time left.
const RATE: u64 = 100_000;
/// How long an epoch is there.
const EPOCH: Duration = Duration::from_millis(100);
/// How often views are stored there.
const PAUSED_EVERY: Duration = Duration::from_secs(1);
/// Never while it runs.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// How often a run is looked at.
const TICK: Duration = Duration::from_millis(5);

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

/// What came to a sink, and when.
#[derive(Default)]
struct Seen {
    /// The first row of a new group.
    new: OnceLock<Instant>,
    /// Every epoch.
    epochs: Mutex<Vec<Instant>>,
}

impl Seen {
    /// The longest time without an epoch.
    fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let epochs = self.epochs.lock().unwrap();
        let between = epochs.iter().copied().filter(|at| (from..to).contains(at));
        let times: Vec<Instant> = std::iter::once(from).chain(between).chain([to]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Notes when epochs come, and the first row of a new group.
struct Watch {
    new_from: i64,
    seen: Arc<Seen>,
}

struct Watching {
    new_from: i64,
    seen: Arc<Seen>,
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
        self.seen.epochs.lock().unwrap().push(Instant::now());
        let new = |k: &i64| *k >= self.new_from;
        if closed.changes.iter().any(|c| c.rows().column(0).as_primitive::<Int64Type>().values().iter().any(new)) {
            self.seen.new.get_or_init(Instant::now);
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

    fn flow(&self, source: Numbers, state: Option<&Path>, seen: &Arc<Seen>) -> Result<Pipeline> {
        let mut flow = Pipeline::new("state");
        flow.source("numbers", source)?;
        flow.view("totals", self.sql)?.sink(Watch { new_from: self.groups as i64, seen: seen.clone() })?;
        let flow = flow.workers(2).dead_letters(Discard::default());
        Ok(match state {
            Some(folder) => flow.state(folder),
            None => flow,
        })
    }

    /// (seconds until the views answer with everything, seconds until the first new row is with the sink).
    async fn comes_back(&self, state: Option<&Path>) -> Result<(f64, f64)> {
        let (seen, began) = (Arc::<Seen>::default(), Instant::now());
        let running = self.flow(self.numbers(self.records + NEW), state, &seen)?.start().await?;
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
        while seen.new.get().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(running.status().restored.is_some(), state.is_some(), "it began as it should");
        let rows = running.query("SELECT count(*) FROM totals").await?;
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0) as u64, self.groups + NEW, "nothing is missing");
        running.stop().await?;
        let flows = seen.new.get().map_or(Duration::MAX, |at| at.duration_since(began));
        Ok((answered.as_secs_f64(), flows.as_secs_f64()))
    }

    /// (seconds until all records but the new ones are in the views, without the last checkpoint; complete checkpoints until then).
    async fn runs(&self, state: Option<&Path>, every: Duration) -> Result<(f64, usize)> {
        let began = Instant::now();
        let flow = self.flow(self.numbers(self.records), state, &Arc::default())?;
        let running = flow.checkpoint_every(every).start().await?;
        let mut checkpoints = BTreeSet::new();
        {
            let settled = running.settled();
            tokio::pin!(settled);
            loop {
                tokio::select! {
                    done = &mut settled => {
                        done?;
                        break;
                    }
                    () = tokio::time::sleep(TICK) => checkpoints.extend(running.status().checkpoint),
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        running.drain().await?;
        Ok((seconds, checkpoints.len()))
    }

    /// (the longest time between two epochs while records flow steadily for `time`, complete checkpoints meanwhile). All groups are there before that, and
    /// stored.
    async fn gap(&self, folder: &Path, every: Duration, time: Duration) -> Result<(Duration, usize)> {
        let (numbers, seen) = (Numbers::new(self.groups, u64::MAX, self.records), Arc::<Seen>::default());
        let flow = self.flow(numbers.clone(), Some(folder), &seen)?;
        let running = flow.epoch_interval(EPOCH).checkpoint_every(every).start().await?;
        running.settled().await?;
        let before = running.checkpoint().await?;
        let (mut checkpoints, mut given, began) = (BTreeSet::<Epoch>::new(), 0, Instant::now());
        while began.elapsed() < time {
            let due = (began.elapsed().as_secs_f64() * RATE as f64) as u64;
            numbers.grow(due - given);
            given = due;
            checkpoints.extend(running.status().checkpoint.filter(|epoch| *epoch > before));
            tokio::time::sleep(TICK).await;
        }
        let gap = seen.longest_gap(began, Instant::now());
        running.stop().await?;
        Ok((gap, checkpoints.len()))
    }
}

fn line(name: &str, value: f64, unit: &str, goal: &str) {
    println!("{name}\t{value:.3}\t{unit}\t{goal}");
}

async fn restore(name: &str, case: &Case, every: Duration, goal: &str, folder: &Path) -> Result<()> {
    let state = folder.join(name.replace(' ', "-"));
    let (with, checkpoints) = case.runs(Some(&state), every).await?;
    let (without, _) = case.runs(None, every).await?;
    let (answers, flows) = case.comes_back(Some(&state)).await?;
    let (answers_again, flows_again) = case.comes_back(None).await?;
    for (until, stored, again) in [("views answer", answers, answers_again), ("new output flows", flows, flows_again)] {
        line(&format!("{name}, until {until}, from stored state"), stored, "s", "-");
        line(&format!("{name}, until {until}, reading again"), again, "s", "-");
        line(&format!("{name}, until {until}, reading again over stored state"), again / stored, "times", goal);
    }
    line(&format!("{name}, checkpoints on"), case.records as f64 / with, "records/s", "-");
    line(&format!("{name}, checkpoints off"), case.records as f64 / without, "records/s", "-");
    line(&format!("{name}, checkpoints on over off"), without / with, "times", ">= 0.95");
    line(&format!("{name}, complete checkpoints meanwhile"), checkpoints as f64, "checkpoints", "> 0");
    Ok(())
}

/// What checkpoints hold up: the longest gap between two epochs with them, over the one without.
async fn pause(name: &str, case: &Case, time: Duration, folder: &Path) -> Result<()> {
    let state = |which: &str| folder.join(format!("pause-{}-{which}", name.replace(' ', "-")));
    let (on, checkpoints) = case.gap(&state("on"), PAUSED_EVERY, time).await?;
    let (off, stray) = case.gap(&state("off"), NEVER, time).await?;
    line(&format!("{name}, longest gap between epochs, checkpoints on"), on.as_secs_f64() * 1e3, "ms", "-");
    line(&format!("{name}, longest gap between epochs, checkpoints off"), off.as_secs_f64() * 1e3, "ms", "-");
    line(&format!("{name}, pause of a checkpoint"), on.saturating_sub(off).as_secs_f64() / EPOCH.as_secs_f64(), "epochs", "<= 1");
    line(&format!("{name}, complete checkpoints meanwhile, on"), checkpoints as f64, "checkpoints", "> 0");
    line(&format!("{name}, complete checkpoints meanwhile, off"), stray as f64, "checkpoints", "0");
    Ok(())
}

/// Bytes that checkpoints write over those of the rows that changed, which are 24 each.
async fn written(groups: u64, folder: &Path) -> Result<()> {
    let case = Case { sql: TOTALS, groups, records: u64::MAX };
    let (numbers, touched) = (case.numbers(groups), groups / 20);
    let running = case.flow(numbers.clone(), Some(&folder.join("written")), &Arc::default())?.start().await?;
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
    line("changed rows", changed, "MB", "-");
    line("written by checkpoints", bytes, "MB", "-");
    line("written by checkpoints over changed rows", bytes / changed, "times", "<= 2");
    line("written by merging over changed rows", merged / changed, "times", "-");
    Ok(())
}

const TOTALS: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM numbers GROUP BY k";
const EXTREMES: &str = "SELECT k, min(v) AS low, max(v) AS high FROM numbers GROUP BY k";

fn main() -> Result<()> {
    let (mut scale, mut seconds, mut only) = (50_u32, 10_u64, String::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Error::user(format!("{arg} wants a value")));
        match arg.as_str() {
            "--bench" => {} // from cargo
            "--scale" => scale = value()?.parse().map_err(|_| Error::user("--scale wants a number"))?,
            "--seconds" => seconds = value()?.parse().map_err(|_| Error::user("--seconds wants a number"))?,
            "--only" => only = value()?,
            _ => return Err(Error::user(format!("unknown option {arg}"))),
        }
    }
    let folder = std::env::temp_dir().join(format!("orderflow-state-{}", std::process::id()));
    let wanted = |name: &str| name.contains(&only);
    let (every, time) = (EVERY / scale, Duration::from_secs(seconds));
    let scale = u64::from(scale);
    let outcome = runtime().block_on(async {
        if wanted("groups") {
            let case = Case { sql: TOTALS, groups: 5_000_000 / scale, records: 50_000_000 / scale };
            restore(&format!("{} groups of {} records", case.groups, case.records), &case, every, ">= 10", &folder).await?;
        }
        if wanted("extremes") {
            let case = Case { sql: EXTREMES, groups: 1000, records: 5_000_000 / scale };
            restore(&format!("extremes of {} records", case.records), &case, every, ">= 3", &folder).await?;
        }
        if wanted("written") {
            written(1_000_000 / scale, &folder).await?;
        }
        if wanted("pause") {
            let case = Case { sql: TOTALS, groups: 5_000_000 / scale, records: 5_000_000 / scale };
            pause(&format!("{} groups", case.groups), &case, time, &folder).await?;
            let case = Case { sql: EXTREMES, groups: 1000, records: 5_000_000 / scale };
            pause(&format!("extremes of {} records", case.records), &case, time, &folder).await?;
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&folder); // nothing is there if nothing ran
    outcome
}
