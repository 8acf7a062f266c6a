//! One random state machine for all stores, against a map; and what only a folder can do wrong.

mod power;

use super::*;
use crate::error::{Kind, Retry};
use crate::testing::tier;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Get(usize),
    Put(usize, Vec<u8>),
    Abandon(usize, Vec<u8>),
    PutIfAbsent(usize, Vec<u8>),
    Publish(usize, usize),
    List(usize),
    Delete(usize),
    Reopen,
}

const NAMES: [&str; 6] = ["a", "b.txt", "deep/a", "deep/er/b", "deep/er/c", "deeper/x"];
const FOLDERS: [&str; 5] = ["", "deep/", "deep/er/", "deeper/", "none/"];

pub(super) fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        name().prop_map(Op::Get),
        (name(), bytes()).prop_map(|(n, b)| Op::Put(n, b)),
        (name(), bytes()).prop_map(|(n, b)| Op::Abandon(n, b)),
        (name(), bytes()).prop_map(|(n, b)| Op::PutIfAbsent(n, b)),
        (name(), name()).prop_map(|(a, b)| Op::Publish(a, b)),
        (0..FOLDERS.len()).prop_map(Op::List),
        name().prop_map(Op::Delete),
        Just(Op::Reopen),
    ]
}

/// Runs the operations on a store and on a map, and compares every answer and the end.
pub(super) fn same_as_a_map(ops: &[Op], open: &dyn Fn() -> Arc<dyn Store>) -> Result<(), TestCaseError> {
    let mut store = open();
    let mut model: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for op in ops {
        match op {
            Op::Get(n) => prop_assert_eq!(store.get(NAMES[*n]).unwrap(), model.get(NAMES[*n]).cloned()),
            Op::Put(n, b) => {
                store.put_bytes(NAMES[*n], b).unwrap();
                model.insert(NAMES[*n], b.clone());
            }
            Op::Abandon(n, b) => {
                let mut upload = store.put(NAMES[*n]).unwrap();
                if !b.is_empty() {
                    upload.write(b).unwrap();
                }
            }
            Op::PutIfAbsent(n, b) => {
                let free = !model.contains_key(NAMES[*n]);
                prop_assert_eq!(store.put_if_absent(NAMES[*n], b).unwrap(), free);
                model.entry(NAMES[*n]).or_insert_with(|| b.clone());
            }
            Op::Publish(a, b) => {
                let object = model.remove(NAMES[*a]);
                prop_assert_eq!(store.publish(NAMES[*a], NAMES[*b]).unwrap(), object.is_some());
                if let Some(object) = object {
                    model.insert(NAMES[*b], object);
                }
            }
            Op::List(f) => {
                let want: Vec<_> = model.keys().filter(|n| n.starts_with(FOLDERS[*f])).map(|n| n.to_string()).collect();
                prop_assert_eq!(store.list(FOLDERS[*f]).unwrap(), want);
            }
            Op::Delete(n) => {
                store.delete(NAMES[*n]).unwrap();
                model.remove(NAMES[*n]);
            }
            Op::Reopen => {
                drop(store);
                store = open();
            }
        }
    }
    prop_assert_eq!(store.list("").unwrap(), model.keys().map(|n| n.to_string()).collect::<Vec<_>>());
    for (name, bytes) in &model {
        prop_assert_eq!(store.get(name).unwrap(), Some(bytes.clone()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tier::of(64, 200, 1_000), ..ProptestConfig::default() })]

    #[test]
    fn memory_is_a_map(ops in proptest::collection::vec(op(), 1..60)) {
        let memory = Memory::new();
        same_as_a_map(&ops, &|| Arc::new(memory.clone()))?;
    }

    #[test]
    fn a_folder_is_a_map(ops in proptest::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        same_as_a_map(&ops, &|| Arc::new(Folder::open(dir.path().join("not/yet")).unwrap()))?;
        // nothing half written stays
        let own: Vec<_> = std::fs::read_dir(dir.path().join("not/yet/.orderflow")).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert_eq!(own, ["lock"]);
    }
}

#[test]
fn of_many_who_put_if_absent_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 2] = [Arc::new(Memory::new()), Arc::new(Folder::open(dir.path()).unwrap())];
    for store in stores {
        one_wins(&[store], 20);
    }
}

/// Eight writers, each through the next of these stores, which are one and the same, race for each of some names.
pub(super) fn one_wins(stores: &[Arc<dyn Store>], rounds: usize) {
    for round in 0..rounds {
        let name = format!("slots/{round}");
        let won: Vec<bool> = std::thread::scope(|s| {
            let of = |i: u8| stores[i as usize % stores.len()].clone();
            let tries: Vec<_> = (0..8u8)
                .map(|i| {
                    s.spawn({
                        let (store, name) = (of(i), name.clone());
                        move || store.put_if_absent(&name, &[i; 9]).unwrap()
                    })
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|w| **w).count(), 1, "{stores:?}");
        let winner = won.iter().position(|w| *w).unwrap() as u8;
        assert_eq!(stores[0].get(&name).unwrap().unwrap(), [winner; 9]);
    }
}

#[test]
fn names_that_leave_the_store_are_refused() {
    for name in ["", "/etc/passwd", "../x", "a//b", "a/./b", "a/..", "a/", ".orderflow/lock"] {
        assert_eq!(Memory::new().get(name).unwrap_err().kind(), Kind::Internal, "{name}");
    }
    assert!(Memory::new().list("a").is_err());
}

#[test]
fn a_folder_has_one_writer_and_the_second_learns_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let first = Folder::open(dir.path()).unwrap();
    let refused = Folder::open(dir.path()).unwrap_err();
    assert_eq!((refused.kind(), refused.retry()), (Kind::User, Retry::Never));
    assert!(refused.to_string().contains(&format!("process {} has it open", std::process::id())), "{refused}");
    let upload = first.put("x").unwrap();
    drop(first);
    assert!(Folder::open(dir.path()).is_err(), "an upload still writes there");
    drop(upload);
    Folder::open(dir.path()).unwrap();
}

#[test]
fn leftovers_of_a_dead_process_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    drop(Folder::open(dir.path()).unwrap());
    let left = dir.path().join(".orderflow/aside-1-1");
    std::fs::write(&left, "half").unwrap();
    drop(Folder::open(dir.path()).unwrap());
    assert!(!left.exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for root in [file.join("data"), file.clone(), "/proc/orderflow".into()] {
        let e = Folder::open(&root).unwrap_err();
        assert_eq!(e.retry(), Retry::Never, "{e}");
        assert!(e.to_string().contains(root.to_str().unwrap()), "{e}");
        assert!(e.remedy().is_some_and(|h| h.contains("another folder")), "{e}");
    }
}

#[test]
fn a_full_disk_passes_and_says_so() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge, io::ErrorKind::QuotaExceeded] {
        let e = io_error("write", "/data/x", kind.into());
        assert_eq!((e.kind(), e.retry()), (Kind::External, Retry::Backoff));
        assert!(e.to_string().starts_with("cannot write /data/x: ") && e.to_string().contains("goes on by itself"), "{e}");
    }
    assert_eq!(io_error("write", "/x", io::ErrorKind::PermissionDenied.into()).retry(), Retry::Never);
}

#[test]
fn publishing_what_is_not_there_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Folder::open(dir.path()).unwrap();
    assert!(!store.publish("_staging/x", "x").unwrap());
    (&store as &dyn Store).put_bytes("_staging/x", b"1").unwrap();
    assert!(store.publish("_staging/x", "x").unwrap());
    assert!(!store.publish("_staging/x", "x").unwrap());
    assert_eq!(store.get("x").unwrap().unwrap(), b"1");
}

#[test]
fn a_place_is_a_path_or_a_url_of_a_kind_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().join("s3:/folder")).unwrap();
    assert!(dir.path().join("s3:/folder/.orderflow/lock").exists() && !is_url("s3:/folder") && !is_url("://x"), "{store:?}");
    let e = open_with(dir.path().join("x"), &[("region", "here")]).unwrap_err();
    assert!(e.to_string().contains("'region' is no option of the folder"), "{e}");
    for url in ["gs://bucket/prefix", "file:///tmp/x"] {
        let e = open(url).unwrap_err();
        assert!(is_url(url) && e.to_string().contains("kind that is not known") && e.remedy().is_some(), "{e}");
    }
    for (url, known) in
        [("s3://bucket/x", cfg!(feature = "s3")), ("s3a://bucket/x", cfg!(feature = "s3")), ("hdfs://h/x", cfg!(feature = "hdfs"))]
    {
        if !known {
            let e = open(url).unwrap_err();
            assert!((e.kind(), e.retry()) == (Kind::User, Retry::Never) && e.to_string().contains("without the feature"), "{e}");
        }
    }
}

#[test]
fn a_process_that_is_paused_does_its_operation_when_others_are_through() {
    let (below, fate) = (Memory::new(), faulty::Fate::default());
    let (store, other) = (faulty::Faulty::of(Arc::new(below.clone()), &fate), below);
    fate.pause(2, move || assert!(other.put_if_absent("a", b"other").unwrap()));
    assert_eq!(store.get("a").unwrap(), None);
    assert!(!store.put_if_absent("a", b"own").unwrap(), "it comes too late");
    assert_eq!(store.get("a").unwrap(), Some(b"other".to_vec()));
    assert_eq!(fate.operations(), 3);
}
