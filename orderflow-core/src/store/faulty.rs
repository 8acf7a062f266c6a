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

/// What is to go wrong in one life of a process, by the number of the operation, counted from 1 over everything that shares it.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    done: AtomicU64,
    faults: Vec<(u64, Fault)>,
}

/// A store whose n-th operation (a write and a finish of an upload are operations too) goes wrong, or several.
#[derive(Clone, Debug)]
pub struct Faulty {
    below: Arc<dyn Store>,
    fate: Fate,
}

impl Faulty {
    /// Operation number `at`, counted from 1, meets `fault`.
    pub fn new(below: Arc<dyn Store>, at: u64, fault: Fault) -> Self {
        Self::with(below, vec![(at, fault)])
    }

    /// Each of these operations, counted from 1, meets its fault.
    pub fn with(below: Arc<dyn Store>, faults: Vec<(u64, Fault)>) -> Self {
        Self::of(below, &Fate::new(faults))
    }

    /// A store that shares the fate of others.
    pub fn of(below: Arc<dyn Store>, fate: &Fate) -> Self {
        Self { below, fate: fate.clone() }
    }

    /// Another store that counts its operations with this one, and dies with it.
    pub fn beside(&self, below: Arc<dyn Store>) -> Self {
        Self::of(below, &self.fate)
    }

    /// Whether the process is dead: nothing works any more.
    pub fn is_dead(&self) -> bool {
        self.fate.is_dead()
    }

    /// Operations tried so far.
    pub fn operations(&self) -> u64 {
        self.fate.operations()
    }
}

impl Fate {
    /// Each of these operations, counted from 1, meets its fault.
    pub fn new(faults: Vec<(u64, Fault)>) -> Self {
        Self(Arc::new(Plan { done: AtomicU64::new(0), faults }))
    }

    /// Whether the process is dead: nothing works any more.
    pub fn is_dead(&self) -> bool {
        self.0.faults.iter().any(|(at, fault)| fault.is_crash() && self.operations() >= *at)
    }

    /// Operations tried so far.
    pub fn operations(&self) -> u64 {
        self.0.done.load(Ordering::SeqCst)
    }

    /// Whether something happens whose answer is lost while the process lives on.
    fn loses_answers(&self) -> bool {
        self.0.faults.iter().any(|(_, fault)| *fault == Fault::Unanswered)
    }

    /// Counts an operation and says what it meets: for calls that [`Fate::run`] cannot wrap. After a death it is always [`Fault::CrashBefore`].
    pub fn next_fault(&self) -> Option<Fault> {
        self.count().1
    }

    fn count(&self) -> (u64, Option<Fault>) {
        let n = self.0.done.fetch_add(1, Ordering::SeqCst) + 1;
        let dead = self.0.faults.iter().any(|(at, fault)| fault.is_crash() && *at < n);
        let now = self.0.faults.iter().find(|(at, _)| *at == n).map(|(_, fault)| *fault);
        (n, if dead { Some(Fault::CrashBefore) } else { now })
    }

    /// Does the next operation, or what fate makes of it.
    ///
    /// # Errors
    /// Those of `work`, and the one of the fault, which may be tried again.
    pub fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.meet(work, |n| Error::external(format!("operation {n} failed on purpose")))
    }

    /// The same with errors of any kind; `failed` makes that of operation n.
    pub(crate) fn meet<T, E>(&self, work: impl FnOnce() -> Result<T, E>, failed: impl Fn(u64) -> E) -> Result<T, E> {
        let (n, fault) = self.count();
        match fault {
            None => work(),
            Some(Fault::Unanswered | Fault::CrashAfter) => {
                work()?;
                Err(failed(n))
            }
            Some(Fault::Refused | Fault::CrashBefore) => Err(failed(n)),
        }
    }
}

impl Store for Faulty {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.fate.run(|| self.below.get(name))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        let upload = self.fate.run(|| self.below.put(name))?;
        Ok(Box::new(FaultyUpload { below: upload, fate: self.fate.clone() }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.fate.run(|| self.below.put_if_absent(name, bytes))
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.fate.run(|| self.below.publish(staged, name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.fate.run(|| self.below.list(folder))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.fate.run(|| self.below.delete(name))
    }
}

struct FaultyUpload {
    below: Box<dyn Upload>,
    fate: Fate,
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        // an append that took bytes and reported none would break its contract: the file below does not do that either
        if self.fate.loses_answers() {
            return self.below.write(bytes);
        }
        self.fate.run(|| self.below.write(bytes))
    }

    fn finish(&mut self) -> Result<()> {
        self.fate.run(|| self.below.finish())
    }
}
