//! Whole pipelines with state and tables as sinks, killed at any operation on the database and started again: the tables are the batch answer.

use super::faults::{Fault, Faulty};
use super::*;
use orderflow_core::Pipeline;
use orderflow_core::epoch::Limits;
use orderflow_core::format::json::Json;
use orderflow_core::sink::dead_letter::DeadLetters;
use orderflow_core::source::file::JsonLines;
use orderflow_core::store::{Memory, Store};
use orderflow_core::testing::{self, tier};
use orderflow_core::time::Clock;
use std::collections::BTreeMap;
use std::path::Path;

everywhere!(killed_anywhere_and_started_again_the_tables_are_the_batch_answer);

const ROWS: i64 = 240;

/// Row `i` as if drawn: a city that may be null, and an amount in cents.
fn row(i: i64) -> (Option<String>, i64) {
    let h = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    ((!h.is_multiple_of(6)).then(|| format!("city {}", h % 6)), (h % 1000) as i64 - 300)
}

fn cents(n: i64) -> String {
    format!("{}{}.{:02}", if n < 0 { "-" } else { "" }, n.abs() / 100, n.abs() % 100)
}

fn pipeline(
    dir: &Path,
    state: &Arc<dyn Store>,
    sink: &dyn Fn(&str, Sql) -> Sql,
    db: &Db,
    names: &[String; 3],
    clock: &Clock,
) -> Result<Pipeline> {
    let fields = [("id", DataType::Int64), ("city", DataType::Utf8), ("amount", DataType::Decimal128(18, 2))];
    let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
    let mut flow = Pipeline::new(names[0].clone());
    flow.source("orders", JsonLines::file(dir.join("orders.jsonl"), Json::new(schema)))?;
    let [totals, sizes, log] = names;
    let view = flow.view("totals", "SELECT city, count(*) AS n, sum(amount) AS amount FROM orders GROUP BY city")?;
    view.sink(sink(totals, Sql::upsert(&db.url, totals)))?;
    let view = flow.view("sizes", "SELECT n % 4 AS size, count(*) AS cities FROM totals GROUP BY n % 4")?;
    view.sink(sink(sizes, Sql::upsert(&db.url, sizes)))?;
    flow.sql("SELECT id, amount FROM orders WHERE amount > 0")?.sink(sink(log, Sql::append(&db.url, log)))?;
    let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 7, bytes: u64::MAX };
    let flow = flow.dead_letters(DeadLetters::append(dir.join("dead_letters"))).epochs(limits).clock(clock.clone());
    Ok(flow.state_on(state.clone(), "state"))
}

fn killed_anywhere_and_started_again_the_tables_are_the_batch_answer(db: &Db) {
    let mut totals: BTreeMap<Option<String>, (i64, i64)> = BTreeMap::new();
    let lines = (0..ROWS).map(|i| {
        let (city, amount) = row(i);
        let total = totals.entry(city.clone()).or_default();
        *total = (total.0 + 1, total.1 + amount);
        let city = city.map_or("null".to_owned(), |c| format!("\"{c}\""));
        format!("{{\"id\":{i},\"city\":{city},\"amount\":{}}}\n", cents(amount))
    });
    let text: String = lines.collect();
    let mut sizes: BTreeMap<i64, i64> = BTreeMap::new();
    totals.values().for_each(|(n, _)| *sizes.entry(n % 4).or_default() += 1);
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let expected = [
        sorted(totals.iter().map(|(c, (n, a))| format!("{} {n} {}", c.as_deref().unwrap_or("-"), cents(*a))).collect()),
        sorted(sizes.iter().map(|(s, n)| format!("{s} {n}")).collect()),
        sorted((0..ROWS).filter(|i| row(*i).1 > 0).map(|i| format!("{i} {} 1", cents(row(i).1))).collect()),
    ];
    let run = |faults: Vec<(u64, Fault)>| {
        let fresh = db.fresh();
        let db = fresh.as_ref().unwrap_or(db);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("orders.jsonl"), &text).unwrap();
        let state: Arc<dyn Store> = Arc::new(Memory::new());
        let (names, way, clock) = ([db.table(), db.table(), db.table()], Faulty::with(db, faults.clone()), Clock::manual(1_000_000));
        let flow = pipeline(dir.path(), &state, &|_, sink| sink.through(way.clone()), db, &names, &clock);
        let first = testing::live(flow, &clock, || way.is_dead());
        if let Err(e) = &first {
            assert_eq!(e.retry(), Retry::Backoff, "{faults:?}: {e}");
        }
        if first.is_err() || way.is_dead() {
            let flow = pipeline(dir.path(), &state, &|_, sink| sink, db, &names, &clock);
            testing::live(flow, &clock, || false).unwrap_or_else(|e| panic!("{faults:?}: {e}"));
        }
        let columns: [&[&str]; 3] = [&["city", "n", "amount"], &["size", "cities"], &["id", "amount", "diff"]];
        let found: Vec<_> = names.iter().zip(columns).map(|(table, columns)| db.read(table, columns)).collect();
        assert_eq!(found, expected, "{faults:?}");
        way.operations()
    };
    let operations = run(vec![]);
    assert!(operations > 50, "{operations}");
    let points = tier::of(16, 60, 1000).min(operations);
    for (i, at) in (1..=operations).step_by((operations / points) as usize).enumerate() {
        run(vec![(at, Fault::ALL[i % 4]), (at + 9, Fault::ALL[2 + i % 2])]);
    }
}
