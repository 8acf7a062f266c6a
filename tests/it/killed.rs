//! A real process, really killed: SIGKILL at any moment, started again, killed again; at the end the files hold every row once.
//!
//! The test runs itself as a child: a seeded generator as the source, orders as JSON lines that are committed often, totals as Parquet that is
//! committed at the end, dead letters. Invariant: what came out is judged by reading the files and by [`expected`].

use crate::support::{deltas, letters, sum};
use crate::tier;
use orderflow::Pipeline;
use orderflow::epoch::Limits;
use orderflow::generator::{Orders, Share, expected};
use orderflow::pipelines::orders;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sink::files::{DataSet, JsonLines};
use orderflow::sinks::Parquet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn recipe() -> Orders {
    Orders::new(9).total(tier::of(200_000, 400_000, 2_000_000)).malformed(Share::new(0.01).unwrap())
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
        flow.sql("SELECT order_id, city FROM orders")?.sink(often)?;
        drop(stream);
        flow.view("totals", orders::TOTALS)?.sink(Parquet::append(dir.join("totals")))?;
        let limits = Limits { interval: Duration::from_millis(50), rows: 1_000, bytes: u64::MAX };
        let flow = flow.dead_letters(DeadLetters::append(dir.join("dead_letters"))).epochs(limits);
        flow.workers(2).state(dir.join("state")).start().await?.wait().await
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run).unwrap();
}

#[test]
fn a_process_that_is_killed_again_and_again_leaves_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 7u64;
    let mut killed = 0;
    for _ in 0..tier::of(6, 12, 50) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut process = process(dir.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(80 + (seed >> 33) % 500));
        process.kill().unwrap();
        killed += usize::from(!process.wait().unwrap().success());
    }
    assert!(killed > 1, "they were all too fast: give them more to do");
    let last = process(dir.path()).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));

    let expected = expected(&recipe(), u64::MAX);
    assert_eq!(sum(&deltas(&dir.path().join("totals"))), expected.totals);
    let letters = letters(&dir.path().join("dead_letters"));
    assert_eq!(letters.len() as u64, expected.rejected);
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
}
