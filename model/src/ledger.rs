//! Steps on the store: starting, appending to the ledger, checkpoints, deleting; and what can happen to the store.
//!
//! Invariant: the ledger changes by put-if-absent into the slot after the last one a process knows, and by deletion; a slot that
//! is taken is read back, and whose it is decides (`orderflow_core::epoch::Ledger`).

use crate::action::Answer;
use crate::coverage::Event;
use crate::decide::{self, Object};
use crate::fault::Fault;
use crate::law::{Law, bound, bound_durably, broken};
use crate::params::Storage;
use crate::protocol::{Protocol, newest_roots};
use crate::state::*;

impl Protocol {
    pub(crate) fn start(&self, s: &mut State, w: usize) {
        s.runs += 1;
        s.writers[w] = Writer { phase: Phase::Looking, run: s.runs, ports: vec![Port::default(); s.places.len()], ..Writer::default() };
        plan(s, w);
    }

    pub(crate) fn look(&self, s: &mut State, w: usize) {
        let (cellar, writer) = (&s.cellar, &s.writers[w]);
        // as it was read when the process started
        let tail = cellar.until(writer.slot).tail();
        let fits = |place: &Place| decide::look(self.params(), cellar.ledger, tail, place.progress).is_ok();
        if s.places.iter().all(fits) {
            s.writers[w].phase = Phase::Winning;
            s.writers[w].append = Some(Note::Generation(s.writers[w].generation));
        } else {
            self.event(Event::Refused);
            s.writers[w] = Writer::ended(Phase::Refused);
        }
    }

    /// Something does not fit. Whoever was overtaken meanwhile has nothing to refuse: it stops, without a word about lost state.
    pub(crate) fn turned_away(&self, s: &mut State, w: usize) {
        let overtaken = s.cellar.generation() > s.writers[w].generation && !self.params().has(Fault::RefusesWhenOvertaken);
        self.event(if overtaken { Event::StoppedBySink } else { Event::Refused });
        s.writers[w] = Writer::ended(if overtaken { Phase::Stopped } else { Phase::Refused });
    }

    pub(crate) fn confirm(&self, s: &mut State, w: usize) {
        let writer = &s.writers[w];
        if s.cellar.generation() > writer.generation {
            self.event(Event::StoppedByLedger);
            s.writers[w] = Writer::ended(Phase::Stopped);
        } else if s.cellar.slots.len() > writer.slot && !self.params().has(Fault::WonInAHole) {
            self.event(Event::FoundItselfInAHole);
            s.writers[w].phase = Phase::Winning;
            plan(s, w);
        } else {
            s.writers[w].phase = Phase::Opening;
        }
    }

    /// Put-if-absent of what the process wants into its slot.
    pub(crate) fn append(&self, s: &mut State, w: usize, answer: Answer) {
        let writer = &s.writers[w];
        let note = writer.append.clone().expect("an append is possible only if something is wanted");
        let (at, entry) = (writer.slot, Slot { nonce: writer.run, note });
        if answer == Answer::Late {
            s.timeouts -= 1;
            s.writers[w].doubt = true;
            if !s.cellar.late.contains(&(at, entry.clone())) {
                s.cellar.late.push((at, entry));
            }
            return;
        }
        let won = self.put_if_absent(s, at, &entry);
        if answer == Answer::Lost {
            s.timeouts -= 1;
            s.writers[w].doubt = true;
            return;
        }
        let writer = &s.writers[w];
        if writer.doubt {
            let ours = s.cellar.slots[at].as_ref().is_some_and(|there| there.nonce == entry.nonce);
            self.event(if ours && !won { Event::AppendHadHappened } else { Event::AppendHadNot });
        }
        let ours = match self.params().fault {
            Some(Fault::OwnTakenForAnothers) => false,
            Some(Fault::AnothersTakenForOwn) => true,
            _ => s.cellar.slots[at].as_ref().is_some_and(|there| there.nonce == entry.nonce),
        };
        if won && self.params().storage == Storage::Local && !self.trusts_unsynced(&entry.note) {
            s.writers[w].written = true;
        } else if won || ours {
            self.appended(s, w);
        } else if writer.phase == Phase::Winning {
            self.event(Event::TriedNextSlot);
            plan(s, w);
        } else {
            self.event(Event::StoppedByLedger);
            if s.cellar.slots[..at].iter().any(Option::is_none) {
                self.event(Event::WokeAfterRetirement);
            }
            s.writers[w] = Writer::ended(Phase::Stopped);
        }
    }

    fn trusts_unsynced(&self, note: &Note) -> bool {
        let generation = matches!(note, Note::Generation(_));
        self.params().has(Fault::NoSync) || (generation && self.params().has(Fault::OpenTrustsCache))
    }

    fn put_if_absent(&self, s: &mut State, at: usize, entry: &Slot) -> bool {
        let slots = &mut s.cellar.slots;
        if at < slots.len() && slots[at].is_some() {
            return false;
        }
        if at == slots.len() {
            slots.push(None);
        }
        slots[at] = Some(entry.clone());
        if self.params().storage == Storage::Shared {
            bound_durably(self.params(), s);
        }
        true
    }

    /// What the process wanted is in the ledger, as durable as it thinks it must be.
    fn appended(&self, s: &mut State, w: usize) {
        let older = s.writers.iter().enumerate().any(|(other, o)| other != w && o.alive() && o.phase != Phase::Looking && o.generation > 0);
        let writer = &mut s.writers[w];
        writer.slot += 1;
        (writer.written, writer.doubt) = (false, false);
        match writer.append.take().expect("an append has ended") {
            Note::Generation(_) => {
                // a lock keeps everybody else away from a local folder
                writer.phase = if self.params().storage == Storage::Local { Phase::Opening } else { Phase::Confirming };
                if older {
                    self.event(Event::TakenOver);
                }
            }
            Note::Binding { epoch, to, .. } => {
                writer.durable = epoch;
                if self.params().spooled {
                    s.forgotten = s.forgotten.max(to);
                }
            }
            Note::Checkpoint { epoch, generation, .. } => {
                writer.known.push((epoch, generation));
                writer.staged = None;
            }
        }
    }

    pub(crate) fn sync(&self, s: &mut State, w: usize) {
        s.cellar.synced = s.cellar.slots.len();
        bound_durably(self.params(), s);
        self.appended(s, w);
    }

    pub(crate) fn bind(&self, s: &mut State, w: usize, records: u16) {
        let writer = &mut s.writers[w];
        if writer.append.is_some() {
            // planted: the epoch that was tried already gets other records
            writer.epochs.pop();
        }
        let from = writer.position();
        let to = from + records;
        let folded = writer.folded() + records;
        writer.epochs.push((to, folded));
        writer.append = Some(Note::Binding { epoch: writer.closed(), from, to });
    }

    /// Stores the records of the epoch that was closed last, in an object of one's own generation.
    pub(crate) fn spool(&self, s: &mut State, w: usize) {
        let writer = &mut s.writers[w];
        writer.spooled = writer.closed();
        s.cellar.spool.push((writer.spooled, writer.generation));
        if self.params().has(Fault::AcknowledgeBeforeEntry) {
            s.forgotten = s.forgotten.max(writer.position());
        }
    }

    pub(crate) fn store_roots(&self, s: &mut State, w: usize) {
        s.checkpoints -= 1;
        let writer = &mut s.writers[w];
        writer.staged = Some(writer.durable);
        s.cellar.roots.push(Roots { epoch: writer.durable, generation: writer.generation, folded: writer.folded(), damaged: false });
    }

    pub(crate) fn complete(&self, s: &mut State, w: usize) {
        let writer = &mut s.writers[w];
        let epoch = writer.staged.expect("a checkpoint is complete only if it was begun");
        let held = writer.ports.iter().map(|port| port.held).collect();
        writer.append = Some(Note::Checkpoint { epoch, generation: writer.generation, to: writer.range(epoch).1, held });
    }

    pub(crate) fn retire(&self, s: &mut State, w: usize) {
        let object = decide::retire(self.params(), s, &s.writers[w]);
        delete(s, object);
    }

    pub(crate) fn clean(&self, s: &mut State, w: usize) {
        let object = decide::leftover(self.params(), &s.cellar, &s.writers[w]);
        delete(s, object);
    }

    /// An append that was given up reaches the store.
    pub(crate) fn arrive(&self, s: &mut State, at: usize) {
        let (slot, entry) = s.cellar.late.remove(at);
        let won = self.put_if_absent(s, slot, &entry);
        self.event(if won { Event::LateArrived } else { Event::LateFoundTaken });
    }

    pub(crate) fn crash(&self, s: &mut State, w: usize) {
        s.crashes -= 1;
        s.writers[w] = Writer::ended(Phase::Down);
    }

    pub(crate) fn power_cut(&self, s: &mut State, keep: usize) {
        s.crashes -= 1;
        if s.cellar.slots[keep..].iter().flatten().any(|slot| matches!(slot.note, Note::Binding { .. })) {
            self.event(Event::BindingLost);
        }
        s.cellar.slots.truncate(keep);
        s.cellar.synced = keep;
        for writer in &mut s.writers {
            if writer.alive() {
                *writer = Writer::ended(Phase::Down);
            }
        }
    }

    pub(crate) fn damage(&self, s: &mut State) {
        s.damages -= 1;
        let newest = newest_roots(&s.cellar).expect("only what is there is damaged");
        s.cellar.roots[newest].damaged = true;
    }

    /// What leaves for a sink was decided by these records: laws 1 and 2 are judged here.
    pub(crate) fn leaves(&self, s: &mut State, w: usize, epoch: Epoch) {
        let writer = &s.writers[w];
        let (to, folded) = writer.epochs[usize::from(epoch - writer.base) - 1];
        bound(s, epoch, to);
        if folded != to {
            broken(s, Law::Replay);
        }
    }
}

/// Reads the ledger: the next slot and generation.
fn plan(s: &mut State, w: usize) {
    let writer = &mut s.writers[w];
    writer.slot = s.cellar.slots.len();
    writer.generation = s.cellar.generation() + 1;
    writer.doubt = false;
    if writer.phase == Phase::Winning {
        writer.append = Some(Note::Generation(writer.generation));
    }
}

fn delete(s: &mut State, object: Option<Object>) {
    match object.expect("only what is there is deleted") {
        Object::Slot(slot) => s.cellar.slots[slot] = None,
        Object::Roots(at) => {
            s.cellar.roots.remove(at);
        }
        Object::Spool(at) => {
            s.cellar.spool.remove(at);
        }
    }
}
