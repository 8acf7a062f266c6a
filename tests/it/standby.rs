//! `--wait`: a second process on a folder of state is refused or, if it is told to, waits until the first has ended, and goes on with exactly the rest.
//! `orderflow` wants a real Kafka: run with `ORDERFLOW_KAFKA=host:port`.
//!
//! Invariant: the second is seen to wait before the first is ended; what came out of both is judged by reading it and by [`expected`].

use crate::command_line::{keys, lines, orderflow, size, until};
use crate::full_pipeline::{Ended, bad, figure, program};
use crate::real::{cluster, present};
use crate::support::{PATIENCE, deltas, signal, sum, was_killed};
use orderflow::generator::{Orders, expected};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts what is to wait for `first`, and comes back when it says that it does, and has not gone on by itself.
fn waiting(command: &mut Command, first: &Child) -> Ended {
    let mut second = Ended(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut notes = BufReader::new(second.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let holder = format!("process {} has it open", first.id());
    assert!(notes.any(|line| line.contains("waiting for the folder") && line.contains(&holder)), "it did not wait");
    // a program whose words nobody takes any more would end
    std::thread::spawn(move || notes.for_each(drop));
    std::thread::sleep(Duration::from_millis(500));
    assert!(second.0.try_wait().unwrap().is_none(), "it waited for too short a time");
    second
}

/// Waits for the end, which must be a good one.
fn ends(process: &mut Ended) {
    let began = Instant::now();
    let status = loop {
        match process.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(began.elapsed() < 2 * PATIENCE, "it does not end"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

/// Checks that a program which is not told to wait, or for too short a time, is refused with the process that is there and the option.
fn refused(said: &str, first: &Child) {
    let holder = format!("process {} has it open", first.id());
    assert!(said.contains("is in use") && said.contains(&holder), "{said}");
    assert!(said.contains("wait for its end with --wait TIME") && !said.contains("wait_for_state"), "{said}");
}

#[test]
fn a_second_full_pipeline_waits_for_the_first_and_goes_on_with_the_rest() {
    const ORDERS: u64 = 10_000;
    for how in ["-INT", "-KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let command = |rate: &str, more: &[&str]| {
            let mut command = program(dir.path());
            command.args(["--state", "kept", "--orders", &ORDERS.to_string(), "--seed", "5", "--rate", rate]).args(more);
            command
        };
        let mut first = Ended(command("250", &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut shown = BufReader::new(first.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(shown.any(|line| line.trim_start().starts_with('+')), "it ended by itself");
        refused(&bad(&mut command("0", &[])), &first.0);
        refused(&bad(&mut command("0", &["--wait", "200ms"])), &first.0);
        let mut second = waiting(command("0", &["--wait", "10m"]).stdout(Stdio::piped()), &first.0);
        signal(first.0.id(), how);
        let before: Vec<String> = shown.collect();
        assert_eq!(was_killed(first.0.wait().unwrap()), how == "-KILL");
        let mut said = String::new();
        second.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        ends(&mut second);
        if how == "-INT" {
            let read = figure(&before.join("\n"), "Records read:");
            assert!(read > 0 && read < ORDERS, "{before:?}");
            assert_eq!(figure(&said, "Records read:"), ORDERS - read, "{said}");
        }
        let totals = expected(&Orders::new(5), ORDERS).totals;
        assert_eq!(sum(&deltas(&dir.path().join("kept/results/city_payment_totals"))), totals, "{how}");
    }
}

#[test]
fn ctrl_c_ends_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let command = |more: &[&str]| {
        let mut command = program(dir.path());
        command.args(["--state", "kept", "--orders", "100", "--follow"]).args(more).stdout(Stdio::piped());
        command
    };
    let mut first = Ended(command(&[]).stderr(Stdio::null()).spawn().unwrap());
    let mut shown = BufReader::new(first.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(shown.any(|line| line.trim_start().starts_with('+')), "it ended by itself");
    let mut second = waiting(&mut command(&["--wait", "10m"]), &first.0);
    signal(second.0.id(), "-INT");
    let began = Instant::now();
    assert_eq!(second.0.wait().unwrap().code(), Some(1));
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
    assert!(first.0.try_wait().unwrap().is_none(), "the first one goes on");
}

#[test]
fn real_a_second_producer_waits_for_the_first_and_makes_the_rest() {
    let Some(cluster) = cluster("standby") else { return };
    let _present = present();
    let (topic, orders, dir) = (cluster.topic("made"), 30_000, tempfile::tempdir().unwrap());
    let state = dir.path().join("state").display().to_string();
    let produce = |rate: u32, more: &str| {
        let args = format!("produce --topic {topic} --orders {orders} --rate {rate} --every 100ms --partitions 2 --state {state}{more}");
        orderflow(&cluster, &args)
    };
    let mut first = Ended(produce(1_000, "").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("a part of the orders", &mut first.0, || size(&cluster, &topic) >= 1_000);
    let output = produce(0, "").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    refused(&String::from_utf8_lossy(&output.stderr), &first.0);
    let mut second = waiting(produce(0, " --wait 10m").stdout(Stdio::null()), &first.0);
    signal(first.0.id(), "-KILL");
    assert!(was_killed(first.0.wait().unwrap()), "it was through before it was killed");
    ends(&mut second);
    assert_eq!(keys(&cluster, &topic), (0..orders).collect());
    cluster.forget();
}

#[test]
fn real_a_second_tail_waits_for_the_first_and_shows_the_rest() {
    let Some(cluster) = cluster("standby-tail") else { return };
    let _present = present();
    let (topic, dir) = (cluster.topic("shown"), tempfile::tempdir().unwrap());
    let make = |orders: u32| {
        let done = orderflow(&cluster, &format!("produce --topic {topic} --orders {orders} --rate 0")).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let state = dir.path().join("state").display().to_string();
    let tail = |file: &str, more: &str| {
        let mut command = orderflow(&cluster, &format!("tail --topic {topic} --epoch 20ms --state {state}{more}"));
        command.stdout(File::create(dir.path().join(file)).unwrap());
        command
    };
    let shown = |file: &str| lines(&dir.path().join(file)).into_iter().collect::<BTreeSet<_>>();
    make(300);
    let mut first = Ended(tail("first", "").spawn().unwrap());
    until("every order on the screen", &mut first.0, || shown("first").len() >= 300);
    let output = tail("refused", "").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    refused(&String::from_utf8_lossy(&output.stderr), &first.0);
    let mut second = waiting(&mut tail("second", " --wait 10m"), &first.0);
    signal(first.0.id(), "-INT");
    ends(&mut first);
    make(200);
    until("the other orders on the screen", &mut second.0, || shown("second").len() >= 200);
    signal(second.0.id(), "-INT");
    ends(&mut second);
    let (first, second) = (shown("first"), shown("second"));
    assert_eq!((first.len(), second.len(), first.union(&second).count()), (300, 200, 500));
    cluster.forget();
}
