//! Planning from end to end: names, hidden columns, refusals, places of errors, what reaches the scan.

use super::*;
use crate::error::Result;
use crate::source::meta;
pub(super) use crate::testing::tier;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use std::sync::Arc;

mod refused;

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

fn planned(text: &str) -> String {
    let c = catalog();
    let plan = c.sql(text).unwrap();
    c.check(&plan).unwrap();
    c.optimise(plan).unwrap().display_indent().to_string()
}

fn refused(text: &str) -> String {
    let c = catalog();
    match c.sql(text).and_then(|plan| c.check(&plan).map(|()| plan)) {
        Ok(plan) => panic!("not refused: {text}\n{}", plan.display_indent()),
        Err(e) => e.to_string(),
    }
}

#[test]
fn hidden_columns_can_be_named_and_then_are_ordinary() {
    for (text, expected) in [
        ("SELECT _offset, * FROM orders", format!("_offset {VISIBLE}")),
        ("SELECT * FROM (SELECT _offset, city FROM orders) t", "_offset city".into()),
        ("WITH t AS (SELECT _value, city FROM orders) SELECT t.* FROM t", "_value city".into()),
        ("WITH orders AS (SELECT _offset, city FROM orders) SELECT * FROM orders", "_offset city".into()),
        ("SELECT * EXCLUDE (weight, datetime) FROM orders", "order_id payment_type qty price city".into()),
        ("SELECT * EXCLUDE (_offset, city) FROM orders", "order_id payment_type qty price weight datetime".into()),
        ("SELECT * EXCEPT (_value, city, weight) FROM orders", "order_id payment_type qty price datetime".into()),
        ("SELECT * REPLACE (upper(city) AS city) FROM orders", VISIBLE.into()),
        ("SELECT a.*, t.* FROM orders a, totals t", format!("{VISIBLE} city amount")),
        ("SELECT * FROM orders a JOIN orders b ON a.order_id = b.order_id", format!("{VISIBLE} {VISIBLE}")),
        ("SELECT * FROM totals", "city amount".into()),
    ] {
        assert_eq!(columns(text), expected, "{text}");
    }
}

#[test]
fn a_fluent_stream_loses_its_hidden_columns_when_it_becomes_a_view() {
    let c = catalog();
    let scan = c.source_scan("orders").unwrap();
    assert_eq!(scan.schema().fields().len(), 14);
    let filter = c.expr("_partition = 0 AND qty > 2", &scan).unwrap();
    let filtered = LogicalPlanBuilder::from(scan.clone()).filter(filter).unwrap().build().unwrap();
    assert_eq!(names(&visible(filtered.clone()).unwrap()), VISIBLE);
    let both = LogicalPlanBuilder::from(filtered).union(scan.clone()).unwrap().build().unwrap();
    assert_eq!(names(&visible(both).unwrap()), VISIBLE);
    let asked = LogicalPlanBuilder::from(scan).project([c.expr("_offset", &c.source_scan("orders").unwrap()).unwrap()]).unwrap();
    assert_eq!(names(&visible(asked.build().unwrap()).unwrap()), "_offset");
}

#[test]
fn fluent_calls_and_sql_give_the_same_optimised_plan() {
    let c = catalog();
    let scan = c.source_scan("orders").unwrap();
    let failed = c.expr("city = 'Mumbai' AND price > 10.5", &scan).unwrap();
    let fluent = visible(LogicalPlanBuilder::from(scan).filter(failed).unwrap().build().unwrap()).unwrap();
    let sql = c.sql("SELECT * FROM orders WHERE city = 'Mumbai' AND price > 10.5").unwrap();
    assert_eq!(c.optimise(fluent).unwrap(), c.optimise(sql).unwrap());
}

#[test]
fn the_projection_reaches_the_scan_and_the_filter_stands_right_above_it() {
    for (text, expected) in PLANS {
        assert_eq!(&planned(text), expected, "{text}");
    }
}

const PLANS: &[(&str, &str)] = &[
    (
        "SELECT city, payment_type, count(*) AS orders, sum(qty * price) AS amount FROM orders WHERE price > 10.5 GROUP BY city, payment_type",
        "Projection: orders.city, orders.payment_type, count(Int64(1)) AS count(*) AS orders, sum(orders.qty * orders.price) AS amount
  Aggregate: groupBy=[[orders.city, orders.payment_type]], aggr=[[count(Int64(1)), sum(CAST(orders.qty AS Decimal128(20, 0)) * orders.price)]]
    Filter: orders.price > Decimal128(10.50,18,2)
      TableScan: orders projection=[payment_type, qty, price, city]",
    ),
    (
        "SELECT a, n FROM (SELECT city AS a, count(*) AS n FROM orders WHERE qty > 1 + 1 GROUP BY city) WHERE a = 'Pune'",
        "Projection: orders.city AS a, count(Int64(1)) AS n
  Aggregate: groupBy=[[orders.city]], aggr=[[count(Int64(1))]]
    Projection: orders.city
      Filter: orders.qty > Int64(2) AND orders.city = Utf8(\"Pune\")
        TableScan: orders projection=[qty, city]",
    ),
    ("SELECT count(*) AS n FROM orders", "Projection: count(Int64(1)) AS count(*) AS n\n  Aggregate: groupBy=[[]], aggr=[[count(Int64(1))]]\n    TableScan: orders projection=[]"),
    ("SELECT DISTINCT city FROM orders", "Distinct:\n  TableScan: orders projection=[city]"),
    // what DataFusion would make an empty relation or two aggregates stays what it is
    ("SELECT city FROM orders WHERE 1 = 2", "Filter: Boolean(false)\n  TableScan: orders projection=[city]"),
    ("SELECT city FROM orders WHERE 1 = 1", "TableScan: orders projection=[city]"),
    (
        "SELECT count(DISTINCT city) FROM orders",
        "Aggregate: groupBy=[[]], aggr=[[count(DISTINCT orders.city)]]\n  TableScan: orders projection=[city]",
    ),
    (
        "SELECT city FROM orders UNION SELECT city FROM totals UNION ALL SELECT payment_type FROM orders",
        "Union
  Distinct:
    Union
      TableScan: orders projection=[city]
      TableScan: totals projection=[city]
  Projection: orders.payment_type AS city
    TableScan: orders projection=[payment_type]",
    ),
    // money stays decimal beside a number with a point, a float stays a float
    (
        "SELECT price * 1.18 AS gross FROM orders WHERE weight BETWEEN 0.5 AND 1.5 OR weight IN (-2.5, 7)",
        "Projection: orders.price * Decimal128(1.18,3,2) AS gross
  Filter: orders.weight >= Float64(0.5) AND orders.weight <= Float64(1.5) OR orders.weight = Float64(-2.5) OR orders.weight = Float64(7)
    TableScan: orders projection=[price, weight]",
    ),
    ("SELECT coalesce(weight, 0.0) AS w FROM orders", "Projection: CASE WHEN orders.weight IS NOT NULL THEN orders.weight ELSE Float64(0) END AS w\n  TableScan: orders projection=[weight]"),
];

#[test]
fn errors_point_at_their_place() {
    let c = catalog();
    for (text, expected) in [
        (
            "SELECT citty FROM orders",
            "unknown column 'citty' at line 1, column 8
  1 | SELECT citty FROM orders
    |        ^^^^^
  hint: did you mean 'city'?",
        ),
        (
            "SELECT order_id,\n\tcount(*) FROM orders\n\tGROUP BY citi, order_id",
            "unknown column 'citi' at line 3, column 11
  3 | \tGROUP BY citi, order_id
    | \t         ^^^^
  hint: did you mean 'city'?",
        ),
        (
            "SELECT 'é', o.citty FROM orders o",
            "unknown column 'citty' of 'o' at line 1, column 13
  1 | SELECT 'é', o.citty FROM orders o
    |             ^^^^^^^
  hint: did you mean 'city'?",
        ),
        (
            "SELECT city FROM orders WHERE something > 3",
            "unknown column 'something' at line 1, column 31
  1 | SELECT city FROM orders WHERE something > 3
    |                               ^^^^^^^^^
  hint: there are: order_id, payment_type, qty, price, weight, datetime, city",
        ),
        (
            "SELECT city FROM orders GROUP BY city HAVING sum(qtyy) > 3",
            "unknown column 'qtyy' at line 1, column 50
  1 | SELECT city FROM orders GROUP BY city HAVING sum(qtyy) > 3
    |                                                  ^^^^
  hint: did you mean 'qty'?",
        ),
        (
            "SELECT _ofset FROM orders",
            "unknown column '_ofset' at line 1, column 8
  1 | SELECT _ofset FROM orders
    |        ^^^^^^
  hint: did you mean '_offset'?",
        ),
        (
            "SELECT city FROM ordrs",
            "unknown table 'ordrs' at line 1, column 18
  1 | SELECT city FROM ordrs
    |                  ^^^^^
  hint: did you mean 'orders'?",
        ),
        (
            "SELECT slgu(city) FROM orders",
            "unknown function 'slgu' at line 1, column 8
  1 | SELECT slgu(city) FROM orders
    |        ^^^^
  hint: did you mean 'slug'?",
        ),
        (
            "SELECT sum(city) FROM orders",
            "no function sum(Utf8) at line 1, column 8
  1 | SELECT sum(city) FROM orders
    |        ^^^
  hint: there are: sum(Decimal), sum(UInt64), sum(Int64), sum(Float64), sum(Duration), sum(Interval)",
        ),
        (
            "SELECT city, count(*) FROM orders",
            "'orders.city' is neither in GROUP BY nor inside an aggregate at line 1, column 8
  1 | SELECT city, count(*) FROM orders
    |        ^^^^
  hint: add it to GROUP BY, or take min or max of it",
        ),
        (
            "SELECT city, city FROM orders",
            "two columns are called 'city' at line 1, column 8
  1 | SELECT city, city FROM orders
    |        ^^^^
  hint: give one of them another name: … AS city_2",
        ),
        (
            "SELECT city FORM orders",
            "SQL syntax: expected: end of statement, found: orders at line 1, column 18
  1 | SELECT city FORM orders
    |                  ^",
        ),
        (
            "SELECT 'abc FROM orders",
            "SQL syntax: unterminated string literal at line 1, column 8
  1 | SELECT 'abc FROM orders
    |        ^",
        ),
        (
            "SELECT city FROM orders WHERE",
            "SQL syntax: expected: an expression, found: EOF at line 1, column 30
  1 | SELECT city FROM orders WHERE
    |                              ^",
        ),
    ] {
        assert_eq!(c.sql(text).unwrap_err().to_string(), expected, "{text}");
    }
    let scan = c.source_scan("orders").unwrap();
    assert_eq!(
        c.expr("qty * pryce", &scan).unwrap_err().to_string(),
        "unknown column 'pryce' at line 1, column 7
  1 | qty * pryce
    |       ^^^^^
  hint: did you mean 'price'?"
    );
    assert!(c.expr("qty *", &scan).unwrap_err().to_string().starts_with("SQL syntax: "));
    assert!(c.expr("qty qty2 qty3", &scan).is_err());
    assert_eq!(c.expr("'orders.' || slug(payment_type) AS topic", &scan).unwrap().schema_name().to_string(), "topic");
}

#[test]
fn names_are_taken_once() {
    let mut c = catalog();
    let slug = c.functions().next().unwrap().clone();
    let schema: arrow::datatypes::SchemaRef = Arc::new(Schema::new(vec![Field::new("_offset", DataType::Int64, false)]));
    for e in [
        c.add_source("orders", schema.clone(), vec![]).unwrap_err(),
        c.add_view("orders", schema.clone()).unwrap_err(),
        c.add_source("x", schema.clone(), meta::fields()).unwrap_err(),
        c.add_view("", schema).unwrap_err(),
        c.source_scan("totals").unwrap_err(),
        c.view_scan("totls").unwrap_err(),
        c.add_function(slug).unwrap_err(),
        Function::new(1, datafusion::functions::math::random().as_ref().clone()).unwrap_err(),
    ] {
        assert_eq!(e.kind(), crate::error::Kind::User, "{e}");
    }
    assert_eq!(c.functions().map(Function::name).collect::<Vec<_>>(), ["slug"]);
}

/// Values of `expr` over orders with these quantities.
fn evaluate(expr: &str, qty: &[i64]) -> Result<ArrayRef, String> {
    let mut c = Catalog::new();
    let schema = Arc::new(Schema::new(vec![Field::new("qty", DataType::Int64, true)]));
    c.add_source("orders", schema.clone(), vec![]).unwrap();
    let scan = c.source_scan("orders").unwrap();
    let physical = c.physical(&c.expr(expr, &scan).unwrap(), scan.schema()).unwrap();
    let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(qty.to_vec()))]).unwrap();
    physical.evaluate(&batch).and_then(|v| v.into_array(batch.num_rows())).map_err(|e| e.to_string())
}

#[test]
fn arithmetic_fails_and_never_wraps() {
    for expr in [
        "qty + 1",
        "1 + qty",
        "qty * 2",
        "-2 - qty",
        "-(-qty - 1)",
        "CASE WHEN qty > 0 THEN qty + 1 ELSE 0 END",
        "abs(qty + 1)",
        "CAST(qty AS INT)",
        "CAST(qty AS DECIMAL(5, 2))",
        "qty / 0",
    ] {
        assert!(evaluate(expr, &[1, i64::MAX]).is_err(), "{expr}: {:?}", evaluate(expr, &[1, i64::MAX]));
    }
    for expr in ["-qty", "qty - 1", "0 - qty", "qty * -1", "abs(qty)"] {
        assert!(evaluate(expr, &[1, i64::MIN]).is_err(), "{expr}: {:?}", evaluate(expr, &[1, i64::MIN]));
    }
    assert_eq!(evaluate("-(qty * 2 + 1) - 3", &[1, -4]).unwrap().as_ref(), &Int64Array::from(vec![-6, 4]));
    let c = catalog();
    for text in ["SELECT 9223372036854775807 + 1 AS x FROM orders", "SELECT qty FROM orders WHERE qty > -(-9223372036854775807 - 1)"] {
        let e = c.optimise(c.sql(text).unwrap()).unwrap_err().to_string();
        assert!(e.starts_with("the constant ") && e.contains("verflow"), "{e}");
    }
}

#[test]
fn an_average_of_integers_stays_exact() {
    let c = catalog();
    let plan = c
        .optimise(c.sql("SELECT avg(qty), count(*), count(order_id), count(city), sum(qty) FILTER (WHERE qty > 2) FROM orders").unwrap())
        .unwrap();
    let LogicalPlan::Aggregate(aggregate) = (if let LogicalPlan::Projection(p) = &plan { p.input.as_ref() } else { &plan }) else {
        panic!("{plan}")
    };
    let calls: Vec<AggregateCall> = aggregate.aggr_expr.iter().map(|e| AggregateCall::read(e, aggregate.input.schema()).unwrap()).collect();
    let shown: Vec<String> = (calls.iter())
        .map(|c| {
            format!(
                "{:?} {:?} {:?} {}",
                c.aggregator,
                c.argument.as_ref().map(ToString::to_string),
                c.filter.is_some(),
                c.result.data_type()
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Avg Some(\"orders.qty\") false Float64",
            "Count None false Int64",
            "Count None false Int64",
            "Count Some(\"orders.city\") false Int64",
            "Sum Some(\"orders.qty\") true Int64"
        ]
    );
}

#[test]
fn nothing_moves_through_a_node_of_ours() {
    let c = catalog();
    let input = c.sql("SELECT city, qty FROM orders WHERE qty > 1 + 1").unwrap();
    let schema = schema(&input).unwrap();
    let same: BatchFn = Arc::new(|batch| Ok((batch.clone(), (0..batch.num_rows() as u32).collect())));
    let closure = Closure::plan("same", 3, &schema, input, same.clone()).unwrap();
    let custom = Custom::plan("mine", 1, &schema, closure, Arc::new(42_u8)).unwrap();
    let never = LogicalPlanBuilder::from(custom).filter(datafusion::prelude::lit(false)).unwrap();
    let city = c.expr("city", never.plan()).unwrap();
    let plan = never
        .filter(datafusion::prelude::col("qty").gt(datafusion::prelude::lit(9_i64)))
        .unwrap()
        .project([city])
        .unwrap()
        .build()
        .unwrap();
    c.check(&plan).unwrap();
    let plan = c.optimise(plan).unwrap();
    assert_eq!(
        plan.display_indent().to_string(),
        "Filter: Boolean(false)
  Projection: city
    Custom: mine v1
      Closure: same v3
        Projection: orders.city, orders.qty
          Filter: orders.qty > Int64(2)
            TableScan: orders projection=[qty, city]"
    );
    let custom = Custom::of(plan.inputs()[0].inputs()[0]).unwrap();
    assert_eq!(custom.payload().downcast_ref::<u8>(), Some(&42));
    let closure = Closure::of(custom.input()).unwrap();
    assert!(Arc::ptr_eq(closure.function(), &same) && (closure.name(), closure.version()) == ("same", 3));
}
