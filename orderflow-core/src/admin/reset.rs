//! A sink begins anew: the ledger forgets what it held.
//!
//! Invariant: what it held is never written to again. Its new life has a birth, and rows that an older generation wrote are refused, until they are gone.

use crate::epoch::{Entry, Log, Recovered};
use crate::error::{Error, Result};
use crate::pipeline::renamed;
use crate::sink::Progress;
use crate::store::Store;
use crate::time::Clock;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a reset did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The sink, as the ledger calls it.
    pub sink: String,
    /// What it was known to hold.
    pub held: Option<Progress>,
    /// What must be done with its old output before the next start.
    pub advice: String,
}

/// The names by which the ledger knows sinks.
fn sinks(found: &Recovered) -> BTreeSet<&String> {
    let plan = found.start.iter().flat_map(|s| s.plan.keys()).filter(|name| name.starts_with("sink "));
    plan.chain(found.held.keys()).collect()
}

/// Makes the ledger forget what a sink held, so that the next start counts it as new: it gets everything that its view holds then, as its first rows. `sink` is its
/// name as [`describe`](super::describe()) lists it, the word `sink` in front may be left away. `store` must have been opened for writing.
///
/// # Errors
/// No such sink, with those that there are; state that cannot be read or written. Nothing is written then.
pub fn reset_sink(store: &Arc<dyn Store>, place: &str, sink: &str) -> Result<Reset> {
    if store.list("ledger/")?.is_empty() {
        return Err(Error::user(format!("{place} holds no state")).hint("name the folder that was given to Pipeline::state(…)"));
    }
    let label = |found: &Recovered| {
        let known = sinks(found);
        let is = |name: &&&String| **name == sink || name.strip_prefix("sink ") == Some(sink);
        known.iter().find(is).map(|name| (**name).clone()).ok_or_else(|| {
            let names = known.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
            Error::user(format!("{place} knows no sink '{sink}'")).hint(format!("there are {names}"))
        })
    };
    let judge = |found: &Recovered| label(&renamed(found.clone())).map(drop);
    let (mut log, found) = Log::open(store.clone(), place, Clock::system().unix_millis(), judge)?;
    let mut found = renamed(found);
    let sink = label(&found)?;
    let held = found.forget(&sink);
    found.births.insert(sink.clone(), log.writer().generation);
    log.write(&Entry::Base(found.as_base()))?;
    let advice = format!(
        "at the next start {sink} gets everything that its view holds, as its first rows. Before that delete or move away what it wrote, with its record of progress \
         (a data set: the folder, `_commits` included; a table: the table and its row in orderflow_progress; a Kafka topic: the topic, and an empty record \
         under the sink's key in <pipeline>.progress), or give the sink another place. Until then the start is refused"
    );
    Ok(Reset { sink, held, advice })
}
