//! Each planted bug is found: a model that cannot fail proves nothing. `-- --nocapture` prints the shortest story of each.

use orderflow_model::{Broken, Fault, Law, Params, Past, Protocol, Violation};

/// A small world in which a bug must show, and the law it breaks there first.
fn place(fault: Fault) -> (Params, Law) {
    let (local, shared, sink) = (Params::local(), Params::shared(), Params::sink());
    let meeting = Params { timeouts: 0, ..Params::takeover() };
    match fault {
        Fault::LedgerAfterOutput => (sink, Law::Refusal),
        Fault::NoSync => (local, Law::Refusal),
        Fault::OpenTrustsCache => (local, Law::Refusal),
        Fault::GateTooLow => (sink, Law::Twice),
        Fault::GateTooHigh => (sink, Law::Gap),
        Fault::GateForgetsParts => (sink, Law::Gap),
        Fault::DataThenProgress => (sink, Law::Twice),
        Fault::ProgressThenData => (sink, Law::Gap),
        Fault::ReadBeforeFence => (shared, Law::Twice),
        Fault::FenceDoesNotSettle => (sink, Law::Twice),
        Fault::SinkDoesNotFence => (shared, Law::Twice),
        Fault::LedgerIdIgnored => (Params::lost(Past::Swapped), Law::Unchanged),
        Fault::FenceBeforeLook => (Params::lost(Past::Swapped), Law::Unchanged),
        Fault::LookJudgesEpochs => (shared, Law::Refusal),
        Fault::RefusesWhenOvertaken => (shared, Law::Refusal),
        Fault::WonInAHole => (meeting, Law::Refusal),
        Fault::GenerationRetired => (meeting, Law::Refusal),
        Fault::RootHearsAll => (sink, Law::Replay),
        Fault::BlindRetry => (sink, Law::Twice),
        Fault::OwnTakenForAnothers => (sink, Law::Complete),
        Fault::AnothersTakenForOwn => (shared, Law::Kept),
        Fault::RetryWithOtherContent => (sink, Law::Binding),
        Fault::CheckpointBeforeSinks => (local, Law::Gap),
        Fault::RetirePastOlder => (sink, Law::Kept),
        Fault::RetirePastSink => (local, Law::Kept),
        Fault::CleanBeforeWinning => (shared, Law::Kept),
        Fault::CleanAnyGeneration => (shared, Law::Kept),
        Fault::CleanBeforeJudging => (Params::lost(Past::Wiped), Law::Unchanged),
        Fault::EntryBeforeSpool | Fault::AcknowledgeBeforeEntry => (Params::spooled(), Law::Kept),
        Fault::SpoolDroppedAtNewest => (Params { writers: 1, ..Params::spooled() }, Law::Kept),
    }
}

#[test]
fn every_planted_bug_is_found() {
    for &fault in Fault::ALL {
        let (params, law) = place(fault);
        let world = Protocol::new(params.with(fault));
        let found = world.explore(1).counterexample.unwrap_or_else(|| panic!("{fault:?} goes unseen"));
        println!("{fault:?}: {found}");
        assert_eq!(found.law, law, "{fault:?}: {found}");
        let last = found.run.len() - 1;
        assert_eq!(world.replay(&found.run), Err(Violation { step: last, what: Broken::Law(law) }), "{fault:?}");
        // the same run of the sound protocol breaks nothing, as far as it is possible there
        let sound = Protocol::new(params).replay(&found.run);
        assert!(!matches!(sound, Err(Violation { what: Broken::Law(_), .. })), "{fault:?}: {sound:?}");
    }
}
