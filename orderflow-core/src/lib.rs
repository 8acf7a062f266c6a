//! The engine of orderflow: plans, dataflow, epochs, formats, and the contracts of sources and sinks.

pub mod data;
pub mod dataflow;
pub mod error;
pub mod format;
pub mod plan;
pub mod sink;
pub mod source;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;

pub use arrow;
pub use error::{Error, Result};
