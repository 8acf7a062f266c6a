//! A panic in what somebody else wrote, a sink, a source or a store, ends the pipeline with its words, wherever it happens; the host goes on.

use crate::feed::feed;
use crate::scripted::{Next, Script, Scripted};
use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Sink, SinkContext, Writer};
use orderflow_core::source::SourceStatus;
use orderflow_core::store::layer::{Layer, Layered};
use orderflow_core::store::{Memory, Store, Upload};
use orderflow_core::time::{Partition, Positions};
use orderflow_core::{Error, Phase, Pipeline, Result, Running};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

fn batch() -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef]).unwrap()
}

/// Why it ended.
async fn end_of(running: &Running) -> Error {
    let ended = tokio::time::timeout(Duration::from_secs(60), running.wait()).await.expect("it ends");
    let e = ended.expect_err("it fails");
    assert!(matches!(running.status().phase, Phase::Failed(_)), "{:?}", running.status().phase);
    assert!(running.query("SELECT 1 FROM v").await.is_err(), "nothing waits for what is gone");
    e
}

/// A sink whose writer panics in one of its calls.
#[derive(Clone, Copy)]
struct Glass(&'static str);

impl Glass {
    fn hit(self, call: &str) {
        assert!(self.0 != call, "{call} is made of glass");
    }
}

impl Sink for Glass {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "glass"
    }

    fn open(self: Box<Self>, _: SinkContext) -> Result<Opened> {
        Ok(Opened { writer: self, progress: None })
    }
}

impl Writer for Glass {
    fn write(&mut self, _: Closed) -> Result<()> {
        self.hit("write");
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.hit("flush");
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        self.hit("poll");
        Ok(Committed::default())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn of_a_sink_in_any_call() {
    for call in ["write", "flush", "poll"] {
        let (feed, source) = feed(schema());
        let mut flow = Pipeline::new("glass");
        flow.source("numbers", source).unwrap().view("v").unwrap().sink(Glass(call)).unwrap();
        let running = flow.start().await.unwrap();
        feed.send(batch(), vec![1; 2]);
        drop(feed); // it ends, and flushes
        let e = end_of(&running).await;
        assert!(e.to_string().contains("glass of v") && e.to_string().contains(&format!("{call} is made of glass")), "{e}");
    }
}

/// A source that gives nothing and panics, once it is told to, when it is asked how it stands.
struct Mute(Arc<AtomicBool>);

impl Script for Mute {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, _: &str) -> Vec<Partition> {
        vec![]
    }

    fn next(&self, _: &Positions) -> Next {
        Next::Idle
    }

    fn status(&self, _: &Positions) -> SourceStatus {
        assert!(!self.0.load(Ordering::Relaxed), "nobody knows");
        SourceStatus::default()
    }
}

#[tokio::test]
async fn of_a_source_that_is_asked_how_it_stands() {
    let armed = Arc::new(AtomicBool::new(false));
    let mut flow = Pipeline::new("mute");
    flow.source("numbers", Scripted(Mute(armed.clone()))).unwrap().view("v").unwrap();
    let running = flow.start().await.unwrap();
    armed.store(true, Ordering::Relaxed);
    let e = end_of(&running).await;
    assert!(e.to_string().contains("nobody knows"), "{e}");
}

/// A store that panics, once it is told to, when an object is begun or an entry written.
#[derive(Debug)]
struct Brittle {
    below: Memory,
    armed: AtomicBool,
    /// Or else begun.
    entries: bool,
}

impl Layer for Brittle {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        assert!(self.entries || !self.armed.load(Ordering::Relaxed), "the store breaks");
        self.below.put(name)
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        assert!(!self.entries || !self.armed.load(Ordering::Relaxed), "the store breaks");
        self.below.put_if_absent(name, bytes)
    }
}

#[tokio::test]
async fn of_the_store_of_the_state() {
    for entries in [true, false] {
        let store = Arc::new(Layered(Brittle { below: Memory::new(), armed: AtomicBool::new(false), entries }));
        let (feed, source) = feed(schema());
        let mut flow = Pipeline::new("brittle");
        flow.source("numbers", source).unwrap().view("v").unwrap();
        let letters = DataSet::on(Arc::new(Memory::new()), "letters", JsonLines);
        let flow = flow.state_on(store.clone(), "state").checkpoint_every(Duration::ZERO).dead_letters(letters);
        let running = flow.start().await.unwrap();
        store.0.armed.store(true, Ordering::Relaxed);
        feed.send(batch(), vec![1; 2]);
        let e = end_of(&running).await;
        assert!(e.to_string().contains("the store breaks"), "{e}");
    }
}
