//! The open sink: a queue of epochs that is fed to librdkafka as fast as it takes records and emptied by its confirmations.
//!
//! Invariant: a record's confirmation names its row and topic, and so its epoch and where it came from; progress needs no order among
//! confirmations: it is the newest epoch at the head of the queue that has been sent whole and has nothing outstanding.

use super::KafkaSink;
use super::columns::{Layout, Parts, Places, Route};
use super::partition::{partition_for_key, partition_for_place};
use super::topics::{State, TopicId, Topics};
use crate::admin::Admin;
use crate::client::refused_property;
use crate::ffi::{Delivery, Headers, Outgoing, ProducerClient};
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::sink::{Closed, Committed, Progress, SinkContext, Writer};
use orderflow_core::time::{Epoch, Partition};
use orderflow_core::{Error, Result};
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Our default for librdkafka's `batch.size`.
pub(super) const BATCH_BYTES: usize = 1_000_000;

/// A row that goes nowhere on this route.
const NOWHERE: TopicId = TopicId::MAX;

/// Bits of a confirmation's word that hold the topic's number; the rest holds the row's.
const TOPIC_BITS: u32 = TopicId::BITS;

const _: () = assert!(usize::BITS == 64, "a confirmation's word holds the row's number and the topic's");

/// Properties that would take order, partitioning or confirmations out of our hands.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "name the brokers in Kafka::sink(addresses)"),
    ("metadata.broker.list", "name the brokers in Kafka::sink(addresses)"),
    ("enable.idempotence", "the sink is always idempotent"),
    ("acks", "an idempotent producer waits for all replicas"),
    ("request.required.acks", "an idempotent producer waits for all replicas"),
    ("transactional.id", "the sink writes without transactions"),
    ("partitioner", "partitions are computed as the Java client does; give the record a key"),
    ("delivery.report.only.error", "the sink counts every confirmation"),
];

/// A batch on its way out.
struct Outbound {
    /// Number of its first row among all rows of the writer.
    first: u64,
    changes: Changes,
    /// Topics of each row, row by row.
    topics: Vec<TopicId>,
    /// Made when its turn comes.
    parts: Option<Parts>,
    row: usize,
    route: usize,
    /// Copies of the current record that were sent, of a row that is there several times.
    copies: i64,
}

/// An epoch that is not confirmed yet.
struct Flight {
    epoch: Epoch,
    /// Number of its first row among all rows of the writer.
    first: u64,
    batches: VecDeque<Outbound>,
    /// Where the rows came from, by the number of each batch's first row.
    places: Vec<(u64, Places)>,
    /// Records sent and not confirmed, and their bytes.
    unconfirmed: usize,
    unconfirmed_bytes: usize,
}

pub(crate) struct KafkaWriter {
    context: SinkContext,
    layout: Layout,
    /// The topic of each route that is the same for every row.
    fixed: Vec<Option<TopicId>>,
    topics: Topics,
    client: Arc<ProducerClient>,
    flights: VecDeque<Flight>,
    /// Number of the next row.
    next: u64,
    progress: Option<Progress>,
    refused: Vec<Rejected>,
    failed: Option<Error>,
    brokers: String,
}

impl KafkaWriter {
    pub(super) fn open(sink: KafkaSink, context: SinkContext) -> Result<Self> {
        let batch = BATCH_BYTES.to_string();
        let defaults: &[(&str, &str)] = &[
            ("client.id", "orderflow"),
            ("enable.idempotence", "true"),
            // a broker may be away for as long as it takes: what was taken is held, and the engine gives no more
            ("message.timeout.ms", "0"),
            ("queue.buffering.max.messages", "200000"),
            ("queue.buffering.max.kbytes", "32768"),
            ("batch.size", &batch),
            // a topic's own limit decides; the embedded cluster has none, so librdkafka's default stands for it
            ("message.max.bytes", if sink.embedded.is_some() { "1000000" } else { "16777216" }),
        ];
        let config = sink.settings.client(defaults, OURS)?;
        let brokers = sink.settings.brokers().to_owned();
        // whoever cannot be reached is named before anything starts
        Admin::connect(sink.settings.clone())?.reachable()?;
        let client = Arc::new(ProducerClient::new(&config).map_err(refused_property)?);
        let mut topics = Topics::start(&sink, client.clone(), config)?;
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
                State::Refused(why) => return Err(Error::user("the Kafka sink's topic cannot be written").why(why)),
                State::Asked => {
                    let what = format!("topic '{}' could not be looked up or created at {brokers} in time", topics.get(*id).name);
                    return Err(
                        Error::external(what).hint("an embedded cluster creates topics only through its handle: .embedded(&broker)")
                    );
                }
            }
        }
        let layout = Layout::new(&context.schema, fixed.len());
        Ok(Self {
            context,
            layout,
            fixed,
            topics,
            client,
            flights: VecDeque::new(),
            next: 0,
            progress: None,
            refused: vec![],
            failed: None,
            brokers,
        })
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

    /// Sends what librdkafka takes.
    fn pump(&mut self) {
        for k in 0..self.flights.len() {
            while !self.flights[k].batches.is_empty() {
                match self.send_batch(k) {
                    Ok(true) => {
                        self.flights[k].batches.pop_front();
                    }
                    Ok(false) => return,
                    Err(e) => {
                        self.failed.get_or_insert(e);
                        return;
                    }
                }
            }
        }
    }

    /// Sends the first batch of flight `k` from where it stopped; `false` if it has to wait.
    fn send_batch(&mut self, k: usize) -> Result<bool> {
        let flight = &mut self.flights[k];
        let Some(batch) = flight.batches.front_mut() else { return Ok(true) };
        let parts = match &mut batch.parts {
            Some(parts) => parts,
            None => {
                let parts = batch.parts.insert(self.layout.parts(&batch.changes, flight.epoch)?);
                flight.places.push((batch.first, parts.places.clone()));
                parts
            }
        };
        let changes = self.layout.writes_changes();
        let routes = self.fixed.len();
        while batch.row < batch.changes.len() {
            let row = batch.row;
            while batch.route < routes {
                let id = batch.topics[row * routes + batch.route];
                if id == NOWHERE {
                    batch.route += 1;
                    continue;
                }
                let topic = self.topics.get(id);
                let refuse = |why: String| Rejected {
                    from: self.context.view.clone(),
                    place: parts.places.get(row),
                    bytes: parts.value(row).unwrap_or_default().to_vec(),
                    reason: why,
                    diff: 1,
                };
                let (handle, partitions) = match &topic.state {
                    State::Asked => return Ok(false),
                    State::Ready { handle, partitions } => (handle, *partitions),
                    State::Refused(why) => {
                        self.refused.push(refuse(why.clone()));
                        batch.route += 1;
                        continue;
                    }
                };
                // a change is one record; a row is as many as it stands for
                let copies = if changes { 1 } else { batch.changes.diff(row) };
                if copies < 0 {
                    self.refused.push(refuse(format!("the row was withdrawn, which topic '{}' of plain values cannot say", topic.name)));
                }
                while batch.copies < copies {
                    let key = parts.key(row);
                    let partition = match key {
                        Some(key) => partition_for_key(key, partitions),
                        None => partition_for_place(parts.places.spread(row, batch.first - flight.first + row as u64), partitions),
                    };
                    let value = parts.value(row);
                    let record = Outgoing {
                        partition,
                        key,
                        value,
                        timestamp: parts.timestamp(row),
                        headers: headers(parts, row),
                        opaque: (batch.first as usize + row) << TOPIC_BITS | usize::from(id),
                    };
                    match handle.client().produce(handle, record) {
                        Ok(()) => {
                            flight.unconfirmed += 1;
                            flight.unconfirmed_bytes += value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
                        }
                        Err(Code::QueueFull) => return Ok(false),
                        Err(code) if too_large(code) => {
                            self.refused.push(refuse(format!("topic '{}' does not take it: {code}", topic.name)))
                        }
                        Err(code) => return Err(undeliverable(&topic.name, &self.brokers, code)),
                    }
                    batch.copies += 1;
                }
                batch.copies = 0;
                batch.route += 1;
            }
            batch.route = 0;
            batch.row += 1;
        }
        Ok(true)
    }

    /// Takes confirmations, waiting up to `wait` for the first where any is due.
    fn serve(&mut self, wait: Duration) {
        let mut wait = if self.topics.waiting() || self.flights.iter().any(|f| f.unconfirmed > 0) { wait } else { Duration::ZERO };
        let clients: Vec<_> = self.topics.clients().collect();
        for client in &clients {
            // wait where an answer is due, once
            let due = clients.len() == 1 || self.topics.waiting() || client.outstanding() > 0;
            let patience = if due { std::mem::take(&mut wait) } else { Duration::ZERO };
            let mut answered = false;
            client.serve(patience, &mut |delivery| {
                answered |= delivery.error.is_none();
                self.confirmed(&delivery);
            });
            if answered {
                self.client.context().alive();
            }
        }
    }

    fn confirmed(&mut self, delivery: &Delivery<'_>) {
        let topic = self.topics.get((delivery.opaque & usize::from(TopicId::MAX)) as TopicId);
        let row = (delivery.opaque >> TOPIC_BITS) as u64;
        let newer = self.flights.partition_point(|f| f.first <= row);
        let Some(flight) = newer.checked_sub(1).and_then(|k| self.flights.get_mut(k)) else { return };
        flight.unconfirmed -= 1;
        flight.unconfirmed_bytes = flight.unconfirmed_bytes.saturating_sub(delivery.bytes);
        match delivery.error {
            None => topic.delivered(),
            Some(code) if too_large(code) => self.refused.push(Rejected {
                from: self.context.view.clone(),
                place: flight.place(row),
                bytes: delivery.value.unwrap_or_default().to_vec(),
                reason: format!("topic '{}' does not take it: {code}", topic.name),
                diff: 1,
            }),
            Some(code) => {
                let e = undeliverable(&topic.name, &self.brokers, code);
                self.failed.get_or_insert(e);
            }
        }
    }

    /// Moves progress over the epochs that are through.
    fn retire(&mut self) {
        while self.flights.front().is_some_and(|f| f.batches.is_empty() && f.unconfirmed == 0) {
            if let Some(flight) = self.flights.pop_front() {
                self.progress = Some(Progress { writer: self.context.writer, epoch: flight.epoch, part: 0 });
            }
        }
    }
}

impl Flight {
    /// Where the row of this number came from.
    fn place(&self, row: u64) -> Option<(Partition, u64)> {
        let batch = self.places.partition_point(|(first, _)| *first <= row).checked_sub(1)?;
        let (first, places) = &self.places[batch];
        places.get((row - first) as usize)
    }
}

fn headers(parts: &Parts, row: usize) -> Option<Headers> {
    let cells = parts.headers(row)?;
    let mut headers = Headers::with_capacity(cells.len(row))?;
    cells.get(row).for_each(|(name, value)| headers.add(name, value));
    Some(headers)
}

/// Whether the record itself is at fault, so that it is refused and the stream goes on.
fn too_large(code: Code) -> bool {
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

impl Writer for KafkaWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let (epoch, first) = (closed.epoch, self.next);
        let mut batches = VecDeque::with_capacity(closed.changes.len());
        for changes in closed.changes {
            let topics = self.route(&changes)?;
            let rows = changes.len() as u64;
            batches.push_back(Outbound { first: self.next, changes, topics, parts: None, row: 0, route: 0, copies: 0 });
            self.next += rows;
        }
        self.topics.serve()?;
        self.flights.push_back(Flight { epoch, first, batches, places: vec![], unconfirmed: 0, unconfirmed_bytes: 0 });
        self.pump();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        // nothing rolls: what was taken is on its way already
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.serve(wait);
        self.topics.serve()?;
        self.pump();
        self.retire();
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let Some(trouble) = self.client.context().trouble(&self.brokers) {
            return Err(trouble);
        }
        let pending = |f: &Flight| f.unconfirmed_bytes + f.batches.iter().map(|b| b.changes.memory()).sum::<usize>();
        Ok(Committed {
            progress: self.progress,
            pending_bytes: self.flights.iter().map(pending).sum(),
            refused: std::mem::take(&mut self.refused),
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        // what is not confirmed is given up when the clients are dropped
        Ok(())
    }
}
