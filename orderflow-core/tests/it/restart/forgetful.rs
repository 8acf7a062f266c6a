//! Sinks that hold no progress: one that forgets, and says so, and one that never gets a row.

use super::*;
use crate::heard::Heard;
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer};
use orderflow_core::testing::listening;
use orderflow_core::time::Epoch;
use std::sync::Mutex;

/// A sink without a memory of its own: it takes rows and forgets that it did.
struct Forgetful(Arc<Mutex<Vec<Epoch>>>);

struct ForgetfulWriter(Forgetful, SinkContext, Option<Progress>);

impl Sink for Forgetful {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "forgetful"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Ok(Opened { writer: Box::new(ForgetfulWriter(*self, context, None)), progress: None })
    }
}

impl Writer for ForgetfulWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.0.0.lock().unwrap().push(closed.epoch);
        self.2 = Some(Progress { writer: self.1.writer, epoch: closed.epoch, part: 0 });
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        Ok(Committed { progress: self.2, ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_never_gets_a_row_is_not_missed() {
    let nothing = ("routed", "SELECT k, v FROM numbers WHERE v > 1000", 7);
    let world = World::new();
    for rows in [20, 40, 60, 90] {
        live(&[nothing, TOTALS], &world, log().until(rows)).unwrap();
    }
    assert_eq!(world.rows()["routed"], "");
}

#[test]
fn a_sink_that_forgets_goes_on_after_what_the_ledger_saw_it_take_and_a_new_one_gets_all() {
    let state: Arc<dyn Store> = Arc::new(Memory::new());
    let clock = Clock::manual(1_000_000);
    let (old, new) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(vec![])));
    let mut last = Epoch(0);
    for (rows, sinks) in [(40, vec![&old]), (80, vec![&old]), (90, vec![&old, &new])] {
        let mut flow = Pipeline::new("forgetful");
        flow.source("numbers", log().until(rows)).unwrap();
        let view = flow.view("totals", TOTALS.1).unwrap();
        sinks.into_iter().for_each(|seen| drop(view.sink(Forgetful(seen.clone())).unwrap()));
        let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 11, bytes: u64::MAX };
        let flow = flow.dead_letters(Forgetful(Arc::default())).epochs(limits).clock(clock.clone()).state_on(state.clone(), "state");
        let mut stepper = flow.stepper().unwrap();
        while stepper.step().unwrap().is_some() {
            clock.advance(Duration::from_secs(1));
        }
        let taken = std::mem::take(&mut *old.lock().unwrap());
        assert_eq!(taken.first(), Some(&last.next()), "not what it took before");
        if rows == 90 {
            let all = new.lock().unwrap();
            assert_eq!((all.first(), all.last()), (Some(&last), taken.last()), "all that was before, as one epoch, and what came then");
        }
        last = *taken.last().unwrap();
    }
}

#[test]
fn a_sink_that_may_show_a_row_again_says_so_where_a_pipeline_with_state_starts() {
    let said = |kept: bool| {
        let heard = Heard::default();
        let mut flow = Pipeline::new("says");
        flow.source("numbers", log().until(5)).unwrap();
        flow.view("totals", TOTALS.1).unwrap().sink(Forgetful(Arc::default())).unwrap();
        let dead = DataSet::on(Arc::new(Memory::new()), "dead letters", JsonLines);
        let flow = flow.dead_letters(dead).clock(Clock::manual(0));
        let flow = if kept { flow.state_on(Arc::new(Memory::new()), "state") } else { flow };
        drop(listening(heard.clone(), || flow.stepper()).unwrap());
        heard.lines("at least once")
    };
    let with_state = said(true);
    assert!(with_state.len() == 1 && with_state[0].contains("sink=forgetful of totals"), "{with_state:?}");
    assert_eq!(said(false), [""; 0], "without state everything is forgotten anyway");
}
