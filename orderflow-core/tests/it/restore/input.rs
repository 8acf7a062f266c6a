//! What the pipelines of the corpus read: two sources of the same columns, whose rows come and go in rounds.
//!
//! Invariant: a round is an epoch, and what stands at a position never changes; the batch computation is given what is left of all rounds so far.

use super::run::printed;
use orderflow_core::arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::data::Changes;
use orderflow_core::error::Result;
use orderflow_core::format::Format;
use orderflow_core::format::json::Json;
use orderflow_core::source::memory::Sender;
use orderflow_core::source::{
    Fetch, Fingerprint, PartitionStatus, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus, Waker, meta,
};
use orderflow_core::time::{Partition, Position, Positions};
use std::iter::repeat_n;
use std::sync::{Arc, Mutex, MutexGuard};

/// The sources of every pipeline.
pub(super) const SOURCES: [&str; 2] = ["orders", "refunds"];
/// Rounds of every run, and the one after which it is stored first.
pub(super) const ROUNDS: usize = 7;
pub(super) const STORED: usize = 3;

/// A row of either source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) city: Option<u8>,
    pub(super) qty: Option<i64>,
    /// Its price.
    pub(super) cents: i64,
    /// Its weight: most tenths are no exact floats.
    pub(super) tenths: i64,
}

/// What comes and goes in one epoch, by source.
pub(super) type Round = [Vec<(Row, i64)>; 2];

/// An order of this city and quantity.
pub(super) fn order(city: Option<u8>, qty: Option<i64>) -> Row {
    Row { city, qty, cents: 250, tenths: 3 }
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("city", DataType::Utf8, true),
        Field::new("qty", DataType::Int64, true),
        Field::new("price", DataType::Decimal128(18, 2), false),
        Field::new("weight", DataType::Float64, false),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let price = Decimal128Array::from_iter_values(rows.iter().map(|r| i128::from(r.cents)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.city.map(|c| format!("city {c}"))))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.qty))),
        Arc::new(price.with_precision_and_scale(18, 2).unwrap()),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.tenths as f64 / 10.0))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A row of numbers that look random.
struct Draw(u64);

impl Draw {
    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn row(&mut self) -> Row {
        Row {
            city: Some(self.below(4) as u8).filter(|c| *c > 0),
            qty: Some(self.below(14) as i64 - 3).filter(|q| *q < 10),
            cents: self.below(900) as i64 - 200,
            tenths: self.below(30) as i64,
        }
    }
}

/// Rounds in which some rows come, some twice, and after the first checkpoint those go that it holds, the oldest first.
pub(super) fn drawn(seed: u64) -> Vec<Round> {
    let mut draw = Draw(seed);
    let mut live: [Vec<Row>; 2] = Default::default();
    let mut rounds = vec![];
    for number in 0..ROUNDS {
        let mut round = Round::default();
        for (changes, live) in round.iter_mut().zip(&mut live) {
            let come: Vec<(Row, i64)> = (0..2 + draw.below(4)).map(|_| (draw.row(), 1 + i64::from(draw.below(6) == 0))).collect();
            let going = if number < STORED { draw.below(2) } else { 2 };
            changes.extend(&come);
            for _ in 0..going.min(live.len()) {
                let at = if number < STORED { draw.below(live.len()) } else { 0 };
                changes.push((live.remove(at), -1));
            }
            live.extend(come.iter().flat_map(|(row, n)| repeat_n(*row, *n as usize)));
        }
        rounds.push(round);
    }
    rounds
}

/// Rounds in which rows only come: those of a log of records.
pub(super) fn appended(seed: u64) -> Vec<Round> {
    let mut rounds = drawn(seed);
    for changes in rounds.iter_mut().flatten() {
        changes.retain(|(_, n)| *n > 0);
        changes.iter_mut().for_each(|(_, n)| *n = 1);
    }
    rounds
}

/// These changes of the orders beside drawn ones of the refunds.
pub(super) fn scripted(orders: [&[(Row, i64)]; ROUNDS]) -> Vec<Round> {
    let mut rounds = drawn(9);
    rounds.iter_mut().zip(orders).for_each(|(round, orders)| round[0] = orders.to_vec());
    rounds
}

/// A table before the batch computation.
pub(super) type Table = (String, SchemaRef, Vec<RecordBatch>);

/// What is left of all rounds; of a log of `records` also where each stands.
pub(super) fn tables(rounds: &[Round], records: bool) -> Vec<Table> {
    let table = |source: usize| if records { records_of(rounds, source) } else { batch(&live(rounds, source)) };
    let named = |(source, name): (usize, &str)| {
        let rows = table(source);
        (name.to_owned(), rows.schema(), vec![rows])
    };
    SOURCES.into_iter().enumerate().map(named).collect()
}

fn live(rounds: &[Round], source: usize) -> Vec<Row> {
    let mut live = vec![];
    for (row, n) in rounds.iter().flat_map(|round| &round[source]) {
        live.extend(repeat_n(*row, usize::try_from(*n).unwrap_or(0)));
        for _ in *n..0 {
            let at = live.iter().position(|l| l == row).expect("only what is there goes");
            live.swap_remove(at);
        }
    }
    live
}

fn records_of(rounds: &[Round], source: usize) -> RecordBatch {
    let (mut rows, mut places, mut next): (Vec<Row>, Vec<(usize, Position)>, _) = (vec![], vec![], [0; PARTITIONS]);
    for (i, (row, _)) in rounds.iter().flat_map(|round| round[source].iter().enumerate()) {
        let id = i % PARTITIONS;
        rows.push(*row);
        places.push((id, next[id]));
        next[id] += 1;
    }
    let hidden = meta::fields().into_iter().filter(|f| ![meta::VALUE, meta::HEADERS].contains(&f.name().as_str()));
    let fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).chain(hidden).collect();
    let told: [ArrayRef; 5] = [
        Arc::new(BinaryArray::from_iter(places.iter().map(|(id, position)| key(*id, *position)))),
        Arc::new(StringArray::from_iter_values(places.iter().map(|_| SOURCES[source]))),
        Arc::new(Int32Array::from_iter_values(places.iter().map(|(id, _)| *id as i32))),
        Arc::new(Int64Array::from_iter_values(places.iter().map(|(_, position)| *position as i64))),
        Arc::new(TimestampMillisecondArray::from_iter(places.iter().map(|(id, position)| timestamp(*id, *position)))),
    ];
    let columns = batch(&rows).columns().iter().cloned().chain(told).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The key of a record; some have none.
fn key(id: usize, position: Position) -> Option<String> {
    (!position.is_multiple_of(3)).then(|| format!("key {}", (position + id as Position) % 4))
}

/// The timestamp of a record; some have none.
fn timestamp(id: usize, position: Position) -> Option<i64> {
    (position % 5 < 4).then(|| 1_700_000_000_000 + 1000 * position as i64 - 700 * id as i64)
}

/// Where a source of a pipeline is fed.
pub(super) enum Input {
    Log(Log),
    Channel(Sender),
}

impl Input {
    /// Hands over the changes of one round, as one fetch of each partition.
    pub(super) async fn send(&self, changes: &[(Row, i64)]) {
        if changes.is_empty() {
            return;
        }
        match self {
            Input::Log(log) => log.append(changes),
            Input::Channel(sender) => {
                let (rows, diffs): (Vec<Row>, Vec<i64>) = changes.iter().copied().unzip();
                sender.send_signed(batch(&rows), diffs).await.unwrap();
            }
        }
    }
}

/// Partitions of a log of records.
const PARTITIONS: usize = 2;

/// A log that grows and can be read again from the end of any fetch: of rows that come and go, or of JSON records in partitions. Clones are the same.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    records: bool,
    pieces: Vec<Piece>,
    waker: Waker,
}

/// What a fetch gives.
#[derive(Clone)]
struct Piece {
    id: usize,
    from: Position,
    rows: Changes,
}

impl Piece {
    fn to(&self) -> Position {
        self.from + self.rows.len() as Position
    }
}

impl Inner {
    fn partitions(&self) -> usize {
        if self.records { PARTITIONS } else { 1 }
    }

    fn end(&self, id: usize) -> Position {
        self.pieces.iter().rev().find(|p| p.id == id).map_or(0, Piece::to)
    }
}

impl Log {
    pub(super) fn new(records: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { records, pieces: vec![], waker: Waker::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn append(&self, changes: &[(Row, i64)]) {
        let mut inner = self.inner();
        let partitions = inner.partitions();
        for id in 0..partitions {
            let (rows, diffs): (Vec<Row>, Vec<i64>) = changes.iter().copied().skip(id).step_by(partitions).unzip();
            if !rows.is_empty() {
                let from = inner.end(id);
                inner.pieces.push(Piece { id, from, rows: Changes::signed(batch(&rows), diffs) });
            }
        }
        let waker = inner.waker.clone();
        drop(inner);
        waker.wake();
    }
}

impl Source for Log {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        self.inner().records.then(|| Arc::new(Json::new(schema())) as Arc<dyn Format>)
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let resume = context.resume.unwrap_or_default();
        let at = |id: usize| {
            let partition = Partition::new(context.name.clone(), id as i32);
            let from = resume.get(&partition).copied().unwrap_or(0);
            (partition, from)
        };
        let mut inner = self.inner();
        inner.waker = context.wake;
        let at = (0..inner.partitions()).map(at).collect();
        drop(inner);
        Ok(Box::new(LogReader { log: *self, at }))
    }
}

struct LogReader {
    log: Log,
    /// By partition.
    at: Vec<(Partition, Position)>,
}

impl Reader for LogReader {
    fn poll(&mut self) -> Result<Polled> {
        let next = self.log.inner().pieces.iter().find(|p| p.to() > self.at[p.id].1).cloned();
        let Some(piece) = next else { return Ok(Polled::Idle) };
        let (partition, at) = &mut self.at[piece.id];
        assert_eq!(piece.from, *at, "an epoch ends where a fetch ended");
        *at = piece.to();
        let (from, to, rows) = (piece.from, piece.to(), piece.rows.len());
        let (mut fingerprint, mut bytes) = (Fingerprint::default(), 0);
        let payload = if self.log.inner().records {
            let keys = (from..to).map(|position| key(piece.id, position)).collect();
            let records = Records { id: piece.id, from, texts: printed(piece.rows.rows()), keys };
            for i in 0..rows {
                let record = records.record(i);
                fingerprint.add(record.position, record.size(), record.timestamp);
                bytes += record.size();
            }
            Payload::Raw(Box::new(records))
        } else {
            (from..to).for_each(|p| fingerprint.add(p, 0, None));
            bytes += piece.rows.memory();
            Payload::Rows(piece.rows)
        };
        let (partition, latest) = (partition.clone(), fingerprint.latest());
        Ok(Polled::Fetch(Fetch { partition, from, to, rows, bytes, fingerprint: fingerprint.finish(), latest, payload }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let inner = self.log.inner();
        let of = |(id, (partition, position)): (usize, &(Partition, Position))| PartitionStatus {
            partition: partition.clone(),
            position: *position,
            end: Some(inner.end(id)),
        };
        SourceStatus { partitions: self.at.iter().enumerate().map(of).collect(), warnings: vec![] }
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

struct Records {
    id: usize,
    from: Position,
    texts: Vec<String>,
    keys: Vec<Option<String>>,
}

impl RawBatch for Records {
    fn len(&self) -> usize {
        self.texts.len()
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        let position = self.from + i as Position;
        let (value, key) = (Some(self.texts[i].as_bytes()), self.keys[i].as_deref().map(str::as_bytes));
        RawRecord { value, key, position, timestamp: timestamp(self.id, position) }
    }
}
