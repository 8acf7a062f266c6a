//! Trouble that passes: a sink that is away for an hour, a state's disk that is full for a while, a closure that panics.
//!
//! Invariant: nothing leaves that is not bound, nothing is lost or doubled, and what it leaves in the end is what a run without trouble leaves.

use crate::place::{FILES, Place, ROWS, finish, net, rolled, rows_of, schema, step, visible_in};
use orderflow_core::arrow::array::{RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
use orderflow_core::epoch::Limits;
use orderflow_core::error::Retry;
use orderflow_core::format::json::Json;
use orderflow_core::pipeline::Stepper;
use orderflow_core::plan::typed::Record;
use orderflow_core::sink;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::{file, memory};
use orderflow_core::store::{Folder, Memory, Store, Upload, io_error};
use orderflow_core::time::Clock;
use orderflow_core::{Error, Phase, Pipeline, Result};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a store does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Mood {
    Well,
    /// It takes nothing more, and what it has can be read and deleted.
    Full,
    /// It does not answer.
    Away,
}

/// A store whose mood a test decides.
#[derive(Clone, Debug)]
struct Moody {
    below: Memory,
    mood: Arc<AtomicU64>,
    /// Calls that were refused.
    refused: Arc<AtomicU64>,
}

impl Moody {
    fn new() -> Self {
        Self { below: Memory::new(), mood: Arc::default(), refused: Arc::default() }
    }

    fn be(&self, mood: Mood) {
        self.mood.store(mood as u64, Ordering::SeqCst);
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    fn ask(&self, writes: bool) -> Result<()> {
        let mood = self.mood.load(Ordering::SeqCst);
        if mood == Mood::Away as u64 || writes && mood == Mood::Full as u64 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let full = mood == Mood::Full as u64;
            return Err(if full { io_error("write", "the disk", ErrorKind::StorageFull.into()) } else { Error::external("no answer") });
        }
        Ok(())
    }
}

impl Store for Moody {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.ask(false)?;
        self.below.get(name)
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.ask(false)?;
        Ok(Box::new(MoodyUpload(self.clone(), self.below.put(name)?)))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.ask(true)?;
        self.below.put_if_absent(name, bytes)
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.ask(false)?;
        self.below.publish(staged, name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.ask(false)?;
        self.below.list(folder)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.ask(false)?;
        self.below.delete(name)
    }
}

struct MoodyUpload(Moody, Box<dyn Upload>);

impl Upload for MoodyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.ask(true)?;
        // a disk takes what it likes
        self.1.write(&bytes[..bytes.len().div_ceil(2)])
    }

    fn finish(&mut self) -> Result<()> {
        self.0.ask(false)?;
        self.1.finish()
    }
}

/// Steps until an hour, or whatever it is, has passed; how many steps that took.
fn let_pass(stepper: &mut Stepper, clock: &Clock, time: Duration) -> u64 {
    let (until, mut steps) = (clock.elapsed() + time, 0);
    while clock.elapsed() < until {
        steps += 1;
        assert!(steps < 100_000, "it does not rest: {:?}", stepper.status());
        step(stepper, clock).unwrap().expect("it does not end for that");
    }
    steps
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_sink_that_is_away_for_an_hour_holds_the_sources_back_and_misses_nothing() {
    let place = Place::of(600);
    let (outside, clock) = (Moody::new(), Clock::manual(0));
    let set = |name: &'static str| match name {
        "totals" => rolled(name, DataSet::on(Arc::new(outside.clone()), name, JsonLines)),
        _ => place.set(name),
    };
    let start = || {
        let flow = place.flow(&set).unwrap().clock(clock.clone()).memory(64 << 10);
        flow.state(place.path("state")).checkpoint_every(Duration::ZERO).stepper()
    };
    let mut stepper = start().unwrap();
    while stepper.status().sinks[1].committed.0 < 5 {
        step(&mut stepper, &clock).unwrap().unwrap();
    }
    outside.be(Mood::Away);
    let_pass(&mut stepper, &clock, HOUR / 6);
    let (early, tried) = (stepper.status(), outside.refused());
    let_pass(&mut stepper, &clock, HOUR - HOUR / 6);
    let late = stepper.status();
    assert!(late.sinks[1].waits.as_ref().is_some_and(|w| w.contains("no answer")), "{late:?}");
    assert!(!late.phase.is_over() && late.sinks[0].waits.is_none(), "{late:?}");
    // what is read is bounded, and so is how often it asks: every ten seconds
    assert_eq!(late.sources[0].rows, early.sources[0].rows, "sources are held back");
    assert!(late.sources[0].rows < 600 * ROWS && late.sinks[1].pending_bytes <= 64 << 10, "{late:?}");
    assert!((250..=310).contains(&(outside.refused() - tried)), "{} tries in 50 minutes", outside.refused() - tried);
    assert_eq!(late.checkpoint, early.checkpoint, "no checkpoint is complete without it");

    // killed meanwhile, it does not start without the sink, and says that it may be tried again
    drop(stepper);
    assert_eq!(start().err().unwrap().retry(), Retry::Backoff);
    outside.be(Mood::Well);
    let mut stepper = start().unwrap();
    // and once more, without a death
    while stepper.status().sinks[1].committed <= late.sinks[1].committed {
        step(&mut stepper, &clock).unwrap().unwrap();
    }
    outside.be(Mood::Away);
    let_pass(&mut stepper, &clock, HOUR);
    outside.be(Mood::Well);
    finish(&mut stepper, &clock).unwrap();
    assert!(stepper.status().sinks.iter().all(|s| s.waits.is_none()));
    let mut files = place.visible();
    files.extend(visible_in("totals", &outside.below));
    assert_eq!(net(&rows_of(&files)), net(&place.uninterrupted()));
}

#[test]
fn a_sink_that_is_away_holds_back_nobody_else_while_there_is_room() {
    let place = Place::of(600);
    let (outside, clock) = (Moody::new(), Clock::manual(0));
    let set = |name: &'static str| match name {
        "totals" => rolled(name, DataSet::on(Arc::new(outside.clone()), name, JsonLines)),
        _ => place.set(name),
    };
    let flow = place.flow(&set).unwrap().clock(clock.clone()).memory(1 << 30);
    let mut stepper = flow.state(place.path("state")).checkpoint_every(Duration::ZERO).stepper().unwrap();
    while stepper.status().sinks[1].committed.0 < 5 {
        step(&mut stepper, &clock).unwrap().unwrap();
    }
    outside.be(Mood::Away);
    let_pass(&mut stepper, &clock, HOUR / 60);
    let status = stepper.status();
    let (routed, totals) = (&status.sinks[0], &status.sinks[1]);
    assert!(routed.waits.is_none() && totals.waits.is_some() && !status.phase.is_over(), "{status:?}");
    assert_eq!(status.sources[0].rows, 600 * ROWS, "all is read");
    // it commits after 100 rows: those of some six epochs, of which there are 200
    assert!(status.complete.0 > 150 && routed.committed.0 + 10 > status.complete.0 && totals.committed.0 < 20, "{status:?}");
    outside.be(Mood::Well);
    finish(&mut stepper, &clock).unwrap();
    let mut files = place.visible();
    files.extend(visible_in("totals", &outside.below));
    assert_eq!(net(&rows_of(&files)), net(&place.uninterrupted()));
}

#[test]
fn a_full_disk_under_the_state_lets_nothing_leave_until_there_is_room() {
    let place = Place::new();
    let (disk, clock) = (Moody::new(), Clock::manual(0));
    let start = || {
        let flow = place.flow(&|name| place.set(name)).unwrap().clock(clock.clone());
        flow.memory(4 << 10).state_on(Arc::new(disk.clone()), "state").checkpoint_every(Duration::ZERO).stepper()
    };
    for death in [false, true] {
        let mut stepper = start().unwrap();
        let begun = stepper.status().committed;
        while stepper.status().committed.0 < begun.0 + 4 {
            step(&mut stepper, &clock).unwrap().unwrap();
        }
        disk.be(Mood::Full);
        let_pass(&mut stepper, &clock, HOUR / 60);
        let visible = place.visible();
        let_pass(&mut stepper, &clock, HOUR);
        let status = stepper.status();
        assert!(status.waits.as_ref().is_some_and(|w| w.contains("the disk is full")), "{status:?}");
        assert!(!status.phase.is_over() && status.complete < status.minted, "{status:?}");
        assert!(place.visible() == visible, "what is not bound has left");
        assert!(status.sources[0].rows < FILES * ROWS, "sources are held back");
        if death {
            drop(stepper);
            let e = start().err().unwrap();
            assert!(e.retry() == Retry::Backoff && e.to_string().contains("the disk is full"), "{e}");
            assert!(place.visible() == visible);
            disk.be(Mood::Well);
            stepper = start().unwrap();
            finish(&mut stepper, &clock).unwrap();
        } else {
            disk.be(Mood::Well);
            let committed = status.committed;
            while stepper.status().committed <= committed {
                step(&mut stepper, &clock).unwrap().unwrap();
            }
            assert!(stepper.status().waits.is_none());
        }
    }
    assert_eq!(net(&place.rows()), net(&place.uninterrupted()));
}

/// A pipeline whose view changes by a megabyte with every batch, so that much changes by few rows.
struct Growing {
    sender: memory::Sender,
    stepper: Stepper,
    clock: Clock,
    /// Megabytes.
    sent: usize,
}

impl Growing {
    const KEYS: usize = 128;

    fn new(add: impl FnOnce(&mut Pipeline)) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false)]));
        let (sender, source) = memory::channel(schema, 1 << 20);
        let clock = Clock::manual(0);
        let mut flow = Pipeline::new("much");
        flow.source("keys", source).unwrap();
        flow.view("counts", "SELECT k, count(*) AS n FROM keys GROUP BY k").unwrap();
        add(&mut flow);
        let flow = flow.clock(clock.clone()).memory(16 << 20).state_on(Arc::new(Memory::new()), "state");
        let flow = flow.dead_letters(DataSet::on(Arc::new(Memory::new()), "letters", JsonLines));
        Self { sender, stepper: flow.checkpoint_every(HOUR).stepper().unwrap(), clock, sent: 0 }
    }

    /// Sends a megabyte of new keys; whether it was read.
    fn grow(&mut self) -> bool {
        let keys = (0..Self::KEYS).map(|i| format!("{:08192}", self.sent * Self::KEYS + i));
        let keys = Arc::new(StringArray::from_iter_values(keys));
        let rows = RecordBatch::try_from_iter_with_nullable([("k", keys as _, false)]).unwrap();
        assert!(self.sender.try_send(rows).unwrap().is_some(), "there is room for one");
        self.sent += 1;
        self.go_on();
        self.is_read()
    }

    fn go_on(&mut self) {
        (0..20).for_each(|_| assert!(step(&mut self.stepper, &self.clock).unwrap().is_some()));
    }

    fn is_read(&self) -> bool {
        self.stepper.status().sources[0].rows == (self.sent * Self::KEYS) as u64
    }
}

#[test]
fn views_that_change_much_are_stored_before_it_is_time() {
    let mut growing = Growing::new(|_| ());
    while growing.stepper.status().checkpoint.is_none() {
        assert!(growing.grow() && growing.sent < 100, "{} MB changed, and nothing is stored", growing.sent);
    }
    let Growing { sent, clock, .. } = growing;
    assert!((50..75).contains(&sent) && clock.elapsed() < HOUR, "after {sent} MB and {:?}", clock.elapsed());
}

#[test]
fn while_a_sink_keeps_a_checkpoint_from_its_end_views_do_not_grow_without_bound() {
    let (out, mut deliveries) = sink::memory::sink(1 << 20);
    let mut growing = Growing::new(|flow| {
        flow.view("number", "SELECT count(*) AS n FROM keys").unwrap().sink(out).unwrap();
    });
    // the host stores nothing: a checkpoint begins when it has to, and waits for it
    while growing.grow() {
        assert!(growing.sent < 400, "{} MB changed, and nothing holds it back", growing.sent);
    }
    let held = growing.sent;
    assert!(held > 256 && growing.stepper.status().checkpoint.is_none(), "held back after {held} MB");
    growing.go_on();
    assert!(!growing.is_read(), "it waits for the host");
    // the host comes back
    for _ in 0..100 {
        if growing.is_read() {
            break;
        }
        while let Ok(Some(delivery)) = deliveries.try_recv() {
            delivery.ack();
        }
        growing.go_on();
    }
    assert!(growing.is_read() && growing.stepper.status().checkpoint.is_some());
    assert!(growing.grow(), "nothing holds it back any more");
}

#[derive(Serialize, Deserialize)]
struct Row {
    file: i64,
    k: i64,
    v: i64,
}

impl Record for Row {}

/// The file in which the closure finds what it does not expect.
const POISON: i64 = 41;

fn checked(place: &Place, panics: bool) -> Result<Pipeline> {
    let mut flow = Pipeline::new("checked");
    let rows = flow.source_of::<Row>("numbers", file::JsonLines::dir(place.path("input"), Json::new(schema())))?;
    let checked = rows.filter("sound", 1, move |r| {
        assert!(!panics || r.file != POISON, "out of cheese");
        r.v != 7
    })?;
    checked.view("checked")?.sink(place.set("routed"))?;
    flow.view("totals", "SELECT k, count(*) AS n, max(v) AS high FROM checked GROUP BY k")?.sink(place.set("totals"))?;
    let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 20, bytes: u64::MAX };
    let flow = flow.dead_letters(place.set("dead_letters")).epochs(limits);
    Ok(flow.state(place.path("state")).checkpoint_every(Duration::ZERO))
}

fn column(rows: &str, name: &str) -> Vec<u64> {
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_u64().unwrap();
    rows.lines().map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_closure_lets_nothing_of_its_epoch_leave_and_a_mended_one_goes_on() {
    // a first run over half of the files ends well, so that there is a checkpoint to go on after
    let half = async |workers| {
        let place = Place::new();
        (FILES / 2..FILES).for_each(|file| place.hide(file, true));
        checked(&place, true).unwrap().workers(workers).start().await.unwrap().wait().await.unwrap();
        (FILES / 2..FILES).for_each(|file| place.hide(file, false));
        place
    };
    let healthy = half(1).await;
    checked(&healthy, false).unwrap().start().await.unwrap().wait().await.unwrap();
    let expected = net(&healthy.rows());
    for workers in [1, 3] {
        let place = half(workers).await;
        for _ in 0..3 {
            let running = checked(&place, true).unwrap().workers(workers).start().await.unwrap();
            let e = running.wait().await.unwrap_err();
            assert!(matches!(running.status().phase, Phase::Failed(_)));
            assert!(running.query("SELECT * FROM totals").await.unwrap_err().to_string().contains("out of cheese"));
            drop(running);
            wait_for_release(&place).await;
            let text = e.to_string();
            let epoch: u64 = text.split_once("panicked in epoch ").unwrap().1.split(':').next().unwrap().parse().unwrap();
            let rows = place.rows();
            for set in ["routed", "totals"] {
                let text = rows.get(set).map_or("", String::as_str);
                assert!(column(text, "epoch").iter().all(|e| *e < epoch), "{set} holds something of epoch {epoch}");
            }
            assert!(rows.get("routed").is_none_or(|text| !column(text, "file").contains(&(POISON as u64))));
            let message = format!(
                "closure 'sound' of view checked panicked in epoch {epoch}: out of cheese\n  \
                 hint: mend the closure and start the pipeline again; nothing of that epoch left it"
            );
            assert!(text.ends_with(&message), "{text}");
        }
        let running = checked(&place, false).unwrap().workers(workers).start().await.unwrap();
        let status = running.wait().await.unwrap();
        assert!(status.restored.is_some(), "it goes on after a checkpoint");
        assert_eq!(net(&place.rows()), expected, "{workers} workers");
    }
}

/// Until the engine's threads have let go of all folders.
async fn wait_for_release(place: &Place) {
    for _ in 0..1000 {
        if ["state", "routed", "totals", "dead_letters"].iter().all(|folder| Folder::open(place.path(folder)).is_ok()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a folder is not let go of");
}
