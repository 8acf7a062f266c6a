//! The commit log of a data set: numbered records, each written by put-if-absent into the next free slot.
//!
//! ```text
//!   0000000001 opened by generation 1   ─┐
//!   0000000002 commit: files, progress   │ one writer; with 2 the record 1 goes, with 3 the record 2
//!   0000000003 commit: files, progress  ─┘
//!   0000000004 opened by generation 2, with the progress of 3: generation 1 can never write a 4
//! ```
//! Invariant: every record carries the progress of the data set as of it, so the newest one alone says everything, and older ones are deleted; the
//! newest never is. A record counts only if no newer one is there after it was written: a writer that finds its next slot taken by somebody else, or
//! free again while records behind it are not, has been replaced, and stops.

use super::taken;
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::sink::{Progress, SinkContext, WriterId};
use crate::store::{Store, format_of};
use crate::time::Epoch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

const COMMITS: &str = "_commits/";
pub(super) const STAGING: &str = "_staging/";
/// How often an opening is overtaken by a commit of the writer that it replaces before it gives up for now.
const TRIES: usize = 100;
/// The most old records that a commit deletes: after many, as earlier versions left them, its files get their names all the same without delay.
const FORGOTTEN: usize = 100;

/// One record, as it lies in the store. The ledger's id is text, because JSON numbers end at 2⁵³ for most readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    kind: String,
    view: String,
    ledger: String,
    generation: u64,
    /// Random, one an opening.
    nonce: String,
    holds: Option<Holds>,
    files: Vec<FileEntry>,
}

/// What the data set holds, and which generation of the ledger wrote the end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holds {
    generation: u64,
    epoch: Epoch,
    part: u32,
}

/// One file of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) staged: String,
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

fn damaged(place: &str, why: impl std::fmt::Display) -> Error {
    Error::external(format!("the newest commit record of {place} cannot be read"))
        .why(why)
        .hint("it was changed by something else: restore it, or name another folder")
        .permanent()
}

fn slot(number: u64) -> String {
    format!("{COMMITS}{number:010}.json")
}

/// An open log: the right to write the next record.
pub(super) struct Log {
    store: Arc<dyn Store>,
    place: String,
    kind: &'static str,
    view: Arc<str>,
    writer: WriterId,
    nonce: u32,
    next: u64,
}

impl Log {
    fn at(store: Arc<dyn Store>, place: &str, kind: &'static str, context: &SinkContext) -> Self {
        let (writer, view) = (context.writer, context.view.clone());
        Log { store, place: place.into(), kind, view, writer, nonce: rand::random(), next: 1 }
    }

    /// What the data set holds; nothing is touched. Which generation wrote it is no matter yet.
    ///
    /// # Errors
    /// A data set of another ledger; what cannot be read.
    pub(super) fn look(store: Arc<dyn Store>, place: &str, kind: &'static str, context: &SinkContext) -> Result<Option<Progress>> {
        let log = Self::at(store, place, kind, context);
        match log.newest()? {
            None => log.refuse_foreign_files().map(|()| None),
            Some((_, record)) => log.admit(&record),
        }
    }

    /// Wins the data set for `writer`: rolls the newest commit forward, takes the next slot, then sweeps what older writers left staged.
    ///
    /// # Errors
    /// A data set of another ledger, or of a newer generation; what cannot be read or written.
    pub(super) fn open(store: Arc<dyn Store>, place: &str, kind: &'static str, context: &SinkContext) -> Result<(Self, Option<Progress>)> {
        let mut log = Self::at(store, place, kind, context);
        let mut first = None;
        for _ in 0..TRIES {
            let newest = log.newest()?;
            log.next = newest.as_ref().map_or(1, |(number, _)| number + 1);
            let progress = match &newest {
                None => {
                    log.refuse_foreign_files()?;
                    None
                }
                Some((_, record)) => {
                    log.refuse_newer(record)?;
                    let progress = log.admit(record)?;
                    if !planted(Bug::NoRollForward) {
                        log.roll_forward(record)?;
                    }
                    progress
                }
            };
            let first = *first.get_or_insert(progress);
            let progress = if planted(Bug::ReadBeforeFence) { first } else { progress };
            // listed before the claim: what is staged after it may be a newer writer's
            let left = log.store.list(STAGING)?;
            let claim = log.encode(progress, Vec::new())?;
            if log.append(&claim)?.is_some() {
                left.iter().try_for_each(|name| log.store.delete(name))?;
                // the claim says what the one before it said; the newest commit stays, for whoever wants to see what it was
                if let Some((number, _)) = newest.filter(|(_, record)| record.files.is_empty()) {
                    log.forget(&[number]);
                }
                return Ok((log, progress));
            }
        }
        Err(log.busy())
    }

    fn busy(&self) -> Error {
        Error::external(format!("{} is being written by somebody else", self.place)).hint("stop the other writer")
    }

    /// Commits `files` with the progress: `Ok` means that they are in the data set for good, though not yet under their final names.
    ///
    /// # Errors
    /// Permanent if another writer has taken over. After any other error the same call must be made again.
    pub(super) fn commit(&mut self, progress: Progress, files: Vec<FileEntry>) -> Result<()> {
        let record = self.encode(Some(progress), files)?;
        if let Some(old) = self.append(&record)? {
            self.forget(&old);
            return Ok(());
        }
        let (_, winner) = self.newest()?.ok_or_else(|| damaged(&self.place, "it vanished"))?;
        Err(Error::external(format!("another writer has taken over {}", self.place))
            .why(format!("ledger {} generation {} opened it", winner.ledger, winner.generation))
            .hint("this pipeline was replaced by a newer one and stops")
            .permanent())
    }

    pub(super) fn writer(&self) -> WriterId {
        self.writer
    }

    /// A name in the staging folder that no other opening uses.
    pub(super) fn staged_name(&self, number: u64) -> String {
        format!("{STAGING}gen-{:04}_{:08x}_{number:06}.staged", self.writer.generation, self.nonce)
    }

    fn encode(&self, progress: Option<Progress>, files: Vec<FileEntry>) -> Result<Vec<u8>> {
        let record = Record {
            format: 1,
            kind: self.kind.into(),
            view: self.view.to_string(),
            ledger: format!("{:032x}", self.writer.ledger),
            generation: self.writer.generation,
            nonce: format!("{:08x}", self.nonce),
            holds: progress.map(|p| Holds { generation: p.writer.generation, epoch: p.epoch, part: p.part }),
            files,
        };
        serde_json::to_vec_pretty(&record).map_err(|e| Error::internal("a commit record cannot be written as JSON").caused_by(e))
    }

    /// Writes the next record and gives the numbers of those before it; `None` if the slot holds another one, or was free only because what held it was
    /// deleted. One that is ours already was written by a call that ended in an error.
    fn append(&mut self, record: &[u8]) -> Result<Option<Vec<u64>>> {
        let slot = slot(self.next);
        let ours = self.store.put_if_absent(&slot, record)? || self.store.get(&slot)?.is_some_and(|there| there == record);
        if !ours {
            return Ok(None);
        }
        let mut numbers = self.numbers()?;
        if numbers.iter().any(|n| *n > self.next) && !planted(Bug::CommitsInAHole) {
            return Ok(None);
        }
        numbers.retain(|n| *n < self.next);
        self.next += 1;
        Ok(Some(numbers))
    }

    /// Deletes records that a newer one stands for; what cannot be deleted now goes with the next commit.
    fn forget(&self, old: &[u64]) {
        if let Err(e) = old.iter().take(FORGOTTEN).try_for_each(|number| self.store.delete(&slot(*number))) {
            tracing::warn!("old commit records of {} could not be deleted: {e}", self.place);
        }
    }

    /// The numbers of all records that are there.
    fn numbers(&self) -> Result<Vec<u64>> {
        let names = self.store.list(COMMITS)?;
        Ok(names.iter().filter_map(|n| n.strip_prefix(COMMITS)?.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// The newest record, and its number.
    fn newest(&self) -> Result<Option<(u64, Record)>> {
        let mut vanished = None;
        for _ in 0..TRIES {
            let Some(number) = self.numbers()?.into_iter().max() else { return Ok(None) };
            match self.read(number)? {
                Some(record) => return Ok(Some((number, record))),
                None if vanished == Some(number) => return Err(damaged(&self.place, "it vanished")),
                // its writer may have gone on since it was listed
                None => vanished = Some(number),
            }
        }
        Err(self.busy())
    }

    fn read(&self, number: u64) -> Result<Option<Record>> {
        let Some(bytes) = self.store.get(&slot(number))? else { return Ok(None) };
        match format_of(&bytes).map_err(|e| damaged(&self.place, e))? {
            1 => serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(&self.place, e)),
            0 => Err(damaged(&self.place, "its format is 0, and 1 is what this version knows")),
            format => Err(Error::user(format!("the data set in {} was written by a newer version of orderflow", self.place))
                .why(format!("commit record {number} has format {format}, this version reads 1"))
                .hint("write it with that version, or name another folder; nothing was changed")),
        }
    }

    fn ledger_of(&self, record: &Record) -> Result<u128> {
        u128::from_str_radix(&record.ledger, 16).map_err(|e| damaged(&self.place, e))
    }

    fn refuse_newer(&self, record: &Record) -> Result<()> {
        if self.ledger_of(record)? == self.writer.ledger && record.generation > self.writer.generation {
            return Err(Error::user(format!("a newer writer has taken over {}", self.place))
                .why(format!("it is at generation {}, this one is {}", record.generation, self.writer.generation))
                .hint(
                    "stop this process: a newer one does its work; if there is none, the state was rolled back: restore the newest one",
                ));
        }
        Ok(())
    }

    /// Whether we may go on after this record, and from where.
    fn admit(&self, record: &Record) -> Result<Option<Progress>> {
        let ledger = self.ledger_of(record)?;
        let Some(holds) = record.holds else { return Ok(None) };
        if ledger != self.writer.ledger && !planted(Bug::LedgerIdIgnored) {
            return Err(taken(&self.place, format!("it was written by another run, up to epoch {}", holds.epoch))
                .hint("name another folder, or move or delete this one first; or put back the state that belongs to it"));
        }
        if (&*record.kind, &*record.view) != (self.kind, &*self.view) {
            return Err(taken(&self.place, format!("it holds the view '{}' as {}", record.view, record.kind)));
        }
        Ok(Some(Progress { writer: WriterId { ledger, generation: holds.generation }, epoch: holds.epoch, part: holds.part }))
    }

    /// Files that lie in the folder without any record would be read as part of the data set.
    fn refuse_foreign_files(&self) -> Result<()> {
        let foreign = |name: &&String| !name.contains('/') && name.strip_suffix(self.kind).is_some_and(|n| n.ends_with('.'));
        match self.store.list("")?.iter().find(foreign) {
            Some(name) => Err(taken(&self.place, format!("{name} lies there and was not written by orderflow"))),
            None => Ok(()),
        }
    }

    /// Gives the files of a commit their final names; those that have them, or were moved away since, are left alone.
    fn roll_forward(&self, record: &Record) -> Result<()> {
        let staged: BTreeSet<String> =
            if record.files.is_empty() { BTreeSet::new() } else { self.store.list(STAGING)?.into_iter().collect() };
        for file in record.files.iter().filter(|f| staged.contains(&f.staged)) {
            let Some(bytes) = self.store.get(&file.staged)? else { continue };
            if (bytes.len() as u64, crc32fast::hash(&bytes)) != (file.bytes, file.crc32) {
                return Err(Error::external(format!("{} in {} is damaged", file.staged, self.place))
                    .why(format!("it was committed with {} bytes and checksum {:08x}", file.bytes, file.crc32))
                    .hint("restore it, or name another folder; nothing was changed")
                    .permanent());
            }
            self.store.publish(&file.staged, &file.name)?;
            if planted(Bug::RollsForwardOne) {
                break;
            }
        }
        Ok(())
    }
}
