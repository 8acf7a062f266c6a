//! Kafka for orderflow: a source, a sink, a broker inside the process for tests and first steps, and the few administrative
//! calls that pipelines and the command line need.
//!
//! Invariant: positions, partitions and progress are ours; librdkafka only carries bytes. It never commits, resets or
//! chooses a partition by itself.
//!
//! ```no_run
//! use orderflow_kafka::{Kafka, Start, Until};
//! let orders = Kafka::topic("orders").brokers("localhost:9092").start(Start::Earliest).until(Until::Latest);
//! let routed = Kafka::sink("localhost:9092").topic_sql("'orders.' || lower(payment_type)");
//! ```
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may do what only one room may"))]

mod admin;
mod client;
mod config;
mod embedded;
mod ffi;
mod producer;
mod sink;
mod source;

pub use admin::{Admin, GroupLag, TopicInfo, Watermarks};
pub use client::Settings;
pub use config::{Kafka, KafkaSource, Start, Until};
pub use embedded::EmbeddedBroker;
pub use producer::{Producer, Record};
pub use sink::{Counters, KafkaSink, partition_for_key};
