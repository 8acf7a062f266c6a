//! Killed anywhere and started again: every sink holds, row for row and in order, what it holds after a run that was never killed.
//!
//! A whole pipeline runs on one thread, a step at a time, over stores that die or lie at the n-th operation; cuts into fetches and epochs are
//! a function of the log, so equality is exact.

mod aggregates;
mod anywhere;
mod bounded;
mod changed;
mod counts;
mod forgetful;
mod hosted;
mod laned;
mod model;
mod own;
mod planted;
mod points;
mod refused;
mod relaned;
mod returned;
mod shared;
mod spooled;
mod stored;
mod tools;
mod typed;

use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::epoch::Limits;
use orderflow_core::error::{Kind, Result};
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::{Source, memory};
use orderflow_core::store::faulty::{Fault, Faulty};
use orderflow_core::store::{Folder, Memory, Store};
use orderflow_core::testing::{self, Topic, tier};
use orderflow_core::time::{Clock, Position};
use orderflow_core::{Pipeline, Running};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ROWS: u64 = 90;
const PARTITIONS: i32 = 3;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Int64, false)]))
}

/// Row `position` of partition `id`, as if drawn.
fn row(id: i32, position: Position) -> (i64, i64) {
    let h = (position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(id as u32 * 7 + 3);
    ((h % 7) as i64, (h >> 32) as i64 % 50)
}

/// A log that can be read again from anywhere: where fetches end is a function of the position.
fn log() -> Topic {
    static LOG: std::sync::LazyLock<Topic> = std::sync::LazyLock::new(|| {
        let batch = |id| {
            let (k, v): (Vec<i64>, Vec<i64>) = (0..ROWS).map(|p| row(id, p)).unzip();
            let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(k)), Arc::new(Int64Array::from(v))];
            RecordBatch::try_new(schema(), columns).unwrap()
        };
        Topic::rows((0..PARTITIONS).map(batch).collect())
    });
    LOG.clone()
}

/// Name, SQL, and rows after which its sink commits.
type View = (&'static str, &'static str, u64);

const ROUTED: View = ("routed", "SELECT k, v FROM numbers WHERE v % 3 <> 0", 2);
const TOTALS: View = ("totals", "SELECT k, count(*) AS n, sum(v) AS v FROM numbers GROUP BY k", 20);
const SIZES: View = ("sizes", "SELECT n % 4 AS n, count(*) AS groups, max(v) AS most FROM totals GROUP BY n % 4", 9);
const EXTREMES: View =
    ("extremes", "SELECT v % 5 AS g, min(k) AS low, max(k) AS high, count(DISTINCT k) AS ks FROM totals GROUP BY v % 5", 1);
const KINDS: View = ("kinds", "SELECT DISTINCT n FROM totals", 1000);
/// Overflows now and then: dead letters.
const SPLIT: View = ("split", "SELECT v + 9223372036854775800 AS big FROM numbers", 12);

const PIPELINES: &[&[View]] = &[&[ROUTED], &[TOTALS], &[TOTALS, SIZES, EXTREMES], &[ROUTED, TOTALS, KINDS, SPLIT]];

/// The numbers of workers at which random schedules are run beside one: at night all of them are, by day a few of their own (`at_any_number_of_workers…`).
fn in_threads() -> &'static [usize] {
    tier::of(&[], &[], &[2, 4])
}

/// As often as possible, and never before the end.
const ALWAYS: Duration = Duration::ZERO;
const AT_THE_END: Duration = Duration::from_secs(1 << 30);

/// What outlives a process.
struct World {
    /// How often views are stored.
    every: Duration,
    state: Arc<dyn Store>,
    sinks: BTreeMap<&'static str, Arc<dyn Store>>,
}

impl World {
    fn new() -> Self {
        Self::with(ALWAYS)
    }

    fn with(every: Duration) -> Self {
        let store = || Arc::new(Memory::new()) as Arc<dyn Store>;
        let names = [ROUTED, TOTALS, SIZES, EXTREMES, KINDS, SPLIT].map(|v| v.0).into_iter().chain(["dead letters"]);
        Self { every, state: store(), sinks: names.map(|n| (n, store())).collect() }
    }

    /// The same, seen through what goes wrong.
    fn through(&self, faulty: &Faulty) -> World {
        let through = |s: &Arc<dyn Store>| Arc::new(faulty.beside(s.clone())) as Arc<dyn Store>;
        World { every: self.every, state: through(&self.state), sinks: self.sinks.iter().map(|(n, s)| (*n, through(s))).collect() }
    }

    /// The rows of every sink in the order of their epochs.
    fn rows(&self) -> BTreeMap<&'static str, String> {
        let of = |store: &Arc<dyn Store>| {
            let mut files: Vec<String> = store.list("").unwrap().into_iter().filter(|n| n.starts_with("lane-")).collect();
            files.sort_by_key(|n| n["lane-0_gen-0000_".len()..].to_owned());
            files.iter().map(|n| String::from_utf8(store.get(n).unwrap().unwrap()).unwrap()).collect::<String>()
        };
        self.sinks.iter().map(|(name, store)| (*name, of(store))).collect()
    }
}

fn pipeline(views: &[View], world: &World, log: impl Source, clock: &Clock) -> Result<Pipeline> {
    let mut flow = Pipeline::new("restart");
    flow.source("numbers", log)?;
    for (name, sql, roll) in views {
        let sink = DataSet::on(world.sinks[name].clone(), *name, JsonLines).roll_rows(*roll).roll_after(Duration::from_secs(1 << 30));
        flow.view(name, sql)?.sink(sink)?;
    }
    let dead = DataSet::on(world.sinks["dead letters"].clone(), "dead letters", JsonLines);
    let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 11, bytes: u64::MAX };
    Ok(flow.dead_letters(dead).epochs(limits).clock(clock.clone()).state_on(world.state.clone(), "state").checkpoint_every(world.every))
}

/// One life, to the end of the log.
fn live(views: &[View], world: &World, log: Topic) -> Result<()> {
    live_until(views, world, log, || false)
}

/// One life, to the end of the log or to its death.
fn live_until(views: &[View], world: &World, log: Topic, dead: impl Fn() -> bool) -> Result<()> {
    let clock = Clock::manual(1_000_000);
    testing::live(pipeline(views, world, log, &clock), &clock, dead)
}

/// Opening fails like any other operation: a process manager starts it again.
fn survive(views: &[View], world: &World) {
    for _ in 0..3 {
        match live(views, world, log()) {
            Ok(()) => return,
            Err(e) => assert_eq!(e.retry(), orderflow_core::error::Retry::Backoff, "{e}"),
        }
    }
    panic!("it does not come up again");
}

fn unkilled(views: &[View]) -> BTreeMap<&'static str, String> {
    let world = World::new();
    live(views, &world, log()).unwrap();
    world.rows()
}

#[test]
fn the_unkilled_run_is_the_batch_answer() {
    for views in PIPELINES {
        let rows = unkilled(views);
        let total: i64 = (0..PARTITIONS).flat_map(|id| (0..ROWS).map(move |p| row(id, p).1)).sum();
        if let Some(text) = rows.get("totals").filter(|t| !t.is_empty()) {
            let sum = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
            let sum: i64 = sum.map(|l| l["v"].as_i64().unwrap() * l["diff"].as_i64().unwrap()).sum();
            assert_eq!(sum, total);
        }
        if views.contains(&ROUTED) {
            let kept = (0..PARTITIONS).flat_map(|id| (0..ROWS).map(move |p| row(id, p).1)).filter(|v| v % 3 != 0).count();
            assert_eq!(rows["routed"].lines().count(), kept);
        }
        if views.contains(&SPLIT) {
            assert!(rows["dead letters"].lines().count() > 10 && rows["split"].lines().count() > 10);
        }
    }
}

#[test]
fn what_is_not_bound_for_good_does_not_leave() {
    for views in PIPELINES {
        let expected = unkilled(views);
        for at in (1..60).step_by(tier::of(6, 3, 1)) {
            // only the state's disk dies: the sinks would take everything
            let world = World::new();
            let faulty = Faulty::new(world.state.clone(), at, Fault::CrashBefore);
            let half = World { every: ALWAYS, state: Arc::new(faulty.clone()), sinks: world.sinks.clone() };
            let clock = Clock::manual(1_000_000);
            if let Ok(mut stepper) = pipeline(views, &half, log(), &clock).unwrap().stepper() {
                for _ in 0..300 {
                    match stepper.step().unwrap() {
                        Some(true) => {}
                        Some(false) => clock.advance(Duration::from_secs(1)),
                        None => break,
                    }
                }
                let ended = stepper.status().phase.is_over();
                assert!(
                    ended || faulty.is_dead() && stepper.status().waits.is_some_and(|w| w.contains("on purpose")),
                    "it says what it waits for"
                );
            }
            survive(views, &world);
            assert_eq!(world.rows(), expected, "the state's disk died at {at}");
        }
    }
}

#[test]
fn a_finished_run_goes_on_where_the_log_has_grown() {
    for views in PIPELINES {
        let world = World::new();
        live(views, &world, log().until(40)).unwrap();
        let finished = world.rows();
        live(views, &world, log().until(40)).unwrap();
        assert_eq!(world.rows(), finished, "there was nothing new");
        survive(views, &world);
        let sums = |rows: &BTreeMap<&str, String>| {
            let mut sums: BTreeMap<String, i64> = BTreeMap::new();
            for (sink, text) in rows {
                for line in text.lines() {
                    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
                    let diff = row.remove("diff").unwrap().as_i64().unwrap();
                    row.remove("epoch");
                    *sums.entry(format!("{sink} {row:?}")).or_default() += diff;
                }
            }
            sums.retain(|_, n| *n != 0);
            sums
        };
        assert_eq!(sums(&world.rows()), sums(&unkilled(views)), "epochs are cut otherwise, the sums are the same");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let views = &[TOTALS];
    let died = |every, at| {
        let world = World::with(every);
        // dies in mid-run, so that something has to be read again
        let faulty = Faulty::new(Arc::new(Memory::new()), at, Fault::CrashBefore);
        live_until(views, &world.through(&faulty), log(), || faulty.is_dead()).unwrap();
        world
    };
    let (fresh, unstored) = (|| died(ALWAYS, 120), || died(AT_THE_END, 40));
    let refused = |world: &World, views: &[View], log: Topic, says: &str| {
        // what is committed and lacks its name may get it
        let files = || {
            let named = |s: &Arc<dyn Store>| s.list("").unwrap().into_iter().filter(|n| n.starts_with("lane-")).count();
            world.sinks.values().map(|s| named(s) + s.list("_staging/").unwrap().len()).collect::<Vec<_>>()
        };
        let before = files();
        let e = live(views, world, log).unwrap_err();
        assert!(e.kind() == Kind::User && e.to_string().contains(says) && e.remedy().is_some(), "{e}");
        assert!(files().iter().zip(&before).all(|(after, before)| after <= before), "{before:?} files became {:?}", files());
    };
    refused(&unstored(), views, log().altered(0, 3), "is not what it was: numbers[0]");
    refused(&unstored(), views, log().until(5), "no longer holds");
    refused(&unstored(), views, log().until(5), ": it lacks numbers[");
    refused(&unstored(), views, log().until(5), ", positions 5 to ");
    let other: View = ("totals", "SELECT k, count(*) AS n, sum(v + 1) AS v FROM numbers GROUP BY k", 20);
    refused(&fresh(), &[other], log(), "view totals computes something else now");
    // a sink of another pipeline, and one that is ahead of the state
    let world = fresh();
    let stranger = World { every: ALWAYS, state: Arc::new(Memory::new()), sinks: world.sinks.clone() };
    refused(&stranger, views, log(), "already holds a data set");
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |name: &str| {
        let mut flow = Pipeline::new(name);
        flow.source("numbers", log())?;
        flow.view("totals", TOTALS.1)?;
        flow.state(dir.path().join("state")).start().await
    };
    let first: Running = start("first").await.unwrap();
    first.wait().await.unwrap();
    // it has ended, so the folder is free, and its views can still be read
    let taken = Folder::open(dir.path().join("state")).unwrap();
    let e = start("second").await.err().unwrap();
    assert!(e.to_string().contains("in use"), "{e}");
    drop(taken);
    let second = start("third").await.unwrap();
    assert_eq!(first.query("SELECT * FROM totals").await.unwrap()[0].num_rows(), 7);
    second.wait().await.unwrap();
    assert_eq!(second.query("SELECT * FROM totals").await.unwrap()[0].num_rows(), 7, "read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_started_with_other_numbers_of_workers_the_sinks_hold_the_same() {
    for views in PIPELINES {
        let expected = unkilled(views);
        let world = World::new();
        for (round, workers) in [2, 4, 1, 3].into_iter().enumerate() {
            let flow = pipeline(views, &world, log(), &Clock::system()).unwrap();
            let running = flow.workers(workers).start().await.unwrap();
            if round < 3 {
                // somewhere in mid-run, or after the end
                while running.status().complete.0 < 6 * (round as u64 + 1) && !running.status().phase.is_over() {
                    tokio::task::yield_now().await;
                }
                running.stop().await.unwrap();
            } else {
                running.wait().await.unwrap();
                // what the views hold is what it would be if nothing had been stored and restored
                let fresh = pipeline(views, &World::new(), log(), &Clock::system()).unwrap().start().await.unwrap();
                fresh.wait().await.unwrap();
                for (name, ..) in views.iter() {
                    let read = async |running: &Running| {
                        let batches = running.query(&format!("SELECT * FROM {name}")).await.unwrap();
                        let mut rows: Vec<String> = vec![];
                        for batch in &batches {
                            let text = orderflow_core::arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch)).unwrap();
                            let cells = |l: &str| l.split_whitespace().collect::<String>();
                            rows.extend(text.to_string().lines().filter(|l| l.starts_with('|')).skip(1).map(cells));
                        }
                        rows.sort();
                        rows
                    };
                    assert_eq!(read(&running).await, read(&fresh).await, "{name}");
                }
            }
        }
        assert_eq!(world.rows(), expected, "{}", views[0].0);
    }
}
