//! Opening lanes for transactions: look whose the sink is, fence older writers, read what they have left, claim it.
//!
//! Invariant: nobody is fenced who writes for another ledger or for a newer generation; what is read is read after the fence, so nothing can be added to
//! it but by us. The claim says so to everybody who looks later, and tells a writer whose transaction only took too long from one that was overtaken.
//! Once a lane is claimed no older writer commits to it ever again: its producer is fenced, and if it makes another it finds the claim and stops.

use super::book::{Book, Pages};
use super::progress::{Held, Whose, whose};
use crate::client::refused_property;
use crate::ffi::{Call, Outgoing, ProducerClient, Refusal, TopicHandle};
use crate::source::Signal;
use orderflow_core::bug::{Bug, planted};
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

/// All that is needed to open lanes, once or again.
pub(super) struct Opening {
    pub(super) book: Book,
    /// A producer's configuration without its transactional id.
    pub(super) config: ClientConfig,
    /// What the transactional ids of all lanes begin with: `<pipeline>/<view>/<name>`.
    pub(super) sink: String,
    /// Lanes that are wanted.
    pub(super) lanes: u8,
    pub(super) me: WriterId,
    pub(super) brokers: String,
    /// Raised when a lane's producer has something to tell.
    pub(super) signal: Arc<Signal>,
    /// What the lanes' threads run in.
    pub(super) span: tracing::Span,
    /// What commits meet on their way.
    #[cfg(test)]
    pub(super) faults: super::Faults,
}

/// A lane that was won, and its newest record before.
pub(super) struct Won {
    pub(super) client: Arc<ProducerClient>,
    pub(super) held: Held,
}

/// Lanes that were looked at, and won if they could be.
pub(super) enum Entry {
    /// Their transactions are ours alone.
    Won(Vec<Won>),
    /// Another ledger's, which goes on undisturbed.
    Theirs(Progress),
}

impl Opening {
    /// The transactional id of a lane.
    pub(super) fn id(&self, lane: u8) -> String {
        format!("{}/{lane}", self.sink)
    }

    /// Wins the sink: all lanes that an older writer may have opened, and those that are wanted. Lane 0 comes first and says how many they are: who has
    /// not won it opens no other, so that whoever wins it next knows them all.
    pub(super) fn open_all(&self, batch: usize) -> Result<Entry> {
        let mut won = match self.open(&[0], batch, false)? {
            Entry::Won(won) => won,
            theirs => return Ok(theirs),
        };
        let others: Vec<u8> = (1..won[0].held.opened.max(self.lanes)).collect();
        if !others.is_empty() {
            match self.open(&others, batch, true)? {
                Entry::Won(others) => won.extend(others),
                theirs => return Ok(theirs),
            }
        }
        Ok(Entry::Won(won))
    }

    /// Wins lanes; `again` if this very process has won one of the sink's before.
    pub(super) fn open(&self, lanes: &[u8], batch: usize, again: bool) -> Result<Entry> {
        let mut config = self.config.clone();
        config.set("batch.size", batch.to_string());
        for contest in 0..CONTESTS {
            let seen = self.book.glance()?;
            if let Some(progress) = self.look(&seen, again || contest > 0)? {
                return Ok(Entry::Theirs(progress));
            }
            let clients = each(lanes, |_, lane| init(&config, &self.id(lane), &self.brokers, Some(self.signal.clone())))?;
            let pages = if planted(Bug::ReadBeforeFence) { seen } else { self.book.settled(self.me, &config)? };
            // who was faster than the fence is newer, and has read before us
            if let Some(progress) = self.look(&pages, true)? {
                return Ok(Entry::Theirs(progress));
            }
            let held = |lane: &u8| pages.get(&self.id(*lane)).cloned().unwrap_or_else(|| Held::nothing(self.me));
            let held: Vec<Held> = lanes.iter().map(held).collect();
            let claims = each(lanes, |at, lane| {
                let opened = if lane == 0 { self.lanes } else { 1 };
                Ok(self.mark(&clients[at], &self.id(lane), &held[at].claim(self.me, opened)))
            })?;
            match claims.into_iter().find_map(std::result::Result::err) {
                None => return Ok(Entry::Won(clients.into_iter().zip(held).map(|(client, held)| Won { client, held }).collect())),
                // somebody came between: look again who it is
                Some(refusal) if fenced(refusal.code) => {}
                Some(refusal) => return Err(self.refused("claim the sink", &refusal)),
            }
        }
        Err(self.overtaken())
    }

    /// Looks whose the sink is, by all lanes that are in the book; gives the progress of another ledger.
    fn look(&self, pages: &Pages, again: bool) -> Result<Option<Progress>> {
        for (_, held) in pages.iter().filter(|(id, _)| lane_of(id, &self.sink).is_some()) {
            match whose(Some(held), self.me) {
                Whose::Theirs(progress) => return Ok(Some(progress)),
                Whose::Newer(generation) => {
                    return Err(self.overtaken().why(format!("it is generation {generation} of the same state")).hint(
                        "this process must stop: a newer one does its work; if there is none, the state was rolled back: restore the newest one",
                    ));
                }
                Whose::Twice if !again => {
                    return Err(Error::user(format!("two sinks of the pipeline would write as '{}'", self.sink))
                        .hint("give one of them a name of its own: .named(name)"));
                }
                Whose::Twice | Whose::Ours => {}
            }
        }
        Ok(None)
    }

    /// Writes a record of progress in a transaction of its own.
    pub(super) fn mark(&self, client: &Arc<ProducerClient>, id: &str, held: &Held) -> std::result::Result<(), Refusal> {
        let refusal = |code: Code| Refusal { code, text: code.to_string(), again: false, abort: false };
        client.transaction(Call::Begin, Duration::ZERO)?;
        let topic = TopicHandle::new(client, &self.book.topic).ok_or_else(|| refusal(Code::UnknownTopic))?;
        produce(&topic, id, held).map_err(refusal)?;
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
        Error::external(format!("another process has taken over the Kafka sink '{}'", self.sink))
            .hint("the pipeline runs elsewhere, with a newer generation of the same state: this process must stop")
            .permanent()
    }

    pub(super) fn refused(&self, what: &str, refusal: &Refusal) -> Error {
        refused(what, &self.sink, &self.brokers, refusal)
    }
}

/// The lane that a transactional id names, if it is one of the sink's.
pub(super) fn lane_of(id: &str, sink: &str) -> Option<u8> {
    id.strip_prefix(sink)?.strip_prefix('/')?.parse().ok()
}

/// Does the same for every lane, side by side if they are several; `work` is given the place in `lanes`, and the lane.
fn each<T: Send>(lanes: &[u8], work: impl Fn(usize, u8) -> Result<T> + Sync) -> Result<Vec<T>> {
    if let [lane] = lanes {
        return Ok(vec![work(0, *lane)?]);
    }
    let panicked = |_| Err(Error::internal("a thread that opens a lane panicked"));
    let span = tracing::Span::current();
    std::thread::scope(|scope| {
        let (work, span) = (&work, &span);
        let lanes = lanes.iter().enumerate();
        let threads: Vec<_> = lanes.map(|(at, lane)| scope.spawn(move || span.in_scope(|| work(at, *lane)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

/// Sends a record of progress.
pub(super) fn produce(topic: &TopicHandle, id: &str, held: &Held) -> std::result::Result<(), Code> {
    let value = held.to_json();
    let (key, value) = (Some(id.as_bytes()), Some(value.as_bytes()));
    topic.client().produce(topic, Outgoing { partition: 0, key, value, timestamp: None, headers: None, opaque: MARK })
}

/// A producer that has ended all older transactions of its id.
pub(super) fn init(config: &ClientConfig, id: &str, brokers: &str, signal: Option<Arc<Signal>>) -> Result<Arc<ProducerClient>> {
    let mut config = config.clone();
    config.set("transactional.id", id);
    let client = Arc::new(ProducerClient::signalling(&config, signal).map_err(refused_property)?);
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
