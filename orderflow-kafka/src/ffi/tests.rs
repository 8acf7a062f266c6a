//! The native calls alone, against an embedded cluster.
//!
//! Memory was checked with
//!     valgrind --leak-check=full target/debug/deps/orderflow_kafka-<hash> --test-threads 1 ffi
//!     valgrind --leak-check=full target/debug/deps/it-<hash> --test-threads 1 source::a_record_arrives source::batches_outlive sink::each_row sink::closing
//! No invalid access; the only losses are the wrapper's own (216 bytes a client: it never gives back the queue for its logs),
//! beside the threads of an embedded cluster that is still ending when the process does.

mod forgotten;

use super::*;
use crate::embedded::EmbeddedBroker;
use crate::source::Hub;
use orderflow_core::source::Waker;
use rdkafka::Offset;

const WAIT: Duration = Duration::from_secs(30);

#[test]
fn what_is_produced_is_taken_and_everything_is_given_back() {
    let broker = EmbeddedBroker::start(1).unwrap();
    broker.create_topic("t", 1).unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap_servers()).set("group.id", "g").set("enable.partition.eof", "true");
    let mut produced = config.clone();
    let producer = Arc::new(ProducerClient::new(produced.remove("group.id").remove("enable.partition.eof")).unwrap());
    let topic = TopicHandle::new(&producer, "t").unwrap();
    assert!(TopicHandle::new(&producer, "t\0").is_none());
    for i in 0..100_usize {
        let mut headers = Headers::with_capacity(1).unwrap();
        headers.add("n", Some(i.to_string().as_bytes()));
        if i % 2 == 0 {
            headers.add(b"no \xff UTF-8", Some(b"v"));
            headers.add("last", None);
        }
        let value = format!("value {i}");
        let record = Outgoing {
            partition: 0,
            key: (i % 2 == 0).then_some(&b"key"[..]),
            value: Some(value.as_bytes()),
            timestamp: Some(1 + i as i64),
            headers: Some(headers),
            opaque: i,
        };
        producer.produce(&topic, record).unwrap();
    }
    // refused at once: the headers stay ours and are freed
    let large = vec![0; 2_000_000];
    let headers = Headers::with_capacity(0);
    let record = Outgoing { partition: 0, key: None, value: Some(&large), timestamp: None, headers, opaque: 0 };
    assert_eq!(producer.produce(&topic, record), Err(Code::MessageSizeTooLarge));
    let mut confirmed = vec![];
    while confirmed.len() < 100 {
        producer.serve(WAIT, &mut |d| {
            assert_eq!((d.error, d.value.map(<[u8]>::to_vec)), (None, Some(format!("value {}", d.opaque).into_bytes())));
            confirmed.push(d.opaque);
        });
    }
    assert_eq!((confirmed, producer.outstanding()), ((0..100).collect(), 0));

    let consumer: Arc<Consumer> = Arc::new(config.create_with_context(Context::default()).unwrap());
    let (wake, woken) = std::sync::mpsc::channel();
    let hub = Hub::new(Waker::new(move || wake.send(()).unwrap_or_default()));
    let mut queue = PartitionQueue::open(&consumer, "t", 0, Signal::new(0, &hub)).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 0, Offset::Offset(0)).unwrap();
    consumer.assign(&list).unwrap();
    let mut taken = vec![];
    while taken.last().and_then(Message::error) != Some(Code::PartitionEOF) {
        woken.recv_timeout(WAIT).unwrap();
        taken.extend(queue.take(1000));
    }
    let end = taken.pop().unwrap();
    assert_eq!((end.offset(), taken.len(), known_end(&consumer, "t", 0)), (100, 100, Some(100)));
    assert!(!end.error_text().is_empty());
    for (i, message) in taken.iter().enumerate() {
        assert_eq!((message.offset(), message.timestamp(), message.error()), (i as i64, Some(1 + i as i64), None));
        assert_eq!(message.value(), Some(format!("value {i}").as_bytes()));
        assert_eq!(message.key(), (i % 2 == 0).then_some(&b"key"[..]));
        let mut headers = vec![];
        message.headers(&mut |name, value| headers.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        let mut sent = vec![("n".to_owned(), Some(i.to_string().into_bytes()))];
        if i % 2 == 0 {
            sent.extend([("no \u{fffd} UTF-8".to_owned(), Some(b"v".to_vec())), ("last".to_owned(), None)]);
        }
        assert_eq!(headers, sent);
    }
    // in this order: the queue first, then messages that outlive it, then the client
    drop(queue);
    drop(taken);
    drop(end);
    drop(consumer);
}

#[test]
fn what_cannot_leave_is_given_up_when_the_client_is_dropped() {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:9");
    let producer = Arc::new(ProducerClient::new(&config).unwrap());
    let topic = TopicHandle::new(&producer, "t").unwrap();
    let record = Outgoing { partition: 0, key: None, value: Some(b"v"), timestamp: None, headers: None, opaque: 0 };
    producer.produce(&topic, record).unwrap();
    assert!(producer.outstanding() > 0);
}
