//! A simulated sink: a place in the outside world that stores rows and progress in one act, whose answers get lost.
//!
//! Invariant: it keeps the sink contract to the letter, and it is a judge: an epoch that it holds already, or a writer that was overtaken, is an error that
//! names the broken law.

use super::trace::{Act, Trace};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::format::encode::JsonRows;
use crate::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId, signed};
use crate::store::faulty::Fate;
use crate::time::Epoch;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A simulated sink. Every act on it is an operation of the world's fate: it is refused, or happens and is not answered, or is the last of the process.
#[derive(Clone)]
pub struct Table {
    name: Arc<str>,
    held: Arc<Mutex<Held>>,
    fate: Fate,
    /// Rows after which it commits.
    roll: u64,
    trace: Trace,
}

/// What it holds for good.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// A JSON object a row, with `epoch` and `diff`.
    pub(super) lines: Vec<String>,
    progress: Option<Progress>,
    fence: Option<WriterId>,
}

impl Held {
    /// Who wrote it, and who may.
    pub(super) fn owners(&self) -> String {
        format!("{:?}, {:?}", self.progress, self.fence)
    }
}

impl Table {
    pub(super) fn new(name: &str, held: Arc<Mutex<Held>>, fate: Fate, roll: u64, trace: Trace) -> Self {
        Self { name: name.into(), held, fate, roll, trace }
    }

    /// Commits after so many rows (at least 1), besides when it is asked to.
    pub fn roll_rows(mut self, rows: u64) -> Self {
        self.roll = rows.max(1);
        self
    }

    fn progress(&self) -> Option<Progress> {
        self.trace.note(Act::Read(self.name.to_string()));
        self.held().progress
    }

    /// The same for a writer that does not know what became of its last commit.
    fn asked_by(&self, writer: WriterId) -> Result<Option<Progress>> {
        drop(self.held_by(writer, Act::Read)?);
        Ok(self.progress())
    }

    /// What is held, for the writer whose fence is the newest; of another the act is refused.
    fn held_by(&self, writer: WriterId, act: impl FnOnce(String) -> Act) -> Result<MutexGuard<'_, Held>> {
        let held = self.held();
        match held.fence {
            Some(fence) if fence == writer => Ok(held),
            other => {
                self.trace.note_refused(act(self.name.to_string()));
                Err(overtaken(other.unwrap_or(writer)))
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Table {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        signed::schema(&input.schema).map(|_| None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "table"
    }

    // no act: nobody outside could tell that it was looked at
    fn look(&self, _context: &SinkContext) -> Result<Option<Progress>> {
        Ok(self.held().progress)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let writer = context.writer;
        self.fate.run_as("fence of a table", || {
            let mut held = self.held();
            match held.fence {
                Some(f) if f.ledger == writer.ledger && f.generation > writer.generation => Err(overtaken(f)),
                _ => {
                    held.fence = Some(writer);
                    self.trace.note(Act::Fenced(self.name.to_string()));
                    Ok(())
                }
            }
        })?;
        let progress = self.fate.run_as("progress of a table", || Ok(self.progress()))?;
        let writer = TableWriter { table: *self, context, pending: vec![], newest: None, rows: 0, due: false, doubt: false, progress };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

fn overtaken(by: WriterId) -> Error {
    Error::external("another writer has taken over the table").why(format!("generation {} opened it", by.generation)).permanent()
}

struct TableWriter {
    table: Table,
    context: SinkContext,
    pending: Vec<(Epoch, Vec<String>)>,
    newest: Option<Epoch>,
    rows: u64,
    due: bool,
    /// The last commit was not answered.
    doubt: bool,
    progress: Option<Progress>,
}

impl TableWriter {
    fn encode(&self, closed: &Closed) -> Result<Vec<String>> {
        let schema = signed::schema(&self.context.schema)?;
        let mut text = Vec::new();
        for changes in &closed.changes {
            let batch = signed::batch(&schema, changes, closed.epoch)?;
            let mut rows = JsonRows::of(&batch)?;
            for row in 0..batch.num_rows() {
                rows.append(row, None, &mut text);
                text.push(b'\n');
            }
        }
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    /// Data and progress in one act.
    fn commit(&mut self, epoch: Epoch) -> Result<()> {
        let writer = self.context.writer;
        let progress = Progress { writer, epoch, part: 0 };
        let (table, pending) = (&self.table, &self.pending);
        let apart = planted(Bug::ProgressOutsideTransaction);
        let remember = |held: &mut Held| {
            held.progress = Some(progress);
            table.trace.note(Act::Committed(table.name.to_string(), epoch));
        };
        table.fate.run_as("commit of a table", || {
            let mut held = table.held_by(writer, |name| Act::Committed(name, epoch))?;
            if let Some(p) = held.progress.filter(|p| pending.first().is_some_and(|(first, _)| p.epoch >= *first)) {
                return Err(Error::internal(format!("law 3 is broken: epoch {} was given to a table that holds {p}", pending[0].0)));
            }
            held.lines.extend(pending.iter().flat_map(|(_, lines)| lines.iter().cloned()));
            if !apart {
                remember(&mut held);
            }
            Ok(())
        })?;
        if apart {
            table.fate.run_as("progress of a table, by itself", || {
                remember(&mut table.held());
                Ok(())
            })?;
        }
        self.progress = Some(progress);
        (self.pending, self.rows, self.due) = (vec![], 0, false);
        Ok(())
    }
}

impl Writer for TableWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        // refused or not answered: either way it was not taken
        self.table.fate.run_as("rows for a table", || Ok(()))?;
        if self.newest.or(self.progress.map(|p| p.epoch)).is_some_and(|newest| closed.epoch <= newest) {
            return Err(Error::internal(format!("law 3 is broken: epoch {} was given once more", closed.epoch)));
        }
        self.newest = Some(closed.epoch);
        self.rows += closed.rows() as u64;
        self.due |= self.rows >= self.table.roll;
        let lines = self.encode(&closed)?;
        self.pending.push((closed.epoch, lines));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.due |= !self.pending.is_empty();
        Ok(())
    }

    fn poll(&mut self, _wait: Duration) -> Result<Committed> {
        if self.doubt && !planted(Bug::BlindRetry) {
            // never again blindly: what it holds says what happened
            let progress = self.table.fate.run_as("progress of a table", || self.table.asked_by(self.context.writer))?;
            self.pending.retain(|(epoch, _)| progress.is_none_or(|p| *epoch > p.epoch));
            (self.progress, self.doubt) = (progress, false);
            self.due = !self.pending.is_empty();
            self.rows = if self.due { self.rows } else { 0 };
        }
        if let Some(epoch) = self.newest.filter(|_| self.due && !self.pending.is_empty()) {
            self.doubt = true;
            self.commit(epoch)?;
            self.doubt = false;
        }
        let pending_bytes = self.pending.iter().flat_map(|(_, lines)| lines).map(String::len).sum();
        Ok(Committed { progress: self.progress, pending_bytes, refused: vec![] })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
