//! `orderflow state …` and `orderflow reset-sink`, run as programs on a state that a pipeline left.
//!
//! Invariant: what a tool says is judged by what the pipeline's sinks and [`expected`] say.

use crate::command_line::{keys, lines, orderflow, until};
use crate::full_pipeline::{Ended, program};
use crate::real::{block_on, cluster, present};
use crate::support::{Sent, deltas, send, signal, sum};
use orderflow::arrow::datatypes::{DataType, Field, Schema};
use orderflow::epoch::Limits;
use orderflow::format::json::Json;
use orderflow::generator::{Expected, Orders, expected};
use orderflow::kafka::{Kafka, Start, Until};
use orderflow::pipelines::orders;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sink::files::{DataSet, JsonLines};
use orderflow::sinks::Parquet;
use orderflow::store::Folder;
use orderflow::{OnChange, Pipeline};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

const RECIPE: fn() -> Orders = || Orders::new(11).total(20_000);

/// One run to the end: totals to `out`, which is named after the view of the same name in the ledger.
fn run(dir: &Path, state: &str, out: &str, on_change: OnChange) -> orderflow::Result<()> {
    block_on(async {
        let mut flow = Pipeline::new(state);
        flow.source("orders", RECIPE().source(Arc::new(orders::json())))?;
        flow.view("totals", orders::TOTALS)?.sink(Parquet::append(dir.join(out)))?;
        flow.view("cities", "SELECT city, sum(orders) AS orders FROM totals GROUP BY city")?;
        flow.sql("SELECT order_id FROM orders WHERE order_id % 100 = 0")?
            .sink(DataSet::append(dir.join(format!("{out}-ids")), JsonLines))?;
        let flow = flow.dead_letters(DeadLetters::append(dir.join(format!("{out}-letters")))).on_change(on_change);
        // several epochs, and a checkpoint after each
        let limits = Limits { interval: Duration::from_secs(1), rows: 1_000, bytes: u64::MAX };
        flow.epochs(limits).checkpoint_every(Duration::ZERO).workers(2).state(dir.join(state)).start().await?.wait().await.map(drop)
    })
}

fn tool(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orderflow")).current_dir(dir).args(args).output().unwrap()
}

/// What a tool that succeeds prints.
fn says(dir: &Path, args: &[&str]) -> String {
    let output = tool(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a tool that is refused prints as its error.
fn refuses(dir: &Path, args: &[&str]) -> String {
    let output = tool(dir, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { drop(found.insert(path.display().to_string(), fs::read(&path).unwrap())) }
        }
    }
    found
}

#[test]
fn looking_verifying_and_exporting_change_nothing_and_say_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, "state", "out", OnChange::Refuse).unwrap();
    let Expected { totals, .. } = expected(&RECIPE(), u64::MAX);
    let before = files(&dir.join("state"));
    // also while somebody has it open
    let owner = Folder::open(dir.join("state")).unwrap();

    let table = says(dir, &["state", "ls", "state"]);
    for part in [
        "generation 1, opened 20",
        "orders[0]",
        "20000",
        "sink parquet of totals",
        "sink jsonl of query",
        "checkpoints/",
        "totals",
        "computed from stored states: cities",
    ] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let found: serde_json::Value = serde_json::from_str(&says(dir, &["state", "ls", "state", "--json"])).unwrap();
    assert_eq!(found["sources"][0]["position"], 20_000);
    assert_eq!(found["checkpoints"][1]["states"][0]["views"][0], "totals");
    // a group stands in every file whose epochs changed it
    assert!(found["checkpoints"][1]["states"][0]["rows"].as_u64().unwrap() >= totals.len() as u64);

    let all = says(dir, &["state", "verify", "state"]);
    assert!(all.ends_with("all is well\n"), "{all}");

    for (out, count) in [("t.jsonl", totals.len()), ("t.csv", totals.len() + 1)] {
        says(dir, &["state", "export", "state", "totals", "--out", out]);
        assert_eq!(fs::read_to_string(dir.join(out)).unwrap().lines().count(), count);
    }
    let exported = fs::read_to_string(dir.join("t.jsonl")).unwrap();
    for line in exported.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let total = &totals[&(row["city"].as_str().unwrap().to_owned(), row["payment_type"].as_str().unwrap().to_owned())];
        let amount = row["amount"].as_str().map_or_else(|| row["amount"].to_string(), str::to_owned);
        assert_eq!((row["orders"].as_u64().unwrap(), amount.parse::<rust_decimal::Decimal>().unwrap()), (total.orders, total.amount));
    }
    says(dir, &["state", "export", "state", "0", "--out", "t.parquet"]);
    let rows = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(File::open(dir.join("t.parquet")).unwrap()).unwrap();
    assert_eq!(rows.build().unwrap().map(|b| b.unwrap().num_rows()).sum::<usize>(), totals.len());
    let e = refuses(dir, &["state", "export", "state", "cities", "--out", "c.csv"]);
    assert!(e.contains("cities") && e.contains("totals") && !dir.join("c.csv").exists(), "{e}");

    let e = refuses(dir, &["reset-sink", "state", "parquet of totals"]);
    assert!(e.contains("in use") && e.contains(&std::process::id().to_string()), "{e}");
    drop(owner);
    assert_eq!(files(&dir.join("state")), before);
    assert!(refuses(dir, &["state", "ls", "nowhere"]).contains("no folder nowhere"));
    assert!(refuses(dir, &["state", "verify", "out"]).contains("holds no state"));

    // the newest checkpoint is damaged: said, with what happens then
    let newest = found["checkpoints"][1]["manifest"].as_str().unwrap();
    let manifest = dir.join("state").join(newest);
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[9] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let e = refuses(dir, &["state", "verify", "state"]);
    assert!(e.contains(newest) && e.contains("goes on from the older checkpoint"), "{e}");
    let found: serde_json::Value = serde_json::from_slice(&tool(dir, &["state", "verify", "state", "--json"]).stdout).unwrap();
    assert_eq!(found["problems"][0]["object"], newest);
}

#[test]
fn a_fork_and_a_reset_give_new_sinks_everything() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, "state", "out", OnChange::Refuse).unwrap();
    let Expected { totals, .. } = expected(&RECIPE(), u64::MAX);
    let text = says(dir, &["state", "fork", "state", "copy"]);
    assert!(text.contains("goes on after epoch"), "{text}");
    assert!(refuses(dir, &["state", "fork", "state", "copy"]).contains("not empty"));
    run(dir, "copy", "other", OnChange::Refuse).unwrap();
    assert_eq!(sum(&deltas(&dir.join("other"))), totals);
    let ids = |out: &str| {
        let texts = files(&dir.join(out))
            .into_iter()
            .filter(|(name, _)| name.ends_with(".jsonl"))
            .map(|(_, text)| String::from_utf8(text).unwrap());
        texts.map(|t| t.lines().count()).sum::<usize>()
    };
    assert_eq!((ids("out-ids"), ids("other-ids")), (200, 200));

    let e = refuses(dir, &["reset-sink", "state", "totals"]);
    assert!(e.contains("'sink parquet of totals'"), "{e}");
    let text = says(dir, &["reset-sink", "state", "parquet of totals"]);
    assert!(text.contains("is forgotten") && text.contains("_commits"), "{text}");
    let e = run(dir, "state", "out", OnChange::Refuse).unwrap_err();
    assert!(e.to_string().contains("holds rows of before"), "{e}");
    fs::remove_dir_all(dir.join("out")).unwrap();
    run(dir, "state", "out", OnChange::Refuse).unwrap();
    assert_eq!(sum(&deltas(&dir.join("out"))), totals);
    assert_eq!(ids("out-ids"), 200, "the other sink was left alone");
}

#[test]
fn real_s3_programs_take_a_url_where_they_take_a_folder() {
    let Ok(place) = std::env::var("ORDERFLOW_S3") else { return };
    let (endpoint, bucket) = place.rsplit_once('/').unwrap();
    let url = format!("s3://{bucket}/programs-{:016x}", rand::random::<u64>());
    let (state, fork) = (format!("{url}/pipeline"), format!("{url}/fork"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run = |mut command: Command, args: &[&str]| {
        command.current_dir(dir).env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.args(args).output().unwrap()
    };
    let says = |command: Command, args: &[&str]| {
        let output = run(command, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let tool = || Command::new(env!("CARGO_BIN_EXE_orderflow"));
    // the second one has nothing left to do
    for read in ["2000 ", "0 "] {
        let said = says(program(dir), &["--state", &url, "--orders", "2000", "--seed", "11"]);
        assert!(said.contains("Orders counted: 2000,") && said.contains(&format!("Records read:   {read}")), "{said}");
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing is left where they ran");

    let table = says(tool(), &["state", "ls", &state]);
    assert!(table.contains("generation 2, opened 20") && table.contains("sink parquet of totals"), "{table}");
    let all = says(tool(), &["state", "verify", &state]);
    assert!(all.ends_with("all is well\n"), "{all}");
    says(tool(), &["state", "export", &state, "totals", "--out", "t.jsonl"]);
    let totals = expected(&Orders::new(11), 2_000).totals;
    assert_eq!(fs::read_to_string(dir.join("t.jsonl")).unwrap().lines().count(), totals.len());
    assert!(says(tool(), &["state", "fork", &state, &fork]).contains("goes on after epoch"));
    assert!(says(tool(), &["state", "verify", &fork]).ends_with("all is well\n"));
    let again = run(tool(), &["state", "fork", &state, &fork]);
    assert!(again.status.code() == Some(1) && String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");
    let text = says(tool(), &["reset-sink", &state, "parquet of totals"]);
    assert!(text.contains("is forgotten") && text.contains("_commits"), "{text}");
    let nowhere = run(tool(), &["state", "ls", &format!("{url}/nowhere")]);
    assert!(nowhere.status.code() == Some(1) && String::from_utf8_lossy(&nowhere.stderr).contains("holds no state"), "{nowhere:?}");
}

#[test]
fn real_s3_orders_are_produced_and_shown_with_a_url_where_they_take_a_folder() {
    let Ok(place) = std::env::var("ORDERFLOW_S3") else { return };
    let Some(cluster) = cluster("by-url") else { return };
    let _present = present();
    let (endpoint, bucket) = place.rsplit_once('/').unwrap();
    let (url, topic) = (format!("s3://{bucket}/command-{:016x}", rand::random::<u64>()), cluster.topic("made"));
    let (dir, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let there = |mut command: Command| {
        command.current_dir(&dir).env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command
    };
    // the second one has nothing left to do
    for _ in 0..2 {
        let args = format!("produce --topic {topic} --orders 500 --rate 0 --every 100ms --partitions 2 --state {url}/producer");
        let done = there(orderflow(&cluster, &args)).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && said.contains(&format!("500 orders in topic {topic}")), "{said}{done:?}");
        assert_eq!(keys(&cluster, &topic), (0..500).collect());
    }
    let tail = |name: &str, done: &dyn Fn(&Path) -> bool| {
        let file = shown.path().join(name);
        let mut tail = there(orderflow(&cluster, &format!("tail --topic {topic} --epoch 20ms --state {url}/tail")));
        let mut tail = Ended(tail.stdout(File::create(&file).unwrap()).stderr(Stdio::null()).spawn().unwrap());
        until("every order on the screen", &mut tail.0, || done(&file));
        signal(tail.0.id(), "-INT");
        assert!(tail.0.wait().unwrap().success(), "Ctrl-C is a good end");
        lines(&file)
    };
    let first = tail("first", &|file| lines(file).len() >= 500);
    assert_eq!((first.len(), first.iter().collect::<BTreeSet<_>>().len()), (500, 500));
    send(&cluster.brokers, &topic, [(Some(0), &Sent::value("one more"))]);
    let more = tail("one more", &|file| !lines(file).is_empty());
    assert!(more.len() == 1 && more[0].ends_with("one more"), "after a good end nothing is shown again: {more:?}");
    for state in ["producer", "tail"] {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_orderflow"));
        tool.args(["state", "ls", &format!("{url}/{state}")]);
        let table = String::from_utf8(there(tool).output().unwrap().stdout).unwrap();
        assert!(table.contains("generation 2, opened 20"), "{state}: {table}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left where they ran");
    cluster.forget();
}

#[test]
fn real_rows_from_a_given_time_go_into_a_new_sink_by_a_pipeline_of_its_own() {
    let Some(cluster) = cluster("reprocess") else { return };
    let _present = present();
    let topic = cluster.topic("orders");
    cluster.admin.create_topic(&topic, 2, 1, &[]).unwrap();
    let at = |i: i64| 1_700_000_000_000 + i;
    let records: Vec<Sent> = (0..100).map(|i| Sent { timestamp: Some(at(i)), ..Sent::value(format!("{{\"k\":{}}}", i % 10)) }).collect();
    send(&cluster.brokers, &topic, records.iter().enumerate().map(|(i, r)| (Some(i as i32 % 2), r)));
    let dir = tempfile::tempdir().unwrap();
    let columns = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)]));
    let run = |name: &str, start: Start| {
        let source = Kafka::topic(&topic).brokers(&cluster.brokers).format(Json::new(columns.clone())).start(start).until(Until::Latest);
        let mut flow = Pipeline::new(format!("{}{name}", cluster.prefix));
        flow.source("numbers", source).unwrap();
        let view = flow.view("counts", "SELECT k, count(*) AS n FROM numbers GROUP BY k").unwrap();
        view.sink(DataSet::append(dir.path().join(name), JsonLines)).unwrap();
        let flow = flow
            .state(dir.path().join(format!("{name}-state")))
            .dead_letters(DeadLetters::append(dir.path().join(format!("{name}-letters"))));
        block_on(async { flow.start().await.unwrap().wait().await }).unwrap();
        let mut sums = BTreeMap::<(i64, i64), i64>::new();
        for (_, text) in files(&dir.path().join(name)).into_iter().filter(|(name, _)| name.ends_with(".jsonl")) {
            for line in String::from_utf8(text).unwrap().lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                *sums.entry((row["k"].as_i64().unwrap(), row["n"].as_i64().unwrap())).or_default() += row["diff"].as_i64().unwrap();
            }
        }
        sums.into_iter().filter(|(_, n)| *n != 0).map(|(row, _)| row).collect::<Vec<_>>()
    };
    assert_eq!(run("all", Start::Earliest), (0..10).map(|k| (k, 10)).collect::<Vec<_>>());
    assert_eq!(run("since", Start::Timestamp(at(70))), (0..10).map(|k| (k, 3)).collect::<Vec<_>>());
    cluster.admin.delete_topic(&topic).unwrap();
}
