//! Which stored state a pipeline begins with: the newest complete checkpoint that can be read whole.
//!
//! Invariant: what is used was checked to the last bit. A damaged checkpoint is passed over, and said so, for the one before it; if no one is whole the start is
//! refused, and nothing is deleted, unless it was told to compute everything again.

use super::OnChange;
use super::change::{Fate, compare};
use super::start::Parts;
use crate::bug::{Bug, planted};
use crate::epoch::{Checkpoint, Recovered};
use crate::error::{Error, Kind, Result, Retry};
use crate::operator::Node;
use crate::operator::root::{Roots, StoredTrace, is_live};
use crate::runtime::Image;
use crate::source::{Rewind, Source};
use crate::state::{Counts, FileRef, Manifest, RootFiles, read};
use crate::store::Store;
use crate::time::Epoch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What to do where no checkpoint is whole.
pub(crate) const NONE_IS_WHOLE: &str = "restore the state from a copy; or start with on_change(OnChange::Rebuild), which computes all views again \
     from the beginning of the sources, if they still hold it; or start anew with another state and other sinks";

/// State to begin with.
pub(super) struct Restored {
    pub(super) image: Image,
    /// By root and trace.
    pub(super) files: Vec<Vec<Vec<FileRef>>>,
    /// Whether all input has to be read again all the same: for a view that was not there, or for a sink that is new.
    pub(super) fill: bool,
    /// What was counted until then; `None` if it has to be counted again, with all input, or if an older version stored no counts.
    pub(super) counts: Option<Counts>,
    /// What each view computed when that was counted.
    plan: BTreeMap<String, String>,
    /// Newer checkpoints that could not be used, and why.
    pub(super) damaged: Vec<String>,
}

impl Restored {
    /// The newest state in `store` that can be used for these roots; `new_sinks` says of each sink whether it is new.
    pub(super) fn choose(store: &dyn Store, found: &Recovered, roots: &Roots, new_sinks: &[bool], told: OnChange) -> Result<Option<Self>> {
        let mut damaged = vec![];
        for checkpoint in found.checkpoints.iter().rev() {
            match Self::load(store, checkpoint, roots, new_sinks) {
                Ok(restored) => return Ok(Some(Self { damaged, ..restored })),
                // nor is an older one taken for one that a newer version wrote
                Err(e) if e.retry() == Retry::Backoff || e.kind() == Kind::User => return Err(e),
                Err(e) => {
                    tracing::warn!("the checkpoint as of epoch {} cannot be used, so an older one is: {e}", checkpoint.epoch);
                    damaged.push(format!("the checkpoint as of epoch {}: {e}", checkpoint.epoch));
                }
            }
        }
        match told {
            _ if damaged.is_empty() => Ok(None),
            OnChange::Refuse => {
                Err(Error::user("no stored checkpoint can be used, so nothing was changed").why(damaged.join("; ")).hint(NONE_IS_WHOLE))
            }
            OnChange::Rebuild => {
                tracing::warn!("no stored checkpoint can be used: views are computed again from the sources");
                Ok(None)
            }
        }
    }

    fn load(store: &dyn Store, checkpoint: &Checkpoint, roots: &Roots, new_sinks: &[bool]) -> Result<Self> {
        let manifest = Manifest::load(store, checkpoint)?;
        let mut stored: Vec<Option<RootFiles>> = manifest.roots.into_iter().map(Some).collect();
        let (mut images, mut files) = (vec![], vec![]);
        for shape in &roots.shapes {
            let same = stored.iter_mut().find(|r| r.as_ref().is_some_and(|r| r.text == shape.text)).and_then(Option::take);
            if same.as_ref().is_some_and(|root| root.traces.len() != shape.traces.len()) {
                return Err(Error::external(format!("the checkpoint '{}' does not fit", checkpoint.manifest)).permanent());
            }
            files.push(same.as_ref().map_or_else(|| vec![vec![]; shape.traces.len()], |root| root.traces.clone()));
            images.push(same.map(|root| root.traces.iter().map(|trace| content(store, trace)).collect::<Result<Vec<_>>>()).transpose()?);
        }
        let lacks = images.iter().any(Option::is_none);
        let fill = lacks || new_sinks.iter().zip(&roots.live_outputs).any(|(new, live)| *new && *live);
        if fill {
            tracing::info!("a view or sink is new: the sources are read again from the beginning for it");
        }
        let show = (roots.feeds || fill || new_sinks.contains(&true)) && !planted(Bug::RootsStaySilent);
        let counts = manifest.counts.filter(|_| !fill);
        let image = Image { upto: checkpoint.epoch.0, show, roots: images };
        Ok(Self { image, files, fill, counts, plan: manifest.plan, damaged: vec![] })
    }

    /// Leaves out what was counted of views that are gone or changed: what such a view refuses of the stored rows that it is shown is counted then. One that
    /// reads a source is not shown again what it refused on the way to its state, which is as it was: it goes on.
    pub(super) fn forget_counts(&mut self, parts: &Parts) {
        let Some(counts) = &mut self.counts else { return };
        let (mut live, mut go_on): (Vec<bool>, BTreeSet<&str>) = (vec![], BTreeSet::new());
        for view in &parts.blueprint.views {
            let mut from_outside = false;
            view.node.walk(&mut |n| {
                from_outside |= match n {
                    Node::Source { .. } => true,
                    Node::View { view, .. } => live[*view],
                    _ => false,
                }
            });
            if from_outside {
                go_on.insert(&*view.name);
            }
            let outside = is_live(&view.node, &live);
            live.push(outside);
        }
        for part in compare(&self.plan, &parts.computed.0, &[], &[]) {
            let name = part.name.strip_prefix("view ").unwrap_or_default();
            if matches!(part.fate, Fate::Changed | Fate::Gone) && !go_on.contains(name) {
                counts.rejected.remove(name);
            }
        }
    }
}

fn content(store: &dyn Store, files: &[FileRef]) -> Result<StoredTrace> {
    files.iter().map(|file| Ok((file.upto, Arc::new(read(store, file)?)))).collect()
}

/// What spooled sources gave long ago is stored no more: nothing that needs it can begin.
pub(super) fn still_there(found: &Recovered, sources: &[(Arc<str>, Box<dyn Source>)], restored: bool) -> Result<()> {
    let begins = [Epoch(0)].into_iter().chain(found.segments.iter().map(|b| b.epoch));
    let gone: Vec<_> = begins.zip(&found.segments).filter(|(begin, _)| *begin < found.dropped).map(|(_, b)| b).collect();
    let gave = |name: &Arc<str>| gone.iter().any(|b| b.ranges.keys().any(|(source, _)| source == name));
    let Some((name, _)) = sources.iter().find(|(name, source)| source.rewind() == Rewind::Spooled && gave(name)) else { return Ok(()) };
    let what = format!("what source {name} gave up to epoch {} is not stored any more, and the source cannot give it again", found.dropped);
    Err(match restored {
        true => Error::user(what)
            .why("a view or sink is new, and needs all input from the beginning")
            .hint("leave it out, or start anew with another state and other sinks, with keep_spooled() if views are to be added later"),
        false => Error::user(what)
            .why("the views that are stored cannot be used, and would have to be computed again from the beginning")
            .hint("restore the state from a copy, or start anew with another state and other sinks"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[test]
    fn a_checkpoint_of_a_newer_version_is_refused_and_a_damaged_one_passed_over() {
        let store = Memory::new();
        let older = Manifest::new(Epoch(1), vec![]).save(&store, 1).unwrap();
        let put = |name: &str, json: &str| {
            (&store as &dyn Store).put_bytes(name, json.as_bytes()).unwrap();
            Checkpoint { epoch: Epoch(2), manifest: name.into(), crc: crc32fast::hash(json.as_bytes()) }
        };
        let choose = |newest: Checkpoint| {
            let found = Recovered { checkpoints: vec![older.clone(), newest], ..Recovered::default() };
            Restored::choose(&store, &found, &Roots::default(), &[], OnChange::Refuse)
        };
        let restored = choose(put("checkpoints/damaged", "{")).unwrap().unwrap();
        assert_eq!((restored.image.upto, restored.damaged.len()), (1, 1));
        let e = choose(put("checkpoints/newer", r#"{"format":99}"#)).err().unwrap();
        assert!(e.kind() == Kind::User && e.to_string().contains("newer version"), "{e}");
    }
}
