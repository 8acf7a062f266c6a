//! Checkpoints: what roots were given since the last one is written to files by a thread of its own, while the workers go on.
//!
//! ```text
//!   epoch e closes ─► Seal(e) to workers ─► each lets go of its batches up to e ─► files, manifest ─┐
//!                     sinks are asked to commit e ───────────────────────────────────────────────────┴─► complete: a base in the ledger
//! ```
//! Invariant: a checkpoint counts when a base in the ledger names it, which is written when its files survive a crash and every sink holds its
//! epoch. A file is deleted when no checkpoint that is kept needs it and the base that says so is durable. Small files are merged into larger ones
//! among those of complete checkpoints only.

use super::background::{Driver, Tries};
use super::worker::SealedRoots;
use crate::bug::{Bug, planted};
use crate::dataflow::partials::Partials;
use crate::epoch::Checkpoint;
use crate::error::{Error, Result, Retry};
use crate::operator::root::{Bounds, Roots, Shape, TraceShape};
use crate::state::{Counts, FileRef, Manifest, RootFiles, ViewOf, generation_of, read, write};
use crate::store::Store;
use crate::time::{Clock, Epoch};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Rows of one batch in a file.
const ROWS: usize = 64 * 1024;
/// Files of about one size that are merged at once.
const FAN: usize = 4;

/// So many rows are merged at a time, or those of one bucket if they are more.
const ROWS_AT_ONCE: u64 = 64 << 10;

/// What is to be done.
pub(crate) enum Job {
    /// Delete what generations before left and no checkpoint needs.
    Clean { kept: Vec<Checkpoint> },
    /// Write down what the workers' roots were given up to the end of this epoch, and what was counted.
    Write { epoch: Epoch, sealed: Vec<SealedRoots>, counts: Counts },
    /// These checkpoints are kept, which survives a crash.
    Kept { kept: Vec<Checkpoint> },
}

/// What is known of the work.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckpointState {
    /// The newest checkpoint whose files survive a crash.
    pub(crate) written: Option<Checkpoint>,
    /// Bytes of files written with what had changed.
    pub(crate) bytes: u64,
    /// Bytes of files written by merging others.
    pub(crate) merged_bytes: u64,
    /// Why it is waiting, if it is.
    pub(crate) waits: Option<String>,
    /// Why it is out of order.
    pub(crate) failed: Option<Error>,
}

/// Writes, merges and deletes files.
pub(crate) struct CheckpointDriver {
    store: Arc<dyn Store>,
    generation: u64,
    shapes: Vec<Shape>,
    views: Vec<ViewOf>,
    /// What each view computes.
    plan: BTreeMap<String, String>,
    /// The content of each root's traces as of the newest checkpoint.
    files: Vec<Vec<Vec<FileRef>>>,
    /// Manifests that may be needed, with the names of their files.
    manifests: Vec<(Checkpoint, BTreeSet<String>)>,
    /// Names of all files that this process wrote or took over.
    owned: BTreeSet<String>,
    merges: u64,
    queue: VecDeque<Job>,
    tries: Tries,
    state: CheckpointState,
}

impl CheckpointDriver {
    /// Of these roots, which were restored from `files`, and of views that compute what `plan` says.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        generation: u64,
        (roots, plan): (Roots, BTreeMap<String, String>),
        files: Vec<Vec<Vec<FileRef>>>,
        clock: Clock,
    ) -> Self {
        let (queue, tries, state) = (VecDeque::new(), Tries::new(clock), CheckpointState::default());
        let (manifests, owned) = (vec![], BTreeSet::new());
        let views = roots.views.into_iter().map(|v| ViewOf { view: v.view, root: v.root, columns: v.columns }).collect();
        Self { store, generation, shapes: roots.shapes, views, plan, files, manifests, owned, merges: 0, queue, tries, state }
    }

    fn work(&mut self) -> Result<()> {
        match self.queue.front() {
            None => return Ok(()),
            Some(Job::Clean { kept }) => self.clean(&kept.clone())?,
            Some(Job::Write { epoch, sealed, counts }) => {
                let (epoch, counts) = (*epoch, counts.clone());
                let files = self.write(epoch, sealed)?;
                let checkpoint = self.save(epoch, files, counts)?;
                if planted(Bug::SweepsTooEarly) {
                    self.sweep(std::slice::from_ref(&checkpoint))?;
                }
                self.state.written = Some(checkpoint);
            }
            Some(Job::Kept { kept }) => {
                let kept = kept.clone();
                self.sweep(&kept)?;
                if let Some(newest) = kept.last() {
                    self.merge(newest.epoch)?;
                }
            }
        }
        self.queue.pop_front();
        Ok(())
    }

    /// A file for every trace that changed.
    fn write(&self, epoch: Epoch, sealed: &[SealedRoots]) -> Result<Vec<Vec<Option<FileRef>>>> {
        let mut number = 0;
        let mut trace = |root: usize, trace: usize, shape: &TraceShape| {
            let parts = sealed.iter().filter_map(|roots| roots.get(root)?.get(trace)).flat_map(|s| s.parts());
            let content = Partials::sum(0, &parts.collect::<Vec<_>>());
            number += 1;
            let name = format!("roots/{:010}-g{:04}-{number:04}.arrow", epoch.0, self.generation);
            self.file(name, epoch, shape, content)
        };
        let root = |(r, s): (usize, &Shape)| s.traces.iter().enumerate().map(|(t, shape)| trace(r, t, shape)).collect();
        self.shapes.iter().enumerate().map(root).collect()
    }

    fn file(&self, name: String, upto: Epoch, shape: &TraceShape, content: Partials) -> Result<Option<FileRef>> {
        let n = content.keys.count();
        if (0..n).all(|i| content.accs.get(i).iter().all(|w| *w == 0)) {
            return Ok(None);
        }
        let bounds = Bounds::of(shape.width, &content);
        let batches = (0..n).step_by(ROWS).map(|from| shape.encode(&content, from, (from + ROWS).min(n), &bounds));
        write(&*self.store, name, upto.0, &shape.schema(&bounds), batches).map(Some)
    }

    fn save(&mut self, epoch: Epoch, new: Vec<Vec<Option<FileRef>>>, counts: Counts) -> Result<Checkpoint> {
        let mut files = self.files.clone();
        if planted(Bug::ManifestForgetsFiles) {
            files.iter_mut().flatten().for_each(Vec::clear);
        }
        for (root, new) in files.iter_mut().zip(new) {
            for (trace, new) in root.iter_mut().zip(new) {
                trace.extend(new.inspect(|f| self.state.bytes += f.bytes));
            }
        }
        let rows = |s: &Shape| serde_json::to_value(&s.rows).map_err(|e| Error::internal("a root cannot be described").caused_by(e));
        let roots =
            self.shapes.iter().zip(&files).map(|(s, f)| Ok(RootFiles { text: s.text.clone(), traces: f.clone(), rows: Some(rows(s)?) }));
        let (views, plan, counts) = (self.views.clone(), self.plan.clone(), Some(counts));
        let manifest = Manifest { views, plan, counts, ..Manifest::new(epoch, roots.collect::<Result<_>>()?) };
        let checkpoint = manifest.save(&*self.store, self.generation)?;
        self.files = files;
        self.know(&checkpoint, &manifest);
        Ok(checkpoint)
    }

    fn know(&mut self, checkpoint: &Checkpoint, manifest: &Manifest) {
        let names: BTreeSet<String> = manifest.files().map(|f| f.name.clone()).collect();
        self.owned.extend(names.iter().cloned());
        self.owned.insert(checkpoint.manifest.clone());
        self.manifests.retain(|(c, _)| c != checkpoint);
        self.manifests.push((checkpoint.clone(), names));
    }

    /// Deletes what no kept checkpoint needs.
    fn sweep(&mut self, kept: &[Checkpoint]) -> Result<()> {
        self.manifests.retain(|(c, _)| kept.contains(c));
        let mut needed: BTreeSet<&String> = self.manifests.iter().flat_map(|(c, files)| files.iter().chain([&c.manifest])).collect();
        needed.extend(self.files.iter().flatten().flatten().map(|f| &f.name));
        let gone: Vec<String> = self.owned.iter().filter(|name| !needed.contains(name)).cloned().collect();
        for name in gone {
            self.store.delete(&name)?;
            self.owned.remove(&name);
        }
        Ok(())
    }

    /// Takes over the files of kept checkpoints and deletes those of lower generations that none of them needs.
    fn clean(&mut self, kept: &[Checkpoint]) -> Result<()> {
        for checkpoint in kept {
            match Manifest::load(&*self.store, checkpoint) {
                Ok(manifest) => self.know(checkpoint, &manifest),
                Err(e) if e.retry() == Retry::Backoff => return Err(e),
                Err(e) => tracing::warn!("an older checkpoint is of no use any more: {e}"),
            }
        }
        let older = |name: &str| generation_of(name).is_some_and(|g| g < self.generation);
        for name in [self.store.list("roots/")?, self.store.list("checkpoints/")?].concat() {
            if older(&name) && (!self.owned.contains(&name) || planted(Bug::CleansWhatIsNeeded)) {
                self.store.delete(&name)?;
            }
        }
        Ok(())
    }

    /// Merges runs of files of about one size, so that their number grows with the logarithm of the state.
    fn merge(&mut self, complete: Epoch) -> Result<()> {
        for root in 0..self.files.len() {
            for trace in 0..self.files[root].len() {
                loop {
                    let files = self.files[root][trace].iter().take_while(|f| f.upto <= complete.0);
                    let Some(run) = run(&files.map(|f| f.bytes).collect::<Vec<_>>()) else { break };
                    let shape = self.shapes[root].traces[trace].clone();
                    let small = self.files[root][trace][run.clone()].to_vec();
                    let merged = self.merged(&shape, &small)?;
                    self.state.merged_bytes += merged.as_ref().map_or(0, |f| f.bytes);
                    self.owned.extend(merged.iter().map(|f| f.name.clone()));
                    self.files[root][trace].splice(run, merged);
                }
            }
        }
        Ok(())
    }

    /// The content of some files as one. Some buckets at a time, so that no more than the files themselves is held.
    fn merged(&mut self, shape: &TraceShape, files: &[FileRef]) -> Result<Option<FileRef>> {
        let contents = files.iter().map(|f| read(&*self.store, f)).collect::<Result<Vec<_>>>()?;
        let bounds = Bounds::of_sum(shape, &contents)?;
        let upto = files.iter().map(|f| f.upto).max().unwrap_or_default();
        self.merges += 1;
        let name = format!("roots/{upto:010}-g{:04}-m{:06}.arrow", self.generation, self.merges);
        let (all, rows) = (crate::data::rowkey::BUCKETS, files.iter().map(|f| f.rows).sum::<u64>());
        // a batch has its price in bytes: few rows of many buckets are one
        let some = usize::try_from(all as u64 * ROWS_AT_ONCE / rows.max(1)).map_or(all, |n| n.clamp(1, all));
        let batches = (0..all).step_by(some).filter_map(|bucket| {
            let parts = contents.iter().map(|c| shape.decode(c, bucket..all.min(bucket + some))).collect::<Result<Vec<_>>>();
            let batch = parts.and_then(|parts| {
                let content = Partials::merge(parts.into_iter().filter(|p| p.keys.count() > 0).collect());
                shape.encode(&content, 0, content.keys.count(), &bounds)
            });
            match batch {
                Ok(batch) if batch.num_rows() == 0 => None,
                other => Some(other),
            }
        });
        let file = write(&*self.store, name, upto, &shape.schema(&bounds), batches)?;
        if file.rows > 0 {
            return Ok(Some(file));
        }
        self.store.delete(&file.name)?;
        Ok(None)
    }
}

/// The newest run of files of these sizes that is to be merged: each of its files is not much larger than all newer ones of the run together. A run may stand
/// behind newer files that are small beside it: what is merged is not as large as its parts together, nor always as small.
pub(super) fn run(sizes: &[u64]) -> Option<Range<usize>> {
    (FAN..=sizes.len()).rev().find_map(|to| {
        let (mut from, mut bytes) = (to, 0);
        while let Some(next) = from.checked_sub(1)
            && (bytes == 0 || sizes[next] < 2 * bytes)
        {
            (from, bytes) = (next, bytes + sizes[next]);
        }
        (to - from >= FAN).then_some(from..to)
    })
}

impl Driver for CheckpointDriver {
    type Job = Job;
    type State = CheckpointState;

    fn take(&mut self, job: Job) {
        self.queue.push_back(job);
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() || self.tries.failed.is_some()
    }

    fn pause(&self) -> Duration {
        self.tries.pause()
    }

    fn step(&mut self) -> CheckpointState {
        while !self.is_idle() && self.tries.is_due() {
            let outcome = self.work();
            self.tries.note(outcome);
        }
        (self.state.waits, self.state.failed) = (self.tries.waits.clone(), self.tries.failed.clone());
        self.state.clone()
    }

    fn fail(state: &mut CheckpointState, e: Error) {
        state.failed.get_or_insert(e);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_about_one_size_are_merged_and_large_ones_are_left_alone() {
        assert_eq!(run(&[]), None);
        assert_eq!(run(&[5, 5, 5]), None);
        assert_eq!(run(&[5, 5, 5, 5]), Some(0..4));
        assert_eq!(run(&[1000, 5, 5, 5, 5]), Some(1..5));
        assert_eq!(run(&[1000, 20, 5, 5, 5]), Some(1..5));
        assert_eq!(run(&[1000, 400, 100, 5]), None);
        assert_eq!(run(&[1000, 90, 90, 90, 90, 5, 5]), Some(1..5), "behind smaller ones");
        // one file a checkpoint, all of a size: each byte is written again a logarithmic number of times
        let (mut sizes, mut written) = (vec![], 0);
        for _ in 0..4096 {
            sizes.push(1u64);
            while let Some(run) = run(&sizes) {
                let merged = sizes[run.clone()].iter().sum();
                written += merged;
                sizes.splice(run, [merged]);
            }
            assert!(sizes.len() <= 24, "{sizes:?}");
        }
        assert!(written < 4096 * 12, "{written}");
    }

    #[test]
    fn files_of_rows_that_come_and_go_do_not_pile_up() {
        // what is merged has a price of its own, and most of it cancels out: whatever is merged comes to about one size
        let mut sizes = vec![];
        for _ in 0..4096 {
            sizes.push(4u64);
            while let Some(run) = run(&sizes) {
                sizes.splice(run, [85]);
            }
            assert!(sizes.len() <= 2 * FAN, "{sizes:?}");
        }
    }
}
