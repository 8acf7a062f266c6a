//! Topics that forget: of records with the same key a compacted topic keeps the newest, so that reading it again gives other input.
//!
//! Invariant: a topic that is known to be compacted is read only if the source says so; where nobody tells, it is read, and there is a warning.

use crate::admin::{is_compacted, is_embedded, topic_properties};
use crate::client::Settings;
use crate::config::KafkaSource;
use crate::ffi::Consumer;
use orderflow_core::Error;
use rdkafka::error::KafkaResult;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Asks how topics are kept.
pub(crate) struct Policy {
    settings: Settings,
    /// Compacted topics that a pattern matches: who was told of them is not asked about them again.
    pub(crate) left_out: BTreeSet<Arc<str>>,
}

/// What the cluster told of some topics.
#[derive(Default)]
pub(crate) struct Kept {
    /// Those that are compacted, each with its `cleanup.policy`.
    pub(crate) compacted: Vec<(String, String)>,
    /// Those of which it told nothing.
    pub(crate) untold: Vec<String>,
}

impl Policy {
    /// `None` if every topic is read: because the source wants it, or because the cluster is librdkafka's, which forgets by age only and answers no such question.
    pub(crate) fn of(source: &KafkaSource, client: &Consumer) -> Option<Self> {
        (!source.compacted && !is_embedded(client)).then(|| Self { settings: source.settings.clone(), left_out: BTreeSet::new() })
    }

    /// Asks about these topics.
    pub(crate) fn ask(&self, topics: &[&str], wait: Duration) -> KafkaResult<Kept> {
        let mut kept = Kept::default();
        for (topic, policy) in topics.iter().zip(topic_properties(&self.settings, topics, "cleanup.policy", wait)?) {
            match policy {
                None => kept.untold.push((*topic).to_owned()),
                Some(policy) if is_compacted(&policy) => kept.compacted.push(((*topic).to_owned(), policy)),
                Some(_) => {}
            }
        }
        Ok(kept)
    }
}

const WHY: &str = "of records with the same key the older ones are removed at some time, so that what is read depends on when, and is other input when it is read again";

/// A compacted topic that was named is not read.
pub(crate) fn refusal(topic: &str, policy: &str) -> Error {
    Error::user(format!("topic '{topic}' is compacted (cleanup.policy {policy}): it forgets records that were read, and views would not"))
        .why(WHY)
        .hint("add .compacted() to the source to read every record that is still there as a row of its own, or read the topic that keeps all of them")
}

/// A compacted topic that a pattern matches is left out.
pub(crate) fn left_out(topic: &str, policy: &str) -> String {
    format!(
        "topic '{topic}' matches the pattern and is left out, because it is compacted (cleanup.policy {policy}): {WHY}; add .compacted() to the source to read it"
    )
}

/// Nobody knows whether these topics are compacted.
pub(crate) fn untold(topics: &[impl AsRef<str>], why: impl std::fmt::Display) -> String {
    let topics: Vec<&str> = topics.iter().map(AsRef::as_ref).collect();
    format!(
        "whether {} is compacted, and forgets records that were read, is not known: {why}; it is read as one that does not. Grant the user DescribeConfigs on topics, or add .compacted() to the source",
        topics.join(", ")
    )
}

/// Why a cluster that answered told nothing.
pub(crate) const DENIED: &str = "the cluster does not tell its cleanup.policy";
