//! A start over a state that is not the one of its sinks: it is gone, or it is that of another run of the same pipeline.
//!
//! ```text
//!   life 2 dies ─► the state is put aside ─► a start over nothing, or over another run's ─► refused, sinks as before ─► the state is put back ─► life 3 …
//! ```
//! Invariant: the wrong start leaves nothing that a later one could see, so that the schedule goes on as if it had never been.

use super::schedule::{Lost, Schedule};
use super::world::{Outside, World};
use crate::error::{Error, Kind, Result, Retry};
use crate::pipeline::Pipeline;
use crate::store::Memory;
use crate::store::faulty::{Fate, Fault};
use std::rc::Rc;

/// How a process ends that sees this world.
pub(super) type Live<'a> = &'a dyn Fn(&World) -> Result<()>;

/// The state that another run of the pipeline has left when it died at an operation.
fn of_another(build: &dyn Fn(&World) -> Result<Pipeline>, at: u64) -> Memory {
    let outside = Outside::new(&Schedule::calm(false));
    let world = World::of(outside.clone(), Fate::new(vec![(at, Fault::CrashBefore)]), false, None);
    let fate = world.fate();
    // it dies: how is no matter
    let _ = super::crash::live_in(Some(&world), build(&world), &outside.clock, || fate.is_dead());
    outside.exchange_state(Memory::default())
}

/// Starts the pipeline over a wrong state, if its simulated sinks hold rows that tell that it is wrong; true if it did.
///
/// # Errors
/// A start that is not refused, or that leaves sinks otherwise than it found them.
pub(super) fn refused(lost: Lost, outside: &Rc<Outside>, build: &dyn Fn(&World) -> Result<Pipeline>, live: Live) -> Result<bool, String> {
    let rows = || outside.simulated().map_err(|e| e.to_string());
    let before = rows()?;
    if before.values().all(Vec::is_empty) {
        return Ok(false);
    }
    let (what, wrong) = match lost.dies_at {
        None => ("an empty state", Memory::default()),
        Some(at) => ("the state of another run", of_another(build, at)),
    };
    let ours = outside.exchange_state(wrong);
    let world = World::of(outside.clone(), Fate::default(), false, None);
    let outcome = live(&world);
    drop(world);
    outside.exchange_state(ours);
    let is_refusal = |e: &Error| e.kind() == Kind::User && e.retry() == Retry::Never && e.remedy().is_some();
    match outcome {
        Err(e) if is_refusal(&e) && rows()? == before => Ok(true),
        Err(e) if is_refusal(&e) => Err(format!("over {what} it is refused, and sinks are not as they were: {e}")),
        Err(e) => Err(format!("over {what} it ends with something else than a refusal: {e}")),
        Ok(()) => Err(format!("it goes on over {what}, and sinks hold rows of its own one")),
    }
}
