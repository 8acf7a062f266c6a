//! Rows become bytes: one JSON object or CSV record a row, for files and for the values of messages.
//!
//! Invariant: what a row says can be read back by this library's own formats: decimals stand digit by digit as numbers, times in ISO 8601,
//! and a null is `null` in JSON, an empty field in CSV (the empty text is `""` there).

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write as _;

/// The schema's part of a JSON encoder: make it once, then [`JsonRows::of`] for every batch.
#[derive(Debug)]
pub struct JsonRows {
    fields: Vec<FieldRef>,
    /// `{"name":` for the first column, `,"name":` for the others.
    keys: Vec<Vec<u8>>,
    options: EncoderOptions,
}

impl JsonRows {
    /// Rows of `schema` as objects whose fields are in the schema's order, nulls included.
    ///
    /// # Errors
    /// A column type that JSON cannot say.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let key = |(i, field): (usize, &FieldRef)| {
            let mut key = vec![if i == 0 { b'{' } else { b',' }];
            serde_json::to_writer(&mut key, field.name()).map_err(|e| Error::internal("a column's name is no JSON").caused_by(e))?;
            key.push(b':');
            Ok(key)
        };
        let keys = schema.fields().iter().enumerate().map(key).collect::<Result<_>>()?;
        let rows = Self { fields: schema.fields().to_vec(), keys, options: EncoderOptions::default().with_explicit_nulls(true) };
        rows.of(&RecordBatch::new_empty(schema.clone()))?;
        Ok(rows)
    }

    /// An encoder for the rows of `batch`, whose schema is the one this was made for.
    ///
    /// # Errors
    /// Columns of another schema.
    pub fn of<'a>(&'a self, batch: &'a RecordBatch) -> Result<JsonBatch<'a>> {
        let encoder = |(field, column): (&'a FieldRef, &'a ArrayRef)| {
            make_encoder(field, column, &self.options).map_err(|e| {
                let what = format!("column '{}' of type {} cannot be written as JSON", field.name(), field.data_type());
                Error::user(what).caused_by(e).hint("cast the column in the query")
            })
        };
        let columns = self.fields.iter().zip(batch.columns()).map(encoder).collect::<Result<Vec<_>>>()?;
        Ok(JsonBatch { keys: &self.keys, columns, rows: batch.num_rows() })
    }
}

/// Encodes the rows of one batch.
pub struct JsonBatch<'a> {
    keys: &'a [Vec<u8>],
    columns: Vec<NullableEncoder<'a>>,
    rows: usize,
}

impl JsonBatch<'_> {
    /// Appends row `row` as an object, without a line end.
    pub fn append(&mut self, row: usize, out: &mut Vec<u8>) {
        if self.columns.is_empty() {
            out.push(b'{');
        }
        for (key, column) in self.keys.iter().zip(&mut self.columns) {
            out.extend_from_slice(key);
            if column.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                column.encode(row, out);
            }
        }
        out.push(b'}');
    }

    /// Appends all rows, one a line.
    pub fn append_lines(&mut self, out: &mut Vec<u8>) {
        for row in 0..self.rows {
            self.append(row, out);
            out.push(b'\n');
        }
    }
}

/// The schema's part of a CSV encoder: make it once, then [`CsvRows::of`] for every batch.
#[derive(Debug)]
pub struct CsvRows {
    schema: SchemaRef,
    delimiter: u8,
}

impl CsvRows {
    /// Rows of `schema` as records separated by commas.
    ///
    /// # Errors
    /// A column type that CSV cannot say: lists and objects.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        if let Some(field) = schema.fields().iter().find(|f| f.data_type().is_nested() || is_binary(f.data_type())) {
            let what = format!("column '{}' of type {} cannot be written as CSV", field.name(), field.data_type());
            return Err(Error::user(what).hint("cast the column to text in the query, or write JSON"));
        }
        Ok(Self { schema: schema.clone(), delimiter: b',' })
    }

    /// Appends the names of the columns as a record, with a line end.
    pub fn append_header(&self, out: &mut Vec<u8>) {
        for (i, field) in self.schema.fields().iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            quote(field.name().as_bytes(), self.delimiter, out);
        }
        out.push(b'\n');
    }

    /// An encoder for the rows of `batch`, whose schema is the one this was made for.
    ///
    /// # Errors
    /// Columns that Arrow cannot print, which is a bug.
    pub fn of<'a>(&self, batch: &'a RecordBatch) -> Result<CsvBatch<'a>> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);
        let column = |column: &'a ArrayRef| {
            Ok(match column.data_type() {
                DataType::Utf8 => CsvColumn::Text(column),
                _ => CsvColumn::Printed(column, ArrayFormatter::try_new(column.as_ref(), &OPTIONS)?),
            })
        };
        let columns = batch.columns().iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok(CsvBatch { columns, delimiter: self.delimiter, rows: batch.num_rows(), scratch: String::new() })
    }
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

enum CsvColumn<'a> {
    Text(&'a ArrayRef),
    Printed(&'a ArrayRef, ArrayFormatter<'a>),
}

/// Encodes the rows of one batch.
pub struct CsvBatch<'a> {
    columns: Vec<CsvColumn<'a>>,
    delimiter: u8,
    rows: usize,
    scratch: String,
}

impl CsvBatch<'_> {
    /// Appends row `row` as a record, without a line end.
    ///
    /// # Errors
    /// A value that cannot be printed, such as a time beyond the calendar.
    pub fn append(&mut self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            match column {
                CsvColumn::Text(array) if array.is_valid(row) => quote(array.as_string::<i32>().value(row).as_bytes(), self.delimiter, out),
                CsvColumn::Printed(array, formatter) if array.is_valid(row) => {
                    self.scratch.clear();
                    write!(self.scratch, "{}", formatter.value(row))
                        .map_err(|_| Error::user(format!("row {row} holds a {} that cannot be printed", array.data_type())))?;
                    quote(self.scratch.as_bytes(), self.delimiter, out);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends all rows, one a line.
    ///
    /// # Errors
    /// As [`CsvBatch::append`].
    pub fn append_lines(&mut self, out: &mut Vec<u8>) -> Result<()> {
        for row in 0..self.rows {
            self.append(row, out)?;
            out.push(b'\n');
        }
        Ok(())
    }
}

/// Appends a field, in quotes where it would not be read back as it is without them.
fn quote(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    if !text.is_empty() && !text.iter().any(|b| matches!(b, b'"' | b'\n' | b'\r') || *b == delimiter) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for b in text {
        if *b == b'"' {
            out.push(b'"');
        }
        out.push(*b);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Format, csv::Csv, json::Json};
    use crate::testing::tier;
    use arrow::array::{BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};
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

    fn back(format: &dyn Format, lines: &[Vec<u8>]) -> RecordBatch {
        let mut decoder = format.decoder(&(0..6).collect::<Vec<_>>()).unwrap();
        lines.iter().for_each(|line| decoder.push(line).unwrap());
        decoder.finish().unwrap()
    }

    #[test]
    fn rows_look_as_a_person_would_write_them() {
        let rows = batch(&[(Some(1), Some(5_999_990), Some("a, \"b\"".into()), 1_610_273_520_500, true), (None, None, None, 0, false)]);
        let mut out = Vec::new();
        JsonRows::new(&rows.schema()).unwrap().of(&rows).unwrap().append_lines(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
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
    fn what_cannot_be_said_is_refused() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let schema = Arc::new(Schema::new(vec![Field::new("l", list, true)]));
        assert!(CsvRows::new(&schema).unwrap_err().remedy().is_some());
        let empty = Arc::new(Schema::empty());
        let batch =
            RecordBatch::try_new_with_options(empty.clone(), vec![], &arrow::array::RecordBatchOptions::new().with_row_count(Some(1)))
                .unwrap();
        let mut out = Vec::new();
        JsonRows::new(&empty).unwrap().of(&batch).unwrap().append(0, &mut out);
        assert_eq!(out, b"{}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
        #[test]
        fn rows_are_read_back_as_they_were(rows in proptest::collection::vec(
            (any::<Option<i64>>(), proptest::option::of(-(10i64.pow(18) - 1)..10i64.pow(18)), any::<Option<String>>(), -62_000_000_000_000i64..250_000_000_000_000, any::<bool>()), 0..12)
        ) {
            let rows = batch(&rows);
            let (json, csv) = (JsonRows::new(&rows.schema()).unwrap(), CsvRows::new(&rows.schema()).unwrap());
            let (mut json, mut csv) = (json.of(&rows).unwrap(), csv.of(&rows).unwrap());
            let (mut as_json, mut as_csv) = (Vec::new(), Vec::new());
            for row in 0..rows.num_rows() {
                as_json.push(Vec::new());
                as_csv.push(Vec::new());
                json.append(row, as_json.last_mut().unwrap());
                csv.append(row, as_csv.last_mut().unwrap()).unwrap();
            }
            prop_assert_eq!(&back(&Json::new(rows.schema()), &as_json), &rows);
            prop_assert_eq!(&back(&Csv::new(rows.schema()), &as_csv), &rows);
        }
    }
}
