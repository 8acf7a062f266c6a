//! Commits that fail, and commits whose answer is lost.
//!
//! ```text
//!   epochs, a commit that fails ─► error ─┬─► more epochs, polled again        what the engine does after an error that may pass
//!                             └─► silence ┼─► closed or gone, opened again     what a start does after any error
//!                                         └─► another has opened, it wakes up  who was replaced stays so
//! ```
//! Invariant: whatever comes after the commit that failed, every epoch is there once, and what is said to be held is what is seen.

use super::rows::{given, is_empty};
use super::{Run, SinkSubject, is_exactly_once, judge, late};
use crate::error::{Result, Retry};
use crate::sink::Writer;
use std::time::Duration;

/// How a commit fails. Either is over then: the next try works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Before it did anything.
    Before,
    /// It has happened, and its answer is lost.
    After,
}

/// What comes after the commit that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoesOn,
    Closes,
    Dies,
}

/// Lets commits fail, and counts those whose writer or subject told it.
pub(super) struct Failing {
    fault: Fault,
    told: usize,
}

/// What became of a commit that was to fail.
pub(super) struct Failed {
    /// The newest epoch that its writer was given, and the newest that it took.
    last: u64,
    written: u64,
    /// Whether all is committed, since the writer has sorted it out by itself; if not, it has told nobody. An error is what it told.
    all: Result<bool>,
    /// The least and the most that is held now.
    pub(super) least: u64,
    pub(super) most: u64,
}

/// Lets commits fail in this way and goes on in every way there is. Gives what is committed then, and of how many commits that failed was told: none, if
/// the subject cannot let them. Takes fifteen generations.
pub(super) fn failing(subject: &mut dyn SinkSubject, mut generation: u64, mut committed: u64, fault: Fault) -> (u64, usize) {
    let mut failing = Failing { fault, told: 0 };
    for then in [Then::GoesOn, Then::Closes, Then::Dies] {
        committed = align(subject, generation, committed);
        let mut run = Run::open(subject, generation + 1, committed);
        let Some(failed) = failing.fail(run.subject, &mut *run.writer, run.committed) else { return (run.close(), 0) };
        committed = go_on(run, &failed, fault, then);
        generation += 3;
    }
    if is_exactly_once(subject) {
        for epochs in [0, 3] {
            committed = align(subject, generation, committed);
            committed = late(subject, generation + 1, committed, epochs, Some(&mut failing));
            generation += 3;
        }
    }
    assert!(failing.told > 0, "`fail_next` says that a commit can fail ({fault:?}), and nobody told of one that did");
    (committed, failing.told)
}

/// Commits up to where two epochs with rows come next, then one without.
fn align(subject: &mut dyn SinkSubject, generation: u64, committed: u64) -> u64 {
    let mut run = Run::open(subject, generation, committed);
    while !is_empty(run.committed) {
        let next = run.committed + 1;
        run.write(next);
        run.commit(next);
    }
    run.close()
}

impl Failing {
    /// Gives the writer the two epochs after `committed` and has them committed, which is to fail; `None` if the subject cannot let it.
    pub(super) fn fail(&mut self, subject: &mut dyn SinkSubject, writer: &mut dyn Writer, committed: u64) -> Option<Failed> {
        if !subject.fail_next(self.fault) {
            return None;
        }
        let (mut written, mut met, last) = (committed, false, committed + 2);
        let all = attempt(subject, writer, &mut written, last, &mut met);
        self.told += usize::from(met || all.is_err());
        let happened = self.fault == Fault::After;
        let (least, most) = match all {
            Ok(true) => (last, last),
            _ => (
                // who does not remember gets it again
                committed + u64::from(happened && is_exactly_once(subject)),
                if happened || subject.commits_unheard() { last } else { committed },
            ),
        };
        Some(Failed { last, written, all, least, most })
    }
}

/// Gives the epochs after `written` up to `last` and has them committed, up to the first call that fails or the commit of which the subject says that it did.
/// Gives whether all are committed.
fn attempt(subject: &mut dyn SinkSubject, writer: &mut dyn Writer, written: &mut u64, last: u64, met: &mut bool) -> Result<bool> {
    let first = *written + 1;
    for n in first..=last {
        writer.write(given(&*subject, n))?;
        *written = n;
    }
    writer.flush()?;
    for _ in 0..2000 {
        subject.between_polls();
        let answer = writer.poll(Duration::from_millis(5));
        *met |= subject.has_failed();
        let all = answer?.progress.is_some_and(|p| p.epoch.0 == last);
        if all || *met {
            return Ok(all);
        }
    }
    panic!("epoch {last} was flushed, and it neither failed nor was committed");
}

/// What comes after the commit that failed, and two more epochs. Gives what is committed then.
fn go_on(mut run: Run<'_>, failed: &Failed, fault: Fault, then: Then) -> u64 {
    let ends = failed.all.as_ref().is_err_and(|e| e.retry() == Retry::Never);
    let last = failed.last + 2;
    if then == Then::GoesOn && !ends {
        let scene = format!("a commit failed ({fault:?}) and the writer went on");
        run.written = failed.written;
        if matches!(failed.all, Ok(true)) {
            run.committed = failed.least;
        }
        truth(run.subject, &scene, run.committed, failed.most);
        // as the engine does, before it polls again: none of them may get into what is tried again
        run.reach(last, &scene);
        return run.close();
    }
    let Run { subject, writer, generation, .. } = run;
    let scene = format!("a commit failed ({fault:?}) and the writer was {}", if then == Then::Dies { "gone" } else { "closed" });
    if then == Then::Dies {
        drop(writer);
    } else {
        let _ = writer.close(); // whoever failed may say so
    }
    let mut run = Run::within(subject, generation + 1, failed.least, failed.most);
    truth(run.subject, &scene, run.committed, run.committed);
    run.reach(last, &scene);
    run.close()
}

fn truth(subject: &mut dyn SinkSubject, scene: &str, committed: u64, most: u64) {
    if let Err(wrong) = judge(subject, committed, most) {
        panic!("{scene}: {wrong}");
    }
}

impl Run<'_> {
    /// Writes and commits up to `last`, again after errors that may pass; what is told on the way is true.
    fn reach(&mut self, last: u64, scene: &str) {
        let again = |answer: Result<()>| match answer {
            Err(e) if e.retry() == Retry::Backoff => true,
            Err(e) => panic!("{scene}: {e}"),
            Ok(()) => false,
        };
        let mut flushed = false;
        for _ in 0..2000 {
            while self.written < last && !again(self.writer.write(given(&*self.subject, self.written + 1))) {
                self.written += 1;
            }
            flushed = flushed || self.written == last && !again(self.writer.flush());
            if !flushed {
                self.subject.between_polls();
                continue;
            }
            let before = self.committed;
            self.poll();
            if self.committed > before {
                truth(self.subject, scene, self.committed, self.written);
            }
            if self.committed == last {
                return truth(self.subject, scene, last, last);
            }
        }
        panic!("{scene}: epoch {last} was flushed and never committed");
    }
}
