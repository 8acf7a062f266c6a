//! The conformance suite, every crash, every lost answer, a full disk, and who may write.

use super::*;
use crate::data::Changes;
use crate::error::{Kind, Result, Retry};
use crate::sink::{Closed, Progress, Writer};
use crate::store::faulty::{Fault, Faulty};
use crate::store::layer::{Layer, Layered};
use crate::store::{Folder, Memory, Upload};
use crate::testing::conformance::{self, SeenRow, SinkReport, SinkSubject, closed, context, expected, schema};
use crate::testing::tier;
use crate::time::{Clock, Epoch};
use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod records;

/// What a reader of `*.jsonl` sees.
fn seen(store: &dyn Store) -> Vec<SeenRow> {
    let files = store.list("").unwrap().into_iter().filter(|n| !n.contains('/') && n.ends_with(".jsonl"));
    let text: String = files.map(|n| String::from_utf8(store.get(&n).unwrap().unwrap()).unwrap()).collect();
    let row = |line: &str| {
        let v: Value = serde_json::from_str(line).unwrap();
        let number = |n: &str| v[n].as_i64().unwrap();
        SeenRow { epoch: number("epoch") as u64, diff: number("diff"), id: number("id"), name: v["name"].as_str().map(str::to_owned) }
    };
    text.lines().map(row).collect()
}

fn names(store: &dyn Store) -> Vec<String> {
    store.list("").unwrap().into_iter().filter(|n| !n.contains('/')).collect()
}

fn on(store: &Arc<dyn Store>) -> DataSet<JsonLines> {
    DataSet::on(store.clone(), "the data set", JsonLines)
}

fn start(set: DataSet<JsonLines>, context: SinkContext) -> Result<Opened> {
    Box::new(set).open(context)
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::new())
}

struct InStore(Arc<dyn Store>);

impl SinkSubject for InStore {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(on(&self.0))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        seen(&*self.0)
    }
}

struct InFolder(tempfile::TempDir);

impl SinkSubject for InFolder {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(DataSet::append(self.0.path().join("out/set"), JsonLines))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        // read past the lock, as any reader does
        let mut files: Vec<_> = std::fs::read_dir(self.0.path().join("out/set")).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|p| p.extension().is_some_and(|e| e == "jsonl"));
        files.sort();
        let copy = memory();
        for file in files {
            copy.put_bytes(file.file_name().unwrap().to_str().unwrap(), &std::fs::read(&file).unwrap()).unwrap();
        }
        seen(&*copy)
    }
}

/// A store that the suite lets refuse or not answer the act that is the commit: writing its record.
#[derive(Clone, Debug, Default)]
struct Unsure {
    below: Memory,
    next: Arc<Mutex<Option<conformance::Fault>>>,
}

impl Layer for Unsure {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let fault = if name.starts_with("_commits/") { self.next.lock().unwrap().take() } else { None };
        let failed = || Error::external(format!("{name}: failed on purpose"));
        match fault {
            None => self.below.put_if_absent(name, bytes),
            Some(conformance::Fault::Before) => Err(failed()),
            Some(conformance::Fault::After) => self.below.put_if_absent(name, bytes).and_then(|_| Err(failed())),
        }
    }
}

impl SinkSubject for Unsure {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(DataSet::on(Arc::new(Layered(self.clone())), "the data set", JsonLines))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        seen(&self.below)
    }

    fn fail_next(&mut self, fault: conformance::Fault) -> bool {
        *self.next.lock().unwrap() = Some(fault);
        true
    }
}

#[test]
fn conforms_when_commits_fail_and_are_not_answered() {
    let report = conformance::sink(&mut Unsure::default());
    assert_eq!(report, SinkReport { failed: 5, unanswered: 5, refused: false });
}

#[test]
fn conforms() {
    conformance::sink(&mut InStore(memory()));
    conformance::sink(&mut InFolder(tempfile::tempdir().unwrap()));
}

#[cfg(feature = "objects")]
#[test]
fn conforms_in_an_object_store() {
    let memory = Arc::new(crate::store::object::object_store::memory::InMemory::new());
    let objects = crate::store::Objects::over(memory.clone(), "set", "memory").unwrap();
    conformance::sink(&mut InStore(Arc::new(objects.in_parts(memory, 100))));
}

fn open(store: &Arc<dyn Store>, generation: u64) -> Result<(Box<dyn Writer>, Option<Progress>)> {
    let opened = start(on(store).roll_rows(4), context(1, generation, &schema()))?;
    Ok((opened.writer, opened.progress))
}

/// Tries again while the error may pass; a dead process never comes to the end of it.
fn stubborn<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        match call() {
            Err(e) if e.retry() == Retry::Backoff && tries < 4 => tries += 1,
            other => return other,
        }
    }
}

/// One life of a pipeline: goes on after what the sink holds and commits up to epoch 12, in several commits.
fn live(store: &Arc<dyn Store>, generation: u64) -> Result<()> {
    let (mut writer, held) = stubborn(|| open(store, generation))?;
    for n in held.map_or(1, |p| p.epoch.0 + 1)..=12 {
        stubborn(|| writer.write(closed(n)))?;
        if n % 5 == 0 {
            writer.flush()?;
        }
        stubborn(|| writer.poll(Duration::ZERO))?;
    }
    writer.flush()?;
    let end = stubborn(|| writer.poll(Duration::ZERO))?;
    assert_eq!(end.progress.unwrap().epoch, Epoch(12));
    stubborn(|| Ok(()))?;
    writer.close()
}

#[test]
fn no_fault_loses_or_doubles_a_row() {
    let all: Vec<_> = (1..=12).flat_map(expected).collect();
    let mut crashes = 0;
    for fault in Fault::ALL {
        for at in 1.. {
            let store = memory();
            let faulty = Faulty::new(store.clone(), at, fault);
            let first = live(&(Arc::new(faulty.clone()) as Arc<dyn Store>), 1);
            assert!(first.is_ok() || fault.is_crash(), "{fault:?} at {at}: {}", first.unwrap_err());
            if first.is_err() {
                crashes += 1;
                // what was seen at the crash is whole epochs from the start, and what is seen when the next writer is open is its progress
                let left = seen(&*store);
                assert_eq!(left, all[..left.len()], "{fault:?} at {at}");
                let (writer, held) = open(&store, 2).unwrap();
                let held = held.map_or(0, |p| p.epoch.0);
                assert_eq!(seen(&*store), (1..=held).flat_map(expected).collect::<Vec<_>>(), "{fault:?} at {at}");
                assert_eq!(store.list("_staging/").unwrap(), Vec::<String>::new());
                drop(writer);
                live(&store, 3).unwrap();
            }
            assert_eq!(seen(&*store), all, "{fault:?} at {at}");
            assert_eq!(store.list("_staging/").unwrap(), Vec::<String>::new(), "{fault:?} at {at}");
            if faulty.operations() < at {
                break;
            }
        }
    }
    assert!(crashes > 40, "the faults reached {crashes} operations only");
}

#[test]
fn a_crash_in_a_folder_is_as_harmless() {
    let all: Vec<_> = (1..=12).flat_map(expected).collect();
    for at in (1..80).step_by(5) {
        let dir = tempfile::tempdir().unwrap();
        let folder = || Arc::new(Folder::open(dir.path()).unwrap()) as Arc<dyn Store>;
        let _ = live(&(Arc::new(Faulty::new(folder(), at, Fault::CrashAfter)) as Arc<dyn Store>), 1);
        live(&folder(), 2).unwrap();
        let store = folder();
        assert_eq!(seen(&*store), all, "at {at}");
        assert_eq!(store.list("_staging/").unwrap(), Vec::<String>::new(), "at {at}");
        assert_eq!(std::fs::read_dir(dir.path().join(".orderflow")).unwrap().count(), 1, "only the lock is left");
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write,
    Flush,
    Poll,
    Wait,
    Close,
    Die,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
    #[test]
    fn whatever_happens_readers_see_whole_epochs_once(
        ops in proptest::collection::vec(prop_oneof![
            6 => Just(Op::Write), 1 => Just(Op::Flush), 4 => Just(Op::Poll), 1 => Just(Op::Wait), 1 => Just(Op::Close), 1 => Just(Op::Die),
        ], 1..80),
        roll_rows in 1..20u64,
        roll_bytes in 50..2_000u64,
    ) {
        let (store, clock) = (memory(), Clock::manual(0));
        let mut generation = 0;
        let mut open = || {
            generation += 1;
            let set = on(&store).roll_rows(roll_rows).roll_bytes(roll_bytes).roll_after(Duration::from_secs(9));
            let opened = start(set, SinkContext { clock: clock.clone(), ..context(1, generation, &schema()) }).unwrap();
            (opened.writer, opened.progress.map_or(0, |p| p.epoch.0))
        };
        let (mut writer, mut committed) = open();
        let mut written = committed;
        for op in ops {
            let flushed = match op {
                Op::Write => {
                    written += 1;
                    writer.write(closed(written)).unwrap();
                    false
                }
                Op::Flush => {
                    writer.flush().unwrap();
                    true
                }
                Op::Wait => {
                    clock.advance(Duration::from_secs(9));
                    true
                }
                Op::Poll => false,
                Op::Close | Op::Die => {
                    if matches!(op, Op::Close) {
                        writer.close().unwrap();
                    }
                    let held;
                    (writer, held) = open();
                    prop_assert_eq!(held, committed, "what was reported is what is held");
                    written = held;
                    false
                }
            };
            if flushed || matches!(op, Op::Poll) {
                committed = writer.poll(Duration::ZERO).unwrap().progress.map_or(0, |p| p.epoch.0);
                prop_assert!(!flushed || committed == written, "{:?} commits all", op);
            }
            prop_assert_eq!(seen(&*store), (1..=committed).flat_map(expected).collect::<Vec<_>>(), "after {:?}", op);
        }
    }
}

#[test]
fn a_lost_answer_to_the_commit_is_not_undone_by_closing() {
    // find the put_if_absent of the first commit by trying every operation: whatever close() does, the rows are there or given again
    for at in 1..60 {
        let store = memory();
        let faulty: Arc<dyn Store> = Arc::new(Faulty::new(store.clone(), at, Fault::Unanswered));
        let Ok((mut writer, _)) = open(&faulty, 1) else { continue };
        let _ = writer.write(closed(1)).and_then(|()| writer.flush()).and_then(|()| writer.poll(Duration::ZERO).map(drop));
        let _ = writer.close();
        live(&store, 2).unwrap();
        assert_eq!(seen(&*store), (1..=12).flat_map(expected).collect::<Vec<_>>(), "at {at}");
    }
}

#[test]
fn a_data_set_of_somebody_else_is_refused_with_the_choices() {
    let store = memory();
    live(&store, 1).unwrap();
    let refused = |store: &Arc<dyn Store>, context| {
        let before = store.list("").unwrap();
        let e = start(on(store), context).err().unwrap();
        assert_eq!((e.kind(), e.retry(), store.list("").unwrap()), (Kind::User, Retry::Never, before));
        assert!(e.remedy().unwrap().contains("another folder") && e.remedy().unwrap().contains("delete"), "{e}");
        e.to_string()
    };
    assert!(refused(&store, context(2, 1, &schema())).contains("the data set already holds a data set"));
    assert!(refused(&store, SinkContext { view: "other".into(), ..context(1, 2, &schema()) }).contains("the view 'view' as jsonl"));
    let foreign = memory();
    foreign.put_bytes("orders.jsonl", b"{}").unwrap();
    assert!(refused(&foreign, context(1, 1, &schema())).contains("orders.jsonl"));
    // a folder that another run opened and never wrote to is free
    let empty = memory();
    drop(open(&empty, 1).unwrap());
    assert!(start(on(&empty), context(2, 1, &schema())).is_ok());
}

#[test]
fn columns_that_clash_are_refused() {
    let view = Arc::new(Schema::new(vec![Field::new("Epoch", DataType::Int64, false)]));
    let e = on(&memory()).columns(&view.into()).unwrap_err();
    assert!(e.to_string().contains("'Epoch'") && e.remedy().unwrap().contains("AS"), "{e}");
}

#[test]
fn files_roll_by_rows_bytes_and_time() {
    let rows = |from: i64, n: i64| {
        let ids = Arc::new(Int64Array::from_iter_values(from..from + n));
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        Changes::inserts(RecordBatch::try_new(schema, vec![ids]).unwrap())
    };
    let context = |clock: &Clock| SinkContext { clock: clock.clone(), ..context(1, 1, &rows(0, 1).schema()) };
    let files =
        |store: &Arc<dyn Store>| names(&**store).iter().map(|n| n["lane-0_gen-0001_epochs-".len()..].to_owned()).collect::<Vec<_>>();
    let write = |w: &mut dyn Writer, e: u64, n| {
        w.write(Closed { epoch: Epoch(e), changes: vec![rows(e as i64 * 1_000_000, n)] }).unwrap();
        w.poll(Duration::ZERO).unwrap();
    };
    let clock = Clock::manual(0);

    let store = memory();
    let mut w = start(on(&store).roll_rows(10), context(&clock)).unwrap().writer;
    (1..=7).for_each(|e| write(&mut *w, e, 4));
    assert_eq!(files(&store), ["0000000001-0000000003.jsonl", "0000000004-0000000006.jsonl"]);
    w.close().unwrap();

    let store = memory();
    let mut w = start(on(&store).roll_bytes(100), context(&clock)).unwrap().writer;
    (1..=4).for_each(|e| write(&mut *w, e, 2)); // about 37 bytes a row
    assert_eq!(files(&store), ["0000000001-0000000002.jsonl", "0000000003-0000000004.jsonl"]);

    let store = memory();
    let mut w = start(on(&store).roll_after(Duration::from_secs(5)), context(&clock)).unwrap().writer;
    write(&mut *w, 1, 1);
    clock.advance(Duration::from_secs(4));
    write(&mut *w, 2, 1);
    assert_eq!(files(&store), [""; 0]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(w.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(2));
    assert_eq!(files(&store), ["0000000001-0000000002.jsonl"]);

    // an epoch larger than a file: several files, one commit
    let store = memory();
    let mut w = start(on(&store).roll_rows(50_000), context(&clock)).unwrap().writer;
    write(&mut *w, 1, 1);
    write(&mut *w, 2, 300_000);
    let parts = ["0000000001-0000000002.jsonl", "0000000002-0000000002.jsonl", "0000000002-0000000002_2.jsonl"];
    assert_eq!(files(&store), parts);
    assert_eq!(store.list("_commits/").unwrap(), ["_commits/0000000002.json"], "one commit, in place of the opening");
    let lines = |n: &String| store.get(n).unwrap().unwrap().iter().filter(|b| **b == b'\n').count();
    assert_eq!(names(&*store).iter().map(lines).sum::<usize>(), 300_001);
}

#[test]
fn a_staged_file_that_was_changed_is_refused() {
    for at in 1.. {
        // crash right before the first rename: the record is written, the file still staged
        let store = memory();
        let faulty: Arc<dyn Store> = Arc::new(Faulty::new(store.clone(), at, Fault::CrashAfter));
        assert!(live(&faulty, 1).is_err());
        let staged = store.list("_staging/").unwrap();
        if store.list("_commits/").unwrap().len() < 2 || staged.is_empty() {
            continue;
        }
        store.put_bytes(&staged[0], b"{}").unwrap();
        let e = open(&store, 2).err().unwrap();
        assert!(e.retry() == Retry::Never && e.to_string().contains("damaged"), "{e}");
        return;
    }
}

/// A store with so much room for uploads.
#[derive(Debug)]
struct Tight(Arc<dyn Store>, Arc<AtomicUsize>);

struct TightUpload(Box<dyn Upload>, Arc<AtomicUsize>);

impl Upload for TightUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = self.1.load(Ordering::SeqCst).min(bytes.len());
        if room == 0 {
            return Err(crate::store::io_error("write", "x", std::io::ErrorKind::StorageFull.into()));
        }
        let n = self.0.write(&bytes[..room])?;
        self.1.fetch_sub(n, Ordering::SeqCst);
        Ok(n)
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }
}

impl Layer for Tight {
    fn below(&self) -> &dyn Store {
        &*self.0
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(TightUpload(self.0.put(name)?, self.1.clone())))
    }
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let (store, room) = (memory(), Arc::new(AtomicUsize::new(333)));
    let tight: Arc<dyn Store> = Arc::new(Layered(Tight(store.clone(), room.clone())));
    let mut writer = start(on(&tight), context(1, 1, &schema())).unwrap().writer;
    let mut taken = 0;
    for n in 1..=20 {
        match writer.write(closed(n)) {
            Ok(()) => taken = n,
            Err(e) => {
                assert!(e.retry() == Retry::Backoff && e.to_string().contains("full"), "{e}");
                break;
            }
        }
        writer.flush().unwrap();
        let _ = writer.poll(Duration::ZERO);
    }
    assert!(taken > 1 && taken < 20, "the disk was full at once, or never: {taken}");
    for _ in 0..3 {
        assert_eq!(writer.poll(Duration::ZERO).unwrap_err().retry(), Retry::Backoff);
        assert_eq!(writer.write(closed(taken + 1)).unwrap_err().retry(), Retry::Backoff);
    }
    let visible = seen(&*store);
    let whole = (0..=taken).find(|last| visible == (1..=*last).flat_map(expected).collect::<Vec<_>>());
    assert!(whole.is_some_and(|last| last < taken), "only whole epochs are seen");

    room.store(usize::MAX, Ordering::SeqCst);
    for n in taken + 1..=25 {
        writer.write(closed(n)).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(25));
    assert_eq!(seen(&*store), (1..=25).flat_map(expected).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let e = Box::new(DataSet::append(file.join("set"), JsonLines)).open(context(1, 1, &schema())).err().unwrap();
    assert!(e.to_string().contains(file.join("set").to_str().unwrap()) && e.remedy().is_some(), "{e}");
    let taken = Folder::open(dir.path().join("set")).unwrap();
    let e = Box::new(DataSet::append(taken.root(), JsonLines)).open(context(1, 1, &schema())).err().unwrap();
    assert!(e.to_string().contains("is in use"), "{e}");
}
