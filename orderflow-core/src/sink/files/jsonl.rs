//! JSON lines: one object a row, every column in every row.
//!
//! Invariant: a decimal is written with all its digits as a number, a time as ISO 8601 text without zone (UTC), null as `null`.

use super::{FileEncoder, FileFormat};
use crate::error::Result;
use crate::format::encode::JsonRows;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// The format of `*.jsonl` files.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines;

impl FileFormat for JsonLines {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>> {
        JsonRows::of(&RecordBatch::new_empty(schema.clone()))?;
        Ok(Box::new(JsonLines))
    }
}

impl FileEncoder for JsonLines {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let mut rows = JsonRows::of(batch)?;
        for row in 0..batch.num_rows() {
            rows.append(row, None, out);
            out.push(b'\n');
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}
