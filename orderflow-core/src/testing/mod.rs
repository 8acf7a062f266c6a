//! The kit with which pipelines and their parts are tested (feature `testing`).
//!
//! - [`crash_anywhere`]: a whole pipeline on a simulated [`World`] (a log, stores on a disk that forgets, sinks whose answers get lost, virtual time), killed
//!   by every schedule that a seed gives, compared with one that never was. `docs/testing.md` shows how.
//! - [`conformance`]: what a source or sink must do, for whoever writes one.
//! - [`golden`]: bytes of durable formats that are committed, which later versions must read.
//! - [`tier`]: how much a test does, by the occasion.
//! - [`listening`]: hears what a test logs, beside other tests.
//!
//! Invariant: what a contract promises is written here once, as a suite that every implementation's own test calls; whatever is drawn comes from a seed that a
//! failure prints.

pub mod conformance;
mod crash;
pub mod golden;
mod host;
mod listening;
mod lost;
mod schedule;
mod seeds;
mod table;
mod takeover;
pub mod tier;
mod topic;
mod trace;
mod world;

pub use crate::store::faulty::{Fate, Fault};
pub use crash::{
    Failure, Report, Traced, crash_anywhere, find_failure, find_takeover_failure, live, takeover_anywhere, trace, trace_acts,
    trace_takeover, undisturbed,
};
pub use listening::listening;
pub use seeds::Schedules;
pub use table::Table;
pub use topic::Topic;
pub use trace::Act;
pub use world::{Rows, World};
