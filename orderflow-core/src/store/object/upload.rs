//! An object being written to an object store: in one request if it is small, in parts if it is not.
//!
//! Invariant: nobody sees a part before all are put together, and bytes leave memory only when the store has taken them: what failed is asked
//! again, with the same number of the same part.

use super::Objects;
use super::said::is_absent;
use crate::error::{Error, Result};
use crate::store::Upload;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, ObjectMeta, ObjectStoreExt};
use std::sync::Arc;

pub(super) struct ObjectUpload {
    objects: Objects,
    path: Path,
    /// What the store has not taken yet.
    held: Vec<u8>,
    begun: Option<Begun>,
    at: At,
}

/// An upload in parts.
struct Begun {
    store: Arc<dyn MultipartStore>,
    id: MultipartId,
    parts: Vec<PartId>,
    bytes: u64,
    /// What had the name before.
    before: Option<ObjectMeta>,
}

enum At {
    Open,
    Done,
    Lost(Error),
}

impl ObjectUpload {
    pub(super) fn new(objects: Objects, path: Path) -> Self {
        Self { objects, path, held: Vec::new(), begun: None, at: At::Open }
    }

    fn part(&self) -> usize {
        self.objects.parts.as_ref().map_or(usize::MAX, |(_, bytes)| *bytes)
    }

    /// Gives what is held to the store as the next part.
    fn send_part(&mut self) -> Result<()> {
        let path = self.path.clone();
        if self.begun.is_none()
            && let Some((store, _)) = &self.objects.parts
        {
            let before = self.objects.head(&path)?;
            let (store, to) = (store.clone(), path.clone());
            let (by, begin) = (store.clone(), async move { store.create_multipart(&to).await });
            let id = self.objects.call("write", &path, begin)?.map_err(|e| self.objects.said("write", &path, e))?;
            self.begun = Some(Begun { store: by, id, parts: vec![], bytes: 0, before });
        }
        let Some(begun) = &mut self.begun else { return Ok(()) };
        let bytes = bytes::Bytes::from(std::mem::take(&mut self.held));
        let (store, to, id, number, payload) = (begun.store.clone(), path.clone(), begun.id.clone(), begun.parts.len(), bytes.clone());
        let sent = self.objects.call("write", &path, async move { store.put_part(&to, &id, number, payload.into()).await });
        match sent {
            Ok(Ok(part)) => {
                begun.parts.push(part);
                begun.bytes += bytes.len() as u64;
                Ok(())
            }
            failed => {
                self.held = bytes.into();
                Err(match failed {
                    Ok(Err(e)) if is_absent(&e) => self.lost(e),
                    Ok(Err(e)) => self.objects.said("write", &path, e),
                    Ok(Ok(_)) => Error::internal("a part that was sent has failed"),
                    Err(e) => e,
                })
            }
        }
    }

    /// Puts the parts together. An answer that is lost does not say whether they are: then the object itself does.
    fn complete(&mut self) -> Result<()> {
        let Some(Begun { store, id, parts, bytes, before }) = &self.begun else { return Ok(()) };
        let (store, to, id, parts) = (store.clone(), self.path.clone(), id.clone(), parts.clone());
        let failed = match self.objects.call("write", &self.path, async move { store.complete_multipart(&to, &id, parts).await }) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) => Ok(e),
            Err(e) => Err(e),
        };
        let there = self.objects.head(&self.path)?;
        let same = |a: &ObjectMeta, b: &ObjectMeta| (&a.e_tag, a.last_modified, a.size) == (&b.e_tag, b.last_modified, b.size);
        if there.is_some_and(|now| now.size == *bytes && !before.as_ref().is_some_and(|old| same(old, &now))) {
            return Ok(());
        }
        Err(match failed {
            Ok(e) if is_absent(&e) => self.lost(e),
            Ok(e) => self.objects.said("write", &self.path, e),
            Err(e) => e,
        })
    }

    /// The store knows nothing of the upload any more, and took its parts with it.
    fn lost(&mut self, e: object_store::Error) -> Error {
        let hint = "nothing of it was committed; let uploads live longer in the store's rules, then start again";
        let e = Error::external(format!("{} gave up the upload of {}", self.objects.place, self.path)).caused_by(e).hint(hint).permanent();
        self.at = At::Lost(e.clone());
        e
    }
}

impl Upload for ObjectUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match &self.at {
            At::Done => return Ok(bytes.len()),
            At::Lost(e) => return Err(e.clone()),
            At::Open => {}
        }
        if self.held.len() >= self.part() {
            self.send_part()?;
        }
        let n = bytes.len().min(self.part() - self.held.len());
        self.held.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn finish(&mut self) -> Result<()> {
        match &self.at {
            At::Done => return Ok(()),
            At::Lost(e) => return Err(e.clone()),
            At::Open => {}
        }
        if self.begun.is_some() {
            if !self.held.is_empty() {
                self.send_part()?;
            }
            self.complete()?;
        } else {
            let bytes = bytes::Bytes::from(std::mem::take(&mut self.held));
            let (store, to, payload) = (self.objects.store.clone(), self.path.clone(), bytes.clone());
            let put = self.objects.call("write", &self.path, async move { store.put(&to, payload.into()).await });
            let put = put.and_then(|put| put.map_err(|e| self.objects.said("write", &self.path, e)));
            if let Err(e) = put {
                self.held = bytes.into();
                return Err(e);
            }
        }
        self.at = At::Done;
        Ok(())
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        if matches!(self.at, At::Open)
            && let Some(Begun { store, id, .. }) = self.begun.take()
        {
            // if it cannot be given up now, the store's own rules for uploads that never end do it
            let path = self.path.clone();
            self.objects.background.begin(async move {
                let _ = store.abort_multipart(&path, &id).await;
            });
        }
    }
}
