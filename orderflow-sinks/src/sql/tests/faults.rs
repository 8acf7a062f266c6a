//! Connections that die, answers that get lost, writers that are overtaken: at every single operation.
//!
//! Invariant: after whatever went wrong, the table holds every epoch once, and the one who may write is the newest.

use super::super::connection::{Answer, Server};
use super::refusals::checked;
use super::*;
use orderflow_core::sink::WriterId;
use orderflow_core::testing::{self, Fate, tier};
use std::collections::BTreeMap;
use std::sync::Mutex;

everywhere!(
    whatever_dies_every_epoch_is_there_once,
    a_commit_whose_answer_was_lost_is_not_done_again,
    every_try_tells_what_it_leaves_out_and_waits,
    a_writer_that_was_overtaken_stops_and_writes_nothing,
    a_transaction_that_was_left_open_does_not_get_in_between,
    a_database_that_is_locked_holds_up_no_poll,
    a_table_of_another_state_is_left_alone,
    two_sinks_on_one_table_are_refused,
    a_progress_row_that_is_gone_stops_the_writer
);

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is lost before the database has heard of it.
    Before,
    /// It happens, and the answer is lost.
    After,
    /// As [`Fault::Before`], and everything after it: the process has died.
    Killed,
    /// As [`Fault::After`], and everything after it.
    KilledAfter,
}

impl Fault {
    pub(super) const ALL: [Fault; 4] = [Fault::Before, Fault::After, Fault::Killed, Fault::KilledAfter];
}

#[derive(Default)]
struct Plan {
    faults: Vec<(u64, Fault)>,
    operations: u64,
    statements: u64,
    /// Numbers of the operations that were COMMITs.
    commits: Vec<u64>,
    dead: bool,
    /// Where everything comes from instead, if there is one.
    fate: Option<Fate>,
}

/// A way to a database on which things go wrong, once each.
pub(super) struct Faulty {
    place: Place,
    plan: Arc<Mutex<Plan>>,
}

impl Faulty {
    pub(super) fn with(db: &Db, faults: impl IntoIterator<Item = (u64, Fault)>) -> Arc<Self> {
        let plan = Plan { faults: faults.into_iter().collect(), ..Plan::default() };
        Arc::new(Self { place: db.place.clone(), plan: Arc::new(Mutex::new(plan)) })
    }

    /// A way on which things go wrong as they do for a whole process.
    pub(super) fn sharing(db: &Db, fate: Fate) -> Arc<Self> {
        Arc::new(Self { place: db.place.clone(), plan: Arc::new(Mutex::new(Plan { fate: Some(fate), ..Plan::default() })) })
    }

    pub(super) fn counting(db: &Db) -> Arc<Self> {
        Self::with(db, [])
    }

    pub(super) fn commits(&self) -> usize {
        self.plan.lock().unwrap().commits.len()
    }

    /// Operations at which something is to go wrong: every commit, and of the others as many as the occasion allows.
    fn points(&self) -> Vec<u64> {
        let plan = self.plan.lock().unwrap();
        let stride = tier::of(5, 2, 1);
        (1..=plan.operations).filter(|at| at.is_multiple_of(stride) || plan.commits.contains(at)).collect()
    }

    pub(super) fn statements(&self) -> u64 {
        self.plan.lock().unwrap().statements
    }

    pub(super) fn is_dead(&self) -> bool {
        self.plan.lock().unwrap().dead
    }

    pub(super) fn at_the_next_commit(&self, fault: Fault) {
        self.plan.lock().unwrap().faults.push((0, fault));
    }
}

fn lost() -> Failure {
    Failure::Passing("lost on purpose".into())
}

impl Plan {
    fn next(&mut self, sql: &str) -> Result<Option<Fault>, Failure> {
        if let Some(fate) = &self.fate {
            return match fate.next_fault() {
                None => Ok(None),
                Some(testing::Fault::Unanswered) => Ok(Some(Fault::After)),
                Some(testing::Fault::CrashAfter) => Ok(Some(Fault::KilledAfter)),
                Some(_) => Err(lost()),
            };
        }
        if self.dead {
            return Err(lost());
        }
        self.operations += 1;
        self.statements += u64::from(sql.starts_with("INSERT") || sql.starts_with("DELETE"));
        self.commits.extend((sql == "COMMIT").then_some(self.operations));
        let now = |(at, _): &(u64, Fault)| *at == self.operations || (*at == 0 && sql == "COMMIT");
        let fault = self.faults.iter().position(now).map(|i| self.faults.remove(i).1);
        self.dead = matches!(fault, Some(Fault::Killed | Fault::KilledAfter));
        match fault {
            Some(Fault::Before | Fault::Killed) => Err(lost()),
            other => Ok(other),
        }
    }
}

impl Connect for Faulty {
    fn connect(&self) -> Answer<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let fault = self.plan.lock().unwrap().next("connect")?;
            let inner = self.place.connect().await?;
            if fault.is_some() { Err(lost()) } else { Ok(Box::new(FaultyConnection { inner, plan: self.plan.clone(), lost: false }) as _) }
        })
    }
}

struct FaultyConnection {
    inner: Box<dyn Connection>,
    plan: Arc<Mutex<Plan>>,
    lost: bool,
}

impl FaultyConnection {
    fn next(&mut self, sql: &str) -> Result<Option<Fault>, Failure> {
        if self.lost {
            return Err(lost());
        }
        let next = self.plan.lock().unwrap().next(sql);
        self.lost = !matches!(next, Ok(None));
        next
    }
}

impl Connection for FaultyConnection {
    fn server(&self) -> Server {
        self.inner.server()
    }

    fn execute<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, ()> {
        Box::pin(async move {
            let fault = self.next(sql)?;
            let answer = self.inner.execute(sql, values).await;
            if fault.is_some() { Err(lost()) } else { answer }
        })
    }

    fn rows<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, Vec<Vec<Option<String>>>> {
        Box::pin(async move {
            let fault = self.next(sql)?;
            let answer = self.inner.rows(sql, values).await;
            if fault.is_some() { Err(lost()) } else { answer }
        })
    }

    fn close(self: Box<Self>) -> Answer<'static, ()> {
        self.inner.close()
    }
}

/// Epoch `n`: key 1 changes, key `n` comes, an older key goes, null comes and goes.
fn epoch(n: u64) -> Closed {
    let i = n as i64;
    let mut rows = vec![(Some(1), i - 1, -1), (Some(1), i, 1), (Some(10 + i), i, 1)];
    rows.extend((n > 3).then_some((Some(10 + i - 3), i - 3, -1)));
    rows.push(if n % 2 == 1 { (None, i, 1) } else { (None, i - 1, -1) });
    closed(n, &rows)
}

fn expected(last: u64) -> Vec<String> {
    let last = last as i64;
    let mut map: BTreeMap<Option<i64>, i64> = (1.max(last - 2)..=last).map(|i| (Some(10 + i), i)).collect();
    map.insert(Some(1), last);
    map.extend((last % 2 == 1).then_some((None, last)));
    shown(&map)
}

const EPOCHS: u64 = 5;

/// Opens with the next generation until that works, and goes on after what the table holds, to the end or to its death.
fn live(sink: &dyn Fn() -> Sql, generation: &mut u64, dead: &dyn Fn() -> bool) {
    let mut tries = 0;
    let mut opened = loop {
        *generation += 1;
        match open_as(sink(), *generation, "test") {
            Ok(opened) => break opened,
            Err(e) => assert!(e.retry() == Retry::Backoff && tries < 3, "{e}"),
        }
        if dead() {
            return;
        }
        tries += 1;
    };
    for n in opened.progress.map_or(1, |p| p.epoch.0 + 1)..=EPOCHS {
        opened.writer.write(epoch(n)).unwrap();
        // every other epoch goes together with the one before it
        if n % 2 == 0 || n == EPOCHS {
            let committed = commit_unless(opened.writer.as_mut(), n, dead);
            if !committed {
                return;
            }
        }
    }
    opened.writer.close().unwrap();
}

fn commit_unless(writer: &mut dyn Writer, epoch: u64, dead: &dyn Fn() -> bool) -> bool {
    for _ in 0..1000 {
        match writer.poll(PATIENCE) {
            _ if dead() => return false,
            Ok(answer) if answer.progress.is_some_and(|p| p.epoch.0 >= epoch) => return true,
            Ok(_) => {}
            Err(e) => assert_eq!(e.retry(), Retry::Backoff, "{e}"),
        }
    }
    panic!("it never came out");
}

fn whatever_dies_every_epoch_is_there_once(db: &Db) {
    for append in [false, true] {
        let sink = |db: &Db, table: &str, way: &Arc<Faulty>| {
            let plain = if append { db.append(table) } else { db.upsert(table, &["k"]) };
            plain.through(way.clone())
        };
        let rows = |db: &Db, table: &str| db.read(table, if append { &["k", "v", "name", "diff", "epoch"] } else { &["k", "v", "name"] });
        let fresh = db.fresh();
        let unhurt = fresh.as_ref().unwrap_or(db);
        let (table, counting) = (unhurt.table(), Faulty::counting(unhurt));
        live(&|| sink(unhurt, &table, &counting), &mut 0, &|| false);
        let whole = rows(unhurt, &table);
        assert!(append || whole == expected(EPOCHS));
        for at in counting.points() {
            for fault in Fault::ALL {
                let fresh = db.fresh();
                let db = fresh.as_ref().unwrap_or(db);
                let (table, way) = (db.table(), Faulty::with(db, [(at, fault)]));
                let mut generation = 0;
                live(&|| sink(db, &table, &way), &mut generation, &|| way.is_dead());
                if way.is_dead() {
                    live(&|| sink(db, &table, &Faulty::counting(db)), &mut generation, &|| false);
                }
                assert_eq!(rows(db, &table), whole, "{fault:?} at {at}, append: {append}");
            }
        }
    }
}

pub(super) fn a_commit_whose_answer_was_lost_is_not_done_again(db: &Db) {
    let (table, way) = (db.table(), Faulty::counting(db));
    let mut writer = open(db.append(&table).through(way.clone()), 1);
    let commits = way.commits();
    way.at_the_next_commit(Fault::After);
    writer.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    let e = writer.poll(PATIENCE).unwrap_err();
    assert!(e.retry() == Retry::Backoff && e.to_string().contains("whether the last commit happened"), "{e}");
    // what comes meanwhile is not mixed into it
    writer.write(closed(2, &[(Some(2), 2, 1)])).unwrap();
    commit(writer.as_mut(), 2).unwrap();
    assert_eq!(db.read(&table, &["k", "epoch"]), ["1 1", "2 2"]);
    assert_eq!(way.commits() - commits, 2);
}

fn every_try_tells_what_it_leaves_out_and_waits(db: &Db) {
    for fault in [Fault::Before, Fault::After] {
        let (table, way) = (db.table(), Faulty::counting(db));
        checked(db, &table, "");
        let mut writer = open(db.append(&table).through(way.clone()), 1);
        writer.write(closed(1, &[(Some(1), 1, 1), (Some(2), 5_000, 1)])).unwrap();
        let mut poll = || {
            let mut answer = writer.poll(PATIENCE)?;
            Ok::<_, Error>((answer.refused.pop(), answer.progress.map(|p| p.epoch)))
        };
        let (told, progress) = poll().unwrap();
        let told = told.unwrap();
        assert_eq!((told.lane, told.upto, told.rows.len(), progress), (0, Epoch(1), 1, None));
        assert!(matches!(poll(), Ok((None, None))), "it waits, and has told");
        way.at_the_next_commit(fault);
        told.bind();
        assert_eq!(poll().unwrap_err().retry(), Retry::Backoff);
        let (again, progress) = poll().unwrap();
        if fault == Fault::Before {
            let again = again.expect("nothing was committed: another try, which tells as well");
            assert_eq!((again.upto, again.rows.len(), progress), (Epoch(1), 1, None));
            again.bind();
            assert!(matches!(poll(), Ok((None, Some(Epoch(1))))));
        } else {
            assert!(again.is_none() && progress == Some(Epoch(1)), "it had happened");
        }
        assert_eq!(db.read(&table, &["k"]), ["1"]);
    }
}

fn a_writer_that_was_overtaken_stops_and_writes_nothing(db: &Db) {
    let table = db.table();
    let mut old = open(db.append(&table), 1);
    old.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    commit(old.as_mut(), 1).unwrap();
    old.write(closed(2, &[(Some(2), 2, 1)])).unwrap();
    let opened = open_as(db.append(&table), 2, "test").unwrap();
    let first = WriterId { ledger: 1, generation: 1 };
    assert_eq!(opened.progress, Some(Progress { writer: first, epoch: Epoch(1), part: 0 }));
    let e = commit(old.as_mut(), 2).unwrap_err();
    assert!(e.retry() == Retry::Never && e.to_string().contains("another writer has taken over"), "{e}");
    let mut new = opened.writer;
    new.write(closed(2, &[(Some(3), 3, 1)])).unwrap();
    commit(new.as_mut(), 2).unwrap();
    assert_eq!(db.read(&table, &["k"]), ["1", "3"]);
    let e = open_as(db.append(&table), 1, "test").err().unwrap();
    assert!(e.retry() == Retry::Never && e.to_string().contains("newer writer"), "{e}");
}

/// An older writer stands between its rows and its COMMIT: the newer one waits for its end, and then it can no longer commit anything.
pub(super) fn a_transaction_that_was_left_open_does_not_get_in_between(db: &Db) {
    for fault in [Fault::Killed, Fault::KilledAfter] {
        let (table, way) = (db.table(), Faulty::counting(db));
        let mut old = open(db.append(&table).through(way.clone()), 1);
        old.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
        way.at_the_next_commit(fault);
        assert!(old.poll(PATIENCE).is_err() && way.is_dead(), "it died at its COMMIT");
        drop(old);
        let mut new = open_as(db.append(&table), 2, "test").unwrap();
        assert_eq!(new.progress.is_some(), fault == Fault::KilledAfter);
        if new.progress.is_none() {
            new.writer.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
            commit(new.writer.as_mut(), 1).unwrap();
        }
        assert_eq!(db.read(&table, &["k"]), ["1"]);
    }
}

fn a_database_that_is_locked_holds_up_no_poll(db: &Db) {
    let table = db.table();
    let mut writer = open(db.append(&table), 1);
    // somebody else holds the progress row
    db.execute(db.dialect().begin());
    db.rows(&format!("SELECT target FROM orderflow_progress WHERE target = '{table}'{}", db.dialect().lock()));
    for n in 1..=3 {
        writer.write(closed(n, &[(Some(n as i64), 1, 1)])).unwrap();
    }
    let from = std::time::Instant::now();
    for _ in 0..10 {
        let answer = writer.poll(Duration::from_millis(10)).unwrap();
        assert!(answer.progress.is_none() && answer.pending_bytes > 0);
    }
    assert!(from.elapsed() < Duration::from_secs(3), "{:?}", from.elapsed());
    db.execute("ROLLBACK");
    commit(writer.as_mut(), 3).unwrap();
    assert_eq!(db.read(&table, &["k", "epoch"]), ["1 1", "2 2", "3 3"]);
}

pub(super) fn a_table_of_another_state_is_left_alone(db: &Db) {
    let table = db.table();
    let mut writer = open(db.append(&table), 1);
    writer.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    commit(writer.as_mut(), 1).unwrap();
    let strange = SinkContext { pipeline: "test".into(), ..context(2, 9, &schema()) };
    let opened = Box::new(db.append(&table)).open(strange).unwrap();
    let progress = opened.progress.unwrap();
    assert_eq!((progress.writer.ledger, progress.epoch), (1, Epoch(1)), "so the engine refuses");
    drop(opened);
    // its owner was not fenced off
    writer.write(closed(2, &[(Some(2), 2, 1)])).unwrap();
    commit(writer.as_mut(), 2).unwrap();
    // one that was opened and never written is free
    let table = db.table();
    drop(open(db.append(&table), 1));
    let strange = SinkContext { pipeline: "test".into(), ..context(2, 1, &schema()) };
    assert_eq!(Box::new(db.append(&table)).open(strange).unwrap().progress, None);
}

fn two_sinks_on_one_table_are_refused(db: &Db) {
    let table = db.table();
    let _one = open(db.append(&table), 1);
    let e = open_as(db.append(&table), 1, "test").err().unwrap();
    assert!(e.to_string().contains("already writes") && e.remedy().is_some(), "{e}");
    open_as(db.append(&table), 1, "another pipeline").unwrap();
}

fn a_progress_row_that_is_gone_stops_the_writer(db: &Db) {
    let table = db.table();
    let mut writer = open(db.append(&table), 1);
    db.execute(&format!("DELETE FROM orderflow_progress WHERE target = '{table}'"));
    writer.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    let e = commit(writer.as_mut(), 1).unwrap_err();
    assert!(e.retry() == Retry::Never && e.to_string().contains("is gone"), "{e}");
    assert!(db.read(&table, &["k"]).is_empty());
}
