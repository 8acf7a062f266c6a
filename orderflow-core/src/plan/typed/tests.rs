//! Structs as rows: both ways, what is refused, and what closures make of them.

use super::*;
use crate::plan::Catalog;
use arrow::datatypes::TimeUnit;
use chrono::{NaiveDate, NaiveDateTime};
use rust_decimal::Decimal;
use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Paid {
    Card,
    Upi,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    order_id: i64,
    city: Option<String>,
    qty: i32,
    price: Decimal,
    discount: Option<Decimal>,
    #[serde(with = "iso")]
    at: NaiveDateTime,
    paid: Paid,
    tags: Vec<String>,
    weight: f64,
}

/// What chrono's own serde feature does.
mod iso {
    use chrono::NaiveDateTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(at: &NaiveDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&at.format("%Y-%m-%dT%H:%M:%S%.f").to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<NaiveDateTime, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl Order {
    fn amount(&self) -> Decimal {
        Decimal::from(self.qty) * self.price
    }
}

impl Record for Order {
    fn schema() -> Result<SchemaRef> {
        let text = |name| Field::new(name, DataType::Utf8, false);
        Ok(Arc::new(Schema::new(vec![
            Field::new("order_id", DataType::Int64, false),
            Field::new("city", DataType::Utf8, true),
            Field::new("qty", DataType::Int32, false),
            Field::new("price", DataType::Decimal128(18, 2), false),
            Field::new("discount", DataType::Decimal128(18, 4), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), false),
            text("paid"),
            Field::new("tags", DataType::List(Arc::new(text("item"))), false),
            Field::new("weight", DataType::Float64, false),
        ])))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tag {
    order_id: i64,
    tag: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plain {
    id: u32,
    name: Option<String>,
    paid: Paid,
    sizes: Vec<f32>,
    tag: Tag,
    ok: bool,
}

impl Record for Plain {}

impl Record for Tag {}

fn order(order_id: i64, price: &str) -> Order {
    Order {
        order_id,
        city: (order_id % 2 == 0).then(|| "São Paulo".to_string()),
        qty: 3,
        price: price.parse().unwrap(),
        discount: (order_id % 2 == 1).then(|| "-0.0625".parse().unwrap()),
        at: NaiveDate::from_ymd_opt(2021, 1, 10).unwrap().and_hms_milli_opt(10, 12, 0, order_id as u32).unwrap(),
        paid: if order_id % 2 == 0 { Paid::Card } else { Paid::Upi },
        tags: (0..order_id).map(|i| format!("t{i}")).collect(),
        weight: 0.1,
    }
}

fn orders() -> Vec<Order> {
    vec![order(0, "10.00"), order(1, "-0.01"), order(2, "9999999999999999.99"), order(3, "4000.5")]
}

/// A plan that reads orders, with a column more than the record has.
fn scan() -> LogicalPlan {
    let mut fields: Vec<FieldRef> = Order::schema().unwrap().fields().to_vec();
    fields.insert(0, Arc::new(Field::new("other", DataType::Int64, true)));
    let mut catalog = Catalog::new();
    catalog.add_source("orders", Arc::new(Schema::new(fields)), crate::source::meta::fields()).unwrap();
    catalog.source_scan("orders").unwrap()
}

#[test]
fn rows_come_back_as_they_went() {
    let batch = batch_of(&orders()).unwrap();
    assert_eq!(rows_of::<Order>(&batch).unwrap(), orders());
    assert_eq!(rows_of::<Order>(&batch_of::<Order>(&[]).unwrap()).unwrap(), []);
}

#[test]
fn columns_are_told_from_the_type() {
    let schema = Plain::schema().unwrap();
    let shown = |f: &FieldRef| format!("{} {}{}", f.name(), f.data_type(), if f.is_nullable() { "?" } else { "" });
    let shown: Vec<String> = schema.fields().iter().map(shown).collect();
    let expected = [
        "id UInt32",
        "name Utf8?",
        "paid Utf8",
        "sizes List(non-null Float32, field: 'element')",
        "tag Struct(\"order_id\": non-null Int64, \"tag\": non-null Utf8)",
        "ok Boolean",
    ];
    assert_eq!(shown, expected);
    let rows = [Some("x".to_string()), None].map(|name| Plain {
        id: 7,
        name,
        paid: Paid::Upi,
        sizes: vec![0.5, -1.0],
        tag: Tag { order_id: 1, tag: "é".into() },
        ok: true,
    });
    assert_eq!(rows_of::<Plain>(&batch_of(&rows).unwrap()).unwrap(), rows);
}

#[test]
fn what_would_be_lost_is_refused() {
    let e = batch_of(&[order(1, "1.005")]).unwrap_err().to_string();
    assert_eq!(e, "1.005 does not fit column 'price' of type Decimal128(18, 2)");
    let e = traced::<Order>().unwrap_err().to_string();
    assert!(e.starts_with("cannot tell the columns of ") && e.contains("\n  hint: implement Record::schema()"), "{e}");
    let nulls = RecordBatch::try_from_iter([
        ("order_id", Arc::new(arrow::array::Int64Array::from(vec![None])) as ArrayRef),
        ("tag", Arc::new(StringArray::from(vec!["x"]))),
    ])
    .unwrap();
    let e = rows_of::<Tag>(&nulls).unwrap_err().to_string();
    assert!(e.contains("a column that can be null needs an Option"), "{e}");
    let e = project::<Tag>(scan()).unwrap_err().to_string();
    assert!(e.contains("unknown column 'tag'"), "{e}");
}

#[test]
fn closures_filter_map_and_multiply_rows() {
    let run = |plan: &LogicalPlan| Closure::of(plan).unwrap().function()(&batch_of(&orders()).unwrap()).unwrap();
    let large = filter::<Order>(scan(), closure("over_10k", 1, |o: &Order| o.amount() > Decimal::from(10_000))).unwrap();
    let (batch, from) = run(&large);
    assert_eq!((rows_of::<Order>(&batch).unwrap(), from), (orders()[2..].to_vec(), vec![2, 3]));
    assert_eq!(large.schema().fields().len(), 9);

    let first = map(scan(), closure("first", 2, |o: &Order| Tag { order_id: o.order_id, tag: format!("{:?}", o.paid) })).unwrap();
    let (batch, from) = run(&first);
    assert_eq!(rows_of::<Tag>(&batch).unwrap()[1], Tag { order_id: 1, tag: "Upi".into() });
    assert_eq!(from, [0, 1, 2, 3]);

    let tags =
        flat_map(scan(), closure("tags", 1, |o: &Order| o.tags.iter().map(|t| Tag { order_id: o.order_id, tag: t.clone() }).collect()))
            .unwrap();
    let (batch, from) = run(&tags);
    assert_eq!((batch.num_rows(), from), (6, vec![1, 2, 2, 3, 3, 3]));
    assert_eq!(Closure::of(&tags).unwrap().name(), "tags");
}

#[test]
fn decimals_are_exact_or_refused() {
    for (text, precision, scale, expected) in [
        ("12.30", 18, 2, Some(1230)),
        ("-0.05", 18, 2, Some(-5)),
        ("7", 18, 2, Some(700)),
        ("1.500", 18, 2, Some(150)),
        ("1.505", 18, 2, None),
        ("99.99", 4, 2, Some(9999)),
        ("100", 4, 2, None),
        ("99999999999999999999999999999999999999", 38, 0, Some(10_i128.pow(38) - 1)),
        ("100000000000000000000000000000000000000", 38, 0, None),
        ("340282366920938463463374607431768211456", 38, 0, None),
        ("1e3", 18, 2, None),
        (".5", 18, 2, None),
        ("", 18, 2, None),
        ("-", 18, 2, None),
    ] {
        assert_eq!(exact(text, precision, scale), expected, "{text}");
    }
}
