//! From the builder to a running engine: plans are lowered, sinks opened, then sources, then workers started.

use super::State;
use super::change::{self, Computed, Difference};
use super::recover::{Kept, compare, look, recover};
use super::restore::{Restored, still_there};
use super::{Flow, Pipeline, Running, SourceDef, nothing_to_do};
use crate::bug::{Bug, planted};
use crate::data::Rejected;
use crate::epoch::{Base, Entry, Idleness, Known, Ledger, Log, Mint, Recovered, Replay, Resume, Start, judge_lanes, resume};
use crate::error::{Error, Result};
use crate::operator::closure::caught_outside;
use crate::operator::root::Roots;
use crate::operator::{Lowering, Node, Order};
use crate::plan::{Function, InputKind};
use crate::runtime::{
    Begin, Blueprint, Bounds, CheckpointDriver, Checkpoints, Core, Driver, DriverThread, Engine, Flight, Job, Letterbox, LogDriver, LogJob,
    LogState, Output, OutputPlan, Phase, Port, Request, SinkDriver, SinkPort, SinkState, SinkStatus, SinkThread, SourcePlan, SourcePort,
    Spool, Spooling, Status, ToWorker, ViewPlan, WorkerPort, queue, start_engine, start_workers,
};
use crate::sink::{Guarantee, Progress, Sink, SinkContext};
use crate::source::{Rewind, SourceContext, Waker};
use crate::store;
use crate::time::Epoch;
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
        let Lowered { views, mut outputs, computed } = self.lower_all()?;
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
            (None, Some(State::At(place))) => Box::new(crate::sink::dead_letter::DeadLetters::append(place.join("dead_letters"))),
            (None, Some(State::Store(..))) => {
                return Err(Error::user("a pipeline with its state in a store has no default place for bad records")
                    .hint("name one with dead_letters(…)"));
            }
        };
        sinks.push(("dead letters".into(), Rejected::schema(), dead));
        let title = format!("{} of dead letters", sinks[outputs.len()].2.kind()).into();
        outputs.push(OutputPlan { view: "dead letters".into(), title, node: Node::Union(vec![], Rejected::schema()) });
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
        let roots = self.roots(&views, &outputs, &source)?;
        let blueprint = Arc::new(Blueprint { pipeline: self.name.clone(), sources: plans, views, outputs, roots });
        Ok(Parts { blueprint, sources, sinks, computed })
    }

    fn roots(&self, views: &[ViewPlan], outputs: &[OutputPlan], source: &dyn Fn(usize) -> String) -> Result<Option<Roots>> {
        let mut roots = Roots::of(views.iter().map(|v| (&*v.name, &v.node)), outputs.iter().map(|o| &o.node), source)?;
        for shape in roots.iter_mut().flat_map(|r| &mut r.shapes) {
            shape.text = self.with_versions(std::mem::take(&mut shape.text), &shape.calls);
        }
        Ok(roots)
    }

    /// The text of a plan with the versions of those functions that it calls and that are not DataFusion's: another meaning is another plan.
    fn with_versions(&self, text: String, calls: &BTreeSet<String>) -> String {
        let called = |f: &&Function| calls.contains(f.name());
        let versions: Vec<String> = self.catalog.functions().filter(called).map(|f| format!("{} {}", f.name(), f.version())).collect();
        if versions.is_empty() { text } else { format!("{text} [version of {}]", versions.join(", ")) }
    }

    fn lower_all(&self) -> Result<Lowered> {
        let view = |v: &super::ViewDef| Ok(ViewPlan { name: v.name.clone(), node: self.lower(&v.plan)? });
        let titles = change::told_apart(self.outputs.iter().map(|o| format!("{} of {}", o.sink.kind(), o.view)));
        let output = |(o, title): (&super::OutputDef, String)| {
            Ok(OutputPlan { view: o.view.clone(), title: title.into(), node: self.lower(&o.plan)? })
        };
        let views = self.views.iter().map(view).collect::<Result<Vec<_>>>()?;
        let outputs = self.outputs.iter().zip(titles).map(output).collect::<Result<Vec<_>>>()?;
        let computed = |name: String, plan: &datafusion::logical_expr::LogicalPlan, node: &Node| {
            let mut reads = vec![];
            node.walk(&mut |n| {
                if let Node::View { view, .. } = n {
                    reads.push(views[*view].name.to_string());
                }
            });
            Computed { name, text: self.with_versions(plan.display_indent().to_string(), &node.calls()), reads }
        };
        let of_views = self.views.iter().zip(&views).map(|(v, l)| computed(format!("view {}", v.name), &v.plan, &l.node)).collect();
        let name = |o: &super::OutputDef| format!("sink {} of {}", o.sink.kind(), o.view);
        let of_sinks = self.outputs.iter().zip(&outputs).map(|(o, l)| computed(name(o), &o.plan, &l.node)).collect();
        Ok(Lowered { computed: (of_views, of_sinks), views, outputs })
    }

    /// Compares it with what `options.state` holds; `None` if that is nothing, or no state is kept.
    fn difference(&self) -> Result<Option<Difference>> {
        let (store, place) = match &self.options.state {
            None => return Ok(None),
            Some(State::At(place)) => match store::look(place)? {
                Some(store) => (store, place.display().to_string()),
                None => return Ok(None),
            },
            Some(State::Store(store, name)) => (store.clone(), name.clone()),
        };
        let Some(seen) = Log::look(store.clone(), &place)? else { return Ok(None) };
        let Lowered { views, outputs, computed } = self.lower_all()?;
        let source = |i: usize| self.sources[i].name.to_string();
        let roots = self.roots(&views, &outputs, &source)?;
        let found = change::renamed(seen.found);
        Ok(found.start.is_some().then(|| compare(&*store, &found, &computed, roots.as_ref()).1))
    }
}

/// The plans of views and sinks, and what each of them computes.
struct Lowered {
    views: Vec<ViewPlan>,
    outputs: Vec<OutputPlan>,
    computed: (Vec<Computed>, Vec<Computed>),
}

pub(super) struct Parts {
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) sources: Vec<(Arc<str>, Box<dyn crate::source::Source>)>,
    pub(super) sinks: Vec<(Arc<str>, SchemaRef, Box<dyn Sink>)>,
    /// What each view and each sink but the dead letters computes.
    pub(super) computed: (Vec<Computed>, Vec<Computed>),
}

/// What the engine and its handle share.
struct Shared {
    status: Arc<Mutex<Status>>,
    requests: crossbeam_channel::Receiver<Request>,
}

fn assemble(flow: &Flow, parts: Parts, shared: Shared, wake: Waker, waiting: &dyn Fn() -> bool, threads: bool) -> Result<Engine> {
    let (options, name) = (&flow.options, &flow.name);
    let kept = recover(options, &parts, waiting)?;
    // until the end of a start that fails
    let held = kept.as_ref().map(|k| k.store.clone());
    let found = kept.as_ref().map(|k| k.found.clone()).unwrap_or_default();
    let mut ledger = kept.as_ref().map_or_else(Ledger::in_memory, |k| Ledger::of(k.log.writer(), &k.found));
    let roots = parts.blueprint.roots.clone().filter(|_| kept.is_some());
    // the dead letters, which come last, stay the same sink however many others there are
    let (views, sinks) = &parts.computed;
    let mut labels = kept.as_ref().map_or_else(|| change::labels(&BTreeMap::new(), sinks), |k| k.labels.clone());
    let of_views: BTreeMap<_, _> = views.iter().map(|v| (v.name.clone(), v.text.clone())).collect();
    let computed = views.iter().map(|v| &v.name).chain(&labels).cloned().zip(views.iter().chain(sinks).map(|c| c.text.clone()));
    let plan = computed.chain(change::identities(&parts.sources)).collect();
    labels.push("dead letters".to_owned());
    let (writer, schema, clock) = (ledger.writer(), Rejected::schema(), options.clock.clone());
    let context = SinkContext { pipeline: name.clone(), view: name.clone(), writer, schema, kept: kept.is_some(), clock };
    if let Some(kept) = &kept {
        look(kept, ledger.tail(), &parts, &labels, &context)?;
    }
    let new_sinks: Vec<bool> = labels.iter().map(|l| !found.held.contains_key(l)).collect();
    let mut restored = match (&kept, &roots) {
        (Some(kept), Some(roots)) => Restored::choose(&*kept.store, &found, roots, &new_sinks, options.on_change)?,
        _ => None,
    };
    restored.iter_mut().for_each(|r| r.forget_counts(&parts));
    let upto = restored.as_ref().map(|r| Epoch(r.image.upto));
    ledger.keep_checkpoints(|c| Some(c.epoch) <= upto);
    let fill = restored.as_ref().is_some_and(|r| r.fill);
    if fill || upto < Some(found.dropped) && found.dropped > Epoch(0) {
        still_there(&found, &parts.sources, restored.is_some())?;
    }
    let mut again = found.replay(upto, fill);
    // of a source that is gone, with the views that read it, nothing is wanted
    again.iter_mut().for_each(|b| b.ranges.retain(|(source, _), _| parts.sources.iter().any(|(name, _)| name == source)));
    let replay = Replay::new(again.into_iter().filter(|_| !planted(Bug::SkipsReplay)));
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
    let next = if planted(Bug::MintReusesEpoch) { ledger.tail() } else { ledger.tail().next() };
    let mut engine = Engine {
        pipeline: name.clone(),
        clock: options.clock.clone(),
        mint: Mint::new(options.limits, next, found.watermarks()),
        idleness: Idleness::new(options.idle_after),
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
        letterbox: Letterbox::default(),
        retired: Epoch(0),
        settling: vec![],
        written: LogState { durable: ledger.tail(), ..LogState::default() },
        based: now,
        bases: 0,
        checkpoints: Checkpoints::new(Port::None, options.checkpoint_every, options.memory, upto, now),
        looked: now,
        log: Port::None,
        replay,
        spooling: Spooling::default(),
        ledger,
    };
    let opened = open(&mut engine, parts, Ends { orders, labels, context }, &found, &wake, threads).and_then(|()| {
        let Some(Kept { store, mut log, difference, .. }) = kept else { return Ok(()) };
        let settled = engine.ledger.letters().clone();
        let is_settled = settled == found.letters;
        let found = Recovered { letters: settled, ..found };
        engine.letterbox = Letterbox::open(&*store, &found.letters)?;
        if !difference.is_empty() || !is_settled {
            // before anything leaves: a sink that begins a new life must be known by then, and what it told and did not commit be forgotten
            log.write(&Entry::Base(Base { checkpoints: engine.ledger.checkpoints().to_vec(), ..found.as_base() }))?;
        }
        if found.start.is_none() {
            let at = |s: &SourcePort| {
                let first = s.reader.status().partitions.into_iter().map(|p| (p.partition, p.position));
                (s.name.clone(), first.collect())
            };
            let start = Start { positions: engine.sources.iter().map(at).collect(), plan };
            // before anything is read: another start must begin at the same place, whatever has come to the topic until then
            log.write(&Entry::Started(start.clone()))?;
            engine.ledger.started(start);
        }
        let ends: BTreeMap<_, _> = engine.sources.iter().filter_map(|s| Some((s.name.clone(), s.reader.ends()?))).collect();
        if ends != found.ends {
            log.write(&Entry::Ends(ends.clone()))?;
            engine.ledger.bounded(ends);
        }
        let generation = log.writer().generation;
        let spool = Spool::new(store.clone(), generation, &found, options.keep_spooled || roots.is_none());
        let driver = LogDriver::new(log, spool, engine.written.durable, engine.clock.clone());
        engine.log = port(driver, (&**name, "ledger"), threads, &wake)?;
        // all are judged: what older generations left may go
        engine.log.give(LogJob::Clean);
        if let Some(roots) = &roots {
            let none = || roots.shapes.iter().map(|s| vec![vec![]; s.traces.len()]).collect();
            let files = restored.as_ref().map_or_else(none, |r| r.files.clone());
            let driver = CheckpointDriver::new(store, generation, (roots.clone(), of_views), files, engine.clock.clone());
            engine.checkpoints.port = port(driver, (&**name, "checkpoints"), threads, &wake)?;
            engine.checkpoints.port.give(Job::Clean { kept: engine.ledger.checkpoints().to_vec() });
        }
        Ok(())
    });
    if let Err(e) = opened {
        // what is open already lets go again, and only then the state
        let _ = engine.fail(e.clone());
        drop(held);
        return Err(e);
    }
    if let Some(restored) = restored {
        let mut status = engine.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.damaged = restored.damaged;
        if let Some(counts) = restored.counts {
            engine.checkpoints.counted = upto.map(|upto| (upto, counts.rejected.keys().cloned().collect()));
            status.rejected = counts.rejected;
        }
        drop(status);
        let image = Arc::new(restored.image);
        engine.workers.iter_mut().for_each(|w| w.send(ToWorker::Restore(image.clone())));
    }
    Ok(engine)
}

fn port<D: Driver>(driver: D, (pipeline, part): (&str, &'static str), threads: bool, wake: &Waker) -> Result<Port<D>> {
    Ok(if threads { Port::Thread(DriverThread::start(pipeline, part, driver, wake.clone())?) } else { Port::Inline(Box::new(driver)) })
}

/// What sinks are opened with.
struct Ends {
    /// Of each sink, as those below.
    orders: Vec<Order>,
    labels: Vec<String>,
    /// But for its view and its columns.
    context: SinkContext,
}

fn open(engine: &mut Engine, parts: Parts, ends: Ends, found: &Recovered, wake: &Waker, threads: bool) -> Result<()> {
    let name = engine.pipeline.clone();
    let Ends { orders, labels, context } = ends;
    let kept = context.kept;
    let mut gates = vec![];
    let titles: Vec<Arc<str>> = parts.blueprint.outputs.iter().map(|o| o.title.clone()).collect();
    for ((((view, schema, sink), title), order), ledger_label) in parts.sinks.into_iter().zip(titles).zip(orders).zip(labels) {
        let (kind, keeps_progress) = (sink.kind(), sink.guarantee(kept) == Guarantee::ExactlyOnce);
        let (known, remembered) = (found.held.contains_key(&ledger_label), found.held.get(&ledger_label).copied().flatten());
        let context = SinkContext { view: view.clone(), schema: schema.clone(), ..context.clone() };
        if kept && !keeps_progress {
            tracing::info!(pipeline = %name, sink = %title, "after a crash this sink may get rows again: at least once");
        }
        let opened = caught_outside(|| sink.open(context)).map_err(|e| e.at(format!("sink {title}")))?;
        // a sink that keeps no progress goes on after what the ledger saw it take
        let progress = if keeps_progress { opened.progress } else { opened.progress.or(remembered) };
        let told = progress.map_or(Epoch(0), |p| p.epoch);
        let known = Known {
            writer: engine.ledger.writer(),
            tail: engine.ledger.tail(),
            remembered,
            born: found.births.get(&ledger_label).copied(),
            base: known.then(|| found.base()),
        };
        // before the sink as a whole, so that what is said names the lane; of another ledger's sink, or of one that is ahead, only that is said
        let ours =
            |p: &Progress| p.writer.ledger == known.writer.ledger && p.epoch <= known.tail && known.born <= Some(p.writer.generation);
        if let (Some(lanes), Some(_)) = (found.lanes.get(&ledger_label).filter(|_| keeps_progress), progress.filter(ours)) {
            judge_lanes(&title, &opened.writer.lanes(), told, lanes)?;
        }
        let lanes = opened.writer.lanes();
        engine.ledger.settle(&ledger_label, |lane| lanes.get(lane).copied().unwrap_or(told));
        let gate = match resume(&title, known, progress, |epoch| epoch >= found.base() || engine.replay.ends(epoch))? {
            Resume::After(epoch) if planted(Bug::GateTooLow) => Epoch(epoch.0.saturating_sub(1)),
            Resume::After(epoch) if planted(Bug::GateTooHigh) => epoch.next(),
            Resume::After(epoch) => epoch,
            Resume::New => Epoch(0),
        };
        gates.push(gate);
        let driver = SinkDriver::new(title.clone(), opened.writer, gate, progress, engine.clock.clone());
        let port =
            if threads { SinkPort::Thread(SinkThread::start(&name, driver, wake.clone())?) } else { SinkPort::Inline(Box::new(driver)) };
        let state = SinkState::default();
        engine.outputs.push(Output {
            name: view,
            kind,
            title,
            schema,
            order,
            label: ledger_label,
            keeps_progress,
            remembered: progress,
            port,
            state,
        });
    }
    let gates: Arc<[Epoch]> = gates.into();
    engine.workers.iter_mut().for_each(|w| w.send(ToWorker::Gates(gates.clone())));
    for (source, value) in parts.sources {
        // from where it began, or from where it is read again; behind all that is stored of it
        let spooled = (kept && value.rewind() == Rewind::Spooled).then(|| value.schema());
        let resume = found.start.as_ref().map(|_| {
            if spooled.is_some() {
                return found.stood(&source);
            }
            let stood = engine.checkpoints.restored.filter(|_| !planted(Bug::PositionsOfTheStart));
            let mut positions = found.positions(&source, stood);
            positions.extend(engine.replay.positions(&source));
            positions
        });
        let (wake, clock, until) = (wake.clone(), engine.clock.clone(), found.ends.get(&source).cloned());
        let stood = found.stood(&source);
        let context = SourceContext { pipeline: name.clone(), name: source.clone(), resume, until, stood, wake, clock };
        let reader = caught_outside(|| value.open(context)).map_err(|e| e.at(format!("source {source}")))?;
        let bound = found.bound(&source);
        engine.sources.push(SourcePort::new(source, reader, spooled, bound));
    }
    let mut status = engine.status.lock().unwrap_or_else(PoisonError::into_inner);
    status.sources = engine.sources.iter().map(|s| s.report.clone()).collect();
    let sink = |o: &Output| {
        let (name, kind, label) = (o.name.to_string(), o.kind.to_owned(), o.title.to_string());
        SinkStatus { name, kind, label, ..SinkStatus::default() }
    };
    status.sinks = engine.outputs.iter().map(sink).collect();
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
        // gone with this future
        let here = Arc::new(());
        let waits = Arc::downgrade(&here);
        start_engine(
            &name,
            move |wake| assemble(&flow, parts, shared, wake, &|| Weak::strong_count(&waits) > 0, true),
            move |r| {
                let _ = ready_tx.send(r); // nobody waits any more: the handle is gone, and its requests with it
            },
            move |outcome| {
                ended_tx.send_replace(Some(outcome));
            },
        )?;
        let thread = ready.await.map_err(|_| Error::internal("the engine ended while it started"))??;
        drop(here);
        Ok(Running { name, workers, views, functions, status, requests: requests_tx, ended, thread })
    }

    /// What a start would find: how this pipeline differs from the one whose state is in the place that [`Pipeline::state`] names, and what would become
    /// of what is stored. `None` if there is no state yet. Nothing is opened, written or locked.
    ///
    /// # Errors
    /// State that cannot be read, or a pipeline that cannot be planned.
    pub fn difference(&self) -> Result<Option<Difference>> {
        self.flow().difference()
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

/// An engine on the calling thread, and how to talk to it.
#[cfg(any(test, feature = "testing"))]
pub(super) struct Inline {
    pub(super) engine: Engine,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) requests: crossbeam_channel::Sender<Request>,
}

#[cfg(any(test, feature = "testing"))]
impl Pipeline {
    pub(super) fn inline(self) -> Result<Inline> {
        let mut flow = self.take();
        let parts = flow.lay_out()?;
        let status = Arc::new(Mutex::new(Status::default()));
        let (requests_tx, requests) = queue();
        let engine = assemble(&flow, parts, Shared { status: status.clone(), requests }, Waker::default(), &|| true, false)?;
        Ok(Inline { engine, status, requests: requests_tx })
    }
}
