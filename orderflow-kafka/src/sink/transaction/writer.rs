//! The writer of one lane: its rows of epochs and the progress that says so become visible in one act, or not at all.
//! ```text
//!   Ready ─begin─► Open: rows of all epochs at hand ─ record of progress ─► Flushing ─ all confirmed ─► Committing ─► Ready, progress told
//!                   │ a record is refused, a step fails                        │ it leaves rows out       ▲           │ the outcome is unknown, the broker gave up
//!                   └─► Aborting ─► Ready: written again, without it           └─► Waiting ─ bound ───────┘           └─► Reopening: fence, read progress, drop what it covers
//! ```
//! Invariant: an epoch is kept until its commit is known or read from the topic of progress; progress covers exactly the lane's rows of its transaction,
//! which may be none. Counts belong to a transaction and are told when it is committed, the rows that it leaves out before, also by each that stands for it. An epoch at or below the gate is never taken.
//! Nothing blocks here: what blocks is done by the [`Lane`].

mod deliveries;

use super::fence::{Entry, Opening, fenced, forbidden, produce};
use super::lane::{Answer, Lane, Task};
use super::lanes::Common;
use super::progress::Held;
use super::tally::Tally;
use super::told::Told;
use crate::ffi::{Call, ProducerClient, Refusal, TopicHandle};
use crate::sink::feed::{Feed, Flight, Manner, Sent, Share, batch_size, named};
use crate::sink::producers::Producers;
use crate::sink::topics::{Topic, TopicId};
use orderflow_core::bug::{Bug, planted};
use orderflow_core::data::Rejected;
use orderflow_core::error::Retry;
use orderflow_core::sink::Progress;
use orderflow_core::time::{Clock, Epoch};
use orderflow_core::{Error, Result};
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
    /// What it leaves out is told; the commit follows when that is bound.
    Waiting,
    Committing,
    Aborting,
    Reopening,
    /// Has to be opened again, which failed for a cause that is likely to pass.
    Lost,
}

pub(super) struct LaneWriter {
    opening: Arc<Opening>,
    number: u8,
    clock: Clock,
    lane: Lane,
    client: Arc<ProducerClient>,
    producers: Producers,
    /// Where records of progress go.
    marks: TopicHandle,
    /// Up to here the lane needs nothing: it holds it, or another one did.
    gate: Epoch,
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
    /// What the transaction leaves out.
    pub(super) told: Told,
}

fn marks(client: &Arc<ProducerClient>, topic: &str) -> Result<TopicHandle> {
    TopicHandle::new(client, topic).ok_or_else(|| Error::internal(format!("librdkafka took no topic '{topic}'")))
}

impl LaneWriter {
    /// A writer of a lane that is won, and that needs nothing up to `gate`.
    pub(super) fn new(
        opening: Arc<Opening>,
        number: u8,
        clock: Clock,
        client: Arc<ProducerClient>,
        gate: Epoch,
        timeout: Duration,
    ) -> Result<Self> {
        let batch = batch_size(&opening.config);
        Ok(Self {
            clock,
            lane: Lane::start(opening.clone(), number, client.clone())?,
            producers: Producers::single(client.clone()),
            marks: marks(&client, &opening.book.topic)?,
            client,
            opening,
            number,
            gate,
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
            told: Told::default(),
        })
    }

    /// Takes an epoch, unless it is held already.
    pub(super) fn write(&mut self, flight: Flight) {
        if flight.epoch > self.gate {
            self.flights.push_back(flight);
        }
    }

    /// Asks that everything taken be committed at once.
    pub(super) fn flush(&mut self) {
        self.flush = !self.flights.is_empty();
    }

    /// Needs nothing up to `gate`.
    pub(super) fn skip(&mut self, gate: Epoch) {
        self.gate = gate;
    }

    /// Everything of the lane up to here is in the topics for good.
    pub(super) fn done(&self) -> Epoch {
        self.progress.map_or(self.gate, |p| p.epoch.max(self.gate))
    }

    /// Whether nothing is left to be written, or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.stage == Stage::Ready
    }

    /// Bytes of rows that are not known to be committed.
    pub(super) fn memory(&self) -> usize {
        self.flights.iter().map(Flight::memory).sum()
    }

    /// Bytes of records that were sent and are not confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        self.flights.iter().map(|f| f.unconfirmed_bytes).sum()
    }

    /// That no broker can be reached: said once in each outage.
    pub(super) fn outage(&self) -> Option<Error> {
        self.client.context().outage(&self.opening.brokers)
    }

    /// Whether the lane has something to do.
    fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Aborting | Stage::Reopening)
    }

    /// Sends what can be sent, and asks for the commit when a transaction has all that is at hand.
    pub(super) fn advance(&mut self, common: &mut Common) -> Result<()> {
        if self.is_busy() {
            return Ok(());
        }
        if self.stage == Stage::Lost {
            return self.reopen();
        }
        if let Some(refusal) = self.client.fatal() {
            return self.lost(&refusal);
        }
        if common.feed.topics.narrowest() < self.batch {
            // a broker judges whole batches: no topic may get larger ones than it takes
            self.batch = common.feed.topics.narrowest();
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
            let (rows, upto) = (std::mem::take(&mut self.tally.refused), self.covered().map_or(self.gate, |p| p.epoch));
            if self.told.tell(self.number, upto, rows) {
                self.stage = Stage::Waiting;
                return Ok(());
            }
        }
        if self.stage == Stage::Waiting && !self.told.is_bound() {
            return Ok(());
        }
        if self.stage == Stage::Waiting && now.saturating_sub(self.begun) > self.timeout / 2 {
            // no fault of the brokers, which may have given it up by now
            self.attempts = 0;
            return self.abort("it waited too long for the rows that it leaves out to be stored");
        }
        if matches!(self.stage, Stage::Flushing | Stage::Waiting) {
            (self.stage, self.asked) = (Stage::Committing, now);
            return self.lane.ask(Task::Commit);
        }
        let Common { feed, sharing, .. } = common;
        let several = sharing.split().lanes > 1;
        let mut of = |id: TopicId, topic: &Topic, partition: Option<i32>| sharing.lane(id, topic, partition);
        let lane = several.then_some(Share { lane: self.number, of: &mut of });
        let mut manner = Manner { kept: true, spoiled: &self.spoiled, refused: &mut self.tally.refused, lane };
        let mut bytes: usize = self.flights.iter().take(self.taken).map(|f| f.sent_bytes).sum();
        while let Some(flight) = self.flights.get_mut(self.taken) {
            // a transaction ends between two epochs
            let full = bytes >= MOST_BYTES || now.saturating_sub(self.begun) > self.timeout / 4;
            if full && self.taken > 0 && !flight.is_begun() {
                break;
            }
            match feed.send(flight, &mut self.producers, &mut manner)? {
                Sent::Whole => {
                    bytes += flight.sent_bytes;
                    self.taken += 1;
                }
                Sent::Later => return Ok(()),
                Sent::Closed => return self.abort("the transaction takes no more records"),
            }
        }
        if self.flush || now >= self.due { self.conclude(common) } else { Ok(()) }
    }

    /// Puts the progress into the transaction, as its last record.
    fn conclude(&mut self, common: &Common) -> Result<()> {
        let Some(held) = self.held(common) else { return Ok(()) };
        let put = if planted(Bug::ProgressOutsideTransaction) { Ok(()) } else { produce(&self.marks, &self.id(), &held) };
        match put {
            Ok(()) => {
                self.stage = Stage::Flushing;
                Ok(())
            }
            Err(Code::QueueFull) => Ok(()),
            Err(code) => self.abort(&code.to_string()),
        }
    }

    fn id(&self) -> String {
        self.opening.id(self.number)
    }

    /// The progress of the epochs that the transaction holds whole.
    fn covered(&self) -> Option<Progress> {
        let last = self.flights.get(self.taken.checked_sub(1)?)?;
        Some(Progress { writer: self.opening.me, epoch: last.epoch, part: 0 })
    }

    /// The record of that progress.
    fn held(&self, common: &Common) -> Option<Held> {
        let progress = self.covered()?;
        let opened = if self.number == 0 { common.opened } else { 1 };
        let at = Some((progress.epoch, progress.part));
        Some(Held { writer: progress.writer, at, by: None, split: common.sharing.split().clone(), opened })
    }

    /// Takes the epochs at hand out of the transaction, to be sent again.
    fn rewind(&mut self) -> Tally {
        self.flights.iter_mut().for_each(Flight::rewind);
        (self.taken, self.broken) = (0, None);
        self.told.rewind();
        std::mem::take(&mut self.tally)
    }

    fn abort(&mut self, why: &str) -> Result<()> {
        self.strike(why)?;
        tracing::warn!(lane = %self.id(), "a transaction is aborted and written again: {why}");
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
        Err(Error::external(format!("transactions of '{}' fail again and again at {}", self.id(), self.opening.brokers))
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
        tracing::warn!(lane = %self.id(), "the sink is opened again: {}", refusal.text);
        self.reopen()
    }

    /// How long to wait for answers of brokers, `wait` at most; `None` if there is nothing to wait for.
    pub(super) fn patience(&self, common: &Common, wait: Duration) -> Option<Duration> {
        let due = self.is_busy() || common.feed.topics.waiting() || self.client.outstanding() > 0;
        let left = self.due.saturating_sub(self.clock.elapsed());
        match self.stage {
            Stage::Open | Stage::Ready if !self.flights.is_empty() && !left.is_zero() => Some(wait.min(left)),
            _ => due.then_some(wait),
        }
    }

    /// Takes what the lane has to say.
    pub(super) fn hear(&mut self, common: &mut Common) -> Result<()> {
        let Some(answer) = self.lane.answer() else { return Ok(()) };
        match answer {
            Answer::Committed(Ok(())) => {
                if planted(Bug::ProgressOutsideTransaction)
                    && let Some(held) = self.held(common)
                    && let Err(refusal) = self.opening.mark(&self.client, &self.id(), &held)
                {
                    return self.stumbled(&refusal);
                }
                let (progress, tally) = (self.covered(), std::mem::take(&mut self.tally));
                if let Some(progress) = progress {
                    self.committed(progress, tally, &common.feed);
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
            Answer::Opened(Ok(Entry::Won(won))) => match won.into_iter().next() {
                Some(won) => self.reopened(won.client, won.held.progress(), &common.feed),
                None => Err(Error::internal("a lane was opened again, and there is none")),
            },
            Answer::Opened(Ok(Entry::Theirs(progress))) => Err(self.opening.overtaken().why(format!("it holds {progress}"))),
            Answer::Opened(Err(e)) => {
                if e.retry() == Retry::Backoff {
                    self.stage = Stage::Lost;
                }
                Err(e)
            }
        }
    }

    /// The lane is ours again: what it holds is not written once more.
    fn reopened(&mut self, client: Arc<ProducerClient>, held: Option<Progress>, feed: &Feed) -> Result<()> {
        self.producers.rebind(client.clone());
        self.marks = marks(&client, &self.opening.book.topic)?;
        let old = std::mem::replace(&mut self.client, client);
        self.lane.ask(Task::Forget(old))?;
        (self.stage, self.broken) = (Stage::Ready, None);
        let known = self.progress.map(|p| p.epoch);
        if held.map(|p| p.epoch) < known {
            let (held, known) = (held.map_or("nothing".into(), |p| p.to_string()), known.unwrap_or_default());
            return Err(Error::external(format!("topic '{}' has lost progress", self.opening.book.topic))
                .why(format!("it holds {held}, epoch {known} was committed"))
                .hint("was it deleted, or made anew? It must be compacted and never cleared; start again: the start says what can be done")
                .permanent());
        }
        let held = if planted(Bug::BlindRetry) { self.progress } else { held };
        let doubtful = self.doubtful.take();
        if let Some(held) = held.filter(|held| known.is_none_or(|known| held.epoch > known)) {
            let tally = doubtful.filter(|(progress, _)| progress.epoch == held.epoch).map(|(_, tally)| tally);
            self.committed(Progress { writer: self.opening.me, ..held }, tally.unwrap_or_default(), feed);
        }
        Ok(())
    }

    /// Everything up to `progress` is in the topics for good.
    fn committed(&mut self, progress: Progress, tally: Tally, feed: &Feed) {
        self.progress = Some(progress);
        while self.flights.front().is_some_and(|f| f.epoch <= progress.epoch) {
            self.flights.pop_front();
        }
        let first = self.flights.front().map_or(u64::MAX, Flight::first);
        self.spoiled.retain(|word, _| named(*word).1 >= first);
        self.flush &= !self.flights.is_empty();
        self.told.committed();
        tally.tell(feed);
    }

    /// Begins to let go: readers wait for the end of an open transaction, so it is not left to its time-out.
    pub(super) fn leave(&mut self) -> Result<()> {
        if !matches!(self.stage, Stage::Open | Stage::Flushing | Stage::Waiting) {
            return Ok(());
        }
        self.rewind();
        self.stage = Stage::Aborting;
        self.lane.ask(Task::Abort)
    }

    /// Whether no transaction is left open, as far as it depends on us.
    pub(super) fn has_left(&mut self) -> bool {
        if matches!(self.stage, Stage::Committing | Stage::Aborting) && self.lane.answer().is_some() {
            self.stage = Stage::Ready;
        }
        !matches!(self.stage, Stage::Committing | Stage::Aborting)
    }
}
