//! An operator of the user's own that remembers what it has seen, as one that tells of each crossing once: nothing of it is stored, all input is read again,
//! and it tells what it told.

use super::aggregates::net;
use super::*;
use orderflow_core::arrow::array::AsArray;
use orderflow_core::arrow::datatypes::Int64Type;
use orderflow_core::data::Changes;
use orderflow_core::dataflow::Stream;
use orderflow_core::testing::{Report, Schedules, World as Simulated, crash_anywhere, undisturbed};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::channels::pact::{Exchange, Pipeline as Local};
use timely::dataflow::operators::Operator;

/// Rows of a key from one crossing to the next.
const STEP: i64 = 3;
/// Rows of a partition.
const READ: u64 = 40;

/// A key, and how many rows of it there were.
fn columns() -> SchemaRef {
    Arc::new(Schema::new(["k", "n"].map(|name| Field::new(name, DataType::Int64, false)).to_vec()))
}

/// A row for every third one of a key, whichever it is: order within an epoch is no matter. A worker gets all rows of its keys, epoch by epoch.
fn crossings(input: Stream<'_>) -> Stream<'_> {
    let keys = input.unary::<CapacityContainerBuilder<Vec<i64>>, _, _, _>(Local, "Keys", move |_, _| {
        move |input, output| {
            input.for_each(|time, data| {
                let changes = std::mem::take(data);
                let keys = changes.rows().column_by_name("k").unwrap().as_primitive::<Int64Type>().values();
                output.session(&time).give_iterator(keys.iter().copied());
            });
        }
    });
    let by_key = Exchange::new(|key: &i64| *key as u64);
    keys.unary_frontier::<NoopBuilder<Changes>, _, _, _>(by_key, "Crossings", move |_, _| {
        let (mut seen, mut waiting) = (BTreeMap::<i64, i64>::new(), BTreeMap::new());
        move |(input, frontier), output| {
            input.for_each(|time, data| {
                let (_, keys): &mut (_, Vec<i64>) = waiting.entry(*time.time()).or_insert_with(|| (time.retain(0), vec![]));
                keys.append(data);
            });
            while let Some(first) = waiting.first_entry().filter(|first| !frontier.less_equal(first.key())) {
                let (capability, keys) = first.remove();
                let mut crossed = crossed(&keys, &mut seen);
                if !crossed.is_empty() {
                    output.session_with_builder(&capability).give_container(&mut crossed);
                }
            }
        }
    })
}

fn crossed(keys: &[i64], seen: &mut BTreeMap<i64, i64>) -> Changes {
    let (mut told, mut counts) = (vec![], vec![]);
    for key in keys {
        let n = seen.entry(*key).or_default();
        *n += 1;
        if *n % STEP == 0 {
            told.push(*key);
            counts.push(*n);
        }
    }
    let columns_of: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(told)), Arc::new(Int64Array::from(counts))];
    Changes::inserts(RecordBatch::try_new(columns(), columns_of).unwrap())
}

/// What it tells is a view with a sink, and below an aggregate; beside it stands one that could be stored.
fn build(topic: &Topic, world: &Simulated) -> Result<Pipeline> {
    let mut flow = Pipeline::new("own");
    let crossed = flow.source("numbers", world.source(topic))?.operator("crossings", 1, &columns(), crossings)?;
    crossed.view("crossed")?.sink(world.data_set("crossed")?.roll_rows(5))?;
    flow.view("often", "SELECT k, count(*) AS n, max(n) AS most FROM crossed GROUP BY k")?.sink(world.sink("often"))?;
    flow.view(TOTALS.0, TOTALS.1)?.sink(world.data_set("totals")?.roll_rows(20))?;
    world.keep(flow)
}

fn crash(schedules: Schedules) -> Report {
    let topic = log().until(READ);
    let report = crash_anywhere(schedules.whole_log(), |world| build(&topic, world));
    println!("own: {report}");
    report
}

#[test]
fn the_unkilled_run_has_every_crossing() {
    let found = undisturbed(|world| build(&log().until(READ), world)).unwrap();
    let mut counts = BTreeMap::<i64, i64>::new();
    let keys = (0..PARTITIONS).flat_map(|id| (0..READ).map(move |p| row(id, p).0));
    keys.for_each(|k| *counts.entry(k).or_default() += 1);
    let sorted = |rows: Vec<serde_json::Value>| {
        let mut rows: Vec<String> = rows.iter().map(serde_json::Value::to_string).collect();
        rows.sort();
        rows
    };
    let of = |(k, all): (&i64, &i64)| (1..=*all / STEP).map(|n| serde_json::json!({"k": k, "n": STEP * n})).collect::<Vec<_>>();
    assert_eq!(net(&found, "crossed"), sorted(counts.iter().flat_map(of).collect()));
    let often = counts.iter().map(|(k, all)| (k, all / STEP)).filter(|(_, n)| *n > 0);
    let often = often.map(|(k, n)| serde_json::json!({"k": k, "n": n, "most": STEP * n}));
    assert_eq!(net(&found, "often"), sorted(often.collect()));
}

#[test]
fn killed_at_any_operation_an_operator_that_remembers_tells_the_same() {
    crash(Schedules::points(tier::of(20, 40, u64::MAX)).and_at_the_disk(tier::of(0, 10, u64::MAX)));
}

#[test]
fn killed_again_and_again_an_operator_that_remembers_tells_the_same() {
    let report = crash(Schedules::random(tier::of(20, 60, 600)).also_on_workers(in_threads()).for_as_long_as(tier::hours()));
    assert!(report.deaths > report.schedules, "{report}");
}

#[test]
fn at_any_number_of_workers_an_operator_that_remembers_tells_the_same() {
    crash(Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]).for_as_long_as(tier::hours()));
}
