//! Without a planted bug every law holds in every state of every world, every run ends, and the worlds are not empty: each action
//! and each event that matters happens in one of them.

use orderflow_model::{Action, Event, Params, Protocol, Report};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// What has been seen in the worlds explored so far.
#[derive(Default)]
struct Seen {
    actions: BTreeSet<&'static str>,
    events: Vec<Event>,
    sights: BTreeSet<&'static str>,
}

impl Seen {
    fn explore(&mut self, name: &str, params: Params, floor: usize) {
        let (world, from) = (Protocol::new(params), Instant::now());
        let report = world.explore(2);
        println!("{name}: {} states, at most {} steps away, in {:.1?}", report.states, report.depth, from.elapsed());
        if let Some(counterexample) = report.counterexample {
            panic!("{name}: {counterexample}");
        }
        assert!(report.states > floor, "{name} has only {} states", report.states);
        self.actions.extend(world.coverage().actions());
        self.events.extend(world.coverage().events());
        self.sights.extend(Report::sights().filter(|name| !report.unseen.contains(name)));
    }

    /// Refusals are seen where state and sinks do not belong together: in `lost.rs`.
    fn lacks_nothing(&self) {
        let actions: Vec<_> = Action::KINDS.into_iter().filter(|kind| !self.actions.contains(kind)).collect();
        assert!(actions.is_empty(), "never happened: {actions:?}");
        let events: Vec<_> = Event::ALL.into_iter().filter(|e| !self.events.contains(e) && *e != Event::Refused).collect();
        assert!(events.is_empty(), "never happened: {events:?}");
        let sights: Vec<_> = Report::sights().filter(|name| !self.sights.contains(name)).collect();
        assert!(sights.is_empty(), "never reached: {sights:?}");
    }
}

#[test]
fn the_laws_hold_in_every_state() {
    let mut seen = Seen::default();
    seen.explore("local", Params::local(), 800_000);
    seen.explore("shared", Params::shared(), 1_000_000);
    seen.explore("takeover", Params::takeover(), 1_000_000);
    seen.explore("handover", Params::handover(), 400_000);
    seen.explore("sink", Params::sink(), 200_000);
    seen.explore("spooled", Params::spooled(), 100_000);
    seen.explore("spooled, a local folder", Params { records: 2, crashes: 1, spooled: true, ..Params::local() }, 10_000);
    seen.lacks_nothing();
    assert!(!seen.events.contains(&Event::Refused), "somebody was refused whose state and sinks belong together");
    if super::nightly() {
        seen.explore("local, a longer log", Params { records: 4, ..Params::local() }, 13_000_000);
        seen.explore("takeover, two sinks", Params { sinks: 2, timeouts: 0, two_steps: true, ..Params::takeover() }, 4_000_000);
        seen.explore("handover, a longer log", Params { records: 3, ..Params::handover() }, 7_000_000);
        seen.explore("handover, an answer lost", Params { records: 3, timeouts: 1, crashes: 0, ..Params::handover() }, 3_000_000);
        seen.explore("sink, two crashes", Params { crashes: 2, ..Params::sink() }, 1_500_000);
        seen.explore("sink, a longer log", Params { records: 4, checkpoints: 3, ..Params::sink() }, 4_000_000);
    }
}

/// That an end is complete says something only if every run comes to an end: no state leads back to itself.
#[test]
fn every_run_ends() {
    let worlds = [
        Params { records: 2, checkpoints: 3, timeouts: 2, ..Params::sink() },
        Params { sinks: 1, ..Params::shared() },
        Params { records: 2, crashes: 1, ..Params::local() },
        Params { damages: 0, crashes: 0, ..Params::spooled() },
    ];
    for params in worlds {
        let world = Protocol::new(params);
        let mut done = HashMap::from([(world.initial(), false)]);
        let first: Vec<_> = world.enabled(&world.initial()).collect();
        let mut way = vec![(world.initial(), first)];
        while let Some((state, actions)) = way.last_mut() {
            let Some(action) = actions.pop() else {
                done.insert(way.pop().expect("the way has an end").0, true);
                continue;
            };
            let next = world.step(state, action);
            match done.get(&next) {
                Some(true) => {}
                Some(false) => panic!("a run goes on for ever through {next:?}"),
                None => {
                    done.insert(next.clone(), false);
                    let actions: Vec<_> = world.enabled(&next).collect();
                    way.push((next, actions));
                }
            }
        }
        assert!(done.len() > 8_000 && done.values().all(|done| *done), "{} states", done.len());
    }
}
