//! Exactly-once output on a real Kafka: what is committed is seen once, whoever dies, sleeps or takes over in between.
//! Run with `ORDERFLOW_KAFKA=host:port`; without it every test here says that it is skipped.
//!
//! Invariant: what came out is judged by reading topics as any other program would, with `read_committed`.

use crate::real::cluster;
use crate::support::{PATIENCE, batch, read_all};
use orderflow_core::arrow::array::{ArrayRef, StringArray};
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::error::{Kind, Retry};
use orderflow_core::sink::{Closed, Guarantee, Opened, Progress, Refused, Sink, SinkContext, Writer, WriterId};
use orderflow_core::time::{Clock, Epoch};
use orderflow_core::{Error, Result};
use orderflow_kafka::{Admin, Kafka, KafkaSink, Until};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A cluster, and a topic of one partition for plain values.
pub(crate) struct Place {
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    topic: String,
    pub(crate) admin: Admin,
}

impl Place {
    pub(crate) fn new(test: &str, properties: &[(&str, &str)]) -> Option<Self> {
        let (brokers, prefix) = cluster(test)?;
        let place = Self::at(brokers, prefix);
        place.admin.create_topic(&place.topic, 1, 1, properties).unwrap();
        Some(place)
    }

    /// One that is there already.
    pub(crate) fn at(brokers: String, prefix: String) -> Self {
        let (admin, topic) = (Admin::connect(brokers.as_str()).unwrap(), format!("{prefix}t"));
        Self { brokers, prefix, topic, admin }
    }

    pub(crate) fn sink(&self) -> KafkaSink {
        Kafka::sink(&self.brokers).prefix(&self.prefix).topic("t").value_sql("v").replication(1)
    }

    pub(crate) fn progress(&self) -> String {
        format!("{}test.progress", self.prefix)
    }

    pub(crate) fn open(&self, ledger: u128, generation: u64) -> Act {
        self.try_open(self.sink(), ledger, generation).unwrap()
    }

    pub(crate) fn try_open(&self, sink: KafkaSink, ledger: u128, generation: u64) -> Result<Act> {
        self.try_open_at(sink, ledger, generation, Clock::manual(0), schema())
    }

    pub(crate) fn try_open_at(&self, sink: KafkaSink, ledger: u128, generation: u64, clock: Clock, schema: SchemaRef) -> Result<Act> {
        let writer = WriterId { ledger, generation };
        assert_eq!((sink.guarantee(true), sink.guarantee(false)), (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce));
        let context = SinkContext { pipeline: "test".into(), view: "view".into(), writer, schema, kept: true, clock: clock.clone() };
        let Opened { writer, progress } = Box::new(sink).open(context)?;
        Ok(Act { writer, held: progress, clock, refused: vec![] })
    }

    /// All values that a reader of committed transactions sees, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.settle(&self.topic);
        let source = Kafka::topic(&self.topic).brokers(&self.brokers).until(Until::Latest);
        read_all(source).into_iter().filter_map(|s| s.value).collect()
    }

    /// A commit is answered before it can be seen. Transactions that a test leaves open stay open.
    pub(crate) fn settle(&self, topic: &str) {
        self.admin.settled(topic, Duration::from_secs(2)).unwrap();
    }

    /// How many values somebody sees who does not ask for committed ones.
    pub(crate) fn dirty(&self) -> usize {
        let source = Kafka::topic(&self.topic).brokers(&self.brokers).until(Until::Latest).property("isolation.level", "read_uncommitted");
        read_all(source).len()
    }

    /// A producer that has won this transactional id.
    pub(crate) fn producer(&self, id: &str) -> BaseProducer {
        let mut config = ClientConfig::new();
        let producer: BaseProducer = config.set("bootstrap.servers", &self.brokers).set("transactional.id", id).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    }

    /// The producer of another sink of the same pipeline, with progress that is written and not committed.
    pub(crate) fn dead_sister(&self) -> BaseProducer {
        let id = format!("{}test/view/other/0", self.prefix);
        let producer = self.producer(&id);
        producer.begin_transaction().unwrap();
        let record = r#"{"ledger":"7","generation":1,"epoch":2,"part":0}"#;
        producer.send(BaseRecord::to(&self.progress()).key(&id).payload(record).partition(0)).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer
    }

    pub(crate) fn forget(self) {
        for topic in self.admin.topics().unwrap().into_iter().filter(|t| t.name.starts_with(&self.prefix)) {
            self.admin.delete_topic(&topic.name).unwrap();
        }
    }
}

/// An open sink, whose clock goes only when it is told.
pub(crate) struct Act {
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) held: Option<Progress>,
    pub(crate) clock: Clock,
    refused: Vec<Rejected>,
}

impl Act {
    pub(crate) fn write(&mut self, epoch: u64) {
        self.write_values(epoch, values(epoch));
    }

    fn write_values(&mut self, epoch: u64, values: Vec<String>) {
        let rows = batch(vec![("__value", Arc::new(StringArray::from(values)) as ArrayRef)]);
        self.writer.write(Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(rows)] }).unwrap();
    }

    /// Polls until `epoch` is committed; time goes by.
    pub(crate) fn until(&mut self, epoch: u64) -> Result<()> {
        self.writer.flush()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.clock.advance(Duration::from_millis(20));
            match self.writer.poll(Duration::from_millis(50)) {
                Ok(committed) => {
                    self.refused.extend(committed.refused.into_iter().flat_map(Refused::bind));
                    if committed.progress.is_some_and(|p| p.epoch >= Epoch(epoch)) {
                        return Ok(());
                    }
                }
                Err(e) if e.retry() == Retry::Backoff => eprintln!("{e}"),
                Err(e) => return Err(e),
            }
            assert!(Instant::now() < deadline, "epoch {epoch} did not get out");
        }
    }

    /// Leaves the rows of `epoch` at the broker in a transaction that is not committed: a commit was just made, and another may follow later only.
    fn leave_open(&mut self, epoch: u64, place: &Place) {
        let dirty = place.dirty();
        self.write(epoch - 1);
        self.writer.flush().unwrap();
        self.writer.poll(Duration::ZERO).unwrap();
        self.clock.advance(Duration::from_millis(200));
        self.until(epoch - 1).unwrap();
        self.write(epoch);
        let deadline = Instant::now() + PATIENCE;
        while place.dirty() < dirty + 20 {
            let committed = self.writer.poll(Duration::from_millis(20)).unwrap();
            assert_eq!(committed.progress.unwrap().epoch, Epoch(epoch - 1));
            assert!(Instant::now() < deadline, "the rows did not leave");
        }
    }

    pub(crate) fn error(&mut self) -> Error {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.writer.poll(Duration::from_millis(50)) {
                Err(e) if e.retry() == Retry::Never => return e,
                _ => assert!(Instant::now() < deadline, "it never failed"),
            }
        }
    }
}

fn schema() -> SchemaRef {
    batch(vec![("__value", Arc::new(StringArray::from(vec!["v"])) as ArrayRef)]).schema()
}

/// The ten values of an epoch.
fn values(epoch: u64) -> Vec<String> {
    (0..10).map(|i| format!("{epoch}-{i}")).collect()
}

pub(crate) fn through(epochs: std::ops::RangeInclusive<u64>) -> Vec<String> {
    epochs.flat_map(values).collect()
}

pub(crate) fn at(progress: Option<Progress>) -> Option<(u128, u64, u64)> {
    progress.map(|p| (p.writer.ledger, p.writer.generation, p.epoch.0))
}

#[test]
fn real_progress_is_read_back_after_every_commit_and_every_opening() {
    let Some(place) = Place::new("progress", &[]) else { return };
    let sink = place.sink();
    let counters = sink.counters();
    let mut act = place.try_open(sink, 7, 1).unwrap();
    assert_eq!(at(act.held), None);
    for epoch in 1..=5 {
        act.write(epoch);
        act.until(epoch).unwrap();
        assert_eq!(place.seen(), through(1..=epoch));
    }
    // several epochs in one transaction
    (6..=9).for_each(|epoch| act.write(epoch));
    act.until(9).unwrap();
    assert_eq!((place.seen(), counters.total()), (through(1..=9), 90));
    act.writer.close().unwrap();
    assert_eq!(at(place.open(7, 2).held), Some((7, 1, 9)));
    // nothing was written meanwhile: the rows are still generation 1's, and the sink is the newest one's
    assert_eq!(at(place.open(7, 3).held), Some((7, 1, 9)));
    let e = place.try_open(place.sink(), 7, 2).err().unwrap();
    assert!(e.to_string().contains("another process has taken over") && e.to_string().contains("generation 3"), "{e}");
    // a reader that asks for nothing special stands at the end, behind the last marker
    let lag = read_all(Kafka::topic(place.progress()).brokers(&place.brokers).until(Until::Latest).compacted());
    let records: Vec<String> = lag.into_iter().filter_map(|s| s.value).collect();
    assert_eq!(
        records.last().unwrap(),
        r#"{"epoch":9,"generation":3,"ledger":"00000000000000000000000000000007","part":0,"written_by":1}"#
    );
    place.forget();
}

#[test]
fn real_the_open_transaction_of_a_writer_that_is_gone_is_never_seen() {
    let Some(place) = Place::new("gone", &[]) else { return };
    let mut act = place.open(7, 1);
    act.leave_open(2, &place);
    drop(act);
    assert_eq!(place.seen(), through(1..=1));
    let mut next = place.open(7, 2);
    assert_eq!(at(next.held), Some((7, 1, 1)));
    next.write(2);
    next.write(3);
    next.until(3).unwrap();
    assert_eq!(place.seen(), through(1..=3));
    assert!(place.dirty() > 30, "what is gone was at the broker");
    place.forget();
}

#[test]
fn real_a_writer_that_wakes_up_after_another_took_over_stops_with_a_reason() {
    let Some(place) = Place::new("asleep", &[]) else { return };
    for sleep in [1, 1000] {
        let first = place.seen().len() as u64 / 10;
        let mut sleeper = place.open(7, 1 + first);
        sleeper.leave_open(first + 2, &place);
        let mut next = place.open(7, 2 + first);
        assert_eq!(at(next.held), Some((7, 1 + first, first + 1)));
        next.write(first + 2);
        next.until(first + 2).unwrap();
        // both as if no time had passed, and as if the broker might have given up its transaction
        sleeper.clock.advance(Duration::from_secs(sleep));
        sleeper.write(first + 3);
        let e = sleeper.error();
        assert!(e.to_string().contains("another process has taken over") && e.remedy().is_some(), "{e}");
        next.write(first + 3);
        next.until(first + 3).unwrap();
        assert_eq!(place.seen(), through(1..=first + 3));
    }
    place.forget();
}

#[test]
fn real_a_transaction_that_takes_too_long_is_written_again() {
    let Some(place) = Place::new("slow", &[]) else { return };
    let sink = place.sink().property("transaction.timeout.ms", "1000");
    let counters = sink.counters();
    let mut act = place.try_open(sink, 7, 1).unwrap();
    act.leave_open(2, &place);
    // the coordinator looks for such transactions every ten seconds
    std::thread::sleep(Duration::from_secs(13));
    act.clock.advance(Duration::from_secs(13));
    act.write(3);
    act.until(3).unwrap();
    assert_eq!((place.seen(), counters.total()), (through(1..=3), 30));
    place.forget();
}

#[test]
fn real_the_sink_of_another_state_is_refused_and_its_writer_goes_on() {
    let Some(place) = Place::new("theirs", &[]) else { return };
    let mut act = place.open(7, 5);
    place.settle(&place.progress());
    // though nothing was written yet
    let stranger = place.open(8, 9);
    assert_eq!(at(stranger.held), Some((7, 5, 0)));
    act.leave_open(2, &place);
    assert_eq!(at(place.open(8, 10).held), Some((7, 5, 1)));
    act.clock.advance(Duration::from_secs(1));
    act.until(2).unwrap();
    assert_eq!(place.seen(), through(1..=2));
    place.forget();
}

#[test]
fn real_a_record_that_is_too_large_leaves_its_transaction_and_nothing_else_does() {
    let Some(place) = Place::new("large", &[("max.message.bytes", "20000")]) else { return };
    let sink = place.sink();
    let counters = sink.counters();
    let mut act = place.try_open(sink, 7, 1).unwrap();
    let big = |c: &str| c.repeat(50_000);
    let mut rows: Vec<String> = (0..2000).map(|i| format!("{i:0100}")).collect();
    rows[1000] = big("x");
    rows[1500] = big("y");
    act.write_values(1, rows.clone());
    act.write_values(2, vec![big("z")]);
    act.write(3);
    act.until(3).unwrap();
    let refused: Vec<&[u8]> = act.refused.iter().map(|r| r.bytes.as_slice()).collect();
    assert_eq!(refused, [big("x").as_bytes(), big("y").as_bytes(), big("z").as_bytes()]);
    assert!(act.refused[0].reason.contains(&place.topic), "{}", act.refused[0].reason);
    rows.retain(|r| r.len() == 100);
    rows.extend(values(3));
    assert_eq!((place.seen(), counters.total()), (rows, 2008));
    place.forget();
}

#[test]
fn real_what_a_transaction_leaves_out_is_told_before_it_is_committed() {
    let Some(place) = Place::new("told", &[("max.message.bytes", "20000")]) else { return };
    let values = || vec!["x".repeat(50_000), "good".to_owned()];
    let mut act = place.open(7, 1);
    act.write_values(1, values());
    act.writer.flush().unwrap();
    let (deadline, mut told) = (Instant::now() + PATIENCE, vec![]);
    while told.is_empty() {
        act.clock.advance(Duration::from_millis(20));
        told.extend(act.writer.poll(Duration::from_millis(50)).unwrap().refused);
        assert!(Instant::now() < deadline, "nothing is told");
    }
    assert_eq!((told[0].lane, told[0].upto, told[0].rows.len()), (0, Epoch(1), 1));
    for _ in 0..20 {
        act.clock.advance(Duration::from_millis(20));
        let committed = act.writer.poll(Duration::from_millis(5)).unwrap();
        assert!(committed.progress.is_none() && committed.refused.is_empty());
    }
    // whoever was told did not live to store it
    drop(act);
    let mut act = place.open(7, 2);
    assert_eq!(act.held, None);
    act.write_values(1, values());
    act.until(1).unwrap();
    assert_eq!((act.refused.len(), place.seen()), (1, vec!["good".to_owned()]));
    place.forget();
}

#[test]
fn real_two_sinks_of_one_name_and_topics_that_would_forget_are_named() {
    let Some(place) = Place::new("wrong", &[]) else { return };
    let first = place.open(7, 1);
    place.settle(&place.progress());
    let e = place.try_open(place.sink(), 7, 1).err().unwrap();
    assert!(e.to_string().contains("two sinks") && e.remedy().unwrap().contains(".named("), "{e}");
    let mut second = place.try_open(place.sink().named("second"), 7, 1).unwrap();
    second.write(1);
    second.until(1).unwrap();
    drop((first, second));
    place.admin.delete_topic(&place.progress()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while place.admin.partitions(&place.progress()).unwrap().is_some() {
        assert!(Instant::now() < deadline);
    }
    place.admin.create_topic(&place.progress(), 1, 1, &[("cleanup.policy", "delete")]).unwrap();
    let e = place.try_open(place.sink(), 7, 2).err().unwrap();
    assert!(e.kind() == Kind::User && e.to_string().contains(&place.progress()) && e.remedy().unwrap().contains("compact"), "{e}");
    place.forget();
}

#[test]
fn real_a_sisters_open_transaction_does_not_hide_progress() {
    let Some(place) = Place::new("sister", &[]) else { return };
    let mut act = place.open(7, 1);
    act.write(1);
    act.until(1).unwrap();
    // another sink of the same pipeline died with its progress written and not committed
    let producer = place.dead_sister();
    // what is committed after it stays hidden until it ends
    act.write(2);
    act.until(2).unwrap();
    drop(act);
    let began = Instant::now();
    assert_eq!(at(place.open(7, 2).held), Some((7, 1, 2)));
    assert!(began.elapsed() < Duration::from_secs(30), "it waited for the time-out");
    assert!(producer.commit_transaction(PATIENCE).is_err(), "the dead one is fenced");
    place.forget();
}

#[test]
fn real_transactions_that_brokers_do_not_grant_are_an_error_with_a_hint() {
    let Some(place) = Place::new("granted", &[]) else { return };
    // above the brokers' transaction.max.timeout.ms of 15 minutes
    let e = place.try_open(place.sink().property("transaction.timeout.ms", "90000000"), 7, 1).err().unwrap();
    assert!(e.remedy().unwrap().contains("transaction.max.timeout.ms"), "{e}");
    place.forget();
}

#[test]
fn real_a_transaction_that_is_under_way_is_waited_for_before_records_are_counted() {
    let Some(place) = Place::new("settling", &[]) else { return };
    let producer = place.producer(&format!("{}other", place.prefix));
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), str>::to(&place.topic).payload("late")).unwrap();
    producer.flush(PATIENCE).unwrap();
    assert!(!place.admin.settled(&place.topic, Duration::from_millis(200)).unwrap());
    let counted = std::thread::scope(|scope| {
        let counting = scope.spawn(|| place.admin.count_records(&place.topic, &Default::default()).unwrap());
        std::thread::sleep(Duration::from_secs(1)); // long enough to count wrongly
        producer.commit_transaction(PATIENCE).unwrap();
        counting.join().unwrap()
    });
    assert_eq!(counted, 1);
    assert!(place.admin.settled(&place.topic, Duration::ZERO).unwrap());
    place.forget();
}
