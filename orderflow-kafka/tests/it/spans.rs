//! The threads of the source and the sink run in spans that name the pipeline.
//!
//! Invariant: spans are made by the thread that opens, so a subscriber of this thread alone hears which threads enter them.

use crate::support::{PATIENCE, batch, broker_with, open, try_write};
use crate::transactions::Place;
use orderflow_core::arrow::array::{ArrayRef, StringArray};
use orderflow_core::testing::listening;
use orderflow_kafka::Kafka;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[derive(Clone, Default)]
struct Listener {
    /// Names and fields, by number.
    spans: Arc<Mutex<Vec<String>>>,
    /// Which thread was in which of them.
    entered: Arc<Mutex<BTreeSet<String>>>,
}

/// Fields by name, as text.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("orderflow_kafka") && metadata.is_span()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let text: Vec<String> = fields.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut spans = self.spans.lock().unwrap();
        spans.push(format!("{}{{{}}}", span.metadata().name(), text.join(" ")));
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        let name = self.spans.lock().unwrap()[span.into_u64() as usize - 1].clone();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.entered.lock().unwrap().insert(format!("{thread}: {name}"));
    }

    fn exit(&self, _: &Id) {}
}

/// Waits until what `work` opened has threads in exactly these spans.
fn assert_entered<T>(work: impl FnOnce() -> T, expected: &[&str]) {
    let listener = Listener::default();
    let opened = listening(listener.clone(), work);
    let deadline = Instant::now() + PATIENCE;
    while listener.entered.lock().unwrap().len() < expected.len() {
        assert!(Instant::now() < deadline, "{:?}", listener.entered.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(listener.entered.lock().unwrap().iter().eq(expected), "{:?}", listener.entered.lock().unwrap());
    drop(opened);
}

#[test]
fn the_threads_of_source_and_sink_run_in_spans_with_the_name_of_the_pipeline() {
    let broker = broker_with(&[("t", 1)]);
    let source = Kafka::topic("t").brokers(broker.bootstrap_servers());
    assert_entered(|| open(source), &["orderflow-kafka-watch: orderflow_kafka{part=watch pipeline=test source=source}"]);
    let schema = batch(vec![("__value", Arc::new(StringArray::from(vec!["v"])) as ArrayRef)]).schema();
    let sink = Kafka::sink(broker.bootstrap_servers()).embedded(&broker).topic("t").value_sql("v");
    let topics = "orderflow-kafka-topics: orderflow_kafka{part=topics pipeline=test sink=kafka of view}";
    assert_entered(|| try_write(sink, &schema).unwrap(), &[topics]);
}

#[test]
fn real_the_thread_that_commits_runs_in_a_span_with_the_name_of_the_pipeline() {
    let Some(place) = Place::new("spans", &[]) else { return };
    let expected = [
        "orderflow-kafka-commit: orderflow_kafka{part=commit pipeline=test sink=kafka of view}",
        "orderflow-kafka-topics: orderflow_kafka{part=topics pipeline=test sink=kafka of view}",
    ];
    assert_entered(|| place.open(7, 1), &expected);
    place.forget();
}
