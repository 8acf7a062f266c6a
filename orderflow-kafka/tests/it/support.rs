//! Opening readers and writers as the engine does, and reading whole topics.

use orderflow_core::arrow::array::{ArrayRef, RecordBatch};
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::sink::{Closed, Opened, Refused, Sink, SinkContext, Writer, WriterId};
use orderflow_core::source::{Payload, Polled, Reader, Source, SourceContext, Waker};
use orderflow_core::time::{Clock, Epoch, Partition, Positions};
use orderflow_core::{Error, Result};
use orderflow_kafka::{EmbeddedBroker, KafkaSink, KafkaSource, Producer, Record};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A record as a test compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: Partition,
    pub(crate) offset: u64,
    pub(crate) value: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(String, Option<String>)>,
}

/// An open source and what was read of it so far.
pub(crate) struct Reading {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) woken: Receiver<()>,
    pub(crate) seen: Vec<Seen>,
    /// Next position by partition, as the fetches tell it.
    pub(crate) positions: Positions,
    /// The sum of those of all fetches.
    pub(crate) fingerprint: u64,
    pub(crate) ended: bool,
}

pub(crate) fn try_open(source: KafkaSource, pipeline: &str, resume: Option<Positions>) -> Result<Reading> {
    let (wake, woken) = channel();
    let context = SourceContext {
        pipeline: pipeline.into(),
        name: "source".into(),
        resume,
        until: None,
        stood: Positions::new(),
        wake: Waker::new(move || {
            let _ = wake.send(());
        }),
        clock: Clock::system(),
    };
    let reader = Box::new(source).open(context)?;
    Ok(Reading { reader, woken, seen: vec![], positions: Positions::new(), fingerprint: 0, ended: false })
}

pub(crate) fn open(source: KafkaSource) -> Reading {
    try_open(source, "test", None).unwrap()
}

impl Reading {
    /// One poll; `false` if there was nothing. Checks that fetches are contiguous.
    pub(crate) fn step(&mut self) -> Result<bool> {
        match self.reader.poll()? {
            Polled::Fetch(fetch) => {
                assert!(fetch.from < fetch.to, "a fetch moves the position");
                self.fingerprint = self.fingerprint.wrapping_add(fetch.fingerprint);
                if let Some(before) = self.positions.insert(fetch.partition.clone(), fetch.to) {
                    assert!(before <= fetch.from, "{}: {before} then {}", fetch.partition, fetch.from);
                }
                match fetch.payload {
                    Payload::Raw(batch) => {
                        assert_eq!(batch.len(), fetch.rows);
                        let text = |b: Option<&[u8]>| b.map(|b| String::from_utf8_lossy(b).into_owned());
                        let mut bytes = 0;
                        for i in 0..batch.len() {
                            let record = batch.record(i);
                            assert!(fetch.from <= record.position && record.position < fetch.to);
                            bytes += record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
                            let mut headers = vec![];
                            batch.headers(i, &mut |name, value| headers.push((name.to_owned(), text(value))));
                            self.seen.push(Seen {
                                partition: fetch.partition.clone(),
                                offset: record.position,
                                value: text(record.value),
                                key: text(record.key),
                                timestamp: record.timestamp,
                                headers,
                            });
                        }
                        assert_eq!(bytes, fetch.bytes);
                    }
                    Payload::None => assert_eq!(fetch.rows, 0),
                    Payload::Rows(_) => panic!("Kafka carries bytes"),
                }
                Ok(true)
            }
            Polled::Idle => Ok(false),
            Polled::Ended => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    /// Polls until `done`, sleeping only until the reader wakes us.
    pub(crate) fn until(&mut self, done: impl Fn(&Reading) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) && !self.ended {
            if !self.step()? && !self.ended && !done(self) {
                let left = deadline.checked_duration_since(Instant::now());
                let woken = left.is_some_and(|left| self.woken.recv_timeout(left).is_ok());
                assert!(woken, "nothing came in time; read {} records, positions {:?}", self.seen.len(), self.positions);
            }
        }
        Ok(())
    }

    /// Polls until an error comes.
    pub(crate) fn error(&mut self) -> Error {
        match self.until(|_| false) {
            Err(e) => e,
            Ok(()) => panic!("the source ended without an error"),
        }
    }

    /// All values, sorted.
    pub(crate) fn values(&self) -> Vec<String> {
        let mut values: Vec<String> = self.seen.iter().filter_map(|s| s.value.clone()).collect();
        values.sort();
        values
    }
}

/// Reads a bounded source to its end and closes it.
pub(crate) fn read_all(source: KafkaSource) -> Vec<Seen> {
    let mut reading = open(source);
    reading.until(|_| false).unwrap();
    assert!(reading.ended);
    reading.reader.close().unwrap();
    reading.seen
}

pub(crate) fn broker_with(topics: &[(&str, i32)]) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start(1).unwrap();
    for (topic, partitions) in topics {
        broker.create_topic(topic, *partitions).unwrap();
    }
    broker
}

/// Sends `values` to one partition of a topic, with timestamps 1000, 1001, …
pub(crate) fn send(brokers: &str, topic: &str, partition: i32, values: impl IntoIterator<Item = String>) {
    let mut producer = Producer::connect(brokers).unwrap();
    for (i, value) in values.into_iter().enumerate() {
        let record =
            Record { value: Some(value.as_bytes()), partition: Some(partition), timestamp: Some(1000 + i as i64), ..Record::default() };
        producer.send(topic, record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("v{i:05}")).collect()
}

/// What a reader finds once it is as expected, or else after some seconds: a commit is answered before its markers stand in all partitions.
pub(crate) fn eventually<T>(find: impl Fn() -> T, as_expected: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let found = find();
        if as_expected(&found) || began.elapsed() > Duration::from_secs(10) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An open sink.
pub(crate) struct Writing {
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) refused: Vec<Rejected>,
}

pub(crate) fn try_write(sink: KafkaSink, schema: &SchemaRef) -> Result<Writing> {
    let context = SinkContext {
        pipeline: "test".into(),
        view: "view".into(),
        writer: WriterId { ledger: 7, generation: 1 },
        schema: schema.clone(),
        kept: false,
        clock: Clock::system(),
    };
    let Opened { writer, progress } = Box::new(sink).open(context)?;
    assert_eq!(progress, None);
    Ok(Writing { writer, refused: vec![] })
}

impl Writing {
    pub(crate) fn write(&mut self, epoch: u64, changes: Vec<Changes>) {
        self.writer.write(Closed { epoch: Epoch(epoch), changes }).unwrap();
    }

    /// Polls until `epoch` is out.
    pub(crate) fn until(&mut self, epoch: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let committed = self.writer.poll(Duration::from_millis(50))?;
            self.refused.extend(committed.refused.into_iter().flat_map(Refused::bind));
            if committed.progress.is_some_and(|p| p.epoch >= Epoch(epoch)) {
                assert_eq!(committed.progress.unwrap().writer, WriterId { ledger: 7, generation: 1 });
                return Ok(());
            }
            assert!(Instant::now() < deadline, "epoch {epoch} did not get out");
        }
    }
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// Counts of values by topic.
pub(crate) fn by_topic(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for s in seen {
        *counts.entry(s.partition.topic.to_string()).or_default() += 1;
    }
    counts
}
