//! A pipeline that runs for long at a steady rate, while groups come and go and it is stopped, killed and started: nothing piles up.
//!
//! The test runs itself as a child, whose memory is read from `/proc`. Its source is a tide of rows: each is withdrawn when so many more have come, so the
//! views have the same size for ever, and whatever grows after a while, is a leak. A process that is really killed takes its memory with it, so here a kill cuts
//! the [`Line`] to the outside: from one call to the next nothing gets through, nothing is tidied up, and the memory stays where it can be seen. Invariant: flatness is judged by what a straight line through the samples
//! after the warm-up gains, never by time; and at the end table and files say what a batch computation over the rows that are left says.

use crate::support::{asked, data_files};
use crate::tier;
use orderflow::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use orderflow::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use orderflow::data::Changes;
use orderflow::format::Format;
use orderflow::sink::Sink;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sinks::{Parquet, Sql};
use orderflow::source::{Fetch, Fingerprint, PartitionStatus, Payload, Polled, Reader, Source, SourceContext, SourceStatus};
use orderflow::store::{Folder, Store, Upload};
use orderflow::time::{Clock, Partition, Positions};
use orderflow::{Error, Pipeline, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sqlx::{ConnectOptions, Row, sqlite};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Rows that are there at any time.
const LIVE: u64 = 8_000;
/// Rows of one group, which come one after the other and go so.
const GROUP: u64 = 40;
/// Changes a second: fewer where they come for minutes beside other tests.
fn rate() -> u64 {
    tier::of(4_000, 1_500, 4_000)
}

/// The row that comes as number `i`: its group, a value, and who it is of.
fn row(i: u64) -> [i64; 3] {
    let h = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    [(i / GROUP) as i64, (h % 1000) as i64, (h >> 40) as i64 % 17]
}

/// The change at a position: which row, and whether it comes or goes. The first rows only come, then each that comes makes one go.
fn change(position: u64) -> (u64, i64) {
    match position.checked_sub(LIVE) {
        None => (position, 1),
        Some(later) if later % 2 == 0 => (later / 2, -1),
        Some(later) => (LIVE + later / 2, 1),
    }
}

/// Numbers of the rows that are there after so many changes.
fn live(changes: u64) -> std::ops::Range<u64> {
    let later = changes.saturating_sub(LIVE);
    later.div_ceil(2)..changes.min(LIVE) + later / 2
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(["g", "v", "who"].map(|n| Field::new(n, DataType::Int64, false)).to_vec()))
}

/// Changes at a steady rate, without end; a change at a position is always the same.
struct Tide;

struct TideReader {
    partition: Partition,
    at: u64,
    first: u64,
    rate: u64,
    opened: Duration,
    clock: Clock,
}

impl Source for Tide {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let partition = Partition::new(context.name, 0);
        let first = context.resume.and_then(|r| r.get(&partition).copied()).unwrap_or(0);
        Ok(Box::new(TideReader { partition, at: first, first, rate: rate(), opened: context.clock.elapsed(), clock: context.clock }))
    }
}

impl Reader for TideReader {
    fn poll(&mut self) -> Result<Polled> {
        let since = self.clock.elapsed().saturating_sub(self.opened).as_millis() as u64;
        let due = (self.first + since * self.rate / 1000).min(self.at + 1000);
        if due == self.at {
            return Ok(Polled::Idle);
        }
        let (from, to) = (self.at, due);
        self.at = to;
        let (numbers, diffs): (Vec<u64>, Vec<i64>) = (from..to).map(change).unzip();
        let column = |c: usize| Arc::new(Int64Array::from_iter_values(numbers.iter().map(|i| row(*i)[c]))) as ArrayRef;
        let changes = Changes::signed(RecordBatch::try_new(schema(), vec![column(0), column(1), column(2)])?, diffs);
        let mut fingerprint = Fingerprint::default();
        (from..to).for_each(|p| fingerprint.add(p, 0, None));
        let (rows, bytes, partition) = (numbers.len(), changes.memory(), self.partition.clone());
        Ok(Polled::Fetch(Fetch {
            partition,
            from,
            to,
            rows,
            bytes,
            fingerprint: fingerprint.finish(),
            latest: fingerprint.latest(),
            payload: Payload::Rows(changes),
        }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let partitions = vec![PartitionStatus { partition: self.partition.clone(), position: self.at, end: None }];
        SourceStatus { partitions, warnings: vec![] }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What leads from one life of the pipeline to the outside.
#[derive(Clone, Debug, Default)]
struct Line(Arc<AtomicBool>);

impl Line {
    fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn through<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.0.load(Ordering::SeqCst) { Err(Error::external("the line is cut")) } else { call() }
    }
}

/// A store, or an upload to it, at the other end of a line.
#[derive(Debug)]
struct Beyond<T>(T, Line);

impl Store for Beyond<Folder> {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.1.through(|| self.0.get(name))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        let upload = self.1.through(|| self.0.put(name))?;
        Ok(Box::new(Beyond(upload, self.1.clone())))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.1.through(|| self.0.put_if_absent(name, bytes))
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.1.through(|| self.0.publish(staged, name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.1.through(|| self.0.list(folder))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.1.through(|| self.0.delete(name))
    }
}

impl Upload for Beyond<Box<dyn Upload>> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.1.through(|| self.0.write(bytes))
    }

    fn finish(&mut self) -> Result<()> {
        self.1.through(|| self.0.finish())
    }
}

/// A sink at the other end of a line; behind one that is cut its writer is dropped, without a goodbye.
fn beyond(sink: impl Sink, line: Line) -> impl Sink {
    asked(sink, move |_| line.through(|| Ok(())))
}

const GROUPS: &str =
    "SELECT g, count(*) AS n, sum(v) AS total, min(v) AS low, max(v) AS high, count(DISTINCT who) AS people FROM tide GROUP BY g";

fn flow(dir: &Path, workers: usize, line: &Line) -> Result<Pipeline> {
    let mut flow = Pipeline::new("soak");
    flow.source("tide", Tide)?;
    let table = Sql::upsert(format!("sqlite:{}", dir.join("tables.db").display()), "groups");
    let files = Parquet::append(dir.join("groups")).roll_after(Duration::from_secs(2));
    flow.view("groups", GROUPS)?.sink(beyond(table, line.clone()))?.sink(beyond(files, line.clone()))?;
    flow.view("sizes", "SELECT n, count(*) AS groups, max(high) AS high FROM groups GROUP BY n")?;
    flow.view("people", "SELECT who, min(v) AS low, max(v) AS high, count(DISTINCT g) AS groups FROM tide GROUP BY who")?;
    flow.view("values_seen", "SELECT DISTINCT v, who FROM tide")?;
    let flow = flow.workers(workers).epoch_interval(Duration::from_millis(100)).checkpoint_every(Duration::from_secs(1));
    // as the default, which a state in a store has not
    let flow = flow.dead_letters(DeadLetters::append(dir.join("state/dead_letters")));
    Ok(flow.state_on(Arc::new(Beyond(Folder::open(dir.join("state"))?, line.clone())), "state"))
}

#[test]
#[ignore = "the child of a_pipeline_that_runs_for_long_neither_grows_nor_litters"]
fn child() {
    let dir = PathBuf::from(std::env::var_os("ORDERFLOW_SOAK_DIR").unwrap());
    let [life, lives] = ["ORDERFLOW_SOAK_LIFE", "ORDERFLOW_SOAK_LIVES"].map(|v| std::env::var(v).unwrap().parse::<u64>().unwrap());
    std::env::set_current_dir(&dir).unwrap();
    let run = async {
        let mut position = 0;
        for n in 0..lives {
            let line = Line::default();
            let running = flow(&dir, 1 + n as usize % 2, &line)?.start().await?;
            tokio::time::sleep(Duration::from_millis(life)).await;
            let status = match n % 4 {
                _ if n + 1 == lives => running.drain().await?,
                0 | 2 => {
                    line.cut();
                    let _ = running.stop().await; // the dead have nothing to say
                    running.status()
                }
                1 => running.stop().await?,
                _ => running.drain().await?,
            };
            assert!(n == 0 || status.restored.is_some(), "it goes on after a checkpoint");
            position = status.sources[0].status.partitions[0].position;
            fs::write(dir.join("updates"), status.state_updates.to_string()).unwrap();
        }
        fs::write(dir.join("position"), position.to_string()).unwrap();
        Ok::<_, orderflow::Error>(())
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run).unwrap();
}

/// What is looked at while it runs.
struct Sample {
    /// Resident memory, in bytes.
    memory: f64,
    /// Files of the state but for those that say that it was opened, of which each start leaves one in the ledger and one with the dead letters.
    state: f64,
    /// Files that sinks have begun and not made visible.
    staged: f64,
}

fn sample(process: u32, dir: &Path, openings: u64) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident: f64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()?;
    let files = |folder: &str| {
        let (mut count, mut folders) = (0u64, vec![dir.join(folder)]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { folders.push(entry.path()) } else { count += 1 }
            }
        }
        count
    };
    let staged = files("groups/_staging") + files("groups/.orderflow");
    Some(Sample { memory: resident * 1024.0, state: files("state").saturating_sub(2 * openings) as f64, staged: staged as f64 })
}

/// What a straight line through the samples gains from the first to the last one (least squares), and their mean.
fn gain(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let (mean_x, mean) = ((n - 1.0) / 2.0, samples.iter().sum::<f64>() / n);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in samples.iter().enumerate() {
        above += (x as f64 - mean_x) * (y - mean);
        below += (x as f64 - mean_x).powi(2);
    }
    (above / below * (n - 1.0), mean)
}

/// Whether what was sampled after the warm-up, the first third, gains no more than `share` of its mean and `grace` beside it.
fn is_flat(samples: &[f64], share: f64, grace: f64) -> bool {
    let (gain, mean) = gain(&samples[samples.len() / 3..]);
    gain <= mean * share + grace
}

#[test]
fn a_leak_is_seen_and_a_saw_is_none() {
    let mb = |n: f64| n * 1e6;
    // up to its level, then a saw
    let saw: Vec<f64> = (0..600).map(|i| mb(120.0 - 80.0 / (1.0 + i as f64 / 10.0) + (i % 60) as f64 / 5.0)).collect();
    assert!(is_flat(&saw, 0.1, mb(4.0)));
    let leak: Vec<f64> = saw.iter().enumerate().map(|(i, y)| y + mb(0.06) * i as f64).collect();
    assert!(!is_flat(&leak, 0.1, mb(4.0)), "36 MB in the whole");
    assert!(is_flat(&[7.0; 30], 0.0, 1.0) && !is_flat(&(0..30).map(f64::from).collect::<Vec<_>>(), 0.2, 3.0));
    assert_eq!((live(10), live(LIVE), live(LIVE + 1), live(LIVE + 2)), (0..10, 0..LIVE, 1..LIVE, 1..LIVE + 1));
}

/// Of each group that is there after so many changes: rows, sum, least, most, people.
type Groups = BTreeMap<i64, [i64; 5]>;

fn batch(changes: u64) -> Groups {
    let mut rows: BTreeMap<i64, Vec<[i64; 3]>> = BTreeMap::new();
    live(changes).map(row).for_each(|r| rows.entry(r[0]).or_default().push(r));
    let of = |rows: &[[i64; 3]]| {
        let values = || rows.iter().map(|r| r[1]);
        let people = rows.iter().map(|r| r[2]).collect::<BTreeSet<_>>().len() as i64;
        [rows.len() as i64, values().sum(), values().min().unwrap(), values().max().unwrap(), people]
    };
    rows.iter().map(|(g, rows)| (*g, of(rows))).collect()
}

fn table(dir: &Path) -> Groups {
    let read = async {
        let mut file = sqlite::SqliteConnectOptions::new().filename(dir.join("tables.db")).connect().await.unwrap();
        let cell = |name: &str| format!("CAST({name} AS INTEGER)");
        let sql = format!("SELECT {} FROM groups", ["g", "n", "total", "low", "high", "people"].map(cell).join(", "));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut file).await.unwrap();
        rows.iter().map(|r| (r.get(0), [1, 2, 3, 4, 5].map(|i| r.get::<i64, _>(i)))).collect()
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(read)
}

/// What all changes in the files add up to.
fn summed(dir: &Path) -> Groups {
    let mut rows: BTreeMap<(i64, [i64; 5]), i64> = BTreeMap::new();
    for file in data_files(&dir.join("groups"), "parquet") {
        for batch in ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap()).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let column = |name: &str| {
                let column = orderflow::arrow::compute::cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
                column.as_primitive::<Int64Type>().clone()
            };
            let columns = ["g", "n", "total", "low", "high", "people", "diff"].map(column);
            for i in 0..batch.num_rows() {
                let [g, row @ .., diff] = columns.each_ref().map(|c| c.value(i));
                *rows.entry((g, row)).or_default() += diff;
            }
        }
    }
    rows.retain(|_, n| *n != 0);
    assert!(rows.values().all(|n| *n == 1), "a row is there twice, or withdrawn twice");
    rows.into_keys().collect()
}

#[test]
fn a_pipeline_that_runs_for_long_neither_grows_nor_litters() {
    let dir = tempfile::tempdir().unwrap();
    // 15 s, 5 minutes and half an hour; killed or stopped, and started, so often that each life has several checkpoints
    let (life, lives): (u64, u64) = (tier::of(3_000, 30_000, 180_000), tier::of(5, 10, 10));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "soak::child", "--ignored", "--nocapture"]).env("ORDERFLOW_SOAK_DIR", dir.path());
    command.env("ORDERFLOW_SOAK_LIFE", life.to_string()).env("ORDERFLOW_SOAK_LIVES", lives.to_string());
    let log = dir.path().join("said");
    let mut process =
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().map(crate::full_pipeline::Ended).unwrap();
    let (began, mut samples) = (Instant::now(), vec![]);
    let pause = Duration::from_millis(life * lives / 300);
    let status = loop {
        if let Some(status) = process.0.try_wait().unwrap() {
            break status;
        }
        let openings = 1 + began.elapsed().as_millis() as u64 / life;
        samples.extend(sample(process.0.id(), dir.path(), openings));
        std::thread::sleep(pause);
    };
    assert!(status.success(), "{}", fs::read_to_string(log).unwrap());

    let of = |what: fn(&Sample) -> f64| samples.iter().map(what).collect::<Vec<_>>();
    let (memory, state, staged) = (of(|s| s.memory), of(|s| s.state), of(|s| s.staged));
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let say = |name: &str, of: &[f64], unit: f64| {
        let (gain, mean) = gain(&of[of.len() / 3..]);
        eprintln!("{name}: {:.1} in the mean, {:.1} at most, gains {:+.2}", mean / unit, most(of) / unit, gain / unit);
    };
    eprintln!("{} samples", samples.len());
    say("memory in MB", &memory, 1e6);
    say("files of the state", &state, 1.0);
    say("files of sinks under way", &staged, 1.0);
    // an allocator does not give back all that it had at a peak, and a start has peaks: a tenth, and what a thread's arena takes
    assert!(is_flat(&memory, 0.1, 8e6), "memory grows: {memory:?}");
    // the log grows until the next base and is cut then; files of a trace are merged by fours: a saw, whose teeth are smaller than the mean
    assert!(is_flat(&state, 0.2, 10.0) && most(&state) < 400.0, "files of the state pile up: {state:?}");
    assert!(is_flat(&staged, 0.0, 2.0) && most(&staged) < 20.0, "files of sinks pile up: {staged:?}");
    let updates: u64 = fs::read_to_string(dir.path().join("updates")).unwrap().parse().unwrap();
    assert!(updates < 40 * LIVE, "views hold {updates} updates of {LIVE} rows");

    let position: u64 = fs::read_to_string(dir.path().join("position")).unwrap().parse().unwrap();
    assert!(position > 3 * LIVE, "the tide has turned: {position}");
    let expected = batch(position);
    assert_eq!(table(dir.path()), expected);
    assert_eq!(summed(dir.path()), expected);
}
