//! The open source: takes batches from the partition that is furthest behind and turns events into positions and errors.
//!
//! Invariant: see [`super`]. Nothing here waits, except when a position is lost and the run is over anyway.

use super::batch::{Batch, position};
use super::group::Group;
use super::open::{beyond, lost};
use super::ready::{Hub, Signal};
use super::watch::{Assignment, Watch};
use crate::ffi::{Consumer, Message, PartitionQueue, known_end, waiting_events};
use orderflow_core::source::{Fetch, PartitionStatus, Payload, Polled, RawBatch, Reader, SourceStatus};
use orderflow_core::time::{Partition, Position, Positions};
use orderflow_core::{Error, Result};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Messages taken from a partition at once.
const BATCH: usize = 4096;

/// Every so many batches the partition that waited longest is read, so that records with old timestamps cannot starve the others.
const FAIR: u64 = 8;

/// Where one partition's reading begins.
pub(crate) struct Place {
    pub(crate) partition: Partition,
    /// First offset of its log.
    pub(crate) low: Position,
    /// First offset to read.
    pub(crate) position: Position,
    /// Offset after its last record.
    pub(crate) end: Position,
    /// Offset before which reading ends.
    pub(crate) until: Option<Position>,
}

struct Slot {
    partition: Partition,
    queue: PartitionQueue,
    signal: Arc<Signal>,
    position: Position,
    end: Position,
    until: Option<Position>,
    /// Whether its queue may hold something.
    active: bool,
    /// Timestamp of the last record read: the smallest is the furthest behind.
    last: i64,
    /// Number of the poll that read it last.
    turn: u64,
}

impl Slot {
    fn done(&self) -> bool {
        self.until.is_some_and(|until| self.position >= until)
    }
}

pub(crate) struct KafkaReader {
    slots: Vec<Slot>,
    consumer: Arc<Consumer>,
    hub: Arc<Hub>,
    watch: Watch,
    group: Group,
    brokers: String,
    bounded: bool,
    /// Where a bounded reader ends, if that was found when it was opened.
    ends: Option<Positions>,
    turn: u64,
    errors: VecDeque<Error>,
    warnings: Vec<String>,
    woken: Vec<usize>,
}

impl KafkaReader {
    /// `places` are those of the assignment's partitions, `warnings` what the user should know already; a reader that follows no new partitions ends with the last of these.
    pub(crate) fn new(
        assignment: Assignment,
        hub: Arc<Hub>,
        places: Vec<Place>,
        ends: Option<Positions>,
        brokers: String,
        warnings: Vec<String>,
    ) -> Result<Self> {
        let (consumer, group, bounded) = (assignment.consumer.clone(), Group::new(assignment.group.clone()), !assignment.follow);
        let mut slots = Vec::with_capacity(places.len());
        for place in places {
            let slot = slot(&consumer, &hub, slots.len(), place)?;
            slots.push(slot);
        }
        // a partition that is at its end already needs no fetching
        assign(&consumer, slots.iter().filter(|s| !s.done()), true)?;
        let watch = Watch::start(assignment, hub.clone())?;
        Ok(Self { slots, consumer, hub, watch, group, brokers, bounded, ends, turn: 0, errors: VecDeque::new(), warnings, woken: vec![] })
    }

    /// Commit answers, lost brokers, and what the watch found.
    fn serve_events(&mut self) -> Result<()> {
        // bounded, because the last poll may wait for as many events as come meanwhile
        for _ in 0..1000 {
            if waiting_events(&self.consumer) == 0 {
                break;
            }
            self.consumer.poll(Duration::ZERO);
        }
        for result in self.consumer.context().commits() {
            self.group.answered(result);
        }
        let news = self.watch.news();
        self.warnings.extend(news.warnings);
        if let Some(topic) = news.deleted.first() {
            return Err(Error::external(format!("topic '{topic}' was deleted while it was read"))
                .hint("create it again and start anew, or leave it out of the pipeline")
                .permanent());
        }
        if let Some(held) = news.committed {
            let slots = &self.slots;
            self.group.found(held, |p| slots.iter().find(|s| s.partition == *p).map(|s| s.end.max(s.position)));
        }
        for (partition, low) in news.partitions {
            tracing::info!(%partition, "a new partition is read from its beginning");
            let place = Place { partition, low, position: low, end: low, until: None };
            let slot = slot(&self.consumer, &self.hub, self.slots.len(), place)?;
            self.slots.push(slot);
            assign(&self.consumer, self.slots.last().into_iter(), false)?;
        }
        if let Err(e) = self.group.send(&self.consumer) {
            tracing::warn!("{e}"); // tried again with the next acknowledgement
        }
        self.consumer.context().trouble(&self.brokers).map_or(Ok(()), Err)
    }

    /// The active partition to be read next.
    fn next(&self) -> Option<usize> {
        let active = self.slots.iter().enumerate().filter(|(_, s)| s.active);
        if self.turn.is_multiple_of(FAIR) {
            return active.min_by_key(|(_, s)| s.turn).map(|(i, _)| i);
        }
        active.min_by_key(|(_, s)| (s.last, std::cmp::Reverse(s.end.saturating_sub(s.position)))).map(|(i, _)| i)
    }

    /// Takes a batch of partition `i`; `None` if it brought nothing that moves the position.
    fn read(&mut self, i: usize) -> Option<Fetch> {
        let slot = &mut self.slots[i];
        slot.turn = self.turn;
        slot.signal.lower();
        let taken = slot.queue.take(BATCH);
        slot.active = taken.len() == BATCH;
        if taken.is_empty() || slot.done() {
            return None;
        }
        self.consumer.context().alive();
        let before = slot.position;
        let mut batch = Batch::new(self.consumer.clone(), taken.len());
        for message in taken {
            match message.error() {
                None => {
                    let at = position(&message);
                    if slot.until.is_some_and(|until| at >= until) {
                        slot.position = slot.until.unwrap_or(at);
                        break;
                    }
                    if at >= slot.position {
                        slot.position = at + 1;
                        batch.push(message);
                    }
                }
                Some(Code::PartitionEOF) => {
                    // everything below it was seen or does not exist: compacted, a marker, or aborted
                    slot.end = position(&message);
                    slot.position = slot.position.max(slot.until.map_or(slot.end, |until| slot.end.min(until)));
                }
                Some(code) => {
                    if let Some(e) = failed(&self.consumer, &self.watch, slot, code, &message, &self.brokers) {
                        self.errors.push_back(e);
                    }
                }
            }
        }
        slot.end = slot.end.max(slot.position);
        slot.last = batch.last_timestamp().unwrap_or(slot.last);
        if slot.position == before {
            return None;
        }
        let (rows, bytes, fingerprint) = (batch.len(), batch.bytes(), batch.fingerprint());
        let from = batch.first().unwrap_or(before);
        let payload = if rows == 0 { Payload::None } else { Payload::Raw(Box::new(batch)) };
        let (fingerprint, latest) = (fingerprint.finish(), fingerprint.latest());
        Some(Fetch { partition: slot.partition.clone(), from, to: slot.position, rows, bytes, fingerprint, latest, payload })
    }
}

fn slot(consumer: &Arc<Consumer>, hub: &Arc<Hub>, number: usize, place: Place) -> Result<Slot> {
    let signal = Signal::new(number, hub);
    let queue = PartitionQueue::open(consumer, &place.partition.topic, place.partition.id, signal.clone())
        .ok_or_else(|| Error::internal(format!("librdkafka gave no queue for {}", place.partition)))?;
    Ok(Slot {
        partition: place.partition,
        queue,
        signal,
        position: place.position,
        end: place.end,
        until: place.until,
        active: false,
        last: i64::MIN,
        turn: 0,
    })
}

fn assign<'a>(consumer: &Consumer, slots: impl Iterator<Item = &'a Slot>, first: bool) -> Result<()> {
    let mut list = TopicPartitionList::new();
    let failed = |e| Error::internal("partitions could not be assigned").caused_by(e);
    for slot in slots {
        let offset = Offset::Offset(i64::try_from(slot.position).unwrap_or(i64::MAX));
        list.add_partition_offset(&slot.partition.topic, slot.partition.id, offset).map_err(failed)?;
    }
    if first { consumer.assign(&list) } else { consumer.incremental_assign(&list) }.map_err(failed)
}

/// What an error in a partition's queue means; `None` if librdkafka goes on by itself.
fn failed(consumer: &Consumer, watch: &Watch, slot: &Slot, code: Code, message: &Message, brokers: &str) -> Option<Error> {
    let partition = &slot.partition;
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => {
            // the run ends here, so asking may take its time; fetching below a log's start is always refused, so no loss goes unseen
            Some(match consumer.fetch_watermarks(&partition.topic, partition.id, Duration::from_secs(5)) {
                Ok((low, _)) if low >= 0 && slot.position < low as u64 => lost(partition, slot.position, low as u64),
                Ok((_, high)) => beyond(partition, slot.position, u64::try_from(high).unwrap_or(0)),
                Err(_) => Error::external(format!("offset {} of {partition} can no longer be read", slot.position))
                    .why(message.error_text())
                    .permanent(),
            })
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
            // one broker's word during its restart is not enough
            watch.look_now();
            None
        }
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
            let error = Error::user(format!("the brokers at {brokers} do not allow reading {partition}")).why(message.error_text());
            Some(error.hint("give this client's user READ on the topic and on the consumer group (ACLs of the broker)"))
        }
        Code::NotImplemented => Some(
            Error::user(format!("a batch of {partition} after offset {} cannot be unpacked", slot.position))
                .why(message.error_text())
                .hint("gzip, snappy, lz4 and zstd can be unpacked, of record batches that Kafka 0.11 and later write"),
        ),
        Code::BadMessage | Code::InvalidMessage => {
            Some(Error::external(format!("a batch of {partition} after offset {} is damaged", slot.position)).why(message.error_text()))
        }
        _ => Some(Error::external(format!("reading {partition} from {brokers} failed")).why(message.error_text())),
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self) -> Result<Polled> {
        if let Some(e) = self.errors.pop_front() {
            return Err(e);
        }
        if self.hub.take_event() {
            self.serve_events()?;
        }
        self.turn += 1;
        loop {
            let mut woken = std::mem::take(&mut self.woken);
            self.hub.woken(&mut woken);
            woken.drain(..).for_each(|i| {
                if let Some(slot) = self.slots.get_mut(i) {
                    slot.active = true;
                }
            });
            self.woken = woken;
            let Some(i) = self.next() else { break };
            if let Some(fetch) = self.read(i) {
                return Ok(Polled::Fetch(fetch));
            }
            if let Some(e) = self.errors.pop_front() {
                return Err(e);
            }
        }
        Ok(if self.bounded && self.slots.iter().all(Slot::done) { Polled::Ended } else { Polled::Idle })
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        self.group.acknowledge(positions);
        if let Err(e) = self.group.send(&self.consumer) {
            tracing::warn!("{e}"); // the lag shown is stale, nothing else
        }
        Ok(())
    }

    fn ends(&self) -> Option<Positions> {
        self.ends.clone()
    }

    fn status(&self) -> SourceStatus {
        let partition = |s: &Slot| {
            let known = known_end(&self.consumer, &s.partition.topic, s.partition.id).unwrap_or(0);
            PartitionStatus { partition: s.partition.clone(), position: s.position, end: Some(s.end.max(known)) }
        };
        let warnings = self.warnings.iter().cloned().chain(self.group.warning.clone()).collect();
        SourceStatus { partitions: self.slots.iter().map(partition).collect(), warnings }
    }

    fn close(&mut self) -> Result<()> {
        self.watch.stop();
        if let Some(held) = self.watch.news().committed {
            let slots = &self.slots;
            self.group.found(held, |p| slots.iter().find(|s| s.partition == *p).map(|s| s.end.max(s.position)));
        }
        let told = self.group.finish(&self.consumer, 100);
        self.slots.clear();
        if let Err(e) = self.consumer.unassign() {
            tracing::debug!("partitions could not be unassigned: {e}");
        }
        told
    }
}
