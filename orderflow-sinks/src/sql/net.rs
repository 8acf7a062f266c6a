//! The changes of one or several epochs, netted: what each key's row is afterwards.
//!
//! Only the state after an act can ever be seen, because the act is one transaction, so epochs are not written one by one: of each key its last
//! row is put there, or it is deleted. Invariant: the answer does not depend on the order of withdrawals and rows of one key within an
//! epoch, and a row that comes and goes in the same epoch leaves what was there before.

use super::act::{Part, RowAt};
use orderflow_core::Result;
use orderflow_core::arrow::array::{Array, RecordBatch};
use orderflow_core::data::rowkey::{RowCodec, normalise};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What is to be done, a key at most once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Net {
    /// Rows to be there, under their keys.
    pub(super) rows: Vec<RowAt>,
    /// Rows whose keys are to be gone.
    pub(super) gone: Vec<RowAt>,
}

/// The newest word about a key: its row, and whether it is there.
#[derive(Clone, Copy)]
struct Word {
    at: RowAt,
    there: bool,
}

struct Key {
    now: Option<Word>,
    before: Option<Word>,
}

/// Nets `parts` over the columns `key`.
///
/// # Errors
/// A key column that cannot be compared.
pub(super) fn net(parts: &[Part], key: &[usize]) -> Result<Net> {
    let Some(first) = parts.first() else { return Ok(Net::default()) };
    let types: Vec<_> = key.iter().map(|k| first.rows.column(*k).data_type().clone()).collect();
    let codec = RowCodec::new(&types, 0)?;
    let mut numbers: HashMap<Box<[u8]>, usize> = HashMap::new();
    let mut keys: Vec<Key> = vec![];
    for (number, part) in parts.iter().enumerate() {
        let columns: Vec<_> = key.iter().map(|k| normalise(part.rows.column(*k))).collect();
        let encoded = codec.encode(&columns)?;
        for row in 0..part.rows.num_rows() {
            let at = (number, row);
            let key = match numbers.entry(encoded.row(row).as_ref().into()) {
                Entry::Occupied(known) => &mut keys[*known.get()],
                Entry::Vacant(new) => {
                    new.insert(keys.len());
                    keys.push(Key { now: None, before: None });
                    let last = keys.len() - 1;
                    &mut keys[last]
                }
            };
            let came_now = key.now.filter(|n| n.there && parts[n.at.0].epoch == part.epoch);
            match (part.diffs.diff(row) > 0, came_now) {
                (true, _) => *key = Key { now: Some(Word { at, there: true }), before: key.now },
                (false, None) => key.now = Some(Word { at, there: false }),
                // withdrawn in the epoch in which it came
                (false, Some(came)) if same(&parts[came.at.0].rows, came.at.1, &part.rows, row) => key.now = key.before,
                // the row that was there before the one that came
                (false, Some(_)) => {}
            }
        }
    }
    let mut net = Net::default();
    for word in keys.into_iter().filter_map(|k| k.now) {
        if word.there { net.rows.push(word.at) } else { net.gone.push(word.at) }
    }
    Ok(net)
}

fn same(a: &RecordBatch, i: usize, b: &RecordBatch, j: usize) -> bool {
    a.columns().iter().zip(b.columns()).all(|(x, y)| x.slice(i, 1).to_data() == y.slice(j, 1).to_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderflow_core::arrow::array::{ArrayRef, Int64Array};
    use orderflow_core::data::Changes;
    use orderflow_core::time::Epoch;
    use std::sync::Arc;

    /// Rows `(key, value, diff)`.
    fn part(epoch: u64, rows: &[(Option<i64>, i64, i64)]) -> Part {
        let k: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0)));
        let v: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
        let rows_ = RecordBatch::try_from_iter([("k", k), ("v", v)]).unwrap();
        let diffs = Changes::signed(rows_.clone(), rows.iter().map(|r| r.2).collect());
        Part { epoch: Epoch(epoch), rows: rows_, diffs }
    }

    fn netted(parts: &[Part]) -> Net {
        net(parts, &[0]).unwrap()
    }

    #[test]
    fn the_last_row_of_a_key_stays_or_its_withdrawal() {
        let parts = [
            part(1, &[(Some(1), 10, 1), (Some(2), 20, 1)]),
            part(2, &[(Some(1), 10, -1), (Some(1), 11, 1)]),
            part(3, &[(Some(2), 20, -1)]),
        ];
        assert_eq!(netted(&parts), Net { rows: vec![(1, 1)], gone: vec![(2, 0)] });
    }

    #[test]
    fn within_an_epoch_the_order_does_not_matter() {
        let new_first = [part(1, &[(Some(1), 11, 1), (Some(1), 10, -1)])];
        assert_eq!(netted(&new_first), Net { rows: vec![(0, 0)], gone: vec![] });
        let split = [part(1, &[(Some(1), 11, 1)]), part(1, &[(Some(1), 10, -1)])];
        assert_eq!(netted(&split), Net { rows: vec![(0, 0)], gone: vec![] });
        let came_and_went = [part(1, &[(Some(1), 11, 1), (Some(1), 11, -1)])];
        assert_eq!(netted(&came_and_went), Net::default(), "what was there before stays");
    }

    #[test]
    fn null_is_a_key_like_any_other() {
        let parts = [part(1, &[(None, 1, 1), (Some(0), 2, 1)]), part(2, &[(None, 1, -1), (None, 3, 1)])];
        assert_eq!(netted(&parts), Net { rows: vec![(1, 1), (0, 1)], gone: vec![] });
    }
}
