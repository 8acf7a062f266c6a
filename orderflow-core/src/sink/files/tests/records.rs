//! The commit log: who may write the next record, how many there are, and that all files of the newest get their names.

use super::*;
use crate::bug::{self, Bug};
use crate::sink::WriterId;
use crate::testing::golden;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn the_suite_finds_files_that_get_their_names_too_early_or_never() {
    let passes = |bug, subject: &mut dyn SinkSubject| {
        let run = || bug::with(bug, || conformance::sink(subject));
        catch_unwind(AssertUnwindSafe(run)).is_ok()
    };
    assert!(!passes(Bug::RenamesBeforeCommit, &mut Unsure::default()));
    assert!(!passes(Bug::NoRollForward, &mut Unsure::default()));
    assert!(passes(Bug::NoRollForward, &mut InStore(memory())), "a commit that fails is what finds it");
}

#[test]
fn a_record_of_a_newer_version_is_told_from_one_that_is_damaged() {
    for (json, says, kind) in [
        ("{\"format\":99,\"shards\":[]}", "was written by a newer version of orderflow", Kind::User),
        ("{\"format\":1,\"shards\":[]}", "cannot be read", Kind::External),
        ("{\"format\":0,\"shards\":[]}", "its format is 0", Kind::External),
        ("{", "cannot be read", Kind::External),
    ] {
        let store = memory();
        open(&store, 1).unwrap();
        store.put_bytes("_commits/0000000002.json", json.as_bytes()).unwrap();
        let before = store.list("").unwrap();
        let e = open(&store, 2).err().unwrap();
        assert!(e.kind() == kind && e.to_string().contains(says) && e.remedy().is_some(), "{e}");
        assert_eq!(store.list("").unwrap(), before);
    }
}

#[test]
fn an_older_writer_is_fenced() {
    let store = memory();
    let (mut old, _) = open(&store, 1).unwrap();
    old.write(closed(1)).unwrap();
    old.flush().unwrap();
    old.poll(Duration::ZERO).unwrap();
    old.write(closed(2)).unwrap();
    let (mut new, held) = open(&store, 2).unwrap();
    assert_eq!(held.unwrap().epoch, Epoch(1));
    old.flush().unwrap();
    let e = old.poll(Duration::ZERO).unwrap_err();
    assert!(e.retry() == Retry::Never && e.to_string().contains("another writer has taken over the data set"), "{e}");
    assert_eq!(old.write(closed(3)).unwrap_err().retry(), Retry::Never);
    new.write(closed(2)).unwrap();
    new.flush().unwrap();
    assert_eq!(new.poll(Duration::ZERO).unwrap().progress.unwrap().writer.generation, 2);
    assert_eq!(seen(&*store), (1..=2).flat_map(expected).collect::<Vec<_>>());
    let e = open(&store, 1).err().unwrap();
    assert!(e.to_string().contains("a newer writer has taken over"), "{e}");
}

/// A writer that sleeps through two commits of the one that replaced it, which leave its next slot free again, and wakes up: what it says, and what is seen.
fn woken() -> (Result<()>, Vec<SeenRow>) {
    let store = memory();
    let (mut old, _) = open(&store, 1).unwrap();
    let (mut new, _) = open(&store, 2).unwrap();
    for n in 1..=2 {
        new.write(closed(n)).unwrap();
        new.flush().unwrap();
        new.poll(Duration::ZERO).unwrap();
    }
    assert_eq!(store.list("_commits/").unwrap(), ["_commits/0000000004.json"]);
    let late = old.write(closed(1)).and_then(|()| old.flush()).and_then(|()| old.poll(Duration::ZERO).map(drop));
    let after = old.poll(Duration::ZERO).map(drop);
    assert_eq!(after.is_ok(), late.is_ok(), "it stays as it is");
    // what it left in the hole is nothing to whoever comes next
    let held = open(&store, 3).unwrap().1.unwrap();
    assert_eq!((held.epoch, held.writer.generation), (Epoch(2), 2));
    (late, seen(&*store))
}

#[test]
fn an_older_writer_that_wakes_up_when_its_slot_is_free_again_commits_nothing() {
    let (late, seen) = woken();
    let e = late.unwrap_err();
    assert!(
        e.retry() == Retry::Never && e.to_string().contains("another writer has taken over") && e.to_string().contains("generation 2"),
        "{e}"
    );
    assert_eq!(seen, (1..=2).flat_map(expected).collect::<Vec<_>>());
    let (late, seen) = bug::with(Bug::CommitsInAHole, woken);
    assert!(late.is_ok() && seen.len() > (1..=2).flat_map(expected).count(), "without the second look its rows are there twice");
}

#[test]
fn commit_records_do_not_pile_up() {
    let store = memory();
    let records = || store.list("_commits/").unwrap().len();
    let (mut last, mut most) = (0, 0);
    for generation in 1..=6 {
        let (mut writer, held) = open(&store, generation).unwrap();
        assert_eq!(held.map_or(0, |p| p.epoch.0), last);
        most = most.max(records());
        // every other one ends without a commit
        for n in last + 1..=last + generation % 2 * tier::of(60, 300, 3_000) {
            writer.write(closed(n)).unwrap();
            writer.flush().unwrap();
            last = writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch.0;
            most = most.max(records());
        }
    }
    assert!(last > 100 && most <= 2, "{most} records after {last} commits");
    // many starts that commit nothing leave the newest commit and the newest opening
    for generation in 7..=20 {
        drop(open(&store, generation).unwrap());
        assert!(records() <= 2);
    }
    assert_eq!(seen(&*store), (1..=last).flat_map(expected).collect::<Vec<_>>());
}

/// One life that commits every fourth epoch, and begins a new file as often as it may.
fn live_in_files(store: &Arc<dyn Store>, generation: u64) -> Result<()> {
    let opened = stubborn(|| start(on(store).roll_rows(1), context(1, generation, &schema())))?;
    let mut writer = opened.writer;
    for n in opened.progress.map_or(1, |p| p.epoch.0 + 1)..=12 {
        stubborn(|| writer.write(closed(n)))?;
        if n % 4 == 0 {
            writer.flush()?;
            stubborn(|| writer.poll(Duration::ZERO))?;
        }
    }
    writer.close()
}

/// Of the files in the newest record, how many have their names, and how many have not.
fn named(store: &dyn Store) -> (usize, usize) {
    let Some(newest) = store.list("_commits/").unwrap().pop() else { return (0, 0) };
    let record: Value = serde_json::from_slice(&store.get(&newest).unwrap().unwrap()).unwrap();
    let (there, files) = (names(store), record["files"].as_array().unwrap());
    let done = files.iter().filter(|file| there.iter().any(|name| file["name"].as_str() == Some(name.as_str()))).count();
    (done, files.len() - done)
}

/// Every fault at every operation of commits of several files: the first after which a row is lost or there twice, and how often a process left some files of a
/// commit with their names and others without.
fn faults_in_several_files() -> (Option<String>, usize) {
    let (all, mut halves): (Vec<_>, _) = ((1..=12).flat_map(expected).collect(), 0);
    for fault in Fault::ALL {
        for at in 1.. {
            let store = memory();
            let faulty = Faulty::new(store.clone(), at, fault);
            let first = live_in_files(&(Arc::new(faulty.clone()) as Arc<dyn Store>), 1);
            assert!(first.is_ok() || fault.is_crash(), "{fault:?} at {at}: {}", first.unwrap_err());
            halves += usize::from(matches!(named(&*store), (1.., 1..)));
            if first.is_err() {
                live_in_files(&store, 2).unwrap();
            }
            let found = seen(&*store);
            if found != all {
                return (Some(format!("{fault:?} at {at}: {} rows, and {} were expected", found.len(), all.len())), halves);
            }
            if faulty.operations() < at {
                break;
            }
        }
    }
    (None, halves)
}

#[test]
fn a_commit_of_several_files_is_rolled_forward_whole() {
    let (wrong, halves) = faults_in_several_files();
    assert_eq!(wrong, None);
    assert!(halves > 2, "{halves} processes died between two renames");
    let (wrong, _) = bug::with(Bug::RollsForwardOne, faults_in_several_files);
    assert!(wrong.is_some(), "that of two files the first alone gets its name goes unnoticed");
}

#[test]
fn the_golden_commit_is_what_is_written_and_is_rolled_forward() {
    let store = memory();
    let (mut writer, _) = open(&store, 1).unwrap();
    writer.write(closed(1)).unwrap();
    writer.flush().unwrap();
    writer.poll(Duration::ZERO).unwrap();
    let get = |name: &str| store.get(name).unwrap().unwrap();
    let record = String::from_utf8(get("_commits/0000000002.json")).unwrap();
    let said: Value = serde_json::from_str(&record).unwrap();
    // random, one an opening
    let record = record.replace(said["nonce"].as_str().unwrap(), "0123abcd");
    let record = golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/commit-1.json"), record.as_bytes());
    let rows = get("lane-0_gen-0001_epochs-0000000001-0000000001.jsonl");
    let rows = golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/commit-1.jsonl"), &rows);

    let older = memory();
    older.put_bytes("_commits/0000000002.json", &record).unwrap();
    older.put_bytes("_staging/gen-0001_0123abcd_000001.staged", &rows).unwrap();
    let held = open(&older, 2).unwrap().1;
    assert_eq!(held, Some(Progress { writer: WriterId { ledger: 1, generation: 1 }, epoch: Epoch(1), part: 0 }));
    assert_eq!(seen(&*older), expected(1));
}
