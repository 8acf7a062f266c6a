//! What simulated runs of the real engine did, as runs of the model: every step must be one that the protocol allows, and no law may break.
//!
//! One sink act of several epochs is as many commits of the model; a sink that is asked again for its progress is one whose answer was given up. What the
//! engine deletes has no action here, since merged bindings are still there.

use super::anywhere::build;
use super::*;
use orderflow_core::bug::{self, Bug};
use orderflow_core::testing::{Act, Report, Schedules, Traced, trace};
use orderflow_model::{Action, Answer, Broken, Params, Protocol, Violation};
use std::collections::BTreeSet;

const W: usize = 0;
/// Both take rows of every epoch; the first is a table by its place.
const VIEWS: &[View] = &[ROUTED, TOTALS, KINDS];
/// What the model knows of: simulated sinks alone say what they do.
const SINKS: [&str; 1] = ["totals"];

fn world() -> Protocol {
    let (records, epoch_records) = (PARTITIONS as u16 * ROWS as u16, 60);
    let plenty = 10_000;
    let (crashes, timeouts, checkpoints) = (plenty, plenty, plenty);
    let params = Params {
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

/// Acts become actions.
#[derive(Default)]
struct Story {
    run: Vec<Action>,
    /// A process is alive, and has begun to work.
    alive: bool,
    works: bool,
    /// Whether roots were stored that no checkpoint names yet.
    stored: Option<u64>,
    held: [u64; SINKS.len()],
    /// A sink's answer was given up; it was asked what it holds, and nothing was sent since.
    gave_up: [bool; SINKS.len()],
    asked: [bool; SINKS.len()],
    /// Where the model must have gone on from, by the length of the run.
    restored: Vec<(usize, u64)>,
}

impl Story {
    fn of(acts: &[Act]) -> Self {
        let mut story = Story::default();
        let sink = |name: &String| SINKS.iter().position(|s| s == name);
        for (n, act) in acts.iter().enumerate() {
            let rest = &acts[n + 1..];
            let life = &rest[..rest.iter().position(|a| *a == Act::Gone).unwrap_or(rest.len())];
            match act {
                Act::Began => {
                    story.run.extend([Action::Start { w: W }, Action::Look { w: W }]);
                    (story.alive, story.works, story.stored) = (true, false, None);
                    (story.gave_up, story.asked) = Default::default();
                }
                Act::Opened(_) => {
                    story.append(life);
                    story.run.push(Action::Confirm { w: W });
                }
                Act::Fenced(name) => story.run.extend(sink(name).map(|sink| Action::Fence { w: W, sink })),
                Act::Read(name) => {
                    let Some(sink) = sink(name) else { continue };
                    if story.works {
                        // asked again, because that answer was lost as well
                        if std::mem::replace(&mut story.asked[sink], true) {
                            continue;
                        }
                        // what was sent did not arrive
                        if !std::mem::take(&mut story.gave_up[sink]) {
                            story.run.extend([Action::Commit { w: W, sink }, Action::GiveUp { w: W, sink }]);
                        }
                        story.run.push(Action::Fence { w: W, sink });
                    }
                    story.run.push(Action::Read { w: W, sink });
                }
                Act::Restored(epoch) => {
                    story.run.push(Action::Hydrate { w: W });
                    story.works = true;
                    story.restored.push((story.run.len(), epoch.0));
                }
                Act::Bound(epoch, rows) => {
                    story.run.push(Action::Bind { w: W, records: *rows as u16 });
                    story.append(life);
                    // if others are under way its turn comes at the end
                    if story.stored.is_none() && life.contains(&Act::Completed(*epoch)) {
                        story.store_roots(epoch.0);
                    }
                }
                Act::Completed(epoch) => {
                    story.store_roots(epoch.0);
                    story.run.push(Action::Complete { w: W });
                    story.append(life);
                    story.stored = None;
                }
                Act::Committed(name, epoch) => {
                    let Some(sink) = sink(name) else { continue };
                    let asked = life.iter().position(|a| matches!(a, Act::Read(n) | Act::Committed(n, _) if n == name));
                    let next = asked.map(|at| &life[at]);
                    // a checkpoint that counts before the sink is asked shows that the answer was heard: the one that was lost came after it
                    let heard = || life[..asked.unwrap_or(0)].iter().any(|a| matches!(a, Act::Completed(at) if at >= epoch));
                    story.gave_up[sink] = matches!(next, Some(Act::Read(_))) && !heard();
                    story.asked[sink] = false;
                    while story.held[sink] < epoch.0 {
                        story.held[sink] += 1;
                        story.run.extend([Action::Commit { w: W, sink }, Action::Land { sink, at: 0 }]);
                        story.run.push(match next {
                            _ if story.gave_up[sink] && story.held[sink] == epoch.0 => Action::GiveUp { w: W, sink },
                            _ => Action::Hear { w: W, sink },
                        });
                    }
                }
                Act::PutAgain => {}
                Act::Gone if story.alive => {
                    story.run.push(Action::Crash { w: W });
                    story.alive = false;
                }
                Act::Gone => {}
            }
        }
        story
    }

    /// An entry of the ledger is there; if it is put again, the first answer was lost.
    fn append(&mut self, rest: &[Act]) {
        let again = rest.iter().find(|a| matches!(a, Act::PutAgain | Act::Opened(_) | Act::Bound(..) | Act::Completed(_)));
        if again == Some(&Act::PutAgain) {
            self.run.push(Action::Append { w: W, answer: Answer::Lost });
        }
        self.run.push(Action::Append { w: W, answer: Answer::Heard });
    }

    fn store_roots(&mut self, epoch: u64) {
        if self.stored != Some(epoch) {
            self.stored = Some(epoch);
            self.run.push(Action::StoreRoots { w: W });
        }
    }

    /// Every step is possible, no law breaks, and the model goes on from the checkpoints that the engine went on from.
    fn check(&self) -> Result<(), Violation> {
        let world = world();
        world.replay(&self.run)?;
        for (length, epoch) in &self.restored {
            let state = world.replay(&self.run[..*length])?;
            assert_eq!(u64::from(state.writers[W].base), *epoch, "the checkpoint it goes on from");
        }
        Ok(())
    }
}

fn story(seed: u64) -> Story {
    let Traced { acts, failure } = trace(seed, |world| build(VIEWS, &log().until(40), world)).unwrap();
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    Story::of(&acts)
}

#[test]
fn what_the_engine_did_is_what_the_protocol_allows() {
    let mut kinds = BTreeSet::new();
    let mut deaths = 0;
    let report = Schedules::random(tier::of(80, 200, 1_000)).for_as_long_as(tier::hours()).each(|seed| {
        let story = story(seed);
        if let Err(violation) = story.check() {
            let from = violation.step.saturating_sub(12);
            panic!("{violation}\nafter {:#?}", &story.run[from..=violation.step]);
        }
        // the last life ends by itself
        deaths += story.run.iter().filter(|a| matches!(a, Action::Crash { .. })).count().saturating_sub(1) as u64;
        kinds.extend(story.run.iter().map(|a| Action::KINDS[a.kind()]));
    });
    println!("model: {}", Report { deaths, ..report });
    for kind in ["Append, answer lost", "Hydrate", "StoreRoots", "Complete", "GiveUp", "Crash"] {
        assert!(kinds.contains(kind), "no run has '{kind}': {kinds:?}");
    }
}

#[test]
fn a_run_of_an_engine_that_lets_unbound_epochs_leave_is_no_run_of_the_protocol() {
    let refused = (1..200).find_map(|seed| {
        let Traced { acts, .. } = bug::with(Bug::LeavesUnbound, || trace(seed, |world| build(VIEWS, &log().until(40), world)).unwrap());
        world().replay(&Story::of(&acts).run).err()
    });
    assert!(matches!(refused, Some(Violation { what: Broken::Step(Action::Commit { .. }), .. })), "{refused:?}");
}
