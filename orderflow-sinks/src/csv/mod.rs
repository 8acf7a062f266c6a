//! CSV: a directory of `*.csv` files with a header line, with `diff` and `epoch`.
//!
//! Invariant: RFC 4180 quoting, UTF-8, `\n` at line ends; times as ISO 8601 without zone (UTC). Null is an empty field, and so is
//! an empty text: CSV cannot tell them apart.

use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::csv::{Writer, WriterBuilder};
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::sink::files::{DataSet, FileEncoder, FileFormat};
use orderflow_core::{Error, Result};

/// A data set of CSV files: exactly once.
pub struct Csv(DataSet<Lines>);

crate::data_set!(Csv, Lines);

/// The format of the files.
struct Lines;

impl FileFormat for Lines {
    fn kind(&self) -> &'static str {
        "csv"
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>> {
        if let Some(nested) = schema.fields().iter().find(|f| f.data_type().is_nested()) {
            return Err(Error::user(format!("the column '{}' cannot be written as CSV", nested.name()))
                .why(format!("it holds {}, and a CSV field holds one value", nested.data_type()))
                .hint("select its parts as columns of their own, or write Parquet or JSONL"));
        }
        // an empty batch shows whether every column can be printed
        let mut probe = Vec::new();
        Writer::new(&mut probe).write(&RecordBatch::new_empty(schema.clone())).map_err(|e| {
            Error::user("a column cannot be written as CSV").caused_by(e).hint("cast it to text in the query, or write Parquet")
        })?;
        Ok(Box::new(LinesEncoder { header: true }))
    }
}

struct LinesEncoder {
    /// The header is still to be written.
    header: bool,
}

impl FileEncoder for LinesEncoder {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let header = std::mem::take(&mut self.header);
        Ok(WriterBuilder::new().with_header(header).build(out).write(batch)?)
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
