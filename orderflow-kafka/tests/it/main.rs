//! The Kafka source and sink against the embedded cluster, and, where `ORDERFLOW_KAFKA=host:port` is set, against a real one.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "tests may do what only one room may")]

mod lanes;
mod planted;
mod real;
mod sink;
mod source;
mod spans;
mod support;
mod transactions;
