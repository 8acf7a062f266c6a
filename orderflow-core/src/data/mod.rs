//! The one currency of the engine: [`Changes`], Arrow rows with signed multiplicities, and [`Rejected`], a bad row as data.

mod changes;
mod rejected;
pub mod rowkey;

pub use changes::{Changes, Diffs, Origin};
pub use rejected::Rejected;
