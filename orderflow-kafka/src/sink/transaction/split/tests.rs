//! The decisions, and a small world in which processes open sinks, commit lane by lane, are killed, fall asleep and wake up while others go on, with
//! other numbers of lanes and more partitions: every record is out once, and in order within its partition. Faults are planted, and found.

use super::*;
use crate::sink::transaction::progress::{Whose, whose};
use orderflow_core::sink::WriterId;
use std::sync::Arc;

fn writer(generation: u64) -> WriterId {
    WriterId { ledger: 7, generation }
}

fn held(epoch: u64, split: &Split) -> Held {
    Held { at: Some((Epoch(epoch), 0)).filter(|at| at.0 > Epoch(0)), split: Arc::new(split.clone()), ..Held::nothing(writer(1)) }
}

fn epochs(course: &Course) -> Vec<u64> {
    course.held.iter().map(|e| e.0).collect()
}

#[test]
fn lanes_are_pinned_and_partitions_of_a_topic_take_turns() {
    let mut split = Split::new(4, Epoch(0), 0);
    split.note("orders.card", 8);
    let lanes: Vec<u8> = (0..8).map(|p| split.lane("orders.card", p)).collect();
    assert_eq!(lanes, [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!([0, 1, 7].map(|p| split.lane("orders.cash", p)), [split.lane("orders.cash", 0); 3], "it is not spread");
    for (topic, lane) in [("orders.cash", 3), ("", 3), ("a", 0)] {
        assert_eq!(split.lane(topic, 0), lane, "{topic}");
    }
    assert!((0..9).all(|p| Split::new(1, Epoch(0), 0).lane("orders.card", p) == 0));
}

#[test]
fn only_so_many_topics_are_spread() {
    let mut split = Split::new(3, Epoch(0), 0);
    (0..200).for_each(|i| split.note(&format!("t{i}"), 4));
    split.note("t0", 9);
    assert_eq!((split.spread.len(), split.spread["t0"]), (MOST_SPREAD, 4));
    assert_ne!(split.lane("t0", 0), split.lane("t0", 1));
    assert_eq!(split.lane("t150", 0), split.lane("t150", 1));
}

#[test]
fn lanes_that_are_even_begin_anew_and_others_go_on_as_they_were() {
    let old = Split { spread: BTreeMap::from([("t".into(), 4)]), ..Split::new(3, Epoch(5), 9) };
    let decide = |found: &[Held], lanes| course("s", found, lanes, 9);
    let new = decide(&[Held::nothing(writer(1))], 2).unwrap();
    assert_eq!((epochs(&new), new.until, new.progress), (vec![0, 0], None, None));
    let even = decide(&[held(8, &old), held(8, &old), held(8, &old)], 2).unwrap();
    assert_eq!((epochs(&even), even.until, even.progress.unwrap().epoch), (vec![8, 8], None, Epoch(8)));
    assert_eq!(even.split, Split::new(2, Epoch(8), 9));
    // lane 2 has written nothing since the split began, which is why it holds what all held then
    let uneven = decide(&[held(8, &old), held(7, &old), held(3, &Split::new(4, Epoch(0), 9))], 2).unwrap();
    assert_eq!((epochs(&uneven), uneven.until, uneven.progress.unwrap().epoch), (vec![8, 7, 5], Some(Epoch(8)), Epoch(5)));
    assert_eq!(uneven.split, old);
    // nothing is held as long as one lane holds nothing
    let none = decide(&[held(8, &Split::new(2, Epoch(0), 9)), Held::nothing(writer(1))], 2).unwrap();
    assert_eq!((none.progress, none.until), (None, Some(Epoch(8))));
    // four lanes, then one, then four again: the other three hold what they held
    let one = Split::new(1, Epoch(0), 0);
    let again = decide(&[held(9, &one), held(5, &old), held(5, &old), held(5, &old)], 4).unwrap();
    assert_eq!((epochs(&again), again.until), (vec![9; 4], None));
}

#[test]
fn what_cannot_be_gone_on_with_is_refused() {
    let split = Split::new(2, Epoch(0), 9);
    let e = course("s", &[held(8, &split), held(7, &split)], 2, 10).unwrap_err();
    assert!(e.to_string().contains("stopped amid epochs") && e.remedy().unwrap().contains("drain"), "{e}");
    assert!(course("s", &[held(8, &split), held(8, &split)], 2, 10).is_ok());
    for wrong in [held(7, &Split::new(3, Epoch(0), 9)), held(7, &Split::new(2, Epoch(1), 9))] {
        let e = course("s", &[held(8, &split), wrong], 2, 9).unwrap_err();
        assert!(e.to_string().contains("contradict each other") && e.remedy().is_some(), "{e}");
    }
    assert!(course("s", &[held(8, &split), held(8, &split), held(7, &split)], 2, 9).is_err(), "a lane too many");
}

/// Bugs that the world must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Lanes that are uneven are split anew at once.
    SplitsAtOnce,
    /// Former epochs are split by the numbers of partitions of today.
    ForgetsPartitions,
    /// A topic without room for its name is spread all the same.
    SpreadsTheUnnamed,
    /// Only the lanes that are wanted are fenced.
    FencesWanted,
    /// Lane 0 does not say how many lanes are opened.
    OpensUnannounced,
    /// All lanes go on after the least of them.
    ForgetsGates,
    /// The newest epoch counts for all lanes.
    GateOfTheFirst,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

const EPOCHS: u64 = 12;

/// Topic and key of each record of an epoch.
fn rows(epoch: u64, topics: u64) -> Vec<(String, u64)> {
    let mut random = Random(epoch * 77 + topics);
    (0..if topics > 100 { 20 } else { 8 }).map(|_| (format!("t{}", random.below(topics)), random.below(1000))).collect()
}

struct World {
    fault: Fault,
    topics: u64,
    /// Partitions of every topic: they become more.
    partitions: BTreeMap<String, i32>,
    /// By lane: the generation whose producer is not fenced, and the newest record, as text.
    owners: BTreeMap<u8, u64>,
    records: BTreeMap<u8, String>,
    /// Epochs and keys by topic and partition, in order.
    log: BTreeMap<(String, i32), Vec<(u64, u64)>>,
}

impl World {
    fn record(&self, lane: u8) -> Held {
        self.records.get(&lane).map_or(Held::nothing(writer(0)), |text| Held::parse("p", text.as_bytes()).unwrap())
    }

    fn overtaken(&self, me: u64) -> bool {
        self.records.keys().any(|lane| matches!(whose(Some(&self.record(*lane)), writer(me)), Whose::Newer(_)))
    }
}

enum Phase {
    /// Lanes to fence, then to read, then to claim.
    Opening {
        lanes: Vec<u8>,
        fenced: usize,
        found: Option<Vec<Held>>,
        claimed: usize,
    },
    Running,
    Over,
}

struct Process {
    generation: u64,
    wanted: u8,
    partitions: BTreeMap<String, i32>,
    phase: Phase,
    won: Vec<Held>,
    split: Split,
    until: Option<Epoch>,
    done: Vec<u64>,
}

impl Process {
    fn new(world: &World, generation: u64, wanted: u8) -> Self {
        let phase = Phase::Opening { lanes: vec![0], fenced: 0, found: None, claimed: 0 };
        let split = Split::new(1, Epoch(0), 0);
        Self { generation, wanted, partitions: world.partitions.clone(), phase, won: vec![], split, until: None, done: vec![] }
    }

    /// One step that others may come before or after.
    fn step(&mut self, world: &mut World, random: &mut Random) {
        match &mut self.phase {
            Phase::Over => {}
            Phase::Opening { lanes, fenced, found: None, .. } if *fenced < lanes.len() => {
                if *fenced == 0 && world.overtaken(self.generation) {
                    self.phase = Phase::Over;
                    return;
                }
                world.owners.insert(lanes[*fenced], self.generation);
                *fenced += 1;
            }
            Phase::Opening { lanes, found: found @ None, .. } => {
                *found = Some(lanes.iter().map(|lane| world.record(*lane)).collect());
                if world.overtaken(self.generation) {
                    self.phase = Phase::Over;
                }
            }
            Phase::Opening { lanes, fenced, found: found @ Some(_), claimed } => {
                let held = &found.as_ref().unwrap()[*claimed];
                let lane = lanes[*claimed];
                if world.owners[&lane] != self.generation {
                    (*fenced, *claimed, *found) = (0, 0, None);
                    return;
                }
                let opened = if lane == 0 && world.fault != Fault::OpensUnannounced { self.wanted } else { 1 };
                world.records.insert(lane, held.claim(writer(self.generation), opened).to_json());
                *claimed += 1;
                if *claimed < lanes.len() {
                    return;
                }
                self.won.extend(found.take().unwrap());
                let all = if world.fault == Fault::FencesWanted { self.wanted } else { self.won[0].opened.max(self.wanted) };
                let others: Vec<u8> = (self.won.len() as u8..all).collect();
                if others.is_empty() {
                    self.begin(world)
                } else {
                    self.phase = Phase::Opening { lanes: others, fenced: 0, found: None, claimed: 0 }
                }
            }
            Phase::Running => self.run(world, random),
        }
    }

    fn begin(&mut self, world: &World) {
        let Course { mut split, held, mut until, .. } = course("s", &self.won, self.wanted, 0).unwrap();
        self.done = held.iter().map(|e| e.0).collect();
        match world.fault {
            Fault::SplitsAtOnce if until.is_some() => {
                let least = self.done.iter().copied().min().unwrap();
                split = Split::new(self.wanted, Epoch(least), 0);
                self.done = (0..usize::from(self.wanted)).map(|lane| held.get(lane).map_or(least, |e| e.0)).collect();
                until = None;
            }
            Fault::ForgetsGates => self.done = vec![self.done.iter().copied().min().unwrap(); self.done.len()],
            Fault::GateOfTheFirst => self.done = vec![self.done[0]; self.done.len()],
            _ => {}
        }
        (self.split, self.until, self.phase) = (split, until, Phase::Running);
    }

    fn partition(&self, fault: Fault, topic: &str, key: u64) -> i32 {
        let there = self.partitions[topic];
        let pinned = self.split.spread.get(topic).copied().filter(|_| self.until.is_some() && fault != Fault::ForgetsPartitions);
        (key % u64::try_from(pinned.unwrap_or(there)).unwrap()) as i32
    }

    fn lane(&self, fault: Fault, topic: &str, partition: i32) -> u8 {
        if fault == Fault::SpreadsTheUnnamed && self.split.lanes > 1 {
            let mut split = Split::new(self.split.lanes, Epoch(0), 0);
            split.note(topic, 1);
            return split.lane(topic, partition);
        }
        self.split.lane(topic, partition)
    }

    /// Commits some epochs through one lane, or all lanes meet.
    fn run(&mut self, world: &mut World, random: &mut Random) {
        if let Some(until) = self.until.filter(|until| self.done.iter().all(|d| *d >= until.0)) {
            (self.until, self.split) = (None, Split::new(self.wanted, until, 0));
            self.done = vec![until.0; self.wanted.into()];
            return;
        }
        let lane = random.below(self.done.len() as u64) as u8;
        let (done, last) = (self.done[usize::from(lane)], self.until.map_or(EPOCHS, |e| e.0));
        if done >= last {
            return;
        }
        if world.owners[&lane] != self.generation {
            // told that it was fenced: it stops, or takes it for a transaction that was too slow and opens again
            if random.below(2) == 0 || world.overtaken(self.generation) {
                self.phase = Phase::Over;
                return;
            }
            world.owners.insert(lane, self.generation);
            let held = world.record(lane);
            if world.overtaken(self.generation) {
                self.phase = Phase::Over;
                return;
            }
            world.records.insert(lane, held.claim(writer(self.generation), if lane == 0 { self.wanted } else { 1 }).to_json());
            self.done[usize::from(lane)] = done.max(held.epoch().0);
            return;
        }
        let to = done + 1 + random.below(last - done);
        for epoch in done + 1..=to {
            let rows = rows(epoch, world.topics);
            for (topic, _) in rows.iter().filter(|_| self.until.is_none()) {
                self.split.note(topic, self.partitions[topic]);
            }
            for (topic, key) in rows {
                let partition = self.partition(world.fault, &topic, key);
                if self.lane(world.fault, &topic, partition) == lane {
                    world.log.entry((topic, partition)).or_default().push((epoch, key));
                }
            }
        }
        let opened = if lane == 0 && world.fault != Fault::OpensUnannounced { self.wanted.max(self.split.lanes) } else { 1 };
        let split = Arc::new(self.split.clone());
        world.records.insert(lane, Held { writer: writer(self.generation), at: Some((Epoch(to), 0)), by: None, split, opened }.to_json());
        self.done[usize::from(lane)] = to;
    }

    fn is_through(&self) -> bool {
        matches!(self.phase, Phase::Running) && self.until.is_none() && self.done.iter().all(|d| *d == EPOCHS)
    }
}

/// One story; whether every record is there once and in order.
fn story(seed: u64, fault: Fault) -> std::result::Result<(), String> {
    let mut random = Random(seed);
    random.below(2);
    let topics = [2, 6, 400][random.below(3) as usize];
    let partitions = (0..topics).map(|t| (format!("t{t}"), 1 + random.below(4) as i32)).collect();
    let mut world = World { fault, topics, partitions, owners: BTreeMap::new(), records: BTreeMap::new(), log: BTreeMap::new() };
    let mut processes = vec![Process::new(&world, 1, 1 + random.below(4) as u8)];
    let starts = 2 + random.below(5);
    while processes.len() as u64 <= starts {
        let n = processes.len() as u64;
        match random.below(24) {
            0 => {
                if random.below(2) == 0 {
                    world.partitions.values_mut().for_each(|n| *n += random.below(3) as i32);
                }
                processes.push(Process::new(&world, n + 1, 1 + random.below(4) as u8));
            }
            1 => processes[random.below(n) as usize].phase = Phase::Over,
            // the newest gets on more than those that were overtaken
            k if k < 12 => processes[random.below(n) as usize].step(&mut world, &mut random),
            _ => processes[n as usize - 1].step(&mut world, &mut random),
        }
    }
    let mut generation = processes.len() as u64 + 1;
    let mut last = Process::new(&world, generation, 1 + random.below(4) as u8);
    for step in 0.. {
        if last.is_through() {
            break;
        }
        if step > 5000 {
            return Err("it does not get through".into());
        }
        last.step(&mut world, &mut random);
        let sleeper = random.below(processes.len() as u64) as usize;
        processes[sleeper].step(&mut world, &mut random);
        if matches!(last.phase, Phase::Over) {
            // a sleeper woke up between its look and its fence, which stops both: whoever runs pipelines starts it again
            generation += 1;
            last = Process::new(&world, generation, 1 + random.below(4) as u8);
        }
    }
    let mut wanted: Vec<(String, u64, u64)> = (1..=EPOCHS).flat_map(|e| rows(e, topics).into_iter().map(move |(t, k)| (t, e, k))).collect();
    let mut seen: Vec<(String, u64, u64)> =
        world.log.iter().flat_map(|((t, _), log)| log.iter().map(|(e, k)| (t.clone(), *e, *k))).collect();
    wanted.sort();
    seen.sort();
    if wanted != seen {
        return Err(format!("{} records are out, not {}", seen.len(), wanted.len()));
    }
    match world.log.iter().find(|(_, log)| !log.is_sorted_by_key(|(epoch, _)| *epoch)) {
        Some((place, log)) => Err(format!("{place:?} is out of order: {log:?}")),
        None => Ok(()),
    }
}

/// Whether what a fault does ends in a panic counts as found, too.
fn found(seed: u64, fault: Fault) -> bool {
    std::panic::catch_unwind(|| story(seed, fault).is_err()).unwrap_or(true)
}

#[test]
fn whoever_is_killed_or_sleeps_every_record_is_out_once_and_in_order() {
    for seed in 0..orderflow_core::testing::tier::of(5_000, 20_000, 200_000) {
        if let Err(e) = story(seed, Fault::None) {
            panic!("seed {seed}: {e}");
        }
    }
}

#[test]
fn each_planted_bug_is_found() {
    use Fault::*;
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let faults = [SplitsAtOnce, ForgetsPartitions, SpreadsTheUnnamed, FencesWanted, OpensUnannounced, ForgetsGates, GateOfTheFirst];
    let first: Vec<_> = faults.iter().map(|fault| (0..20_000).find(|seed| found(*seed, *fault))).collect();
    std::panic::set_hook(quiet);
    for (fault, seed) in faults.iter().zip(first) {
        assert!(seed.is_some(), "{fault:?} goes unnoticed");
    }
}
