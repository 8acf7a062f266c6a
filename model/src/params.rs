//! How large a world is explored, where it begins, and which bug is planted in it.
//!
//! Invariant: every parameter bounds something that would otherwise go on for ever, so that each world is finite and every
//! run through it ends. What an exploration shows holds for its parameters; nothing in the protocol depends on their size.

use crate::fault::Fault;

/// Where the ledger lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// A folder behind a lock: one process at a time; an append is volatile until it is synced, and a power cut loses what was not.
    Local,
    /// A store that many processes reach: an append that was answered is durable; an answer may be lost, and a request may arrive late.
    Shared,
}

/// What is there before anybody starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Past {
    /// Nothing.
    Fresh,
    /// One's own ledger with two epochs and a checkpoint, and a sink that another ledger writes to.
    Swapped,
    /// One's own ledger, rolled back by an epoch that a sink holds.
    RolledBack,
    /// The same, and the sink was fenced by generations that the ledger does not know any more.
    RolledFarBack,
    /// One's own ledger, and a sink that has lost what the ledger remembers of it.
    Wiped,
}

/// A world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Where the ledger lies.
    pub storage: Storage,
    /// What is there before.
    pub past: Past,
    /// Writers that may run; above one only on a shared store.
    pub writers: usize,
    /// Sinks.
    pub sinks: usize,
    /// Records of the source's one partition.
    pub records: u16,
    /// Most records of one epoch; the mint may close it at any number up to here.
    pub epoch_records: u16,
    /// Whether the first sink takes an epoch in parts of one record.
    pub parts: bool,
    /// Whether the last sink takes only records at odd positions, so that epochs may be empty for it.
    pub filter: bool,
    /// Whether a commit that was decided is seen only some time later.
    pub two_steps: bool,
    /// Crashes of a process or of the machine.
    pub crashes: u16,
    /// Answers that are lost.
    pub timeouts: u16,
    /// Files of the newest checkpoint that turn out to be damaged.
    pub damages: u16,
    /// Root files that are written, so how often a checkpoint begins.
    pub checkpoints: u16,
    /// Whether the source gives every record once: its host forgets what is acknowledged, and records are stored before their binding.
    pub spooled: bool,
    /// The planted bug.
    pub fault: Option<Fault>,
}

impl Params {
    /// One process on a local folder that dies twice, by kill or by a power cut; two sinks, one of which sees every second record.
    pub const fn local() -> Self {
        Self {
            storage: Storage::Local,
            past: Past::Fresh,
            writers: 1,
            sinks: 2,
            records: 3,
            epoch_records: 2,
            parts: false,
            filter: true,
            two_steps: false,
            crashes: 2,
            timeouts: 0,
            damages: 1,
            checkpoints: 3,
            spooled: false,
            fault: None,
        }
    }

    /// Two processes on a shared store, the newer of which takes over at any moment while the older goes on, or sleeps and goes on later.
    pub const fn shared() -> Self {
        Self {
            storage: Storage::Shared,
            past: Past::Fresh,
            writers: 2,
            sinks: 2,
            records: 2,
            epoch_records: 2,
            parts: false,
            filter: false,
            two_steps: false,
            crashes: 0,
            timeouts: 1,
            damages: 0,
            checkpoints: 2,
            spooled: false,
            fault: None,
        }
    }

    /// Two processes on a shared store again, with one sink and one record more, so that the newer may retire several times.
    pub const fn takeover() -> Self {
        Self { sinks: 1, records: 3, ..Self::shared() }
    }

    /// Two processes and one sink that shows commits late, while either process may die and a checkpoint may be damaged.
    pub const fn handover() -> Self {
        Self { sinks: 1, two_steps: true, crashes: 1, timeouts: 0, damages: 1, ..Self::shared() }
    }

    /// Two processes that read what a host sends again after a crash, as far as it has not forgotten it; a checkpoint may be damaged.
    pub const fn spooled() -> Self {
        Self { sinks: 1, spooled: true, crashes: 1, timeouts: 0, damages: 1, ..Self::shared() }
    }

    /// One process and one sink with everything that can go wrong between the two: parts, decided commits seen late, lost answers, crashes.
    pub const fn sink() -> Self {
        Self {
            storage: Storage::Shared,
            past: Past::Fresh,
            writers: 1,
            sinks: 1,
            records: 3,
            epoch_records: 2,
            parts: true,
            filter: false,
            two_steps: true,
            crashes: 1,
            timeouts: 1,
            damages: 1,
            checkpoints: 2,
            spooled: false,
            fault: None,
        }
    }

    /// State and sinks that do not belong together: whoever opens them must refuse.
    pub const fn lost(past: Past) -> Self {
        Self { past, records: 3, epoch_records: 1, crashes: 1, timeouts: 1, ..Self::shared() }
    }

    /// The same world with a bug.
    pub const fn with(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// How sink `sink` gets records `from..to`: pieces that are committed alone, as (part, from, to); none if it wants none of them.
    pub(crate) fn pieces(&self, sink: usize, from: u16, to: u16) -> impl Iterator<Item = (u16, u16, u16)> + use<> {
        let wanted = (from..to).any(|record| self.wants(sink, record));
        let size = if self.parts && sink == 0 { 1 } else { (to - from).max(1) };
        let parts = if wanted { (to - from) / size } else { 0 };
        (0..parts).map(move |part| (part, from + part * size, from + (part + 1) * size))
    }

    /// Whether sink `sink` takes `record`.
    pub(crate) fn wants(&self, sink: usize, record: u16) -> bool {
        !self.filter || sink + 1 != self.sinks || record % 2 == 1
    }
}
