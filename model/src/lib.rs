//! The exactly-once protocol of orderflow as a model that is explored to its end.
//!
//! ```text
//!             process A ──┐   ┌── ledger: generation | binding | checkpoint, by put-if-absent; roots     (what survives)
//!   source ─►             ├──►│
//!             process B ──┘   └── sink 0, sink 1: data and progress in one act, behind a fence
//! ```
//! A [`Protocol`] is a world of a given size ([`Params`]); [`Action`] is its alphabet; [`Law`] is what must hold at every moment and
//! every end; a [`Fault`] is a bug that can be planted to see that the laws notice. [`Protocol::explore`] visits every state,
//! [`Protocol::replay`] takes one run; [`Protocol::replay_trace`] one that a simulation of the real engine wrote down, with what was seen of it.
//!
//! The source is one partition whose records are numbers, and the view is a count of records folded, so that law 2 can
//! be judged by arithmetic: the output of an epoch says how many records its roots hold, which must be where the epoch ends.
//! What is not here: bytes, several partitions, watermarks, sinks added later, several damaged files.
//!
//! Invariant: a process decides by what it could have read (`decide`), never by what only the laws know ([`state::Seen`]).

mod action;
mod coverage;
mod decide;
mod explore;
mod fault;
mod law;
mod ledger;
mod params;
mod protocol;
mod replay;
mod sink;
pub mod state;

pub use action::{Action, Answer};
pub use coverage::{Coverage, Event};
pub use explore::{Counterexample, Report};
pub use fault::Fault;
pub use law::{Broken, Law, Violation};
pub use params::{Params, Past, Storage};
pub use protocol::Protocol;
pub use replay::{Claim, Step};
