//! State that was lost, rolled back or exchanged, and input that was changed below it: refused with the choices, and what the sinks hold stays as it is.
//!
//! Invariant: after a refusal readers of every sink see what they saw before, to the byte, and no row was committed; whoever puts the right
//! state back goes on as if nothing had happened.

use crate::place::{Place, bytes_below, copy, finish, rolled, schema, step};
use orderflow_core::error::{Kind, Retry};
use orderflow_core::format::json::Json;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::file;
use orderflow_core::time::Clock;
use orderflow_core::{Error, Pipeline};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What stands in the commit records of all sinks: the claims of openings are left out, which commit nothing.
fn commits(place: &Place) -> BTreeMap<PathBuf, Value> {
    let below = |set: &'static str| bytes_below(&place.path(set).join("_commits")).into_iter().map(move |(name, b)| (set, name, b));
    let records = ["routed", "totals", "dead_letters"].into_iter().filter(|set| place.path(set).exists()).flat_map(below);
    let records = records.map(|(set, name, bytes)| (PathBuf::from(set).join(name), serde_json::from_slice::<Value>(&bytes).unwrap()));
    records.filter(|(_, record)| !record["files"].as_array().unwrap().is_empty()).collect()
}

/// The newest commit of a data set.
fn newest(place: &Place, set: &str) -> Value {
    commits(place).into_iter().rfind(|(name, _)| name.starts_with(set)).unwrap().1
}

/// Starts what cannot go on, again and again as a process manager would; the refusal.
fn refused(place: &Place) -> Error {
    let (visible, committed) = (place.visible(), commits(place));
    let mut said = vec![];
    for _ in 0..3 {
        let e = place.run().unwrap_err();
        assert_eq!((e.kind(), e.retry()), (Kind::User, Retry::Never), "{e}");
        assert!(place.visible() == visible && commits(place) == committed, "something was written: {e}");
        said.push(e);
    }
    said.swap_remove(0)
}

fn rename(place: &Place, from: &str, to: &str) {
    fs::rename(place.path(from), place.path(to)).unwrap();
}

#[test]
fn a_state_folder_that_was_deleted_is_missed_by_the_sinks() {
    let place = Place::new();
    place.die_after(4);
    rename(&place, "state", "safe");
    let e = refused(&place);
    let (folder, epoch) = (place.path("routed"), newest(&place, "routed")["holds"]["epoch"].clone());
    let message = format!(
        "sink jsonl of query: the folder {} already holds a data set: it was written by another run, up to epoch {epoch}\n  \
         hint: name another folder, or move or delete this one first; or put back the state that belongs to it",
        folder.display()
    );
    assert_eq!(e.to_string(), message);
    fs::remove_dir_all(place.path("state")).unwrap();
    rename(&place, "safe", "state");
    place.run().unwrap();
    assert_eq!(place.rows(), place.uninterrupted());
}

#[test]
fn a_state_that_was_rolled_back_by_one_checkpoint_is_behind_its_sinks() {
    let place = Place::new();
    place.die_after(3);
    copy(&place.path("state"), &place.path("backup"));
    place.die_after(1);
    rename(&place, "state", "newest");
    rename(&place, "backup", "state");
    let e = refused(&place);
    let held = newest(&place, "routed");
    let (epoch, generation) = (held["holds"]["epoch"].as_u64().unwrap(), held["generation"].as_u64().unwrap());
    let tail = e.to_string().split_once("ends at epoch ").unwrap().1.lines().next().unwrap().parse::<u64>().unwrap();
    assert!(tail < epoch);
    let ledger = held["ledger"].as_str().unwrap();
    let message = format!(
        "jsonl of query is ahead of the state: it holds ledger {ledger} generation {generation} epoch {epoch} part 0, the state ends at \
         epoch {tail}\n  hint: the state was rolled back: restore the newer one, or write into a new place"
    );
    assert_eq!(e.to_string(), message);
    // however often the wrong one was started, the right one goes on
    fs::remove_dir_all(place.path("state")).unwrap();
    rename(&place, "newest", "state");
    place.run().unwrap();
    assert_eq!(place.rows(), place.uninterrupted());
}

#[test]
fn a_state_from_several_starts_ago_is_told_from_a_process_that_was_overtaken() {
    let place = Place::of(200);
    place.die_after(2);
    copy(&place.path("state"), &place.path("backup"));
    for _ in 0..4 {
        place.die_after(1);
    }
    rename(&place, "state", "newest");
    rename(&place, "backup", "state");
    let e = refused(&place);
    assert!(e.to_string().contains("is ahead of the state") && e.remedy().unwrap().contains("rolled back"), "{e}");
    fs::remove_dir_all(place.path("state")).unwrap();
    rename(&place, "newest", "state");
    place.run().unwrap();
    assert_eq!(place.rows(), place.uninterrupted());
}

#[test]
fn the_state_of_another_pipeline_is_not_taken_for_ours() {
    // one that computes something else is known by its queries
    let (ours, theirs) = (Place::new(), Place::new());
    ours.die_after(2);
    let clock = Clock::manual(0);
    let mut flow = Pipeline::new("other");
    flow.source("numbers", file::JsonLines::dir(theirs.path("input"), Json::new(schema()))).unwrap();
    flow.view("totals", "SELECT k, count(*) AS n FROM numbers GROUP BY k").unwrap().sink(theirs.set("totals")).unwrap();
    let flow = flow.dead_letters(theirs.set("dead_letters")).clock(clock.clone()).state(theirs.path("state"));
    finish(&mut flow.stepper().unwrap(), &clock).unwrap();
    rename(&ours, "state", "safe");
    copy(&theirs.path("state"), &ours.path("state"));
    let before = bytes_below(&ours.path("state"));
    let e = refused(&ours);
    let begin = format!(
        "the pipeline is not the one whose state is in {}: view totals computes something else now; sink jsonl of totals computes something \
         else now.\nview totals: changed\n",
        ours.path("state").display()
    );
    assert!(e.to_string().starts_with(&begin), "{e}");
    assert_eq!(
        e.remedy().unwrap(),
        "put the queries back; or start with on_change(OnChange::Rebuild); or start anew with another state and other sinks"
    );
    assert_eq!(bytes_below(&ours.path("state")), before, "not even the state was touched");
    fs::remove_dir_all(ours.path("state")).unwrap();

    // one that computes the same of other input is known by its sinks
    let theirs = Place::of(200);
    theirs.die_after(6);
    copy(&theirs.path("state"), &ours.path("state"));
    let e = refused(&ours);
    let part = format!("the folder {} already holds a data set: it was written by another run", ours.path("routed").display());
    assert!(e.to_string().contains(&part) && e.remedy().unwrap().contains("put back the state that belongs to it"), "{e}");
    fs::remove_dir_all(ours.path("state")).unwrap();
    rename(&ours, "safe", "state");
    ours.run().unwrap();
    assert_eq!(ours.rows(), ours.uninterrupted());
}

#[test]
fn a_sink_that_was_emptied_or_rolled_back_is_missed_by_the_state() {
    let place = Place::new();
    place.die_after(2);
    copy(&place.path("totals"), &place.path("backup"));
    place.die_after(2);
    let held = newest(&place, "totals");
    let choices = "hint: write into a new place, delete what is there, or use the state that belongs to it";
    rename(&place, "totals", "newest");
    fs::create_dir(place.path("totals")).unwrap();
    let e = refused(&place).to_string();
    assert!(e.starts_with("jsonl of totals has lost what it held: the ledger remembers ledger "), "{e}");
    let reset = format!("{choices}; or reset it (orderflow reset-sink), and it gets everything again");
    assert!(e.contains(", the sink holds nothing\n") && e.ends_with(&reset), "{e}");
    fs::remove_dir_all(place.path("totals")).unwrap();
    rename(&place, "backup", "totals");
    assert!(newest(&place, "totals")["holds"]["epoch"].as_u64() < held["holds"]["epoch"].as_u64());
    let e = refused(&place).to_string();
    assert!(e.starts_with("jsonl of totals has lost a part of what it held: it holds ledger "), "{e}");
    assert!(e.ends_with(choices), "{e}");
    fs::remove_dir_all(place.path("totals")).unwrap();
    rename(&place, "newest", "totals");
    place.run().unwrap();
    assert_eq!(place.rows(), place.uninterrupted());
}

#[test]
fn a_refusal_leaves_the_other_sinks_untouched() {
    let place = Place::new();
    place.die_after(3);
    rename(&place, "state", "safe");
    let all = |place: &Place| ["routed", "totals", "dead_letters"].map(|set| bytes_below(&place.path(set)));
    let before = all(&place);
    // a new sink in front of one that refuses
    let set = |name: &'static str| -> DataSet<JsonLines> {
        let folder = if name == "routed" { place.path("elsewhere") } else { place.path(name) };
        rolled(name, DataSet::append(folder, JsonLines))
    };
    let e = place.flow(&set).unwrap().state(place.path("state")).stepper().err().unwrap();
    assert!(e.to_string().contains("totals already holds a data set"), "{e}");
    assert!(all(&place) == before && !place.path("elsewhere").exists(), "not even claimed");
}

#[test]
fn a_file_that_was_changed_below_a_state_is_refused_by_its_name() {
    let (place, clock) = (Place::new(), Clock::manual(0));
    // no view is stored before the end, so all that is bound is read again
    let start = || {
        let flow = place.flow(&|name| place.set(name)).unwrap().clock(clock.clone()).state(place.path("state"));
        flow.checkpoint_every(Duration::from_secs(1 << 30)).stepper().unwrap()
    };
    let mut stepper = start();
    while stepper.status().committed.0 < 3 {
        step(&mut stepper, &clock).unwrap().expect("it does not end before");
    }
    drop(stepper);
    let (file, visible) = (place.path("input/0002.jsonl"), place.visible());
    let whole = fs::read_to_string(&file).unwrap();
    // the file is as long as before, and has as many lines
    let mut lines: Vec<&str> = whole.lines().collect();
    let at = lines.windows(2).position(|pair| pair[0].len() != pair[1].len()).expect("lines of different lengths");
    lines.swap(at, at + 1);
    // or one figure is another one, where every record begins and ends as before
    let figure = whole.find(|c: char| c.is_ascii_digit()).expect("records of numbers");
    let mut edited = whole.clone();
    edited.replace_range(figure..=figure, if whole[figure..].starts_with('1') { "2" } else { "1" });
    for changed in [lines.join("\n") + "\n", edited] {
        assert_eq!(changed.len(), whole.len());
        fs::write(&file, changed).unwrap();
        for _ in 0..2 {
            let e = finish(&mut start(), &clock).unwrap_err();
            assert_eq!((e.kind(), e.retry()), (Kind::User, Retry::Never), "{e}");
            assert!(e.to_string().contains(&format!("source numbers is not what it was: {}", file.display())), "{e}");
            assert!(e.remedy().unwrap().contains("put the input back as it was"), "{e}");
            assert!(place.visible() == visible, "something was written");
        }
    }
    fs::write(&file, &whole).unwrap();
    finish(&mut start(), &clock).unwrap();
    assert_eq!(place.rows(), place.uninterrupted());
}
