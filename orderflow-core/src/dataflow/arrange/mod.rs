//! The only door from columns to rows in a trace, and back.
//!
//! One kind of trace serves every operator: keys are `[bucket][row bytes]`, the difference is a row of accumulators
//! ([`Acc`]), batches are in `Arc`s, and a batch covers one epoch until it is merged.
//! ```text
//!   sorted keys with changes of epoch t ──insert──► trace ──lookup(key), lookup_first(prefix), scan(≤ t)──► accumulators
//! ```
//! Invariant: the writer inserts epochs in ascending order; a reader that was told "you may forget what is below t" answers for any
//! epoch ≥ t − 1 that was inserted, whatever came later. An arrangement that is stored keeps hold of every batch until it is asked for: batches
//! are in `Arc`s, so another thread writes them down while the worker goes on.

mod acc;
mod bytes;
mod shared;

pub use acc::{Acc, Accs};
pub use bytes::Bytes;

use differential_dataflow::operators::arrange::{TraceAgent, TraceWriter};
use differential_dataflow::trace::cursor::CursorList;
use differential_dataflow::trace::implementations::ord_neu::{OrdKeyBatch, layers::Upds};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::implementations::{OffsetList, ord_neu::key_batch::OrdKeyStorage};
use differential_dataflow::trace::{Cursor, Description, Navigable, Trace as _, TraceReader};
use shared::Shared;
use std::collections::VecDeque;
use std::sync::Arc;
use timely::dataflow::operators::generic::OperatorInfo;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

type Layout = (Bytes, Vec<()>, Vec<u64>, Accs, OffsetList);
type Batch = Shared<OrdKeyBatch<Layout>>;
type Inner = Spine<Batch>;
type TraceCursor = CursorList<<Batch as Navigable>::Cursor>;

/// The writing end: one operator's own state, which it also reads.
pub struct Arrangement {
    reader: Reader,
    writer: TraceWriter<Inner>,
    upper: u64,
    /// Batches that were not sealed yet, with their epochs; `None` if nobody stores them.
    unsaved: Option<VecDeque<(u64, Batch)>>,
    unsaved_bytes: usize,
}

/// What an arrangement was given in some epochs, for another thread.
#[derive(Default)]
pub struct Sealed(Vec<Batch>);

impl Sealed {
    /// Sorted keys and what was added to their accumulators, a part an epoch.
    pub fn parts(&self) -> impl Iterator<Item = (&Bytes, &Accs)> {
        self.0.iter().map(|b| (&b.0.storage.keys, &b.0.storage.upds.diffs))
    }
}

impl Arrangement {
    /// An empty trace that belongs to the operator of `info`.
    pub fn new(info: OperatorInfo, activator: Activator) -> Self {
        let trace = Inner::new(info.clone(), None, Some(activator));
        let (agent, writer) = TraceAgent::new(trace, info, None);
        Self { reader: Reader { agent }, writer, upper: 0, unsaved: None, unsaved_bytes: 0 }
    }

    /// Another reader, with a hold of its own: it must be told what may be forgotten.
    pub fn reader(&self) -> Reader {
        Reader { agent: self.reader.agent.clone() }
    }

    /// A cursor over everything inserted so far; valid until the next insert.
    pub fn cursor(&mut self) -> Lookup {
        self.reader.lookup()
    }

    /// From now on what is inserted is kept for [`Arrangement::seal`].
    pub fn store(&mut self) {
        self.unsaved.get_or_insert_default();
    }

    /// Bytes of what was inserted and not sealed.
    pub fn unsaved(&self) -> usize {
        self.unsaved_bytes
    }

    /// Lets go of what was inserted at epochs ≤ `upto` and not sealed before.
    pub fn seal(&mut self, upto: u64) -> Sealed {
        let Some(unsaved) = self.unsaved.as_mut() else { return Sealed::default() };
        let sealed = Sealed(std::iter::from_fn(|| unsaved.pop_front_if(|(epoch, _)| *epoch <= upto)).map(|(_, batch)| batch).collect());
        self.unsaved_bytes = unsaved.iter().map(|(_, b)| memory(b)).sum();
        sealed
    }

    /// Inserts what was stored before, at the epoch up to which it is: it need not be stored again.
    pub fn load(&mut self, epoch: u64, keys: Bytes, accs: Accs) {
        let unsaved = self.unsaved.take();
        self.insert(epoch, keys, accs);
        self.unsaved = unsaved;
    }

    /// Inserts the changes of `epoch`: keys ascending and unique; keys whose words are all zero are left out.
    ///
    /// # Panics
    /// If epochs do not ascend, which would be a bug of the operator.
    pub fn insert(&mut self, epoch: u64, mut keys: Bytes, mut accs: Accs) {
        assert!(epoch >= self.upper, "epochs are inserted in ascending order");
        let live = |i: &usize| accs.get(*i).iter().any(|w| *w != 0);
        let n = (0..keys.count()).filter(live).count();
        if n > 0 {
            if n < keys.count() {
                let (mut kept, mut sums) = (Bytes::with_sizes(n, keys.memory()), Accs::with_width(accs.width(), n));
                for i in (0..keys.count()).filter(live) {
                    kept.push(keys.get(i));
                    sums.push(accs.get(i));
                }
                (keys, accs) = (kept, sums);
            }
            let mut offs = OffsetList::with_capacity(n + 1);
            (0..=n).for_each(|i| offs.push(i));
            let upds = Upds { offs, times: vec![epoch; n], diffs: accs };
            let description = Description::new(Antichain::from_elem(self.upper), Antichain::from_elem(epoch + 1), Antichain::from_elem(0));
            let value = OrdKeyBatch::<Layout>::create_value();
            let batch = OrdKeyBatch { storage: OrdKeyStorage { keys, upds }, description, updates: n, value };
            let batch = Shared(Arc::new(batch));
            if let Some(unsaved) = self.unsaved.as_mut() {
                self.unsaved_bytes += memory(&batch);
                unsaved.push_back((epoch, batch.clone()));
            }
            self.writer.insert(batch, Some(epoch));
            self.upper = epoch + 1;
        }
        self.reader.forget(epoch + 1);
    }
}

fn memory(batch: &Batch) -> usize {
    batch.0.storage.keys.memory() + batch.0.storage.upds.diffs.memory()
}

/// A reading end of a trace, on the same worker.
pub struct Reader {
    agent: TraceAgent<Inner>,
}

impl Reader {
    /// Times below `epoch` may be told apart no more, as far as this reader is concerned.
    pub fn forget(&mut self, epoch: u64) {
        self.agent.set_logical_compaction(AntichainRef::new(&[epoch]));
        self.agent.set_physical_compaction(AntichainRef::new(&[epoch]));
    }

    /// A cursor over everything inserted so far.
    pub fn lookup(&mut self) -> Lookup {
        let (cursor, storage) = self.agent.cursor();
        Lookup { cursor, storage }
    }

    /// Number of updates held, before merging.
    pub fn updates(&self) -> usize {
        let mut n = 0;
        self.agent.map_batches(|b| n += b.0.updates);
        n
    }
}

/// A cursor that moves forward through the keys of a trace.
pub struct Lookup {
    cursor: TraceCursor,
    storage: Vec<Batch>,
}

impl Lookup {
    /// Adds up the accumulators of `key` at epochs ≤ `upto` into `acc` (its width is the trace's); whether the key was found with any word not zero.
    /// Keys must be asked for in ascending order.
    #[inline]
    pub fn get(&mut self, key: &[u8], upto: u64, acc: &mut Acc) -> bool {
        acc.0.iter_mut().for_each(|w| *w = 0);
        self.cursor.seek_key(&self.storage, key);
        if self.cursor.get_key(&self.storage) != Some(key) {
            return false;
        }
        self.add_here(upto, acc)
    }

    #[inline]
    fn add_here(&mut self, upto: u64, acc: &mut Acc) -> bool {
        self.cursor.map_times(&self.storage, |t, words| {
            if *t <= upto {
                acc.add(words);
            }
        });
        acc.0.iter().any(|w| *w != 0)
    }

    /// The first key that starts with `prefix` and whose word 0 is positive at `upto`. Prefixes must ascend from call to call.
    pub fn first_with(&mut self, prefix: &[u8], upto: u64) -> Option<&[u8]> {
        let mut acc = Acc::zero(1);
        self.cursor.seek_key(&self.storage, prefix);
        loop {
            if !self.cursor.get_key(&self.storage)?.starts_with(prefix) {
                return None;
            }
            acc.0[0] = 0;
            self.add_here(upto, &mut acc);
            if acc.0[0] > 0 {
                return self.cursor.get_key(&self.storage);
            }
            self.cursor.step_key(&self.storage);
        }
    }

    /// Goes back to the first key.
    pub fn rewind(&mut self) {
        self.cursor.rewind_keys(&self.storage);
    }

    /// Visits every key that exists at `upto`, in order, with its accumulators.
    pub fn scan(&mut self, upto: u64, width: usize, mut visit: impl FnMut(&[u8], &Acc)) {
        let mut acc = Acc::zero(width);
        self.rewind();
        while self.cursor.key_valid(&self.storage) {
            acc.0.iter_mut().for_each(|w| *w = 0);
            if self.add_here(upto, &mut acc) {
                visit(self.cursor.key(&self.storage), &acc);
            }
            self.cursor.step_key(&self.storage);
        }
    }
}

const _: fn() = || {
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Sealed>(); // a checkpoint is written by another thread
};

#[cfg(test)]
mod tests;
