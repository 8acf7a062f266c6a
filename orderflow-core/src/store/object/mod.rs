//! An object store as a store: S3 and what speaks its protocol, HDFS, or anything else behind the trait of `object_store`.
//!
//! ```text
//!   any thread ──call──► runtime of its own: one thread, every request bounded in time ──► object store
//!        └──────────────────────── waits for the answer ◄──────────────────────────────────────┘
//! ```
//! Invariant: the only condition ever put on a write is "if there is no object of that name", and opening to write asks whether the store keeps it: all
//! that commits goes through that door. Nobody locks anything: of two processes the one that wins the next slot goes on.

#[cfg(feature = "hdfs")]
pub(super) mod hdfs;
#[cfg(feature = "s3")]
pub(super) mod s3;
mod said;
#[cfg(test)]
mod tests;
mod upload;

pub use object_store;

use crate::error::{Error, Result};
use crate::store::fs::OWN;
use crate::store::{Store, Upload, check, check_folder};
use futures::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RenameOptions};
use said::{Place, is_absent};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Bytes of an object that are read by one request.
const CHUNK: u64 = 16 << 20;
/// Bytes of one part of a large object; S3 wants at least 5 MiB, and at most 10,000 parts.
pub const PART: usize = 8 << 20;
/// How long one call may take, with all tries that the client below makes by itself.
const CALL: Duration = Duration::from_secs(90);
/// How often two writers may meet at a name of which neither gets it.
const MEETINGS: u32 = 8;

/// A store in an object store. Clones are the same store.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Takes large objects in parts; without it they are collected in memory and written at once.
    parts: Option<(Arc<dyn MultipartStore>, usize)>,
    root: Path,
    place: Place,
    background: Arc<Background>,
    /// Whether it was opened only to look.
    looks: bool,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.place)
    }
}

impl Objects {
    /// A store in everything below `prefix` (empty, or plain words with `/` between them) of `store`; messages call it `place`. Large objects
    /// are collected in memory before they are written, unless it is told [how to write parts](Objects::in_parts).
    ///
    /// # Errors
    /// A prefix that is none; a store that does not answer, refuses, or overwrites what should only be written if it is not there.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str, place: impl Into<Arc<str>>) -> Result<Self> {
        Self::opened(store, prefix, place.into(), Arc::new(Background::new()?), false)
    }

    /// As [`Objects::over`], to look only: nothing is asked of the store before it is read, and every call that would write fails.
    ///
    /// # Errors
    /// A prefix that is none.
    pub fn look(store: Arc<dyn ObjectStore>, prefix: &str, place: impl Into<Arc<str>>) -> Result<Self> {
        Self::opened(store, prefix, place.into(), Arc::new(Background::new()?), true)
    }

    fn opened(store: Arc<dyn ObjectStore>, prefix: &str, place: Arc<str>, background: Arc<Background>, looks: bool) -> Result<Self> {
        let root = Path::parse(prefix).map_err(|e| Error::user(format!("'{prefix}' is no folder of {place}")).why(e))?;
        let objects = Self { store, parts: None, root, place: Place(place), background, looks };
        if !looks {
            objects.try_the_door()?;
        }
        Ok(objects)
    }

    fn may_write(&self) -> Result<()> {
        if self.looks { Err(Error::internal(format!("{} was opened only to look", self.place))) } else { Ok(()) }
    }

    /// Objects of more than `bytes` (at least 1) are written in parts of that size, by the same store.
    pub fn in_parts(mut self, store: Arc<dyn MultipartStore>, bytes: usize) -> Self {
        self.parts = Some((store, bytes.max(1)));
        self
    }

    /// Some stores ignore the condition of a write that they do not know. Nothing would be exactly once in them, so they are refused.
    fn try_the_door(&self) -> Result<()> {
        let path = self.path(&format!("{OWN}/door-{:016x}", rand::random::<u64>()))?;
        self.create(&path, b"1")?;
        let overwritten = self.create(&path, b"2")?;
        let removed = self.remove(&path);
        if overwritten {
            return Err(Error::user(format!("{} cannot keep what must be written once", self.place))
                .why("it overwrote an object that was to be written only if there was none")
                .hint("take a store that honours If-None-Match, or a local folder"));
        }
        removed
    }

    fn path(&self, name: &str) -> Result<Path> {
        let all = if self.root.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.root) };
        Path::parse(&all).map_err(|e| Error::internal(format!("'{name}' is no name for a stored object")).why(e))
    }

    /// Waits for the answer; `what` was asked of `path`.
    fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        path: &Path,
        ask: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<object_store::Result<T>> {
        self.background.wait(ask).map_err(|e| e.at(format!("{what} {path} in {}", self.place)))
    }

    fn said(&self, what: &str, path: &Path, e: object_store::Error) -> Error {
        self.place.said(what, path, e)
    }

    fn head(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        let (store, of) = (self.store.clone(), path.clone());
        match self.call("look for", path, async move { store.head(&of).await })? {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.said("look for", path, e)),
        }
    }

    /// False only if there is an object of that name. A store may also refuse because another write was under way, of which nothing need have come.
    fn create(&self, path: &Path, bytes: &[u8]) -> Result<bool> {
        for meeting in 0..MEETINGS {
            let (store, to, bytes) = (self.store.clone(), path.clone(), bytes.to_vec());
            let pause = if meeting == 0 { Duration::ZERO } else { Duration::from_millis(10 << meeting).mul_f64(rand::random()) };
            let ask = async move {
                tokio::time::sleep(pause).await;
                store.put_opts(&to, bytes.into(), PutOptions::from(PutMode::Create)).await
            };
            match self.call("write", path, ask)? {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => {
                    if self.head(path)?.is_some() {
                        return Ok(false);
                    }
                }
                Err(e) => return Err(self.said("write", path, e)),
            }
        }
        Err(Error::external(format!("cannot write {path} in {}", self.place)).why("other writers were in the way, and nothing is there"))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let (store, of) = (self.store.clone(), path.clone());
        match self.call("remove", path, async move { store.delete(&of).await })? {
            Ok(()) => Ok(()),
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(self.said("remove", path, e)),
        }
    }
}

impl Store for Objects {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check(name)?;
        let path = self.path(name)?;
        let (store, of) = (self.store.clone(), path.clone());
        let begun = async move {
            let got = store.get(&of).await?;
            let meta = got.meta.clone();
            let whole = if meta.size <= CHUNK { Some(got.bytes().await?) } else { None };
            Ok((meta, whole))
        };
        let (meta, whole) = match self.call("read", &path, begun)? {
            Ok(begun) => begun,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(self.said("read", &path, e)),
        };
        if let Some(whole) = whole {
            return Ok(Some(whole.into()));
        }
        // one request for a large object would have to end within the time of one
        let mut bytes = Vec::with_capacity(meta.size as usize);
        while (bytes.len() as u64) < meta.size {
            let from = bytes.len() as u64;
            let range = GetRange::Bounded(from..meta.size.min(from + CHUNK));
            let options = GetOptions::new().with_range(Some(range)).with_if_match(meta.e_tag.clone());
            let (store, of) = (self.store.clone(), path.clone());
            let chunk = self.call("read", &path, async move { store.get_opts(&of, options).await?.bytes().await })?;
            bytes.extend_from_slice(&chunk.map_err(|e| self.said("read", &path, e))?);
        }
        Ok(Some(bytes))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        check(name)?;
        self.may_write()?;
        Ok(Box::new(upload::ObjectUpload::new(self.clone(), self.path(name)?)))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        check(name)?;
        self.may_write()?;
        self.create(&self.path(name)?, bytes)
    }

    /// Copies and deletes, where the store below cannot rename. A copy is made whole or not at all; S3 copies up to 5 GB.
    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        check(staged)?;
        check(name)?;
        self.may_write()?;
        let (from, to) = (self.path(staged)?, self.path(name)?);
        if from == to {
            return Ok(self.head(&from)?.is_some());
        }
        let (store, a, b) = (self.store.clone(), from, to.clone());
        match self.call("rename to", &to, async move { store.rename_opts(&a, &b, RenameOptions::new()).await })? {
            Ok(()) => Ok(true),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(self.said("rename to", &to, e)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        check_folder(folder)?;
        let below = match folder.strip_suffix('/') {
            Some(folder) => self.path(folder)?,
            None => self.root.clone(),
        };
        let (store, of) = (self.store.clone(), below.clone());
        let all = async move {
            let of = Some(&of).filter(|p| !p.as_ref().is_empty());
            store.list(of).map_ok(|meta| meta.location).try_collect::<Vec<Path>>().await
        };
        let all = match self.call("list", &below, all)? {
            Ok(all) => all,
            // some stores have folders, and only those into which something was put
            Err(e) if is_absent(&e) => return Ok(vec![]),
            Err(e) => return Err(self.said("list", &below, e)),
        };
        let root = if self.root.as_ref().is_empty() { String::new() } else { format!("{}/", self.root) };
        let mut names: Vec<String> = all.iter().filter_map(|p| p.as_ref().strip_prefix(&root)).map(str::to_owned).collect();
        // what is no name of ours is no object of ours: a marker of a folder, or what a client writes aside before it renames it
        let aside = |name: &str| name.rsplit('/').next().is_some_and(|word| word.starts_with('.') && word.contains(".tmp."));
        names.retain(|name| name.starts_with(folder) && check(name).is_ok() && !aside(name));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        check(name)?;
        self.may_write()?;
        self.remove(&self.path(name)?)
    }
}

/// A runtime of its own, so that whoever calls may be any thread, also one of a host's runtime.
struct Background(Option<Runtime>);

impl Background {
    fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("orderflow-store").enable_all().build();
        runtime.map(|r| Self(Some(r))).map_err(|e| Error::external("no thread could be started for a store").caused_by(e))
    }

    /// Begins something without waiting for it.
    fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(work);
        }
    }

    fn wait<T: Send + 'static>(&self, ask: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (answer, answered) = sync_channel(1);
        self.begin(async move {
            let _ = answer.send(tokio::time::timeout(CALL, ask).await); // nobody waits any more
        });
        let answer = answered.recv().map_err(|_| Error::internal("the thread of a store panicked"))?;
        answer.map_err(|_| Error::external("no answer").why(format!("{} s have passed", CALL.as_secs())))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // to wait here is not allowed on a thread of the host's runtime
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
