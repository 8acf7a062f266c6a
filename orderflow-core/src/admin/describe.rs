//! What is in a state, in numbers.

use super::look;
use crate::epoch::{Checkpoint, Recovered};
use crate::error::{Result, Retry};
use crate::state::Manifest;
use crate::store::Store;
use crate::time::Epoch;
use serde::Serialize;
use std::sync::Arc;

/// What is in a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The ledger's id, 32 hexadecimal digits.
    pub ledger: String,
    /// Every opening, the oldest first.
    pub generations: Vec<Generation>,
    /// Entries of the ledger.
    pub entries: usize,
    /// The newest epoch bound, and when it was closed, in milliseconds since 1970; `None` before the first.
    pub epoch: u64,
    /// When it was closed.
    pub minted_at: Option<i64>,
    /// The epoch up to which every sink was known to hold everything when that was written down last.
    pub held: u64,
    /// Where each partition began and is.
    pub sources: Vec<SourceAt>,
    /// Names of the views.
    pub views: Vec<String>,
    /// What sinks hold.
    pub sinks: Vec<SinkAt>,
    /// Complete checkpoints that are kept, the oldest first.
    pub checkpoints: Vec<CheckpointAt>,
}

/// One opening of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// In milliseconds since 1970; older versions did not write it down.
    pub opened_at: Option<i64>,
}

/// One partition of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceAt {
    /// The source.
    pub source: String,
    /// Its partition, as messages call it.
    pub partition: String,
    /// The position at which the pipeline began; `None` for a partition that came later.
    pub began: Option<u64>,
    /// The position after the last record that is bound.
    pub position: u64,
}

/// One sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkAt {
    /// Its name in the ledger, which `reset_sink` takes.
    pub name: String,
    /// The epoch up to which it holds everything; `None` for one that the ledger saw nothing of: the next start counts it as new.
    pub holds: Option<u64>,
    /// The generation that wrote its newest rows.
    pub generation: Option<u64>,
    /// The generation in which its present life began, if that was not the first start.
    pub born: Option<u64>,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckpointAt {
    /// State is as of its end.
    pub epoch: u64,
    /// Its object.
    pub manifest: String,
    /// Why it cannot be read.
    pub damaged: Option<String>,
    /// Files.
    pub files: usize,
    /// Their rows: changes, so a key may stand in several files.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The stored states, numbered from 0.
    pub states: Vec<StateAt>,
}

/// One stored state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateAt {
    /// What it computes, from the source on.
    pub text: String,
    /// The views that can be read from it without the pipeline.
    pub views: Vec<String>,
    /// Files.
    pub files: usize,
    /// Their rows: changes, so a key may stand in several files.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Says what is in a state. Manifests are read, files are not.
///
/// # Errors
/// No state, or one that cannot be read; a ledger that is damaged.
pub fn describe(store: &Arc<dyn Store>, place: &str) -> Result<Description> {
    let seen = look(store, place)?;
    let found = &seen.found;
    let plan = found.start.iter().flat_map(|s| s.plan.keys());
    let mut sinks: Vec<&String> = plan.clone().filter(|name| name.starts_with("sink ")).collect();
    sinks.extend(found.held.keys().filter(|name| !found.start.as_ref().is_some_and(|s| s.plan.contains_key(*name))));
    let sink = |name: &&String| {
        let (known, progress) = (found.held.contains_key(*name), found.held.get(*name).copied().flatten());
        SinkAt {
            name: (*name).clone(),
            holds: known.then(|| progress.map_or(Epoch(0), |p| p.epoch).max(found.base()).0),
            generation: progress.map(|p| p.writer.generation),
            born: found.births.get(*name).copied(),
        }
    };
    Ok(Description {
        ledger: format!("{:032x}", seen.writer().ledger),
        generations: seen.openings.iter().map(|o| Generation { generation: o.writer.generation, opened_at: o.at }).collect(),
        entries: seen.entries,
        epoch: found.tail().0,
        minted_at: found.bindings.last().or(found.segments.last()).map(|b| b.minted_at),
        held: found.base().0,
        sources: sources(found),
        views: plan.filter_map(|name| name.strip_prefix("view ").map(str::to_owned)).collect(),
        sinks: sinks.iter().map(sink).collect(),
        checkpoints: found.checkpoints.iter().map(|c| checkpoint(&**store, c)).collect::<Result<_>>()?,
    })
}

fn sources(found: &Recovered) -> Vec<SourceAt> {
    let bound = found.segments.iter().chain(&found.bindings).flat_map(|b| b.ranges.keys().map(|(source, _)| source.clone()));
    let began = found.start.iter().flat_map(|s| s.positions.keys().cloned());
    let names: std::collections::BTreeSet<_> = bound.chain(began).collect();
    let mut at = vec![];
    for name in names {
        let began = found.start.as_ref().and_then(|s| s.positions.get(&name)).cloned().unwrap_or_default();
        at.extend(found.stood(&name).into_iter().map(|(p, position)| SourceAt {
            source: name.to_string(),
            partition: p.to_string(),
            began: began.get(&p).copied(),
            position,
        }));
    }
    at
}

fn checkpoint(store: &dyn Store, checkpoint: &Checkpoint) -> Result<CheckpointAt> {
    let (epoch, name) = (checkpoint.epoch.0, checkpoint.manifest.clone());
    let nothing = CheckpointAt { epoch, manifest: name, damaged: None, files: 0, rows: 0, bytes: 0, states: vec![] };
    let manifest = match Manifest::load(store, checkpoint) {
        Ok(manifest) => manifest,
        Err(e) if e.retry() == Retry::Backoff => return Err(e),
        Err(e) => return Ok(CheckpointAt { damaged: Some(e.to_string()), ..nothing }),
    };
    let views = |number: usize| manifest.views.iter().filter(move |v| v.root == number).map(|v| v.view.clone()).collect();
    let states: Vec<StateAt> = manifest
        .roots
        .iter()
        .enumerate()
        .map(|(number, root)| {
            let files = || root.traces.iter().flatten();
            let (rows, bytes) = (files().map(|f| f.rows).sum(), files().map(|f| f.bytes).sum());
            StateAt { text: root.text.clone(), views: views(number), files: files().count(), rows, bytes }
        })
        .collect();
    let (rows, bytes) = (states.iter().map(|s| s.rows).sum(), states.iter().map(|s| s.bytes).sum());
    Ok(CheckpointAt { files: manifest.files().count(), rows, bytes, states, ..nothing })
}
