//! The questions that may take long, asked beside the engine's thread: which partitions and topics are there now, who else is
//! in the consumer group, and what the group has committed.
//!
//! Invariant: a topic counts as deleted only when two answers in a row lack it; an unanswered question changes nothing.
#![expect(clippy::disallowed_methods, reason = "metadata is refreshed by a thread of its own, so that a reader never waits")]

use super::open::partition_ids;
use super::policy::{DENIED, Policy, left_out, untold};
use super::ready::Hub;
use crate::client::{ANSWER, Silence, refused_property};
use crate::config::Topics;
use crate::ffi::{Consumer, remind};
use orderflow_core::time::{Partition, Positions};
use orderflow_core::{Error, Result};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread waits for an answer about the topics.
const LOOK: Duration = Duration::from_secs(5);

/// Which topics a source wants, with the prefix applied.
#[derive(Clone)]
pub(crate) enum Wanted {
    Named(Vec<String>),
    Matching(Regex),
}

impl Wanted {
    pub(crate) fn new(topics: &Topics, prefix: &str) -> Result<Self> {
        match topics {
            Topics::Named(names) if names.is_empty() => {
                Err(Error::user("the Kafka source names no topic").hint("name one at least: Kafka::topics([\"orders\"])"))
            }
            Topics::Named(names) => {
                let unique: BTreeSet<String> = names.iter().map(|n| format!("{prefix}{n}")).collect();
                Ok(Self::Named(unique.into_iter().collect()))
            }
            Topics::Pattern(pattern) => {
                let rest = pattern.strip_prefix('^');
                let whole = match (prefix.is_empty(), rest) {
                    (true, _) => pattern.clone(),
                    (false, Some(rest)) => format!("^{}(?:{rest})", regex::escape(prefix)),
                    (false, None) => format!("^{}.*(?:{pattern})", regex::escape(prefix)),
                };
                let refused = |e| {
                    let error = Error::user(format!("the topic pattern '{pattern}' is not a regular expression")).why(e);
                    error.hint("write it for the crate regex, as ^orders\\..*: a plain name belongs into Kafka::topic")
                };
                Ok(Self::Matching(Regex::new(&whole).map_err(refused)?))
            }
        }
    }

    /// Names that must exist.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::Named(names) => names,
            Self::Matching(_) => &[],
        }
    }

    /// The topics that exist, each with its partitions.
    pub(crate) fn find(&self, client: &Consumer, wait: Duration) -> KafkaResult<Vec<(String, Vec<i32>)>> {
        let mut found = vec![];
        match self {
            Self::Named(names) => {
                for name in names {
                    let answer = client.fetch_metadata(Some(name), wait)?;
                    found.extend(answer.topics().iter().filter_map(|t| Some((t.name().to_owned(), partition_ids(t)?))));
                }
            }
            Self::Matching(pattern) => {
                let answer = client.fetch_metadata(None, wait)?;
                let wanted = answer.topics().iter().filter(|t| !t.name().starts_with("__") && pattern.is_match(t.name()));
                found.extend(wanted.filter_map(|t| Some((t.name().to_owned(), partition_ids(t)?))));
            }
        }
        Ok(found)
    }
}

/// What the watch has found out and the reader has not taken yet.
#[derive(Default)]
pub(crate) struct News {
    /// New partitions and where their logs begin.
    pub(crate) partitions: Vec<(Partition, u64)>,
    /// Topics that were deleted.
    pub(crate) deleted: Vec<String>,
    /// What the group had committed when we came; sent once.
    pub(crate) committed: Option<Positions>,
    /// Sentences for the user.
    pub(crate) warnings: Vec<String>,
}

#[derive(Default)]
struct State {
    stop: bool,
    look_now: bool,
    news: News,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    hub: Arc<Hub>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        self.tell(|news| news.warnings.push(warning));
    }

    fn tell(&self, news: impl FnOnce(&mut News)) {
        news(&mut self.lock().news);
        self.hub.event();
    }
}

/// The thread that asks.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread needs to know.
pub(crate) struct Assignment {
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) brokers: String,
    pub(crate) wanted: Wanted,
    pub(crate) group: String,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) refresh: Duration,
    /// Whether new partitions are of interest.
    pub(crate) follow: bool,
    /// How to ask whether a new topic is compacted, where that is not to be read.
    pub(crate) policy: Option<Policy>,
    /// What the thread runs in.
    pub(crate) span: tracing::Span,
}

impl Watch {
    pub(crate) fn start(assignment: Assignment, hub: Arc<Hub>) -> Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), hub });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("orderflow-kafka-watch".into())
            .spawn(move || assignment.span.clone().in_scope(|| assignment.run(&theirs)))
            .map_err(|e| refused_property(rdkafka::error::KafkaError::ClientCreation(e.to_string())))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn news(&self) -> News {
        std::mem::take(&mut self.shared.lock().news)
    }

    /// Looks at the topics without waiting for the next turn.
    pub(crate) fn look_now(&self) {
        self.shared.lock().look_now = true;
        self.shared.changed.notify_all();
    }

    /// Ends the thread; waits for a question that is under way.
    pub(crate) fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it ends by itself; a panic there has nothing left to harm
        }
    }
}

/// Topics that came while the source was read.
#[derive(Default)]
struct Newcomers {
    /// How often in a row it was not answered how they are kept.
    unanswered: u32,
}

impl Newcomers {
    /// After so many turns without an answer new topics are read.
    const TURNS: u32 = 3;

    /// Those of `topics`, none of which is read yet, that are not to be read, or not yet.
    fn not_read(&mut self, policy: &mut Policy, topics: BTreeSet<Arc<str>>, shared: &Shared) -> BTreeSet<Arc<str>> {
        let unknown: Vec<&str> = topics.difference(&policy.left_out).map(|t| &**t).collect();
        if !unknown.is_empty() && !shared.lock().stop {
            match policy.ask(&unknown, LOOK) {
                Ok(kept) => {
                    self.unanswered = 0;
                    for (topic, cleanup) in kept.compacted {
                        shared.warn(left_out(&topic, &cleanup));
                        policy.left_out.insert(topic.into());
                    }
                    if !kept.untold.is_empty() {
                        shared.warn(untold(&kept.untold, DENIED));
                    }
                }
                Err(_) if self.unanswered < Self::TURNS => {
                    self.unanswered += 1;
                    return topics;
                }
                Err(e) => shared.warn(untold(&unknown, e)),
            }
        }
        policy.left_out.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Assignment {
    fn run(mut self, shared: &Shared) {
        let mut known = self.tell_committed(shared);
        if let Some(warning) = self.foreign_members() {
            shared.warn(warning);
        }
        let (mut missing, mut silence) = (BTreeSet::new(), Silence::default());
        let mut newcomers = Newcomers::default();
        loop {
            // a suspected deletion is looked at again soon
            let pause = if missing.is_empty() { self.refresh } else { Duration::from_secs(1).min(self.refresh) };
            let state = shared.lock();
            let (mut state, _) =
                shared.changed.wait_timeout_while(state, pause, |s| !s.stop && !s.look_now).unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
            state.look_now = false;
            drop(state);
            known = known || self.tell_committed(shared);
            if self.look(shared, &mut missing, &mut newcomers) {
                silence = Silence::default();
            } else if silence.lasts(pause + LOOK) {
                remind(self.consumer.client(), &self.brokers);
            }
        }
    }

    /// False if no broker answered; whoever reads says so.
    fn look(&mut self, shared: &Shared, missing: &mut BTreeSet<Arc<str>>, newcomers: &mut Newcomers) -> bool {
        let Ok(found) = self.wanted.find(&self.consumer, LOOK) else { return false };
        let known: BTreeSet<Arc<str>> = self.partitions.iter().map(|p| p.topic.clone()).collect();
        let gone: BTreeSet<Arc<str>> =
            known.iter().filter(|k| !found.iter().any(|(t, ids)| **t == ***k && !ids.is_empty())).cloned().collect();
        let deleted: Vec<String> = gone.intersection(missing).map(|t| t.to_string()).collect();
        *missing = gone;
        if !deleted.is_empty() {
            shared.tell(|news| news.deleted = deleted);
        }
        if !self.follow {
            return true;
        }
        let all = found.iter().flat_map(|(topic, ids)| ids.iter().map(move |id| Partition::new(topic.as_str(), *id)));
        let new: Vec<Partition> = all.filter(|p| !self.partitions.contains(p)).collect();
        let topics: BTreeSet<Arc<str>> = new.iter().map(|p| p.topic.clone()).filter(|t| !known.contains(t)).collect();
        let not_read = self.policy.as_mut().map(|policy| newcomers.not_read(policy, topics, shared)).unwrap_or_default();
        for partition in new.into_iter().filter(|p| !not_read.contains(&p.topic)) {
            // not answered: it is still new at the next turn
            let Ok((low, _)) = self.consumer.fetch_watermarks(&partition.topic, partition.id, Duration::from_secs(5)) else { continue };
            self.partitions.push(partition.clone());
            shared.tell(|news| news.partitions.push((partition, u64::try_from(low).unwrap_or(0))));
        }
        true
    }

    /// Asks what the group holds already; until that is known nothing is committed, so that nothing goes back.
    fn tell_committed(&self, shared: &Shared) -> bool {
        let mut asked = TopicPartitionList::with_capacity(self.partitions.len());
        for p in &self.partitions {
            asked.add_partition(&p.topic, p.id);
        }
        match self.consumer.committed_offsets(asked, ANSWER) {
            Ok(answer) => {
                let offset = |o| if let Offset::Offset(o) = o { u64::try_from(o).ok() } else { None };
                let elements = answer.elements();
                let held = elements.iter().filter_map(|e| Some((Partition::new(e.topic(), e.partition()), offset(e.offset())?))).collect();
                shared.tell(|news| news.committed = Some(held));
                true
            }
            Err(e) => {
                tracing::warn!(group = %self.group, "the offsets of the consumer group could not be read: {e}");
                false
            }
        }
    }

    fn foreign_members(&self) -> Option<String> {
        // a broker that cannot list groups (the embedded one) has no foreign members to tell of
        let groups = self.consumer.fetch_group_list(Some(&self.group), Duration::from_secs(5)).ok()?;
        let members = groups.groups().iter().find(|g| g.name() == self.group)?.members();
        let first = members.first()?;
        Some(format!(
            "consumer group '{}' has {} other member(s) (first: {} at {}): the lag that tools show for it is not ours alone; give the source a group of its own",
            self.group,
            members.len(),
            first.client_id(),
            first.client_host(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, prefix: &str, topic: &str) -> bool {
        match Wanted::new(&Topics::Pattern(pattern.into()), prefix).unwrap() {
            Wanted::Matching(r) => r.is_match(topic),
            Wanted::Named(_) => unreachable!(),
        }
    }

    #[test]
    fn a_prefix_stands_before_a_pattern() {
        assert!(matches(r"^orders\..*", "", "orders.upi"));
        assert!(matches(r"^orders\..*", "a.b-", "a.b-orders.upi"));
        assert!(!matches(r"^orders\..*", "a.b-", "orders.upi"));
        assert!(!matches(r"^orders\..*", "a.b-", "aXb-orders.upi"));
        assert!(matches("upi$", "a-", "a-orders.upi"));
        assert!(!matches("^x|y", "p-", "y"));
    }

    #[test]
    fn a_broken_pattern_is_an_error_that_shows_it() {
        let e = Wanted::new(&Topics::Pattern("orders(".into()), "").err().unwrap();
        assert!(e.to_string().contains("orders(") && e.remedy().is_some(), "{e}");
        let e = Wanted::new(&Topics::Named(vec![]), "").err().unwrap();
        assert!(e.remedy().is_some_and(|hint| hint.contains("Kafka::topics")), "{e}");
    }
}
