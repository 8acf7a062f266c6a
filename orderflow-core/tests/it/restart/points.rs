//! Where the kit has processes die: every kind of act that makes something last is a point, before it and after it.
//!
//! Invariant: what is done to a store, to the disk below it and to a sink goes through one fate, which counts it; so the list below is what a run was seen to
//! do, and an act of a kind that is not on it fails the test as much as one that no process died at.

use super::anywhere::{build, over};
use super::*;
use orderflow_core::testing::{Schedules, crash_anywhere};
use std::collections::BTreeSet;

/// Calls that change something, by how their names begin.
const LASTING: &[&str] = &[
    "put_if_absent ",
    "write ",
    "finish ",
    "publish ",
    "delete ",
    "fence of ",
    "rows for ",
    "commit of ",
    "disk: create ",
    "disk: write ",
    "disk: sync ",
    "disk: sync_folder ",
    "disk: link ",
    "disk: rename ",
    "disk: remove ",
    "disk: make_folder ",
];

/// What an undisturbed run does at its stores and sinks: the ledger's entries, files of state and the manifests that name them, rows of a channel, what each of
/// them replaces; the staged files, commit records and final names of a data set; a table.
const AT_STORES: &[&str] = &[
    "put_if_absent ledger",
    "delete ledger",
    "write roots",
    "finish roots",
    "delete roots",
    "write checkpoints",
    "finish checkpoints",
    "delete checkpoints",
    "write spool",
    "finish spool",
    "delete spool",
    "write _staging",
    "finish _staging",
    "put_if_absent _commits",
    "delete _commits",
    "publish top",
    "fence of a table",
    "rows for a table",
    "commit of a table",
];

/// The same at the disk.
const AT_THE_DISK: &[&str] = &[
    "disk: create .orderflow",
    "disk: write .orderflow",
    "disk: sync .orderflow",
    "disk: remove .orderflow",
    "disk: link ledger",
    "disk: remove ledger",
    "disk: rename roots",
    "disk: remove roots",
    "disk: rename checkpoints",
    "disk: remove checkpoints",
    "disk: rename spool",
    "disk: remove spool",
    "disk: rename _staging",
    "disk: link _commits",
    "disk: remove _commits",
    "disk: rename top",
    "disk: make_folder top",
    "disk: make_folder .orderflow",
    "disk: make_folder ledger",
    "disk: make_folder roots",
    "disk: make_folder checkpoints",
    "disk: make_folder spool",
    "disk: make_folder _staging",
    "disk: make_folder _commits",
    "disk: sync_folder top",
    "disk: sync_folder .orderflow",
    "disk: sync_folder ledger",
    "disk: sync_folder roots",
    "disk: sync_folder checkpoints",
    "disk: sync_folder spool",
    "disk: sync_folder _staging",
    "disk: sync_folder _commits",
];

/// Only after a death: what it left half done is removed. Random schedules are killed there.
const AFTER_A_DEATH: &[&str] = &["delete _staging", "disk: remove _staging"];

fn lasts(act: &str) -> bool {
    LASTING.iter().any(|call| act.starts_with(call))
}

#[test]
fn a_process_dies_before_and_after_every_kind_of_act_that_lasts() {
    let log = log().until(40);
    let mut met: BTreeMap<String, BTreeSet<Fault>> = BTreeMap::new();
    // random schedules as well: a folder that only a killed process left is met by the next one
    let of_a_log = crash_anywhere(Schedules::acts(lasts).and_random(tier::of(10, 20, 200)), |world| build(&[ROUTED, TOTALS], &log, world));
    println!("{of_a_log}");
    let rows = super::aggregates::come_and_go(0, 120).0;
    // it has a spool, and is long enough that files of state which merged ones stand for are deleted
    let of_its_own = |act: &str| lasts(act) && (act.ends_with(" spool") || act.ends_with(" roots"));
    let of_a_channel = crash_anywhere(Schedules::acts(of_its_own), |world| over(&[ROUTED, TOTALS], world.channel(&rows), world));
    println!("{of_a_channel}");
    for (act, faults) in of_a_log.acts.into_iter().chain(of_a_channel.acts).filter(|(act, _)| lasts(act)) {
        met.entry(act).or_default().extend(faults);
    }

    let (all, deaths) = (Fault::ALL, [Fault::CrashBefore, Fault::CrashAfter]);
    for (act, wanted) in AT_STORES.iter().map(|act| (act, &all[..])).chain(AT_THE_DISK.iter().map(|act| (act, &deaths[..]))) {
        let faults = met.get(*act).unwrap_or_else(|| panic!("no run does '{act}': {met:?}"));
        // an append that took bytes and said nothing would break its contract
        let wanted = wanted.iter().filter(|fault| **fault != Fault::Unanswered || !act.starts_with("write "));
        let missing: Vec<&Fault> = wanted.filter(|fault| !faults.contains(*fault)).collect();
        assert!(missing.is_empty(), "'{act}' never meets {missing:?}");
    }
    let known = |act: &String| [AT_STORES, AT_THE_DISK, AFTER_A_DEATH].concat().contains(&act.as_str());
    let unlisted: Vec<&String> = met.keys().filter(|act| !known(act)).collect();
    assert!(unlisted.is_empty(), "runs do more than what is listed here: {unlisted:?}");
}
