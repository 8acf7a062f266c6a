//! Bugs planted into the sink, one at a time: each is found by a scene that ends otherwise then, or by whole pipelines that are killed by schedules.
//!
//! Invariant: the scenes are tests of their own, which sound code passes.

use super::super::connection::{Answer, Server};
use super::faults::{
    a_commit_whose_answer_was_lost_is_not_done_again, a_table_of_another_state_is_left_alone,
    a_transaction_that_was_left_open_does_not_get_in_between,
};
use super::pipeline::{Seen, orders, pipeline};
use super::rows::conforms;
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::testing::{Schedules, find_failure};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

everywhere!(what_is_committed_while_another_opens_is_known_to_it);

type Scene = (Bug, fn(&Db));

/// Which scene finds which bug.
const SCENES: [Scene; 6] = [
    (Bug::ProgressOutsideTransaction, a_transaction_that_was_left_open_does_not_get_in_between),
    (Bug::ReadBeforeFence, what_is_committed_while_another_opens_is_known_to_it),
    (Bug::LedgerIdIgnored, a_table_of_another_state_is_left_alone),
    (Bug::BlindRetry, a_commit_whose_answer_was_lost_is_not_done_again),
    (Bug::BlindRetry, conforms),
    (Bug::ProgressOutsideTransaction, conforms),
];

#[test]
fn every_planted_bug_is_found_by_its_scene() {
    let goes_unnoticed = |(bug, scene): Scene| {
        let ended_well = catch_unwind(AssertUnwindSafe(|| bug::with(bug, || scene(&Db::sqlite())))).is_ok();
        ended_well.then_some(bug)
    };
    assert_eq!(SCENES.into_iter().filter_map(goes_unnoticed).collect::<Vec<_>>(), []);
}

#[test]
fn schedules_find_rows_without_their_progress() {
    let (db, orders, schedules) = (Db::sqlite(), orders(), Schedules::random(200).whole_log());
    let hunt = || find_failure(schedules, |world| pipeline(&db, &orders, &Seen::default(), world));
    match bug::with(Bug::ProgressOutsideTransaction, hunt) {
        Err(failure) => println!("seed {}, {}", failure.seed, failure.found),
        Ok(report) => panic!("it goes unnoticed: {report}"),
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// A way to a database on which something else happens, once, just before a transaction begins.
struct Meanwhile {
    place: Place,
    act: Arc<Mutex<Option<Act>>>,
}

struct Watched {
    inner: Box<dyn Connection>,
    begin: &'static str,
    act: Arc<Mutex<Option<Act>>>,
}

impl Connect for Meanwhile {
    fn connect(&self) -> Answer<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let inner = self.place.connect().await?;
            Ok(Box::new(Watched { inner, begin: self.place.dialect.begin(), act: self.act.clone() }) as Box<dyn Connection>)
        })
    }
}

impl Connection for Watched {
    fn server(&self) -> Server {
        self.inner.server()
    }

    fn execute<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, ()> {
        Box::pin(async move {
            let act = if sql == self.begin { self.act.lock().unwrap().take() } else { None };
            if let Some(act) = act {
                // a sink is not driven on a thread of a runtime, and this is one
                std::thread::spawn(act).join().unwrap();
            }
            self.inner.execute(sql, values).await
        })
    }

    fn rows<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, Vec<Vec<Option<String>>>> {
        self.inner.rows(sql, values)
    }

    fn close(self: Box<Self>) -> Answer<'static, ()> {
        self.inner.close()
    }
}

/// The older of two writers commits when the newer one has looked what the table holds and has not won it yet.
fn what_is_committed_while_another_opens_is_known_to_it(db: &Db) {
    let table = db.table();
    let mut old = open(db.append(&table), 1);
    old.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    commit(old.as_mut(), 1).unwrap();
    old.write(closed(2, &[(Some(2), 2, 1)])).unwrap();
    let act: Act = Box::new(move || drop(commit(old.as_mut(), 2).unwrap()));
    let way = Arc::new(Meanwhile { place: db.place.clone(), act: Arc::new(Mutex::new(Some(act))) });
    let opened = open_as(db.append(&table).through(way), 2, "test").unwrap();
    // as the engine does, which gives it what comes after
    let (mut new, after) = (opened.writer, opened.progress.map_or(0, |p| p.epoch.0));
    for n in after + 1..=3 {
        new.write(closed(n, &[(Some(n as i64), n as i64, 1)])).unwrap();
    }
    commit(new.as_mut(), 3).unwrap();
    assert_eq!(db.read(&table, &["k", "epoch"]), ["1 1", "2 2", "3 3"]);
}
