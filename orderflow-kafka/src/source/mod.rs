//! The Kafka source: partitions are assigned by hand, read in batches that stay where the network put them, and acknowledged
//! to a consumer group only so that ordinary tools see the lag.
//! ```text
//!   librdkafka's threads        engine's thread                         watch thread
//!   fetch ─► queue a partition ─► poll: the one furthest behind ─► Fetch
//!              └─ signal ─► wake                                     new partitions, deleted topics,
//!   commit ◄── acknowledge ◄───────────────────────────────────────  the group's members and offsets
//! ```
//! Invariant: a position only moves forward, over records that were handed out or that the broker says do not exist. What is
//! missing below the log's start is an error that names the range; nothing is ever reset in silence.

mod batch;
mod group;
mod open;
mod policy;
mod reader;
mod ready;
mod watch;

pub(crate) use ready::{Hub, Signal};

use crate::config::KafkaSource;
use orderflow_core::Result;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::format::Format;
use orderflow_core::format::raw::Raw;
use orderflow_core::source::{Reader, Source, SourceContext};
use std::sync::Arc;

impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        self.format.as_ref().map_or_else(|| Raw.schema(), |f| f.schema())
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(self.format.clone().unwrap_or_else(|| Arc::new(Raw)))
    }

    /// The prefix alone: topics may be added, brokers may move, and what is gone is found out when the source is opened.
    fn identity(&self) -> Option<String> {
        let prefix = &self.prefix;
        Some(if prefix.is_empty() { "Kafka topics without a prefix".into() } else { format!("Kafka topics with the prefix '{prefix}'") })
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        Ok(Box::new(open::open(*self, context)?))
    }
}
