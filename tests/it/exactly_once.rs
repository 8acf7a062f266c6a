//! Kafka in, Kafka out, with state: a process that is killed again and again leaves every record in its topics once and in order.
//! Run with `ORDERFLOW_KAFKA=host:port`; without it the test says that it is skipped.
//!
//! The test runs itself as a child. Invariant: what came out is judged by reading the topics as any other program would.

use crate::dice::Dice;
use crate::real::{Cluster, block_on, cluster, contents, present};
use crate::support::{PARTITIONS, PATIENCE, deltas, no_orders, orders, refused_once, sum, visit, was_killed};
use crate::tier;
use orderflow::generator::{Orders, Share, expected};
use orderflow::kafka::{Admin, Until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn recipe() -> Orders {
    Orders::new(11).total(tier::of(150_000, 200_000, 1_000_000)).malformed(Share::new(0.005).unwrap())
}

fn process(dir: &Path, prefix: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "exactly_once::child", "--ignored", "--nocapture"]);
    command.env("ORDERFLOW_KILLED_DIR", dir).env("ORDERFLOW_KILLED_PREFIX", prefix);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the child of real_a_process_that_is_killed_again_and_again_leaves_every_record_once"]
fn child() {
    let dir = PathBuf::from(std::env::var_os("ORDERFLOW_KILLED_DIR").unwrap());
    let brokers = std::env::var("ORDERFLOW_KAFKA").unwrap();
    let admin = Admin::connect(brokers.as_str()).unwrap();
    let cluster = Cluster { brokers, prefix: std::env::var("ORDERFLOW_KILLED_PREFIX").unwrap(), admin };
    block_on(async {
        let flow = orders(cluster.source().until(Until::Latest), cluster.sink(), &dir);
        flow.epoch_interval(Duration::from_millis(50)).state(dir.join("state")).start().await?.wait().await
    })
    .unwrap();
}

/// Checks that each topic holds what belongs there once, and in the order of the partition that it came from.
fn judge(cluster: &Cluster) {
    for (topic, content) in contents(&recipe()) {
        assert_eq!(cluster.content(&topic), content, "{topic}");
        // keys are positions in the recipe, and a key has the same partition in both topics
        let mut last: BTreeMap<i32, u64> = BTreeMap::new();
        visit(&cluster.brokers, &cluster.topic(&topic), |partition, batch| {
            for i in 0..batch.len() {
                let position = std::str::from_utf8(batch.record(i).key.unwrap()).unwrap().parse().unwrap();
                if let Some(before) = last.insert(partition.id, position) {
                    assert!(before < position, "{partition}: {before}, then {position}");
                }
            }
        });
    }
}

#[test]
fn real_a_process_that_is_killed_again_and_again_leaves_every_record_once() {
    let Some(cluster) = cluster("killed") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
    cluster.produce(&recipe());
    let routed = cluster.topic("orders.successful");
    let all = contents(&recipe())["orders.successful"].0;
    // offsets that readers of committed transactions can reach: a quick look, which counts markers too; a topic just made may have no leader yet
    let there = || {
        let ends = cluster.admin.partitions(&routed).unwrap().map_or(vec![], |_| cluster.admin.watermarks(&routed).unwrap_or_default());
        ends.iter().map(|w| w.high).sum::<u64>()
    };
    let (mut dice, mut killed) = (Dice(7), 0);
    let kills = tier::of(5, 8, 40);
    for kill in 1..=kills {
        let mut process = process(dir.path(), &cluster.prefix).spawn().unwrap();
        // it gets a step further than the one before, and then a moment more: somewhere between two steps of a transaction
        let began = Instant::now();
        while there() < all * kill / (kills + 2) && process.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < 2 * PATIENCE, "it does not get on: {} of {all}", there());
        }
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        process.kill().unwrap();
        killed += u64::from(was_killed(process.wait().unwrap()) && cluster.content("orders.successful").0 < all);
    }
    assert!(killed > kills / 2, "killed {killed} times in mid-run: give them more to do");
    let last = process(dir.path(), &cluster.prefix).output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));

    judge(&cluster);
    let expected = expected(&recipe(), u64::MAX);
    assert_eq!(sum(&deltas(&dir.path().join("totals"))), expected.totals);
    let bad = no_orders(&cluster.brokers, &cluster.topic("orders"));
    assert_eq!(refused_once(&dir.path().join("dead_letters")), bad, "each record that is no order has one letter");
    assert_eq!(bad.len() as u64, expected.rejected);
    cluster.forget();
}

#[test]
fn real_a_pipeline_that_is_stopped_and_started_writes_every_record_once() {
    let Some(cluster) = cluster("stopped") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    cluster.admin.create_topic(&cluster.topic("orders"), PARTITIONS, 1, &[]).unwrap();
    let flow = |until: bool| {
        let source = if until { cluster.source().until(Until::Latest) } else { cluster.source() };
        orders(source, cluster.sink(), dir.path()).epoch_interval(Duration::from_millis(20)).state(dir.path().join("state"))
    };
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| cluster.produce(&recipe()));
        block_on(async {
            for run in 1..=4 {
                let running = flow(false).start().await.unwrap();
                let began = Instant::now();
                // each run gets past what the one before had read, and is stopped amid it
                while running.status().sources[0].rows < run * 10_000 {
                    assert!(began.elapsed() < PATIENCE && !running.status().phase.is_over(), "{:?}", running.status());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if run % 2 == 0 {
                    running.drain().await.unwrap();
                } else {
                    running.stop().await.unwrap();
                }
            }
        });
        producer.join().unwrap();
    });
    block_on(async {
        flow(true).start().await.unwrap().wait().await.unwrap();
    });
    judge(&cluster);
    cluster.forget();
}
