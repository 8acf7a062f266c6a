//! Filters and projections over one input, fused into one operator: a batch goes through all steps before the next one is touched.
//!
//! Invariant: rows keep their order, their diffs and their origin; guilty rows leave as dead letters.

use super::eval::{Blame, evaluate};
use super::{Node, Order};
use crate::data::Changes;
use crate::dataflow::Stream;
use crate::error::{Error, Result};
use arrow::array::{AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;
use std::fmt;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

/// The fused steps and the columns they end with.
pub struct Map {
    /// In order of execution.
    pub steps: Vec<Step>,
    /// Columns of the output.
    pub schema: SchemaRef,
}

/// One filter or projection.
#[derive(Clone)]
pub enum Step {
    /// Keeps the rows for which it is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes columns.
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

impl fmt::Display for Step {
    /// The step as text: by it state is found again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Filter(expr) => write!(f, "filter {expr}"),
            Step::Project(exprs, _) => write!(f, "project {}", exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Step {
    /// The expressions that it evaluates.
    pub fn exprs(&self) -> &[Arc<dyn PhysicalExpr>] {
        match self {
            Step::Filter(expr) => std::slice::from_ref(expr),
            Step::Project(exprs, _) => exprs,
        }
    }

    /// `input` followed by this step, fused with the steps before it.
    pub fn after(self, input: Node) -> Node {
        let schema = match &self {
            Step::Filter(_) => input.schema(),
            Step::Project(_, schema) => schema.clone(),
        };
        match input {
            Node::Map(input, map) => {
                let steps = map.steps.iter().cloned().chain([self]).collect();
                Node::Map(input, Arc::new(Map { steps, schema }))
            }
            input => Node::Map(Box::new(input), Arc::new(Map { steps: vec![self], schema })),
        }
    }
}

impl Map {
    /// The order of the output, given the input's: a projection that loses a column of a keyed stream may make an update vanish into two equal rows.
    pub fn order(&self, input: Order, input_columns: usize) -> Order {
        let (mut order, mut width) = (input, input_columns);
        for step in &self.steps {
            if let (Step::Project(exprs, _), Order::Key) = (step, order) {
                let mut kept = vec![false; width];
                for e in exprs {
                    if let Some(c) = e.downcast_ref::<Column>() {
                        kept[c.index()] = true;
                    }
                }
                if !kept.iter().all(|k| *k) {
                    order = Order::Sorted;
                }
                width = exprs.len();
            } else if let Step::Project(exprs, _) = step {
                width = exprs.len();
            }
        }
        order
    }

    /// Runs all steps on one batch.
    ///
    /// # Errors
    /// Only if Arrow refuses a batch, which is a bug.
    pub fn apply(&self, mut changes: Changes, epoch: u64, blame: &Blame) -> Result<Changes> {
        for step in &self.steps {
            if changes.is_empty() {
                break;
            }
            changes = match step {
                Step::Filter(expr) => {
                    let (kept, columns) = evaluate(std::slice::from_ref(expr), changes, epoch, blame)?;
                    match columns.first() {
                        Some(keep) => kept.filter(keep.as_boolean())?,
                        None => kept,
                    }
                }
                Step::Project(exprs, schema) => {
                    let (kept, columns) = evaluate(exprs, changes, epoch, blame)?;
                    if kept.is_empty() {
                        return Ok(kept);
                    }
                    let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
                    kept.with_rows(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
                }
            };
        }
        Ok(changes)
    }
}

/// Renders the steps as one operator.
pub fn render<'s>(input: Stream<'s>, map: Arc<Map>, blame: Blame, failure: super::render::Failure) -> Stream<'s> {
    input.unary::<NoopBuilder<Changes>, _, _, _>(Pipeline, "Map", move |_, _| {
        let rows = blame.rows_of("map");
        move |input, output| {
            input.for_each(|time, data| {
                let epoch = *time.time();
                match map.apply(std::mem::take(data), epoch, &blame) {
                    Ok(mut changes) if !changes.is_empty() => {
                        rows.add(changes.len());
                        output.session_with_builder(&time).give_container(&mut changes);
                    }
                    Ok(_) => {}
                    Err(e) => failure.set(e.at(format!("view {}, epoch {epoch}", blame.view))),
                }
            });
        }
    })
}

/// The columns `indices` of a batch, in that order.
///
/// # Errors
/// If there is no such column, which is a bug.
pub fn select(changes: &Changes, indices: &[usize], schema: &SchemaRef) -> Result<Changes> {
    let rows = changes.rows();
    let column = |i: &usize| rows.columns().get(*i).cloned().ok_or_else(|| Error::internal(format!("no column {i}")));
    let columns = indices.iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(changes.with_rows(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?))
}
