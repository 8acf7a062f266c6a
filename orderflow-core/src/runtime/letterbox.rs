//! Rows that sinks refuse, on their way to the dead letters.
//!
//! ```text
//!   told ─► log's thread: rows ─► spool/… ─► entry: durable ─► bound, the sink may commit ─► it holds their epoch ─► due ─► the next binding names them
//!                                                                                            ─► written with its epoch, also when that is read again
//! ```
//! Invariant: a sink commits what it left rows out of only when these survive a crash, and they are due only when it has. What is due belongs to
//! one epoch: the ledger says which, before anything of it leaves. Without a ledger they go the same way in memory.

use super::engine::Engine;
use super::ledger::LogJob;
use crate::bug::{Bug, planted};
use crate::data::Rejected;
use crate::epoch::{Entry, Letters, Outbox, SpoolRef};
use crate::error::Result;
use crate::sink::{Bound, Refused};
use crate::state::{letters_name, letters_rows, read_letters};
use crate::store::Store;
use crate::time::Epoch;
use std::collections::BTreeMap;

/// Letters of an engine.
#[derive(Default)]
pub(crate) struct Letterbox {
    told: Vec<Told>,
    /// Those that count, and the names of the objects that they are in.
    due: Vec<Rejected>,
    names: Vec<String>,
    /// Those of epochs that are under way.
    bound: BTreeMap<Epoch, Vec<Rejected>>,
    /// Entries given to the log.
    given: u64,
}

/// What a sink told of an act that it has not committed.
struct Told {
    output: usize,
    lane: usize,
    upto: Epoch,
    rows: Vec<Rejected>,
    /// What the object is called; `None` if there is none.
    name: Option<String>,
    /// The entry of the log, by number.
    entry: u64,
    bound: Bound,
}

impl Letterbox {
    /// With those that are stored.
    pub(crate) fn open(store: &dyn Store, stored: &Outbox) -> Result<Self> {
        let mut letters = Self::default();
        for of in stored.iter() {
            let Some(object) = &of.object else { continue };
            let rows = read_letters(store, object)?;
            match of.epoch {
                Some(epoch) => letters.bound.entry(epoch).or_default().extend(rows),
                None => letters.fall_due(rows, Some(object.name.clone())),
            }
        }
        Ok(letters)
    }

    fn fall_due(&mut self, rows: Vec<Rejected>, name: Option<String>) {
        self.due.extend(rows);
        self.names.extend(name);
    }

    /// Whether letters wait for an epoch.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What is due belongs to `epoch`: gives the names of the objects.
    pub(super) fn bind(&mut self, epoch: Epoch) -> Vec<String> {
        if !self.due.is_empty() {
            self.bound.insert(epoch, std::mem::take(&mut self.due));
        }
        std::mem::take(&mut self.names)
    }

    /// The letters of an epoch that leaves.
    pub(super) fn take(&mut self, epoch: Epoch) -> Vec<Rejected> {
        self.bound.remove(&epoch).unwrap_or_default()
    }
}

impl Engine {
    /// Lets sinks commit what they left rows out of that are stored now.
    pub(super) fn bind_refused(&mut self) {
        let stored = self.written.letters;
        self.letterbox.told.iter().filter(|t| t.entry <= stored).for_each(|t| t.bound.set());
    }

    /// Takes what a sink leaves out of acts under way, and what its lanes held then.
    pub(super) fn take_refused(&mut self, output: usize, refused: Vec<(Epoch, Refused)>) -> Result<()> {
        for (after, refused) in refused {
            let bound = refused.bound();
            let Refused { lane, upto, rows, .. } = refused;
            self.letterbox.told.retain(|t| (t.output, t.lane) != (output, lane) || t.upto <= after);
            let mut told = Told { output, lane, upto, rows, name: None, entry: 0, bound };
            // a letter that the dead letters refuse is told to the log of the process, and stored nowhere
            if output + 1 < self.outputs.len() {
                self.store_refused(after, &mut told)?;
            }
            if planted(Bug::CommitsUnstored) {
                told.bound.set();
            }
            self.letterbox.told.push(told);
        }
        Ok(())
    }

    fn store_refused(&mut self, after: Epoch, told: &mut Told) -> Result<()> {
        self.letterbox.given += 1;
        told.entry = self.letterbox.given;
        if !self.log.is_there() {
            return Ok(());
        }
        let (sink, lane, upto) = (self.outputs[told.output].label.clone(), told.lane, told.upto);
        let rows = letters_rows(&sink, lane, &told.rows)?;
        told.name = (!rows.is_empty()).then(|| letters_name(upto, self.ledger.writer().generation, told.entry));
        let object = told.name.clone().map(|name| SpoolRef { upto, name, ..SpoolRef::default() });
        let letters = Letters { sink, lane, after, upto, object, epoch: None };
        self.ledger.tell(letters.clone());
        self.log.give(LogJob::Write { entry: Entry::Refused(letters), rows });
        Ok(())
    }

    /// What a sink told of epochs that it holds now counts; true if there is any.
    pub(super) fn count_refused(&mut self, output: usize) -> bool {
        let Some(of) = self.outputs.get(output) else { return false };
        let dead = output + 1 == self.outputs.len();
        let counts = |t: &Told| t.output == output && t.upto <= of.state.held(t.lane);
        let (counted, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.letterbox.told).into_iter().partition(counts);
        self.letterbox.told = waiting;
        let any = !counted.is_empty();
        for Told { rows, name, .. } in counted {
            // a letter of a letter would be refused as well, and so on without end
            if dead {
                self.tell_refused_letters(&rows);
            } else {
                self.letterbox.fall_due(rows, name);
            }
        }
        any
    }
}
