//! What can happen, one step at a time: the alphabet in which runs, counterexamples and traces of a simulation are written.
//!
//! A pause needs no action of its own: a process sleeps while the others take their steps, and may take its next one at any time.
//! Invariant: an action names everything it depends on, so that a list of them determines a run.

use std::fmt;

/// One step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Process `w` starts and reads the ledger.
    Start {
        /// Which process.
        w: usize,
    },
    /// It looks whose the sinks are, before it writes anything.
    Look {
        /// Which process.
        w: usize,
    },
    /// It puts what it wants to append into the next slot, if that is free, and reads back what is there if it is not.
    Append {
        /// Which process.
        w: usize,
        /// What it hears of it.
        answer: Answer,
    },
    /// It lists the ledger again, to see whether its generation record is in the last slot and not in one that retirement had freed.
    Confirm {
        /// Which process.
        w: usize,
    },
    /// It syncs the local ledger.
    Sync {
        /// Which process.
        w: usize,
    },
    /// It fences a sink against older writers.
    Fence {
        /// Which process.
        w: usize,
        /// Which sink.
        sink: usize,
    },
    /// It reads a sink's progress and decides from where that goes on.
    Read {
        /// Which process.
        w: usize,
        /// Which sink.
        sink: usize,
    },
    /// It loads the newest whole checkpoint and replays what was bound after it.
    Hydrate {
        /// Which process.
        w: usize,
    },
    /// The mint closes an epoch of so many records; from here on it is to be appended.
    Bind {
        /// Which process.
        w: usize,
        /// How many.
        records: u16,
    },
    /// The next piece is sent to a sink, data and progress in one act.
    Commit {
        /// Which process.
        w: usize,
        /// Which sink.
        sink: usize,
    },
    /// A sink carries out (decides) a commit that is on its way.
    Land {
        /// Which sink.
        sink: usize,
        /// Which of those on their way.
        at: usize,
    },
    /// A decided commit can be seen.
    Show {
        /// Which sink.
        sink: usize,
        /// Which of those on their way.
        at: usize,
    },
    /// A sink's answer reaches the process: carried out, or fenced.
    Hear {
        /// Which process.
        w: usize,
        /// Which sink.
        sink: usize,
    },
    /// The process stops waiting for that answer: the commit may have happened, may happen yet, or never.
    GiveUp {
        /// Which process.
        w: usize,
        /// Which sink.
        sink: usize,
    },
    /// The roots are stored as of the newest durable epoch.
    StoreRoots {
        /// Which process.
        w: usize,
    },
    /// Every sink has what the stored roots have: the checkpoint is to be appended.
    Complete {
        /// Which process.
        w: usize,
    },
    /// One thing that nobody needs any more is deleted.
    Retire {
        /// Which process.
        w: usize,
    },
    /// One thing that a lower generation left half done is deleted.
    Clean {
        /// Which process.
        w: usize,
    },
    /// An append that was given up arrives.
    Arrive {
        /// Which of those on their way.
        at: usize,
    },
    /// The process dies.
    Crash {
        /// Which process.
        w: usize,
    },
    /// The machine loses its power, and the local ledger all but its first `keep` slots.
    PowerCut {
        /// How many slots are left.
        keep: usize,
    },
    /// A bit of the newest complete checkpoint's roots flips.
    Damage,
    /// The records of the epoch that was closed are stored, because their source gives them once.
    Spool {
        /// Which process.
        w: usize,
    },
}

/// What a process hears of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The answer.
    Heard,
    /// Nothing, though it was carried out.
    Lost,
    /// Nothing, and it is still on its way.
    Late,
}

impl Action {
    /// Names of all kinds, by [`Action::kind`].
    pub const KINDS: [&'static str; 25] = [
        "Start",
        "Look",
        "Append",
        "Append, answer lost",
        "Append, late",
        "Sync",
        "Fence",
        "Read",
        "Hydrate",
        "Bind",
        "Commit",
        "Land",
        "Show",
        "Hear",
        "GiveUp",
        "StoreRoots",
        "Complete",
        "Retire",
        "Clean",
        "Arrive",
        "Crash",
        "PowerCut",
        "Damage",
        "Confirm",
        "Spool",
    ];

    /// Which kind it is.
    pub const fn kind(&self) -> usize {
        match self {
            Self::Start { .. } => 0,
            Self::Look { .. } => 1,
            Self::Append { answer: Answer::Heard, .. } => 2,
            Self::Append { answer: Answer::Lost, .. } => 3,
            Self::Append { answer: Answer::Late, .. } => 4,
            Self::Sync { .. } => 5,
            Self::Fence { .. } => 6,
            Self::Read { .. } => 7,
            Self::Hydrate { .. } => 8,
            Self::Bind { .. } => 9,
            Self::Commit { .. } => 10,
            Self::Land { .. } => 11,
            Self::Show { .. } => 12,
            Self::Hear { .. } => 13,
            Self::GiveUp { .. } => 14,
            Self::StoreRoots { .. } => 15,
            Self::Complete { .. } => 16,
            Self::Retire { .. } => 17,
            Self::Clean { .. } => 18,
            Self::Arrive { .. } => 19,
            Self::Crash { .. } => 20,
            Self::PowerCut { .. } => 21,
            Self::Damage => 22,
            Self::Confirm { .. } => 23,
            Self::Spool { .. } => 24,
        }
    }
}

/// As a line of a story: processes are A and B, sinks 0 and 1.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |w: &usize| (b'A' + *w as u8) as char;
        match self {
            Self::Start { w } => write!(f, "{} starts and reads the ledger", who(w)),
            Self::Look { w } => write!(f, "{} looks whose the sinks are", who(w)),
            Self::Append { w, answer: Answer::Heard } => write!(f, "{} appends", who(w)),
            Self::Append { w, answer: Answer::Lost } => write!(f, "{} appends, and the answer is lost", who(w)),
            Self::Append { w, answer: Answer::Late } => write!(f, "{} appends, and gives up while that is on its way", who(w)),
            Self::Confirm { w } => write!(f, "{} lists the ledger again", who(w)),
            Self::Sync { w } => write!(f, "{} syncs the ledger", who(w)),
            Self::Fence { w, sink } => write!(f, "{} fences sink {sink}", who(w)),
            Self::Read { w, sink } => write!(f, "{} reads the progress of sink {sink}", who(w)),
            Self::Hydrate { w } => write!(f, "{} loads a checkpoint and replays what was bound after it", who(w)),
            Self::Bind { w, records } => write!(f, "{} closes an epoch of {records}", who(w)),
            Self::Commit { w, sink } => write!(f, "{} sends a commit to sink {sink}", who(w)),
            Self::Land { sink, .. } => write!(f, "sink {sink} carries out the commit"),
            Self::Show { sink, .. } => write!(f, "sink {sink} shows the commit"),
            Self::Hear { w, sink } => write!(f, "{} hears from sink {sink}", who(w)),
            Self::GiveUp { w, sink } => write!(f, "{} gives up waiting for sink {sink}", who(w)),
            Self::StoreRoots { w } => write!(f, "{} stores the roots", who(w)),
            Self::Complete { w } => write!(f, "{} finds the checkpoint complete", who(w)),
            Self::Retire { w } => write!(f, "{} deletes what nobody needs", who(w)),
            Self::Clean { w } => write!(f, "{} deletes what a lower generation left", who(w)),
            Self::Arrive { .. } => write!(f, "an append that was given up arrives"),
            Self::Crash { w } => write!(f, "{} dies", who(w)),
            Self::PowerCut { keep } => write!(f, "the power fails, {keep} slots are left"),
            Self::Spool { w } => write!(f, "{} stores the records of the epoch", who(w)),
            Self::Damage => write!(f, "the newest checkpoint is damaged"),
        }
    }
}
