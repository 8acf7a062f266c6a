//! CSV records become rows: fields by place, one record a push.
//!
//! Invariant: a record is a row only if all of it is UTF-8, its quotes are closed and it has as many fields as the schema; of these only
//! the wanted ones are parsed.

pub(crate) mod line;
#[cfg(test)]
mod tests;

use super::column::{Leaf, LeafOptions, Wrong, unsupported};
use super::{Decoder, Format};
use crate::error::{Error, Result};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{SchemaRef, TimeUnit};
use std::sync::Arc;

/// One CSV record a record, its fields in the order of the schema, without a header.
///
/// An empty field is null if its column is nullable, except that `""` in a text column is the empty text; in a text column that is not
/// nullable an empty field is the empty text; anywhere else it is an error. Types are written as for [`Json`](super::json::Json), without
/// quotes where there need be none; whole numbers may have a plus sign or leading zeros.
///
/// ```
/// use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
/// use orderflow_core::format::{Format, csv::Csv};
/// use std::sync::Arc;
///
/// let schema = Schema::new(vec![Field::new("city", DataType::Utf8, false), Field::new("qty", DataType::Int64, true)]);
/// let mut decoder = Csv::new(Arc::new(schema)).decoder(&[1])?;
/// decoder.push(br#""Mumbai, old",24"#).unwrap();
/// assert_eq!(decoder.push(b"Mumbai"), Err("expected 2 fields, found 1".into()));
/// # Ok::<(), orderflow_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Csv {
    schema: SchemaRef,
    delimiter: u8,
    strict: bool,
    options: LeafOptions,
}

impl Csv {
    /// Records with these fields in this order, separated by commas.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, delimiter: b',', strict: false, options: LeafOptions::default() }
    }

    /// Separates fields by another ASCII character than the comma.
    ///
    /// # Errors
    /// A character that cannot separate fields: a quote, a line end, or no ASCII.
    pub fn delimiter(mut self, delimiter: char) -> Result<Self> {
        match u8::try_from(delimiter) {
            Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => {
                self.delimiter = byte;
                Ok(self)
            }
            _ => {
                Err(Error::user(format!("{delimiter:?} cannot separate CSV fields"))
                    .hint("take an ASCII character such as ';', '|' or '\\t'"))
            }
        }
    }

    /// Refuses a record also for a field that no view reads.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Accepts numbers in timestamp columns: units of this size since 1970, UTC.
    pub fn unix_timestamps(mut self, unit: TimeUnit) -> Self {
        self.options.unix = Some(unit);
        self
    }

    /// The byte between two fields.
    pub(crate) fn delimiter_byte(&self) -> u8 {
        self.delimiter
    }
}

impl Format for Csv {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn Decoder>> {
        let projected = Arc::new(self.schema.project(projection)?);
        let column = |(i, field): (usize, &arrow::datatypes::FieldRef)| {
            let keep = projection.contains(&i);
            if !keep && !self.strict {
                return Ok(None);
            }
            let leaf = Leaf::new(field.data_type(), self.options).ok_or_else(|| unsupported("CSV", field.name(), field.data_type()))?;
            Ok(Some(Column { leaf, keep }))
        };
        let columns = self.schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
        let scratch = Vec::new();
        Ok(Box::new(CsvDecoder { columns, record: self.schema.clone(), schema: projected, delimiter: self.delimiter, rows: 0, scratch }))
    }
}

struct Column {
    leaf: Leaf,
    /// Whether it is handed out, or only parsed.
    keep: bool,
}

struct CsvDecoder {
    /// One entry a field; `None` where nobody wants it.
    columns: Vec<Option<Column>>,
    record: SchemaRef,
    schema: SchemaRef,
    delimiter: u8,
    rows: usize,
    scratch: Vec<u8>,
}

impl CsvDecoder {
    fn append(&mut self, record: &[u8]) -> std::result::Result<(), String> {
        let mut next = Some(0);
        for (i, column) in self.columns.iter_mut().enumerate() {
            let Some(start) = next else { return Err(miscounted(self.record.fields().len(), i)) };
            let field;
            (field, next) =
                line::field(record, start, self.delimiter).map_err(|what| format!("field '{}': {what}", self.record.field(i).name()))?;
            let Some(Column { leaf, .. }) = column else { continue };
            let described = self.record.field(i);
            let text = if field.doubled {
                self.scratch.clear();
                field.unquote(&mut self.scratch);
                &self.scratch[..]
            } else {
                field.text
            };
            let pushed = if !text.is_empty() || (leaf.is_text() && (field.quoted || !described.is_nullable())) {
                leaf.push_text(text)
            } else if described.is_nullable() {
                leaf.push_null()
            } else {
                Err(Wrong::Type)
            };
            pushed.map_err(|wrong| wrong.describe(described.name(), described.data_type(), text))?;
        }
        if let Some(mut start) = next {
            let mut count = self.columns.len() + 1;
            while let Ok((_, Some(next))) = line::field(record, start, self.delimiter) {
                (start, count) = (next, count + 1);
            }
            return Err(miscounted(self.columns.len(), count));
        }
        Ok(())
    }
}

#[cold]
fn miscounted(expected: usize, found: usize) -> String {
    format!("expected {expected} fields, found {found}")
}

impl Decoder for CsvDecoder {
    fn push(&mut self, record: &[u8]) -> std::result::Result<(), String> {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        if let Err(e) = std::str::from_utf8(record) {
            return Err(format!("not UTF-8 at byte {}", e.valid_up_to()));
        }
        if record.is_empty() {
            return Err("the value is empty".into());
        }
        let pushed = self.append(record);
        match pushed {
            Ok(()) => self.rows += 1,
            Err(_) => self.columns.iter_mut().flatten().for_each(|column| column.leaf.truncate(self.rows)),
        }
        pushed
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for (column, field) in self.columns.iter_mut().zip(self.record.fields()) {
            match column {
                Some(Column { leaf, keep: true }) => arrays.push(leaf.finish(field.data_type())?),
                Some(Column { leaf, keep: false }) => leaf.truncate(0),
                None => {}
            }
        }
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
            .map_err(|e| Error::internal("decoded columns do not make a batch").caused_by(e))
    }
}
