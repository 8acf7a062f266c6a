//! The sink contract: closed epochs go in, progress comes out.
//!
//! A [`Sink`] is a value that parses its configuration; opened, it is a [`Writer`].
//! ```text
//!   look ─► Progress it seems to hold                    (nothing is touched: a state that is not its own is refused now)
//!   open(generation) ─► Progress it already holds       (win, fence, only then read)
//!   write(closed epoch) … poll ─► Committed             one act stores the data and the progress
//!                          └► Refused: rows that the act leaves out ─► bound ─► and only then is it committed
//! ```
//! A commit that ended in an error may have happened. The writer that is polled again asks the outside before it does the same act once more; one that is opened
//! reads it. `testing::conformance::sink` lets commits of a sink fail in both ways (`docs/testing.md` has an example that is compiled).
//!
//! Invariant: an epoch whose progress a writer reported is in the outside world for good; a writer is never given an epoch at
//! or below the progress it reported when it was opened. All calls come from one thread, which may be the sink's own.

pub mod dead_letter;
pub mod files;
pub mod memory;
mod refused;
pub mod signed;

pub use refused::{Bound, Refused};

use crate::data::Changes;
use crate::error::Result;
use crate::time::{Clock, Epoch};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a sink promises after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// A row may be seen again after a crash.
    AtLeastOnce,
    /// A row is stored together with the progress, so never twice.
    ExactlyOnce,
}

/// A configured sink that has not been opened.
pub trait Sink: Send + 'static {
    /// The columns it wants, computed from the view's columns (SQL expressions, hidden columns allowed); `None`: the visible ones as they are.
    ///
    /// # Errors
    /// What the sink cannot do with such columns.
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>>;

    /// What it promises under a ledger that survives the process (`kept`), or that is gone with it.
    fn guarantee(&self, kept: bool) -> Guarantee;

    /// One word for logs, metrics and progress: `parquet`, `kafka`.
    fn kind(&self) -> &'static str;

    /// What it is seen to hold, before anything is opened, fenced or made: a start that is refused leaves every sink as it was. `None` if that is nothing,
    /// or cannot be told without opening it; whether something is missing is judged when it is open. A sink around another passes this on.
    ///
    /// # Errors
    /// What cannot be reached, or a place that is taken, with the choices.
    fn look(&self, _context: &SinkContext) -> Result<Option<Progress>> {
        Ok(None)
    }

    /// Wins the sink for this generation, ends what an older writer left half done, then reads what it already holds. May block for a bounded time.
    ///
    /// # Errors
    /// What cannot be reached, or a place that is taken, with the choices.
    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened>;
}

/// What a sink is offered: the rows of a view or stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its columns, hidden ones included.
    pub schema: SchemaRef,
    /// Names of visible columns that no two rows share, where the plan proves it (the groups of a `GROUP BY`); none at all for an aggregate
    /// without `GROUP BY`, which has one row at most.
    pub key: Option<Vec<String>>,
}

impl From<SchemaRef> for Input {
    /// Rows of which no key is known.
    fn from(schema: SchemaRef) -> Self {
        Self { schema, key: None }
    }
}

/// A column that a sink asks for: an expression over the view's columns, and the name it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in the sink's schema.
    pub name: String,
    /// SQL expression over the view's columns and, where the view still is a source, its hidden columns.
    pub sql: String,
}

impl Column {
    /// `sql AS name`.
    pub fn new(name: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { name: name.into(), sql: sql.into() }
    }
}

impl Sink for Box<dyn Sink> {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        (**self).columns(input)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        (**self).guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        (**self).kind()
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        (**self).look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        (*self).open(context)
    }
}

/// What a sink is given when it is opened.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// Name of the pipeline.
    pub pipeline: Arc<str>,
    /// Name of the view that is written.
    pub view: Arc<str>,
    /// Who writes: the ledger and its generation.
    pub writer: WriterId,
    /// Columns of every [`Closed::changes`].
    pub schema: SchemaRef,
    /// Whether the ledger survives the process: then progress can be asked for after a crash.
    pub kept: bool,
    /// The engine's clock.
    pub clock: Clock,
}

/// An open sink and what it held already.
pub struct Opened {
    /// The writer.
    pub writer: Box<dyn Writer>,
    /// The newest progress found in the sink itself; `None` for a new or forgetful sink.
    pub progress: Option<Progress>,
}

/// Who writes: a ledger's random id, and how many times it has been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WriterId {
    /// Random, made with the ledger.
    pub ledger: u128,
    /// 1 at the first opening.
    pub generation: u64,
}

/// What a sink holds: everything up to and including `part` of `epoch`, written by `writer`. Never a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Who wrote it.
    pub writer: WriterId,
    /// The newest epoch held.
    pub epoch: Epoch,
    /// The newest part of that epoch; parts of an epoch are numbered from 0 and the last one completes it.
    pub part: u32,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger {:032x} generation {} epoch {} part {}", self.writer.ledger, self.writer.generation, self.epoch, self.part)
    }
}

/// An open sink.
pub trait Writer: Send {
    /// Takes a closed epoch, in epoch order. Must not wait for the outside: what cannot leave at once is kept and counted in [`Committed::pending_bytes`].
    ///
    /// # Errors
    /// [`Retry::Backoff`](crate::error::Retry): nothing of the epoch was taken, it is given again after a pause. [`Retry::Never`](crate::error::Retry): the sink is out of order.
    fn write(&mut self, closed: Closed) -> Result<()>;

    /// Asks that all taken epochs be committed without waiting for a roll; the answer comes from [`Writer::poll`].
    ///
    /// # Errors
    /// As [`Writer::poll`].
    fn flush(&mut self) -> Result<()>;

    /// Drives the outside world, waiting at most `wait` for it, and says how far it is.
    ///
    /// # Errors
    /// [`Retry::Backoff`](crate::error::Retry): polled again after a pause, what was taken is still held. [`Retry::Never`](crate::error::Retry): the pipeline stops with this reason.
    fn poll(&mut self, wait: Duration) -> Result<Committed>;

    /// How far each lane is, by its number, of a sink whose lanes commit by themselves: what is reported as progress is the least of them. Nothing: it commits
    /// as a whole. The ledger remembers it, so that a lane that lost what it held is noticed, also one that was ahead of the others. Once all hold the
    /// same epoch they may be more or fewer: a lane that is no more is taken to hold what the sink as a whole does, rows that it [refused](Refused) included.
    fn lanes(&self) -> Vec<Epoch> {
        vec![]
    }

    /// Lets go of the outside. Everything flushed and committed before stays; what was not is gone.
    ///
    /// # Errors
    /// What could not be closed.
    fn close(self: Box<Self>) -> Result<()>;
}

/// How far a writer is.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The newest progress that is in the outside world for good; `None` before the first commit.
    pub progress: Option<Progress>,
    /// Bytes taken and not yet out: the engine stops giving epochs while this is above its bound.
    pub pending_bytes: usize,
    /// Rows that acts under way leave out, each act told once: it waits until they are [bound](Refused::bound).
    pub refused: Vec<Refused>,
}

/// All output of one epoch for one sink, in canonical order: never empty batches, possibly no batch at all.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The epoch.
    pub epoch: Epoch,
    /// Its rows with [`SinkContext::schema`].
    pub changes: Vec<Changes>,
}

impl Closed {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.changes.iter().map(Changes::len).sum()
    }

    /// Bytes held in memory.
    pub fn memory(&self) -> usize {
        self.changes.iter().map(Changes::memory).sum()
    }
}
