//! The ledger as it lies in a store: numbered entries, each written once, by put-if-absent, into the next free slot.
//!
//! ```text
//!   ledger/0000000001 opened, generation 1      ledger/0000000004 opened, generation 2
//!   ledger/0000000002 started                   ledger/0000000005 bound, epoch 2
//!   ledger/0000000003 bound, epoch 1            …
//! ```
//! Invariant: a writer that finds its next slot taken by somebody else has been replaced, and stops. Entries are deleted only when a
//! [`Base`](super::Base) behind them is durable and says what they said; those of an opening never are.

use super::entry::{Base, Checkpoint, Entry, Start};
use super::{Binding, Input, Outbox};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result, Retry};
use crate::sink::{Progress, WriterId};
use crate::store::Store;
use crate::time::{Epoch, Positions};
use std::collections::BTreeMap;
use std::sync::Arc;

const FOLDER: &str = "ledger/";
/// How often an opening is overtaken by the writer that it replaces before it gives up for now.
const TRIES: usize = 100;

/// What a ledger held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where the pipeline began; `None` if it never got that far.
    pub start: Option<Start>,
    /// Where bounded sources end in a run that has not finished.
    pub ends: BTreeMap<Arc<str>, Positions>,
    /// The oldest epochs, which every sink holds, as few bindings.
    pub segments: Vec<Binding>,
    /// The epochs after that, in order.
    pub bindings: Vec<Binding>,
    /// Every sink that holds the oldest epochs, with the newest progress that was seen of it.
    pub held: BTreeMap<String, Option<Progress>>,
    /// As in [`Base::lanes`].
    pub lanes: BTreeMap<String, Vec<Epoch>>,
    /// As in [`Base::births`].
    pub births: BTreeMap<String, u64>,
    /// Complete checkpoints, the oldest first.
    pub checkpoints: Vec<Checkpoint>,
    /// Rows of spooled sources up to this epoch are stored no more.
    pub dropped: Epoch,
    /// As in [`Base::letters`].
    pub letters: Outbox,
}

impl Recovered {
    /// All epochs up to this one are read again as few, and every sink holds them.
    pub fn base(&self) -> Epoch {
        self.segments.last().map_or(Epoch(0), |b| b.epoch)
    }

    /// What has to be read again if the state as of `from` is there: it as an epoch without input (or, to fill what is not stored, with all
    /// input until then), everything that sinks hold as one epoch, and the others one by one.
    pub fn replay(&self, from: Option<Epoch>, fill: bool) -> Vec<Binding> {
        let as_one = |segments: &mut dyn Iterator<Item = &Binding>| {
            segments.cloned().reduce(|mut all, next| {
                all.extend(next);
                all
            })
        };
        let (until, after) = match from {
            None => (None, as_one(&mut self.segments.iter())),
            Some(from) => {
                let until = as_one(&mut self.segments.iter().filter(|b| fill && b.epoch <= from));
                let until = until.unwrap_or(Binding { epoch: from, ..Binding::default() });
                (Some(until), as_one(&mut self.segments.iter().filter(|b| b.epoch > from)))
            }
        };
        until.into_iter().chain(after).chain(self.bindings.iter().cloned()).collect()
    }

    /// The newest epoch that is bound.
    pub fn tail(&self) -> Epoch {
        self.bindings.last().map_or(self.base(), |b| b.epoch)
    }

    /// All of it as one entry.
    pub fn as_base(&self) -> Base {
        Base {
            start: self.start.clone().unwrap_or_default(),
            ends: self.ends.clone(),
            segments: self.segments.clone(),
            after: self.bindings.clone(),
            held: self.held.clone(),
            lanes: self.lanes.clone(),
            births: self.births.clone(),
            checkpoints: self.checkpoints.clone(),
            dropped: self.dropped,
            letters: self.letters.clone(),
        }
    }

    /// The watermark of every partition that has one.
    pub fn watermarks(&self) -> BTreeMap<Input, i64> {
        let mut watermarks = BTreeMap::new();
        for (input, range) in self.segments.iter().chain(&self.bindings).flat_map(|b| &b.ranges) {
            watermarks.extend(range.watermark.map(|at| (input.clone(), at)));
        }
        watermarks
    }

    /// Forgets what a sink held, and gives it.
    pub fn forget(&mut self, sink: &str) -> Option<Progress> {
        self.lanes.remove(sink);
        self.letters.forget(sink);
        self.held.remove(sink).flatten()
    }

    /// How many records of a source all epochs have.
    pub fn bound(&self, source: &str) -> u64 {
        self.segments.iter().chain(&self.bindings).map(|b| b.rows_of(source)).sum()
    }

    /// Where each partition of a source stood at the end of the last epoch, or where it began.
    pub fn stood(&self, source: &str) -> Positions {
        self.after(source, self.segments.iter().chain(&self.bindings))
    }

    /// Where each partition of a source stood at the end of epoch `from`, or where it began.
    pub fn positions(&self, source: &str, from: Option<Epoch>) -> Positions {
        self.after(source, self.segments.iter().filter(|b| Some(b.epoch) <= from))
    }

    /// Where each partition of a source stood after `bindings`, which begin with the first.
    fn after<'a>(&self, source: &str, bindings: impl Iterator<Item = &'a Binding>) -> Positions {
        let mut positions = self.start.as_ref().and_then(|s| s.positions.get(source)).cloned().unwrap_or_default();
        let ranges = bindings.flat_map(|b| &b.ranges).filter(|((of, _), _)| **of == *source);
        positions.extend(ranges.map(|((_, partition), range)| (partition.clone(), range.to)));
        positions
    }
}

/// An open ledger in a store: the right to write the next entry.
#[derive(Debug)]
pub struct Log {
    store: Arc<dyn Store>,
    place: String,
    writer: WriterId,
    nonce: u64,
    next: u64,
    /// Slots before this one are not needed, but for the openings among them.
    base: u64,
    openings: Vec<Opening>,
}

/// One opening of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    slot: u64,
    /// Whose.
    pub writer: WriterId,
    /// When, in milliseconds since 1970; older versions did not write it down.
    pub at: Option<i64>,
}

/// A ledger as somebody finds it who only looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// All openings, the oldest first.
    pub openings: Vec<Opening>,
    /// Its entries.
    pub entries: usize,
    /// What they say.
    pub found: Recovered,
}

impl Seen {
    /// Who writes.
    pub fn writer(&self) -> WriterId {
        self.openings.last().map_or(WriterId { ledger: 0, generation: 0 }, |o| o.writer)
    }
}

fn name(slot: u64) -> String {
    format!("{FOLDER}{slot:010}")
}

impl Log {
    /// Wins the ledger in `store`, which messages call `place`: everything in it is read, checked and shown to `judge`, and the next slot is
    /// taken for a new generation, at the time `now` (milliseconds since 1970). What an older generation left to delete is deleted.
    ///
    /// # Errors
    /// What cannot be read or written; entries that are damaged or missing, or that `judge` refuses: nothing is written or deleted then.
    pub fn open(store: Arc<dyn Store>, place: &str, now: i64, judge: impl Fn(&Recovered) -> Result<()>) -> Result<(Self, Recovered)> {
        let mut log = Self::closed(store, place);
        // a try reads only what is new, so that it can be faster than the next entry of who wrote until now
        let mut known = BTreeMap::new();
        for _ in 0..TRIES {
            let recovered = match log.read(&mut known) {
                // who wrote until now goes on while this one reads, and deletes what a newer base replaces
                Err(e) if e.retry() == Retry::Never && log.is_behind()? => continue,
                read => read?,
            };
            judge(&recovered)?;
            let writer = WriterId { generation: log.writer.generation + 1, ..log.writer };
            if log.append(&Entry::Opened(writer, Some(now)))? {
                // the writer before may have gone on and made room below: a slot that only was free again wins nothing
                if log.is_behind()? {
                    continue;
                }
                log.writer = writer;
                log.openings.push(Opening { slot: log.next - 1, writer, at: Some(now) });
                log.sweep();
                return Ok((log, recovered));
            }
        }
        Err(Error::external(format!("the state in {place} is being written by somebody else")).hint("stop the other one"))
    }

    fn closed(store: Arc<dyn Store>, place: &str) -> Self {
        let writer = WriterId { ledger: rand::random(), generation: 0 };
        Log { store, place: place.to_owned(), writer, nonce: rand::random(), next: 1, base: 1, openings: vec![] }
    }

    /// Reads a ledger without winning it, also while its writer goes on: nothing is written. `None` if there is none.
    ///
    /// # Errors
    /// What cannot be read; entries that are damaged or missing.
    pub fn look(store: Arc<dyn Store>, place: &str) -> Result<Option<Seen>> {
        let mut log = Self::closed(store, place);
        for _ in 0..TRIES {
            let slots = log.slots()?;
            if slots.is_empty() {
                return Ok(None);
            }
            match log.read(&mut BTreeMap::new()) {
                Ok(found) => return Ok(Some(Seen { openings: log.openings, entries: slots.len(), found })),
                // its writer may have deleted meanwhile what a newer base replaces
                Err(_) if log.slots()? != slots => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::external(format!("the state in {place} changes faster than it can be read"))
            .hint("its pipeline is running and busy: try again, or look when it is quiet"))
    }

    /// Begins a ledger in a store that has none, from what another one knew: `writer` counts as its first opening. Until the last object is there,
    /// whoever opens it is refused.
    ///
    /// # Errors
    /// What cannot be written; a store that has a ledger.
    pub fn plant(store: Arc<dyn Store>, place: &str, writer: WriterId, now: i64, base: &Base) -> Result<()> {
        let mut log = Self::closed(store, place);
        let taken = || Error::user(format!("{place} holds a state already")).hint("name an empty folder");
        if !log.slots()?.is_empty() {
            return Err(taken());
        }
        // a base that nobody opened cannot be taken for the whole, an opening without a base can
        for (slot, entry) in [(2, Entry::Base(base.clone())), (1, Entry::Opened(writer, Some(now)))] {
            log.next = slot;
            if !log.append(&entry)? {
                return Err(taken());
            }
        }
        Ok(())
    }

    /// Who writes.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// Writes an entry: `Ok` means that it survives a crash. After an error that may be tried again the same call must be made again. Behind a
    /// base the entries that it replaces are deleted; what cannot be deleted now is deleted by the next base or opening.
    ///
    /// # Errors
    /// Permanent if another process has taken over.
    pub fn write(&mut self, entry: &Entry) -> Result<()> {
        if matches!(entry, Entry::Base(_)) && planted(Bug::SweepsBeforeBase) {
            self.base = self.next;
            self.sweep();
        }
        if self.append(entry)? {
            if let Entry::Base(_) = entry {
                self.base = self.next - 1;
                self.sweep();
            }
            return Ok(());
        }
        Err(self.taken_over())
    }

    fn taken_over(&self) -> Error {
        Error::user(format!("another process has taken over the state in {}", self.place))
            .hint("this one stops; what it had not committed is done by the other one")
            .permanent()
    }

    /// Why this process has to stop, if another one has won the ledger since: it may know of epochs that this one does not.
    ///
    /// # Errors
    /// What cannot be listed.
    pub fn overtaken(&self) -> Result<Option<Error>> {
        Ok(self.is_behind()?.then(|| self.taken_over()))
    }

    /// True if the entry is in the next slot, false if another one is.
    fn append(&mut self, entry: &Entry) -> Result<bool> {
        let bytes = entry.encode(self.next, self.nonce)?;
        if !self.store.put_if_absent(&name(self.next), &bytes)? {
            // it may be the one of a try that had no answer
            let there = self.store.get(&name(self.next))?.unwrap_or_default();
            if there != bytes || planted(Bug::OwnTakenForAnothers) {
                return Ok(false);
            }
        }
        self.next += 1;
        Ok(true)
    }

    /// Why an entry cannot be read.
    fn unread(&self, slot: u64, bytes: &[u8], why: String) -> Error {
        if Entry::newer(bytes).is_none() {
            return self.damaged(slot, why);
        }
        Error::user(format!("the state in {} was written by a newer version of orderflow", self.place))
            .why(format!("{}: {why}", name(slot)))
            .hint("start it with that version, or a newer one; nothing was changed")
    }

    fn damaged(&self, slot: u64, why: impl std::fmt::Display) -> Error {
        Error::external(format!("the state in {} is damaged", self.place))
            .why(format!("{}: {why}", name(slot)))
            .hint("restore the folder from a copy, or start anew with another state and other sinks; nothing was changed")
            .permanent()
    }

    fn slots(&self) -> Result<Vec<u64>> {
        let foreign = |n: &str| {
            Error::user(format!("{} holds '{n}', which is no entry of a ledger", self.place)).hint("name a folder of its own for the state")
        };
        let names = self.store.list(FOLDER)?;
        names.iter().map(|n| n.strip_prefix(FOLDER).and_then(|n| n.parse().ok()).ok_or_else(|| foreign(n))).collect()
    }

    /// Whether there is an entry behind those that were read.
    fn is_behind(&self) -> Result<bool> {
        Ok(self.slots()?.last().is_some_and(|last| *last >= self.next))
    }

    /// An entry, which is written once, so that one that is known need not be read again.
    fn entry(&self, slot: u64, known: &mut BTreeMap<u64, Entry>) -> Result<Option<Entry>> {
        if let Some(entry) = known.get(&slot) {
            return Ok(Some(entry.clone()));
        }
        let Some(bytes) = self.store.get(&name(slot))? else { return Ok(None) };
        let (entry, _) = Entry::decode(&bytes, slot).map_err(|why| self.unread(slot, &bytes, why))?;
        known.insert(slot, entry.clone());
        Ok(Some(entry))
    }

    /// Reads everything that counts and finds the next free slot.
    fn read(&mut self, known: &mut BTreeMap<u64, Entry>) -> Result<Recovered> {
        let slots = self.slots()?;
        let mut recovered = Recovered::default();
        (self.next, self.base) = (slots.last().map_or(1, |last| last + 1), 1);
        self.openings.clear();
        // from the newest back to the newest base; before it only openings count, which are read when they stand alone
        let mut tail = vec![];
        for slot in slots.iter().rev() {
            let entry = self.entry(*slot, known)?.ok_or_else(|| self.damaged(*slot, "it is missing"))?;
            let is_base = matches!(entry, Entry::Base(_));
            tail.push((*slot, entry));
            if is_base {
                self.base = *slot;
                break;
            }
        }
        tail.reverse();
        if let Some(gap) = (self.base..self.next).zip(tail.iter()).find_map(|(want, (slot, _))| (want != *slot).then_some(want)) {
            return Err(self.damaged(gap, "it is missing"));
        }
        let base = self.base;
        for slot in slots.iter().filter(|s| **s < base) {
            // one that is gone since it was listed was none: those of openings are never deleted
            if let Some(Entry::Opened(writer, at)) = self.entry(*slot, known)? {
                self.opening(Opening { slot: *slot, writer, at })?;
            }
        }
        for (slot, entry) in tail {
            match entry {
                Entry::Opened(writer, at) => self.opening(Opening { slot, writer, at })?,
                Entry::Started(start) => recovered.start = Some(start),
                Entry::Ends(ends) => recovered.ends = ends,
                Entry::Bound(binding) => {
                    let last = recovered.bindings.last().or(recovered.segments.last()).map(|b| b.epoch);
                    if binding.epoch != last.unwrap_or_default().next() {
                        return Err(self.damaged(slot, format!("epoch {} follows epoch {}", binding.epoch, last.unwrap_or_default())));
                    }
                    recovered.letters.bind(binding.epoch, &binding.letters);
                    recovered.bindings.push(binding);
                }
                Entry::Refused(letters) => recovered.letters.tell(letters),
                Entry::Base(base) => {
                    recovered.start = Some(base.start);
                    recovered.ends = base.ends;
                    recovered.segments = base.segments;
                    recovered.bindings = base.after;
                    recovered.held = base.held;
                    recovered.lanes = base.lanes;
                    recovered.births = base.births;
                    recovered.checkpoints = base.checkpoints;
                    recovered.dropped = base.dropped;
                    recovered.letters = base.letters;
                }
            }
        }
        if self.next > 1 && self.openings.is_empty() {
            return Err(self.damaged(1, "no entry says whose it is"));
        }
        Ok(recovered)
    }

    fn opening(&mut self, opening: Opening) -> Result<()> {
        if !self.openings.is_empty() && opening.writer.ledger != self.writer.ledger {
            return Err(self.damaged(opening.slot, "it belongs to another ledger"));
        }
        self.openings.push(opening);
        self.writer = opening.writer;
        Ok(())
    }

    /// Deletes what the newest base replaces; what cannot be deleted now only takes room.
    fn sweep(&self) {
        if self.base == 1 {
            return;
        }
        let retired = if planted(Bug::GenerationRetired) { self.openings.len().saturating_sub(1) } else { 0 };
        let openings = &self.openings[retired..];
        let sweep = || -> Result<()> {
            let mut old = self.slots()?.into_iter().filter(|s| *s < self.base && openings.iter().all(|o| o.slot != *s));
            old.try_for_each(|slot| self.store.delete(&name(slot)))
        };
        if let Err(e) = sweep() {
            tracing::warn!("old entries of the ledger could not be deleted: {e}");
        }
    }
}
