//! The source contract: where rows come from, and how far they were read.
//!
//! A [`Source`] is a value that parses its configuration; opened, it is a [`Reader`] that is polled and never blocks.
//! ```text
//!   poll ──► Fetch {partition, [from, to), bytes}      one partition, consecutive records, in order
//!   acknowledge(positions) ◄── every sink holds all rows below these positions
//! ```
//! Invariant: fetches of one partition are contiguous: each one's `from` is at least the previous one's `to`, and what lies
//! between was not there to read (a compacted record, a transaction marker). A reader that finds records missing says so with an error.

pub mod file;
pub mod memory;
mod split;

use crate::data::Changes;
use crate::error::Result;
use crate::format::Format;
use crate::time::{Clock, Partition, Position, Positions};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use std::time::Duration;

/// Columns that every byte source can add to a row. They are hidden (`SELECT *` leaves them out) and may be named anywhere.
pub mod meta {
    /// The record's value as it was read: `Binary`.
    pub const VALUE: &str = "_value";
    /// The record's key: `Binary`, null where there is none.
    pub const KEY: &str = "_key";
    /// Topic, file or source name: `Utf8`.
    pub const TOPIC: &str = "_topic";
    /// Partition: `Int32`.
    pub const PARTITION: &str = "_partition";
    /// Position in the partition: `Int64`.
    pub const OFFSET: &str = "_offset";
    /// The record's timestamp: `Timestamp(Millisecond, None)` (UTC), null where there is none.
    pub const TIMESTAMP: &str = "_timestamp";
    /// Headers in order: `List<Struct<key: Utf8, value: Binary nullable>>`. In a name that is not UTF-8, U+FFFD stands for what is not.
    pub const HEADERS: &str = "_headers";

    use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
    use std::sync::Arc;

    /// The hidden columns with their types, in the order above.
    pub fn fields() -> Vec<Field> {
        vec![
            Field::new(VALUE, DataType::Binary, true),
            Field::new(KEY, DataType::Binary, true),
            Field::new(TOPIC, DataType::Utf8, false),
            Field::new(PARTITION, DataType::Int32, false),
            Field::new(OFFSET, DataType::Int64, false),
            Field::new(TIMESTAMP, DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new(HEADERS, headers_type(), true),
        ]
    }

    /// Type of [`HEADERS`].
    pub fn headers_type() -> DataType {
        let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
        DataType::List(Arc::new(Field::new("item", DataType::Struct(entry), false)))
    }

    /// Whether `name` is one of the hidden columns.
    pub fn is_hidden(name: &str) -> bool {
        matches!(name, VALUE | KEY | TOPIC | PARTITION | OFFSET | TIMESTAMP | HEADERS)
    }
}

/// A configured source that has not been opened: a value, free of side effects until [`Source::open`].
pub trait Source: Send + 'static {
    /// The data columns of its rows, without the hidden [`meta`] columns.
    fn schema(&self) -> SchemaRef;

    /// How bytes become rows; `None` for a source whose fetches carry rows already (such a source has no hidden columns).
    fn format(&self) -> Option<Arc<dyn Format>>;

    /// How a pipeline that keeps state gets again what it has read once. A source that claims too much is found out by its fingerprints
    /// at the first start that reads it again.
    fn rewind(&self) -> Rewind {
        Rewind::ByPosition
    }

    /// What its positions mean, where neither its name nor those of its partitions say it: the seed of a generator, the query behind a snapshot; or what
    /// may not change though its partitions may: the prefix of topics. A pipeline that keeps state remembers the text, and a start whose source says another
    /// one is refused before a sink is touched. `None`: the positions speak for themselves.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Connects and resolves the start. Called once, on the engine's thread; may block for a bounded time.
    ///
    /// # Errors
    /// What cannot be reached or found, with the remedy.
    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>>;
}

impl Source for Box<dyn Source> {
    fn schema(&self) -> SchemaRef {
        (**self).schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        (**self).format()
    }

    fn rewind(&self) -> Rewind {
        (**self).rewind()
    }

    fn identity(&self) -> Option<String> {
        (**self).identity()
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        (*self).open(context)
    }
}

/// How what was read once is read again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// From the source, by its position: a topic, a file, a seeded generator.
    ByPosition,
    /// Not from the source, which gives every row once: a channel. Its rows are stored with the epoch that they belong to, before anything of it leaves;
    /// the source is acknowledged as soon as they are, and opened again behind the last of them. Its fetches carry rows, not bytes.
    Spooled,
}

/// What a source is given when it is opened.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// Name of the pipeline; it names the consumer group.
    pub pipeline: Arc<str>,
    /// Name of the source within the pipeline.
    pub name: Arc<str>,
    /// Where to go on; `None`: where the source's own configuration says.
    pub resume: Option<Positions>,
    /// Where a bounded source ends, as [`Reader::ends`] told in an earlier run that has not finished yet: it ends there again, whatever has come since.
    /// A partition that is not named has nothing to give in this run. `None`: where it ends is to be resolved now.
    pub until: Option<Positions>,
    /// Where each partition stood at the end of the last epoch that an earlier run closed; empty in a first run. What lies before it and behind
    /// [`SourceContext::resume`] is asked for again: a source that cannot give it ends there ([`Polled::Ended`]), and the pipeline says what is missing.
    pub stood: Positions,
    /// To be called from any thread when there is something to poll after [`Polled::Idle`].
    pub wake: Waker,
    /// The engine's clock.
    pub clock: Clock,
}

/// An open source. All calls come from one thread and none of them waits.
pub trait Reader: Send {
    /// The next records, of the partition that is furthest behind first.
    ///
    /// # Errors
    /// [`Retry::Backoff`](crate::error::Retry): the engine reports it, waits, and polls again. [`Retry::Never`](crate::error::Retry): the pipeline stops with this reason.
    fn poll(&mut self) -> Result<Polled>;

    /// Every sink holds all rows below `positions`, or, of a [spooled](Rewind::Spooled) source, they are stored: what a consumer group or a sender is told.
    ///
    /// # Errors
    /// As [`Reader::poll`]; losing an acknowledgement loses no data.
    fn acknowledge(&mut self, positions: &Positions) -> Result<()>;

    /// How far the source is behind its end, a partition at a time, and what its user should know.
    fn status(&self) -> SourceStatus;

    /// Where each partition ends, of a bounded source that resolved its end when it was opened; `None` if it has none, or if its configuration says where.
    /// A pipeline with state remembers it until the run has finished.
    fn ends(&self) -> Option<Positions> {
        None
    }

    /// Ends reading: last acknowledgements leave, connections close. May block for a bounded time. Nothing else is asked of the reader then: it is dropped
    /// before anybody hears of the pipeline's end.
    ///
    /// # Errors
    /// What could not be told to the outside.
    fn close(&mut self) -> Result<()>;
}

/// Answer of [`Reader::poll`].
pub enum Polled {
    /// Records, or only an advance of the position (`rows == 0`).
    Fetch(Fetch),
    /// Nothing now; [`SourceContext::wake`] is called when there is.
    Idle,
    /// A bounded source has delivered everything.
    Ended,
}

/// Consecutive records of one partition.
pub struct Fetch {
    /// Where they came from.
    pub partition: Partition,
    /// Position of the first record.
    pub from: Position,
    /// Position after the last record, or after what follows it and is no record.
    pub to: Position,
    /// Number of records.
    pub rows: usize,
    /// Their size in bytes.
    pub bytes: usize,
    /// Pinned hash of the records' positions, [sizes](RawRecord::size) (0 for rows) and timestamps (none for rows), and of the
    /// [checksums](RawBatch::checksum) that the batch has ([`Fingerprint`]).
    pub fingerprint: u64,
    /// The newest timestamp among the records, in milliseconds since 1970; `None` where none has one.
    pub latest: Option<i64>,
    /// The records.
    pub payload: Payload,
}

/// What a fetch carries.
pub enum Payload {
    /// Bytes, to be decoded by whichever worker gets them.
    Raw(Box<dyn RawBatch>),
    /// Rows with the source's schema.
    Rows(Changes),
    /// No record: only the position advances.
    None,
}

/// Undecoded records that can be handed to another thread.
pub trait RawBatch: Send {
    /// Number of records.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Record `i < len()`.
    fn record(&self, i: usize) -> RawRecord<'_>;

    /// The records, in order, that the source itself refuses: each becomes a dead letter with its value as it is here, which may
    /// be only the beginning, and is not decoded.
    fn refused(&self) -> &[Refused] {
        &[]
    }

    /// CRC-32 of the whole value of record `i`, also of what is not held of a [refused](RawBatch::refused) one, if the fingerprint is made of it as well: where
    /// records may be changed in their places, as those of a file may and those of a topic may not.
    fn checksum(&self, _i: usize) -> Option<u32> {
        None
    }

    /// Shows the headers of record `i` in order, each of them; most sources have none.
    fn headers(&self, _i: usize, _visit: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

/// A record of a [`RawBatch`] that no format shall see: it is too long to be held, or came damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its number in the batch.
    pub record: usize,
    /// Its whole size, of which the value may hold only the beginning: what fingerprints are made of.
    pub size: usize,
    /// Why, in one sentence for the dead letter.
    pub reason: String,
}

/// One undecoded record.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Its bytes; `None` is a tombstone. Of a [`Refused`] record perhaps only the first ones.
    pub value: Option<&'a [u8]>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its position.
    pub position: Position,
    /// Milliseconds since 1970; `None` where the source has none.
    pub timestamp: Option<i64>,
}

impl RawRecord<'_> {
    /// Bytes of its value and key: what fingerprints and counts of bytes are made of.
    pub fn size(&self) -> usize {
        self.value.map_or(0, <[u8]>::len) + self.key.map_or(0, <[u8]>::len)
    }
}

/// What a source knows about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// One entry a partition.
    pub partitions: Vec<PartitionStatus>,
    /// Sentences for the user: a foreign member in the group, a skipped partition.
    pub warnings: Vec<String>,
}

/// How far one partition was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which one.
    pub partition: Partition,
    /// Next position to be polled.
    pub position: Position,
    /// Position after its last record, where known.
    pub end: Option<Position>,
}

impl PartitionStatus {
    /// Positions between what was polled and the end; `None` where the end is not known.
    pub fn lag(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }
}

/// Pinned hash of positions, sizes and timestamps, and of checksums where there are some: the sum of one hash a record (FNV-1a), so that it does
/// not depend on where fetches were cut and two of them add up. It knows the newest timestamp, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    sum: u64,
    latest: Option<i64>,
}

impl Fingerprint {
    /// Adds one record.
    pub fn add(&mut self, position: Position, size: usize, timestamp: Option<i64>) {
        self.add_checked(position, size, timestamp, None);
    }

    /// Adds one record of a batch that may have [checksums](RawBatch::checksum).
    pub fn add_checked(&mut self, position: Position, size: usize, timestamp: Option<i64>, checksum: Option<u32>) {
        let words = [position, size as u64, timestamp.unwrap_or(i64::MIN) as u64];
        let hash = words.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, word| (h ^ word).wrapping_mul(0x0000_0100_0000_01b3));
        // scattered, so that two records which change places do not cancel out in the sum
        let hash = checksum.map_or(hash, |checksum| scattered(hash ^ u64::from(checksum)));
        self.sum = self.sum.wrapping_add(hash);
        self.latest = self.latest.max(timestamp);
    }

    /// The newest timestamp so far: [`Fetch::latest`].
    pub fn latest(self) -> Option<i64> {
        self.latest
    }

    /// The hash so far; the fingerprint of two runs of records is the wrapping sum of both.
    pub fn finish(self) -> u64 {
        self.sum
    }
}

/// The finalizer of SplitMix64: every bit depends on all.
fn scattered(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Tells the engine's thread that there is work; cheap, callable from anywhere, any number of times.
#[derive(Clone, Default)]
pub struct Waker(Option<Arc<dyn Fn() + Send + Sync>>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(wake)))
    }

    /// Wakes the engine.
    pub fn wake(&self) {
        if let Some(wake) = &self.0 {
            wake();
        }
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

/// How long [`Source::open`] may wait for the outside before it gives up with an error.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
