//! The topics a sink writes to: looked up, and created where missing, on a thread of its own, so that the writer never waits.
//!
//! Invariant: a topic's number is given at its first sight and never changes; it has a number of partitions, a reason why it is
//! refused, or a question under way. At most `max_new_topics` topics are ever created by one writer. The number of partitions does not change
//! while the writer lives, except where [`Topics::unpin`] says so.
#![expect(
    clippy::disallowed_methods,
    reason = "topics are looked up and created by a thread of their own, so that a writer never waits; it is asked once a topic"
)]

use super::KafkaSink;
use super::counters::Counters;
use crate::admin::Admin;
use crate::client::Settings;
use crate::embedded::EmbeddedBroker;
use orderflow_core::error::Retry;
use orderflow_core::source::Waker;
use orderflow_core::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tracing::Span;

/// Number of a topic within its writer.
pub(crate) type TopicId = u16;

/// The number of every name beyond [`MOST`].
const OVERFLOW: TopicId = 0;

/// Names a writer can tell apart; far more than it may create.
const MOST: usize = 60_000;

/// What is known of a topic.
pub(crate) enum State {
    /// A question is under way.
    Asked,
    /// Records can be sent. The topic has `there` partitions, of which `partitions` are used, and takes batches of `max_batch` bytes, where it says so.
    Ready { partitions: i32, there: i32, max_batch: Option<usize> },
    /// No record can ever be sent, and why.
    Refused(String),
}

/// One topic.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) state: State,
    delivered: Arc<AtomicU64>,
}

impl Topic {
    /// Partitions that records are spread over, where it is known.
    pub(crate) fn partitions(&self) -> Option<i32> {
        match self.state {
            State::Ready { partitions, .. } => Some(partitions),
            State::Asked | State::Refused(_) => None,
        }
    }

    /// So many records more are in the topic for good.
    pub(crate) fn delivered(&self, records: u64) {
        self.delivered.fetch_add(records, Ordering::Relaxed);
    }
}

/// All topics of a writer, and the thread that looks them up.
pub(crate) struct Topics {
    ids: HashMap<Box<[u8]>, TopicId>,
    topics: Vec<Topic>,
    prefix: String,
    counters: Counters,
    /// The largest batch that every topic takes which was found so far.
    narrowest: usize,
    /// Numbers of partitions that hold instead of what is there, by full name.
    pinned: BTreeMap<String, i32>,
    asks: Sender<(TopicId, String)>,
    answers: Receiver<(TopicId, Result<Found>)>,
    asked: usize,
    // the thread looks by it whether anybody still waits
    _wake: Arc<Waker>,
}

/// Answer of the thread.
enum Found {
    Topic { partitions: i32, max_batch: Option<usize> },
    Refused(String),
}

impl Topics {
    /// Starts the thread, which runs in `span` and calls `wake` with every answer. `batch` is the size of the producers' batches; `pinned` are numbers of partitions that
    /// hold where a topic still has so many.
    pub(crate) fn start(sink: &KafkaSink, span: Span, wake: Waker, batch: usize, pinned: BTreeMap<String, i32>) -> Result<Self> {
        let (asks, theirs) = channel();
        let (answer, answers) = channel();
        let wake = Arc::new(wake);
        let finder = Finder {
            settings: sink.settings.clone(),
            embedded: sink.embedded.clone(),
            partitions: sink.partitions,
            replication: sink.replication,
            most: sink.max_new_topics,
            created: 0,
            writer: Arc::downgrade(&wake),
        };
        std::thread::Builder::new()
            .name("orderflow-kafka-topics".into())
            .spawn(move || span.in_scope(|| finder.run(&theirs, &answer)))
            .map_err(|e| Error::external("the thread that looks up topics could not start").caused_by(e))?;
        let overflow = Topic {
            name: String::new(),
            state: State::Refused(format!("the sink has seen more than {MOST} topic names")),
            delivered: Arc::default(),
        };
        Ok(Self {
            ids: HashMap::new(),
            topics: vec![overflow],
            prefix: sink.prefix.clone(),
            counters: sink.counters.clone(),
            narrowest: batch,
            pinned,
            asks,
            answers,
            asked: 0,
            _wake: wake,
        })
    }

    /// The number of the topic called `name` by the user; asks for it at first sight.
    pub(crate) fn id(&mut self, name: &[u8]) -> TopicId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let Some(id) = TopicId::try_from(self.topics.len()).ok().filter(|_| self.topics.len() < MOST) else { return OVERFLOW };
        let full = format!("{}{}", self.prefix, String::from_utf8_lossy(name));
        let state = match invalid(&full) {
            Some(why) => State::Refused(why),
            None => {
                self.asked += 1;
                // the thread lives as long as this sender
                let _ = self.asks.send((id, full.clone()));
                State::Asked
            }
        };
        let delivered = if matches!(state, State::Asked) { self.counters.topic(&full) } else { Arc::default() };
        self.ids.insert(name.into(), id);
        self.topics.push(Topic { name: full, state, delivered });
        id
    }

    pub(crate) fn get(&self, id: TopicId) -> &Topic {
        &self.topics[usize::from(id)]
    }

    /// Whether an answer is due.
    pub(crate) fn waiting(&self) -> bool {
        self.asked > 0
    }

    /// Takes the answers that have come.
    pub(crate) fn serve(&mut self) -> Result<()> {
        while let Ok(answer) = self.answers.try_recv() {
            self.answered(answer)?;
        }
        Ok(())
    }

    /// Waits until nothing is asked, for `wait` at most; what is not answered by then stays asked.
    pub(crate) fn settle(&mut self, wait: Duration) -> Result<()> {
        while self.waiting() {
            match self.answers.recv_timeout(wait) {
                Ok(answer) => self.answered(answer)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn answered(&mut self, (id, found): (TopicId, Result<Found>)) -> Result<()> {
        self.asked -= 1;
        self.topics[usize::from(id)].state = match found? {
            Found::Refused(why) => State::Refused(why),
            Found::Topic { partitions: there, max_batch } => {
                self.narrowest = max_batch.map_or(self.narrowest, |max| self.narrowest.min(max));
                let pinned = self.pinned.get(&self.topics[usize::from(id)].name).copied();
                State::Ready { partitions: pinned.filter(|n| *n <= there).unwrap_or(there), there, max_batch }
            }
        };
        Ok(())
    }

    /// The largest batch that every topic takes which was found so far; where all records go through one producer, its batches must not be larger.
    pub(crate) fn narrowest(&self) -> usize {
        self.narrowest
    }

    /// From now on records are spread over all partitions that are there.
    pub(crate) fn unpin(&mut self) {
        self.pinned.clear();
        for topic in &mut self.topics {
            if let State::Ready { partitions, there, .. } = &mut topic.state {
                *partitions = *there;
            }
        }
    }
}

/// Why Kafka would refuse the name.
pub(crate) fn invalid(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 249 {
        "it is longer than 249 characters"
    } else if name == "." || name == ".." {
        "it is reserved"
    } else if !name.chars().all(legal) {
        "it has characters other than letters, digits, '.', '_' and '-'"
    } else {
        return None;
    };
    Some(format!("'{name}' cannot be the name of a topic: {why}"))
}

struct Finder {
    settings: Settings,
    embedded: Option<EmbeddedBroker>,
    partitions: i32,
    replication: i32,
    most: usize,
    created: usize,
    writer: Weak<Waker>,
}

impl Finder {
    fn run(mut self, asks: &Receiver<(TopicId, String)>, answers: &Sender<(TopicId, Result<Found>)>) {
        // a connection is kept while questions come and let go when they have ceased
        let mut admin = None;
        loop {
            let ask = if admin.is_some() { asks.recv_timeout(Duration::from_secs(5)) } else { asks.recv().map_err(Into::into) };
            match ask {
                Err(RecvTimeoutError::Timeout) => admin = None,
                Err(RecvTimeoutError::Disconnected) => return,
                Ok((id, name)) => {
                    let found = loop {
                        match self.find(&mut admin, &name) {
                            Err(e) if e.retry() == Retry::Backoff && self.writer.strong_count() > 0 => {
                                tracing::warn!("{e}");
                                std::thread::sleep(Duration::from_millis(500));
                            }
                            found => break found,
                        }
                    };
                    if answers.send((id, found)).is_err() {
                        return;
                    }
                    if let Some(writer) = self.writer.upgrade() {
                        writer.wake();
                    }
                }
            }
        }
    }

    fn find(&mut self, admin: &mut Option<Admin>, name: &str) -> Result<Found> {
        let admin = match admin {
            Some(admin) => admin,
            None => admin.insert(match &self.embedded {
                Some(broker) => Admin::embedded(broker)?,
                None => Admin::connect(self.settings.clone())?,
            }),
        };
        let partitions = match admin.partitions(name)? {
            Some(n) => n,
            None if self.created >= self.most => {
                return Ok(Found::Refused(format!(
                    "topic '{name}' does not exist, and the sink has created {} topics, its limit",
                    self.created
                )));
            }
            None => {
                self.created += usize::from(admin.create_topic(name, self.partitions, self.replication, &[])?);
                admin.partitions(name)?.ok_or_else(|| Error::external(format!("topic '{name}' was created and cannot be seen yet")))?
            }
        };
        let max_batch = admin.max_batch_bytes(name);
        Ok(Found::Topic { partitions: i32::try_from(partitions).unwrap_or(i32::MAX), max_batch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_refuses_are_known_before_it_is_asked() {
        for name in ["", ".", "..", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(invalid(name).is_some(), "{name}");
        }
        for name in ["orders.google-pay", "_x", "...", "A1"] {
            assert!(invalid(name).is_none(), "{name}");
        }
    }
}
