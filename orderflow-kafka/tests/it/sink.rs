//! Writing to the embedded cluster.

use crate::support::*;
use orderflow_core::arrow::array::{ArrayRef, BinaryArray, Int64Array, ListArray, StringArray, StructArray};
use orderflow_core::arrow::buffer::{NullBuffer, OffsetBuffer};
use orderflow_core::arrow::compute::cast;
use orderflow_core::arrow::datatypes::{DataType, TimeUnit};
use orderflow_core::data::{Changes, Origin};
use orderflow_core::error::{Kind, Retry};
use orderflow_core::sink::{Guarantee, Sink, SinkContext, WriterId};
use orderflow_core::source::meta;
use orderflow_core::time::{Clock, Epoch, Partition};
use orderflow_kafka::{Admin, EmbeddedBroker, Kafka, KafkaSink, Producer, Record, Until, partition_for_key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn sink(broker: &EmbeddedBroker) -> KafkaSink {
    Kafka::sink(broker.bootstrap_servers()).embedded(broker)
}

fn all(broker: &EmbeddedBroker, topics: &str) -> Vec<Seen> {
    read_all(Kafka::pattern(topics).brokers(broker.bootstrap_servers()).until(Until::Latest))
}

/// Rows `range` of a routed stream: as the engine computes the columns that the sink asks for.
fn routed(range: std::ops::Range<i64>, topic: impl Fn(i64) -> Option<String>) -> Changes {
    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
    let timestamps: ArrayRef = Arc::new(Int64Array::from_iter_values(range.clone().map(|i| 5000 + i)));
    let keys = BinaryArray::from_iter(range.clone().map(|i| (i % 3 == 0).then(|| format!("k{i}").into_bytes())));
    let rows = batch(vec![
        ("__value", Arc::new(BinaryArray::from_iter_values(range.clone().map(|i| format!("{{\"n\":{i}}}").into_bytes())))),
        ("__key", Arc::new(keys)),
        ("__timestamp", cast(&timestamps, &millis).unwrap()),
        ("__offset", Arc::new(Int64Array::from_iter_values(range.clone()))),
        ("__topic_0", Arc::new(StringArray::from_iter(range.clone().map(topic)))),
        ("__topic_1", Arc::new(StringArray::from_iter_values(range.map(|_| "all")))),
    ]);
    Changes::inserts(rows).with_origin(Some(Origin { source: 0, partition: Partition::new("orders", 2), position: 0 }))
}

fn two_routes(broker: &EmbeddedBroker) -> KafkaSink {
    sink(broker).topics_sql(["a", "b"])
}

#[test]
fn each_row_goes_to_its_topics_byte_by_byte() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let sink = two_routes(&broker).partitions(3).prefix("p-");
    let counters = sink.counters();
    assert_eq!(sink.guarantee(false), Guarantee::AtLeastOnce);
    let changes = routed(0..6000, |i| Some(format!("type-{}", i % 4)));
    let mut writing = try_write(sink, &changes.schema()).unwrap();
    writing.write(1, vec![changes.slice(0, 2000)]);
    writing.write(2, vec![changes.slice(2000, 1000), changes.slice(3000, 3000)]);
    writing.until(2).unwrap();
    assert_eq!(writing.refused, vec![]);

    let seen = all(&broker, "^p-");
    let expected = BTreeMap::from([
        ("p-all".to_owned(), 6000),
        ("p-type-0".to_owned(), 1500),
        ("p-type-1".to_owned(), 1500),
        ("p-type-2".to_owned(), 1500),
        ("p-type-3".to_owned(), 1500),
    ]);
    assert_eq!(by_topic(&seen), expected);
    assert_eq!(counters.records(), expected.iter().map(|(t, n)| (t.clone(), *n as u64)).collect());
    assert_eq!(counters.total(), 12_000);
    let mut used = [0; 3];
    for s in seen {
        let value = s.value.unwrap();
        let n: i64 = value.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap();
        assert_eq!(s.timestamp, Some(5000 + n));
        assert_eq!(s.key, (n % 3 == 0).then(|| format!("k{n}")));
        if let Some(key) = &s.key {
            assert_eq!(s.partition.id, partition_for_key(key.as_bytes(), 3));
        }
        if &*s.partition.topic != "p-all" {
            assert_eq!(*s.partition.topic, *format!("p-type-{}", n % 4));
        }
        used[s.partition.id as usize] += 1;
    }
    assert!(used.iter().all(|n| *n > 0), "{used:?}");
}

#[test]
fn a_prefix_stands_once_before_the_topic_of_progress_and_the_transactional_ids() {
    let broker = broker_with(&[("test.progress", 1), ("p-test.progress", 1)]);
    let servers = broker.bootstrap_servers();
    let mut producer = Producer::connect(servers).unwrap();
    // what lanes of two sinks have left: each topic, and each id, is of one of them only
    for (topic, id, epoch) in [("test.progress", "test/view/t/0", 3), ("p-test.progress", "p-test/view/t/0", 5)] {
        let value = format!(r#"{{"ledger":"7","generation":1,"epoch":{epoch},"part":0}}"#);
        let record = Record { value: Some(value.as_bytes()), key: Some(id.as_bytes()), ..Record::default() };
        producer.send(topic, record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let held = |prefix: &str| {
        let context = SinkContext {
            pipeline: "test".into(),
            view: "view".into(),
            writer: WriterId { ledger: 7, generation: 2 },
            schema: routed(0..1, |_| None).schema(),
            kept: true,
            clock: Clock::system(),
        };
        let progress = Kafka::sink(servers).prefix(prefix).topic("t").look(&context).unwrap();
        progress.map(|p| p.epoch)
    };
    assert_eq!((held(""), held("p-"), held("q-")), (Some(Epoch(3)), Some(Epoch(5)), None));
}

#[test]
fn the_same_rows_go_to_the_same_places_again() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let changes = routed(0..5000, |_| Some("t".into()));
    let mut places = vec![];
    for prefix in ["a-", "b-"] {
        let mut writing = try_write(two_routes(&broker).prefix(prefix), &changes.schema()).unwrap();
        // other cuts, same places
        let cut = if prefix == "a-" { 100 } else { 3000 };
        writing.write(1, vec![changes.slice(0, cut), changes.slice(cut, 5000 - cut)]);
        writing.until(1).unwrap();
        let mut of: Vec<_> = all(&broker, &format!("^{prefix}")).into_iter().map(|s| (s.partition.id, s.offset, s.value)).collect();
        of.sort();
        places.push(of);
    }
    assert!(places[0] == places[1]);
}

#[test]
fn a_row_goes_once_to_a_topic_named_twice_and_nowhere_for_null() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let changes = routed(0..10, |i| if i % 2 == 0 { Some("all".into()) } else { None });
    let mut writing = try_write(two_routes(&broker), &changes.schema()).unwrap();
    writing.write(1, vec![changes]);
    writing.until(1).unwrap();
    assert_eq!(by_topic(&all(&broker, "^all$")), BTreeMap::from([("all".to_owned(), 10)]));
}

#[test]
fn one_new_topic_too_many_and_bad_names_are_refused_row_by_row() {
    let broker = broker_with(&[("all", 1), ("old", 1)]);
    let name = |i: i64| ["old", "new-1", "new-2", "new-3", "no way", ""][i as usize % 6].to_owned();
    let changes = routed(0..60, |i| Some(name(i)));
    let mut writing = try_write(two_routes(&broker).max_new_topics(2), &changes.schema()).unwrap();
    writing.write(1, vec![changes]);
    writing.until(1).unwrap();
    assert_eq!(
        by_topic(&all(&broker, ".")),
        BTreeMap::from([("all".to_owned(), 60), ("new-1".to_owned(), 10), ("new-2".to_owned(), 10), ("old".to_owned(), 10)])
    );
    assert_eq!(writing.refused.len(), 30);
    let third = writing.refused.iter().find(|r| r.reason.contains("new-3")).unwrap();
    assert_eq!(
        (&*third.from, &third.place, third.bytes.as_slice(), third.diff),
        ("view", &Some((Partition::new("orders", 2), 3)), &b"{\"n\":3}"[..], 1)
    );
    assert!(third.reason.contains("has created 2 topics"), "{}", third.reason);
    assert!(writing.refused.iter().any(|r| r.reason.contains("'no way'")));
}

#[test]
fn a_record_that_is_too_large_is_refused_and_the_others_go_on() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let big = "x".repeat(5 << 20);
    let rows = batch(vec![("__value", Arc::new(StringArray::from(vec!["a", &big, "b"])) as ArrayRef)]);
    let schema = rows.schema();
    let mut writing = try_write(sink(&broker).topic("t").value_sql("v"), &schema).unwrap();
    writing.write(1, vec![Changes::inserts(rows)]);
    writing.until(1).unwrap();
    assert_eq!(all(&broker, "^t$").iter().filter_map(|s| s.value.as_deref()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(writing.refused.len(), 1);
    assert_eq!(writing.refused[0].bytes.len(), 5 << 20);
    assert!(writing.refused[0].reason.contains("'t'"), "{}", writing.refused[0].reason);
}

#[test]
fn a_view_is_written_as_json_with_its_diff_and_epoch() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let rows = batch(vec![
        ("city", Arc::new(StringArray::from(vec![Some("Mumbai"), None])) as ArrayRef),
        ("orders", Arc::new(Int64Array::from(vec![3, 4]))),
        ("__key", Arc::new(StringArray::from(vec![Some("Mumbai"), None]))),
    ]);
    let schema = rows.schema();
    let mut writing = try_write(sink(&broker).topic("t").key("city").partitions(1), &schema).unwrap();
    writing.write(9, vec![Changes::signed(rows, vec![-1, 2])]);
    writing.until(9).unwrap();
    let seen: Vec<_> = all(&broker, "^t$").into_iter().map(|s| (s.key, s.value.unwrap())).collect();
    assert_eq!(
        seen,
        [
            (Some("Mumbai".to_owned()), r#"{"city":"Mumbai","orders":3,"diff":-1,"epoch":9}"#.to_owned()),
            (None, r#"{"city":null,"orders":4,"diff":2,"epoch":9}"#.to_owned()),
        ]
    );
}

#[test]
fn plain_values_are_repeated_by_their_count_and_cannot_be_withdrawn() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let rows = batch(vec![("__value", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef)]);
    let schema = rows.schema();
    let mut writing = try_write(sink(&broker).topic("t").value_sql("v").partitions(1), &schema).unwrap();
    writing.write(1, vec![Changes::signed(rows, vec![3, -1])]);
    writing.until(1).unwrap();
    assert_eq!(all(&broker, "^t$").iter().filter_map(|s| s.value.as_deref()).collect::<Vec<_>>(), ["a", "a", "a"]);
    assert!(writing.refused[0].reason.contains("withdrawn"));
}

#[test]
fn an_empty_epoch_is_through_at_once_and_epochs_stay_in_order() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let changes = routed(0..100, |_| Some("t".into()));
    let mut writing = try_write(two_routes(&broker), &changes.schema()).unwrap();
    writing.write(1, vec![]);
    assert_eq!(writing.writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch.0, 1);
    writing.write(2, vec![changes]);
    writing.write(3, vec![]);
    let committed = writing.writer.poll(Duration::ZERO).unwrap();
    assert!(committed.progress.unwrap().epoch.0 == 1 && committed.pending_bytes > 0, "an empty epoch does not overtake");
    writing.until(3).unwrap();
    assert_eq!(writing.writer.poll(Duration::ZERO).unwrap().pending_bytes, 0);
}

#[test]
fn an_outage_is_reported_and_outlived() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let changes = routed(0..1000, |_| Some("t".into()));
    let mut writing = try_write(two_routes(&broker), &changes.schema()).unwrap();
    writing.write(1, vec![changes.slice(0, 10)]);
    writing.until(1).unwrap();
    broker.reachable(false).unwrap();
    writing.write(2, vec![changes.slice(10, 990)]);
    let deadline = Instant::now() + PATIENCE;
    let e = loop {
        match writing.writer.poll(Duration::from_millis(50)) {
            Err(e) => break e,
            Ok(c) => assert!(c.progress.unwrap().epoch.0 < 2 && Instant::now() < deadline),
        }
    };
    assert_eq!((e.kind(), e.retry()), (Kind::External, Retry::Backoff), "{e}");
    broker.reachable(true).unwrap();
    while let Err(e) = writing.until(2) {
        assert_eq!(e.retry(), Retry::Backoff, "{e}");
    }
    assert_eq!(by_topic(&all(&broker, ".")), BTreeMap::from([("all".to_owned(), 1000), ("t".to_owned(), 1000)]));
}

#[test]
fn more_than_the_queue_holds_flows_through() {
    // many partitions, because the embedded cluster forgets beyond 5 MB in each
    let broker = EmbeddedBroker::start(1).unwrap();
    let sink = two_routes(&broker).partitions(16).property("queue.buffering.max.messages", "1000");
    let counters = sink.counters();
    let changes = routed(0..50_000, |_| Some("t".into()));
    let mut writing = try_write(sink, &changes.schema()).unwrap();
    for epoch in 0..10 {
        writing.write(epoch + 1, vec![changes.slice(epoch as usize * 5000, 5000)]);
    }
    writing.until(10).unwrap();
    assert_eq!(counters.total(), 100_000);
    assert_eq!(by_topic(&all(&broker, "^t$"))["t"], 50_000);
}

#[test]
fn compressed_records_take_less_room_and_are_read_as_they_were() {
    // a partition of the embedded cluster forgets what is beyond 5 MB as it came over the wire: 12 MB stay whole only if they came smaller
    let padding = "x".repeat(1_000);
    let values: Vec<String> = (0..12_000).map(|i| format!("{i}{padding}")).collect();
    let rows = batch(vec![("__value", Arc::new(StringArray::from(values.clone())) as ArrayRef)]);
    let schema = rows.schema();
    for (codec, whole) in [("lz4", true), ("gzip", true), ("snappy", true), ("zstd", true), ("none", false)] {
        let broker = EmbeddedBroker::start(1).unwrap();
        let sink = sink(&broker).topic("t").value_sql("v").partitions(1).compression(codec);
        let mut writing = try_write(sink, &schema).unwrap();
        writing.write(1, vec![Changes::inserts(rows.clone())]);
        writing.until(1).unwrap();
        let log = &Admin::embedded(&broker).unwrap().watermarks("t").unwrap()[0];
        assert_eq!((log.low == 0, log.high), (whole, 12_000), "{codec}: the log begins at {}", log.low);
        if whole {
            let seen = all(&broker, "^t$").into_iter().map(|s| s.value.unwrap());
            assert!(seen.eq(values.iter().cloned()), "{codec}: other values came back");
        }
    }
}

#[test]
fn a_broker_that_is_not_there_is_named_when_the_sink_opens() {
    let rows = batch(vec![("city", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)]);
    let e = try_write(Kafka::sink("127.0.0.1:9").topic("t"), &rows.schema()).err().unwrap();
    assert!(e.to_string().contains("127.0.0.1:9"), "{e}");
    let e = try_write(Kafka::sink("127.0.0.1:9").topic("t").property("transactional.id", "x"), &rows.schema()).err().unwrap();
    assert!(e.to_string().contains("'transactional.id'"), "{e}");
}

#[test]
fn closing_in_mid_flight_does_not_hang() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let changes = routed(0..1000, |_| Some("t".into()));
    let mut writing = try_write(two_routes(&broker), &changes.schema()).unwrap();
    writing.write(1, vec![changes]);
    let began = Instant::now();
    writing.writer.close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn headers_are_kept_in_order() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let DataType::List(entry) = meta::headers_type() else { panic!("headers are a list") };
    let DataType::Struct(fields) = entry.data_type() else { panic!("of structs") };
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "a"]));
    let values: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"1"[..]), None, Some(&b""[..])]));
    let entries = StructArray::new(fields.clone(), vec![names, values], None);
    let lists = ListArray::new(
        entry.clone(),
        OffsetBuffer::from_lengths([2, 0, 1, 0]),
        Arc::new(entries),
        Some(NullBuffer::from(vec![true, true, true, false])),
    );
    let rows = batch(vec![("__value", Arc::new(StringArray::from(vec!["w", "x", "y", "z"])) as ArrayRef), ("__headers", Arc::new(lists))]);
    let schema = rows.schema();
    let mut writing = try_write(sink(&broker).topic("t").value_sql("v").headers_sql("h").partitions(1), &schema).unwrap();
    writing.write(1, vec![Changes::inserts(rows).slice(1, 3)]);
    writing.until(1).unwrap();
    let headers: Vec<_> = all(&broker, "^t$").into_iter().map(|s| s.headers).collect();
    assert_eq!(headers, [vec![], vec![("a".to_owned(), Some(String::new()))], vec![]]);
}
