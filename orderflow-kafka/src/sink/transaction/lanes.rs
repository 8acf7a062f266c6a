//! The writer with transactions: epochs go to all lanes, each of which sends its own records of them and commits by itself.
//!
//! ```text
//!   write(epoch) ─► flight ─┬─► lane 0: what Split gives it ─► commit ─► done 17
//!                           ├─► lane 1                      ─► commit ─► done 18       progress = the least of them
//!                           └─► lane 2 (gate 19)            ─► dropped, done 19
//! ```
//! Invariant: all lanes have the same epochs before them, in order, and each of them as it is split for good (see [`split`](super::split)): epochs that
//! some lane held when the sink was opened are written as they were split then, and nothing after them goes to any lane before all lanes hold them.

use super::fence::Opening;
use super::shared_by;
use super::split::{Course, Split};
use super::writer::LaneWriter;
use crate::ffi::ProducerClient;
use crate::sink::KafkaSink;
use crate::sink::feed::{Feed, Flight, batch_size};
use crate::sink::topics::{Topic, TopicId};
use crate::source::{Hub, Signal};
use orderflow_core::error::Retry;
use orderflow_core::sink::{Closed, Committed, Progress, SinkContext, Writer};
use orderflow_core::source::Waker;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// What all lanes ring when they have something to tell.
pub(super) struct Bell {
    signal: Arc<Signal>,
    rung: Receiver<()>,
}

impl Bell {
    pub(super) fn new() -> Self {
        let (ring, rung) = sync_channel(1);
        let hub = Hub::new(Waker::new(move || {
            let _ = ring.try_send(()); // one call is enough
        }));
        Self { signal: Signal::new(0, &hub), rung }
    }

    pub(super) fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    fn wait(&self, wait: Duration) {
        let _ = self.rung.recv_timeout(wait); // whether it was rung or not: everybody is looked at
    }
}

/// How the epochs under way are split.
pub(super) struct Sharing {
    split: Arc<Split>,
    /// It is that of a former writer, and nothing is added to it.
    is_former: bool,
    /// Lanes of the partitions of each topic, as far as they were asked for.
    lanes: Vec<Vec<u8>>,
}

impl Sharing {
    fn new(split: Split, is_former: bool) -> Self {
        Self { split: Arc::new(split), is_former, lanes: vec![] }
    }

    pub(super) fn split(&self) -> &Arc<Split> {
        &self.split
    }

    /// The lane of a topic's partition, or of a topic that has none.
    pub(super) fn lane(&mut self, id: TopicId, topic: &Topic, partition: Option<i32>) -> u8 {
        let (at, partition) = (usize::from(id), partition.map_or(0, |p| p.unsigned_abs() as usize));
        if self.lanes.len() <= at {
            self.lanes.resize(at + 1, vec![]);
        }
        if self.lanes[at].is_empty()
            && let Some(partitions) = topic.partitions().filter(|_| !self.is_former)
        {
            Arc::make_mut(&mut self.split).note(&topic.name, partitions);
        }
        let known = &mut self.lanes[at];
        known.extend((known.len()..=partition).map(|p| self.split.lane(&topic.name, p as i32)));
        known[partition]
    }
}

/// What lanes have in common.
pub(super) struct Common {
    pub(super) feed: Feed,
    pub(super) sharing: Sharing,
    /// How many lanes are open.
    pub(super) opened: u8,
}

/// An open sink with transactions.
pub(super) struct Lanes {
    opening: Arc<Opening>,
    bell: Bell,
    common: Common,
    lanes: Vec<LaneWriter>,
    /// Until all lanes hold this epoch they write as former writers did.
    until: Option<Epoch>,
    /// Epochs after it.
    waiting: VecDeque<Flight>,
    /// What a split that begins now is made by.
    by: u64,
    /// What the sink held when it was opened.
    held: Epoch,
    flush: bool,
    failed: Option<Error>,
}

impl Lanes {
    /// A writer of lanes that are won, by these producers.
    pub(super) fn new(
        sink: &KafkaSink,
        context: &SinkContext,
        opening: Arc<Opening>,
        clients: Vec<Arc<ProducerClient>>,
        course: Course,
        bell: Bell,
        timeout: Duration,
    ) -> Result<Self> {
        let Course { split, held, until, progress } = course;
        let pinned = if until.is_some() { split.spread.clone() } else { BTreeMap::new() };
        let signal = bell.signal();
        let feed = Feed::start(sink, context, Waker::new(move || signal.raise()), batch_size(&opening.config), pinned)?;
        // what older writers opened and nobody needs any more is claimed, which is all
        let opened = split.lanes.max(opening.lanes);
        let lane = |(number, client)| {
            let gate = held.get(usize::from(number)).copied().unwrap_or_default();
            LaneWriter::new(opening.clone(), number, context.clock.clone(), client, gate, timeout)
        };
        let lanes = (0..opened).zip(clients).map(lane).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            common: Common { feed, sharing: Sharing::new(split, until.is_some()), opened },
            opening,
            bell,
            lanes,
            until,
            waiting: VecDeque::new(),
            by: shared_by(sink),
            held: progress.map_or(Epoch(0), |p| p.epoch),
            flush: false,
            failed: None,
        })
    }

    /// The lanes that epochs under way are written by.
    fn active(&mut self) -> &mut [LaneWriter] {
        &mut self.lanes[..usize::from(self.common.sharing.split.lanes)]
    }

    fn give(&mut self, flight: Flight) {
        let [first, others @ ..] = self.active() else { return };
        for lane in others {
            lane.write(flight.again());
        }
        first.write(flight);
    }

    /// Once all lanes hold what one of them held: splits anew.
    fn meet(&mut self) {
        let Some(until) = self.until else { return };
        let more = !self.waiting.is_empty();
        if !self.active().iter().all(|lane| lane.is_idle() && (more || lane.done() >= until)) {
            return;
        }
        let wanted = self.opening.lanes;
        tracing::info!(sink = %self.opening.sink, lanes = wanted, "all lanes hold epoch {until}");
        self.until = None;
        self.common.sharing = Sharing::new(Split::new(wanted, until, self.by), false);
        self.common.feed.topics.unpin();
        self.common.opened = wanted;
        self.lanes.truncate(wanted.into());
        self.lanes.iter_mut().for_each(|lane| lane.skip(until));
        for flight in std::mem::take(&mut self.waiting) {
            self.give(flight);
        }
        if self.flush {
            self.lanes.iter_mut().for_each(LaneWriter::flush);
        }
    }

    /// Does the same for every lane; what cannot be helped is told before what passes.
    fn each(&mut self, mut step: impl FnMut(&mut LaneWriter, &mut Common) -> Result<()>) -> Result<()> {
        let mut passing = Ok(());
        for lane in &mut self.lanes {
            match step(lane, &mut self.common) {
                Err(e) if e.retry() == Retry::Backoff => passing = passing.and(Err(e)),
                other => other?,
            }
        }
        passing
    }

    fn step(&mut self, wait: Duration) -> Result<()> {
        self.common.feed.topics.serve()?;
        self.each(LaneWriter::advance)?;
        if let Some(wait) = self.lanes.iter().filter_map(|lane| lane.patience(&self.common, wait)).min() {
            self.bell.wait(wait);
        }
        let failed = &mut self.failed;
        self.lanes.iter_mut().for_each(|lane| lane.serve(&self.common, failed));
        self.each(LaneWriter::hear)?;
        self.meet();
        self.common.feed.topics.serve()?;
        self.each(LaneWriter::advance)
    }
}

impl Writer for Lanes {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let flight = self.common.feed.take(closed)?;
        match self.until {
            Some(until) if flight.epoch > until => self.waiting.push_back(flight),
            _ => self.give(flight),
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flush = true;
        self.lanes.iter_mut().for_each(LaneWriter::flush);
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
        // every lane has its say, so that one outage is one error
        if let Some(outage) = self.lanes.iter().filter_map(LaneWriter::outage).reduce(|first, _| first) {
            return Err(outage);
        }
        let done = self.active().iter().map(LaneWriter::done).min().unwrap_or_default();
        let progress = Progress { writer: self.opening.me, epoch: done, part: 0 };
        // lanes hold the same epochs, each from another one on: who lacks most holds all of them
        let rows = self.lanes.iter().map(LaneWriter::memory).max().unwrap_or(0) + self.waiting.iter().map(Flight::memory).sum::<usize>();
        self.flush &= rows > 0;
        Ok(Committed {
            progress: Some(progress).filter(|p| p.epoch > self.held),
            pending_bytes: rows + self.lanes.iter().map(LaneWriter::unconfirmed).sum::<usize>(),
            refused: self.lanes.iter_mut().filter_map(|lane| lane.told.take()).collect(),
        })
    }

    fn lanes(&self) -> Vec<Epoch> {
        self.lanes[..usize::from(self.common.sharing.split.lanes)].iter().map(LaneWriter::done).collect()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.each(|lane, _| lane.leave())?;
        for _ in 0..100 {
            if self.lanes.iter_mut().all(LaneWriter::has_left) {
                break;
            }
            self.bell.wait(Duration::from_millis(50));
            let failed = &mut self.failed;
            self.lanes.iter_mut().for_each(|lane| lane.serve(&self.common, failed));
        }
        Ok(())
    }
}
