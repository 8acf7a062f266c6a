//! A log with positions that hold no record, as a topic has behind every transaction: an epoch that ends behind such a position is read again, although
//! by then the log goes on and the reader steps over it without a word.

use crate::place::{finish, step};
use crate::scripted::{Next, Run, Script, Scripted};
use orderflow_core::Pipeline;
use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::epoch::Limits;
use orderflow_core::pipeline::Stepper;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::store::{Memory, Store};
use orderflow_core::time::{Clock, Partition, Positions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The two positions at the end of each ten hold no record.
fn is_record(position: u64) -> bool {
    position % 10 < 8
}

/// Ends where it is told, and for good at [`END`].
#[derive(Clone)]
struct Log(Arc<AtomicU64>);

const END: u64 = 60;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("p", DataType::Int64, false)]))
}

fn numbers(numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef]).unwrap()
}

impl Script for Log {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, source: &str) -> Vec<Partition> {
        vec![Partition::new(source, 0)]
    }

    fn next(&self, at: &Positions) -> Next {
        let (end, (partition, at)) = (self.0.load(Ordering::SeqCst), at.iter().next().expect("it has a partition"));
        if *at == end {
            return if end == END { Next::Ended } else { Next::Idle };
        }
        // as Kafka does: what holds no record is stepped over, and only at the end of the log one is told of it
        let first = (*at..end).find(|p| is_record(*p));
        let to = first.map_or(end, |first| (first..end).find(|p| !is_record(*p)).unwrap_or(end));
        let from = first.unwrap_or(*at);
        let records: Vec<u64> = (from..to).filter(|p| is_record(*p)).collect();
        let rows = numbers(records.iter().map(|p| *p as i64));
        Next::Run(Run { partition: partition.clone(), from, to, records, rows, latest: None })
    }
}

/// What runs of a pipeline over such a log share.
#[derive(Default)]
struct World {
    state: Memory,
    out: Memory,
}

impl World {
    /// Nothing is committed before the end, so that each epoch is read again by itself.
    fn start(&self, log: impl Script, limits: Limits, clock: &Clock) -> Stepper {
        let set =
            |name: &str, store: &Memory| DataSet::on(Arc::new(store.clone()), name, JsonLines).roll_after(Duration::from_secs(1 << 30));
        let mut flow = Pipeline::new("gaps");
        flow.source("log", Scripted(log)).unwrap();
        flow.sql("SELECT p FROM log").unwrap().sink(set("out", &self.out)).unwrap();
        let flow = flow.dead_letters(set("dead letters", &Memory::new())).epochs(limits).clock(clock.clone());
        flow.state_on(Arc::new(self.state.clone()), "state").checkpoint_every(Duration::from_secs(1 << 30)).stepper().unwrap()
    }

    /// What came out, in the order of the files.
    fn numbers(&self) -> Vec<u64> {
        let files = self.out.list("").unwrap().into_iter().filter(|n| n.ends_with(".jsonl") && !n.contains('/'));
        let text: String = files.map(|n| String::from_utf8(self.out.get(&n).unwrap().unwrap()).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["p"].as_u64().unwrap()).collect()
    }
}

#[test]
fn an_epoch_of_positions_without_a_record_is_read_again_when_the_log_goes_on() {
    let (world, clock) = (World::default(), Clock::manual(0));
    let end = Arc::new(AtomicU64::new(0));
    let limits = Limits { interval: Duration::from_secs(1), rows: 1, bytes: u64::MAX };
    let start = || world.start(Log(end.clone()), limits, &clock);
    let mut stepper = start();
    // the log grows until it ends behind one position without a record, and then behind the next one
    for (grown, epochs) in [(18, 2), (19, 3), (20, 4)] {
        end.store(grown, Ordering::SeqCst);
        for _ in 0..50 {
            step(&mut stepper, &clock).unwrap().unwrap();
        }
        assert_eq!(stepper.status().minted.0, epochs);
    }
    drop(stepper);
    end.store(END, Ordering::SeqCst);
    finish(&mut start(), &clock).unwrap();
    assert_eq!(world.numbers(), (0..END).filter(|p| is_record(*p)).collect::<Vec<_>>());
}

/// Two partitions of five records each: as they come, in turns, or, as Kafka may give them after a start, the second one first, a record a fetch.
#[derive(Clone)]
struct Two {
    in_turns: bool,
}

impl Script for Two {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, source: &str) -> Vec<Partition> {
        (0..2).map(|id| Partition::new(source, id)).collect()
    }

    fn next(&self, at: &Positions) -> Next {
        let left = at.iter().filter(|(_, at)| **at < 5);
        let next = if self.in_turns { left.min_by_key(|(p, at)| (**at, p.id)) } else { left.max_by_key(|(p, _)| p.id) };
        let Some((partition, from)) = next else { return Next::Ended };
        let rows = numbers([10 * i64::from(partition.id) + *from as i64]);
        Next::Run(Run { partition: partition.clone(), from: *from, to: from + 1, records: vec![*from], rows, latest: None })
    }
}

#[test]
fn fetches_that_wait_for_later_epochs_do_not_stand_for_one_another() {
    let (world, clock) = (World::default(), Clock::manual(0));
    let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 2, bytes: u64::MAX };
    let start = |in_turns| world.start(Two { in_turns }, limits, &clock);
    // every epoch has a record of each partition, and nothing is committed
    let mut stepper = start(true);
    while stepper.status().minted.0 < 4 {
        step(&mut stepper, &clock).unwrap().unwrap();
    }
    drop(stepper);
    finish(&mut start(false), &clock).unwrap();
    let mut numbers = world.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
}
