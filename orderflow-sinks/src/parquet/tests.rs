//! The conformance suite, types as readers see them, and the bound on memory.

use super::*;
use crate::csv::tests::{Dir, files};
use orderflow_core::arrow::array::{Array, AsArray, Decimal128Array, Int64Array, TimestampMillisecondArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use orderflow_core::data::Changes;
use orderflow_core::sink::{Closed, Sink};
use orderflow_core::testing::conformance::{self, SeenRow, context};
use orderflow_core::time::Epoch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Rows `id, name, diff, epoch` as the conformance suite wants them.
pub(crate) fn rows(batch: &RecordBatch) -> Vec<SeenRow> {
    let number = |c: usize, i: usize| batch.column(c).as_primitive::<Int64Type>().value(i);
    let names = batch.column(1).as_string::<i32>();
    let row = |i: usize| SeenRow {
        epoch: number(3, i) as u64,
        diff: number(2, i),
        id: number(0, i),
        name: names.is_valid(i).then(|| names.value(i).to_owned()),
    };
    (0..batch.num_rows()).map(row).collect()
}

fn read(dir: &Path) -> Vec<RecordBatch> {
    let reader = |f: &PathBuf| ParquetRecordBatchReaderBuilder::try_new(File::open(f).unwrap()).unwrap().build().unwrap();
    files("parquet", dir).iter().flat_map(|f| reader(f).map(|b| b.unwrap()).collect::<Vec<_>>()).collect()
}

#[test]
fn conforms() {
    let seen = |dir: &Path| read(dir).iter().flat_map(rows).collect();
    conformance::sink(&mut Dir::new(|dir| Box::new(Parquet::append(dir)), seen));
    conformance::sink(&mut Dir::new(|dir| Box::new(Parquet::append(dir).compression(Compression::Snappy)), seen));
    conformance::sink(&mut Dir::new(|dir| Box::new(Parquet::append(dir).compression(Compression::None)), seen));
}

#[test]
fn whose_it_is_can_be_seen_before_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let folder = dir.path().join("set");
    assert_eq!(Parquet::append(&folder).look(&context(1, 1, &schema)).unwrap(), None);
    assert!(!folder.exists(), "looking makes nothing");
    let mut writer = Box::new(Parquet::append(&folder)).open(context(1, 1, &schema)).unwrap().writer;
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
    writer.write(Closed { epoch: Epoch(7), changes: vec![Changes::inserts(batch)] }).unwrap();
    writer.flush().unwrap();
    writer.poll(Duration::ZERO).unwrap();
    writer.close().unwrap();
    let seen = Parquet::append(&folder).look(&context(1, 2, &schema)).unwrap();
    assert_eq!(seen.map(|p| p.epoch), Some(Epoch(7)));
    let e = Parquet::append(&folder).look(&context(2, 1, &schema)).unwrap_err();
    assert!(e.to_string().contains("already holds a data set"), "{e}");
}

#[test]
fn money_and_times_keep_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let fields =
        [("amount", DataType::Decimal128(38, 2)), ("at", DataType::Timestamp(TimeUnit::Millisecond, None)), ("orders", DataType::Int64)];
    let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
    let amounts = Decimal128Array::from(vec![Some(12_345), None, Some(-1)]).with_precision_and_scale(38, 2).unwrap();
    let times = TimestampMillisecondArray::from(vec![Some(1_610_273_520_000), None, Some(0)]);
    let orders = Int64Array::from(vec![Some(1), Some(2), None]);
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(amounts), Arc::new(times), Arc::new(orders)]).unwrap();
    let mut writer = Box::new(Parquet::append(dir.path())).open(context(1, 1, &schema)).unwrap().writer;
    writer.write(Closed { epoch: Epoch(7), changes: vec![Changes::signed(batch.clone(), vec![1, -1, 2])] }).unwrap();
    writer.flush().unwrap();
    writer.poll(Duration::ZERO).unwrap();

    let back = read(dir.path());
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].project(&[0, 1, 2]).unwrap(), batch);
    assert_eq!(back[0].column(3).as_primitive::<Int64Type>().values(), &[1, -1, 2]);
    assert_eq!(back[0].column(4).as_primitive::<Int64Type>().values(), &[7, 7, 7]);
}

#[test]
fn a_large_file_passes_through_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let encoder = |dir: &Path| Box::new(Parquet::append(dir).roll_bytes(u64::MAX).roll_rows(u64::MAX)).open(context(1, 1, &schema));
    let mut writer = encoder(dir.path()).unwrap().writer;
    let staged = || {
        let aside = std::fs::read_dir(dir.path().join(".orderflow")).unwrap().map(|e| e.unwrap());
        aside.filter(|e| e.file_name() != "lock").map(|e| e.metadata().unwrap().len()).sum::<u64>()
    };
    for e in 1..=30 {
        // a multiplicative walk: nothing to compress, so that bytes follow rows
        let ids = (0..50_000u64).map(|i| ((e * 50_000 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64);
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(ids))]).unwrap();
        writer.write(Closed { epoch: Epoch(e), changes: vec![Changes::inserts(batch)] }).unwrap();
        assert!(writer.poll(Duration::ZERO).unwrap().pending_bytes < 1 << 20);
    }
    assert!(staged() > 9_000_000, "5 of 6 row groups are on the disk, not in memory: {}", staged());
    writer.flush().unwrap();
    writer.poll(Duration::ZERO).unwrap();
    let file = files("parquet", dir.path());
    let metadata = ParquetRecordBatchReaderBuilder::try_new(File::open(&file[0]).unwrap()).unwrap().metadata().clone();
    assert_eq!((file.len(), metadata.num_row_groups(), metadata.file_metadata().num_rows()), (1, 6, 1_500_000));
}
