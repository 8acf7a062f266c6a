//! From the builder to a running engine: plans are lowered, sinks opened, then sources, then workers started.

use super::State;
use super::restore::Restored;
use super::{Flow, Pipeline, Running, SourceDef, nothing_to_do};
use crate::data::Rejected;
use crate::epoch::{Entry, Ledger, Log, Mint, Recovered, Replay, Resume, Start, resume};
use crate::error::{Error, Result};
use crate::operator::root::Roots;
use crate::operator::{Lowering, Node, Order};
use crate::plan::InputKind;
use crate::runtime::{
    Begin, Blueprint, Bounds, CheckpointDriver, Checkpoints, Core, Driver, DriverThread, Engine, Flight, Job, LogDriver, LogJob, LogState,
    Output, OutputPlan, Phase, Port, Request, SinkDriver, SinkPort, SinkState, SinkStatus, SinkThread, SourcePlan, SourcePort, Spool,
    Spooling, Status, ToWorker, ViewPlan, WorkerPort, queue, start_engine, start_workers,
};
use crate::sink::{Guarantee, Sink, SinkContext};
use crate::source::{Rewind, SourceContext, Waker};
use crate::store::{Folder, Store};
use crate::time::Epoch;
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

impl Flow {
    fn lower(&self, plan: &datafusion::logical_expr::LogicalPlan) -> Result<Node> {
        let number = |kind: InputKind, name: &str| match kind {
            InputKind::Source => self.sources.iter().position(|s| &*s.name == name),
            InputKind::View => self.views.iter().position(|v| &*v.name == name),
        };
        Lowering { number: &number, physical: &|e, schema| self.catalog.physical(e, schema) }.lower(plan)
    }

    /// Takes the flow apart: what workers build, the sources and the sinks.
    fn lay_out(&mut self) -> Result<Parts> {
        if self.sources.is_empty() {
            return Err(nothing_to_do());
        }
        if !(1..=256).contains(&self.options.workers) {
            return Err(Error::user(format!("{} workers are not possible", self.options.workers)).hint("choose 1 to 256"));
        }
        let bytes = |s: &&SourceDef| s.source.rewind() == Rewind::Spooled && s.format.is_some();
        if self.options.state.is_some()
            && let Some(source) = self.sources.iter().find(bytes)
        {
            let what = format!("source {} gives bytes that it cannot give again, so no state can be kept of it", source.name);
            return Err(Error::user(what).hint("leave state(…) away, or let the source decode them and give rows"));
        }
        let text = |plan: &datafusion::logical_expr::LogicalPlan| plan.display_indent().to_string();
        let mut plan: BTreeMap<String, String> = self.views.iter().map(|v| (format!("view {}", v.name), text(&v.plan))).collect();
        for (number, output) in self.outputs.iter().enumerate() {
            plan.insert(sink_label(number, output.sink.kind(), &output.view), text(&output.plan));
        }
        let views =
            self.views.iter().map(|v| Ok(ViewPlan { name: v.name.clone(), node: self.lower(&v.plan)? })).collect::<Result<Vec<_>>>()?;
        let mut outputs =
            self.outputs.iter().map(|o| Ok(OutputPlan { view: o.view.clone(), node: self.lower(&o.plan)? })).collect::<Result<Vec<_>>>()?;
        let mut wanted: Vec<BTreeSet<usize>> = self.sources.iter().map(|_| BTreeSet::new()).collect();
        for node in views.iter().map(|v| &v.node).chain(outputs.iter().map(|o| &o.node)) {
            node.walk(&mut |n| {
                if let Node::Source { source, columns, .. } = n {
                    wanted[*source].extend(columns);
                }
            });
        }
        let mut sinks: Vec<(Arc<str>, SchemaRef, Box<dyn Sink>)> = self.outputs.drain(..).map(|o| (o.view, o.schema, o.sink)).collect();
        // the dead letters come last and are fed by the engine itself
        let dead = match (self.dead_letters.take(), &self.options.state) {
            (Some(sink), _) => sink,
            (None, None) => crate::sink::dead_letter::default_sink(&self.name),
            (None, Some(State::Folder(path))) => Box::new(crate::sink::dead_letter::DeadLetters::append(path.join("dead_letters"))),
            (None, Some(State::Store(..))) => {
                return Err(Error::user("a pipeline with its state in a store has no default place for bad records")
                    .hint("name one with dead_letters(…)"));
            }
        };
        sinks.push(("dead letters".into(), Rejected::schema(), dead));
        outputs.push(OutputPlan { view: "dead letters".into(), node: Node::Union(vec![], Rejected::schema()) });
        let mut plans = vec![];
        let mut sources = vec![];
        for (s, wanted) in self.sources.drain(..).zip(wanted) {
            plans.push(SourcePlan {
                name: s.name.clone(),
                format: s.format,
                full: s.full,
                data: s.data,
                wanted: wanted.into_iter().collect(),
            });
            sources.push((s.name, s.source));
        }
        let source = |i: usize| plans[i].name.to_string();
        let roots = Roots::of(views.iter().map(|v| &v.node), outputs.iter().map(|o| &o.node), &source)?;
        let blueprint = Arc::new(Blueprint { pipeline: self.name.clone(), sources: plans, views, outputs, roots });
        Ok(Parts { blueprint, sources, sinks, plan })
    }
}

struct Parts {
    blueprint: Arc<Blueprint>,
    sources: Vec<(Arc<str>, Box<dyn crate::source::Source>)>,
    sinks: Vec<(Arc<str>, SchemaRef, Box<dyn Sink>)>,
    /// What each view and sink computes.
    plan: BTreeMap<String, String>,
}

/// What the ledger calls a sink.
fn sink_label(number: usize, kind: &str, view: &str) -> String {
    format!("sink {number}, {kind} of {view}")
}

/// The same; the dead letters, which come last, stay the same sink however many others there are.
fn ledger_label(number: usize, sinks: usize, kind: &str, view: &str) -> String {
    if number + 1 == sinks { "dead letters".to_owned() } else { sink_label(number, kind, view) }
}

/// What was kept, and where.
struct Kept {
    store: Arc<dyn Store>,
    log: Log,
    found: Recovered,
}

/// Opens what was kept, if anything is to be kept.
fn recover(state: Option<&State>, plan: &BTreeMap<String, String>) -> Result<Option<Kept>> {
    let (store, place) = match state {
        None => return Ok(None),
        Some(State::Folder(path)) => (Arc::new(Folder::open(path)?) as Arc<dyn Store>, path.display().to_string()),
        Some(State::Store(store, name)) => (store.clone(), name.clone()),
    };
    let fits = |found: &Recovered| found.start.as_ref().map_or(Ok(()), |start| same_plan(&place, &start.plan, plan));
    let (log, found) = Log::open(store.clone(), &place, fits)?;
    Ok(Some(Kept { store, log, found }))
}

/// A pipeline that computes something else cannot go on where another one stopped.
fn same_plan(place: &str, kept: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Result<()> {
    let changed: Vec<&String> =
        kept.iter().filter(|(name, text)| now.get(*name).is_some_and(|n| n != *text)).map(|(name, _)| name).collect();
    let gone: Vec<&String> = kept.keys().filter(|name| name.starts_with("sink") && !now.contains_key(*name)).collect();
    let Some(first) = changed.first().or(gone.first()) else { return Ok(()) };
    let say = |names: &[&String], what| names.iter().map(|n| format!("{n} {what}")).collect::<Vec<_>>();
    let differences = [say(&changed, "computes something else now"), say(&gone, "is not there any more")].concat().join("; ");
    let was = kept.get(*first).map_or("", String::as_str);
    let is = now.get(*first).map_or("nothing", String::as_str);
    Err(Error::user(format!("the pipeline is not the one whose state is in {place}"))
        .why(format!("{differences}. {first} was:\n{was}\nand is:\n{is}"))
        .hint("put the query back, or start anew with another state and other sinks"))
}

/// What the engine and its handle share.
struct Shared {
    status: Arc<Mutex<Status>>,
    requests: crossbeam_channel::Receiver<Request>,
}

fn assemble(flow: &Flow, parts: Parts, shared: Shared, wake: Waker, threads: bool) -> Result<Engine> {
    let (options, name) = (&flow.options, &flow.name);
    let kept = recover(options.state.as_ref(), &parts.plan)?;
    let found = kept.as_ref().map(|k| k.found.clone()).unwrap_or_default();
    let mut ledger = kept.as_ref().map_or_else(Ledger::in_memory, |k| Ledger::of(k.log.writer(), &k.found));
    let roots = parts.blueprint.roots.as_ref().filter(|_| kept.is_some());
    let labels = parts.sinks.iter().enumerate().map(|(n, (view, _, sink))| ledger_label(n, parts.sinks.len(), sink.kind(), view));
    let new_sinks: Vec<bool> = labels.map(|l| !found.held.contains_key(&l)).collect();
    let restored = match (&kept, roots) {
        (Some(kept), Some(roots)) => Restored::choose(&*kept.store, &found, roots, &new_sinks)?,
        _ => None,
    };
    let upto = restored.as_ref().map(|r| Epoch(r.image.upto));
    ledger.keep_checkpoints(|c| Some(c.epoch) <= upto);
    let fill = restored.as_ref().is_some_and(|r| r.fill);
    if fill || upto < Some(found.dropped) && found.dropped > Epoch(0) {
        still_there(&found, &parts.sources, restored.is_some())?;
    }
    let mut again = found.replay(upto, fill);
    // of a source that is gone, with the views that read it, nothing is wanted
    again.iter_mut().for_each(|b| b.ranges.retain(|(source, _), _| parts.sources.iter().any(|(name, _)| name == source)));
    let replay = Replay::new(again);
    let first = replay.epoch().unwrap_or(ledger.tail().next());
    let begin = Begin { first: first.0, storing: roots.is_some(), restoring: restored.is_some() };
    let (reports_tx, reports) = queue();
    let (workers, orders) = if threads {
        let (threads, orders) = start_workers(name, options.workers, &parts.blueprint, begin, &reports_tx, &wake)?;
        (threads.into_iter().map(WorkerPort::Thread).collect(), orders)
    } else {
        let (core, orders) = Core::build(&parts.blueprint, timely::communication::Allocator::Thread(Default::default()), begin)?;
        (vec![WorkerPort::Inline(Box::new(core))], orders)
    };
    let now = options.clock.elapsed();
    let mut engine = Engine {
        pipeline: name.clone(),
        clock: options.clock.clone(),
        mint: Mint::new(options.limits, ledger.tail().next()),
        bounds: Bounds { reading: options.memory / 2, writing: options.memory / 2 },
        sources: vec![],
        flight: Flight::new(if threads { options.workers } else { 1 }, options.clock.clone(), Epoch(first.0 - 1)),
        workers,
        outputs: vec![],
        reports,
        requests: shared.requests,
        status: shared.status,
        phase: Phase::Running,
        next_worker: 0,
        refused: vec![],
        retired: Epoch(0),
        settling: vec![],
        written: LogState { durable: ledger.tail(), ..LogState::default() },
        based: now,
        bases: 0,
        checkpoints: Checkpoints::new(Port::None, options.checkpoint_every, upto, now),
        log: Port::None,
        replay,
        spooling: Spooling::default(),
        ledger,
    };
    if let Some(Kept { store, log, .. }) = kept {
        let generation = log.writer().generation;
        let spool = Spool::new(store.clone(), generation, &found, options.keep_spooled || roots.is_none());
        let driver = LogDriver::new(log, spool, engine.written.durable, engine.clock.clone());
        engine.log = port(driver, &format!("{name}-ledger"), threads, &wake)?;
        if let Some(roots) = roots {
            let none = || roots.shapes.iter().map(|s| vec![vec![]; s.traces.len()]).collect();
            let files = restored.as_ref().map_or_else(none, |r| r.files.clone());
            let driver = CheckpointDriver::new(store, generation, roots.shapes.clone(), files, engine.clock.clone());
            engine.checkpoints.port = port(driver, &format!("{name}-state"), threads, &wake)?;
            engine.checkpoints.port.give(Job::Clean { kept: engine.ledger.checkpoints().to_vec() });
        }
    }
    if let Some(restored) = restored {
        let image = Arc::new(restored.image);
        engine.workers.iter_mut().for_each(|w| w.send(ToWorker::Restore(image.clone())));
    }
    if let Err(e) = open(&mut engine, parts, orders, &found, &wake, threads) {
        // what is open already lets go again
        let _ = engine.fail(e.clone());
        return Err(e);
    }
    // all are judged: what older generations left may go
    engine.log.give(LogJob::Clean);
    Ok(engine)
}

/// What spooled sources gave long ago is stored no more: nothing that needs it can begin.
fn still_there(found: &Recovered, sources: &[(Arc<str>, Box<dyn crate::source::Source>)], restored: bool) -> Result<()> {
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

fn port<D: Driver>(driver: D, name: &str, threads: bool, wake: &Waker) -> Result<Port<D>> {
    Ok(if threads { Port::Thread(DriverThread::start(name, driver, wake.clone())?) } else { Port::Inline(Box::new(driver)) })
}

fn open(engine: &mut Engine, parts: Parts, orders: Vec<Order>, found: &Recovered, wake: &Waker, threads: bool) -> Result<()> {
    let name = engine.pipeline.clone();
    let sinks = parts.sinks.len();
    for (number, ((view, schema, sink), order)) in parts.sinks.into_iter().zip(orders).enumerate() {
        let (kind, keeps_progress) = (sink.kind(), sink.guarantee(engine.log.is_there()) == Guarantee::ExactlyOnce);
        let ledger_label = ledger_label(number, sinks, kind, &view);
        let (known, remembered) = (found.held.contains_key(&ledger_label), found.held.get(&ledger_label).copied().flatten());
        let context = SinkContext {
            pipeline: name.clone(),
            view: view.clone(),
            writer: engine.ledger.writer(),
            schema: schema.clone(),
            kept: engine.log.is_there(),
            clock: engine.clock.clone(),
        };
        let label = format!("{kind} of {view}");
        let opened = sink.open(context).map_err(|e| e.at(format!("sink {label}")))?;
        // a sink that keeps no progress goes on after what the ledger saw it take
        let progress = if keeps_progress { opened.progress } else { opened.progress.or(remembered) };
        let told = progress.map_or(Epoch(0), |p| p.epoch);
        let gate = match resume(&label, engine.ledger.writer(), engine.ledger.tail(), progress, remembered)? {
            Resume::After(epoch) => epoch,
            Resume::New => Epoch(0),
        };
        // the oldest epochs are read again as one, which a sink that holds them must not get, however old its last row is
        let oldest = if known || progress.is_some() { found.base() } else { Epoch(0) };
        let gate = gate.max(oldest);
        let driver = SinkDriver::new(label.clone().into(), opened.writer, gate, told, engine.clock.clone());
        let port =
            if threads { SinkPort::Thread(SinkThread::start(&name, driver, wake.clone())?) } else { SinkPort::Inline(Box::new(driver)) };
        let state = SinkState::default();
        engine.outputs.push(Output { name: view, kind, schema, order, label: ledger_label, keeps_progress, port, state });
    }
    for (source, value) in parts.sources {
        // from where it began, or from where it is read again; behind all that is stored of it
        let spooled = (engine.log.is_there() && value.rewind() == Rewind::Spooled).then(|| value.schema());
        let resume = found.start.as_ref().map(|_| {
            if spooled.is_some() {
                return found.ends(&source);
            }
            let mut positions = found.positions(&source, engine.checkpoints.restored);
            positions.extend(engine.replay.positions(&source));
            positions
        });
        let context =
            SourceContext { pipeline: name.clone(), name: source.clone(), resume, wake: wake.clone(), clock: engine.clock.clone() };
        let reader = value.open(context).map_err(|e| e.at(format!("source {source}")))?;
        engine.sources.push(SourcePort::new(source, reader, spooled));
    }
    if found.start.is_none() && engine.log.is_there() {
        let at = |s: &SourcePort| {
            let first = s.reader.status().partitions.into_iter().map(|p| (p.partition, p.position));
            (s.name.clone(), first.collect())
        };
        let start = Start { positions: engine.sources.iter().map(at).collect(), plan: parts.plan };
        engine.log.give(Entry::Started(start.clone()).into());
        engine.ledger.started(start);
    }
    let mut status = engine.status.lock().unwrap_or_else(PoisonError::into_inner);
    status.sources = engine.sources.iter().map(|s| s.report.clone()).collect();
    status.sinks =
        engine.outputs.iter().map(|o| SinkStatus { name: o.name.to_string(), kind: o.kind.to_owned(), ..SinkStatus::default() }).collect();
    Ok(())
}

impl Pipeline {
    /// Opens sinks and sources, starts the workers, and returns the handle of the running pipeline.
    ///
    /// # Errors
    /// What cannot be opened or planned, with the remedy; nothing runs then.
    pub async fn start(self) -> Result<Running> {
        let mut flow = self.take();
        let parts = flow.lay_out()?;
        let views: Vec<(Arc<str>, SchemaRef)> = flow.views.iter().map(|v| (v.name.clone(), v.schema.clone())).collect();
        let functions = flow.catalog.functions().cloned().collect();
        let status = Arc::new(Mutex::new(Status::default()));
        let (requests_tx, requests) = queue();
        let (ended_tx, ended) = tokio::sync::watch::channel(None);
        let (ready_tx, ready) = tokio::sync::oneshot::channel();
        let shared = Shared { status: status.clone(), requests };
        let (name, workers) = (flow.name.clone(), flow.options.workers);
        start_engine(
            &name,
            move |wake| assemble(&flow, parts, shared, wake, true),
            move |r| {
                let _ = ready_tx.send(r); // nobody waits any more: the handle is gone, and its requests with it
            },
            move |outcome| {
                ended_tx.send_replace(Some(outcome));
            },
        )?;
        let thread = ready.await.map_err(|_| Error::internal("the engine ended while it started"))??;
        Ok(Running { name, workers, views, functions, status, requests: requests_tx, ended, thread })
    }

    fn take(self) -> Flow {
        let mut flow = self.flow();
        let fresh = Pipeline::new(flow.name.clone());
        let taken = std::mem::replace(
            &mut *flow,
            Arc::into_inner(fresh.flow)
                .map(|m| m.into_inner().unwrap_or_else(PoisonError::into_inner))
                .unwrap_or_else(|| unreachable!("just made, held by nobody else")),
        );
        drop(flow);
        taken
    }
}

/// A pipeline that runs whole on the calling thread, a step at a time: what a seed did once it does again.
#[cfg(any(test, feature = "testing"))]
pub struct Stepper {
    engine: Engine,
    status: Arc<Mutex<Status>>,
    requests: crossbeam_channel::Sender<Request>,
}

#[cfg(any(test, feature = "testing"))]
impl Pipeline {
    /// Opens everything inline, with one worker.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    pub fn stepper(self) -> Result<Stepper> {
        let mut flow = self.take();
        let parts = flow.lay_out()?;
        let status = Arc::new(Mutex::new(Status::default()));
        let (requests_tx, requests) = queue();
        let engine = assemble(&flow, parts, Shared { status: status.clone(), requests }, Waker::default(), false)?;
        Ok(Stepper { engine, status, requests: requests_tx })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Stepper {
    /// One step; true if there was something to do, false if not, or the end.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn step(&mut self) -> Result<Option<bool>> {
        use crate::runtime::Step;
        match self.engine.step() {
            Step::Busy => Ok(Some(true)),
            Step::Idle(_) => Ok(Some(false)),
            Step::Finished(outcome) => outcome.map(|()| None),
        }
    }

    /// Steps until there is nothing to do.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn settle(&mut self) -> Result<()> {
        while self.step()? == Some(true) {}
        Ok(())
    }

    /// Takes no more input and steps until everything is out.
    ///
    /// # Errors
    /// What ended the engine.
    pub fn drain(&mut self) -> Result<()> {
        let _ = self.requests.send(Request::Drain);
        while self.step()?.is_some() {}
        Ok(())
    }

    /// A snapshot of progress and counts.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
