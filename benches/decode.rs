//! Bytes to Arrow columns, beside the least a program can do with the same bytes: sonic-rs (faster here than simd-json, which has to copy
//! each record first) into a borrowed struct of the needed fields, for CSV a split at the commas. Divide the times of a pair: that is the
//! price of the columns.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use orderflow_core::format::{Format, csv::Csv, json::Json};
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use std::hint::black_box;
use std::sync::Arc;

const RECORDS: usize = 100_000;
/// Rows after which a decoder hands out its batch.
const BATCH: usize = 8192;
/// payment_type, qty, price, city.
const FOUR: [usize; 4] = [6, 7, 8, 11];

#[derive(Deserialize)]
struct Four<'a> {
    payment_type: &'a str,
    qty: i64,
    price: f64,
    city: &'a str,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed, never read: that is the limit")]
struct All<'a> {
    order_id: i64,
    customer_id: i64,
    customer_name: &'a str,
    product_id: i64,
    product_name: &'a str,
    product_category: &'a str,
    payment_type: &'a str,
    qty: i64,
    price: f64,
    datetime: &'a str,
    country: &'a str,
    city: &'a str,
    ecommerce_website_name: &'a str,
    payment_txn_id: &'a str,
    payment_txn_success: &'a str,
    failure_reason: Option<&'a str>,
}

fn schema() -> SchemaRef {
    let int = |name| Field::new(name, DataType::Int64, false);
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        int("order_id"),
        int("customer_id"),
        text("customer_name"),
        int("product_id"),
        text("product_name"),
        text("product_category"),
        text("payment_type"),
        int("qty"),
        Field::new("price", DataType::Decimal128(18, 2), false),
        Field::new("datetime", DataType::Timestamp(TimeUnit::Second, None), false),
        text("country"),
        text("city"),
        text("ecommerce_website_name"),
        text("payment_txn_id"),
        text("payment_txn_success"),
        Field::new("failure_reason", DataType::Utf8, true),
    ]))
}

/// The same orders as JSON (381 bytes each, within a few) and as CSV.
fn orders() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let names = schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    let mut pick = |from: &[&str]| from[rng.random_range(0..from.len())].to_owned();
    let mut records = (Vec::new(), Vec::new());
    for id in 0..RECORDS {
        let customer = pick(&["John Smith", "Mary Jane", "Joe Smith", "Neo", "Trinity"]);
        let payment = pick(&["Card", "Internet Banking", "UPI", "Wallet", "Google PAY", "PAYTM"]);
        let city = pick(&["Mumbai", "Boston", "Oxford", "Indore", "Bengaluru", "New York"]);
        let failed = id % 10 == 0;
        let text = |v: &str| (format!("\"{v}\""), v.to_owned());
        let number = |v: String| (v.clone(), v);
        let fields = [
            number(id.to_string()),
            number((id * 7919 % 100_000).to_string()),
            text(&customer),
            number((id % 1000).to_string()),
            text(&format!("Some product {}", id % 1000)),
            text("Stationery"),
            text(&payment),
            number((1 + id % 40).to_string()),
            number(format!("{}.{:02}", 1 + id * 31 % 60_000, id % 100)),
            text(&format!("2021-{:02}-{:02} {:02}:{:02}", 1 + id % 12, 1 + id % 28, id % 24, id % 60)),
            text("India"),
            text(&city),
            text("www.amazon.com"),
            text(&(10_000 + id % 90_000).to_string()),
            text(if failed { "N" } else { "Y" }),
            if failed { text("Invalid CVV.") } else { ("null".into(), String::new()) },
        ];
        let json = names.iter().zip(&fields).map(|(name, (value, _))| format!("\"{name}\":{value}")).collect::<Vec<_>>();
        records.0.push(format!("{{{}}}", json.join(",")).into_bytes());
        records.1.push(fields.map(|(_, value)| value).join(",").into_bytes());
    }
    records
}

fn decode(format: &dyn Format, projection: &[usize], records: &[Vec<u8>]) {
    let mut decoder = format.decoder(projection).expect("the schema can be parsed");
    for batch in records.chunks(BATCH) {
        for record in batch {
            decoder.push(record).expect("orders are good");
        }
        black_box(decoder.finish().expect("columns make a batch"));
    }
}

fn benches(c: &mut Criterion) {
    let (json, csv) = orders();
    let all = (0..16).collect::<Vec<_>>();
    let bytes = |records: &[Vec<u8>]| records.iter().map(|r| r.len() as u64).sum::<u64>();

    let mut group = c.benchmark_group("decode json");
    group.throughput(Throughput::ElementsAndBytes { elements: RECORDS as u64, bytes: bytes(&json) });
    group.bench_function("4 fields, limit", |b| {
        b.iter(|| {
            for record in &json {
                let order: Four<'_> = sonic_rs::from_slice(record).expect("orders are good");
                black_box((order.payment_type, order.qty, order.price, order.city));
            }
        });
    });
    group.bench_function("4 fields", |b| b.iter(|| decode(&Json::new(schema()), &FOUR, &json)));
    group.bench_function("16 fields, limit", |b| {
        b.iter(|| {
            for record in &json {
                black_box(sonic_rs::from_slice::<All<'_>>(record).expect("orders are good"));
            }
        });
    });
    group.bench_function("16 fields", |b| b.iter(|| decode(&Json::new(schema()), &all, &json)));
    group.bench_function("4 fields, every record cut off", |b| {
        let mut decoder = Json::new(schema()).decoder(&FOUR).expect("the schema can be parsed");
        b.iter(|| {
            for record in &json {
                black_box(decoder.push(&record[..record.len() - 1]).expect_err("it is cut off"));
            }
        });
    });
    group.finish();

    let mut group = c.benchmark_group("decode csv");
    group.throughput(Throughput::ElementsAndBytes { elements: RECORDS as u64, bytes: bytes(&csv) });
    group.bench_function("4 fields, limit", |b| {
        b.iter(|| {
            for record in &csv {
                let line = std::str::from_utf8(record).expect("orders are good");
                let mut fields = line.split(',').skip(6);
                let payment = fields.next();
                let qty = fields.next().and_then(|v| v.parse::<i64>().ok());
                let price = fields.next().and_then(|v| v.parse::<f64>().ok());
                black_box((payment, qty, price, fields.nth(2)));
            }
        });
    });
    group.bench_function("4 fields", |b| b.iter(|| decode(&Csv::new(schema()), &FOUR, &csv)));
    group.bench_function("16 fields", |b| b.iter(|| decode(&Csv::new(schema()), &all, &csv)));
    group.finish();
}

criterion_group! {
    name = decoding;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(decoding);
