//! What an epoch is bound to besides positions: how far each partition is in time, and which partitions are idle. A log whose partitions do as they are
//! told is read, killed and read again.

use crate::scripted::{Next, Run, Script, Scripted};
use orderflow_core::Pipeline;
use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::bug::{self, Bug};
use orderflow_core::epoch::{Binding, Log};
use orderflow_core::pipeline::Stepper;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::{PartitionStatus, SourceStatus};
use orderflow_core::store::{Memory, Store};
use orderflow_core::time::{Clock, Partition, Positions};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Timestamps of a partition's records, and how many of them may be read: the others are a backlog.
type Records = (Vec<Option<i64>>, usize);

/// A source of such partitions.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Records>>>);

impl Told {
    /// Partition `id` gets records; if `read` they may be read, with all before them.
    fn tell(&self, id: usize, timestamps: &[Option<i64>], read: bool) {
        let mut partitions = self.0.lock().unwrap();
        if partitions.len() <= id {
            partitions.resize(id + 1, Default::default());
        }
        let (records, readable) = &mut partitions[id];
        records.extend(timestamps);
        if read {
            *readable = records.len();
        }
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

impl Script for Told {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, _: &str) -> Vec<Partition> {
        (0..3).map(|id| Partition::new("t", id)).collect()
    }

    fn next(&self, at: &Positions) -> Next {
        for (id, (records, readable)) in self.0.lock().unwrap().iter().enumerate() {
            let partition = Partition::new("t", id as i32);
            let read = at[&partition] as usize..*readable;
            if !read.is_empty() {
                let numbers: Int64Array = read.clone().map(|p| p as i64).collect();
                let rows = RecordBatch::try_new(schema(), vec![Arc::new(numbers) as ArrayRef]).unwrap();
                let latest = records[read.clone()].iter().copied().max().flatten();
                let (from, to) = (read.start as u64, read.end as u64);
                return Next::Run(Run { partition, from, to, records: (from..to).collect(), rows, latest });
            }
        }
        Next::Idle
    }

    fn status(&self, at: &Positions) -> SourceStatus {
        let of = |(id, (records, _)): (usize, &Records)| {
            let partition = Partition::new("t", id as i32);
            PartitionStatus { position: at[&partition], partition, end: Some(records.len() as u64) }
        };
        SourceStatus { partitions: self.0.lock().unwrap().iter().enumerate().map(of).collect(), warnings: vec![] }
    }
}

/// What outlives a process.
#[derive(Default)]
struct World {
    told: Told,
    state: Memory,
    out: Memory,
    letters: Memory,
}

fn start(world: &World, clock: &Clock) -> Stepper {
    let mut flow = Pipeline::new("watermarks");
    flow.source("log", Scripted(world.told.clone())).unwrap();
    let set = |name: &str, store: &Memory| DataSet::on(Arc::new(store.clone()), name, JsonLines).roll_after(Duration::from_secs(1 << 30));
    flow.sql("SELECT n FROM log").unwrap().sink(set("out", &world.out)).unwrap();
    let flow = flow.dead_letters(set("dead letters", &world.letters)).clock(clock.clone()).idle_after(Duration::from_secs(5));
    flow.state_on(Arc::new(world.state.clone()), "state").checkpoint_every(Duration::from_secs(1 << 30)).stepper().unwrap()
}

/// Reads what there is and lets time pass until it is bound and nothing is left to do.
fn pass(stepper: &mut Stepper, clock: &Clock, seconds: u64) {
    for _ in 0..seconds {
        stepper.settle().unwrap();
        clock.advance(Duration::from_secs(1));
        stepper.settle().unwrap();
    }
}

/// Of an epoch: the watermark of each partition with input, and who was idle.
type Bound = (Vec<(i32, Option<i64>)>, Vec<i32>);

/// What the ledger says of each epoch.
fn bound(state: &Memory) -> Vec<Bound> {
    let found = Log::look(Arc::new(state.clone()) as Arc<dyn Store>, "state").unwrap().unwrap().found;
    let of = |b: &Binding| {
        let watermarks = b.ranges.iter().map(|((_, p), r)| (p.id, r.watermark)).collect();
        (watermarks, b.idle.iter().map(|(_, p)| p.id).collect())
    };
    found.segments.iter().chain(&found.bindings).map(of).collect()
}

/// Two lives over three partitions: 1 is left with a backlog that is not read, 2 has nothing more.
fn lives() -> (World, Clock) {
    let (world, clock) = (World::default(), Clock::manual(10_000));
    let told = &world.told;
    told.tell(0, &[Some(300), Some(500), None], true);
    told.tell(1, &[Some(900), Some(700)], true);
    told.tell(2, &[Some(100)], true);
    let mut stepper = start(&world, &clock);
    pass(&mut stepper, &clock, 2);
    told.tell(1, &[Some(950); 3], false);
    pass(&mut stepper, &clock, 8);
    told.tell(0, &[Some(400)], true);
    pass(&mut stepper, &clock, 2);
    drop(stepper);
    let mut stepper = start(&world, &clock);
    pass(&mut stepper, &clock, 2);
    told.tell(0, &[None], true);
    told.tell(2, &[Some(200)], true);
    pass(&mut stepper, &clock, 2);
    let status = stepper.status();
    let source = &status.sources[0];
    assert_eq!(source.watermarks.values().copied().collect::<Vec<_>>(), [500, 900, 200]);
    assert_eq!((source.lag(), source.watermark(), source.idle.len()), (3, Some(200), 0));
    let behind = source.lag_time().unwrap().as_millis() as i64;
    assert!((clock.unix_millis() - 900 - behind).abs() <= 1000, "{behind} ms");
    pass(&mut stepper, &clock, 6);
    let status = stepper.status();
    let idle = status.sources[0].idle.iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(status.sources[0].watermark(), if idle.contains(&1) { Some(900) } else { Some(900).filter(|_| idle == [0, 2]) });
    (world, clock)
}

#[test]
fn watermarks_and_idle_partitions_are_bound_and_go_on_after_a_kill() {
    let (world, clock) = lives();
    let first = vec![(0, Some(500)), (1, Some(900)), (2, Some(100))];
    let second = vec![(0, Some(500))];
    let third = vec![(0, Some(500)), (2, Some(200))];
    assert_eq!(bound(&world.state), [(first, vec![]), (second, vec![2]), (third, vec![])]);
    // read in the end, the backlog moves it on
    world.told.tell(1, &[], true);
    let mut stepper = start(&world, &clock);
    pass(&mut stepper, &clock, 8);
    assert_eq!(bound(&world.state).pop().unwrap(), (vec![(1, Some(950))], vec![]));
    assert_eq!(stepper.status().sources[0].lag_time(), Some(Duration::ZERO));
}

#[test]
fn a_partition_with_a_backlog_that_is_taken_for_idle_is_seen_in_what_is_bound() {
    let (world, _) = bug::with(Bug::IdleWithBacklog, lives);
    assert_eq!(bound(&world.state)[1].1, [1, 2]);
}
