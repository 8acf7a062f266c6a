//! The writer with transactions: epochs and the progress that says so become visible in one act, or not at all.
//! ```text
//!   Ready ─begin─► Open: rows of all epochs at hand ─ record of progress ─► Flushing ─ all confirmed ─► Committing ─► Ready, progress told
//!                   │ a record is refused, a step fails                                                 │ the outcome is unknown, the broker gave up
//!                   └─► Aborting ─► Ready: written again, without it                                    └─► Reopening: fence, read progress, drop what it covers
//! ```
//! Invariant: an epoch is kept until its commit is known or read from the topic of progress; progress covers exactly the rows of its transaction. Counts
//! and refused rows belong to a transaction and are told when it is committed. Nothing blocks here: what blocks is done by the [`Lane`].

use super::fence::{Entry, MARK, Opening, fenced, forbidden, produce};
use super::lane::{Answer, Lane, Task};
use super::progress::Held;
use crate::ffi::{Call, Delivery, ProducerClient, Refusal, TopicHandle};
use crate::sink::KafkaSink;
use crate::sink::feed::{Feed, Flight, Manner, Sent, batch_size, flight_of, named, too_large};
use crate::sink::topics::TopicId;
use orderflow_core::data::Rejected;
use orderflow_core::error::Retry;
use orderflow_core::sink::{Closed, Committed, Progress, SinkContext, Writer};
use orderflow_core::time::Clock;
use orderflow_core::{Error, Result};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A transaction that holds so many bytes takes no further epoch.
const MOST_BYTES: usize = 64 << 20;

/// How often in a row a transaction may fail before the sink gives up.
const ATTEMPTS: u32 = 10;

/// The longest pause between two commits, and between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    Open,
    /// Everything is on its way; the commit follows when all of it is confirmed.
    Flushing,
    Committing,
    Aborting,
    Reopening,
    /// Has to be opened again, which failed for a cause that is likely to pass.
    Lost,
}

/// What a transaction did, told when it is committed.
#[derive(Default)]
struct Tally {
    /// Records confirmed, by the number of their topic.
    records: Vec<u64>,
    refused: Vec<Rejected>,
}

impl Tally {
    fn count(&mut self, topic: TopicId) {
        let topic = usize::from(topic);
        if self.records.len() <= topic {
            self.records.resize(topic + 1, 0);
        }
        self.records[topic] += 1;
    }
}

pub(super) struct TransactionalWriter {
    opening: Arc<Opening>,
    clock: Clock,
    feed: Feed,
    lane: Lane,
    client: Arc<ProducerClient>,
    /// Where records of progress go.
    marks: TopicHandle,
    stage: Stage,
    /// All epochs that are not known to be committed.
    flights: VecDeque<Flight>,
    /// How many of them the transaction holds whole.
    taken: usize,
    tally: Tally,
    /// A commit of unknown outcome: up to which epoch, and what it did.
    doubtful: Option<(Progress, Tally)>,
    /// Records that a broker refused as too large, by their words.
    spoiled: HashMap<usize, Rejected>,
    /// Why the transaction has to be aborted.
    broken: Option<String>,
    attempts: u32,
    /// The largest batch that every topic takes.
    batch: usize,
    timeout: Duration,
    begun: Duration,
    asked: Duration,
    /// When the next commit may be asked for.
    due: Duration,
    flush: bool,
    progress: Option<Progress>,
    refused: Vec<Rejected>,
    failed: Option<Error>,
}

fn marks(client: &Arc<ProducerClient>, topic: &str) -> Result<TopicHandle> {
    TopicHandle::new(client, topic).ok_or_else(|| Error::internal(format!("librdkafka took no topic '{topic}'")))
}

impl TransactionalWriter {
    /// A writer of a sink that is won.
    pub(super) fn new(
        sink: &KafkaSink,
        context: &SinkContext,
        opening: Arc<Opening>,
        client: Arc<ProducerClient>,
        config: ClientConfig,
        timeout: Duration,
    ) -> Result<Self> {
        let batch = batch_size(&config);
        Ok(Self {
            clock: context.clock.clone(),
            feed: Feed::start(sink, context, client.clone(), config)?,
            lane: Lane::start(opening.clone(), client.clone())?,
            marks: marks(&client, &opening.book.topic)?,
            client,
            opening,
            stage: Stage::Ready,
            flights: VecDeque::new(),
            taken: 0,
            tally: Tally::default(),
            doubtful: None,
            spoiled: HashMap::new(),
            broken: None,
            attempts: 0,
            batch,
            timeout,
            begun: Duration::ZERO,
            asked: Duration::ZERO,
            due: Duration::ZERO,
            flush: false,
            progress: None,
            refused: vec![],
            failed: None,
        })
    }

    /// Whether the lane has something to do.
    fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Aborting | Stage::Reopening)
    }

    /// Sends what can be sent, and asks for the commit when a transaction has all that is at hand.
    fn advance(&mut self) -> Result<()> {
        if self.is_busy() {
            return Ok(());
        }
        if self.stage == Stage::Lost {
            return self.reopen();
        }
        if let Some(refusal) = self.client.fatal() {
            return self.lost(&refusal);
        }
        if self.feed.topics.narrowest() < self.batch {
            // a broker judges whole batches: no topic may get larger ones than it takes
            self.batch = self.feed.topics.narrowest();
            return self.reopen();
        }
        let now = self.clock.elapsed();
        if self.stage == Stage::Ready {
            if self.flights.is_empty() || (self.attempts > 0 && now < self.due) {
                return Ok(());
            }
            if let Err(refusal) = self.client.transaction(Call::Begin, Duration::ZERO) {
                return self.stumbled(&refusal);
            }
            (self.stage, self.begun) = (Stage::Open, now);
        }
        if let Some(why) = self.broken.take() {
            return self.abort(&why);
        }
        if self.stage == Stage::Flushing {
            // not left to librdkafka, whose commit would wait for ever for records that a failure has left behind
            if self.client.outstanding() > 0 {
                return Ok(());
            }
            (self.stage, self.asked) = (Stage::Committing, now);
            return self.lane.ask(Task::Commit);
        }
        let mut manner = Manner { kept: true, spoiled: &self.spoiled, refused: &mut self.tally.refused };
        let mut bytes: usize = self.flights.iter().take(self.taken).map(|f| f.sent_bytes).sum();
        while let Some(flight) = self.flights.get_mut(self.taken) {
            // a transaction ends between two epochs
            let full = bytes >= MOST_BYTES || now.saturating_sub(self.begun) > self.timeout / 4;
            if full && self.taken > 0 && !flight.is_begun() {
                break;
            }
            match self.feed.send(flight, &mut manner)? {
                Sent::Whole => {
                    bytes += flight.sent_bytes;
                    self.taken += 1;
                }
                Sent::Later => return Ok(()),
                Sent::Closed => return self.abort("the transaction takes no more records"),
            }
        }
        if self.flush || now >= self.due { self.conclude() } else { Ok(()) }
    }

    /// Puts the progress into the transaction, as its last record.
    fn conclude(&mut self) -> Result<()> {
        let Some(progress) = self.covered() else { return Ok(()) };
        let held = Held { writer: progress.writer, at: Some((progress.epoch, progress.part)), by: None };
        match produce(&self.marks, &self.opening.id, held) {
            Ok(()) => {
                self.stage = Stage::Flushing;
                Ok(())
            }
            Err(Code::QueueFull) => Ok(()),
            Err(code) => self.abort(&code.to_string()),
        }
    }

    /// The progress of the epochs that the transaction holds whole.
    fn covered(&self) -> Option<Progress> {
        let last = self.flights.get(self.taken.checked_sub(1)?)?;
        Some(Progress { writer: self.opening.me, epoch: last.epoch, part: 0 })
    }

    /// Takes the epochs at hand out of the transaction, to be sent again.
    fn rewind(&mut self) -> Tally {
        self.flights.iter_mut().for_each(Flight::rewind);
        (self.taken, self.broken) = (0, None);
        std::mem::take(&mut self.tally)
    }

    fn abort(&mut self, why: &str) -> Result<()> {
        self.strike(why)?;
        tracing::warn!(sink = %self.opening.id, "a transaction is aborted and written again: {why}");
        self.rewind();
        self.stage = Stage::Aborting;
        self.lane.ask(Task::Abort)
    }

    /// Wins the sink anew: what is in it then says what became of the last commit.
    fn reopen(&mut self) -> Result<()> {
        let unknown = if self.stage == Stage::Committing { self.covered() } else { None };
        let tally = self.rewind();
        if let Some(progress) = unknown {
            self.doubtful = Some((progress, tally));
        }
        self.stage = Stage::Reopening;
        self.lane.ask(Task::Reopen(self.batch))
    }

    /// Counts failures in a row, and makes the pauses between them longer.
    fn strike(&mut self, why: &str) -> Result<()> {
        self.attempts += 1;
        self.due = self.clock.elapsed() + (Duration::from_millis(20) * self.attempts * self.attempts).min(LONGEST_PAUSE);
        if self.attempts <= ATTEMPTS {
            return Ok(());
        }
        Err(Error::external(format!("transactions of '{}' fail again and again at {}", self.opening.id, self.opening.brokers))
            .why(why)
            .hint("an epoch that takes longer than a transaction may (transaction.timeout.ms) is one cause")
            .permanent())
    }

    /// A step of the transaction has failed.
    fn stumbled(&mut self, refusal: &Refusal) -> Result<()> {
        if refusal.abort { self.abort(&refusal.text) } else { self.lost(refusal) }
    }

    /// The producer is of no use any more.
    fn lost(&mut self, refusal: &Refusal) -> Result<()> {
        if forbidden(refusal.code) {
            return Err(self.opening.refused("go on", refusal));
        }
        // brokers answer alike when somebody else has begun and when they gave up a transaction that took too long
        let old = self.clock.elapsed().saturating_sub(self.begun) > self.timeout / 10 * 9;
        if fenced(refusal.code) && !old {
            return Err(self.opening.overtaken().why(&refusal.text));
        }
        self.strike(&refusal.text)?;
        tracing::warn!(sink = %self.opening.id, "the sink is opened again: {}", refusal.text);
        self.reopen()
    }

    /// Takes answers of brokers, waiting up to `wait` for the first where any is due.
    fn serve(&mut self, wait: Duration) {
        let due = self.is_busy() || self.feed.topics.waiting() || self.client.outstanding() > 0;
        let left = self.due.saturating_sub(self.clock.elapsed());
        let wait = match self.stage {
            Stage::Open | Stage::Ready if !self.flights.is_empty() && !left.is_zero() => wait.min(left),
            _ if due => wait,
            _ => Duration::ZERO,
        };
        let client = self.client.clone();
        let mut answered = false;
        client.serve(wait, &mut |delivery| {
            answered |= delivery.error.is_none();
            self.confirmed(&delivery);
        });
        if answered {
            client.context().alive();
        }
    }

    fn confirmed(&mut self, delivery: &Delivery<'_>) {
        let (topic, row) = named(delivery.opaque);
        let counts = matches!(self.stage, Stage::Open | Stage::Flushing | Stage::Committing);
        if counts
            && delivery.opaque != MARK
            && let Some(flight) = flight_of(&mut self.flights, row)
        {
            flight.unconfirmed = flight.unconfirmed.saturating_sub(1);
            flight.unconfirmed_bytes = flight.unconfirmed_bytes.saturating_sub(delivery.bytes);
        }
        match delivery.error {
            None if counts && delivery.opaque != MARK => self.tally.count(topic),
            None => {}
            Some(code) if too_large(code) && delivery.opaque != MARK => {
                if let Some(flight) = flight_of(&mut self.flights, row) {
                    let letter = self.feed.letter(flight, delivery, code);
                    // with every such record one failure less is possible
                    self.attempts = 0;
                    self.spoiled.insert(delivery.opaque, letter);
                }
                self.broken.get_or_insert_with(|| format!("a record is refused: {code}"));
            }
            // these follow from a failure that the lane or the client tells
            Some(Code::PurgeQueue | Code::PurgeInflight | Code::State | Code::Fatal) => {
                self.broken.get_or_insert_with(|| "it has failed at a broker".into());
            }
            Some(code) if fenced(code) => {}
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId)
                if delivery.opaque == MARK =>
            {
                let topic = &self.opening.book.topic;
                let e = Error::external(format!("topic '{topic}' of the sink's progress was deleted while the pipeline wrote to it"));
                self.failed.get_or_insert(e.permanent());
            }
            Some(code) if delivery.opaque == MARK => {
                self.broken.get_or_insert_with(|| format!("the progress is refused: {code}"));
            }
            Some(code) => {
                let e = self.feed.undeliverable(delivery.opaque, code);
                self.failed.get_or_insert(e);
            }
        }
    }

    /// Takes what the lane has to say.
    fn hear(&mut self) -> Result<()> {
        let Some(answer) = self.lane.answer() else { return Ok(()) };
        match answer {
            Answer::Committed(Ok(())) => {
                let (progress, tally) = (self.covered(), std::mem::take(&mut self.tally));
                if let Some(progress) = progress {
                    self.committed(progress, tally);
                }
                // half of the time may go into commits, so that under load each takes more epochs
                let now = self.clock.elapsed();
                self.due = now + now.saturating_sub(self.asked).min(LONGEST_PAUSE);
                (self.stage, self.taken, self.attempts) = (Stage::Ready, 0, 0);
                Ok(())
            }
            Answer::Committed(Err(refusal)) => self.stumbled(&refusal),
            Answer::Aborted(Ok(()), why) => {
                (self.stage, self.broken) = (Stage::Ready, None);
                match why {
                    Some(why) if forbidden(why.code) => Err(self.opening.refused("go on", &why)),
                    _ => Ok(()),
                }
            }
            Answer::Aborted(Err(refusal), _) => self.lost(&refusal),
            Answer::Opened(Ok(Entry::Won { client, held })) => self.reopened(client, held),
            Answer::Opened(Ok(Entry::Theirs(progress))) => Err(self.opening.overtaken().why(format!("it holds {progress}"))),
            Answer::Opened(Err(e)) => {
                if e.retry() == Retry::Backoff {
                    self.stage = Stage::Lost;
                }
                Err(e)
            }
        }
    }

    /// The sink is ours again: what it holds is not written once more.
    fn reopened(&mut self, client: Arc<ProducerClient>, held: Option<Progress>) -> Result<()> {
        self.feed.topics.rebind(client.clone())?;
        self.marks = marks(&client, &self.opening.book.topic)?;
        let old = std::mem::replace(&mut self.client, client);
        self.lane.ask(Task::Forget(old))?;
        (self.stage, self.broken) = (Stage::Ready, None);
        let known = self.progress.map(|p| p.epoch);
        if held.map(|p| p.epoch) < known {
            let (held, known) = (held.map_or("nothing".into(), |p| p.to_string()), known.unwrap_or_default());
            return Err(Error::external(format!("topic '{}' has lost progress", self.opening.book.topic))
                .why(format!("it holds {held}, epoch {known} was committed"))
                .permanent());
        }
        let doubtful = self.doubtful.take();
        if let Some(held) = held.filter(|held| known.is_none_or(|known| held.epoch > known)) {
            let tally = doubtful.filter(|(progress, _)| progress.epoch == held.epoch).map(|(_, tally)| tally);
            self.committed(Progress { writer: self.opening.me, ..held }, tally.unwrap_or_default());
        }
        Ok(())
    }

    /// Everything up to `progress` is in the topics for good.
    fn committed(&mut self, progress: Progress, tally: Tally) {
        self.progress = Some(progress);
        while self.flights.front().is_some_and(|f| f.epoch <= progress.epoch) {
            self.flights.pop_front();
        }
        let first = self.flights.front().map_or(u64::MAX, Flight::first);
        self.spoiled.retain(|word, _| named(*word).1 >= first);
        self.flush &= !self.flights.is_empty();
        for (topic, records) in (0..).zip(tally.records).filter(|(_, records)| *records > 0) {
            self.feed.topics.get(topic).delivered(records);
        }
        self.refused.extend(tally.refused);
    }

    fn step(&mut self, wait: Duration) -> Result<()> {
        self.feed.topics.serve()?;
        self.advance()?;
        self.serve(wait);
        self.hear()?;
        self.feed.topics.serve()?;
        self.advance()
    }
}

impl Writer for TransactionalWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let flight = self.feed.take(closed)?;
        self.flights.push_back(flight);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flush = !self.flights.is_empty();
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        if self.failed.is_none()
            && let Err(e) = self.step(wait)
        {
            if e.retry() == Retry::Backoff {
                return Err(e);
            }
            self.failed.get_or_insert(e);
        }
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let Some(outage) = self.client.context().outage(&self.feed.brokers) {
            return Err(outage);
        }
        Ok(Committed {
            progress: self.progress,
            pending_bytes: self.flights.iter().map(Flight::memory).sum(),
            refused: std::mem::take(&mut self.refused),
        })
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        // readers wait for the end of an open transaction, so it is not left to its time-out
        if matches!(self.stage, Stage::Open | Stage::Flushing) {
            self.rewind();
            self.stage = Stage::Aborting;
            self.lane.ask(Task::Abort)?;
        }
        for _ in 0..100 {
            if !matches!(self.stage, Stage::Committing | Stage::Aborting) || self.lane.answer().is_some() {
                break;
            }
            self.serve(Duration::from_millis(50));
        }
        Ok(())
    }
}
