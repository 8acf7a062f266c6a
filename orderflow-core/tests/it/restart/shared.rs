//! State that no process can lock: in an object store, in memory and in a real S3, where the newer of two processes takes over.

use super::*;
use crate::scripted::{Next, Run, Script, Scripted};
use orderflow_core::store::object::object_store::memory::InMemory;
use orderflow_core::store::{self, Objects};
use orderflow_core::time::{Partition, Positions};
use std::process::{Child, Command, Stdio};

impl World {
    /// With everything in stores of these names.
    fn on(store: impl Fn(&str) -> Arc<dyn Store>) -> Self {
        let mut world = Self::new();
        world.state = store("state");
        world.sinks.iter_mut().for_each(|(name, at)| *at = store(name));
        world
    }

    /// As another process sees what is in this object store.
    fn in_objects(memory: &Arc<InMemory>) -> Self {
        Self::on(|name| {
            let objects = Objects::over(memory.clone(), &format!("here/{name}"), name.to_owned()).unwrap();
            Arc::new(objects.in_parts(memory.clone(), 1000))
        })
    }
}

/// Dies at one operation in so many and starts again, in worlds of their own.
fn killed(views: &[View], stride: usize, world: &dyn Fn() -> World) {
    let expected = unkilled(views);
    let counting = Faulty::new(Arc::new(Memory::new()), u64::MAX, Fault::Refused);
    live(views, &World::new().through(&counting), log()).unwrap();
    for (turn, at) in (1..=counting.operations()).step_by(stride).enumerate() {
        let world = world();
        let fault = Fault::ALL[turn % 4];
        let faulty = Faulty::new(Arc::new(Memory::new()), at, fault);
        if let Err(e) = live_until(views, &world.through(&faulty), log(), || faulty.is_dead()) {
            assert_eq!(e.retry(), orderflow_core::error::Retry::Backoff, "{fault:?} at {at}: {e}");
        }
        survive(views, &world);
        assert_eq!(world.rows(), expected, "{fault:?} at {at}");
    }
}

#[test]
fn killed_at_any_operation_on_object_stores_and_started_again() {
    for views in [PIPELINES[0], PIPELINES[3]] {
        killed(views, tier::of(53, 17, 1), &|| World::in_objects(&Arc::new(InMemory::new())));
    }
}

/// Takes over from a process that has gone so many steps and goes on, or is told to drain just before.
fn taken_over(draining: bool) {
    let views = &[ROUTED, TOTALS];
    let expected = unkilled(views);
    for before in (0..).step_by(tier::of(13, 5, 1)) {
        let memory = Arc::new(InMemory::new());
        let clock = Clock::manual(1_000_000);
        let start = || pipeline(views, &World::in_objects(&memory), log(), &clock).unwrap().stepper().unwrap();
        let mut older = start();
        for _ in 0..before {
            match older.step().unwrap() {
                Some(true) => {}
                Some(false) => clock.advance(Duration::from_secs(1)),
                None => {
                    assert!(before > 30, "it ended before anybody could take over");
                    return;
                }
            }
        }
        let (mut stopped, mut done) = (None, false);
        if draining {
            older.begin_drain();
            // somewhere in its draining
            for _ in 0..before % 7 {
                if older.step().unwrap().is_none() {
                    stopped = Some(Ok(()));
                    break;
                }
            }
        }
        let mut newer = start();
        for _ in 0..100_000 {
            if stopped.is_none() {
                stopped = older.step().map_or_else(|e| Some(Err(e)), |s| s.is_none().then_some(Ok(())));
            }
            if !done {
                done = newer.step().unwrap().is_none();
            } else if stopped.is_some() {
                break;
            }
            clock.advance(Duration::from_secs(1));
        }
        match stopped.expect("the older goes on") {
            Ok(()) => assert!(draining, "the older ended well after {before}"),
            Err(e) => assert!(e.retry() == orderflow_core::error::Retry::Never && e.to_string().contains("taken over"), "{e}"),
        }
        assert!(done, "the newer does not end");
        assert_eq!(World::in_objects(&memory).rows(), expected, "taken over after {before} steps");
    }
}

#[test]
fn of_two_processes_on_one_store_the_newer_goes_on_and_the_older_stops() {
    taken_over(false);
}

#[test]
fn a_process_that_drains_while_a_newer_one_takes_over_ends_well_or_stops_and_no_row_is_lost_or_doubled() {
    taken_over(true);
}

/// Endpoint and bucket of the S3 that `ORDERFLOW_S3` names.
fn s3() -> Option<(String, String)> {
    let place = std::env::var("ORDERFLOW_S3").ok()?;
    let (endpoint, bucket) = place.rsplit_once('/').unwrap();
    Some((endpoint.to_owned(), format!("s3://{bucket}/restart-{:016x}", rand::random::<u64>())))
}

#[test]
fn real_s3_killed_at_some_operations_and_started_again() {
    let Some((endpoint, url)) = s3() else { return };
    let options = [("endpoint", &*endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
    killed(PIPELINES[1], tier::of(29, 13, 1), &|| {
        let world = rand::random::<u64>();
        World::on(|name| store::open_with(format!("{url}/{world:016x}/{name}"), &options).unwrap())
    });
}

/// Run with `ORDERFLOW_HDFS=hdfs://…` and the feature `hdfs`.
#[test]
fn real_hdfs_killed_at_some_operations_and_started_again() {
    let Ok(place) = std::env::var("ORDERFLOW_HDFS") else { return };
    killed(PIPELINES[1], tier::of(300, 150, 41), &|| {
        let world = rand::random::<u64>();
        World::on(|name| store::open(format!("{place}/restart-{world:016x}/{name}")).unwrap())
    });
}

/// What the child processes read: it never ends, and where fetches end is a function of the position.
struct Endless;

impl Script for Endless {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, source: &str) -> Vec<Partition> {
        (0..PARTITIONS).map(|id| Partition::new(source, id)).collect()
    }

    fn next(&self, at: &Positions) -> Next {
        let Some((partition, from)) = at.iter().min_by_key(|(p, at)| (**at, p.id)) else { return Next::Ended };
        let to = from + 1 + (from * 7 + partition.id as u64) % 5;
        let (k, v): (Vec<i64>, Vec<i64>) = (*from..to).map(|p| row(partition.id, p)).unzip();
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(k)), Arc::new(Int64Array::from(v))];
        let (rows, records) = (RecordBatch::try_new(schema(), columns).unwrap(), (*from..to).collect());
        Next::Run(Run { partition: partition.clone(), from: *from, to, records, rows, latest: None })
    }
}

fn process(endpoint: &str, url: &str, seconds: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "restart::shared::child", "--ignored", "--nocapture"]).env("ORDERFLOW_SHARED_URL", url);
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    command.env("ORDERFLOW_SHARED_SECONDS", seconds.map(|s| s.to_string()).unwrap_or_default());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
#[ignore = "the child of real_s3_by_url_alone_the_newer_of_two_processes_takes_over"]
fn child() {
    let url = std::env::var("ORDERFLOW_SHARED_URL").unwrap();
    let seconds = std::env::var("ORDERFLOW_SHARED_SECONDS").unwrap().parse().ok();
    let run = async {
        let mut flow = Pipeline::new("shared");
        flow.source("numbers", Scripted(Endless))?;
        flow.view("totals", TOTALS.1)?.sink(DataSet::append(format!("{url}/rows"), JsonLines).roll_rows(100))?;
        let limits = Limits { interval: Duration::from_millis(50), rows: 200, bytes: u64::MAX };
        let flow = flow.epochs(limits).checkpoint_every(Duration::from_millis(400)).state(format!("{url}/state"));
        let running = flow.start().await?;
        match seconds {
            None => running.wait().await,
            Some(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                running.drain().await
            }
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run).unwrap();
}

/// Counts and sums by group after the first `rows` rows of the endless log; `None` if no fetch ends there.
fn batch(rows: u64) -> Option<BTreeMap<i64, (i64, i64)>> {
    let mut at: Positions = Endless.partitions("numbers").into_iter().map(|p| (p, 0)).collect();
    let (mut read, mut totals) = (0, BTreeMap::<i64, (i64, i64)>::new());
    while read < rows {
        let Next::Run(run) = Endless.next(&at) else { unreachable!("it is endless") };
        for (k, v) in (run.from..run.to).map(|p| row(run.partition.id, p)) {
            let total = totals.entry(k).or_default();
            *total = (total.0 + 1, total.1 + v);
        }
        read += run.to - run.from;
        at.insert(run.partition, run.to);
    }
    (read == rows).then_some(totals)
}

#[test]
fn real_s3_by_url_alone_the_newer_of_two_processes_takes_over() {
    let Some((endpoint, url)) = s3() else { return };
    let mut killed = process(&endpoint, &url, None);
    std::thread::sleep(Duration::from_millis(2500));
    assert!(killed.try_wait().unwrap().is_none(), "{}", said(killed));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut older = process(&endpoint, &url, None);
    std::thread::sleep(Duration::from_millis(2500));
    assert!(older.try_wait().unwrap().is_none(), "{}", said(older));
    let newer = process(&endpoint, &url, Some(3));
    let stopped = said(older);
    assert!(stopped.contains("taken over") && !stopped.contains("damaged"), "{stopped}");
    let output = newer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let options = [("endpoint", &*endpoint), ("access_key_id", "test"), ("secret_access_key", "test")];
    let rows = store::open_with(format!("{url}/rows"), &options).unwrap();
    let mut totals: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    for name in rows.list("").unwrap().into_iter().filter(|n| n.starts_with("lane-")) {
        for line in String::from_utf8(rows.get(&name).unwrap().unwrap()).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let [k, n, v, diff] = ["k", "n", "v", "diff"].map(|c| row[c].as_i64().unwrap());
            *totals.entry((k, n, v)).or_default() += diff;
        }
    }
    totals.retain(|_, n| *n != 0);
    assert!(totals.values().all(|n| *n == 1), "{totals:?}");
    let totals: BTreeMap<i64, (i64, i64)> = totals.into_keys().map(|(k, n, v)| (k, (n, v))).collect();
    let read: i64 = totals.values().map(|(n, _)| n).sum();
    assert!(read > 1000, "{read} rows are too few to show anything");
    assert_eq!(batch(read as u64), Some(totals), "what two processes and a killed one did is what one would have done");
}

/// What a process said on its way to its end.
fn said(process: Child) -> String {
    let output = process.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
