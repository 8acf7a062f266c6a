//! The ratios: CPU time per record of the engine over that of the loop one would write by hand, or of another limit, in one run.
//!
//! `scripts/ratios` runs it with everything that it needs; alone: `cargo run --release -p orderflow-ratios -- [--brokers HOST:PORT] [--duckdb PYTHON]
//! [--rounds N] [--records N] [--kafka-records N] [--only PART-OF-NAME]`. Figures that lack their broker or DuckDB are left out, and said so. Two are
//! measured only when `--only` names them: `--only "1 partition"` (two workers over one, one partition) and `--only exactly` (exactly once into Kafka).
//!
//! Invariant: both sides get the same bytes, take turns, and come to the same answer; a figure is the ratio of the medians. On the
//! standard output stands one line a figure: name, ours (µs), limit (µs), ratio, target.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a measuring program is a host, not a guest")]

mod cpu;
mod duckdb;
mod kafka;
#[path = "../limit/mod.rs"]
mod limit;

use limit::{All, ByCustomer, CUSTOMERS, Needed, Parser, Pool, PoolSource, TOTALS, Totals, aggregate, answer, run};
use orderflow::domain::order;
use orderflow::epoch::Limits;
use orderflow::format::{Format, json::Json};
use orderflow::generator::{Orders, Share};
use orderflow::kafka::{Admin, Kafka, KafkaSink, KafkaSource, Until};
use orderflow::pipelines::orders::ROUTES;
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::{Error, Pipeline, Result, Running};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

struct Options {
    brokers: Option<String>,
    duckdb: Option<String>,
    rounds: usize,
    records: usize,
    kafka_records: u64,
    only: Option<String>,
}

fn options() -> std::result::Result<Options, String> {
    let mut o = Options { brokers: None, duckdb: None, rounds: 5, records: 1_000_000, kafka_records: 2_000_000, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("'{text}' is not a number"));
        match arg.as_str() {
            "--brokers" => o.brokers = Some(value()?),
            "--duckdb" => o.duckdb = Some(value()?),
            "--rounds" => o.rounds = number(value()?)?.max(1) as usize,
            "--records" => o.records = number(value()?)?.max(10_000) as usize,
            "--kafka-records" => o.kafka_records = number(value()?)?.max(10_000),
            "--only" => o.only = Some(value()?),
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(o)
}

/// One figure: µs per record of both sides, measured in turns.
struct Figures {
    rounds: usize,
    only: Option<String>,
}

impl Figures {
    fn wanted(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }

    fn measure(&self, name: &str, target: f64, mut ours: impl FnMut() -> f64, mut limit: impl FnMut() -> f64) {
        if !self.wanted(name) {
            return;
        }
        let (mut a, mut b) = (vec![], vec![]);
        for round in 0..self.rounds {
            let threads = cpu::threads().len();
            a.push(ours());
            cpu::settle(threads);
            b.push(limit());
            cpu::settle(threads);
            eprintln!("{name}, round {}: {:.3} µs over {:.3} µs", round + 1, a[round], b[round]);
        }
        let (a, b) = (median(a), median(b));
        println!("{name}\t{a:.3}\t{b:.3}\t{:.2}\t{target}", a / b);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> std::process::ExitCode {
    let outcome = options().map_err(orderflow::Error::user).and_then(|o| figures(&o));
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ratios: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn figures(o: &Options) -> Result<()> {
    let figures = Figures { rounds: o.rounds, only: o.only.clone() };
    let pool = Arc::new(Pool::clean(o.records));
    eprintln!("{} orders of {} bytes", pool.len(), pool.bytes() / pool.len());
    decode(&figures, &pool);
    in_memory(&figures, &pool)?;
    drop(pool);
    many_groups(&figures, o.records)?;
    match &o.duckdb {
        Some(python) => duckdb::file(&figures, python, o.records)?,
        None => eprintln!("no --duckdb: the figure of a file is left out"),
    }
    match &o.brokers {
        Some(brokers) => from_kafka(&figures, brokers, o.kafka_records)?,
        None => eprintln!("no --brokers: the figures of Kafka are left out"),
    }
    Ok(())
}

fn decode(figures: &Figures, pool: &Pool) {
    let ours = |columns: &[usize]| {
        let mut decoder = Json::new(order::schema()).decoder(columns).unwrap();
        let (us, ()) = cpu::of(|| {
            for (i, record) in pool.iter().enumerate() {
                decoder.push(record).unwrap();
                if (i + 1) % limit::FETCH == 0 {
                    black_box(decoder.finish().unwrap());
                }
            }
        });
        us / pool.len() as f64
    };
    let column = |name: &str| order::schema().index_of(name).unwrap();
    let mut four = ["payment_type", "qty", "price", "city"].map(column);
    four.sort_unstable();
    let all: Vec<usize> = (0..16).collect();
    figures.measure(
        "decode 4 of 16 fields",
        1.15,
        || ours(&four),
        || {
            let mut parser = Parser::default();
            cpu::of(|| pool.iter().for_each(|r| _ = black_box(parser.read::<Needed<'_>>(r)))).0 / pool.len() as f64
        },
    );
    figures.measure(
        "decode 16 fields",
        1.25,
        || ours(&all),
        || {
            let mut parser = Parser::default();
            cpu::of(|| pool.iter().for_each(|r| _ = black_box(parser.read::<All<'_>>(r)))).0 / pool.len() as f64
        },
    );
}

/// Runs a pipeline; µs per record of the whole process, and the handle, which still answers.
fn spent(flow: Result<Pipeline>, n: u64) -> (f64, Running) {
    let (us, running) = cpu::of(|| flow.and_then(run));
    let running = running.unwrap();
    assert_eq!(running.status().sources[0].rows, n, "every record was read");
    (us / n as f64, running)
}

fn in_memory(figures: &Figures, pool: &Arc<Pool>) -> Result<()> {
    let n = pool.len() as u64;
    let source = |pool: &Arc<Pool>| PoolSource { pool: pool.clone(), rounds: 1 };
    let by_hand = || {
        let mut totals = Totals::default();
        pool.iter().for_each(|r| totals.add(r));
        totals
    };
    let expected = by_hand().answer();
    let ours = || {
        let (us, running) = spent(aggregate("m", source(pool), TOTALS), n);
        assert_eq!(answer(&running), expected);
        us
    };
    figures.measure("decode + aggregate, 144 groups", 1.25, ours, || cpu::of(|| black_box(by_hand())).0 / n as f64);

    let bad = Arc::new(Pool::new(&Orders::new(1).malformed(Share::new(1.0)?), pool.len()));
    let all_bad = || {
        let folder = tempfile();
        let flow = aggregate("m", source(&bad), TOTALS).map(|f| f.dead_letters(DeadLetters::append(folder.join("dead_letters"))));
        let (us, running) = spent(flow, n);
        let rejected: i64 = running.status().rejected.values().sum();
        assert_eq!(rejected, n as i64, "every record was refused");
        drop(running);
        std::fs::remove_dir_all(folder).unwrap();
        us
    };
    figures.measure("100 % bad rows over 100 % good rows", 20.0, all_bad, ours);
    Ok(())
}

/// A folder that is not there yet.
fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("ratios-{}-{}", std::process::id(), cpu::process()))
}

fn many_groups(figures: &Figures, groups: usize) -> Result<()> {
    const NAME: &str = "decode + aggregate, 1,000,000 groups";
    const ROUNDS: usize = 10;
    const EPOCH: usize = 100_000;
    if !figures.wanted(NAME) {
        return Ok(());
    }
    let pool = Arc::new(Pool::customers(groups));
    let n = (pool.len() * ROUNDS) as u64;
    let by_hand = || {
        let mut totals = ByCustomer::default();
        for round in 0..ROUNDS {
            for (i, record) in pool.iter().enumerate() {
                totals.add(record);
                if (round * pool.len() + i + 1).is_multiple_of(EPOCH) {
                    black_box(totals.close());
                }
            }
        }
        totals
    };
    let mut expected = None;
    let mut found = None;
    let limits = Limits { interval: Duration::from_secs(3600), rows: EPOCH as u64, bytes: u64::MAX };
    let ours = || {
        let flow = aggregate("m", PoolSource { pool: pool.clone(), rounds: ROUNDS }, CUSTOMERS).map(|f| f.epochs(limits));
        let (us, running) = spent(flow, n);
        found = Some(answer(&running));
        us
    };
    let limit = || {
        let (us, totals) = cpu::of(by_hand);
        expected = Some(totals.answer());
        us / n as f64
    };
    figures.measure(NAME, 2.5, ours, limit);
    assert_eq!(found, expected, "both come to the same totals");
    Ok(())
}

fn from_kafka(figures: &Figures, brokers: &str, n: u64) -> Result<()> {
    let names = [
        "Kafka, decode, aggregate",
        "Kafka, decode, aggregate, 2 workers over 1",
        "Kafka, decode, aggregate, 2 workers over 1, 1 partition",
    ];
    let route = "Kafka, route to two topics";
    let admin = Admin::connect(brokers)?;
    let run_id = std::process::id();
    let source = |topic: &str| -> Result<KafkaSource> {
        Ok(Kafka::topic(topic).brokers(brokers).until(Until::Latest).format(Json::new(order::schema())))
    };
    if names.iter().any(|name| figures.wanted(name)) {
        let (topic, single) = (format!("ratios-{run_id}-4"), format!("ratios-{run_id}-1"));
        eprintln!("producing {n} orders");
        kafka::fill(brokers, &topic, kafka::PARTITIONS, n)?;
        let expected = kafka::totals(brokers, &topic, kafka::PARTITIONS, n).answer();
        let ours = || {
            let (us, running) = spent(source(&topic).and_then(|s| aggregate("k", s, TOTALS)), n);
            assert_eq!(answer(&running), expected);
            us
        };
        let by_hand = || {
            let (us, totals) = cpu::of(|| kafka::totals(brokers, &topic, kafka::PARTITIONS, n));
            assert_eq!(totals.answer(), expected);
            us / n as f64
        };
        figures.measure(names[0], 1.3, ours, by_hand);

        // the busiest worker thread of as many
        let busiest = |topic: &str, workers: usize, n: u64| {
            let (_, running) = spent(source(topic).and_then(|s| aggregate("k", s, TOTALS)).map(|f| f.workers(workers)), n);
            let of_workers = cpu::threads().into_iter().filter(|(name, _)| name.contains("-worker-")).map(|(_, us)| us);
            let busiest = of_workers.fold(0.0, f64::max) / n as f64;
            drop(running);
            busiest
        };
        figures.measure(names[1], 0.6, || busiest(&topic, 2, n), || busiest(&topic, 1, n));
        if figures.wanted(names[2]) && figures.only.is_some() {
            kafka::fill(brokers, &single, 1, n / 2)?;
            figures.measure(names[2], f64::NAN, || busiest(&single, 2, n / 2), || busiest(&single, 1, n / 2));
            admin.delete_topic(&single)?;
        }
        admin.delete_topic(&topic)?;
    }
    let exactly = "Kafka, exactly once over at least once (time)";
    // only when it is asked for: a minute and more, of wall time
    if figures.wanted(exactly) && figures.only.is_some() {
        // the first and the last commit of a run are paid once: the run has to be long beside them
        let (topic, n) = (format!("ratios-{run_id}-exactly"), n * 3 / 2);
        kafka::fill(brokers, &topic, kafka::PARTITIONS, n)?;
        let (runs, state) = (std::cell::Cell::new(0), tempfile());
        let side = |sink: fn(KafkaSink) -> KafkaSink| {
            let run = runs.replace(runs.get() + 1);
            let prefix = format!("ratios-{run_id}-exactly-{run}-");
            for t in kafka::routed_topics(&prefix) {
                admin.create_topic(&t, kafka::PARTITIONS, 1, &[]).unwrap();
            }
            let flow = || -> Result<Pipeline> {
                let mut flow = Pipeline::new("k");
                let kafka = sink(Kafka::sink(brokers).prefix(&prefix).partitions(kafka::PARTITIONS));
                flow.source("orders", source(&topic)?)?.route(kafka.topics_sql(ROUTES))?;
                let flow = flow.epoch_interval(Duration::from_secs(1)).state(state.join(run.to_string()));
                Ok(flow.dead_letters(limit::Discard::default()))
            };
            // opening takes a second; what counts is how fast records go
            let us = limit::runtime().block_on(async {
                let running = flow().unwrap().start().await.unwrap();
                let began = std::time::Instant::now();
                running.wait().await.unwrap();
                began.elapsed().as_secs_f64() * 1e6 / n as f64
            });
            for t in admin.topics().unwrap().iter().filter(|t| t.name.starts_with(&prefix)) {
                admin.delete_topic(&t.name).unwrap();
            }
            us
        };
        figures.measure(exactly, 1.11, || side(|s| s), || side(KafkaSink::at_least_once));
        admin.delete_topic(&topic)?;
        std::fs::remove_dir_all(&state).map_err(|e| Error::external("the state was not removed").caused_by(e))?;
    }
    if figures.wanted(route) {
        let (topic, n) = (format!("ratios-{run_id}-routed"), n / 2);
        kafka::fill(brokers, &topic, kafka::PARTITIONS, n)?;
        let prefix = |side: &str| format!("ratios-{run_id}-{side}-");
        let create = |prefix: &str| {
            kafka::routed_topics(prefix).iter().try_for_each(|t| admin.create_topic(t, kafka::PARTITIONS, 1, &[]).map(|_| ()))
        };
        let clear = |prefix: &str| {
            for t in kafka::routed_topics(prefix) {
                admin.delete_topic(&t).unwrap();
            }
        };
        let count =
            |prefix: &str| kafka::routed_topics(prefix).iter().map(|t| admin.count_records(t, &Default::default()).unwrap()).sum::<u64>();
        let ours = || {
            let prefix = prefix("ours");
            create(&prefix).unwrap();
            let flow = || -> Result<Pipeline> {
                let mut flow = Pipeline::new("k");
                let sink = Kafka::sink(brokers).prefix(&prefix).partitions(kafka::PARTITIONS);
                flow.source("orders", source(&topic)?)?.route(sink.topics_sql(ROUTES))?;
                Ok(flow.dead_letters(limit::Discard::default()))
            };
            let (us, running) = spent(flow(), n);
            drop(running);
            assert_eq!(count(&prefix), 2 * n);
            clear(&prefix);
            us
        };
        let by_hand = || {
            let prefix = prefix("limit");
            create(&prefix).unwrap();
            let (us, stored) = cpu::of(|| kafka::route(brokers, &topic, n, &prefix));
            assert_eq!((stored, count(&prefix)), (2 * n, 2 * n));
            clear(&prefix);
            us / n as f64
        };
        figures.measure(route, 1.2, ours, by_hand);
        admin.delete_topic(&topic)?;
    }
    Ok(())
}
