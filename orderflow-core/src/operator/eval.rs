//! Expressions on batches, with the guilty rows singled out.
//!
//! Invariant: a row is guilty only if the expressions fail on a batch of that row alone; all other rows get their values, whatever stood beside them
//! (`AND` and `OR` evaluate a whole batch, so a batch may fail although no row of it does).

use crate::data::{Changes, Rejected};
use crate::error::Result;
use crate::format::encode::JsonRows;
use crate::operator::tally::{Rows, Tally};
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::concat;
use datafusion::physical_plan::PhysicalExpr;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Rows that operators of one worker refused, with the epoch in which they did; drained when that epoch closes.
#[derive(Clone, Default)]
pub struct Rejects(Rc<RefCell<Vec<(u64, Rejected)>>>);

impl Rejects {
    /// Adds one.
    pub fn push(&self, epoch: u64, rejected: Rejected) {
        self.0.borrow_mut().push((epoch, rejected));
    }

    /// Takes those of `epoch`.
    pub fn take(&self, epoch: u64) -> Vec<Rejected> {
        let mut all = self.0.borrow_mut();
        if all.is_empty() {
            return vec![];
        }
        let (now, later) = std::mem::take(&mut *all).into_iter().partition(|(e, _)| *e == epoch);
        *all = later;
        let now: Vec<(u64, Rejected)> = now;
        now.into_iter().map(|(_, r)| r).collect()
    }
}

/// Where refusals of one operator go.
#[derive(Clone)]
pub struct Blame {
    /// Name of the view, for the dead letter.
    pub view: Arc<str>,
    /// Whose operator it is, for metrics: the view's or that of one of its sinks.
    pub counted_as: Arc<str>,
    /// The worker's refused rows.
    pub rejects: Rejects,
    /// Name of the pipeline, for metrics.
    pub pipeline: Arc<str>,
    /// The worker's counts.
    pub tally: Tally,
}

impl Blame {
    /// Counts rows that left an operator of the view or sink, for the handle and in the `metrics` facade: `orderflow_operator_rows_total`.
    pub fn rows_of(&self, operator: &'static str) -> Rows {
        let labels = [("pipeline", self.pipeline.to_string()), ("view", self.counted_as.to_string()), ("operator", operator.to_owned())];
        self.tally.of((self.counted_as.clone(), operator), metrics::counter!("orderflow_operator_rows_total", &labels))
    }

    /// Refuses row `i` of `changes`, with what is known about where it came from.
    pub fn row(&self, epoch: u64, changes: &Changes, i: usize, reason: &str) {
        let reason = match changes.origin() {
            Some(o) => format!("{reason} (in a record of {} at or after offset {})", o.partition, o.position),
            None => reason.to_owned(),
        };
        let bytes = json_row(changes, i);
        self.rejects.push(epoch, Rejected { from: self.view.clone(), place: None, bytes, reason, diff: changes.diff(i) });
    }
}

/// Row `i` printed as a JSON object.
pub fn json_row(changes: &Changes, i: usize) -> Vec<u8> {
    let row = changes.rows().slice(i, 1);
    match JsonRows::of(&row) {
        Ok(mut printed) => {
            let mut bytes = vec![];
            printed.append(0, None, &mut bytes);
            bytes
        }
        Err(e) => format!("(the row cannot be printed: {e})").into_bytes(),
    }
}

/// Values of `exprs` for the rows that are not guilty, and those rows; guilty ones go to `blame`.
///
/// # Errors
/// Only if Arrow refuses to put the pieces together, which is a bug.
pub fn evaluate(exprs: &[Arc<dyn PhysicalExpr>], changes: Changes, epoch: u64, blame: &Blame) -> Result<(Changes, Vec<ArrayRef>)> {
    if let Ok(columns) = all(exprs, &changes) {
        return Ok((changes, columns));
    }
    let mut good = Pieces { rows: vec![], columns: vec![] };
    bisect(exprs, &changes, 0, changes.len(), &mut good, &mut |i, reason| blame.row(epoch, &changes, i, reason));
    let kept = changes.take(&UInt32Array::from(good.rows))?;
    if kept.is_empty() {
        return Ok((kept, vec![]));
    }
    let column = |c: usize| concat(&good.columns.iter().map(|p| &*p[c]).collect::<Vec<&dyn Array>>());
    let columns = (0..exprs.len()).map(column).collect::<Result<_, _>>()?;
    Ok((kept, columns))
}

struct Pieces {
    rows: Vec<u32>,
    columns: Vec<Vec<ArrayRef>>,
}

fn all(exprs: &[Arc<dyn PhysicalExpr>], changes: &Changes) -> Result<Vec<ArrayRef>, String> {
    exprs.iter().map(|e| e.evaluate(changes.rows()).and_then(|v| v.into_array(changes.len())).map_err(|e| root(&e))).collect()
}

/// The innermost message, without DataFusion's and Arrow's wrappings.
pub fn root(e: &datafusion::error::DataFusionError) -> String {
    use datafusion::error::DataFusionError as D;
    match e.find_root() {
        D::ArrowError(e, _) => {
            let text = e.to_string();
            text.split_once(" error: ").map_or(text.clone(), |(_, t)| t.to_owned())
        }
        D::Execution(t) => t.clone(),
        other => other.strip_backtrace(),
    }
}

fn bisect(
    exprs: &[Arc<dyn PhysicalExpr>],
    changes: &Changes,
    from: usize,
    len: usize,
    good: &mut Pieces,
    guilty: &mut impl FnMut(usize, &str),
) {
    match all(exprs, &changes.slice(from, len)) {
        Ok(columns) => {
            good.rows.extend(from as u32..(from + len) as u32);
            good.columns.push(columns);
        }
        Err(reason) if len == 1 => guilty(from, &reason),
        // many are guilty: halving further would only cost more
        Err(_) if len <= 16 => (from..from + len).for_each(|i| bisect(exprs, changes, i, 1, good, guilty)),
        Err(_) => {
            bisect(exprs, changes, from, len / 2, good, guilty);
            bisect(exprs, changes, from + len / 2, len - len / 2, good, guilty);
        }
    }
}
