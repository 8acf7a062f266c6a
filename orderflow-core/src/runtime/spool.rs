//! Rows of sources that cannot give them again: stored with the binding of their epoch, and read from there after a crash. The rows that sinks refuse
//! lie beside them, until the ledger names them no more (see [`letterbox`](super::letterbox)).
//!
//! ```text
//!   mint closes e ─► the log's thread: rows ─► spool/e ─► entry that names it ─► durable: output of e may leave, the source is acknowledged
//!   start ─► epoch by epoch: objects that its binding names ─► fetches ─► workers;  then the source itself goes on
//! ```
//! Invariant: an object is durable before the entry that names it, and is deleted after the base that names it no more; what nobody names was left
//! by a lower generation. Dropped is what two checkpoints cover: nothing, in a pipeline that stores no views or keeps its input.

use super::checkpoint::run;
use super::engine::Engine;
use super::ledger::LogJob;
use super::ports::SourcePort;
use crate::data::Changes;
use crate::epoch::{Admit, Base, Binding, Entry, Recovered, SpoolRef};
use crate::error::{Error, Result, Retry};
use crate::source::{Fetch, Payload};
use crate::state::{Spooled, generation_of, join_spool, read_spool, spool_name, write_spool};
use crate::store::Store;
use crate::time::{Epoch, Positions};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Objects are joined into ones of up to so many bytes: one is held in memory when it is read.
const JOINED: u64 = 64 << 20;

/// The log's side: which objects there are.
pub(crate) struct Spool {
    store: Arc<dyn Store>,
    generation: u64,
    /// Whether rows are kept that two checkpoints cover, or could be covered at all; they are joined then.
    keep: bool,
    /// What the ledger names, the oldest first.
    objects: Vec<SpoolRef>,
    /// What sinks refused and the ledger names, or named before it was told otherwise.
    letters: Vec<SpoolRef>,
    dropped: Epoch,
    /// To be deleted when a base is durable.
    doomed: Vec<String>,
    joins: u64,
}

impl Spool {
    /// Of a ledger that was found so, for writers of `generation`; `keep`: nothing may be dropped.
    pub(crate) fn new(store: Arc<dyn Store>, generation: u64, found: &Recovered, keep: bool) -> Self {
        let objects = found.segments.iter().chain(&found.bindings).flat_map(|b| b.spool.iter().cloned()).collect();
        let letters = found.letters.objects().cloned().collect();
        Self { store, generation, keep, objects, letters, dropped: found.dropped, doomed: vec![], joins: 0 }
    }

    /// Does what must be durable before the entry, and says in the entry what was done; called again only after an error.
    pub(super) fn prepare(&mut self, entry: &mut Entry, rows: &[Spooled]) -> Result<()> {
        match entry {
            Entry::Bound(binding) if !rows.is_empty() => {
                let object = write_spool(&*self.store, spool_name(binding.epoch, self.generation), binding.epoch, rows)?;
                self.objects.push(object.clone());
                binding.spool = vec![object];
            }
            Entry::Refused(letters) => {
                if let Some(object) = letters.object.as_mut() {
                    *object = write_spool(&*self.store, object.name.clone(), object.upto, rows)?;
                    self.letters.push(object.clone());
                }
            }
            Entry::Base(base) => self.place(base)?,
            _ => {}
        }
        Ok(())
    }

    fn place(&mut self, base: &mut Base) -> Result<()> {
        if self.keep {
            let ends: Vec<Epoch> = base.segments.iter().map(|b| b.epoch).collect();
            let begins = [Epoch(0)].into_iter().chain(ends.iter().copied());
            begins.zip(&ends).try_for_each(|(from, to)| self.join(from, *to))?;
        } else {
            let covered = base.covered();
            let (gone, needed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.objects).into_iter().partition(|o| o.upto <= covered);
            self.dropped = if gone.is_empty() { self.dropped } else { covered };
            self.doomed.extend(gone.into_iter().map(|o| o.name));
            self.objects = needed;
        }
        base.place(&self.objects);
        base.dropped = self.dropped;
        base.letters.place(&self.letters);
        let is_needed = |o: &SpoolRef| base.letters.objects().any(|named| named.name == o.name);
        let (needed, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.letters).into_iter().partition(is_needed);
        self.doomed.extend(gone.into_iter().map(|o| o.name));
        self.letters = needed;
        Ok(())
    }

    /// Joins small objects of the epochs after `from` until `to`, which are one in the ledger from now on.
    fn join(&mut self, from: Epoch, to: Epoch) -> Result<()> {
        let until = self.objects.iter().take_while(|o| o.upto <= to).count();
        let (mut begin, mut bytes) = (until, 0);
        while begin > 0 && self.objects[begin - 1].upto > from && bytes + self.objects[begin - 1].bytes <= JOINED {
            begin -= 1;
            bytes += self.objects[begin].bytes;
        }
        let sizes: Vec<u64> = self.objects[begin..until].iter().map(|o| o.bytes).collect();
        let Some(run) = run(&sizes).map(|run| begin + run.start..begin + run.end) else { return Ok(()) };
        let small = &self.objects[run.clone()];
        let upto = small.last().map_or(to, |o| o.upto);
        let name = format!("spool/{:010}-g{:04}-j{:06}.rows", upto.0, self.generation, self.joins + 1);
        let joined = join_spool(&*self.store, name, small)?;
        self.joins += 1;
        self.doomed.extend(self.objects.splice(run, [joined]).map(|o| o.name));
        Ok(())
    }

    /// A base is durable: what it names no more is deleted. What cannot be deleted now is by the next base or opening.
    pub(super) fn sweep(&mut self) {
        let store = &self.store;
        self.doomed.retain(|name| match store.delete(name) {
            Ok(()) => false,
            Err(e) => {
                tracing::warn!("rows that are not needed any more could not be deleted: {e}");
                true
            }
        });
    }

    /// Deletes what lower generations left and the ledger does not name.
    pub(super) fn clean(&self) -> Result<()> {
        for name in self.store.list("spool/")? {
            let older = generation_of(&name).is_some_and(|g| g < self.generation);
            if older && self.objects.iter().chain(&self.letters).all(|o| o.name != name) && !self.doomed.contains(&name) {
                match self.store.delete(&name) {
                    Err(e) if e.retry() == Retry::Never => tracing::warn!("rows of epochs that were never bound could not be deleted: {e}"),
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }

    /// The rows of an object.
    pub(super) fn read(&self, object: &SpoolRef) -> Result<Vec<Spooled>> {
        read_spool(&*self.store, object)
    }
}

/// The engine's side: rows on their way to the log, and what their sources are told when they are there.
#[derive(Default)]
pub(crate) struct Spooling {
    /// Of the open epoch.
    open: Vec<Spooled>,
    /// Of epochs that are not durable yet.
    closed: VecDeque<(Epoch, BTreeMap<Arc<str>, Positions>)>,
    /// Whether an object is being read.
    asked: bool,
}

/// What the log shall keep of a fetch that goes to the workers: its rows, if nobody else can give them again.
pub(super) fn kept(source: &SourcePort, fetch: &Fetch) -> Payload {
    match &fetch.payload {
        Payload::Rows(rows) if source.spooled.is_some() => Payload::Rows(rows.clone()),
        _ => Payload::None,
    }
}

impl Engine {
    /// Takes note of a fetch of the open epoch, with the rows that are to be [kept].
    pub(super) fn spool(&mut self, source: usize, fetch: Fetch) {
        let source = &self.sources[source];
        if source.spooled.is_some() {
            self.spooling.open.push((source.name.clone(), fetch));
        }
    }

    /// The epoch of this binding is closed: gives the rows that belong to it.
    pub(super) fn close_spool(&mut self, binding: &Binding) -> Vec<Spooled> {
        let mut ends: BTreeMap<Arc<str>, Positions> = BTreeMap::new();
        for ((source, partition), range) in &binding.ranges {
            if self.sources.iter().any(|s| s.spooled.is_some() && s.name == *source) {
                ends.entry(source.clone()).or_default().insert(partition.clone(), range.to);
            }
        }
        if !ends.is_empty() {
            self.spooling.closed.push_back((binding.epoch, ends));
        }
        std::mem::take(&mut self.spooling.open)
    }

    /// Tells spooled sources what is stored.
    pub(super) fn acknowledge_spooled(&mut self) -> Result<()> {
        let durable = self.written.durable;
        while let Some((_, ends)) = self.spooling.closed.pop_front_if(|(epoch, _)| *epoch <= durable) {
            for (source, positions) in ends {
                self.acknowledge(&source, &positions, true)?;
            }
        }
        Ok(())
    }

    /// Has the rows of the epoch that is read again fetched from where they are stored, an object at a time; true if something happened.
    pub(super) fn read_spool(&mut self) -> Result<bool> {
        let Some(next) = self.replay.spooled() else { return Ok(false) };
        if self.sources.iter().any(|s| s.spooled.is_some() && (s.held.is_some() || !s.later.is_empty())) {
            return Ok(false);
        }
        if !self.spooling.asked {
            self.spooling.asked = true;
            self.log.give(LogJob::Read(next.clone()));
            return Ok(true);
        }
        let Some(fetches) = self.written.take_read() else { return Ok(false) };
        self.spooling.asked = false;
        let name = self.replay.take_spooled().unwrap_or_default().name;
        for (source, mut fetch) in fetches {
            // of a source that is gone, with the views that read it, nothing is wanted
            let Some(port) = self.sources.iter_mut().find(|s| s.name == source) else { continue };
            let Some(schema) = port.spooled.clone() else {
                return Err(Error::user(format!("'{name}' holds rows of source {source}, which is another one now"))
                    .hint("put the source back that it was, or start anew with another state and other sinks"));
            };
            if self.replay.admit(&source, &fetch) != Admit::Now {
                return Err(Error::external(format!("the stored rows '{name}' do not belong to the epoch that names them")).permanent());
            }
            fetch.payload = match fetch.payload {
                Payload::Rows(rows) => Payload::Rows(fit(&source, rows, &schema)?),
                other => other,
            };
            port.later.push_back(fetch);
        }
        Ok(true)
    }
}

/// The rows under the columns that their source has now.
fn fit(source: &str, rows: Changes, schema: &SchemaRef) -> Result<Changes> {
    let stored = rows.schema();
    let shape = |s: &SchemaRef| s.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>();
    let say = |s: &SchemaRef| shape(s).iter().map(|(name, of)| format!("{name} {of}")).collect::<Vec<_>>().join(", ");
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let fits = (shape(&stored) == shape(schema))
        .then(|| RecordBatch::try_new_with_options(schema.clone(), rows.rows().columns().to_vec(), &options).ok());
    fits.flatten().map(|batch| rows.with_rows(batch)).ok_or_else(|| {
        Error::user(format!("source {source} has other columns than when its stored rows came"))
            .why(format!("they were {}; they are {}", say(&stored), say(schema)))
            .hint("put the columns back until what is stored is in the views, or start anew with another state and other sinks")
    })
}
