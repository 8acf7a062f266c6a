//! Closures over Rust structs below a stored aggregate, beside one and above one, over rows that come and go.

use super::aggregates::{in_the_end, net, signed_log};
use super::*;
use orderflow_core::datafusion::functions_aggregate::expr_fn::{max, sum};
use orderflow_core::datafusion::prelude::col;
use orderflow_core::plan::typed::Record;
use orderflow_core::testing::{Report, Schedules, World as Simulated, crash_anywhere, undisturbed};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Number {
    k: i64,
    v: i64,
}

#[derive(Serialize, Deserialize)]
struct Labelled {
    label: String,
    k: i64,
    v: i64,
}

/// A row of [`TOTALS`], whose sum can be null.
#[derive(Serialize, Deserialize)]
struct Total {
    k: i64,
    n: i64,
    v: Option<i64>,
}

impl Record for Number {}
impl Record for Labelled {}
impl Record for Total {}

fn label(v: i64) -> String {
    ["small", "middling", "large"][(v / 20) as usize % 3].to_owned()
}

/// What a number is broken into.
fn parts(number: &Number) -> Vec<Number> {
    (0..number.v % 3).map(|i| Number { k: number.k + 10 * i, v: number.v / 3 }).collect()
}

/// Numbers by their key.
fn by_k(numbers: impl Iterator<Item = (i64, i64)>) -> BTreeMap<i64, Vec<i64>> {
    let mut groups: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    numbers.for_each(|(k, v)| groups.entry(k).or_default().push(v));
    groups
}

fn build(topic: &Topic, world: &Simulated) -> Result<Pipeline> {
    let mut flow = Pipeline::new("typed");
    let numbers = flow.source("numbers", world.source(topic))?;
    // below an aggregate, by way of a view that is stored itself
    let kept = numbers.rows::<Number>()?.filter("kept", 1, |n| n.v % 7 != 0)?;
    let labelled = kept.map("labelled", 1, |n| Labelled { label: label(n.v), k: n.k, v: n.v })?;
    labelled.view("labelled")?.sink(world.data_set("labelled")?.roll_rows(7))?;
    let labels =
        flow.view("labels", "SELECT label, count(*) AS n, max(v) AS most, count(DISTINCT k) AS ks FROM labelled GROUP BY label")?;
    labels.sink(world.sink("labels"))?;
    // directly below one
    let parts = numbers.rows::<Number>()?.flat_map("parts", 1, parts)?.stream();
    let parts = parts.aggregate([col("k")], [sum(col("v")).alias("v"), max(col("v")).alias("most")])?;
    parts.view("parts")?.sink(world.data_set("parts")?.roll_rows(11))?;
    // beside the source's own rows, below one
    let both = "SELECT k, count(*) AS n, sum(v) AS v FROM (SELECT k, v FROM labelled UNION ALL SELECT k, v FROM numbers) GROUP BY k";
    flow.view("both", both)?.sink(world.sink("both"))?;
    // above one
    let often = flow.view("totals", TOTALS.1)?.rows::<Total>()?.filter("often", 1, |t| t.n > 4)?;
    let halved = often.map("halved", 1, |t| Total { k: t.k, n: t.n, v: t.v.map(|v| v / 2) })?;
    halved.view("often")?.sink(world.data_set("often")?.roll_rows(5))?;
    world.keep(flow)
}

fn crash(schedules: Schedules) -> Report {
    let topic = signed_log(40);
    let report = crash_anywhere(schedules, |world| build(&topic, world));
    println!("typed: {report}");
    report
}

#[test]
fn the_unkilled_run_is_what_the_closures_say() {
    let found = undisturbed(|world| build(&signed_log(40), world)).unwrap();
    let numbers: Vec<Number> = in_the_end(40).into_iter().map(|(k, v)| Number { k, v }).collect();
    let said = |rows: Vec<serde_json::Value>| {
        let mut rows: Vec<String> = rows.iter().map(serde_json::Value::to_string).collect();
        rows.sort();
        rows
    };
    let kept = || numbers.iter().filter(|n| n.v % 7 != 0);
    let labelled = kept().map(|n| serde_json::json!({"label": label(n.v), "k": n.k, "v": n.v})).collect();
    assert_eq!(net(&found, "labelled"), said(labelled));
    let mut labels: BTreeMap<String, Vec<&Number>> = BTreeMap::new();
    kept().for_each(|n| labels.entry(label(n.v)).or_default().push(n));
    let labels = labels.iter().map(|(label, of)| {
        let ks: std::collections::BTreeSet<i64> = of.iter().map(|n| n.k).collect();
        serde_json::json!({"label": label, "n": of.len(), "most": of.iter().map(|n| n.v).max(), "ks": ks.len()})
    });
    assert_eq!(net(&found, "labels"), said(labels.collect()));
    let parts = by_k(numbers.iter().flat_map(parts).map(|n| (n.k, n.v)));
    let parts = parts.iter().map(|(k, vs)| serde_json::json!({"k": k, "v": vs.iter().sum::<i64>(), "most": vs.iter().max()}));
    assert_eq!(net(&found, "parts"), said(parts.collect()));
    let both = by_k(kept().chain(&numbers).map(|n| (n.k, n.v)));
    let both = both.iter().map(|(k, vs)| serde_json::json!({"k": k, "n": vs.len(), "v": vs.iter().sum::<i64>()}));
    assert_eq!(net(&found, "both"), said(both.collect()));
    let totals = by_k(numbers.iter().map(|n| (n.k, n.v)));
    let often: Vec<serde_json::Value> = (totals.iter().filter(|(_, vs)| vs.len() > 4))
        .map(|(k, vs)| serde_json::json!({"k": k, "n": vs.len(), "v": vs.iter().sum::<i64>() / 2}))
        .collect();
    assert!(!often.is_empty() && often.len() < totals.len(), "{often:?}");
    assert_eq!(net(&found, "often"), said(often));
    assert!(
        found.values().filter(|lines| !lines.is_empty()).all(|lines| lines.iter().any(|l| l.contains("\"diff\":-1"))),
        "rows are withdrawn"
    );
}

#[test]
fn killed_at_any_operation_closures_give_the_same() {
    crash(Schedules::points(tier::of(25, 60, u64::MAX)).and_at_the_disk(tier::of(0, 10, u64::MAX)));
}

#[test]
fn killed_again_and_again_closures_give_the_same() {
    let report = crash(Schedules::random(tier::of(25, 150, 1_000)).also_on_workers(in_threads()).for_as_long_as(tier::hours()));
    assert!(report.deaths > report.schedules && report.power_cuts > 2, "{report}");
}

#[test]
fn at_any_number_of_workers_closures_give_the_same() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    crash(schedules.for_as_long_as(tier::hours()));
}
