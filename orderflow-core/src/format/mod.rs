//! Bytes become rows: a format knows no transport and a transport knows no format.
//!
//! Invariant: [`Decoder::push`] either appends exactly one row or leaves the decoder as it was and says why, so one bad record
//! costs one dead letter and nothing else. Nothing a record holds may make a decoder panic.

mod column;
pub mod csv;
mod datetime;
pub mod encode;
pub mod json;
mod number;
pub mod raw;

use crate::error::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// How the bytes of a source become rows: a value shared by all workers.
pub trait Format: Send + Sync + 'static {
    /// All columns that the format can produce.
    fn schema(&self) -> SchemaRef;

    /// A decoder for the columns `projection` (indices into [`Format::schema`], ascending). Fields that are not wanted are
    /// checked for syntax and skipped, or, if the format is strict, parsed and dropped.
    ///
    /// # Errors
    /// A column type that the format cannot parse.
    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn Decoder>>;
}

/// Turns records into Arrow columns, one worker's share.
pub trait Decoder: Send {
    /// Parses one record and appends its row.
    ///
    /// # Errors
    /// Why the record is bad, in one sentence for the dead letter; nothing was appended.
    fn push(&mut self, record: &[u8]) -> std::result::Result<(), String>;

    /// Rows appended since the last [`Decoder::finish`].
    fn rows(&self) -> usize;

    /// The rows appended so far as a batch whose columns are the projection's, and starts over.
    ///
    /// # Errors
    /// Only if Arrow refuses the columns, which is a bug.
    fn finish(&mut self) -> Result<RecordBatch>;
}
