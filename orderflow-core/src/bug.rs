//! Bugs that a test may plant, each at the place of one decision, to see that the crash tests find it.
//!
//! Invariant: without the feature `testing` nothing can be planted and [`planted`] is a constant `false`. A bug is planted for the calling thread
//! only, so that tests beside it run on sound code; a pipeline that is stepped runs whole on one thread.

/// A bug, named by what the code would do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A file gets its name before its bytes are safe.
    FileNotSynced,
    /// A name counts as safe before its folder is.
    NameNotSynced,
    /// A folder is opened without making safe what a killed process had named in it.
    OpenTrustsCache,
    /// An epoch leaves before its binding is durable.
    LeavesUnbound,
    /// A sink is given again the newest epoch it holds.
    GateTooLow,
    /// A sink is not given the epoch after the newest it holds.
    GateTooHigh,
    /// What a restored root holds already is added once more.
    RootHearsOld,
    /// Restored roots do not show their rows to what is derived from them.
    RootsStaySilent,
    /// An epoch is retired when the first sink holds it, not the last.
    RetiresTooEarly,
    /// A base forgets the bindings of epochs that some sink lacks.
    BaseForgetsBindings,
    /// A checkpoint counts before every sink holds its epoch.
    CheckpointBeforeSinks,
    /// Files of the older checkpoint go when the newer one is written, not when it counts.
    SweepsTooEarly,
    /// Of a checkpoint only what changed last is named.
    ManifestForgetsFiles,
    /// Files of lower generations are deleted although a checkpoint needs them.
    CleansWhatIsNeeded,
    /// An append that was tried again is taken for somebody else's.
    OwnTakenForAnothers,
    /// A slot of the ledger that somebody else has is taken for one's own.
    AnothersTakenForOwn,
    /// After a start reading goes on where the newest binding ends, as if what it names were in the sinks.
    SkipsReplay,
    /// A fetch that straddles the end of a binding goes whole into its epoch.
    FetchNotCut,
    /// What was read is not compared with what was bound.
    FingerprintIgnored,
    /// A commit's files are renamed before its record is written.
    RenamesBeforeCommit,
    /// A data set reads its progress before it takes the next slot from older writers, and trusts it though it lost.
    ReadsBeforeFence,
    /// A data set is opened without giving the newest commit's files their names.
    NoRollForward,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 22] = [
        Bug::FileNotSynced,
        Bug::NameNotSynced,
        Bug::OpenTrustsCache,
        Bug::LeavesUnbound,
        Bug::GateTooLow,
        Bug::GateTooHigh,
        Bug::RootHearsOld,
        Bug::RootsStaySilent,
        Bug::RetiresTooEarly,
        Bug::BaseForgetsBindings,
        Bug::CheckpointBeforeSinks,
        Bug::SweepsTooEarly,
        Bug::ManifestForgetsFiles,
        Bug::CleansWhatIsNeeded,
        Bug::OwnTakenForAnothers,
        Bug::AnothersTakenForOwn,
        Bug::SkipsReplay,
        Bug::FetchNotCut,
        Bug::FingerprintIgnored,
        Bug::RenamesBeforeCommit,
        Bug::ReadsBeforeFence,
        Bug::NoRollForward,
    ];
}

#[cfg(any(test, feature = "testing"))]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether the code is to do this wrong.
#[cfg(any(test, feature = "testing"))]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether the code is to do this wrong: never.
#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Runs `work` on this thread with the bug planted; it is gone afterwards, also if `work` panics.
#[cfg(any(test, feature = "testing"))]
pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
    struct Gone;
    impl Drop for Gone {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
    PLANTED.set(Some(bug));
    let _gone = Gone;
    work()
}
