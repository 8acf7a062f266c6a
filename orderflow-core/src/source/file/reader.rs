//! Reads files one after the other, block by block, and cuts the blocks into records without copying them.
//! ```text
//!   file ──► block (what the last one left over, then up to 1 MiB) ──► whole records ──► batch, which owns the block
//!                      ▲                                                  │
//!                      └────────────── the record that is cut off ◄───────┘
//! ```
//! Invariant: `position` of a file is the byte after the last record handed out, and `bytes` are those that were read from there on,
//! without what was dropped of a record longer than the limit. Where blocks are cut changes nothing of what is handed out.

use super::Header;
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::format::csv::line::{self, Splitter};
use crate::source::{
    Fetch, Fingerprint, PartitionStatus, Payload, Polled, RawBatch, RawRecord, Reader, Refused, SourceContext, SourceStatus,
};
use crate::time::{Partition, Position, Positions};
use memchr::memchr;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How much of a record that is too long goes to the dead letters.
const KEPT: usize = 64 << 10;

/// What to do about a file that is not what it was.
const CHOICES: &str =
    "put the file back as it was; to go on without it start anew (where state is kept, with another state and other sinks)";

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
    /// The record at the position, if it is known to be too long: positions stand only between records, so its end is looked for in one go.
    long: Option<Long>,
}

/// A record that is too long, until its end is found.
struct Long {
    /// Where it begins, after the position.
    begin: u64,
    /// Its first bytes.
    head: Vec<u8>,
    /// Bytes after the position that are in memory no more.
    dropped: u64,
    /// Of those among them that belong to the record.
    checksum: crc32fast::Hasher,
}

impl Long {
    /// How many of the bytes in memory stand before the record.
    fn before(&self) -> usize {
        self.begin.saturating_sub(self.dropped) as usize
    }

    /// CRC-32 of the record, of which `rest` is in memory.
    fn checksum(&self, rest: &[u8]) -> u32 {
        let mut checksum = self.checksum.clone();
        checksum.update(&rest[self.before().min(rest.len())..]);
        checksum.finalize()
    }
}

impl Files {
    /// Finds the end of every file, and where to begin.
    pub(super) fn open(paths: Vec<PathBuf>, lines: Lines, max_record: usize, block: usize, context: &SourceContext) -> Result<Self> {
        let (resume, until) = (context.resume.as_ref(), context.until.as_ref());
        let mut files: Vec<One> = Vec::with_capacity(paths.len());
        for path in paths {
            let partition = Partition::new(path.to_string_lossy(), 0);
            let meta = match File::open(&path).and_then(|file| file.metadata()) {
                // one that was read before: below
                Err(e) if e.kind() == ErrorKind::NotFound && resume.is_some_and(|r| r.contains_key(&partition)) => continue,
                Err(e) => {
                    let what = Error::user(format!("cannot read {}", path.display())).caused_by(e);
                    return Err(what.hint("check the path and its permissions"));
                }
                Ok(meta) => meta,
            };
            if !meta.is_file() {
                return Err(Error::user(format!("{} is no file", path.display())).hint("read a folder with dir(…)"));
            }
            let len = meta.len();
            // one that has come since the last run is read from its beginning
            let new = if resume.is_some() && planted(Bug::NewPartitionFromLatest) { len } else { 0 };
            let position = resume.and_then(|positions| positions.get(&partition).copied()).unwrap_or(new);
            let end = until.map_or(len, |ends| ends.get(&partition).copied().unwrap_or(position));
            if position.max(end) > len {
                let what = format!("{} was read up to byte {} before and has only {len} bytes now", path.display(), position.max(end));
                return Err(Error::user(what).hint(CHOICES));
            }
            if files.iter().any(|one| one.partition == partition) {
                return Err(Error::user(format!("{} is named twice", path.display())).hint("name every file once"));
            }
            files.push(One { path, partition, position, end });
        }
        let gone = resume.into_iter().flatten().filter(|(p, _)| files.iter().all(|one| one.partition != **p));
        let needed = |partition| [Some(&context.stood), until].into_iter().flatten().filter_map(|ends| ends.get(partition)).max();
        // one of which something is needed is named first
        if let Some((gone, from, to)) =
            gone.map(|(p, from)| (p, from, needed(p).unwrap_or(from).max(from))).max_by_key(|(_, from, to)| *to > from)
        {
            let (what, why) = match to > from {
                true => (
                    format!("{} is not there now, and its bytes {from} to {} are needed", gone.topic, to - 1),
                    "they were taken, or were to be, and some view or sink still has to get them",
                ),
                // under another name it would be read again as a new one
                false => (
                    format!("{}, which was read up to byte {from}, is not there now", gone.topic),
                    "nothing of it is needed, but nobody knows what it held behind that, or where it went",
                ),
            };
            return Err(Error::user(what).why(why).hint(CHOICES));
        }
        // so that every place in a block fits into 32 bits
        let max_record = max_record.min(1 << 30);
        Ok(Self { files, lines, max_record, block, current: 0, open: None })
    }

    /// Bytes that are held between two polls.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes.capacity())
    }

    /// The next records of the current file; `None` at its end.
    fn fetch(&mut self) -> Result<Option<Fetch>> {
        let one = &mut self.files[self.current];
        let header = one.position == 0 && matches!(self.lines, Lines::Csv { header: Header::Checked | Header::Skipped, .. });
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open { file: one.seek()?, bytes: Vec::new(), searched: 0, splitter: Splitter::default(), header, long: None },
        };
        loop {
            let dropped = open.long.as_ref().map_or(0, |long| long.dropped);
            let left = one.end - one.position - dropped - open.bytes.len() as u64;
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
            let (lines, whole) = open.cut(one.position, &self.lines, last);
            if whole == 0 {
                open.shorten(one.position, self.max_record);
                continue;
            }
            let from = one.position;
            one.position += dropped + whole as u64;
            let rest = open.bytes[whole..].to_vec();
            let mut bytes = std::mem::replace(&mut open.bytes, rest);
            bytes.truncate(whole);
            open.searched -= whole;
            let held = lines.len();
            let mut block =
                Block { from, bytes, lines: Vec::with_capacity(held), checksums: Vec::with_capacity(held), refused: Vec::new() };
            let mut fingerprint = Fingerprint::default();
            for line in lines {
                let (start, size) = match &open.long {
                    Some(long) => (from + long.begin, long.dropped + u64::from(line.end) - long.begin),
                    None => (from + u64::from(line.start), line.len() as u64),
                };
                if size == 0 && !open.header {
                    continue;
                }
                let long = size > self.max_record as u64;
                if std::mem::take(&mut open.header) {
                    if let Lines::Csv { delimiter, header: Header::Checked, names } = &self.lines {
                        let record = if long { Err(too_long(size, self.max_record)) } else { Ok(&block.bytes[line.range()]) };
                        check_header(record, names, *delimiter).map_err(|e| e.at(one.path.display()))?;
                    }
                    continue;
                }
                let checksum = match &open.long {
                    Some(long) => long.checksum(&block.bytes[..line.end as usize]),
                    None => crc32fast::hash(&block.bytes[line.range()]),
                };
                fingerprint.add_checked(start, size as usize, None, Some(checksum));
                block.checksums.push(checksum);
                let mut line = line;
                if long {
                    block.refused.push(Refused { record: block.lines.len(), size: size as usize, reason: too_long(size, self.max_record) });
                    line.end = line.start + kept(self.max_record) as u32;
                }
                block.lines.push(line);
            }
            if let (Some(long), [line]) = (open.long.take(), &mut block.lines[..]) {
                (block.from, block.bytes) = (from + long.begin, long.head);
                *line = Range32 { start: 0, end: block.bytes.len() as u32 };
            }
            self.open = Some(open);
            let (rows, bytes, fingerprint) = (block.lines.len(), (one.position - from) as usize, fingerprint.finish());
            let payload = if rows == 0 { Payload::None } else { Payload::Raw(Box::new(block)) };
            return Ok(Some(Fetch {
                partition: one.partition.clone(),
                from,
                to: one.position,
                rows,
                bytes,
                fingerprint,
                latest: None,
                payload,
            }));
        }
    }
}

/// How much is kept of a record that is too long.
fn kept(limit: usize) -> usize {
    KEPT.min(limit)
}

fn too_long(bytes: u64, limit: usize) -> String {
    format!(
        "a record of {bytes} bytes, where max_record_bytes allows {limit}: its first {} are kept; is a quote never closed?",
        kept(limit)
    )
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
    /// Where the record at the position begins among the bytes.
    fn begin(&self, position: Position) -> usize {
        let mark = position == 0 && self.long.is_none() && self.bytes.starts_with(BYTE_ORDER_MARK);
        if mark { BYTE_ORDER_MARK.len() } else { 0 }
    }

    /// If the record that has no end yet is too long, keeps its beginning and the last byte searched, by which the next one is understood.
    fn shorten(&mut self, position: Position, limit: usize) {
        let begin = self.begin(position);
        // a carriage return may turn out to belong to the line end
        if self.long.is_none() && self.bytes.len() - begin > limit + 1 {
            let head = self.bytes[begin..begin + kept(limit)].to_vec();
            self.long = Some(Long { begin: begin as u64, head, dropped: 0, checksum: crc32fast::Hasher::new() });
        }
        if let Some(long) = &mut self.long {
            let done = self.searched.saturating_sub(1);
            let before = long.before().min(done);
            long.checksum.update(&self.bytes[before..done]);
            self.bytes.drain(..done);
            self.searched -= done;
            long.dropped += done as u64;
        }
    }

    /// The whole lines among the bytes, without their line ends, and where the last one ends with it; at the end of the file every line is whole.
    fn cut(&mut self, position: Position, lines: &Lines, last: bool) -> (Vec<Range32>, usize) {
        let bytes = &self.bytes[..];
        let mut start = self.begin(position);
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
                    if self.long.is_some() {
                        self.searched = whole;
                        return (found, whole);
                    }
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

fn check_header(record: Result<&[u8], String>, expected: &[String], delimiter: u8) -> Result<()> {
    let unread = |what: &str| {
        let error = Error::user("the header cannot be read").why(what);
        error.hint("is the file CSV, and does it have a header? If not: Header::None")
    };
    let record = record.map_err(|what| unread(&what))?;
    let (mut next, mut names) = (Some(0), Vec::new());
    while let Some(start) = next {
        let field;
        (field, next) = line::field(record, start, delimiter).map_err(unread)?;
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

    fn ends(&self) -> Option<Positions> {
        Some(self.files.iter().map(|one| (one.partition.clone(), one.end)).collect())
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

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Records that share the block they were read in.
struct Block {
    from: Position,
    bytes: Vec<u8>,
    lines: Vec<Range32>,
    /// One a line.
    checksums: Vec<u32>,
    refused: Vec<Refused>,
}

impl RawBatch for Block {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let line = self.lines[i];
        let value = &self.bytes[line.range()];
        RawRecord { value: Some(value), key: None, position: self.from + u64::from(line.start), timestamp: None }
    }

    fn refused(&self) -> &[Refused] {
        &self.refused
    }

    fn checksum(&self, i: usize) -> Option<u32> {
        Some(self.checksums[i])
    }
}
