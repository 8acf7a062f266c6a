//! A folder on a disk that forgets: processes die between any two calls to the disk, the power is cut, and what was promised is there.
//!
//! Invariant: after a crash the folder holds what it held before the call that died or what it would hold after it, never anything else; and what
//! was seen by the next process stays, whatever happens to the power then.

use crate::bug::{self, Bug};
use crate::store::faulty::{Fate, Fault};
use crate::store::volatile::{Draw, Volatile};
use crate::store::{Folder, Store};
use crate::testing::tier;
use std::collections::BTreeMap;

type Objects = BTreeMap<&'static str, Vec<u8>>;

const NAMES: [&str; 7] = ["a", "b.txt", "deep/a", "deep/er/b", "deep/er/c", "deeper/x", "_staging/a"];

#[derive(Clone, Debug)]
enum Op {
    Put(&'static str, Vec<u8>),
    PutIfAbsent(&'static str, Vec<u8>),
    Publish(&'static str, &'static str),
    Delete(&'static str),
}

impl Op {
    fn draw(draw: &mut Draw) -> Op {
        let mut name = || NAMES[draw.below(NAMES.len() as u64) as usize];
        let (one, other) = (name(), name());
        let bytes = (0..draw.below(40)).map(|_| 1 + draw.below(255) as u8).collect();
        match draw.below(4) {
            0 => Op::Put(one, bytes),
            1 => Op::PutIfAbsent(one, bytes),
            2 => Op::Publish(one, other),
            _ => Op::Delete(one),
        }
    }

    /// Does it, in small writes.
    fn run(&self, store: &Folder) -> crate::Result<()> {
        match self {
            Op::Put(name, bytes) => {
                let mut upload = store.put(name)?;
                for part in bytes.chunks(7) {
                    upload.write(part)?;
                }
                upload.finish()
            }
            Op::PutIfAbsent(name, bytes) => store.put_if_absent(name, bytes).map(drop),
            Op::Publish(staged, name) => store.publish(staged, name).map(drop),
            Op::Delete(name) => store.delete(name),
        }
    }

    fn apply(&self, objects: &mut Objects) {
        match self {
            Op::Put(name, bytes) => drop(objects.insert(name, bytes.clone())),
            Op::PutIfAbsent(name, bytes) => drop(objects.entry(name).or_insert_with(|| bytes.clone())),
            Op::Publish(staged, name) => {
                if let Some(object) = objects.remove(staged) {
                    objects.insert(name, object);
                }
            }
            Op::Delete(name) => drop(objects.remove(name)),
        }
    }
}

/// Everything the folder holds, as a new process finds it.
fn found(machine: &Volatile) -> Objects {
    let store = machine.open("deep/root", &Fate::default()).expect("nobody else has it open");
    let names = store.list("").expect("it can be listed");
    let known = |name: &String| *NAMES.iter().find(|n| *n == name).unwrap_or_else(|| panic!("nobody made '{name}'"));
    names.iter().map(|name| (known(name), store.get(name).unwrap().expect("it was listed"))).collect()
}

/// Processes of a few operations each, each of which ends somewhere, on one machine.
fn survives(seed: u64) -> Result<(), String> {
    let (machine, mut draw) = (Volatile::new(), Draw(seed));
    let mut held = Objects::new();
    for life in 0..4 + draw.below(4) {
        let fault = if draw.below(2) == 0 { Fault::CrashBefore } else { Fault::CrashAfter };
        let fate = Fate::new(vec![(1 + draw.below(90), fault)]);
        // a process that dies while it opens the folder has done nothing
        let mut after = held.clone();
        if let Ok(store) = machine.open("deep/root", &fate) {
            for _ in 0..6 {
                let op = Op::draw(&mut draw);
                after.clone_from(&held);
                op.apply(&mut after);
                if op.run(&store).is_err() {
                    break;
                }
                held.clone_from(&after);
            }
        }
        if draw.below(2) == 0 {
            machine.cut_power(draw.next());
        }
        let there = found(&machine);
        if there != held && there != after {
            return Err(format!("life {life}: found {there:?}, expected {held:?} or {after:?}"));
        }
        machine.cut_power(draw.next());
        let still = found(&machine);
        if still != there {
            return Err(format!("life {life}: {there:?} was seen, and after a power cut there was {still:?}"));
        }
        held = there;
    }
    Ok(())
}

fn first_broken(seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| survives(seed).err().map(|e| (seed, e)))
}

#[test]
fn what_a_folder_promised_is_there_after_any_crash() {
    assert_eq!(first_broken(tier::of(2_000, 10_000, 500_000)), None);
}

#[test]
fn a_forgotten_sync_is_found() {
    for bug in [Bug::FileNotSynced, Bug::NameNotSynced, Bug::OpenTrustsCache] {
        let broken = bug::with(bug, || first_broken(2_000));
        assert!(broken.is_some(), "{bug:?} goes unnoticed");
    }
}

#[test]
fn a_disk_that_was_synced_forgets_nothing_and_one_that_was_not_forgets_everything_sometimes() {
    let (mut kept, mut torn, mut lost) = (0, 0, 0);
    for seed in 0..200 {
        let machine = Volatile::new();
        let store = machine.open("x", &Fate::default()).unwrap();
        let write = || {
            let mut upload = store.put("a").unwrap();
            upload.write(b"half of it").unwrap();
            upload.write(b"and the rest").unwrap();
            upload.finish().unwrap();
        };
        write();
        machine.cut_power(seed);
        assert_eq!(store.get("a").unwrap().unwrap(), b"half of itand the rest");
        bug::with(Bug::FileNotSynced, || {
            store.delete("a").unwrap();
            write();
        });
        machine.cut_power(seed);
        match store.get("a").unwrap().unwrap() {
            bytes if bytes == b"half of itand the rest" => kept += 1,
            bytes if bytes.iter().all(|b| *b == 0) => lost += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 0 && torn > 0 && lost > 0, "{kept} kept, {torn} torn, {lost} lost");
}
