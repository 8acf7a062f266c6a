//! Counts what happened while a world was explored, so that a proof over nothing does not pass for a proof.
//!
//! Invariant: counting changes nothing: no decision reads a counter.

use crate::action::Action;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Something worth having seen, that no state shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A generation was won while an older writer was alive.
    TakenOver,
    /// A generation record had gone into a slot that retirement had freed.
    FoundItselfInAHole,
    /// A slot wanted for a generation was taken, and the next one tried.
    TriedNextSlot,
    /// A writer found its slot taken by a newer one.
    StoppedByLedger,
    /// A writer was told by a sink that a newer one is there.
    StoppedBySink,
    /// A writer found its slot taken by a newer one that had retired bindings before it woke.
    WokeAfterRetirement,
    /// An append whose answer was lost was found in its slot.
    AppendHadHappened,
    /// An append whose answer was lost was not in its slot.
    AppendHadNot,
    /// An append arrived late and found its slot taken.
    LateFoundTaken,
    /// An append arrived late in its own free slot.
    LateArrived,
    /// A commit whose answer was lost was found when the sink was opened again.
    CommitHadHappened,
    /// A commit whose answer was lost had not happened when the sink was opened again.
    CommitHadNot,
    /// Fencing let a decided commit come to its end.
    FenceSettled,
    /// Fencing ended a commit that was not decided.
    FenceAborted,
    /// A damaged checkpoint was passed over for the older one.
    FellBack,
    /// An epoch was replayed that a sink held.
    GateDropped,
    /// A sink went on in the middle of an epoch.
    WentOnInside,
    /// A power cut took a binding.
    BindingLost,
    /// Somebody was refused.
    Refused,
}

/// How often each action and event happened, counting a step again for every way that leads to it.
#[derive(Debug)]
pub struct Coverage {
    actions: [AtomicU64; Action::KINDS.len()],
    events: [AtomicU64; Event::ALL.len()],
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::TakenOver,
        Self::FoundItselfInAHole,
        Self::TriedNextSlot,
        Self::StoppedByLedger,
        Self::StoppedBySink,
        Self::WokeAfterRetirement,
        Self::AppendHadHappened,
        Self::AppendHadNot,
        Self::LateFoundTaken,
        Self::LateArrived,
        Self::CommitHadHappened,
        Self::CommitHadNot,
        Self::FenceSettled,
        Self::FenceAborted,
        Self::FellBack,
        Self::GateDropped,
        Self::WentOnInside,
        Self::BindingLost,
        Self::Refused,
    ];
}

impl Default for Coverage {
    fn default() -> Self {
        Self { actions: std::array::from_fn(|_| AtomicU64::new(0)), events: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Coverage {
    pub(crate) fn action(&self, action: Action) {
        self.actions[action.kind()].fetch_add(1, Relaxed);
    }

    pub(crate) fn event(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    /// Kinds of actions that happened.
    pub fn actions(&self) -> impl Iterator<Item = &'static str> + '_ {
        Action::KINDS.into_iter().zip(&self.actions).filter(|(_, count)| count.load(Relaxed) > 0).map(|(kind, _)| kind)
    }

    /// Events that happened.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        Event::ALL.into_iter().zip(&self.events).filter(|(_, count)| count.load(Relaxed) > 0).map(|(event, _)| event)
    }
}
