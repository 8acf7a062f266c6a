//! The second half: partials of an epoch meet the state, and the rows that changed leave.

use super::combine::PartialStream;
use super::value::{Row, Value, column};
use super::{Aggregate, Func};
use crate::data::rowkey::{RowCodec, bucket, hash_columns, owner};
use crate::data::{Changes, Rejected};
use crate::dataflow::Stream;
use crate::dataflow::arrange::{Acc, Accs, Arrangement, Bytes, Lookup, Reader};
use crate::dataflow::partials::{Partials, Pending, by_bucket};
use crate::error::Result;
use crate::operator::eval::{Blame, json_row};
use crate::operator::keep::State;
use crate::operator::render::Failure;
use crate::operator::root::Root;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::operators::Operator;

/// Rows of one output batch, at most.
const BATCH: usize = 64 * 1024;

pub(super) fn render<'s>(
    partials: PartialStream<'s>,
    plan: Arc<Aggregate>,
    blame: Blame,
    failure: Failure,
    root: Root,
) -> (Stream<'s>, AggregateState) {
    let state: Rc<RefCell<Option<AggregateReaders>>> = Rc::default();
    let shared = state.clone();
    let shape = plan.clone();
    let scope = partials.scope();
    let stream = partials.unary_frontier::<NoopBuilder<Changes>, _, _, _>(by_bucket(), "Fold", move |capability, info| {
        let activator = scope.activator_for(info.address.clone());
        let home = plan.keys.is_empty() && owner(bucket(empty_hash()), scope.peers()) == scope.index();
        let traces: Vec<Arrangement> = (0..=plan.values.len()).map(|_| Arrangement::new(info.clone(), activator.clone())).collect();
        *shared.borrow_mut() = Some(AggregateReaders { readers: traces.iter().map(Arrangement::reader).collect(), home });
        root.built(traces);
        // without keys there is one row from the first epoch on, at the worker that owns the empty key; what is restored shows its rows then
        let mut pending = Pending::default();
        if home || root.restoring {
            pending.of(root.first, || (capability.delayed(&root.first), vec![]));
        }
        drop(capability);
        let rows = blame.rows_of("aggregate");
        let mut fold = match Codecs::new(&plan) {
            Ok(codecs) => Some(Fold { plan, codecs, root, home, blame, shown: false }),
            Err(e) => {
                failure.set(e);
                None
            }
        };
        move |(input, frontier), output| {
            input.for_each(|time, data| pending.of(*time.time(), || (time.retain(0), vec![])).push(std::mem::take(data)));
            while let Some((epoch, capability, parts)) = pending.complete(frontier) {
                let Some(fold) = fold.as_mut() else { continue };
                match fold.epoch(epoch, parts) {
                    Ok(batches) => {
                        for mut changes in batches {
                            rows.add(changes.len());
                            output.session_with_builder(&capability).give_container(&mut changes);
                        }
                    }
                    Err(e) => failure.set(e.at(format!("view {}, epoch {epoch}", fold.blame.view))),
                }
            }
        }
    });
    (stream, AggregateState { plan: shape, readers: state })
}

fn empty_hash() -> u64 {
    let mut out = vec![];
    hash_columns(&[], 1, &mut out).expect("hashing no column cannot fail");
    out[0]
}

pub(super) struct Codecs {
    keys: RowCodec,
    values: Vec<RowCodec>,
    nulls: Vec<Vec<u8>>,
}

impl Codecs {
    pub(super) fn new(plan: &Aggregate) -> Result<Self> {
        let keys = RowCodec::new(&plan.key_types, 0)?;
        let mut values = vec![];
        let mut nulls = vec![];
        for v in &plan.values {
            let codec = RowCodec::new(std::slice::from_ref(&v.data_type), usize::from(v.descending))?;
            nulls.push(codec.encode(&[new_null_array(&v.data_type, 1)])?.row(0).data().to_vec());
            values.push(codec);
        }
        Ok(Self { keys, values, nulls })
    }

    /// Rows of groups (keys with their bucket in front) and the values of each call, as a batch.
    pub(super) fn batch(&self, plan: &Aggregate, keys: &[&[u8]], values: Vec<Vec<Value>>) -> Result<RecordBatch> {
        let n = keys.len();
        let mut columns: Vec<ArrayRef> = if plan.keys.is_empty() { vec![] } else { self.keys.decode(keys.iter().map(|k| &k[1..]))? };
        for (call, values) in plan.calls.iter().zip(values) {
            columns.push(column(call, values, &self.values, &self.nulls)?);
        }
        Ok(RecordBatch::try_new_with_options(plan.schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(n)))?)
    }
}

struct Fold {
    plan: Arc<Aggregate>,
    codecs: Codecs,
    root: Root,
    /// Whether the only row of an aggregate without keys is shown here.
    home: bool,
    blame: Blame,
    /// Whether the only row of an aggregate without keys was shown before.
    shown: bool,
}

impl Fold {
    fn epoch(&mut self, epoch: u64, parts: Vec<Partials>) -> Result<Vec<Changes>> {
        if let Some(restored) = self.root.ignores(epoch) {
            self.shown = true;
            return if restored.show && epoch == restored.upto { self.all_rows(epoch) } else { Ok(vec![]) };
        }
        let root = self.root.clone();
        let mut traces = root.traces.borrow_mut();
        let mut by_trace: Vec<Vec<Partials>> = traces.iter().map(|_| vec![]).collect();
        for p in parts {
            by_trace[p.trace as usize].push(p);
        }
        let mut merged = by_trace.into_iter().map(Partials::merge);
        let mut own = merged.next().unwrap_or_default();
        if own.keys.count() == 0 && self.home {
            own = Partials { trace: 0, keys: Bytes::default(), accs: Accs::with_width(self.plan.width, 1) };
            own.keys.push(&[bucket(empty_hash())]);
            own.accs.push_zero();
        }
        // values first: distinct counts become words of the group, least and greatest values are looked up before and after
        let mut before = vec![];
        for (v, p) in merged.enumerate() {
            before.push(traces[v + 1].cursor());
            let call = &self.plan.calls[self.plan.values[v].call];
            if matches!(call.func, Func::CountDistinct(_)) {
                count_transitions(&mut before[v], &p, epoch, &mut own, call.word);
            }
            traces[v + 1].insert(epoch, p.keys, p.accs);
        }
        let mut after: Vec<Lookup> = traces[1..].iter_mut().map(Arrangement::cursor).collect();
        let mut lookup = traces[0].cursor();
        let (mut acc, mut out) = (Acc::zero(self.plan.width), Out::new(&self.plan));
        let (mut old_values, mut new_values) = (vec![], vec![]);
        let mut batches = vec![];
        for (i, key) in own.keys.iter().enumerate() {
            lookup.get(key, epoch, &mut acc);
            let mut old = self.plan.row(&acc, |v| first(&mut before[v], key, epoch), &mut old_values);
            if self.plan.keys.is_empty() && !self.shown {
                old = Row::Absent;
                old_values.clear();
                self.shown = true;
            }
            acc.add(own.accs.get(i));
            let new = self.plan.row(&acc, |v| first(&mut after[v], key, epoch), &mut new_values);
            if old != new || old_values != new_values {
                out.push(key, old, &mut old_values, -1);
                out.push(key, new, &mut new_values, 1);
            }
            if out.keys.len() >= BATCH {
                let errors = std::mem::take(&mut out.errors);
                batches.extend(std::mem::replace(&mut out, Out { errors, ..Out::new(&self.plan) }).changes(&self.plan, &self.codecs)?);
            }
        }
        drop(lookup);
        self.refuse(epoch, std::mem::take(&mut out.errors));
        batches.extend(out.changes(&self.plan, &self.codecs)?);
        traces[0].insert(epoch, own.keys, own.accs);
        Ok(batches)
    }

    /// Groups that cannot be shown, or can be again.
    fn refuse(&self, epoch: u64, errors: Vec<(&[u8], String, i64)>) {
        for (key, reason, diff) in errors {
            let row = self.codecs.batch(&self.plan, &[key], vec![vec![Value::Null]; self.plan.calls.len()]);
            let bytes = row.map_or_else(|_| key.to_vec(), |r| json_row(&Changes::inserts(r), 0));
            self.blame.rejects.push(epoch, Rejected { from: self.blame.view.clone(), place: None, bytes, reason, diff });
        }
    }

    /// Every row, as if it came at `epoch`: what was restored, for those who were not.
    fn all_rows(&mut self, epoch: u64) -> Result<Vec<Changes>> {
        let root = self.root.clone();
        let mut traces = root.traces.borrow_mut();
        let (own, values) = traces.split_first_mut().expect("the group's own trace is always there");
        let mut values: Vec<Lookup> = values.iter_mut().map(Arrangement::cursor).collect();
        let (mut keys, mut accs) = (Bytes::default(), Accs::with_width(self.plan.width, 0));
        own.cursor().scan(epoch, self.plan.width, |key, acc| {
            keys.push(key);
            accs.push(&acc.0);
        });
        if keys.count() == 0 && self.home {
            keys.push(&[bucket(empty_hash())]);
            accs.push_zero();
        }
        let (mut out, mut row, mut batches) = (Out::new(&self.plan), vec![], vec![]);
        let mut acc = Acc::zero(self.plan.width);
        for (i, key) in keys.iter().enumerate() {
            acc.0.copy_from_slice(accs.get(i));
            let shown = self.plan.row(&acc, |v| first(&mut values[v], key, epoch), &mut row);
            out.push(key, shown, &mut row, 1);
            if out.keys.len() >= BATCH {
                let errors = std::mem::take(&mut out.errors);
                batches.extend(std::mem::replace(&mut out, Out { errors, ..Out::new(&self.plan) }).changes(&self.plan, &self.codecs)?);
            }
        }
        self.refuse(epoch, std::mem::take(&mut out.errors));
        batches.extend(out.changes(&self.plan, &self.codecs)?);
        Ok(batches)
    }
}

/// Values that appeared or vanished change the distinct count of their group by one.
fn count_transitions(before: &mut Lookup, values: &Partials, epoch: u64, own: &mut Partials, word: usize) {
    let mut acc = Acc::zero(1);
    let mut g = 0;
    for (i, key) in values.keys.iter().enumerate() {
        before.get(key, epoch, &mut acc);
        let (old, new) = (acc.0[0] > 0, acc.0[0] + values.accs.get(i)[0] > 0);
        if old == new {
            continue;
        }
        // both lists ascend and group keys are prefix-free, so the group of a value is the last key that is not greater
        while g + 1 < own.keys.count() && own.keys.get(g + 1) <= key {
            g += 1;
        }
        own.accs.get_mut(g)[word] += if new { 1 } else { -1 };
    }
}

fn first(lookup: &mut Lookup, group: &[u8], upto: u64) -> Option<Vec<u8>> {
    lookup.first_with(group, upto).map(|key| key[group.len()..].to_vec())
}

struct Out<'a> {
    keys: Vec<&'a [u8]>,
    /// By call.
    values: Vec<Vec<Value>>,
    diffs: Vec<i64>,
    errors: Vec<(&'a [u8], String, i64)>,
}

impl<'a> Out<'a> {
    fn new(plan: &Aggregate) -> Self {
        Self { keys: vec![], values: vec![vec![]; plan.calls.len()], diffs: vec![], errors: vec![] }
    }

    fn push(&mut self, key: &'a [u8], row: Row, values: &mut Vec<Value>, diff: i64) {
        match row {
            Row::Absent => {}
            Row::Shown => {
                self.keys.push(key);
                values.drain(..).zip(&mut self.values).for_each(|(v, column)| column.push(v));
                self.diffs.push(diff);
            }
            Row::Refused(reason) => self.errors.push((key, reason, diff)),
        }
    }

    fn changes(self, plan: &Aggregate, codecs: &Codecs) -> Result<Option<Changes>> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        Ok(Some(Changes::signed(codecs.batch(plan, &self.keys, self.values)?, self.diffs)))
    }
}

struct AggregateReaders {
    readers: Vec<Reader>,
    home: bool,
}

/// The groups of this worker, readable as of any epoch that was not forgotten.
#[derive(Clone)]
pub struct AggregateState {
    plan: Arc<Aggregate>,
    readers: Rc<RefCell<Option<AggregateReaders>>>,
}

impl State for AggregateState {
    fn forget(&self, epoch: u64) {
        if let Some(r) = self.readers.borrow_mut().as_mut() {
            r.readers.iter_mut().for_each(|r| r.forget(epoch));
        }
    }

    fn scan(&self, upto: u64) -> Result<Vec<RecordBatch>> {
        let mut readers = self.readers.borrow_mut();
        let Some(readers) = readers.as_mut() else { return Ok(vec![]) };
        let codecs = Codecs::new(&self.plan)?;
        let (own, values) = readers.readers.split_first_mut().expect("the group's own trace is always there");
        let mut values: Vec<Lookup> = values.iter_mut().map(Reader::lookup).collect();
        let (mut keys, mut row) = (Bytes::default(), vec![]);
        let mut columns: Vec<Vec<Value>> = vec![vec![]; self.plan.calls.len()];
        own.lookup().scan(upto, self.plan.width, |key, acc| {
            if self.plan.row(acc, |v| first(&mut values[v], key, upto), &mut row) == Row::Shown {
                keys.push(key);
                row.drain(..).zip(&mut columns).for_each(|(v, column)| column.push(v));
            }
        });
        if keys.count() == 0 && readers.home && upto >= 1 && self.plan.row(&Acc::zero(self.plan.width), |_| None, &mut row) == Row::Shown {
            keys.push(&[0]);
            row.drain(..).zip(&mut columns).for_each(|(v, column)| column.push(v));
        }
        let keys: Vec<&[u8]> = keys.iter().collect();
        if keys.is_empty() { Ok(vec![]) } else { Ok(vec![codecs.batch(&self.plan, &keys, columns)?]) }
    }

    fn updates(&self) -> usize {
        self.readers.borrow().as_ref().map_or(0, |r| r.readers.iter().map(Reader::updates).sum())
    }
}
