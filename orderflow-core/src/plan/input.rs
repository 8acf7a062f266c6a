//! What a plan reads: a source or a view by name, and which of its columns are hidden.
//!
//! Invariant: a hidden column leaves a plan only if somebody named it. It passes through filters, aliases and unions on the way,
//! and stops at the first projection, aggregate or operator, whose columns all were asked for.

use crate::error::{Error, Result};
use arrow::datatypes::SchemaRef;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, TableSource};
use std::collections::HashSet;
use std::sync::Arc;

/// Whether a name stands for a source or for a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Rows from the outside.
    Source,
    /// Rows that another plan keeps up to date.
    View,
}

/// The table behind every scan of a plan.
#[derive(Debug, PartialEq, Eq)]
pub struct Input {
    pub(super) name: Arc<str>,
    pub(super) kind: InputKind,
    pub(super) schema: SchemaRef,
    pub(super) visible: usize,
}

impl Input {
    /// The input that `scan` reads; `None` if the scan was not made by a [`Catalog`](super::Catalog).
    pub fn of(scan: &TableScan) -> Option<&Self> {
        scan.source.downcast_ref()
    }

    /// Its name in the pipeline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Source or view.
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// All its columns, hidden ones last.
    pub fn columns(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many columns, counted from the first, are not hidden.
    pub fn visible(&self) -> usize {
        self.visible
    }

    /// Names of the hidden columns.
    pub fn hidden(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().skip(self.visible).map(|f| f.name().as_str())
    }
}

impl TableSource for Input {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Columns of a view: the plan's, without qualifiers.
///
/// # Errors
/// Two columns of the same name.
pub fn schema(plan: &LogicalPlan) -> Result<SchemaRef> {
    let schema = plan.schema().inner().clone();
    let mut seen = HashSet::new();
    for field in schema.fields() {
        if !seen.insert(field.name().as_str()) {
            return Err(Error::user(format!("two columns are called '{}'", field.name()))
                .hint(format!("give one of them another name: … AS {}_2", field.name())));
        }
    }
    Ok(schema)
}

/// Projects away the hidden columns that nobody asked for: what a stream does when it becomes a view.
///
/// # Errors
/// Only if DataFusion refuses the projection, which is a bug.
pub fn visible(plan: LogicalPlan) -> Result<LogicalPlan> {
    let hidden = hidden_in(&plan);
    if hidden.iter().all(|h| !h) {
        return Ok(plan);
    }
    let columns: Vec<Expr> =
        (plan.schema().columns().into_iter().zip(&hidden)).filter(|(_, h)| !**h).map(|(c, _)| Expr::Column(c)).collect();
    (LogicalPlanBuilder::from(plan).project(columns).and_then(LogicalPlanBuilder::build))
        .map_err(|e| Error::internal("cannot project the visible columns").caused_by(e))
}

/// For each column of `plan`, whether it is hidden.
fn hidden_in(plan: &LogicalPlan) -> Vec<bool> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let hidden: HashSet<&str> = Input::of(scan).into_iter().flat_map(Input::hidden).collect();
            scan.projected_schema.fields().iter().map(|f| hidden.contains(f.name().as_str())).collect()
        }
        LogicalPlan::Filter(filter) => hidden_in(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => hidden_in(&alias.input),
        LogicalPlan::Union(union) => union.inputs.first().map_or_else(Vec::new, |input| hidden_in(input)),
        other => vec![false; other.schema().fields().len()],
    }
}

/// The columns `names` of `plan`, as expressions.
pub(super) fn columns_named<'a>(plan: &LogicalPlan, names: impl Iterator<Item = &'a str>) -> Result<Vec<Expr>> {
    names
        .map(|name| {
            let found = plan.schema().qualified_fields_with_unqualified_name(name);
            match found.as_slice() {
                [(qualifier, field)] => Ok(Expr::Column(Column::from((*qualifier, *field)))),
                [] => {
                    let known: Vec<&str> = plan.schema().fields().iter().map(|f| f.name().as_str()).collect();
                    Err(Error::user(format!("unknown column '{name}'")).hint(super::place::suggestion(name, &known)))
                }
                _ => Err(Error::user(format!("column '{name}' is ambiguous")).hint("select the columns under names of their own first")),
            }
        })
        .collect()
}
