//! A producer for generators and the command line: records go out as they are given, to the partition that Kafka's Java client
//! would choose.
//!
//! Invariant: [`Producer::send`] holds at most the memory of librdkafka's queue; it waits when that is full.

use crate::admin::Admin;
use crate::client::{Settings, refused_property};
use crate::ffi::{Outgoing, ProducerClient, TopicHandle};
use crate::sink::{partition_for_key, partition_for_place};
use orderflow_core::{Error, Result};
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A record to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its key, which chooses the partition; without one, runs of records take turns.
    pub key: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
    /// Its headers, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The partition, where it is not to be chosen.
    pub partition: Option<i32>,
}

/// Somewhat less than librdkafka's queue holds.
const ROOM_RECORDS: u64 = 90_000;
const ROOM_BYTES: usize = 6 << 20;

/// An idempotent producer. Its user calls [`Producer::poll`] or [`Producer::flush`] now and then.
pub struct Producer {
    client: Arc<ProducerClient>,
    admin: Admin,
    brokers: String,
    topics: HashMap<String, (TopicHandle, i32)>,
    sent: u64,
    delivered: u64,
    outstanding_bytes: usize,
    failed: Option<Error>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("brokers", &self.brokers).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Producer {
    /// Connects to a cluster.
    ///
    /// # Errors
    /// A property that is unknown or refused, or brokers that do not answer.
    pub fn connect(settings: impl Into<Settings>) -> Result<Self> {
        let settings = settings.into();
        let defaults = [
            ("client.id", "orderflow-producer"),
            ("enable.idempotence", "true"),
            ("message.timeout.ms", "0"),
            ("queue.buffering.max.kbytes", "8192"),
            // the topic's own limit decides
            ("message.max.bytes", "16777216"),
        ];
        let client = Arc::new(ProducerClient::new(&settings.client(&defaults, &[])?).map_err(refused_property)?);
        let brokers = settings.brokers().to_owned();
        let admin = Admin::connect(settings)?;
        admin.reachable()?;
        Ok(Self { client, admin, brokers, topics: HashMap::new(), sent: 0, delivered: 0, outstanding_bytes: 0, failed: None })
    }

    /// Sends a record; waits only while the queue is full.
    ///
    /// # Errors
    /// A topic that does not exist, a record that is too large, or an earlier record that could not be delivered.
    pub fn send(&mut self, topic: &str, record: Record<'_>) -> Result<()> {
        if !self.topics.contains_key(topic) {
            let partitions = self.admin.partitions(topic)?.ok_or_else(|| {
                Error::user(format!("topic '{topic}' does not exist at {}", self.brokers)).hint("create it first (Admin::create_topic)")
            })?;
            let handle = TopicHandle::new(&self.client, topic).ok_or_else(|| {
                Error::user(format!("'{topic}' is no topic name")).hint("a name has 1 to 249 of the characters a-z A-Z 0-9 . _ -")
            })?;
            self.topics.insert(topic.to_owned(), (handle, i32::try_from(partitions).unwrap_or(i32::MAX)));
        }
        loop {
            if let Some(e) = &self.failed {
                return Err(e.clone());
            }
            let (handle, partitions) = &self.topics[topic];
            let partition = record.partition.unwrap_or_else(|| match record.key {
                Some(key) => partition_for_key(key, *partitions),
                None => partition_for_place(self.sent, *partitions),
            });
            let headers =
                (!record.headers.is_empty()).then(|| crate::ffi::Headers::with_capacity(record.headers.len())).flatten().map(|mut h| {
                    record.headers.iter().for_each(|(name, value)| h.add(name, Some(value)));
                    h
                });
            let outgoing = Outgoing { partition, key: record.key, value: record.value, timestamp: record.timestamp, headers, opaque: 0 };
            match self.client.produce(handle, outgoing) {
                Ok(()) => {
                    self.sent += 1;
                    self.outstanding_bytes += record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
                    return Ok(());
                }
                Err(Code::QueueFull) => self.serve(Duration::from_millis(100)),
                Err(code) => return Err(Error::external(format!("topic '{topic}' does not take the record")).why(code).permanent()),
            }
        }
    }

    fn serve(&mut self, wait: Duration) {
        let (delivered, outstanding, failed, brokers) = (&mut self.delivered, &mut self.outstanding_bytes, &mut self.failed, &self.brokers);
        self.client.serve(wait, &mut |d| {
            *outstanding = outstanding.saturating_sub(d.bytes);
            match d.error {
                None => *delivered += 1,
                Some(code) => {
                    failed.get_or_insert_with(|| {
                        Error::external(format!("a record could not be written at {brokers}")).why(code).permanent()
                    });
                }
            }
        });
    }

    /// Takes confirmations, waiting up to `wait` for the first.
    ///
    /// # Errors
    /// A record that could not be delivered; once in each outage of all brokers an error that is worth another try ([`Retry::Backoff`](orderflow_core::error::Retry)): what
    /// was sent is still on its way.
    pub fn poll(&mut self, wait: Duration) -> Result<()> {
        self.serve(wait);
        match &self.failed {
            Some(e) => Err(e.clone()),
            None => self.client.context().trouble(&self.brokers).map_or(Ok(()), Err),
        }
    }

    /// Waits until every record is confirmed, through outages, for about `wait` at most.
    ///
    /// # Errors
    /// As [`Producer::poll`]; records that are still unconfirmed.
    pub fn flush(&mut self, wait: Duration) -> Result<()> {
        const STEP: Duration = Duration::from_millis(50);
        for _ in 0..wait.div_duration_f64(STEP).ceil() as u64 {
            if self.outstanding() == 0 {
                break;
            }
            self.serve(STEP);
        }
        match (&self.failed, self.outstanding()) {
            (Some(e), _) => Err(e.clone()),
            (None, 0) => Ok(()),
            (None, n) => Err(Error::external(format!("{n} records are not confirmed by {} yet", self.brokers))
                .hint("they stay with the producer: flush again to wait for them")),
        }
    }

    /// Whether there is room for another record now. Without it [`Producer::send`] waits, through an outage as long as that takes; whoever must be able
    /// to stop meanwhile asks here first, and [polls](Producer::poll).
    pub fn has_room(&self) -> bool {
        self.outstanding() < ROOM_RECORDS && self.outstanding_bytes < ROOM_BYTES
    }

    /// Records sent and not confirmed.
    pub fn outstanding(&self) -> u64 {
        self.sent - self.delivered
    }

    /// Bytes sent and not confirmed.
    pub fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    /// Records confirmed.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }
}
