//! A start over a state that is not the one of its sinks: it is gone, or it is that of another run of the same pipeline.
//!
//! ```text
//!   life 2 dies ─► the state is put aside ─► a start over nothing, or over another run's ─► refused, sinks as before ─► the state is put back ─► life 3 …
//! ```
//! Invariant: the wrong start leaves nothing that a later one could see, so that the schedule goes on as if it had never been.

use super::crash;
use super::schedule::{Lost, Schedule};
use super::world::{Outside, World};
use crate::error::{Error, Kind, Result, Retry};
use crate::pipeline::Pipeline;
use crate::store::Memory;
use crate::store::faulty::{Fate, Fault};
use std::rc::Rc;

/// How a process ends that sees this world.
pub(super) type Live<'a> = &'a dyn Fn(&World) -> Result<()>;

/// The wrong state: empty, or what another run of the pipeline has left when it died at an operation.
pub(super) fn state(lost: Lost, build: &dyn Fn(&World) -> Result<Pipeline>) -> Memory {
    let Some(at) = lost.dies_at else { return Memory::default() };
    let outside = Outside::new(&Schedule::calm(false));
    let world = World::of(outside.clone(), Fate::new(vec![(at, Fault::CrashBefore)]), false, None);
    let fate = world.fate();
    // it dies: how is no matter
    let _ = crash::live_in(Some(&world), build(&world), &outside.clock, || fate.is_dead());
    outside.exchange_state(Memory::default())
}

/// Starts the pipeline over a wrong state, if its simulated sinks hold rows that tell that it is wrong; true if it did and was told so, false if there was
/// nothing to tell it by, or who was asked did not answer.
///
/// # Errors
/// A start that is not refused, or that leaves sinks otherwise than it found them.
pub(super) fn refused(wrong: &Memory, outside: &Rc<Outside>, live: Live) -> Result<bool, String> {
    let found = || Ok((outside.simulated()?, outside.objects()?));
    let text = |e: Error| e.to_string();
    let before = found().map_err(text)?;
    if before.0.values().all(Vec::is_empty) || !outside.has_state().map_err(text)? {
        return Ok(false);
    }
    let ours = outside.exchange_state(wrong.clone());
    let world = World::of(outside.clone(), Fate::default(), false, None);
    let outcome = live(&world);
    drop(world);
    outside.exchange_state(ours);
    let after = found().map_err(text)?;
    match outcome {
        Err(e) if e.kind() == Kind::Internal => Err(format!("over a wrong state it ends with something else than a refusal: {e}")),
        Err(e) if after != before => {
            let (rows, objects) = (crash::difference(&after.0, &before.0), after.1.iter().find(|line| !before.1.contains(line)));
            let found = rows.or(objects.cloned()).unwrap_or_else(|| "something is gone".to_owned());
            Err(format!(
                "over a wrong state it is refused, and sinks are not as they were (does one around another pass `look` on?): {found}; {e}"
            ))
        }
        Err(e) => Ok(e.retry() == Retry::Never),
        Ok(()) => Err("it goes on over a wrong state, and sinks hold rows of its own one".to_owned()),
    }
}
