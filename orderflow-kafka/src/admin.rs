//! The few administrative calls that pipelines, tests and the command line need. All of them wait for their answer.
//!
//! Invariant: every call is idempotent, so that it may be repeated after a lost answer.
#![expect(clippy::disallowed_methods, reason = "administrative calls may block, and the queue of one answer is its own bound")]

use crate::client::{ANSWER, Context, Settings, refused_property, unanswered};
use crate::config::Kafka;
use crate::embedded::EmbeddedBroker;
use crate::ffi::Consumer;
use crate::{Start, Until};
use futures::executor::block_on;
use orderflow_core::source::{Polled, Reader, Source, SourceContext, Waker};
use orderflow_core::time::{Clock, Partition, Positions};
use orderflow_core::{Error, Result};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a count waits for transactions that are under way.
const SETTLING: Duration = Duration::from_secs(30);

/// A topic and its number of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// The ends of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Which partition.
    pub partition: Partition,
    /// Offset of its oldest record.
    pub low: u64,
    /// Offset after its newest record (transaction markers count as records here), or of the first one of a transaction that is not over.
    pub high: u64,
}

/// How far a consumer group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// Which partition.
    pub partition: Partition,
    /// The offset that the group has committed.
    pub committed: Option<u64>,
    /// Offset after the partition's last record.
    pub end: u64,
}

impl GroupLag {
    /// Offsets between what was committed and the end; all of them if nothing was.
    pub fn lag(&self) -> u64 {
        self.end.saturating_sub(self.committed.unwrap_or(0))
    }
}

/// A connection for administrative calls.
pub struct Admin {
    settings: Settings,
    client: Consumer,
    embedded: Option<EmbeddedBroker>,
    /// Whether the cluster is an embedded one, of this process or of another, once it was asked.
    is_mock: OnceLock<bool>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn ask<T>(
    settings: &Settings,
    wait: Duration,
    call: impl FnOnce(&AdminClient<Context>, &AdminOptions) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let mut config = settings.client(&[], &[]).map_err(|e| KafkaError::ClientCreation(e.to_string()))?;
    // it is a producer to librdkafka, which would warn of every property of a consumer
    config.set_log_level(RDKafkaLogLevel::Error);
    let admin: AdminClient<Context> = config.create_with_context(Context::default())?;
    let options = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
    call(&admin, &options)
}

/// A property of each of these topics; `None` where the cluster does not tell.
pub(crate) fn topic_properties(settings: &Settings, topics: &[&str], name: &str, wait: Duration) -> KafkaResult<Vec<Option<String>>> {
    if topics.is_empty() {
        return Ok(vec![]);
    }
    let asked: Vec<ResourceSpecifier<'_>> = topics.iter().map(|t| ResourceSpecifier::Topic(t)).collect();
    let answer = ask(settings, wait, |admin, options| block_on(admin.describe_configs(&asked, options)))?;
    let property = |topic: &&str| {
        let is_its = |r: &&ConfigResource| matches!(&r.specifier, OwnedResourceSpecifier::Topic(t) if t == topic);
        answer.iter().flatten().find(is_its)?.get(name)?.value.clone()
    };
    Ok(topics.iter().map(property).collect())
}

/// Whether this `cleanup.policy` is that of a compacted topic.
pub(crate) fn is_compacted(policy: &str) -> bool {
    policy.split(',').any(|p| p.trim() == "compact")
}

/// Whether the cluster is librdkafka's, of this process or of another: it leaves questions about properties unanswered.
pub(crate) fn is_embedded(client: &Consumer) -> bool {
    client.client().fetch_cluster_id(ANSWER).is_some_and(|id| id.starts_with("mockCluster"))
}

impl Admin {
    /// Connects to a cluster.
    ///
    /// # Errors
    /// A property that is unknown or refused; whether a broker answers is only known with the first question.
    pub fn connect(settings: impl Into<Settings>) -> Result<Self> {
        let settings = settings.into();
        let client = consumer(&settings, &[])?;
        Ok(Self { settings, client, embedded: None, is_mock: OnceLock::new() })
    }

    /// Connects to an embedded cluster.
    ///
    /// # Errors
    /// As [`Admin::connect`].
    pub fn embedded(broker: &EmbeddedBroker) -> Result<Self> {
        Ok(Self { embedded: Some(broker.clone()), ..Self::connect(broker.bootstrap_servers())? })
    }

    fn unanswered(&self, what: &str, e: &KafkaError) -> Error {
        while self.client.poll(Duration::ZERO).is_some() {} // reasons wait in the queue
        unanswered(what, self.settings.brokers(), self.client.context(), e)
    }

    /// Makes sure that a broker answers.
    ///
    /// # Errors
    /// If none does, with its address.
    pub fn reachable(&self) -> Result<()> {
        self.topics().map(drop)
    }

    /// All topics but the cluster's own.
    ///
    /// # Errors
    /// If no broker answers.
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        let answer = self.client.fetch_metadata(None, ANSWER).map_err(|e| self.unanswered("the topics could not be listed", &e))?;
        let mut topics: Vec<_> = answer
            .topics()
            .iter()
            .filter(|t| !t.name().starts_with("__"))
            .map(|t| TopicInfo { name: t.name().to_owned(), partitions: t.partitions().len() })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Number of partitions of a topic; `None` if it does not exist.
    ///
    /// # Errors
    /// If no broker answers.
    pub fn partitions(&self, topic: &str) -> Result<Option<usize>> {
        let what = || format!("topic '{topic}' could not be looked up");
        let answer = self.client.fetch_metadata(Some(topic), ANSWER).map_err(|e| self.unanswered(&what(), &e))?;
        let found = answer.topics().iter().find(|t| t.name() == topic);
        match found.and_then(|t| t.error()).map(Code::from) {
            Some(Code::TopicAuthorizationFailed) => {
                Err(self.unanswered(&what(), &KafkaError::MetadataFetch(Code::TopicAuthorizationFailed)))
            }
            // a leader that is being elected is no reason to doubt the topic
            _ => Ok(found.map(|t| t.partitions().len()).filter(|n| *n > 0)),
        }
    }

    /// Creates a topic and waits until it can be seen; `false` if it existed. `replication` 0 is the cluster's default.
    ///
    /// # Errors
    /// If the cluster refuses, with its reason.
    pub fn create_topic(&self, topic: &str, partitions: i32, replication: i32, properties: &[(&str, &str)]) -> Result<bool> {
        if self.partitions(topic)?.is_some() {
            return Ok(false);
        }
        let refused = |code: Code| {
            let what = format!("topic '{topic}' could not be created at {}", self.settings.brokers());
            Error::external(what).why(code).hint(advice(code))
        };
        let mut created = true;
        if let Some(embedded) = &self.embedded {
            embedded.create_topic(topic, partitions)?;
        } else {
            // a cluster that is starting knows no broker yet, and then even one replica is one too many
            let starting = |code: Code| replication <= 1 && code == Code::InvalidReplicationFactor;
            let replicas = TopicReplication::Fixed(if replication <= 0 { -1 } else { replication });
            let new = properties.iter().fold(NewTopic::new(topic, partitions, replicas), |new, (k, v)| new.set(k, v));
            let answer = self.ask(|admin, options| block_on(admin.create_topics([&new], options)));
            match answer.map_err(|e| self.unanswered(&format!("topic '{topic}' could not be created"), &e))?.pop() {
                Some(Err((_, Code::TopicAlreadyExists))) => created = false,
                Some(Err((_, code))) if passes(code) || starting(code) => return Err(refused(code)),
                Some(Err((_, code))) => return Err(refused(code).permanent()),
                _ => {}
            }
        }
        // creation is answered before every broker knows of it
        for _ in 0..100 {
            if self.partitions(topic)?.is_some() {
                return Ok(created);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(refused(Code::UnknownTopicOrPartition))
    }

    /// Deletes a topic; one that does not exist is deleted already.
    ///
    /// # Errors
    /// If the cluster refuses, with its reason.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let what = format!("topic '{topic}' could not be deleted");
        let answer = self.ask(|admin, options| block_on(admin.delete_topics(&[topic], options)));
        match answer.map_err(|e| self.unanswered(&what, &e))?.pop() {
            Some(Err((_, code))) if code != Code::UnknownTopicOrPartition => Err(Error::external(what).why(code).hint(advice(code))),
            _ => Ok(()),
        }
    }

    /// Gives a topic more partitions, `total` in all.
    ///
    /// # Errors
    /// If the cluster refuses, with its reason.
    pub fn grow_topic(&self, topic: &str, total: usize) -> Result<()> {
        if self.partitions(topic)?.is_some_and(|n| n >= total) {
            return Ok(());
        }
        let what = format!("topic '{topic}' could not be given {total} partitions");
        let new = NewPartitions::new(topic, total);
        let answer = self.ask(|admin, options| block_on(admin.create_partitions([&new], options)));
        match answer.map_err(|e| self.unanswered(&what, &e))?.pop() {
            Some(Err((_, code))) => Err(Error::external(what).why(code).hint(advice(code))),
            _ => Ok(()),
        }
    }

    /// The largest record batch that a topic takes; `None` where the cluster does not tell.
    pub(crate) fn max_batch_bytes(&self, topic: &str) -> Option<usize> {
        self.topic_property(topic, "max.message.bytes")?.parse().ok()
    }

    /// A property of a topic; `None` where the cluster does not tell.
    pub(crate) fn topic_property(&self, topic: &str, name: &str) -> Option<String> {
        let answers = !*self.is_mock.get_or_init(|| self.embedded.is_some() || is_embedded(&self.client));
        answers.then(|| topic_properties(&self.settings, &[topic], name, ANSWER).ok()?.pop()?).flatten()
    }

    fn ask<T>(&self, call: impl FnOnce(&AdminClient<Context>, &AdminOptions) -> KafkaResult<T>) -> KafkaResult<T> {
        ask(&self.settings, ANSWER, call)
    }

    /// The ends of every partition of a topic.
    ///
    /// # Errors
    /// If the topic does not exist or no broker answers.
    pub fn watermarks(&self, topic: &str) -> Result<Vec<Watermarks>> {
        self.ends(&self.client, topic)
    }

    /// Waits until all that is in a topic now can be seen by readers of committed transactions, or is known to be aborted: a commit is answered before its end
    /// stands in every partition. `false` if transactions are still under way after `patience`.
    ///
    /// # Errors
    /// As [`Admin::watermarks`].
    pub fn settled(&self, topic: &str, patience: Duration) -> Result<bool> {
        let uncommitted = self.settings.clone().property("isolation.level", "read_uncommitted");
        let all = self.ends(&consumer(&uncommitted, &[])?, topic)?;
        let began = Instant::now();
        loop {
            let seen = self.watermarks(topic)?;
            if all.iter().zip(&seen).all(|(all, seen)| seen.high >= all.high) {
                return Ok(true);
            }
            if began.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ends(&self, client: &Consumer, topic: &str) -> Result<Vec<Watermarks>> {
        let partitions = self.partitions(topic)?.ok_or_else(|| {
            Error::user(format!("topic '{topic}' does not exist at {}", self.settings.brokers())).hint("check the name, or create it first")
        })?;
        let ends = |id: usize| {
            let partition = Partition::new(topic, i32::try_from(id).unwrap_or(i32::MAX));
            let ask = || client.fetch_watermarks(topic, partition.id, ANSWER);
            // of a topic just made, or after a broker's death, a leader is known a moment later
            let electing = |e: &KafkaError| matches!(e.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable));
            let mut answer = ask();
            for _ in 0..100 {
                if !answer.as_ref().is_err_and(electing) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
                answer = ask();
            }
            let (low, high) = answer.map_err(|e| self.unanswered(&format!("the ends of {partition} could not be read"), &e))?;
            Ok(Watermarks { partition, low: u64::try_from(low).unwrap_or(0), high: u64::try_from(high).unwrap_or(0) })
        };
        (0..partitions).map(ends).collect()
    }

    /// How many records of a topic can be read from these positions on (of a partition that is not named: from its beginning): those of committed transactions
    /// and outside of any, without the markers between. A transaction that is under way is waited for, half a minute at most; then it is none.
    ///
    /// # Errors
    /// As [`Admin::watermarks`]; if the brokers stay away for half a minute.
    pub fn count_records(&self, topic: &str, from: &Positions) -> Result<u64> {
        if !self.settled(topic, SETTLING)? {
            tracing::warn!("topic '{topic}' holds a transaction that does not end: what stands behind its beginning is not counted");
        }
        let mut source = Kafka::topic(topic).start(Start::Earliest).until(Until::Latest).compacted();
        source.settings = self.settings.clone();
        let (wake, woken) = channel();
        let context = SourceContext {
            pipeline: "orderflow-count".into(),
            name: topic.into(),
            resume: Some(from.clone()),
            until: None,
            stood: Positions::new(),
            wake: Waker::new(move || {
                let _ = wake.send(()); // nobody waits any more
            }),
            clock: Clock::system(),
        };
        let mut reader: Box<dyn Reader> = Box::new(source).open(context)?;
        let mut records = 0;
        loop {
            match reader.poll() {
                Ok(Polled::Fetch(fetch)) => records += fetch.rows as u64,
                Ok(Polled::Ended) => break,
                Ok(Polled::Idle) => {
                    woken.recv_timeout(Duration::from_secs(30)).map_err(|_| {
                        Error::external(format!("reading topic '{topic}' stalled"))
                            .why("nothing came for half a minute")
                            .hint("are the leaders of all its partitions running?")
                    })?;
                }
                Err(e) if e.retry() == orderflow_core::error::Retry::Backoff => tracing::warn!("{e}"),
                Err(e) => return Err(e),
            }
        }
        reader.close()?;
        Ok(records)
    }

    /// How far a consumer group is behind in every partition of a topic.
    ///
    /// # Errors
    /// As [`Admin::watermarks`].
    pub fn group_lag(&self, group: &str, topic: &str) -> Result<Vec<GroupLag>> {
        let ends = self.watermarks(topic)?;
        let member = consumer(&self.settings, &[("group.id", group)])?;
        let mut asked = TopicPartitionList::with_capacity(ends.len());
        for end in &ends {
            asked.add_partition(topic, end.partition.id);
        }
        let answer = member
            .committed_offsets(asked, ANSWER)
            .map_err(|e| self.unanswered(&format!("the offsets of consumer group '{group}' could not be read"), &e))?;
        let lag = |end: Watermarks| {
            let committed = match answer.find_partition(topic, end.partition.id).map(|e| e.offset()) {
                Some(Offset::Offset(o)) => u64::try_from(o).ok(),
                _ => None,
            };
            GroupLag { committed, end: end.high, partition: end.partition }
        };
        Ok(ends.into_iter().map(lag).collect())
    }
}

/// What to do about a topic that the cluster does not make, change or delete.
fn advice(code: Code) -> &'static str {
    match code {
        Code::InvalidReplicationFactor => "ask for no more replicas than there are brokers",
        Code::InvalidPartitions => "ask for one partition at least, and of a topic that is there for more than it has",
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "give this client's user the right to do that (an ACL of the brokers), or let somebody do it who has it"
        }
        Code::PolicyViolation => "the cluster has rules of its own for topics: ask for what they allow",
        code if passes(code) => "try again: the cluster may be starting, or electing a leader",
        _ => "the brokers' own log says more",
    }
}

/// Whether a refusal is likely to pass.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NotController
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::ThrottlingQuotaExceeded
    )
}

fn consumer(settings: &Settings, more: &[(&str, &str)]) -> Result<Consumer> {
    let mut defaults = vec![("client.id", "orderflow-admin"), ("allow.auto.create.topics", "false")];
    defaults.extend_from_slice(more);
    settings.client(&defaults, &[])?.create_with_context(Context::default()).map_err(refused_property)
}
