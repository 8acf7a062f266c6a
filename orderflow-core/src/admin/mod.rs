//! What an operator does with kept state from outside a pipeline: look into it, check it, take rows out of it, copy it, reset a sink.
//!
//! ```text
//!   describe, verify, rows     read only: no lock is taken and nothing is written, so the pipeline may be running
//!   fork                       reads one state, writes another that is empty
//!   reset_sink                 wins the ledger like a start does: on a local folder the pipeline must not be running
//! ```
//! Invariant: nothing here changes what an epoch is bound to, or deletes an object. `place` is what messages call the state.

mod describe;
mod fork;
mod reset;
mod rows;
mod verify;

pub use describe::{CheckpointAt, Description, Generation, SinkAt, SourceAt, StateAt, describe};
pub use fork::{Forked, fork};
pub use reset::{Reset, reset_sink};
pub use rows::rows;
pub use verify::{Problem, Verification, verify};

use crate::epoch::{Log, Seen};
use crate::error::{Error, Result};
use crate::pipeline::renamed;
use crate::store::Store;
use std::sync::Arc;

/// How often state is read again that a running pipeline changes meanwhile.
const TRIES: usize = 20;

/// The ledger, with sinks under the names that they have now.
fn look(store: &Arc<dyn Store>, place: &str) -> Result<Seen> {
    let seen = Log::look(store.clone(), place)?;
    let seen =
        seen.ok_or_else(|| Error::user(format!("{place} holds no state")).hint("name the folder that was given to Pipeline::state(…)"))?;
    Ok(Seen { found: renamed(seen.found), ..seen })
}

/// Whether other objects are named now: a running pipeline deletes those that were.
fn moved(before: &Seen, now: &Seen) -> bool {
    (&now.found.checkpoints, &now.found.segments) != (&before.found.checkpoints, &before.found.segments)
}

/// Tries again while other objects are named than `work` was given.
fn settled<T>(store: &Arc<dyn Store>, place: &str, mut work: impl FnMut(&Seen) -> Result<T>) -> Result<T> {
    let mut seen = look(store, place)?;
    for _ in 0..TRIES {
        let outcome = work(&seen);
        let now = look(store, place)?;
        match outcome {
            Err(_) if moved(&seen, &now) => seen = now,
            outcome => return outcome,
        }
    }
    work(&seen)
}
