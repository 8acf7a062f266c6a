//! State and sinks that do not belong together: whoever opens them is refused, deletes nothing and writes to no sink.

use orderflow_model::state::Phase;
use orderflow_model::{Action, Answer, Event, Params, Past, Protocol};

#[test]
fn whoever_opens_what_does_not_belong_together_is_refused() {
    for (past, floor) in [(Past::Swapped, 20), (Past::RolledBack, 5_000), (Past::RolledFarBack, 5_000), (Past::Wiped, 5_000)] {
        let world = Protocol::new(Params::lost(past));
        let report = world.explore(2);
        println!("{past:?}: {} states", report.states);
        assert!(report.counterexample.is_none(), "{past:?}: {}", report.counterexample.expect("it is there"));
        assert!(report.states > floor, "{past:?} has only {} states", report.states);
        assert!(world.coverage().events().any(|e| e == Event::Refused));
    }
}

#[test]
fn a_sink_of_another_ledger_is_not_even_fenced() {
    let world = Protocol::new(Params::lost(Past::Swapped));
    let state = world.replay(&[Action::Start { w: 0 }, Action::Look { w: 0 }]).unwrap();
    assert_eq!(state.writers[0].phase, Phase::Refused);
    assert_eq!((state.cellar, state.places), (world.initial().cellar, world.initial().places));
}

#[test]
fn state_that_was_rolled_back_is_refused_when_the_sink_is_read() {
    let world = Protocol::new(Params::lost(Past::RolledBack));
    let w = 0;
    let append = Action::Append { w, answer: Answer::Heard };
    let mut run = vec![Action::Start { w }, Action::Look { w }, append, Action::Confirm { w }];
    run.extend([Action::Fence { w, sink: 0 }, Action::Read { w, sink: 0 }, Action::Fence { w, sink: 1 }, Action::Read { w, sink: 1 }]);
    let state = world.replay(&run).unwrap();
    assert_eq!(state.writers[w].phase, Phase::Refused);
}
