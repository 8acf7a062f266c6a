//! Exactly once: a sink whose rows and progress become visible in one act.
//!
//! ```text
//!   open ─► fence: look whose it is, fence, read (book), claim ─► lanes ─► writer, one a lane ─► lane: the calls that block
//!             └─► split: who writes what, from where ─────────────┘           │
//!                                   └── progress: the record beside the data ─┘
//! ```
//! Invariant: a lane is found again by its transactional id `<pipeline>/<view>/<name>/<lane>`, which depends on nothing that a start may change.

mod book;
#[cfg(test)]
mod faults;
mod fence;
mod lane;
mod lanes;
mod progress;
mod split;
mod tally;
mod told;
mod writer;

use super::columns::Route;
use super::feed::{batch_size, configuration};
use super::topics::invalid;
use super::{KafkaSink, span};
use book::Book;
use fence::{Entry, Opening};
use lanes::{Bell, Lanes};
use orderflow_core::sink::{Closed, Committed, Opened, Progress, SinkContext, Writer};
use orderflow_core::{Error, Result};
use progress::{Held, fingerprint, hash};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(super) use faults::Faults;

/// What committed transactions of the sink have left, on the lane that is farthest; no topic is made and nobody is fenced.
pub(super) fn look(sink: &KafkaSink, context: &SinkContext) -> Result<Option<Progress>> {
    let Some(book) = Book::there(&sink.settings, topic(sink, context)?, group(sink, context))? else { return Ok(None) };
    let (pages, id) = (book.glance()?, id(sink, context));
    let lanes = pages.iter().filter(|(lane, _)| fence::lane_of(lane, &id).is_some());
    Ok(lanes.filter_map(|(_, held)| held.progress()).max_by_key(|p| p.epoch))
}

/// The topic of the pipeline's progress.
fn topic(sink: &KafkaSink, context: &SinkContext) -> Result<String> {
    let (prefix, pipeline) = (&sink.prefix, &context.pipeline);
    let topic = format!("{prefix}{pipeline}.progress");
    if let Some(why) = invalid(&topic) {
        return Err(Error::user(format!("the Kafka sinks of pipeline '{pipeline}' have no place for their progress"))
            .why(why)
            .hint("give the pipeline a name of letters, digits, '.', '_' and '-'; or .at_least_once() does without"));
    }
    Ok(topic)
}

fn group(sink: &KafkaSink, context: &SinkContext) -> String {
    format!("{}{}", sink.prefix, context.pipeline)
}

/// The transactional id of a lane is this, a slash, and its number.
fn id(sink: &KafkaSink, context: &SinkContext) -> String {
    format!("{}{}/{}/{}", sink.prefix, context.pipeline, context.view, name(sink))
}

/// Opens the sink, if it is ours.
pub(super) fn open(sink: &KafkaSink, context: &SinkContext) -> Result<Opened> {
    let topic = topic(sink, context)?;
    let config = configuration(sink, sink.lanes)?;
    let timeout =
        config.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).map_or(Duration::from_secs(60), Duration::from_millis);
    let bell = Bell::new();
    let opening = Arc::new(Opening {
        book: Book::open(&sink.settings, topic.clone(), group(sink, context), sink.replication)?,
        sink: id(sink, context),
        lanes: u8::try_from(sink.lanes).map_err(|_| Error::internal("more lanes than the sink's columns were asked for with"))?,
        me: context.writer,
        brokers: sink.settings.brokers().to_owned(),
        signal: bell.signal(),
        span: span(context, "commit"),
        config,
        #[cfg(test)]
        faults: sink.faults.clone(),
    });
    let won = match opening.open_all(batch_size(&opening.config))? {
        Entry::Theirs(progress) => return Ok(Opened { writer: Box::new(Stranger), progress: Some(progress) }),
        Entry::Won(won) => won,
    };
    let found: Vec<Held> = won.iter().map(|w| w.held.clone()).collect();
    let course = split::course(&opening.sink, &found, opening.lanes, shared_by(sink))?;
    let progress = course.progress;
    let clients = won.into_iter().map(|w| w.client).collect();
    Ok(Opened { writer: Box::new(Lanes::new(sink, context, opening, clients, course, bell, timeout)?), progress })
}

/// What chooses the topics and partitions of rows.
fn shared_by(sink: &KafkaSink) -> u64 {
    let routes = sink.topics.iter().map(|route| match route {
        Route::Fixed(text) | Route::Sql(text) => text.as_str(),
    });
    hash(routes.chain(["key"]).chain(sink.key.as_deref()))
}

/// The name of a sink among those of its view.
fn name(sink: &KafkaSink) -> String {
    match (&sink.name, sink.topics.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [Route::Fixed(topic)]) => topic.clone(),
        (None, routes) => fingerprint(routes.iter().map(|route| match route {
            Route::Fixed(text) | Route::Sql(text) => text.as_str(),
        })),
    }
}

/// The sink of another ledger, which core refuses as soon as it sees the progress.
struct Stranger;

impl Writer for Stranger {
    fn write(&mut self, _: Closed) -> Result<()> {
        Err(Error::internal("a sink of another state is not written"))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        Ok(Committed::default())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
