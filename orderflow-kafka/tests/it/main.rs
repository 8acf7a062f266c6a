//! The Kafka source and sink against the embedded cluster, and, where `ORDERFLOW_KAFKA=host:port` is set, against a real one.

mod real;
mod sink;
mod source;
mod support;
