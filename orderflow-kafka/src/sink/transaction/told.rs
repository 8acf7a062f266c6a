//! What a lane leaves out of its transaction, told before that is committed.
//!
//! Invariant: once something was told, every later transaction tells as well, until one is committed: what it tells stands for what was told before.

use orderflow_core::data::Rejected;
use orderflow_core::sink::{Bound, Refused};
use orderflow_core::time::Epoch;

#[derive(Default)]
pub(super) struct Told {
    /// Until the engine asks.
    refused: Option<Refused>,
    bound: Bound,
    /// Whether a transaction that is not known to be committed told.
    again: bool,
}

impl Told {
    /// Tells what the transaction up to `upto` leaves out; false if it need not wait.
    pub(super) fn tell(&mut self, lane: u8, upto: Epoch, rows: Vec<Rejected>) -> bool {
        if rows.is_empty() && !self.again {
            return false;
        }
        let refused = Refused::new(lane.into(), upto, rows);
        (self.bound, self.again) = (refused.bound(), true);
        self.refused = Some(refused);
        true
    }

    /// For the engine, once.
    pub(super) fn take(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    /// Whether the transaction may be committed.
    pub(super) fn is_bound(&self) -> bool {
        self.bound.is_bound()
    }

    /// The transaction is written again.
    pub(super) fn rewind(&mut self) {
        self.refused = None;
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_told_tells_again_until_it_is_committed() {
        let row = Rejected { from: "v".into(), place: None, bytes: vec![], reason: "too large".into(), diff: 1 };
        let mut told = Told::default();
        assert!(!told.tell(1, Epoch(3), vec![]), "nothing to tell");
        assert!(told.tell(1, Epoch(4), vec![row]) && !told.is_bound());
        let first = told.take().unwrap();
        assert_eq!((first.lane, first.upto, first.rows.len(), told.take().is_none()), (1, Epoch(4), 1, true));
        told.rewind();
        assert!(told.tell(1, Epoch(3), vec![]), "it leaves nothing out any more");
        first.bind();
        assert!(!told.is_bound(), "that was another transaction");
        assert!(told.take().unwrap().bind().is_empty() && told.is_bound());
        told.committed();
        assert!(!told.tell(1, Epoch(5), vec![]));
    }
}
