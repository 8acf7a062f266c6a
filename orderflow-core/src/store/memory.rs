//! Objects in a map: for tests, and for what need not outlive the process. Clones share the objects.
//!
//! Invariant: the reference of the store suite; every other store behaves as this one.

use crate::error::Result;
use crate::store::{Store, Upload, check, check_folder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Objects = BTreeMap<String, Arc<[u8]>>;

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Objects>>);

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        // a panic elsewhere cannot leave the map half changed: every change is one call
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check(name)?;
        Ok(self.objects().get(name).map(|o| o.to_vec()))
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        check(name)?;
        Ok(Box::new(MemoryUpload { store: self.clone(), name: name.into(), bytes: Some(Vec::new()) }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        check(name)?;
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(false);
        }
        objects.insert(name.into(), bytes.into());
        Ok(true)
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        check(staged)?;
        check(name)?;
        let mut objects = self.objects();
        let Some(object) = objects.remove(staged) else { return Ok(false) };
        objects.insert(name.into(), object);
        Ok(true)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        check_folder(folder)?;
        Ok(self.objects().range(folder.to_owned()..).map(|(name, _)| name).take_while(|name| name.starts_with(folder)).cloned().collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        check(name)?;
        self.objects().remove(name);
        Ok(())
    }
}

struct MemoryUpload {
    store: Memory,
    name: String,
    bytes: Option<Vec<u8>>,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if let Some(held) = &mut self.bytes {
            held.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(bytes) = self.bytes.take() {
            self.store.objects().insert(self.name.clone(), bytes.into());
        }
        Ok(())
    }
}
