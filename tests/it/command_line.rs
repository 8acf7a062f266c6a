//! `orderflow produce` and `orderflow tail` on a real Kafka: what they leave and show, and that with `--state` they go on where they were killed.
//! Run with `ORDERFLOW_KAFKA=host:port`.

use crate::full_pipeline::program;
use crate::real::{Cluster, alone, cluster, contents, present};
use crate::support::{PATIENCE, Sent, send, signal, visit, was_killed};
use orderflow::generator::Orders;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn orderflow(cluster: &Cluster, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderflow"));
    command.args(args.split(' ')).args(["--brokers", &cluster.brokers]);
    command
}

/// Keys of all records of a topic, in the order of their partitions; none is there twice.
pub(crate) fn keys(cluster: &Cluster, topic: &str) -> BTreeSet<u64> {
    let mut keys = BTreeSet::new();
    visit(&cluster.brokers, topic, |_, batch| {
        for i in 0..batch.len() {
            let key = std::str::from_utf8(batch.record(i).key.unwrap()).unwrap().parse().unwrap();
            assert!(keys.insert(key), "order {key} is in {topic} twice");
        }
    });
    keys
}

/// Records and markers in a topic.
pub(crate) fn size(cluster: &Cluster, topic: &str) -> u64 {
    let there = cluster.admin.partitions(topic).unwrap().map_or(vec![], |_| cluster.admin.watermarks(topic).unwrap_or_default());
    there.iter().map(|w| w.high).sum()
}

pub(crate) fn until(what: &str, process: &mut Child, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && process.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < 2 * PATIENCE, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The lines that were shown, each whole.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole.lines().map(str::to_owned).collect()
}

#[test]
fn real_orders_are_produced_as_told_and_shown_as_they_are() {
    let Some(cluster) = cluster("command") else { return };
    let _present = present();
    let topic = cluster.topic("plain");
    let done = orderflow(&cluster, &format!("produce --topic {topic} --orders 300 --rate 0 --partitions 2 --seed 9")).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && said.contains(&format!("300 orders in topic {topic}")), "{said}{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("with 2 partitions"));
    assert_eq!(cluster.admin.partitions(&topic).unwrap(), Some(2));
    assert_eq!(keys(&cluster, &topic), (0..300).collect());

    let dir = tempfile::tempdir().unwrap();
    let shown = dir.path().join("shown");
    let mut tail = orderflow(&cluster, &format!("tail --topic {topic}")).stdout(File::create(&shown).unwrap()).spawn().unwrap();
    until("every order on the screen", &mut tail, || lines(&shown).len() >= 300);
    signal(tail.id(), "-INT");
    assert!(tail.wait().unwrap().success(), "Ctrl-C is a good end");
    let mut values: Vec<String> = lines(&shown).iter().map(|l| l.split_once('\t').unwrap().1.to_owned()).collect();
    let (mut records, mut recipe) = (Orders::new(9).total(300).records(0), vec![]);
    loop {
        let mut value = vec![];
        if records.next_into(&mut value).is_none() {
            break;
        }
        recipe.push(String::from_utf8(value).unwrap());
    }
    values.sort();
    recipe.sort();
    assert_eq!(values, recipe);
    cluster.forget();
}

#[test]
fn real_with_state_both_go_on_where_they_were_killed() {
    let Some(cluster) = cluster("goes-on") else { return };
    let _present = present();
    let (topic, orders) = (cluster.topic("kept"), 30_000);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let produce = format!("produce --topic {topic} --orders {orders} --rate 15000 --every 100ms --partitions 2 --state {}", at("producer"));
    for life in 1..=3u64 {
        let mut process =
            orderflow(&cluster, &format!("{produce} --lanes {life}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("a part of the orders", &mut process, || size(&cluster, &topic) >= 5_000 * life);
        process.kill().unwrap();
        assert!(was_killed(process.wait().unwrap()), "it was through before it was killed");
    }
    for _ in 0..2 {
        // the second time there is nothing left to do
        let done = orderflow(&cluster, &produce).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && said.contains(&format!("{orders} orders in topic")), "{said}{done:?}");
        assert_eq!(keys(&cluster, &topic), (0..orders).collect());
    }

    let tail = |life: &str, done: &dyn Fn(&Path) -> bool, how: &str| {
        let file = dir.path().join(life);
        let mut tail = orderflow(&cluster, &format!("tail --topic {topic} --epoch 20ms --state {}", at("tail")));
        let mut tail = tail.stdout(File::create(&file).unwrap()).spawn().unwrap();
        until("more lines", &mut tail, || done(&file));
        signal(tail.id(), how);
        assert_eq!(was_killed(tail.wait().unwrap()), how == "-KILL");
        lines(&file).into_iter().collect::<BTreeSet<_>>()
    };
    let first = tail("killed", &|file| !lines(file).is_empty(), "-KILL");
    // what was shown before a crash may be shown again, and none is left out
    let count = |more: &BTreeSet<String>| first.union(more).count();
    let second = tail("interrupted", &|file| count(&lines(file).into_iter().collect()) >= orders as usize, "-INT");
    assert_eq!(count(&second), orders as usize);
    send(&cluster.brokers, &topic, [(Some(0), &Sent::value("one more"))]);
    let third = tail("one more", &|file| !lines(file).is_empty(), "-INT");
    assert!(third.len() == 1 && third.iter().all(|line| line.ends_with("one more")), "after a good end nothing is shown again: {third:?}");
    cluster.forget();
}

#[test]
fn real_a_broker_that_is_away_while_orders_are_made_costs_time_and_nothing_else() {
    let Some(cluster) = cluster("away") else { return };
    let Ok(services) = std::env::var("ORDERFLOW_SERVICES") else { return };
    let _alone = alone();
    let service = |verb: &str| assert!(Command::new(&services).args([verb, "kafka"]).output().unwrap().status.success(), "{verb}");
    let (topic, dir) = (cluster.topic("made"), tempfile::tempdir().unwrap());
    let file = |name: &str| Stdio::from(File::create(dir.path().join(name)).unwrap());
    let said = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let mut example = program(dir.path());
    example.args(["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--orders", "60000", "--rate", "5000", "--show", "0"]);
    let mut example = example.stdout(file("example")).stderr(file("example says")).spawn().unwrap();
    let routed = cluster.topic("orders.successful");
    until("routed records", &mut example, || size(&cluster, &routed) > 2_000);
    let mut produce = orderflow(&cluster, &format!("produce --topic {topic} --orders 12000 --rate 1000 --every 100ms"));
    let mut produce = produce.stdout(file("produced")).stderr(file("produce says")).spawn().unwrap();
    until("orders", &mut produce, || size(&cluster, &topic) > 1_000);
    service("down");
    std::thread::sleep(Duration::from_secs(5));
    service("up");
    assert!(produce.wait().unwrap().success(), "{}", said("produce says"));
    assert!(example.wait().unwrap().success(), "{}", said("example says"));
    assert!(said("produced").contains("12000 orders in topic") && said("produce says").contains("waiting: "), "{}", said("produce says"));
    assert_eq!(keys(&cluster, &topic), (0..12_000).collect());
    assert!(said("example").contains("Orders counted: 60000,"), "{}", said("example"));
    for (topic, content) in contents(&Orders::new(42).total(60_000)) {
        assert_eq!(cluster.content(&topic), content, "{topic}");
    }
    cluster.forget();
}
