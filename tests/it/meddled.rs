//! The example `full_pipeline` where somebody else writes to the same topics of a real Kafka meanwhile.

use crate::full_pipeline::{Ended, bad, figure, program};
use crate::real::{Cluster, cluster, present};
use crate::support::{PATIENCE, Sent, send, signal, topics};
use orderflow::generator::Orders;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Sends records to a topic, again and again, once it is there and until `stop`.
fn meddle(cluster: &Cluster, topic: &str, pause: Duration, stop: &AtomicBool) {
    let foreign = Sent::value("{\"order_id\": \"of somebody else\"}");
    while !stop.load(Ordering::Relaxed) {
        if cluster.admin.topics().unwrap().iter().any(|t| t.name == cluster.topic(topic)) {
            send(&cluster.brokers, &cluster.topic(topic), (0..10).map(|_| (None, &foreign)));
        }
        thread::sleep(pause);
    }
}

/// Ends whoever meddles, also where a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn real_records_of_somebody_else_in_a_routed_topic_are_told_of() {
    let Some(cluster) = cluster("foreign") else { return };
    let _present = present();
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let said = thread::scope(|scope| {
        scope.spawn(|| meddle(&cluster, "orders.successful", Duration::from_millis(100), &stop));
        let _stop = Stop(&stop);
        let there = ["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--out", "made"];
        bad(program(dir.path()).args(there).args(["--orders", "4000", "--rate", "500", "--epoch", "100"]))
    });
    let topic = cluster.topic("orders.successful");
    assert!(said.contains("what was routed is not what the topics hold") && said.contains(&format!("{topic}: ")), "{said}");
    assert!(said.contains("does somebody else write to these topics?") && !said.contains("orders.failed: "), "{said}");
    cluster.forget();
}

#[test]
fn real_what_comes_after_the_start_is_no_part_of_a_run_to_the_end() {
    const HELD: u64 = 30_000;
    let Some(cluster) = cluster("meanwhile") else { return };
    let _present = present();
    let (dir, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    cluster.admin.create_topic(&cluster.topic("orders"), 4, 1, &[]).unwrap();
    cluster.produce(&Orders::new(3).total(HELD));
    let held = || topics(&cluster.admin, &cluster.prefix)["orders"];
    let (said, at_first_delta) = thread::scope(|scope| {
        scope.spawn(|| meddle(&cluster, "orders", Duration::from_millis(2), &stop));
        let _stop = Stop(&stop);
        let there = ["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--out", "read", "--no-produce"];
        let mut command = program(dir.path());
        let mut child = Ended(command.args(there).args(["--epoch", "50"]).stdout(Stdio::piped()).spawn().unwrap());
        let (mut said, mut at_first_delta) = (String::new(), None);
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap) {
            if at_first_delta.is_none() && line.trim_start().starts_with(['+', '-']) {
                // what it reads after this, if anything, it must not
                signal(child.0.id(), "-STOP");
                let (now, began) = (held(), Instant::now());
                while held() == now {
                    assert!(began.elapsed() < PATIENCE, "nobody writes any more");
                }
                signal(child.0.id(), "-CONT");
                at_first_delta = Some(now);
            }
            said += &format!("{line}\n");
        }
        assert!(child.0.wait().unwrap().success(), "{said}");
        (said, at_first_delta.unwrap())
    });
    let read = figure(&said, "Records read:");
    assert!((HELD..=at_first_delta).contains(&read) && read < held(), "{read} of {HELD} to {at_first_delta}, then {}: {said}", held());
    assert_eq!(figure(&said, "Bad records:"), read - HELD);
    cluster.forget();
}
