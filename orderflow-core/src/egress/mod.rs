//! A closed epoch of one view, put in canonical order: the same rows in the same order at any worker count and under any cut of fetches.
//!
//! | the view | order |
//! |---|---|
//! | append-only, no stateful operator on the way | source, partition, position |
//! | groups | key bucket, key; the old row before the new one |
//! | all else | equal rows added up, then by row, deletions first |

use crate::data::rowkey::{codec_of, normalise};
use crate::data::{Changes, Diffs};
use crate::error::Result;
use crate::operator::Order;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::datatypes::SchemaRef;

/// Rows of one batch that leaves, about.
const BATCH: usize = 64 * 1024;

/// The batches of all workers (in worker order, each worker's in the order they came) in canonical order.
///
/// # Errors
/// Only if Arrow refuses, which is a bug.
pub fn canonical(order: Order, schema: &SchemaRef, mut batches: Vec<Changes>) -> Result<Vec<Changes>> {
    match order {
        Order::Key => Ok(batches),
        Order::Origin if batches.iter().all(|b| b.origin().is_some()) => {
            batches.sort_by(|a, b| a.origin().cmp(&b.origin()));
            Ok(batches)
        }
        _ => sorted(schema, &batches),
    }
}

fn sorted(schema: &SchemaRef, batches: &[Changes]) -> Result<Vec<Changes>> {
    if batches.is_empty() {
        return Ok(vec![]);
    }
    let all = Changes::concat(schema, batches)?;
    if schema.fields().is_empty() {
        return Ok(vec![all]);
    }
    let columns: Vec<ArrayRef> = all.rows().columns().iter().map(normalise).collect();
    let rows = codec_of(schema)?.encode(&columns)?;
    let mut by_row: Vec<u32> = (0..all.len() as u32).collect();
    by_row.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    // equal rows add up; what is left is deletions, then insertions, each in row order
    let (mut deleted, mut inserted) = (Vec::<(u32, i64)>::new(), Vec::<(u32, i64)>::new());
    let mut run = by_row.iter().copied().peekable();
    while let Some(first) = run.next() {
        let mut diff = all.diff(first as usize);
        while let Some(next) = run.next_if(|n| rows.row(*n as usize) == rows.row(first as usize)) {
            diff += all.diff(next as usize);
        }
        match diff.signum() {
            0 => {}
            1 => inserted.push((first, diff)),
            _ => deleted.push((first, diff)),
        }
    }
    let (indices, diffs): (Vec<u32>, Vec<i64>) = deleted.into_iter().chain(inserted).unzip();
    let taken = all.take(&UInt32Array::from(indices))?;
    let whole = if diffs.iter().all(|d| *d == 1) && matches!(taken.diffs(), Diffs::Ones) {
        taken
    } else {
        Changes::signed(taken.rows().clone(), diffs)
    };
    Ok((0..whole.len()).step_by(BATCH).map(|from| whole.slice(from, BATCH.min(whole.len() - from))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;
    use crate::time::Partition;
    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    fn changes(rows: &[(i64, i64)]) -> Changes {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        Changes::signed(RecordBatch::try_from_iter([("n", column)]).unwrap(), rows.iter().map(|r| r.1).collect())
    }

    fn rows(batches: &[Changes]) -> Vec<(i64, i64)> {
        let of =
            |c: &Changes| c.rows().column(0).as_primitive::<Int64Type>().values().iter().copied().zip(c.diff_iter()).collect::<Vec<_>>();
        batches.iter().flat_map(of).collect()
    }

    #[test]
    fn unordered_rows_add_up_and_are_sorted_deletions_first() {
        let parts = vec![changes(&[(3, 1), (1, 1), (2, -1)]), changes(&[(1, -1), (2, -1), (0, 2)])];
        let out = canonical(Order::Sorted, &parts[0].schema(), parts).unwrap();
        assert_eq!(rows(&out), [(2, -2), (0, 2), (3, 1)]);
    }

    #[test]
    fn append_only_rows_leave_by_partition_and_position() {
        let at = |p: i32, position| Some(Origin { source: 0, partition: Partition::new("t", p), position });
        let parts = vec![
            changes(&[(3, 1)]).with_origin(at(1, 0)),
            changes(&[(2, 1)]).with_origin(at(0, 7)),
            changes(&[(1, 1)]).with_origin(at(0, 0)),
        ];
        let out = canonical(Order::Origin, &parts[0].schema(), parts).unwrap();
        assert_eq!(rows(&out), [(1, 1), (2, 1), (3, 1)]);
    }
}
