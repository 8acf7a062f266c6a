//! Bugs that a test may plant, each at the place of one decision, to see that the crash tests find it.
//!
//! Invariant: without the feature `testing` nothing can be planted and [`planted`] is a constant `false`. A bug is planted for the calling thread
//! only, so that tests beside it run on sound code; a pipeline that is stepped runs whole on one thread. Connectors have bugs of their own decisions here, too.

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
    /// A sink is given again the newest epoch that it holds.
    GateTooLow,
    /// A sink is not given the epoch after the newest that it holds.
    GateTooHigh,
    /// An epoch that a sink did not take is not given again.
    DropsWhatIsRefused,
    /// What a restored root holds already is added once more.
    RootHearsOld,
    /// Restored roots do not show their rows to what is derived from them.
    RootsStaySilent,
    /// An epoch is retired when the first sink holds it, not the last.
    RetiresTooEarly,
    /// A base leaves out the bindings of epochs that some sink lacks.
    BaseForgetsBindings,
    /// Bindings before and after a checkpoint are merged into one.
    MergesAcrossCheckpoint,
    /// The ledger's old entries are deleted before the base that replaces them is written.
    SweepsBeforeBase,
    /// An append that had happened, unanswered, is taken for somebody else's.
    OwnTakenForAnothers,
    /// A checkpoint counts before every sink holds its epoch.
    CheckpointBeforeSinks,
    /// Files of the older checkpoint are deleted when the newer one is written, not when it counts.
    SweepsTooEarly,
    /// Of a checkpoint only the files of its last changes are named.
    ManifestForgetsFiles,
    /// Files of older generations are deleted although a checkpoint needs them.
    CleansWhatIsNeeded,
    /// After a start what was bound is not read again.
    SkipsReplay,
    /// After a start partitions without a binding are read from where they began, not from where they stood.
    PositionsOfTheStart,
    /// After a start the mint goes on with the newest epoch that was bound, not with the next.
    MintReusesEpoch,
    /// A fetch that straddles the end of a binding goes into its epoch whole.
    FetchNotCut,
    /// A partition that has more to give and is not read counts as idle.
    IdleWithBacklog,
    /// A data set's files get their final names before the commit's record is written.
    RenamesBeforeCommit,
    /// A data set is opened without giving the files of the newest commit their names.
    NoRollForward,
    /// A data set is opened, and of the files that its newest commit left without their names only the first gets its own.
    RollsForwardOne,
    /// A data set's commit is recorded before its files are written.
    CommitBeforeData,
    /// Rows are committed, and their progress in a transaction after that.
    ProgressOutsideTransaction,
    /// What a sink holds is read before older writers are fenced, and not again.
    ReadBeforeFence,
    /// Progress of another ledger counts like one's own.
    LedgerIdIgnored,
    /// Retirement deletes the entries of older openings, too.
    GenerationRetired,
    /// After a start a partition that no run knew yet is read from its end.
    NewPartitionFromLatest,
    /// A commit whose answer was lost is done again without asking whether it happened.
    BlindRetry,
    /// A commit of a data set counts although a newer record is there, because the older ones that stood in its way were deleted.
    CommitsInAHole,
    /// A sink may commit before the rows that it leaves out are stored.
    CommitsUnstored,
    /// Letters count although their sink did not commit what it had told them of.
    BelievesWhatWasTold,
}

#[cfg(any(test, feature = "testing"))]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 36] = [
        Bug::FileNotSynced,
        Bug::NameNotSynced,
        Bug::OpenTrustsCache,
        Bug::LeavesUnbound,
        Bug::GateTooLow,
        Bug::GateTooHigh,
        Bug::DropsWhatIsRefused,
        Bug::RootHearsOld,
        Bug::RootsStaySilent,
        Bug::RetiresTooEarly,
        Bug::BaseForgetsBindings,
        Bug::MergesAcrossCheckpoint,
        Bug::SweepsBeforeBase,
        Bug::OwnTakenForAnothers,
        Bug::CheckpointBeforeSinks,
        Bug::SweepsTooEarly,
        Bug::ManifestForgetsFiles,
        Bug::CleansWhatIsNeeded,
        Bug::SkipsReplay,
        Bug::PositionsOfTheStart,
        Bug::MintReusesEpoch,
        Bug::FetchNotCut,
        Bug::IdleWithBacklog,
        Bug::RenamesBeforeCommit,
        Bug::NoRollForward,
        Bug::RollsForwardOne,
        Bug::CommitBeforeData,
        Bug::ProgressOutsideTransaction,
        Bug::ReadBeforeFence,
        Bug::LedgerIdIgnored,
        Bug::GenerationRetired,
        Bug::NewPartitionFromLatest,
        Bug::BlindRetry,
        Bug::CommitsInAHole,
        Bug::CommitsUnstored,
        Bug::BelievesWhatWasTold,
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
pub const fn planted(_: Bug) -> bool {
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
