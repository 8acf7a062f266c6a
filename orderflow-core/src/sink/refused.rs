//! Rows that the outside refuses for good (too large, one topic too many): told before the act that leaves them out is committed.
//!
//! ```text
//!   act: rows but these, progress ─► told ─► stored by the engine ─► bound ─► committed ─► the engine writes their letters
//!     └ it fails: the next try tells again, also if it has nothing to tell                  └ it was not: nobody hears of them
//! ```
//! Invariant: an act that leaves rows out is committed only when they are bound. What was told counts if the sink comes to hold the epoch that it
//! names, and then it is all that is left out of the epochs of that act: what an act tells stands for what was told before and did not come about.

use crate::data::Rejected;
use crate::time::Epoch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that a writer leaves out of the act under way.
///
/// A sink that is not exactly once, or knows of them too late to wait, names an epoch that it holds: then they are lost with a process that dies right after
/// the act.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which lane's act it is; 0 in a sink that commits as a whole.
    pub lane: usize,
    /// The newest epoch of the act.
    pub upto: Epoch,
    /// The rows; none if an earlier try of the act told of some and this one leaves none out.
    pub rows: Vec<Rejected>,
    bound: Bound,
}

/// Says whether told rows survive a crash, so that their act may be committed.
#[derive(Clone, Debug, Default)]
pub struct Bound(Arc<AtomicBool>);

impl Refused {
    /// Rows that an act of `lane` leaves out of the epochs up to `upto`.
    pub fn new(lane: usize, upto: Epoch, rows: Vec<Rejected>) -> Self {
        Self { lane, upto, rows, bound: Bound::default() }
    }

    /// What says that the act may be committed: the writer keeps it and looks at every poll.
    pub fn bound(&self) -> Bound {
        self.bound.clone()
    }

    /// Lets the act be committed, and gives the rows: for whoever drives a writer and keeps them.
    pub fn bind(self) -> Vec<Rejected> {
        self.bound.set();
        self.rows
    }
}

impl Bound {
    /// Whether the act may be committed.
    pub fn is_bound(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Lets the act be committed.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}
