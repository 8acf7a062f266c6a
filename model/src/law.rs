//! The laws: what holds at every moment, and at every end.
//!
//! Broken the moment something happens (a record twice, an epoch bound anew) they are noted in the state; the others are read off it.
//! Invariant: a law looks at the world and at what was seen of it, never at what a process believes.

use crate::params::{Params, Past, Storage};
use crate::protocol::Protocol;
use crate::state::{Note, Phase, State};
use std::fmt;

/// A law of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// Law 1: the same epoch is the same input.
    Binding,
    /// Law 2: the same input gives the same output.
    Replay,
    /// Law 3: a sink that holds an epoch (a part of it) never gets it again.
    Gate,
    /// No record is in a sink twice.
    Twice,
    /// No record is passed over: a sink gets nothing before all that is older.
    Gap,
    /// Of the two newest complete checkpoints no file is gone, and a restart now finds all it needs, here or with its source.
    Kept,
    /// Nobody is refused whose state and sinks belong together; and nobody else is served.
    Refusal,
    /// A refused open has deleted nothing and written nothing to a sink; and has not fenced a sink of another ledger.
    Unchanged,
    /// When nothing more can happen, every record is in every sink.
    Complete,
}

/// A law that is broken, a step that the protocol does not allow, or something that was seen and cannot have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// At which step of the run, from 0.
    pub step: usize,
    /// What is wrong.
    pub what: Broken,
}

/// What is wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// This law.
    Law(Law),
    /// The step is not possible here.
    Step(crate::action::Action),
    /// What was seen is not so here.
    Claim(crate::replay::Claim),
    /// Roots were deleted that somebody may still need.
    Needed {
        /// The checkpoint.
        epoch: crate::state::Epoch,
        /// Whose.
        generation: u16,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Broken::Law(law) => write!(f, "step {}: {law:?} is broken", self.step),
            Broken::Step(action) => write!(f, "step {}: not possible here: {action}", self.step),
            Broken::Claim(claim) => write!(f, "step {}: not so here: {claim}", self.step),
            Broken::Needed { epoch, generation } => {
                write!(f, "step {}: roots of checkpoint {epoch} (generation {generation}) are deleted, and may be needed", self.step)
            }
        }
    }
}

impl std::error::Error for Violation {}

impl Protocol {
    /// The first law that does not hold in `state`.
    pub fn broken(&self, state: &State) -> Option<Law> {
        let read = || {
            let laws =
                [(Law::Kept, kept(self.params(), state)), (Law::Refusal, self.refusal(state)), (Law::Unchanged, self.unchanged(state))];
            laws.into_iter().find(|(_, holds)| !holds).map(|(law, _)| law)
        };
        state.seen.broken.or_else(read).or_else(|| (!self.ends_well(state)).then_some(Law::Complete))
    }

    fn refusal(&self, state: &State) -> bool {
        let wrong = if self.params().past == Past::Fresh { Phase::Refused } else { Phase::Running };
        state.writers.iter().all(|w| w.phase != wrong)
    }

    fn unchanged(&self, state: &State) -> bool {
        if self.params().past == Past::Fresh {
            return true;
        }
        let before = self.initial();
        let kept = before.cellar.slots.iter().zip(&state.cellar.slots).all(|(a, b)| a == b);
        let roots = before.cellar.roots.iter().all(|r| state.cellar.roots.contains(r));
        let ours = before.cellar.ledger;
        let sinks = before.places.iter().zip(&state.places).all(|(a, b)| {
            let foreign = a.fence.is_some_and(|(ledger, _)| ledger != ours);
            (a.progress, a.next, a.last) == (b.progress, b.next, b.last) && (!foreign || a.fence == b.fence)
        });
        kept && roots && sinks
    }

    /// Every record is in every sink, or something can still happen.
    fn ends_well(&self, state: &State) -> bool {
        let params = self.params();
        params.past != Past::Fresh || self.done(state) || self.enabled(state).next().is_some()
    }

    /// Whether every record is in every sink.
    pub fn done(&self, state: &State) -> bool {
        let params = self.params();
        let lacks = |sink: usize| (state.places[sink].next..params.records).any(|record| params.wants(sink, record));
        !(0..params.sinks).any(lacks)
    }
}

/// What a restart at this moment needs is there, and so are the files of the two newest complete checkpoints. What the host of a spooled source has
/// forgotten is bound.
fn kept(params: &Params, state: &State) -> bool {
    let cellar = &state.cellar;
    let named = cellar.notes().rev().filter_map(|(_, note)| match note {
        Note::Checkpoint { epoch, generation, .. } => Some((*epoch, *generation)),
        _ => None,
    });
    let base = cellar.notes().rev().find_map(|(_, note)| match note {
        Note::Checkpoint { epoch, generation, .. } => cellar.roots_of(*epoch, *generation).filter(|r| !r.damaged).map(|r| r.epoch),
        _ => None,
    });
    let stored = |epoch| !params.spooled || cellar.is_spooled(epoch);
    let bound = (base.unwrap_or(0) + 1..=cellar.tail()).all(|epoch| cellar.binding(epoch).is_some() && stored(epoch));
    let end = cellar.notes().map(|(_, note)| if let Note::Binding { to, .. } | Note::Checkpoint { to, .. } = note { *to } else { 0 }).max();
    bound && state.forgotten <= end.unwrap_or(0) && named.take(2).all(|(epoch, generation)| cellar.roots_of(epoch, generation).is_some())
}

/// Notes that epoch `epoch` ends at `to`, which everybody may know from now on.
pub(crate) fn bound(state: &mut State, epoch: u16, to: u16) {
    let ends = &mut state.seen.ends;
    let at = usize::from(epoch) - 1;
    if ends.len() <= at {
        ends.resize(at + 1, None);
    }
    match ends[at] {
        Some(end) if end != to => broken(state, Law::Binding),
        _ => ends[at] = Some(to),
    }
}

/// Notes every binding that survives a power cut.
pub(crate) fn bound_durably(params: &Params, state: &mut State) {
    let until = if params.storage == Storage::Local { state.cellar.synced } else { state.cellar.slots.len() };
    let durable: Vec<_> = state
        .cellar
        .notes()
        .filter(|(slot, _)| *slot < until)
        .filter_map(|(_, note)| if let Note::Binding { epoch, to, .. } = note { Some((*epoch, *to)) } else { None })
        .collect();
    for (epoch, to) in durable {
        bound(state, epoch, to);
    }
}

/// Notes a broken law, unless one was broken before.
pub(crate) fn broken(state: &mut State, law: Law) {
    state.seen.broken.get_or_insert(law);
}
