//! Which files make up a checkpoint.

use super::FileRef;
use super::file::checked;
use crate::epoch::Checkpoint;
use crate::error::{Error, Result};
use crate::store::{Store, format_of};
use crate::time::Epoch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the format, written into every manifest; with 2, words of accumulators are stored as narrow as a file's largest allows.
const FORMAT: u32 = 2;

/// All that is stored of a pipeline's state as of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// State as of the end of this epoch.
    pub epoch: u64,
    /// The roots.
    pub roots: Vec<RootFiles>,
    /// The views whose rows can be read from them; none in manifests of older versions.
    #[serde(default)]
    pub views: Vec<ViewOf>,
    /// What was counted until the end of the epoch; not in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// What each view computed when this was counted, as the ledger's plan has it: `view …` and its text; none in manifests of older versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plan: BTreeMap<String, String>,
}

/// What was counted since the pipeline began: no start can count it again without reading everything again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Refused records and rows, by the source or view that refused them; withdrawn ones are taken off.
    pub rejected: BTreeMap<String, i64>,
}

/// A view whose rows are those of a root, but for the choice and the names of columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewOf {
    /// Its name.
    pub view: String,
    /// Number of the root.
    pub root: usize,
    /// Its columns: name, and number among the root's.
    pub columns: Vec<(String, usize)>,
}

/// The files of one root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFiles {
    /// What it computes: by this it is found again.
    pub text: String,
    /// For each of its traces the files that together are its content, the oldest first.
    pub traces: Vec<Vec<FileRef>>,
    /// How they make rows, for whoever can read it; not in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<serde_json::Value>,
}

impl Manifest {
    /// As of `epoch`.
    pub fn new(epoch: Epoch, roots: Vec<RootFiles>) -> Self {
        Self { format: FORMAT, epoch: epoch.0, roots, views: vec![], counts: None, plan: BTreeMap::new() }
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        self.roots.iter().flat_map(|r| r.traces.iter().flatten())
    }

    /// Writes it down.
    ///
    /// # Errors
    /// What could not be written.
    pub fn save(&self, store: &dyn Store, generation: u64) -> Result<Checkpoint> {
        let json = serde_json::to_vec(self).map_err(|e| Error::internal("a manifest cannot be written").caused_by(e))?;
        let manifest = format!("checkpoints/{:010}-g{generation:04}.json", self.epoch);
        store.put_bytes(&manifest, &json)?;
        Ok(Checkpoint { epoch: Epoch(self.epoch), manifest, crc: crc32fast::hash(&json) })
    }

    /// Reads what a checkpoint points to.
    ///
    /// # Errors
    /// [`Retry::Backoff`](crate::error::Retry) if it could not be read now; permanent if it is not what was written; [`Kind::User`](crate::error::Kind) if a
    /// newer version wrote it.
    pub fn load(store: &dyn Store, checkpoint: &Checkpoint) -> Result<Self> {
        let damaged = |why: String| Error::external(format!("the checkpoint '{}' is damaged", checkpoint.manifest)).why(why).permanent();
        let json = checked(store, &checkpoint.manifest, None, checkpoint.crc, &damaged)?;
        let format = format_of(&json).map_err(|e| damaged(e.to_string()))?;
        let why = format!("it has format {format}, this version reads 1 to {FORMAT}");
        match format {
            1..=FORMAT => serde_json::from_slice(&json).map_err(|e| damaged(e.to_string())),
            0 => Err(damaged(why)),
            _ => Err(Error::user(format!("the checkpoint '{}' was written by a newer version of orderflow", checkpoint.manifest))
                .why(why)
                .hint("start it with that version, or a newer one; nothing was deleted")),
        }
    }
}
