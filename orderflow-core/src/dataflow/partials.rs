//! [`Partials`]: what one worker found out about keys, on its way to the worker that owns them.
//!
//! Invariant: keys are `[bucket][row bytes]`, ascending and unique within one container, so that a split by owner is a cut, and a
//! merge of containers is a merge of sorted lists.

use crate::data::rowkey::owner;
use crate::dataflow::arrange::{Accs, Bytes};
use std::collections::BTreeMap;
use std::io::Write;
use timely::Accountable;
use timely::communication::Push;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::Capability;
use timely::progress::frontier::MutableAntichain;

/// Changes of accumulators by key, for one trace of an operator.
#[derive(Clone, Debug, Default)]
pub struct Partials {
    /// Which of the operator's traces they are for.
    pub trace: u32,
    /// Keys, ascending and unique.
    pub keys: Bytes,
    /// What is to be added to each key's accumulators.
    pub accs: Accs,
}

impl Accountable for Partials {
    fn record_count(&self) -> i64 {
        self.keys.count() as i64
    }
}

impl Partials {
    fn cut(&self, from: usize, to: usize) -> Partials {
        let bytes = (from..to).map(|i| self.keys.get(i).len()).sum();
        let (mut keys, mut accs) = (Bytes::with_sizes(to - from, bytes), Accs::with_width(self.accs.width(), to - from));
        for i in from..to {
            keys.push(self.keys.get(i));
            accs.push(self.accs.get(i));
        }
        Partials { trace: self.trace, keys, accs }
    }

    /// Whether keys ascend, as they must.
    pub fn is_sorted(&self) -> bool {
        (1..self.keys.count()).all(|i| self.keys.get(i - 1) < self.keys.get(i))
    }

    /// The same content with keys ascending.
    pub fn sorted(&self) -> Partials {
        let mut order: Vec<usize> = (0..self.keys.count()).collect();
        order.sort_by(|a, b| self.keys.get(*a).cmp(self.keys.get(*b)));
        let mut out = Partials { trace: self.trace, keys: Bytes::default(), accs: Accs::with_width(self.accs.width(), order.len()) };
        for i in order {
            out.keys.push(self.keys.get(i));
            out.accs.push(self.accs.get(i));
        }
        out
    }

    /// Merges sorted containers of one trace into one; equal keys add up. Keys whose sum is zero stay: they were touched.
    pub fn merge(mut parts: Vec<Partials>) -> Partials {
        while parts.len() > 1 {
            let mut merged = Vec::with_capacity(parts.len().div_ceil(2));
            let mut left = parts.into_iter();
            while let Some(a) = left.next() {
                merged.push(match left.next() {
                    Some(b) => Self::merge_two(&a, &b),
                    None => a,
                });
            }
            parts = merged;
        }
        parts.pop().unwrap_or_default()
    }

    fn merge_two(a: &Partials, b: &Partials) -> Partials {
        let n = a.keys.count() + b.keys.count();
        let mut out = Partials { trace: a.trace, keys: Bytes::with_sizes(n, 0), accs: Accs::with_width(a.accs.width(), n) };
        let (mut i, mut j) = (0, 0);
        while i < a.keys.count() || j < b.keys.count() {
            let order = match (i < a.keys.count(), j < b.keys.count()) {
                (true, true) => a.keys.get(i).cmp(b.keys.get(j)),
                (true, false) => std::cmp::Ordering::Less,
                _ => std::cmp::Ordering::Greater,
            };
            let (from, at) = if order.is_le() { (a, i) } else { (b, j) };
            out.keys.push(from.keys.get(at));
            out.accs.push(from.accs.get(at));
            if order.is_eq() {
                let last = out.accs.count() - 1;
                out.accs.get_mut(last).iter_mut().zip(b.accs.get(j)).for_each(|(x, y)| *x = x.wrapping_add(*y));
            }
            i += usize::from(order.is_le());
            j += usize::from(order.is_ge());
        }
        out
    }
}

/// What was found out in each epoch, with the epoch's capability, held until nothing more can come for it.
#[derive(Default)]
pub struct Pending<T>(BTreeMap<u64, (Capability<u64>, T)>);

impl<T> Pending<T> {
    /// What is there for `epoch` so far, to be added to; `first` is asked for the first time.
    pub fn of(&mut self, epoch: u64, first: impl FnOnce() -> (Capability<u64>, T)) -> &mut T {
        &mut self.0.entry(epoch).or_insert_with(first).1
    }

    /// The oldest epoch, if it is complete.
    pub fn complete(&mut self, frontier: &MutableAntichain<u64>) -> Option<(u64, Capability<u64>, T)> {
        let entry = self.0.first_entry().filter(|e| !frontier.less_equal(e.key()))?;
        let (epoch, (capability, found)) = entry.remove_entry();
        Some((epoch, capability, found))
    }
}

/// Sends every key to the worker that owns its bucket.
pub struct ByBucket;

impl Distributor<Partials> for ByBucket {
    fn partition<T: Clone, P: Push<Message<T, Partials>>>(&mut self, container: &mut Partials, time: &T, pushers: &mut [P]) {
        let mut whole = std::mem::take(container);
        let (n, peers) = (whole.keys.count(), pushers.len());
        // ascending keys: where both ends have one owner, so has all between
        if n > 0 && owner(whole.keys.get(0)[0], peers) == owner(whole.keys.get(n - 1)[0], peers) {
            let target = owner(whole.keys.get(0)[0], peers);
            return Message::push_at(&mut whole, time.clone(), &mut pushers[target]);
        }
        let mut from = 0;
        while from < n {
            let target = owner(whole.keys.get(from)[0], peers);
            let mut to = from + 1;
            while to < n && owner(whole.keys.get(to)[0], peers) == target {
                to += 1;
            }
            let mut part = whole.cut(from, to);
            Message::push_at(&mut part, time.clone(), &mut pushers[target]);
            from = to;
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Partials>>>(&mut self, _: &T, _: &mut [P]) {}
}

/// The exchange of [`Partials`].
pub fn by_bucket() -> DistributorPact<impl FnOnce(usize) -> ByBucket> {
    DistributorPact(|_| ByBucket)
}

/// `[trace u32][width u32][keys u64]` then, for each key, `[length u64][bytes][words, 16 bytes each]`, all little-endian
fn encode(p: &Partials) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + p.keys.memory() + p.accs.memory());
    out.extend_from_slice(&p.trace.to_le_bytes());
    out.extend_from_slice(&(p.accs.width() as u32).to_le_bytes());
    out.extend_from_slice(&(p.keys.count() as u64).to_le_bytes());
    for (i, key) in p.keys.iter().enumerate() {
        out.extend_from_slice(&(key.len() as u64).to_le_bytes());
        out.extend_from_slice(key);
        p.accs.get(i).iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
    }
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

impl ContainerBytes for Partials {
    fn length_in_bytes(&self) -> usize {
        encode(self).len()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        writer.write_all(&encode(self)).expect("timely gives a buffer of length_in_bytes()");
    }

    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let mut rest: &[u8] = &bytes;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head
        };
        let trace = u32::from_le_bytes(take(4).try_into().expect("four bytes"));
        let width = u32::from_le_bytes(take(4).try_into().expect("four bytes")) as usize;
        let n = u64::from_le_bytes(take(8).try_into().expect("eight bytes")) as usize;
        let (mut keys, mut accs) = (Bytes::with_sizes(n, 0), Accs::with_width(width, n));
        for _ in 0..n {
            let len = u64::from_le_bytes(take(8).try_into().expect("eight bytes")) as usize;
            keys.push(take(len));
            for word in accs.push_zero() {
                *word = i128::from_le_bytes(take(16).try_into().expect("sixteen bytes"));
            }
        }
        Partials { trace, keys, accs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tier;
    use proptest::prelude::*;

    fn partials(rows: &BTreeMap<Vec<u8>, i128>) -> Partials {
        let mut p = Partials { trace: 3, keys: Bytes::default(), accs: Accs::with_width(1, 0) };
        for (k, v) in rows {
            p.keys.push(k);
            p.accs.push(&[*v]);
        }
        p
    }

    fn rows(p: &Partials) -> Vec<(Vec<u8>, i128)> {
        p.keys.iter().enumerate().map(|(i, k)| (k.to_vec(), p.accs.get(i)[0])).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
        #[test]
        fn merging_is_adding(parts in prop::collection::vec(prop::collection::btree_map(prop::collection::vec(0u8..4, 1..4), -9i128..9, 0..20), 0..6)) {
            let mut expected: BTreeMap<Vec<u8>, i128> = BTreeMap::new();
            parts.iter().flatten().for_each(|(k, v)| *expected.entry(k.clone()).or_default() += v);
            let merged = Partials::merge(parts.iter().map(partials).collect());
            prop_assert_eq!(rows(&merged), expected.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn partials_survive_the_wire(part in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..9), any::<i128>(), 1..20)) {
            let p = partials(&part);
            let mut wire = vec![];
            p.into_bytes(&mut wire);
            prop_assert_eq!(wire.len(), p.length_in_bytes());
            let back = Partials::from_bytes(timely::bytes::arc::BytesMut::from(wire).freeze());
            prop_assert_eq!((rows(&back), back.trace), (rows(&p), 3));
        }
    }
}
