//! Opening: the client is made, the topics are found, and every partition gets its first position and, if bounded, its end.
//!
//! Invariant: a reader starts only if each position lies within its log; what lies below the log's start is lost, and said so.

use super::policy::{DENIED, Policy, left_out, refusal, untold};
use super::reader::{KafkaReader, Place};
use super::ready::Hub;
use super::watch::{Assignment, Wanted};
use crate::client::{ANSWER, Context, refused_property, unanswered};
use crate::config::{KafkaSource, Start, Until};
use crate::ffi::Consumer;
use orderflow_core::bug::{Bug, planted};
use orderflow_core::source::SourceContext;
use orderflow_core::time::{Partition, Positions};
use orderflow_core::{Error, Result};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that may lie fetched and not yet taken, over all partitions.
const QUEUED: usize = 16 << 20;

/// Properties that would take positions, assignment or the end event out of our hands.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "use .brokers(addresses)"),
    ("metadata.broker.list", "use .brokers(addresses)"),
    ("group.id", "use .group(name)"),
    ("auto.offset.reset", "use .start(…); a position that is no longer there is always an error"),
    ("enable.auto.commit", "progress is committed when all sinks hold the records"),
    ("enable.auto.offset.store", "progress is committed when all sinks hold the records"),
    ("enable.partition.eof", "the source needs the event; leave it out"),
    ("group.instance.id", "partitions are assigned by the pipeline, not by the group; leave it out"),
];

/// librdkafka's cache keeps metadata this long at most before it asks again by itself.
pub(crate) const REFRESH: Duration = Duration::from_secs(10);

pub(crate) fn open(source: KafkaSource, context: SourceContext) -> Result<KafkaReader> {
    let wanted = Wanted::new(&source.topics, &source.prefix)?;
    let group = format!("{}{}", source.prefix, source.group.as_deref().unwrap_or(&context.pipeline));
    let hub = Hub::new(context.wake.clone());
    let brokers = source.settings.brokers().to_owned();

    // the size of the queues depends on the number of partitions, so that is asked first, by a client without a group
    let scout: Consumer = source.settings.client(&[], OURS)?.create_with_context(Context::default()).map_err(refused_property)?;
    let mut found = wanted.find(&scout, ANSWER).map_err(|e| absent(&scout, &brokers, &e))?;
    let mut policy = Policy::of(&source, &scout);
    let warnings = policy.as_mut().map(|policy| leave_out_compacted(policy, &wanted, context.resume.as_ref(), &mut found));
    let warnings = warnings.transpose()?.unwrap_or_default();
    let partitions = all_partitions(&wanted, &found, &brokers)?;
    drop(scout);

    let (share, fetch) = shares(partitions.len());
    let (queued, fetch) = ((share >> 10).to_string(), fetch.to_string());
    let refresh = REFRESH.as_millis().to_string();
    let defaults: &[(&str, &str)] = &[
        ("client.id", "orderflow"),
        ("group.id", &group),
        ("auto.offset.reset", "error"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "10"),
        ("queued.min.messages", "1000000"),
        ("queued.max.messages.kbytes", &queued),
        ("max.partition.fetch.bytes", &fetch),
        ("fetch.max.bytes", "8388608"),
        ("topic.metadata.refresh.interval.ms", &refresh),
        ("allow.auto.create.topics", "false"),
    ];
    let config = source.settings.client(defaults, OURS)?;
    let mut consumer: Consumer = config.create_with_context(Context::default()).map_err(refused_property)?;
    let bell = hub.clone();
    consumer.set_nonempty_callback(move || bell.event());
    let consumer = Arc::new(consumer);

    let mut places = watermarks(&consumer, &partitions, &brokers)?;
    let prefixed = |offsets: &BTreeMap<(String, i32), u64>| -> Positions {
        offsets.iter().map(|((topic, id), at)| (Partition::new(format!("{}{topic}", source.prefix), *id), *at)).collect()
    };
    match &context.resume {
        Some(resume) => {
            if planted(Bug::NewPartitionFromLatest) {
                places.iter_mut().for_each(|p| p.position = p.end);
            }
            start_at(&mut places, resume, "the pipeline's last run reached")?;
        }
        None => match &source.start {
            Start::Earliest => {}
            Start::Latest => places.iter_mut().for_each(|p| p.position = p.end),
            Start::Timestamp(at) => start_at_timestamp(&consumer, &mut places, *at, &brokers)?,
            Start::Offsets(offsets) => start_at(&mut places, &prefixed(offsets), "the start names")?,
        },
    }
    if let Some(until) = &source.until {
        let named = match (until, &context.until) {
            (Until::Latest, None) => Positions::new(),
            // a partition that came later has nothing to give in this run
            (Until::Latest, Some(told)) => {
                places.iter().map(|p| (p.partition.clone(), *told.get(&p.partition).unwrap_or(&p.position))).collect()
            }
            (Until::Offsets(offsets), _) => prefixed(offsets),
        };
        if let Some(unknown) = named.keys().find(|p| !places.iter().any(|place| place.partition == **p)) {
            return Err(Error::user(format!("the end names partition {unknown}, which does not exist"))
                .hint("take the topics and partitions of Until::Offsets from what is there, without the prefix"));
        }
        places.iter_mut().for_each(|p| p.until = Some(named.get(&p.partition).copied().unwrap_or(p.end)));
    }
    let refresh = config.get("topic.metadata.refresh.interval.ms").and_then(|ms| ms.parse().ok()).map_or(REFRESH, Duration::from_millis);
    let span = tracing::info_span!("orderflow_kafka", pipeline = %context.pipeline, source = %context.name, part = %"watch");
    let follow = source.until.is_none();
    let assignment = Assignment { consumer, brokers: brokers.clone(), wanted, group, partitions, refresh, follow, policy, span };
    let ends = matches!(source.until, Some(Until::Latest))
        .then(|| places.iter().map(|p| (p.partition.clone(), p.until.unwrap_or(p.end))).collect());
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    KafkaReader::new(assignment, hub, places, ends, brokers, warnings)
}

/// Refuses compacted topics that are named or were read before, and takes those out that a pattern matches; gives what the user should know.
fn leave_out_compacted(
    policy: &mut Policy,
    wanted: &Wanted,
    resume: Option<&Positions>,
    found: &mut Vec<(String, Vec<i32>)>,
) -> Result<Vec<String>> {
    let topics: Vec<&str> = found.iter().map(|(topic, _)| topic.as_str()).collect();
    let kept = match policy.ask(&topics, ANSWER) {
        Ok(kept) => kept,
        Err(e) => return Ok(vec![untold(&topics, e)]),
    };
    let mut warnings = vec![];
    for (topic, cleanup) in &kept.compacted {
        let was_read = resume.is_some_and(|positions| positions.keys().any(|p| *p.topic == **topic));
        if was_read || wanted.names().contains(topic) {
            return Err(refusal(topic, cleanup));
        }
        warnings.push(left_out(topic, cleanup));
        policy.left_out.insert(topic.as_str().into());
        found.retain(|(t, _)| t != topic);
    }
    warnings.extend((!kept.untold.is_empty()).then(|| untold(&kept.untold, DENIED)));
    Ok(warnings)
}

/// Bytes of one of so many partitions that may lie fetched, and of a fetch of it.
fn shares(partitions: usize) -> (usize, usize) {
    let share = (QUEUED / partitions.max(1)).clamp(64 << 10, QUEUED);
    (share, (share / 2).clamp(32 << 10, 1 << 20))
}

fn absent(client: &Consumer, brokers: &str, e: &rdkafka::error::KafkaError) -> Error {
    // errors wait in the client's queue until somebody polls it
    while client.poll(Duration::ZERO).is_some() {}
    unanswered("the topics could not be looked up", brokers, client.context(), e)
}

fn all_partitions(wanted: &Wanted, found: &[(String, Vec<i32>)], brokers: &str) -> Result<Vec<Partition>> {
    for name in wanted.names() {
        if !found.iter().any(|(topic, ids)| topic == name && !ids.is_empty()) {
            return Err(Error::user(format!("topic '{name}' does not exist at {brokers}"))
                .hint("create it first, or check the name and the prefix (`orderflow produce` creates it)"));
        }
    }
    let all = found.iter().flat_map(|(topic, ids)| {
        let topic: Arc<str> = topic.as_str().into();
        ids.iter().map(move |id| Partition { topic: topic.clone(), id: *id })
    });
    Ok(all.collect())
}

/// Partitions of a topic in a metadata answer; `None` if the topic does not exist.
pub(crate) fn partition_ids(topic: &MetadataTopic) -> Option<Vec<i32>> {
    match topic.error().map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => None,
        _ => Some(topic.partitions().iter().map(|p| p.id()).collect()),
    }
}

fn watermarks(consumer: &Consumer, partitions: &[Partition], brokers: &str) -> Result<Vec<Place>> {
    let place = |partition: &Partition| {
        let (low, high) = consumer
            .fetch_watermarks(&partition.topic, partition.id, ANSWER)
            .map_err(|e| unanswered(&format!("the ends of partition {partition} could not be read"), brokers, consumer.context(), &e))?;
        let (low, end) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        Ok(Place { partition: partition.clone(), low, position: low, end, until: None })
    };
    partitions.iter().map(place).collect()
}

/// Sets the positions that are named; the other partitions begin at their oldest record.
fn start_at(places: &mut [Place], positions: &Positions, who: &str) -> Result<()> {
    for (partition, at) in positions {
        let Some(place) = places.iter_mut().find(|p| p.partition == *partition) else {
            return Err(Error::user(format!("{who} offset {at} of partition {partition}, which does not exist"))
                .hint("was the topic deleted or renamed? put it back, or start anew with a start of your choice (where state is kept, with another state and other sinks)"));
        };
        if *at < place.low {
            return Err(lost(partition, *at, place.low));
        }
        if *at > place.end {
            return Err(beyond(partition, *at, place.end));
        }
        place.position = *at;
    }
    Ok(())
}

/// How to go on without what is gone, and how to keep it the next time.
fn choices(topic: &str) -> String {
    format!(
        "restore the topic if there is a copy of it; to go on without these records start anew at the earliest record (where state is kept, with another \
         state and other sinks); and let the topic keep records for longer than the pipeline is ever stopped or behind: kafka-configs --alter \
         --entity-type topics --entity-name {topic} --add-config retention.ms=604800000,retention.bytes=-1 (a week, however many bytes that is)"
    )
}

/// Records between `position` and the log's start are gone.
pub(crate) fn lost(partition: &Partition, position: u64, low: u64) -> Error {
    let n = low.saturating_sub(position);
    Error::external(format!("records of {partition} are lost: offsets {position} to {} ({n}) were deleted before they were read", low - 1))
        .why(format!(
            "the log now starts at offset {low}: the topic's retention.ms or retention.bytes has passed, or somebody deleted records"
        ))
        .hint(choices(&partition.topic))
        .permanent()
}

/// The log ends before `position`: it was cut, or the topic was made anew.
pub(crate) fn beyond(partition: &Partition, position: u64, end: u64) -> Error {
    let last = position.saturating_sub(1);
    Error::external(format!("{partition} ends at offset {end}, but was read up to {position} before: offsets {end} to {last} are gone"))
        .why("records were removed at its end, or the topic was deleted and created again")
        .hint("restore the topic if there is a copy of it, or start anew with a start of your choice (where state is kept, with another state and other sinks)")
        .permanent()
}

fn start_at_timestamp(consumer: &Consumer, places: &mut [Place], at: i64, brokers: &str) -> Result<()> {
    let mut asked = TopicPartitionList::with_capacity(places.len());
    let failed = |e| unanswered(&format!("the offsets of timestamp {at} could not be looked up"), brokers, consumer.context(), &e);
    for place in places.iter() {
        asked.add_partition_offset(&place.partition.topic, place.partition.id, Offset::Offset(at.max(0))).map_err(failed)?;
    }
    let answer = consumer.offsets_for_times(asked, ANSWER).map_err(failed)?;
    for place in places {
        let found = answer.find_partition(&place.partition.topic, place.partition.id).map(|e| e.offset());
        place.position = match found {
            Some(Offset::Offset(offset)) => u64::try_from(offset).unwrap_or(0).clamp(place.low, place.end),
            _ => place.end,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderflow_core::error::Retry;

    #[test]
    fn what_lies_fetched_is_bounded_however_many_partitions_there_are() {
        const MIB: usize = 1 << 20;
        let held = |partitions: usize| {
            let (share, fetch) = shares(partitions);
            partitions * (share + fetch)
        };
        assert_eq!((held(1), held(8), held(64), held(256)), (17 * MIB, 24 * MIB, 24 * MIB, 24 * MIB));
        assert!((1..=256).all(|partitions| held(partitions) <= 24 * MIB));
        assert_eq!(held(1000), 1000 * (96 << 10));
        assert_eq!(shares(0), shares(1), "a pattern that matches nothing yet");
    }

    fn place(low: u64, end: u64) -> Place {
        Place { partition: Partition::new("orders", 3), low, position: low, end, until: None }
    }

    #[test]
    fn a_start_that_needs_what_is_gone_names_the_offsets_and_the_choices() {
        let resume = |at| Positions::from([(Partition::new("orders", 3), at)]);
        let mut there = [place(100, 200)];
        start_at(&mut there, &resume(100), "the pipeline's last run reached").unwrap();
        start_at(&mut there, &resume(200), "the pipeline's last run reached").unwrap();
        assert_eq!(there[0].position, 200);
        for (at, says, hints) in [
            (
                40,
                "records of orders[3] are lost: offsets 40 to 99 (60) were deleted",
                ["retention.ms=", "--entity-name orders ", "another state"],
            ),
            (
                250,
                "orders[3] ends at offset 200, but was read up to 250 before: offsets 200 to 249 are gone",
                ["restore", "start anew", "another state"],
            ),
        ] {
            let e = start_at(&mut there, &resume(at), "the pipeline's last run reached").unwrap_err();
            assert!(e.retry() == Retry::Never && e.to_string().contains(says), "{e}");
            assert!(hints.iter().all(|hint| e.remedy().unwrap().contains(hint)), "{e}");
        }
        let other = Positions::from([(Partition::new("orders", 4), 7)]);
        let e = start_at(&mut there, &other, "the pipeline's last run reached").unwrap_err();
        assert!(
            e.to_string().contains("offset 7 of partition orders[4], which does not exist")
                && e.remedy().unwrap().contains("another state"),
            "{e}"
        );
    }
}
