//! The whole pipeline of orders, killed anywhere on a simulated world and started again: what is routed, every view and the dead letters are, row for row
//! and in order, those of a run that was never killed, and that run's are the plain answer.

use crate::tier;
use orderflow::generator::{Expected, Orders, Share, Total, expected};
use orderflow::pipelines::orders;
use orderflow::sink::{Column, Guarantee, Input, Opened, Progress, Sink, SinkContext};
use orderflow::source::meta;
use orderflow::testing::{Report, Schedules, Table, Topic, World, crash_anywhere, undisturbed};
use orderflow::{Pipeline, Result};
use rust_decimal::Decimal;
use serde_json::Value;
use std::collections::BTreeMap;

const RECORDS: u64 = 150;
const PARTITIONS: u64 = 3;

/// Few cities and reasons repeat, so that most changes withdraw a row; every kind of bad record is there.
fn recipe() -> Orders {
    let share = |s| Share::new(s).unwrap();
    let dirty = Orders::new(23).unseen_types(share(0.1)).duplicates(share(0.05)).late(share(0.05)).malformed(share(0.12));
    dirty.failures(share(0.4)).total(RECORDS)
}

fn topic() -> Topic {
    let mut records = recipe().records(0);
    let mut partitions = vec![vec![]; PARTITIONS as usize];
    for i in 0..RECORDS {
        let mut value = vec![];
        records.next_into(&mut value).unwrap();
        partitions[(i % PARTITIONS) as usize].push(value);
    }
    Topic::records(orders::json(), partitions)
}

/// Takes what a router takes: where each record goes, its own bytes, and where they stood.
struct Routed(Table);

impl Sink for Routed {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        let routes = ["payment", "success"].into_iter().zip(orders::ROUTES);
        let record = [("value", meta::VALUE), ("part", meta::PARTITION), ("position", meta::OFFSET)];
        Ok(Some(routes.chain(record).map(|(name, sql)| Column::new(name, sql)).collect()))
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        self.0.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        "router"
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        self.0.look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Box::new(self.0).open(context)
    }
}

/// The pipeline of orders with every end in the world: totals to two sinks, and the views that are only read to one each.
fn build(topic: &Topic, world: &World) -> Result<Pipeline> {
    let totals: [Box<dyn Sink>; 2] = [Box::new(world.sink("totals")), Box::new(world.data_set("files")?.roll_rows(17))];
    let mut flow = orders::pipeline("orders", world.source(topic), Routed(world.sink("routed")), totals)?;
    flow.view("category_rows", "SELECT * FROM categories")?.sink(world.data_set("categories")?.roll_rows(9))?;
    flow.view("failure_rows", "SELECT * FROM failures")?.sink(world.sink("failures"))?;
    world.keep(flow)
}

fn crash(schedules: Schedules) -> Report {
    let topic = topic();
    let report = crash_anywhere(schedules, |world| build(&topic, world));
    eprintln!("orders: {report}");
    report
}

/// The rows of a sink, with their multiplicities.
fn rows(lines: &[String]) -> impl Iterator<Item = (Value, i64)> {
    lines.iter().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let diff = row["diff"].as_i64().unwrap();
        (row, diff)
    })
}

fn text(row: &Value, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

fn decimal(value: &Value) -> Decimal {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse().unwrap()
}

/// Counts by key of a view that counts `orders`.
fn counts<K: Ord>(lines: &[String], key: impl Fn(&Value) -> K) -> BTreeMap<K, u64> {
    let mut sums: BTreeMap<K, i64> = BTreeMap::new();
    for (row, diff) in rows(lines) {
        *sums.entry(key(&row)).or_default() += diff * row["orders"].as_i64().unwrap();
    }
    sums.into_iter().filter(|(_, n)| *n != 0).map(|(key, n)| (key, u64::try_from(n).unwrap())).collect()
}

fn totals(lines: &[String]) -> BTreeMap<(String, String), Total> {
    let key = |row: &Value| (text(row, "city"), text(row, "payment_type"));
    let mut amounts: BTreeMap<(String, String), Decimal> = BTreeMap::new();
    for (row, diff) in rows(lines) {
        *amounts.entry(key(&row)).or_default() += Decimal::from(diff) * decimal(&row["amount"]);
    }
    counts(lines, key).into_iter().map(|(key, orders)| (key.clone(), Total { orders, amount: amounts[&key] })).collect()
}

#[test]
fn the_run_that_is_never_killed_gives_the_plain_answer() {
    let topic = topic();
    let found = undisturbed(|world| build(&topic, world)).unwrap();
    let mut topics: BTreeMap<String, u64> = BTreeMap::new();
    for (row, diff) in rows(&found["routed"]) {
        assert_eq!(diff, 1, "a record is never taken back");
        ["payment", "success"].into_iter().for_each(|route| *topics.entry(text(&row, route)).or_default() += 1);
    }
    let expected = expected(&recipe(), RECORDS);
    assert!(expected.rejected > 5 && expected.failures.len() > 2 && expected.topics.len() > 8, "{expected:?}");
    let seen = Expected {
        records: RECORDS,
        bytes: expected.bytes,
        rejected: found["dead letters"].len() as u64,
        totals: totals(&found["totals"]),
        failures: counts(&found["failures"], |row| text(row, "failure_reason")),
        outcomes: counts(&found["categories"], |row| (text(row, "payment_type"), row["payment_txn_success"] == "Y")),
        topics,
    };
    assert_eq!(seen, expected);
    assert_eq!(totals(&found["files"]), expected.totals, "the other sink of the same view");
    assert!(rows(&found["totals"]).any(|(_, diff)| diff < 0), "totals are withdrawn");
}

#[test]
fn killed_at_any_operation_every_sink_of_the_pipeline_of_orders_holds_what_an_unkilled_run_holds() {
    let report = crash(Schedules::points(tier::of(30, 50, u64::MAX)).and_at_the_disk(tier::of(0, 10, u64::MAX)));
    assert!(report.deaths >= report.schedules / 3, "{report}");
}

#[test]
fn killed_again_and_again_no_order_is_lost_or_doubled() {
    let report =
        crash(Schedules::random(tier::of(20, 60, 1_000)).also_on_workers(tier::of(&[], &[], &[2, 4])).for_as_long_as(tier::hours()));
    assert!(report.deaths > report.schedules && report.power_cuts > 2, "{report}");
}

#[test]
fn at_any_number_of_workers_the_pipeline_of_orders_is_the_same() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    crash(schedules.for_as_long_as(tier::hours()));
}
