//! The protocol as a transition system: which actions are possible in a state, and what each does.
//!
//! ```text
//!   Start ─► Look ─► Append(generation) ─► Confirm ─► Fence, Read (each sink) ─► Hydrate ─► Bind ─► Append ─► Commit ─► Hear
//!     ▲                 └ taken by another: read the ledger again        │         └──────► StoreRoots, Complete, Append ─► Retire
//!   Crash, PowerCut at any time                               Refused ◄──┘   a slot taken by another, a newer fence ─► Stopped
//! ```
//! Invariant: [`Protocol::step`] is a function of state and action, and possible exactly where [`Protocol::enabled`] says so.

use crate::action::{Action, Answer};
use crate::coverage::{Coverage, Event};
use crate::decide;
use crate::fault::Fault;
use crate::params::{Params, Past, Storage};
use crate::state::*;
use std::sync::Arc;

/// A world with its rules.
#[derive(Clone, Debug)]
pub struct Protocol {
    params: Params,
    coverage: Arc<Coverage>,
}

impl Protocol {
    /// A world of this size.
    pub fn new(params: Params) -> Self {
        Self { params, coverage: Arc::default() }
    }

    /// Its size.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What happened in it so far, over all runs.
    pub fn coverage(&self) -> &Arc<Coverage> {
        &self.coverage
    }

    pub(crate) fn event(&self, event: Event) {
        self.coverage.event(event);
    }

    /// How it begins.
    pub fn initial(&self) -> State {
        let p = &self.params;
        let place = Place { fence: None, progress: None, flying: vec![], next: 0, last: None };
        let cellar = Cellar { ledger: 1, slots: vec![], synced: 0, roots: vec![], spool: vec![], late: vec![] };
        let mut state = State {
            cellar,
            places: vec![place; p.sinks],
            writers: vec![Writer::default(); p.writers],
            seen: Seen::default(),
            crashes: p.crashes,
            timeouts: p.timeouts,
            damages: p.damages,
            checkpoints: p.checkpoints,
            runs: 0,
            forgotten: 0,
        };
        if p.past != Past::Fresh {
            past(p, &mut state);
        }
        state
    }

    /// Everything that can happen in `state`.
    pub fn enabled<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Action> + 'a {
        let writers = (0..state.writers.len()).flat_map(|w| self.enabled_of(state, w));
        let sinks = (0..state.places.len()).flat_map(|sink| {
            // a sink carries out one commit after the other
            let flying = &state.places[sink].flying;
            let decided = flying.iter().position(|commit| commit.decided).map(|at| Action::Show { sink, at });
            let next = if decided.is_none() { 0..flying.len() } else { 0..0 };
            decided.into_iter().chain(next.map(move |at| Action::Land { sink, at }))
        });
        let late = (0..state.cellar.late.len()).map(|at| Action::Arrive { at });
        writers.chain(sinks).chain(late).chain(self.enabled_power_cuts(state)).chain(self.enabled_damage(state))
    }

    fn enabled_power_cuts(&self, state: &State) -> impl Iterator<Item = Action> + use<> {
        let possible = self.params.storage == Storage::Local && state.crashes > 0 && state.writers.iter().any(Writer::alive);
        let range = if possible { state.cellar.synced..state.cellar.slots.len() + 1 } else { 0..0 };
        range.map(|keep| Action::PowerCut { keep })
    }

    fn enabled_damage(&self, state: &State) -> Option<Action> {
        let newest = newest_roots(&state.cellar)?;
        (state.damages > 0 && !state.cellar.roots[newest].damaged).then_some(Action::Damage)
    }

    fn enabled_of(&self, state: &State, w: usize) -> Vec<Action> {
        let p = &self.params;
        let writer = &state.writers[w];
        let mut actions = Vec::new();
        let locked = p.storage == Storage::Local && state.writers.iter().any(Writer::alive);
        match writer.phase {
            // the second comes after the first: which is which makes no difference
            Phase::Down if !locked && (w == 0 || state.runs > 0) => actions.push(Action::Start { w }),
            Phase::Down | Phase::Stopped | Phase::Refused => {}
            Phase::Looking => actions.push(Action::Look { w }),
            Phase::Winning => {}
            Phase::Confirming => actions.push(Action::Confirm { w }),
            Phase::Opening if writer.ports.iter().all(|port| port.stage == Stage::Ready) => actions.push(Action::Hydrate { w }),
            Phase::Opening => {
                // one sink after the other: their order makes no difference
                let sink = writer.ports.iter().position(|port| port.stage != Stage::Ready);
                actions.extend(sink.and_then(|sink| self.enabled_open(writer, w, sink)));
            }
            Phase::Running => self.enabled_running(state, w, &mut actions),
        }
        // of a spooled source first the records, then the binding that names them
        let unspooled = p.spooled && writer.phase == Phase::Running && writer.spooled < writer.closed();
        if unspooled {
            actions.push(Action::Spool { w });
        }
        let waits = unspooled && !p.has(Fault::EntryBeforeSpool) && matches!(writer.append, Some(Note::Binding { .. }));
        if writer.append.is_some() && !waits {
            if writer.written {
                actions.push(Action::Sync { w });
            } else {
                actions.push(Action::Append { w, answer: Answer::Heard });
                if p.storage == Storage::Shared && state.timeouts > 0 {
                    actions.extend([Answer::Lost, Answer::Late].map(|answer| Action::Append { w, answer }));
                }
            }
        }
        let early = match p.fault {
            Some(Fault::CleanBeforeWinning) => matches!(writer.phase, Phase::Looking | Phase::Winning),
            Some(Fault::CleanBeforeJudging) => writer.phase == Phase::Opening,
            _ => false,
        };
        if (early || writer.phase == Phase::Running) && decide::leftover(p, &state.cellar, writer).is_some() {
            actions.push(Action::Clean { w });
        }
        if writer.alive() && state.crashes > 0 {
            actions.push(Action::Crash { w });
        }
        actions
    }

    /// What the opening of a sink does next.
    fn enabled_open(&self, writer: &Writer, w: usize, sink: usize) -> Option<Action> {
        let read_first = self.params.has(Fault::ReadBeforeFence);
        match (writer.ports[sink].stage, read_first) {
            (Stage::Shut, false) | (Stage::Half, true) => Some(Action::Fence { w, sink }),
            (Stage::Shut, true) | (Stage::Half, false) => Some(Action::Read { w, sink }),
            _ => None,
        }
    }

    fn enabled_running(&self, state: &State, w: usize, actions: &mut Vec<Action>) {
        let p = &self.params;
        let writer = &state.writers[w];
        let rest = p.records - writer.position();
        if writer.append.is_none() && (!p.spooled || writer.spooled == writer.closed()) {
            actions.extend((1..=p.epoch_records.min(rest)).map(|records| Action::Bind { w, records }));
        }
        if writer.append.is_none() {
            if decide::complete(p, writer, p.sinks) {
                actions.push(Action::Complete { w });
            }
        } else if writer.doubt && p.has(Fault::RetryWithOtherContent) && matches!(writer.append, Some(Note::Binding { .. })) {
            let (from, _) = writer.range(writer.closed());
            actions.extend((1..=p.epoch_records.min(p.records - from)).map(|records| Action::Bind { w, records }));
        }
        for (sink, port) in writer.ports.iter().enumerate() {
            match port.stage {
                Stage::Ready if decide::next_piece(p, writer, sink).is_some() => actions.push(Action::Commit { w, sink }),
                Stage::Ready => {}
                Stage::Waiting => {
                    actions.extend(self.answer(state, w, sink).map(|_| Action::Hear { w, sink }));
                    if state.timeouts > 0 {
                        actions.push(Action::GiveUp { w, sink });
                    }
                }
                _ => actions.extend(self.enabled_open(writer, w, sink)),
            }
        }
        let newest = writer.known.last().map_or(0, |(epoch, _)| *epoch);
        if state.checkpoints > 0 && writer.staged.is_none() && writer.durable == writer.closed() && writer.durable > newest {
            actions.push(Action::StoreRoots { w });
        }
        if decide::retire(p, state, writer).is_some() {
            actions.push(Action::Retire { w });
        }
    }

    /// The state after `action`, which is possible in `state`.
    pub fn step(&self, state: &State, action: Action) -> State {
        let mut state = state.clone();
        let s = &mut state;
        self.coverage.action(action);
        match action {
            Action::Start { w } => self.start(s, w),
            Action::Look { w } => self.look(s, w),
            Action::Append { w, answer } => self.append(s, w, answer),
            Action::Confirm { w } => self.confirm(s, w),
            Action::Sync { w } => self.sync(s, w),
            Action::Fence { w, sink } => self.fence(s, w, sink),
            Action::Read { w, sink } => self.read(s, w, sink),
            Action::Hydrate { w } => self.hydrate(s, w),
            Action::Bind { w, records } => self.bind(s, w, records),
            Action::Commit { w, sink } => self.commit(s, w, sink),
            Action::Land { sink, at } => self.land(s, sink, at),
            Action::Show { sink, at } => self.show(s, sink, at),
            Action::Hear { w, sink } => self.hear(s, w, sink),
            Action::GiveUp { w, sink } => self.give_up(s, w, sink),
            Action::StoreRoots { w } => self.store_roots(s, w),
            Action::Complete { w } => self.complete(s, w),
            Action::Retire { w } => self.retire(s, w),
            Action::Clean { w } => self.clean(s, w),
            Action::Arrive { at } => self.arrive(s, at),
            Action::Crash { w } => self.crash(s, w),
            Action::PowerCut { keep } => self.power_cut(s, keep),
            Action::Damage => self.damage(s),
            Action::Spool { w } => self.spool(s, w),
        }
        state
    }
}

/// Where the roots of the newest complete checkpoint are.
pub(crate) fn newest_roots(cellar: &Cellar) -> Option<usize> {
    let (epoch, generation) = cellar.notes().rev().find_map(|(_, note)| match note {
        Note::Checkpoint { epoch, generation, .. } => Some((*epoch, *generation)),
        _ => None,
    })?;
    cellar.roots.iter().position(|r| (r.epoch, r.generation) == (epoch, generation))
}

/// What an earlier life has left: two epochs of a record, a checkpoint at the first, roots of one that was never complete.
fn past(p: &Params, state: &mut State) {
    let own = (1, 1);
    let notes = [
        Note::Generation(1),
        Note::Binding { epoch: 1, from: 0, to: 1 },
        Note::Checkpoint { epoch: 1, generation: 1, to: 1, held: vec![Some((1, 0)); p.sinks] },
        Note::Binding { epoch: 2, from: 1, to: 2 },
    ];
    state.runs = 1;
    state.cellar.slots = notes.into_iter().map(|note| Some(Slot { nonce: 1, note })).collect();
    state.cellar.synced = state.cellar.slots.len();
    state.cellar.roots = [1, 2].map(|epoch| Roots { epoch, generation: 1, folded: epoch, damaged: false }).to_vec();
    state.seen.ends = vec![Some(1), Some(2)];
    for place in &mut state.places {
        *place =
            Place { fence: Some(own), progress: Some(Progress { writer: own, mark: (2, 0) }), flying: vec![], next: 2, last: Some((2, 0)) };
    }
    let last = state.places.last_mut().expect("a world has a sink");
    match p.past {
        Past::Fresh => {}
        Past::Swapped => {
            last.fence = Some((2, 5));
            last.progress = Some(Progress { writer: (2, 5), mark: (2, 0) });
        }
        Past::RolledBack => {
            last.progress = Some(Progress { writer: own, mark: (3, 0) });
            (last.next, last.last) = (3, Some((3, 0)));
        }
        Past::RolledFarBack => {
            let later = (1, 3);
            (last.fence, last.progress) = (Some(later), Some(Progress { writer: later, mark: (3, 0) }));
            (last.next, last.last) = (3, Some((3, 0)));
        }
        Past::Wiped => (last.progress, last.next, last.last) = (None, 0, None),
    }
}
