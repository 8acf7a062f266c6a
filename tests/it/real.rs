//! The order stream on a real Kafka: a million orders, an outage, topics that vanish, are missing or take little, a sink that takes
//! nothing, the example, and the lag as Kafka's own tool sees it.
//! Run with `ORDERFLOW_KAFKA=host:port`, the outages and the tool also with `ORDERFLOW_SERVICES=…/scripts/services`; without them
//! every test here says that it is skipped.
//!
//! Invariant: what came out is judged by reading the topics and by [`expected`], never by the counts of the pipeline alone.

use crate::full_pipeline::{DIRTY, check, check_topics, dirty, good, interrupted, program};
use crate::support::{PARTITIONS, PATIENCE, Sent, deltas, found, letters, orders, send, sum, topics, visit};
use crate::tier;
use orderflow::arrow::array::AsArray;
use orderflow::domain::Order;
use orderflow::epoch::Limits;
use orderflow::error::Retry;
use orderflow::generator::{Orders, Share, expected};
use orderflow::kafka::{Admin, Counters, Kafka, KafkaSink, KafkaSource, Producer, Record, Until};
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sink::memory;
use orderflow::{Pipeline, Running};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Some tests take the broker away: they write, all others read.
static BROKER: RwLock<()> = RwLock::new(());

/// A cluster, and what a test's own names begin with.
pub(crate) struct Cluster {
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    pub(crate) admin: Admin,
}

pub(crate) fn cluster(test: &str) -> Option<Cluster> {
    let Ok(brokers) = std::env::var("ORDERFLOW_KAFKA") else {
        eprintln!("{test}: skipped, set ORDERFLOW_KAFKA=host:port to run it against a real Kafka");
        return None;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let admin = Admin::connect(brokers.as_str()).unwrap();
    Some(Cluster { brokers, prefix: format!("e2e-{test}-{now}-"), admin })
}

pub(crate) fn present() -> RwLockReadGuard<'static, ()> {
    BROKER.read().unwrap_or_else(PoisonError::into_inner)
}

/// For whoever takes the broker away.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    BROKER.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Cluster {
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn source(&self) -> KafkaSource {
        Kafka::topic("orders").prefix(&self.prefix).brokers(&self.brokers).format(orderflow::pipelines::orders::json())
    }

    pub(crate) fn sink(&self) -> KafkaSink {
        Kafka::sink(&self.brokers).prefix(&self.prefix)
    }

    /// Writes all records of `recipe` with their positions as keys; goes through outages.
    pub(crate) fn produce(&self, recipe: &Orders) {
        let mut producer = Producer::connect(self.brokers.as_str()).unwrap();
        let (mut records, mut value, topic) = (recipe.records(0), vec![], self.topic("orders"));
        loop {
            let key = records.position().to_string();
            value.clear();
            if records.next_into(&mut value).is_none() {
                break;
            }
            producer.send(&topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() }).unwrap();
        }
        producer.flush(5 * PATIENCE).unwrap();
    }

    /// Number of records in each topic, and the sum of their hashes: any that is missing, twice or changed shows.
    pub(crate) fn content(&self, topic: &str) -> (u64, u64) {
        let (mut records, mut hashes) = (0, 0u64);
        visit(&self.brokers, &self.topic(topic), |_, batch| {
            records += batch.len() as u64;
            for i in 0..batch.len() {
                let raw = batch.record(i);
                hashes = hashes.wrapping_add(hash(raw.key.unwrap(), raw.value.unwrap()));
            }
        });
        (records, hashes)
    }

    pub(crate) fn forget(self) {
        for topic in topics(&self.admin, &self.prefix).keys() {
            self.admin.delete_topic(&self.topic(topic)).unwrap();
        }
    }
}

pub(crate) fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

/// What [`Cluster::content`] must be for each topic that `recipe` is routed to.
pub(crate) fn contents(recipe: &Orders) -> BTreeMap<String, (u64, u64)> {
    let mut contents: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut records, mut value) = (recipe.records(0), vec![]);
    loop {
        let key = records.position().to_string();
        value.clear();
        if records.next_into(&mut value).is_none() {
            return contents;
        }
        if let Ok(order) = serde_json::from_slice::<Order>(&value) {
            let hash = hash(key.as_bytes(), &value);
            for topic in [order.payment_topic(), order.success_topic().to_owned()] {
                let (records, hashes) = contents.entry(topic).or_default();
                (*records, *hashes) = (*records + 1, hashes.wrapping_add(hash));
            }
        }
    }
}

/// Checks that a run over the whole of `recipe` is complete: nothing is missing, nothing is there twice, nobody waits.
async fn complete(cluster: &Cluster, recipe: &Orders, running: &Running, counters: &Counters, out: &std::path::Path) {
    let status = running.status();
    let mut expected = expected(recipe, u64::MAX);
    expected.bytes = 0;
    assert_eq!(found(running, &status, counters, &cluster.prefix).await, expected);
    assert_eq!(sum(&deltas(&out.join("totals"))), expected.totals);
    assert_eq!(letters(&out.join("dead_letters")).len() as u64, expected.rejected);
    for (topic, content) in contents(recipe) {
        assert_eq!(cluster.content(&topic), content, "{topic}");
    }
    let lags = cluster.admin.group_lag(&cluster.topic("orders"), &cluster.topic("orders")).unwrap();
    assert_eq!(lags.len(), PARTITIONS as usize);
    assert!(lags.iter().all(|l| l.lag() == 0 && l.committed.is_some()), "{lags:?}");
}

#[test]
fn real_a_million_orders_or_ten_are_routed_and_counted_once_each() {
    let Some(cluster) = cluster("million") else { return };
    let _present = present();
    let share = |s| Share::new(s).unwrap();
    let recipe = Orders::new(1)
        .total(tier::of(1_000_000, 1_000_000, 10_000_000))
        .malformed(share(0.001))
        .unseen_types(share(0.001))
        .duplicates(share(0.001));
    let dir = tempfile::tempdir().unwrap();
    cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
    cluster.produce(&recipe);
    let sink = cluster.sink();
    let counters = sink.counters();
    block_on(async {
        let flow = orders(cluster.source().until(Until::Latest), sink, dir.path()).epoch_interval(Duration::from_secs(1));
        let running = flow.start().await.unwrap();
        running.wait().await.unwrap();
        complete(&cluster, &recipe, &running, &counters, dir.path()).await;
    });
    cluster.forget();
}

#[test]
fn real_a_broker_that_is_away_for_twenty_seconds_costs_time_and_nothing_else() {
    outage(false);
}

#[test]
fn real_a_broker_that_is_away_amid_transactions_costs_time_and_nothing_else() {
    outage(true);
}

fn outage(kept: bool) {
    let Some(cluster) = cluster("outage") else { return };
    let Ok(services) = std::env::var("ORDERFLOW_SERVICES") else {
        eprintln!("outage: skipped, set ORDERFLOW_SERVICES to the script that starts and stops the broker");
        return;
    };
    let _alone = alone();
    let service = |verb: &str| {
        let done = Command::new(&services).args([verb, "kafka"]).output().unwrap();
        assert!(done.status.success(), "{verb}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let recipe = Orders::new(2).total(300_000);
    let dir = tempfile::tempdir().unwrap();
    cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
    let sink = cluster.sink();
    let counters = sink.counters();
    block_on(async {
        let flow = orders(cluster.source(), sink, dir.path()).epoch_interval(Duration::from_millis(200));
        let flow = if kept { flow.state(dir.path().join("state")) } else { flow };
        let running = flow.start().await.unwrap();
        let rows = |n: u64| {
            let began = Instant::now();
            while running.status().sources[0].rows < n {
                assert!(began.elapsed() < 2 * PATIENCE && !running.status().phase.is_over(), "{:?}", running.status());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        std::thread::scope(|scope| {
            let producer = scope.spawn(|| cluster.produce(&recipe));
            rows(30_000);
            service("down");
            std::thread::sleep(Duration::from_secs(20));
            assert!(running.status().sources[0].rows < 300_000, "the outage came in mid-run");
            service("up");
            producer.join().unwrap();
        });
        rows(300_000);
        running.drain().await.unwrap();
        complete(&cluster, &recipe, &running, &counters, dir.path()).await;
    });
    cluster.forget();
}

#[test]
fn real_a_topic_deleted_in_mid_run_ends_the_pipeline_with_its_name() {
    let Some(cluster) = cluster("deleted") else { return };
    let _present = present();
    let recipe = Orders::new(3).total(1_000);
    for deleted in ["orders", "orders.successful"] {
        let cluster = Cluster { prefix: format!("{}{}-", cluster.prefix, deleted.len()), ..self::cluster("deleted").unwrap() };
        let dir = tempfile::tempdir().unwrap();
        cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
        cluster.produce(&recipe);
        let e = block_on(async {
            let sink = cluster.sink();
            let routed = sink.counters();
            let running = orders(cluster.source(), sink, dir.path()).start().await.unwrap();
            let began = Instant::now();
            while routed.total() < 2_000 {
                assert!(began.elapsed() < PATIENCE && !running.status().phase.is_over(), "{:?}", running.status());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            cluster.admin.delete_topic(&cluster.topic(deleted)).unwrap();
            let began = Instant::now();
            loop {
                if deleted != "orders" {
                    cluster.produce(&Orders::new(4).total(100));
                }
                match tokio::time::timeout(Duration::from_secs(1), running.wait()).await {
                    Ok(outcome) => break outcome.unwrap_err(),
                    Err(_) => assert!(began.elapsed() < PATIENCE, "nobody noticed: {:?}", running.status()),
                }
            }
        });
        assert!(e.to_string().contains(&cluster.topic(deleted)) && e.to_string().contains("deleted"), "{e}");
        assert_eq!(e.retry(), Retry::Never);
        cluster.forget();
    }
}

#[test]
fn real_a_topic_that_is_not_there_is_named_at_the_start() {
    let Some(cluster) = cluster("absent") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let e = block_on(orders(cluster.source(), cluster.sink(), dir.path()).start()).err().unwrap();
    assert!(e.to_string().contains(&cluster.topic("orders")) && e.remedy().is_some(), "{e}");
    assert!(began.elapsed() < PATIENCE);
    let args = ["--no-produce", "--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix];
    let output = program(dir.path()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(&cluster.topic("orders")), "{said}");
}

#[test]
fn real_an_order_larger_than_its_topic_takes_is_a_dead_letter() {
    let Some(cluster) = cluster("large") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = Orders::new(5).total(200).records(0);
    let mut sent = vec![];
    for i in 0..200 {
        let mut value = vec![];
        recipe.next_into(&mut value).unwrap();
        let mut order: Order = serde_json::from_slice(&value).unwrap();
        order.payment_type = "Card".into();
        order.payment_txn_success = "Y".into();
        if i == 100 {
            order.customer_name = "x".repeat(50_000);
        }
        sent.push(Sent::value(serde_json::to_vec(&order).unwrap()));
    }
    cluster.admin.create_topic(&cluster.topic("orders"), 1, 1, &[]).unwrap();
    cluster.admin.create_topic(&cluster.topic("orders.card"), 1, 1, &[("max.message.bytes", "20000")]).unwrap();
    send(&cluster.brokers, &cluster.topic("orders"), sent.iter().map(|s| (Some(0), s)));
    block_on(async {
        let running = orders(cluster.source().until(Until::Latest), cluster.sink(), dir.path()).start().await.unwrap();
        let status = running.wait().await.unwrap();
        assert_eq!(status.rejected["orders"], 1);
    });
    let held = topics(&cluster.admin, &cluster.prefix);
    let expected = [("orders", 200), ("orders.card", 199), ("orders.successful", 200)];
    assert_eq!(held, expected.map(|(t, n)| (t.to_owned(), n)).into());
    let letters = letters(&dir.path().join("dead_letters"));
    assert_eq!(letters.len(), 1);
    assert!(Some(&letters[0].bytes) == sent[100].value.as_ref());
    assert_eq!(letters[0].place, Some((cluster.topic("orders"), 0, 100)));
    assert!(letters[0].reason.contains(&cluster.topic("orders.card")), "{}", letters[0].reason);
    cluster.forget();
}

#[test]
fn real_the_example_leaves_in_every_topic_what_belongs_there() {
    let Some(cluster) = cluster("example") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let there = ["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix];
    let args = ["--orders", "5000", "--seed", "6", "--workers", "2", "--out", "made"];
    let expected = expected(&dirty(6), 5_000);
    let said = good(program(dir.path()).args(there).args(args).args(DIRTY));
    check(&said, &dir.path().join("made"), &cluster.prefix, &expected);
    check_topics(&cluster.brokers, &cluster.prefix, &expected);
    let lags = || cluster.admin.group_lag(&cluster.topic("full_pipeline"), &cluster.topic("orders")).unwrap();
    assert!(lags().iter().all(|l| l.lag() == 0), "{:?}", lags());

    // again from the beginning: nothing is produced, all of it is routed once more
    let said = good(program(dir.path()).args(there).args(["--no-produce", "--out", "read"]));
    check(&said, &dir.path().join("read"), &cluster.prefix, &expected);
    // and until somebody presses Ctrl-C
    let again = || {
        let held = topics(&cluster.admin, &cluster.prefix);
        expected.topics.iter().all(|(topic, n)| held[topic] == 3 * n)
    };
    let said = interrupted(program(dir.path()).args(there).args(["--no-produce", "--follow", "--out", "followed"]), 3, again);
    check(&said, &dir.path().join("followed"), &cluster.prefix, &expected);
    for (topic, records) in topics(&cluster.admin, &cluster.prefix) {
        let once = expected.topics.get(&topic);
        assert_eq!(records, once.map_or(expected.records, |n| 3 * n), "{topic}");
    }
    assert!(lags().iter().all(|l| l.lag() == 0), "{:?}", lags());
    cluster.forget();
}

#[test]
fn real_the_example_processes_its_own_orders_only_where_the_topic_held_others_before() {
    let Some(cluster) = cluster("again") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let mut held = BTreeMap::from([("orders".to_owned(), 0)]);
    for (seed, orders) in [(6, 3_000), (7, 2_000)] {
        let (out, expected) = (dir.path().join(format!("made-{seed}")), expected(&dirty(seed), orders));
        let mut command = program(dir.path());
        command.args(["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix]).args(DIRTY);
        let said = good(command.args(["--orders", &orders.to_string(), "--seed", &seed.to_string(), "--out"]).arg(&out));
        check(&said, &out, &cluster.prefix, &expected);
        *held.entry("orders".to_owned()).or_default() += expected.records;
        expected.topics.into_iter().for_each(|(topic, records)| *held.entry(topic).or_default() += records);
        assert_eq!(topics(&cluster.admin, &cluster.prefix), held);
        let lags = cluster.admin.group_lag(&cluster.topic("full_pipeline"), &cluster.topic("orders")).unwrap();
        assert!(lags.iter().all(|l| l.lag() == 0 && l.committed.is_some()), "{lags:?}");
    }
    cluster.forget();
}

#[test]
fn real_a_sink_that_takes_nothing_stops_the_source_within_its_memory_and_gets_every_record_once_it_goes_on() {
    const RECORDS: usize = 60_000;
    const BYTES: usize = 1_000;
    const MEMORY: usize = 8 << 20;
    const EPOCH: usize = 1 << 20;
    // what lies ready of a partition is one fetch: so much by itself, and one batch of the producer's (1,000,000 bytes), which brokers never part
    const READY: usize = 256 << 10;
    const FETCH: usize = READY + (1 << 20);
    let Some(cluster) = cluster("slow") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let topic = cluster.topic("records");
    cluster.admin.create_topic(&topic, PARTITIONS, 1, &[]).unwrap();
    let mut producer = Producer::connect(cluster.brokers.as_str()).unwrap();
    let mut value = vec![b'x'; BYTES];
    for i in 0..RECORDS {
        value[..8].copy_from_slice(&(i as u64).to_be_bytes());
        producer.send(&topic, Record { value: Some(&value), partition: Some(i as i32 % PARTITIONS), ..Record::default() }).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let (sink, mut deliveries) = memory::sink(1);
    let mut flow = Pipeline::new(cluster.topic("slow"));
    let source = Kafka::topic(&topic).brokers(&cluster.brokers).until(Until::Latest);
    let source = source.property("queued.max.messages.kbytes", (READY >> 10).to_string());
    flow.source("records", source.property("max.partition.fetch.bytes", READY.to_string())).unwrap();
    flow.sql("SELECT _value FROM records").unwrap().sink(sink).unwrap();
    let limits = Limits { interval: Duration::from_millis(50), bytes: EPOCH as u64, ..Limits::default() };
    let flow = flow.epochs(limits).memory(MEMORY).dead_letters(DeadLetters::append(dir.path().join("dead_letters")));
    block_on(async {
        let running = flow.start().await.unwrap();
        // the host takes no epoch, until nothing has been read for three seconds
        let (mut rows, mut since, began) = (0, Instant::now(), Instant::now());
        while rows == 0 || since.elapsed() < Duration::from_secs(3) {
            let now = running.status().sources[0].rows;
            if now > rows {
                (rows, since) = (now, Instant::now());
            }
            assert!(began.elapsed() < 2 * PATIENCE && !running.status().phase.is_over(), "{:?}", running.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let source = running.status().sources.remove(0);
        // beside its memory: the fetch that filled the half for reading, the epoch that filled the half for writing, and the one that lies ready for the
        // host; an epoch ends with the fetch that fills it
        assert!(source.bytes <= (MEMORY + 2 * EPOCH + 3 * FETCH) as u64 && source.lag() > 0, "{source:?}");

        let mut seen = vec![false; RECORDS];
        while let Some(delivery) = deliveries.recv().await {
            for changes in &delivery.changes {
                for value in changes.rows().column(0).as_binary::<i32>() {
                    let value = value.unwrap();
                    let number = u64::from_be_bytes(value[..8].try_into().unwrap()) as usize;
                    assert_eq!(value.len(), BYTES);
                    assert!(!std::mem::replace(&mut seen[number], true), "record {number} came twice");
                }
            }
            delivery.ack();
        }
        let status = running.wait().await.unwrap();
        assert_eq!(status.sources[0].rows, RECORDS as u64);
        assert_eq!(seen.iter().position(|s| !s), None, "a record is missing");
    });
    cluster.forget();
}

#[test]
fn real_kafkas_own_tool_sees_no_lag_after_a_bounded_run() {
    let Some(cluster) = cluster("tool") else { return };
    let Ok(services) = std::env::var("ORDERFLOW_SERVICES") else {
        eprintln!("tool: skipped, set ORDERFLOW_SERVICES to the script that knows Kafka's tools");
        return;
    };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let (topic, group) = (cluster.topic("orders"), cluster.topic("billing"));
    cluster.admin.create_topic(&topic, PARTITIONS, 1, &[]).unwrap();
    cluster.produce(&Orders::new(8).total(2_000));
    block_on(async {
        let source = cluster.source().group("billing").until(Until::Latest);
        orders(source, cluster.sink(), dir.path()).start().await.unwrap().wait().await.unwrap();
    });
    let mut tool = Command::new(services);
    tool.args(["tool", "kafka", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--bootstrap-server", &cluster.brokers]);
    let output = tool.args(["--describe", "--group", &group, "--timeout", "60000"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut table = lines.skip_while(|cells| cells.first() != Some(&"GROUP"));
    let header = table.next().unwrap_or_else(|| panic!("no table: {said}"));
    let at = |name: &str| header.iter().position(|cell| *cell == name).unwrap_or_else(|| panic!("no column {name}: {said}"));
    let rows: Vec<_> = table.filter(|cells| cells.get(at("GROUP")) == Some(&group.as_str())).collect();
    assert_eq!(rows.len(), PARTITIONS as usize, "{said}");
    assert!(rows.iter().all(|cells| cells[at("TOPIC")] == topic && cells[at("LAG")] == "0"), "{said}");
    let read = rows.iter().map(|cells| cells[at("CURRENT-OFFSET")].parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!(read, 2_000, "{said}");
    cluster.forget();
}
