//! A store that fails on purpose: at the n-th operation, before or after its effect, once or from then on.
//!
//! Invariant: whatever it answers, the store below is in a state that a real crash could leave, so a test that reopens the
//! store below sees what a restarted process would see.

use crate::error::{Error, Result};
use crate::store::{Store, Upload};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails and has no effect; later ones work.
    Refused,
    /// The operation has its effect and reports an error all the same; later ones work.
    Unanswered,
    /// The operation fails without effect, and so does every later one: the process is dead.
    CrashBefore,
    /// The operation has its effect, and everything after it fails.
    CrashAfter,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 4] = [Fault::Refused, Fault::Unanswered, Fault::CrashBefore, Fault::CrashAfter];

    /// Whether the process is dead afterwards.
    pub fn is_crash(self) -> bool {
        matches!(self, Fault::CrashBefore | Fault::CrashAfter)
    }
}

/// A store whose n-th operation (a write and a finish of an upload are operations too) goes wrong, or several.
#[derive(Clone, Debug)]
pub struct Faulty {
    below: Arc<dyn Store>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    done: AtomicU64,
    faults: Vec<(u64, Fault)>,
}

impl Faulty {
    /// Operation number `at`, counted from 1, meets `fault`.
    pub fn new(below: Arc<dyn Store>, at: u64, fault: Fault) -> Self {
        Self::with(below, vec![(at, fault)])
    }

    /// Each of these operations, counted from 1, meets its fault.
    pub fn with(below: Arc<dyn Store>, faults: Vec<(u64, Fault)>) -> Self {
        Self { below, plan: Arc::new(Plan { done: AtomicU64::new(0), faults }) }
    }

    /// Another store that counts its operations with this one, and dies with it.
    pub fn beside(&self, below: Arc<dyn Store>) -> Self {
        Self { below, plan: self.plan.clone() }
    }

    /// Whether the process is dead: nothing works any more.
    pub fn is_dead(&self) -> bool {
        self.plan.faults.iter().any(|(at, fault)| fault.is_crash() && self.operations() >= *at)
    }

    /// Operations tried so far.
    pub fn operations(&self) -> u64 {
        self.plan.done.load(Ordering::SeqCst)
    }
}

impl Plan {
    fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let n = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        let failed = || Error::external(format!("operation {n} failed on purpose"));
        if self.faults.iter().any(|(at, fault)| fault.is_crash() && *at < n) {
            return Err(failed());
        }
        match self.faults.iter().find(|(at, _)| *at == n).map(|(_, fault)| fault) {
            None => work(),
            Some(Fault::Unanswered | Fault::CrashAfter) => {
                work()?;
                Err(failed())
            }
            Some(Fault::Refused | Fault::CrashBefore) => Err(failed()),
        }
    }
}

impl Store for Faulty {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.plan.run(|| self.below.get(name))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        let upload = self.plan.run(|| self.below.put(name))?;
        Ok(Box::new(FaultyUpload { below: upload, plan: self.plan.clone() }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.plan.run(|| self.below.put_if_absent(name, bytes))
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.plan.run(|| self.below.publish(staged, name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.plan.run(|| self.below.list(folder))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.plan.run(|| self.below.delete(name))
    }
}

struct FaultyUpload {
    below: Box<dyn Upload>,
    plan: Arc<Plan>,
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        // an append that took bytes and reported none would break its contract: the file below does not do that either
        if self.plan.faults.iter().any(|(_, fault)| *fault == Fault::Unanswered) {
            return self.below.write(bytes);
        }
        self.plan.run(|| self.below.write(bytes))
    }

    fn finish(&mut self) -> Result<()> {
        self.plan.run(|| self.below.finish())
    }
}
