//! `GROUP BY` with count, sum, avg, min, max and count distinct, kept up to date under insertions and deletions.
//!
//! What can be added up (row counts, counts, sums) lives in the difference of one trace keyed by the group. Minimum, maximum
//! and distinct values need the values themselves: each has a trace keyed by (group, value) with the value's multiplicity, in which the
//! first live key of a group *is* its minimum (for a maximum the value is encoded in reverse).
//! ```text
//!   changes ─combine─► partials by group, one per worker, epoch and flush ─exchange by bucket─► fold ─► −old +new, in key order
//! ```
//! Invariant: for every group that an epoch touched, fold emits the difference between its row before and after that epoch, and
//! nothing if both are equal. A sum that does not fit its type is an error of its group: the row leaves, a dead letter comes, and both are undone when it fits again.

mod combine;
mod fold;
mod groups;
mod lower;
mod stored;
mod value;

pub use fold::AggregateState;
pub use groups::Groups;
pub use lower::lower;
pub use stored::StoredRows;

use crate::dataflow::Stream;
use crate::operator::eval::Blame;
use crate::operator::render::Failure;
use crate::operator::root::Root;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_plan::PhysicalExpr;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A planned `GROUP BY`.
pub struct Aggregate {
    /// Group expressions over the input.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Their types.
    pub key_types: Vec<DataType>,
    /// The aggregate calls.
    pub calls: Vec<Call>,
    /// Keys, then calls.
    pub schema: SchemaRef,
    /// Words of the group's accumulators; word 0 counts rows.
    pub width: usize,
    /// Traces of (group, value) that calls refer to, numbered from 1 (0 is the group's own).
    pub values: Vec<Values>,
}

impl Aggregate {
    /// The expressions that it evaluates.
    pub fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.keys.iter().chain(self.calls.iter().flat_map(|call| call.arg.iter().chain(&call.filter)))
    }
}

impl fmt::Display for Aggregate {
    /// What it groups by and computes, as text: by it state is found again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().zip(&self.key_types).map(|(e, t)| format!("{e} {t}"));
        write!(f, "group by {}:", keys.collect::<Vec<_>>().join(", "))?;
        for call in &self.calls {
            write!(f, " {:?}", call.func)?;
            call.arg.iter().try_for_each(|e| write!(f, "({e})"))?;
            call.filter.iter().try_for_each(|e| write!(f, " where {e}"))?;
            write!(f, " {};", call.out)?;
        }
        self.values.iter().try_for_each(|v| write!(f, " of {}", v.data_type))
    }
}

/// A trace of (group, value).
pub struct Values {
    /// Type of the value.
    pub data_type: DataType,
    /// Whether the greatest value comes first.
    pub descending: bool,
    /// The call it serves.
    pub call: usize,
}

/// One aggregate call.
pub struct Call {
    /// What it computes.
    pub func: Func,
    /// Its argument; `None` counts rows.
    pub arg: Option<Arc<dyn PhysicalExpr>>,
    /// `FILTER (WHERE …)`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Its first word.
    pub word: usize,
    /// Type of the result.
    pub out: DataType,
}

/// What an aggregate call computes. Indices are into [`Aggregate::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Func {
    /// Rows, or non-null arguments: words `[n]`; without argument and filter no word of its own.
    Count,
    /// Distinct non-null arguments: words `[n]`.
    CountDistinct(usize),
    /// Sum: words `[non-null, low]` or, where values are wider than 64 bits, `[non-null, low, high]`.
    Sum {
        /// Whether there is a high word.
        wide: bool,
    },
    /// Mean: words as for a sum; `scale_up` is the power of ten between the argument's scale and the result's.
    Avg {
        /// Whether there is a high word.
        wide: bool,
        /// Digits to add before dividing (decimal result), or to remove after (float result of a decimal argument: none).
        scale_up: u32,
    },
    /// Least value.
    Min(usize),
    /// Greatest value.
    Max(usize),
}

impl Func {
    /// Words of accumulator that it owns.
    pub(super) fn words(self, has_arg_or_filter: bool) -> usize {
        match self {
            Func::Count => usize::from(has_arg_or_filter),
            Func::CountDistinct(_) => 1,
            Func::Sum { wide } | Func::Avg { wide, .. } => 2 + usize::from(wide),
            Func::Min(_) | Func::Max(_) => 0,
        }
    }
}

/// The first half alone: what keeping rows needs.
pub(super) fn combine<'s>(input: Stream<'s>, plan: Arc<Aggregate>, blame: Blame, failure: Failure) -> combine::PartialStream<'s> {
    combine::render(input, plan, blame, failure)
}

/// Renders the two halves and the exchange between them; also gives the readable state of this worker.
pub fn render<'s>(input: Stream<'s>, plan: Arc<Aggregate>, blame: Blame, failure: Failure, root: Root) -> (Stream<'s>, AggregateState) {
    let partials = combine::render(input, plan.clone(), blame.clone(), failure.clone());
    fold::render(partials, plan, blame, failure, root)
}
