//! What only a real Kafka does: transactions, deletion, growth, topic limits, listed groups.
//! Run with `ORDERFLOW_KAFKA=host:port`; without it every test here says that it is skipped.

use crate::support::*;
use orderflow_core::arrow::array::{ArrayRef, StringArray};
use orderflow_core::data::Changes;
use orderflow_core::error::Retry;
use orderflow_core::time::{Partition, Positions};
use orderflow_kafka::{Admin, Kafka, KafkaSource, Start, Until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The cluster's address and a prefix of this test's own.
pub(crate) fn cluster(test: &str) -> Option<(String, String)> {
    let Ok(brokers) = std::env::var("ORDERFLOW_KAFKA") else {
        eprintln!("{test}: skipped, set ORDERFLOW_KAFKA=host:port to run it against a real Kafka");
        return None;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    Some((brokers, format!("it-{test}-{now}-")))
}

fn transactions(brokers: &str, topic: &str, id: &str) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", id).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for t in 0..3 {
        producer.begin_transaction().unwrap();
        for i in 0..10 {
            producer.send(BaseRecord::<(), _>::to(topic).payload(&format!("{t}-{i}")).partition(0)).unwrap();
        }
        if t == 1 {
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
        } else {
            producer.commit_transaction(PATIENCE).unwrap();
        }
    }
}

#[test]
fn real_a_topic_written_by_transactions_ends_at_lag_0() {
    let Some((brokers, prefix)) = cluster("transactions") else { return };
    let (topic, group) = (format!("{prefix}t"), format!("{prefix}g"));
    let admin = Admin::connect(brokers.as_str()).unwrap();
    assert!(admin.create_topic(&topic, 1, 1, &[]).unwrap());
    assert!(!admin.create_topic(&topic, 1, 1, &[]).unwrap());
    transactions(&brokers, &topic, &format!("{prefix}id"));
    // a commit is answered before it can be seen
    assert!(admin.settled(&topic, PATIENCE).unwrap());

    let mut reading = open(Kafka::topic(&topic).brokers(&brokers).group(&group).until(Until::Latest));
    reading.until(|_| false).unwrap();
    assert_eq!(reading.seen.len(), 20, "the aborted ten are not seen");
    // 30 records and 3 markers
    assert_eq!(reading.positions[&Partition::new(topic.as_str(), 0)], 33);
    let status = reading.reader.status();
    assert_eq!((status.partitions[0].position, status.partitions[0].end), (33, Some(33)));
    reading.reader.acknowledge(&reading.positions.clone()).unwrap();
    reading.reader.close().unwrap();
    let lag = admin.group_lag(&group, &topic).unwrap();
    assert_eq!((lag[0].committed, lag[0].lag()), (Some(33), 0));
    assert_eq!(admin.count_records(&topic, &Default::default()).unwrap(), 20);
    assert_eq!(admin.watermarks(&topic).unwrap()[0].high, 33);
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_a_new_partition_is_found_while_running_and_read_from_its_beginning() {
    let Some((brokers, prefix)) = cluster("growth") else { return };
    let topic = format!("{prefix}t");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 1, 1, &[]).unwrap();
    let source = Kafka::topic(&topic).brokers(&brokers).start(Start::Latest).property("topic.metadata.refresh.interval.ms", "500");
    let mut reading = open(source);
    reading.step().unwrap();
    admin.grow_topic(&topic, 2).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    send(&brokers, &topic, 1, numbers(0..10));
    reading.until(|r| r.seen.len() == 10).unwrap();
    assert!(reading.seen.iter().all(|s| s.partition.id == 1));
    assert_eq!(reading.reader.status().partitions.len(), 2);
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_a_topic_deleted_in_mid_run_is_an_error_that_names_it() {
    let Some((brokers, prefix)) = cluster("deletion") else { return };
    let topic = format!("{prefix}t");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 2, 1, &[]).unwrap();
    send(&brokers, &topic, 0, numbers(0..10));
    let mut reading = open(Kafka::topic(&topic).brokers(&brokers));
    reading.until(|r| r.seen.len() == 10).unwrap();
    admin.delete_topic(&topic).unwrap();
    let began = Instant::now();
    let e = reading.error();
    assert!(e.to_string().contains(&topic) && e.to_string().contains("deleted"), "{e}");
    assert_eq!(e.retry(), Retry::Never);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn real_a_topic_that_forgets_is_read_only_by_who_says_so() {
    let Some((brokers, prefix)) = cluster("compacted") else { return };
    let admin = Admin::connect(brokers.as_str()).unwrap();
    let names = ["a-keeps", "b-forgets", "c-both"].map(|name| format!("{prefix}{name}"));
    let forgets = [("cleanup.policy", "compact")];
    admin.create_topic(&names[0], 1, 1, &[("cleanup.policy", "delete")]).unwrap();
    send(&brokers, &names[0], 0, numbers(0..10));
    let pattern = || Kafka::pattern(".*").prefix(&prefix).brokers(&brokers).property("topic.metadata.refresh.interval.ms", "500");

    let refused = |source: KafkaSource, resume: Option<Positions>, topic: &str, policy: &str| {
        let e = try_open(source, "test", resume).err().unwrap();
        assert!(e.to_string().contains(&format!("topic '{topic}' is compacted (cleanup.policy {policy})")), "{e}");
        assert!(e.retry() == Retry::Never && e.remedy().unwrap().contains(".compacted()"), "{e}");
    };
    let warns = |reading: &Reading, topic: &str, policy: &str| {
        let says = [format!("topic '{topic}' matches"), format!("(cleanup.policy {policy})"), ".compacted()".to_owned()];
        let warnings = reading.reader.status().warnings;
        assert!(warnings.iter().any(|w| says.iter().all(|s| w.contains(s))), "{warnings:?}");
    };

    // one that comes while the source is read
    let mut reading = open(pattern());
    reading.until(|r| r.seen.len() == 10).unwrap();
    admin.create_topic(&names[1], 1, 1, &forgets).unwrap();
    // a compacted topic takes no record without a key
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    for value in numbers(10..20) {
        producer.send(BaseRecord::to(&names[1]).key("k").payload(&value)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let began = Instant::now();
    while reading.reader.status().warnings.is_empty() {
        assert!(began.elapsed() < PATIENCE, "no warning");
        reading.step().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    warns(&reading, &names[1], "compact");
    send(&brokers, &names[0], 0, numbers(20..30));
    reading.until(|r| r.seen.len() == 20).unwrap();
    assert!(reading.seen.iter().all(|s| *s.partition.topic == *names[0]));

    // those that are there
    admin.create_topic(&names[2], 1, 1, &[("cleanup.policy", "compact,delete")]).unwrap();
    let both = Kafka::topics([&names[0], &names[2]]).brokers(&brokers);
    refused(Kafka::topic(&names[1]).brokers(&brokers), None, &names[1], "compact");
    refused(both.clone(), None, &names[2], "compact,delete");
    refused(pattern(), Some([(Partition::new(names[1].as_str(), 0), 3)].into()), &names[1], "compact");
    let mut reading = open(pattern().until(Until::Latest));
    reading.until(|_| false).unwrap();
    assert_eq!(reading.seen.len(), 20);
    warns(&reading, &names[1], "compact");
    warns(&reading, &names[2], "compact,delete");
    // the watch looks at the topics twice a second, and has nothing to add
    let mut reading = open(pattern());
    reading.until(|r| r.seen.len() == 20).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    reading.step().unwrap();
    assert_eq!(reading.reader.status().warnings.len(), 2, "{:?}", reading.reader.status().warnings);

    // and so from here on
    let mut reading = open(pattern().compacted());
    reading.until(|r| r.seen.len() == 30).unwrap();
    let late = format!("{prefix}d-late");
    admin.create_topic(&late, 1, 1, &forgets).unwrap();
    for value in ["old", "new"] {
        producer.send(BaseRecord::to(&late).key("k").payload(value)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    reading.until(|r| r.seen.len() == 32).unwrap();
    let values: Vec<_> = reading.seen[30..].iter().map(|s| s.value.as_deref().unwrap()).collect();
    assert_eq!(values, ["old", "new"]);
    assert!(reading.reader.status().warnings.is_empty());
    open(both.compacted().until(Until::Latest)).until(|r| r.seen.len() == 20).unwrap();
    for topic in names.iter().chain([&late]) {
        admin.delete_topic(topic).unwrap();
    }
}

#[test]
fn real_a_source_starts_at_a_timestamp() {
    let Some((brokers, prefix)) = cluster("timestamp") else { return };
    let topic = format!("{prefix}t");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 2, 1, &[]).unwrap();
    send(&brokers, &topic, 0, numbers(0..100));
    let source = |at| Kafka::topic(&topic).brokers(&brokers).start(Start::Timestamp(at)).until(Until::Latest);
    let first = |at| read_all(source(at)).iter().map(|s| s.timestamp.unwrap()).min();
    assert_eq!(first(1042), Some(1042));
    assert_eq!(first(0), Some(1000));
    assert_eq!(first(5000), None);
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_records_deleted_before_they_were_read_are_a_loss() {
    let Some((brokers, prefix)) = cluster("loss") else { return };
    let topic = format!("{prefix}t");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 1, 1, &[]).unwrap();
    send(&brokers, &topic, 0, numbers(0..100));
    let mut config = ClientConfig::new();
    let client: rdkafka::admin::AdminClient<_> = config.set("bootstrap.servers", &brokers).create().unwrap();
    let mut before = rdkafka::TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(60)).unwrap();
    futures::executor::block_on(client.delete_records(&before, &Default::default())).unwrap();
    let resume = [(Partition::new(topic.as_str(), 0), 50)].into();
    let e = try_open(Kafka::topic(&topic).brokers(&brokers), "test", Some(resume)).err().unwrap();
    assert!(e.to_string().contains("offsets 50 to 59 (10)"), "{e}");
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_a_foreign_member_of_the_group_is_a_warning() {
    let Some((brokers, prefix)) = cluster("member") else { return };
    let (topic, group) = (format!("{prefix}t"), format!("{prefix}g"));
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 1, 1, &[]).unwrap();
    let foreign: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &brokers).set("group.id", &group).set("client.id", "stranger").create().unwrap();
    foreign.subscribe(&[&topic]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while foreign.assignment().unwrap().count() == 0 {
        foreign.poll(Duration::from_millis(100));
        assert!(Instant::now() < deadline);
    }
    let mut reading = open(Kafka::topic(&topic).brokers(&brokers).group(&group));
    while reading.reader.status().warnings.is_empty() {
        reading.step().unwrap();
        foreign.poll(Duration::from_millis(100));
        assert!(Instant::now() < deadline, "no warning");
    }
    let warnings = reading.reader.status().warnings;
    assert!(warnings[0].contains(&group) && warnings[0].contains("stranger"), "{warnings:?}");
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_a_topic_with_a_small_limit_refuses_only_the_record_that_is_too_large() {
    let Some((brokers, prefix)) = cluster("limit") else { return };
    let topic = format!("{prefix}t");
    let admin = Admin::connect(brokers.as_str()).unwrap();
    admin.create_topic(&topic, 1, 1, &[("max.message.bytes", "20000")]).unwrap();
    let big = "x".repeat(50_000);
    let values: Vec<String> = (0..2000).map(|i| if i == 1000 { big.clone() } else { format!("{i:0100}") }).collect();
    let rows = batch(vec![("__value", Arc::new(StringArray::from(values)) as ArrayRef)]);
    let schema = rows.schema();
    let mut writing = try_write(Kafka::sink(&brokers).topic(&topic).value_sql("v"), &schema).unwrap();
    writing.write(1, vec![Changes::inserts(rows)]);
    writing.until(1).unwrap();
    assert_eq!(writing.refused.len(), 1);
    assert_eq!(writing.refused[0].bytes, big.as_bytes());
    assert_eq!(admin.count_records(&topic, &Default::default()).unwrap(), 1999);
    admin.delete_topic(&topic).unwrap();
}

#[test]
fn real_missing_topics_are_created_and_a_deleted_one_stops_the_sink() {
    let Some((brokers, prefix)) = cluster("creation") else { return };
    let rows = batch(vec![
        ("__value", Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef),
        ("__topic_0", Arc::new(StringArray::from(vec!["x", "y", "x"]))),
    ]);
    let schema = rows.schema();
    let sink = Kafka::sink(&brokers).topic_sql("t").value_sql("v").prefix(&prefix).partitions(2).replication(1).compression("lz4");
    let mut writing = try_write(sink, &schema).unwrap();
    writing.write(1, vec![Changes::inserts(rows.clone())]);
    writing.until(1).unwrap();
    let admin = Admin::connect(brokers.as_str()).unwrap();
    let (x, y) = (format!("{prefix}x"), format!("{prefix}y"));
    assert_eq!(
        (
            admin.partitions(&x).unwrap(),
            admin.count_records(&x, &Default::default()).unwrap(),
            admin.count_records(&y, &Default::default()).unwrap()
        ),
        (Some(2), 2, 1)
    );
    admin.delete_topic(&x).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut epoch = 1;
    let e = loop {
        epoch += 1;
        writing.write(epoch, vec![Changes::inserts(rows.clone())]);
        match writing.writer.poll(Duration::from_millis(200)) {
            Err(e) if e.retry() == Retry::Never => break e,
            _ => assert!(Instant::now() < deadline, "the deletion went unnoticed"),
        }
    };
    assert!(e.to_string().contains(&x), "{e}");
    admin.delete_topic(&y).unwrap();
}

#[test]
fn real_a_topic_that_the_cluster_refuses_to_create_is_named() {
    let Some((brokers, prefix)) = cluster("refusal") else { return };
    let rows = batch(vec![("n", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)]);
    // more replicas than any test cluster has brokers
    let e = try_write(Kafka::sink(&brokers).topic("t").prefix(&prefix).replication(77), &rows.schema()).err().unwrap();
    assert!(e.to_string().contains(&format!("'{prefix}t'")) && e.retry() == Retry::Never, "{e}");
    assert!(e.remedy().is_some_and(|hint| hint.contains("no more replicas than there are brokers")), "{e}");
}
