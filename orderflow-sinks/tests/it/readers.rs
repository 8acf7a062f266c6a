//! Data sets as DuckDB, pandas and the DataFusion of PyPI read them, by `scripts/read-check`.

use orderflow_core::arrow::array::{
    BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use orderflow_core::data::Changes;
use orderflow_core::sink::{Closed, Sink};
use orderflow_core::testing::conformance::context;
use orderflow_core::time::Epoch;
use orderflow_sinks::parquet::Compression;
use orderflow_sinks::{Csv, Jsonl, Parquet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn schema() -> SchemaRef {
    let fields = [
        ("city", DataType::Utf8),
        ("orders", DataType::Int64),
        ("amount", DataType::Decimal128(38, 2)),
        ("rate", DataType::Float64),
        ("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("large", DataType::Boolean),
    ];
    Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()))
}

fn closed(n: i64) -> Closed {
    let rows = 0..1_000 + n;
    let some = |i: &i64| i % 11 != 0;
    let cities = ["Boston", "São Paulo, \"SP\"", "two\nlines", "東京"];
    let batch = RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(StringArray::from_iter(rows.clone().map(|i| some(&i).then(|| cities[i as usize % 4])))),
            Arc::new(Int64Array::from_iter(rows.clone().map(|i| some(&i).then_some(i)))),
            Arc::new(
                Decimal128Array::from_iter(rows.clone().map(|i| some(&i).then_some(i as i128 * 1_000_003 - 7)))
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
            Arc::new(Float64Array::from_iter(rows.clone().map(|i| some(&i).then_some(i as f64 / 8.0)))),
            Arc::new(TimestampMillisecondArray::from_iter(rows.clone().map(|i| some(&i).then_some(1_610_000_000_000 + i * 997)))),
            Arc::new(BooleanArray::from_iter(rows.clone().map(|i| some(&i).then_some(i > 500)))),
        ],
    );
    let diffs = rows.map(|i| if i % 5 == 4 { -1 } else { 1 }).collect();
    Closed { epoch: Epoch(n as u64), changes: vec![Changes::signed(batch.unwrap(), diffs)] }
}

#[test]
#[ignore = "needs Python, and PyPI the first time"]
fn duckdb_pandas_and_datafusion_agree() {
    let dir = tempfile::tempdir().unwrap();
    let place = |n: &str| dir.path().join(n);
    let sinks: [(&str, Box<dyn Sink>); 5] = [
        ("zstd", Box::new(Parquet::append(place("zstd")).roll_rows(3_000))),
        ("snappy", Box::new(Parquet::append(place("snappy")).compression(Compression::Snappy))),
        ("plain", Box::new(Parquet::append(place("plain")).compression(Compression::None))),
        ("csv", Box::new(Csv::append(place("csv")).roll_rows(3_000))),
        ("jsonl", Box::new(Jsonl::append(place("jsonl")).roll_rows(3_000))),
    ];
    for (name, sink) in sinks {
        let mut writer = sink.open(context(1, 1, &schema())).unwrap().writer;
        for n in 1..=10 {
            writer.write(closed(n)).unwrap();
            writer.poll(Duration::ZERO).unwrap();
        }
        writer.flush().unwrap();
        writer.poll(Duration::ZERO).unwrap();
        // an open file, and one that is staged: no reader may stumble over them
        writer.write(closed(11)).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/read-check");
        let check = Command::new(script).arg(place(name)).output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{name}: {said}");
        let (rows, orders) = (10_055, (1..=10).flat_map(|n| 0..1_000 + n).filter(|i| i % 11 != 0).sum::<i64>());
        assert!(said.contains(&format!("rows\t{rows}\t{rows}\n")), "{name}: {said}");
        assert!(said.contains(&format!("sum orders\t{orders}\t{orders}\n")), "{name}: {said}");
        writer.close().unwrap();
    }
}
