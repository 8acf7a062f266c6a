//! The order stream from end to end: produce orders, read them from Kafka, route each to the topics of its payment type and
//! success, keep count and amount by city and payment type, show the changes and leave them as Parquet.
//!
//! `cargo run --example full_pipeline` brings its own broker; `-- --brokers HOST:PORT` runs on a real Kafka; `-- --help` says the rest.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, reason = "a program prints, and has a clock of its own")]

mod endless;
mod memory;
mod options;
mod patience;
mod produce;
mod report;
#[path = "../../src/bin/orderflow/words.rs"]
mod words;

use clap::Parser;
use endless::Endless;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use options::Options;
use orderflow::domain::order;
use orderflow::epoch::Limits;
use orderflow::error::Retry;
use orderflow::kafka::{Admin, EmbeddedBroker, Kafka, KafkaSource, Start, Until};
use orderflow::sink::{Sink, dead_letter::DeadLetters};
use orderflow::sinks::{Console, Parquet, Sql};
use orderflow::source::{PartitionStatus, Source};
use orderflow::{Error, Result, Running, pipelines};
use patience::{Interrupts, Waiting, at_rest, cut_short, finish};
use produce::{Pace, produce};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use words::by_options;

/// The pipeline's name. Kafka's ends put the prefix of topics before all that they name by it.
const PIPELINE: &str = "full_pipeline";
/// Partitions of the topic of orders.
const PARTITIONS: i32 = 4;
/// A partition of the embedded broker forgets what is beyond 5 MB, keys and framing included: in each the producer stays at most this far ahead.
const AHEAD: u64 = 3 << 20;
/// Rows of an epoch that a person wants to see.
const SHOWN: usize = 12;

fn main() -> std::process::ExitCode {
    memory::give_back();
    let log = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new("warn"));
    // a log that cannot be written, because it lies on a full disk, is no reason to end
    log.with_writer(std::io::stderr).log_internal_errors(false).init();
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|e| Error::external("the runtime cannot start").caused_by(e)).and_then(|runtime| {
        let outcome = runtime.block_on(run(options));
        runtime.shutdown_timeout(Duration::from_secs(2)); // a producer whose broker is gone would wait for it
        outcome
    });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            note(format_args!("full_pipeline: {e}"));
            std::process::ExitCode::FAILURE
        }
    }
}

/// A line beside the results; where it cannot be written there is nobody to tell.
fn note(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn run(options: Options) -> Result<()> {
    if options.no_produce && options.brokers.is_none() {
        return Err(Error::user("--no-produce processes what a topic holds, and the embedded broker begins empty")
            .hint("name a Kafka by --brokers HOST:PORT, or leave --no-produce away"));
    }
    let mut interrupts = Interrupts::listen();
    let embedded = if options.brokers.is_none() { Some(EmbeddedBroker::start(1)?) } else { None };
    let (brokers, admin) = match (&embedded, &options.brokers) {
        (Some(broker), _) => (broker.bootstrap_servers().to_owned(), Admin::embedded(broker)?),
        (None, Some(brokers)) => (brokers.clone(), Admin::connect(brokers.as_str())?),
        (None, None) => return Err(Error::internal("neither a broker nor brokers")),
    };
    let out = results_folder(&options)?;
    let topic = format!("{}{}", options.topic_prefix, order::TOPIC);
    if !options.no_produce {
        admin.create_topic(&topic, PARTITIONS, if embedded.is_some() { 1 } else { -1 }, &[])?;
    }
    report::opening(&options, embedded.is_some(), &brokers, &topic)?;

    // its own orders only: from the end as it is now; what is there already: from the beginning to the end as it is now
    let marks = admin.watermarks(&topic)?;
    let ends: BTreeMap<(String, i32), u64> = marks.iter().map(|w| ((order::TOPIC.to_owned(), w.partition.id), w.high)).collect();
    let source = Kafka::topic(order::TOPIC).prefix(&options.topic_prefix).brokers(&brokers).format(pipelines::orders::json());
    // small buffers and epochs everywhere: it shares the process with its own producer, and a person watches
    let fetches = [("queued.max.messages.kbytes", "1024"), ("fetch.max.bytes", "2097152"), ("max.partition.fetch.bytes", "524288")];
    let source = fetches.into_iter().fold(source, |source, (name, value)| source.property(name, value));
    let source: KafkaSource = match (options.no_produce, options.follow) {
        (true, false) => source.start(Start::Earliest).until(Until::Latest),
        (true, true) => source.start(Start::Earliest),
        (false, _) => source.start(Start::Offsets(ends.clone())),
    };
    // topics of an embedded broker are gone with the process, so what is kept cannot lean on them
    let generated = embedded.is_some() && options.state.is_some();
    let made = || options.recipe().rate(options.rate).source(Arc::new(pipelines::orders::json()));
    let source: Box<dyn Source> = match (generated, options.follow) {
        (true, true) => Box::new(Endless(made())),
        (true, false) => Box::new(made()),
        (false, _) => Box::new(source),
    };
    let mut routed = Kafka::sink(&brokers).topics_sql(pipelines::orders::ROUTES).prefix(&options.topic_prefix);
    routed = routed.partitions(PARTITIONS).lanes(options.lanes).property("queue.buffering.max.kbytes", "17408");
    if let Some(broker) = &embedded {
        routed = routed.embedded(broker).at_least_once();
    }
    let counters = routed.counters();
    let before = report::ends_of_routed(&admin, &options.topic_prefix)?;
    let bar = progress_bar(&options, marks.iter().map(|w| w.high - w.low).sum());
    let mut totals: Vec<Box<dyn Sink>> =
        vec![Box::new(console(&options, &bar)), Box::new(Parquet::append(out.join("city_payment_totals")))];
    totals.extend(options.sql.iter().map(|url| Box::new(Sql::upsert(url, "city_payment_totals")) as Box<dyn Sink>));
    let flow = pipelines::orders::pipeline(PIPELINE, source, routed, totals)?;
    let limits = Limits { bytes: 4 << 20, interval: Duration::from_millis(options.epoch), ..Limits::default() };
    let flow = flow.epochs(limits).memory(16 << 20).checkpoint_every(Duration::from_secs(options.checkpoint_every));
    let flow = flow.workers(options.workers).dead_letters(DeadLetters::append(out.join("dead_letters")));
    let flow = match &options.state {
        Some(state) => flow.state(state.join("pipeline")).wait_for_state(options.standby.time()),
        None => flow,
    };

    let before_it_began = || Error::user("ended before it began").hint("the same command begins again");
    let running = tokio::select! {
        started = flow.start() => started.map_err(by_options)?,
        () = interrupts.next() => return Err(before_it_began()),
    };
    let begun = Instant::now(); // whom it waited for is no part of its pace
    let pace = Arc::new(Pace::default());
    let _ended = pace.stop_when_dropped();
    let producer = match &options.state {
        _ if options.no_produce || generated => None,
        Some(state) => tokio::select! {
            producing = produce_once(&options, &brokers, state, &pace) => Some(producing?),
            () = interrupts.next() => {
                running.stop().await?;
                return Err(before_it_began());
            }
        },
        None => {
            let (brokers, topic, recipe, rate, pace) = (brokers.clone(), topic.clone(), options.recipe(), options.rate, pace.clone());
            let ahead = embedded.is_some().then_some(AHEAD);
            Some(tokio::task::spawn_blocking(move || produce(&brokers, &topic, &recipe, rate, ahead, &pace)))
        }
    };
    let by_itself = (options.no_produce || generated) && !options.follow;
    let interrupted = follow(&options, &running, &bar, (&admin, &topic, &ends), &pace, producer, &mut interrupts).await?;
    let last = report::Views::read(&running).await?;
    let status = finish(&running, by_itself && !interrupted, &mut interrupts).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (records, plain) = (counters.records(), options.state.is_none() || embedded.is_some());
    let arrived = report::arrived(&admin, &options.topic_prefix, &records, &before, plain)?;
    report::closing(&report::Closing {
        status: &status,
        views: &last,
        seconds,
        out: &out,
        records: &records,
        arrived: &arrived,
        plain,
        kept: options.state.is_some(),
        json: options.json,
    })?;
    report::next_steps(&options, interrupted)
}

/// Produces as a pipeline of its own, from the seeded generator to the topic: whatever stops it, no order is produced twice.
async fn produce_once(options: &Options, brokers: &str, state: &Path, pace: &Arc<Pace>) -> Result<Producing> {
    let flow = || {
        let topic = Kafka::sink(brokers).prefix(&options.topic_prefix).partitions(PARTITIONS).topic(order::TOPIC);
        let flow = pipelines::orders::producer(&format!("{PIPELINE}_producer"), &options.recipe().rate(options.rate), topic)?;
        let limits = Limits { bytes: 6 << 20, interval: Duration::from_millis(options.epoch), ..Limits::default() };
        // whoever had the state of the pipeline may be a moment behind with this one
        let flow = flow.epochs(limits).memory(16 << 20).state(state.join("producer"));
        Ok::<_, Error>(flow.wait_for_state(options.standby.time()))
    };
    // the pipeline that reads the orders has begun, so brokers were there: if they are away now, this one waits for them as that one does
    let running = loop {
        match flow()?.start().await {
            Err(e) if e.retry() == Retry::Backoff => {
                eprintln!("Waiting to begin producing: {e}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            started => break started.map_err(by_options)?,
        }
    };
    let pace = pace.clone();
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                outcome = running.wait() => return outcome.map(|status| status.sources[0].rows),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            if pace.stop.load(Ordering::Relaxed) {
                return running.drain().await.map(|status| status.sources[0].rows);
            }
        }
    }))
}

/// A folder that holds no results yet, or those of the state that is gone on with; what a run that could not start left behind (`.orderflow`,
/// `_commits`) is none.
fn results_folder(options: &Options) -> Result<PathBuf> {
    let out = match (&options.out, &options.state) {
        (Some(out), _) => out.clone(),
        (None, Some(state)) => state.join("results"),
        (None, None) => return fresh_folder(),
    };
    if options.state.is_some() {
        return Ok(out); // the sinks know whose results are there
    }
    for data_set in ["city_payment_totals", "dead_letters"] {
        let folder = out.join(data_set);
        let result = |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| !e.file_name().to_string_lossy().starts_with(['.', '_']));
        if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(result)) {
            return Err(Error::user(format!("{} already holds a data set", folder.display()))
                .hint("choose another folder with --out, leave --out away for a new one, or delete what is there"));
        }
    }
    Ok(out)
}

/// A folder that this run alone has made: another one begun in the same second has its own.
fn fresh_folder() -> Result<PathBuf> {
    let time = PathBuf::from("out").join(chrono::Utc::now().format("%Y-%m-%dT%H-%M-%S").to_string());
    let refused = |folder: &Path, e| {
        Error::user(format!("cannot make the folder {} for the results", folder.display())).why(e).hint("name another place with --out")
    };
    std::fs::create_dir_all("out").map_err(|e| refused(Path::new("out"), e))?;
    let (mut folder, mut runs) = (time.clone(), 1);
    loop {
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => runs += 1,
            Err(e) => return Err(refused(&folder, e)),
        }
        folder = PathBuf::from(format!("{}_{runs}", time.display()));
    }
}

type Producing = tokio::task::JoinHandle<Result<u64>>;

/// Waits until the run is over: its own orders are through, the topic's end is reached, or Ctrl-C (then true). A second Ctrl-C ends it at once.
async fn follow(
    options: &Options,
    running: &Running,
    bar: &ProgressBar,
    (admin, topic, found): (&Admin, &str, &BTreeMap<(String, i32), u64>),
    pace: &Arc<Pace>,
    mut producer: Option<Producing>,
    interrupts: &mut Interrupts,
) -> Result<bool> {
    let (mut ends, mut interrupted) = (None::<BTreeMap<i32, u64>>, false);
    let resumed = options.no_produce && options.state.is_some() && !options.follow;
    let (mut said, mut waiting) = (Instant::now(), Waiting::default());
    let ended = running.wait();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = interrupts.next() => {
                if interrupted {
                    bar.finish_and_clear();
                    return Err(cut_short(running).await);
                }
                bar.suspend(|| note(format_args!("stopping: what was produced goes through, files are closed; Ctrl-C again ends at once")));
                interrupted = true;
                pace.stop.store(true, Ordering::Relaxed);
                if producer.is_none() && ends.is_none() {
                    bar.finish_and_clear();
                    return at_rest(running, interrupts).await.map(|()| true);
                }
            }
            outcome = &mut ended => {
                bar.finish_and_clear();
                return outcome.map(|_| interrupted);
            }
            // a producer is paced by what was read; who only follows shall cost nothing
            () = tokio::time::sleep(Duration::from_millis(if producer.is_some() { 2 } else if options.follow { 250 } else { 20 })) => {}
        }
        let status = running.status();
        let rows = status.sources[0].rows;
        pace.note(&status.sources[0].status);
        let partitions = &status.sources[0].status.partitions;
        if resumed && !partitions.is_empty() {
            // what earlier runs have read is no part of it; positions are told later than rows, so that it is not more than this
            let end = |p: &PartitionStatus| found.get(&(order::TOPIC.to_owned(), p.partition.id)).copied().unwrap_or(0);
            let most = rows + partitions.iter().map(|p| end(p).saturating_sub(p.position)).sum::<u64>();
            bar.set_length(bar.length().map_or(most, |length| length.min(most)).max(rows));
        }
        bar.set_position(rows);
        if bar.is_hidden() && said.elapsed() > Duration::from_secs(5) {
            note(format_args!("{rows} orders processed"));
            said = Instant::now();
        }
        bar.suspend(|| waiting.look(&status));
        if producer.as_ref().is_some_and(Producing::is_finished)
            && let Some(p) = producer.take()
        {
            p.await.map_err(|e| Error::internal("the producer panicked").why(e))??;
            // a commit is answered before it can be seen: what is produced belongs to this run to its last order
            admin.settled(topic, Duration::from_secs(10))?;
            ends = Some(ends_of(admin, topic)?);
        }
        let Some(ends) = ends.as_ref().filter(|_| interrupted || !options.follow) else { continue };
        let position = |id: &i32| status.sources[0].status.partitions.iter().find(|p| p.partition.id == *id).map_or(0, |p| p.position);
        if ends.iter().all(|(id, end)| position(id) >= *end) {
            bar.finish_and_clear();
            return at_rest(running, interrupts).await.map(|()| interrupted);
        }
    }
}

/// Where each partition of the topic ends now.
fn ends_of(admin: &Admin, topic: &str) -> Result<BTreeMap<i32, u64>> {
    Ok(admin.watermarks(topic)?.into_iter().map(|w| (w.partition.id, w.high)).collect())
}

/// Deltas for a person, or for a program. The bar steps aside for them, since they may share the terminal.
fn console(options: &Options, bar: &ProgressBar) -> Console {
    struct Beside(ProgressBar);
    impl Write for Beside {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.suspend(|| std::io::stdout().write(text))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            std::io::stdout().flush()
        }
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let console = Console::deltas().to(Beside(bar.clone())).colour(colour);
    let console = if options.json { console.json() } else { console.limit(SHOWN) };
    options.show.into_iter().fold(console, Console::limit)
}

/// `held`: how many orders the topic holds, at most: markers of transactions count as well.
fn progress_bar(options: &Options, held: u64) -> ProgressBar {
    let (bar, template) = match options.follow {
        true => (ProgressBar::new_spinner(), "{spinner} {pos} orders, {per_sec}"),
        false => {
            let all = if options.no_produce { held } else { options.orders };
            (ProgressBar::new(all), "{wide_bar} {pos}/{len} orders, {per_sec}, {eta} left")
        }
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
