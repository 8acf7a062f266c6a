//! State that was stored: roots as files of columns, and manifests that say which files make up a checkpoint. Knows bytes and columns, not
//! what they mean.
//!
//! ```text
//!   roots/0000000042-g0003-0001.arrow     what changed in one trace of one root since the checkpoint before; sorted by bucket and key
//!   checkpoints/0000000042-g0003.json     for each root, its text and the files that make up its traces, the oldest first
//! ```
//! Invariant: a file is written once, under a name that carries its generation, before the manifest that names it; a manifest is what a
//! [`Checkpoint`](crate::epoch::Checkpoint) in the ledger points to. Whatever is read has the length and the checksum that whoever points to it says.

mod file;
mod manifest;

pub use file::{FileRef, copy, read, write};
pub use manifest::{Manifest, RootFiles, ViewOf};

#[cfg(test)]
mod tests;
