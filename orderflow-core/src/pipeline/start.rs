//! From the builder to a running engine: plans are lowered, sinks opened, then sources, then workers started.

use super::{Flow, Pipeline, Running, nothing_to_do};
use crate::data::Rejected;
use crate::epoch::{Ledger, Mint, Resume, resume};
use crate::error::{Error, Result};
use crate::operator::{Lowering, Node, Order};
use crate::plan::InputKind;
use crate::runtime::{
    Blueprint, Bounds, Core, Engine, Flight, Output, OutputPlan, Phase, Request, SinkDriver, SinkPort, SinkState, SinkStatus, SinkThread,
    SourcePlan, SourcePort, SourceReport, Status, ViewPlan, WorkerPort, queue, start_engine, start_workers,
};
use crate::sink::{Sink, SinkContext};
use crate::source::{SourceContext, Waker};
use crate::time::Epoch;
use arrow::datatypes::SchemaRef;
use std::collections::BTreeSet;
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
        let dead = match self.dead_letters.take() {
            Some(sink) => sink,
            None => crate::sink::dead_letter::default_sink(&self.name),
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
        Ok(Parts { blueprint: Arc::new(Blueprint { pipeline: self.name.clone(), sources: plans, views, outputs }), sources, sinks })
    }
}

struct Parts {
    blueprint: Arc<Blueprint>,
    sources: Vec<(Arc<str>, Box<dyn crate::source::Source>)>,
    sinks: Vec<(Arc<str>, SchemaRef, Box<dyn Sink>)>,
}

/// What the engine and its handle share.
struct Shared {
    status: Arc<Mutex<Status>>,
    requests: crossbeam_channel::Receiver<Request>,
}

fn assemble(flow: &Flow, parts: Parts, shared: Shared, wake: Waker, threads: bool) -> Result<Engine> {
    let (options, name) = (&flow.options, &flow.name);
    let ledger = Ledger::in_memory();
    let (reports_tx, reports) = queue();
    let (workers, orders) = if threads {
        let (threads, orders) = start_workers(name, options.workers, &parts.blueprint, &reports_tx, &wake)?;
        (threads.into_iter().map(WorkerPort::Thread).collect(), orders)
    } else {
        let (core, orders) = Core::build(&parts.blueprint, timely::communication::Allocator::Thread(Default::default()))?;
        (vec![WorkerPort::Inline(Box::new(core))], orders)
    };
    let mut engine = Engine {
        pipeline: name.clone(),
        clock: options.clock.clone(),
        mint: Mint::new(options.limits, Epoch(1)),
        bounds: Bounds { reading: options.memory / 2, writing: options.memory / 2 },
        sources: vec![],
        flight: Flight::new(if threads { options.workers } else { 1 }, options.clock.clone()),
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
        ledger,
    };
    if let Err(e) = open(&mut engine, parts, orders, &wake, threads) {
        // what is open already lets go again
        let _ = engine.fail(e.clone());
        return Err(e);
    }
    Ok(engine)
}

fn open(engine: &mut Engine, parts: Parts, orders: Vec<Order>, wake: &Waker, threads: bool) -> Result<()> {
    let name = engine.pipeline.clone();
    for ((view, schema, sink), order) in parts.sinks.into_iter().zip(orders) {
        let kind = sink.kind();
        let context = SinkContext {
            pipeline: name.clone(),
            view: view.clone(),
            writer: engine.ledger.writer(),
            schema: schema.clone(),
            clock: engine.clock.clone(),
        };
        let label = format!("{kind} of {view}");
        let opened = sink.open(context).map_err(|e| e.at(format!("sink {label}")))?;
        let gate = match resume(&label, engine.ledger.writer(), engine.ledger.tail(), opened.progress, None)? {
            Resume::After(epoch) => epoch,
            Resume::New => Epoch(0),
        };
        let driver = SinkDriver::new(label.clone().into(), opened.writer, gate, engine.clock.clone());
        let port =
            if threads { SinkPort::Thread(SinkThread::start(&name, driver, wake.clone())?) } else { SinkPort::Inline(Box::new(driver)) };
        engine.outputs.push(Output { name: view, kind, schema, order, port, state: SinkState::default() });
    }
    for (source, value) in parts.sources {
        let context =
            SourceContext { pipeline: name.clone(), name: source.clone(), resume: None, wake: wake.clone(), clock: engine.clock.clone() };
        let reader = value.open(context).map_err(|e| e.at(format!("source {source}")))?;
        let report = SourceReport { name: source.to_string(), ..SourceReport::default() };
        engine.sources.push(SourcePort { name: source, reader, ended: false, held: None, pause: None, report });
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
