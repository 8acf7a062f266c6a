//! The first half: batches become one partial per group, as few as memory allows, before anything crosses to another worker.

use super::{Aggregate, Func, Groups};
use crate::data::rowkey::{RowCodec, hash_columns, normalise};
use crate::data::{Changes, Diffs};
use crate::dataflow::Stream;
use crate::dataflow::partials::{Partials, Pending};
use crate::error::Result;
use crate::operator::eval::{Blame, evaluate};
use crate::operator::render::Failure;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

/// Groups held by one worker before it sends them on in the middle of an epoch.
const MOST_GROUPS: usize = 256 * 1024;

/// A stream of partials.
pub(in crate::operator) type PartialStream<'s> = timely::dataflow::Stream<'s, u64, Partials>;

pub(super) fn render<'s>(input: Stream<'s>, plan: Arc<Aggregate>, blame: Blame, failure: Failure) -> PartialStream<'s> {
    input.unary_frontier::<NoopBuilder<Partials>, _, _, _>(Pipeline, "Combine", move |_, _| {
        let mut pending = Pending::default();
        let mut combine = match Combine::new(plan.clone()) {
            Ok(c) => Some(c),
            Err(e) => {
                failure.set(e);
                None
            }
        };
        move |(input, frontier), output| {
            let Some(combine) = combine.as_mut() else { return };
            input.for_each(|time, data| {
                let epoch = *time.time();
                let tables = pending.of(epoch, || (time.retain(0), plan.tables()));
                if let Err(e) = combine.add(std::mem::take(data), epoch, tables, &blame) {
                    failure.set(e.at(format!("view {}, epoch {epoch}", blame.view)));
                }
                if tables.iter().any(|t| t.len() >= MOST_GROUPS) {
                    send(output, &time.retain(0), tables);
                }
            });
            while let Some((_, capability, mut tables)) = pending.complete(frontier) {
                send(output, &capability, &mut tables);
            }
        }
    })
}

type Output<'a, 'b> = timely::dataflow::operators::generic::OutputBuilderSession<'a, u64, NoopBuilder<Partials>>;

fn send(output: &mut Output<'_, '_>, capability: &Capability<u64>, tables: &mut [Groups]) {
    for (trace, table) in tables.iter_mut().enumerate().filter(|(_, t)| !t.is_empty()) {
        output.session_with_builder(capability).give_container(&mut table.drain(trace as u32));
    }
}

impl Aggregate {
    fn tables(&self) -> Vec<Groups> {
        std::iter::once(Groups::new(self.width)).chain(self.values.iter().map(|_| Groups::new(1))).collect()
    }
}

struct Combine {
    plan: Arc<Aggregate>,
    exprs: Vec<Arc<dyn datafusion::physical_plan::PhysicalExpr>>,
    keys: RowCodec,
    values: Vec<RowCodec>,
    hashes: Vec<u64>,
    groups: Vec<u32>,
}

impl Combine {
    fn new(plan: Arc<Aggregate>) -> Result<Self> {
        let keys = RowCodec::new(&plan.key_types, 0)?;
        let values = plan.values.iter().map(|v| RowCodec::new(std::slice::from_ref(&v.data_type), usize::from(v.descending)));
        let values = values.collect::<Result<_>>()?;
        let calls = plan.calls.iter().flat_map(|c| c.arg.iter().chain(&c.filter));
        let exprs = plan.keys.iter().chain(calls).cloned().collect();
        Ok(Self { plan, exprs, keys, values, hashes: vec![], groups: vec![] })
    }

    fn add(&mut self, changes: Changes, epoch: u64, tables: &mut [Groups], blame: &Blame) -> Result<()> {
        let (changes, mut columns) = evaluate(&self.exprs, changes, epoch, blame)?;
        if changes.is_empty() {
            return Ok(());
        }
        let mut rest = columns.split_off(self.plan.keys.len()).into_iter();
        let keys: Vec<ArrayRef> = columns.iter().map(normalise).collect();
        hash_columns(&keys, changes.len(), &mut self.hashes)?;
        self.groups.clear();
        let (own, of_values) = tables.split_first_mut().expect("the group's own table is always there");
        let rows = if keys.is_empty() { None } else { Some(self.keys.encode(&keys)?) };
        let key = |i: usize| rows.as_ref().map_or(&[][..], |r| r.row(i).data());
        for (i, hash) in self.hashes.iter().enumerate() {
            self.groups.push(own.number(*hash, *hash, key(i)));
        }
        let diffs = changes.diffs();
        add_word(own, &self.groups, diffs, 0, |_| true, |_| 1);
        for call in &self.plan.calls {
            let arg = if call.arg.is_some() { rest.next() } else { None };
            let filter = if call.filter.is_some() { rest.next() } else { None };
            let valid = Valid { arg: arg.as_ref().and_then(|a| a.logical_nulls()), filter: filter.as_ref().map(|f| f.as_boolean()) };
            match (call.func, arg) {
                (Func::Count, arg) => {
                    if arg.is_some() || filter.is_some() {
                        add_word(own, &self.groups, diffs, call.word, |i| valid.at(i), |_| 1);
                    }
                }
                (Func::Sum { wide } | Func::Avg { wide, .. }, Some(arg)) => {
                    add_word(own, &self.groups, diffs, call.word, |i| valid.at(i), |_| 1);
                    add_sum(own, &self.groups, diffs, call.word + 1, wide, &arg, &valid)?;
                }
                (Func::CountDistinct(v) | Func::Min(v) | Func::Max(v), Some(arg)) => {
                    let encoded = self.values[v].encode(&[normalise(&arg)])?;
                    let mut whole = Vec::new();
                    for i in (0..changes.len()).filter(|i| valid.at(*i)) {
                        whole.clear();
                        whole.extend_from_slice(key(i));
                        let value = encoded.row(i);
                        whole.extend_from_slice(value.data());
                        let hash = value.data().iter().fold(self.hashes[i], |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
                        let g = of_values[v].number(hash, self.hashes[i], &whole) as usize;
                        of_values[v].accs.get_mut(g)[0] += i128::from(changes.diff(i));
                    }
                }
                (_, None) => return Err(crate::Error::internal("an aggregate over values came without an argument")),
            }
        }
        Ok(())
    }
}

struct Valid<'a> {
    arg: Option<arrow::buffer::NullBuffer>,
    filter: Option<&'a BooleanArray>,
}

impl Valid<'_> {
    #[inline(always)]
    fn at(&self, i: usize) -> bool {
        self.arg.as_ref().is_none_or(|n| n.is_valid(i)) && self.filter.is_none_or(|f| f.is_valid(i) && f.value(i))
    }
}

#[inline(always)]
fn add_word(table: &mut Groups, groups: &[u32], diffs: &Diffs, word: usize, valid: impl Fn(usize) -> bool, value: impl Fn(usize) -> i128) {
    let width = table.accs.width();
    let words = table.accs.words_mut();
    match diffs {
        Diffs::Ones => groups.iter().enumerate().filter(|(i, _)| valid(*i)).for_each(|(i, g)| {
            let w = &mut words[*g as usize * width + word];
            *w = w.wrapping_add(value(i));
        }),
        Diffs::Each(d) => groups.iter().enumerate().filter(|(i, _)| valid(*i)).for_each(|(i, g)| {
            let w = &mut words[*g as usize * width + word];
            *w = w.wrapping_add(value(i).wrapping_mul(i128::from(d[i])));
        }),
    }
}

fn add_sum(table: &mut Groups, groups: &[u32], diffs: &Diffs, word: usize, wide: bool, arg: &ArrayRef, valid: &Valid<'_>) -> Result<()> {
    let ok = |i: usize| valid.at(i);
    match arg.data_type() {
        DataType::Decimal128(..) => {
            let values = arg.as_primitive::<Decimal128Type>().values();
            if wide {
                add_word(table, groups, diffs, word, ok, |i| i128::from(values[i] as u64));
                add_word(table, groups, diffs, word + 1, ok, |i| values[i] >> 64);
            } else {
                add_word(table, groups, diffs, word, ok, |i| values[i]);
            }
        }
        DataType::UInt64 => {
            let values = arg.as_primitive::<UInt64Type>().values();
            add_word(table, groups, diffs, word, ok, |i| i128::from(values[i]));
        }
        _ => {
            let longs = cast(arg, &DataType::Int64)?;
            let values = longs.as_primitive::<Int64Type>().values();
            add_word(table, groups, diffs, word, ok, |i| i128::from(values[i]));
        }
    }
    Ok(())
}
