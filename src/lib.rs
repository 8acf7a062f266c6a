//! Views of Kafka streams, kept exactly up to date inside your service.
//!
//! The facade: the engine, its connectors, and the shop's own records and pipelines, of which nothing else knows.
//! Invariant: only this crate names an order, and it uses nothing of the others but their public API.
#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may do what only one room may"))]

pub mod domain;
pub mod generator;
pub mod pipelines;

pub use orderflow_core::datafusion::prelude::{col, lit};
pub use orderflow_core::*;
pub use orderflow_kafka as kafka;
pub use orderflow_sinks as sinks;

/// The examples of `docs/testing.md` are compiled and run, as those of the README are above.
#[cfg(doctest)]
#[doc = include_str!("../docs/testing.md")]
struct Testing;
