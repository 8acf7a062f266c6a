//! A directory data set: files of rows that are committed together with the progress.
//!
//! ```text
//!   epochs ─► encoder ─► _staging/…        written aside, synced
//!                          │ _commits/0000000007.json   put if absent: this IS the commit, and the progress
//!                          ▼
//!                        lane-0_gen-0001_epochs-0000000001-0000000042.parquet     renamed, visible
//! ```
//! Invariant: the newest record in `_commits/` says what the data set holds; a data file is never the progress, so its owner may
//! move it away. A record is written only when all files of the record before have their final names, so rolling the newest one
//! forward is all that an opening has to do, and a newer one stands for all before it, which are deleted: `_commits/` stays small however long it runs.
//!
//! Readers that glob (`*.parquet`) or skip names beginning with `_` or `.` see whole files only.

mod jsonl;
mod record;
mod staging;
mod writer;

#[cfg(test)]
mod tests;

pub use jsonl::JsonLines;

use crate::error::{Error, Result};
use crate::sink::{Column, Guarantee, Input, Opened, Progress, Sink, SinkContext, signed};
use crate::store::{self, Store};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the bytes of a data file look like.
pub trait FileFormat: Send + 'static {
    /// One word: `parquet`; also the ending of the file names.
    fn kind(&self) -> &'static str;

    /// An encoder for one file with these columns.
    ///
    /// # Errors
    /// A column that such a file cannot hold.
    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>>;
}

/// Turns batches into the bytes of one file. It touches memory only, so a full disk cannot leave it half way.
pub trait FileEncoder: Send {
    /// Encodes a batch and appends what is ready to `out`.
    ///
    /// # Errors
    /// Rows that do not have the columns, which is a bug.
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()>;

    /// Appends the rest of the file, and the end.
    ///
    /// # Errors
    /// As [`FileEncoder::write`].
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()>;

    /// About how many bytes are still to come for the rows written so far.
    fn held(&self) -> usize {
        0
    }
}

/// When a file is closed and committed: at whichever comes first, looked at between epochs. An epoch larger than that is spread
/// over several files of at most twice the size, committed as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roll {
    /// Rows in the file.
    pub rows: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Time since its first epoch.
    pub after: Duration,
}

impl Default for Roll {
    /// 1,000,000 rows, 128 MB, 60 s.
    fn default() -> Self {
        Self { rows: 1_000_000, bytes: 128_000_000, after: Duration::from_secs(60) }
    }
}

/// A data set as a sink: exactly once.
pub struct DataSet<F> {
    place: Place,
    format: F,
    roll: Roll,
}

enum Place {
    Folder(PathBuf),
    Store(Arc<dyn Store>, String),
}

impl<F: FileFormat> DataSet<F> {
    /// Appends to the data set in a local folder, which is made if it is not there, or at a [URL](store::open).
    pub fn append(folder: impl Into<PathBuf>, format: F) -> Self {
        Self { place: Place::Folder(folder.into()), format, roll: Roll::default() }
    }

    /// Appends to the data set in a store; `name` is what messages call it.
    pub fn on(store: Arc<dyn Store>, name: impl Into<String>, format: F) -> Self {
        Self { place: Place::Store(store, name.into()), format, roll: Roll::default() }
    }

    /// The format, to be configured further.
    pub fn map_format(mut self, change: impl FnOnce(F) -> F) -> Self {
        self.format = change(self.format);
        self
    }

    /// Closes a file at this many rows (at least 1).
    pub fn roll_rows(mut self, rows: u64) -> Self {
        self.roll.rows = rows.max(1);
        self
    }

    /// Closes a file at this many bytes (at least 1).
    pub fn roll_bytes(mut self, bytes: u64) -> Self {
        self.roll.bytes = bytes.max(1);
        self
    }

    /// Closes a file this long after its first epoch.
    pub fn roll_after(mut self, time: Duration) -> Self {
        self.roll.after = time;
        self
    }
}

impl<F: FileFormat> Sink for DataSet<F> {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.format.encoder(&signed::schema(&input.schema)?)?;
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        self.format.kind()
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        let (store, name) = match &self.place {
            // a folder that is not there is not made by looking
            Place::Folder(path) => match store::look(path)? {
                Some(store) => (store, path.display().to_string()),
                None => return Ok(None),
            },
            Place::Store(store, name) => (store.clone(), name.clone()),
        };
        record::Log::look(store, &name, self.format.kind(), context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let schema = signed::schema(&context.schema)?;
        self.format.encoder(&schema)?;
        let (store, name) = match self.place {
            Place::Folder(path) => (store::open(&path)?, path.display().to_string()),
            Place::Store(store, name) => (store, name),
        };
        let (log, progress) = record::Log::open(store.clone(), &name, self.format.kind(), &context)?;
        let writer = writer::DataSetWriter::new(log, store, Box::new(self.format), schema, self.roll, context.clock, progress);
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

/// A data set that is not ours to go on with.
fn taken(place: &str, why: String) -> Error {
    Error::user(format!("the folder {place} already holds a data set"))
        .why(why)
        .hint("name another folder, or move or delete this one first")
}
