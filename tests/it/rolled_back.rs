//! A state that does not belong to what the topics of a Kafka hold is refused, and the topics stay as they are.
//!
//! Invariant: what topics hold is judged by their end offsets, so that a transaction that was begun or aborted would be seen as well.

use crate::real::{Cluster, block_on, cluster, present};
use crate::support::{topics, visit};
use orderflow::generator::Orders;
use orderflow::kafka::Until;
use orderflow::{Pipeline, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies all orders that there are, with transactions, and ends.
fn run(cluster: &Cluster, pipeline: &str, state: &Path) -> Result<()> {
    block_on(async {
        let mut flow = Pipeline::new(pipeline);
        flow.source("orders", cluster.source().until(Until::Latest))?;
        let copies = cluster.sink().topic("copies").value_sql("_value").partitions(2).replication(1);
        flow.sql("SELECT _value FROM orders")?.sink(copies)?;
        flow.state(state).start().await?.wait().await.map(|_| ())
    })
}

fn copies(cluster: &Cluster) -> usize {
    let mut records = 0;
    visit(&cluster.brokers, &cluster.topic("copies"), |_, batch| records += batch.len());
    records
}

#[test]
fn real_a_state_that_is_lost_rolled_back_or_another_pipelines_is_refused_and_topics_stay_as_they_are() {
    let Some(cluster) = cluster("rolled") else { return };
    let _present = present();
    let dir = tempfile::tempdir().unwrap();
    let [state, older, newest, theirs] = ["state", "older", "newest", "theirs"].map(|name| dir.path().join(name));
    let copy = |from: &Path, to: &Path| assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    cluster.admin.create_topic(&cluster.topic("orders"), 2, 1, &[]).unwrap();
    let produce = |seed| cluster.produce(&Orders::new(seed).total(500));

    produce(1);
    run(&cluster, "copying", &state).unwrap();
    copy(&state, &older);
    produce(2);
    run(&cluster, "copying", &state).unwrap();
    assert_eq!(copies(&cluster), 1_000);
    fs::rename(&state, &newest).unwrap();

    produce(3);
    let held = topics(&cluster.admin, &cluster.prefix);
    let refused = |what: &str, words: &str| {
        for _ in 0..2 {
            let e = run(&cluster, "copying", &state).unwrap_err();
            assert!(e.remedy().is_some() && e.to_string().contains(words), "{what}: {e}");
            assert_eq!(topics(&cluster.admin, &cluster.prefix), held, "{what}: something was written");
        }
        fs::remove_dir_all(&state).unwrap();
    };
    copy(&older, &state);
    refused("rolled back", "is ahead of the state");
    refused("lost", "was written by another pipeline or another state");
    let other = Cluster { prefix: format!("{}other-", cluster.prefix), ..self::cluster("rolled").unwrap() };
    other.admin.create_topic(&other.topic("orders"), 2, 1, &[]).unwrap();
    run(&other, "another", &theirs).unwrap();
    let held_by_all = topics(&cluster.admin, &cluster.prefix);
    copy(&theirs, &state);
    let e = run(&cluster, "copying", &state).unwrap_err();
    assert!(e.to_string().contains("source orders is not the one whose records are in") && e.remedy().is_some(), "swapped: {e}");
    assert_eq!(topics(&cluster.admin, &cluster.prefix), held_by_all, "swapped: something was written");
    fs::remove_dir_all(&state).unwrap();

    fs::rename(&newest, &state).unwrap();
    run(&cluster, "copying", &state).unwrap();
    assert_eq!(copies(&cluster), 1_500, "with its own state it goes on as if nothing had been");
    cluster.forget();
}
