//! Runs that were written down elsewhere: taken again step by step, with what whoever wrote them down saw of processes and sinks in between.
//!
//! An action alone does not say how it ended: an append into a slot that somebody else has taken is a step of the protocol as well. A [`Claim`] says it.
//! Invariant: a claim changes nothing; a run with claims is possible only if the run without them is.

use crate::action::Action;
use crate::law::{Broken, Violation};
use crate::protocol::Protocol;
use crate::state::{Epoch, Phase, State};
use std::fmt;

/// What was seen at one point of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Process `w` goes on: nobody has told it that it was replaced.
    Works {
        /// Which process.
        w: usize,
    },
    /// Process `w` was told that a newer one has replaced it.
    Stopped {
        /// Which process.
        w: usize,
    },
    /// Process `w` goes on from the checkpoint at `epoch`; 0: from none.
    Restored {
        /// Which process.
        w: usize,
        /// The checkpoint.
        epoch: Epoch,
    },
    /// A sink holds everything up to the end of `epoch`, and no more.
    Holds {
        /// Which sink.
        sink: usize,
        /// The epoch.
        epoch: Epoch,
    },
}

impl Claim {
    fn holds(&self, state: &State) -> bool {
        match *self {
            Self::Works { w } => state.writers[w].alive(),
            Self::Stopped { w } => state.writers[w].phase == Phase::Stopped,
            Self::Restored { w, epoch } => state.writers[w].base == epoch,
            Self::Holds { sink, epoch } => state.places[sink].progress.is_some_and(|progress| progress.mark.0 == epoch),
        }
    }
}

/// As a line of a story, as actions are.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |w: &usize| (b'A' + *w as u8) as char;
        match self {
            Self::Works { w } => write!(f, "{} goes on", who(w)),
            Self::Stopped { w } => write!(f, "{} was told that it was replaced", who(w)),
            Self::Restored { w, epoch } => write!(f, "{} goes on from checkpoint {epoch}", who(w)),
            Self::Holds { sink, epoch } => write!(f, "sink {sink} holds everything up to epoch {epoch}"),
        }
    }
}

/// A step of a run that was written down elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something happens.
    Act(Action),
    /// Something was seen.
    Claim(Claim),
    /// Roots are gone: the process has deleted all that the protocol lets it delete before them. In what order is its own affair.
    Deleted {
        /// Which process.
        w: usize,
        /// The checkpoint.
        epoch: Epoch,
        /// Whose.
        generation: u16,
    },
}

impl Protocol {
    /// Takes a run step by step, from the beginning.
    ///
    /// # Errors
    /// The first step that is not possible, or after which a law is broken.
    pub fn replay(&self, run: &[Action]) -> Result<State, Violation> {
        self.replay_trace(run.iter().copied().map(Step::Act))
    }

    /// The same with claims in between.
    ///
    /// # Errors
    /// As [`Protocol::replay`], and the first claim that does not hold.
    pub fn replay_trace(&self, run: impl IntoIterator<Item = Step>) -> Result<State, Violation> {
        let mut state = self.initial();
        for (step, next) in run.into_iter().enumerate() {
            let wrong = |what| Violation { step, what };
            let lawful = |next: State| self.broken(&next).map_or(Ok(next), |law| Err(wrong(Broken::Law(law))));
            match next {
                Step::Act(action) => {
                    if !self.enabled(&state).any(|possible| possible == action) {
                        return Err(wrong(Broken::Step(action)));
                    }
                    state = lawful(self.step(&state, action))?;
                }
                Step::Claim(claim) if claim.holds(&state) => {}
                Step::Claim(claim) => return Err(wrong(Broken::Claim(claim))),
                Step::Deleted { w, epoch, generation } => {
                    let deletes = |a: &Action| *a == Action::Retire { w } || *a == Action::Clean { w };
                    while state.cellar.roots_of(epoch, generation).is_some() {
                        let next = self.enabled(&state).find(deletes);
                        state = lawful(self.step(&state, next.ok_or(wrong(Broken::Needed { epoch, generation }))?))?;
                    }
                }
            }
        }
        Ok(state)
    }
}
