//! The order as the contract has it: its sample lines, its columns, and its topics in Rust and in SQL.

use datafusion::arrow::array::RecordBatch;
use datafusion::common::cast::as_string_array;
use datafusion::prelude::SessionContext;
use orderflow::domain::order::{self, Order};
use orderflow::generator::{Orders, Share};

const CSV: &str = include_str!("../data/orders.csv");
const JSON: &str = include_str!("../data/orders.jsonl");

fn from_json() -> Vec<Order> {
    JSON.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_sample_lines_are_the_same_orders_in_csv_and_in_json() {
    let fields: csv::StringRecord = order::schema().fields().iter().map(|f| f.name().as_str()).collect();
    let rows = csv::ReaderBuilder::new().has_headers(false).from_reader(CSV.as_bytes()).into_records();
    let from_csv: Vec<Order> = rows.map(|row| row.unwrap().deserialize(Some(&fields)).unwrap()).collect();
    assert_eq!(from_csv.len(), 5);
    assert_eq!(from_csv, from_json());
    let seen: Vec<_> =
        from_csv.iter().map(|o| (o.payment_topic(), o.success_topic(), o.amount().to_string(), o.failure_reason.as_deref())).collect();
    let expected = [
        ("orders.card", "orders.successful", "240", None),
        ("orders.internet-banking", "orders.successful", "180", None),
        ("orders.upi", "orders.successful", "4999", None),
        ("orders.wallet", "orders.failed", "59999", Some("Invalid CVV.")),
        ("orders.card", "orders.successful", "259", None),
    ];
    assert_eq!(seen, expected.map(|(topic, success, amount, reason)| (topic.into(), success, amount.into(), reason)));
    assert_eq!(from_csv[0].datetime.to_string(), "2021-01-10 10:12:00");
}

/// Orders as a batch with the columns of the schema, by way of serde.
fn batch(orders: &[Order]) -> RecordBatch {
    serde_arrow::to_record_batch(order::schema().fields(), &orders).unwrap()
}

#[test]
fn orders_pass_through_arrow_unchanged() {
    let share = |s| Share::new(s).unwrap();
    let made = Orders::new(1).unseen_types(share(0.5)).late(share(0.5));
    let orders: Vec<_> = from_json().into_iter().chain((0..500).map(|i| made.order(i))).collect();
    let batch = batch(&orders);
    assert_eq!(batch.schema(), order::schema());
    let back: Vec<Order> = serde_arrow::from_record_batch(&batch).unwrap();
    assert_eq!(back, orders);
}

#[tokio::test]
async fn the_sql_of_the_topic_rules_says_what_the_functions_say() {
    let types = [
        "",
        "Card",
        "Google PAY",
        "successful",
        " FAILED ",
        "現金",
        "Crédit",
        "failed payment",
        "--",
        "type-failed",
        "\u{212A}",
        "İyzico",
        "a'b",
    ];
    let template = from_json().remove(3);
    let orders: Vec<_> = types
        .iter()
        .flat_map(|t| ["Y", "N", "y", ""].map(|s| Order { payment_type: (*t).into(), payment_txn_success: s.into(), ..template.clone() }))
        .collect();
    let context = SessionContext::new();
    // the engine's own functions, not those that are compared
    orderflow::plan::Catalog::new().functions().for_each(|function| context.register_udf(function.udf().as_ref().clone()));
    context.register_batch("orders", batch(&orders)).unwrap();
    let sql = format!(
        "SELECT {} AS payment_topic, {} AS success_topic, arrow_cast(cast({} AS decimal(38, 0)), 'Utf8') AS amount FROM orders",
        order::PAYMENT_TOPIC_SQL,
        order::SUCCESS_TOPIC_SQL,
        order::AMOUNT_SQL
    );
    let mut said = Vec::new();
    for batch in context.sql(&sql).await.unwrap().collect().await.unwrap() {
        let column = |i: usize| as_string_array(batch.column(i)).unwrap().iter().map(|v| v.unwrap().to_string()).collect::<Vec<_>>();
        said.extend(column(0).into_iter().zip(column(1)).zip(column(2)));
    }
    let expected: Vec<_> = orders.iter().map(|o| ((o.payment_topic(), o.success_topic().to_string()), o.amount().to_string())).collect();
    assert_eq!(said, expected);
}
