//! State that was stored: roots as files of columns, manifests that say which files make up a checkpoint, and rows that no source gives again. Knows
//! bytes and columns, not what they mean.
//!
//! ```text
//!   roots/0000000042-g0003-0001.arrow     what changed in one trace of one root since the checkpoint before; sorted by bucket and key
//!   checkpoints/0000000042-g0003.json     for each root, its text and the files that make up its traces, the oldest first
//!   spool/0000000043-g0003.rows           the rows of spooled sources in one epoch, or in several
//!   spool/0000000043-g0003-l000001.rows   rows that a sink refuses
//! ```
//! Invariant: a file is written once, under a name that carries its generation, before the manifest that names it; a manifest is what a
//! [`Checkpoint`](crate::epoch::Checkpoint) in the ledger points to. Whatever is read has the length and the checksum that whoever points to it says.

mod file;
mod letters;
mod manifest;
mod spool;

pub use file::{FileRef, copy, read, write};
pub use letters::{letters_name, letters_rows, read_letters};
pub use manifest::{Counts, Manifest, RootFiles, ViewOf};
pub use spool::{Spooled, copy_spool, join_spool, read_spool, spool_name, write_spool};

/// The generation that a stored object's name says wrote it: the digits behind `-g`.
pub fn generation_of(name: &str) -> Option<u64> {
    let digits = name.rsplit_once("-g")?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests;
