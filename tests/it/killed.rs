//! A real process, really killed: SIGKILL at any moment, started again, killed again; at the end the files and tables hold every row once.
//!
//! The test runs itself as a child: a seeded generator as the source, orders as JSON lines that are committed often, totals as Parquet that is
//! committed at the end, dead letters; both again as tables of a SQLite file. Invariant: what came out is judged by reading the files and by
//! [`expected`].

use crate::dice::Dice;
use crate::support::{Place, deltas, refused_once, sum, was_killed};
use crate::tier;
use orderflow::Pipeline;
use orderflow::domain::Order;
use orderflow::epoch::Limits;
use orderflow::generator::{Orders, Share, Total, expected};
use orderflow::pipelines::orders;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sink::files::{DataSet, JsonLines};
use orderflow::sinks::{Parquet, Sql};
use sqlx::{ConnectOptions, Row, sqlite};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn recipe() -> Orders {
    // an optimised build would be through before it is killed twice
    let times = if cfg!(debug_assertions) { 1 } else { 5 };
    Orders::new(9).total(times * tier::of(200_000, 400_000, 2_000_000)).malformed(Share::new(0.01).unwrap())
}

/// Where the records of the recipe stand that are no orders.
fn no_orders() -> BTreeSet<Place> {
    let (mut records, mut value, mut places) = (recipe().records(0), vec![], BTreeSet::new());
    loop {
        let position = records.position();
        value.clear();
        if records.next_into(&mut value).is_none() {
            return places;
        }
        if serde_json::from_slice::<Order>(&value).is_err() {
            places.insert(("orders".to_owned(), 0, position));
        }
    }
}

fn process(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed::child", "--ignored", "--nocapture"]).env("ORDERFLOW_KILLED_DIR", dir);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the child of a_process_that_is_killed_again_and_again_leaves_every_row_once"]
fn child() {
    let dir = PathBuf::from(std::env::var_os("ORDERFLOW_KILLED_DIR").unwrap());
    let run = async {
        let mut flow = Pipeline::new("killed");
        let stream = flow.source("orders", recipe().source(Arc::new(orders::json())))?;
        let often = DataSet::append(dir.join("orders"), JsonLines).roll_rows(3_000);
        let tables = format!("sqlite:{}", dir.join("tables.db").display());
        flow.sql("SELECT order_id, city FROM orders")?.sink(often)?.sink(Sql::append(&tables, "orders"))?;
        drop(stream);
        flow.view("totals", orders::TOTALS)?.sink(Parquet::append(dir.join("totals")))?.sink(Sql::upsert(&tables, "totals"))?;
        let limits = Limits { interval: Duration::from_millis(50), rows: 1_000, bytes: u64::MAX };
        let flow = flow.dead_letters(DeadLetters::append(dir.join("dead_letters"))).epochs(limits);
        flow.workers(2).state(dir.join("state")).start().await?.wait().await
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run).unwrap();
}

#[test]
fn a_process_that_is_killed_again_and_again_leaves_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut dice, mut killed) = (Dice(7), 0);
    for _ in 0..tier::of(6, 12, 50) {
        let mut process = process(dir.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(80 + dice.below(500)));
        process.kill().unwrap();
        killed += usize::from(was_killed(process.wait().unwrap()));
    }
    assert!(killed > 1, "they were all too fast: give them more to do");
    let last = process(dir.path()).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));

    let expected = expected(&recipe(), u64::MAX);
    assert_eq!(sum(&deltas(&dir.path().join("totals"))), expected.totals);
    let bad = no_orders();
    assert_eq!(refused_once(&dir.path().join("dead_letters")), bad, "each record that is no order has one letter");
    assert_eq!(bad.len() as u64, expected.rejected);
    let mut ids: Vec<i64> = vec![];
    for entry in std::fs::read_dir(dir.path().join("orders")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            let text = std::fs::read_to_string(path).unwrap();
            ids.extend(text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["order_id"].as_i64().unwrap()));
        }
    }
    let rows = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((rows as u64, ids.len()), (expected.records - expected.rejected, rows));
    let (totals, appended) = tables(&dir.path().join("tables.db"));
    assert_eq!(totals, expected.totals);
    assert_eq!(appended, (rows as i64, rows as i64));
}

/// The table of totals; how many orders there are in the other one, and how many different ones.
fn tables(file: &Path) -> (BTreeMap<(String, String), Total>, (i64, i64)) {
    let read = async {
        let mut file = sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        let totals = sqlx::query("SELECT city, payment_type, orders, amount FROM totals").fetch_all(&mut file).await.unwrap();
        let total = |r: &sqlite::SqliteRow| {
            let total = Total { orders: r.get::<i64, _>(2) as u64, amount: r.get::<String, _>(3).parse().unwrap() };
            ((r.get(0), r.get(1)), total)
        };
        let orders =
            sqlx::query("SELECT count(*), count(DISTINCT order_id) FROM orders WHERE diff = 1").fetch_one(&mut file).await.unwrap();
        (totals.iter().map(total).collect(), (orders.get(0), orders.get(1)))
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(read)
}
