//! JSON lines: one object a row, every column in every row.
//!
//! Invariant: a decimal is written with all its digits as a number, a time as ISO 8601 text without zone (UTC), null as `null`.

use super::{FileEncoder, FileFormat};
use crate::error::{Error, Result};
use arrow::array::{RecordBatch, StructArray};
use arrow::datatypes::{Field, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::{EncoderOptions, LineDelimited, make_encoder};
use std::sync::Arc;

/// The format of `*.jsonl` files.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines;

impl FileFormat for JsonLines {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>> {
        let empty = StructArray::from(RecordBatch::new_empty(schema.clone()));
        let row = Arc::new(Field::new_struct("", schema.fields().clone(), false));
        make_encoder(&row, &empty, &EncoderOptions::default())
            .map_err(|e| Error::user("a column cannot be written as JSON").caused_by(e))?;
        Ok(Box::new(JsonLines))
    }
}

impl FileEncoder for JsonLines {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out);
        Ok(writer.write(batch)?)
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}
