//! Two processes on one shared store: the first is stopped (SIGSTOP) amid an act, the second takes over and goes on, past retirements, until the
//! first wakes up (SIGCONT) and must find that it is nobody any more: no record twice, and no file of the second missing.
//!
//! Ledger, state and Parquet are in an S3, records go from Kafka to Kafka: run with `ORDERFLOW_KAFKA=host:port` and `ORDERFLOW_S3=http://…/bucket`,
//! and with the feature `s3`. The test runs itself as both processes; where the first stops is decided within it, by what it is about to do.
//!
//! Invariant: what came out is judged by reading topics and files as any other program would.

use crate::full_pipeline::Ended;
use crate::real::{Cluster, block_on, cluster, contents, present};
use crate::support::{Call, PARTITIONS, PATIENCE, asked, rows_of, signal, sum, visit};
use orderflow::generator::{Orders, expected};
use orderflow::kafka::{Admin, Producer, Record, Until};
use orderflow::pipelines::orders::TOTALS;
use orderflow::sink::Sink;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sinks::Parquet;
use orderflow::store::layer::{Layer, Layered};
use orderflow::store::{self, Store};
use orderflow::time::Epoch;
use orderflow::{Pipeline, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where the first process stops.
const STOPS: [&str; 3] = ["ledger", "parquet", "kafka"];

/// Stops this process, until it is woken, when it is asked for the `n`-th time.
#[derive(Debug)]
struct Stop(AtomicUsize);

impl Stop {
    /// At the n-th time, if this is where this process is to stop.
    fn at(place: &str, n: usize) -> Self {
        let here = std::env::var("ORDERFLOW_TWICE_STOP").is_ok_and(|at| at == place);
        Self(AtomicUsize::new(if here { n } else { 0 }))
    }

    fn is_ahead(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Whether it was.
    fn pass(&self) -> bool {
        let now = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1);
        if now {
            signal(std::process::id(), "-STOP");
        }
        now
    }

    /// The same, and at every time after that.
    fn pass_from_then_on(&self) {
        if self.pass() {
            self.0.store(1, Ordering::SeqCst);
        }
    }
}

/// Stops the process before or after it has put an object into `folder` that was not there.
#[derive(Debug)]
struct Stopping {
    below: Arc<dyn Store>,
    folder: &'static str,
    before: Stop,
    after: Stop,
}

impl Layer for Stopping {
    fn below(&self) -> &dyn Store {
        &*self.below
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        if name.starts_with(self.folder) {
            self.before.pass();
        }
        let outcome = self.below.put_if_absent(name, bytes);
        if name.starts_with(self.folder) && matches!(outcome, Ok(true)) {
            self.after.pass();
        }
        outcome
    }
}

/// A sink of one lane that stops the process again and again when rows should be in an open transaction, whose commit is not asked for: so it mostly is
/// after a poll that got rows while nothing was under way and did not wait, and after one that told of a commit while newer rows were at hand. Whether it
/// is, shows from outside.
fn stops_first(sink: impl Sink, stop: Stop) -> impl Sink {
    let (mut written, mut rows, mut given, mut known) = (Epoch(0), Epoch(0), Epoch(0), Epoch(0));
    let (mut first, mut sent) = (false, false);
    asked(sink, move |call| {
        match call {
            Call::Write(closed) => {
                if closed.rows() > 0 {
                    first |= known >= written;
                    rows = closed.epoch;
                }
                written = closed.epoch;
            }
            Call::Poll { committed, wait } if stop.is_ahead() => {
                let committed = committed.unwrap_or_default();
                if sent || (committed > known && given > committed) {
                    // until the records are with the broker
                    std::thread::sleep(Duration::from_millis(50));
                    stop.pass_from_then_on();
                }
                if first {
                    *wait = Duration::ZERO;
                }
                (sent, first, given, known) = (first, false, rows, committed);
            }
            _ => {}
        }
        Ok(())
    })
}

/// Endpoint and bucket of the S3 that `ORDERFLOW_S3` names.
fn s3() -> Option<(String, String)> {
    let place = std::env::var("ORDERFLOW_S3").ok()?;
    let (endpoint, bucket) = place.rsplit_once('/').unwrap();
    Some((endpoint.to_owned(), format!("s3://{bucket}/twice-{:016x}", rand::random::<u64>())))
}

fn open(endpoint: &str, url: &str, name: &str) -> Arc<dyn Store> {
    let options = [("endpoint", endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
    store::open_with(format!("{url}/{name}"), &options).unwrap()
}

fn process(url: &str, cluster: &Cluster, dir: &Path, stop: Option<&str>, until: bool) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "two_at_once::child", "--ignored", "--nocapture"]);
    command.env("ORDERFLOW_TWICE_URL", url).env("ORDERFLOW_TWICE_PREFIX", &cluster.prefix).env("ORDERFLOW_TWICE_DIR", dir);
    command.env("ORDERFLOW_TWICE_STOP", stop.unwrap_or_default()).env("ORDERFLOW_TWICE_UNTIL", if until { "latest" } else { "" });
    Ended(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
#[ignore = "the child of real_s3_a_process_that_wakes_up_late_does_nothing_any_more"]
fn child() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (endpoint, url) = (s3().unwrap().0, variable("ORDERFLOW_TWICE_URL"));
    let brokers = variable("ORDERFLOW_KAFKA");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    let cluster = Cluster { brokers, prefix: variable("ORDERFLOW_TWICE_PREFIX"), admin };
    let source = cluster.source();
    let source = if variable("ORDERFLOW_TWICE_UNTIL").is_empty() { source } else { source.until(Until::Latest) };
    let stopping = |name: &str, folder: &'static str, before: Stop, after: Stop| -> Arc<dyn Store> {
        Arc::new(Layered(Stopping { below: open(&endpoint, &url, name), folder, before, after }))
    };
    let never = || Stop::at("nowhere", 0);
    let run = async {
        let mut flow = Pipeline::new("twice");
        let orders = flow.source("orders", source)?;
        let routed = cluster.sink().partitions(PARTITIONS).topics_sql(orderflow::pipelines::orders::ROUTES);
        orders.route(stops_first(routed, Stop::at("kafka", 20)))?;
        // commits are the records in this folder; the first says whose the data set is
        let totals = Parquet::on(stopping("totals", "_commits/", Stop::at("parquet", 4), never()), "totals");
        flow.view("totals", TOTALS)?.sink(totals)?;
        let letters = DeadLetters::append(Path::new(&variable("ORDERFLOW_TWICE_DIR")).join(format!("letters-{}", std::process::id())));
        let flow = flow.dead_letters(letters).epoch_interval(Duration::from_millis(10)).checkpoint_every(Duration::from_millis(500));
        let state = stopping("state", "ledger/", never(), Stop::at("ledger", 30));
        flow.state_on(state, format!("{url}/state")).start().await?.wait().await
    };
    block_on(run).unwrap();
}

/// Whether the kernel has stopped this process.
fn is_stopped(process: &Ended) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// How a process ended, and what it said on the way.
fn end(process: &mut Ended) -> (ExitStatus, String) {
    let words = std::io::read_to_string(process.0.stderr.take().unwrap()).unwrap();
    (process.0.wait().unwrap(), words)
}

/// Sends the recipe's records at a steady rate until told to stop; gives how many.
fn feed(cluster: &Cluster, recipe: &Orders, enough: &AtomicBool) -> u64 {
    let mut producer = Producer::connect(cluster.brokers.as_str()).unwrap();
    let (mut records, mut value, topic) = (recipe.records(0), vec![], cluster.topic("orders"));
    while !enough.load(Ordering::SeqCst) {
        for _ in 0..30 {
            let key = records.position().to_string();
            value.clear();
            records.next_into(&mut value).unwrap();
            producer.send(&topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() }).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    records.position()
}

/// Waits until the state's ledger has been cleared of retired entries `times` times.
fn retires(state: &dyn Store, times: usize, process: &mut Ended) {
    let (began, mut before, mut seen) = (Instant::now(), usize::MAX, 0);
    while seen < times {
        assert!(process.0.try_wait().unwrap().is_none() && began.elapsed() < 2 * PATIENCE, "{seen} retirements in {:?}", began.elapsed());
        let entries = state.list("ledger/").unwrap().len();
        seen += usize::from(entries < before && before != usize::MAX);
        before = entries;
        // a list costs this S3 more the more it holds, while the process wants it too
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the process has stopped itself.
fn stops(process: &mut Ended, stop: &str) {
    let began = Instant::now();
    while !is_stopped(process) {
        assert!(began.elapsed() < PATIENCE, "{stop}: it does not come to where it is to stop");
        if process.0.try_wait().unwrap().is_some() {
            panic!("{stop}: {}", end(process).1);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn judge(cluster: &Cluster, recipe: &Orders, totals: &dyn Store) {
    for (topic, content) in contents(recipe) {
        assert_eq!(cluster.content(&topic), content, "{topic}");
        let mut last: BTreeMap<i32, u64> = BTreeMap::new();
        visit(&cluster.brokers, &cluster.topic(&topic), |partition, batch| {
            for i in 0..batch.len() {
                let position = std::str::from_utf8(batch.record(i).key.unwrap()).unwrap().parse().unwrap();
                let before = last.insert(partition.id, position);
                assert!(before.is_none_or(|before| before < position), "{partition}: {before:?}, then {position}");
            }
        });
    }
    let files = totals.list("").unwrap().into_iter().filter(|n| n.ends_with(".parquet") && !n.contains('/'));
    let mut deltas: Vec<_> = files.flat_map(|n| rows_of(bytes::Bytes::from(totals.get(&n).unwrap().unwrap()))).collect();
    deltas.sort_by_key(|d| d.epoch);
    assert_eq!(sum(&deltas), expected(recipe, u64::MAX).totals, "what all files together say");
}

#[test]
fn real_s3_a_process_that_wakes_up_late_does_nothing_any_more() {
    let Some((endpoint, _)) = s3() else { return };
    let _present = present();
    for stop in STOPS {
        let Some(cluster) = cluster(&format!("twice-{stop}")) else { return };
        let url = s3().unwrap().1;
        let dir = tempfile::tempdir().unwrap();
        cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
        let (enough, recipe) = (AtomicBool::new(false), Orders::new(5));
        let sent = std::thread::scope(|scope| {
            let feeder = scope.spawn(|| feed(&cluster, &recipe, &enough));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut first = process(&url, &cluster, dir.path(), Some(stop), false);
                stops(&mut first, stop);
                // a transaction that nobody ends stays open: what is not so in a while is a commit that was asked for, or none was begun
                let began = Instant::now();
                while stop == "kafka" && cluster.admin.settled(&cluster.topic("orders.successful"), Duration::from_secs(5)).unwrap() {
                    assert!(began.elapsed() < PATIENCE, "it never stops with records in an open transaction");
                    signal(first.0.id(), "-CONT");
                    stops(&mut first, stop);
                }
                let mut second = process(&url, &cluster, dir.path(), None, false);
                retires(&*open(&endpoint, &url, "state"), 2, &mut second);
                // it may stop once more before it finds out
                let began = Instant::now();
                while first.0.try_wait().unwrap().is_none() {
                    assert!(began.elapsed() < PATIENCE, "{stop}: it does not end");
                    signal(first.0.id(), "-CONT");
                    std::thread::sleep(Duration::from_millis(20));
                }
                let (status, words) = end(&mut first);
                assert!(!status.success(), "{stop}: it ended well");
                assert!(words.contains("taken over") && !words.contains("damaged") && !words.contains("panicked in"), "{stop}: {words}");
                // the second goes on as if nothing had been
                retires(&*open(&endpoint, &url, "state"), 1, &mut second);
            }));
            enough.store(true, Ordering::SeqCst);
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            feeder.join().unwrap()
        });
        let (status, words) = end(&mut process(&url, &cluster, dir.path(), None, true));
        assert!(status.success(), "{stop}: {words}");
        judge(&cluster, &recipe.total(sent), &*open(&endpoint, &url, "totals"));
        cluster.forget();
    }
}
