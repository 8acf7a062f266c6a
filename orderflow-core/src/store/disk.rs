//! The few calls to a file system that a [`Folder`](super::Folder) is made of, so that a test can put a disk below it that forgets.
//!
//! Invariant: what a call did is seen by every process at once and survives the caller's death; it survives a power cut only after the sync that belongs to
//! it, of the file for its bytes and of the folder for its names. A rename happens whole or not at all, whatever folders it joins.
#![expect(clippy::disallowed_methods, reason = "the one room that makes files final and knows when bytes are safe")]

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// Calls to a file system; errors are the operating system's.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// A new file to write; an error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Whether anything has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Whether a folder has this name.
    fn is_folder(&self, path: &Path) -> bool;
    /// Makes a folder; an error if the name is taken.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, in any order, and whether each is a folder itself.
    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>>;
    /// Gives a file a second name; an error if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a name from a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder survive a power cut.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Locks by a file of this name, which is made.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// A file being written.
pub(super) trait DiskFile: Send {
    /// Appends some of the bytes and says how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Makes its bytes survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

/// What became of a lock.
pub(super) enum Lock {
    /// Held as long as this lives.
    Held(Box<dyn Any + Send + Sync>),
    /// Somebody else has it, and said who it is.
    Taken(String),
    /// The file system knows no locks.
    Unknown,
}

/// The machine's own disk.
#[derive(Debug)]
pub(super) struct Local;

impl Disk for Local {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OpenOptions::new().write(true).create_new(true).open(path).map(|file| Box::new(file) as Box<dyn DiskFile>)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        fs::read_dir(path)?.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.file_type()?.is_dir())))).collect()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder); // only for the message
                return Ok(Lock::Taken(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(Lock::Unknown),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock::Held(Box::new(file)))
    }
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
