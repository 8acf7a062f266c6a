//! The topic of progress, read to its end: what the sinks of a pipeline have written, transactions that are still open left out or waited for.
//!
//! Invariant: [`Book::settled`] has seen every record that was in the topic when it was called: it waits until no transaction hides one, and ends
//! those that older writers of the same ledger left open. It never touches the transaction of another ledger.
#![expect(clippy::disallowed_methods, reason = "a sink may wait while it is opened; a queue of one wakes whoever reads")]

use super::fence;
use super::progress::Held;
use crate::admin::{Admin, is_compacted};
use crate::client::{ANSWER, Context, Settings, refused_property, unanswered};
use crate::ffi::{Consumer, PartitionQueue};
use crate::source::{Hub, Signal};
use orderflow_core::sink::WriterId;
use orderflow_core::source::Waker;
use orderflow_core::{Error, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// What the topic's properties are when the sink creates it: small segments, so that compaction gets at them.
const PROPERTIES: &[(&str, &str)] = &[("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")];

/// How many times the end of the topic is looked at before an open transaction is an error: two minutes.
const ROUNDS: usize = 1200;

const PAUSE: Duration = Duration::from_millis(100);

/// Newest records by key.
pub(super) type Pages = BTreeMap<String, Held>;

/// Whether records of open and aborted transactions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum See {
    Committed,
    All,
}

/// A pipeline's topic of progress.
pub(super) struct Book {
    settings: Settings,
    pub(super) topic: String,
    group: String,
}

impl Book {
    /// Finds the topic, or makes it.
    pub(super) fn open(settings: &Settings, topic: String, group: String, replication: i32) -> Result<Self> {
        let admin = Admin::connect(settings.clone())?;
        admin.create_topic(&topic, 1, replication, PROPERTIES)?;
        let asked = admin.topic_property(&topic, "cleanup.policy");
        if let Some(policy) = asked.filter(|policy| !is_compacted(policy)) {
            return Err(Error::user(format!("topic '{topic}' keeps the progress of the pipeline's sinks, and would forget it"))
                .why(format!("its cleanup.policy is {policy}"))
                .hint(format!("kafka-configs --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact")));
        }
        if admin.partitions(&topic)? != Some(1) {
            return Err(Error::user(format!("topic '{topic}' keeps the progress of the pipeline's sinks and must have one partition"))
                .hint("delete it if nothing was written yet, or choose another name for the pipeline"));
        }
        Ok(Self { settings: settings.clone(), topic, group })
    }

    /// Finds the topic, if it is there.
    pub(super) fn there(settings: &Settings, topic: String, group: String) -> Result<Option<Self>> {
        let there = Admin::connect(settings.clone())?.partitions(&topic)?.is_some();
        Ok(there.then(|| Self { settings: settings.clone(), topic, group }))
    }

    /// What committed transactions have left, as far as one can see now.
    pub(super) fn glance(&self) -> Result<Pages> {
        Ok(self.read(See::Committed, None)?.0)
    }

    /// What committed transactions have left in all that is in the topic now. `config` makes a producer when given a transactional id.
    pub(super) fn settled(&self, me: WriterId, config: &ClientConfig) -> Result<Pages> {
        let end = self.ends(See::All)?.1;
        let mut fenced = BTreeSet::new();
        for _ in 0..ROUNDS {
            let (pages, seen) = self.read(See::Committed, None)?;
            if seen >= end {
                return Ok(pages);
            }
            // somebody's transaction is open from here on
            for (id, held) in self.read(See::All, Some(seen))?.0 {
                let older = held.writer.ledger == me.ledger && held.writer.generation < me.generation;
                if older && fenced.insert(id.clone()) {
                    fence::init(config, &id, self.settings.brokers(), None)?;
                }
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::external(format!("topic '{}' cannot be read to its end: a transaction of another writer is open in it", self.topic))
            .hint("is another pipeline of the same name running? its transaction ends with it, or after its transaction.timeout.ms"))
    }

    fn consumer(&self, see: See) -> Result<Consumer> {
        let level = if see == See::All { "read_uncommitted" } else { "read_committed" };
        let config = [
            ("client.id", "orderflow-progress"),
            // nothing is ever committed to it; the client insists on one
            ("group.id", self.group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.wait.max.ms", "10"),
        ];
        let mut config = self.settings.client(&config, &[])?;
        config.set("isolation.level", level);
        config.create_with_context(Context::default()).map_err(refused_property)
    }

    fn failed(&self, consumer: &Consumer, e: &KafkaError) -> Error {
        while consumer.poll(Duration::ZERO).is_some() {} // reasons wait in the queue
        unanswered(&format!("topic '{}' could not be read", self.topic), self.settings.brokers(), consumer.context(), e)
    }

    fn ends(&self, see: See) -> Result<(u64, u64)> {
        let consumer = self.consumer(see)?;
        let (low, high) = consumer.fetch_watermarks(&self.topic, 0, ANSWER).map_err(|e| self.failed(&consumer, &e))?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)))
    }

    /// The newest record of each key from offset `from` (or the beginning) to the end, and that end.
    fn read(&self, see: See, from: Option<u64>) -> Result<(Pages, u64)> {
        let consumer = Arc::new(self.consumer(see)?);
        let (low, _) = consumer.fetch_watermarks(&self.topic, 0, ANSWER).map_err(|e| self.failed(&consumer, &e))?;
        let from = from.and_then(|f| i64::try_from(f).ok()).unwrap_or(low).max(low);
        let (wake, woken) = sync_channel(1);
        let hub = Hub::new(Waker::new(move || {
            let _ = wake.try_send(()); // one call is enough
        }));
        let signal = Signal::new(0, &hub);
        let queue = PartitionQueue::open(&consumer, &self.topic, 0, signal.clone());
        let mut queue = queue.ok_or_else(|| Error::internal(format!("librdkafka has no queue for '{}'", self.topic)))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(from)).map_err(|e| self.failed(&consumer, &e))?;
        consumer.assign(&list).map_err(|e| self.failed(&consumer, &e))?;
        let mut pages = Pages::new();
        let mut silent = 0;
        while silent < ANSWER.div_duration_f64(PAUSE) as usize {
            let _ = woken.recv_timeout(PAUSE); // a silence is counted
            signal.lower();
            let messages = queue.take(1000);
            silent = if messages.is_empty() { silent + 1 } else { 0 };
            for message in &messages {
                match message.error() {
                    Some(Code::PartitionEOF) => return Ok((pages, u64::try_from(message.offset()).unwrap_or(0))),
                    Some(code) => {
                        return Err(Error::external(format!("topic '{}' could not be read", self.topic)).why(code));
                    }
                    None => {
                        let Some(key) = message.key().map(|k| String::from_utf8_lossy(k).into_owned()) else { continue };
                        match message.value() {
                            // somebody has given the sink free by hand
                            None => drop(pages.remove(&key)),
                            Some(value) => drop(pages.insert(key, Held::parse(&self.topic, value)?)),
                        }
                    }
                }
            }
        }
        Err(self.failed(&consumer, &KafkaError::MessageConsumption(Code::OperationTimedOut)))
    }
}
