//! Letters of rows that sinks refuse, from when they are stored until the dead letters hold them: pure decisions over what the ledger says.
//!
//! ```text
//!   a sink tells what its act leaves out ─► stored ─► it commits ─► a binding names them ─► the dead letters hold its epoch ─► forgotten
//!                                             └ it does not: replaced by what the sink tells next, or dropped by the next start
//! ```
//! Invariant: letters count when the sink holds the epoch up to which they were told, and are written in one epoch, the one whose binding names them. Whether
//! a sink holds it can be said as long as nothing was committed since by somebody who knows nothing of them: so a start drops those that do not count,
//! durably, before it gives a sink anything.

use super::SpoolRef;
use crate::bug::{Bug, planted};
use crate::time::Epoch;

/// Rows that one act of a sink leaves out, stored before it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letters {
    /// What the ledger calls the sink.
    pub sink: String,
    /// Which of its lanes.
    pub lane: usize,
    /// The newest epoch that the lane held when it told.
    pub after: Epoch,
    /// The newest epoch of the act.
    pub upto: Epoch,
    /// Where the rows are stored; `None` if the act leaves nothing out.
    pub object: Option<SpoolRef>,
    /// The epoch whose binding names them; `None` before that.
    pub epoch: Option<Epoch>,
}

/// All letters that somebody may still need, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox(Vec<Letters>);

impl Outbox {
    /// These letters, the oldest first.
    pub fn new(letters: Vec<Letters>) -> Self {
        Self(letters)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Letters> {
        self.0.iter()
    }

    /// Where they are stored.
    pub fn objects(&self) -> impl Iterator<Item = &SpoolRef> {
        self.0.iter().filter_map(|l| l.object.as_ref())
    }

    /// A sink told of an act: what it told of acts beyond what it held then did not come about.
    pub fn tell(&mut self, new: Letters) {
        self.0.retain(|l| (&l.sink, l.lane) != (&new.sink, new.lane) || l.upto <= new.after);
        if new.object.is_some() {
            self.0.push(new);
        }
    }

    /// The binding of `epoch` names these objects.
    pub fn bind(&mut self, epoch: Epoch, names: &[String]) {
        for letters in &mut self.0 {
            if letters.object.as_ref().is_some_and(|o| names.contains(&o.name)) {
                letters.epoch = Some(epoch);
            }
        }
    }

    /// The dead letters, and every other sink, hold all epochs up to `epoch`.
    pub fn retire(&mut self, epoch: Epoch) {
        self.0.retain(|l| l.epoch.is_none_or(|of| of > epoch));
    }

    /// A sink was opened, each lane of which holds so much: what it told and did not commit is dropped, since it will tell of these epochs again.
    pub fn settle(&mut self, sink: &str, held: impl Fn(usize) -> Epoch) {
        let counts = |l: &Letters| l.upto <= held(l.lane) || planted(Bug::BelievesWhatWasTold);
        self.0.retain(|l| l.sink != sink || l.epoch.is_some() || counts(l));
    }

    /// A sink is gone, or begins a new life, in which it is given everything again.
    pub fn forget(&mut self, sink: &str) {
        self.0.retain(|l| l.sink != sink || l.epoch.is_some());
    }

    /// Says of each object what it is, by its name.
    pub fn place(&mut self, objects: &[SpoolRef]) {
        for object in self.0.iter_mut().filter_map(|l| l.object.as_mut()) {
            if let Some(known) = objects.iter().find(|o| o.name == object.name) {
                object.clone_from(known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(name: &str, (sink, lane): (&str, usize), after: u64, upto: u64) -> Letters {
        let object = Some(SpoolRef { upto: Epoch(upto), name: name.into(), bytes: 1, crc: 0 }).filter(|o| !o.name.is_empty());
        Letters { sink: sink.into(), lane, after: Epoch(after), upto: Epoch(upto), object, epoch: None }
    }

    fn names(outbox: &Outbox) -> Vec<&str> {
        outbox.objects().map(|o| o.name.as_str()).collect()
    }

    #[test]
    fn what_is_told_stands_for_what_did_not_come_about() {
        let mut outbox = Outbox::default();
        for (name, of, after, upto) in [("a", ("s", 0), 0, 7), ("b", ("s", 1), 0, 7), ("c", ("t", 0), 0, 7)] {
            outbox.tell(letters(name, of, after, upto));
        }
        outbox.tell(letters("d", ("s", 0), 0, 5));
        assert_eq!(names(&outbox), ["b", "c", "d"], "another try of the same lane, of fewer epochs");
        outbox.tell(letters("e", ("s", 0), 5, 9));
        assert_eq!(names(&outbox), ["b", "c", "d", "e"], "what was committed stays");
        outbox.tell(letters("", ("s", 0), 5, 9));
        assert_eq!(names(&outbox), ["b", "c", "d"], "a try that leaves nothing out");
    }

    #[test]
    fn a_start_keeps_what_was_committed_and_what_is_bound() {
        let told = [("a", ("s", 0), 0, 3), ("b", ("s", 0), 3, 6), ("c", ("s", 1), 0, 5), ("d", ("t", 0), 0, 9), ("e", ("s", 0), 6, 8)];
        let mut outbox = Outbox::new(told.map(|(name, of, after, upto)| letters(name, of, after, upto)).to_vec());
        outbox.bind(Epoch(12), &["a".to_owned(), "x".to_owned()]);
        let held = |lane| Epoch([6, 4][lane]);
        let mut settled = outbox.clone();
        settled.settle("s", held);
        assert_eq!(names(&settled), ["a", "b", "d"]);
        settled.retire(Epoch(11));
        assert_eq!(names(&settled), ["a", "b", "d"]);
        settled.retire(Epoch(12));
        assert_eq!(names(&settled), ["b", "d"], "the dead letters hold the others");
        outbox.forget("s");
        assert_eq!(names(&outbox), ["a", "d"]);
    }

    #[test]
    fn objects_are_placed_by_their_names() {
        let mut outbox = Outbox::new(vec![letters("a", ("s", 0), 0, 3), letters("b", ("s", 0), 3, 6)]);
        let known = SpoolRef { upto: Epoch(6), name: "b".into(), bytes: 77, crc: 5 };
        outbox.place(std::slice::from_ref(&known));
        assert_eq!(outbox.objects().map(|o| o.bytes).collect::<Vec<_>>(), [1, 77]);
        assert_eq!(outbox.iter().last().and_then(|l| l.object.clone()), Some(known));
    }
}
