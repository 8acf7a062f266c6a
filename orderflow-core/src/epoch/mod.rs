//! Exactly-once, decisions first: which input an epoch is bound to, when it closes, and from where a sink goes on. The ledger is the only thing here that remembers.

mod binding;
mod ledger;
mod mint;
mod resume;

pub use binding::{Binding, Range};
pub use ledger::Ledger;
pub use mint::{Limits, Mint};
pub use resume::{Resume, resume};
