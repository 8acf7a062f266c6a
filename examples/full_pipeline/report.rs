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
use orderflow::time::Positions;
use orderflow::{Error, Result, Running, Status};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Writes to the standard output, which may be a file on a disk that is full; to the standard error, if the standard output is for a program.
fn say(json: bool, text: &str) -> Result<()> {
    let (mut out, name): (Box<dyn Write>, _) = match json {
        true => (Box::new(std::io::stderr().lock()), "the standard error"),
        false => (Box::new(std::io::stdout().lock()), "the standard output"),
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| io_error("write to", name, e))
}

/// Says what is about to happen, with the schema of the raw stream and the one that is applied to it.
pub(crate) fn opening(options: &Options, embedded: bool, brokers: &str, topic: &str) -> Result<()> {
    let broker = if embedded { format!("an embedded broker (in this process, at {brokers})") } else { format!("Kafka at {brokers}") };
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
    text += match options.json {
        true => "\nChanges of count and amount by city and payment type go to the standard output as they come, a JSON object a line.\n",
        false => "\nChanges of count and amount by city and payment type, as they come (+ appears, - is withdrawn):\n",
    };
    say(options.json, &text)
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
pub(crate) fn ends_of_routed(admin: &Admin, prefix: &str) -> Result<Ends> {
    let routed = format!("{prefix}{}.", order::TOPIC);
    let topics = admin.topics()?.into_iter().filter(|t| t.name.starts_with(&routed));
    let ends = |name: &str| -> Result<Positions> { Ok(admin.watermarks(name)?.into_iter().map(|w| (w.partition, w.high)).collect()) };
    topics.map(|t| Ok((t.name.clone(), ends(&t.name)?))).collect()
}

/// Of each topic the end of each partition.
pub(crate) type Ends = BTreeMap<String, Positions>;

/// How many records came to each of these topics since their ends were `before`, by the topics themselves: by offsets, or, with transactions, which leave
/// marks between records, by reading what was committed.
pub(crate) fn arrived(
    admin: &Admin,
    prefix: &str,
    topics: &BTreeMap<String, u64>,
    before: &Ends,
    plain: bool,
) -> Result<BTreeMap<String, u64>> {
    let none = Positions::new();
    let after = if plain { ends_of_routed(admin, prefix)? } else { Ends::new() };
    let sum = |ends: &Positions| ends.values().sum::<u64>();
    let count = |topic: &String| match (before.get(topic).unwrap_or(&none), plain) {
        (before, true) => Ok(sum(after.get(topic).unwrap_or(&none)).saturating_sub(sum(before))),
        (before, false) => admin.count_records(topic, before),
    };
    topics.keys().map(|topic| Ok((topic.clone(), count(topic)?))).collect()
}

/// What the closing tables are made of.
pub(crate) struct Closing<'a> {
    pub(crate) status: &'a Status,
    pub(crate) views: &'a Views,
    pub(crate) seconds: f64,
    pub(crate) out: &'a Path,
    pub(crate) records: &'a BTreeMap<String, u64>,
    /// What arrived in each topic.
    pub(crate) arrived: &'a BTreeMap<String, u64>,
    /// Whether topics were written without transactions.
    pub(crate) plain: bool,
    /// Whether what earlier runs found is in the views.
    pub(crate) kept: bool,
    /// Whether the standard output is for a program.
    pub(crate) json: bool,
}

/// Prints the closing tables and checks what was routed against the topics themselves. With state, what the views hold and what was
/// rejected is of all runs, and what was routed and read is of this one.
pub(crate) fn closing(c: &Closing<'_>) -> Result<()> {
    let totals = table(&["city", "payment type", "orders", "amount"], &c.views.totals)?;
    let scopes = if c.kept { ["\nAll runs with this state:\n", "\nThis run:\n", " (all runs)", " (this run)"] } else { [""; 4] };
    let [all_runs, this_run, of_all, of_this] = scopes;
    let mut text = format!("{all_runs}\nOrders and amount by city and payment type:\n{totals}\n");
    text += &format!("Orders by payment type and success:\n{}\n", table(&["payment type", "successful", "failed"], &c.views.categories)?);
    text += &format!("Failed orders by reason:\n{}\n", table(&["reason", "orders"], &c.views.failures)?);
    let mut routed = Table::new();
    routed.load_style(UTF8_FULL_CONDENSED).set_header(["topic", "records", "in the topic"]);
    let mut differ = vec![];
    for (topic, records) in c.records {
        let found = c.arrived.get(topic).copied().unwrap_or(0);
        // the last transaction of a run that was killed may become visible when the next one begins
        if found < *records || c.plain && found > *records {
            differ.push(format!("{topic}: {records} confirmed, {found} in the topic"));
        }
        routed.add_row([topic.clone(), records.to_string(), found.to_string()]);
    }
    right(&mut routed, 1);
    let by = if c.plain { "by the topics' end offsets" } else { "by reading what was committed to the topics" };
    text += &format!("{this_run}Records routed, as confirmed by the broker and {by}:\n{routed}\n");
    let read: u64 = c.status.sources.iter().map(|s| s.rows).sum();
    let rejected: i64 = c.status.rejected.values().sum();
    let sums = c.views.sums.first().filter(|b| b.num_rows() == 1);
    let sum = |i: usize| sums.map_or(Ok(String::new()), |b| cell(b, i, 0));
    text += &format!("Orders counted: {}, amount {}{of_all}\n", sum(0)?, sum(1)?);
    let place = if rejected > 0 { format!(", in {}", c.out.join("dead_letters").display()) } else { String::new() };
    text += &format!("Bad records:    {rejected}{of_all}{place}\n");
    let (seconds, rate) = (c.seconds, read as f64 / c.seconds);
    text += &format!("Records read:   {read}{of_this} in {seconds:.1} s, {rate:.0} records/s from start to end\n");
    let parquet = c.out.join("city_payment_totals");
    text += &format!("Parquet:        {}\n", parquet.display());
    text += &format!(
        "                read it: duckdb -c \"SELECT city, payment_type, sum(diff * orders) AS orders FROM '{}/*.parquet' GROUP BY ALL\"\n",
        parquet.display()
    );
    say(c.json, &text)?;
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
    say(
        options.json,
        "\nNext: scripts/services up kafka && cargo run --release --example full_pipeline -- --brokers 127.0.0.1:9092 --orders 1000000
      cargo run --example full_pipeline -- --malformed 0.01 --unseen-types 0.01   (bad records and new topics)
      cargo run --example full_pipeline -- --rate 500 --orders 5000               (watch the changes come)
      cargo run --example full_pipeline -- --state kept                           (kill it, and give the same command again)
      cargo run --example full_pipeline -- --help
",
    )
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
