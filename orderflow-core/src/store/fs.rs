//! A local folder as a store: every object is written aside, synced, renamed, and the folder that names it is synced.
//!
//! ```text
//!   .orderflow/aside-7 ──write──► fsync ──rename──► name ──► fsync of its folder
//!                                       └─hard link──► name   (put_if_absent: fails if the name is taken)
//! ```
//! Invariant: one process holds the folder, by a lock that dies with it; what lies in `.orderflow/` and is not the lock is
//! therefore a leftover when the folder is opened, and is swept. The sync code is ours, because the order of the calls is the
//! whole promise.
#![expect(clippy::disallowed_methods, reason = "the one room that makes files final and knows when bytes are safe")]

use crate::error::{Error, Result};
use crate::store::{Store, Upload, check, check_folder, io_error};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Folder of ours inside the store's: the lock, and what is being written.
pub(super) const OWN: &str = ".orderflow";

/// A store in a folder of a local disk. Clones share the lock; the folder is free again when the last one is gone.
#[derive(Clone, Debug)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Tells our asides from those of a dead process of the same number.
    nonce: u32,
    aside: AtomicU64,
    /// Whether it was opened only to look.
    looks: bool,
    /// Held as long as it is open; `None` where the file system knows no locks, and then nothing is swept.
    _lock: Option<File>,
}

/// How often a folder that is in use is tried again.
const TRY_EVERY: Duration = Duration::from_millis(50);

impl Folder {
    /// Makes the folder if it is not there, locks it, and sweeps what a dead process left half written.
    ///
    /// # Errors
    /// A folder that cannot be made or written, or that another process, or another part of this one, has open.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_within(root, Duration::ZERO, &|| false)
    }

    /// As [`Folder::open`]; a folder that is in use is tried again for as long as `patience` lasts and `waits` says so.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn open_within(root: impl Into<PathBuf>, patience: Duration, waits: &dyn Fn() -> bool) -> Result<Self> {
        let root = root.into();
        let own = root.join(OWN);
        make_folders(&own).map_err(|e| io_error("make the folder", own.display(), e))?;
        let mut left = patience;
        let lock = loop {
            match lock(&own)? {
                Lock::Ours(file) => break Some(file),
                Lock::Unknown => break None,
                Lock::Theirs(_) if !left.is_zero() && waits() => std::thread::sleep(TRY_EVERY.min(left)),
                Lock::Theirs(holder) => {
                    return Err(Error::user(format!("the folder {} is in use", root.display()))
                        .why(format!("process {} has it open", if holder.is_empty() { "of unknown number" } else { &holder }))
                        .hint("one writer a folder: stop the other one, wait for its end with wait_for_state(…), or name another folder"));
                }
            }
            left = left.saturating_sub(TRY_EVERY);
        };
        if lock.is_some() {
            for entry in fs::read_dir(&own).map_err(|e| io_error("list", own.display(), e))? {
                let path = entry.map_err(|e| io_error("list", own.display(), e))?.path();
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("aside-")) {
                    fs::remove_file(&path).map_err(|e| io_error("remove the leftover", path.display(), e))?;
                }
            }
        }
        Ok(Folder(Arc::new(Inner { root, nonce: rand::random(), aside: AtomicU64::new(0), looks: false, _lock: lock })))
    }

    /// To look only: it is neither made nor locked nor swept, whoever has it open goes on, and every call that would write fails.
    pub fn look(root: impl Into<PathBuf>) -> Self {
        Folder(Arc::new(Inner { root: root.into(), nonce: 0, aside: AtomicU64::new(0), looks: true, _lock: None }))
    }

    fn may_write(&self) -> Result<()> {
        if self.0.looks { Err(Error::internal(format!("{} was opened only to look", self.0.root.display()))) } else { Ok(()) }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check(name)?;
        Ok(self.0.root.join(name))
    }

    /// A new file that nobody else has, in the own folder.
    fn aside(&self) -> Result<(File, PathBuf)> {
        let own = self.0.root.join(OWN);
        let number = self.0.aside.fetch_add(1, Ordering::Relaxed);
        let path = own.join(format!("aside-{:08x}-{number}", self.0.nonce));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.map(|file| (file, path.clone())).map_err(|e| io_error("create", path.display(), e))
    }
}

impl Store for Folder {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut f| f.read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", path.display(), e)),
        }
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.may_write()?;
        let path = self.path(name)?;
        let (file, aside) = self.aside()?;
        Ok(Box::new(FolderUpload { _store: self.clone(), file, aside, path, at: At::Open }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.may_write()?;
        let path = self.path(name)?;
        let say = |e| io_error("write", path.display(), e);
        make_parent(&path).map_err(say)?;
        if path.try_exists().map_err(say)? {
            sync_parent(&path).map_err(say)?;
            return Ok(false);
        }
        let (mut file, aside) = self.aside()?;
        let won = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| match fs::hard_link(&aside, &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        });
        // whatever came of it, the aside name has done its work; if it cannot be removed now the next opening sweeps it
        let _ = fs::remove_file(&aside);
        let won = won.map_err(say)?;
        sync_parent(&path).map_err(say)?;
        Ok(won)
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.may_write()?;
        let (from, to) = (self.path(staged)?, self.path(name)?);
        let say = |e| io_error("rename to", to.display(), e);
        make_parent(&to).map_err(say)?;
        let renamed = match fs::rename(&from, &to) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(say(e)),
        };
        sync_parent(&to).map_err(say)?;
        if renamed && from.parent() != to.parent() {
            sync_parent(&from).map_err(say)?;
        }
        Ok(renamed)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        check_folder(folder)?;
        let mut names = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let path = self.0.root.join(&folder);
            let say = |e| io_error("list", path.display(), e);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == ErrorKind::NotFound && path != self.0.root => continue,
                Err(e) => return Err(say(e)),
            };
            for entry in entries {
                let entry = entry.map_err(say)?;
                // what is not a name of ours (not UTF-8) is not an object of ours
                let Ok(word) = entry.file_name().into_string() else { continue };
                match entry.file_type().map_err(say)?.is_dir() {
                    true if folder.is_empty() && word == OWN => {}
                    true => folders.push(format!("{folder}{word}/")),
                    false => names.push(format!("{folder}{word}")),
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.may_write()?;
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path).map_err(|e| io_error("remove", path.display(), e)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("remove", path.display(), e)),
        }
    }
}

struct FolderUpload {
    _store: Folder,
    file: File,
    aside: PathBuf,
    path: PathBuf,
    at: At,
}

/// How far an upload is.
enum At {
    Open,
    Synced,
    Renamed,
    Done,
    Lost(Error),
}

impl Upload for FolderUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) if !bytes.is_empty() => return Err(io_error("write", self.path.display(), ErrorKind::StorageFull.into())),
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(io_error("write", self.path.display(), e)),
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        loop {
            let say = |e| io_error("write", self.path.display(), e);
            self.at = match &self.at {
                // a sync that failed may have dropped the pages it could not write: a second one that succeeds would prove nothing
                At::Open => match self.file.sync_all() {
                    Ok(()) => At::Synced,
                    Err(e) => {
                        let hint = "nothing of it was committed; look at the disk, then start again";
                        At::Lost(
                            Error::external(format!("the disk lost bytes of {}", self.path.display())).caused_by(e).hint(hint).permanent(),
                        )
                    }
                },
                At::Synced => {
                    make_parent(&self.path).and_then(|()| fs::rename(&self.aside, &self.path)).map_err(say)?;
                    At::Renamed
                }
                At::Renamed => {
                    sync_parent(&self.path).map_err(say)?;
                    At::Done
                }
                At::Done => return Ok(()),
                At::Lost(e) => return Err(e.clone()),
            }
        }
    }
}

impl Drop for FolderUpload {
    fn drop(&mut self) {
        if !matches!(self.at, At::Renamed | At::Done) {
            // if it cannot be removed now the next opening sweeps it
            let _ = fs::remove_file(&self.aside);
        }
    }
}

enum Lock {
    Ours(File),
    /// The number of the process that has it, if it could be read.
    Theirs(String),
    /// The file system knows no locks.
    Unknown,
}

/// Locks the folder.
fn lock(own: &Path) -> Result<Lock> {
    let path = own.join("lock");
    let say = |e| io_error("write", path.display(), e);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(say)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder); // only for the message
            return Ok(Lock::Theirs(holder.trim().to_owned()));
        }
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(Lock::Unknown),
        Err(TryLockError::Error(e)) => return Err(io_error("lock", path.display(), e)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(say)?;
    Ok(Lock::Ours(file))
}

/// Makes a folder and those above it, each of them durable.
fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_folders(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_parent(path),
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_folders)
}

/// Makes durable that `path` is named, or no longer named, in its folder.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()), // nothing is named in a folder that is not there
        Err(e) => Err(e),
        Ok(folder) => folder.sync_all(),
    }
}
