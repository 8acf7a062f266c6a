//! A copy of a state that goes its own way: the same past, another ledger.
//!
//! Invariant: the copy has an id of its own, so no sink of the original is taken for a sink of the copy, and the ledger is written last: a copy that was cut short
//! is refused by whoever opens it.

use super::settled;
use crate::epoch::{Base, Checkpoint, Log, Outbox};
use crate::error::{Error, Result};
use crate::sink::WriterId;
use crate::state::{Manifest, copy, copy_spool};
use crate::store::Store;
use crate::time::Clock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forked {
    /// The copy's own ledger id, 32 hexadecimal digits.
    pub ledger: String,
    /// The epoch as of whose end it goes on.
    pub epoch: u64,
    /// Whether stored views came along; if not, the next start reads the sources from where they began.
    pub stored: bool,
    /// Bytes of stored views and stored rows copied.
    pub bytes: u64,
}

/// Copies the state in `from` to the empty store `to`: the newest checkpoint that is whole, all that the ledger has bound, and what is stored of sources that
/// cannot give it again. All sinks of the copy are new: they get everything that is in the views at their first start, and the original goes on, also meanwhile.
///
/// # Errors
/// No state, or one that cannot be read; a place that is not empty.
pub fn fork(from: &Arc<dyn Store>, from_place: &str, to: &Arc<dyn Store>, to_place: &str) -> Result<Forked> {
    if let Some(there) = to.list("")?.first() {
        return Err(Error::user(format!("{to_place} is not empty")).why(format!("it holds {there}")).hint("name an empty folder"));
    }
    let (base, generation, bytes) = settled(from, from_place, |seen| {
        let mut newest = seen.found.checkpoints.iter().rev().map(|c| copy_all(&**from, &**to, c).map(|bytes| (Some(c.clone()), bytes)));
        let (checkpoint, files) = match newest.next() {
            None => (None, 0),
            Some(Err(e)) => newest.find_map(Result::ok).ok_or(e)?,
            Some(Ok(copied)) => copied,
        };
        let begun = seen.found.start.clone().ok_or_else(|| {
            Error::user(format!("{from_place} holds a pipeline that never began"))
                .hint("there is nothing to copy: start the new pipeline in a place of its own")
        })?;
        let mut base = Base { checkpoints: checkpoint.into_iter().collect(), births: BTreeMap::new(), ..seen.found.as_base() };
        (base.held, base.lanes) = (BTreeMap::new(), BTreeMap::new());
        // new sinks refuse again what they do not take
        base.letters = Outbox::default();
        base.after.iter_mut().for_each(|binding| binding.letters.clear());
        base.start = begun;
        // its sinks are nobody's yet
        base.start.plan.retain(|name, _| !name.starts_with("sink "));
        let objects: Vec<_> = base.segments.iter().chain(&base.after).flat_map(|b| b.spool.iter().cloned()).collect();
        objects.iter().try_for_each(|object| copy_spool(&**from, &**to, object))?;
        Ok((base, seen.writer().generation, files + objects.iter().map(|o| o.bytes).sum::<u64>()))
    })?;
    // generations go on, so that names of files that are written later are names of their own
    let writer = WriterId { ledger: rand::random(), generation: generation + 1 };
    let epoch = base.segments.iter().chain(&base.after).last().map_or(0, |b| b.epoch.0);
    let stored = !base.checkpoints.is_empty();
    Log::plant(to.clone(), to_place, writer, Clock::system().unix_millis(), &base)?;
    Ok(Forked { ledger: format!("{:032x}", writer.ledger), epoch, stored, bytes })
}

fn copy_all(from: &dyn Store, to: &dyn Store, checkpoint: &Checkpoint) -> Result<u64> {
    let manifest = Manifest::load(from, checkpoint)?;
    for file in manifest.files() {
        copy(from, to, file)?;
    }
    let gone = || Error::external(format!("'{}' is gone", checkpoint.manifest)).permanent();
    to.put_bytes(&checkpoint.manifest, &from.get(&checkpoint.manifest)?.ok_or_else(gone)?)?;
    // what was read twice may have been two things
    Manifest::load(to, checkpoint)?;
    Ok(manifest.files().map(|f| f.bytes).sum())
}
