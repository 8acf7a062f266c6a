//! The words with which a user names Kafka: topics to read, where to start and end, and topics to write.
//!
//! Invariant: a builder only collects; everything is checked in one place, when the source is opened.

use crate::client::Settings;
use crate::sink::KafkaSink;
use orderflow_core::Result;
use orderflow_core::format::Format;
use orderflow_core::format::csv::Csv;
use orderflow_core::format::json::Json;
use orderflow_core::plan::typed::Record;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The door to Kafka.
#[derive(Clone, Copy, Debug)]
pub struct Kafka;

impl Kafka {
    /// Reads one topic.
    pub fn topic(name: impl Into<String>) -> KafkaSource {
        KafkaSource::new(Topics::Named(vec![name.into()]))
    }

    /// Reads several topics as one stream.
    pub fn topics<T: Into<String>>(names: impl IntoIterator<Item = T>) -> KafkaSource {
        KafkaSource::new(Topics::Named(names.into_iter().map(Into::into).collect()))
    }

    /// Reads every topic whose name matches a regular expression, also those that appear later: `^orders\..*`. Compacted ones are left out with a warning
    /// ([`SourceStatus::warnings`](orderflow_core::source::SourceStatus::warnings)), such as `orders.progress`, where sinks of a pipeline `orders` keep theirs.
    pub fn pattern(regex: impl Into<String>) -> KafkaSource {
        KafkaSource::new(Topics::Pattern(regex.into()))
    }

    /// Writes to the cluster at these addresses.
    pub fn sink(brokers: impl Into<String>) -> KafkaSink {
        KafkaSink::new(brokers)
    }
}

/// Where a source begins that has no position to go on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that the topic still holds.
    #[default]
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record with this timestamp (milliseconds since 1970) or a later one.
    Timestamp(i64),
    /// At these offsets by (topic, partition); partitions that are not named begin at their oldest record.
    Offsets(BTreeMap<(String, i32), u64>),
}

/// Where a bounded source ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the end of each partition as it stands when the source is opened.
    Latest,
    /// Before these offsets by (topic, partition); partitions that are not named end as with [`Until::Latest`].
    Offsets(BTreeMap<(String, i32), u64>),
}

/// Which topics are read.
#[derive(Clone, Debug)]
pub(crate) enum Topics {
    Named(Vec<String>),
    Pattern(String),
}

/// A Kafka source that has not been opened. Without a format its rows have no columns but the hidden ones.
///
/// What is fetched and not yet taken is bounded: 16 MiB over all partitions (`queued.max.messages.kbytes`, an equal share each), and of each a
/// fetch more, half its share and at most 1 MiB (`max.partition.fetch.bytes`). That is 24 MiB in all, and 96 KiB a partition where there are more
/// than 256. A response that is being taken apart comes on top, 8 MiB a broker (`fetch.max.bytes`), and so does what is larger in a single batch:
/// brokers send it whole, and it is unpacked whole. [`KafkaSource::property`] sets each of the three otherwise. What was taken counts as the
/// [pipeline's memory](orderflow_core::Pipeline::memory).
#[derive(Clone)]
pub struct KafkaSource {
    pub(crate) settings: Settings,
    pub(crate) topics: Topics,
    pub(crate) prefix: String,
    pub(crate) group: Option<String>,
    pub(crate) start: Start,
    pub(crate) until: Option<Until>,
    pub(crate) format: Option<Arc<dyn Format>>,
    pub(crate) compacted: bool,
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource")
            .field("settings", &self.settings)
            .field("topics", &self.topics)
            .field("prefix", &self.prefix)
            .field("group", &self.group)
            .field("start", &self.start)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl KafkaSource {
    fn new(topics: Topics) -> Self {
        Self {
            settings: Settings::default(),
            topics,
            prefix: String::new(),
            group: None,
            start: Start::default(),
            until: None,
            format: None,
            compacted: false,
        }
    }

    /// Addresses of some brokers: `host:port,host:port`.
    pub fn brokers(mut self, brokers: impl Into<String>) -> Self {
        self.settings.set_brokers(brokers);
        self
    }

    /// Sets a librdkafka property, as it stands in its CONFIGURATION.md.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings = self.settings.property(name, value);
        self
    }

    /// The consumer group whose offsets tell ordinary tools how far we are; the pipeline's name if not set.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Where to begin; a pipeline that goes on from an earlier run begins where that one stopped instead.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to end; a source without an end runs until it is stopped.
    pub fn until(mut self, until: Until) -> Self {
        self.until = Some(until);
        self
    }

    /// Also reads compacted topics (`cleanup.policy` with `compact`). Else one that is named is refused, and one that a pattern matches left out with a warning:
    /// of records with the same key such a topic forgets the older ones, when it comes to it. Every record that is still there becomes a row, the older ones of
    /// a key as well as the newest, and what is read again after a crash may lack some that were read before. A record without a value, which deletes its
    /// key, is a bad one unless the format takes it. Where the cluster does not tell how a topic is kept (the user may not describe it), it is read, with a
    /// warning.
    pub fn compacted(mut self) -> Self {
        self.compacted = true;
        self
    }

    /// Values are CSV lines with the fields of `T` in order. A line that is no whole `T` is refused, also for a field that no view reads;
    /// [`KafkaSource::format`] takes a [`Csv`] that looks at no other fields than those.
    ///
    /// # Errors
    /// A `T` whose columns cannot be told.
    pub fn csv<T: Record>(self) -> Result<Self> {
        Ok(self.format(Csv::new(T::schema()?).strict()))
    }

    /// Values are JSON objects with the fields of `T`. An object that is no whole `T` is refused, also for a field that no view reads;
    /// [`KafkaSource::format`] takes a [`Json`] that looks at no other fields than those.
    ///
    /// # Errors
    /// A `T` whose columns cannot be told.
    pub fn json<T: Record>(self) -> Result<Self> {
        Ok(self.format(Json::new(T::schema()?).strict()))
    }

    /// How values become rows.
    pub fn format(mut self, format: impl Format) -> Self {
        self.format = Some(Arc::new(format));
        self
    }

    /// As [`KafkaSource::format`], for a format that is shared already.
    pub fn shared_format(mut self, format: Arc<dyn Format>) -> Self {
        self.format = Some(format);
        self
    }

    /// Put before the name of every topic (and before a pattern) and of the group, also of one that the pipeline names. A pipeline that keeps state goes on
    /// with the same prefix only.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}
