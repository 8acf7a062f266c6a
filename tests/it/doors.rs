//! The doors that a user comes in by: `json::<T>()` and `csv::<T>()` of a Kafka source with closures and SQL over them, the hidden
//! columns in the SQL of a running pipeline, and CSV files with a header.
//!
//! Invariant: what a door let in is judged by what was sent, as serde reads it, never by what came through another door.

use crate::support::{Letter, PATIENCE, Seen, Sent, broker, letters, send};
use orderflow::arrow::array::{Array, AsArray, RecordBatch};
use orderflow::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMillisecondType};
use orderflow::domain::{Order, order};
use orderflow::format::csv::Csv;
use orderflow::kafka::{EmbeddedBroker, Kafka, KafkaSource, Until};
use orderflow::pipelines::orders::{self, TOTALS};
use orderflow::plan::typed::Record;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::source::file::{CsvFiles, Header};
use orderflow::{Pipeline, Running, Status};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CSV: &str = include_str!("../data/orders.csv");
const JSON: &str = include_str!("../data/orders.jsonl");

/// The orders of both files.
fn samples() -> Vec<Order> {
    JSON.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a customer is told about an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    order_id: i64,
    line: String,
    amount: Decimal,
}

impl Record for Receipt {
    fn schema() -> orderflow::Result<SchemaRef> {
        let fields = [("order_id", DataType::Int64), ("line", DataType::Utf8), ("amount", DataType::Decimal128(38, 2))];
        Ok(Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec())))
    }
}

fn receipt(order: &Order) -> Receipt {
    let line = format!("{} × {} for {}", order.qty, order.product_name, order.customer_name);
    Receipt { order_id: order.order_id, line, amount: order.amount() }
}

#[derive(Debug, PartialEq, Deserialize)]
struct City {
    city: String,
    orders: u64,
    amount: Decimal,
}

/// What each city is to have, by name: every order of the samples has a city of its own.
fn cities() -> Vec<City> {
    let mut cities: Vec<_> = samples().into_iter().map(|o| City { amount: o.amount(), city: o.city, orders: 1 }).collect();
    cities.sort_by(|a, b| a.city.cmp(&b.city));
    cities
}

#[derive(Debug, PartialEq, Deserialize)]
struct Whole {
    receipts: u64,
    amount: Decimal,
}

/// Sends the lines of the samples and one that is no order, and takes them in by `door`: as structs, by a closure, and in SQL over both.
async fn the_sample_lines(lines: &str, bad: &str, door: impl FnOnce(KafkaSource) -> orderflow::Result<KafkaSource>) {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let sent: Vec<Sent> = lines.lines().chain([bad]).map(Sent::value).collect();
    send(broker.bootstrap_servers(), "orders", sent.iter().map(|s| (Some(1), s)));
    let source = door(Kafka::topic("orders").brokers(broker.bootstrap_servers()).until(Until::Latest)).unwrap();
    let mut flow = Pipeline::new("doors");
    let orders = flow.source_of::<Order>("orders", source).unwrap();
    orders.map("receipt", 1, receipt).unwrap().view("receipts").unwrap();
    flow.view("cities", "SELECT city, count(*) AS orders, sum(qty * price) AS amount FROM orders GROUP BY city").unwrap();
    flow.view("whole", "SELECT count(*) AS receipts, sum(amount) AS amount FROM receipts").unwrap();
    let dead_letters = dir.path().join("dead_letters");
    let running = flow.workers(2).dead_letters(DeadLetters::append(&dead_letters)).start().await.unwrap();
    let status = running.wait().await.unwrap();

    assert_eq!((status.sources[0].rows, status.rejected), (6, BTreeMap::from([("orders".to_owned(), 1)])));
    let letters = letters(&dead_letters);
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.bytes.as_slice(), &letter.place), (bad.as_bytes(), &Some(("orders".to_owned(), 1, 5))));
    let receipts: Vec<Receipt> = running.query_as("SELECT * FROM receipts ORDER BY order_id").await.unwrap();
    assert_eq!(receipts, samples().iter().map(receipt).collect::<Vec<_>>());
    let found: Vec<City> = running.query_as("SELECT city, orders, amount FROM cities ORDER BY city").await.unwrap();
    assert_eq!(found, cities());
    let whole: Vec<Whole> = running.query_as("SELECT * FROM whole").await.unwrap();
    assert_eq!(whole, [Whole { receipts: 5, amount: samples().iter().map(Order::amount).sum() }]);
}

#[tokio::test]
async fn json_of_a_record_is_a_door_for_structs_closures_and_sql() {
    the_sample_lines(JSON, r#"{"order_id":"six"}"#, |source| source.json::<Order>()).await;
}

#[tokio::test]
async fn csv_of_a_record_is_a_door_for_structs_closures_and_sql() {
    the_sample_lines(CSV, "6,106", |source| source.csv::<Order>()).await;
}

/// What a door refuses of these values where a view reads nothing but the city, and why.
async fn turned_away(values: &[String], door: impl FnOnce(KafkaSource) -> KafkaSource) -> Vec<(String, String)> {
    let (broker, dir) = (broker(), tempfile::tempdir().unwrap());
    let sent: Vec<Sent> = values.iter().map(|value| Sent::value(value.as_str())).collect();
    send(broker.bootstrap_servers(), "orders", sent.iter().map(|s| (Some(0), s)));
    let mut flow = Pipeline::new("doors");
    flow.source("orders", door(Kafka::topic("orders").brokers(broker.bootstrap_servers()).until(Until::Latest))).unwrap();
    flow.view("cities", "SELECT city, count(*) AS orders FROM orders GROUP BY city").unwrap();
    let dead_letters = dir.path().join("dead_letters");
    let running = flow.dead_letters(DeadLetters::append(&dead_letters)).start().await.unwrap();
    running.wait().await.unwrap();
    letters(&dead_letters).into_iter().map(|letter| (String::from_utf8(letter.bytes).unwrap(), letter.reason)).collect()
}

#[tokio::test]
async fn typed_doors_refuse_what_is_no_whole_record_as_the_pipeline_of_orders_does() {
    let of = |line: &str, changes: &[(&str, &str)], more: [String; 2]| {
        let changed = changes.iter().map(|(from, to)| {
            assert_eq!(line.matches(from).count(), 1, "{from}");
            line.replace(from, to)
        });
        changed.chain(more).chain([line.to_owned()]).collect::<Vec<_>>()
    };
    let json = JSON.lines().next().unwrap();
    let changes = [
        ("\"customer_id\":101", "\"customer_id\":true"),
        ("\"qty\":24", "\"qty\":\"24\""),
        ("\"qty\":24", "\"qty\":24,\"qty\":24"),
        ("\"price\":10,", ""),
        ("\"product_name\":\"Pen\"", "\"product_name\":null"),
    ];
    let values = of(json, &changes, [format!("{json}x"), json[..json.len() / 2].to_owned()]);
    let typed = turned_away(&values, |source| source.json::<Order>().unwrap()).await;
    assert_eq!(typed.iter().map(|(value, _)| value).collect::<Vec<_>>(), values[..7].iter().collect::<Vec<_>>());
    assert_eq!(typed, turned_away(&values, |source| source.format(orders::json())).await);

    let csv = CSV.lines().next().unwrap();
    let values = of(csv, &[(",24,", ",many,"), (",101,", ",,")], [format!("{csv},more"), csv[..csv.len() / 2].to_owned()]);
    let typed = turned_away(&values, |source| source.csv::<Order>().unwrap()).await;
    assert_eq!(typed.iter().map(|(value, _)| value).collect::<Vec<_>>(), values[..4].iter().collect::<Vec<_>>());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Event {
    id: i64,
}

impl Record for Event {}

/// What stands in the rows of view `seen`, whose data column must be what its `_value` says.
fn seen(batch: &RecordBatch) -> Vec<Seen> {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("there is no column {name}"));
    let (id, topic) = (column("id").as_primitive::<Int64Type>(), column("_topic").as_string::<i32>());
    let (partition, offset) = (column("_partition").as_primitive::<Int32Type>(), column("_offset").as_primitive::<Int64Type>());
    let (timestamp, headers) = (column("_timestamp").as_primitive::<TimestampMillisecondType>(), column("_headers").as_list::<i32>());
    let (key, value) = (column("_key").as_binary::<i32>(), column("_value").as_binary::<i32>());
    let row = |i: usize| {
        assert_eq!(topic.value(i), "events");
        assert_eq!(serde_json::from_slice::<Event>(value.value(i)).unwrap(), Event { id: id.value(i) });
        let mut record = Sent::value(value.value(i));
        record.key = key.is_valid(i).then(|| key.value(i).to_vec());
        record.timestamp = timestamp.is_valid(i).then(|| timestamp.value(i));
        if headers.is_valid(i) {
            let entries = headers.value(i);
            let (names, values) = (entries.as_struct().column(0).as_string::<i32>(), entries.as_struct().column(1).as_binary::<i32>());
            record.headers = (0..entries.len()).map(|n| (names.value(n).to_owned(), values.value(n).to_vec())).collect();
        }
        Seen { partition: partition.value(i), offset: offset.value(i) as u64, record }
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The events among what was sent, each where it must stand; what is none takes an offset, too.
fn places(sent: &[(i32, Sent)]) -> Vec<Seen> {
    let mut next: BTreeMap<i32, u64> = BTreeMap::new();
    let mut places = vec![];
    for (partition, record) in sent {
        let offset = next.entry(*partition).or_default();
        if serde_json::from_slice::<Event>(record.value.as_deref().unwrap()).is_ok() {
            places.push(Seen { partition: *partition, offset: *offset, record: record.clone() });
        }
        *offset += 1;
    }
    places.sort_by_key(|s| (s.partition, s.offset));
    places
}

/// Waits until so many records were read and are in the views.
async fn taken(running: &Running, records: u64) {
    let began = Instant::now();
    while running.status().sources[0].rows < records {
        assert!(began.elapsed() < PATIENCE && !running.status().phase.is_over(), "{:?}", running.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.settled().await.unwrap();
}

#[derive(Debug, PartialEq, Deserialize)]
struct Place {
    topic: String,
    part: i32,
    records: u64,
    keys: u64,
    last: i64,
}

fn place(part: i32, records: u64, keys: u64, last: i64) -> Place {
    Place { topic: "events".into(), part, records, keys, last }
}

#[tokio::test]
async fn hidden_columns_tell_the_sql_of_a_running_pipeline_where_a_record_stood_and_what_came_with_it() {
    const AT: i64 = 1_610_273_520_000;
    let broker = EmbeddedBroker::start(1).unwrap();
    broker.create_topic("events", 2).unwrap();
    let event = |id: i64| Sent::value(format!(r#"{{"id":{id}}}"#));
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let several = vec![header("trace", &[0, 0xff]), header("trace", b"again"), header("empty", b"")];
    let mut sent = vec![
        (0, Sent { key: Some(b"first".to_vec()), timestamp: Some(AT), headers: several, ..event(1) }),
        (0, Sent::value("this is no event")),
        (0, Sent { key: Some(vec![0xff, 0]), timestamp: Some(AT - 1), headers: vec![header("only", b"one")], ..event(2) }),
        (1, Sent { timestamp: Some(AT + 5), ..event(3) }),
    ];
    let send_all = |records: &[(i32, Sent)]| {
        send(broker.bootstrap_servers(), "events", records.iter().map(|(partition, sent)| (Some(*partition), sent)));
    };
    send_all(&sent);

    let dir = tempfile::tempdir().unwrap();
    let mut flow = Pipeline::new("hidden");
    let source = Kafka::topic("events").brokers(broker.bootstrap_servers()).json::<Event>().unwrap();
    flow.source("events", source).unwrap();
    flow.view("seen", "SELECT id, _topic, _partition, _offset, _timestamp, _key, _value, _headers FROM events").unwrap();
    let by_place = "SELECT _topic AS topic, _partition AS part, count(*) AS records, count(_key) AS keys, max(_offset) AS last \
        FROM events GROUP BY _topic, _partition";
    flow.view("places", by_place).unwrap();
    flow.view("bare", "SELECT id FROM events WHERE _key IS NULL AND _headers IS NULL").unwrap();
    flow.view("plain", "SELECT * FROM events").unwrap();
    let flow = flow.workers(2).epoch_interval(Duration::from_millis(10)).dead_letters(DeadLetters::append(dir.path().join("dead_letters")));
    let running = flow.start().await.unwrap();
    let look =
        async || running.query("SELECT * FROM seen ORDER BY _partition, _offset").await.unwrap().iter().flat_map(seen).collect::<Vec<_>>();
    let look_at_places = async || running.query_as::<Place>("SELECT * FROM places ORDER BY part").await.unwrap();

    taken(&running, 4).await;
    assert_eq!(look().await, places(&sent));
    assert_eq!(look_at_places().await, [place(0, 2, 2, 2), place(1, 1, 0, 0)]);

    let more = (1, Sent { key: Some(b"k".to_vec()), timestamp: Some(AT), headers: vec![header("a", b"1"), header("b", b"2")], ..event(4) });
    send_all(std::slice::from_ref(&more));
    sent.push(more);
    taken(&running, 5).await;
    assert_eq!(look().await, places(&sent));
    assert_eq!(look_at_places().await, [place(0, 2, 2, 2), place(1, 2, 1, 1)]);
    assert_eq!(running.query_as::<Event>("SELECT id FROM bare").await.unwrap(), [Event { id: 3 }]);
    let plain = running.query("SELECT * FROM plain").await.unwrap();
    assert_eq!(plain[0].num_columns(), 1, "nobody asked for more than the data");

    let status = running.drain().await.unwrap();
    assert_eq!(status.rejected, BTreeMap::from([("events".to_owned(), 1)]));
}

/// Where the orders of a file begin.
#[derive(Debug, PartialEq, Deserialize)]
struct InFile {
    file: String,
    orders: u64,
    first: u64,
}

/// What came of the CSV files in a folder.
struct Found {
    status: Status,
    cities: Vec<City>,
    files: Vec<InFile>,
    letters: Vec<Letter>,
}

async fn files(folder: &Path, header: Header) -> orderflow::Result<Found> {
    let dir = tempfile::tempdir().unwrap();
    let dead_letters = dir.path().join("dead_letters");
    let mut flow = Pipeline::new("files");
    flow.source("orders", CsvFiles::dir(folder, Csv::new(order::schema())).header(header))?;
    flow.view("totals", TOTALS)?;
    flow.view("files", "SELECT _topic AS file, count(*) AS orders, min(_offset) AS first FROM orders GROUP BY _topic")?;
    let running = flow.workers(2).dead_letters(DeadLetters::append(&dead_letters)).start().await?;
    let status = running.wait().await?;
    let cities = running.query_as("SELECT city, orders, amount FROM totals ORDER BY city").await?;
    let files = running.query_as("SELECT * FROM files ORDER BY file").await?;
    Ok(Found { status, cities, files, letters: letters(&dead_letters) })
}

#[tokio::test]
async fn csv_files_are_a_source_and_their_header_is_checked_or_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let header = order::schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(",");
    let lines: Vec<&str> = CSV.lines().collect();
    let (some, others) = (lines[..3].join("\r\n"), lines[3..].join("\n"));
    fs::write(dir.path().join("a.csv"), format!("{header}\r\n{some}\r\n")).unwrap();
    fs::write(dir.path().join("b.csv"), format!("{}\n{others}\n6,106", header.to_uppercase())).unwrap();
    fs::write(dir.path().join("notes.txt"), "this is no order").unwrap();
    let bad_at = (header.len() + 1 + others.len() + 1) as u64;
    let first = |line_end: &str| (header.len() + line_end.len()) as u64;
    let in_files =
        [InFile { file: path("a.csv"), orders: 3, first: first("\r\n") }, InFile { file: path("b.csv"), orders: 2, first: first("\n") }];
    for how in [Header::Checked, Header::Skipped] {
        let found = files(dir.path(), how).await.unwrap();
        assert_eq!((found.status.sources[0].rows, &found.status.rejected["orders"]), (6, &1), "{how:?}");
        assert_eq!((found.cities, found.files.as_slice()), (cities(), &in_files[..]), "{how:?}");
        let [letter] = found.letters.as_slice() else { panic!("{:?}", found.letters) };
        assert_eq!((letter.bytes.as_slice(), &letter.place), (&b"6,106"[..], &Some((path("b.csv"), 0, bad_at))));
    }
    // to whom nobody says that there is a header, it is a record that is no order
    let found = files(dir.path(), Header::None).await.unwrap();
    assert_eq!((found.status.sources[0].rows, found.letters.len(), found.cities), (8, 3, cities()));

    let other = header.replace("order_id,customer_id", "customer_id,order_id");
    fs::write(dir.path().join("b.csv"), format!("{other}\n{others}\n")).unwrap();
    let e = files(dir.path(), Header::Checked).await.err().unwrap().to_string();
    assert!(e.contains(&path("b.csv")) && e.contains("the header says customer_id, order_id"), "{e}");
}
