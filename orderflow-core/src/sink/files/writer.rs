//! The writer of a data set: epochs into files, files into commits.
//!
//! ```text
//!   write ─► files … (memory and staging)      never waits, never syncs
//!   poll  ─► sync files ─► record ─► rename    every step may fail and is tried again from where it stood
//! ```
//! Invariant: a commit ends at an epoch's end, and the next one begins only when this one's files have their final names.

use super::record::{FileEntry, Log};
use super::staging::Staging;
use super::{FileFormat, Roll};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result, Retry};
use crate::sink::{Closed, Committed, Progress, Writer, signed};
use crate::store::Store;
use crate::time::{Clock, Epoch};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use std::time::Duration;

/// Rows that an encoder is given at once, so that a file or a row group can end in the middle of a large batch.
const SLICE: usize = 8_192;

pub(super) struct DataSetWriter {
    log: Log,
    store: Arc<dyn Store>,
    format: Box<dyn FileFormat>,
    schema: SchemaRef,
    roll: Roll,
    clock: Clock,
    /// Files of epochs that no commit has begun to take; only the last one can be open.
    files: Vec<Staging>,
    staged: u64,
    /// The newest epoch taken, and when the first one after the last commit was.
    taken: Option<Epoch>,
    since: Option<Duration>,
    /// A commit is due.
    due: bool,
    commit: Option<Commit>,
    committed: Option<Progress>,
    /// The last try to get something out failed: nothing more is taken before one succeeds.
    stuck: bool,
    /// Why nothing can ever be written again.
    broken: Option<Error>,
}

/// Files on their way through the three steps.
struct Commit {
    through: Epoch,
    files: Vec<Staging>,
    entries: Option<Vec<FileEntry>>,
    recorded: bool,
    renamed: usize,
}

impl DataSetWriter {
    pub(super) fn new(
        log: Log,
        store: Arc<dyn Store>,
        format: Box<dyn FileFormat>,
        schema: SchemaRef,
        roll: Roll,
        clock: Clock,
        committed: Option<Progress>,
    ) -> Self {
        let taken = committed.map(|p| p.epoch);
        let (files, staged, since, due, commit, stuck, broken) = (Vec::new(), 0, None, false, None, false, None);
        Self { log, store, format, schema, roll, clock, files, staged, taken, since, due, commit, committed, stuck, broken }
    }

    /// Takes rows into the open file, or into a new one.
    fn append(&mut self, batch: &RecordBatch, epoch: Epoch) -> Result<()> {
        let full = |f: &Staging| f.rows() / 2 >= self.roll.rows || f.bytes() / 2 >= self.roll.bytes;
        if self.files.last().is_some_and(|f| f.is_open() && full(f))
            && let Some(file) = self.files.last_mut()
        {
            file.seal()?;
        }
        if !self.files.last().is_some_and(Staging::is_open) {
            self.staged += 1;
            self.files.push(Staging::new(self.log.staged_name(self.staged), &*self.format, &self.schema, epoch)?);
        }
        self.files.last_mut().map_or(Ok(()), |file| file.append(batch, epoch))
    }

    /// Does everything that can be done now: the commit under way, the ones that are due, and the open file's bytes.
    fn advance(&mut self) -> Result<()> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = self.try_advance();
        self.stuck = result.is_err();
        if let Err(e) = &result
            && e.retry() == Retry::Never
        {
            self.broken = Some(e.clone());
        }
        result
    }

    fn try_advance(&mut self) -> Result<()> {
        loop {
            if let Some(commit) = &mut self.commit {
                let progress = Progress { writer: self.log.writer(), epoch: commit.through, part: 0 };
                commit.advance(&mut self.log, &*self.store, self.format.kind(), progress)?;
                self.committed = Some(progress);
                self.commit = None;
            }
            let through = self.taken.filter(|t| self.committed.is_none_or(|c| c.epoch < *t));
            match through {
                Some(through) if self.due => {
                    if let Some(file) = self.files.last_mut() {
                        file.seal()?;
                    }
                    let files = std::mem::take(&mut self.files);
                    self.commit = Some(Commit { through, files, entries: None, recorded: false, renamed: 0 });
                    (self.due, self.since) = (false, None);
                }
                _ => break,
            }
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<()> {
        self.files.iter_mut().try_for_each(|f| f.drain(&*self.store))
    }
}

impl Commit {
    fn advance(&mut self, log: &mut Log, store: &dyn Store, ending: &str, progress: Progress) -> Result<()> {
        if !planted(Bug::CommitBeforeData) {
            self.files.iter_mut().try_for_each(|file| file.stage(store))?;
        }
        let files = &self.files;
        let entries = self.entries.get_or_insert_with(|| {
            let twins = |i: usize| files[..i].iter().filter(|f| f.same_epochs(&files[i])).count();
            (0..files.len()).map(|i| files[i].entry(progress.writer.generation, ending, twins(i))).collect()
        });
        if planted(Bug::RenamesBeforeCommit) {
            entries.iter().try_for_each(|file| store.publish(&file.staged, &file.name).map(drop))?;
        }
        if !self.recorded {
            log.commit(progress, entries.clone())?;
            self.recorded = true;
        }
        if planted(Bug::CommitBeforeData) {
            self.files.iter_mut().try_for_each(|file| file.stage(store))?;
        }
        for file in &entries[self.renamed..] {
            // an earlier try whose answer was lost, or the writer that replaces us, may have renamed it
            if !store.publish(&file.staged, &file.name)? && !store.list("")?.contains(&file.name) {
                return Err(Error::external(format!("the staged file {} is gone", file.staged))
                    .why(format!("somebody removed it before it became {}; its {} rows are lost", file.name, file.rows))
                    .hint("keep other programs out of _staging")
                    .permanent());
            }
            self.renamed += 1;
        }
        Ok(())
    }
}

impl Writer for DataSetWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        if self.stuck || self.broken.is_some() {
            self.advance()?;
        }
        if self.taken.is_some_and(|t| closed.epoch <= t) {
            return Err(Error::internal(format!("epoch {} was given after epoch {}", closed.epoch, self.taken.unwrap_or_default())));
        }
        for changes in &closed.changes {
            for from in (0..changes.len()).step_by(SLICE) {
                let part = changes.slice(from, SLICE.min(changes.len() - from));
                let appended = signed::batch(&self.schema, &part, closed.epoch).and_then(|batch| self.append(&batch, closed.epoch));
                if let Err(e) = appended {
                    self.broken = Some(e.clone());
                    return Err(e);
                }
                // a disk that takes nothing is reported by the next call; this epoch is in memory
                self.stuck = self.drain().is_err();
            }
        }
        self.taken = Some(closed.epoch);
        self.since.get_or_insert_with(|| self.clock.elapsed());
        let full = |f: &Staging| f.rows() >= self.roll.rows || f.bytes() >= self.roll.bytes;
        self.due |= self.files.iter().any(full);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.due |= self.since.is_some();
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn poll(&mut self, _wait: Duration) -> Result<Committed> {
        self.due |= self.since.is_some_and(|since| self.clock.elapsed().saturating_sub(since) >= self.roll.after);
        self.advance()?;
        // what lies in staging is out of memory and would never leave by waiting: only what waits for the disk is pending
        let pending_bytes = self.files.iter().map(Staging::waiting).sum();
        Ok(Committed { progress: self.committed, pending_bytes, refused: Vec::new() })
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        let mut dropped = std::mem::take(&mut self.files);
        if let Some(mut commit) = self.commit.take() {
            if commit.recorded {
                let progress = Progress { writer: self.log.writer(), epoch: commit.through, part: 0 };
                commit.advance(&mut self.log, &*self.store, self.format.kind(), progress)?;
            } else if commit.entries.is_none() {
                dropped.append(&mut commit.files);
            } // else the record may have been written, its answer lost: the next opening looks
        }
        let names: Vec<String> = dropped.iter().map(|f| f.staged().to_owned()).collect();
        drop(dropped); // what is half written goes away here
        names.iter().try_for_each(|name| self.store.delete(name))
    }
}
