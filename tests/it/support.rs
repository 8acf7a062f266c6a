//! Records, topics, dead letters, deltas and totals as the tests of the whole house need them.
//!
//! Invariant: nothing here shares code with what it judges but the public doors: topics are read raw, files by their own readers.

use orderflow::arrow::util::display::array_value_to_string;
use orderflow::domain::Order;
use orderflow::generator::{Expected, Total};
use orderflow::kafka::{Admin, Counters, EmbeddedBroker, Kafka, KafkaSink, KafkaSource, Producer, Record, Settings, Start, Until};
use orderflow::sink::dead_letter::DeadLetters;
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer};
use orderflow::sinks::Parquet;
use orderflow::source::{Payload, Polled, RawBatch, Reader, Source, SourceContext, Waker};
use orderflow::store::layer::Layer;
use orderflow::store::{self, Store, Upload};
use orderflow::time::{Clock, Epoch, Partition, Positions};
use orderflow::{Pipeline, Result, Running, Status, pipelines};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;
use rust_decimal::Decimal;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a kill ended the process: it may have been through before, but not have failed by itself.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    assert!(status.success() || status.signal() == Some(9), "it failed by itself: {status}");
    status.signal() == Some(9)
}

/// Sends a process a signal, `-INT` or another that `kill` knows.
pub(crate) fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success(), "{name}");
}

/// Topic, partition, offset.
pub(crate) type Place = (String, i32, u64);

/// Where the records stand that have letters: none has two.
pub(crate) fn refused_once(folder: &Path) -> BTreeSet<Place> {
    let letters = letters(folder);
    assert!(letters.iter().all(|letter| letter.diff == 1), "a letter is withdrawn or counts twice");
    let places: BTreeSet<_> = letters.iter().map(|letter| letter.place.clone().expect("a place in a topic")).collect();
    assert_eq!(places.len(), letters.len(), "a record has two letters");
    places
}

/// Where the records of a topic stand that are no orders, each read by itself.
pub(crate) fn no_orders(brokers: &str, topic: &str) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    visit(brokers, topic, |partition, batch| {
        for i in 0..batch.len() {
            let raw = batch.record(i);
            if raw.value.is_none_or(|value| serde_json::from_slice::<Order>(value).is_err()) {
                places.insert((topic.to_owned(), partition.id, raw.position));
            }
        }
    });
    places
}

/// Partitions of the topic of orders, and of those it is routed to.
pub(crate) const PARTITIONS: i32 = 4;

/// A broker with an empty topic of orders.
pub(crate) fn broker() -> EmbeddedBroker {
    let broker = EmbeddedBroker::start(1).unwrap();
    broker.create_topic("orders", PARTITIONS).unwrap();
    broker
}

/// The pipeline of orders on two workers and in epochs of 10 ms; `totals` and `dead_letters` go to `out`.
pub(crate) fn orders(source: KafkaSource, routed: KafkaSink, out: &Path) -> Pipeline {
    let totals: [Box<dyn Sink>; 1] = [Box::new(Parquet::append(out.join("totals")))];
    let routed = routed.topics_sql(pipelines::orders::ROUTES).partitions(PARTITIONS);
    let flow = pipelines::orders::pipeline("orders", source, routed, totals).unwrap();
    flow.workers(2).epoch_interval(Duration::from_millis(10)).dead_letters(DeadLetters::append(out.join("dead_letters")))
}

/// Runs a bounded source through the pipeline of orders and says what it found.
pub(crate) async fn run_orders(source: KafkaSource, routed: KafkaSink, out: &Path) -> Expected {
    let counters = routed.counters();
    let running = orders(source, routed, out).start().await.unwrap();
    let status = running.wait().await.unwrap();
    let source = &status.sources[0];
    assert!(!source.status.partitions.is_empty() && source.lag() == 0, "the end says where each partition was left: {source:?}");
    let found = found(&running, &status, &counters, "").await;
    assert_eq!(sum(&deltas(&out.join("totals"))), found.totals, "the sum of all deltas is the final state");
    found
}

/// A record as somebody sends it and as another must find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sent {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Sent {
    pub(crate) fn value(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }
}

/// A record and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) offset: u64,
    pub(crate) record: Sent,
}

/// Sends records, each to the partition at its side or, without one, to that of its key.
pub(crate) fn send<'a>(brokers: &str, topic: &str, records: impl IntoIterator<Item = (Option<i32>, &'a Sent)>) {
    let mut producer = Producer::connect(Settings::new(brokers).property("message.max.bytes", "20000000")).unwrap();
    for (partition, sent) in records {
        let headers: Vec<(&str, &[u8])> = sent.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let (value, key) = (sent.value.as_deref(), sent.key.as_deref());
        producer.send(topic, Record { value, key, timestamp: sent.timestamp, headers: &headers, partition }).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// Shows all records that a topic holds now for readers of committed transactions, a batch at a time.
pub(crate) fn visit(brokers: &str, topic: &str, mut look: impl FnMut(&Partition, &dyn RawBatch)) {
    // a commit is answered before it can be seen
    Admin::connect(brokers).unwrap().settled(topic, Duration::from_secs(2)).unwrap();
    let (wake, woken) = channel();
    let context = SourceContext {
        pipeline: "orderflow-tests".into(),
        name: topic.into(),
        resume: None,
        until: None,
        stood: Positions::new(),
        wake: Waker::new(move || {
            let _ = wake.send(()); // the test may have looked its fill
        }),
        clock: Clock::system(),
    };
    let source = Kafka::topic(topic).brokers(brokers).start(Start::Earliest).until(Until::Latest).compacted();
    let source = source.property("isolation.level", "read_committed");
    let mut reader: Box<dyn Reader> = Box::new(source).open(context).unwrap();
    loop {
        match reader.poll().unwrap() {
            Polled::Fetch(fetch) => {
                if let Payload::Raw(batch) = fetch.payload {
                    look(&fetch.partition, &*batch);
                }
            }
            Polled::Idle => woken.recv_timeout(PATIENCE).unwrap(),
            Polled::Ended => break,
        }
    }
    reader.close().unwrap();
}

/// All records that a topic holds now, by partition and offset.
pub(crate) fn read(brokers: &str, topic: &str) -> Vec<Seen> {
    let mut seen = vec![];
    visit(brokers, topic, |partition, batch| {
        for i in 0..batch.len() {
            let raw = batch.record(i);
            let mut headers = vec![];
            batch.headers(i, &mut |n, v| headers.push((n.to_owned(), v.expect("none was sent without a value").to_vec())));
            let record = Sent { key: raw.key.map(Into::into), value: raw.value.map(Into::into), timestamp: raw.timestamp, headers };
            seen.push(Seen { partition: partition.id, offset: raw.position, record });
        }
    });
    seen.sort_by_key(|s| (s.partition, s.offset));
    seen
}

/// The records alone, in an order of their own: for comparing what two topics hold.
pub(crate) fn sorted(seen: impl IntoIterator<Item = Seen>) -> Vec<Sent> {
    let mut records: Vec<_> = seen.into_iter().map(|s| s.record).collect();
    records.sort();
    records
}

/// Names and numbers of records of all topics that begin with `prefix`, without it.
pub(crate) fn topics(admin: &Admin, prefix: &str) -> BTreeMap<String, u64> {
    let names = admin.topics().unwrap().into_iter().filter_map(|t| Some(t.name.strip_prefix(prefix)?.to_owned()));
    names.map(|n| (n.clone(), admin.watermarks(&format!("{prefix}{n}")).unwrap().iter().map(|w| w.high - w.low).sum())).collect()
}

#[derive(Deserialize)]
struct TotalRow {
    city: String,
    payment_type: String,
    orders: u64,
    amount: Decimal,
}

#[derive(Deserialize)]
struct CategoryRow {
    payment_type: String,
    payment_txn_success: String,
    orders: u64,
}

#[derive(Deserialize)]
struct FailureRow {
    failure_reason: Option<String>,
    orders: u64,
}

/// What the pipeline of orders found, in the form of what it must find; `bytes` is left at 0.
pub(crate) async fn found(running: &Running, status: &Status, counters: &Counters, prefix: &str) -> Expected {
    let rejected = status.rejected.values().map(|n| u64::try_from(*n).unwrap()).sum();
    let mut found = Expected { records: status.sources[0].rows, rejected, ..Expected::default() };
    for row in running.query_as::<TotalRow>("SELECT * FROM totals").await.unwrap() {
        let total = Total { orders: row.orders, amount: row.amount };
        assert_eq!(found.totals.insert((row.city, row.payment_type), total), None, "two rows of one key");
    }
    for row in running.query_as::<CategoryRow>("SELECT * FROM categories").await.unwrap() {
        found.outcomes.insert((row.payment_type, row.payment_txn_success == "Y"), row.orders);
    }
    for row in running.query_as::<FailureRow>("SELECT failure_reason, sum(orders) AS orders FROM failures GROUP BY 1").await.unwrap() {
        found.failures.insert(row.failure_reason.unwrap_or_default(), row.orders);
    }
    let routed = counters.records().into_iter().filter(|(_, n)| *n > 0);
    found.topics = routed.map(|(t, n)| (t.strip_prefix(prefix).unwrap().to_owned(), n)).collect();
    found
}

/// A dead letter as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) source: String,
    pub(crate) place: Option<Place>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reason: String,
    pub(crate) diff: i64,
}

/// All dead letters in a folder, by place and reason; none if there is no folder.
pub(crate) fn letters(folder: &Path) -> Vec<Letter> {
    #[derive(Deserialize)]
    struct Line {
        source: String,
        topic: Option<String>,
        partition: Option<i32>,
        offset: Option<u64>,
        reason: String,
        bytes: Option<String>,
        bytes_base64: Option<String>,
        diff: i64,
    }
    let mut letters = vec![];
    for file in data_files(folder, "jsonl") {
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Line = serde_json::from_str(line).unwrap();
            let bytes = match (line.bytes, line.bytes_base64) {
                (Some(text), None) => text.into_bytes(),
                (None, Some(coded)) => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, coded).unwrap(),
                both => panic!("bytes stand in one of two columns: {both:?}"),
            };
            let place = line.topic.map(|t| (t, line.partition.unwrap(), line.offset.unwrap()));
            letters.push(Letter { source: line.source, place, bytes, reason: line.reason, diff: line.diff });
        }
    }
    letters.sort_by(|a, b| (&a.place, &a.reason).cmp(&(&b.place, &b.reason)));
    letters
}

/// The visible files of a data set.
pub(crate) fn data_files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    files.sort();
    files
}

/// A row of `city_payment_totals`.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    pub(crate) key: (String, String),
    pub(crate) total: Total,
    pub(crate) diff: i64,
    pub(crate) epoch: u64,
}

/// All rows of the Parquet data set of totals, by epoch.
pub(crate) fn deltas(folder: &Path) -> Vec<Delta> {
    let files = data_files(folder, "parquet");
    let mut deltas: Vec<_> = files.into_iter().flat_map(|file| rows_of(File::open(file).unwrap())).collect();
    deltas.sort_by_key(|d| d.epoch);
    deltas
}

/// All deltas in one Parquet file.
pub(crate) fn rows_of(file: impl ChunkReader + 'static) -> Vec<Delta> {
    let mut deltas = vec![];
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["city", "payment_type", "orders", "amount", "diff", "epoch"]);
        for row in 0..batch.num_rows() {
            let cell = |i: usize| array_value_to_string(batch.column(i), row).unwrap();
            deltas.push(Delta {
                key: (cell(0), cell(1)),
                total: Total { orders: cell(2).parse().unwrap(), amount: cell(3).parse().unwrap() },
                diff: cell(4).parse().unwrap(),
                epoch: cell(5).parse().unwrap(),
            });
        }
    }
    deltas
}

/// The state that deltas add up to. After every epoch a key has one row at most, and nothing is withdrawn that was not there.
pub(crate) fn sum(deltas: &[Delta]) -> BTreeMap<(String, String), Total> {
    let mut state: BTreeMap<(String, String), Total> = BTreeMap::new();
    for epoch in deltas.chunk_by(|a, b| a.epoch == b.epoch) {
        for gone in epoch.iter().filter(|d| d.diff == -1) {
            assert_eq!(state.remove(&gone.key), Some(gone.total), "{gone:?} withdraws what is not there");
        }
        for come in epoch.iter().filter(|d| d.diff == 1) {
            assert_eq!(state.insert(come.key.clone(), come.total), None, "{come:?} stands beside another");
        }
        assert!(epoch.iter().all(|d| d.diff.abs() == 1));
    }
    state
}

/// A store that takes so many bytes and not one more until somebody makes room; what is deleted gives none back.
#[derive(Clone, Debug)]
pub(crate) struct SmallDisk {
    pub(crate) below: store::Memory,
    room: Arc<AtomicUsize>,
}

impl SmallDisk {
    pub(crate) fn new(room: usize) -> Self {
        Self { below: store::Memory::new(), room: Arc::new(AtomicUsize::new(room)) }
    }

    pub(crate) fn make_room(&self, bytes: usize) {
        self.room.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Takes as many of the bytes as there is room for, if that is at least `least`.
    fn take(&self, bytes: usize, least: usize) -> Result<usize> {
        let taken = |room: usize| Some(room.min(bytes)).filter(|n| *n >= least);
        let room = self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| Some(room - taken(room)?));
        room.map(|room| room.min(bytes)).map_err(|_| store::io_error("write", "the small disk", std::io::ErrorKind::StorageFull.into()))
    }
}

impl Layer for SmallDisk {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(SmallDiskUpload { disk: self.clone(), below: self.below.put(name)? }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.take(bytes.len(), bytes.len())?;
        self.below.put_if_absent(name, bytes)
    }
}

struct SmallDiskUpload {
    disk: SmallDisk,
    below: Box<dyn Upload>,
}

impl Upload for SmallDiskUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let n = self.disk.take(bytes.len(), bytes.len().min(1))?;
        self.below.write(&bytes[..n])
    }

    fn finish(&mut self) -> Result<()> {
        self.below.finish()
    }
}

/// A call to the writer of a sink that may change something outside.
pub(crate) enum Call<'a> {
    Write(&'a Closed),
    Flush,
    Poll {
        /// What the poll before it said is out for good.
        committed: Option<Epoch>,
        /// How long it may wait.
        wait: &'a mut Duration,
    },
    Close,
}

/// A sink whose writer is called only after `ask` was; a call that it refuses is not made.
pub(crate) fn asked(sink: impl Sink, ask: impl FnMut(Call<'_>) -> Result<()> + Send + 'static) -> impl Sink {
    Asked { sink, ask }
}

struct Asked<S, A> {
    sink: S,
    ask: A,
}

impl<S: Sink, A: FnMut(Call<'_>) -> Result<()> + Send + 'static> Sink for Asked<S, A> {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.sink.columns(input)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        self.sink.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        self.sink.kind()
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        self.sink.look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let Asked { sink, ask } = *self;
        let Opened { writer, progress } = Box::new(sink).open(context)?;
        Ok(Opened { writer: Box::new(AskedWriter { writer, ask, committed: None }), progress })
    }
}

struct AskedWriter<A> {
    writer: Box<dyn Writer>,
    ask: A,
    committed: Option<Epoch>,
}

impl<A: FnMut(Call<'_>) -> Result<()> + Send> Writer for AskedWriter<A> {
    fn write(&mut self, closed: Closed) -> Result<()> {
        (self.ask)(Call::Write(&closed))?;
        self.writer.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        (self.ask)(Call::Flush)?;
        self.writer.flush()
    }

    fn poll(&mut self, mut wait: Duration) -> Result<Committed> {
        (self.ask)(Call::Poll { committed: self.committed, wait: &mut wait })?;
        let committed = self.writer.poll(wait)?;
        self.committed = committed.progress.map(|p| p.epoch).or(self.committed);
        Ok(committed)
    }

    fn lanes(&self) -> Vec<Epoch> {
        self.writer.lanes()
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self { writer, mut ask, .. } = *self;
        ask(Call::Close)?;
        writer.close()
    }
}

/// All rows of a JSONL data set of totals in a store, by epoch.
pub(crate) fn deltas_in(store: &dyn Store) -> Vec<Delta> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(flatten)]
        total: TotalRow,
        diff: i64,
        epoch: u64,
    }
    let mut deltas = vec![];
    for name in store.list("").unwrap().into_iter().filter(|n| n.ends_with(".jsonl") && !n.contains('/')) {
        for line in String::from_utf8(store.get(&name).unwrap().unwrap()).unwrap().lines() {
            let Line { total, diff, epoch } = serde_json::from_str(line).unwrap();
            let key = (total.city, total.payment_type);
            deltas.push(Delta { key, total: Total { orders: total.orders, amount: total.amount }, diff, epoch });
        }
    }
    deltas.sort_by_key(|d| d.epoch);
    deltas
}
