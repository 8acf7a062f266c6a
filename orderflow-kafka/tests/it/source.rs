//! Reading from the embedded cluster.

use crate::support::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::error::{Kind, Retry};
use orderflow_core::source::{Polled, Source, meta};
use orderflow_core::testing::conformance;
use orderflow_core::time::{Partition, Positions};
use orderflow_kafka::{Admin, EmbeddedBroker, Kafka, KafkaSource, Producer, Record, Start, Until};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[test]
fn a_record_arrives_with_all_it_has() {
    let broker = broker_with(&[("t", 1)]);
    let mut producer = Producer::connect(broker.bootstrap_servers()).unwrap();
    let headers: &[(&str, &[u8])] = &[("a", b"1"), ("b", b""), ("a", b"2")];
    producer.send("t", Record { value: Some(b"one"), key: Some(b"k"), timestamp: Some(123), headers, partition: None }).unwrap();
    producer.send("t", Record { value: None, key: Some(b"k"), timestamp: Some(124), ..Record::default() }).unwrap();
    producer.send("t", Record { value: Some(b""), timestamp: Some(125), ..Record::default() }).unwrap();
    producer.flush(PATIENCE).unwrap();
    assert_eq!((producer.delivered(), producer.outstanding_bytes()), (3, 0));

    let seen = read_all(Kafka::topic("t").brokers(broker.bootstrap_servers()).until(Until::Latest));
    let record = |offset, value: Option<&str>, key: Option<&str>, timestamp, headers: &[(&str, &str)]| Seen {
        partition: Partition::new("t", 0),
        offset,
        value: value.map(Into::into),
        key: key.map(Into::into),
        timestamp: Some(timestamp),
        headers: headers.iter().map(|(n, v)| (n.to_string(), Some(v.to_string()))).collect(),
    };
    assert_eq!(
        seen,
        [
            record(0, Some("one"), Some("k"), 123, &[("a", "1"), ("b", ""), ("a", "2")]),
            record(1, None, Some("k"), 124, &[]),
            record(2, Some(""), None, 125, &[]),
        ]
    );
}

#[test]
fn all_partitions_are_read_in_order_to_the_end_found_at_the_start() {
    let broker = broker_with(&[("t", 3), ("u", 2)]);
    let servers = broker.bootstrap_servers();
    for p in 0..3 {
        send(servers, "t", p, numbers(p as usize * 10_000..p as usize * 10_000 + 9_000));
    }
    let mut reading = open(Kafka::topics(["t", "u"]).brokers(servers).until(Until::Latest));
    send(servers, "t", 0, ["too late".to_owned()]);
    reading.until(|_| false).unwrap();
    assert_eq!(reading.seen.len(), 27_000);
    for p in 0..3 {
        let of: Vec<_> = reading.seen.iter().filter(|s| s.partition.id == p).map(|s| s.value.clone().unwrap()).collect();
        assert_eq!(of, numbers(p as usize * 10_000..p as usize * 10_000 + 9_000));
    }
    assert_eq!(reading.positions[&Partition::new("t", 0)], 9_000);
}

#[test]
fn an_endless_source_idles_until_it_is_woken_and_reports_its_lag() {
    let broker = broker_with(&[("t", 1)]);
    let servers = broker.bootstrap_servers();
    let mut reading = open(Kafka::topic("t").brokers(servers));
    // the start-up's events are served, then nothing wakes us
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(2) {
        assert!(!reading.step().unwrap());
        let _ = reading.woken.recv_timeout(Duration::from_millis(500));
    }
    send(servers, "t", 0, numbers(0..10));
    reading.until(|r| r.seen.len() == 10).unwrap();
    let status = reading.reader.status();
    assert_eq!(status.partitions.len(), 1);
    assert_eq!((status.partitions[0].position, status.partitions[0].end), (10, Some(10)));
    assert_eq!(status.warnings, Vec::<String>::new());
    reading.reader.close().unwrap();
}

#[test]
fn a_source_starts_where_it_is_told() {
    let broker = broker_with(&[("p.t", 2)]);
    let servers = broker.bootstrap_servers();
    for p in 0..2 {
        send(servers, "p.t", p, numbers(0..100));
    }
    let source = || Kafka::topic("t").prefix("p.").brokers(servers).until(Until::Latest);
    let offsets = BTreeMap::from([(("t".to_owned(), 1), 90)]);
    assert_eq!(read_all(source().start(Start::Offsets(offsets))).len(), 110);
    assert_eq!(read_all(source().start(Start::Latest)).len(), 0);
    let until = BTreeMap::from([(("t".to_owned(), 0), 5), (("t".to_owned(), 1), 7)]);
    assert_eq!(read_all(source().until(Until::Offsets(until))).len(), 12);

    let resume = Positions::from([(Partition::new("p.t", 0), 40), (Partition::new("p.t", 1), 100)]);
    let mut reading = try_open(source().start(Start::Latest), "test", Some(resume)).unwrap();
    reading.until(|_| false).unwrap();
    assert_eq!(reading.values(), numbers(40..100));

    let unknown = BTreeMap::from([(("t".to_owned(), 9), 1)]);
    let e = try_open(source().start(Start::Offsets(unknown)), "test", None).err().unwrap();
    assert!(e.to_string().contains("p.t[9]"), "{e}");
}

#[test]
fn a_partition_that_no_run_knew_yet_is_read_from_its_beginning() {
    let broker = broker_with(&[("t", 2)]);
    let servers = broker.bootstrap_servers();
    for p in 0..2 {
        send(servers, "t", p, numbers(0..10));
    }
    let read = || {
        let known = Positions::from([(Partition::new("t", 0), 10)]);
        let mut reading = try_open(Kafka::topic("t").brokers(servers).until(Until::Latest), "test", Some(known)).unwrap();
        reading.until(|_| false).unwrap();
        reading.values()
    };
    assert_eq!(read(), numbers(0..10));
    assert_ne!(bug::with(Bug::NewPartitionFromLatest, read), numbers(0..10), "the bug goes unnoticed");
}

#[test]
fn topics_that_match_a_pattern_are_read_as_one() {
    let broker = broker_with(&[("orders.upi", 1), ("orders.card", 1), ("payments", 1)]);
    let servers = broker.bootstrap_servers();
    for topic in ["orders.upi", "orders.card", "payments"] {
        send(servers, topic, 0, numbers(0..10));
    }
    let seen = read_all(Kafka::pattern(r"^orders\..*").brokers(servers).until(Until::Latest));
    assert_eq!(by_topic(&seen), BTreeMap::from([("orders.card".to_owned(), 10), ("orders.upi".to_owned(), 10)]));
}

#[test]
fn a_new_topic_of_a_pattern_is_found_while_running() {
    let broker = broker_with(&[("orders.upi", 1)]);
    let servers = broker.bootstrap_servers();
    let source = Kafka::pattern(r"^orders\..*").brokers(servers).start(Start::Latest).property("topic.metadata.refresh.interval.ms", "300");
    let mut reading = open(source);
    reading.step().unwrap();
    broker.create_topic("orders.card", 2).unwrap();
    send(servers, "orders.card", 1, numbers(0..10));
    reading.until(|r| r.seen.len() == 10).unwrap();
    assert_eq!(reading.values(), numbers(0..10));
}

#[test]
fn what_the_log_forgot_before_it_was_read_is_a_loss_with_its_range() {
    let broker = broker_with(&[("t", 1)]);
    let servers = broker.bootstrap_servers();
    let mut reading = open(Kafka::topic("t").brokers(servers).property("queued.max.messages.kbytes", "64"));
    let padding = "x".repeat(1000);
    send(servers, "t", 0, (0..100).map(|i| format!("{i}{padding}")));
    reading.until(|r| !r.seen.is_empty()).unwrap();
    // 12 MB more than a partition of the embedded cluster holds, while nobody reads
    send(servers, "t", 0, (100..12_000).map(|i| format!("{i}{padding}")));
    let e = reading.error();
    assert_eq!(e.retry(), Retry::Never);
    let position = reading.positions[&Partition::new("t", 0)];
    let low = Admin::embedded(&broker).unwrap().watermarks("t").unwrap()[0].low;
    assert!(low > position, "{low} {position}");
    let text = e.to_string();
    assert!(text.contains("t[0]") && text.contains(&format!("offsets {position} to {}", low - 1)), "{text}");

    // the same is seen by whoever opens with an old position
    let resume = Positions::from([(Partition::new("t", 0), position)]);
    let e = try_open(Kafka::topic("t").brokers(servers), "test", Some(resume)).err().unwrap();
    assert!(e.to_string().contains(&format!("offsets {position} to {}", low - 1)), "{e}");
}

#[test]
fn a_position_beyond_the_end_is_refused() {
    let broker = broker_with(&[("t", 1)]);
    let resume = Positions::from([(Partition::new("t", 0), 5)]);
    let e = try_open(Kafka::topic("t").brokers(broker.bootstrap_servers()), "test", Some(resume)).err().unwrap();
    assert!(e.to_string().contains("ends at offset 0") && e.retry() == Retry::Never, "{e}");
}

#[test]
fn progress_is_committed_for_other_tools_to_see_and_never_goes_back() {
    let broker = broker_with(&[("t", 1)]);
    let servers = broker.bootstrap_servers();
    send(servers, "t", 0, numbers(0..100));
    let admin = Admin::embedded(&broker).unwrap();
    let partition = Partition::new("t", 0);
    let mut reading = open(Kafka::topic("t").brokers(servers).until(Until::Latest).group("g").prefix(""));
    reading.until(|_| false).unwrap();
    reading.reader.acknowledge(&Positions::from([(partition.clone(), 60)])).unwrap();
    // acknowledged while the group is still being asked, or after: it goes out by itself
    let deadline = Instant::now() + PATIENCE;
    while admin.group_lag("g", "t").unwrap()[0].committed != Some(60) {
        assert!(Instant::now() < deadline, "no commit was seen");
        reading.step().unwrap();
    }
    assert_eq!(admin.group_lag("g", "t").unwrap()[0].lag(), 40);
    reading.reader.acknowledge(&reading.positions.clone()).unwrap();
    reading.reader.close().unwrap();
    assert_eq!(admin.group_lag("g", "t").unwrap()[0].lag(), 0);

    let mut again = open(Kafka::topic("t").brokers(servers).until(Until::Latest).group("g"));
    again.until(|_| false).unwrap();
    again.reader.acknowledge(&Positions::from([(partition, 10)])).unwrap();
    again.reader.close().unwrap();
    assert_eq!(admin.group_lag("g", "t").unwrap()[0].committed, Some(100));
}

#[test]
fn a_prefix_stands_once_before_the_topic_and_the_group() {
    let broker = broker_with(&[("p-t", 1)]);
    let servers = broker.bootstrap_servers();
    send(servers, "p-t", 0, numbers(0..10));
    let admin = Admin::embedded(&broker).unwrap();
    // the pipeline of these readers is called `test`
    for (source, group) in [(Kafka::topic("t"), "p-test"), (Kafka::topic("t").group("g"), "p-g")] {
        let mut reading = open(source.prefix("p-").brokers(servers).until(Until::Latest));
        reading.until(|_| false).unwrap();
        reading.reader.acknowledge(&reading.positions.clone()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while admin.group_lag(group, "p-t").unwrap()[0].committed != Some(10) {
            assert!(Instant::now() < deadline, "{group} was told nothing");
            reading.step().unwrap();
        }
        reading.reader.close().unwrap();
    }
}

#[test]
fn a_source_is_known_by_its_prefix_whatever_its_topics_and_brokers_are() {
    let identity = |source: KafkaSource| source.identity().unwrap();
    let here = identity(Kafka::topic("t").prefix("p-").brokers("127.0.0.1:9"));
    assert_eq!(here, identity(Kafka::topics(["t", "u"]).prefix("p-").brokers("127.0.0.1:10,127.0.0.1:9").group("g")));
    assert_eq!(here, identity(Kafka::pattern(r"^t\..*").prefix("p-")));
    for other in [Kafka::topic("t"), Kafka::topic("t").prefix("q-")] {
        assert_ne!(here, identity(other));
    }
}

#[test]
fn the_source_conforms() {
    let broker = broker_with(&[("t", 3)]);
    let servers = broker.bootstrap_servers();
    for p in 0..3 {
        send(servers, "t", p, numbers(p as usize * 1_000..p as usize * 1_000 + 300));
    }
    let seen = conformance::source(&mut || Box::new(Kafka::topic("t").brokers(servers).until(Until::Latest)));
    for p in 0..3 {
        let of = seen.iter().filter(|record| record.partition == Partition::new("t", p));
        let found: Vec<_> = of.map(|record| (record.position, String::from_utf8(record.value.clone().unwrap()).unwrap())).collect();
        let sent: Vec<_> = (0..).zip(numbers(p as usize * 1_000..p as usize * 1_000 + 300)).collect();
        assert_eq!(found, sent);
    }
    assert_eq!(seen.len(), 900);
}

/// The sum of the fingerprints of all that a topic holds.
fn fingerprint(servers: &str, topic: &str) -> u64 {
    let mut reading = open(Kafka::topic(topic).brokers(servers).until(Until::Latest));
    reading.until(|_| false).unwrap();
    reading.reader.close().unwrap();
    reading.fingerprint
}

#[test]
fn a_fingerprint_tells_records_of_another_size_time_or_place() {
    let broker = broker_with(&[("t", 1), ("same", 1), ("longer", 1), ("later", 1), ("swapped", 1), ("fewer", 1)]);
    let servers = broker.bootstrap_servers();
    let records: Vec<(i64, String)> = (1_000..).zip((0..20).map(|i| "v".repeat(i + 1))).collect();
    let send = |topic: &str, change: fn(&mut Vec<(i64, String)>)| {
        let mut records = records.clone();
        change(&mut records);
        let mut producer = Producer::connect(servers).unwrap();
        for (timestamp, value) in &records {
            let record = Record { value: Some(value.as_bytes()), timestamp: Some(*timestamp), partition: Some(0), ..Record::default() };
            producer.send(topic, record).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        fingerprint(servers, topic)
    };
    let held = send("t", |_| {});
    assert_eq!(fingerprint(servers, "t"), held, "read again");
    assert_eq!(send("same", |_| {}), held, "the same records, made anew");
    assert_ne!(send("longer", |records| records[7].1.push('v')), held);
    assert_ne!(send("later", |records| records[7].0 += 1), held);
    assert_ne!(send("swapped", |records| records.swap(7, 8)), held);
    assert_ne!(send("fewer", |records| records.truncate(19)), held);
}

#[test]
fn batches_outlive_the_reader() {
    let broker = broker_with(&[("t", 1)]);
    send(broker.bootstrap_servers(), "t", 0, numbers(0..1000));
    let mut reading = open(Kafka::topic("t").brokers(broker.bootstrap_servers()).until(Until::Latest));
    let mut kept = vec![];
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline);
        match reading.reader.poll().unwrap() {
            Polled::Fetch(fetch) => kept.push(fetch),
            Polled::Idle => drop(reading.woken.recv_timeout(PATIENCE)),
            Polled::Ended => break,
        }
    }
    reading.reader.close().unwrap();
    drop(reading);
    let values = std::thread::spawn(move || {
        let mut values = vec![];
        for fetch in kept {
            if let orderflow_core::source::Payload::Raw(batch) = fetch.payload {
                values.extend((0..batch.len()).map(|i| String::from_utf8(batch.record(i).value.unwrap().to_vec()).unwrap()));
            }
        }
        values
    });
    assert_eq!(values.join().unwrap(), numbers(0..1000));
}

#[test]
fn a_broker_that_goes_away_is_reported_and_awaited() {
    let broker = broker_with(&[("t", 1)]);
    let servers = broker.bootstrap_servers();
    send(servers, "t", 0, numbers(0..10));
    let mut reading = open(Kafka::topic("t").brokers(servers));
    reading.until(|r| r.seen.len() == 10).unwrap();
    broker.reachable(false).unwrap();
    let e = reading.error();
    assert_eq!((e.kind(), e.retry()), (Kind::External, Retry::Backoff));
    assert!(e.to_string().contains(servers), "{e}");
    broker.reachable(true).unwrap();
    send(servers, "t", 0, numbers(10..20));
    while reading.seen.len() < 20 {
        match reading.until(|r| r.seen.len() == 20) {
            Err(e) => assert_eq!(e.retry(), Retry::Backoff, "{e}"),
            Ok(()) => break,
        }
    }
    assert_eq!(reading.values(), numbers(0..20));
}

#[test]
fn a_broker_that_is_not_there_is_named_within_seconds() {
    let began = Instant::now();
    let e = try_open(Kafka::topic("t").brokers("127.0.0.1:9"), "test", None).err().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(e.to_string().contains("127.0.0.1:9") && e.to_string().contains("hint"), "{e}");
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let broker = EmbeddedBroker::start(1).unwrap();
    let e = try_open(Kafka::topic("nowhere").brokers(broker.bootstrap_servers()), "test", None).err().unwrap();
    assert!(e.to_string().contains("'nowhere'") && e.to_string().contains(broker.bootstrap_servers()), "{e}");
    assert_eq!(e.kind(), Kind::User);
}

#[test]
fn properties_pass_through_or_are_refused_by_name() {
    let source = |name: &str, value: &str| Kafka::topic("t").brokers("127.0.0.1:9").property(name, value);
    for (name, value, why) in [
        ("no.such.property", "1", "no property 'no.such.property'"),
        ("fetch.wait.max.ms", "never", "'fetch.wait.max.ms'"),
        ("auto.offset.reset", "earliest", ".start("),
        ("group.id", "g", ".group("),
    ] {
        let e = try_open(source(name, value), "test", None).err().unwrap();
        assert!(e.to_string().contains(why) && e.kind() == Kind::User, "{e}");
    }
    #[cfg(not(feature = "tls"))]
    {
        let e = try_open(source("sasl.mechanisms", "PLAIN"), "test", None).err().unwrap();
        assert!(e.to_string().contains("feature `tls`"), "{e}");
    }
    // a property that works: a client id is accepted, and a small fetch still reads everything
    let broker = broker_with(&[("t", 1)]);
    send(broker.bootstrap_servers(), "t", 0, numbers(0..5000));
    let small = Kafka::topic("t").brokers(broker.bootstrap_servers()).property("max.partition.fetch.bytes", "1000").until(Until::Latest);
    assert_eq!(read_all(small).len(), 5000);
}

#[test]
fn without_a_format_there_are_only_hidden_columns() {
    let source = Kafka::topic("t");
    assert_eq!(source.schema().fields().len(), 0);
    assert!(Source::format(&source).is_some() && meta::is_hidden("_value"));
}

#[test]
fn the_partition_that_is_furthest_behind_is_read_first() {
    let broker = broker_with(&[("t", 2)]);
    let servers = broker.bootstrap_servers();
    let mut producer = Producer::connect(servers).unwrap();
    for i in 0..40_000 {
        for (partition, start) in [(0, 5_000_000), (1, 1_000)] {
            let record = Record { value: Some(b"v"), partition: Some(partition), timestamp: Some(start + i), ..Record::default() };
            producer.send("t", record).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    let mut reading = open(Kafka::topic("t").brokers(servers).until(Until::Latest));
    std::thread::sleep(Duration::from_secs(2)); // until both partitions are fetched
    let older = Partition::new("t", 1);
    reading.until(|r| r.positions.get(&older) == Some(&40_000)).unwrap();
    let newer = reading.seen.iter().filter(|s| s.partition.id == 0).count();
    // not starved, but behind
    assert!((1..=15_000).contains(&newer), "{newer} of the newer partition were read before the older one was through");
}

#[test]
fn a_very_large_record_is_read() {
    // the embedded cluster loses even the newest record of a partition that passes 5 MB
    let broker = broker_with(&[("t", 1)]);
    send(broker.bootstrap_servers(), "t", 0, ["a".to_owned(), "x".repeat(5_000_000), "b".to_owned()]);
    let seen = read_all(Kafka::topic("t").brokers(broker.bootstrap_servers()).until(Until::Latest));
    assert_eq!(seen.iter().map(|s| s.value.as_ref().unwrap().len()).collect::<Vec<_>>(), [1, 5_000_000, 1]);
}
