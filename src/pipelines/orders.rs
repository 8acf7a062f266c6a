//! Orders by payment type and city: every order is routed to the topics of its payment type and of its success, and counted.
//!
//! Invariant: what is routed is the record itself, byte by byte; what is counted includes successful and failed orders.

use crate::domain::order;
use orderflow_core::format::json::Json;
use orderflow_core::sink::Sink;
use orderflow_core::source::Source;
use orderflow_core::{Pipeline, Result};
use orderflow_kafka::KafkaSink;

/// Count and amount of each (city, payment type): what is written to the console and to Parquet.
pub const TOTALS: &str = "SELECT city, payment_type, count(*) AS orders, sum(qty * price) AS amount \
     FROM orders GROUP BY city, payment_type";
/// Orders by payment type and success.
pub const CATEGORIES: &str = "SELECT payment_type, payment_txn_success, count(*) AS orders \
     FROM orders GROUP BY payment_type, payment_txn_success";
/// Failed orders by payment type and reason.
pub const FAILURES: &str = "SELECT payment_type, failure_reason, count(*) AS orders \
     FROM orders WHERE payment_txn_success = 'N' GROUP BY payment_type, failure_reason";

/// An order as a JSON object: all 16 fields must fit, also those that no view reads, because the record is passed on as a whole.
pub fn json() -> Json {
    Json::new(order::schema()).strict()
}

/// Builds the pipeline `name` over a source of orders: routing to `routed`, views `totals`, `categories` and `failures`, totals to `totals`.
///
/// # Errors
/// A source or sink that does not fit, which is a bug of the caller.
pub fn pipeline(name: &str, source: impl Source, routed: KafkaSink, totals: impl IntoIterator<Item = Box<dyn Sink>>) -> Result<Pipeline> {
    let mut flow = Pipeline::new(name);
    let orders = flow.source("orders", source)?;
    orders.route(routed.topics_sql([order::PAYMENT_TOPIC_SQL, order::SUCCESS_TOPIC_SQL]))?;
    let view = flow.view("totals", TOTALS)?;
    for sink in totals {
        view.sink(sink)?;
    }
    flow.view("categories", CATEGORIES)?;
    flow.view("failures", FAILURES)?;
    Ok(flow)
}
