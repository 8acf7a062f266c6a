//! A hash table from key bytes to accumulators: what one worker adds up before anything is sent.
//!
//! Invariant: every key is there once; [`Groups::drain`] gives them ascending by (bucket, bytes), whatever order they came in.

use crate::data::rowkey::bucket;
use crate::dataflow::arrange::{Accs, Bytes};
use crate::dataflow::partials::Partials;
use hashbrown::HashTable;

/// Groups seen since the last drain.
pub struct Groups {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    buckets: Vec<u8>,
    keys: Bytes,
    /// Accumulators, by group number.
    pub accs: Accs,
    width: usize,
}

impl Groups {
    /// No groups; each will have `width` words.
    pub fn new(width: usize) -> Self {
        Self { table: HashTable::new(), hashes: vec![], buckets: vec![], keys: Bytes::default(), accs: Accs::with_width(width, 0), width }
    }

    /// Number of the group with this key; `hash` is a hash of all of `key`, `home` the hash that chooses its bucket.
    #[inline]
    pub fn number(&mut self, hash: u64, home: u64, key: &[u8]) -> u32 {
        let (keys, hashes) = (&self.keys, &self.hashes);
        let entry = self.table.entry(hash, |g| hashes[*g as usize] == hash && keys.get(*g as usize) == key, |g| hashes[*g as usize]);
        match entry {
            hashbrown::hash_table::Entry::Occupied(g) => *g.get(),
            hashbrown::hash_table::Entry::Vacant(v) => {
                let g = self.hashes.len() as u32;
                v.insert(g);
                self.hashes.push(hash);
                self.buckets.push(bucket(home));
                self.keys.push(key);
                self.accs.push_zero();
                g
            }
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All groups, sorted, for trace `trace`; the table is empty afterwards.
    pub fn drain(&mut self, trace: u32) -> Partials {
        let n = self.len();
        // sorted by bucket and the first 15 bytes, by the rest only where those are equal
        let mut order: Vec<(u128, u32)> = (0..n as u32).map(|g| (self.prefix(g), g)).collect();
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.keys.get(a.1 as usize).cmp(self.keys.get(b.1 as usize))));
        let (mut keys, mut accs) = (Bytes::with_sizes(n, n + self.keys.memory()), Accs::with_width(self.width, n));
        for (_, g) in order {
            keys.push_pair(self.buckets[g as usize], self.keys.get(g as usize));
            accs.push(self.accs.get(g as usize));
        }
        *self = Groups { table: std::mem::take(&mut self.table), ..Groups::new(self.width) };
        self.table.clear();
        Partials { trace, keys, accs }
    }

    fn prefix(&self, g: u32) -> u128 {
        let key = self.keys.get(g as usize);
        let mut head = [0u8; 16];
        head[0] = self.buckets[g as usize];
        let n = key.len().min(15);
        head[1..=n].copy_from_slice(&key[..n]);
        u128::from_be_bytes(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tier;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
        #[test]
        fn draining_is_a_sorted_sum(rows in prop::collection::vec((prop::collection::vec(0u8..2, 0..20), -3i128..4), 0..200)) {
            let mut groups = Groups::new(1);
            let mut expected: BTreeMap<Vec<u8>, i128> = BTreeMap::new();
            for (key, n) in &rows {
                // one key has one bucket
                let home = (key.len() as u64) << 56;
                let g = groups.number(key.iter().fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(*b)), home, key) as usize;
                groups.accs.get_mut(g)[0] += n;
                *expected.entry([&[bucket(home)], &key[..]].concat()).or_default() += n;
            }
            let p = groups.drain(0);
            let got: Vec<(Vec<u8>, i128)> = p.keys.iter().enumerate().map(|(i, k)| (k.to_vec(), p.accs.get(i)[0])).collect();
            prop_assert_eq!(got, expected.into_iter().collect::<Vec<_>>());
            prop_assert!(groups.is_empty());
        }
    }
}
