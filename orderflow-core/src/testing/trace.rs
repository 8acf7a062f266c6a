//! What simulated processes did that the exactly-once protocol knows of: entries of the ledger, fences, progress, commits, starts and deaths, in order.
//!
//! Invariant: an act is noted when it has its effect, or is refused for good, whether or not its answer arrives, and by whoever judges it: the store and the
//! tables, not the engine.

use crate::epoch::Entry;
use crate::error::Result;
use crate::store::Store;
use crate::store::layer::Layer;
use crate::time::Epoch;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A process starts.
    Began,
    /// The ledger is opened by this generation, whose record is the last one: one in a slot that retirement had freed opens nothing.
    Opened(u64),
    /// Some other entry is put into this slot of the ledger.
    Entry(u64),
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
    /// What a process wanted to do and could not, because a newer one has taken over: bind, complete, commit, or ask a sink whether its last commit happened.
    Refused(Box<Act>),
    /// The manifest of a checkpoint is deleted, and whose that was: its epoch and generation.
    Deleted(Epoch, u64),
    /// The process is gone.
    Gone,
}

/// Acts in order, each with its process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    acts: Arc<Mutex<Vec<(usize, Act)>>>,
    process: usize,
}

impl Trace {
    /// The same for the acts of another process.
    pub(super) fn of(&self, process: usize) -> Self {
        Self { process, ..self.clone() }
    }

    pub(super) fn note(&self, act: Act) {
        self.locked().push((self.process, act));
    }

    pub(super) fn note_refused(&self, act: Act) {
        self.note(Act::Refused(Box::new(act)));
    }

    pub(super) fn acts(&self) -> Vec<(usize, Act)> {
        self.locked().clone()
    }

    /// Whether any process did it.
    fn has(&self, act: &Act) -> bool {
        self.locked().iter().any(|(_, noted)| noted == act)
    }

    /// Whether this process did it, since it began.
    fn did(&self, act: &Act) -> bool {
        let acts = self.locked();
        let own = acts.iter().rev().filter(|(process, _)| *process == self.process).map(|(_, noted)| noted);
        own.take_while(|noted| **noted != Act::Began).any(|noted| noted == act)
    }

    fn locked(&self) -> MutexGuard<'_, Vec<(usize, Act)>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LEDGER: &str = "ledger/";
const COMMITS: &str = "_commits/";
const CHECKPOINTS: &str = "checkpoints/";

/// The epoch and generation of a checkpoint's manifest.
fn manifest(name: &str) -> Option<(Epoch, u64)> {
    let (epoch, generation) = name.strip_prefix(CHECKPOINTS)?.strip_suffix(".json")?.split_once("-g")?;
    Some((Epoch(epoch.parse().ok()?), generation.parse().ok()?))
}

/// Notes what is put into a ledger, and into the commit log of a data set.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) below: Arc<dyn Store>,
    /// What the sink is called, if it is one.
    pub(super) name: String,
    pub(super) trace: Trace,
}

impl Noting {
    /// What an entry of the ledger does.
    fn act(&self, slot: u64, bytes: &[u8]) -> Option<Act> {
        let (entry, _) = Entry::decode(bytes, slot).ok()?;
        Some(match entry {
            Entry::Opened(writer, _) => Act::Opened(writer.generation),
            Entry::Started(_) | Entry::Ends(_) | Entry::Refused(_) => Act::Entry(slot),
            Entry::Bound(binding) => Act::Bound(binding.epoch, binding.rows()),
            Entry::Base(base) => {
                let completed = base.checkpoints.last().map(|c| Act::Completed(c.epoch));
                completed.filter(|completed| !self.trace.has(completed)).unwrap_or(Act::Entry(slot))
            }
        })
    }

    fn entry(&self, name: &str, slot: &str, bytes: &[u8], won: bool) -> Result<()> {
        let act = slot.parse().ok().and_then(|slot| self.act(slot, bytes));
        if won {
            let is_last = !self.below.list(LEDGER)?.iter().any(|other| other.as_str() > name);
            let opens_nothing = |act: &Act| matches!(act, Act::Opened(_)) && !is_last;
            // what it had put is not there any more: a newer process has merged it
            let again = |act: Act| if self.trace.did(&act) { Act::PutAgain } else { act };
            act.into_iter().filter(|act| !opens_nothing(act)).map(again).for_each(|act| self.trace.note(act));
        } else if self.is_there(name, bytes)? {
            self.trace.note(Act::PutAgain);
        } else if let Some(act @ (Act::Bound(..) | Act::Completed(_))) = act {
            self.trace.note_refused(act);
        }
        Ok(())
    }

    /// A record without files claims the data set for its writer, which is both fence and answer; any other is a commit, and put again it asks what became of it.
    /// None counts behind which there is a newer one.
    fn record(&self, name: &str, bytes: &[u8], won: bool) -> Result<()> {
        let Ok(record) = serde_json::from_slice::<serde_json::Value>(bytes) else { return Ok(()) };
        let counts = !self.below.list(COMMITS)?.iter().any(|other| other.as_str() > name);
        let read = Act::Read(self.name.clone());
        if record["files"].as_array().is_none_or(Vec::is_empty) {
            if won && counts {
                self.trace.note(Act::Fenced(self.name.clone()));
                self.trace.note(read);
            }
            return Ok(());
        }
        let committed = Act::Committed(self.name.clone(), Epoch(record["holds"]["epoch"].as_u64().unwrap_or_default()));
        let again = !won && self.is_there(name, bytes)?;
        match (again, won && counts) {
            (true, _) if counts => self.trace.note(read),
            (true, _) => self.trace.note_refused(read),
            (false, true) => self.trace.note(committed),
            (false, false) => self.trace.note_refused(committed),
        }
        Ok(())
    }

    fn is_there(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        Ok(self.below.get(name)?.is_some_and(|there| there == bytes))
    }
}

impl Layer for Noting {
    fn below(&self) -> &dyn Store {
        &*self.below
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.below.delete(name)?;
        let deleted = manifest(name).map(|(epoch, generation)| Act::Deleted(epoch, generation));
        deleted.into_iter().for_each(|act| self.trace.note(act));
        Ok(())
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let won = self.below.put_if_absent(name, bytes)?;
        if let Some(slot) = name.strip_prefix(LEDGER) {
            self.entry(name, slot, bytes, won)?;
        } else if name.starts_with(COMMITS) {
            self.record(name, bytes, won)?;
        }
        Ok(won)
    }
}
