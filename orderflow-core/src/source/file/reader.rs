//! Reads files one after the other, block by block, and cuts the blocks into records without copying them.
//! ```text
//!   file ──► block (what the last one left over, then up to 1 MiB) ──► whole records ──► batch, which owns the block
//!                      ▲                                                  │
//!                      └────────────── the record that is cut off ◄───────┘
//! ```
//! Invariant: `position` of a file is the byte after the last record handed out, and `bytes` are those that were read from there on.

use super::Header;
use crate::error::{Error, Result};
use crate::format::csv::line::{self, Splitter};
use crate::source::{Fetch, Fingerprint, PartitionStatus, Payload, Polled, RawBatch, RawRecord, Reader, SourceStatus};
use crate::time::{Partition, Position, Positions};
use memchr::memchr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What ends a record.
pub(super) enum Lines {
    /// A line end.
    Plain,
    /// A line end outside quotes.
    Csv { delimiter: u8, header: Header, names: Vec<String> },
}

/// Files to be read.
pub(super) struct Files {
    files: Vec<One>,
    lines: Lines,
    max_record: usize,
    block: usize,
    /// The file that is read now, and its state.
    current: usize,
    open: Option<Open>,
}

struct One {
    path: PathBuf,
    partition: Partition,
    position: Position,
    end: Position,
}

struct Open {
    file: File,
    bytes: Vec<u8>,
    /// How many of the bytes were searched for a line end.
    searched: usize,
    splitter: Splitter,
    /// Whether the header is still to come.
    header: bool,
}

impl Files {
    /// Finds the end of every file, and where to begin.
    pub(super) fn open(paths: Vec<PathBuf>, lines: Lines, max_record: usize, block: usize, resume: Option<&Positions>) -> Result<Self> {
        let mut files: Vec<One> = Vec::with_capacity(paths.len());
        for path in paths {
            let meta = File::open(&path).and_then(|file| file.metadata());
            let meta = meta.map_err(|e| {
                Error::user(format!("cannot read {}", path.display())).caused_by(e).hint("check the path and its permissions")
            })?;
            if !meta.is_file() {
                return Err(Error::user(format!("{} is no file", path.display())).hint("read a folder with dir(…)"));
            }
            let partition = Partition::new(path.to_string_lossy(), 0);
            let position = resume.and_then(|positions| positions.get(&partition).copied()).unwrap_or(0);
            let end = meta.len();
            if position > end {
                let what = format!("{} was read up to byte {position} before and has only {end} bytes now", path.display());
                return Err(Error::user(what).hint("put the file back as it was, or start a new pipeline"));
            }
            if files.iter().any(|one| one.partition == partition) {
                return Err(Error::user(format!("{} is named twice", path.display())).hint("name every file once"));
            }
            files.push(One { path, partition, position, end });
        }
        if let Some(gone) = resume.and_then(|positions| positions.keys().find(|p| files.iter().all(|one| one.partition != **p))) {
            return Err(Error::user(format!("{} was read before and is not there now", gone.topic))
                .hint("put the file back, or start a new pipeline"));
        }
        // so that every place in a block fits into 32 bits
        let max_record = max_record.min(1 << 30);
        Ok(Self { files, lines, max_record, block, current: 0, open: None })
    }

    /// The next records of the current file; `None` at its end.
    fn fetch(&mut self) -> Result<Option<Fetch>> {
        let one = &mut self.files[self.current];
        let header = one.position == 0 && matches!(self.lines, Lines::Csv { header: Header::Checked | Header::Skipped, .. });
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open { file: one.seek()?, bytes: Vec::new(), searched: 0, splitter: Splitter::default(), header },
        };
        loop {
            let left = one.end - one.position - open.bytes.len() as u64;
            if left == 0 && open.bytes.is_empty() {
                return Ok(None);
            }
            let wanted = left.min(self.block as u64);
            open.bytes.reserve(wanted as usize);
            match (&mut open.file).take(wanted).read_to_end(&mut open.bytes) {
                Err(e) => return Err(one.unreadable(e)), // the next poll opens it again at `position`
                Ok(n) if (n as u64) < wanted => {
                    let what = format!("{} became shorter while it was read", one.path.display());
                    return Err(Error::external(what).permanent().hint("only append to a file that is read"));
                }
                Ok(_) => {}
            }
            let last = wanted == left;
            let (mut lines, whole) = open.cut(one.position, &self.lines, last);
            if open.bytes.len() - whole > self.max_record || lines.iter().any(|line| line.len() > self.max_record) {
                let what = format!("{}: a record after byte {} is longer than {} bytes", one.path.display(), one.position, self.max_record);
                return Err(Error::user(what).hint("raise max_record_bytes(…), or look for a quote that is never closed"));
            }
            if whole == 0 {
                continue;
            }
            if open.header && !lines.is_empty() {
                open.header = false;
                let names = lines.remove(0);
                if let Lines::Csv { delimiter, header: Header::Checked, names: expected } = &self.lines {
                    check_header(&open.bytes[names.start as usize..names.end as usize], expected, *delimiter)
                        .map_err(|e| e.at(one.path.display()))?;
                }
            }
            lines.retain(|line| !line.is_empty());
            let rest = open.bytes[whole..].to_vec();
            let mut bytes = std::mem::replace(&mut open.bytes, rest);
            bytes.truncate(whole);
            open.searched -= whole;
            let from = one.position;
            one.position += whole as u64;
            self.open = Some(open);
            let mut fingerprint = Fingerprint::default();
            lines.iter().for_each(|line| fingerprint.add(from + u64::from(line.start), line.len(), None));
            let (rows, fingerprint) = (lines.len(), fingerprint.finish());
            let payload = if rows == 0 { Payload::None } else { Payload::Raw(Box::new(Block { from, bytes, lines })) };
            return Ok(Some(Fetch { partition: one.partition.clone(), from, to: one.position, rows, bytes: whole, fingerprint, payload }));
        }
    }
}

impl One {
    fn seek(&self) -> Result<File> {
        let mut file = File::open(&self.path).map_err(|e| self.unreadable(e))?;
        file.seek(SeekFrom::Start(self.position)).map_err(|e| self.unreadable(e))?;
        Ok(file)
    }

    fn unreadable(&self, e: std::io::Error) -> Error {
        Error::external(format!("cannot read {}", self.path.display())).caused_by(e)
    }
}

impl Open {
    /// The whole lines among the bytes, without their line ends, and where the last one ends with it; at the end of the file every line is whole.
    fn cut(&mut self, position: Position, lines: &Lines, last: bool) -> (Vec<Range32>, usize) {
        let bytes = &self.bytes[..];
        let mut start = if position == 0 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let (mut at, mut whole, mut found) = (self.searched.max(start), 0, Vec::with_capacity(bytes.len() / 256));
        loop {
            let end = match lines {
                Lines::Plain => memchr(b'\n', &bytes[at..]).map(|n| at + n).ok_or(bytes.len()),
                Lines::Csv { delimiter, .. } => self.splitter.line_end(bytes, start, at, *delimiter),
            };
            match end {
                Ok(end) => {
                    found.push(Range32::line(bytes, start..end));
                    (start, at, whole) = (end + 1, end + 1, end + 1);
                }
                Err(searched) => {
                    self.searched = searched;
                    break;
                }
            }
        }
        if last {
            found.push(Range32::line(bytes, start..bytes.len()));
            (self.searched, whole) = (bytes.len(), bytes.len());
        }
        (found, whole)
    }
}

fn check_header(record: &[u8], expected: &[String], delimiter: u8) -> Result<()> {
    let (mut next, mut names) = (Some(0), Vec::new());
    while let Some(start) = next {
        let field;
        (field, next) = line::field(record, start, delimiter).map_err(|what| Error::user("the header cannot be read").why(what))?;
        let mut name = Vec::new();
        field.unquote(&mut name);
        names.push(String::from_utf8_lossy(&name).trim().to_owned());
    }
    if names.len() == expected.len() && names.iter().zip(expected).all(|(a, b)| a.eq_ignore_ascii_case(b)) {
        return Ok(());
    }
    let what = format!("the header says {}, the schema {}", names.join(", "), expected.join(", "));
    Err(Error::user(what)
        .hint("name the columns of the schema as the file does and in its order, or step over the header with Header::Skipped"))
}

impl Reader for Files {
    fn poll(&mut self) -> Result<Polled> {
        while self.current < self.files.len() {
            if let Some(fetch) = self.fetch()? {
                return Ok(Polled::Fetch(fetch));
            }
            self.current += 1;
            self.open = None;
        }
        Ok(Polled::Ended)
    }

    fn acknowledge(&mut self, _positions: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let status = |one: &One| PartitionStatus { partition: one.partition.clone(), position: one.position, end: Some(one.end) };
        SourceStatus { partitions: self.files.iter().map(status).collect(), warnings: Vec::new() }
    }

    fn close(&mut self) -> Result<()> {
        self.open = None;
        self.current = self.files.len();
        Ok(())
    }
}

/// A place in a block.
#[derive(Clone, Copy, Debug)]
struct Range32 {
    start: u32,
    end: u32,
}

impl Range32 {
    /// The line at `range`, without the carriage return at its end.
    fn line(bytes: &[u8], range: Range<usize>) -> Self {
        let end = if bytes[range.clone()].ends_with(b"\r") { range.end - 1 } else { range.end };
        Self { start: range.start as u32, end: end as u32 }
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Records that share the block they were read in.
struct Block {
    from: Position,
    bytes: Vec<u8>,
    lines: Vec<Range32>,
}

impl RawBatch for Block {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let line = self.lines[i];
        let value = &self.bytes[line.start as usize..line.end as usize];
        RawRecord { value: Some(value), key: None, position: self.from + u64::from(line.start), timestamp: None }
    }
}
