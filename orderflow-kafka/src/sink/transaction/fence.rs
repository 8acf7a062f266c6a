//! Opening a sink for transactions: look whose it is, fence older writers, read what they have left, claim it.
//!
//! Invariant: nobody is fenced who writes for another ledger or for a newer generation; what is read is read after the fence, so nothing can be added to
//! it but by us. The claim says so to everybody who looks later, and tells a writer whose transaction only took too long from one that was overtaken.

use super::book::Book;
use super::progress::{Held, Whose, whose};
use crate::client::refused_property;
use crate::ffi::{Call, Outgoing, ProducerClient, Refusal, TopicHandle};
use orderflow_core::sink::{Progress, WriterId};
use orderflow_core::{Error, Result};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::sync::Arc;
use std::time::Duration;

/// The word of a record of progress: no row's.
pub(super) const MARK: usize = usize::MAX;

/// How often a newcomer tries to win the sink from an older writer that takes it back.
const CONTESTS: usize = 5;

/// All that is needed to open the sink, once or again.
pub(super) struct Opening {
    pub(super) book: Book,
    /// A producer's configuration without its transactional id.
    pub(super) config: ClientConfig,
    pub(super) id: String,
    pub(super) me: WriterId,
    pub(super) brokers: String,
}

/// A sink that was looked at, and won if it could be.
pub(super) enum Entry {
    /// Its transactions are ours alone; what older writers have left in it.
    Won { client: Arc<ProducerClient>, held: Option<Progress> },
    /// Another ledger's, which goes on undisturbed.
    Theirs(Progress),
}

impl Opening {
    /// Wins the sink; `again` if this very process held it before.
    pub(super) fn open(&self, batch: usize, again: bool) -> Result<Entry> {
        let mut config = self.config.clone();
        config.set("batch.size", batch.to_string());
        for _ in 0..CONTESTS {
            match whose(self.book.glance()?.get(&self.id), self.me) {
                Whose::Theirs(progress) => return Ok(Entry::Theirs(progress)),
                Whose::Newer(generation) => {
                    return Err(self.overtaken().why(format!("it is generation {generation} of the same state")).hint(
                        "this process must stop: a newer one does its work; if there is none, the state was rolled back: restore the newest one",
                    ));
                }
                Whose::Twice if !again => {
                    return Err(Error::user(format!("two sinks of the pipeline would write as '{}'", self.id))
                        .hint("give one of them a name of its own: .named(name)"));
                }
                Whose::Twice | Whose::Ours => {}
            }
            let client = init(&config, &self.id, &self.brokers)?;
            let found = self.book.settled(self.me, &config)?.get(&self.id).copied();
            let held = found.unwrap_or(Held { writer: self.me, at: None });
            match self.mark(&client, held.claim(self.me)) {
                Ok(()) => return Ok(Entry::Won { client, held: held.progress() }),
                // somebody came between: look again who it is
                Err(refusal) if fenced(refusal.code) => {}
                Err(refusal) => return Err(self.refused("claim the sink", &refusal)),
            }
        }
        Err(self.overtaken())
    }

    /// Writes a record of progress in a transaction of its own.
    fn mark(&self, client: &Arc<ProducerClient>, held: Held) -> std::result::Result<(), Refusal> {
        let refusal = |code: Code| Refusal { code, text: code.to_string(), again: false, abort: false };
        client.transaction(Call::Begin, Duration::ZERO)?;
        let topic = TopicHandle::new(client, &self.book.topic).ok_or_else(|| refusal(Code::UnknownTopic))?;
        produce(&topic, &self.id, held).map_err(refusal)?;
        // a commit waits until all answers are served, which is our part
        for _ in 0..300 {
            if client.outstanding() == 0 {
                break;
            }
            client.serve(Duration::from_millis(100), &mut |_| {});
        }
        client.transaction(Call::Commit, Duration::from_secs(30))
    }

    /// Another process has won what was ours.
    pub(super) fn overtaken(&self) -> Error {
        Error::external(format!("another process has taken over the Kafka sink '{}'", self.id))
            .hint("the pipeline runs elsewhere, with a newer generation of the same state: this process must stop")
            .permanent()
    }

    pub(super) fn refused(&self, what: &str, refusal: &Refusal) -> Error {
        refused(what, &self.id, &self.brokers, refusal)
    }
}

/// Sends a record of progress.
pub(super) fn produce(topic: &TopicHandle, id: &str, held: Held) -> std::result::Result<(), Code> {
    let value = held.to_json();
    let (key, value) = (Some(id.as_bytes()), Some(value.as_bytes()));
    topic.client().produce(topic, Outgoing { partition: 0, key, value, timestamp: None, headers: None, opaque: MARK })
}

/// A producer that has ended all older transactions of its id.
pub(super) fn init(config: &ClientConfig, id: &str, brokers: &str) -> Result<Arc<ProducerClient>> {
    let mut config = config.clone();
    config.set("transactional.id", id);
    let client = Arc::new(ProducerClient::new(&config).map_err(refused_property)?);
    let mut last = None;
    for _ in 0..12 {
        match client.transaction(Call::Init, Duration::from_secs(5)) {
            Ok(()) => return Ok(client),
            Err(refusal) if refusal.again => last = Some(refusal),
            Err(refusal) => return Err(refused("begin", id, brokers, &refusal)),
        }
        client.serve(Duration::ZERO, &mut |_| {});
    }
    let e = Error::external(format!("transactions of '{id}' could not begin: the brokers at {brokers} do not answer in time"));
    let e = match (client.context().reason(), last) {
        (Some(reason), _) => e.why(reason),
        (None, Some(refusal)) => e.why(refusal.text),
        (None, None) => e,
    };
    Err(e.hint(
        "a cluster with fewer brokers than transaction.state.log.replication.factor has no transactions; .at_least_once() does without them",
    ))
}

/// Whether another producer of the same transactional id has begun, or the broker has ended a transaction that took too long.
pub(super) fn fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced)
}

/// Whether somebody has to grant a right first.
pub(super) fn forbidden(code: Code) -> bool {
    matches!(code, Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::TopicAuthorizationFailed)
}

/// Why a step of a transaction failed for good.
fn refused(what: &str, id: &str, brokers: &str, refusal: &Refusal) -> Error {
    let said = format!("transactions of '{id}' could not {what} at {brokers}");
    let with = |e: Error| e.why(&refusal.text);
    match refusal.code {
        code if forbidden(code) => with(Error::user(said))
            .hint("the user needs the rights Describe and Write on this transactional id and on every topic written; .at_least_once() does without transactions"),
        Code::InvalidTransactionTimeout => {
            with(Error::user(said)).hint("transaction.timeout.ms must not be above the brokers' transaction.max.timeout.ms")
        }
        Code::UnsupportedFeature | Code::UnsupportedVersion => {
            with(Error::user(said)).hint("the brokers know no transactions; .at_least_once() does without them")
        }
        _ => with(Error::external(said)).permanent(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let said = |code: Code| {
            let refusal = Refusal { code, text: "the broker said so".into(), again: false, abort: false };
            refused("begin", "p/v/t/0", "b:1", &refusal).to_string()
        };
        for (code, part) in [
            (Code::TransactionalIdAuthorizationFailed, "rights Describe and Write"),
            (Code::InvalidTransactionTimeout, "transaction.max.timeout.ms"),
            (Code::UnsupportedFeature, ".at_least_once()"),
            (Code::Unknown, "the broker said so"),
        ] {
            let said = said(code);
            assert!(said.contains(part) && said.contains("'p/v/t/0'") && said.contains("b:1"), "{said}");
        }
    }
}
