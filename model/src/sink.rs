//! Steps between a process and its sinks: fence, read, hydrate behind the gate, commit, and what becomes of a commit on its way.
//!
//! Invariant: a sink carries a commit out as a whole or not at all, and takes none of an older writer once a newer one has fenced it;
//! what was decided before that is seen before the fencing is answered (`orderflow_core::sink`, the contract of `open`).

use crate::coverage::Event;
use crate::decide;
use crate::fault::Fault;
use crate::law::{Law, broken};
use crate::protocol::Protocol;
use crate::state::*;

/// What a sink says to a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Done,
    Fenced,
}

impl Protocol {
    fn id(&self, s: &State, w: usize) -> WriterId {
        (s.cellar.ledger, s.writers[w].generation)
    }

    /// Whether a newer writer of the same ledger holds the sink.
    fn is_fenced(&self, s: &State, w: usize, sink: usize) -> bool {
        let id = self.id(s, w);
        let newer = s.places[sink].fence.is_some_and(|fence| fence.0 == id.0 && fence.1 > id.1);
        newer && !self.params().has(Fault::SinkDoesNotFence)
    }

    pub(crate) fn fence(&self, s: &mut State, w: usize, sink: usize) {
        if self.is_fenced(s, w, sink) {
            return self.turned_away(s, w);
        }
        let id = self.id(s, w);
        let place = &mut s.places[sink];
        place.fence = Some(id);
        if !self.params().has(Fault::SinkDoesNotFence) {
            let torn = self.params().has(Fault::DataThenProgress) || self.params().has(Fault::ProgressThenData);
            let settles = !self.params().has(Fault::FenceDoesNotSettle) && !torn;
            let flying = std::mem::take(&mut place.flying);
            for commit in flying {
                if !commit.decided {
                    self.event(Event::FenceAborted);
                } else if settles {
                    self.event(Event::FenceSettled);
                    place.progress = Some(commit.progress);
                } else if !torn {
                    place.flying.push(commit);
                }
            }
        }
        self.further(s, w, sink);
    }

    pub(crate) fn read(&self, s: &mut State, w: usize, sink: usize) {
        let known = s.cellar.until(s.writers[w].slot);
        let (found, remembered) = (s.places[sink].progress, decide::remembered(&known, sink));
        let Ok(held) = decide::resume(self.params(), self.id(s, w), known.tail(), found, remembered) else {
            return self.turned_away(s, w);
        };
        let writer = &mut s.writers[w];
        if writer.phase == Phase::Running {
            self.event(if held > writer.ports[sink].held { Event::CommitHadHappened } else { Event::CommitHadNot });
        }
        writer.ports[sink].held = held;
        self.further(s, w, sink);
    }

    /// The next of the two halves of opening a sink.
    fn further(&self, s: &mut State, w: usize, sink: usize) {
        let stage = &mut s.writers[w].ports[sink].stage;
        *stage = if *stage == Stage::Shut { Stage::Half } else { Stage::Ready };
    }

    pub(crate) fn hydrate(&self, s: &mut State, w: usize) {
        let (cellar, writer) = (&s.cellar, &mut s.writers[w]);
        match decide::hydrate(self.params(), cellar, writer) {
            Err(()) => return self.turned_away(s, w),
            Ok(true) => self.event(Event::FellBack),
            Ok(false) => {}
        }
        writer.phase = Phase::Running;
        for sink in 0..writer.ports.len() {
            let Some(held) = writer.ports[sink].held else { continue };
            if held.0 > writer.base {
                self.event(Event::GateDropped);
            }
            if decide::next_piece(self.params(), writer, sink).is_some_and(|(mark, ..)| mark.0 == held.0) {
                self.event(Event::WentOnInside);
            }
        }
    }

    pub(crate) fn commit(&self, s: &mut State, w: usize, sink: usize) {
        let (mark, from, to) = decide::next_piece(self.params(), &s.writers[w], sink).expect("a commit is possible only of something");
        self.leaves(s, w, mark.0);
        if self.is_fenced(s, w, sink) {
            return self.turned_away(s, w);
        }
        let progress = Progress { writer: self.id(s, w), mark };
        s.places[sink].flying.push(Commit { progress, from, to, decided: false });
        s.writers[w].ports[sink].stage = Stage::Waiting;
    }

    /// The sink carries a commit out.
    pub(crate) fn land(&self, s: &mut State, sink: usize, at: usize) {
        let params = *self.params();
        s.places[sink].flying[at].decided = true;
        if !params.has(Fault::ProgressThenData) {
            self.store(s, sink, at);
        }
        if params.has(Fault::ProgressThenData) {
            s.places[sink].progress = Some(s.places[sink].flying[at].progress);
        } else if !params.two_steps && !params.has(Fault::DataThenProgress) {
            self.show(s, sink, at);
        }
    }

    /// A decided commit can be seen.
    pub(crate) fn show(&self, s: &mut State, sink: usize, at: usize) {
        if self.params().has(Fault::ProgressThenData) {
            self.store(s, sink, at);
        }
        let place = &mut s.places[sink];
        let commit = place.flying.remove(at);
        place.progress = Some(commit.progress);
    }

    /// The data of a commit is in the sink for good: law 3, and that no record is there twice or missing, are judged here.
    fn store(&self, s: &mut State, sink: usize, at: usize) {
        let wants = |record: &u16| self.params().wants(sink, *record);
        let place = &mut s.places[sink];
        let Commit { progress, from, to, .. } = place.flying[at];
        let twice = (from..to.min(place.next)).any(|record| wants(&record));
        let gap = (place.next..from).any(|record| wants(&record));
        let again = place.last.is_some_and(|last| progress.mark <= last);
        place.next = place.next.max(to);
        place.last = place.last.max(Some(progress.mark));
        for (is_broken, law) in [(twice, Law::Twice), (again, Law::Gate), (gap, Law::Gap)] {
            if is_broken {
                broken(s, law);
            }
        }
    }

    /// What the process would hear from a sink it waits for.
    pub(crate) fn answer(&self, s: &State, w: usize, sink: usize) -> Option<Heard> {
        let id = self.id(s, w);
        let place = &s.places[sink];
        let (mark, ..) = decide::next_piece(self.params(), &s.writers[w], sink)?;
        let mine = place.flying.iter().find(|commit| commit.progress == Progress { writer: id, mark });
        match mine {
            Some(commit) if commit.decided => (!self.torn()).then_some(Heard::Done),
            Some(_) => None,
            None if self.is_fenced(s, w, sink) => Some(Heard::Fenced),
            None => Some(Heard::Done),
        }
    }

    fn torn(&self) -> bool {
        self.params().has(Fault::DataThenProgress) || self.params().has(Fault::ProgressThenData)
    }

    pub(crate) fn hear(&self, s: &mut State, w: usize, sink: usize) {
        let heard = self.answer(s, w, sink);
        if heard == Some(Heard::Fenced) {
            return self.turned_away(s, w);
        }
        let (mark, ..) = decide::next_piece(self.params(), &s.writers[w], sink).expect("it was sent");
        let port = &mut s.writers[w].ports[sink];
        (port.stage, port.held) = (Stage::Ready, Some(mark));
    }

    pub(crate) fn give_up(&self, s: &mut State, w: usize, sink: usize) {
        s.timeouts -= 1;
        let blind = self.params().has(Fault::BlindRetry);
        s.writers[w].ports[sink].stage = if blind { Stage::Ready } else { Stage::Shut };
    }
}
