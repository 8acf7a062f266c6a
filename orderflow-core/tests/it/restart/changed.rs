//! A pipeline with other queries over the state of an older one: what differs is said, nothing happens untold, and rows of two queries never mix.

use super::*;
use orderflow_core::arrow::array::{AsArray, StringArray};
use orderflow_core::arrow::datatypes::Int64Type;
use orderflow_core::datafusion::logical_expr::{ColumnarValue, Volatility};
use orderflow_core::datafusion::prelude::create_udf;
use orderflow_core::epoch::Log;
use orderflow_core::pipeline::{Fate, OnChange, StateFate};
use orderflow_core::plan::Function;
use std::sync::atomic::{AtomicBool, Ordering};

fn half() -> Topic {
    log().until(50)
}
/// [`TOTALS`], computed otherwise.
const SQUARES: View = ("totals", "SELECT k, count(*) AS n, sum(v * v) AS v FROM numbers GROUP BY k", 20);

/// One life that may rebuild what changed, to the end of the log or to its death.
fn told_until(views: &[View], world: &World, log: Topic, dead: impl Fn() -> bool) -> Result<()> {
    let clock = Clock::manual(1_000_000);
    let mut stepper = pipeline(views, world, log, &clock)?.on_change(OnChange::Rebuild).stepper()?;
    for _ in 0..100_000 {
        match stepper.step()? {
            _ if dead() => return Ok(()),
            Some(true) => {}
            Some(false) => clock.advance(Duration::from_secs(1)),
            None => return Ok(()),
        }
    }
    panic!("it does not end: {:?}", stepper.status());
}

pub(super) fn told(views: &[View], world: &World, log: Topic) -> Result<()> {
    told_until(views, world, log, || false)
}

fn copy(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    let copy: Arc<dyn Store> = Arc::new(Memory::new());
    store.list("").unwrap().iter().for_each(|n| copy.put_bytes(n, &store.get(n).unwrap().unwrap()).unwrap());
    copy
}

impl World {
    fn copy(&self) -> World {
        World { every: self.every, state: copy(&self.state), sinks: self.sinks.iter().map(|(n, s)| (*n, copy(s))).collect() }
    }

    /// The same with an empty place for this sink.
    pub(super) fn elsewhere(&self, sink: &'static str) -> World {
        let mut sinks = self.sinks.clone();
        sinks.insert(sink, Arc::new(Memory::new()));
        World { every: self.every, state: self.state.clone(), sinks }
    }
}

/// The final rows of a sink, with how often each is there.
pub(super) fn sums(rows: &BTreeMap<&str, String>, sink: &str) -> BTreeMap<String, i64> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for line in rows[sink].lines() {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let diff = row.remove("diff").map_or(1, |d| d.as_i64().unwrap());
        row.remove("epoch");
        *sums.entry(format!("{row:?}")).or_default() += diff;
    }
    sums.retain(|_, n| *n != 0);
    sums
}

#[test]
fn a_changed_query_is_refused_with_the_difference_and_rebuilt_when_told() {
    let (old, new) = ([ROUTED, TOTALS, SIZES], [ROUTED, SQUARES, SIZES]);
    let world = World::new();
    live(&old, &world, half()).unwrap();
    let e = live(&new, &world, log()).unwrap_err();
    let text = e.to_string();
    for says in [
        "view totals: changed",
        "\n  was ",
        "\n  is  ",
        "view sizes: changed, through totals",
        "sink jsonl of sizes: changed, through sizes",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(text.contains("sink jsonl of routed: unchanged") && text.contains("state kept") && text.contains("state dropped"), "{text}");
    assert!(e.kind() == Kind::User && e.remedy().is_some_and(|r| r.contains("OnChange::Rebuild")), "{e}");

    let difference = pipeline(&new, &world, log(), &Clock::manual(0)).unwrap().difference().unwrap().unwrap();
    let fates = difference.states.iter().map(|s| s.fate).collect::<Vec<_>>();
    assert_eq!(fates, [StateFate::Kept, StateFate::Rebuilt, StateFate::Dropped]);
    assert!(difference.states[0].rows > 0 && difference.states[2].bytes > 0);

    // rows of the old query are there: told or not, nothing is added to them
    let before = world.rows();
    let e = told(&new, &world, log()).unwrap_err();
    assert!(e.to_string().contains("holds rows of before") && e.remedy().is_some(), "{e}");
    assert_eq!(world.rows(), before);
    live(&old, &world, half()).expect("nothing was changed by it");

    let moved = world.elsewhere("totals").elsewhere("sizes");
    told(&new, &moved, log()).unwrap();
    let (got, want) = (moved.rows(), unkilled(&new));
    assert_eq!(got["routed"].lines().count(), want["routed"].lines().count(), "it was not touched");
    for sink in ["totals", "sizes", "routed"] {
        assert_eq!(sums(&got, sink), sums(&want, sink), "{sink}");
    }
    // from now on it is the new one
    live(&new, &moved, log()).unwrap();
    assert_eq!(moved.rows(), got, "there was nothing new");
    let e = live(&old, &moved, log()).unwrap_err();
    assert!(e.to_string().contains("view totals: changed"), "{e}");
}

#[test]
fn a_sink_that_is_gone_is_forgotten_when_told_and_does_not_come_back_with_its_old_rows() {
    let (both, one) = ([TOTALS, ROUTED], [ROUTED]);
    let world = World::new();
    live(&both, &world, half()).unwrap();
    let e = live(&one, &world, log()).unwrap_err();
    assert!(e.to_string().contains("sink jsonl of totals is not there any more"), "{e}");
    told(&one, &world, log()).unwrap();
    assert_eq!(sums(&world.rows(), "routed"), sums(&unkilled(&both), "routed"));
    // its base does not wait, and nothing remembers it
    let seen = Log::look(world.state.clone(), "state").unwrap().unwrap();
    assert_eq!(seen.found.held.keys().collect::<Vec<_>>(), ["dead letters", "sink jsonl of routed"]);
    assert_eq!(seen.found.base(), seen.found.tail());
    // epochs that it did not get are one by now: it would lose them, or get rows twice
    let e = live(&both, &world, log()).unwrap_err();
    assert!(e.to_string().contains("holds rows of before"), "{e}");
    let moved = world.elsewhere("totals");
    live(&both, &moved, log()).unwrap();
    assert_eq!(sums(&moved.rows(), "totals"), sums(&unkilled(&both), "totals"));
}

#[test]
fn killed_at_any_operation_while_it_is_rebuilt_the_new_pipeline_holds_what_it_would_hold() {
    let (old, new) = ([ROUTED, TOTALS], [ROUTED, SQUARES, EXTREMES, SPLIT]);
    // the newest base is younger than the newest checkpoint: a new sink gets its first rows in two pieces
    let before = {
        let world = World::with(Duration::from_secs(13));
        let clock = Clock::manual(1_000_000);
        let frequent: Vec<View> = old.iter().map(|(name, sql, _)| (*name, *sql, 1)).collect();
        let mut stepper = pipeline(&frequent, &world, log(), &clock).unwrap().stepper().unwrap();
        loop {
            assert!(stepper.step().unwrap().is_some(), "it ended before");
            clock.advance(Duration::from_secs(1));
            let seen = Log::look(world.state.clone(), "state").unwrap().unwrap();
            if seen.found.checkpoints.last().is_some_and(|c| c.epoch < seen.found.base()) && seen.found.tail() > seen.found.base() {
                break;
            }
        }
        world
    };
    let build = || before.copy().elsewhere("totals");
    let whole = build();
    told(&new, &whole, log()).unwrap();
    let (expected, batch) = (whole.rows(), unkilled(&new));
    for sink in ["routed", "totals", "extremes", "split"] {
        assert_eq!(sums(&expected, sink), sums(&batch, sink), "{sink}");
    }
    let counting = Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused);
    told(&new, &build().through(&counting), log()).unwrap();
    for (turn, at) in (1..=counting.operations() + 1).step_by(tier::of(5, 4, 1)).enumerate() {
        for fault in Fault::ALL.into_iter().skip(tier::of(turn % 4, turn % 2 * 2, 0)).take(tier::of(1, 2, 4)) {
            let world = build();
            let faulty = Faulty::new(Arc::new(Memory::new()), at, fault);
            let _ = told_until(&new, &world.through(&faulty), log(), || faulty.is_dead()); // dead or through
            (0..3)
                .find(|_| told(&new, &world, log()).is_ok())
                .unwrap_or_else(|| panic!("{fault:?} at {at}: {:?}", told(&new, &world, log())));
            assert_eq!(world.rows(), expected, "{fault:?} at {at}");
        }
    }
}

#[test]
fn what_is_only_added_needs_no_word_and_is_remembered() {
    let world = World::new();
    assert_eq!(pipeline(&[TOTALS], &world, log(), &Clock::manual(0)).unwrap().difference().unwrap(), None);
    live(&[TOTALS], &world, half()).unwrap();
    assert!(pipeline(&[TOTALS], &world, log(), &Clock::manual(0)).unwrap().difference().unwrap().unwrap().is_empty());
    live(&[TOTALS, ROUTED], &world, half()).unwrap();
    // the one that was added is as much a part of the pipeline as the first
    let other: View = ("routed", "SELECT k, v FROM numbers WHERE v % 3 <> 1", 7);
    let e = live(&[TOTALS, other], &world, log()).unwrap_err();
    assert!(e.to_string().contains("view routed: changed"), "{e}");
    let difference = pipeline(&[TOTALS, ROUTED, SIZES], &world, log(), &Clock::manual(0)).unwrap().difference().unwrap().unwrap();
    let new: Vec<&str> = difference.parts.iter().filter(|p| p.fate == Fate::New).map(|p| p.name.as_str()).collect();
    assert_eq!((new, difference.must_be_told()), (vec!["view sizes", "sink jsonl of sizes"], false));
}

#[test]
fn a_rebuild_needs_all_input_and_changes_nothing_without_it() {
    let world = World::new();
    live(&[ROUTED, TOTALS], &world, half()).unwrap();
    let (state, rows) = (copy(&world.state), world.rows());
    let moved = world.elsewhere("totals");
    let e = told(&[ROUTED, SQUARES], &moved, log().without(&[3; PARTITIONS as usize])).unwrap_err();
    assert!(e.to_string().contains("no longer holds"), "{e}");
    // but for the generation that tried
    let names = |s: &Arc<dyn Store>| s.list("").unwrap().into_iter().filter(|n| !n.starts_with("ledger/")).collect::<Vec<_>>();
    assert_eq!((names(&state), world.rows()), (names(&world.state), rows));
    survive(&[ROUTED, TOTALS], &world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_waits_for_the_folder_and_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let flow = |patience| {
        let mut flow = Pipeline::new("standby");
        flow.source("numbers", log()).unwrap();
        flow.view("totals", TOTALS.1).unwrap();
        flow.state(&folder).wait_for_state(patience)
    };
    let first = Folder::open(&folder).unwrap();
    let e = flow(Duration::from_millis(120)).start().await.err().unwrap();
    assert!(e.to_string().contains("in use") && e.to_string().contains(&std::process::id().to_string()), "{e}");
    // nobody waits any more: it must not take over behind everybody's back
    let given_up = tokio::time::timeout(Duration::from_millis(150), flow(Duration::from_secs(600)).start()).await;
    assert!(given_up.is_err());
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    let waiting = tokio::spawn(flow(Duration::from_secs(600)).start());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    tokio::task::spawn_blocking(move || {
        told.store(true, Ordering::SeqCst);
        drop(first);
    });
    let second = waiting.await.unwrap().unwrap();
    assert!(over.load(Ordering::SeqCst));
    second.wait().await.unwrap();
    assert_eq!(second.query("SELECT * FROM totals").await.unwrap()[0].num_rows(), 7);
}

/// A view that calls a function of this version, which answers accordingly; nobody calls another one, whose name is the end of its name.
fn calling(version: u32, world: &World, log: Topic, told: OnChange) -> Result<()> {
    let clock = Clock::manual(1_000_000);
    let shade = move |args: &[ColumnarValue]| {
        let k = args[0].to_array(1)?.as_primitive::<Int64Type>().clone();
        Ok(ColumnarValue::Array(Arc::new(k.unary::<_, Int64Type>(|k| k % (1 + i64::from(version))))))
    };
    let mut flow = Pipeline::new("restart");
    flow.source("numbers", log)?;
    for name in ["shade", "ade"] {
        let udf = create_udf(name, vec![DataType::Int64], DataType::Int64, Volatility::Immutable, Arc::new(shade));
        flow.function(Function::new(version, udf)?)?;
    }
    let sink = DataSet::on(world.sinks["totals"].clone(), "totals", JsonLines);
    flow.view("totals", "SELECT shade(k) AS k, count(*) AS n FROM numbers GROUP BY shade(k)")?.sink(sink)?;
    let dead = DataSet::on(world.sinks["dead letters"].clone(), "dead letters", JsonLines);
    let flow = flow.dead_letters(dead).clock(clock.clone()).state_on(world.state.clone(), "state").on_change(told);
    testing::live(Ok(flow), &clock, || false)
}

#[test]
fn another_version_of_a_function_is_another_query() {
    let world = World::new();
    calling(1, &world, half(), OnChange::Refuse).unwrap();
    calling(1, &world, log().until(60), OnChange::Refuse).unwrap();
    let e = calling(2, &world, log(), OnChange::Refuse).unwrap_err();
    let text = e.to_string();
    for says in ["view totals: changed", "[version of shade 1]", "[version of shade 2]", "state dropped"] {
        assert!(text.contains(says), "{says} is missing:\n{text}");
    }
    let moved = world.elsewhere("totals");
    calling(2, &moved, log(), OnChange::Rebuild).unwrap();
    let fresh = World::new();
    calling(2, &fresh, log(), OnChange::Refuse).unwrap();
    assert_eq!(sums(&moved.rows(), "totals"), sums(&fresh.rows(), "totals"));
}

#[test]
fn stored_columns_of_another_type_are_not_taken_for_the_same() {
    // the plan's own text does not tell types: the state's does
    let counts: View = ("totals", "SELECT k, count(*) AS n FROM numbers GROUP BY k", 20);
    let of = |k: ArrayRef| {
        let v = Arc::new(Int64Array::from_iter_values(0..k.len() as i64)) as ArrayRef;
        Topic::rows(vec![RecordBatch::try_from_iter([("k", k), ("v", v)]).unwrap()])
    };
    let world = World::new();
    live(&[counts], &world, of(Arc::new(Int64Array::from(vec![1, 2, 1])))).unwrap();
    let e = live(&[counts], &world, of(Arc::new(StringArray::from(vec!["1", "2", "1", "3"])))).unwrap_err();
    let text = e.to_string();
    assert!(e.kind() == Kind::User && text.contains("columns of other types") && text.contains("k Utf8"), "{text}");
    assert!(text.contains("state dropped (2 rows") && text.contains("k Int64"), "{text}");
}
