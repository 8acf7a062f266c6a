//! Orders by payment type and city: every order is routed to the topics of its payment type and of its success, and counted.
//!
//! Invariant: what is routed is the record itself, byte by byte; what is counted includes successful and failed orders.

use crate::domain::order;
use crate::generator::Orders;
use orderflow_core::format::json::Json;
use orderflow_core::format::raw::Raw;
use orderflow_core::sink::Sink;
use orderflow_core::source::Source;
use orderflow_core::{Pipeline, Result};
use orderflow_kafka::KafkaSink;
use std::sync::Arc;

/// The topics of an order, as SQL over its columns: that of its payment type, and that of its success.
pub const ROUTES: [&str; 2] = [order::PAYMENT_TOPIC_SQL, order::SUCCESS_TOPIC_SQL];
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

/// Builds the pipeline `name` that makes the orders of `recipe` and writes them to `to`, which knows its topic: with state no order is produced twice, whatever
/// stops it. Keys are the orders' numbers; records are stamped when they are sent, for a topic forgets what is stamped with the time of an old order.
///
/// # Errors
/// A sink that does not fit, which is a bug of the caller.
pub fn producer(name: &str, recipe: &Orders, to: KafkaSink) -> Result<Pipeline> {
    let mut flow = Pipeline::new(name);
    let orders = flow.source("generator", recipe.clone().source(Arc::new(Raw)))?;
    orders.route(to.key_sql("CAST(_offset AS VARCHAR)").timestamp_sql("CAST(NULL AS BIGINT)"))?;
    Ok(flow)
}

/// Builds the pipeline `name` over a source of orders: routing to `routed`, which asks for [`ROUTES`] itself (a Kafka sink by
/// [`topics_sql`](KafkaSink::topics_sql)); views `totals`, `categories` and `failures`; totals to `totals`.
///
/// # Errors
/// A source or sink that does not fit, which is a bug of the caller.
pub fn pipeline(name: &str, source: impl Source, routed: impl Sink, totals: impl IntoIterator<Item = Box<dyn Sink>>) -> Result<Pipeline> {
    let mut flow = Pipeline::new(name);
    let orders = flow.source("orders", source)?;
    orders.route(routed)?;
    let view = flow.view("totals", TOTALS)?;
    for sink in totals {
        view.sink(sink)?;
    }
    flow.view("categories", CATEGORIES)?;
    flow.view("failures", FAILURES)?;
    Ok(flow)
}
