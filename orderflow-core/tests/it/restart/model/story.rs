//! Acts become a run of the model: actions, and what they claim.
//!
//! One sink act of several epochs is as many commits of the model; a sink that is asked again for its progress is one whose answer was given up. Whoever
//! does something that counts claims that it was not replaced; what is refused for good is tried in the model, too, and must be refused there.

use super::{SINKS, world};
use orderflow_core::testing::Act;
use orderflow_model::{Action, Answer, Claim, Step, Violation};

/// Acts of one process, from some moment to its end.
type Life<'a> = [&'a Act];

/// A run, as far as it was told.
#[derive(Default)]
pub(super) struct Story {
    pub(super) run: Vec<Step>,
    /// What each sink holds.
    pub(super) held: [u64; SINKS.len()],
    processes: [Process; 2],
}

/// What is known of a process.
#[derive(Default)]
struct Process {
    /// It is alive, is in the ledger, has begun to work, or was told that it was replaced.
    alive: bool,
    opened: bool,
    works: bool,
    stopped: bool,
    /// Roots that were stored and that no checkpoint names yet.
    stored: Option<u64>,
    /// Sinks that said what they hold.
    looked: [bool; SINKS.len()],
    /// What it deleted when all of them had and it did not work yet: the protocol lets nobody delete then, but right after.
    deleted: Vec<Step>,
    /// A sink's answer was given up; it was asked what it holds, and nothing was sent since.
    gave_up: [bool; SINKS.len()],
    asked: [bool; SINKS.len()],
}

/// What a process did or, replaced, wanted to do.
fn meant(act: &Act) -> &Act {
    match act {
        Act::Refused(wanted) => wanted.as_ref(),
        done => done,
    }
}

fn number(sink: &str) -> Option<usize> {
    SINKS.iter().position(|name| *name == sink)
}

fn epoch(number: u64) -> u16 {
    number.try_into().expect("a simulated run has few epochs")
}

impl Story {
    /// The story of these acts, each of its process.
    pub(super) fn of(acts: &[(usize, Act)]) -> Self {
        let mut story = Story::default();
        for (n, (w, act)) in acts.iter().enumerate() {
            // what it deletes beside tells nothing of what it waits for
            let counts = |act: &&Act| !matches!(act, Act::Deleted(..));
            let own = acts[n + 1..].iter().filter(|(of, _)| of == w).map(|(_, act)| act).filter(counts);
            let life: Vec<&Act> = own.take_while(|act| **act != Act::Gone).collect();
            story.tell(*w, act, &life);
        }
        story
    }

    /// Every step is possible, no law breaks, and every claim is true.
    pub(super) fn check(&self) -> Result<(), Violation> {
        world().replay_trace(self.run.iter().copied()).map(drop)
    }

    pub(super) fn actions(&self) -> impl Iterator<Item = &Action> {
        self.run.iter().filter_map(|step| if let Step::Act(action) = step { Some(action) } else { None })
    }

    fn tell(&mut self, w: usize, act: &Act, rest: &Life) {
        let of = &mut self.processes[w];
        match act {
            Act::Began => {
                *of = Process { alive: true, ..Process::default() };
                return;
            }
            Act::Gone => {
                let (died, opened) = (of.alive && !of.stopped, of.opened);
                of.alive = false;
                self.acts([Action::Start { w }, Action::Look { w }].into_iter().filter(|_| died && !opened));
                self.acts(died.then_some(Action::Crash { w }));
                return;
            }
            Act::Deleted(at, generation) => {
                let step = |w| Step::Deleted { w, epoch: epoch(at.0), generation: epoch(*generation) };
                if of.looked == [true; SINKS.len()] && !of.works {
                    of.deleted.push(step(w));
                } else {
                    // one that was replaced deletes nothing that the newer one needs
                    let by = if of.stopped { 1 - w } else { w };
                    self.run.push(step(by));
                }
                return;
            }
            // what follows an act that was refused is refused as well
            _ if of.stopped => return,
            // until it is in, it reads again what is new: what counts is how it found the ledger at last
            Act::Opened(_) => {
                of.opened = true;
                self.acts([Action::Start { w }, Action::Look { w }]);
                self.append(w, rest);
                self.acts([Action::Confirm { w }]);
            }
            Act::Fenced(name) => self.acts(number(name).map(|sink| Action::Fence { w, sink })),
            Act::Read(name) => number(name).into_iter().for_each(|sink| {
                self.processes[w].looked[sink] = true;
                self.read(w, sink);
            }),
            Act::Restored(at) => {
                of.works = true;
                let deleted = std::mem::take(&mut of.deleted);
                self.acts([Action::Hydrate { w }]);
                self.claims([Claim::Restored { w, epoch: epoch(at.0) }]);
                self.run.extend(deleted);
            }
            Act::Bound(at, records) => {
                self.acts([Action::Bind { w, records: *records as u16 }]);
                self.append(w, rest);
                // if others are under way its turn comes at the end
                if self.processes[w].stored.is_none() && rest.iter().any(|act| *meant(act) == Act::Completed(*at)) {
                    self.store_roots(w, at.0);
                }
            }
            Act::Completed(at) => {
                self.store_roots(w, at.0);
                self.acts([Action::Complete { w }]);
                self.append(w, rest);
                self.processes[w].stored = None;
            }
            Act::Committed(name, at) => number(name).into_iter().for_each(|sink| self.committed(w, sink, at.0, rest)),
            Act::PutAgain | Act::Entry(_) => return,
            Act::Refused(wanted) => {
                // else it did not hear that, and did something else before it heard it
                if rest.iter().all(|act| matches!(act, Act::Refused(_))) {
                    self.refused(w, wanted);
                }
                return;
            }
        }
        self.claims([Claim::Works { w }]);
    }

    /// A sink says what it holds, at the opening or because an answer was lost.
    fn read(&mut self, w: usize, sink: usize) {
        let of = &mut self.processes[w];
        if of.works {
            // asked again, because that answer was lost as well
            if std::mem::replace(&mut of.asked[sink], true) {
                return;
            }
            let arrived = std::mem::take(&mut of.gave_up[sink]);
            let sent = [Action::Commit { w, sink }, Action::GiveUp { w, sink }];
            self.acts(sent.into_iter().filter(|_| !arrived));
            self.acts([Action::Fence { w, sink }]);
        }
        self.acts([Action::Read { w, sink }]);
    }

    fn committed(&mut self, w: usize, sink: usize, at: u64, rest: &Life) {
        let is_next = |act: &&Act| matches!(meant(act), Act::Read(name) | Act::Committed(name, _) if number(name) == Some(sink));
        let next = rest.iter().position(is_next);
        // a checkpoint that counts before the sink is asked shows that the answer was heard: the one that was lost came after it
        let heard = rest[..next.unwrap_or(0)].iter().any(|act| matches!(meant(act), Act::Completed(newer) if newer.0 >= at));
        let gave_up = next.is_some_and(|next| matches!(meant(rest[next]), Act::Read(_))) && !heard;
        let of = &mut self.processes[w];
        (of.gave_up[sink], of.asked[sink]) = (gave_up, false);
        // an epoch that it holds already is committed once more, and the model has to say what it thinks of that
        for epoch in (self.held[sink] + 1).min(at)..=at {
            self.acts([Action::Commit { w, sink }, Action::Land { sink, at: 0 }]);
            let end = if gave_up && epoch == at { Action::GiveUp { w, sink } } else { Action::Hear { w, sink } };
            self.acts([end]);
        }
        self.held[sink] = self.held[sink].max(at);
        self.claims([Claim::Holds { sink, epoch: epoch(at) }]);
    }

    /// What a process that was replaced tries at last.
    fn refused(&mut self, w: usize, wanted: &Act) {
        let append = Action::Append { w, answer: Answer::Heard };
        let tries = match wanted {
            Act::Bound(_, records) => vec![Action::Bind { w, records: *records as u16 }, append],
            Act::Completed(at) => {
                self.store_roots(w, at.0);
                vec![Action::Complete { w }, append]
            }
            Act::Committed(name, _) => number(name).map(|sink| Action::Commit { w, sink }).into_iter().collect(),
            // what it asks about has arrived, or was refused before it asked; or it asks again, and has nothing to send
            Act::Read(name) => match number(name) {
                Some(sink) if self.processes[w].gave_up[sink] => vec![Action::Fence { w, sink }],
                Some(sink) if !self.processes[w].asked[sink] => vec![Action::Commit { w, sink }],
                _ => vec![],
            },
            _ => vec![],
        };
        if !tries.is_empty() {
            self.acts(tries);
            self.claims([Claim::Stopped { w }]);
            self.processes[w].stopped = true;
        }
    }

    /// An entry of the ledger is there; if it is put again, the first answer was lost.
    fn append(&mut self, w: usize, rest: &Life) {
        let entry = |act: &&&Act| matches!(meant(act), Act::PutAgain | Act::Opened(_) | Act::Bound(..) | Act::Completed(_) | Act::Entry(_));
        let again = rest.iter().find(entry).is_some_and(|act| **act == Act::PutAgain);
        self.acts(again.then_some(Action::Append { w, answer: Answer::Lost }));
        self.acts([Action::Append { w, answer: Answer::Heard }]);
    }

    fn store_roots(&mut self, w: usize, at: u64) {
        if self.processes[w].stored.replace(at) != Some(at) {
            self.acts([Action::StoreRoots { w }]);
        }
    }

    fn acts(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.run.extend(actions.into_iter().map(Step::Act));
    }

    fn claims(&mut self, claims: impl IntoIterator<Item = Claim>) {
        self.run.extend(claims.into_iter().map(Step::Claim));
    }
}
