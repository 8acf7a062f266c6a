//! The verbs. One folder or file each: what it means (`lower`: plan node to [`Node`]) and how it runs (`render`: [`Node`] to dataflow).
//!
//! Invariant: the matches in `lower.rs` and `render.rs` are the only places that know all verbs. A node says in which canonical order its output leaves an epoch.

pub mod aggregate;
pub mod closure;
pub mod eval;
pub mod keep;
pub mod map;
pub mod root;
pub mod tally;

mod lower;
mod render;

pub use lower::{Lowering, Physical};
pub use render::{Context, Failure, Rendered};

use crate::dataflow::Stream;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One step of a view, ready to be rendered on any number of workers.
#[derive(Clone)]
pub enum Node {
    /// Columns of a source, by index into its full schema (data columns, then hidden ones).
    Source {
        /// Number of the source in the pipeline.
        source: usize,
        /// The columns it reads, ascending.
        columns: Vec<usize>,
        /// Those columns.
        schema: SchemaRef,
    },
    /// Columns of another view.
    View {
        /// Number of the view in the pipeline.
        view: usize,
        /// The columns it reads.
        columns: Vec<usize>,
        /// Those columns.
        schema: SchemaRef,
    },
    /// Filters and projections, fused.
    Map(Box<Node>, Arc<map::Map>),
    /// Groups and their accumulators; without calls, `DISTINCT`.
    Aggregate(Box<Node>, Arc<aggregate::Aggregate>),
    /// All rows of all inputs.
    Union(Vec<Node>, SchemaRef),
    /// A user's closure over batches of rows.
    Closure(Box<Node>, closure::Closure),
    /// A user's own timely operator.
    Custom(Box<Node>, closure::Custom),
}

/// A user's own operator: from the stream of a view to another stream. Called once on every worker.
pub type RawOperator = dyn for<'s> Fn(Stream<'s>) -> Stream<'s> + Send + Sync;

/// In which order the rows of an epoch leave, the same at any worker count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stood in their sources: by (source, partition, position).
    Origin,
    /// By key bucket and key, the old row before the new one: what workers in order deliver.
    Key,
    /// None yet: equal rows add up and all are sorted when the epoch closes.
    Sorted,
}

impl Node {
    /// Columns of the output.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Node::Source { schema, .. } | Node::View { schema, .. } | Node::Union(_, schema) => schema.clone(),
            Node::Map(_, map) => map.schema.clone(),
            Node::Aggregate(_, aggregate) => aggregate.schema.clone(),
            Node::Closure(_, closure) => closure.schema.clone(),
            Node::Custom(_, custom) => custom.schema.clone(),
        }
    }

    /// The nodes it reads.
    pub fn inputs(&self) -> Vec<&Node> {
        match self {
            Node::Source { .. } | Node::View { .. } => vec![],
            Node::Map(i, _) | Node::Aggregate(i, _) | Node::Closure(i, _) | Node::Custom(i, _) => vec![i],
            Node::Union(inputs, _) => inputs.iter().collect(),
        }
    }

    /// The names of the scalar functions that it calls, and everything it reads but for views.
    pub fn calls(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.walk(&mut |node| match node {
            Node::Map(_, map) => map.steps.iter().flat_map(map::Step::exprs).for_each(|e| called(e, &mut found)),
            Node::Aggregate(_, plan) => plan.exprs().for_each(|e| called(e, &mut found)),
            Node::Source { .. } | Node::View { .. } | Node::Union(..) | Node::Closure(..) | Node::Custom(..) => {}
        });
        found
    }

    /// Calls `visit` on this node and everything it reads.
    pub fn walk(&self, visit: &mut impl FnMut(&Node)) {
        visit(self);
        self.inputs().into_iter().for_each(|n| n.walk(visit));
    }
}

/// Adds the names of the scalar functions that an expression calls.
fn called(expr: &Arc<dyn PhysicalExpr>, found: &mut BTreeSet<String>) {
    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        found.insert(call.fun().name().to_owned());
    }
    expr.children().into_iter().for_each(|e| called(e, found));
}
