//! A store that fails on purpose: at the n-th operation, before or after its effect, once or from then on.
//!
//! Invariant: whatever it answers, the store below is in a state that a real crash could leave, so a test that reopens the
//! store below sees what a restarted process would see.

use crate::error::{Error, Result};
use crate::store::{Store, Upload};
use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    tried: Mutex<Vec<(String, Option<Fault>)>>,
    faults: Vec<(u64, Fault)>,
    /// Before which operation the process is paused.
    pause: Mutex<Option<u64>>,
}

std::thread_local! {
    /// What others do during the pause.
    static MEANWHILE: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

/// What an operation of a connector of somebody's own is called.
const UNNAMED: &str = "act";

/// What operations on objects that lie in no folder are said to be on.
pub(super) const TOP: &str = "top";

/// The folder that an object lies in.
fn room(name: &str) -> &str {
    name.split_once('/').map_or(TOP, |(room, _)| room)
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
        Self(Arc::new(Plan { faults, ..Plan::default() }))
    }

    /// Whether the process is dead: nothing works any more.
    pub fn is_dead(&self) -> bool {
        self.0.faults.iter().any(|(at, fault)| fault.is_crash() && self.operations() >= *at)
    }

    /// Operations tried so far.
    pub fn operations(&self) -> u64 {
        self.tried_so_far().len() as u64
    }

    /// Operations tried so far, in order: what each was (`put_if_absent ledger`, `finish roots`, `commit of a table`), and the fault that was planned for it. What
    /// fails because the process is dead already met none.
    pub fn tried(&self) -> Vec<(String, Option<Fault>)> {
        self.tried_so_far().clone()
    }

    fn tried_so_far(&self) -> MutexGuard<'_, Vec<(String, Option<Fault>)>> {
        // a panic elsewhere cannot leave it half changed: every change is one call
        self.0.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something happens whose answer is lost while the process lives on.
    fn loses_answers(&self) -> bool {
        self.0.faults.iter().any(|(_, fault)| *fault == Fault::Unanswered)
    }

    /// Pauses the process before its first operation from number `at` on, and lets others do something `meanwhile`: what it was about to do it does late. On the
    /// calling thread one process can wait for its pause at a time.
    pub(crate) fn pause(&self, at: u64, meanwhile: impl FnOnce() + 'static) {
        MEANWHILE.set(Some(Box::new(meanwhile)));
        *self.0.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn pause_if_due(&self, n: u64) {
        let due = self.0.pause.lock().unwrap_or_else(PoisonError::into_inner).take_if(|at| *at <= n).is_some();
        if due && let Some(meanwhile) = MEANWHILE.take() {
            meanwhile();
        }
    }

    /// Counts an operation and says what it meets: for calls that [`Fate::run`] cannot wrap. After a death it is always [`Fault::CrashBefore`].
    pub fn next_fault(&self) -> Option<Fault> {
        self.count(UNNAMED.to_owned()).1
    }

    fn count(&self, what: String) -> (u64, Option<Fault>) {
        let mut tried = self.tried_so_far();
        let n = tried.len() as u64 + 1;
        let dead = self.0.faults.iter().any(|(at, fault)| fault.is_crash() && *at < n);
        let now = self.0.faults.iter().find(|(at, _)| *at == n).map(|(_, fault)| *fault);
        tried.push((what, now.filter(|_| !dead)));
        (n, if dead { Some(Fault::CrashBefore) } else { now })
    }

    /// Does the next operation, or what fate makes of it.
    ///
    /// # Errors
    /// Those of `work`, and the one of the fault, which may be tried again.
    pub fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.run_as(UNNAMED, work)
    }

    /// The same for an operation with a name, by which [`Fate::tried`] knows it.
    ///
    /// # Errors
    /// As [`Fate::run`].
    pub fn run_as<T>(&self, what: impl Into<String>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.meet(what.into(), work, |n| Error::external(format!("operation {n} failed on purpose")))
    }

    /// The same with errors of any kind; `failed` makes that of operation n.
    pub(crate) fn meet<T, E>(&self, what: String, work: impl FnOnce() -> Result<T, E>, failed: impl Fn(u64) -> E) -> Result<T, E> {
        let (n, fault) = self.count(what);
        self.pause_if_due(n);
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
        self.fate.run_as(format!("get {}", room(name)), || self.below.get(name))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        let room = room(name).to_owned();
        let below = self.fate.run_as(format!("put {room}"), || self.below.put(name))?;
        Ok(Box::new(FaultyUpload { below, room, fate: self.fate.clone() }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.fate.run_as(format!("put_if_absent {}", room(name)), || self.below.put_if_absent(name, bytes))
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.fate.run_as(format!("publish {}", room(name)), || self.below.publish(staged, name))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.fate.run_as(format!("list {}", room(folder)), || self.below.list(folder))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.fate.run_as(format!("delete {}", room(name)), || self.below.delete(name))
    }
}

struct FaultyUpload {
    below: Box<dyn Upload>,
    room: String,
    fate: Fate,
}

impl Upload for FaultyUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        // an append that took bytes and reported none would break its contract: the file below does not do that either
        if self.fate.loses_answers() {
            return self.below.write(bytes);
        }
        self.fate.run_as(format!("write {}", self.room), || self.below.write(bytes))
    }

    fn finish(&mut self) -> Result<()> {
        self.fate.run_as(format!("finish {}", self.room), || self.below.finish())
    }
}
