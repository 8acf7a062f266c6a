//! What the shop's records mean: their columns, keys and event times, and the rules by which they are sorted into topics.
//!
//! Invariant: nothing here reads or writes; a rule that also runs in SQL stands beside its SQL text, and a test holds the two together.

pub mod order;

pub use order::Order;
