//! The suite finds sinks that break their promises.

use super::*;
use crate::data::Rejected;
use crate::error::{Error, Result};
use crate::operator::closure::panic_text;
use crate::sink::{Bound, Column, Committed, Input, Opened};
use arrow::array::AsArray;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

/// Who may commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// Whoever opened it last.
    Newest,
    /// Whoever brings what is not there yet.
    Progress,
    /// Everybody.
    Nobody,
    /// As the newest, and rows are told and not waited for.
    Hasty,
}

/// The shelf takes no such name.
const REFUSED: &str = "refused";

/// Rows and progress, stored in one act.
#[derive(Default)]
struct Held {
    rows: Vec<SeenRow>,
    progress: Option<Progress>,
    newest: u64,
}

#[derive(Clone)]
struct Shelf(Arc<Mutex<Held>>, Fence);

impl Shelf {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }
}

impl Sink for Shelf {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
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
        let writer = ShelfWriter { shelf: *self, writer: context.writer, taken: vec![], due: false, bound: None, progress };
        Ok(Opened { writer: Box::new(writer), progress })
    }
}

struct ShelfWriter {
    shelf: Shelf,
    writer: WriterId,
    taken: Vec<Closed>,
    due: bool,
    bound: Option<Bound>,
    progress: Option<Progress>,
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
        let ends = self.taken.first().map(|c| c.epoch).zip(self.taken.last().map(|c| c.epoch));
        if self.due
            && self.bound.is_none()
            && let Some((_, last)) = ends
        {
            let rows = self.taken.iter().flat_map(|c| &c.changes).flat_map(refused).collect::<Vec<_>>();
            if !rows.is_empty() {
                let told = Refused::new(0, last, rows);
                self.bound = Some(told.bound());
                return Ok(Committed { progress: self.progress, refused: vec![told], ..Committed::default() });
            }
        }
        if self.due
            && self.bound.as_ref().is_none_or(|bound| bound.is_bound() || self.shelf.1 == Fence::Hasty)
            && let Some((first, last)) = ends
        {
            (self.due, self.bound) = (false, None);
            let mut held = self.shelf.held();
            let may = match self.shelf.1 {
                Fence::Newest | Fence::Hasty => held.newest == self.writer.generation,
                Fence::Progress => held.progress.is_none_or(|p| p.epoch < first),
                Fence::Nobody => true,
            };
            if !may {
                return Err(Error::external("another writer has taken over").permanent());
            }
            let good = self.taken.drain(..).filter(|c| c.changes.iter().flat_map(refused).next().is_none());
            held.rows.extend(good.flat_map(|c| expected(c.epoch.0)));
            held.progress = Some(Progress { writer: self.writer, epoch: last, part: 0 });
            self.progress = held.progress;
        }
        Ok(Committed { progress: self.progress, ..Committed::default() })
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
        self.held().rows.clone()
    }

    fn refuses(&mut self, epoch: u64) -> Option<Closed> {
        let (ids, names) = (Int64Array::from(vec![1, 2]), StringArray::from(vec![REFUSED; 2]));
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(names)]).unwrap();
        Some(Closed { epoch: Epoch(epoch), changes: vec![Changes::inserts(batch)] })
    }
}

fn refused(changes: &Changes) -> Vec<Rejected> {
    let letter = || Rejected { from: "shelf".into(), place: None, bytes: vec![], reason: "no such name".into(), diff: 1 };
    let names = changes.rows().column(1).as_string::<i32>();
    names.iter().filter(|name| *name == Some(REFUSED)).map(|_| letter()).collect()
}

/// What the suite says of such a sink.
fn judged(fence: Fence) -> std::result::Result<(), String> {
    let run = || sink(&mut Shelf(Arc::default(), fence));
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
}

#[test]
fn a_sink_that_does_not_fence_its_older_writer_fails() {
    assert_eq!(judged(Fence::Newest), Ok(()));
    for fence in [Fence::Progress, Fence::Nobody] {
        let said = judged(fence).unwrap_err();
        assert!(said.contains("a writer that was replaced says that it committed"), "{fence:?}: {said}");
    }
}

#[test]
fn a_sink_that_commits_before_refused_rows_are_bound_fails() {
    let said = judged(Fence::Hasty).unwrap_err();
    assert!(said.contains("committed before its refused rows were bound"), "{said}");
}
