//! JSON objects become rows: our own parser, because decoding is the hot path.
//! ```text
//!   scan     the grammar over one record: where a value ends, is it well formed
//!   fields   which key stands where; remembers the record before
//!   column   values append straight to columns, nothing is built in between
//! ```
//! Invariant: a record is a row only if all of it is well formed UTF-8 and JSON, also where nobody reads it; the fields that are read
//! must have their column's type. A field that the schema does not name is ignored. A field that is read and stands twice is an error:
//! parsers disagree which one holds, and an order must not depend on the parser.

mod column;
mod fields;
mod scan;
#[cfg(test)]
mod tests;

use super::column::LeafOptions;
use super::{Decoder, Format};
use crate::error::{Error, Result};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef, TimeUnit};
use fields::Fields;
use scan::Cursor;
use std::sync::Arc;

/// One JSON object a record.
///
/// | column | JSON |
/// |---|---|
/// | Boolean | `true`, `false` |
/// | integers | a number without fraction (`10.0` has none); out of range is an error, never wrapped |
/// | Float32, Float64 | a number |
/// | Decimal128(p, s) | a number or a string that holds one, read digit by digit; a digit behind the last place is an error unless it is 0 |
/// | Utf8, LargeUtf8, Utf8View | a string |
/// | Date32 | `"2021-01-10"` |
/// | Timestamp(unit), without zone or UTC | `"2021-01-10 10:12"`, with `T` for the blank, seconds, fraction, `Z` or an offset; a number after [`Json::unix_timestamps`] |
/// | List, Struct | a list, an object |
///
/// A field that is missing or `null` is null if its column is nullable, else an error.
///
/// ```
/// use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
/// use orderflow_core::format::{Format, json::Json};
/// use std::sync::Arc;
///
/// let schema = Schema::new(vec![Field::new("city", DataType::Utf8, false), Field::new("price", DataType::Decimal128(18, 2), false)]);
/// let mut decoder = Json::new(Arc::new(schema)).decoder(&[0, 1])?;
/// decoder.push(br#"{"city":"Mumbai","price":10.5,"unread":[]}"#).unwrap();
/// assert_eq!(decoder.push(br#"{"city":"Mumbai"}"#), Err("field 'price' is missing".into()));
/// assert_eq!(decoder.finish()?.num_rows(), 1);
/// # Ok::<(), orderflow_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Json {
    schema: SchemaRef,
    strict: bool,
    options: LeafOptions,
}

impl Json {
    /// Records with these fields, in any order.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, strict: false, options: LeafOptions::default() }
    }

    /// Refuses a record also for a field of the schema that no view reads.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Accepts numbers in timestamp columns: units of this size since 1970, UTC.
    pub fn unix_timestamps(mut self, unit: TimeUnit) -> Self {
        self.options.unix = Some(unit);
        self
    }
}

impl Format for Json {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn Decoder>> {
        let projected = Arc::new(self.schema.project(projection)?);
        let (read, keep): (Schema, Vec<bool>) = if self.strict {
            (Schema::clone(&self.schema), (0..self.schema.fields().len()).map(|i| projection.contains(&i)).collect())
        } else {
            (Schema::clone(&projected), vec![true; projection.len()])
        };
        let fields = Fields::new(read.fields(), "", self.options)?;
        Ok(Box::new(JsonDecoder { fields, keep, schema: projected, rows: 0, scratch: Vec::new() }))
    }
}

struct JsonDecoder {
    fields: Fields,
    /// Which of the fields are handed out.
    keep: Vec<bool>,
    schema: SchemaRef,
    rows: usize,
    scratch: Vec<u8>,
}

impl Decoder for JsonDecoder {
    fn push(&mut self, record: &[u8]) -> std::result::Result<(), String> {
        if let Err(e) = std::str::from_utf8(record) {
            return Err(format!("not UTF-8 at byte {}", e.valid_up_to()));
        }
        let mut cursor = Cursor::new(record);
        let pushed = self.fields.push(&mut cursor, &mut self.scratch).and_then(|()| match cursor.token() {
            None => Ok(()),
            Some(_) => Err(cursor.fault("something follows the object").into()),
        });
        match pushed {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(bad) => {
                self.fields.truncate(self.rows);
                Err(if record.trim_ascii().is_empty() { "the value is empty".into() } else { bad.sentence() })
            }
        }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for (column, keep) in self.fields.columns_mut().zip(&self.keep) {
            if *keep {
                arrays.push(column.finish()?);
            } else {
                column.truncate(0);
            }
        }
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
            .map_err(|e| Error::internal("decoded columns do not make a batch").caused_by(e))
    }
}
