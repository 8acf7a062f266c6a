//! Exactly-once, decisions first: which input an epoch is bound to, when it closes, what is read again after a crash, and from where a sink
//! goes on. The ledger is the only thing here that remembers.

mod binding;
mod entry;
mod idle;
mod ledger;
mod log;
mod mint;
mod outbox;
mod replay;
mod resume;

pub use binding::{Binding, Input, Range, SpoolRef};
pub use entry::{Base, Checkpoint, Entry, Start};
pub use idle::Idleness;
pub use ledger::Ledger;
pub use log::{Log, Opening, Recovered, Seen};
pub use mint::{Limits, Mint};
pub use outbox::{Letters, Outbox};
pub use replay::{Admit, Replay};
pub use resume::{Known, Resume, judge_lanes, resume};

#[cfg(test)]
mod tests;
