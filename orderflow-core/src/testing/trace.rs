//! What a simulated run did that the exactly-once protocol knows of: entries of the ledger, fences, progress, commits, starts and deaths, in order.
//!
//! Invariant: an act is noted when it has its effect, whether or not its answer arrives, and by whoever judges it: the store and the tables, not the engine.

use crate::epoch::Entry;
use crate::error::Result;
use crate::store::Store;
use crate::store::layer::Layer;
use crate::time::Epoch;
use std::sync::{Arc, Mutex, PoisonError};

/// One act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A process starts.
    Began,
    /// The ledger is opened by this generation.
    Opened(u64),
    /// An epoch is bound to so many records.
    Bound(Epoch, u64),
    /// A base names a checkpoint that none named before.
    Completed(Epoch),
    /// An entry was put once more, because the answer to the first put was lost.
    PutAgain,
    /// A sink is fenced.
    Fenced(String),
    /// A sink is asked what it holds.
    Read(String),
    /// A sink holds everything up to this epoch.
    Committed(String, Epoch),
    /// Views are as of this epoch, 0 if nothing was restored, and the process begins to work.
    Restored(Epoch),
    /// The process is gone.
    Gone,
}

/// Acts in order. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(Arc<Mutex<Vec<Act>>>);

impl Trace {
    pub(super) fn note(&self, act: Act) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(act);
    }

    pub(super) fn acts(&self) -> Vec<Act> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes what is put into the ledger.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) below: Arc<dyn Store>,
    pub(super) trace: Trace,
}

impl Noting {
    fn entry(&self, slot: &str, bytes: &[u8]) {
        let Some(Ok((entry, _))) = slot.parse().ok().map(|slot| Entry::decode(bytes, slot)) else { return };
        match entry {
            Entry::Opened(writer, _) => self.trace.note(Act::Opened(writer.generation)),
            Entry::Started(_) | Entry::Ends(_) | Entry::Refused(_) => {}
            Entry::Bound(binding) => self.trace.note(Act::Bound(binding.epoch, binding.rows())),
            Entry::Base(base) => {
                let Some(newest) = base.checkpoints.last() else { return };
                let act = Act::Completed(newest.epoch);
                if !self.trace.acts().contains(&act) {
                    self.trace.note(act);
                }
            }
        }
    }
}

impl Layer for Noting {
    fn below(&self) -> &dyn Store {
        &*self.below
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let won = self.below.put_if_absent(name, bytes)?;
        if let Some(slot) = name.strip_prefix("ledger/") {
            match won {
                true => self.entry(slot, bytes),
                false => self.trace.note(Act::PutAgain),
            }
        }
        Ok(won)
    }
}
