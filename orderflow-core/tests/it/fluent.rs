//! Two ways to write a plan, one plan: fluent calls and SQL text for every verb, compared as text, by what they answer over rows that come
//! and go, and by the state that one of them left.
//!
//! Invariant: whoever reads a plan, or the state that was kept of it, cannot tell which of the two it was written with.

use orderflow_core::arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::arrow::util::display::array_value_to_string;
use orderflow_core::datafusion::functions_aggregate::count::count_all;
use orderflow_core::datafusion::functions_aggregate::expr_fn::{avg, count, count_distinct, max, min, sum};
use orderflow_core::datafusion::prelude::{Expr, ExprFunctionExt, col, lit, upper};
use orderflow_core::pipeline::{StateFate, Stream};
use orderflow_core::plan::batch_answer;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::memory;
use orderflow_core::store::{Memory, Store};
use orderflow_core::{Pipeline, Result};
use std::sync::Arc;

/// A view, written in both ways.
struct Case {
    name: &'static str,
    sql: &'static str,
    calls: fn(&Stream) -> Result<Stream>,
}

/// Plans that are the same, node by node, before anything is optimised.
const CASES: &[Case] = &[
    Case {
        name: "filtered",
        sql: "SELECT * FROM orders WHERE qty > 1 OR price < 3",
        calls: |orders| {
            orders.filter(col("qty").gt(lit(1_i64)).or(col("price").lt(lit(3_i64))))?.select(["city", "kind", "qty", "price"].map(col))
        },
    },
    Case {
        name: "selected",
        sql: "SELECT city, qty + 1 AS more, upper(kind) AS kind FROM orders",
        calls: |orders| orders.select([col("city"), (col("qty") + lit(1_i64)).alias("more"), upper(col("kind")).alias("kind")]),
    },
    Case {
        name: "totals",
        sql: "SELECT city, kind, count(*) AS n, count(qty) AS known, sum(qty * price) AS amount, avg(price) AS mean, avg(qty) AS mean_qty, \
              min(price) AS low, max(qty) AS most, count(DISTINCT qty) AS quantities FROM orders GROUP BY city, kind",
        calls: |orders| {
            let calls = vec![
                (count_all(), "n"),
                (count(col("qty")), "known"),
                (sum(col("qty") * col("price")), "amount"),
                (avg(col("price")), "mean"),
                (avg(col("qty")), "mean_qty"),
                (min(col("price")), "low"),
                (max(col("qty")), "most"),
                (count_distinct(col("qty")), "quantities"),
            ];
            grouped(orders, &["city", "kind"], calls)
        },
    },
    Case {
        name: "chosen",
        sql: "SELECT kind, count(1) FILTER (WHERE qty > 2) AS big, sum(price) FILTER (WHERE city <> 'city 1') AS elsewhere, \
              max(qty) FILTER (WHERE price > 2) AS dear, count(DISTINCT city) FILTER (WHERE qty > 0) AS cities FROM orders GROUP BY kind",
        calls: |orders| {
            let calls = vec![
                (only(count(lit(1_i64)), col("qty").gt(lit(2_i64))), "big"),
                (only(sum(col("price")), col("city").not_eq(lit("city 1"))), "elsewhere"),
                (only(max(col("qty")), col("price").gt(lit(2_i64))), "dear"),
                (count(col("city")).distinct().filter(col("qty").gt(lit(0_i64))).build().unwrap(), "cities"),
            ];
            grouped(orders, &["kind"], calls)
        },
    },
    Case {
        name: "whole",
        sql: "SELECT count(*) AS n, sum(price) AS amount, max(price) AS high FROM orders",
        calls: |orders| grouped(orders, &[], vec![(count_all(), "n"), (sum(col("price")), "amount"), (max(col("price")), "high")]),
    },
    Case {
        name: "kinds",
        sql: "SELECT DISTINCT kind, qty FROM orders",
        calls: |orders| orders.select([col("kind"), col("qty")])?.distinct(),
    },
    Case {
        name: "both",
        sql: "SELECT city, qty FROM orders WHERE qty > 2 UNION ALL SELECT kind, qty FROM orders WHERE kind IS NOT NULL",
        calls: |orders| {
            let large = orders.filter(col("qty").gt(lit(2_i64)))?.select([col("city"), col("qty")])?;
            large.union(&orders.filter(col("kind").is_not_null())?.select([col("kind"), col("qty")])?)
        },
    },
    Case {
        name: "sizes",
        sql: "SELECT n, count(*) AS cities, max(amount) AS most \
              FROM (SELECT city, count(*) AS n, sum(qty * price) AS amount FROM orders GROUP BY city) GROUP BY n",
        calls: |orders| {
            let cities = grouped(orders, &["city"], vec![(count_all(), "n"), (sum(col("qty") * col("price")), "amount")])?;
            grouped(&cities, &["n"], vec![(count_all(), "cities"), (max(col("amount")), "most")])
        },
    },
    Case {
        name: "large",
        sql: "SELECT city, total FROM (SELECT city, sum(qty) AS total FROM orders GROUP BY city) WHERE total > 3",
        calls: |orders| {
            let totals = grouped(orders, &["city"], vec![(sum(col("qty")), "total")])?;
            totals.filter(col("total").gt(lit(3_i64)))?.select([col("city"), col("total")])
        },
    },
];

/// SQL has a projection that says nothing, and the optimiser takes it away.
const BARE: Case =
    Case { name: "bare", sql: "SELECT * FROM orders WHERE qty = 3", calls: |orders| orders.filter(col("qty").eq(lit(3_i64))) };

/// SQL names the columns behind the aggregate, the calls name them in it: another text, the same rows.
const NAMED: Case = Case {
    name: "named",
    sql: "SELECT city, count(*) AS n, min(qty) AS least FROM orders GROUP BY city",
    calls: |orders| orders.aggregate([col("city")], [count(lit(1_i64)).alias("n"), min(col("qty")).alias("least")]),
};

/// What `SELECT groups, calls AS names … GROUP BY groups` is.
fn grouped(input: &Stream, groups: &[&str], calls: Vec<(Expr, &str)>) -> Result<Stream> {
    let groups: Vec<Expr> = groups.iter().map(|g| col(*g)).collect();
    let bare: Vec<Expr> = calls.iter().map(|(call, _)| call.clone().unalias()).collect();
    let named = calls.into_iter().map(|(call, name)| call.alias(name));
    input.aggregate(groups.clone(), bare)?.select(groups.into_iter().chain(named))
}

/// The call with a FILTER.
fn only(call: Expr, rows: Expr) -> Expr {
    call.filter(rows).build().unwrap()
}

/// City, kind, quantity, price in cents.
type Row = (u64, Option<u64>, Option<i64>, i64);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("city", DataType::Utf8, false),
        Field::new("kind", DataType::Utf8, true),
        Field::new("qty", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(18, 2), false),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("city {}", r.0)))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1.map(|k| format!("kind {k}"))))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.2))),
        Arc::new(Decimal128Array::from_iter_values(rows.iter().map(|r| i128::from(r.3))).with_precision_and_scale(18, 2).unwrap()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Row `i`, as if drawn.
fn row(i: u64) -> Row {
    let h = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9);
    let qty = Some((h >> 16) as i64 % 6).filter(|q| *q > 0);
    (h % 4, Some((h >> 8) % 3).filter(|k| *k > 0), qty, (h >> 32) as i64 % 900)
}

/// Rounds of signed rows: twelve come, then some of those that are there go, and in the end all of them.
fn rounds() -> Vec<Vec<(Row, i64)>> {
    let (mut live, mut rounds): (Vec<Row>, Vec<_>) = (vec![], vec![]);
    for round in 0..5 {
        let mut signed: Vec<(Row, i64)> = (0..12).map(|i| (row(round * 12 + i), 1)).collect();
        live.extend(signed.iter().map(|s| s.0));
        let gone = (0..4 + round).map(|i| live.swap_remove((row(1000 + i).3 as usize) % live.len()));
        signed.extend(gone.map(|row| (row, -1)));
        rounds.push(signed);
    }
    rounds.push(live.into_iter().map(|row| (row, -1)).collect());
    rounds
}

fn printed(batches: &[RecordBatch]) -> Vec<String> {
    let row = |b: &RecordBatch, i| b.columns().iter().map(|c| array_value_to_string(c, i).unwrap()).collect::<Vec<_>>().join("|");
    let mut rows: Vec<String> = batches.iter().flat_map(|b| (0..b.num_rows()).map(|i| row(b, i)).collect::<Vec<_>>()).collect();
    rows.sort();
    rows
}

#[test]
fn calls_and_text_give_one_logical_plan() {
    let (_sender, source) = memory::channel(schema(), 1);
    let mut flow = Pipeline::new("plans");
    let orders = flow.source("orders", source).unwrap();
    for case in CASES {
        let (calls, sql) = ((case.calls)(&orders).unwrap(), flow.sql(case.sql).unwrap());
        assert_eq!(calls.explain(), sql.explain(), "{}", case.name);
        assert_eq!(calls.schema().unwrap(), sql.schema().unwrap(), "{}", case.name);
    }
}

#[tokio::test]
async fn calls_and_text_give_the_same_rows_while_rows_come_and_go() {
    let cases = || CASES.iter().chain([&BARE, &NAMED]);
    for workers in [1, 3] {
        let (sender, source) = memory::channel(schema(), 1000);
        let mut flow = Pipeline::new("answers");
        let orders = flow.source("orders", source).unwrap();
        for case in cases() {
            (case.calls)(&orders).unwrap().view(&format!("{}_calls", case.name)).unwrap();
            flow.view(&format!("{}_sql", case.name), case.sql).unwrap();
        }
        let running = flow.workers(workers).start().await.unwrap();
        let mut live: Vec<Row> = vec![];
        for signed in rounds() {
            for (row, diff) in &signed {
                match live.iter().position(|r| *diff < 0 && r == row) {
                    Some(at) => {
                        live.swap_remove(at);
                    }
                    None => live.push(*row),
                }
            }
            let (rows, diffs): (Vec<Row>, Vec<i64>) = signed.into_iter().unzip();
            sender.send_signed(batch(&rows), diffs).await.unwrap();
            running.settled().await.unwrap();
            for case in cases() {
                let read = async |way| printed(&running.query(&format!("SELECT * FROM {}_{way}", case.name)).await.unwrap());
                let (calls, sql) = (read("calls").await, read("sql").await);
                let wanted = batch_answer(vec![("orders".to_owned(), schema(), vec![batch(&live)])], case.sql).await.unwrap();
                assert_eq!(calls, sql, "{} of {} rows with {workers} workers", case.name, live.len());
                assert_eq!(calls, printed(&wanted), "{} of {} rows with {workers} workers", case.name, live.len());
            }
        }
        assert!(live.is_empty(), "everything was taken back");
        drop(sender);
        running.wait().await.unwrap();
    }
}

#[tokio::test]
async fn a_pipeline_that_is_written_again_with_calls_goes_on_with_the_state_of_its_sql() {
    let state: Arc<dyn Store> = Arc::new(Memory::new());
    let build = |calls: bool| {
        let (sender, source) = memory::channel(schema(), 1000);
        let mut flow = Pipeline::new("rewritten");
        let orders = flow.source("orders", source).unwrap();
        for case in CASES.iter().chain([&BARE]) {
            let view = if calls { (case.calls)(&orders).unwrap().view(case.name) } else { flow.view(case.name, case.sql) };
            view.unwrap();
        }
        let letters = DataSet::on(Arc::new(Memory::new()), "letters", JsonLines);
        (sender, flow.dead_letters(letters).state_on(state.clone(), "state"))
    };
    let rows: Vec<Row> = (0..40).map(row).collect();
    let (sender, flow) = build(false);
    let running = flow.start().await.unwrap();
    sender.send(batch(&rows[..25])).await.unwrap();
    drop(sender);
    running.wait().await.unwrap();
    drop(running);

    let (sender, flow) = build(true);
    let difference = flow.difference().unwrap().unwrap();
    assert!(difference.is_empty() && !difference.must_be_told(), "{difference}");
    assert!(difference.states.iter().all(|s| s.fate == StateFate::Kept) && !difference.states.is_empty(), "{difference}");
    let running = flow.start().await.unwrap();
    sender.send(batch(&rows[25..])).await.unwrap();
    running.settled().await.unwrap();
    assert!(running.status().restored.is_some(), "it goes on after the checkpoint of the first one");
    for case in CASES.iter().chain([&BARE]) {
        let read = printed(&running.query(&format!("SELECT * FROM {}", case.name)).await.unwrap());
        let wanted = batch_answer(vec![("orders".to_owned(), schema(), vec![batch(&rows)])], case.sql).await.unwrap();
        assert_eq!(read, printed(&wanted), "{}", case.name);
    }
    running.stop().await.unwrap();
}
