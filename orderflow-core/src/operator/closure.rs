//! A user's own code in the graph: closures over batches of rows, and raw timely operators.
//!
//! Invariant: a panic in a closure is caught and fails the epoch with the closure's name; it never unwinds through the dataflow.

use super::eval::Blame;
use super::render::Failure;
use crate::data::Changes;
use crate::dataflow::Stream;
use crate::error::Error;
use crate::plan::BatchFn;
use arrow::array::UInt32Array;
use arrow::datatypes::SchemaRef;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

/// A closure over batches.
#[derive(Clone)]
pub struct Closure {
    /// Name that the user gave it.
    pub name: Arc<str>,
    /// Version that the user gave it.
    pub version: u32,
    /// Columns of its output.
    pub schema: SchemaRef,
    /// The closure.
    pub f: BatchFn,
}

/// A raw operator.
#[derive(Clone)]
pub struct Custom {
    /// Name that the user gave it.
    pub name: Arc<str>,
    /// Columns of its output.
    pub schema: SchemaRef,
    /// A `Box<RawOperator>`.
    pub payload: Arc<dyn std::any::Any + Send + Sync>,
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// Runs it: a panic is an error of this name, with what it said.
pub(crate) fn caught<T>(name: impl Into<String>, run: impl FnOnce() -> crate::error::Result<T>) -> crate::error::Result<T> {
    caught_as(run, || Error::internal(name))
}

/// As [`caught`], of what a source or a sink does, which may be anybody's.
pub(crate) fn caught_outside<T>(run: impl FnOnce() -> crate::error::Result<T>) -> crate::error::Result<T> {
    let hint = "a panic is a bug of who wrote this source or sink; one of orderflow's own is to be reported";
    caught_as(run, || Error::internal("it panicked").hint(hint))
}

fn caught_as<T>(run: impl FnOnce() -> crate::error::Result<T>, error: impl FnOnce() -> Error) -> crate::error::Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(error().why(panic_text(&*panic))))
}

fn call(closure: &Closure, changes: &Changes) -> Result<Changes, String> {
    let (rows, from) = (closure.f)(changes.rows())?;
    if rows.schema() != closure.schema || rows.num_rows() != from.len() {
        return Err("it returned other columns or another number of rows than it declared".to_owned());
    }
    let source = changes.take(&UInt32Array::from(from)).map_err(|e| e.to_string())?;
    Ok(source.with_rows(rows))
}

/// Renders a closure. Rows that it refuses (an error on a batch of one) become dead letters.
pub fn render<'s>(input: Stream<'s>, closure: Closure, blame: Blame, failure: Failure) -> Stream<'s> {
    input.unary::<NoopBuilder<Changes>, _, _, _>(Pipeline, "Closure", move |_, _| {
        let rows = blame.rows_of("closure");
        move |input, output| {
            input.for_each(|time, data| {
                let epoch = *time.time();
                let changes = std::mem::take(data);
                let mut out = vec![];
                let done = catch_unwind(AssertUnwindSafe(|| match call(&closure, &changes) {
                    Ok(c) => out.push(c),
                    Err(_) => (0..changes.len()).for_each(|i| match call(&closure, &changes.slice(i, 1)) {
                        Ok(c) => out.push(c),
                        Err(reason) => blame.row(epoch, &changes, i, &format!("closure '{}': {reason}", closure.name)),
                    }),
                }));
                if let Err(panic) = done {
                    failure.set(
                        Error::user(format!("closure '{}' of view {} panicked in epoch {epoch}", closure.name, blame.view))
                            .why(panic_text(&*panic))
                            .hint("mend the closure and start the pipeline again; nothing of that epoch left it"),
                    );
                    return;
                }
                for mut changes in out.into_iter().filter(|c| !c.is_empty()) {
                    rows.add(changes.len());
                    output.session_with_builder(&time).give_container(&mut changes);
                }
            });
        }
    })
}
