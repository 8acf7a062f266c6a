//! What a person reads: schemas at the start, tables at the end, and what to try next.

use crate::options::Options;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use orderflow::arrow::array::RecordBatch;
use orderflow::arrow::datatypes::Field;
use orderflow::arrow::util::display::array_value_to_string;
use orderflow::domain::order;
use orderflow::kafka::Admin;
use orderflow::source::meta;
use orderflow::store::io_error;
use orderflow::{Error, Result, Running, Status};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Writes to the standard output, which may be a file on a disk that is full.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| io_error("write to", "the standard output", e))
}

/// Says what is about to happen, with the schema of the raw stream and the one that is applied to it.
pub(crate) fn opening(options: &Options, embedded: bool, brokers: &str, topic: &str) -> Result<()> {
    let broker = if embedded { "an embedded broker (in this process)".to_owned() } else { format!("Kafka at {brokers}") };
    let mut text = format!("Orders by payment type and city, on {broker}, topic {topic}\n\nSchema of the raw stream:\n");
    let raw = [
        ("key", meta::KEY),
        ("value", meta::VALUE),
        ("topic", meta::TOPIC),
        ("partition", meta::PARTITION),
        ("offset", meta::OFFSET),
        ("timestamp", meta::TIMESTAMP),
    ];
    for (name, column) in raw {
        if let Some(field) = meta::fields().iter().find(|f| f.name() == column) {
            text += &column_line(name, field);
        }
    }
    text += "Schema after it is applied to the value (JSON):\n";
    order::schema().fields().iter().for_each(|field| text += &column_line(field.name(), field));
    if let Some(state) = &options.state {
        let kafka = match embedded {
            true => "its topics are gone with this process: at least once, and the orders come from the generator itself",
            false => "topics are written in transactions: read them with isolation.level=read_committed",
        };
        text += &format!("\nState in {}: the same command goes on where it stopped; {kafka}.\n", state.display());
    }
    if !options.no_produce {
        let rate = if options.rate == 0 { "flat out".to_owned() } else { format!("{} a second", options.rate) };
        text += &format!("\nProducing {} orders (seed {}, {rate}).\n", options.orders, options.seed);
    }
    text += "\nChanges of count and amount by city and payment type, as they come (+ appears, - is withdrawn):\n";
    say(&text)
}

fn column_line(name: &str, field: &Field) -> String {
    format!("  {name:<22} {}{}\n", field.data_type(), if field.is_nullable() { "" } else { " not null" })
}

/// The views as of one moment.
pub(crate) struct Views {
    totals: Vec<RecordBatch>,
    categories: Vec<RecordBatch>,
    failures: Vec<RecordBatch>,
    sums: Vec<RecordBatch>,
}

impl Views {
    pub(crate) async fn read(running: &Running) -> Result<Self> {
        Ok(Self {
            totals: running.query("SELECT city, payment_type, orders, amount FROM totals ORDER BY city, payment_type").await?,
            categories: running
                .query(
                    "SELECT payment_type, sum(CASE WHEN payment_txn_success = 'Y' THEN orders ELSE 0 END) AS successful, \
                     sum(CASE WHEN payment_txn_success = 'Y' THEN 0 ELSE orders END) AS failed FROM categories GROUP BY 1 ORDER BY 1",
                )
                .await?,
            failures: running
                .query("SELECT failure_reason, sum(orders) AS orders FROM failures GROUP BY 1 ORDER BY orders DESC, failure_reason")
                .await?,
            sums: running.query("SELECT sum(orders) AS orders, sum(amount) AS amount FROM totals").await?,
        })
    }
}

/// End offsets of the topics that orders are routed to.
pub(crate) fn ends_of_routed(admin: &Admin, prefix: &str) -> Result<BTreeMap<String, u64>> {
    let routed = format!("{prefix}{}.", order::TOPIC);
    let topics = admin.topics()?.into_iter().filter(|t| t.name.starts_with(&routed));
    topics.map(|t| Ok((t.name.clone(), admin.watermarks(&t.name)?.iter().map(|w| w.high).sum()))).collect()
}

/// What the closing tables are made of.
pub(crate) struct Closing<'a> {
    pub(crate) status: &'a Status,
    pub(crate) views: &'a Views,
    pub(crate) seconds: f64,
    pub(crate) out: &'a Path,
    pub(crate) records: &'a BTreeMap<String, u64>,
    pub(crate) before: &'a BTreeMap<String, u64>,
    pub(crate) after: &'a BTreeMap<String, u64>,
    /// Whether topics hold nothing but records, and those of this run only: transactions leave their marks between them.
    pub(crate) plain: bool,
}

/// Prints the closing tables and checks what was routed against the topics themselves.
pub(crate) fn closing(c: &Closing<'_>) -> Result<()> {
    let totals = table(&["city", "payment type", "orders", "amount"], &c.views.totals)?;
    let mut text = format!("\nOrders and amount by city and payment type:\n{totals}\n");
    text += &format!("Orders by payment type and success:\n{}\n", table(&["payment type", "successful", "failed"], &c.views.categories)?);
    text += &format!("Failed orders by reason:\n{}\n", table(&["reason", "orders"], &c.views.failures)?);
    let mut routed = Table::new();
    routed.load_style(UTF8_FULL_CONDENSED).set_header(["topic", "records", "in the topic"]);
    let mut differ = vec![];
    for (topic, records) in c.records {
        let found = c.after.get(topic).copied().unwrap_or(0) - c.before.get(topic).copied().unwrap_or(0);
        if c.plain && found != *records {
            differ.push(format!("{topic}: {records} confirmed, {found} by its offsets"));
        }
        routed.add_row([topic.clone(), records.to_string(), found.to_string()]);
    }
    right(&mut routed, 1);
    let marks = if c.plain { "" } else { " (with the marks of transactions)" };
    text += &format!("Records routed, as confirmed by the broker and by the topics' end offsets{marks}:\n{routed}\n");
    let read: u64 = c.status.sources.iter().map(|s| s.rows).sum();
    let rejected: i64 = c.status.rejected.values().sum();
    let sums = c.views.sums.first().filter(|b| b.num_rows() == 1);
    let sum = |i: usize| sums.map_or(Ok(String::new()), |b| cell(b, i, 0));
    text += &format!("Orders counted: {}, amount {}\n", sum(0)?, sum(1)?);
    let place = if rejected > 0 { format!(", in {}", c.out.join("dead_letters").display()) } else { String::new() };
    text += &format!("Bad records:    {rejected}{place}\n");
    text += &format!("Records read:   {read} in {:.1} s, {:.0} records/s from start to end\n", c.seconds, read as f64 / c.seconds);
    let parquet = c.out.join("city_payment_totals");
    text += &format!("Parquet:        {}\n", parquet.display());
    text += &format!(
        "                read it: duckdb -c \"SELECT city, payment_type, sum(diff * orders) AS orders FROM '{}/*.parquet' GROUP BY ALL\"\n",
        parquet.display()
    );
    say(&text)?;
    if differ.is_empty() {
        return Ok(());
    }
    Err(Error::external("what was routed is not what the topics hold")
        .why(differ.join("; "))
        .hint("does somebody else write to these topics?"))
}

/// Says what to try next.
pub(crate) fn next_steps(options: &Options, interrupted: bool) -> Result<()> {
    if interrupted || options.brokers.is_some() {
        return Ok(());
    }
    say("\nNext: scripts/services up kafka && cargo run --release --example full_pipeline -- --brokers 127.0.0.1:9092 --orders 1000000
      cargo run --example full_pipeline -- --malformed 0.01 --unseen-types 0.01   (bad records and new topics)
      cargo run --example full_pipeline -- --rate 500 --orders 5000               (watch the changes come)
      cargo run --example full_pipeline -- --help
")
}

fn cell(batch: &RecordBatch, column: usize, row: usize) -> Result<String> {
    Ok(array_value_to_string(batch.column(column), row)?)
}

fn right(table: &mut Table, from: usize) {
    table.column_iter_mut().skip(from).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
}

fn table(header: &[&str], batches: &[RecordBatch]) -> Result<Table> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    let mut numbers = header.len();
    for batch in batches {
        numbers = batch.columns().iter().position(|c| c.data_type().is_numeric()).unwrap_or(header.len());
        for row in 0..batch.num_rows() {
            table.add_row((0..batch.num_columns()).map(|c| cell(batch, c, row)).collect::<Result<Vec<_>>>()?);
        }
    }
    right(&mut table, numbers);
    Ok(table)
}
