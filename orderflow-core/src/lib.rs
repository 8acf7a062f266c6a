//! The engine of orderflow: plans, dataflow, epochs, formats, and the contracts of sources and sinks.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may do what only one room may"))]

pub mod data;
pub mod error;
pub mod format;
pub mod plan;
pub mod sink;
pub mod source;
pub mod time;

pub use arrow;
pub use error::{Error, Result};
