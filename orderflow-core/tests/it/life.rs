//! Life in a service: start, read, pause, fail, end.

use crate::feed::{collect, feed};
use crate::scripted::{Next, Run, Script, Scripted};
use orderflow_core::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use orderflow_core::epoch::Limits;
use orderflow_core::error::{Error, Kind, Result};
use orderflow_core::format::Format;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::sink::memory;
use orderflow_core::source::{self, Polled, Reader, Source, SourceContext, SourceStatus};
use orderflow_core::store::{Memory, Store};
use orderflow_core::time::{Partition, Positions};
use orderflow_core::{Phase, Pipeline, Running};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

fn batch(n: &[i64]) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(n.to_vec())) as ArrayRef]).unwrap()
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pipelines_run_in_one_process() {
    let mut handles = vec![];
    for name in ["one", "two"] {
        let (feed, source) = feed(schema());
        let mut flow = Pipeline::new(name);
        flow.source("numbers", source).unwrap();
        flow.view("total", "SELECT sum(n) AS n FROM numbers").unwrap();
        handles.push((feed, flow.workers(2).start().await.unwrap()));
    }
    for (i, (feed, running)) in handles.iter().enumerate() {
        feed.send(batch(&[1, 2, i as i64]), vec![1; 3]);
        running.settled().await.unwrap();
        assert_eq!(numbers(&running.query("SELECT n FROM total").await.unwrap()), [3 + i as i64]);
    }
    for (feed, running) in handles {
        drop(feed);
        assert!(matches!(running.wait().await.unwrap().phase, Phase::Finished));
        assert_eq!(running.query("SELECT n FROM total").await.unwrap().len(), 1, "views can be read after a good end");
        running.stop().await.unwrap();
        assert!(running.query("SELECT n FROM total").await.unwrap_err().to_string().contains("ended"));
    }
}

#[tokio::test]
async fn an_overflow_is_a_dead_letter_and_the_rest_goes_on() {
    let (feed, source) = feed(schema());
    let (dead, letters) = memory::sink(100);
    let letters = collect(letters);
    let mut flow = Pipeline::new("overflow");
    flow.source("numbers", source).unwrap();
    flow.view("more", "SELECT n + 1 AS m FROM numbers").unwrap();
    let running = flow.dead_letters(dead.auto_ack()).start().await.unwrap();
    feed.send(batch(&[1, i64::MAX, 3]), vec![1; 3]);
    running.settled().await.unwrap();
    assert_eq!(numbers(&running.query("SELECT m FROM more ORDER BY m").await.unwrap()), [2, 4]);
    drop(feed);
    let status = running.wait().await.unwrap();
    assert_eq!(status.rejected["more"], 1);
    let letters = letters.join().unwrap();
    let row = letters[0].changes[0].rows();
    assert!(row.column(4).as_string::<i32>().value(0).contains("verflow"), "{row:?}");
    assert_eq!(row.column(5).as_binary::<i32>().value(0), format!("{{\"n\":{}}}", i64::MAX).as_bytes());
}

#[tokio::test]
async fn a_sum_that_does_not_fit_leaves_and_comes_back() {
    let (feed, source) = feed(schema());
    let (dead, letters) = memory::sink(100);
    let letters = collect(letters);
    let mut flow = Pipeline::new("sums");
    flow.source("numbers", source).unwrap();
    flow.view("total", "SELECT sum(n) AS n FROM numbers WHERE n <> 7 GROUP BY n > 0").unwrap();
    let running = flow.dead_letters(dead.auto_ack()).start().await.unwrap();
    let read = async || numbers(&running.query("SELECT n FROM total").await.unwrap());
    feed.send(batch(&[i64::MAX, -5]), vec![1; 2]);
    running.settled().await.unwrap();
    assert_eq!(read().await.len(), 2);
    feed.send(batch(&[1]), vec![1]);
    running.settled().await.unwrap();
    assert_eq!(read().await, [-5], "the sum that does not fit is not shown");
    feed.send(batch(&[1]), vec![-1]);
    running.settled().await.unwrap();
    assert_eq!(read().await.len(), 2);
    drop(feed);
    assert_eq!(running.wait().await.unwrap().rejected["total"], 0);
    let diffs: Vec<i64> = letters.join().unwrap().iter().flat_map(|d| d.changes[0].diff_iter().collect::<Vec<_>>()).collect();
    assert_eq!(diffs, [1, -1]);
}

#[tokio::test]
async fn a_panic_in_an_operator_fails_the_pipeline_and_not_the_host() {
    let (feed, source) = feed(schema());
    let mut flow = Pipeline::new("panics");
    let stream = flow.source("numbers", source).unwrap();
    let raw = stream.operator("bad", 1, &schema(), |s| {
        use timely::dataflow::operators::InspectCore;
        s.inspect_container(|x| {
            if x.is_ok() {
                panic!("out of cheese")
            }
        })
    });
    raw.unwrap().view("v").unwrap();
    let running = flow.workers(2).start().await.unwrap();
    feed.send(batch(&[1]), vec![1]);
    let e = running.wait().await.unwrap_err();
    assert!(e.to_string().contains("out of cheese"), "{e}");
    assert!(matches!(running.status().phase, Phase::Failed(_)));
    assert!(running.query("SELECT * FROM v").await.unwrap_err().to_string().contains("out of cheese"));
}

/// A source whose reader ends badly when it is polled, and panics again when it is closed.
struct Broken {
    panics: bool,
    /// Whether it panics also when it is asked how it stands.
    mute: bool,
}

impl Source for Broken {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, _: SourceContext) -> Result<Box<dyn Reader>> {
        Ok(self)
    }
}

impl Reader for Broken {
    fn poll(&mut self) -> Result<Polled> {
        assert!(!self.panics, "out of cheese");
        Err(Error::external("out of cheese").permanent())
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        assert!(!self.mute, "out of grapes, too");
        SourceStatus::default()
    }

    fn close(&mut self) -> Result<()> {
        panic!("out of crackers, too")
    }
}

/// Runs the source to its end, which is told with the first reason.
async fn broken(source: Broken) {
    let mut flow = Pipeline::new("broken");
    flow.source("numbers", source).unwrap().view("v").unwrap();
    let running = flow.start().await.unwrap();
    let e = running.wait().await.unwrap_err().to_string();
    assert!(e.contains("out of cheese") && !e.contains(", too"), "{e}");
    assert!(matches!(running.status().phase, Phase::Failed(e) if e.to_string().contains("out of cheese")));
}

#[tokio::test]
async fn a_panic_while_a_broken_source_is_closed_does_not_hide_what_broke_it() {
    for panics in [true, false] {
        broken(Broken { panics, mute: false }).await;
    }
}

#[tokio::test]
async fn a_panic_while_a_broken_source_is_asked_how_it_stands_does_not_hide_what_broke_it() {
    for panics in [true, false] {
        broken(Broken { panics, mute: true }).await;
    }
}

#[tokio::test]
async fn a_handle_that_is_dropped_stops_its_pipeline() {
    let (sender, source) = source::memory::channel(schema(), 1_000);
    let mut flow = Pipeline::new("dropped");
    flow.source("numbers", source).unwrap();
    flow.view("total", "SELECT sum(n) AS n FROM numbers").unwrap();
    let running = flow.start().await.unwrap();
    sender.send(batch(&[1])).await.unwrap();
    running.settled().await.unwrap();
    drop(running);
    let began = Instant::now();
    // nobody waits for it, and whoever sends is told
    let e = loop {
        match sender.try_send(batch(&[2])) {
            Err(e) => break e,
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(30), "it goes on"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(e.to_string().contains("the pipeline has stopped"), "{e}");
}

#[tokio::test]
async fn a_paused_pipeline_takes_nothing_until_resumed() {
    let (feed, source) = feed(schema());
    let mut flow = Pipeline::new("pause");
    flow.source("numbers", source).unwrap();
    flow.view("total", "SELECT count(*) AS n FROM numbers").unwrap();
    let running = flow.start().await.unwrap();
    feed.send(batch(&[1]), vec![1]);
    running.settled().await.unwrap();
    running.pause().unwrap();
    running.settled().await.unwrap();
    feed.send(batch(&[2]), vec![1]);
    running.settled().await.unwrap();
    assert_eq!(numbers(&running.query("SELECT n FROM total").await.unwrap()), [1]);
    running.resume().unwrap();
    running.settled().await.unwrap();
    assert_eq!(numbers(&running.query("SELECT n FROM total").await.unwrap()), [2]);
    running.stop().await.unwrap();
    assert!(matches!(running.status().phase, Phase::Stopped));
}

/// Two partitions of the same number in every row, up to a position that the test moves.
struct Numbers {
    upto: Arc<AtomicU64>,
    /// Rows of a fetch.
    run: u64,
}

impl Script for Numbers {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn partitions(&self, source: &str) -> Vec<Partition> {
        [0, 1].map(|id| Partition::new(source, id)).to_vec()
    }

    fn next(&self, at: &Positions) -> Next {
        let upto = self.upto.load(Ordering::Acquire);
        let Some((partition, from)) = at.iter().filter(|(_, at)| **at < upto).min_by_key(|(_, at)| **at) else { return Next::Idle };
        let to = upto.min(from + self.run);
        let rows = batch(&vec![1; (to - from) as usize]);
        Next::Run(Run { partition: partition.clone(), from: *from, to, records: (*from..to).collect(), rows, latest: None })
    }
}

#[tokio::test]
async fn what_is_read_again_is_read_to_its_end_also_when_paused_or_drained_and_what_was_read_beside_it_goes_out() {
    for drained in [false, true] {
        let state: Arc<dyn Store> = Arc::new(Memory::new());
        let start = async |upto: &Arc<AtomicU64>, run| {
            let mut flow = Pipeline::new("again");
            flow.source("numbers", Scripted(Numbers { upto: upto.clone(), run })).unwrap();
            flow.view("total", "SELECT count(*) AS n FROM numbers").unwrap();
            let flow = flow.epochs(Limits { rows: 4, ..Limits::default() }).checkpoint_every(Duration::from_secs(1 << 30));
            let letters = DataSet::on(Arc::new(Memory::new()), "letters", JsonLines);
            flow.state_on(state.clone(), "state").dead_letters(letters).start().await.unwrap()
        };
        let counted = async |running: &Running| numbers(&running.query("SELECT n FROM total").await.unwrap());
        let upto = Arc::new(AtomicU64::new(10));
        let running = start(&upto, 3).await;
        running.settled().await.unwrap();
        assert_eq!(counted(&running).await, [20]);
        running.stop().await.unwrap();

        // each partition comes in one piece now: what is read again, and more than that
        upto.store(0, Ordering::Release);
        let running = Arc::new(start(&upto, 100).await);
        if drained {
            let end = tokio::spawn({
                let running = running.clone();
                async move { running.drain().await }
            });
            while matches!(running.status().phase, Phase::Running) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            upto.store(25, Ordering::Release);
            let status = tokio::time::timeout(Duration::from_secs(60), end).await.expect("draining ends").unwrap().unwrap();
            assert!(matches!(status.phase, Phase::Finished));
            assert_eq!(counted(&running).await, [50]);
            continue;
        }
        running.pause().unwrap();
        while matches!(running.status().phase, Phase::Running) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        upto.store(25, Ordering::Release);
        let settled = async |what: &str| tokio::time::timeout(Duration::from_secs(60), running.settled()).await.expect(what).unwrap();
        settled("paused while it reads again").await;
        assert_eq!(counted(&running).await, [50]);
        upto.store(30, Ordering::Release);
        settled("paused").await;
        assert_eq!(counted(&running).await, [50], "it takes nothing new");
        running.resume().unwrap();
        settled("resumed").await;
        assert_eq!(counted(&running).await, [60]);
    }
}

#[tokio::test]
async fn wrong_pipelines_are_refused_with_a_hint() {
    let e = Pipeline::new("empty").start().await.err().unwrap();
    assert!(e.kind() == Kind::User && e.to_string().contains("no source") && e.remedy().is_some());
    let (_feed, source) = feed(schema());
    let mut flow = Pipeline::new("wrong");
    flow.source("numbers", source).unwrap();
    let e = flow.view("v", "SELECT m FROM numbers").err().unwrap();
    assert!(e.to_string().contains('^') && e.to_string().contains("'m'"), "{e}");
    let e = flow.view("v", "SELECT now() AS t FROM numbers").err().unwrap();
    assert!(e.to_string().contains("now"), "{e}");
}

#[tokio::test]
async fn a_checkpoint_can_be_asked_for() {
    let state: Arc<dyn orderflow_core::store::Store> = Arc::new(orderflow_core::store::Memory::new());
    let start = async |source| {
        let mut flow = Pipeline::new("stored");
        flow.source("numbers", source).unwrap();
        flow.view("total", "SELECT sum(n) AS n FROM numbers").unwrap();
        let letters = Arc::new(orderflow_core::store::Memory::new());
        let never = std::time::Duration::from_secs(1 << 30);
        flow.dead_letters(DataSet::on(letters, "letters", JsonLines))
            .state_on(state.clone(), "state")
            .checkpoint_every(never)
            .start()
            .await
            .unwrap()
    };
    let (to, source) = feed(schema());
    let running = start(source).await;
    to.send(batch(&[1, 2]), vec![1; 2]);
    let read = running.settled().await.unwrap();
    let epoch = running.checkpoint().await.unwrap();
    assert!(epoch >= read.complete && running.status().checkpoint == Some(epoch), "{epoch}");
    assert_eq!(running.checkpoint().await.unwrap(), epoch, "nothing came since");
    // what was read and is in no closed epoch yet is stored, too
    to.send(batch(&[4]), vec![1]);
    running.settled().await.unwrap();
    assert!(running.checkpoint().await.unwrap() > epoch);
    running.stop().await.unwrap();
    assert!(running.checkpoint().await.unwrap_err().to_string().contains("ended"));
    // another source that gives nothing: everything comes from what is stored
    let (to, source) = feed(schema());
    let running = start(source).await;
    to.send(batch(&[8]), vec![1]);
    running.settled().await.unwrap();
    assert_eq!(numbers(&running.query("SELECT n FROM total").await.unwrap()), [15]);
    let (_to, source) = feed(schema());
    let mut flow = Pipeline::new("unstored");
    flow.source("numbers", source).unwrap();
    let e = flow.start().await.unwrap().checkpoint().await.unwrap_err();
    assert!(e.to_string().contains("without state"), "{e}");
}
