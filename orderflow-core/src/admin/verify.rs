//! Whether a state is whole, to the last bit.
//!
//! Invariant: nothing is written and no lock is taken. What a running pipeline deletes while it is read is not taken for damage.

use super::{TRIES, look, moved};
use crate::epoch::Seen;
use crate::error::{Error, Result, Retry};
use crate::pipeline::NONE_IS_WHOLE;
use crate::state::{Manifest, read, read_spool};
use crate::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Entries of the ledger that were read.
    pub entries: usize,
    /// Manifests of checkpoints that were read.
    pub manifests: usize,
    /// Files that were read, each once.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that neither a checkpoint nor the ledger names: left by a process that was killed, or needed by the next checkpoint; the next start sweeps them.
    pub unneeded: Vec<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What to do about it.
    pub advice: Option<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub object: String,
    /// What.
    pub why: String,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Reads every entry, manifest, file and object with stored rows of a state, and compares lengths, checksums and numbers of rows.
///
/// # Errors
/// No state, or one that cannot be read now. Damage is no error: it is what the answer says.
pub fn verify(store: &Arc<dyn Store>, place: &str) -> Result<Verification> {
    let mut result = Verification::default();
    for _ in 0..TRIES {
        let seen = match look(store, place) {
            Ok(seen) => seen,
            Err(e) if e.retry() == Retry::Never && e.kind() == crate::error::Kind::External => {
                let advice =
                    "no pipeline can start on it: restore the folder from a copy, or start anew with another state and other sinks";
                let problems = vec![Problem { object: "ledger".into(), why: e.to_string() }];
                return Ok(Verification { problems, advice: Some(advice.into()), ..Verification::default() });
            }
            Err(e) => return Err(e),
        };
        result = checkpoints(store, &seen)?;
        if result.is_good() || !moved(&seen, &look(store, place)?) {
            return Ok(result);
        }
    }
    Ok(result)
}

fn checkpoints(store: &Arc<dyn Store>, seen: &Seen) -> Result<Verification> {
    let mut found = Verification { entries: seen.entries, ..Verification::default() };
    let (mut read_once, mut bad, mut needed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut good = None;
    for checkpoint in &seen.found.checkpoints {
        needed.insert(checkpoint.manifest.clone());
        let manifest = match Manifest::load(&**store, checkpoint) {
            Ok(manifest) => manifest,
            Err(e) if e.retry() == Retry::Backoff => return Err(e),
            Err(e) => {
                found.problems.push(Problem { object: checkpoint.manifest.clone(), why: e.to_string() });
                continue;
            }
        };
        found.manifests += 1;
        let mut whole = true;
        for file in manifest.files() {
            needed.insert(file.name.clone());
            if read_once.insert(file.name.clone()) {
                let outcome = read(&**store, file).and_then(|batches| {
                    let rows: usize = batches.iter().map(|b| b.num_rows()).sum();
                    let wrong = || Error::external(format!("it has {rows} rows and should have {}", file.rows)).permanent();
                    if rows as u64 == file.rows { Ok(()) } else { Err(wrong()) }
                });
                match outcome {
                    Ok(()) => {
                        found.files += 1;
                        found.rows += file.rows;
                        found.bytes += file.bytes;
                    }
                    Err(e) if e.retry() == Retry::Backoff => return Err(e),
                    Err(e) => {
                        bad.insert(file.name.clone());
                        found.problems.push(Problem { object: file.name.clone(), why: e.to_string() });
                    }
                }
            }
            whole &= !bad.contains(&file.name);
        }
        if whole {
            good = Some(checkpoint.epoch);
        }
    }
    let good_files = found.is_good();
    let rows = seen.found.segments.iter().chain(&seen.found.bindings).flat_map(|b| &b.spool);
    for object in rows.chain(seen.found.letters.objects()) {
        needed.insert(object.name.clone());
        match read_spool(&**store, object) {
            Ok(fetches) => {
                found.files += 1;
                found.rows += fetches.iter().map(|(_, fetch)| fetch.rows as u64).sum::<u64>();
                found.bytes += object.bytes;
            }
            Err(e) if e.retry() == Retry::Backoff => return Err(e),
            Err(e) => found.problems.push(Problem { object: object.name.clone(), why: e.to_string() }),
        }
    }
    let all = [store.list("roots/")?, store.list("checkpoints/")?, store.list("spool/")?].concat();
    found.unneeded = all.into_iter().filter(|name| !needed.contains(name)).collect();
    found.advice = (!found.is_good()).then(|| match good {
        _ if good_files => "rows of a source that cannot give them again, or that a sink refused, are damaged: a start that needs them refuses, so restore the \
             folder from a copy before the next one"
            .to_owned(),
        Some(epoch) if seen.found.checkpoints.last().is_some_and(|c| c.epoch == epoch) => {
            "the newest checkpoint is whole: nothing is lost, and the damaged one goes with the next checkpoints; look at the disk".to_owned()
        }
        Some(epoch) => format!(
            "the next start goes on from the older checkpoint, as of epoch {epoch}, by itself; the sources must still hold what came after it. \
             Look at the disk, or restore the folder from a copy"
        ),
        None => format!("the next start is refused: {NONE_IS_WHOLE}"),
    });
    Ok(found)
}
