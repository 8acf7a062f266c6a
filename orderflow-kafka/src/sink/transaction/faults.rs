//! Commits that a test lets fail, between a lane's thread and librdkafka.
//!
//! Invariant: only the next commit fails: it does nothing, or all and its answer is lost. Its writer hears of it when whoever let it fail knows, so that a test
//! may go on before or after that.

use crate::ffi::Refusal;
use orderflow_core::testing::conformance::Fault;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long a commit that failed waits until somebody asks for it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
enum Plan {
    #[default]
    Sound,
    /// The next commit fails in this way, and its writer is told this.
    Fails(Fault, Refusal),
    /// It has failed, and nobody knows yet.
    Failed,
}

/// How the next commit of a sink ends, shared by all its openings and by whoever lets it fail.
#[derive(Clone, Debug, Default)]
pub(in crate::sink) struct Faults(Arc<(Mutex<Plan>, Condvar)>);

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.0.lock().unwrap()
    }

    /// Lets the next commit fail. Its writer is told to abort the transaction or, without `abort`, that nobody knows what became of it.
    pub(super) fn at_the_next_commit(&self, fault: Fault, abort: bool) {
        let refusal = Refusal { code: Code::InvalidTransactionalState, text: "the commit failed on purpose".into(), again: false, abort };
        *self.plan() = Plan::Fails(fault, refusal);
    }

    /// Whether a commit has failed since this was last asked.
    pub(super) fn has_failed(&self) -> bool {
        let mut plan = self.plan();
        let failed = matches!(*plan, Plan::Failed);
        if failed {
            *plan = Plan::Sound;
            self.0.1.notify_all();
        }
        failed
    }

    /// Commits, unless it is to fail.
    pub(super) fn commit(&self, commit: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
        let plan = std::mem::take(&mut *self.plan());
        let Plan::Fails(fault, refusal) = plan else { return commit() };
        if fault == Fault::After {
            commit()?;
        }
        let mut plan = self.plan();
        *plan = Plan::Failed;
        drop(self.0.1.wait_timeout_while(plan, PATIENCE, |plan| matches!(plan, Plan::Failed)).unwrap());
        Err(refusal)
    }
}
