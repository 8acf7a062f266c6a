//! A local folder as a store: every object is written aside, synced, renamed, and the folder that names it is synced.
//!
//! ```text
//!   .orderflow/aside-7 ──write──► fsync ──rename──► name ──► fsync of its folder
//!                                       └─hard link──► name   (put_if_absent: fails if the name is taken)
//! ```
//! Invariant: one process holds the folder, by a lock that dies with it; what lies in `.orderflow/` and is not the lock is
//! therefore a leftover when the folder is opened, and is swept. A process that was killed may have named files in folders that it had no time to
//! sync: opening syncs them all, before anything is believed. The sync code is ours, because the order of the calls is the whole promise;
//! `tests/power.rs` cuts the power between any two of them.

use super::disk::{Disk, DiskFile, Local, Lock};
use crate::bug::{Bug, planted};
use crate::error::{Error, Result};
use crate::store::{Store, Upload, check, check_folder, io_error};
use std::any::Any;
use std::io::{self, ErrorKind};
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
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Tells our asides from those of a dead process of the same number.
    nonce: u32,
    aside: AtomicU64,
    /// Whether it was opened only to look.
    looks: bool,
    /// Held as long as it is open; `None` where the file system knows no locks, and then nothing is swept.
    _lock: Option<Box<dyn Any + Send + Sync>>,
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
        Self::on_within(Arc::new(Local), root.into(), patience, waits)
    }

    /// The same, on another disk.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn on(disk: Arc<dyn Disk>, root: PathBuf) -> Result<Self> {
        Self::on_within(disk, root, Duration::ZERO, &|| false)
    }

    #[expect(clippy::disallowed_methods, reason = "before a pipeline runs, on a thread of its own, somebody waits for the folder")]
    fn on_within(disk: Arc<dyn Disk>, root: PathBuf, patience: Duration, waits: &dyn Fn() -> bool) -> Result<Self> {
        let own = root.join(OWN);
        make_folders(&*disk, &own).map_err(|e| io_error("make the folder", own.display(), e))?;
        let (path, mut left, mut told) = (own.join("lock"), patience, false);
        let lock = loop {
            let holder = match disk.lock(&path).map_err(|e| io_error("lock", path.display(), e))? {
                Lock::Held(lock) => break Some(lock),
                Lock::Unknown => break None,
                Lock::Taken(holder) => format!("process {} has it open", if holder.is_empty() { "of unknown number" } else { &holder }),
            };
            if left.is_zero() || !waits() {
                return Err(Error::user(format!("the folder {} is in use", root.display()))
                    .why(holder)
                    .hint("one writer a folder: stop the other one, wait for its end with wait_for_state(…), or name another folder"));
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("waiting for the folder {}: {holder}", root.display());
            }
            std::thread::sleep(TRY_EVERY.min(left));
            left = left.saturating_sub(TRY_EVERY);
        };
        if lock.is_some() {
            for (name, _) in disk.list(&own).map_err(|e| io_error("list", own.display(), e))? {
                let path = own.join(&name);
                if name.to_string_lossy().starts_with("aside-") {
                    disk.remove(&path).map_err(|e| io_error("remove the leftover", path.display(), e))?;
                }
            }
        }
        settle(&*disk, &root)?;
        Ok(Folder(Arc::new(Inner { disk, root, nonce: rand::random(), aside: AtomicU64::new(0), looks: false, _lock: lock })))
    }

    /// To look only: it is neither made nor locked nor swept, whoever has it open goes on, and every call that would write fails.
    pub fn look(root: impl Into<PathBuf>) -> Self {
        let disk = Arc::new(Local);
        Folder(Arc::new(Inner { disk, root: root.into(), nonce: 0, aside: AtomicU64::new(0), looks: true, _lock: None }))
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
    fn aside(&self) -> Result<(Box<dyn DiskFile>, PathBuf)> {
        let own = self.0.root.join(OWN);
        let number = self.0.aside.fetch_add(1, Ordering::Relaxed);
        let path = own.join(format!("aside-{:08x}-{number}", self.0.nonce));
        let file = self.0.disk.create(&path).map_err(|e| io_error("create", path.display(), e))?;
        Ok((file, path))
    }

    fn disk(&self) -> &dyn Disk {
        &*self.0.disk
    }
}

impl Store for Folder {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        match self.disk().read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", path.display(), e)),
        }
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.may_write()?;
        let path = self.path(name)?;
        let (file, aside) = self.aside()?;
        Ok(Box::new(FolderUpload { store: self.clone(), file, aside, path, at: At::Open }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.may_write()?;
        let path = self.path(name)?;
        let (disk, say) = (self.disk(), |e| io_error("write", path.display(), e));
        make_parent(disk, &path).map_err(say)?;
        if disk.exists(&path).map_err(say)? {
            sync_parent(disk, &path).map_err(say)?;
            return Ok(false);
        }
        let (mut file, aside) = self.aside()?;
        let won = write_all(&mut *file, bytes).and_then(|()| sync(&mut *file)).and_then(|()| match disk.link(&aside, &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        });
        // whatever came of it, the aside name has done its work; if it cannot be removed now the next opening sweeps it
        let _ = disk.remove(&aside);
        let won = won.map_err(say)?;
        sync_parent(disk, &path).map_err(say)?;
        Ok(won)
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.may_write()?;
        let (from, to) = (self.path(staged)?, self.path(name)?);
        let (disk, say) = (self.disk(), |e| io_error("rename to", to.display(), e));
        make_parent(disk, &to).map_err(say)?;
        let renamed = match disk.rename(&from, &to) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(say(e)),
        };
        sync_parent(disk, &to).map_err(say)?;
        // also if an earlier try renamed it and got no further
        if from.parent() != to.parent() {
            sync_parent(disk, &from).map_err(say)?;
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
            let entries = match self.disk().list(&path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == ErrorKind::NotFound && path != self.0.root => continue,
                Err(e) => return Err(say(e)),
            };
            for (word, is_folder) in entries {
                // what is not a name of ours (not UTF-8) is not an object of ours
                let Ok(word) = word.into_string() else { continue };
                match is_folder {
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
        let say = |e| io_error("remove", path.display(), e);
        match self.disk().remove(&path) {
            // an earlier try may have removed it and got no further
            Err(e) if e.kind() != ErrorKind::NotFound => Err(say(e)),
            _ => sync_parent(self.disk(), &path).map_err(say),
        }
    }
}

struct FolderUpload {
    store: Folder,
    file: Box<dyn DiskFile>,
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
                At::Open => match sync(&mut *self.file) {
                    Ok(()) => At::Synced,
                    Err(e) => {
                        let hint = "nothing of it was committed; look at the disk, then start again";
                        At::Lost(
                            Error::external(format!("the disk lost bytes of {}", self.path.display())).caused_by(e).hint(hint).permanent(),
                        )
                    }
                },
                At::Synced => {
                    let disk = self.store.disk();
                    make_parent(disk, &self.path).and_then(|()| disk.rename(&self.aside, &self.path)).map_err(say)?;
                    At::Renamed
                }
                At::Renamed => {
                    sync_parent(self.store.disk(), &self.path).map_err(say)?;
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
            let _ = self.store.disk().remove(&self.aside);
        }
    }
}

/// Makes safe what a killed process may have named in the folder, in those below it, and in those above it, which it may have made.
fn settle(disk: &dyn Disk, root: &Path) -> Result<()> {
    if planted(Bug::OpenTrustsCache) {
        return Ok(());
    }
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let say = |e| io_error("sync", folder.display(), e);
        for (name, _) in disk.list(&folder).map_err(say)?.into_iter().filter(|(_, is_folder)| *is_folder) {
            folders.push(folder.join(name));
        }
        disk.sync_folder(&folder).map_err(say)?;
    }
    for path in root.ancestors().take_while(|p| !p.as_os_str().is_empty()) {
        match sync_parent(disk, path) {
            // a folder that we may not even open we have not made
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported) => break,
            other => other.map_err(|e| io_error("sync the folder of", path.display(), e))?,
        }
    }
    Ok(())
}

fn write_all(file: &mut dyn DiskFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn sync(file: &mut dyn DiskFile) -> io::Result<()> {
    if planted(Bug::FileNotSynced) { Ok(()) } else { file.sync() }
}

/// Makes a folder and those above it, each of them durable.
fn make_folders(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.is_folder(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_folders(disk, parent)?;
    }
    match disk.make_folder(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && disk.is_folder(path) => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_parent(disk, path),
    }
}

fn make_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| make_folders(disk, parent))
}

/// Makes durable that `path` is named, or no longer named, in its folder.
fn sync_parent(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if planted(Bug::NameNotSynced) {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match disk.sync_folder(parent) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()), // nothing is named in a folder that is not there
        other => other,
    }
}
