//! SQL text or fluent calls become one DataFusion logical plan.
//!
//! ```text
//!   text ─► sql ─┐                                            ┌─► physical expressions
//!   fluent calls ┴► LogicalPlan ─► streamable ─► optimise ─► lowering
//!                   (unoptimised)  refuses       projection and filter reach the scan
//! ```
//! Invariant: what [`Catalog::check`] lets through can be kept up to date by retractions and gives the same answer when it is
//! replayed; an optimised plan holds only scans, projections, filters, aggregates, distincts, unions, aliases and our own
//! [`Closure`] and [`Custom`] nodes.

mod again;
mod aggregate;
mod catalog;
mod closure;
mod functions;
mod input;
mod key;
mod literal;
mod optimise;
mod physical;
mod place;
mod query;
mod sql;
mod streamable;
pub mod typed;

#[cfg(test)]
mod equivalence;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub(crate) use again::Plans;
pub use aggregate::{AggregateCall, Aggregator};
pub use catalog::Catalog;
pub use closure::{BatchFn, Closure, Custom};
pub use functions::Function;
pub use input::{Input, InputKind, schema, visible};
pub use key::key;
pub use query::{batch_answer, query, tables_of};
