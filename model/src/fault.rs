//! Planted bugs of the protocol: a model that cannot fail proves nothing.
//!
//! Invariant: each fault changes one decision of the writer or one promise of the world, and no fault is planted unless
//! [`Params::fault`](crate::Params) names it.

/// One deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Output leaves before its binding is in the ledger.
    LedgerAfterOutput,
    /// A local append counts as durable before it is synced.
    NoSync,
    /// A local opening believes what it reads and does not sync it before it goes on.
    OpenTrustsCache,
    /// The gate lets the newest epoch a sink holds through again.
    GateTooLow,
    /// The gate drops the epoch after the newest a sink holds.
    GateTooHigh,
    /// The gate takes an epoch of which a sink holds a part for held.
    GateForgetsParts,
    /// The data is committed, then the progress in a second act.
    DataThenProgress,
    /// The progress is committed, then the data in a second act.
    ProgressThenData,
    /// A sink's progress is read before older writers are fenced.
    ReadBeforeFence,
    /// Fencing does not wait until a commit that was decided can be seen.
    FenceDoesNotSettle,
    /// The sink takes commits of any generation.
    SinkDoesNotFence,
    /// Progress of another ledger counts like one's own.
    LedgerIdIgnored,
    /// A sink is fenced before anybody looked whose it is.
    FenceBeforeLook,
    /// The look before fencing already judges epochs against a ledger that was read earlier.
    LookJudgesEpochs,
    /// Whoever finds that something does not fit refuses, without looking whether it was overtaken.
    RefusesWhenOvertaken,
    /// A generation counts as won by its record alone, though its slot may be one that retirement had freed.
    WonInAHole,
    /// Retiring deletes old generation records too.
    GenerationRetired,
    /// A root takes what is sent to it at times at or below the checkpoint it was loaded from.
    RootHearsAll,
    /// A commit whose answer was lost is sent again without opening the sink again.
    BlindRetry,
    /// "Already exists" is never one's own.
    OwnTakenForAnothers,
    /// "Already exists" is always one's own.
    AnothersTakenForOwn,
    /// An append whose answer was lost is tried again with other content under the same nonce.
    RetryWithOtherContent,
    /// A checkpoint is complete before the sinks have committed.
    CheckpointBeforeSinks,
    /// Bindings are retired up to the newest checkpoint instead of the older one.
    RetirePastOlder,
    /// Bindings are retired up to the fastest sink.
    RetirePastSink,
    /// Leftovers of lower generations are deleted before the generation is won.
    CleanBeforeWinning,
    /// Leftovers of any other generation are deleted, not of lower ones only.
    CleanAnyGeneration,
    /// Leftovers are deleted before the sinks have been judged.
    CleanBeforeJudging,
    /// A binding is in the ledger before the records that its source cannot give again are stored.
    EntryBeforeSpool,
    /// The host is told that records are safe when they are stored, though no binding names them yet.
    AcknowledgeBeforeEntry,
    /// Stored records are deleted up to the newest checkpoint instead of the older one.
    SpoolDroppedAtNewest,
}

impl Fault {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::LedgerAfterOutput,
        Self::NoSync,
        Self::OpenTrustsCache,
        Self::GateTooLow,
        Self::GateTooHigh,
        Self::GateForgetsParts,
        Self::DataThenProgress,
        Self::ProgressThenData,
        Self::ReadBeforeFence,
        Self::FenceDoesNotSettle,
        Self::SinkDoesNotFence,
        Self::LedgerIdIgnored,
        Self::FenceBeforeLook,
        Self::LookJudgesEpochs,
        Self::RefusesWhenOvertaken,
        Self::WonInAHole,
        Self::GenerationRetired,
        Self::RootHearsAll,
        Self::BlindRetry,
        Self::OwnTakenForAnothers,
        Self::AnothersTakenForOwn,
        Self::RetryWithOtherContent,
        Self::CheckpointBeforeSinks,
        Self::RetirePastOlder,
        Self::RetirePastSink,
        Self::CleanBeforeWinning,
        Self::CleanAnyGeneration,
        Self::CleanBeforeJudging,
        Self::EntryBeforeSpool,
        Self::AcknowledgeBeforeEntry,
        Self::SpoolDroppedAtNewest,
    ];
}
