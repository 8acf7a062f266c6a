//! The sample lines, every way a line can be wrong, and the csv crate of Arrow as the judge of what is well formed.

use super::*;
use crate::testing::tier;
use arrow::array::{Array, AsArray};
use arrow::datatypes::*;
use proptest::prelude::*;

const SAMPLE: &str = "\
1,101,John Smith,201,Pen,Stationery,Card,24,10,2021-01-10 10:12,India,Mumbai,www.amazon.com,36766,Y,
2,102,Mary Jane,202,Pencil,Stationery,Internet Banking,36,5,2021-10-31 13:45,USA,Boston,www.flipkart.com,37167,Y,
3,103,Joe Smith,203,Some mobile,Electronics,UPI,1,4999,2021-04-23 11:32,UK,Oxford,www.tatacliq.com,90383,Y,
4,104,Neo,204,Some laptop,Electronics,Wallet,1,59999,2021-06-13 15:20,India,Indore,www.amazon.in,12224,N,Invalid CVV.
5,105,Trinity,205,Some book,Books,Card,1,259,2021-08-26 19:54,India,Bengaluru,www.ebay.in,99958,Y,";

fn order() -> SchemaRef {
    let int = |name| Field::new(name, DataType::Int64, false);
    let text = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        int("order_id"),
        int("customer_id"),
        text("customer_name"),
        int("product_id"),
        text("product_name"),
        text("product_category"),
        text("payment_type"),
        int("qty"),
        Field::new("price", DataType::Decimal128(18, 2), false),
        Field::new("datetime", DataType::Timestamp(TimeUnit::Second, None), false),
        text("country"),
        text("city"),
        text("ecommerce_website_name"),
        text("payment_txn_id"),
        text("payment_txn_success"),
        Field::new("failure_reason", DataType::Utf8, true),
    ]))
}

fn two() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
}

#[test]
fn the_sample_lines_are_orders() {
    let mut decoder = Csv::new(order()).decoder(&(0..16).collect::<Vec<_>>()).unwrap();
    SAMPLE.lines().for_each(|line| decoder.push(line.as_bytes()).unwrap());
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.schema(), order());
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3, 4, 5]);
    assert_eq!(batch.column(8).as_primitive::<Decimal128Type>().values(), &[1000, 500, 499_900, 5_999_900, 25_900]);
    assert_eq!(batch.column(9).as_primitive::<TimestampSecondType>().value(0), 1_610_273_520);
    assert_eq!(batch.column(15).as_string::<i32>().iter().collect::<Vec<_>>(), [None, None, None, Some("Invalid CVV."), None]);
}

#[test]
fn unwanted_fields_are_parsed_only_if_strict() {
    let line = SAMPLE.lines().next().unwrap().replace("24", "many");
    let mut loose = Csv::new(order()).decoder(&[6, 8]).unwrap();
    loose.push(line.as_bytes()).unwrap();
    assert_eq!(loose.finish().unwrap().schema(), Arc::new(order().project(&[6, 8]).unwrap()));
    let mut strict = Csv::new(order()).strict().decoder(&[6, 8]).unwrap();
    assert_eq!(strict.push(line.as_bytes()).unwrap_err(), "field 'qty': expected a whole number (Int64), found many");
    assert_eq!(strict.finish().unwrap().num_columns(), 2);
}

#[test]
fn empty_and_quoted_empty_differ_for_text_only() {
    let mut decoder = Csv::new(two()).decoder(&[0, 1]).unwrap();
    for line in ["1,", "2,\"\"", ",\"a \"\"b\"\", c\"\r\n", "\"\",\"x\ny\"", "+007,ends with \"quote\""] {
        decoder.push(line.as_bytes()).unwrap();
    }
    let batch = decoder.finish().unwrap();
    let text = batch.column(1).as_string::<i32>();
    assert_eq!(text.iter().collect::<Vec<_>>(), [None, Some(""), Some("a \"b\", c"), Some("x\ny"), Some("ends with \"quote\"")]);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), Some(2), None, None, Some(7)]);
}

#[test]
fn a_bad_line_says_why_and_leaves_no_trace() {
    let mut decoder = Csv::new(two()).delimiter(';').unwrap().decoder(&[0, 1]).unwrap();
    for (line, reason) in [
        (&b""[..], "the value is empty"),
        (b"\r\n", "the value is empty"),
        (b"1", "expected 2 fields, found 1"),
        (b"1;a;b;c", "expected 2 fields, found 4"),
        (b"1;\"a", "field 't': a quoted field has no end"),
        (b"1;\"a\"b", "field 't': text follows the closing quote of a field"),
        (b"x;a", "field 'n': expected a whole number (Int64), found x"),
        (b"9223372036854775808;a", "field 'n': 9223372036854775808 does not fit into Int64"),
        (b"1;\xff", "not UTF-8 at byte 2"),
    ] {
        assert_eq!(decoder.push(line).unwrap_err(), reason);
    }
    decoder.push(b"1;a,b").unwrap();
    let batch = decoder.finish().unwrap();
    assert_eq!((batch.num_rows(), batch.column(1).as_string::<i32>().value(0)), (1, "a,b"));
    assert!(Csv::new(two()).delimiter('"').is_err() && Csv::new(two()).delimiter('→').is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
    #[test]
    fn what_arrow_writes_is_read_back(rows in proptest::collection::vec((any::<Option<i64>>(), proptest::option::of("[a-z\",\r\n é]{1,12}")), 1..20)) {
        let numbers = arrow::array::Int64Array::from_iter(rows.iter().map(|r| r.0));
        let text = arrow::array::StringArray::from_iter(rows.iter().map(|r| r.1.clone()));
        let batch = RecordBatch::try_new(two(), vec![Arc::new(numbers), Arc::new(text)]).unwrap();
        let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(Vec::new());
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner();
        let mut decoder = Csv::new(two()).decoder(&[0, 1]).unwrap();
        let (mut start, mut splitter) = (0, line::Splitter::default());
        while let Ok(end) = splitter.line_end(&bytes, start, start, b',') {
            decoder.push(&bytes[start..=end]).unwrap();
            start = end + 1;
        }
        prop_assert_eq!(start, bytes.len());
        prop_assert_eq!(decoder.finish().unwrap(), batch);
    }

    #[test]
    fn no_bytes_make_it_panic_or_leave_half_a_row(lines in proptest::collection::vec("[0-9a\",;\r\n]{0,12}", 0..12)) {
        let mut decoder = Csv::new(two()).decoder(&[0, 1]).unwrap();
        let good = lines.iter().filter(|line| decoder.push(line.as_bytes()).is_ok()).count();
        let batch = decoder.finish().unwrap();
        prop_assert_eq!((batch.num_rows(), batch.column(0).len(), batch.column(1).len()), (good, good, good));
    }
}
