//! A host behind a memory channel as a sink, which stores rows and progress in one act and comes back with what it stored: killed anywhere, it has each row once.
//!
//! The host works when the sink is polled, an epoch at a time. What it stores may be refused, be there without an answer, or be the last that happens.

use super::*;
use orderflow_core::Error;
use orderflow_core::bug::{self, Bug, planted};
use orderflow_core::format::encode::JsonRows;
use orderflow_core::sink::memory::{self as channel, Deliveries, Delivery, MemorySink};
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer};
use orderflow_core::testing::{Fate, Report, Schedules, World as Simulated, crash_anywhere, find_failure, undisturbed};
use std::sync::Mutex;

/// Records of each partition.
const READ: Position = 40;

/// What the host has on its disk.
#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    progress: Option<Progress>,
}

struct Host {
    kept: Arc<Mutex<Kept>>,
    deliveries: Deliveries,
    /// Received, and perhaps stored.
    doubtful: Option<Delivery>,
    fate: Fate,
}

/// The channel with the host behind it.
struct Hosted {
    sink: MemorySink,
    host: Host,
}

struct HostedWriter {
    host: Host,
    writer: Box<dyn Writer>,
}

/// The rows as lines, each with its epoch and multiplicity.
fn lines(delivery: &Delivery) -> Result<Vec<String>> {
    let mut text = vec![];
    for changes in &delivery.changes {
        let mut rows = JsonRows::of(changes.rows())?;
        for i in 0..changes.len() {
            rows.append(i, Some((changes.diff(i), delivery.epoch())), &mut text);
            text.push(b'\n');
        }
    }
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}

impl Host {
    /// Takes an epoch if there is one, stores it, and acknowledges what is stored.
    fn work(&mut self) -> Result<()> {
        let again = self.doubtful.is_some();
        let next = self.doubtful.take().or_else(|| self.deliveries.try_recv().ok().flatten());
        let Some(delivery) = next else { return Ok(()) };
        let held = self.kept.lock().unwrap().progress.is_some_and(|p| p.epoch >= delivery.epoch());
        if held && !again {
            return Err(Error::internal(format!("law 3 is broken: epoch {} came once more", delivery.epoch())));
        }
        // what was stored and not answered is there: it looks before it stores again
        if held || self.store(&delivery).is_ok() {
            delivery.ack();
        } else {
            self.doubtful = Some(delivery);
        }
        Ok(())
    }

    fn store(&self, delivery: &Delivery) -> Result<()> {
        let (lines, apart) = (lines(delivery)?, planted(Bug::ProgressOutsideTransaction));
        self.fate.run_as("host stores", || {
            let mut kept = self.kept.lock().unwrap();
            kept.lines.extend(lines);
            if !apart {
                kept.progress = Some(delivery.progress);
            }
            Ok(())
        })?;
        if apart {
            self.fate.run_as("host says how far it is", || {
                self.kept.lock().unwrap().progress = Some(delivery.progress);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Sink for Hosted {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.sink.columns(input)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        self.sink.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        self.sink.kind()
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        self.sink.look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let Hosted { sink, host } = *self;
        let Opened { writer, progress } = Box::new(sink).open(context)?;
        Ok(Opened { writer: Box::new(HostedWriter { host, writer }), progress })
    }
}

impl Writer for HostedWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.writer.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        self.host.work()?;
        self.writer.poll(wait)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.writer.close()
    }
}

/// The host of this life, which says what it stored in the lives before.
fn hosted(world: &Simulated) -> Hosted {
    let kept = (*world.remember("host", Arc::<Mutex<Kept>>::default)).clone();
    let shown = kept.clone();
    world.compare("host", move || shown.lock().unwrap().lines.clone());
    let (sink, deliveries) = channel::sink(4);
    let stored = kept.lock().unwrap().progress;
    let sink = match stored {
        Some(stored) => sink.resume_after(stored),
        None => sink,
    };
    Hosted { sink, host: Host { kept, deliveries, doubtful: None, fate: world.fate() } }
}

/// The channel beside a sink that commits at other times.
fn build(world: &Simulated) -> Result<Pipeline> {
    let mut flow = Pipeline::new("returned");
    flow.source("numbers", world.source(&log().until(READ)))?;
    flow.view(TOTALS.0, TOTALS.1)?.sink(hosted(world))?;
    flow.view(ROUTED.0, ROUTED.1)?.sink(world.data_set("routed")?.roll_rows(ROUTED.2))?;
    world.keep(flow)
}

fn crash(schedules: Schedules) -> Report {
    let report = crash_anywhere(schedules, build);
    println!("returned: {report}");
    report
}

#[test]
fn the_unkilled_run_gives_the_host_every_row() {
    let found = undisturbed(build).unwrap();
    let sum = |column: &str| {
        let lines = found["host"].iter().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.map(|l| l[column].as_i64().unwrap() * l["diff"].as_i64().unwrap()).sum::<i64>()
    };
    let values = (0..PARTITIONS).flat_map(|id| (0..READ).map(move |p| row(id, p).1));
    assert_eq!((sum("n"), sum("v")), (i64::from(PARTITIONS) * READ as i64, values.sum::<i64>()));
}

#[test]
fn killed_at_any_operation_a_host_that_comes_back_has_every_row_once() {
    crash(Schedules::points(tier::of(25, 60, u64::MAX)).and_at_the_disk(tier::of(0, 10, u64::MAX)));
}

#[test]
fn killed_again_and_again_a_host_that_comes_back_has_every_row_once() {
    let report = crash(Schedules::random(tier::of(25, 100, 1_000)).also_on_workers(in_threads()).for_as_long_as(tier::hours()));
    assert!(2 * report.deaths > report.schedules && 12 * report.power_cuts > report.schedules, "{report}");
}

#[test]
fn at_any_number_of_workers_a_host_that_comes_back_has_every_row_once() {
    let schedules = Schedules::random(tier::of(2, 6, 6)).from_seed(100_000).also_on_workers(&[2, 4]);
    crash(schedules.for_as_long_as(tier::hours()));
}

#[test]
fn whatever_happens_when_it_stores_the_host_has_every_row_once_and_one_that_stores_its_progress_apart_has_not() {
    let of_the_host = || Schedules::acts(|act| act.starts_with("host "));
    let report = crash(of_the_host());
    assert_eq!(report.acts["host stores"].len(), Fault::ALL.len(), "{:?}", report.acts);
    let failure = bug::with(Bug::ProgressOutsideTransaction, || find_failure(of_the_host(), build)).unwrap_err();
    assert!(failure.found.starts_with("host holds"), "{failure}");
}
