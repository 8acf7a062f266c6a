//! Rows that left operators: of one worker, told to the engine with each epoch, and told to the `metrics` facade as they go.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Whose operator it is (a view's, or that of one of its sinks), and which.
pub type Whose = (Arc<str>, &'static str);

/// What an operator has counted.
type Count = (Whose, Rc<Cell<u64>>);

/// The counts of one worker that the engine was not told yet.
#[derive(Clone, Default)]
pub struct Tally(Rc<RefCell<Vec<Count>>>);

impl Tally {
    /// A counter for one more operator.
    pub fn of(&self, whose: Whose, facade: metrics::Counter) -> Rows {
        let own = Rc::new(Cell::new(0));
        self.0.borrow_mut().push((whose, own.clone()));
        Rows { facade, own }
    }

    /// Takes what was counted since the last time, without what was not.
    pub fn take(&self) -> Vec<(Whose, u64)> {
        let counted = |(whose, rows): &Count| Some((whose.clone(), rows.take())).filter(|(_, rows)| *rows > 0);
        self.0.borrow().iter().filter_map(counted).collect()
    }
}

/// Counts the rows that leave one operator.
pub struct Rows {
    facade: metrics::Counter,
    own: Rc<Cell<u64>>,
}

impl Rows {
    /// So many more.
    pub fn add(&self, rows: usize) {
        self.facade.increment(rows as u64);
        self.own.set(self.own.get() + rows as u64);
    }
}
