//! Programs as a person sees them, on a terminal: a bar that moves, and no line of it in what a program reads.
//!
//! Invariant: the terminal is a real one, which `script` of util-linux opens.
#![cfg(target_os = "linux")]

use crate::full_pipeline::{figure, good, program};
use crate::real::{cluster, present};
use crate::support::{Sent, broker, send};
use orderflow::generator::{Orders, expected};
use std::process::{Command, Stdio};

/// All that a command wrote to a terminal, with the codes that move the cursor.
fn on_a_terminal(command: &Command, folder: &std::path::Path) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(|w| format!("'{}'", w.to_str().unwrap())).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command"]).arg(format!("stty cols 120; {}", line.join(" "))).arg("/dev/null");
    let output = script.current_dir(folder).env("TERM", "xterm").stdin(Stdio::null()).output().expect("`script` of util-linux");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_topic_that_is_read_to_its_end_has_a_bar_of_its_own_length() {
    let (dir, broker) = (tempfile::tempdir().unwrap(), broker());
    let recipe = Orders::new(4).total(8_000);
    // an embedded broker makes no topic for other processes
    expected(&recipe, u64::MAX).topics.keys().for_each(|topic| broker.create_topic(topic, 4).unwrap());
    let (mut records, mut sent) = (recipe.records(0), vec![]);
    let mut value = vec![];
    while records.next_into(&mut value).is_some() {
        sent.push(Sent::value(std::mem::take(&mut value)));
    }
    // unequal partitions
    send(
        broker.bootstrap_servers(),
        "orders",
        sent.iter().enumerate().map(|(i, sent)| (Some(if i % 5 < 3 { 0 } else { i as i32 % 4 }), sent)),
    );
    let args = ["--no-produce", "--brokers", broker.bootstrap_servers(), "--epoch", "20", "--out", "read"];
    let said = on_a_terminal(program(dir.path()).args(args), dir.path());
    let seen = positions(&said, 8_000);
    assert!(seen.is_sorted() && !seen.is_empty(), "{seen:?}: {said}");
    assert_eq!(said.matches(" orders, ").count(), seen.len(), "it is of that length from the beginning: {said}");
    assert!(said.contains("Records read:   8000 "), "{said}");
}

#[test]
fn real_a_topic_that_earlier_runs_have_read_in_part_has_a_bar_for_the_rest() {
    let Some(cluster) = cluster("rest") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let there = ["--brokers", &cluster.brokers, "--topic-prefix", &cluster.prefix, "--no-produce", "--state", "state", "--out", "read"];
    cluster.admin.create_topic(&cluster.topic("orders"), 4, 1, &[]).unwrap();
    cluster.produce(&Orders::new(5).total(8_000));
    assert_eq!(figure(&good(program(dir.path()).args(there)), "Records read:"), 8_000);
    cluster.produce(&Orders::new(6).total(4_000));
    let said = on_a_terminal(program(dir.path()).args(there), dir.path());
    // at first all that the topic holds
    let lengths: Vec<u64> = said.match_indices(" orders, ").map(|(at, _)| number_before(&said[..at]).unwrap()).collect();
    assert!(lengths.iter().all(|of| *of <= 12_000) && lengths.last() == Some(&4_000), "{lengths:?}: {said}");
    assert!(lengths.iter().all(|of| positions(&said, *of).iter().all(|n| n <= of)), "{said}");
    cluster.forget();
}

/// The number that a text ends with.
fn number_before(text: &str) -> Option<u64> {
    text[text.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}

/// The numbers before `/<of> orders`, in the order in which they were drawn.
fn positions(said: &str, of: u64) -> Vec<u64> {
    let rest = format!("/{of} orders");
    said.match_indices(&rest).filter_map(|(at, _)| number_before(&said[..at])).collect()
}

#[test]
fn a_bar_moves_as_orders_go_through_and_is_gone_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let said = on_a_terminal(program(dir.path()).args(["--orders", "3000", "--rate", "1500", "--out", "made"]), dir.path());
    let seen = positions(&said, 3_000);
    assert!(seen.is_sorted() && seen.iter().any(|n| (1..3_000).contains(n)), "{seen:?}: {said}");
    // the line was cleared before the results were printed
    let (last_bar, results) = (said.rfind("/3000 orders"), said.find("Parquet:"));
    assert!(last_bar < results && results.is_some(), "{said}");
    assert!(said[last_bar.unwrap()..results.unwrap()].contains("\u{1b}[2K"), "{said}");

    // a file is no terminal: no bar, and no code
    let plain = program(dir.path()).args(["--orders", "100", "--out", "plain"]).output().unwrap();
    for part in [&plain.stdout, &plain.stderr] {
        assert!(!part.contains(&0x1b) && positions(&String::from_utf8_lossy(part), 100).is_empty());
    }
}
