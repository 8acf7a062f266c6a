//! Explores a world to its end, breadth first, with stateright.
//!
//! Invariant: without a counterexample every state that can be reached was visited; with one it is a shortest one.

use crate::action::Action;
use crate::decide;
use crate::law::Law;
use crate::protocol::Protocol;
use crate::state::{Phase, Place, Stage, State, Writer};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an exploration found.
#[derive(Debug)]
pub struct Report {
    /// States that can be reached, as far as they were visited.
    pub states: usize,
    /// Length of the longest of the shortest ways to a state.
    pub depth: usize,
    /// What was to be seen at some moment and was not.
    pub unseen: Vec<&'static str>,
    /// A shortest run that breaks a law.
    pub counterexample: Option<Counterexample>,
}

/// A run that breaks a law.
#[derive(Debug)]
pub struct Counterexample {
    /// Which law.
    pub law: Law,
    /// The run.
    pub run: Vec<Action>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} is broken after {} steps:", self.law, self.run.len())?;
        self.run.iter().enumerate().try_for_each(|(step, action)| writeln!(f, "  {:>2}. {action}", step + 1))
    }
}

const LAWS: &str = "all laws hold";

/// What stateright is given: the world, and whether a law was broken already, since only the first counterexample is a shortest one.
struct Search {
    world: Protocol,
    found: AtomicBool,
}

impl Model for Search {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.world.initial()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.world.enabled(state));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.world.step(state, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(LAWS, |search: &Self, state| {
            search.world.broken(state).is_none() || search.found.swap(true, Ordering::Relaxed)
        })];
        properties.extend(SIGHTS.iter().map(|(name, sight)| Property::sometimes(name, *sight)));
        properties
    }
}

/// States that must be reached in some world, for the laws to have been tried.
type Sight = (&'static str, fn(&Search, &State) -> bool);
const SIGHTS: &[Sight] = &[
    ("every record is in every sink", |search, state| search.world.done(state)),
    ("two sinks are two epochs apart", |_, state| {
        let last = |place: &Place| place.last.map_or(0, |mark| mark.0);
        state.places.iter().any(|a| state.places.iter().any(|b| last(a) >= last(b) + 2))
    }),
    ("two processes run at once", |_, state| state.writers.iter().filter(|w| w.phase == Phase::Running).count() == 2),
    ("a commit of an older writer is on its way while a newer one opens the sinks", |_, state| {
        let newest = state.writers.iter().filter(|w| w.phase == Phase::Opening).map(|w| w.generation).max().unwrap_or(0);
        state.places.iter().any(|p| p.flying.iter().any(|c| c.progress.writer.1 < newest))
    }),
    ("a commit is decided and not seen while a process opens the sink", |_, state| {
        let opens = |sink: usize| state.writers.iter().any(|w| w.phase == Phase::Opening && w.ports[sink].stage == Stage::Shut);
        (0..state.places.len()).any(|sink| opens(sink) && state.places[sink].flying.iter().any(|c| c.decided))
    }),
    ("a restart would fall back to an older checkpoint", |search, state| {
        decide::hydrate(search.world.params(), &state.cellar, &mut Writer::default()) == Ok(true)
    }),
    ("the binding of the first epoch was retired", |_, state| state.cellar.tail() > 0 && state.cellar.binding(1).is_none()),
];

impl Report {
    /// Names of the sights that an exploration may report as unseen.
    pub fn sights() -> impl Iterator<Item = &'static str> {
        SIGHTS.iter().map(|(name, _)| *name)
    }
}

impl Protocol {
    /// Visits every state that can be reached, or stops when a law is broken. One thread finds a shortest counterexample; more are faster.
    pub fn explore(&self, threads: usize) -> Report {
        let search = Search { world: self.clone(), found: AtomicBool::new(false) };
        let until = HasDiscoveries::AnyOf(BTreeSet::from([LAWS]));
        let checker = search.checker().threads(threads).finish_when(until).spawn_bfs().join();
        let unseen = Report::sights().filter(|name| checker.discovery(name).is_none()).collect();
        let counterexample = checker.discovery(LAWS).map(|path| {
            let law = self.broken(path.last_state()).expect("the checker found a broken law");
            Counterexample { law, run: path.into_actions() }
        });
        Report { states: checker.unique_state_count(), depth: checker.max_depth(), unseen, counterexample }
    }
}
