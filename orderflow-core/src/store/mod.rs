//! The cellar: named objects that must survive, behind one contract of six methods.
//!
//! ```text
//!   put(name) ──► Upload ──write…──► finish()      nobody sees the object before finish, everybody after it
//!   put_if_absent(name, bytes)                     of all who try, one wins: the door through which commits go
//!   publish(staged, name)                          one rename makes a finished object visible under its final name
//! ```
//! Invariant: when a call has returned without an error its effect survives a crash, and at no moment does a name hold half an
//! object. A name is a relative path of plain words, `commits/0000000001.json`; no name is a folder of another one.
//!
//! One random state-machine suite (`tests.rs`) runs on every store, against a map.

mod disk;
pub mod fs;
pub mod memory;
#[cfg(feature = "objects")]
pub mod object;
mod place;

#[cfg(any(test, feature = "testing"))]
pub mod faulty;
#[cfg(any(test, feature = "testing"))]
pub mod layer;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testing"))]
pub mod volatile;

pub use fs::Folder;
pub use memory::Memory;
#[cfg(feature = "objects")]
pub use object::Objects;
pub use place::{is_url, look, open, open_with, open_within};

use crate::error::{Error, Result};
use std::fmt;
use std::io;

/// Named objects that survive a crash. Every call may block on the disk or the network.
///
/// An error that may be tried again ([`Retry::Backoff`](crate::error::Retry)) does not say whether the call had its effect;
/// every method may be called again with the same arguments, and [`Store::put_if_absent`] is then read back.
pub trait Store: Send + Sync + fmt::Debug {
    /// The whole object; `None` if there is none.
    ///
    /// # Errors
    /// What could not be read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Begins to write an object, which replaces the one of that name when it is [finished](Upload::finish). What is never finished leaves nothing.
    ///
    /// # Errors
    /// What could not be created.
    fn put(&self, name: &str) -> Result<Box<dyn Upload>>;

    /// Writes a small object unless the name is taken: `true` if it was written, `false` if there was one, which then is durable. It may be the one of
    /// an earlier try, also of one that a client made by itself: who must know puts something of its own into the bytes and reads them back.
    ///
    /// # Errors
    /// What could not be written; the object may exist all the same.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool>;

    /// Gives a finished object its final name, in place of what had it: `false` if there is no object `staged`.
    ///
    /// # Errors
    /// What could not be renamed; it may have been.
    fn publish(&self, staged: &str, name: &str) -> Result<bool>;

    /// Names of all objects that begin with `folder` (empty, or ending in `/`), in order.
    ///
    /// # Errors
    /// What could not be listed.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// What could not be removed.
    fn delete(&self, name: &str) -> Result<()>;
}

/// An object being written; dropped before it is finished, it leaves nothing.
pub trait Upload: Send {
    /// Appends some of the bytes and says how many, at least one. After an error the bytes taken before are kept, and the rest may be tried again.
    ///
    /// # Errors
    /// Why no byte was taken: [`Retry::Backoff`](crate::error::Retry) for a full disk.
    fn write(&mut self, bytes: &[u8]) -> Result<usize>;

    /// Makes the object durable and visible; may be tried again after an error, and does nothing once it has succeeded.
    ///
    /// # Errors
    /// What could not be made durable. Permanent when the disk refused to keep what it had taken, because then nobody knows what it kept.
    fn finish(&mut self) -> Result<()>;
}

/// The format that a JSON object which is kept for good names in itself, whatever else it holds: what a newer version wrote may hold what is not known here.
pub(crate) fn format_of(json: &[u8]) -> serde_json::Result<u32> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    serde_json::from_slice::<Head>(json).map(|head| head.format)
}

impl dyn Store + '_ {
    /// Writes a whole object in place of the one of that name.
    ///
    /// # Errors
    /// As [`Store::put`] and [`Upload`].
    pub fn put_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut upload = self.put(name)?;
        let mut from = 0;
        while from < bytes.len() {
            from += upload.write(&bytes[from..])?;
        }
        upload.finish()
    }
}

/// What becomes of an error that passes when its cause is gone.
const PASSES: &str = "what runs goes on by itself, what could not start must be started again";

/// The error of a file operation: names the path, says whether it can pass, and what to do.
pub fn io_error(what: &str, path: impl fmt::Display, e: io::Error) -> Error {
    use io::ErrorKind::*;
    let kind = e.kind();
    let error = Error::external(format!("cannot {what} {path}")).caused_by(e);
    match kind {
        StorageFull | QuotaExceeded => error.hint(format!("the disk is full: free some space; {PASSES}")),
        FileTooLarge => error.hint(format!("a file size limit is reached: raise it (ulimit -f) or let files roll earlier; {PASSES}")),
        PermissionDenied => error.hint("give this process the right to write there, or name another folder").permanent(),
        ReadOnlyFilesystem => error.hint("the file system is read-only: name another folder").permanent(),
        NotADirectory | AlreadyExists => error.hint("a file stands where a folder is needed: name another folder").permanent(),
        NotFound => error.hint("the folder was removed or cannot be made there: name another folder").permanent(),
        InvalidInput | InvalidFilename | Unsupported => error.hint("name another folder, on a local disk").permanent(),
        _ => error,
    }
}

/// Refuses a name that is not a relative path of plain words.
fn check(name: &str) -> Result<()> {
    let plain = |word: &str| !word.is_empty() && word != "." && word != ".." && word != fs::OWN && !word.contains(['\\', '\0']);
    if name.split('/').all(plain) { Ok(()) } else { Err(Error::internal(format!("'{name}' is no name for a stored object"))) }
}

/// Refuses a folder that is neither empty nor ends in `/`.
fn check_folder(folder: &str) -> Result<()> {
    match folder.strip_suffix('/') {
        None if folder.is_empty() => Ok(()),
        Some(name) => check(name),
        None => Err(Error::internal(format!("'{folder}' is no folder of stored objects: it must end in '/'"))),
    }
}
