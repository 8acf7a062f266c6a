//! The engine over orders in memory, on one worker and on two, beside the hand-written loop over the same bytes. Divide the times of a
//! pair.
//!
//! `ORDERFLOW_BENCH_RECORDS` sets the size: 100,000 by default, up to 10,000,000 or so. More than 1,000,000 are whole rounds over a pool
//! of 1,000,000, so that records take 0.4 GB of memory however many they are. "aggregate, 1,000,000 groups" has that many groups at any
//! size, thus at least as many records; above 1,000,000 a group has several.
//!
//! Invariant: before an engine is timed, it and the loop have come to the same answer over at most two rounds, of which the second shows
//! rows that change.
#![allow(clippy::disallowed_methods, reason = "a bench is a host, not a guest")]
#![allow(missing_docs, reason = "criterion's macros write functions without")]

#[path = "limit/mod.rs"]
mod limit;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use limit::{
    ByCustomer, CUSTOMERS, Discard, FETCH, POOL, Parser, Pool, PoolSource, Routed, Sent, TOTALS, Totals, aggregate, answer, cents, run,
};
use orderflow::arrow::util::display::array_value_to_string;
use orderflow::domain::order;
use orderflow::epoch::Limits;
use orderflow::pipelines::orders::{CATEGORIES, FAILURES};
use orderflow::sink::Column;
use orderflow::{Pipeline, Result, Running, col, lit};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records of an epoch where the loop has epochs too.
const EPOCH: usize = 100_000;

/// What stands side by side.
struct Pair<T> {
    /// A pipeline over the source; what it routes, it routes to the sink.
    flow: fn(PoolSource, Discard) -> Result<Pipeline>,
    by_hand: fn(&PoolSource) -> T,
    /// Compares the engine's views and what it sent with what the loop has.
    compare: fn(&Running, &Sent, &T),
}

impl<T> Pair<T> {
    fn bench(&self, c: &mut Criterion, name: &str, input: &PoolSource) {
        let (elements, bytes) = input.size();
        let mut group = c.benchmark_group(name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        for workers in [1, 2] {
            let mut compared = false;
            group.bench_function(format!("engine, {workers} workers"), |b| {
                if !compared {
                    self.compared(&input.at_most(2), workers);
                    compared = true;
                }
                b.iter(|| self.run(input, workers, None));
            });
        }
        group.bench_function("loop", |b| b.iter(|| (self.by_hand)(input)));
        group.finish();
    }

    fn run(&self, input: &PoolSource, workers: usize, tally: Option<Arc<Mutex<Sent>>>) -> Running {
        let columns = vec![
            Column::new("by_type", order::PAYMENT_TOPIC_SQL),
            Column::new("by_success", order::SUCCESS_TOPIC_SQL),
            Column::new("value", "_value"),
        ];
        let flow = (self.flow)(input.clone(), Discard { columns, tally }).unwrap();
        run(flow.workers(workers).dead_letters(Discard::default())).unwrap()
    }

    fn compared(&self, input: &PoolSource, workers: usize) {
        let sent = Arc::<Mutex<Sent>>::default();
        let running = self.run(input, workers, Some(sent.clone()));
        assert_eq!(running.status().sources[0].rows, input.size().0, "every record was read");
        (self.compare)(&running, &sent.lock().unwrap(), &(self.by_hand)(input));
    }
}

/// All rows of a view, as [`Totals::rows`] writes them.
fn rows(running: &Running, view: &str, columns: &str) -> BTreeSet<String> {
    let batches = limit::runtime().block_on(running.query(&format!("SELECT {columns} FROM {view}"))).unwrap();
    let mut rows = BTreeSet::new();
    for batch in &batches {
        for i in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, i).unwrap());
            rows.insert(format!("{view}|{}", cells.collect::<Vec<_>>().join("|")));
        }
    }
    rows
}

fn totals_of(running: &Running) -> BTreeSet<String> {
    rows(running, "totals", "city, payment_type, orders, CAST(amount AS DECIMAL(38, 2))")
}

/// Records on their way to a topic, back to back.
struct Outbox {
    topic: String,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    fn to(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), bytes: vec![], ends: vec![] }
    }

    #[inline]
    fn put(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }
}

/// Routing by hand: a record's bytes go to the topic of its payment type and to that of its success, and out [`FETCH`] records at a time.
struct Router {
    by_type: HashMap<String, Outbox>,
    failed: Outbox,
    successful: Outbox,
    waiting: usize,
    sent: Sent,
}

impl Default for Router {
    fn default() -> Self {
        let (failed, successful) = (Outbox::to(order::FAILED_TOPIC), Outbox::to(order::SUCCESSFUL_TOPIC));
        Self { by_type: HashMap::new(), failed, successful, waiting: 0, sent: Sent::new() }
    }
}

impl Router {
    #[inline]
    fn put(&mut self, record: &[u8], payment_type: &str, success: &str) {
        let of_type = self.by_type.entry_ref(payment_type).or_insert_with(|| Outbox::to(order::payment_topic(payment_type)));
        of_type.put(record);
        let of_success = if success == "Y" { &mut self.successful } else { &mut self.failed };
        of_success.put(record);
        self.waiting += 1;
        if self.waiting == FETCH {
            self.send();
        }
    }

    /// What waits goes out.
    fn send(&mut self) {
        for outbox in self.by_type.values_mut().chain([&mut self.failed, &mut self.successful]) {
            if outbox.ends.is_empty() {
                continue;
            }
            black_box(&*outbox);
            let (records, bytes) = self.sent.entry(outbox.topic.clone()).or_default();
            *records += outbox.ends.len() as u64;
            *bytes += outbox.bytes.len() as u64;
            outbox.bytes.clear();
            outbox.ends.clear();
        }
        self.waiting = 0;
    }
}

fn filter_and_route(c: &mut Criterion) {
    let pair = Pair::<Router> {
        flow: |source, sink| {
            let mut flow = Pipeline::new("b");
            flow.source("orders", source)?.filter(col("payment_txn_success").eq(lit("N")))?.route(sink)?;
            Ok(flow)
        },
        by_hand: |input| {
            let (mut router, mut parser) = (Router::default(), Parser::default());
            for record in input.iter() {
                let order: Routed<'_> = parser.read(record);
                if order.payment_txn_success == "N" {
                    router.put(record, order.payment_type, order.payment_txn_success);
                }
            }
            router.send();
            router
        },
        compare: |_, sent, router| assert_eq!(*sent, router.sent),
    };
    pair.bench(c, "filter and route", &PoolSource::sized(Pool::clean));
}

fn few_groups(c: &mut Criterion) {
    let pair = Pair::<Totals> {
        flow: |source, _| aggregate("b", source, TOTALS),
        by_hand: |input| {
            let mut totals = Totals::default();
            input.iter().for_each(|record| totals.add(record));
            totals
        },
        compare: |running, _, by_hand| assert_eq!(totals_of(running), by_hand.rows("totals")),
    };
    pair.bench(c, "aggregate, 144 groups", &PoolSource::sized(Pool::clean));
}

fn many_groups(c: &mut Criterion) {
    let pair = Pair::<ByCustomer> {
        flow: |source, _| {
            let limits = Limits { interval: Duration::from_secs(3600), rows: EPOCH as u64, bytes: u64::MAX };
            Ok(aggregate("b", source, CUSTOMERS)?.epochs(limits))
        },
        by_hand: |input| {
            let mut totals = ByCustomer::default();
            for (i, record) in input.iter().enumerate() {
                totals.add(record);
                if (i + 1).is_multiple_of(EPOCH) {
                    black_box(totals.close());
                }
            }
            black_box(totals.close());
            totals
        },
        compare: |running, _, by_hand| {
            assert_eq!(by_hand.groups(), POOL, "a group a record of the pool");
            assert_eq!(rows(running, "totals", "count(*)"), BTreeSet::from([format!("totals|{POOL}")]));
            assert_eq!(answer(running), by_hand.answer());
        },
    };
    pair.bench(c, "aggregate, 1,000,000 groups", &PoolSource::sized(|_| Pool::customers(POOL)));
}

/// The fields that the whole pipeline needs.
#[derive(serde::Deserialize)]
struct Needed<'a> {
    payment_type: &'a str,
    qty: i64,
    price: f64,
    city: &'a str,
    payment_txn_success: &'a str,
    failure_reason: Option<&'a str>,
}

/// The whole pipeline by hand: every record is parsed once, routed, and counted in three views.
#[derive(Default)]
struct Whole {
    parser: Parser,
    router: Router,
    totals: Totals,
    categories: Totals,
    failures: Totals,
}

impl Whole {
    #[inline]
    fn add(&mut self, record: &[u8]) {
        let order: Needed<'_> = self.parser.read(record);
        self.router.put(record, order.payment_type, order.payment_txn_success);
        self.totals.count(order.city, order.payment_type, i128::from(order.qty) * cents(order.price));
        self.categories.count(order.payment_type, order.payment_txn_success, 0);
        if order.payment_txn_success == "N" {
            self.failures.count(order.payment_type, order.failure_reason.unwrap_or_default(), 0);
        }
    }
}

fn whole_pipeline(c: &mut Criterion) {
    let pair = Pair::<Whole> {
        flow: |source, sink| {
            let mut flow = Pipeline::new("b");
            flow.source("orders", source)?.route(sink)?;
            flow.view("totals", TOTALS)?.sink(Discard::default())?;
            flow.view("categories", CATEGORIES)?;
            flow.view("failures", FAILURES)?;
            Ok(flow)
        },
        by_hand: |input| {
            let mut whole = Whole::default();
            input.iter().for_each(|record| whole.add(record));
            whole.router.send();
            whole
        },
        compare: |running, sent, whole| {
            assert_eq!(*sent, whole.router.sent);
            assert_eq!(totals_of(running), whole.totals.rows("totals"));
            // these have no sum
            let categories = rows(running, "categories", "payment_type, payment_txn_success, orders, '0.00'");
            assert_eq!(categories, whole.categories.rows("categories"));
            let failures = rows(running, "failures", "payment_type, failure_reason, orders, '0.00'");
            assert_eq!(failures, whole.failures.rows("failures"));
        },
    };
    pair.bench(c, "whole pipeline in memory", &PoolSource::sized(Pool::clean));
}

criterion_group!(engine, filter_and_route, few_groups, many_groups, whole_pipeline);
criterion_main!(engine);
