//! The sink contract as a suite: what is committed stays, in order and once; what is not is not seen; of two writers only the newer one counts; an
//! epoch with rows that the outside refuses is not committed before they are bound; and a commit that failed, or was not answered, is never guessed about.
//!
//! Invariant: the suite behaves as the engine does: it never gives an epoch at or below the progress, and after a restart it
//! goes on after what the sink itself remembers or, for a sink that promises less, after what it had acknowledged.

mod faults;
mod rows;

pub use faults::Fault;
pub use rows::{SeenRow, closed, expected, schema};

use crate::error::{Result, Retry};
use crate::sink::{Closed, Guarantee, Input, Opened, Progress, Refused, Sink, SinkContext, Writer, WriterId};
use crate::time::Clock;
use arrow::datatypes::SchemaRef;
use faults::{Failing, failing};
use rows::{given, is_empty, seen, wanted};
use std::fmt;
use std::time::Duration;

/// What is tested: a place in the outside world.
pub trait SinkSubject {
    /// A sink on that place, the same each time.
    fn sink(&mut self) -> Box<dyn Sink>;

    /// All rows that a reader of the outside world sees now, in its order.
    fn seen(&mut self) -> Vec<SeenRow>;

    /// Called before every poll: lets a host or another end do its part.
    fn between_polls(&mut self) {}

    /// Whether a commit that was asked for goes on by itself, so that it may come through after the writer is gone.
    fn commits_unheard(&self) -> bool {
        false
    }

    /// What the sink reads its time from, asked at each opening; by default a clock that stands still, by which a sink that pauses between tries waits for ever.
    fn clock(&mut self) -> Clock {
        Clock::manual(0)
    }

    /// Lets the next commit meet `fault`, so that its writer hears of it, and what comes after it work again; or answers `false` and lets nothing fail: then the
    /// suite does not try it, and its report says so.
    fn fail_next(&mut self, _fault: Fault) -> bool {
        false
    }

    /// Whether the commit that was to fail has failed since this was last asked, after every poll: for a sink whose writer tells nobody, and sorts it out when
    /// it is polled again.
    fn has_failed(&mut self) -> bool {
        false
    }

    /// Whether the place holds the rows that are there now, one for each `id`, and not every change: `epoch` and `diff` of what is seen are not looked at then.
    /// The sink must be exactly once.
    fn keyed(&self) -> bool {
        false
    }

    /// Epoch `epoch` with rows of the suite's columns all of which the outside refuses; `None` if it takes every row there is.
    fn refuses(&mut self, _epoch: u64) -> Option<Closed> {
        None
    }
}

/// What was tried of what not every subject can let happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkReport {
    /// Commits that failed before they did anything, as their writers or the subject told it; none: it was not tried.
    pub failed: usize,
    /// Commits that happened and were not answered, as their writers or the subject told it; none: it was not tried.
    pub unanswered: usize,
    /// Whether rows were refused.
    pub refused: bool,
}

impl fmt::Display for SinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |n: usize| if n == 0 { "not tried".to_owned() } else { n.to_string() };
        let (failed, unanswered) = (told(self.failed), told(self.unanswered));
        let refused = if self.refused { "tried" } else { "not tried" };
        write!(f, "commits that failed: {failed} (fail_next), not answered: {unanswered} (fail_next), refused rows: {refused} (refuses)")
    }
}

/// What a sink is opened with in tests: a clock that stands still.
pub fn context(ledger: u128, generation: u64, schema: &SchemaRef) -> SinkContext {
    let writer = WriterId { ledger, generation };
    SinkContext { pipeline: "test".into(), view: "view".into(), writer, schema: schema.clone(), kept: true, clock: Clock::manual(0) }
}

/// A sink on the place as the engine opens it, which asks for its columns first.
fn configured(subject: &mut dyn SinkSubject) -> Box<dyn Sink> {
    let (sink, key) = (subject.sink(), subject.keyed().then(|| vec!["id".to_owned()]));
    let columns = sink.columns(&Input { schema: schema(), key }).expect("the suite's columns suit every sink");
    assert_eq!(columns, None);
    sink
}

/// What the sink on the place is opened with.
fn given_to(subject: &mut dyn SinkSubject, ledger: u128, generation: u64) -> SinkContext {
    SinkContext { clock: subject.clock(), ..context(ledger, generation, &schema()) }
}

fn open(subject: &mut dyn SinkSubject, generation: u64) -> Result<Opened> {
    let context = given_to(subject, 1, generation);
    configured(subject).open(context)
}

fn is_exactly_once(subject: &mut dyn SinkSubject) -> bool {
    subject.sink().guarantee(true) == Guarantee::ExactlyOnce
}

/// Runs the suite; panics at the first promise that is not kept, and says what it could not try.
///
/// # Panics
/// When the sink breaks its contract.
pub fn sink(subject: &mut dyn SinkSubject) -> SinkReport {
    assert!(is_exactly_once(subject) || !subject.keyed(), "rows of a place with a key can only be told if they are there exactly once");

    let mut run = Run::open(subject, 1, 0);
    assert_eq!(run.held, None, "a new place holds nothing");
    (1..=3).for_each(|n| run.write(n));
    run.commit(3);
    run.write(4);
    run.poll();
    let mut committed = run.close();

    // many openings, some without a commit
    for generation in 2..=9 {
        let mut run = Run::open(subject, generation, committed);
        let last = run.committed + generation % 4;
        for n in run.committed + 1..=last {
            run.write(n);
            if n % 2 == 0 {
                run.poll();
            }
        }
        if generation % 3 == 0 {
            run.commit(last);
        }
        committed = run.close();
    }

    // a commit of nothing but an empty epoch moves the progress
    let mut run = Run::open(subject, 10, committed);
    let empty = (run.committed + 1..).find(|n| is_empty(*n)).unwrap_or_default();
    for n in run.committed + 1..=empty {
        run.write(n);
        run.commit(n);
    }
    committed = run.close();

    // a sink that promises less has nobody to fence
    let mut refused = false;
    if is_exactly_once(subject) {
        committed = late(subject, 11, committed, 0, None);
        committed = late(subject, 13, committed, 3, None);
        (committed, refused) = refusing(subject, 15, committed);
    }
    let (committed, failed) = failing(subject, 20, committed, Fault::Before);
    let (committed, unanswered) = failing(subject, 40, committed, Fault::After);
    Run::open(subject, 60, committed).close();
    SinkReport { failed, unanswered, refused }
}

/// Rows that the outside refuses are told, whole, by every writer that tries to commit their epoch, and nothing of it is committed before they are bound. The
/// epochs have no other rows. Gives what is committed then, and whether the outside refuses any.
fn refusing(subject: &mut dyn SinkSubject, generation: u64, committed: u64) -> (u64, bool) {
    let epoch = (committed + 1..).find(|n| is_empty(*n)).unwrap_or_default();
    let Some(bad) = subject.refuses(epoch) else { return (committed, false) };
    let mut run = Run::open(subject, generation, committed);
    for n in committed + 1..epoch {
        run.write(n);
        run.commit(n);
    }
    run.close();
    // three that die before the rows are bound
    for generation in generation + 1..generation + 4 {
        let opened = open(subject, generation).expect("opens");
        assert_eq!(opened.progress.map_or(0, |p| p.epoch.0), epoch - 1, "an epoch was committed whose refused rows were never bound");
        let mut writer = opened.writer;
        let told = tell(subject, &mut *writer, &bad);
        assert_eq!((told.upto, told.rows.len()), (bad.epoch, bad.rows()), "{told:?}");
        for _ in 0..20 {
            subject.between_polls();
            let answer = writer.poll(Duration::from_millis(1)).expect("polls");
            assert!(answer.progress.is_none_or(|p| p.epoch.0 < epoch), "committed before its refused rows were bound");
            assert!(answer.refused.is_empty(), "told twice: {:?}", answer.refused);
        }
        writer.close().expect("closes");
        check(subject, generation, epoch - 1, epoch - 1);
    }
    let mut writer = open(subject, generation + 4).expect("opens").writer;
    assert_eq!(tell(subject, &mut *writer, &bad).bind().len(), bad.rows());
    commit(subject, &mut *writer, epoch);
    writer.close().expect("closes");
    check(subject, generation + 4, epoch, epoch);
    (epoch, true)
}

/// Gives the writer an epoch of which it has to tell something.
fn tell(subject: &mut dyn SinkSubject, writer: &mut dyn Writer, bad: &Closed) -> Refused {
    writer.write(bad.clone()).expect("takes an epoch");
    writer.flush().expect("flushes");
    for _ in 0..2000 {
        subject.between_polls();
        match writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => {}
            answer => {
                if let Some(refused) = answer.expect("polls").refused.pop() {
                    return refused;
                }
            }
        }
    }
    panic!("epoch {} has rows that are refused, and nobody is told", bad.epoch);
}

/// A writer that sleeps, also after a commit that failed, while a newer one takes its place, and wakes up when that has committed so many epochs: what it had
/// taken fails, or nothing comes of it, and the newer one goes on. Gives what is committed then.
fn late(subject: &mut dyn SinkSubject, generation: u64, committed: u64, epochs: u64, failing: Option<&mut Failing>) -> u64 {
    let mut old = open(subject, generation).expect("opens").writer;
    // two of which one has rows
    let taken = committed + 2;
    let failed = failing.and_then(|failing| failing.fail(subject, &mut *old, committed));
    if failed.is_none() {
        (committed + 1..=taken).for_each(|n| old.write(given(&*subject, n)).expect("takes an epoch"));
    }
    let Ok(new) = open(subject, generation + 1) else {
        // whoever has the place keeps everybody else out: nobody was replaced
        if let Some(failed) = failed {
            let _ = old.close(); // whoever failed may say so
            return Run::within(subject, generation + 1, failed.least, failed.most).close();
        }
        commit(subject, &mut *old, taken);
        old.close().expect("closes");
        check(subject, generation, taken, taken);
        return taken;
    };
    let held = new.progress.map_or(0, |p| p.epoch.0);
    let (least, most) = failed.map_or((committed, committed), |failed| (failed.least, failed.most));
    assert!((least..=most).contains(&held), "epoch {held} is held, and the older writer had committed {least} to {most}");
    let mut new = new.writer;
    let mut last = held;
    let mut go_on = |subject: &mut dyn SinkSubject, epochs: u64| {
        for n in last + 1..=last + epochs {
            new.write(given(&*subject, n)).expect("takes an epoch");
            commit(subject, &mut *new, n);
            last = n;
        }
        last
    };
    let held = go_on(&mut *subject, epochs);
    wake(subject, &mut *old, generation, held);
    check(subject, generation + 1, held, held);
    let held = go_on(&mut *subject, 2);
    check(subject, generation + 1, held, held);
    let _ = old.close(); // whoever was replaced may say so
    check(subject, generation + 1, held, held);
    new.close().expect("closes");
    check(subject, generation + 1, held, held);
    held
}

/// Everything that the writer was given, the last of it `last`, is committed.
fn commit(subject: &mut dyn SinkSubject, writer: &mut dyn Writer, last: u64) {
    writer.flush().expect("flushes");
    for _ in 0..2000 {
        subject.between_polls();
        match writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => {}
            answer => {
                if answer.expect("polls").progress.is_some_and(|p| p.epoch.0 == last) {
                    return;
                }
            }
        }
    }
    panic!("epoch {last} was flushed and never committed");
}

/// Lets a writer that was replaced try to commit until it fails for good, for a bounded time; it must not say that it did.
fn wake(subject: &mut dyn SinkSubject, old: &mut dyn Writer, generation: u64, held: u64) {
    if old.flush().is_err_and(|e| e.retry() == Retry::Never) {
        return;
    }
    for _ in 0..400 {
        subject.between_polls();
        match old.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Never => return,
            Err(_) => {}
            Ok(answer) => {
                let own = answer.progress.filter(|p| p.writer.generation == generation && p.epoch.0 > held);
                assert!(own.is_none(), "a writer that was replaced says that it committed {own:?}");
            }
        }
    }
}

/// One opening, from open to close.
struct Run<'a> {
    subject: &'a mut dyn SinkSubject,
    writer: Box<dyn Writer>,
    held: Option<Progress>,
    generation: u64,
    written: u64,
    committed: u64,
}

impl<'a> Run<'a> {
    /// Opens after `committed`, and checks that a sink that promises it remembers that itself.
    fn open(subject: &'a mut dyn SinkSubject, generation: u64, committed: u64) -> Self {
        let most = if subject.commits_unheard() { u64::MAX } else { committed };
        Self::within(subject, generation, committed, most)
    }

    /// The same where nobody knows how much from `least` to `most` is committed.
    fn within(subject: &'a mut dyn SinkSubject, generation: u64, least: u64, most: u64) -> Self {
        let strict = is_exactly_once(subject);
        // a look touches nothing, whoever looks, and sees no more than there is
        let theirs = given_to(subject, 2, generation + 50);
        let _ = configured(subject).look(&theirs); // a sink may refuse another ledger now, or when it is opened
        let ours = given_to(subject, 1, generation + 50);
        let seen = configured(subject).look(&ours).expect("can be looked at");
        let opened = open(subject, generation).expect("opens");
        let held = opened.progress;
        assert!(seen.is_none_or(|seen| held.is_some_and(|held| seen.epoch <= held.epoch)), "{seen:?} was seen, {held:?} is held");
        if strict && least > 0 {
            let held = held.expect("the sink remembers what it committed");
            assert_eq!((held.part, held.writer.ledger), (0, 1));
            assert!((least..=most).contains(&held.epoch.0), "{held}, committed was {least}, and at most {most}");
            assert!(held.writer.generation < generation, "an earlier generation wrote it");
        }
        let committed = least.max(held.map_or(0, |p| p.epoch.0));
        Run { subject, writer: opened.writer, held, generation, written: committed, committed }
    }

    fn write(&mut self, n: u64) {
        self.writer.write(given(&*self.subject, n)).expect("takes an epoch");
        self.written = n;
    }

    fn poll(&mut self) {
        self.subject.between_polls();
        let answer = match self.writer.poll(Duration::from_millis(5)) {
            Err(e) if e.retry() == Retry::Backoff => return,
            other => other.expect("polls"),
        };
        assert!(answer.refused.is_empty(), "nothing is wrong with these rows: {:?}", answer.refused);
        if let Some(progress) = answer.progress {
            assert_eq!((progress.writer.ledger, progress.part), (1, 0));
            assert!(progress.writer.generation <= self.generation, "{progress}");
            assert!(progress.epoch.0 >= self.committed, "progress {progress} went back");
            assert!(progress.epoch.0 <= self.written, "progress {progress} is beyond what was given");
            self.committed = progress.epoch.0;
        }
    }

    fn commit(&mut self, last: u64) {
        self.writer.flush().expect("flushes");
        for _ in 0..2000 {
            self.poll();
            if self.committed == last {
                check(self.subject, self.generation, self.committed, self.committed);
                return;
            }
        }
        panic!("epoch {last} was flushed and never committed");
    }

    /// Closes, and says up to which epoch the sink has committed.
    fn close(self) -> u64 {
        let Run { subject, writer, generation, committed, written, .. } = self;
        writer.close().expect("closes");
        let most = if subject.commits_unheard() { written } else { committed };
        check(subject, generation, committed, most);
        committed
    }
}

/// Panics if what is seen is not what was committed.
fn check(subject: &mut dyn SinkSubject, generation: u64, committed: u64, most: u64) {
    if let Err(wrong) = judge(subject, committed, most) {
        panic!("generation {generation}, {wrong}");
    }
}

/// What is seen is what was committed: in order, once, and whole epochs up to `most` if a commit came through unheard. A sink that promises
/// less may show more.
fn judge(subject: &mut dyn SinkSubject, committed: u64, most: u64) -> Result<(), String> {
    let (seen, strict) = (seen(subject), is_exactly_once(subject));
    if strict {
        let whole = (committed..=most).any(|n| seen == wanted(&*subject, n));
        return if whole { Ok(()) } else { Err(format!("committed up to epoch {committed}: {seen:?}")) };
    }
    let lost: Vec<_> = wanted(&*subject, committed).into_iter().filter(|r| !seen.contains(r)).collect();
    if lost.is_empty() { Ok(()) } else { Err(format!("lost: {lost:?}")) }
}

#[cfg(test)]
mod tests;
