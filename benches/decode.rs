//! Bytes to Arrow columns, beside the least a program can do with the same bytes: simd-json into a borrowed struct of the needed fields, with
//! sonic-rs beside it, which is the slower of the two; for CSV a split at the commas where four fields are needed, and the csv
//! crate into a borrowed struct of all sixteen. Divide the times of a pair: that is the price of the columns. A decoder belongs to one
//! worker; with two, each has a decoder of its own and half of the records.
//!
//! `ORDERFLOW_BENCH_RECORDS` sets the size: 100,000 by default, up to 10,000,000 or so. More than 1,000,000 are whole rounds over a pool
//! of 1,000,000, so that records take 0.4 GB of memory however many they are.
//!
//! Invariant: before a decoder is timed, it and its limit have found the same number of pieces in one round.
#![allow(clippy::disallowed_methods, reason = "a bench is a host, not a guest")]

#[path = "limit/mod.rs"]
mod limit;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use limit::{All, Needed, Parser, Pool, PoolSource};
use orderflow::arrow::array::{AsArray, RecordBatch};
use orderflow::arrow::datatypes::Int64Type;
use orderflow::domain::order;
use orderflow::format::{Format, csv::Csv, json::Json};
use std::hint::black_box;
use std::time::Duration;

/// Rows after which a decoder hands out its batch.
const BATCH: usize = 8192;
/// payment_type, qty, price, city.
const FOUR: [usize; 4] = [6, 7, 8, 11];
const ALL: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn decode<'a>(format: &dyn Format, projection: &[usize], records: impl Iterator<Item = &'a [u8]>, mut take: impl FnMut(RecordBatch)) {
    let mut decoder = format.decoder(projection).expect("the schema can be parsed");
    for (i, record) in records.enumerate() {
        decoder.push(record).expect("orders are good");
        if (i + 1).is_multiple_of(BATCH) {
            take(decoder.finish().expect("columns make a batch"));
        }
    }
    take(decoder.finish().expect("columns make a batch"));
}

/// Pieces in all orders, by the decoder.
fn pieces(format: &dyn Format, projection: &[usize], input: &PoolSource) -> i64 {
    let mut pieces = 0;
    decode(format, projection, input.iter(), |batch| {
        let column = batch.column_by_name("qty").expect("it is in every projection");
        pieces += column.as_primitive::<Int64Type>().values().iter().sum::<i64>();
    });
    pieces
}

fn group<'a>(c: &'a mut Criterion, name: &str, input: &PoolSource) -> BenchmarkGroup<'a, WallTime> {
    let (elements, bytes) = input.size();
    let mut group = c.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
    group
}

/// The decoder beside its limit, which says how many pieces it found.
fn pair(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    input: &PoolSource,
    limit: fn(&PoolSource) -> i64,
    format: &dyn Format,
    projection: &[usize],
) {
    group.bench_function(format!("{name}, limit"), |b| b.iter(|| limit(input)));
    let mut compared = false;
    group.bench_function(name, |b| {
        if !compared {
            let round = input.at_most(1);
            assert_eq!(pieces(format, projection, &round), limit(&round), "both read the same orders");
            compared = true;
        }
        b.iter(|| decode(format, projection, input.iter(), |batch| _ = black_box(batch)));
    });
    group.bench_function(format!("{name}, 2 workers"), |b| {
        let half = input.size().0.div_ceil(2) as usize;
        b.iter(|| {
            std::thread::scope(|scope| {
                for from in [0, half] {
                    let own = input.iter().skip(from).take(half);
                    scope.spawn(|| decode(format, projection, own, |batch| _ = black_box(batch)));
                }
            });
        });
    });
}

fn json_four(input: &PoolSource) -> i64 {
    let mut parser = Parser::default();
    input.iter().map(|record| black_box(&parser.read::<Needed<'_>>(record)).qty).sum()
}

fn json_all(input: &PoolSource) -> i64 {
    let mut parser = Parser::default();
    input.iter().map(|record| black_box(&parser.read::<All<'_>>(record)).qty).sum()
}

fn sonic_four(input: &PoolSource) -> i64 {
    input.iter().map(|record| black_box(&sonic_rs::from_slice::<Needed<'_>>(record).expect("orders are good")).qty).sum()
}

fn sonic_all(input: &PoolSource) -> i64 {
    input.iter().map(|record| black_box(&sonic_rs::from_slice::<All<'_>>(record).expect("orders are good")).qty).sum()
}

fn from_json(c: &mut Criterion) {
    let input = PoolSource::sized(Pool::clean);
    let mut group = group(c, "decode json", &input);
    pair(&mut group, "4 fields", &input, json_four, &Json::new(order::schema()), &FOUR);
    pair(&mut group, "16 fields", &input, json_all, &Json::new(order::schema()), &ALL);
    group.bench_function("4 fields, sonic-rs", |b| b.iter(|| sonic_four(&input)));
    group.bench_function("16 fields, sonic-rs", |b| b.iter(|| sonic_all(&input)));
    group.bench_function("4 fields, every record cut off", |b| {
        let mut decoder = Json::new(order::schema()).decoder(&FOUR).expect("the schema can be parsed");
        b.iter(|| {
            for record in input.iter() {
                black_box(decoder.push(&record[..record.len() - 1]).expect_err("it is cut off"));
            }
        });
    });
    group.finish();
}

/// `None` for a line that is no order.
fn split(line: &[u8]) -> Option<Needed<'_>> {
    let mut fields = std::str::from_utf8(line).ok()?.split(',').skip(FOUR[0]);
    let payment_type = fields.next()?;
    let qty = fields.next()?.parse().ok()?;
    let price = fields.next()?.parse().ok()?;
    Some(Needed { payment_type, qty, price, city: fields.nth(2)? })
}

fn csv_four(input: &PoolSource) -> i64 {
    input.iter().map(|line| black_box(&split(line).expect("orders are good")).qty).sum()
}

fn csv_all(input: &PoolSource) -> i64 {
    let (mut pieces, mut record) = (0, csv::StringRecord::new());
    for _ in 0..input.rounds {
        let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(input.pool.all());
        while lines.read_record(&mut record).expect("orders are good") {
            let order: All<'_> = record.deserialize(None).expect("orders are good");
            pieces += black_box(&order).qty;
        }
    }
    pieces
}

fn from_csv(c: &mut Criterion) {
    let input = PoolSource::sized(Pool::lines);
    let mut group = group(c, "decode csv", &input);
    pair(&mut group, "4 fields", &input, csv_four, &Csv::new(order::schema()), &FOUR);
    pair(&mut group, "16 fields", &input, csv_all, &Csv::new(order::schema()), &ALL);
    group.finish();
}

criterion_group!(decoding, from_json, from_csv);
criterion_main!(decoding);
