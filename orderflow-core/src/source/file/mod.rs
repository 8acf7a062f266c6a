//! Files as sources: one partition a file, positions are bytes, and the end is the end each file had when it was opened.
//!
//! Invariant: a record is a line (in CSV: up to a line end outside quotes) with its line end taken off, at the byte where it begins; blank
//! lines are no records. Memory is bounded: one block is read at a time, and of a record longer than the limit only the beginning is
//! kept, for the dead letters; the stream goes on after it.

mod reader;
#[cfg(test)]
mod tests;

use super::{Reader, Source, SourceContext};
use crate::error::{Error, Result};
use crate::format::{Format, csv::Csv, json::Json};
use arrow::datatypes::SchemaRef;
use reader::{Files, Lines};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest record by default.
const MAX_RECORD: usize = 64 << 20;
/// How much is read at a time.
const BLOCK: usize = 1 << 20;

/// Which files are read.
#[derive(Clone, Debug)]
enum Paths {
    These(Vec<PathBuf>),
    In(PathBuf),
}

impl Paths {
    /// The files, a folder's in the order of their names; hidden ones (`.x`, `_x`) and other endings are left out.
    fn resolve(self, endings: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = match self {
            Paths::These(paths) => return Ok(paths),
            Paths::In(folder) => folder,
        };
        let unreadable =
            |e| Error::user(format!("cannot list the folder {}", folder.display())).caused_by(e).hint("check the path and its permissions");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let hidden = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(['.', '_']));
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
            if !hidden && path.is_file() && endings.contains(&ending.as_str()) {
                found.push(path);
            }
        }
        if found.is_empty() {
            return Err(Error::user(format!("the folder {} holds no file that ends in .{}", folder.display(), endings.join(" or ."))));
        }
        found.sort();
        Ok(found)
    }
}

/// Files with one JSON object a line.
///
/// ```no_run
/// # use orderflow_core::arrow::datatypes::Schema;
/// use orderflow_core::{format::json::Json, source::file::JsonLines};
/// # let schema = std::sync::Arc::new(Schema::empty());
/// let orders = JsonLines::dir("orders/", Json::new(schema));
/// ```
#[derive(Clone, Debug)]
pub struct JsonLines {
    paths: Paths,
    format: Json,
    max_record: usize,
}

impl JsonLines {
    /// One file.
    pub fn file(path: impl AsRef<Path>, format: Json) -> Self {
        Self::files([path], format)
    }

    /// These files, in this order.
    pub fn files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, format: Json) -> Self {
        let paths = Paths::These(paths.into_iter().map(|p| p.as_ref().to_owned()).collect());
        Self { paths, format, max_record: MAX_RECORD }
    }

    /// All `.jsonl`, `.ndjson` and `.json` files of a folder, in the order of their names.
    pub fn dir(path: impl AsRef<Path>, format: Json) -> Self {
        Self { paths: Paths::In(path.as_ref().to_owned()), format, max_record: MAX_RECORD }
    }

    /// Longest line that is accepted, 64 MiB if not set, 1 GiB at most. A longer one becomes a dead letter with its first 64 KiB and its place.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.max_record = bytes.max(1);
        self
    }
}

impl Source for JsonLines {
    fn schema(&self) -> SchemaRef {
        self.format.schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(Arc::new(self.format.clone()))
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        self.open_by(BLOCK, &context)
    }
}

impl JsonLines {
    fn open_by(self, block: usize, context: &SourceContext) -> Result<Box<dyn Reader>> {
        let paths = self.paths.resolve(&["jsonl", "ndjson", "json"])?;
        Ok(Box::new(Files::open(paths, Lines::Plain, self.max_record, block, context)?))
    }
}

/// What the first record of a CSV file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A record like every other.
    None,
    /// The names of the columns, which must be those of the schema in its order (upper or lower case).
    Checked,
    /// Something to step over.
    Skipped,
}

/// Files with one CSV record a line; a quoted field may hold line ends.
///
/// ```no_run
/// # use orderflow_core::arrow::datatypes::Schema;
/// use orderflow_core::{format::csv::Csv, source::file::{CsvFiles, Header}};
/// # let schema = std::sync::Arc::new(Schema::empty());
/// let orders = CsvFiles::file("orders.csv", Csv::new(schema)).header(Header::Checked);
/// ```
#[derive(Clone, Debug)]
pub struct CsvFiles {
    paths: Paths,
    format: Csv,
    header: Header,
    max_record: usize,
}

impl CsvFiles {
    /// One file, without a header.
    pub fn file(path: impl AsRef<Path>, format: Csv) -> Self {
        Self::files([path], format)
    }

    /// These files, in this order, without headers.
    pub fn files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, format: Csv) -> Self {
        let paths = Paths::These(paths.into_iter().map(|p| p.as_ref().to_owned()).collect());
        Self { paths, format, header: Header::None, max_record: MAX_RECORD }
    }

    /// All `.csv` files of a folder, in the order of their names, without headers.
    pub fn dir(path: impl AsRef<Path>, format: Csv) -> Self {
        Self { paths: Paths::In(path.as_ref().to_owned()), format, header: Header::None, max_record: MAX_RECORD }
    }

    /// What the first record of each file is.
    pub fn header(mut self, header: Header) -> Self {
        self.header = header;
        self
    }

    /// Longest record that is accepted, 64 MiB if not set, 1 GiB at most. A longer one becomes a dead letter with its first 64 KiB and its
    /// place. A quote that is never closed makes one record of the rest of its file.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.max_record = bytes.max(1);
        self
    }
}

impl Source for CsvFiles {
    fn schema(&self) -> SchemaRef {
        self.format.schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(Arc::new(self.format.clone()))
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        self.open_by(BLOCK, &context)
    }
}

impl CsvFiles {
    fn open_by(self, block: usize, context: &SourceContext) -> Result<Box<dyn Reader>> {
        let paths = self.paths.resolve(&["csv"])?;
        let names = self.format.schema().fields().iter().map(|f| f.name().clone()).collect();
        let lines = Lines::Csv { delimiter: self.format.delimiter_byte(), header: self.header, names };
        Ok(Box::new(Files::open(paths, lines, self.max_record, block, context)?))
    }
}
