//! Every aggregate directly on a source whose rows come and go: stored values, withdrawn extremes, groups that vanish.

use super::anywhere::build;
use super::*;
use orderflow_core::data::Changes;
use orderflow_core::format::encode::JsonRows;
use orderflow_core::plan::batch_answer;
use orderflow_core::testing::{Report, Rows, Schedules, crash_anywhere, undisturbed};

pub(super) const VIEWS: &[View] = &[
    ("extremes", "SELECT k, min(v) AS low, max(v) AS high FROM numbers GROUP BY k", 9),
    ("means", "SELECT k, avg(v) AS mean, count(DISTINCT v) AS vs, count(v) AS n FROM numbers GROUP BY k", 14),
    (
        "chosen",
        "SELECT k % 3 AS g, sum(v) FILTER (WHERE v > 9) AS large, count(1) FILTER (WHERE v % 2 = 0) AS even, \
         max(v) FILTER (WHERE k > 2) AS most, count(DISTINCT k) FILTER (WHERE v < 30) AS ks FROM numbers GROUP BY k % 3",
        6,
    ),
    ("kinds", "SELECT DISTINCT k, v % 10 AS digit FROM numbers", 5),
    ("pairs", "SELECT k, v % 5 AS g, min(v) AS low, avg(v) AS mean FROM numbers GROUP BY k, v % 5", 8),
    ("whole", "SELECT count(*) AS n, sum(v) AS v, avg(v) AS mean, min(k) AS low, max(v) AS high, count(DISTINCT v) AS vs FROM numbers", 4),
];

/// Rows of a partition, as they come and go, and those that are there in the end: every third withdraws one that came before.
pub(super) fn come_and_go(id: i32, rows: u64) -> (Changes, Vec<(i64, i64)>) {
    let (mut there, mut signed) = (vec![], vec![]);
    for position in 0..rows {
        let new = row(id, position);
        if position % 3 == 2 {
            let at = new.1.unsigned_abs() as usize % there.len();
            signed.push((there.swap_remove(at), -1));
        } else {
            there.push(new);
            signed.push((new, 1));
        }
    }
    let (rows, diffs): (Vec<(i64, i64)>, Vec<i64>) = signed.into_iter().unzip();
    (Changes::signed(batch(&rows), diffs), there)
}

fn batch(rows: &[(i64, i64)]) -> RecordBatch {
    let (k, v): (Vec<i64>, Vec<i64>) = rows.iter().copied().unzip();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(k)), Arc::new(Int64Array::from(v))];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A log of such rows.
pub(super) fn signed_log(rows: u64) -> Topic {
    Topic::changes((0..PARTITIONS).map(|id| come_and_go(id, rows).0).collect())
}

/// What is there at the end of it.
pub(super) fn in_the_end(rows: u64) -> Vec<(i64, i64)> {
    (0..PARTITIONS).flat_map(|id| come_and_go(id, rows).1).collect()
}

/// Rows of a sink in the end, each as an object without `diff` and `epoch`.
pub(super) fn net(rows: &Rows, sink: &str) -> Vec<String> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for line in &rows[sink] {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let diff = row.remove("diff").unwrap().as_i64().unwrap();
        row.remove("epoch");
        *sums.entry(serde_json::Value::Object(row).to_string()).or_default() += diff;
    }
    sums.into_iter().flat_map(|(row, n)| (0..n).map(move |_| row.clone())).collect()
}

/// The batch answer in the same form.
async fn answer(there: &[(i64, i64)], sql: &str) -> Vec<String> {
    let answer = batch_answer(vec![("numbers".to_owned(), schema(), vec![batch(there)])], sql).await.unwrap();
    let mut lines = vec![];
    for batch in &answer {
        let mut rows = JsonRows::of(batch).unwrap();
        for i in 0..batch.num_rows() {
            let mut text = vec![];
            rows.append(i, None, &mut text);
            lines.push(serde_json::from_slice::<serde_json::Value>(&text).unwrap().to_string());
        }
    }
    lines.sort();
    lines
}

fn crash(schedules: Schedules) -> Report {
    let topic = signed_log(40);
    let report = crash_anywhere(schedules, |world| build(VIEWS, &topic, world));
    println!("aggregates: {report}");
    report
}

#[tokio::test]
async fn the_unkilled_run_is_the_batch_answer() {
    let (topic, there) = (signed_log(40), in_the_end(40));
    let found = undisturbed(|world| build(VIEWS, &topic, world)).unwrap();
    for (name, sql, _) in VIEWS {
        assert_eq!(net(&found, name), answer(&there, sql).await, "{name}");
        assert!(found[*name].iter().any(|line| line.contains("\"diff\":-1")), "{name} withdraws rows");
    }
    let groups = |of: fn(&(i64, i64)) -> (i64, i64), rows: Vec<(i64, i64)>| {
        let groups: std::collections::BTreeSet<_> = rows.iter().map(of).collect();
        groups.len()
    };
    let all: Vec<(i64, i64)> = (0..PARTITIONS).flat_map(|id| (0..40).filter(|p| p % 3 != 2).map(move |p| row(id, p))).collect();
    assert!(groups(|r| (r.0, r.1 % 5), all) > groups(|r| (r.0, r.1 % 5), there), "some groups vanish");
}

#[test]
fn killed_at_any_operation_aggregates_of_a_source_are_the_same() {
    crash(Schedules::points(tier::of(25, 60, u64::MAX)).and_at_the_disk(tier::of(0, 10, u64::MAX)));
}

#[test]
fn killed_again_and_again_aggregates_of_a_source_are_the_same() {
    let report = crash(Schedules::random(tier::of(25, 150, 1_000)).also_on_workers(in_threads()).for_as_long_as(tier::hours()));
    assert!(report.deaths > report.schedules && report.power_cuts > 2, "{report}");
}

#[test]
fn at_any_number_of_workers_aggregates_of_a_source_are_the_same() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    crash(schedules.for_as_long_as(tier::hours()));
}
