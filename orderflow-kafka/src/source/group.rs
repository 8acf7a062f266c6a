//! What the consumer group is told, so that ordinary Kafka tools show the lag. Our own progress does not depend on it.
//!
//! Invariant: a committed offset never goes back, neither below an earlier commit of ours nor below what the group held when
//! we came; at most one commit is under way, later positions wait for its answer and go out together.

use crate::ffi::{Consumer, commit};
use orderflow_core::time::{Partition, Position, Positions};
use orderflow_core::{Error, Result};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

pub(crate) struct Group {
    name: String,
    /// What the group holds; `None` until it has been asked.
    held: Option<Positions>,
    /// What every sink holds and the group was not told yet.
    wanted: Positions,
    /// Positions of the commit that is under way.
    sent: Option<Positions>,
    /// A sentence for the user after the group refused a commit.
    pub(crate) warning: Option<String>,
}

impl Group {
    pub(crate) fn new(name: String) -> Self {
        Self { name, held: None, wanted: Positions::new(), sent: None, warning: None }
    }

    /// What the group held when we came. An offset beyond a partition's end is of an older topic of that name and counts for nothing.
    pub(crate) fn found(&mut self, held: Positions, end: impl Fn(&Partition) -> Option<Position>) {
        self.held = Some(held.into_iter().filter(|(p, at)| end(p).is_none_or(|end| *at <= end)).collect());
    }

    /// Notes positions that are to be committed.
    pub(crate) fn acknowledge(&mut self, positions: &Positions) {
        for (partition, at) in positions {
            let wanted = self.wanted.entry(partition.clone()).or_insert(*at);
            *wanted = (*wanted).max(*at);
        }
    }

    /// Positions that would move the group forward.
    fn news(&self) -> Option<Positions> {
        let held = self.held.as_ref()?;
        let news: Positions =
            self.wanted.iter().filter(|(p, at)| held.get(*p).is_none_or(|h| h < *at)).map(|(p, at)| (p.clone(), *at)).collect();
        (!news.is_empty()).then_some(news)
    }

    /// Sends what is new, unless a commit is under way.
    pub(crate) fn send(&mut self, consumer: &Consumer) -> Result<()> {
        if self.sent.is_some() {
            return Ok(());
        }
        let Some(news) = self.news() else { return Ok(()) };
        let failed = |e| Error::external(format!("the offsets of consumer group '{}' could not be committed", self.name)).caused_by(e);
        commit(consumer, &list(&news).map_err(failed)?).map_err(|code| failed(KafkaError::ConsumerCommit(code)))?;
        self.sent = Some(news);
        Ok(())
    }

    /// A commit was answered.
    pub(crate) fn answered(&mut self, result: std::result::Result<(), Code>) {
        let Some(sent) = self.sent.take() else { return };
        match result {
            Ok(()) => self.held.get_or_insert_default().extend(sent),
            Err(code) => {
                // the positions stay wanted and go out with the next acknowledgement, or at the end
                tracing::warn!(group = %self.name, "a commit was refused: {code}");
                if matches!(code, Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress | Code::FencedInstanceId) {
                    self.warning = Some(format!(
                        "consumer group '{}' has another member, so our progress could not be committed ({code}): give the source a group of its own",
                        self.name
                    ));
                }
            }
        }
    }

    /// Whether an answer is due or something is left to send.
    fn unfinished(&self) -> bool {
        self.sent.is_some() || self.news().is_some()
    }

    /// Commits the rest and waits up to `rounds` × 100 ms for the answers.
    pub(crate) fn finish(&mut self, consumer: &Consumer, rounds: usize) -> Result<()> {
        if self.held.is_none() && !self.wanted.is_empty() {
            return Err(self.not_told("the brokers did not say what it holds"));
        }
        let mut failures = 0;
        for _ in 0..rounds {
            self.send(consumer)?;
            if !self.unfinished() {
                return Ok(());
            }
            consumer.poll(Duration::from_millis(100));
            for result in consumer.context().commits() {
                failures += usize::from(result.is_err());
                self.answered(result);
            }
            if failures > 3 {
                break;
            }
        }
        if self.unfinished() {
            return Err(self.not_told(&consumer.context().reason().unwrap_or_else(|| "no answer".into())));
        }
        Ok(())
    }

    fn not_told(&self, why: &str) -> Error {
        Error::external(format!("the last offsets of consumer group '{}' could not be committed", self.name))
            .why(why)
            .hint("no record is lost: the group only shows more lag than there is")
    }
}

fn list(positions: &Positions) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (partition, at) in positions {
        list.add_partition_offset(&partition.topic, partition.id, Offset::Offset(i64::try_from(*at).unwrap_or(i64::MAX)))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Positions {
        Positions::from([(Partition::new("t", 0), position)])
    }

    #[test]
    fn nothing_is_sent_before_the_group_was_asked() {
        let mut group = Group::new("g".into());
        group.acknowledge(&at(5));
        assert_eq!(group.news(), None);
        group.found(Positions::new(), |_| None);
        assert_eq!(group.news(), Some(at(5)));
    }

    #[test]
    fn a_commit_never_goes_back() {
        let mut group = Group::new("g".into());
        group.found(at(10), |_| Some(20));
        group.acknowledge(&at(7));
        assert_eq!(group.news(), None);
        group.acknowledge(&at(12));
        group.acknowledge(&at(11));
        assert_eq!(group.news(), Some(at(12)));
        group.sent = group.news();
        group.answered(Ok(()));
        assert_eq!(group.news(), None);
    }

    #[test]
    fn offsets_of_an_older_topic_count_for_nothing() {
        let mut group = Group::new("g".into());
        group.found(at(1000), |_| Some(20));
        group.acknowledge(&at(3));
        assert_eq!(group.news(), Some(at(3)));
    }

    #[test]
    fn a_refused_commit_stays_wanted_and_a_foreign_member_is_named() {
        let mut group = Group::new("g".into());
        group.found(Positions::new(), |_| None);
        group.acknowledge(&at(3));
        group.sent = group.news();
        group.answered(Err(Code::UnknownMemberId));
        assert_eq!(group.news(), Some(at(3)));
        assert!(group.warning.unwrap().contains("another member"));
    }
}
