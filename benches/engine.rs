//! The engine over orders in memory, beside the hand-written loop over the same bytes. Divide the times of a pair.
//!
//! `ORDERFLOW_BENCH_RECORDS` sets the size (default 100,000; 1,000,000 groups want at least 1,000,000 records).
#![allow(clippy::disallowed_methods, reason = "a bench is a host, not a guest")]
#![allow(missing_docs, reason = "criterion's macros write functions without")]

#[path = "limit/mod.rs"]
mod limit;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use limit::{ByCustomer, CUSTOMERS, Discard, Pool, PoolSource, Routed, TOTALS, Totals, aggregate, run};
use orderflow::domain::order;
use orderflow::epoch::Limits;
use orderflow::sink::Column;
use orderflow::{Pipeline, pipelines};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

fn records() -> usize {
    std::env::var("ORDERFLOW_BENCH_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

fn source(pool: &Arc<Pool>) -> PoolSource {
    PoolSource { pool: pool.clone(), rounds: 1 }
}

fn group<'a>(c: &'a mut Criterion, name: &str, pool: &Pool) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::ElementsAndBytes { elements: pool.len() as u64, bytes: pool.bytes() as u64 });
    group
}

/// What a router asks for.
fn topics() -> Discard {
    Discard {
        columns: vec![
            Column::new("by_type", order::PAYMENT_TOPIC_SQL),
            Column::new("by_success", order::SUCCESS_TOPIC_SQL),
            Column::new("value", "_value"),
        ],
    }
}

fn filter_and_route(c: &mut Criterion) {
    let pool = Arc::new(Pool::clean(records()));
    let mut group = group(c, "filter and route", &pool);
    group.bench_function("engine", |b| {
        b.iter(|| {
            let mut flow = Pipeline::new("b");
            let orders = flow.source("orders", source(&pool)).unwrap();
            let failed =
                orders.filter(orderflow::datafusion::prelude::col("payment_txn_success").eq(orderflow::datafusion::prelude::lit("N")));
            failed.unwrap().route(topics()).unwrap();
            run(flow.dead_letters(Discard::default())).unwrap()
        });
    });
    group.bench_function("loop", |b| {
        b.iter(|| {
            for record in pool.iter() {
                let order: Routed<'_> = sonic_rs::from_slice(record).unwrap();
                if order.payment_txn_success == "N" {
                    black_box((order::payment_topic(order.payment_type), order::FAILED_TOPIC, record.to_vec()));
                }
            }
        });
    });
}

fn aggregates(c: &mut Criterion) {
    let pool = Arc::new(Pool::clean(records()));
    let mut few = group(c, "aggregate, 144 groups", &pool);
    for workers in [1, 2] {
        few.bench_function(format!("engine, {workers} workers"), |b| {
            b.iter(|| run(aggregate("b", source(&pool), TOTALS).unwrap().workers(workers)).unwrap());
        });
    }
    few.bench_function("loop", |b| {
        b.iter(|| {
            let mut totals = Totals::default();
            pool.iter().for_each(|r| totals.add(r));
            totals
        });
    });
    few.finish();

    let pool = Arc::new(Pool::customers(records()));
    let limits = Limits { interval: Duration::from_secs(3600), rows: 100_000, bytes: u64::MAX };
    let mut many = group(c, "aggregate, a group a record", &pool);
    for workers in [1, 2] {
        many.bench_function(format!("engine, {workers} workers"), |b| {
            b.iter(|| run(aggregate("b", source(&pool), CUSTOMERS).unwrap().epochs(limits).workers(workers)).unwrap());
        });
    }
    many.bench_function("loop", |b| {
        b.iter(|| {
            let mut totals = ByCustomer::default();
            for (i, record) in pool.iter().enumerate() {
                totals.add(record);
                if (i + 1) % 100_000 == 0 {
                    black_box(totals.close());
                }
            }
            black_box(totals.close());
            totals
        });
    });
}

fn whole_pipeline(c: &mut Criterion) {
    let pool = Arc::new(Pool::clean(records()));
    let mut group = group(c, "whole pipeline in memory", &pool);
    for workers in [1, 2] {
        group.bench_function(format!("engine, {workers} workers"), |b| {
            b.iter(|| {
                let mut flow = Pipeline::new("b");
                flow.source("orders", source(&pool)).unwrap().route(topics()).unwrap();
                flow.view("totals", TOTALS).unwrap().sink(Discard::default()).unwrap();
                flow.view("categories", pipelines::orders::CATEGORIES).unwrap();
                flow.view("failures", pipelines::orders::FAILURES).unwrap();
                run(flow.workers(workers).dead_letters(Discard::default())).unwrap()
            });
        });
    }
}

criterion_group!(engine, filter_and_route, aggregates, whole_pipeline);
criterion_main!(engine);
