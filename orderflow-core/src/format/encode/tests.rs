//! What rows look like, and that the formats of this library read them back.

use super::*;
use crate::data::Changes;
use crate::format::{Format, csv::Csv, json::Json};
use crate::sink::signed;
use crate::testing::tier;
use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float64Array, Int64Array, Int64Builder, ListArray,
    MapBuilder, StringArray, StringBuilder, StructArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{Field, Fields, Int64Type, Schema, TimeUnit, i256};
use arrow::json::writer::LineDelimited;
use proptest::prelude::*;
use std::sync::Arc;

type Row = (Option<i64>, Option<i64>, Option<String>, i64, bool);

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(18, 2), true),
        Field::new("say \"t\"", DataType::Utf8, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        Field::new("ok", DataType::Boolean, false),
        Field::new("f", DataType::Float64, false),
    ]);
    let prices = Decimal128Array::from_iter(rows.iter().map(|r| r.1.map(i128::from)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))),
        Arc::new(prices.with_precision_and_scale(18, 2).unwrap()),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.2.as_deref()))),
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|r| r.3))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.4)))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.3 as f64 / 8.0))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn lines(batch: &RecordBatch) -> String {
    let (mut rows, mut out) = (JsonRows::of(batch).unwrap(), Vec::new());
    for row in 0..batch.num_rows() {
        rows.append(row, None, &mut out);
        out.push(b'\n');
    }
    String::from_utf8(out).unwrap()
}

fn back(format: &dyn Format, lines: &[Vec<u8>]) -> RecordBatch {
    let mut decoder = format.decoder(&(0..6).collect::<Vec<_>>()).unwrap();
    lines.iter().for_each(|line| decoder.push(line).unwrap());
    decoder.finish().unwrap()
}

#[test]
fn rows_look_as_a_person_would_write_them() {
    let rows = batch(&[(Some(1), Some(5_999_990), Some("a, \"b\"".into()), 1_610_273_520_500, true), (None, None, None, 0, false)]);
    assert_eq!(
        lines(&rows),
        "{\"n\":1,\"price\":59999.90,\"say \\\"t\\\"\":\"a, \\\"b\\\"\",\"at\":\"2021-01-10T10:12:00.500\",\"ok\":true,\"f\":2.012841900625e11}\n\
         {\"n\":null,\"price\":null,\"say \\\"t\\\"\":null,\"at\":\"1970-01-01T00:00:00\",\"ok\":false,\"f\":0.0}\n"
    );
    let mut out = Vec::new();
    let csv = CsvRows::new(&rows.schema()).unwrap();
    csv.append_header(&mut out);
    csv.of(&rows).unwrap().append_lines(&mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "n,price,\"say \"\"t\"\"\",at,ok,f\n1,59999.90,\"a, \"\"b\"\"\",2021-01-10T10:12:00.500,true,201284190062.5\n,,,1970-01-01T00:00:00,false,0.0\n"
    );
}

#[test]
fn every_type_is_written_exactly() {
    let times = vec![Some(-1), Some(1_610_273_520_123_456_789)];
    let wide = Decimal128Array::from(vec![Some(i128::from(i64::MIN) * 1_000_000_000), None]).with_precision_and_scale(38, 9).unwrap();
    let wider = Decimal256Array::from(vec![Some(i256::from_i128(10i128.pow(38) - 1)), Some(i256::MINUS_ONE)]);
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(i64::MAX), None]), Some(vec![])]);
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    maps.keys().append_value("a\"");
    maps.values().append_null();
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    let (bytes, naive): (_, ArrayRef) =
        (BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]), Arc::new(Float64Array::from(vec![f64::NAN, 0.1])));
    let inner = [("d", Arc::new(Date32Array::from(vec![-1, 18_637])) as ArrayRef), ("f", naive)];
    let inner = inner.map(|(n, a)| (Arc::new(Field::new(n, a.data_type().clone(), true)), a));
    let columns: [(&str, ArrayRef); 10] = [
        ("i", Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX]))),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
        ("wide", Arc::new(wide)),
        ("wider", Arc::new(wider.with_precision_and_scale(76, 38).unwrap())),
        ("at", Arc::new(TimestampNanosecondArray::from(times.clone()))),
        ("utc", Arc::new(TimestampNanosecondArray::from(times).with_timezone("UTC"))),
        ("bytes", Arc::new(bytes)),
        ("list", Arc::new(lists)),
        ("map", Arc::new(maps.finish())),
        (
            "in\nner",
            Arc::new(StructArray::new(
                Fields::from_iter(inner.iter().map(|(f, _)| f.clone())),
                inner.iter().map(|(_, a)| a.clone()).collect(),
                None,
            )),
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let said = lines(&batch);
    assert_eq!(
        said,
        concat!(
            r#"{"i":-9223372036854775808,"u":18446744073709551615,"wide":-9223372036854775808.000000000,"#,
            r#""wider":0.99999999999999999999999999999999999999,"at":"1969-12-31T23:59:59.999999999","#,
            r#""utc":"1969-12-31T23:59:59.999999999Z","bytes":"00ff","list":[9223372036854775807,null],"map":{"a\"":null},"#,
            r#""in\nner":{"d":"1969-12-31","f":null}}"#,
            "\n",
            r#"{"i":9223372036854775807,"u":0,"wide":null,"wider":-0.00000000000000000000000000000000000001,"#,
            r#""at":"2021-01-10T10:12:00.123456789","utc":"2021-01-10T10:12:00.123456789Z","bytes":null,"list":[],"map":null,"#,
            r#""in\nner":{"d":"2021-01-10","f":0.1}}"#,
            "\n"
        )
    );
    let mut theirs = arrow::json::WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    theirs.write(&batch).unwrap();
    assert_eq!(said.as_bytes(), theirs.into_inner(), "Arrow's own writer says the same");
}

#[test]
fn a_change_is_a_row_with_two_more_columns() {
    let changes = Changes::signed(batch(&[(Some(1), None, None, 0, true), (None, None, None, 0, false)]), vec![1, -3]);
    let (mut rows, mut out) = (JsonRows::of(changes.rows()).unwrap(), Vec::new());
    for row in 0..2 {
        rows.append(row, Some((changes.diff(row), Epoch(7))), &mut out);
        out.push(b'\n');
    }
    let schema = signed::schema(&changes.schema()).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), lines(&signed::batch(&schema, &changes, Epoch(7)).unwrap()));
}

#[test]
fn what_cannot_be_said_is_refused() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let schema = Arc::new(Schema::new(vec![Field::new("l", list, true)]));
    assert!(CsvRows::new(&schema).unwrap_err().remedy().is_some());
    let empty = Arc::new(Schema::empty());
    let batch =
        RecordBatch::try_new_with_options(empty.clone(), vec![], &arrow::array::RecordBatchOptions::new().with_row_count(Some(1))).unwrap();
    let (mut json, mut out) = (JsonRows::of(&batch).unwrap(), Vec::new());
    json.append(0, None, &mut out);
    json.append(0, Some((1, Epoch(7))), &mut out);
    assert_eq!(out, br#"{}{"diff":1,"epoch":7}"#);
    let int = |name| Field::new(name, DataType::Int64, false);
    let map = Field::new_map("by_number", "entries", int("key"), int("value"), false, true);
    let e = JsonRows::of(&RecordBatch::new_empty(Arc::new(Schema::new(vec![map])))).err().unwrap();
    assert!(e.to_string().contains("'by_number'") && e.remedy().is_some(), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
    #[test]
    fn rows_are_read_back_as_they_were(rows in proptest::collection::vec(
        (any::<Option<i64>>(), proptest::option::of(-(10i64.pow(18) - 1)..10i64.pow(18)), any::<Option<String>>(), -62_000_000_000_000i64..250_000_000_000_000, any::<bool>()), 0..12)
    ) {
        let rows = batch(&rows);
        let csv = CsvRows::new(&rows.schema()).unwrap();
        let (mut json, mut csv) = (JsonRows::of(&rows).unwrap(), csv.of(&rows).unwrap());
        let (mut as_json, mut as_csv) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            as_json.push(Vec::new());
            as_csv.push(Vec::new());
            json.append(row, None, as_json.last_mut().unwrap());
            csv.append(row, as_csv.last_mut().unwrap()).unwrap();
        }
        prop_assert_eq!(&back(&Json::new(rows.schema()), &as_json), &rows);
        prop_assert_eq!(&back(&Csv::new(rows.schema()), &as_csv), &rows);
    }
}
