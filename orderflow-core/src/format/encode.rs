//! Rows become bytes: one JSON object or CSV record a row, for files and for the values of messages.
//!
//! Invariant: what a row says can be read back by this library's own formats: decimals stand digit by digit as numbers, times in ISO 8601,
//! and a null is `null` in JSON, an empty field in CSV (the empty text is `""` there).

use crate::error::{Error, Result};
use crate::time::Epoch;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::LazyLock;

/// Nulls are written, in nested objects too.
static OPTIONS: LazyLock<EncoderOptions> = LazyLock::new(|| EncoderOptions::default().with_explicit_nulls(true));

/// The rows of one batch as JSON objects: fields in the order of the schema, nulls included, binary values in hexadecimal digits.
/// Whether a schema can be written at all, its empty batch tells.
///
/// ```
/// use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
/// use orderflow_core::{format::encode::JsonRows, time::Epoch};
/// use std::sync::Arc;
///
/// let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![5, 6])) as ArrayRef)])?;
/// let (mut rows, mut out) = (JsonRows::of(&batch)?, Vec::new());
/// rows.append(0, None, &mut out);
/// rows.append(1, Some((-1, Epoch(7))), &mut out);
/// assert_eq!(out, br#"{"n":5}{"n":6,"diff":-1,"epoch":7}"#);
/// # Ok::<(), orderflow_core::Error>(())
/// ```
pub struct JsonRows<'a> {
    /// `"name":` and the values.
    columns: Vec<(Vec<u8>, NullableEncoder<'a>)>,
}

impl<'a> JsonRows<'a> {
    /// An encoder for the rows of `batch`.
    ///
    /// # Errors
    /// A column type that JSON cannot say.
    pub fn of(batch: &'a RecordBatch) -> Result<Self> {
        let column = |(field, values): (&'a FieldRef, &'a ArrayRef)| {
            let mut key = serde_json::to_vec(field.name()).map_err(|e| Error::internal("a column's name is no JSON").caused_by(e))?;
            key.push(b':');
            let values = make_encoder(field, values, &OPTIONS).map_err(|e| {
                let what = format!("column '{}' of type {} cannot be written as JSON", field.name(), field.data_type());
                Error::user(what).caused_by(e).hint("cast the column in the query")
            })?;
            Ok((key, values))
        };
        let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(column).collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// Appends row `row` as an object, without a line end; for a change with its multiplicity and epoch as the last fields, `diff`
    /// and `epoch`.
    pub fn append(&mut self, row: usize, change: Option<(i64, Epoch)>, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (key, values)) in self.columns.iter_mut().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            if values.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                values.encode(row, out);
            }
        }
        if let Some((diff, epoch)) = change {
            let comma = if self.columns.is_empty() { "" } else { "," };
            write!(out, "{comma}\"diff\":{diff},\"epoch\":{epoch}").expect("a vector takes all bytes");
        }
        out.push(b'}');
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
mod tests;
