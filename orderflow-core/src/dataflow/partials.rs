//! [`Partials`]: what one worker found out about keys, on its way to the worker that owns them.
//!
//! Invariant: keys are `[bucket][row bytes]`, ascending and unique within one container, so that a split by owner is a cut, and a
//! merge of containers is a merge of sorted lists.

use crate::data::rowkey::owner;
use crate::dataflow::arrange::{Accs, Bytes};
use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};
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
        if parts.len() < 2 {
            return parts.pop().unwrap_or_default();
        }
        Self::sum(parts[0].trace, &parts.iter().map(|p| (&p.keys, &p.accs)).collect::<Vec<_>>())
    }

    /// The same of keys, ascending and unique in each part, with what is to be added.
    pub fn sum(trace: u32, parts: &[(&Bytes, &Accs)]) -> Partials {
        let keys = parts.iter().map(|(keys, _)| keys.count()).sum();
        let bytes = parts.iter().map(|(keys, _)| keys.bytes()).sum();
        let width = parts.iter().map(|(_, accs)| accs.width()).max().unwrap_or(0);
        let mut out = Partials { trace, keys: Bytes::with_sizes(keys, bytes), accs: Accs::with_width(width, keys) };
        let mut filled: Vec<(&Bytes, &Accs)> = parts.iter().copied().filter(|(keys, _)| keys.count() > 0).collect();
        filled.sort_by_key(|(keys, _)| keys.get(0));
        // what several workers found out has no key in common: one after the other
        let mut rest = filled.as_slice();
        while let Some((first, _)) = rest.first() {
            let mut last = first.last();
            let apart = (1..rest.len()).find(|i| {
                let (keys, _) = rest[*i];
                let apart = Some(keys.get(0)) > last;
                last = last.max(keys.last());
                apart
            });
            let (together, after) = rest.split_at(apart.unwrap_or(rest.len()));
            match together {
                [(keys, accs)] => {
                    out.keys.append(keys);
                    out.accs.append(accs);
                }
                [a, b] => out.add_two(*a, *b),
                _ => out.add_all(together),
            }
            rest = after;
        }
        if out.keys.count() < keys / 2 {
            out.keys.shrink();
            out.accs.shrink();
        }
        out
    }

    fn add_two(&mut self, a: (&Bytes, &Accs), b: (&Bytes, &Accs)) {
        let (mut i, mut j) = (0, 0);
        while i < a.0.count() || j < b.0.count() {
            let order = match (i < a.0.count(), j < b.0.count()) {
                (true, true) => a.0.get(i).cmp(b.0.get(j)),
                (true, false) => Ordering::Less,
                _ => Ordering::Greater,
            };
            let (from, at) = if order.is_le() { (a, i) } else { (b, j) };
            self.keys.push(from.0.get(at));
            self.accs.push(from.1.get(at));
            if order.is_eq() {
                self.add_to_last(b.1.get(j));
            }
            i += usize::from(order.is_le());
            j += usize::from(order.is_ge());
        }
    }

    /// The least of all heads again and again: each key is copied once, however many parts there are. None is empty.
    fn add_all(&mut self, parts: &[(&Bytes, &Accs)]) {
        let mut at = vec![0; parts.len()];
        let first = parts.iter().enumerate().map(|(part, (keys, _))| (keys.get(0), part));
        let mut heads: BinaryHeap<_> = first.map(|(key, part)| Reverse((begins(key), key, part))).collect();
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((_, key, part)) = *head;
            let (keys, accs) = parts[part];
            if self.keys.last() == Some(key) {
                self.add_to_last(accs.get(at[part]));
            } else {
                self.keys.push(key);
                self.accs.push(accs.get(at[part]));
            }
            at[part] += 1;
            if at[part] < keys.count() {
                let key = keys.get(at[part]);
                *head = Reverse((begins(key), key, part));
            } else {
                PeekMut::pop(head);
            }
        }
    }

    #[inline]
    fn add_to_last(&mut self, words: &[i128]) {
        let last = self.accs.count() - 1;
        self.accs.get_mut(last).iter_mut().zip(words).for_each(|(x, y)| *x = x.wrapping_add(*y));
    }
}

/// The first bytes of a key, which mostly tell two of them apart: they compare as the keys do, or are equal.
#[inline]
fn begins(key: &[u8]) -> u128 {
    let mut first = [0; 16];
    let n = key.len().min(16);
    first[..n].copy_from_slice(&key[..n]);
    u128::from_be_bytes(first)
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
        fn parts_that_are_apart_and_keys_that_begin_alike_add_up_too(
            parts in prop::collection::vec((0u8..3, prop::collection::btree_map(prop::collection::vec(0u8..2, 14..19), -9i128..9, 0..20)), 0..9),
        ) {
            let parts: Vec<BTreeMap<Vec<u8>, i128>> =
                parts.into_iter().map(|(bucket, rows)| rows.into_iter().map(|(k, v)| ([vec![bucket], k].concat(), v)).collect()).collect();
            let mut expected: BTreeMap<Vec<u8>, i128> = BTreeMap::new();
            parts.iter().flatten().for_each(|(k, v)| *expected.entry(k.clone()).or_default() += v);
            let parts: Vec<Partials> = parts.iter().map(partials).collect();
            let sum = Partials::sum(3, &parts.iter().map(|p| (&p.keys, &p.accs)).collect::<Vec<_>>());
            prop_assert_eq!(rows(&sum), expected.into_iter().collect::<Vec<_>>());
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
