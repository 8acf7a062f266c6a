//! What simulated runs of the real engine did, as runs of the model: every step must be one that the protocol allows, and no law may break.
//!
//! Two sinks are followed, a data set of files and a simulated table, one of which commits much more rarely than the other; and one process after the other, or
//! two at once on one shared store, of which the older is paused and wakes up late. A checkpoint that the engine deletes must be one that nobody needs; entries of the
//! ledger that it deletes have no action here, since merged bindings are still there.

mod story;

use super::anywhere::build;
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::testing::{Act, Failure, Report, Schedules, Traced, trace, trace_acts, trace_takeover};
use orderflow_model::{Action, Broken, Claim, Params, Protocol, Violation};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use story::Story;

/// Both take rows of every epoch. The first is a data set by its place, the second a table.
const SINKS: [&str; 2] = ["all", "totals"];
const ALL: &str = "SELECT k, v FROM numbers WHERE v >= 0";
const SLOW_FILES: &[View] = &[("all", ALL, 60), TOTALS, KINDS];
const SLOW_TABLE: &[View] = &[("all", ALL, 7), ("totals", TOTALS.1, 60), KINDS];

fn world() -> Protocol {
    let (records, epoch_records) = (PARTITIONS as u16 * ROWS as u16, 60);
    let plenty = 10_000;
    let (crashes, timeouts, checkpoints) = (plenty, plenty, plenty);
    let params = Params {
        writers: 2,
        sinks: SINKS.len(),
        records,
        epoch_records,
        parts: false,
        two_steps: false,
        crashes,
        timeouts,
        checkpoints,
        damages: 0,
        ..Params::sink()
    };
    Protocol::new(params)
}

/// Each of the two sinks is the slower one with every second seed.
fn pipeline_of(seed: u64, world: &testing::World) -> Result<Pipeline> {
    build(if seed.is_multiple_of(2) { SLOW_FILES } else { SLOW_TABLE }, &log().until(40), world)
}

type Acts = Vec<(usize, Act)>;

fn acts(traced: Result<Traced, Box<Failure>>) -> Acts {
    let Traced { acts, failure } = traced.unwrap();
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    acts
}

fn one_engine(seed: u64) -> Acts {
    acts(trace(seed, |world| pipeline_of(seed, world)))
}

fn two_engines(seed: u64) -> Acts {
    acts(trace_takeover(seed, move |world| pipeline_of(seed, world)))
}

/// The story of these acts, which the protocol allows.
fn allowed(acts: &[(usize, Act)]) -> Story {
    let story = Story::of(acts);
    if let Err(violation) = story.check() {
        let from = violation.step.saturating_sub(20);
        panic!("{violation}\nafter {:#?}\nof {acts:?}", &story.run[from..=violation.step]);
    }
    story
}

/// How many complete checkpoints were deleted.
fn deleted(acts: &[(usize, Act)]) -> usize {
    let was_complete = |epoch| acts.iter().any(|(_, act)| *act == Act::Completed(epoch));
    let gone = acts.iter().filter_map(|(_, act)| if let Act::Deleted(epoch, _) = act { Some(*epoch) } else { None });
    gone.filter(|epoch| was_complete(*epoch)).collect::<BTreeSet<_>>().len()
}

/// How the first sink stood to the second, each time a process began.
fn stood(acts: &[(usize, Act)]) -> impl Iterator<Item = Ordering> {
    let mut held = [0; SINKS.len()];
    acts.iter().filter_map(move |(_, act)| match act {
        Act::Committed(name, at) => {
            let sink = SINKS.iter().position(|sink| sink == name);
            sink.into_iter().for_each(|sink| held[sink] = at.0);
            None
        }
        Act::Began => Some(held[0].cmp(&held[1])),
        _ => None,
    })
}

/// Where the older process is refused for good, and what it wanted to do.
fn refused(acts: &[(usize, Act)]) -> Option<(usize, &Act)> {
    let counts = |(w, act): &(usize, Act)| *w == 0 && !matches!(act, Act::Refused(_) | Act::Deleted(..) | Act::Gone);
    let last = acts.iter().rposition(counts)?;
    acts.iter().enumerate().skip(last).find_map(|(n, (_, act))| match act {
        Act::Refused(wanted) => Some((n, wanted.as_ref())),
        _ => None,
    })
}

/// Where an act lies.
fn place(act: &Act) -> &str {
    match act {
        Act::Committed(name, _) | Act::Read(name) => name,
        _ => "ledger",
    }
}

#[test]
fn what_the_engine_did_is_what_the_protocol_allows() {
    // each kind of act with every fault: random schedules seldom come to some
    let mut tried = BTreeSet::new();
    for traced in trace_acts(|_| true, |world| pipeline_of(1, world)).unwrap() {
        tried.extend(allowed(&acts(Ok(traced))).actions().map(|a| Action::KINDS[a.kind()]));
    }
    assert!(tried.contains("Append, answer lost"), "no answer of the ledger was lost: {tried:?}");
    let (mut kinds, mut apart, mut deaths, mut gone) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    let report = Schedules::random(tier::of(200, 200, 1_000)).for_as_long_as(tier::hours()).each(|seed| {
        let acts = one_engine(seed);
        let story = allowed(&acts);
        gone += deleted(&acts);
        // the last life ends by itself
        deaths += story.actions().filter(|a| matches!(a, Action::Crash { .. })).count().saturating_sub(1) as u64;
        kinds.extend(story.actions().map(|a| Action::KINDS[a.kind()]));
        apart.extend(stood(&acts));
    });
    println!("model: {gone} checkpoints deleted; {}", Report { deaths, ..report });
    assert!(gone as u64 > report.schedules / 3, "checkpoints are deleted that nobody needs any more");
    for kind in ["Append, answer lost", "Hydrate", "StoreRoots", "Complete", "GiveUp", "Crash"] {
        assert!(kinds.contains(kind), "no run has '{kind}': {kinds:?}");
    }
    for order in [Ordering::Less, Ordering::Greater] {
        assert!(apart.contains(&order), "of two sinks each is ahead at some start, and not only these: {apart:?}");
    }
}

#[test]
fn what_two_engines_did_is_what_the_protocol_allows() {
    let mut late: BTreeMap<String, u64> = BTreeMap::new();
    let (mut retired, mut gone) = (0, 0);
    let report = Schedules::random(tier::of(80, 200, 1_000)).for_as_long_as(tier::hours()).each(|seed| {
        let acts = two_engines(seed);
        allowed(&acts);
        gone += deleted(&acts);
        if let Some((n, wanted)) = refused(&acts) {
            *late.entry(place(wanted).to_owned()).or_default() += 1;
            let checkpoints = acts[..n].iter().filter(|(w, act)| *w == 1 && matches!(act, Act::Completed(_))).count();
            retired += u64::from(checkpoints > 1);
        }
    });
    println!(
        "model, two processes: late acts that were refused, by place: {late:?}, {retired} of them after two retirements; {gone} checkpoints deleted; {report}"
    );
    for place in ["ledger"].iter().chain(&SINKS) {
        assert!(late.contains_key(*place), "no late act on '{place}' was refused: {late:?}");
    }
    assert!(gone > 0, "checkpoints are deleted that nobody needs any more");
    assert!(retired > 0, "the older process always woke up before two checkpoints of the newer one");
}

#[test]
fn a_run_of_an_engine_that_lets_unbound_epochs_leave_is_no_run_of_the_protocol() {
    let refused = (1..200).find_map(|seed| {
        let Traced { acts, .. } = bug::with(Bug::LeavesUnbound, || trace(seed, |world| pipeline_of(seed, world)).unwrap());
        Story::of(&acts).check().err()
    });
    assert!(matches!(refused, Some(Violation { what: Broken::Step(Action::Commit { .. }), .. })), "{refused:?}");
}

#[test]
fn a_run_of_an_engine_that_deletes_a_checkpoint_too_early_is_no_run_of_the_protocol() {
    let refused = (1..200).find_map(|seed| {
        let Traced { acts, .. } = bug::with(Bug::SweepsTooEarly, || trace(seed, |world| pipeline_of(seed, world)).unwrap());
        Story::of(&acts).check().err()
    });
    assert!(matches!(refused, Some(Violation { what: Broken::Needed { .. }, .. })), "{refused:?}");
}

/// A run up to where one sink holds the newest epoch and the other does not, and that epoch.
fn one_is_ahead(acts: &[(usize, Act)]) -> Option<(&[(usize, Act)], orderflow_core::time::Epoch)> {
    (1..=acts.len()).find_map(|n| {
        let told = &acts[..n];
        let (_, Act::Committed(name, at)) = told.last()? else { return None };
        let newest = told.iter().filter_map(|(_, act)| if let Act::Bound(bound, _) = act { Some(*bound) } else { None }).max()?;
        let behind = || Story::of(told).held.iter().any(|held| *held < at.0);
        (SINKS.contains(&name.as_str()) && *at == newest && behind()).then_some((told, *at))
    })
}

#[test]
fn a_checkpoint_before_the_slower_of_two_sinks_has_its_epoch_is_no_act_of_the_protocol() {
    for parity in 0..2 {
        let planted = (1..50).map(|n| 2 * n + parity).find_map(|seed| {
            let acts = one_engine(seed);
            let (told, epoch) = one_is_ahead(&acts)?;
            allowed(told);
            Some([told, &[(0, Act::Completed(epoch))]].concat())
        });
        let found = Story::of(&planted.expect("one of two sinks is ahead")).check().map_err(|violation| violation.what);
        assert_eq!(found, Err(Broken::Step(Action::Complete { w: 0 })));
    }
}

#[test]
fn a_late_act_of_the_older_process_that_counts_is_no_act_of_the_protocol() {
    for wanted_at in ["ledger"].iter().chain(&SINKS) {
        let planted = (1..200).find_map(|seed| {
            let acts = two_engines(seed);
            let (n, wanted) = refused(&acts)?;
            let counts = matches!(wanted, Act::Bound(..) | Act::Committed(..)) && place(wanted) == *wanted_at;
            counts.then(|| {
                allowed(&acts[..n]);
                [&acts[..n], &[(0, wanted.clone())]].concat()
            })
        });
        let found = Story::of(&planted.expect("a late act is refused there")).check().map_err(|violation| violation.what);
        let expected = match SINKS.iter().position(|sink| sink == wanted_at) {
            None => Broken::Claim(Claim::Works { w: 0 }),
            Some(sink) => Broken::Step(Action::Land { sink, at: 0 }),
        };
        assert_eq!(found, Err(expected), "{wanted_at}");
    }
}
