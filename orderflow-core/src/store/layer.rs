//! A layer over a store, for tests: it says what it does otherwise, and all else goes to the store below.
//!
//! Invariant: a call that a layer does not take is answered by the store below, with the same arguments.

use crate::error::Result;
use crate::store::{Store, Upload};
use std::fmt;

/// What is done otherwise than below. Each call means what it means in [`Store`].
pub trait Layer: Send + Sync + fmt::Debug {
    /// The store below.
    fn below(&self) -> &dyn Store;

    /// As [`Store::get`].
    ///
    /// # Errors
    /// As there.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.below().get(name)
    }

    /// As [`Store::put`].
    ///
    /// # Errors
    /// As there.
    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.below().put(name)
    }

    /// As [`Store::put_if_absent`].
    ///
    /// # Errors
    /// As there.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.below().put_if_absent(name, bytes)
    }

    /// As [`Store::publish`].
    ///
    /// # Errors
    /// As there.
    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.below().publish(staged, name)
    }

    /// As [`Store::list`].
    ///
    /// # Errors
    /// As there.
    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.below().list(folder)
    }

    /// As [`Store::delete`].
    ///
    /// # Errors
    /// As there.
    fn delete(&self, name: &str) -> Result<()> {
        self.below().delete(name)
    }
}

/// A layer and what is below as one store.
#[derive(Clone, Debug)]
pub struct Layered<L>(pub L);

impl<L: Layer> Store for Layered<L> {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.0.get(name)
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.0.put(name)
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.0.put_if_absent(name, bytes)
    }

    fn publish(&self, staged: &str, name: &str) -> Result<bool> {
        self.0.publish(staged, name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.0.list(folder)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
}
