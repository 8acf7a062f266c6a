//! The streaming answer at every epoch equals DataFusion's batch answer on the input so far: random rows with retractions, random
//! epoch and fetch cuts, 1, 2 and 4 workers; and what a sink was given adds up to the same answer.

use crate::feed::{collect, feed};
use orderflow_core::Pipeline;
use orderflow_core::arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::arrow::util::display::array_value_to_string;
use orderflow_core::plan::batch_answer;
use orderflow_core::sink::memory;
use orderflow_core::testing::tier;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One row: city, payment type (null one time in seven), quantity (null sometimes), price in cents.
type Row = (u8, Option<u8>, Option<i8>, i32);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("city", DataType::Utf8, false),
        Field::new("payment_type", DataType::Utf8, true),
        Field::new("qty", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(18, 2), false),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("city {}", r.0)))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1.map(|p| "x".repeat(usize::from(p)))))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.2.map(i64::from)))),
        Arc::new(Decimal128Array::from_iter_values(rows.iter().map(|r| i128::from(r.3))).with_precision_and_scale(18, 2).unwrap()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Every verb, and aggregates over aggregates so that retractions flow.
const VIEWS: &[(&str, &str)] = &[
    ("filtered", "SELECT city, qty + 1 AS more, upper(payment_type) AS kind FROM orders WHERE qty > 1 OR price < 3"),
    (
        "totals",
        "SELECT city, payment_type, count(*) AS orders, count(qty) AS n, sum(qty * price) AS amount, sum(qty) AS qty, avg(price) AS mean, avg(qty) AS mean_qty \
         FROM orders GROUP BY city, payment_type",
    ),
    (
        "extremes",
        "SELECT payment_type, min(price) AS low, max(price) AS high, min(city) AS first, max(qty) AS most, count(DISTINCT city) AS cities, \
         count(*) FILTER (WHERE qty > 2) AS big, sum(price) FILTER (WHERE city <> 'city 1') AS elsewhere FROM orders GROUP BY payment_type",
    ),
    ("whole", "SELECT count(*) AS orders, sum(price) AS amount, max(price) AS high, count(DISTINCT payment_type) AS kinds FROM orders"),
    ("kinds", "SELECT DISTINCT payment_type, qty FROM orders"),
    ("sizes", "SELECT orders, count(*) AS groups, max(amount) AS most FROM totals GROUP BY orders"),
    ("both", "SELECT city, qty FROM orders WHERE qty > 0 UNION ALL SELECT city, orders FROM totals"),
    ("everything", "SELECT * FROM orders"),
    ("having", "SELECT city, sum(qty) AS qty FROM orders GROUP BY city HAVING sum(qty) > 3"),
    ("rounds", "SELECT most, count(DISTINCT low) AS lows FROM extremes GROUP BY most"),
];

fn printed(batches: &[RecordBatch]) -> Vec<String> {
    let row = |b: &RecordBatch, i| b.columns().iter().map(|c| array_value_to_string(c, i).unwrap()).collect::<Vec<_>>().join("|");
    let mut rows: Vec<String> = batches.iter().flat_map(|b| (0..b.num_rows()).map(|i| row(b, i)).collect::<Vec<_>>()).collect();
    rows.sort();
    rows
}

async fn expected(rows: &[Row], view: usize, schemas: &[SchemaRef]) -> Vec<String> {
    let mut tables = vec![("orders".to_owned(), schema(), vec![batch(rows)])];
    for (v, (name, sql)) in VIEWS[..view].iter().enumerate() {
        // views over views are answered from the batch answers of the views before
        if VIEWS[view].1.contains(&format!("FROM {name}")) {
            let answer = batch_answer(tables.clone(), sql).await.unwrap();
            tables.push(((*name).to_owned(), answer.first().map_or(schemas[v].clone(), |b| b.schema()), answer));
        }
    }
    printed(&batch_answer(tables, VIEWS[view].1).await.unwrap())
}

/// Runs `epochs` of signed rows, each cut into fetches of `cut` rows, and compares after each.
fn check(epochs: &[Vec<(Row, bool)>], cut: usize, workers: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (feed, source) = feed(schema());
        let mut flow = Pipeline::new("oracle");
        flow.source("orders", source).unwrap();
        let (mut deliveries, mut schemas) = (vec![], vec![]);
        for (name, sql) in VIEWS {
            let (sink, delivery) = memory::sink(1 << 20);
            let view = flow.view(name, sql).unwrap().sink(sink.auto_ack()).unwrap();
            schemas.push(view.schema().unwrap());
            deliveries.push(collect(delivery));
        }
        let running = flow.workers(workers).start().await.unwrap();
        let mut live: Vec<Row> = vec![];
        let mut sums: Vec<BTreeMap<String, i64>> = VIEWS.iter().map(|_| BTreeMap::new()).collect();
        for (e, epoch) in epochs.iter().enumerate() {
            // a deletion takes back a row that is there; where none is, it becomes an insertion
            let mut signed: Vec<(Row, i64)> = vec![];
            for (row, insert) in epoch {
                match (!live.is_empty() && !insert).then(|| (row.3.unsigned_abs() as usize) % live.len()) {
                    Some(at) => signed.push((live.swap_remove(at), -1)),
                    None => {
                        live.push(*row);
                        signed.push((*row, 1));
                    }
                }
            }
            for fetch in signed.chunks(cut.max(1)) {
                let (rows, diffs): (Vec<Row>, Vec<i64>) = fetch.iter().copied().unzip();
                feed.send(batch(&rows), diffs);
            }
            running.settled().await.unwrap();
            for (v, (name, _)) in VIEWS.iter().enumerate() {
                let got = printed(&running.query(&format!("SELECT * FROM {name}")).await.unwrap());
                let want = if signed.is_empty() && e == 0 { continue } else { expected(&live, v, &schemas).await };
                assert_eq!(got, want, "view {name} after epoch {e} with {workers} workers");
            }
        }
        drop(feed);
        running.wait().await.unwrap();
        for (v, delivery) in deliveries.into_iter().enumerate() {
            for d in delivery.join().unwrap() {
                for c in &d.changes {
                    for i in 0..c.len() {
                        let row = c.rows().columns().iter().map(|col| array_value_to_string(col, i).unwrap()).collect::<Vec<_>>().join("|");
                        *sums[v].entry(row).or_default() += c.diff(i);
                    }
                }
            }
            let summed: Vec<String> = sums[v].iter().flat_map(|(row, n)| (0..*n).map(|_| row.clone())).collect();
            assert!(sums[v].values().all(|n| *n >= 0), "a sink was told to delete what it never had: {:?}", sums[v]);
            assert_eq!(summed, expected(&live, v, &schemas).await, "what the sink of {} was given, added up", VIEWS[v].0);
        }
    });
}

fn rows() -> impl Strategy<Value = Vec<Vec<(Row, bool)>>> {
    let row = (0u8..4, prop::option::weighted(0.85, 0u8..3), prop::option::weighted(0.8, -2i8..5), -500i32..900);
    prop::collection::vec(prop::collection::vec((row, prop::bool::weighted(0.65)), 0..25), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tier::of(12, 24, 400), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn streaming_equals_batch_with_one_worker(epochs in rows(), cut in 1usize..20) {
        check(&epochs, cut, 1);
    }
    #[test]
    fn streaming_equals_batch_with_two_workers(epochs in rows(), cut in 1usize..20) {
        check(&epochs, cut, 2);
    }
    #[test]
    fn streaming_equals_batch_with_four_workers(epochs in rows(), cut in 1usize..20) {
        check(&epochs, cut, 4);
    }
}
