//! A disk that is full: the test runs itself again as a child whose files may grow to 64 KB only, SIGXFSZ ignored.
//!
//! What must hold: the error may pass and says what is full, no reader sees half a file, nothing more is taken, and as soon as
//! there is room everything goes on and is complete. `ORDERFLOW_MAKE_ROOM` is the command that makes room, so that the child
//! can be run by hand on a small file system too.

use orderflow_core::arrow::array::{Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::data::Changes;
use orderflow_core::error::Retry;
use orderflow_core::sink::{Closed, Sink, Writer};
use orderflow_core::testing::conformance::context;
use orderflow_core::time::Epoch;
use orderflow_sinks::parquet::Compression;
use orderflow_sinks::{Csv, Jsonl, Parquet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const KINDS: [&str; 3] = ["parquet", "csv", "jsonl"];
const ROWS: usize = 5_000;

#[test]
fn a_full_disk_loses_nothing() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("bash")
            .args(["-c", "trap '' XFSZ; ulimit -S -f 64; exec \"$0\" --exact disk_full::child --ignored --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .env("ORDERFLOW_KIND", kind)
            .env("ORDERFLOW_DIR", dir.path().join("set"))
            .env("ORDERFLOW_MAKE_ROOM", "prlimit --pid $PPID --fsize=unlimited:unlimited")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && said.contains("1 passed"), "{kind}: {said}");
        assert!(said.contains(&format!("{kind} was full, then complete")), "{kind}: {said}");
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, false)]))
}

/// 5,000 rows that hardly compress.
fn closed(n: u64) -> Closed {
    let numbers = |i: usize| (n * 1_000_003 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let ids = Int64Array::from_iter_values((0..ROWS).map(|i| (numbers(i) >> 1) as i64));
    let texts = StringArray::from_iter_values((0..ROWS).map(|i| format!("{:016x}", numbers(i).rotate_left(32))));
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(texts)]).unwrap();
    Closed { epoch: Epoch(n), changes: vec![Changes::inserts(batch)] }
}

fn open(kind: &str, dir: PathBuf) -> Box<dyn Writer> {
    let sink: Box<dyn Sink> = match kind {
        "parquet" => Box::new(Parquet::append(dir).compression(Compression::None)),
        "csv" => Box::new(Csv::append(dir)),
        _ => Box::new(Jsonl::append(dir)),
    };
    sink.open(context(1, 1, &schema())).unwrap().writer
}

fn visible(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = all.filter(|p| p.is_file()).collect();
    files.sort();
    files
}

fn rows(kind: &str, file: &Path) -> usize {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    if kind == "parquet" {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap().build().unwrap();
        return reader.map(|b| b.unwrap().num_rows()).sum();
    }
    let lines = std::fs::read_to_string(file).unwrap().lines().count();
    if kind == "csv" { lines - 1 } else { lines }
}

#[test]
#[ignore = "the child of a_full_disk_loses_nothing"]
fn child() {
    let env = |name: &str| std::env::var(name).unwrap();
    let (kind, dir) = (env("ORDERFLOW_KIND"), PathBuf::from(env("ORDERFLOW_DIR")));
    let mut writer = open(&kind, dir.clone());
    writer.write(closed(1)).unwrap();
    writer.flush().unwrap();
    for _ in 0..3 {
        let e = writer.poll(Duration::ZERO).unwrap_err();
        assert_eq!(e.retry(), Retry::Backoff, "{e}");
        assert!(e.to_string().contains(dir.to_str().unwrap()) && e.remedy().is_some_and(|h| h.contains("goes on by itself")), "{e}");
        assert_eq!(writer.write(closed(2)).unwrap_err().retry(), Retry::Backoff);
        assert_eq!(visible(&dir), Vec::<PathBuf>::new());
    }
    let made = Command::new("bash").args(["-c", &env("ORDERFLOW_MAKE_ROOM")]).status().unwrap();
    assert!(made.success());
    writer.write(closed(2)).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(2));
    writer.close().unwrap();
    assert_eq!(visible(&dir).iter().map(|f| rows(&kind, f)).sum::<usize>(), 2 * ROWS);
    eprintln!("{kind} was full, then complete");
}
