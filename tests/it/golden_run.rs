//! A seeded run of `full_pipeline` is what it was: topics byte by byte, the rows of Parquet, the closing tables, in `tests/golden/full_pipeline.txt`.
//!
//! Invariant: what is compared was written by an earlier version, so that generator, routes and totals cannot change together unseen.

use crate::full_pipeline::{good, program};
use crate::support::{PARTITIONS, deltas, letters, read, sum, topics};
use orderflow::generator::{Orders, Share, expected};
use orderflow::kafka::{Admin, EmbeddedBroker};
use orderflow_core::testing::golden;
use std::fmt::Write;

const ORDERS: u64 = 60;
const ARGS: [&str; 12] =
    ["--orders", "60", "--seed", "7", "--malformed", "0.1", "--unseen-types", "0.1", "--duplicates", "0.1", "--late", "0.1"];

#[test]
fn the_golden_run_of_full_pipeline_is_what_it_was() {
    let (broker, dir) = (EmbeddedBroker::start(1).unwrap(), tempfile::tempdir().unwrap());
    // the program cannot make topics on a broker of another process; which they are is compared below
    let tenth = Share::new(0.1).unwrap();
    let recipe = Orders::new(7).total(ORDERS).malformed(tenth).unseen_types(tenth).duplicates(tenth).late(tenth);
    for topic in expected(&recipe, ORDERS).topics.keys().map(String::as_str).chain(["orders"]) {
        broker.create_topic(topic, PARTITIONS).unwrap();
    }
    let said = good(program(dir.path()).args(["--brokers", broker.bootstrap_servers(), "--out", "results"]).args(ARGS));

    let mut run = String::new();
    // without what differs from run to run: time, pace and place
    let closing = said
        .lines()
        .skip_while(|line| !line.starts_with("Orders and amount by city"))
        .take_while(|line| !line.starts_with("Records read:"));
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
    for topic in topics(&Admin::embedded(&broker).unwrap(), "").into_keys() {
        let mut records: Vec<String> = vec![];
        for seen in read(broker.bootstrap_servers(), &topic) {
            let (key, value) = (seen.record.key.unwrap(), seen.record.value.unwrap());
            records.push(format!("{}\t{}\t{}", seen.partition, key.escape_ascii(), value.escape_ascii()));
        }
        // records of two partitions of `orders` come to one of another topic in the order of their arrival
        records.sort();
        writeln!(run, "\n{topic}:\n{}", records.join("\n")).unwrap();
    }
    golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/full_pipeline.txt"), run.as_bytes());
}
