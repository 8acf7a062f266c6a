//! A copy of a state that goes its own way: the same past, another ledger.
//!
//! Invariant: the copy has an id of its own, so no sink of the original is taken for a sink of the copy, and the ledger is written last: a copy that was cut short
//! is refused by whoever opens it.

use super::settled;
use crate::epoch::{Base, Checkpoint, Log};
use crate::error::{Error, Result};
use crate::sink::WriterId;
use crate::state::{Manifest, copy};
use crate::store::Store;
use crate::time::{Clock, Epoch};
use serde::Serialize;
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
    /// Bytes of files copied.
    pub bytes: u64,
}

/// Copies the state in `from` to the empty store `to`, as of the newest checkpoint that is whole (or, without one, as of the epoch that every sink holds).
/// All sinks of the copy are new: they get everything that is in the views at their first start, and the original goes on, also meanwhile.
///
/// # Errors
/// No state, or one that cannot be read; a place that is not empty.
pub fn fork(from: &Arc<dyn Store>, from_place: &str, to: &Arc<dyn Store>, to_place: &str) -> Result<Forked> {
    if let Some(there) = to.list("")?.first() {
        return Err(Error::user(format!("{to_place} is not empty")).why(format!("it holds {there}")).hint("name an empty folder"));
    }
    let (seen, checkpoint, bytes) = settled(from, from_place, |seen| {
        let mut last = None;
        for checkpoint in seen.found.checkpoints.iter().rev() {
            match copy_all(&**from, &**to, checkpoint) {
                Ok(bytes) => return Ok((seen.clone(), Some(checkpoint.clone()), bytes)),
                Err(e) => last = Some(e),
            }
        }
        last.map_or_else(|| Ok((seen.clone(), None, 0)), Err)
    })?;
    let mut start = seen.found.start.clone().ok_or_else(|| Error::user(format!("{from_place} holds a pipeline that never began")))?;
    // its sinks are nobody's yet
    start.plan.retain(|name, _| !name.starts_with("sink "));
    let upto = checkpoint.as_ref().map_or(seen.found.base(), |c| c.epoch);
    let segments: Vec<_> = seen.found.segments.iter().filter(|b| b.epoch <= upto).cloned().collect();
    if segments.last().map_or(Epoch(0), |b| b.epoch) != upto {
        return Err(Error::external(format!(
            "the ledger in {from_place} does not tell what came up to epoch {upto} from what came after it"
        ))
        .permanent());
    }
    // generations go on, so that names of files that are written later are names of their own
    let writer = WriterId { ledger: rand::random(), generation: seen.writer().generation + 1 };
    let stored = checkpoint.is_some();
    let base = Base { start, segments, checkpoints: checkpoint.into_iter().collect(), ..Base::default() };
    Log::plant(to.clone(), to_place, writer, Clock::system().unix_millis(), &base)?;
    Ok(Forked { ledger: format!("{:032x}", writer.ledger), epoch: upto.0, stored, bytes })
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
