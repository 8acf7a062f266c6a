//! Kafka figures: topics filled for them, and the loops one would write by hand over librdkafka's C API.
//!
//! Invariant: the loops have the settings that orderflow gives librdkafka, take messages by the batch, and hand every record to an
//! idempotent producer with the key and the partition that orderflow would give it.
#![allow(unsafe_code, reason = "the Rust wrapper has no batches: the limit must not pay for a poll per message")]

use crate::limit::{Parser, Routed, Totals};
use orderflow::domain::order::{FAILED_TOPIC, SUCCESSFUL_TOPIC, payment_topic};
use orderflow::generator::Orders;
use orderflow::kafka::{Admin, Producer, Record, partition_for_key};
use rdkafka_sys as sys;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::time::Duration;

/// Partitions of every topic here.
pub(crate) const PARTITIONS: i32 = 4;
const BATCH: usize = 4096;

/// Creates `topic` with `n` clean orders, with the order's number as key, as `orderflow produce` does.
pub(crate) fn fill(brokers: &str, topic: &str, partitions: i32, n: u64) -> orderflow::Result<()> {
    Admin::connect(brokers)?.create_topic(topic, partitions, 1, &[])?;
    let mut producer = Producer::connect(brokers)?;
    let mut records = Orders::new(1).records(0);
    let mut value = vec![];
    for i in 0..n {
        value.clear();
        records.next_into(&mut value);
        let key = i.to_string();
        producer.send(topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() })?;
        if i % 1000 == 0 {
            producer.poll(Duration::ZERO)?;
        }
    }
    producer.flush(Duration::from_secs(120))
}

/// The topics that orders are routed to.
pub(crate) fn routed_topics(prefix: &str) -> Vec<String> {
    let types = orderflow::domain::order::PAYMENT_TYPES.iter().map(|t| payment_topic(t));
    types.chain([SUCCESSFUL_TOPIC.to_owned(), FAILED_TOPIC.to_owned()]).map(|t| format!("{prefix}{t}")).collect()
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn client(kind: sys::rd_kafka_type_t, settings: &[(&str, &str)], producer: bool) -> *mut sys::rd_kafka_t {
    let mut error = [0; 512];
    // SAFETY: strings live during the calls that copy them, and the configuration is handed over to the client.
    unsafe {
        let conf = sys::rd_kafka_conf_new();
        for (name, value) in settings {
            let set = sys::rd_kafka_conf_set(conf, c(name).as_ptr(), c(value).as_ptr(), error.as_mut_ptr(), error.len());
            assert!(set == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK, "{name}");
        }
        if producer {
            sys::rd_kafka_conf_set_events(conf, sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR);
        }
        let client = sys::rd_kafka_new(kind, conf, error.as_mut_ptr(), error.len());
        assert!(!client.is_null(), "no client");
        client
    }
}

/// Reads `n` records of all partitions of `topic`, each given to `take` with its key.
fn consume(brokers: &str, topic: &str, partitions: i32, n: u64, mut take: impl FnMut(&[u8], &[u8])) {
    // as orderflow sets them for this number of partitions
    let budget = (16usize << 20) / partitions as usize;
    let (queued, fetch) = ((budget >> 10).to_string(), (budget / 2).clamp(32 << 10, 1 << 20).to_string());
    let settings = [
        ("bootstrap.servers", brokers),
        ("client.id", "limit"),
        ("group.id", "limit"),
        ("auto.offset.reset", "error"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "10"),
        ("queued.min.messages", "1000000"),
        ("queued.max.messages.kbytes", &queued),
        ("max.partition.fetch.bytes", &fetch),
        ("fetch.max.bytes", "8388608"),
    ];
    let client = client(sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, &settings, false);
    let mut messages: Vec<*mut sys::rd_kafka_message_t> = vec![ptr::null_mut(); BATCH];
    let mut seen = 0;
    // SAFETY: every object is used between its creation and its destruction here, and messages are read before they are given back.
    unsafe {
        sys::rd_kafka_poll_set_consumer(client);
        let list = sys::rd_kafka_topic_partition_list_new(partitions);
        for p in 0..partitions {
            (*sys::rd_kafka_topic_partition_list_add(list, c(topic).as_ptr(), p)).offset = 0;
        }
        sys::rd_kafka_assign(client, list);
        sys::rd_kafka_topic_partition_list_destroy(list);
        let queue = sys::rd_kafka_queue_get_consumer(client);
        while seen < n {
            let got = sys::rd_kafka_consume_batch_queue(queue, 1000, messages.as_mut_ptr(), BATCH);
            for message in &messages[..usize::try_from(got).unwrap_or(0)] {
                let m = &**message;
                if m.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    seen += 1;
                    let key = std::slice::from_raw_parts(m.key.cast(), m.key_len);
                    take(std::slice::from_raw_parts(m.payload.cast(), m.len), key);
                }
                sys::rd_kafka_message_destroy(*message);
            }
        }
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_consumer_close(client);
        sys::rd_kafka_destroy(client);
    }
}

/// Kafka → decode → aggregate, by hand.
pub(crate) fn totals(brokers: &str, topic: &str, partitions: i32, n: u64) -> Totals {
    let mut totals = Totals::default();
    consume(brokers, topic, partitions, n, |value, _| totals.add(value));
    totals
}

/// Takes confirmations without waiting longer than `wait` for the first, and counts them.
///
/// # Safety
/// `queue` is the main queue of a living producer.
unsafe fn confirmed(queue: *mut sys::rd_kafka_queue_t, wait: i32) -> u64 {
    let mut n = 0;
    let mut wait = wait;
    loop {
        // SAFETY: by this function's contract; the event is destroyed once.
        unsafe {
            let event = sys::rd_kafka_queue_poll(queue, wait);
            if event.is_null() {
                return n;
            }
            wait = 0;
            if sys::rd_kafka_event_type(event) == sys::RD_KAFKA_EVENT_DR {
                loop {
                    let message = sys::rd_kafka_event_message_next(event);
                    if message.is_null() {
                        break;
                    }
                    assert!((*message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR, "a record was not stored");
                    n += 1;
                }
            }
            sys::rd_kafka_event_destroy(event);
        }
    }
}

/// Kafka → route each record to two topics, by hand; gives the number of records that were stored.
pub(crate) fn route(brokers: &str, topic: &str, n: u64, prefix: &str) -> u64 {
    let settings = [
        ("bootstrap.servers", brokers),
        ("client.id", "limit"),
        ("enable.idempotence", "true"),
        ("message.timeout.ms", "0"),
        ("queue.buffering.max.messages", "15000"),
        ("queue.buffering.max.kbytes", "32768"),
        ("batch.size", "1000000"),
        ("message.max.bytes", "16777216"),
    ];
    let producer = client(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, &settings, true);
    // SAFETY: the producer lives until the end of this function, and the name during the call.
    let handle = |name: &str| unsafe { sys::rd_kafka_topic_new(producer, c(name).as_ptr(), ptr::null_mut()) };
    // SAFETY: the producer is valid; the queue is given back below.
    let queue = unsafe { sys::rd_kafka_queue_get_main(producer) };
    let mut by_type: HashMap<String, *mut sys::rd_kafka_topic_t> = HashMap::new();
    let (good, bad) = (handle(&format!("{prefix}{SUCCESSFUL_TOPIC}")), handle(&format!("{prefix}{FAILED_TOPIC}")));
    let (mut stored, mut sent) = (0, 0u64);
    let mut parser = Parser::default();
    consume(brokers, topic, PARTITIONS, n, |value, key| {
        let order: Routed<'_> = parser.read(value);
        let of_type = match by_type.get(order.payment_type) {
            Some(topic) => *topic,
            None => {
                let topic = handle(&format!("{prefix}{}", payment_topic(order.payment_type)));
                by_type.insert(order.payment_type.to_owned(), topic);
                topic
            }
        };
        let partition = partition_for_key(key, PARTITIONS);
        for topic in [of_type, if order.payment_txn_success == "Y" { good } else { bad }] {
            // SAFETY: topics belong to the producer, and librdkafka copies the bytes.
            unsafe {
                let produce = || {
                    sys::rd_kafka_produce(
                        topic,
                        partition,
                        sys::RD_KAFKA_MSG_F_COPY,
                        value.as_ptr().cast_mut().cast::<c_void>(),
                        value.len(),
                        key.as_ptr().cast(),
                        key.len(),
                        ptr::null_mut(),
                    )
                };
                while produce() != 0 {
                    stored += confirmed(queue, 100); // the queue is full
                }
            }
            sent += 1;
        }
        if sent.is_multiple_of(4096) {
            // SAFETY: the queue is the producer's.
            stored += unsafe { confirmed(queue, 0) };
        }
    });
    // SAFETY: objects are given back once, topics before the producer.
    unsafe {
        while stored < sent {
            stored += confirmed(queue, 100);
        }
        by_type.values().chain([&good, &bad]).for_each(|t| sys::rd_kafka_topic_destroy(*t));
        sys::rd_kafka_queue_destroy(queue);
        sys::rd_kafka_destroy(producer);
    }
    stored
}
