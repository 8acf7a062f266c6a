//! The Kafka sink: every row is written to the topics that its expressions name, by a producer that waits for nothing.
//! ```text
//!   write(epoch) ─► queue of epochs ─► produce until librdkafka is full ─► confirmations, counted ─► progress
//!                        │ a topic never seen before
//!                        └─► topics thread: look up, create ─► partitions
//! ```
//! With state that survives the process ([`SinkContext::kept`]) epochs are written in transactions, with their progress: exactly once. Without,
//! or with [`KafkaSink::at_least_once`], they are written as they come, and after a crash a row may be written again.
//!
//! Invariant: rows leave in the order given, each to the partition that [`partition_for_key`] names, and progress is the newest
//! epoch whose rows, and all before, are in the topics for good or were refused for good.

mod cells;
mod columns;
mod counters;
mod feed;
#[cfg(test)]
mod in_flight;
mod partition;
mod producers;
mod topics;
mod transaction;
mod writer;

pub use counters::Counters;
pub use partition::partition_for_key;

pub(crate) use partition::partition_for_place;

use crate::client::Settings;
use crate::embedded::EmbeddedBroker;
use columns::Route;
use orderflow_core::Result;
use orderflow_core::sink::{Column, Guarantee, Input, Opened, Progress, Sink, SinkContext};
use std::time::Duration;

/// A Kafka sink that has not been opened.
///
/// Without [`KafkaSink::value_sql`] a stream straight from a byte source keeps its values, keys, timestamps and headers byte by
/// byte, and any other view is written as JSON objects with `diff` (+1 the row appears, −1 it is withdrawn) and `epoch`.
#[derive(Clone, Debug)]
pub struct KafkaSink {
    settings: Settings,
    embedded: Option<EmbeddedBroker>,
    prefix: String,
    topics: Vec<Route>,
    key: Option<String>,
    value: Option<String>,
    headers: Option<String>,
    timestamp: Option<String>,
    partitions: i32,
    replication: i32,
    max_new_topics: usize,
    at_least_once: bool,
    lanes: usize,
    name: Option<String>,
    counters: Counters,
    #[cfg(test)]
    faults: transaction::Faults,
}

impl KafkaSink {
    pub(crate) fn new(brokers: impl Into<String>) -> Self {
        Self {
            settings: Settings::new(brokers),
            embedded: None,
            prefix: String::new(),
            topics: vec![],
            key: None,
            value: None,
            headers: None,
            timestamp: None,
            partitions: 4,
            replication: 0,
            max_new_topics: 100,
            at_least_once: false,
            lanes: 1,
            name: None,
            counters: Counters::default(),
            #[cfg(test)]
            faults: transaction::Faults::default(),
        }
    }

    /// Writes every row to this topic.
    pub fn topic(mut self, name: impl Into<String>) -> Self {
        self.topics = vec![Route::Fixed(name.into())];
        self
    }

    /// Writes each row to the topic that a SQL expression over its columns names; where that is null, nowhere.
    pub fn topic_sql(self, expression: impl Into<String>) -> Self {
        self.topics_sql([expression])
    }

    /// Writes each row to the topics that these SQL expressions name: once to each, even if two name the same.
    pub fn topics_sql<T: Into<String>>(mut self, expressions: impl IntoIterator<Item = T>) -> Self {
        self.topics = expressions.into_iter().map(|e| Route::Sql(e.into())).collect();
        self
    }

    /// The column whose text is the record's key.
    pub fn key(self, column: impl AsRef<str>) -> Self {
        self.key_sql(columns::quoted(column.as_ref()))
    }

    /// The record's key as a SQL expression; anything but text or bytes is printed as text.
    pub fn key_sql(mut self, expression: impl Into<String>) -> Self {
        self.key = Some(expression.into());
        self
    }

    /// The record's value as a SQL expression. A row that is withdrawn cannot be written this way and becomes a dead letter.
    pub fn value_sql(mut self, expression: impl Into<String>) -> Self {
        self.value = Some(expression.into());
        self
    }

    /// The record's headers as a SQL expression of the type of `_headers`.
    pub fn headers_sql(mut self, expression: impl Into<String>) -> Self {
        self.headers = Some(expression.into());
        self
    }

    /// The record's timestamp as a SQL expression: a timestamp, or milliseconds since 1970.
    pub fn timestamp_sql(mut self, expression: impl Into<String>) -> Self {
        self.timestamp = Some(expression.into());
        self
    }

    /// Number of partitions of topics that the sink creates (default 4).
    pub fn partitions(mut self, n: i32) -> Self {
        self.partitions = n.max(1);
        self
    }

    /// Replicas of topics that the sink creates (default: the cluster's own).
    pub fn replication(mut self, n: i32) -> Self {
        self.replication = n;
        self
    }

    /// How many topics may be created between a start and its end (default 100); rows for one more become dead letters.
    pub fn max_new_topics(mut self, n: usize) -> Self {
        self.max_new_topics = n;
        self
    }

    /// Writes without transactions, so that readers see rows at once and a row may be written twice after a crash. An embedded cluster, whose
    /// transactions are a pretence, is always written this way, and so is a pipeline without state.
    pub fn at_least_once(mut self) -> Self {
        self.at_least_once = true;
        self
    }

    /// Number of transactions that are written side by side (1 to 64, default 1), each by a producer of its own: what one partition holds is written by
    /// one of them, so its order is kept, and partitions of different ones become visible at different times. It may be another at every start.
    /// Without transactions it has no effect.
    pub fn lanes(mut self, n: usize) -> Self {
        self.lanes = n;
        self
    }

    /// A name by which the sink finds its progress again: wanted where a pipeline writes a view twice to the same topics. By default the topic's
    /// name, or what is computed from the expressions that name topics.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub fn compression(self, codec: impl Into<String>) -> Self {
        self.property("compression.type", codec)
    }

    /// How long a record may wait for others to share its batch (default 5 ms).
    pub fn linger(self, time: Duration) -> Self {
        self.property("linger.ms", (time.as_micros() as f64 / 1000.0).to_string())
    }

    /// The largest batch of records (default 1,000,000 bytes).
    pub fn batch_bytes(self, bytes: usize) -> Self {
        self.property("batch.size", bytes.to_string())
    }

    /// Sets a librdkafka property, as it stands in its CONFIGURATION.md. The one that bounds throughput where brokers take long to answer is
    /// `queue.buffering.max.messages`, how many records are under way at once (default 15,000; 10,000 with six lanes or more): at most so many are written in the time
    /// that one takes from here to its confirmation, which includes [`KafkaSink::linger`].
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings = self.settings.property(name, value);
        self
    }

    /// Put before the name of every topic, that of the progress included, and before every transactional id. The pipeline's own name, which is in these,
    /// goes without.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Creates missing topics through this handle: an embedded cluster has no other way.
    pub fn embedded(mut self, broker: &EmbeddedBroker) -> Self {
        self.embedded = Some(broker.clone());
        self
    }

    /// Records by topic, counted as brokers confirm them or, with transactions, as these are committed; the handle may be kept.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

/// The span of a thread of the sink's own.
fn span(context: &SinkContext, part: &str) -> tracing::Span {
    tracing::info_span!("orderflow_kafka", pipeline = %context.pipeline, sink = %format_args!("kafka of {}", context.view), part = %part)
}

impl Sink for KafkaSink {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.wanted_columns(&input.schema)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        if kept && !self.at_least_once && self.embedded.is_none() { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce }
    }

    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        match self.guarantee(context.kept) {
            Guarantee::ExactlyOnce => transaction::look(self, context),
            Guarantee::AtLeastOnce => Ok(None),
        }
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        match self.guarantee(context.kept) {
            Guarantee::ExactlyOnce => transaction::open(&self, &context),
            Guarantee::AtLeastOnce => Ok(Opened { writer: Box::new(writer::KafkaWriter::open(&self, &context)?), progress: None }),
        }
    }
}
