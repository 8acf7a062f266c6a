//! A moment of the world: the store with the ledger, the places sinks write to, the writers, and what the laws remember.
//!
//! Invariant: what survives a crash is in [`Cellar`] and [`Place`] only; [`Writer`] is the memory of a process and dies with it.
//! [`Seen`] is known to nobody but the laws.

use crate::law::Law;

/// Number of an epoch, from 1; 0 is before the first.
pub type Epoch = u16;

/// How far a sink is: everything up to this part of this epoch.
pub type Mark = (Epoch, u16);

/// A part that no epoch has: a mark with it holds the whole epoch.
pub const WHOLE: u16 = u16::MAX;

/// A moment of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The store.
    pub cellar: Cellar,
    /// What each sink writes to.
    pub places: Vec<Place>,
    /// The processes.
    pub writers: Vec<Writer>,
    /// What the laws remember.
    pub seen: Seen,
    /// Crashes that may still happen.
    pub crashes: u16,
    /// Answers that may still be lost.
    pub timeouts: u16,
    /// Damages that may still happen.
    pub damages: u16,
    /// Root files that may still be written.
    pub checkpoints: u16,
    /// Processes started so far; the next one's nonce.
    pub runs: u16,
    /// The first record that the host of a spooled source still has.
    pub forgotten: u16,
}

/// What survives on the side of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cellar {
    /// Random id of the ledger.
    pub ledger: u8,
    /// The ledger; a slot is empty when its record was deleted.
    pub slots: Vec<Option<Slot>>,
    /// So many slots survive a power cut.
    pub synced: usize,
    /// Root files.
    pub roots: Vec<Roots>,
    /// Stored records of a spooled source, an object an epoch: which, and which generation wrote it.
    pub spool: Vec<(Epoch, u16)>,
    /// Appends that are still on their way, though whoever sent them has stopped waiting.
    pub late: Vec<(usize, Slot)>,
}

/// A record of the ledger and the nonce of the process that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Whose it is.
    pub nonce: u16,
    /// What it says.
    pub note: Note,
}

/// What a record of the ledger says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The ledger was opened for the nth time.
    Generation(u16),
    /// Epoch `epoch` is records `from..to`.
    Binding {
        /// Which epoch.
        epoch: Epoch,
        /// First record.
        from: u16,
        /// Record after the last.
        to: u16,
    },
    /// Checkpoint `epoch` is complete.
    Checkpoint {
        /// Which epoch.
        epoch: Epoch,
        /// Which generation wrote its roots.
        generation: u16,
        /// Where the source stood.
        to: u16,
        /// What each sink held.
        held: Vec<Option<Mark>>,
    },
}

/// Roots as of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Roots {
    /// As of which epoch.
    pub epoch: Epoch,
    /// Which generation wrote them; a part of their names.
    pub generation: u16,
    /// Records folded into them, counted as often as they were.
    pub folded: u16,
    /// Whether a bit of them has flipped.
    pub damaged: bool,
}

/// Who writes: ledger and generation.
pub type WriterId = (u8, u16);

/// What a sink says that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Who wrote it.
    pub writer: WriterId,
    /// How far.
    pub mark: Mark,
}

/// What survives on the side of one sink.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Who fenced it last.
    pub fence: Option<WriterId>,
    /// What it says that it holds.
    pub progress: Option<Progress>,
    /// Commits on their way.
    pub flying: Vec<Commit>,
    /// The first record it does not have. Known to the laws only.
    pub next: u16,
    /// The newest it was given. Known to the laws only.
    pub last: Option<Mark>,
}

/// One act that stores data and progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The progress it stores.
    pub progress: Progress,
    /// Its first record.
    pub from: u16,
    /// The record after its last.
    pub to: u16,
    /// It will happen whatever comes, and is not seen yet.
    pub decided: bool,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    /// What it is doing.
    pub phase: Phase,
    /// Its nonce.
    pub run: u16,
    /// The generation it wants or has.
    pub generation: u16,
    /// The next free slot, as far as it knows.
    pub slot: usize,
    /// What it is appending.
    pub append: Option<Note>,
    /// That append is written and not yet synced.
    pub written: bool,
    /// The answer to that append was lost.
    pub doubt: bool,
    /// The checkpoint it was loaded from.
    pub base: Epoch,
    /// Where the source stood there.
    pub base_to: u16,
    /// What was folded into its roots there.
    pub base_folded: u16,
    /// Epochs after the base: the record after the last, and what was folded into the roots when it was done.
    pub epochs: Vec<(u16, u16)>,
    /// The newest epoch whose binding is durable.
    pub durable: Epoch,
    /// The newest epoch whose records are stored, if the source is spooled.
    pub spooled: Epoch,
    /// Its sinks.
    pub ports: Vec<Port>,
    /// Complete checkpoints that it knows, newest last: epoch, and which generation wrote the roots.
    pub known: Vec<(Epoch, u16)>,
    /// Roots it has stored for a checkpoint that is not complete.
    pub staged: Option<Epoch>,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// It does not run.
    #[default]
    Down,
    /// It has read the ledger and looks whose the sinks are.
    Looking,
    /// It wants a generation.
    Winning,
    /// Its generation record is in a slot; it lists the ledger again, to see whether that slot was the last.
    Confirming,
    /// It has a generation and opens its sinks.
    Opening,
    /// It works.
    Running,
    /// It found that a newer one has taken over.
    Stopped,
    /// It found that state and sinks do not belong together.
    Refused,
}

/// A process's end of one sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Port {
    /// How far its opening is.
    pub stage: Stage,
    /// The newest that the sink holds, as far as the process knows.
    pub held: Option<Mark>,
}

/// How far the opening of a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Stage {
    /// Neither fenced nor read.
    #[default]
    Shut,
    /// Half of it: fenced and not read.
    Half,
    /// A commit may be sent.
    Ready,
    /// A commit was sent.
    Waiting,
}

/// What the laws remember.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// Where each epoch ends, once anybody could know.
    pub ends: Vec<Option<u16>>,
    /// The first law that was broken.
    pub broken: Option<Law>,
}

impl Cellar {
    /// Records of the ledger that are there, oldest first, with their slots.
    pub fn notes(&self) -> impl DoubleEndedIterator<Item = (usize, &Note)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| slot.as_ref().map(|slot| (at, &slot.note)))
    }

    /// The ledger as whoever knows its first `slots` slots knows it.
    pub fn until(&self, slots: usize) -> Self {
        Self { slots: self.slots[..slots].to_vec(), ..self.clone() }
    }

    /// The newest generation on record; 0 if there is none.
    pub fn generation(&self) -> u16 {
        self.notes().map(|(_, note)| if let Note::Generation(g) = note { *g } else { 0 }).max().unwrap_or(0)
    }

    /// The newest epoch bound: by a binding, or by a checkpoint whose binding is gone.
    pub fn tail(&self) -> Epoch {
        let epoch = |note: &Note| match note {
            Note::Generation(_) => 0,
            Note::Binding { epoch, .. } | Note::Checkpoint { epoch, .. } => *epoch,
        };
        self.notes().map(|(_, note)| epoch(note)).max().unwrap_or(0)
    }

    /// The records of `epoch`, if its binding is there.
    pub fn binding(&self, epoch: Epoch) -> Option<(u16, u16)> {
        self.notes().find_map(|(_, note)| match note {
            Note::Binding { epoch: e, from, to } if *e == epoch => Some((*from, *to)),
            _ => None,
        })
    }

    /// The generation that wrote the binding of `epoch`, if that is there: its records' object has the same. By the nonce, not by the
    /// order of slots: a newer process may have put its generation into an older slot, which retirement freed, before it looked again.
    pub fn bound_by(&self, epoch: Epoch) -> Option<u16> {
        let is_binding = |slot: &Slot| matches!(slot.note, Note::Binding { epoch: e, .. } if e == epoch);
        let (at, binding) = self.slots.iter().enumerate().find_map(|(at, slot)| Some((at, slot.as_ref().filter(|s| is_binding(s))?)))?;
        let generation = |slot: &Slot| if let Note::Generation(g) = slot.note { Some(g) } else { None };
        self.slots[..at].iter().flatten().filter(|slot| slot.nonce == binding.nonce).filter_map(generation).next_back()
    }

    /// Whether the records of `epoch` are stored under the name that its binding gives.
    pub fn is_spooled(&self, epoch: Epoch) -> bool {
        self.bound_by(epoch).is_some_and(|generation| self.spool.contains(&(epoch, generation)))
    }

    /// Roots of a checkpoint.
    pub fn roots_of(&self, epoch: Epoch, generation: u16) -> Option<&Roots> {
        self.roots.iter().find(|r| r.epoch == epoch && r.generation == generation)
    }
}

impl Writer {
    /// The newest epoch it has closed, bound or not.
    pub fn closed(&self) -> Epoch {
        self.base + self.epochs.len() as u16
    }

    /// The records of `epoch`, which is after its base.
    pub fn range(&self, epoch: Epoch) -> (u16, u16) {
        let at = usize::from(epoch - self.base) - 1;
        (if at == 0 { self.base_to } else { self.epochs[at - 1].0 }, self.epochs[at].0)
    }

    /// Where the source stands.
    pub fn position(&self) -> u16 {
        self.epochs.last().map_or(self.base_to, |(to, _)| *to)
    }

    /// What its roots hold.
    pub fn folded(&self) -> u16 {
        self.epochs.last().map_or(self.base_folded, |(_, folded)| *folded)
    }

    /// Whether the process exists and may still act.
    pub fn alive(&self) -> bool {
        matches!(self.phase, Phase::Looking | Phase::Winning | Phase::Confirming | Phase::Opening | Phase::Running)
    }

    /// A process that does not act again: all it knew is gone.
    pub(crate) fn ended(phase: Phase) -> Self {
        Self { phase, ..Self::default() }
    }
}
