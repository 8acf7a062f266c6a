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

/// A store whose n-th operation (a write and a finish of an upload are operations too) goes wrong.
#[derive(Clone, Debug)]
pub struct Faulty {
    below: Arc<dyn Store>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    done: AtomicU64,
    at: u64,
    fault: Fault,
}

impl Faulty {
    /// Operation number `at`, counted from 1, meets `fault`.
    pub fn new(below: Arc<dyn Store>, at: u64, fault: Fault) -> Self {
        Self { below, plan: Arc::new(Plan { done: AtomicU64::new(0), at, fault }) }
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
        match n.cmp(&self.at) {
            std::cmp::Ordering::Less => work(),
            std::cmp::Ordering::Greater if self.fault.is_crash() => Err(failed()),
            std::cmp::Ordering::Greater => work(),
            std::cmp::Ordering::Equal if matches!(self.fault, Fault::Unanswered | Fault::CrashAfter) => {
                work()?;
                Err(failed())
            }
            std::cmp::Ordering::Equal => Err(failed()),
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
        match self.plan.fault {
            Fault::Unanswered => self.below.write(bytes),
            _ => self.plan.run(|| self.below.write(bytes)),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.plan.run(|| self.below.finish())
    }
}
