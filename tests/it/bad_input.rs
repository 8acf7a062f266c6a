//! What must not stop the stream: each kind of bad record between two good ones, outsides that are not there, and SQL that is wrong.
//!
//! Invariant: whatever is bad becomes a dead letter with its bytes, place and reason, and is counted; everything beside it goes on.

use crate::support::{Letter, Sent, broker, deltas, letters, orders, read, run_orders, send, sorted, topics};
use orderflow::Pipeline;
use orderflow::error::{Kind, Retry};
use orderflow::generator::Expected;
use orderflow::kafka::{Admin, EmbeddedBroker, Kafka, KafkaSink, KafkaSource, Until};
use std::collections::BTreeMap;
use std::path::Path;
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
