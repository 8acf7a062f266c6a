//! Several lanes on a real Kafka: whoever is killed, sleeps or comes back with another number of lanes, every record is seen once and in order within
//! its partition. Run with `ORDERFLOW_KAFKA=host:port`; without it every test here says that it is skipped.
//!
//! One test runs itself as a child, to be killed. Invariant: what came out is judged by reading topics as any other program would, with `read_committed`.

use crate::support::{PATIENCE, Seen, batch, eventually, read_all};
use crate::transactions::{Act, Place, at};
use orderflow_core::arrow::array::{ArrayRef, StringArray};
use orderflow_core::data::Changes;
use orderflow_core::sink::Closed;
use orderflow_core::testing::tier;
use orderflow_core::time::{Clock, Epoch};
use orderflow_kafka::{Kafka, KafkaSink, Until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROWS: usize = 60;
const EPOCHS: u64 = 400;

/// The rows of an epoch: `epoch-number`, under as many keys.
fn closed(epoch: u64) -> Closed {
    let texts = |text: fn(u64, usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| text(epoch, i)))) };
    let rows = batch(vec![
        ("__value", texts(|e, i| format!("{e}-{i}"))),
        ("__key", texts(|_, i| format!("k{i}"))),
        ("__topic_0", texts(|_, i| format!("s{}", i % 2))),
    ]);
    Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(rows)] }
}

/// Two topics of so many partitions, and a sink into them.
fn two_topics(place: &Place, partitions: i32) {
    for i in 0..2 {
        assert!(place.admin.create_topic(&format!("{}s{i}", place.prefix), partitions, 1, &[]).unwrap());
    }
}

fn sink(place: &Place, lanes: usize) -> KafkaSink {
    Kafka::sink(&place.brokers).prefix(&place.prefix).topic_sql("topic").key("k").value_sql("v").replication(1).lanes(lanes)
}

fn open(place: &Place, lanes: usize, generation: u64, clock: Clock) -> Act {
    place.try_open_at(sink(place, lanes), 7, generation, clock, closed(1).changes[0].schema()).unwrap()
}

fn records(place: &Place) -> Vec<Seen> {
    let topics = [0, 1].map(|i| format!("{}s{i}", place.prefix));
    topics
        .iter()
        .inspect(|topic| place.settle(topic))
        .flat_map(|topic| read_all(Kafka::topic(topic).brokers(&place.brokers).until(Until::Latest)))
        .collect()
}

/// Checks that all rows of these epochs are there once, and in order.
fn judge(place: &Place, epochs: std::ops::RangeInclusive<u64>) {
    let number = |seen: &Seen| {
        let (epoch, i) = seen.value.as_deref().unwrap().split_once('-').unwrap();
        (epoch.parse::<u64>().unwrap(), i.parse::<usize>().unwrap())
    };
    let wanted: Vec<_> = epochs.flat_map(|e| (0..ROWS).map(move |i| (e, i))).collect();
    let seen = eventually(|| records(place), |seen| seen.len() >= wanted.len());
    let mut last = BTreeMap::new();
    for s in &seen {
        let now = (s.offset, number(s));
        if let Some(before) = last.insert(s.partition.clone(), now) {
            assert!(before < now && before.1 < now.1, "{}: {before:?}, then {now:?}", s.partition);
        }
    }
    let mut all: Vec<_> = seen.iter().map(number).collect();
    all.sort();
    assert!(all == wanted, "{} records, not {}; twice or missing: {:?}", all.len(), wanted.len(), difference(&all, &wanted));
}

fn difference(all: &[(u64, usize)], wanted: &[(u64, usize)]) -> Vec<(u64, usize)> {
    let counts = |rows: &[(u64, usize)]| {
        rows.iter().fold(BTreeMap::new(), |mut n, row| {
            *n.entry(*row).or_insert(0) += 1;
            n
        })
    };
    let (all, wanted) = (counts(all), counts(wanted));
    let rows: BTreeSet<_> = all.keys().chain(wanted.keys()).copied().collect();
    rows.into_iter().filter(|row| all.get(row) != wanted.get(row)).take(10).collect()
}

/// The newest record of progress of each lane.
fn progress(place: &Place) -> BTreeMap<u8, serde_json::Value> {
    let seen = read_all(Kafka::topic(place.progress()).brokers(&place.brokers).until(Until::Latest).compacted());
    let lane = |key: &str| key.rsplit_once('/').unwrap().1.parse().unwrap();
    seen.into_iter().map(|s| (lane(s.key.as_deref().unwrap()), serde_json::from_str(&s.value.unwrap()).unwrap())).collect()
}

/// Writes and commits epochs.
fn write(act: &mut Act, epochs: std::ops::RangeInclusive<u64>) {
    let last = *epochs.end();
    epochs.for_each(|epoch| act.writer.write(closed(epoch)).unwrap());
    act.until(last).unwrap();
}

#[test]
fn real_the_number_of_lanes_may_be_another_at_every_start() {
    let Some(place) = Place::new("lanes", &[]) else { return };
    two_topics(&place, 4);
    let mut through = 0;
    for (generation, lanes) in (1..).zip([4, 1, 3, 3, 6, 1, 4]) {
        let mut act = open(&place, lanes, generation, Clock::manual(0));
        assert_eq!(at(act.held), (through > 0).then_some((7, generation - 1, through)));
        write(&mut act, through + 1..=through + 2);
        through += 2;
        let newest =
            |found: &BTreeMap<u8, serde_json::Value>| -> Vec<_> { (0..lanes as u8).map(|lane| found[&lane]["epoch"].as_u64()).collect() };
        let found = eventually(|| progress(&place), |found| newest(found) == vec![Some(through); lanes]);
        assert_eq!(newest(&found), vec![Some(through); lanes], "every lane says how far it is, though it may have no rows");
        assert_eq!(found[&0].get("opened").map_or(1, |n| n.as_u64().unwrap() as usize), lanes);
        judge(&place, 1..=through);
    }
    place.forget();
}

#[test]
fn real_lanes_commit_by_themselves_and_the_least_of_them_is_the_progress() {
    let Some(place) = Place::new("least", &[]) else { return };
    two_topics(&place, 8);
    let one = sink(&place, 4);
    let counters = one.counters();
    let mut act = place.try_open_at(one, 7, 1, Clock::system(), closed(1).changes[0].schema()).unwrap();
    let mut told = 0;
    for epoch in 1..=100 {
        act.writer.write(closed(epoch)).unwrap();
        let committed = act.writer.poll(Duration::from_millis(5)).unwrap();
        if let Some(progress) = committed.progress {
            assert!(progress.epoch.0 >= told, "it goes forward only");
            told = progress.epoch.0;
        }
    }
    act.until(100).unwrap();
    judge(&place, 1..=100);
    assert_eq!(counters.total(), 100 * ROWS as u64);
    act.writer.close().unwrap();
    place.forget();
}

#[test]
fn real_a_writer_of_more_lanes_that_wakes_up_writes_nothing_more() {
    let Some(place) = Place::new("woken", &[]) else { return };
    two_topics(&place, 4);
    let mut sleeper = open(&place, 4, 1, Clock::manual(0));
    write(&mut sleeper, 1..=2);
    // it falls asleep amid its transactions: some lanes may have committed, others not
    sleeper.writer.write(closed(3)).unwrap();
    let _ = sleeper.writer.poll(Duration::ZERO).unwrap();
    let mut next = open(&place, 1, 2, Clock::manual(0));
    let held = next.held.unwrap().epoch.0;
    assert!((2..=3).contains(&held), "epoch {held}");
    write(&mut next, held + 1..=5);
    // as if the broker might have given up its transactions: each lane opens again, and finds out
    sleeper.clock.advance(Duration::from_secs(1000));
    sleeper.writer.write(closed(4)).unwrap();
    let e = sleeper.error();
    assert!(e.to_string().contains("another process has taken over") && e.remedy().is_some(), "{e}");
    write(&mut next, 6..=6);
    judge(&place, 1..=6);
    place.forget();
}

/// Writes what is missing, as a pipeline would: epochs after its progress, some of them at a time.
#[test]
#[ignore = "the child of real_lanes_that_are_killed_go_on_each_from_where_it_is"]
fn child() {
    let env = |name: &str| std::env::var(format!("ORDERFLOW_LANES_{name}")).unwrap();
    let place = Place::at(std::env::var("ORDERFLOW_KAFKA").unwrap(), env("PREFIX"));
    let mut act = open(&place, env("N").parse().unwrap(), env("GENERATION").parse().unwrap(), Clock::system());
    let mut next = act.held.map_or(1, |p| p.epoch.0 + 1);
    let mut done = next - 1;
    while done < EPOCHS {
        // one at a time, so that each lane takes as many as are there when its turn comes
        if next <= EPOCHS && next - done < 40 {
            act.writer.write(closed(next)).unwrap();
            next += 1;
        }
        if next > EPOCHS {
            act.writer.flush().unwrap();
        }
        done = act.writer.poll(Duration::from_millis(3)).unwrap().progress.map_or(done, |p| p.epoch.0);
    }
    act.writer.close().unwrap();
}

fn grow(place: &Place, partitions: usize) {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &place.brokers).create().unwrap();
    for i in 0..2 {
        let topic = format!("{}s{i}", place.prefix);
        let answer = futures::executor::block_on(admin.create_partitions(&[NewPartitions::new(&topic, partitions)], &AdminOptions::new()));
        answer.unwrap().into_iter().for_each(|topic| drop(topic.unwrap()));
        let began = Instant::now();
        while place.admin.partitions(&topic).unwrap() != Some(partitions) {
            assert!(began.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn real_lanes_that_are_killed_go_on_each_from_where_it_is() {
    let Some(place) = Place::new("kill", &[]) else { return };
    two_topics(&place, 4);
    let process = |lanes: usize, generation: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "lanes::child", "--ignored", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("ORDERFLOW_LANES_PREFIX", &place.prefix).env("ORDERFLOW_LANES_N", lanes.to_string());
        command.env("ORDERFLOW_LANES_GENERATION", generation.to_string());
        command
    };
    // offsets of both topics; partitions that were just added may have no leader yet
    let there = || loop {
        let ends = [0, 1].map(|i| place.admin.watermarks(&format!("{}s{i}", place.prefix)));
        if let [Ok(a), Ok(b)] = ends {
            break a.iter().chain(&b).map(|w| w.high).sum::<u64>();
        }
    };
    let lanes = [4, 4, 1, 4, 3, 4, 6, 2, 4, 3];
    let kills = tier::of(6, 10, 40);
    let (mut seed, mut uneven) = (3u64, 0);
    for kill in 1..=kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut process = process(lanes[(kill as usize - 1) % lanes.len()], kill as usize).spawn().unwrap();
        let (began, before) = (Instant::now(), there());
        // offsets count markers too; it gets a step further, and then a moment more
        while there() < before + EPOCHS * ROWS as u64 / (kills + 2) / 2 && process.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < 2 * PATIENCE, "it does not get on");
        }
        std::thread::sleep(Duration::from_millis((seed >> 33) % 30));
        process.kill().unwrap();
        let status = process.wait().unwrap();
        assert!(status.success() || status.signal() == Some(9), "it failed by itself: {status}");
        let found = progress(&place);
        let newest = found.values().max_by_key(|r| r["epoch"].as_u64()).unwrap();
        let split = newest["lanes"].as_u64().unwrap_or(1) as u8;
        let held: BTreeSet<_> = (0..split).map(|lane| found.get(&lane).map_or(0, |r| r["epoch"].as_u64().unwrap_or(0))).collect();
        eprintln!("kill {kill}: lanes hold {held:?}");
        if held.len() > 1 {
            uneven += 1;
            // what was written must be found again where it was, though a key now belongs elsewhere
            if uneven <= 2 {
                grow(&place, 4 + 3 * uneven);
            }
        }
    }
    // few kills may all hit between commits; `split::tests` has what lanes that differ do, story by story
    assert!(uneven >= tier::of(0, 1, 4), "lanes differed after {uneven} of {kills} kills: it shows nothing");
    let last = process(3, kills as usize + 1).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    judge(&place, 1..=EPOCHS);
    place.forget();
}
