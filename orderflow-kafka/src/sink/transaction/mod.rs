//! Exactly once: a sink whose rows and progress become visible in one act.
//!
//! ```text
//!   open ─► fence: look whose it is, fence, read (book), claim ─► writer ─► lane: the calls that block
//!                                   └── progress: the record beside the data ──┘
//! ```
//! Invariant: a sink is found again by its transactional id `<pipeline>/<view>/<name>/<lane>`, which depends on nothing that a start may change.

mod book;
mod fence;
mod lane;
mod progress;
mod writer;

use super::KafkaSink;
use super::columns::Route;
use super::feed::{batch_size, configuration};
use super::topics::invalid;
use book::Book;
use fence::{Entry, Opening};
use orderflow_core::sink::{Closed, Committed, Opened, Progress, SinkContext, Writer};
use orderflow_core::{Error, Result};
use progress::{Held, fingerprint};
use std::sync::Arc;
use std::time::Duration;
use writer::TransactionalWriter;

/// What committed transactions of the sink have left; no topic is made and nobody is fenced.
pub(super) fn look(sink: &KafkaSink, context: &SinkContext) -> Result<Option<Progress>> {
    let Some(book) = Book::there(&sink.settings, topic(sink, context)?, group(sink, context))? else { return Ok(None) };
    Ok(book.glance()?.get(&id(sink, context)).and_then(Held::progress))
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

fn id(sink: &KafkaSink, context: &SinkContext) -> String {
    format!("{}{}/{}/{}/0", sink.prefix, context.pipeline, context.view, name(sink))
}

/// Opens the sink, if it is ours.
pub(super) fn open(sink: &KafkaSink, context: &SinkContext) -> Result<Opened> {
    let topic = topic(sink, context)?;
    let config = configuration(sink)?;
    let batch = batch_size(&config);
    let timeout =
        config.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).map_or(Duration::from_secs(60), Duration::from_millis);
    let opening = Arc::new(Opening {
        book: Book::open(&sink.settings, topic, group(sink, context), sink.replication)?,
        id: id(sink, context),
        me: context.writer,
        brokers: sink.settings.brokers().to_owned(),
        config: config.clone(),
    });
    let (client, held) = match opening.open(batch, false)? {
        Entry::Theirs(progress) => return Ok(Opened { writer: Box::new(Stranger), progress: Some(progress) }),
        Entry::Won { client, held } => (client, held),
    };
    let mut config = config;
    config.set("transactional.id", &opening.id);
    let writer = TransactionalWriter::new(sink, context, opening, client, config, timeout)?;
    Ok(Opened { writer: Box::new(writer), progress: held })
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
