//! The rows that the suite writes, and what a reader sees of them.
//!
//! Invariant: what an epoch has is a function of its number, and what is seen after one epoch is never seen after another, unless that one has no rows.

use super::SinkSubject;
use crate::data::Changes;
use crate::sink::Closed;
use crate::time::Epoch;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMES: [&str; 5] = ["plain", "with \"quotes\"", "a,b;c", "two\nlines", "Zürich – 東京"];

/// A row in the outside world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenRow {
    /// Epoch in which it came.
    pub epoch: u64,
    /// Its multiplicity.
    pub diff: i64,
    /// Column `id`.
    pub id: i64,
    /// Column `name`.
    pub name: Option<String>,
}

/// Columns of the suite's rows: `id: Int64`, `name: Utf8` with nulls, quotes, line ends and other trouble, never empty.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
}

/// Whether epoch `n` has no rows.
pub(super) fn is_empty(n: u64) -> bool {
    n.is_multiple_of(3)
}

/// The rows of epoch `n`: none in every third, some withdrawn, in one or two batches.
pub fn expected(n: u64) -> Vec<SeenRow> {
    let rows = if is_empty(n) { 0 } else { 1 + n % 7 };
    let name = |i: u64| if (n + i).is_multiple_of(4) { None } else { Some(NAMES[(n + i) as usize % NAMES.len()].to_owned()) };
    (0..rows).map(|i| SeenRow { epoch: n, diff: if i % 3 == 2 { -1 } else { 1 }, id: (n * 100 + i) as i64, name: name(i) }).collect()
}

/// Epoch `n` as a sink is given it.
pub fn closed(n: u64) -> Closed {
    batches(n, &expected(n))
}

/// Epoch `n` as the sink of `subject` is given it.
pub(super) fn given(subject: &dyn SinkSubject, n: u64) -> Closed {
    if subject.keyed() { batches(n, &changes(n)) } else { closed(n) }
}

/// What readers of `subject` see when all epochs up to `n` are committed, as [`seen`] gives it.
pub(super) fn wanted(subject: &dyn SinkSubject, n: u64) -> Vec<SeenRow> {
    if !subject.keyed() {
        return (1..=n).flat_map(expected).collect();
    }
    let mut there = BTreeMap::new();
    (1..=n).for_each(|n| drop(change(&mut there, n)));
    there.into_values().map(plain).collect()
}

/// What readers of `subject` see; the rows of one with a key in the order of their ids.
pub(super) fn seen(subject: &mut dyn SinkSubject) -> Vec<SeenRow> {
    let seen = subject.seen();
    if !subject.keyed() {
        return seen;
    }
    let mut seen: Vec<_> = seen.into_iter().map(plain).collect();
    seen.sort();
    seen
}

/// A row of a place with a key, which does not tell when it came.
fn plain(row: SeenRow) -> SeenRow {
    SeenRow { epoch: 0, diff: 1, ..row }
}

/// The changes of epoch `n` where each id has one row: some come, some are replaced and some go.
fn changes(n: u64) -> Vec<SeenRow> {
    let mut there = BTreeMap::new();
    (1..n).for_each(|n| drop(change(&mut there, n)));
    change(&mut there, n)
}

/// Lets epoch `n` happen to the rows that are there, and gives its changes. One of its rows is never touched again.
fn change(there: &mut BTreeMap<i64, SeenRow>, n: u64) -> Vec<SeenRow> {
    let mut changes = vec![];
    for id in [n % 5, 5 + n % 7, 100 + n].into_iter().filter(|_| !is_empty(n)) {
        let old = there.remove(&(id as i64));
        let goes = old.is_some() && (n + id).is_multiple_of(4);
        changes.extend(old.map(|row| SeenRow { epoch: n, diff: -1, ..row }));
        if !goes {
            let name = (!(n + id).is_multiple_of(6)).then(|| format!("{} {n}", NAMES[(n + id) as usize % NAMES.len()]));
            let row = SeenRow { epoch: n, diff: 1, id: id as i64, name };
            there.insert(row.id, row.clone());
            changes.push(row);
        }
    }
    changes
}

/// An epoch with these rows, in one or two batches.
fn batches(n: u64, rows: &[SeenRow]) -> Closed {
    let batch = |rows: &[SeenRow]| {
        let ids = Int64Array::from_iter_values(rows.iter().map(|r| r.id));
        let names = StringArray::from_iter(rows.iter().map(|r| r.name.clone()));
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(names)]).expect("columns fit the schema");
        Changes::signed(batch, rows.iter().map(|r| r.diff).collect())
    };
    let (a, b) = rows.split_at(rows.len() / 2);
    Closed { epoch: Epoch(n), changes: [a, b].into_iter().filter(|part| !part.is_empty()).map(batch).collect() }
}
