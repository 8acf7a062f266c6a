//! A machine with a disk that forgets: what was not synced may be gone after the power was cut, each write and each name by itself.
//!
//! ```text
//!   write ──► cache ──sync of the file──► disk           name, rename, remove ──► cache ──sync of the folder──► disk
//! ```
//! After a power cut, from a seed: of the writes to a file that were not synced each is there, there in part, zeros, or missing; of the
//! changes of names that no folder was synced for, each is there or not, whatever came before or after it. A process that is killed leaves the cache as it is.
//! Invariant: a rename is one change, as on every file system with a journal; everything else may be torn apart.

use super::disk::{Disk, DiskFile, Lock};
use super::faulty::{Fate, TOP};
use crate::error::Result;
use crate::store::Folder;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Volatile(Arc<Mutex<Machine>>);

#[derive(Debug)]
struct Machine {
    nodes: Vec<Node>,
    /// Changes of names that may be lost, the oldest first.
    pending: Vec<Vec<Change>>,
    locks: BTreeSet<PathBuf>,
    cuts: u64,
}

#[derive(Debug)]
enum Node {
    File { bytes: Vec<u8>, safe: usize, writes: Vec<usize> },
    Folder { now: BTreeMap<OsString, usize>, safe: BTreeMap<OsString, usize> },
}

/// In this folder, this name is now that node's, or nobody's.
#[derive(Clone, Debug)]
struct Change {
    folder: usize,
    name: OsString,
    node: Option<usize>,
}

const ROOT: usize = 0;

impl Default for Machine {
    fn default() -> Self {
        Self { nodes: vec![Node::empty_folder()], pending: vec![], locks: BTreeSet::new(), cuts: 0 }
    }
}

impl Node {
    fn empty_folder() -> Self {
        Node::Folder { now: BTreeMap::new(), safe: BTreeMap::new() }
    }
}

impl Volatile {
    /// A machine with an empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a folder on it as a process of this fate does: every call to the disk is an operation.
    ///
    /// # Errors
    /// As [`Folder::open`], and what fate says.
    pub fn open(&self, root: impl Into<PathBuf>, fate: &Fate) -> Result<Folder> {
        Folder::on(Arc::new(Process { machine: self.clone(), fate: fate.clone() }), root.into())
    }

    /// The power fails and comes back; what is lost is drawn from `seed`. No process may be running.
    pub fn cut_power(&self, seed: u64) {
        self.machine().cut_power(&mut Draw(seed));
    }

    /// How often the power was cut.
    pub fn power_cuts(&self) -> u64 {
        self.machine().cuts
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // a panic elsewhere cannot leave it half changed: nothing in here panics
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers that look random, the same for the same seed on every machine: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`; 0 if there is none.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

impl Machine {
    fn find(&self, path: &Path) -> io::Result<usize> {
        path.components().try_fold(ROOT, |at, part| match (part, &self.nodes[at]) {
            (Component::Normal(name), Node::Folder { now, .. }) => now.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into()),
            (Component::Normal(_), Node::File { .. }) => Err(ErrorKind::NotADirectory.into()),
            _ => Ok(at),
        })
    }

    /// The folder that holds a name.
    fn place(&self, path: &Path) -> io::Result<(usize, OsString)> {
        let folder = self.find(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().map(OsStr::to_owned).ok_or(ErrorKind::InvalidInput)?;
        self.names(folder)?;
        Ok((folder, name))
    }

    fn names(&self, folder: usize) -> io::Result<&BTreeMap<OsString, usize>> {
        match &self.nodes[folder] {
            Node::Folder { now, .. } => Ok(now),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Names something that is new, if nothing has the name.
    fn name_new(&mut self, path: &Path, node: impl FnOnce(&mut Vec<Node>) -> io::Result<usize>) -> io::Result<usize> {
        let (folder, name) = self.place(path)?;
        if self.names(folder)?.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let node = node(&mut self.nodes)?;
        self.change(vec![Change { folder, name, node: Some(node) }]);
        Ok(node)
    }

    /// Changes names at once for everybody who looks; on the disk perhaps never.
    fn change(&mut self, changes: Vec<Change>) {
        changes.iter().for_each(|c| self.apply(c, false));
        self.pending.push(changes);
    }

    fn apply(&mut self, change: &Change, on_disk: bool) {
        let Node::Folder { now, safe } = &mut self.nodes[change.folder] else { return };
        let names = if on_disk { safe } else { now };
        match change.node {
            Some(node) => names.insert(change.name.clone(), node),
            None => names.remove(&change.name),
        };
    }

    fn sync_folder(&mut self, folder: usize) {
        let (mut rest, mut gone) = (vec![], vec![]);
        // a change that is safe settles older ones of the same name
        for mut changes in std::mem::take(&mut self.pending).into_iter().rev() {
            if changes.iter().any(|c| c.folder == folder) {
                gone.push(changes);
            } else {
                changes.retain(|c| !gone.iter().flatten().any(|g| (g.folder, &g.name) == (c.folder, &c.name)));
                rest.push(changes);
            }
        }
        gone.iter().rev().flatten().for_each(|c| self.apply(c, true));
        rest.reverse();
        self.pending = rest;
    }

    fn cut_power(&mut self, draw: &mut Draw) {
        self.cuts += 1;
        self.locks.clear();
        for changes in std::mem::take(&mut self.pending) {
            if draw.below(2) == 0 {
                changes.iter().for_each(|c| self.apply(c, true));
            }
        }
        for node in &mut self.nodes {
            match node {
                Node::Folder { now, safe } => now.clone_from(safe),
                Node::File { bytes, safe, writes } => {
                    let (mut from, mut length) = (*safe, *safe);
                    for to in std::mem::take(writes) {
                        let there = match draw.below(4) {
                            0 => to - from,
                            1 => draw.below((to - from) as u64) as usize,
                            _ => 0,
                        };
                        bytes[from + there..to].fill(0);
                        // the length is a change of its own: it may say more than arrived, and a later write may be there behind a hole
                        let reached = if draw.below(2) == 0 { to } else { from + there };
                        length = if reached > from { reached } else { length };
                        from = to;
                    }
                    bytes.truncate(length);
                    *safe = bytes.len();
                }
            }
        }
    }
}

/// A process that uses the machine's disk, and dies by its fate.
#[derive(Clone, Debug)]
struct Process {
    machine: Volatile,
    fate: Fate,
}

impl Process {
    /// A call about a file, named by the folder of the store that it lies in.
    fn run<T>(&self, call: &str, path: &Path, work: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        self.call(call, path.parent().unwrap_or(path), work)
    }

    /// A call about this folder, or about something in it.
    fn call<T>(&self, call: &str, folder: &Path, work: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        let room = folder.iter().nth(1).and_then(OsStr::to_str).unwrap_or(TOP);
        let failed = |n: u64| io::Error::other(format!("call {n} to the disk failed on purpose"));
        self.fate.meet(format!("disk: {call} {room}"), || work(&mut self.machine.machine()), failed)
    }
}

impl Disk for Process {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.run("create", path, |m| {
            m.name_new(path, |nodes| {
                nodes.push(Node::File { bytes: vec![], safe: 0, writes: vec![] });
                Ok(nodes.len() - 1)
            })
        })?;
        Ok(Box::new(OpenFile { process: self.clone(), path: path.to_owned(), node }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.run("read", path, |m| match &m.nodes[m.find(path)?] {
            Node::File { bytes, .. } => Ok(bytes.clone()),
            Node::Folder { .. } => Err(ErrorKind::IsADirectory.into()),
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.run("exists", path, |m| match m.find(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true),
        })
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.call("is_folder", path, |m| m.find(path).map(|node| matches!(m.nodes[node], Node::Folder { .. }))).unwrap_or(false)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.call("make_folder", path, |m| {
            m.name_new(path, |nodes| {
                nodes.push(Node::empty_folder());
                Ok(nodes.len() - 1)
            })
            .map(drop)
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        self.call("list", path, |m| {
            let names = m.names(m.find(path)?)?;
            Ok(names.iter().map(|(name, node)| (name.clone(), matches!(m.nodes[*node], Node::Folder { .. }))).collect())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run("link", to, |m| {
            let node = m.find(from)?;
            m.name_new(to, |_| Ok(node)).map(drop)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run("rename", to, |m| {
            let node = m.find(from)?;
            let ((folder, name), (to_folder, to_name)) = (m.place(from)?, m.place(to)?);
            let old = Change { folder, name, node: None };
            m.change(vec![old, Change { folder: to_folder, name: to_name, node: Some(node) }]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run("remove", path, |m| {
            m.find(path)?;
            let (folder, name) = m.place(path)?;
            m.change(vec![Change { folder, name, node: None }]);
            Ok(())
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call("sync_folder", path, |m| {
            let folder = m.find(path)?;
            m.sync_folder(folder);
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        // made inside: the lock of a process that dies by this very call dies with it
        self.run("lock", path, |m| match m.locks.insert(path.to_owned()) {
            true => Ok(Lock::Held(Box::new(Held { machine: self.machine.clone(), path: path.to_owned() }))),
            false => Ok(Lock::Taken(String::new())),
        })
    }
}

/// A lock, which dies with whoever holds it.
struct Held {
    machine: Volatile,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.machine.machine().locks.remove(&self.path);
    }
}

struct OpenFile {
    process: Process,
    /// Under which it was created.
    path: PathBuf,
    node: usize,
}

impl DiskFile for OpenFile {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.process.run("write", &self.path, |m| {
            if let Node::File { bytes, writes, .. } = &mut m.nodes[self.node] {
                bytes.extend_from_slice(more);
                writes.push(bytes.len());
            }
            Ok(more.len())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.process.run("sync", &self.path, |m| {
            if let Node::File { bytes, safe, writes } = &mut m.nodes[self.node] {
                *safe = bytes.len();
                writes.clear();
            }
            Ok(())
        })
    }
}
