//! The format of a source that was given none: every record is a row, whose columns are only the hidden ones.

use orderflow_core::Result;
use orderflow_core::arrow::array::{RecordBatch, RecordBatchOptions};
use orderflow_core::arrow::datatypes::{Schema, SchemaRef};
use orderflow_core::format::{Decoder, Format};
use std::sync::Arc;

pub(crate) struct NoColumns;

struct Count(usize);

impl Format for NoColumns {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn decoder(&self, _projection: &[usize]) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(Count(0)))
    }
}

impl Decoder for Count {
    fn push(&mut self, _record: &[u8]) -> std::result::Result<(), String> {
        self.0 += 1;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.0
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let rows = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.0)));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_row_without_columns() {
        let mut decoder = NoColumns.decoder(&[]).unwrap();
        decoder.push(b"not { json").unwrap();
        decoder.push(b"").unwrap();
        let batch = decoder.finish().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns(), decoder.rows()), (2, 0, 0));
    }
}
