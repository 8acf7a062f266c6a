//! The craft of timely and differential: the container that travels, the exchange, and the only door from columns to rows in a trace.
//!
//! Times are epochs (`u64`, totally ordered). Nothing above this room names a trace, a batch or a frontier.

pub mod arrange;
mod container;
pub mod partials;

/// A stream of changes, stamped with epochs.
pub type Stream<'s> = timely::dataflow::Stream<'s, u64, crate::data::Changes>;
