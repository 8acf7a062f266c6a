//! The ledger over a store, and what is read again, with a crash at every operation.

use super::*;
use crate::sink::{Progress, WriterId};
use crate::source::{Fetch, Payload};
use crate::store::faulty::{Fault, Faulty};
use crate::store::layer::{Layer, Layered};
use crate::store::{Memory, Store};
use crate::time::{Epoch, Partition};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn fetch(from: u64, to: u64) -> Fetch {
    let rows = (to - from) as usize;
    Fetch { partition: Partition::new("t", 0), from, to, rows, bytes: rows, fingerprint: to - from, latest: None, payload: Payload::None }
}

fn binding(epoch: u64, from: u64, to: u64) -> Binding {
    let mut binding = Binding { epoch: Epoch(epoch), ..Binding::default() };
    binding.add(&"s".into(), &fetch(from, to));
    binding
}

fn open(store: &Arc<dyn Store>) -> crate::Result<(Log, Recovered)> {
    Log::open(store.clone(), "here", 1, |_| Ok(()))
}

fn start() -> Start {
    Start { positions: BTreeMap::new(), plan: [("view v".to_owned(), "plan".to_owned())].into() }
}

#[test]
fn two_epochs_as_one_are_bound_to_the_input_of_both() {
    let mut one = binding(1, 0, 5);
    one.extend(binding(2, 5, 9));
    assert_eq!(one, binding(2, 0, 9));
}

#[test]
fn a_base_says_which_stored_rows_belong_to_which_binding() {
    let object = |upto| SpoolRef { upto: Epoch(upto), name: format!("spool/{upto}"), bytes: 1, crc: 0 };
    let mut base =
        Base { segments: vec![binding(3, 0, 3), binding(4, 3, 4)], after: vec![binding(5, 4, 5), binding(6, 5, 6)], ..Base::default() };
    base.segments[0].spool = vec![object(1)];
    base.place(&[object(2), object(3), object(5)]);
    let placed = base.segments.iter().chain(&base.after).map(|b| b.spool.clone());
    assert_eq!(placed.collect::<Vec<_>>(), [vec![object(2), object(3)], vec![], vec![object(5)], vec![]]);
    let checkpoint = |epoch| Checkpoint { epoch: Epoch(epoch), manifest: String::new(), crc: 0 };
    for (epochs, covered) in [(vec![], 0), (vec![3], 0), (vec![3, 4], 3)] {
        base.checkpoints = epochs.into_iter().map(checkpoint).collect();
        assert_eq!(base.covered(), Epoch(covered), "one may be damaged");
    }
    let mut both = base.segments[0].clone();
    both.extend(base.after[0].clone());
    assert_eq!(both.spool, [object(2), object(3), object(5)]);
}

#[test]
fn a_log_gives_back_what_was_written_and_counts_its_openings() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let (mut log, found) = open(&store).unwrap();
    assert_eq!(found, Recovered::default());
    let id = log.writer().ledger;
    log.write(&Entry::Started(start())).unwrap();
    for e in 1..=3 {
        log.write(&Entry::Bound(binding(e, 5 * (e - 1), 5 * e))).unwrap();
    }
    let (mut second, found) = open(&store).unwrap();
    assert_eq!(second.writer(), WriterId { ledger: id, generation: 2 });
    assert_eq!(found.bindings, [binding(1, 0, 5), binding(2, 5, 10), binding(3, 10, 15)]);
    let e = log.write(&Entry::Bound(binding(4, 15, 20))).unwrap_err();
    assert!(e.to_string().contains("taken over"), "{e}");

    let held = [("sink".to_owned(), Some(Progress { writer: second.writer(), epoch: Epoch(2), part: 0 }))].into();
    let base = Base { start: start(), segments: vec![binding(2, 0, 10)], after: vec![binding(3, 10, 15)], held, ..Base::default() };
    second.write(&Entry::Base(base.clone())).unwrap();
    second.write(&Entry::Bound(binding(4, 15, 20))).unwrap();
    let (third, found) = open(&store).unwrap();
    assert_eq!(third.writer().generation, 3);
    assert_eq!(
        found,
        Recovered {
            start: Some(start()),
            segments: base.segments,
            bindings: vec![binding(3, 10, 15), binding(4, 15, 20)],
            held: base.held,
            ..Recovered::default()
        }
    );
    assert_eq!(store.list("ledger/").unwrap().len(), 5, "three openings, a base and a binding");
}

#[test]
fn a_log_gives_back_letters_as_they_stand() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let told = |name: &str, after: u64, upto: u64| {
        let object = Some(SpoolRef { upto: Epoch(upto), name: name.into(), bytes: 1, crc: 2 });
        Letters { sink: "s".into(), lane: 0, after: Epoch(after), upto: Epoch(upto), object, epoch: None }
    };
    let (mut log, _) = open(&store).unwrap();
    log.write(&Entry::Started(start())).unwrap();
    for letters in [told("a", 0, 2), told("b", 0, 1), told("c", 1, 2)] {
        log.write(&Entry::Refused(letters)).unwrap();
    }
    log.write(&Entry::Bound(Binding { letters: vec!["b".into()], ..binding(1, 0, 5) })).unwrap();
    let (mut second, found) = open(&store).unwrap();
    let stand = Outbox::new(vec![Letters { epoch: Some(Epoch(1)), ..told("b", 0, 1) }, told("c", 1, 2)]);
    assert_eq!(found.letters, stand);
    second.write(&Entry::Base(found.as_base())).unwrap();
    assert_eq!(open(&store).unwrap().1.letters, stand);

    // once every sink holds the epoch, what it had is not needed any more
    let mut ledger = Ledger::of(second.writer(), &found);
    ledger.retire(Epoch(1));
    let base = ledger.base_due(true, false, Default::default).unwrap();
    assert_eq!((base.letters, base.segments), (Outbox::new(vec![told("c", 1, 2)]), vec![binding(1, 0, 5)]));
}

/// A store whose n-th reading call is preceded by what another process does meanwhile.
#[derive(Debug)]
struct Meanwhile {
    below: Memory,
    calls: AtomicU64,
    at: u64,
    other: Mutex<Option<Log>>,
    stopped: AtomicBool,
}

impl Meanwhile {
    fn read(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.at
            && let Some(mut log) = self.other.lock().unwrap().take()
        {
            let base = Base { start: start(), segments: vec![binding(3, 0, 15)], ..Base::default() };
            if let Err(e) = log.write(&Entry::Base(base)) {
                assert!(e.to_string().contains("taken over"), "{e}");
                self.stopped.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Layer for Meanwhile {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn get(&self, name: &str) -> crate::Result<Option<Vec<u8>>> {
        self.read();
        self.below.get(name)
    }

    fn list(&self, folder: &str) -> crate::Result<Vec<String>> {
        self.read();
        self.below.list(folder)
    }
}

#[test]
fn who_takes_over_from_a_writer_at_work_is_not_told_that_the_ledger_is_damaged() {
    // opened, started, three bindings; the base and the deletions come before any one of the newcomer's reading calls
    for at in 1..=12 {
        let below = Memory::new();
        let store: Arc<dyn Store> = Arc::new(below.clone());
        let (mut log, _) = open(&store).unwrap();
        log.write(&Entry::Started(start())).unwrap();
        for e in 1..=3 {
            log.write(&Entry::Bound(binding(e, 5 * (e - 1), 5 * e))).unwrap();
        }
        let meanwhile = Meanwhile { below, calls: AtomicU64::new(0), at, other: Mutex::new(Some(log)), stopped: AtomicBool::new(false) };
        let meanwhile = Arc::new(Layered(meanwhile));
        let (second, found) = Log::open(meanwhile.clone(), "here", 0, |_| Ok(())).unwrap_or_else(|e| panic!("at {at}: {e}"));
        assert_eq!(second.writer().generation, 2);
        let all = found.replay(None, false).into_iter().reduce(|mut all, next| {
            all.extend(next);
            all
        });
        assert_eq!(all, Some(binding(3, 0, 15)), "at {at}");
        // once the newcomer has its slot, the base finds none
        let calls = meanwhile.0.calls.load(Ordering::SeqCst);
        assert_eq!(meanwhile.0.stopped.load(Ordering::SeqCst), at == calls, "at {at} of {calls}");
    }
}

#[test]
fn a_damaged_or_missing_entry_is_refused_by_name_and_nothing_is_written() {
    for at in [2, 3] {
        for missing in [false, true] {
            let store: Arc<dyn Store> = Arc::new(Memory::new());
            let (mut log, _) = open(&store).unwrap();
            (1..=3).for_each(|e| log.write(&Entry::Bound(binding(e, e, e + 1))).unwrap());
            let name = format!("ledger/{at:010}");
            let mut bytes = store.get(&name).unwrap().unwrap();
            store.delete(&name).unwrap();
            if !missing {
                bytes[40] ^= 1;
                store.put_bytes(&name, &bytes).unwrap();
            }
            let before = store.list("").unwrap();
            let e = open(&store).unwrap_err();
            assert!(e.to_string().contains(&name) && e.remedy().is_some(), "{e}");
            assert_eq!(store.list("").unwrap(), before);
        }
    }
}

/// Every operation of a life with two openings and a compaction fails once in each way: what was acknowledged is there afterwards, and
/// only what was asked for.
#[test]
fn a_crash_at_any_operation_leaves_a_ledger_that_can_be_opened() {
    fn life(store: &Arc<dyn Store>, written: &mut Vec<u64>) -> crate::Result<()> {
        let retry = |mut f: Box<dyn FnMut() -> crate::Result<()> + '_>| f().or_else(|_| f());
        let (mut log, found) = open(store).or_else(|_| open(store))?;
        let tail = found.bindings.last().or(found.segments.last()).map_or(0, |b| b.epoch.0);
        for e in tail + 1..=tail + 3 {
            retry(Box::new(|| log.write(&Entry::Bound(binding(e, e, e + 1)))))?;
            written.push(e);
        }
        let after = vec![binding(tail + 3, tail + 3, tail + 4)];
        let base = Base { segments: vec![binding(tail + 2, 1, tail + 3)], after, ..Base::default() };
        let base = Entry::Base(base);
        log.write(&base).or_else(|_| log.write(&base))?;
        retry(Box::new(|| log.write(&Entry::Bound(binding(tail + 4, tail + 4, tail + 5)))))?;
        written.push(tail + 4);
        Ok(())
    }
    for fault in Fault::ALL {
        for at in 1.. {
            let below: Arc<dyn Store> = Arc::new(Memory::new());
            let faulty = Faulty::new(below.clone(), at, fault);
            let mut written = vec![];
            let store: Arc<dyn Store> = Arc::new(faulty.clone());
            let outcome = life(&store, &mut written).and_then(|()| life(&store, &mut written));
            if !fault.is_crash() {
                outcome.unwrap_or_else(|e| panic!("{fault:?} at {at}: {e}"));
            }
            let (_, found) = open(&below).unwrap_or_else(|e| panic!("{fault:?} at {at}: {e}"));
            let tail = found.bindings.last().or(found.segments.last()).map_or(0, |b| b.epoch.0);
            let last = written.last().copied().unwrap_or(0);
            assert!(tail == last || tail == last + 1 && fault.is_crash(), "{fault:?} at {at}: {tail} after {last}");
            if faulty.operations() < at {
                break;
            }
        }
    }
}

#[test]
fn a_replay_cuts_fetches_where_epochs_ended_and_notices_other_input() {
    let s: Arc<str> = "s".into();
    let mut replay = Replay::new([binding(7, 0, 10), binding(8, 10, 12)]);
    assert_eq!(replay.positions("s"), [(Partition::new("t", 0), 0)].into());
    assert_eq!(replay.admit(&s, &fetch(0, 4)), Admit::Now);
    replay.add(&s, &fetch(0, 4));
    assert_eq!(replay.close().unwrap(), None);
    let e = replay.cut_short("s").to_string();
    assert!(e.contains("all that epoch 7 was made of: it lacks t[0], positions 4 to 9"), "{e}");
    assert_eq!(replay.admit(&s, &fetch(4, 11)), Admit::Until(10));
    replay.add(&s, &fetch(4, 10));
    assert_eq!(replay.admit(&s, &fetch(10, 11)), Admit::Later);
    assert_eq!(replay.close().unwrap().unwrap().epoch, Epoch(7));
    assert_eq!((replay.epoch(), replay.admit(&s, &fetch(10, 12))), (Some(Epoch(8)), Admit::Now));
    let other = Fetch { fingerprint: 77, ..fetch(10, 12) };
    replay.add(&s, &other);
    let e = replay.close().unwrap_err();
    assert!(e.to_string().contains("t[0]") && e.to_string().contains("epoch 8") && e.remedy().is_some(), "{e}");
}

#[test]
fn a_folder_of_somebody_else_is_no_ledger_and_is_left_alone() {
    for name in ["ledger/notes.txt", "ledger/0000000002.bak", "ledger/below/0000000002"] {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        open(&store).unwrap();
        store.put_bytes(name, b"mine").unwrap();
        let before = store.list("").unwrap();
        let e = open(&store).err().unwrap();
        assert!(e.to_string().contains(&format!("holds '{name}', which is no entry of a ledger")) && e.remedy().is_some(), "{e}");
        assert_eq!((e.kind(), store.list("").unwrap()), (crate::error::Kind::User, before));
    }
}

#[test]
fn what_a_newer_version_wrote_is_refused_as_that_and_nothing_is_changed() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    open(&store).unwrap();
    // with a kind of entry that this version does not know
    let json = r#"{"format":99,"slot":2,"nonce":"2a","entry":{"Dreamt":{}}}"#;
    store.put_bytes("ledger/0000000002", format!("{:08x}\n{json}", crc32fast::hash(json.as_bytes())).as_bytes()).unwrap();
    let before = store.list("").unwrap();
    let e = open(&store).err().unwrap();
    assert!(e.to_string().contains("newer version") && e.to_string().contains("format 99") && !e.to_string().contains("damaged"), "{e}");
    assert_eq!((e.kind(), store.list("").unwrap()), (crate::error::Kind::User, before));
}
