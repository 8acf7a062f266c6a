//! How the sink makes its producer: idempotent, and with several batches of a connection under way at once, one for each partition: a broker that takes long
//! to answer does not bound what is sent meanwhile.
//! (An idempotent producer may have five under way for a partition, too, and librdkafka 2.12 compares their number with that of messages: any batch of five or
//! more is alone in its partition.)
//!
//! Invariant: no time is judged, but what the client itself says it waits for.

use super::feed::configuration;
use crate::Kafka;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Statistics};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The most answers that the client waited for at once at one broker.
#[derive(Clone, Default)]
struct Waits(Arc<AtomicI64>);

impl ClientContext for Waits {
    fn stats(&self, now: Statistics) {
        self.0.fetch_max(now.brokers.values().map(|b| b.waitresp_cnt).max().unwrap_or(0), Ordering::SeqCst);
    }
}

impl ProducerContext for Waits {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

const PARTITIONS: i32 = 4;

/// How many batches a producer as the sink makes it has under way at once, where each answer takes a while.
fn at_once(properties: &[(&str, &str)]) -> i64 {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", PARTITIONS, 1).unwrap();
    let mut sink = Kafka::sink(cluster.bootstrap_servers()).topic("t");
    for (name, value) in [("batch.num.messages", "10"), ("statistics.interval.ms", "10")].iter().chain(properties) {
        sink = sink.property(*name, *value);
    }
    let waits = Waits::default();
    let producer: BaseProducer<Waits> = configuration(&sink, 1).unwrap().create_with_context(waits.clone()).unwrap();
    let send = |n: i32| (0..n).for_each(|i| producer.send(BaseRecord::<(), _>::to("t").partition(i % PARTITIONS).payload("v")).unwrap());
    // it has asked all it wants to know before answers take long
    send(PARTITIONS);
    producer.flush(Duration::from_secs(30)).unwrap();
    waits.0.store(0, Ordering::SeqCst);
    cluster.broker_round_trip_time(1, Duration::from_millis(200)).unwrap();
    send(40 * PARTITIONS);
    producer.flush(Duration::from_secs(60)).unwrap();
    waits.0.load(Ordering::SeqCst)
}

#[test]
fn the_producer_is_idempotent_and_nobody_can_make_it_otherwise() {
    let cluster = MockCluster::new(1).unwrap();
    let sink = || Kafka::sink(cluster.bootstrap_servers()).topic("t");
    assert_eq!(configuration(&sink(), 1).unwrap().get("enable.idempotence"), Some("true"));
    for (name, value) in [("enable.idempotence", "false"), ("acks", "1"), ("request.required.acks", "1"), ("partitioner", "random")] {
        let e = configuration(&sink().property(name, value), 1).unwrap_err();
        assert!(e.to_string().contains(name) && e.remedy().is_some(), "{e}");
    }
}

#[test]
fn a_batch_does_not_wait_for_the_answer_to_the_one_before() {
    assert_eq!(at_once(&[("max.in.flight.requests.per.connection", "1")]), 1, "what the test sees where it is so");
    let batches = at_once(&[]);
    assert!(batches >= i64::from(PARTITIONS), "{batches} at once");
}
