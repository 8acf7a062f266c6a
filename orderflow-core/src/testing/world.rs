//! The world around a pipeline under test: a log, stores on a disk that forgets, sinks whose answers get lost, and a clock that the test moves.
//!
//! Invariant: what outlives a process is in [`Outside`]; a [`World`] is what one process sees of it, and dies with it.

use super::host::{Forgotten, Host};
use super::schedule::{Life, Schedule};
use super::table::{Held, Table};
use super::topic::Topic;
use super::trace::{Act, Noting, Trace};
use crate::data::Changes;
use crate::epoch::Limits;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::runtime::Status;
use crate::sink::files::{DataSet, JsonLines};
use crate::source::PartitionStatus;
use crate::source::memory::ChannelSource;
use crate::store::faulty::{Fate, Faulty};
use crate::store::layer::Layered;
use crate::store::volatile::{Draw, Volatile};
use crate::store::{Memory, Store};
use crate::time::{Clock, Epoch, Positions};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For what never happens by itself.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// Rows of an epoch: few, so that there are many.
const EPOCH_ROWS: u64 = 11;

/// Where the state is.
const STATE: &str = "state";

/// What every sink holds, by name, a line a row.
pub type Rows = BTreeMap<String, Vec<String>>;

type Reader = Box<dyn Fn() -> Vec<String>>;

/// What outlives a process.
pub(super) struct Outside {
    pub(super) clock: Clock,
    pub(super) machine: Option<Volatile>,
    pub(super) trace: Trace,
    checkpoint_every: Duration,
    memory: Mutex<BTreeMap<String, Memory>>,
    tables: Mutex<BTreeMap<String, Arc<Mutex<Held>>>>,
    data_sets: Mutex<BTreeSet<String>>,
    readers: Mutex<BTreeMap<String, Reader>>,
    remembered: Mutex<BTreeMap<String, Rc<dyn Any>>>,
    /// The newest checkpoint that any life said was complete.
    complete: Mutex<Option<Epoch>>,
    /// By source: what it was told that every sink holds, and what it no longer has.
    logs: Mutex<Vec<LogState>>,
    /// By channel.
    hosts: Mutex<Vec<Forgotten>>,
}

#[derive(Clone, Default)]
struct LogState {
    acknowledged: Arc<Mutex<Positions>>,
    gone: Vec<u64>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // a test that panicked inside is about to fail anyway
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outside {
    pub(super) fn new(schedule: &Schedule) -> Rc<Self> {
        Rc::new(Self {
            clock: Clock::manual(1_000_000),
            machine: schedule.on_disk.then(Volatile::new),
            trace: Trace::default(),
            checkpoint_every: if schedule.checkpoints { Duration::ZERO } else { NEVER },
            memory: Mutex::default(),
            tables: Mutex::default(),
            data_sets: Mutex::default(),
            readers: Mutex::default(),
            remembered: Mutex::default(),
            complete: Mutex::default(),
            logs: Mutex::default(),
            hosts: Mutex::default(),
        })
    }

    /// The logs forget some of what they were told is in every sink, or a little more.
    pub(super) fn truncate(&self, draw: &mut Draw) {
        for log in lock(&self.logs).iter_mut() {
            for (partition, at) in lock(&log.acknowledged).iter() {
                let id = partition.id as usize;
                log.gone.resize(log.gone.len().max(id + 1), 0);
                log.gone[id] = log.gone[id].max(draw.below(at + 3));
            }
        }
    }

    /// All objects of data sets, and who wrote and may write tables, a line each.
    pub(super) fn objects(self: &Rc<Self>) -> Result<Vec<String>> {
        let world = World::of(self.clone(), Fate::default(), false, None);
        let mut objects: Vec<String> = lock(&self.tables).iter().map(|(name, held)| format!("{name}: {}", lock(held).owners())).collect();
        for set in lock(&self.data_sets).iter() {
            objects.extend(world.store(set)?.list("")?.into_iter().map(|object| format!("{set}: {object}")));
        }
        Ok(objects)
    }

    /// Whether the state in memory has a ledger.
    pub(super) fn has_state(&self) -> Result<bool> {
        lock(&self.memory).get(STATE).map_or(Ok(false), |state| Ok(!state.list("ledger/")?.is_empty()))
    }

    /// Whether some process had a memory channel.
    pub(super) fn has_hosts(&self) -> bool {
        !lock(&self.hosts).is_empty()
    }

    /// Another state, in memory, takes the place of the one that is there, which is given back.
    pub(super) fn exchange_state(&self, state: Memory) -> Memory {
        lock(&self.memory).insert(STATE.to_owned(), state).unwrap_or_default()
    }

    /// Takes what a process says of itself, which has just begun or goes on: what was complete once must be what a start goes on from, and a partition that
    /// has more to give is not idle.
    pub(super) fn note(&self, status: &Status, began: bool) -> Result<()> {
        for source in &status.sources {
            let behind = |p: &&PartitionStatus| p.lag().is_some_and(|lag| lag > 0) && source.idle.contains(&p.partition);
            if let Some(p) = source.status.partitions.iter().find(behind) {
                return Err(Error::internal(format!(
                    "{} counts as idle at position {} and has {:?} more",
                    p.partition,
                    p.position,
                    p.lag()
                )));
            }
        }
        let mut complete = lock(&self.complete);
        if began && status.restored < *complete {
            let (at, newest) = (status.restored.unwrap_or_default(), complete.unwrap_or_default());
            return Err(Error::internal(format!("it goes on from the state as of epoch {at}, and epoch {newest} was complete")));
        }
        *complete = status.checkpoint.max(*complete);
        Ok(())
    }

    /// Number of sources.
    pub(super) fn sources(&self) -> usize {
        lock(&self.logs).len() + lock(&self.hosts).len()
    }

    /// What every sink holds. No process may be running.
    pub(super) fn rows(self: &Rc<Self>) -> Result<Rows> {
        let mut rows = self.simulated()?;
        rows.extend(lock(&self.readers).iter().map(|(name, read)| (name.clone(), read())));
        Ok(rows)
    }

    /// The same of those sinks that are there from the beginning: what [`World::compare`] reads may not be.
    pub(super) fn simulated(self: &Rc<Self>) -> Result<Rows> {
        let world = World::of(self.clone(), Fate::default(), false, None);
        let mut rows = Rows::new();
        for name in lock(&self.data_sets).iter() {
            let store = world.store(name)?;
            let mut files: Vec<String> = store.list("")?.into_iter().filter(|n| n.starts_with("lane-")).collect();
            // by epochs, whichever generation wrote them
            files.sort_by_key(|n| n["lane-0_gen-0000_".len()..].to_owned());
            let mut lines = vec![];
            for file in files {
                let bytes = store.get(&file)?.unwrap_or_default();
                lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
            }
            rows.insert(name.clone(), lines);
        }
        rows.extend(lock(&self.tables).iter().map(|(name, held)| (name.clone(), lock(held).lines.clone())));
        Ok(rows)
    }
}

/// What one process sees of the world: from it a test builds its pipeline.
pub struct World {
    trace: Trace,
    outside: Rc<Outside>,
    fate: Fate,
    at_the_disk: bool,
    /// The log is shuffled by this.
    shuffled: Option<u64>,
    /// Folders that this process has open.
    open: Mutex<BTreeMap<String, Arc<dyn Store>>>,
    sources: Mutex<usize>,
    /// Behind its channels.
    hosts: Mutex<Vec<Host>>,
}

impl World {
    pub(super) fn of(outside: Rc<Outside>, fate: Fate, at_the_disk: bool, shuffled: Option<u64>) -> Self {
        let (trace, open, sources, hosts) = (outside.trace.clone(), Mutex::default(), Mutex::new(0), Mutex::default());
        Self { trace, outside, fate, at_the_disk, shuffled, open, sources, hosts }
    }

    /// The world of one life.
    pub(super) fn in_life(outside: &Rc<Outside>, life: &Life, shuffled: bool) -> Self {
        let seed = shuffled.then_some(life.seed);
        Self::of(outside.clone(), Fate::new(life.faults.clone()), life.at_the_disk, seed)
    }

    /// The world of the last life, which is left alone.
    pub(super) fn alone(outside: &Rc<Outside>, schedule: &Schedule) -> Self {
        Self::of(outside.clone(), Fate::default(), false, schedule.shuffled.then_some(schedule.seed))
    }

    /// The same for another process, whose acts are told apart.
    pub(super) fn of_process(self, number: usize) -> Self {
        Self { trace: self.trace.of(number), ..self }
    }

    /// Notes an act of the process as a whole.
    pub(super) fn act(&self, act: Act) {
        self.trace.note(act);
    }

    /// The topic as a source: the next one of the pipeline. It is read in the order that the schedule wants, and may have lost its beginning.
    pub fn source(&self, topic: &Topic) -> Topic {
        let (mut logs, mut number) = (lock(&self.outside.logs), lock(&self.sources));
        if logs.len() <= *number {
            logs.push(LogState::default());
        }
        let log = &logs[*number];
        *number += 1;
        let topic = topic.clone().shuffled(self.shuffled.map(|s| s ^ *number as u64)).acknowledging(log.acknowledged.clone());
        if log.gone.is_empty() { topic } else { topic.without(&log.gone) }
    }

    /// A memory channel as a source, and behind it a host that sends these rows: the next channel of the pipeline. With state the host goes on, in every life,
    /// where the pipeline says, and forgets what is acknowledged at once; that such a row is not there after a start is a failure.
    pub fn channel(&self, rows: &Changes) -> ChannelSource {
        let (mut known, mut hosts) = (lock(&self.outside.hosts), lock(&self.hosts));
        if known.len() <= hosts.len() {
            known.push(Forgotten::default());
        }
        let number = hosts.len();
        let shuffled = self.shuffled.map(|s| Draw(s ^ (1000 + number as u64)));
        let (host, source) = Host::new(rows.clone(), known[number].clone(), shuffled);
        hosts.push(host);
        source
    }

    /// Lets the hosts send.
    pub(super) fn feed(&self) -> Result<()> {
        lock(&self.hosts).iter_mut().try_for_each(Host::feed)
    }

    /// Ends the channels whose hosts have sent everything; true if there was one.
    pub(super) fn end_channels(&self) -> bool {
        // each of them, not only up to the first that ends
        lock(&self.hosts).iter_mut().filter_map(|host| host.end().then_some(())).count() > 0
    }

    /// Takes what the process says of itself.
    pub(super) fn note(&self, status: &Status, began: bool) -> Result<()> {
        if began {
            self.act(Act::Restored(status.restored.unwrap_or_default()));
        }
        self.outside.note(status, began)
    }

    /// A simulated sink, whose rows are compared.
    pub fn sink(&self, name: &str) -> Table {
        let held = lock(&self.outside.tables).entry(name.to_owned()).or_default().clone();
        // a roll of its own for every name
        let roll = 1 + name.bytes().fold(7u64, |h, b| h.wrapping_mul(31) ^ u64::from(b)) % 20;
        Table::new(name, held, self.fate.clone(), roll, self.trace.clone())
    }

    /// A data set of JSON lines in a [store](World::store) of this name, whose rows are compared.
    ///
    /// # Errors
    /// As [`World::store`].
    pub fn data_set(&self, name: &str) -> Result<DataSet<JsonLines>> {
        lock(&self.outside.data_sets).insert(name.to_owned());
        Ok(DataSet::on(self.store(name)?, name, JsonLines).roll_after(NEVER))
    }

    /// A store that outlives the process: in memory, or a folder on a disk that forgets what was not synced.
    ///
    /// # Errors
    /// A folder that cannot be opened because the process has died.
    pub fn store(&self, name: &str) -> Result<Arc<dyn Store>> {
        if let Some(store) = lock(&self.open).get(name) {
            return Ok(store.clone());
        }
        let faulty = |store| Arc::new(Faulty::of(store, &self.fate)) as Arc<dyn Store>;
        let store = match &self.outside.machine {
            None => {
                let below = Arc::new(lock(&self.outside.memory).entry(name.to_owned()).or_default().clone());
                faulty(Arc::new(Layered(Noting { below, name: name.to_owned(), trace: self.trace.clone() })))
            }
            Some(machine) if self.at_the_disk => Arc::new(machine.open(name, &self.fate)?),
            Some(machine) => faulty(Arc::new(machine.open(name, &Fate::default())?)),
        };
        lock(&self.open).insert(name.to_owned(), store.clone());
        Ok(store)
    }

    /// Compares what `read` finds outside after everything, too: for a sink of one's own.
    pub fn compare(&self, name: &str, read: impl Fn() -> Vec<String> + 'static) {
        lock(&self.outside.readers).insert(name.to_owned(), Box::new(read));
    }

    /// Something made once and remembered by all lives of a schedule: a database of its own, the name of a table.
    ///
    /// # Panics
    /// If something else was made under the same name.
    pub fn remember<T: 'static>(&self, name: &str, make: impl FnOnce() -> T) -> Rc<T> {
        let known = lock(&self.outside.remembered).get(name).cloned();
        let made = known.unwrap_or_else(|| Rc::new(make()));
        lock(&self.outside.remembered).insert(name.to_owned(), made.clone());
        made.downcast().unwrap_or_else(|_| panic!("'{name}' is something else already"))
    }

    /// What this process has before it: a connector of one's own that runs its calls through it fails and dies with the rest.
    pub fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// The clock, which stands still but when everybody waits.
    pub fn clock(&self) -> Clock {
        self.outside.clock.clone()
    }

    /// The pipeline with its state, clock and dead letters in this world, and epochs of few rows.
    ///
    /// # Errors
    /// As [`World::store`].
    pub fn keep(&self, flow: Pipeline) -> Result<Pipeline> {
        let limits = Limits { interval: NEVER, rows: EPOCH_ROWS, bytes: u64::MAX };
        let flow = flow.dead_letters(self.sink("dead letters")).epochs(limits).clock(self.clock());
        Ok(flow.state_on(self.store(STATE)?, STATE).checkpoint_every(self.outside.checkpoint_every))
    }
}
