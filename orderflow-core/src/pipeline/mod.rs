//! The builder that users touch: sources and sinks as values, SQL and fluent calls on one plan, `start()`.

mod change;
mod recover;
mod restore;
mod running;
mod start;
#[cfg(any(test, feature = "testing"))]
mod stepper;
mod stream;

pub(crate) use change::renamed;
pub use change::{Difference, Fate, OnChange, PartDifference, StateDifference, StateFate};
pub(crate) use restore::NONE_IS_WHOLE;
pub use running::Running;
pub use stream::{Stream, Typed};

#[cfg(any(test, feature = "testing"))]
pub use stepper::Stepper;

use crate::epoch::Limits;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::plan::typed::Record;
use crate::plan::{Catalog, Function};
use crate::sink::Sink;
use crate::source::{Source, meta};
use crate::store::Store;
use crate::time::Clock;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A pipeline under construction. Its name names the consumer group and, with [`state`](Pipeline::state), whose state it is.
///
/// ```
/// # use orderflow_core::{Pipeline, source::memory, sink};
/// # use arrow::datatypes::{DataType, Field, Schema};
/// # use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
/// # use std::sync::Arc;
/// # use orderflow_core::arrow;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let schema = Arc::new(Schema::new(vec![Field::new("city", DataType::Utf8, false), Field::new("qty", DataType::Int64, false)]));
/// let (orders, source) = memory::channel(schema.clone(), 10_000);
///
/// let mut flow = Pipeline::new("orders");
/// flow.source("orders", source)?;
/// flow.view("totals", "SELECT city, count(*) AS orders, sum(qty) AS qty FROM orders GROUP BY city")?;
/// let running = flow.start().await?;
///
/// let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["Mumbai", "Indore", "Mumbai"])), Arc::new(Int64Array::from(vec![1, 2, 3]))];
/// orders.send(RecordBatch::try_new(schema, columns)?).await?;
/// running.settled().await?; // everything that was sent is in the views
/// let mumbai = running.query("SELECT orders, qty FROM totals WHERE city = 'Mumbai'").await?;
/// assert_eq!(mumbai[0].num_rows(), 1);
/// drop(orders);
/// running.drain().await?;
/// # Ok::<(), orderflow_core::Error>(()) }).unwrap();
/// ```
pub struct Pipeline {
    flow: Arc<Mutex<Flow>>,
}

/// What the builder has collected.
pub(crate) struct Flow {
    pub(crate) name: Arc<str>,
    pub(crate) catalog: Catalog,
    pub(crate) sources: Vec<SourceDef>,
    pub(crate) views: Vec<ViewDef>,
    pub(crate) outputs: Vec<OutputDef>,
    pub(crate) dead_letters: Option<Box<dyn Sink>>,
    pub(crate) options: Options,
}

pub(crate) struct SourceDef {
    pub(crate) name: Arc<str>,
    pub(crate) source: Box<dyn Source>,
    pub(crate) format: Option<Arc<dyn Format>>,
    pub(crate) full: SchemaRef,
    pub(crate) data: usize,
}

pub(crate) struct ViewDef {
    pub(crate) name: Arc<str>,
    /// Optimised.
    pub(crate) plan: LogicalPlan,
    pub(crate) schema: SchemaRef,
    /// As [`crate::plan::key`] proves it.
    pub(crate) key: Option<Vec<String>>,
}

pub(crate) struct OutputDef {
    pub(crate) view: Arc<str>,
    /// Optimised.
    pub(crate) plan: LogicalPlan,
    pub(crate) schema: SchemaRef,
    pub(crate) sink: Box<dyn Sink>,
}

/// Settings of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) workers: usize,
    pub(crate) limits: Limits,
    pub(crate) memory: usize,
    pub(crate) clock: Clock,
    pub(crate) state: Option<State>,
    pub(crate) wait_for_state: Duration,
    pub(crate) on_change: OnChange,
    pub(crate) checkpoint_every: Duration,
    pub(crate) keep_spooled: bool,
    pub(crate) idle_after: Option<Duration>,
}

/// Where a pipeline keeps what it must know after a crash.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// A path or a URL.
    At(PathBuf),
    Store(Arc<dyn Store>, String),
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let options = Options {
            workers: 1,
            limits: Limits::default(),
            memory: 128 << 20,
            clock: Clock::system(),
            state: None,
            wait_for_state: Duration::ZERO,
            on_change: OnChange::default(),
            checkpoint_every: Duration::from_secs(10),
            keep_spooled: false,
            idle_after: None,
        };
        let flow = Flow {
            name: name.into(),
            catalog: Catalog::new(),
            sources: vec![],
            views: vec![],
            outputs: vec![],
            dead_letters: None,
            options,
        };
        Self { flow: Arc::new(Mutex::new(flow)) }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a source; SQL knows it by `name`.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn source(&mut self, name: &str, source: impl Source) -> Result<Stream> {
        let mut flow = self.flow();
        let (schema, format) = (source.schema(), source.format());
        let hidden = if format.is_some() { meta::fields() } else { vec![] };
        flow.catalog.add_source(name, schema.clone(), hidden.clone())?;
        let fields = schema.fields().iter().map(|f| f.as_ref().clone()).chain(hidden);
        let full = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let plan = flow.catalog.source_scan(name)?;
        flow.sources.push(SourceDef { name: name.into(), source: Box::new(source), format, full, data: schema.fields().len() });
        drop(flow);
        Ok(Stream::new(self.flow.clone(), name, plan))
    }

    /// Adds a source whose rows are read as `T`.
    ///
    /// # Errors
    /// A name that is taken, or columns that `T` cannot hold.
    pub fn source_of<T: Record>(&mut self, name: &str, source: impl Source) -> Result<Typed<T>> {
        self.source(name, source)?.rows::<T>()
    }

    /// Adds a view: one SELECT over sources and earlier views, kept up to date and readable while the pipeline runs.
    ///
    /// # Errors
    /// SQL that is wrong (with the place) or cannot be kept up to date (with what, why and a way around).
    pub fn view(&mut self, name: &str, sql: &str) -> Result<Stream> {
        let plan = self.flow().catalog.sql(sql)?;
        add_view(&self.flow, name, plan)
    }

    /// A stream from SQL without a name: for a sink, or for more calls.
    ///
    /// # Errors
    /// As [`Pipeline::view`].
    pub fn sql(&mut self, sql: &str) -> Result<Stream> {
        let plan = self.flow().catalog.sql(sql)?;
        Ok(Stream::new(self.flow.clone(), "query", plan))
    }

    /// Adds a scalar function of the user's.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn function(&mut self, function: Function) -> Result<()> {
        self.flow().catalog.add_function(function)
    }

    /// Number of workers, 1 to 256; 1 by default.
    pub fn workers(self, n: usize) -> Self {
        self.flow().options.workers = n;
        self
    }

    /// When epochs close; 1 s, 1,000,000 rows or 64 MB by default.
    pub fn epochs(self, limits: Limits) -> Self {
        self.flow().options.limits = limits;
        self
    }

    /// An epoch closes this long after its first record; 1 s by default, 10 ms for low latency.
    pub fn epoch_interval(self, interval: Duration) -> Self {
        self.flow().options.limits.interval = interval;
        self
    }

    /// Bytes that may be between sources and sinks before sources are held back; 128 MB by default. What is read again as one epoch for a new sink of rows is not
    /// bounded by it. With [`Pipeline::state`], views may change by as much (and by
    /// 64 MB in any case) before they are stored earlier than [`Pipeline::checkpoint_every`] says: what is not stored yet is held. While that is written they may
    /// change by twice as much again (256 MB at least); then sources are held back.
    pub fn memory(self, bytes: usize) -> Self {
        self.flow().options.memory = bytes;
        self
    }

    /// Where bad records go. By default JSON lines in `dead_letters/<pipeline>-<run>/` under the current folder or, with [`Pipeline::state`], in `dead_letters`
    /// in its folder; with [`Pipeline::state_on`] it has to be said.
    pub fn dead_letters(self, sink: impl Sink) -> Self {
        self.flow().dead_letters = Some(Box::new(sink));
        self
    }

    /// Keeps in this folder what must be known after a crash, so that the same pipeline, started again, goes on where it stopped: sinks that
    /// keep their progress hold every row once. The folder is made if it is not there, and belongs to one process at a time.
    ///
    /// Also a [URL](crate::store::open) of a store that machines share: `s3://bucket/prefix`, `hdfs://namenode:9000/folder`. No process can
    /// lock it: there the newer one takes over, and the older stops at the next thing it would write.
    ///
    /// Views are stored at [checkpoints](Pipeline::checkpoint_every), and a start goes on after the newest one: what came later is read again from the
    /// sources, or, of those that give every row once (a [channel](crate::source::memory::channel)), from where it is stored with its epoch. A pipeline
    /// with an [operator](Stream::operator) of its own reads everything again.
    pub fn state(self, place: impl Into<PathBuf>) -> Self {
        self.flow().options.state = Some(State::At(place.into()));
        self
    }

    /// As [`Pipeline::state`], in any store, such as one [with options](crate::store::open_with); `name` is what messages call it.
    pub fn state_on(self, store: Arc<dyn Store>, name: impl Into<String>) -> Self {
        self.flow().options.state = Some(State::Store(store, name.into()));
        self
    }

    /// If another process has the [folder](Pipeline::state) open, a start waits this long for it to end before it is refused; not at all by default. A standby
    /// takes over so.
    pub fn wait_for_state(self, patience: Duration) -> Self {
        self.flow().options.wait_for_state = patience;
        self
    }

    /// What a start does if the [state](Pipeline::state) is that of a pipeline with other queries; [refuses](OnChange::Refuse) by default.
    /// [`Pipeline::difference`] tells beforehand what differs.
    pub fn on_change(self, on_change: OnChange) -> Self {
        self.flow().options.on_change = on_change;
        self
    }

    /// How often views are stored while there is input, with [`Pipeline::state`]; every 10 s by default. Only what changed is written,
    /// by a thread of its own; sinks are asked to commit then, so files close at least as often.
    pub fn checkpoint_every(self, interval: Duration) -> Self {
        self.flow().options.checkpoint_every = interval;
        self
    }

    /// Keeps for ever what [spooled](crate::source::Rewind::Spooled) sources gave, so that views and sinks that are added later get all of it. By default,
    /// with [`Pipeline::state`], it is deleted when two checkpoints cover it; then a pipeline to which such a view or sink is added is refused. The room that
    /// it takes grows with the input.
    pub fn keep_spooled(self) -> Self {
        self.flow().options.keep_spooled = true;
        self
    }

    /// A partition that has stood at its end for this long is idle: the watermark of its source ([`SourceReport::watermark`](crate::SourceReport::watermark))
    /// does not wait for it until it has records again. By default none ever is. A partition that is behind is not idle, however slowly it is read.
    pub fn idle_after(self, time: Duration) -> Self {
        self.flow().options.idle_after = Some(time);
        self
    }

    /// Time by another clock: for tests.
    pub fn clock(self, clock: Clock) -> Self {
        self.flow().options.clock = clock;
        self
    }
}

/// Checks, optimises and registers a view.
pub(crate) fn add_view(flow: &Arc<Mutex<Flow>>, name: &str, plan: LogicalPlan) -> Result<Stream> {
    let mut guard = flow.lock().unwrap_or_else(PoisonError::into_inner);
    let key = guard.key(&plan);
    let plan = guard.catalog.prepare(plan).map_err(|e| e.at(format!("view {name}")))?;
    let schema = crate::plan::schema(&plan)?;
    guard.catalog.add_view(name, schema.clone())?;
    let scan = guard.catalog.view_scan(name)?;
    guard.views.push(ViewDef { name: name.into(), plan, schema, key });
    drop(guard);
    Ok(Stream::new(flow.clone(), name, scan))
}

impl Flow {
    /// Columns of `plan`, which is not optimised, that no two rows share.
    pub(crate) fn key(&self, plan: &LogicalPlan) -> Option<Vec<String>> {
        crate::plan::key(plan, &|view| self.views.iter().find(|v| *v.name == *view)?.key.clone())
    }
}

/// The error of an empty pipeline.
pub(crate) fn nothing_to_do() -> Error {
    Error::user("the pipeline has no source").hint("add one with source(name, source) before start()")
}
