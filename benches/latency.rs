//! Latency of routing: from a record's Kafka timestamp (when its producer took it) to the moment the Kafka sink reports it stored.
//!
//! `scripts/figures` runs it; alone: `cargo bench --bench latency -- --brokers HOST:PORT [--rate N] [--seconds N]`.
//!
//! Invariant: what is timed is the pipeline of orders whole (routing to two topics, three views), at a steady rate, after five seconds that do not count.
//! Kafka timestamps are whole milliseconds. On the standard output stands one line a figure: epoch, records, p50 (ms), p99 (ms).
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a measuring program is a host, not a guest")]

use orderflow::arrow::array::AsArray;
use orderflow::arrow::datatypes::TimestampMillisecondType;
use orderflow::generator::Orders;
use orderflow::kafka::{Admin, Kafka, KafkaSink, Producer, Record, Start};
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Sink, SinkContext, Writer};
use orderflow::time::Epoch;
use orderflow::{Error, Pipeline, Result, domain::order, pipelines};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PARTITIONS: i32 = 4;
/// Not counted: connections are made, topics created.
const WARM_UP: Duration = Duration::from_secs(5);

/// (timestamp, milliseconds until it was stored) of every record.
type Seen = Arc<Mutex<Vec<(i64, i64)>>>;

/// A Kafka sink with a watch.
struct Timed {
    sink: KafkaSink,
    seen: Seen,
}

struct TimedWriter {
    writer: Box<dyn Writer>,
    timestamp: usize,
    waiting: VecDeque<(Epoch, Vec<i64>)>,
    seen: Seen,
}

impl Sink for Timed {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.sink.columns(input)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        self.sink.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        self.sink.kind()
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let timestamp = context.schema.index_of("__timestamp").map_err(|e| Error::internal("the sink takes no timestamps").caused_by(e))?;
        let opened = Box::new(self.sink).open(context)?;
        let writer = Box::new(TimedWriter { writer: opened.writer, timestamp, waiting: VecDeque::new(), seen: self.seen });
        Ok(Opened { writer, progress: opened.progress })
    }
}

fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as i64)
}

impl Writer for TimedWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let of =
            |c: &orderflow::data::Changes| c.rows().column(self.timestamp).as_primitive::<TimestampMillisecondType>().values().to_vec();
        let timestamps: Vec<i64> = closed.changes.iter().flat_map(of).collect();
        self.waiting.push_back((closed.epoch, timestamps));
        self.writer.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        let committed = self.writer.poll(wait)?;
        let (now, mut seen) = (unix_millis(), self.seen.lock().unwrap());
        while let Some((epoch, _)) = self.waiting.front()
            && committed.progress.is_some_and(|p| p.epoch >= *epoch)
        {
            let (_, timestamps) = self.waiting.pop_front().unwrap_or_default();
            seen.extend(timestamps.into_iter().map(|t| (t, now - t)));
        }
        Ok(committed)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.writer.close()
    }
}

struct Options {
    brokers: String,
    rate: u64,
    seconds: u64,
}

fn options() -> Result<Options> {
    let mut o = Options { brokers: String::new(), rate: 10_000, seconds: 20 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Error::user(format!("{arg} wants a value")));
        let number = |text: String| text.parse::<u64>().map_err(|_| Error::user(format!("'{text}' is not a number")));
        match arg.as_str() {
            "--bench" => {} // from cargo
            "--brokers" => o.brokers = value()?,
            "--rate" => o.rate = number(value()?)?.max(1),
            "--seconds" => o.seconds = number(value()?)?.max(1),
            _ => return Err(Error::user(format!("unknown option {arg}"))),
        }
    }
    if o.brokers.is_empty() { Err(Error::user("no broker was named").hint("--brokers HOST:PORT, or scripts/figures")) } else { Ok(o) }
}

/// Writes orders at a steady rate, a few each millisecond.
fn produce(o: &Options, topic: &str) -> Result<()> {
    let mut producer = Producer::connect(o.brokers.as_str())?;
    let mut records = Orders::new(7).records(0);
    let (begun, mut n, mut value) = (Instant::now(), 0u64, vec![]);
    let total = (o.seconds + WARM_UP.as_secs()) * o.rate;
    while n < total {
        let due = ((begun.elapsed().as_secs_f64() * o.rate as f64) as u64).min(total);
        for _ in n..due {
            value.clear();
            let key = records.position().to_string();
            records.next_into(&mut value);
            producer.send(topic, Record { value: Some(&value), key: Some(key.as_bytes()), ..Record::default() })?;
        }
        n = due;
        producer.poll(Duration::ZERO)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(60))
}

fn pipeline(o: &Options, prefix: &str, seen: &Seen) -> Result<Pipeline> {
    let mut flow = Pipeline::new("latency");
    let source = Kafka::topic(order::TOPIC).prefix(prefix).brokers(&o.brokers).start(Start::Latest).format(pipelines::orders::json());
    let sink = Kafka::sink(&o.brokers).prefix(prefix).partitions(PARTITIONS);
    let sink = sink.topics_sql(pipelines::orders::ROUTES);
    flow.source("orders", source)?.route(Timed { sink, seen: seen.clone() })?;
    flow.view("totals", pipelines::orders::TOTALS)?;
    flow.view("categories", pipelines::orders::CATEGORIES)?;
    flow.view("failures", pipelines::orders::FAILURES)?;
    Ok(flow)
}

fn measure(o: &Options, epoch: Duration) -> Result<()> {
    let prefix = format!("latency-{}-{}-", std::process::id(), epoch.as_millis());
    let admin = Admin::connect(o.brokers.as_str())?;
    let topic = format!("{prefix}{}", order::TOPIC);
    admin.create_topic(&topic, PARTITIONS, 1, &[])?;
    let seen = Seen::default();
    let flow = pipeline(o, &prefix, &seen)?.epoch_interval(epoch);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|e| Error::external("no runtime could be started").caused_by(e))?;
    let running = tokio.block_on(flow.start())?;
    let begun = unix_millis();
    produce(o, &topic)?;
    let expected = (o.seconds + WARM_UP.as_secs()) * o.rate;
    // who drains takes no more input, and the last records may still lie in the topic
    let produced = Instant::now();
    while (seen.lock().unwrap().len() as u64) < expected && produced.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
    tokio.block_on(running.drain())?;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len() as u64, expected, "every record was stored and timed");
    let warm = begun + WARM_UP.as_millis() as i64;
    let mut took: Vec<i64> = seen.into_iter().filter(|(t, _)| *t >= warm).map(|(_, took)| took).collect();
    took.sort_unstable();
    let quantile = |q: f64| took[((took.len() - 1) as f64 * q) as usize];
    println!("{} ms\t{}\t{}\t{}", epoch.as_millis(), took.len(), quantile(0.5), quantile(0.99));
    admin.topics()?.iter().filter(|t| t.name.starts_with(&prefix)).try_for_each(|t| admin.delete_topic(&t.name))
}

fn main() -> std::process::ExitCode {
    let run = || options().and_then(|o| [10, 1000].into_iter().try_for_each(|ms| measure(&o, Duration::from_millis(ms))));
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("latency: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
