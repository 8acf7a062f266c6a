//! Changes as plain rows: the multiplicity and the epoch become the columns `diff` and `epoch`.
//!
//! Invariant: the sum of `diff` over equal rows with `epoch` ≤ E is what the view held at E; nothing is consolidated on the way.
//! Both columns are `Int64`, which every reader takes.

use crate::data::Changes;
use crate::error::{Error, Result};
use crate::time::Epoch;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// Name of the multiplicity: +1 the row appears, −1 it is withdrawn.
pub const DIFF: &str = "diff";
/// Name of the epoch in which it did.
pub const EPOCH: &str = "epoch";

/// The columns of `input`, then [`DIFF`] and [`EPOCH`].
///
/// # Errors
/// A column of the input that has one of these names, in any case, because many readers do not tell cases apart.
pub fn schema(input: &SchemaRef) -> Result<SchemaRef> {
    if let Some(taken) = input.fields().iter().find(|f| [DIFF, EPOCH].iter().any(|n| f.name().eq_ignore_ascii_case(n))) {
        return Err(Error::user(format!("the column '{}' cannot be written", taken.name()))
            .why("this sink adds columns 'diff' and 'epoch' of its own")
            .hint(format!("give it another name in the view: SELECT {0} AS my_{0}, …", taken.name())));
    }
    let own = [DIFF, EPOCH].map(|n| Arc::new(Field::new(n, DataType::Int64, false)));
    Ok(Arc::new(Schema::new(input.fields().iter().cloned().chain(own).collect::<Vec<_>>())))
}

/// The rows of `changes` with the columns that [`schema`] gave.
///
/// # Errors
/// Rows that do not have these columns, which is a bug.
pub fn batch(schema: &SchemaRef, changes: &Changes, epoch: Epoch) -> Result<RecordBatch> {
    let diffs: ArrayRef = Arc::new(Int64Array::from_iter_values(changes.diff_iter()));
    let epochs: ArrayRef = Arc::new(Int64Array::from_value(epoch.0 as i64, changes.len()));
    let columns = changes.rows().columns().iter().cloned().chain([diffs, epochs]).collect();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
