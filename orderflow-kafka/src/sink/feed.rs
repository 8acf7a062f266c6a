//! How closed epochs become records: the topics of each row, its partition, and the order in which a writer hands them to librdkafka.
//!
//! Invariant: rows leave in the order given, each to a partition that depends on the record, its place and the topic alone: an epoch that
//! is sent again gives the same records. The word that travels with a record names its row and topic, and so its epoch and where it came from.

use super::columns::{Layout, Parts, Places, Route};
use super::partition::{partition_for_key, partition_for_place};
use super::producers::Producers;
use super::topics::{State, Topic, TopicId, Topics};
use super::{KafkaSink, span};
use crate::admin::Admin;
use crate::ffi::{Delivery, Headers, Outgoing};
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::sink::{Closed, SinkContext};
use orderflow_core::source::Waker;
use orderflow_core::time::{Epoch, Partition};
use orderflow_core::{Error, Result};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Our default for librdkafka's `batch.size`.
pub(super) const BATCH_BYTES: usize = 1_000_000;

/// Our default for librdkafka's `queue.buffering.max.messages`: what is under way should stay in a processor's cache from when it is handed over until
/// it is confirmed. `docs/performance.md` has what more or fewer cost.
const UNDER_WAY: usize = 15_000;

/// A row that goes nowhere on this route.
const NOWHERE: TopicId = TopicId::MAX;

/// Bits of a record's word that hold the topic's number; the rest holds the row's.
const TOPIC_BITS: u32 = TopicId::BITS;

const _: () = assert!(usize::BITS == 64, "a record's word holds the row's number and the topic's");

/// Properties that would take order, partitioning or confirmations out of our hands.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "name the brokers in Kafka::sink(addresses)"),
    ("metadata.broker.list", "name the brokers in Kafka::sink(addresses)"),
    ("enable.idempotence", "the sink is always idempotent"),
    ("acks", "an idempotent producer waits for all replicas"),
    ("request.required.acks", "an idempotent producer waits for all replicas"),
    ("transactional.id", "it is made of the names of pipeline, view and sink; see .named(name)"),
    ("partitioner", "partitions are computed as the Java client does; give the record a key"),
    ("delivery.report.only.error", "the sink counts every confirmation"),
];

/// How records of the sink are produced, with or without transactions, by so many producers.
pub(super) fn configuration(sink: &KafkaSink, producers: usize) -> Result<ClientConfig> {
    let batch = BATCH_BYTES.to_string();
    // what all of them hold is bounded, and yet each has room for the largest record
    let (messages, kbytes) =
        ((4 * UNDER_WAY / producers).clamp(10_000, UNDER_WAY).to_string(), (32_768 / producers).max(17_408).to_string());
    let defaults: &[(&str, &str)] = &[
        ("client.id", "orderflow"),
        ("enable.idempotence", "true"),
        // a broker may be away for as long as it takes: what was taken is held, and the engine gives no more
        ("message.timeout.ms", "0"),
        ("queue.buffering.max.messages", &messages),
        ("queue.buffering.max.kbytes", &kbytes),
        ("batch.size", &batch),
        // a topic's own limit decides; the embedded cluster has none, so librdkafka's default stands for it
        ("message.max.bytes", if sink.embedded.is_some() { "1000000" } else { "16777216" }),
    ];
    let config = sink.settings.client(defaults, OURS)?;
    // whoever cannot be reached is named before anything starts
    Admin::connect(sink.settings.clone())?.reachable()?;
    Ok(config)
}

/// The largest batch that producers of this configuration make.
pub(super) fn batch_size(config: &ClientConfig) -> usize {
    config.get("batch.size").and_then(|b| b.parse().ok()).unwrap_or(BATCH_BYTES)
}

/// A batch of an epoch, the same for all lanes.
struct Batch {
    /// Number of its first row among all rows of the sink.
    first: u64,
    changes: Changes,
    /// Topics of each row, row by row.
    topics: Vec<TopicId>,
    /// The lane of each of them, where there are several.
    lanes: OnceLock<Vec<u8>>,
    /// There while some lane sends it.
    parts: Mutex<Weak<Parts>>,
}

/// A batch on its way out through one lane.
struct Outbound {
    batch: Arc<Batch>,
    /// Made when its turn comes.
    parts: Option<Arc<Parts>>,
    row: usize,
    route: usize,
    /// Copies of the current record that were sent, of a row that is there several times.
    copies: i64,
}

impl Outbound {
    fn new(batch: Arc<Batch>) -> Self {
        Self { batch, parts: None, row: 0, route: 0, copies: 0 }
    }
}

/// An epoch that is not through yet, as one lane sends it.
pub(super) struct Flight {
    pub(super) epoch: Epoch,
    /// Number of its first row among all rows of the sink.
    first: u64,
    batches: VecDeque<Outbound>,
    /// How many of the batches were sent whole and are kept.
    sent: usize,
    /// Where the rows came from, by the number of each batch's first row.
    places: Vec<(u64, Places)>,
    /// Records sent and not confirmed, and their bytes.
    pub(super) unconfirmed: usize,
    pub(super) unconfirmed_bytes: usize,
    /// Bytes sent, confirmed or not.
    pub(super) sent_bytes: usize,
}

impl Flight {
    /// Where the row of this number came from.
    fn place(&self, row: u64) -> Option<(Partition, u64)> {
        let batch = self.places.partition_point(|(first, _)| *first <= row).checked_sub(1)?;
        let (first, places) = &self.places[batch];
        places.get((row - first) as usize)
    }

    /// Number of its first row among all rows of the sink.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Whether something of it was sent or refused.
    pub(super) fn is_begun(&self) -> bool {
        !self.places.is_empty()
    }

    /// Whether every row was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.batches.len()
    }

    /// Bytes of its rows, which lanes hold together.
    pub(super) fn memory(&self) -> usize {
        self.batches.iter().map(|b| b.batch.changes.memory()).sum()
    }

    /// The same epoch for another lane. Nothing of it was sent yet.
    pub(super) fn again(&self) -> Self {
        let batches: VecDeque<_> = self.batches.iter().map(|b| Outbound::new(b.batch.clone())).collect();
        Self::new(self.epoch, self.first, batches)
    }

    fn new(epoch: Epoch, first: u64, batches: VecDeque<Outbound>) -> Self {
        let places = Vec::with_capacity(batches.len());
        Self { epoch, first, batches, sent: 0, places, unconfirmed: 0, unconfirmed_bytes: 0, sent_bytes: 0 }
    }

    /// Everything is to be sent again.
    pub(super) fn rewind(&mut self) {
        for batch in &mut self.batches {
            (batch.parts, batch.row, batch.route, batch.copies) = (None, 0, 0, 0);
        }
        self.places.clear();
        (self.sent, self.unconfirmed, self.unconfirmed_bytes, self.sent_bytes) = (0, 0, 0, 0);
    }
}

/// The flight that the row of this number belongs to.
pub(super) fn flight_of(flights: &mut VecDeque<Flight>, row: u64) -> Option<&mut Flight> {
    flights.partition_point(|f| f.first <= row).checked_sub(1).and_then(|k| flights.get_mut(k))
}

/// The topic and the row that a record's word names.
pub(super) fn named(opaque: usize) -> (TopicId, u64) {
    ((opaque & usize::from(TopicId::MAX)) as TopicId, (opaque >> TOPIC_BITS) as u64)
}

/// What became of an attempt to send an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// librdkafka is full, or a topic is being looked up.
    Later,
    /// The transaction takes no more.
    Closed,
}

/// How a writer wants an epoch to be sent.
pub(super) struct Manner<'a> {
    /// Batches are kept after they were sent, to be sent again.
    pub(super) kept: bool,
    /// Records that a broker refused before, by their words.
    pub(super) spoiled: &'a HashMap<usize, Rejected>,
    /// Takes the rows that cannot go where they should.
    pub(super) refused: &'a mut Vec<Rejected>,
    /// Where there are several lanes: which one this is.
    pub(super) lane: Option<Share<'a>>,
}

/// The records that one of several lanes sends.
pub(super) struct Share<'a> {
    pub(super) lane: u8,
    /// The lane of all records of a topic's partition, or of a topic that has none.
    pub(super) of: &'a mut dyn FnMut(TopicId, &Topic, Option<i32>) -> u8,
}

/// Rows in, records out.
pub(super) struct Feed {
    view: Arc<str>,
    layout: Layout,
    /// The topic of each route that is the same for every row.
    fixed: Vec<Option<TopicId>>,
    pub(super) topics: Topics,
    /// Number of the next row.
    next: u64,
    pub(super) brokers: String,
}

impl Feed {
    /// Finds the topics that have a fixed name. The other arguments are those of [`Topics::start`].
    pub(super) fn start(sink: &KafkaSink, context: &SinkContext, wake: Waker, batch: usize, pinned: BTreeMap<String, i32>) -> Result<Self> {
        let brokers = sink.settings.brokers().to_owned();
        let mut topics = Topics::start(sink, span(context, "topics"), wake, batch, pinned)?;
        let fixed: Vec<Option<TopicId>> = sink
            .topics
            .iter()
            .map(|route| match route {
                Route::Fixed(name) => Some(topics.id(name.as_bytes())),
                Route::Sql(_) => None,
            })
            .collect();
        topics.settle(orderflow_core::source::OPEN_TIMEOUT)?;
        for id in fixed.iter().flatten() {
            match &topics.get(*id).state {
                State::Ready { .. } => {}
                State::Refused(why) => {
                    let error = Error::user("the Kafka sink's topic cannot be written").why(why);
                    return Err(error.hint("name another topic, make it beforehand, or let the sink make more (max_new_topics)"));
                }
                State::Asked => {
                    let what = format!("topic '{}' could not be looked up or created at {brokers} in time", topics.get(*id).name);
                    return Err(Error::external(what)
                        .hint("is the cluster busy? An embedded one creates topics only through its handle: .embedded(&broker)"));
                }
            }
        }
        let layout = Layout::new(&context.schema, fixed.len());
        Ok(Self { view: context.view.clone(), layout, fixed, topics, next: 0, brokers })
    }

    /// Takes an epoch, and asks for the topics that it names first.
    pub(super) fn take(&mut self, closed: Closed) -> Result<Flight> {
        let first = self.next;
        let mut batches = VecDeque::with_capacity(closed.changes.len());
        for changes in closed.changes {
            let topics = self.route(&changes)?;
            let rows = changes.len() as u64;
            let batch = Batch { first: self.next, changes, topics, lanes: OnceLock::new(), parts: Mutex::default() };
            batches.push_back(Outbound::new(Arc::new(batch)));
            self.next += rows;
        }
        Ok(Flight::new(closed.epoch, first, batches))
    }

    /// The topics of each row, row by row.
    fn route(&mut self, changes: &Changes) -> Result<Vec<TopicId>> {
        let names = self.layout.topics(changes)?;
        let mut topics = Vec::with_capacity(changes.len() * names.len());
        for row in 0..changes.len() {
            let first = topics.len();
            for (fixed, names) in self.fixed.iter().zip(&names) {
                let id = match (fixed, names) {
                    (Some(id), _) => *id,
                    (None, Some(names)) => names.get(row).map_or(NOWHERE, |name| self.topics.id(name)),
                    (None, None) => NOWHERE,
                };
                topics.push(if topics[first..].contains(&id) { NOWHERE } else { id });
            }
        }
        Ok(topics)
    }

    /// Sends what librdkafka takes of an epoch, from where it stopped.
    pub(super) fn send(&self, flight: &mut Flight, producers: &mut Producers, manner: &mut Manner<'_>) -> Result<Sent> {
        while !flight.is_sent() {
            match self.send_batch(flight, producers, manner)? {
                Sent::Whole if manner.kept => {
                    flight.batches[flight.sent].parts = None;
                    flight.sent += 1;
                }
                Sent::Whole => drop(flight.batches.pop_front()),
                stopped => return Ok(stopped),
            }
        }
        Ok(Sent::Whole)
    }

    /// What the records of a batch are made of: made once for all lanes that send it at the same time.
    fn parts(&self, batch: &Batch, epoch: Epoch) -> Result<Arc<Parts>> {
        let mut made = batch.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parts) = made.upgrade() {
            return Ok(parts);
        }
        let parts = Arc::new(self.layout.parts(&batch.changes, epoch)?);
        *made = Arc::downgrade(&parts);
        Ok(parts)
    }

    /// The partition of a row, out of so many.
    fn partition(parts: &Parts, row: usize, number: u64, partitions: i32) -> i32 {
        match parts.key(row) {
            Some(key) => partition_for_key(key, partitions),
            None => partition_for_place(parts.places.spread(row, number), partitions),
        }
    }

    /// The lane of each record; `None` while a topic is being looked up.
    fn lanes(&self, batch: &Batch, parts: &Parts, ahead: u64, share: &mut Share<'_>) -> Option<Vec<u8>> {
        let mut lanes = Vec::with_capacity(batch.topics.len());
        for (slot, id) in batch.topics.iter().enumerate() {
            let row = slot / self.fixed.len();
            let topic = || self.topics.get(*id);
            lanes.push(match id {
                &NOWHERE => 0,
                _ => match topic().state {
                    State::Asked => return None,
                    State::Refused(_) => (share.of)(*id, topic(), None),
                    State::Ready { partitions, .. } => {
                        (share.of)(*id, topic(), Some(Self::partition(parts, row, ahead + row as u64, partitions)))
                    }
                },
            });
        }
        Some(lanes)
    }

    /// Sends the first batch that was not sent whole.
    fn send_batch(&self, flight: &mut Flight, producers: &mut Producers, manner: &mut Manner<'_>) -> Result<Sent> {
        let Some(out) = flight.batches.get_mut(flight.sent) else { return Ok(Sent::Whole) };
        let batch = out.batch.clone();
        let parts = match &out.parts {
            Some(parts) => parts.clone(),
            None => {
                let parts = self.parts(&batch, flight.epoch)?;
                flight.places.push((batch.first, parts.places.clone()));
                out.parts.insert(parts).clone()
            }
        };
        // rows of the epoch before those of the batch
        let ahead = batch.first - flight.first;
        let own = match &mut manner.lane {
            None => None,
            Some(share) => {
                if batch.lanes.get().is_none() {
                    let Some(lanes) = self.lanes(&batch, &parts, ahead, share) else { return Ok(Sent::Later) };
                    batch.lanes.get_or_init(|| lanes);
                }
                batch.lanes.get().map(|lanes| (lanes, share.lane))
            }
        };
        let changes = self.layout.writes_changes();
        let routes = self.fixed.len();
        while out.row < batch.changes.len() {
            let row = out.row;
            while out.route < routes {
                let slot = row * routes + out.route;
                let id = batch.topics[slot];
                if id == NOWHERE || own.is_some_and(|(lanes, mine)| lanes[slot] != mine) {
                    out.route += 1;
                    continue;
                }
                let topic = self.topics.get(id);
                let refuse = |why: String| Rejected {
                    from: self.view.clone(),
                    place: parts.places.get(row),
                    bytes: parts.value(row).unwrap_or_default().to_vec(),
                    reason: why,
                    diff: 1,
                };
                let (handle, partitions) = match &topic.state {
                    State::Asked => return Ok(Sent::Later),
                    State::Ready { partitions, max_batch, .. } => (producers.handle(id, &topic.name, *max_batch)?, *partitions),
                    State::Refused(why) => {
                        manner.refused.push(refuse(why.clone()));
                        out.route += 1;
                        continue;
                    }
                };
                // a change is one record; a row is as many as it stands for
                let copies = if changes { 1 } else { batch.changes.diff(row) };
                if copies < 0 {
                    manner.refused.push(refuse(format!("the row was withdrawn, which topic '{}' of plain values cannot say", topic.name)));
                }
                let opaque = (batch.first as usize + row) << TOPIC_BITS | usize::from(id);
                let spoiled = if manner.spoiled.is_empty() { None } else { manner.spoiled.get(&opaque) };
                while out.copies < copies {
                    if let Some(rejected) = spoiled {
                        manner.refused.push(rejected.clone());
                        out.copies += 1;
                        continue;
                    }
                    let partition = Self::partition(&parts, row, ahead + row as u64, partitions);
                    let (key, value) = (parts.key(row), parts.value(row));
                    let record = Outgoing { partition, key, value, timestamp: parts.timestamp(row), headers: headers(&parts, row), opaque };
                    match handle.client().produce(handle, record) {
                        Ok(()) => {
                            let bytes = value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
                            flight.unconfirmed += 1;
                            flight.unconfirmed_bytes += bytes;
                            flight.sent_bytes += bytes;
                        }
                        Err(Code::QueueFull) => return Ok(Sent::Later),
                        Err(Code::State | Code::Fatal | Code::Fenced) if manner.kept => return Ok(Sent::Closed),
                        Err(code) if too_large(code) => {
                            manner.refused.push(refuse(format!("topic '{}' does not take it: {code}", topic.name)))
                        }
                        Err(code) => return Err(undeliverable(&topic.name, &self.brokers, code)),
                    }
                    out.copies += 1;
                }
                out.copies = 0;
                out.route += 1;
            }
            out.route = 0;
            out.row += 1;
        }
        Ok(Sent::Whole)
    }

    /// The dead letter of a record that a broker does not take.
    pub(super) fn letter(&self, flight: &Flight, delivery: &Delivery<'_>, code: Code) -> Rejected {
        let (topic, row) = named(delivery.opaque);
        Rejected {
            from: self.view.clone(),
            place: flight.place(row),
            bytes: delivery.value.unwrap_or_default().to_vec(),
            reason: format!("topic '{}' does not take it: {code}", self.topics.get(topic).name),
            diff: 1,
        }
    }

    /// Why the sink cannot go on after such an answer.
    pub(super) fn undeliverable(&self, opaque: usize, code: Code) -> Error {
        undeliverable(&self.topics.get(named(opaque).0).name, &self.brokers, code)
    }
}

fn headers(parts: &Parts, row: usize) -> Option<Headers> {
    let cells = parts.headers(row)?;
    let mut headers = Headers::with_capacity(cells.len(row))?;
    cells.get(row).for_each(|(name, value)| headers.add(name, value));
    Some(headers)
}

/// Whether the record itself is at fault, so that it is refused and the stream goes on.
pub(super) fn too_large(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord)
}

fn undeliverable(topic: &str, brokers: &str, code: Code) -> Error {
    let e = Error::external(format!("records could not be written to topic '{topic}' at {brokers}")).why(code).permanent();
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
            e.hint("the topic was deleted while the pipeline wrote to it")
        }
        Code::TopicAuthorizationFailed => e.hint("the user needs the right to write to it"),
        _ => e,
    }
}
