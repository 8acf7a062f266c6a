//! A run is a list of actions that can be taken again: what a simulation of the real engine writes down is checked by this door.

use orderflow_model::{Action, Answer, Broken, Fault, Law, Params, Protocol, Violation};

const W: usize = 0;
const SINK: usize = 0;

fn opening(generation_heard: Answer) -> Vec<Action> {
    let mut run = vec![Action::Start { w: W }, Action::Look { w: W }, Action::Append { w: W, answer: generation_heard }];
    if generation_heard != Answer::Heard {
        run.push(Action::Append { w: W, answer: Answer::Heard });
    }
    run.push(Action::Confirm { w: W });
    run.extend([Action::Fence { w: W, sink: SINK }, Action::Read { w: W, sink: SINK }, Action::Hydrate { w: W }]);
    run
}

fn epoch(records: u16) -> [Action; 5] {
    let append = Action::Append { w: W, answer: Answer::Heard };
    [
        Action::Bind { w: W, records },
        append,
        Action::Commit { w: W, sink: SINK },
        Action::Land { sink: SINK, at: 0 },
        Action::Hear { w: W, sink: SINK },
    ]
}

fn one_sink() -> Params {
    Params { parts: false, two_steps: false, ..Params::sink() }
}

#[test]
fn a_run_from_end_to_end() {
    let world = Protocol::new(one_sink());
    let mut run = opening(Answer::Lost);
    run.extend(epoch(1));
    run.extend([Action::StoreRoots { w: W }, Action::Complete { w: W }, Action::Append { w: W, answer: Answer::Heard }]);
    run.push(Action::Crash { w: W });
    run.extend(opening(Answer::Heard));
    run.extend(epoch(2));
    let state = world.replay(&run).unwrap();
    assert!(world.done(&state));
    assert_eq!((state.places[SINK].next, state.cellar.generation(), state.cellar.tail()), (3, 2, 2));
}

#[test]
fn a_step_that_the_protocol_does_not_allow_is_named() {
    let world = Protocol::new(one_sink());
    let mut run = opening(Answer::Heard);
    let commit = Action::Commit { w: W, sink: SINK };
    run.extend([Action::Bind { w: W, records: 1 }, commit]);
    // output before its binding is in the ledger
    assert_eq!(world.replay(&run), Err(Violation { step: run.len() - 1, what: Broken::Step(commit) }));
}

#[test]
fn a_law_that_breaks_is_named_with_its_step() {
    let world = Protocol::new(one_sink().with(Fault::BlindRetry));
    let mut run = opening(Answer::Heard);
    run.extend(&epoch(1)[..3]);
    run.extend([Action::GiveUp { w: W, sink: SINK }, Action::Commit { w: W, sink: SINK }, Action::Land { sink: SINK, at: 0 }]);
    run.push(Action::Land { sink: SINK, at: 0 });
    let violation = world.replay(&run).unwrap_err();
    assert_eq!(violation, Violation { step: run.len() - 1, what: Broken::Law(Law::Twice) });
    assert!(violation.to_string().contains("Twice is broken"), "{violation}");
}
