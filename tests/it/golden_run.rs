//! A seeded run of `full_pipeline` is what it was: topics byte by byte, the rows of Parquet, the closing tables, in `tests/golden/full_pipeline.txt`.
//!
//! Invariant: what is compared was written by an earlier version, so that generator, routes and totals cannot change together unseen.

use crate::full_pipeline::{Ended, program};
use crate::support::{PATIENCE, deltas, letters, read, signal, sum, topics};
use orderflow::generator::{Orders, Share, expected};
use orderflow::kafka::Admin;
use orderflow_core::testing::golden;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

const ORDERS: u64 = 60;
const ARGS: [&str; 13] =
    ["--follow", "--orders", "60", "--seed", "7", "--malformed", "0.1", "--unseen-types", "0.1", "--duplicates", "0.1", "--late", "0.1"];

#[test]
fn the_golden_run_of_full_pipeline_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Ended(program(dir.path()).args(ARGS).args(["--out", "results"]).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let brokers = first.split_once(", at ").and_then(|(_, at)| at.split_once(')')).unwrap_or_else(|| panic!("{first}")).0;
    let tenth = Share::new(0.1).unwrap();
    let recipe = Orders::new(7).total(ORDERS).malformed(tenth).unseen_types(tenth).duplicates(tenth).late(tenth);
    let mut expected = expected(&recipe, ORDERS).topics;
    expected.insert("orders".to_owned(), ORDERS);
    let (admin, begun) = (Admin::connect(brokers).unwrap(), Instant::now());
    while topics(&admin, "") != expected {
        assert!(begun.elapsed() < PATIENCE, "{:?} and not {expected:?}", topics(&admin, ""));
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut contents = String::new();
    for topic in expected.into_keys() {
        let mut records: Vec<String> = vec![];
        for seen in read(brokers, &topic) {
            let (key, value) = (seen.record.key.unwrap(), seen.record.value.unwrap());
            records.push(format!("{}\t{}\t{}", seen.partition, key.escape_ascii(), value.escape_ascii()));
        }
        // records of two partitions of `orders` come to one of another topic in the order of their arrival
        records.sort();
        writeln!(contents, "\n{topic}:\n{}", records.join("\n")).unwrap();
    }
    drop(admin);
    signal(child.0.id(), "-INT");
    let said: Vec<String> = lines.collect();
    assert!(child.0.wait().unwrap().success());

    let mut run = String::new();
    // without what differs from run to run: time, pace and place
    let closing =
        said.iter().skip_while(|line| !line.starts_with("Orders and amount by city")).take_while(|line| !line.starts_with("Records read:"));
    closing.for_each(|line| writeln!(run, "{line}").unwrap());
    let out = dir.path().join("results");
    writeln!(run, "\ncity_payment_totals, net:").unwrap();
    for ((city, payment), total) in sum(&deltas(&out.join("city_payment_totals"))) {
        writeln!(run, "{city}\t{payment}\t{}\t{}", total.orders, total.amount).unwrap();
    }
    writeln!(run, "\ndead_letters:").unwrap();
    for letter in letters(&out.join("dead_letters")) {
        writeln!(run, "{:?}\t{}\t{}", letter.place.unwrap(), letter.bytes.escape_ascii(), letter.reason).unwrap();
    }
    run += &contents;
    golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/full_pipeline.txt"), run.as_bytes());
}
