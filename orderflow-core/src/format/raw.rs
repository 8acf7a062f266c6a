//! Records as they are: no column of their own, nothing that could be wrong with them. What passes them on names the hidden columns.

use super::{Decoder, Format};
use crate::error::Result;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use std::sync::Arc;

/// The format of records that nobody looks into.
///
/// ```
/// # use orderflow_core::format::{Format, raw::Raw};
/// assert!(Raw.schema().fields().is_empty());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

#[derive(Debug, Default)]
struct Rows(usize);

impl Format for Raw {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn decoder(&self, _: &[usize]) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(Rows::default()))
    }
}

impl Decoder for Rows {
    fn push(&mut self, _: &[u8]) -> std::result::Result<(), String> {
        self.0 += 1;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.0
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.0)));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_is_a_row() {
        let mut decoder = Raw.decoder(&[]).unwrap();
        [&b"{"[..], b"", b"\xff"].iter().for_each(|r| decoder.push(r).unwrap());
        assert_eq!((decoder.rows(), decoder.finish().unwrap().num_rows(), decoder.rows()), (3, 3, 0));
    }
}
