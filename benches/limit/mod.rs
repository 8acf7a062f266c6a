//! What benches share: orders in memory, ends of a pipeline that cost next to nothing, and the loop that one would write by hand.
//!
//! Invariant: the loop gets the same bytes and comes to the same answer as the engine; the benches compare both answers.
#![allow(dead_code, unused_imports, reason = "each bench uses its part")]
#![allow(clippy::unwrap_used, reason = "a bench that goes wrong ends")]

mod parser;
mod totals;

pub(crate) use parser::Parser;
pub(crate) use totals::Totals;

use hashbrown::HashMap;
use orderflow::arrow::array::{AsArray, RecordBatch};
use orderflow::arrow::datatypes::SchemaRef;
use orderflow::arrow::util::display::array_value_to_string;
use orderflow::domain::order;
use orderflow::format::{Format, json::Json};
use orderflow::generator::{Encoding, Orders};
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId};
use orderflow::source::{Fetch, Fingerprint, Payload, Polled, RawBatch, RawRecord, Reader, Source, SourceContext, SourceStatus};
use orderflow::time::{Partition, Positions};
use orderflow::{Pipeline, Result, Running};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Records of one fetch, as many as librdkafka gives at once, so that 25 fetches are 100,000 records.
pub(crate) const FETCH: usize = 4000;
/// The most records that lie in memory, 0.4 GB of them: more are rounds over these.
pub(crate) const POOL: usize = 1_000_000;

/// Encoded records, back to back.
pub(crate) struct Pool {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pool {
    /// The first `n` records of `orders`, each as `write` writes it, which also gets its number.
    fn written(orders: &Orders, n: usize, write: impl Fn(usize, &[u8], &mut Vec<u8>)) -> Self {
        let (mut records, mut record) = (orders.records(0), vec![]);
        let (mut bytes, mut ends) = (Vec::with_capacity(n * 400), vec![0]);
        for i in 0..n {
            record.clear();
            records.next_into(&mut record).unwrap();
            write(i, &record, &mut bytes);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// The first `n` records of `orders`.
    pub(crate) fn new(orders: &Orders, n: usize) -> Self {
        Self::written(orders, n, |_, record, out| out.extend_from_slice(record))
    }

    /// `n` clean orders.
    pub(crate) fn clean(n: usize) -> Self {
        Self::new(&Orders::new(1), n)
    }

    /// `n` clean orders as lines of CSV, with their line ends.
    pub(crate) fn lines(n: usize) -> Self {
        Self::written(&Orders::new(1).encoding(Encoding::Csv), n, |_, record, out| {
            out.extend_from_slice(record);
            out.push(b'\n');
        })
    }

    /// `n` clean orders, each of a customer of its own, in no order.
    pub(crate) fn customers(n: usize) -> Self {
        let mark = b"\"customer_id\":";
        Self::written(&Orders::new(1), n, |i, record, out| {
            let at = record.windows(mark.len()).position(|w| w == mark).unwrap() + mark.len();
            let digits = record[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            out.extend_from_slice(&record[..at]);
            out.extend_from_slice(scattered(i).to_string().as_bytes());
            out.extend_from_slice(&record[at + digits..]);
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub(crate) fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.ends[i]..self.ends[i + 1]]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Bytes of all records.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All records, back to back.
    pub(crate) fn all(&self) -> &[u8] {
        &self.bytes
    }
}

/// A number of seven digits, another one for each `i` below nine million, neighbours far apart: ids of a shop are not counted through.
fn scattered(i: usize) -> u64 {
    1_000_000 + (i as u64 * 7_368_787) % 8_999_993
}

/// A pool as a source, read `rounds` times.
#[derive(Clone)]
pub(crate) struct PoolSource {
    pub(crate) pool: Arc<Pool>,
    pub(crate) rounds: usize,
}

impl PoolSource {
    /// As many records as `ORDERFLOW_BENCH_RECORDS` says, 100,000 by default, from the pool that `make` makes of so many; above [`POOL`]
    /// whole rounds over a pool of that many.
    pub(crate) fn sized(make: impl FnOnce(usize) -> Pool) -> Self {
        let given = std::env::var("ORDERFLOW_BENCH_RECORDS").ok();
        let records = given.map_or(100_000, |n| n.parse::<usize>().expect("ORDERFLOW_BENCH_RECORDS is a number")).max(1);
        Self { pool: Arc::new(make(records.min(POOL))), rounds: records.div_ceil(POOL) }
    }

    /// At most `rounds` rounds over the same pool.
    pub(crate) fn at_most(&self, rounds: usize) -> Self {
        Self { pool: self.pool.clone(), rounds: self.rounds.min(rounds) }
    }

    /// Number of records, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        ((self.pool.len() * self.rounds) as u64, (self.pool.bytes() * self.rounds) as u64)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.rounds).flat_map(move |_| self.pool.iter())
    }
}

impl Source for PoolSource {
    fn schema(&self) -> SchemaRef {
        order::schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        Some(Arc::new(Json::new(order::schema())))
    }

    fn open(self: Box<Self>, _: SourceContext) -> Result<Box<dyn Reader>> {
        let total = (self.pool.len() * self.rounds) as u64;
        Ok(Box::new(PoolReader { pool: self.pool, partition: Partition::new("pool", 0), at: 0, total }))
    }
}

struct PoolReader {
    pool: Arc<Pool>,
    partition: Partition,
    at: u64,
    total: u64,
}

impl Reader for PoolReader {
    fn poll(&mut self) -> Result<Polled> {
        let first = (self.at % self.pool.len() as u64) as usize;
        let rows = FETCH.min(self.pool.len() - first).min((self.total - self.at) as usize);
        if rows == 0 {
            return Ok(Polled::Ended);
        }
        let (from, to) = (self.at, self.at + rows as u64);
        self.at = to;
        let mut fingerprint = Fingerprint::default();
        (0..rows).for_each(|i| fingerprint.add(from + i as u64, self.pool.get(first + i).len(), None));
        Ok(Polled::Fetch(Fetch {
            partition: self.partition.clone(),
            from,
            to,
            rows,
            bytes: self.pool.ends[first + rows] - self.pool.ends[first],
            fingerprint: fingerprint.finish(),
            latest: fingerprint.latest(),
            payload: Payload::Raw(Box::new(PoolBatch { pool: self.pool.clone(), first, rows, from })),
        }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

struct PoolBatch {
    pool: Arc<Pool>,
    first: usize,
    rows: usize,
    from: u64,
}

impl RawBatch for PoolBatch {
    fn len(&self) -> usize {
        self.rows
    }

    fn record(&self, i: usize) -> RawRecord<'_> {
        RawRecord { value: Some(self.pool.get(self.first + i)), key: None, position: self.from + i as u64, timestamp: None }
    }
}

/// A sink that takes everything and keeps nothing. With `columns`, it asks for them as a router does; with a `tally`, these are two topics
/// and a value, and are counted.
#[derive(Clone, Default)]
pub(crate) struct Discard {
    pub(crate) columns: Vec<Column>,
    pub(crate) tally: Option<Arc<Mutex<Sent>>>,
}

/// Records and bytes by topic.
pub(crate) type Sent = BTreeMap<String, (u64, u64)>;

fn count(rows: &RecordBatch, sent: &mut Sent) {
    let values = rows.column(2).as_binary::<i32>();
    for topics in &rows.columns()[..2] {
        for i in 0..rows.num_rows() {
            let (records, bytes) = sent.entry(array_value_to_string(topics, i).unwrap()).or_default();
            *records += 1;
            *bytes += values.value(i).len() as u64;
        }
    }
}

struct Discarded {
    writer: WriterId,
    progress: Option<Progress>,
    tally: Option<Arc<Mutex<Sent>>>,
}

impl Sink for Discard {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(if self.columns.is_empty() { None } else { Some(self.columns.clone()) })
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "discard"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Ok(Opened { writer: Box::new(Discarded { writer: context.writer, progress: None, tally: self.tally }), progress: None })
    }
}

impl Writer for Discarded {
    fn write(&mut self, closed: Closed) -> Result<()> {
        black_box(&closed);
        if let Some(tally) = &self.tally {
            closed.changes.iter().for_each(|c| count(c.rows(), &mut tally.lock().unwrap()));
        }
        self.progress = Some(Progress { writer: self.writer, epoch: closed.epoch, part: 0 });
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        Ok(Committed { progress: self.progress, ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Orders and amount of each (city, payment type).
pub(crate) const TOTALS: &str = orderflow::pipelines::orders::TOTALS;
/// Orders and amount of each customer.
pub(crate) const CUSTOMERS: &str = "SELECT customer_id, count(*) AS orders, sum(qty * price) AS amount FROM orders GROUP BY customer_id";

/// A pipeline that keeps one view over `source` and throws its changes away.
pub(crate) fn aggregate(name: &str, source: impl Source, sql: &str) -> Result<Pipeline> {
    let mut flow = Pipeline::new(name);
    flow.source("orders", source)?;
    flow.view("totals", sql)?.sink(Discard::default())?;
    Ok(flow.dead_letters(Discard::default()))
}

/// Runs a bounded pipeline to its end; the handle still answers for its views.
pub(crate) fn run(flow: Pipeline) -> Result<Running> {
    runtime().block_on(async {
        let running = flow.start().await?;
        running.wait().await?;
        Ok(running)
    })
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// (orders, amount in cents) over all rows of view `totals`.
pub(crate) fn answer(running: &Running) -> (u64, i128) {
    use orderflow::arrow::datatypes::{Decimal128Type, Int64Type};
    let rows =
        runtime().block_on(running.query("SELECT CAST(sum(orders) AS BIGINT), CAST(sum(amount) AS DECIMAL(38, 2)) FROM totals")).unwrap();
    let column = |i: usize| rows[0].column(i).clone();
    (column(0).as_primitive::<Int64Type>().value(0) as u64, column(1).as_primitive::<Decimal128Type>().value(0))
}

/// A price in cents: orders have two places, and a price below 10^13 is exact as a float.
pub(crate) fn cents(price: f64) -> i128 {
    (price * 100.0).round() as i64 as i128
}

/// The fields that the totals need.
#[derive(serde::Deserialize)]
pub(crate) struct Needed<'a> {
    pub(crate) payment_type: &'a str,
    pub(crate) qty: i64,
    pub(crate) price: f64,
    pub(crate) city: &'a str,
}

/// The fields that the totals by customer need.
#[derive(serde::Deserialize)]
pub(crate) struct Customer {
    pub(crate) customer_id: i64,
    pub(crate) qty: i64,
    pub(crate) price: f64,
}

/// The fields that routing needs.
#[derive(serde::Deserialize)]
pub(crate) struct Routed<'a> {
    pub(crate) payment_type: &'a str,
    pub(crate) payment_txn_success: &'a str,
}

/// All fields.
#[derive(serde::Deserialize)]
pub(crate) struct All<'a> {
    pub(crate) order_id: i64,
    pub(crate) customer_id: i64,
    pub(crate) customer_name: &'a str,
    pub(crate) product_id: i64,
    pub(crate) product_name: &'a str,
    pub(crate) product_category: &'a str,
    pub(crate) payment_type: &'a str,
    pub(crate) qty: i64,
    pub(crate) price: f64,
    pub(crate) datetime: &'a str,
    pub(crate) country: &'a str,
    pub(crate) city: &'a str,
    pub(crate) ecommerce_website_name: &'a str,
    pub(crate) payment_txn_id: i64,
    pub(crate) payment_txn_success: &'a str,
    pub(crate) failure_reason: Option<&'a str>,
}

#[derive(Default)]
struct Slot {
    orders: u64,
    amount: i128,
    /// Epoch in which it was last touched.
    epoch: u64,
}

/// Changes of an epoch, as columns.
#[derive(Default)]
pub(crate) struct Deltas {
    customer: Vec<i64>,
    orders: Vec<u64>,
    amount: Vec<i128>,
    diff: Vec<i8>,
}

/// The hand-written totals by customer, with the old and the new row of every customer that an epoch touched.
#[derive(Default)]
pub(crate) struct ByCustomer {
    parser: Parser,
    slots: HashMap<i64, Slot>,
    touched: Vec<(i64, u64, i128)>,
    epoch: u64,
}

impl ByCustomer {
    #[inline]
    pub(crate) fn add(&mut self, record: &[u8]) {
        let o: Customer = self.parser.read(record);
        let slot = self.slots.entry(o.customer_id).or_insert_with(|| Slot { epoch: u64::MAX, ..Slot::default() });
        if slot.epoch != self.epoch {
            slot.epoch = self.epoch;
            self.touched.push((o.customer_id, slot.orders, slot.amount));
        }
        slot.orders += 1;
        slot.amount += i128::from(o.qty) * cents(o.price);
    }

    /// Ends the epoch: its deltas.
    pub(crate) fn close(&mut self) -> Deltas {
        self.epoch += 1;
        let mut out = Deltas::default();
        for (customer, orders, amount) in self.touched.drain(..) {
            let new = &self.slots[&customer];
            let mut push = |orders, amount, diff| {
                out.customer.push(customer);
                out.orders.push(orders);
                out.amount.push(amount);
                out.diff.push(diff);
            };
            if orders > 0 {
                push(orders, amount, -1);
            }
            push(new.orders, new.amount, 1);
        }
        out
    }

    /// Number of customers.
    pub(crate) fn groups(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn answer(&self) -> (u64, i128) {
        self.slots.values().fold((0, 0), |a, v| (a.0 + v.orders, a.1 + v.amount))
    }
}
