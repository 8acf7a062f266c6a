//! A run is a list of actions that can be taken again: what a simulation of the real engine writes down is checked by this door.

use orderflow_model::{Action, Answer, Broken, Claim, Fault, Law, Params, Protocol, Step, Violation};

const W: usize = 0;
const SINK: usize = 0;

const HEARD: Answer = Answer::Heard;

fn opening(w: usize, sinks: usize, generation_heard: Answer) -> Vec<Action> {
    let mut run = vec![Action::Start { w }, Action::Look { w }, Action::Append { w, answer: generation_heard }];
    if generation_heard != HEARD {
        run.push(Action::Append { w, answer: HEARD });
    }
    run.push(Action::Confirm { w });
    run.extend((0..sinks).flat_map(|sink| [Action::Fence { w, sink }, Action::Read { w, sink }]));
    run.push(Action::Hydrate { w });
    run
}

fn binds(w: usize, records: u16) -> [Action; 2] {
    [Action::Bind { w, records }, Action::Append { w, answer: HEARD }]
}

fn commits(w: usize, sink: usize) -> [Action; 3] {
    [Action::Commit { w, sink }, Action::Land { sink, at: 0 }, Action::Hear { w, sink }]
}

fn epoch(records: u16) -> Vec<Action> {
    [&binds(W, records)[..], &commits(W, SINK)].concat()
}

fn one_sink() -> Params {
    Params { parts: false, two_steps: false, ..Params::sink() }
}

#[test]
fn a_run_from_end_to_end() {
    let world = Protocol::new(one_sink());
    let mut run = opening(W, 1, Answer::Lost);
    run.extend(epoch(1));
    run.extend([Action::StoreRoots { w: W }, Action::Complete { w: W }, Action::Append { w: W, answer: HEARD }]);
    run.push(Action::Crash { w: W });
    run.extend(opening(W, 1, HEARD));
    run.extend(epoch(2));
    let state = world.replay(&run).unwrap();
    assert!(world.done(&state));
    assert_eq!((state.places[SINK].next, state.cellar.generation(), state.cellar.tail()), (3, 2, 2));
}

#[test]
fn a_step_that_the_protocol_does_not_allow_is_named() {
    let world = Protocol::new(one_sink());
    let mut run = opening(W, 1, HEARD);
    let commit = Action::Commit { w: W, sink: SINK };
    run.extend([Action::Bind { w: W, records: 1 }, commit]);
    // output before its binding is in the ledger
    assert_eq!(world.replay(&run), Err(Violation { step: run.len() - 1, what: Broken::Step(commit) }));
}

#[test]
fn a_law_that_breaks_is_named_with_its_step() {
    let world = Protocol::new(one_sink().with(Fault::BlindRetry));
    let mut run = opening(W, 1, HEARD);
    run.extend(&epoch(1)[..3]);
    run.extend([Action::GiveUp { w: W, sink: SINK }, Action::Commit { w: W, sink: SINK }, Action::Land { sink: SINK, at: 0 }]);
    run.push(Action::Land { sink: SINK, at: 0 });
    let violation = world.replay(&run).unwrap_err();
    assert_eq!(violation, Violation { step: run.len() - 1, what: Broken::Law(Law::Twice) });
    assert!(violation.to_string().contains("Twice is broken"), "{violation}");
}

/// Actions as steps of a trace.
fn acts(actions: impl IntoIterator<Item = Action>) -> impl Iterator<Item = Step> {
    actions.into_iter().map(Step::Act)
}

/// Two epochs are bound, and the first of two sinks holds both of them.
fn one_of_two_is_ahead() -> Vec<Step> {
    let mut run: Vec<Step> = acts(opening(W, 2, HEARD)).collect();
    for epoch in 1..=2 {
        run.extend(acts(binds(W, 1)).chain(acts(commits(W, 0))));
        run.push(Step::Claim(Claim::Holds { sink: 0, epoch }));
    }
    run
}

fn two_sinks() -> Protocol {
    Protocol::new(Params { sinks: 2, ..one_sink() })
}

#[test]
fn of_two_sinks_each_goes_on_from_where_it_was() {
    let mut run = one_of_two_is_ahead();
    run.extend(acts([Action::Crash { w: W }]).chain(acts(opening(W, 2, HEARD))));
    run.push(Step::Claim(Claim::Restored { w: W, epoch: 0 }));
    for epoch in 1..=2 {
        run.extend(acts(commits(W, 1)));
        run.push(Step::Claim(Claim::Holds { sink: 1, epoch }));
    }
    run.extend(acts([Action::StoreRoots { w: W }, Action::Complete { w: W }, Action::Append { w: W, answer: HEARD }]));
    run.push(Step::Claim(Claim::Works { w: W }));
    assert_eq!(two_sinks().replay_trace(run).unwrap().places[1].next, 2);
}

#[test]
fn a_checkpoint_that_counts_before_the_slower_sink_has_its_epoch_is_named() {
    let mut run = one_of_two_is_ahead();
    let complete = Action::Complete { w: W };
    run.extend(acts([Action::StoreRoots { w: W }, complete]));
    let violation = Violation { step: run.len() - 1, what: Broken::Step(complete) };
    assert_eq!(two_sinks().replay_trace(run), Err(violation));
}

#[test]
fn only_a_checkpoint_that_nobody_needs_may_be_deleted() {
    let mut run: Vec<Step> = acts(opening(W, 2, HEARD)).collect();
    for _ in 0..3 {
        run.extend(acts(binds(W, 1)).chain(acts(commits(W, 0))).chain(acts(commits(W, 1))));
        run.extend(acts([Action::StoreRoots { w: W }, Action::Complete { w: W }, Action::Append { w: W, answer: HEARD }]));
    }
    let world = Protocol::new(Params { sinks: 2, records: 3, checkpoints: 3, ..one_sink() });
    let stored = |epochs: &[u16]| {
        let deleted = epochs.iter().map(|epoch| Step::Deleted { w: W, epoch: *epoch, generation: 1 });
        let ended = world.replay_trace(run.iter().copied().chain(deleted));
        ended.map(|state| state.cellar.roots.iter().map(|r| r.epoch).collect::<Vec<_>>()).map_err(|violation| violation.what)
    };
    assert_eq!(stored(&[]), Ok(vec![1, 2, 3]));
    assert_eq!(stored(&[1]), Ok(vec![2, 3]));
    assert_eq!(stored(&[1, 1]), Ok(vec![2, 3]), "it is not there any more");
    assert_eq!(stored(&[2]), Err(Broken::Needed { epoch: 2, generation: 1 }));
    assert_eq!(stored(&[3]), Err(Broken::Needed { epoch: 3, generation: 1 }));
}

/// The older process has bound an epoch and not committed it when a newer one takes over.
fn taken_over() -> Vec<Step> {
    let mut run: Vec<Step> = acts(opening(0, 1, HEARD)).chain(acts(binds(0, 1))).collect();
    run.extend(acts(opening(1, 1, HEARD)));
    run.extend([Claim::Restored { w: 1, epoch: 0 }, Claim::Works { w: 0 }].map(Step::Claim));
    run
}

#[test]
fn a_late_act_of_the_older_process_is_refused_and_the_newer_goes_on() {
    let late_acts = [binds(0, 1).to_vec(), vec![Action::Commit { w: 0, sink: SINK }]];
    for late in late_acts {
        let mut run = taken_over();
        run.extend(acts(late));
        run.push(Step::Claim(Claim::Stopped { w: 0 }));
        run.extend(acts(commits(1, SINK)));
        run.extend([Claim::Holds { sink: SINK, epoch: 1 }, Claim::Works { w: 1 }].map(Step::Claim));
        assert_eq!(Protocol::new(Params::takeover()).replay_trace(run).map(|state| state.places[SINK].next), Ok(1));
    }
}

#[test]
fn a_late_act_of_the_older_process_that_is_said_to_count_is_named() {
    let world = Protocol::new(Params::takeover());
    let works = Claim::Works { w: 0 };
    let appended = taken_over().into_iter().chain(acts(binds(0, 1))).chain([Step::Claim(works)]);
    let refused = world.replay_trace(appended).map_err(|violation| violation.what);
    assert_eq!(refused, Err(Broken::Claim(works)));

    let committed = taken_over().into_iter().chain(acts(commits(0, SINK)));
    let refused = world.replay_trace(committed).map_err(|violation| violation.what);
    assert_eq!(refused, Err(Broken::Step(Action::Land { sink: SINK, at: 0 })));
}
