//! The engine of orderflow: plans, dataflow, epochs, formats, and the contracts of sources and sinks.
//!
//! It begins with a [`Pipeline`], which has an example; [`source::Source`] and [`sink::Sink`] are what a connector implements. It knows no broker and
//! no command line: Kafka is in `orderflow-kafka`, the console, files and tables in `orderflow-sinks`, and `orderflow` hands out all of it.
//!
//! Invariant: a room imports only rooms above it, in the order of `ARCHITECTURE.md`.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may do what only one room may"))]

pub mod admin;
#[cfg_attr(not(any(test, feature = "testing")), doc(hidden))]
pub mod bug;
pub mod data;
pub mod dataflow;
pub mod egress;
pub mod epoch;
pub mod error;
pub mod format;
pub mod ingest;
pub mod operator;
pub mod pipeline;
pub mod plan;
mod runtime;
pub mod sink;
pub mod source;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;

pub use arrow;
pub use datafusion;
pub use error::{Error, Result};
pub use pipeline::{OnChange, Pipeline, Running};
pub use runtime::{Health, Lag, OperatorReport, Phase, SinkStatus, SourceReport, Status};
pub use timely;
