//! One suite for each contract; an implementation's test hands itself in.

mod sink;

pub use sink::{SeenRow, SinkSubject, closed, context, expected, schema, sink};
