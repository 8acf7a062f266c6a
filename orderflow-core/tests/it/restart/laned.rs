//! A sink whose lanes commit by themselves: a start notices a lane that went back and names it, also one that was ahead of the others.

use super::*;
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId};
use orderflow_core::time::Epoch;
use std::sync::Mutex;

/// So many epochs lane 1 stays behind lane 0 until it is flushed.
const BEHIND: usize = 5;

/// Two lanes that remember how far they are.
#[derive(Clone, Default)]
struct Laned(Arc<Mutex<([Epoch; 2], Option<WriterId>)>>);

struct LanedWriter {
    sink: Laned,
    me: WriterId,
    taken: Vec<Epoch>,
    flush: bool,
}

impl Laned {
    fn lanes(&self) -> [Epoch; 2] {
        self.0.lock().unwrap().0
    }

    fn set(&self, lanes: [Epoch; 2]) {
        self.0.lock().unwrap().0 = lanes;
    }

    /// What all lanes hold.
    fn progress(&self) -> Option<Progress> {
        let ([a, b], writer) = *self.0.lock().unwrap();
        writer.map(|writer| Progress { writer, epoch: a.min(b), part: 0 }).filter(|p| p.epoch > Epoch(0))
    }
}

impl Sink for Laned {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "laned"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let progress = self.progress();
        Ok(Opened { writer: Box::new(LanedWriter { sink: *self, me: context.writer, taken: vec![], flush: false }), progress })
    }
}

impl Writer for LanedWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        self.taken.push(closed.epoch);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flush = true;
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        let behind = if std::mem::take(&mut self.flush) { 0 } else { BEHIND };
        let upto = |behind: usize| self.taken.iter().rev().nth(behind).copied().unwrap_or_default();
        let [a, b] = self.sink.lanes();
        let lanes = [a.max(upto(0)), b.max(upto(behind))];
        if lanes != [a, b] {
            *self.sink.0.lock().unwrap() = (lanes, Some(self.me));
        }
        Ok(Committed { progress: self.sink.progress(), ..Committed::default() })
    }

    fn lanes(&self) -> Vec<Epoch> {
        self.sink.lanes().to_vec()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_lane_that_went_back_is_noticed_and_named() {
    let (laned, state, clock) = (Laned::default(), Arc::new(Memory::new()) as Arc<dyn Store>, Clock::manual(1_000_000));
    let start = || {
        let mut flow = Pipeline::new("laned");
        flow.source("numbers", log())?;
        flow.view("totals", TOTALS.1)?.sink(laned.clone())?;
        let dead = DataSet::on(Arc::new(Memory::new()), "dead letters", JsonLines);
        let limits = Limits { interval: Duration::from_secs(1 << 30), rows: 11, bytes: u64::MAX };
        let flow = flow.dead_letters(dead).epochs(limits).clock(clock.clone()).state_on(state.clone(), "state");
        flow.checkpoint_every(AT_THE_END).stepper()
    };
    // as time passes the ledger is told what sinks hold; then the process dies
    let mut stepper = start().unwrap();
    while stepper.status().committed < Epoch(6) {
        clock.advance(Duration::from_secs(11));
        stepper.step().unwrap().expect("it does not end before");
    }
    drop(stepper);
    let held = laned.lanes();
    assert!(held[0].0 >= held[1].0 + BEHIND as u64, "{held:?}");

    // what the sink holds as a whole is the same, and lane 0 would get rows again
    for (lanes, lost) in [([held[1]; 2], 0), ([held[0], Epoch(1)], 1)] {
        laned.set(lanes);
        let e = start().err().unwrap();
        assert!(e.kind() == Kind::User && e.to_string().starts_with(&format!("lane {lost} of laned of totals has lost a part")), "{e}");
    }
    laned.set(held);
    let mut stepper = start().unwrap();
    while let Some(busy) = stepper.step().unwrap() {
        clock.advance(Duration::from_secs(u64::from(!busy)));
    }
    let all = laned.lanes();
    assert!(all[0] == all[1] && all[0] > held[0], "{all:?}");
}
