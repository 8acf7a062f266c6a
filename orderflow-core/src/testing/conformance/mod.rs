//! One suite for each contract; an implementation's test hands itself in.

mod sink;
mod source;

pub use sink::{Fault, SeenRow, SinkReport, SinkSubject, closed, context, expected, schema, sink};
pub use source::{SeenRecord, source};
