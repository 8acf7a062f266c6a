//! Planning from end to end: names, hidden columns, refusals, places of errors, what reaches the scan.

use super::*;
use crate::source::meta;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::logical_expr::LogicalPlan;
use std::sync::Arc;

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let orders = Schema::new(vec![
        Field::new("order_id", DataType::Int64, false),
        Field::new("payment_type", DataType::Utf8, true),
        Field::new("qty", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(18, 2), true),
        Field::new("weight", DataType::Float64, true),
        Field::new("datetime", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("city", DataType::Utf8, true),
    ]);
    catalog.add_source("orders", Arc::new(orders), meta::fields()).unwrap();
    let totals = Schema::new(vec![Field::new("city", DataType::Utf8, true), Field::new("amount", DataType::Decimal128(38, 2), true)]);
    catalog.add_view("totals", Arc::new(totals)).unwrap();
    catalog
}

fn names(plan: &LogicalPlan) -> String {
    plan.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(" ")
}

fn columns(text: &str) -> String {
    names(&catalog().sql(text).unwrap())
}

const VISIBLE: &str = "order_id payment_type qty price weight datetime city";

#[test]
fn a_star_hides_the_hidden_columns_wherever_the_source_itself_stands() {
    for text in [
        "SELECT * FROM orders",
        "select * from ORDERS",
        "SELECT o.* FROM orders AS o",
        "SELECT orders.* FROM orders",
        "SELECT * FROM \"orders\" o WHERE o._offset > 5",
        "SELECT DISTINCT * FROM orders",
        "SELECT * FROM (SELECT * FROM orders)",
        "SELECT * FROM (SELECT * FROM orders WHERE _partition = 0) t",
        "WITH o AS (SELECT * FROM orders) SELECT * FROM o",
        "WITH orders AS (SELECT * FROM orders) SELECT * FROM orders",
        "WITH a AS (SELECT * FROM orders), b AS (SELECT * FROM a) SELECT b.* FROM b",
        "SELECT * FROM orders UNION ALL SELECT * FROM orders",
        "(SELECT * FROM orders)",
        "FROM orders",
    ] {
        assert_eq!(columns(text), VISIBLE, "{text}");
    }
}
