//! The suite finds sinks that break their promises.

use super::*;
use crate::data::{Changes, Rejected};
use crate::error::Error;
use crate::operator::closure::panic_text;
use crate::sink::{Bound, Column, Committed};
use crate::time::Epoch;
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

/// What is wrong with a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Whoever brings what is not there yet may commit, and not who opened it last.
    FencesByProgress,
    /// Everybody may commit.
    FencesNobody,
    /// Refused rows are told and not waited for.
    Hasty,
    /// A commit that failed is done again without asking.
    Blind,
    /// It is done again, whole, unless all of it is there, and what came meanwhile with it.
    Whole,
    /// It counts as done.
    Believes,
    /// What it had is given up.
    Drops,
    /// It is done again after the place was won back, for the same generation.
    WinsBack,
    /// Progress is stored after the rows, in an act of its own.
    Apart,
    /// Nothing fails, although the subject says so.
    NeverFails,
}

/// How commits can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Never,
    /// The writer tells it.
    Told,
    /// It tells nobody, and the shelf does.
    Quietly,
    /// Nobody does.
    Unnoticed,
}

/// The shelf takes no such name.
const REFUSED: &str = "refused";

/// Rows and progress, stored in one act.
#[derive(Default)]
struct Held {
    rows: Vec<SeenRow>,
    progress: Option<Progress>,
    newest: u64,
    fault: Option<Fault>,
    /// A commit that was to fail has, and nobody asked since.
    failed: bool,
}

#[derive(Clone)]
struct Shelf {
    held: Arc<Mutex<Held>>,
    flaw: Flaw,
    /// Whether readers see one row for each id.
    keyed: bool,
    fails: Fails,
}

impl Shelf {
    fn new(flaw: Flaw, keyed: bool, fails: Fails) -> Self {
        Shelf { held: Arc::default(), flaw, keyed, fails }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }
}

impl Sink for Shelf {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        assert_eq!(input.key.is_some(), self.keyed);
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "shelf"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let mut held = self.held();
        held.newest = context.writer.generation;
        let progress = held.progress;
        drop(held);
        let writer = ShelfWriter { shelf: *self, writer: context.writer, taken: vec![], due: false, doubt: false, bound: None, progress };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

struct ShelfWriter {
    shelf: Shelf,
    writer: WriterId,
    taken: Vec<Closed>,
    due: bool,
    /// The last commit ended in an error.
    doubt: bool,
    bound: Option<Bound>,
    progress: Option<Progress>,
}

impl ShelfWriter {
    /// What became of a commit that ended in an error.
    fn ask(&mut self) {
        let mut held = self.shelf.held();
        let newest = self.taken.last().map(|c| c.epoch);
        match self.shelf.flaw {
            Flaw::Blind => {}
            Flaw::Drops => self.taken.clear(),
            Flaw::Whole => self.taken.retain(|_| held.progress.map(|p| p.epoch) < newest),
            flaw => {
                if flaw == Flaw::WinsBack {
                    held.newest = self.writer.generation;
                }
                self.progress = held.progress;
                self.taken.retain(|c| held.progress.is_none_or(|p| c.epoch > p.epoch));
            }
        }
        (self.doubt, self.due) = (false, !self.taken.is_empty());
    }

    fn commit(&mut self) -> Result<()> {
        let ends = self.taken.first().map(|c| c.epoch).zip(self.taken.last().map(|c| c.epoch));
        let Some((first, last)) = ends else { return Ok(()) };
        (self.bound, self.doubt) = (None, true);
        let answer = self.act(first, last);
        let passing = answer.as_ref().is_err_and(|e| e.retry() == Retry::Backoff);
        if self.shelf.flaw != Flaw::Believes || !passing {
            answer?;
        }
        (self.due, self.doubt) = (false, false);
        self.taken.clear();
        self.progress = Some(Progress { writer: self.writer, epoch: last, part: 0 });
        Ok(())
    }

    fn act(&self, first: Epoch, last: Epoch) -> Result<()> {
        let lost = || Error::external("the shelf does not answer");
        let mut held = self.shelf.held();
        let fault = held.fault.take();
        held.failed |= fault.is_some();
        if fault == Some(Fault::Before) {
            return Err(lost());
        }
        let may = match self.shelf.flaw {
            Flaw::FencesByProgress => held.progress.is_none_or(|p| p.epoch < first),
            Flaw::FencesNobody => true,
            _ => held.newest == self.writer.generation,
        };
        if !may {
            return Err(Error::external("another writer has taken over").permanent());
        }
        let good = self.taken.iter().filter(|c| c.changes.iter().flat_map(refused).next().is_none());
        held.rows.extend(good.flat_map(rows));
        if fault.is_some() && self.shelf.flaw == Flaw::Apart {
            return Err(lost());
        }
        held.progress = Some(Progress { writer: self.writer, epoch: last, part: 0 });
        if fault.is_some() { Err(lost()) } else { Ok(()) }
    }
}

impl Writer for ShelfWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.taken.push(closed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.due = !self.taken.is_empty();
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        if self.doubt {
            self.ask();
        }
        let mut told = vec![];
        if self.due
            && self.bound.is_none()
            && let Some(last) = self.taken.last()
        {
            let rows = self.taken.iter().flat_map(|c| &c.changes).flat_map(refused).collect::<Vec<_>>();
            if !rows.is_empty() {
                let refused = Refused::new(0, last.epoch, rows);
                self.bound = Some(refused.bound());
                told.push(refused);
            }
        }
        let hasty = self.shelf.flaw == Flaw::Hasty && told.is_empty();
        if self.due && self.bound.as_ref().is_none_or(|bound| bound.is_bound() || hasty) {
            let quiet = matches!(self.shelf.fails, Fails::Quietly | Fails::Unnoticed);
            match self.commit() {
                Err(e) if quiet && e.retry() == Retry::Backoff => {}
                answer => answer?,
            }
        }
        Ok(Committed { progress: self.progress, refused: told, ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl SinkSubject for Shelf {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(self.clone())
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        let rows = self.held().rows.clone();
        if !self.keyed {
            return rows;
        }
        let mut there: BTreeMap<i64, SeenRow> = BTreeMap::new();
        for row in rows {
            there.remove(&row.id);
            there.extend((row.diff > 0).then_some((row.id, row)));
        }
        there.into_values().collect()
    }

    fn fail_next(&mut self, fault: Fault) -> bool {
        let fails = self.fails != Fails::Never;
        self.held().fault = Some(fault).filter(|_| fails && self.flaw != Flaw::NeverFails);
        fails
    }

    fn has_failed(&mut self) -> bool {
        self.fails == Fails::Quietly && std::mem::take(&mut self.held().failed)
    }

    fn keyed(&self) -> bool {
        self.keyed
    }

    fn refuses(&mut self, epoch: u64) -> Option<Closed> {
        let (ids, names) = (Int64Array::from(vec![1, 2]), StringArray::from(vec![REFUSED; 2]));
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(names)]).unwrap();
        Some(Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(batch)] })
    }
}

fn rows(closed: &Closed) -> Vec<SeenRow> {
    let row = |c: &Changes, i: usize| {
        let names = c.rows().column(1).as_string::<i32>();
        let name = names.is_valid(i).then(|| names.value(i).to_owned());
        SeenRow { epoch: closed.epoch.0, diff: c.diff(i), id: c.rows().column(0).as_primitive::<Int64Type>().value(i), name }
    };
    closed.changes.iter().flat_map(|c| (0..c.len()).map(move |i| row(c, i))).collect()
}

fn refused(changes: &Changes) -> Vec<Rejected> {
    let letter = || Rejected { from: "shelf".into(), place: None, bytes: vec![], reason: "no such name".into(), diff: 1 };
    let names = changes.rows().column(1).as_string::<i32>();
    names.iter().filter(|name| *name == Some(REFUSED)).map(|_| letter()).collect()
}

/// What the suite says of such a sink.
fn judged(flaw: Flaw, keyed: bool, fails: Fails) -> std::result::Result<SinkReport, String> {
    let run = || sink(&mut Shelf::new(flaw, keyed, fails));
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
}

#[test]
fn a_sound_sink_passes_and_what_was_not_tried_is_said() {
    for keyed in [false, true] {
        for fails in [Fails::Told, Fails::Quietly] {
            assert_eq!(judged(Flaw::None, keyed, fails), Ok(SinkReport { failed: 5, unanswered: 5, refused: true }), "{fails:?}");
        }
        let report = judged(Flaw::None, keyed, Fails::Never).unwrap();
        assert_eq!(report, SinkReport { failed: 0, unanswered: 0, refused: true });
        assert!(report.to_string().contains("commits that failed: not tried (fail_next)"), "{report}");
    }
}

#[test]
fn a_sink_that_does_not_fence_its_older_writer_fails() {
    for (flaw, keyed) in [(Flaw::FencesByProgress, false), (Flaw::FencesNobody, false), (Flaw::FencesNobody, true)] {
        let said = judged(flaw, keyed, Fails::Never).unwrap_err();
        assert!(said.contains("a writer that was replaced says that it committed"), "{flaw:?}: {said}");
    }
}

#[test]
fn a_sink_that_commits_before_refused_rows_are_bound_fails() {
    let said = judged(Flaw::Hasty, false, Fails::Never).unwrap_err();
    assert!(said.contains("committed before its refused rows were bound"), "{said}");
}

#[test]
fn a_sink_that_guesses_what_became_of_a_commit_fails() {
    for (flaw, keyed, says) in [
        (Flaw::Blind, false, "a commit failed (After) and the writer went on"),
        (Flaw::Whole, false, "a commit failed (After) and the writer went on"),
        (Flaw::Apart, false, "a commit failed (After) and the writer went on"),
        (Flaw::Believes, false, "a commit failed (Before) and the writer went on"),
        (Flaw::Believes, true, "a commit failed (Before) and the writer went on"),
        (Flaw::Drops, false, "a commit failed (Before) and the writer went on"),
        (Flaw::Drops, true, "a commit failed (Before) and the writer went on"),
        (Flaw::WinsBack, false, "a writer that was replaced says that it committed"),
        (Flaw::NeverFails, false, "nobody told of one that did"),
    ] {
        assert!(judged(flaw, keyed, Fails::Never).is_ok(), "{flaw:?} is found where no commit fails");
        for fails in [Fails::Told, Fails::Quietly] {
            let said = judged(flaw, keyed, fails).unwrap_err();
            assert!(said.contains(says), "{flaw:?}, {fails:?}: {said}");
        }
    }
}

#[test]
fn a_commit_that_fails_and_is_not_heard_of_is_no_test() {
    let said = judged(Flaw::None, false, Fails::Unnoticed).unwrap_err();
    assert!(said.contains("nobody told of one that did"), "{said}");
}
