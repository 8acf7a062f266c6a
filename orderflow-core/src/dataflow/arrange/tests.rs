//! The trace against a map, under random inserts, compaction and readers that lag.

use super::*;
use crate::testing::tier;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

fn with_arrangement(f: impl FnOnce(&mut Arrangement) + Send + Sync + 'static) {
    timely::execute_directly(move |worker| {
        let info = OperatorInfo::new(0, 0, Rc::from([0usize, 0]));
        let activator = worker.activator_for(Rc::from([0usize, 0]));
        f(&mut Arrangement::new(info, activator));
    });
}

fn insert(a: &mut Arrangement, epoch: u64, rows: &BTreeMap<Vec<u8>, [i128; 2]>) {
    let (mut keys, mut accs) = (Bytes::default(), Accs::with_width(2, 0));
    for (k, v) in rows {
        keys.push(k);
        accs.push(v);
    }
    a.insert(epoch, keys, accs);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tier::of(48, 200, 2_000), ..ProptestConfig::default() })]
    #[test]
    fn a_lagging_reader_sees_the_past(epochs in prop::collection::vec(prop::collection::btree_map(
        prop::collection::vec(0u8..3, 1..4), (-2i128..3, -5i128..6).prop_map(|(a, b)| [a, b]), 0..12), 1..40), lag in 0usize..6) {
        with_arrangement(move |a| {
            let mut reader = a.reader();
            let mut history: Vec<BTreeMap<Vec<u8>, [i128; 2]>> = vec![BTreeMap::new()];
            for (i, rows) in epochs.iter().enumerate() {
                let epoch = i as u64 + 1;
                insert(a, epoch, rows);
                let mut state = history[i].clone();
                for (k, v) in rows {
                    let s = state.entry(k.clone()).or_default();
                    *s = [s[0] + v[0], s[1] + v[1]];
                }
                state.retain(|_, v| *v != [0, 0]);
                history.push(state);
                let past = epoch.saturating_sub(lag as u64).max(1);
                reader.forget(past);
                let expected = &history[past as usize];
                let mut got = BTreeMap::new();
                reader.lookup().scan(past, 2, |k, acc| { got.insert(k.to_vec(), [acc.0[0], acc.0[1]]); });
                assert_eq!(&got, expected, "epoch {past} seen at {epoch}");
                let (mut lookup, mut acc) = (reader.lookup(), Acc::zero(2));
                for key in rows.keys() {
                    let found = lookup.get(key, past, &mut acc).then(|| [acc.0[0], acc.0[1]]);
                    assert_eq!(found.as_ref(), expected.get(key));
                }
                let mut lookup = reader.lookup();
                for first in 0u8..3 {
                    let want = expected.iter().find(|(k, v)| k[0] == first && v[0] > 0).map(|(k, _)| k.clone());
                    assert_eq!(lookup.first_with(&[first], past).map(<[u8]>::to_vec), want);
                }
            }
        });
    }
}
