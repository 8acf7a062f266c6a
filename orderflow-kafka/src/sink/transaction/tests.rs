//! The conformance suite on a real Kafka, with commits that fail and commits whose answer is lost.
//! Run with `ORDERFLOW_KAFKA=host:port`; without it every test here says that it is skipped.
//!
//! Invariant: what came out is judged by reading the topic as any other program would, with `read_committed`.

use crate::{Admin, Kafka, KafkaSink, KafkaSource, Until};
use orderflow_core::bug::{self, Bug};
use orderflow_core::error::Retry;
use orderflow_core::sink::{Input, Sink, SinkContext};
use orderflow_core::source::{Payload, Polled, Source, SourceContext, Waker};
use orderflow_core::testing::conformance::{self, Fault, SeenRow, SinkReport, SinkSubject};
use orderflow_core::time::{Clock, Positions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a reader may wait for the next records.
const PATIENCE: Duration = Duration::from_secs(60);

/// JSON objects in one partition, by a sink whose commits can fail.
struct Subject {
    brokers: String,
    prefix: String,
    /// What is opened is a copy, whose commits go the same way.
    sink: KafkaSink,
    /// Whether the writer of a commit that did nothing is told to abort; otherwise it is not told what became of it.
    aborts: bool,
}

impl Subject {
    /// A place of the test's own, if there is a cluster.
    fn new(test: &str, aborts: bool) -> Option<Self> {
        let Ok(brokers) = std::env::var("ORDERFLOW_KAFKA") else {
            eprintln!("{test}: skipped, set ORDERFLOW_KAFKA=host:port to run it against a real Kafka");
            return None;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let prefix = format!("it-{test}-{now}-");
        let sink = Kafka::sink(&brokers).prefix(&prefix).topic("t").partitions(1).replication(1);
        Some(Self { brokers, prefix, sink, aborts })
    }

    fn forget(self) {
        let admin = Admin::connect(self.brokers.as_str()).unwrap();
        for topic in admin.topics().unwrap().into_iter().filter(|t| t.name.starts_with(&self.prefix)) {
            admin.delete_topic(&topic.name).unwrap();
        }
    }
}

impl SinkSubject for Subject {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(self.sink.clone())
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        let row = |value: String| {
            let row: serde_json::Value = serde_json::from_str(&value).unwrap();
            SeenRow {
                epoch: row["epoch"].as_u64().unwrap(),
                diff: row["diff"].as_i64().unwrap(),
                id: row["id"].as_i64().unwrap(),
                name: row["name"].as_str().map(Into::into),
            }
        };
        let topic = format!("{}t", self.prefix);
        // a commit is answered before it can be seen
        Admin::connect(self.brokers.as_str()).unwrap().settled(&topic, Duration::from_secs(2)).unwrap();
        let source = Kafka::topic(topic).brokers(&self.brokers).until(Until::Latest);
        values(source).into_iter().map(row).collect()
    }

    fn commits_unheard(&self) -> bool {
        true
    }

    // it pauses before it writes a transaction again
    fn clock(&mut self) -> Clock {
        Clock::system()
    }

    fn fail_next(&mut self, fault: Fault) -> bool {
        self.sink.faults.at_the_next_commit(fault, self.aborts && fault == Fault::Before);
        true
    }

    fn has_failed(&mut self) -> bool {
        self.sink.faults.has_failed()
    }
}

/// Values of a bounded source, in order.
fn values(source: KafkaSource) -> Vec<String> {
    let (wake, woken) = sync_channel(1);
    let context = SourceContext {
        pipeline: "test".into(),
        name: "source".into(),
        resume: None,
        until: None,
        stood: Positions::new(),
        wake: Waker::new(move || {
            let _ = wake.try_send(()); // one call is enough
        }),
        clock: Clock::system(),
    };
    let mut reader = Box::new(source).open(context).unwrap();
    let mut values = vec![];
    loop {
        match reader.poll().unwrap() {
            Polled::Fetch(fetch) => {
                let Payload::Raw(batch) = fetch.payload else { continue };
                let texts = (0..batch.len()).filter_map(|i| batch.record(i).value.map(|v| String::from_utf8_lossy(v).into_owned()));
                values.extend(texts);
            }
            Polled::Idle => woken.recv_timeout(PATIENCE).expect("nothing came in time"),
            Polled::Ended => break,
        }
    }
    reader.close().unwrap();
    values
}

#[test]
fn real_the_sink_keeps_every_promise_of_the_contract() {
    let Some(mut subject) = Subject::new("contract", false) else { return };
    let report = conformance::sink(&mut subject);
    assert_eq!(report, SinkReport { failed: 5, unanswered: 5, refused: false });
    subject.forget();
}

/// A transaction that was aborted may be written again unasked, and so passes; one whose commit was not answered may not.
#[test]
fn real_the_suite_finds_a_commit_that_is_done_again_unasked() {
    let Some(mut subject) = Subject::new("blind", true) else { return };
    let run = || bug::with(Bug::BlindRetry, || conformance::sink(&mut subject));
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the bug goes unnoticed");
    let said = panic.downcast_ref::<String>().expect("a text");
    assert!(said.contains("a commit failed (After) and the writer went on"), "{said}");
    subject.forget();
}

#[test]
fn real_a_transaction_that_always_fails_ends_the_sink_with_a_hint_and_writes_nothing() {
    let Some(mut subject) = Subject::new("never", true) else { return };
    let (sink, schema) = (subject.sink(), conformance::schema());
    assert_eq!(sink.columns(&Input { schema: schema.clone(), key: None }).unwrap(), None);
    let context = SinkContext { clock: Clock::system(), ..conformance::context(7, 1, &schema) };
    let mut writer = sink.open(context).unwrap().writer;
    writer.write(conformance::closed(1)).unwrap();
    writer.flush().unwrap();
    let (mut failed, began) = (0, Instant::now());
    subject.fail_next(Fault::Before);
    let e = loop {
        if subject.has_failed() {
            failed += 1;
            subject.fail_next(Fault::Before);
        }
        match writer.poll(Duration::from_millis(20)) {
            Ok(committed) => assert_eq!(committed.progress.map(|p| p.epoch), None),
            Err(e) => break e,
        }
        assert!(began.elapsed() < 2 * PATIENCE, "it goes on for ever, after {failed} failures");
    };
    assert!(e.retry() == Retry::Never && e.to_string().contains("fail again and again") && e.to_string().contains("on purpose"), "{e}");
    assert!(e.remedy().unwrap().contains("transaction.timeout.ms"), "{e}");
    // other steps may fail too, and count
    assert!((6..=11).contains(&failed) && subject.seen().is_empty(), "{failed} failures");
    writer.close().unwrap();
    subject.forget();
}
