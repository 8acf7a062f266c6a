//! What must not stop the stream: each kind of bad record between two good ones, outsides that are not there, and SQL that is wrong.
//!
//! Invariant: whatever is bad becomes a dead letter with its bytes, place and reason, and is counted; everything beside it goes on.

use crate::full_pipeline::{DIRTY, Ended, check, dirty, program};
use crate::support::{
    Letter, PATIENCE, Sent, SmallDisk, broker, data_files, deltas, deltas_in, found, letters, orders, read, run_orders, send, signal,
    sorted, sum, topics,
};
use orderflow::error::{Kind, Retry};
use orderflow::generator::{Expected, Orders, Share, expected};
use orderflow::kafka::{Admin, EmbeddedBroker, Kafka, KafkaSink, KafkaSource, Until};
use orderflow::sink::Sink;
use orderflow::sink::files::{DataSet, JsonLines};
use orderflow::store::layer::Layered;
use orderflow::{Pipeline, pipelines};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const GOOD: &str = r#"{"order_id":1,"customer_id":101,"customer_name":"John Smith","product_id":201,"product_name":"Pen","product_category":"Stationery","payment_type":"Card","qty":24,"price":10,"datetime":"2021-01-10 10:12","country":"India","city":"Mumbai","ecommerce_website_name":"www.amazon.com","payment_txn_id":36766,"payment_txn_success":"Y","failure_reason":null}"#;

/// The good order with one thing changed.
fn order(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    GOOD.replace(from, to)
}

fn source(broker: &EmbeddedBroker) -> KafkaSource {
    let source = Kafka::topic("orders").brokers(broker.bootstrap_servers()).format(orderflow::pipelines::orders::json());
    source.until(Until::Latest)
}

fn sink(broker: &EmbeddedBroker) -> KafkaSink {
    Kafka::sink(broker.bootstrap_servers()).embedded(broker)
}

fn sent(values: impl IntoIterator<Item = Option<Vec<u8>>>) -> Vec<Sent> {
    values.into_iter().map(|value| Sent { value, key: Some(b"k".to_vec()), ..Sent::default() }).collect()
}

/// Runs `records` of one partition through the pipeline.
async fn run(broker: &EmbeddedBroker, records: &[Sent], out: &Path) -> (Expected, Vec<Letter>) {
    send(broker.bootstrap_servers(), "orders", records.iter().map(|r| (Some(2), r)));
    let found = run_orders(source(broker), sink(broker), out).await;
    (found, letters(&out.join("dead_letters")))
}

/// Puts a record between two good ones: it must be refused for that reason, and they must not notice.
async fn refused(bad: Option<&[u8]>, reason: &[&str]) {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let records = sent([Some(GOOD.into()), bad.map(Into::into), Some(GOOD.into())]);
    let (found, letters) = run(&broker, &records, dir.path()).await;
    assert_eq!((found.records, found.rejected), (3, 1));
    assert_eq!(found.totals.values().map(|t| t.orders).collect::<Vec<_>>(), [2]);
    assert_eq!(found.topics, BTreeMap::from([("orders.card".to_owned(), 2), ("orders.successful".to_owned(), 2)]));
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.source.as_str(), &letter.place, letter.diff), ("orders", &Some(("orders".to_owned(), 2, 1)), 1));
    assert!(letter.bytes == bad.unwrap_or_default(), "the bytes come back");
    assert!(reason.iter().all(|part| letter.reason.contains(part)), "{}", letter.reason);
}

/// Runs a record that looks odd and is an order.
async fn accepted(odd: String, topic: &str) {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let records = sent([Some(odd.into_bytes())]);
    let (found, letters) = run(&broker, &records, dir.path()).await;
    assert_eq!((found.records, found.rejected, found.totals.len(), letters.len()), (1, 0, 1, 0));
    let routed = sorted(read(broker.bootstrap_servers(), topic));
    assert_eq!(routed.iter().map(|r| &r.value).collect::<Vec<_>>(), [&records[0].value]);
}

#[tokio::test]
async fn not_json() {
    refused(Some(b"hello, I am no order"), &["at byte 0"]).await;
}

#[tokio::test]
async fn json_that_is_no_object() {
    refused(Some(b"[1, 2]"), &["object"]).await;
}

#[tokio::test]
async fn truncated_json() {
    refused(Some(&GOOD.as_bytes()[..GOOD.len() / 2]), &["the record is cut off"]).await;
}

#[tokio::test]
async fn two_objects_in_one_record() {
    refused(Some(format!("{GOOD}{GOOD}").as_bytes()), &["something follows the object"]).await;
}

#[tokio::test]
async fn a_wrong_type() {
    refused(Some(order(r#""qty":24"#, r#""qty":"many""#).as_bytes()), &["'qty'"]).await;
}

#[tokio::test]
async fn a_wrong_type_where_no_view_reads() {
    refused(Some(order(r#""customer_id":101"#, r#""customer_id":true"#).as_bytes()), &["'customer_id'"]).await;
}

#[tokio::test]
async fn a_missing_field() {
    refused(Some(order(r#""price":10,"#, "").as_bytes()), &["field 'price' is missing"]).await;
}

#[tokio::test]
async fn a_null_that_may_not_be() {
    refused(Some(order(r#""city":"Mumbai""#, r#""city":null"#).as_bytes()), &["'city'"]).await;
}

#[tokio::test]
async fn not_utf_8() {
    let at = GOOD.find("John").unwrap();
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes[at] = 0xff;
    refused(Some(&bytes), &[&format!("not UTF-8 at byte {at}")]).await;
}

#[tokio::test]
async fn an_empty_value() {
    refused(Some(b""), &["empty"]).await;
}

#[tokio::test]
async fn a_tombstone() {
    refused(None, &["tombstone"]).await;
}

#[tokio::test]
async fn numbers_that_are_too_big() {
    refused(Some(order(r#""price":10"#, r#""price":1234567890123456789012345678901"#).as_bytes()), &["'price'"]).await;
    refused(Some(order(r#""qty":24"#, r#""qty":9223372036854775808"#).as_bytes()), &["'qty'"]).await;
    refused(Some(order(r#""price":10"#, r#""price":1e400"#).as_bytes()), &["'price'"]).await;
}

#[tokio::test]
async fn a_price_in_tenths_of_cents() {
    refused(Some(order(r#""price":10"#, r#""price":10.001"#).as_bytes()), &["'price'"]).await;
}

#[tokio::test]
async fn a_date_that_does_not_exist() {
    refused(Some(order("2021-01-10 10:12", "2021-02-29 10:12").as_bytes()), &["'datetime'"]).await;
}

#[tokio::test]
async fn an_extra_field_is_ignored() {
    accepted(order(r#""city""#, r#""coupon":{"codes":["A",null]},"city""#), "orders.card").await;
}

#[tokio::test]
async fn an_unknown_payment_type_has_a_topic_of_its_own() {
    accepted(order("Card", "Pay  Later (3x)"), "orders.pay-later-3x").await;
    accepted(order("Card", "FAILED"), "orders.type-failed").await;
}

#[tokio::test]
async fn five_megabytes_of_nonsense() {
    refused(Some(&vec![b'x'; 5_000_000]), &["at byte 0"]).await;
}

#[tokio::test]
async fn an_order_of_five_megabytes_is_counted_and_too_large_for_its_topics() {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let large = order("John Smith", &"John ".repeat(1_000_000));
    let records = sent([Some(GOOD.into()), Some(large.clone().into_bytes()), Some(GOOD.into())]);
    let (found, letters) = run(&broker, &records, dir.path()).await;
    assert_eq!(found.totals.values().map(|t| t.orders).collect::<Vec<_>>(), [3], "it is counted");
    assert_eq!(found.topics, BTreeMap::from([("orders.card".to_owned(), 2), ("orders.successful".to_owned(), 2)]));
    assert_eq!(found.rejected, 2, "once a topic");
    for (letter, topic) in letters.iter().zip(["'orders.card'", "'orders.successful'"]) {
        assert_eq!(letter.place, Some(("orders".to_owned(), 2, 1)));
        assert!(letter.bytes == large.as_bytes() && letter.reason.contains(topic), "{}", letter.reason);
    }
    assert_eq!(letters.len(), 2);
}

#[tokio::test]
async fn a_hundred_new_topics_and_dead_letters_beyond() {
    const TYPES: usize = 110;
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let records = sent((0..2 * TYPES).map(|i| Some(order("Card", &format!("Bank {:03}", i % TYPES)).into_bytes())));
    let (found, letters) = run(&broker, &records, dir.path()).await;
    assert_eq!(found.totals.len(), TYPES, "all are counted");
    assert_eq!(found.topics.len(), 100);
    assert_eq!(found.topics["orders.successful"], 2 * TYPES as u64, "and went where they could");
    // 99 types and `orders.successful`, two records each
    assert_eq!((letters.len(), found.rejected), (22, 22));
    let admin = Admin::embedded(&broker).unwrap();
    let made: BTreeMap<String, u64> = topics(&admin, "").into_iter().filter(|(t, _)| t != "orders").collect();
    assert_eq!(made, found.topics);
    for letter in letters {
        let (topic, partition, offset) = letter.place.unwrap();
        assert_eq!((topic.as_str(), partition), ("orders", 2));
        assert_eq!(Some(&letter.bytes), records[offset as usize].value.as_ref());
        assert!(offset as usize % TYPES >= 99, "the first come get their topics");
        let name = format!("'orders.bank-{:03}'", offset as usize % TYPES);
        assert!(letter.reason.contains(&name) && letter.reason.contains("100 topics, its limit"), "{}", letter.reason);
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there() {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let nobody = "127.0.0.1:1";
    let absent = Kafka::topic("orders").brokers(nobody).format(orderflow::pipelines::orders::json());
    for (place, flow) in [
        ("source orders", orders(absent, sink(&broker), &dir.path().join("1"))),
        ("sink kafka of orders", orders(source(&broker), Kafka::sink(nobody), &dir.path().join("2"))),
    ] {
        let began = Instant::now();
        let e = flow.start().await.err().unwrap();
        assert!(e.to_string().contains(nobody) && e.to_string().contains(place), "{e}");
        assert_eq!(e.kind(), Kind::External, "{e}");
        assert!(began.elapsed() < Duration::from_secs(35), "it took {:?} to say so", began.elapsed());
    }
}

#[tokio::test]
async fn a_broker_that_goes_away_and_comes_back() {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let (before, after) = (sent([Some(GOOD.into())]), sent([Some(order("Mumbai", "Indore").into_bytes())]));
    send(broker.bootstrap_servers(), "orders", before.iter().map(|r| (Some(2), r)));
    let endless = Kafka::topic("orders").brokers(broker.bootstrap_servers()).format(orderflow::pipelines::orders::json());
    let running = orders(endless, sink(&broker), dir.path()).start().await.unwrap();
    let rows = async |n| {
        let began = Instant::now();
        while running.status().sources[0].rows < n {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", running.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    rows(1).await;
    broker.reachable(false).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.reachable(true).unwrap();
    send(broker.bootstrap_servers(), "orders", after.iter().map(|r| (Some(2), r)));
    rows(2).await;
    let status = running.drain().await.unwrap();
    assert_eq!(status.rejected.values().sum::<i64>(), 0);
    assert_eq!(read(broker.bootstrap_servers(), "orders.card").len(), 2);
    assert_eq!(deltas(&dir.path().join("totals")).len(), 2);
}

#[tokio::test]
async fn an_output_folder_that_cannot_be_written() {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    // not by permissions, which do not bind root: nothing can be below a file
    let file = dir.path().join("file");
    std::fs::write(&file, "I am no folder").unwrap();
    let e = orders(source(&broker), sink(&broker), &file).start().await.err().unwrap();
    assert!(e.to_string().contains(&file.join("totals").display().to_string()), "{e}");
    let mut flow = Pipeline::new("letters");
    flow.source("orders", source(&broker)).unwrap();
    let flow = flow.dead_letters(orderflow::sink::dead_letter::DeadLetters::append(file.join("letters")));
    let e = flow.start().await.err().unwrap();
    assert!(e.to_string().contains(&file.join("letters").display().to_string()), "{e}");
}

#[tokio::test]
async fn sql_with_an_unknown_column_is_pointed_at() {
    let broker = broker();
    let mut flow = Pipeline::new("wrong");
    flow.source("orders", source(&broker)).unwrap();
    let sql = "SELECT payment_type, count(*) AS orders FROM orders WHERE citty = 'Mumbai' GROUP BY payment_type";
    let e = flow.view("totals", sql).err().unwrap();
    assert_eq!((e.kind(), e.retry()), (Kind::User, Retry::Never));
    let said = e.to_string();
    let lines: Vec<&str> = said.lines().collect();
    let caret = lines.iter().position(|l| l.trim_start_matches([' ', '|']) == "^^^^^").unwrap_or_else(|| panic!("no caret: {said}"));
    assert_eq!(lines[caret].find('^'), lines[caret - 1].find("citty"), "{said}");
    assert!(said.contains("city"), "the column that was meant is named: {said}");
}

#[tokio::test]
async fn a_line_of_a_file_that_is_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.jsonl");
    let long = order("John Smith", &"John ".repeat(300_000));
    std::fs::write(&path, format!("{GOOD}\n{long}\n{GOOD}\n")).unwrap();
    let mut flow = Pipeline::new("files");
    let lines = orderflow::source::file::JsonLines::file(&path, pipelines::orders::json()).max_record_bytes(1_000_000);
    flow.source("orders", lines).unwrap();
    flow.view("n", "SELECT count(*) AS n FROM orders").unwrap();
    let flow = flow.dead_letters(orderflow::sink::dead_letter::DeadLetters::append(dir.path().join("letters")));
    let running = flow.workers(2).start().await.unwrap();
    let status = running.wait().await.unwrap();
    assert_eq!((status.sources[0].rows, status.rejected["orders"]), (3, 1));
    assert_eq!(running.query_as::<(i64,)>("SELECT n FROM n").await.unwrap(), [(2,)]);
    let letters = letters(&dir.path().join("letters"));
    let [letter] = letters.as_slice() else { panic!("{} letters", letters.len()) };
    assert_eq!(letter.place, Some((path.display().to_string(), 0, GOOD.len() as u64 + 1)));
    assert!(letter.bytes == long.as_bytes()[..64 << 10]);
    let size = long.len();
    assert!(letter.reason.contains(&format!("{size} bytes, where max_record_bytes allows 1000000")), "{}", letter.reason);
}

/// The example with what it says, as it says it.
struct Watched {
    child: Ended,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Watched {
    /// Runs the example in a shell whose files may grow to `blocks` of 512 bytes.
    fn on_a_small_disk(dir: &Path, blocks: &str, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let script = r#"trap '' XFSZ; ulimit -S -f "$0"; exec "$@""#;
        shell.args(["-c", script, blocks]).arg(program(dir).get_program()).args(args).current_dir(dir);
        Self::start(&mut shell)
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut readers = vec![];
        let mut collect = |mut from: Box<dyn Read + Send>| {
            let said = Arc::new(Mutex::new(String::new()));
            let all = said.clone();
            readers.push(thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Some(n) = from.read(&mut bytes).ok().filter(|n| *n > 0) {
                    all.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
                }
            }));
            said
        };
        let out = collect(Box::new(child.stdout.take().unwrap()));
        let err = collect(Box::new(child.stderr.take().unwrap()));
        Watched { child: Ended(child), out, err, readers }
    }

    fn said(&self) -> (String, String) {
        (self.out.lock().unwrap().clone(), self.err.lock().unwrap().clone())
    }

    fn until(&mut self, what: &str, mut there: impl FnMut(&str) -> bool) {
        let began = Instant::now();
        while !there(&self.said().1) {
            assert!(self.child.0.try_wait().unwrap().is_none(), "it ended before {what}: {:?}", self.said());
            assert!(began.elapsed() < PATIENCE, "{what} did not come: {:?}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its end: how, and what it said on both outputs. No bad end is a panic, and none claims a success.
    fn end(mut self) -> (ExitStatus, String, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {:?}", self.said());
            thread::sleep(Duration::from_millis(20));
        };
        self.readers.drain(..).for_each(|r| r.join().unwrap());
        let (out, err) = self.said();
        if !status.success() {
            assert!(status.code() == Some(1) && err.contains("full_pipeline: ") && !err.contains("panicked"), "{status}: {err}");
            assert!(!out.contains("Orders and amount by city") && !out.contains("Next:"), "{out}");
        }
        (status, out, err)
    }
}

const FULL: [&str; 3] = ["File too large", "hint: a file size limit is reached", "goes on by itself"];

#[test]
fn a_full_disk_is_waited_for_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Watched::on_a_small_disk(dir.path(), "4", &[&["--orders", "4000", "--seed", "8", "--out", "out"][..], &DIRTY].concat());
    let folders = ["out/city_payment_totals", "out/dead_letters"];
    let all =
        |said: &str| folders.iter().all(|f| said.contains(&format!("cannot write {f}"))) && FULL.iter().all(|part| said.contains(part));
    run.until("what is full", all);
    assert!(!run.said().0.contains("Orders and amount by city"), "nothing is claimed");
    assert!(folders.iter().all(|f| data_files(&dir.path().join(f), "parquet").is_empty() && letters(&dir.path().join(f)).is_empty()));
    let room = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &run.child.0.id().to_string()]).status().unwrap();
    assert!(room.success());
    let (status, out, err) = run.end();
    assert!(status.success(), "{err}");
    check(&out, &dir.path().join("out"), "", &expected(&dirty(8), 4_000));
}

#[test]
fn a_full_disk_can_be_given_up_and_what_is_committed_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    // the totals fit, 1,200 dead letters do not
    let args = ["--orders", "4000", "--malformed", "0.3", "--seed", "8", "--out", "out"];
    let mut run = Watched::on_a_small_disk(dir.path(), "512", &args);
    let totals = dir.path().join("out/city_payment_totals");
    run.until("the commit of the totals", |_| !data_files(&totals, "parquet").is_empty());
    run.until("what is full", |said| said.contains("cannot write out/dead_letters") && FULL.iter().all(|part| said.contains(part)));
    signal(run.child.0.id(), "-INT");
    let (status, _, err) = run.end();
    assert!(
        !status.success() && err.contains("ended before everything was out") && err.contains("dead letters holds epochs up to 0"),
        "{err}"
    );
    let recipe = Orders::new(8).malformed(Share::new(0.3).unwrap());
    assert_eq!(sum(&deltas(&totals)), expected(&recipe, 4_000).totals);
    assert_eq!(letters(&dir.path().join("out/dead_letters")), []);
}

#[test]
fn a_disk_that_is_full_from_the_start_ends_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, err) = Watched::on_a_small_disk(dir.path(), "0", &["--orders", "100", "--out", "out"]).end();
    let parts = ["out/city_payment_totals", "must be started again"];
    assert!(!status.success() && FULL[..2].iter().chain(&parts).all(|part| err.contains(part)), "{err}");
    // there is room again: the same command works
    let said = crate::full_pipeline::good(program(dir.path()).args(["--orders", "100", "--out", "out"]));
    check(&said, &dir.path().join("out"), "", &expected(&Orders::new(42), 100));
}

#[test]
fn an_output_that_takes_nothing_ends_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap '' XFSZ; ulimit -S -f 2; exec "$0" --orders 100 --out out >said"#]);
    let (status, _, err) = Watched::start(shell.arg(program(dir.path()).get_program()).current_dir(dir.path())).end();
    assert!(!status.success() && err.contains("cannot write to the standard output") && err.contains(FULL[0]), "{err}");
}

#[test]
fn a_folder_that_vanishes_ends_the_example_and_its_producer() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--orders", "1000000", "--rate", "2000", "--malformed", "0.5", "--out", "out"];
    let mut run = Watched::start(program(dir.path()).args(args));
    let letters = dir.path().join("out/dead_letters");
    run.until("the opening of the dead letters", |_| letters.join("_commits/0000000001.json").exists());
    std::fs::remove_dir_all(&letters).unwrap();
    let (status, _, err) = run.end();
    assert!(!status.success() && err.contains("out/dead_letters") && err.contains("hint: the folder was removed"), "{err}");
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_holds_the_pipeline_back_and_costs_nothing() {
    const ORDERS: u64 = 150_000;
    let (broker, dir, disk) = (broker(), tempfile::tempdir().unwrap(), SmallDisk::new(1_000));
    let recipe = Orders::new(9).total(ORDERS);
    let routed = sink(&broker).topics_sql(pipelines::orders::ROUTES).partitions(4);
    let counters = routed.counters();
    let totals: [Box<dyn Sink>; 1] = [Box::new(DataSet::on(Arc::new(Layered(disk.clone())), "the small disk", JsonLines).roll_rows(500))];
    let source = recipe.clone().source(Arc::new(pipelines::orders::json()));
    let flow = pipelines::orders::pipeline("orders", source, routed, totals).unwrap();
    let flow = flow.workers(2).epoch_interval(Duration::from_millis(5)).memory(600_000);
    let flow = flow.dead_letters(orderflow::sink::dead_letter::DeadLetters::append(dir.path()));
    let running = flow.start().await.unwrap();
    let began = Instant::now();
    // held back is what reads nothing more for a second
    let (mut rows, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(1) || rows == 0 {
        let status = running.status();
        if status.sources[0].rows != rows {
            (rows, since) = (status.sources[0].rows, Instant::now());
        }
        assert!(began.elapsed() < PATIENCE && !status.phase.is_over(), "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rows < ORDERS, "all of {rows} orders were read while the disk was full");
    let status = running.status();
    let full = status.sinks.iter().find(|s| s.kind == "jsonl").unwrap();
    let waits = full.waits.as_deref().unwrap();
    assert!(waits.contains("cannot write the small disk") && waits.contains("hint: the disk is full"), "{waits}");
    assert!(full.pending_bytes > 0 && full.pending_bytes < 4 << 20, "{}", full.pending_bytes);
    assert_eq!(deltas_in(&disk.below).len(), 0, "no reader sees half a file");

    // a little room: some files come, and what they hold is whole up to an epoch
    disk.make_room(100_000);
    tokio::time::sleep(Duration::from_millis(500)).await;
    sum(&deltas_in(&disk.below));
    disk.make_room(usize::MAX / 2);
    let status = running.wait().await.unwrap();
    assert!(status.sinks.iter().all(|s| s.waits.is_none() && s.committed == status.complete), "{status:?}");
    let mut expected = expected(&recipe, u64::MAX);
    expected.bytes = 0;
    let found = found(&running, &status, &counters, "").await;
    assert_eq!(found, expected);
    assert_eq!(sum(&deltas_in(&disk.below)), expected.totals);
}
