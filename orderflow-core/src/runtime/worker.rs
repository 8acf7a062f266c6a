//! One worker: its share of the decoding and of the dataflow, advanced step by step.
//!
//! Invariant: what a worker reports as closed for epoch *e* is everything that its operators will ever produce at *e*. It never waits for I/O.

use crate::data::rowkey::owned;
use crate::data::{Changes, Rejected};
use crate::dataflow::arrange::Sealed;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::ingest::Ingest;
use crate::operator::closure::caught;
use crate::operator::eval::Rejects;
use crate::operator::keep::State;
use crate::operator::root::{Restored, Root, Roots, Shape, StoredTrace};
use crate::operator::tally::{Tally, Whose};
use crate::operator::{Context, Failure, Node, Order};
use crate::source::Fetch;
use crate::time::Epoch;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use timely::communication::Allocator;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Input as _, Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker as Timely;

/// What every worker builds: the same on each of them.
pub(crate) struct Blueprint {
    pub(crate) pipeline: Arc<str>,
    pub(crate) sources: Vec<SourcePlan>,
    pub(crate) views: Vec<ViewPlan>,
    pub(crate) outputs: Vec<OutputPlan>,
    /// What is stored of it; `None` if nothing can be.
    pub(crate) roots: Option<Roots>,
}

/// Where a worker begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    /// The first epoch.
    pub(crate) first: u64,
    /// Whether state is stored.
    pub(crate) storing: bool,
    /// Whether state that was stored comes in a [`ToWorker::Restore`] before anything else.
    pub(crate) restoring: bool,
}

/// State that was stored as of the end of an epoch.
pub(crate) struct Image {
    pub(crate) upto: u64,
    /// Whether roots show their rows at that epoch.
    pub(crate) show: bool,
    /// For each root its traces' files, each with the epoch up to which it is; `None` for a root that was not stored.
    pub(crate) roots: Vec<Option<Vec<StoredTrace>>>,
}

/// What every root was given since it was sealed last, by root and trace.
pub(crate) type SealedRoots = Vec<Vec<Sealed>>;

/// What a worker tells the engine.
pub(crate) enum Report {
    /// It is through with an epoch.
    Share(Share),
    /// What its roots were given up to the end of an epoch.
    Sealed(u64, SealedRoots),
}

/// How a source is decoded.
pub(crate) struct SourcePlan {
    pub(crate) name: Arc<str>,
    pub(crate) format: Option<Arc<dyn Format>>,
    /// Data columns, then hidden ones.
    pub(crate) full: SchemaRef,
    /// Number of data columns.
    pub(crate) data: usize,
    /// The columns that some view or sink reads.
    pub(crate) wanted: Vec<usize>,
}

/// A named, readable view.
pub(crate) struct ViewPlan {
    pub(crate) name: Arc<str>,
    pub(crate) node: Node,
}

/// What one sink is given.
pub(crate) struct OutputPlan {
    pub(crate) view: Arc<str>,
    /// What messages and metrics call the sink.
    pub(crate) title: Arc<str>,
    pub(crate) node: Node,
}

/// From the engine to a worker.
pub(crate) enum ToWorker {
    /// Records of the open epoch.
    Fetch { source: usize, epoch: u64, fetch: Fetch },
    /// No more records of `epoch`; epochs below `forget` will not be read again.
    Close { epoch: u64, forget: u64 },
    /// The epoch up to which each output's sink holds all there is, so that nobody wants its rows again; before anything else.
    Gates(Arc<[Epoch]>),
    /// What was stored before; before any input.
    Restore(Arc<Image>),
    /// Let go of what roots were given up to the end of `epoch`, which was closed.
    Seal { epoch: u64 },
    /// The rows of a view as of `epoch`.
    Read { view: usize, epoch: u64, reply: Reply },
    /// Drop everything.
    Stop,
}

/// Where the rows of a view go.
pub(crate) type Reply = Box<dyn FnOnce(Result<Vec<RecordBatch>>) + Send>;

/// One worker's share of a closed epoch.
#[derive(Default)]
pub(crate) struct Share {
    pub(crate) epoch: u64,
    /// (output, rows), in the order they came.
    pub(crate) outputs: Vec<(usize, Changes)>,
    pub(crate) rejected: Vec<Rejected>,
    /// Rows that left operators since the last share, whatever their epoch.
    pub(crate) left: Vec<(Whose, u64)>,
    /// Updates held in this worker's kept state.
    pub(crate) updates: usize,
    /// Bytes that its roots were given and that were not sealed.
    pub(crate) unsaved: usize,
}

/// A worker.
pub(crate) struct Core {
    timely: Timely,
    inputs: Vec<InputHandle<u64, NoopBuilder<Changes>>>,
    ingests: Vec<Ingest>,
    probe: ProbeHandle<u64>,
    captured: Captured,
    gates: Gates,
    rejects: Rejects,
    tally: Tally,
    failure: Failure,
    states: Vec<Rc<dyn State>>,
    roots: Vec<Root>,
    shapes: Vec<Shape>,
    reported: u64,
    /// Epochs that were closed by the engine and not reported.
    asked: VecDeque<u64>,
    sealing: Option<u64>,
}

type Captured = Rc<RefCell<BTreeMap<u64, Vec<(usize, Changes)>>>>;

/// By output; none is closed where nothing was said.
type Gates = Rc<RefCell<Arc<[Epoch]>>>;

impl Core {
    /// Builds the dataflow; also gives the canonical order of each output.
    #[expect(clippy::disallowed_methods, reason = "timely's own timer: without one a worker never parks")]
    pub(crate) fn build(blueprint: &Blueprint, allocator: Allocator, begin: Begin) -> Result<(Self, Vec<Order>)> {
        let config = timely::WorkerConfig::default();
        let mut timely = Timely::new(config, allocator, Some(std::time::Instant::now()));
        let (rejects, tally, failure, captured) = (Rejects::default(), Tally::default(), Failure::default(), Captured::default());
        let (probe, gates) = (ProbeHandle::new(), Gates::new(RefCell::new([].into())));
        let ingest = |(i, s): (usize, &SourcePlan)| Ingest::new(s.name.clone(), i as u32, s.format.as_deref(), &s.full, s.data, &s.wanted);
        let ingests = blueprint.sources.iter().enumerate().map(ingest).collect::<Result<Vec<_>>>()?;
        let mut inputs: Vec<InputHandle<u64, NoopBuilder<Changes>>> =
            blueprint.sources.iter().map(|_| InputHandle::new_with_builder()).collect();
        let built = timely.dataflow::<u64, _, _>(|scope| -> Result<_> {
            let sources = inputs.iter_mut().zip(&blueprint.sources).map(|(h, s)| (scope.input_from(h), s.wanted.clone())).collect();
            let mut context = Context {
                pipeline: blueprint.pipeline.clone(),
                scope,
                sources,
                views: vec![],
                rejects: rejects.clone(),
                tally: tally.clone(),
                failure: failure.clone(),
                first: begin.first,
                storing: begin.storing,
                restoring: begin.restoring,
                roots: RefCell::default(),
            };
            let mut states = vec![];
            for view in &blueprint.views {
                let rendered = context.render(&view.node, &view.name, &view.name)?;
                states.push(context.keep(&rendered, &view.node, &view.name, &probe)?);
                rendered.stream.clone().probe_with(&probe);
                context.views.push(rendered);
            }
            let mut orders = vec![];
            for (i, output) in blueprint.outputs.iter().enumerate() {
                let rendered = context.render(&output.node, &output.view, &output.title)?;
                orders.push(rendered.order);
                let (captured, gates) = (captured.clone(), gates.clone());
                // the probe stands behind the capture: when it has passed an epoch, the capture holds all of it
                let done = rendered.stream.unary::<NoopBuilder<Changes>, _, _, _>(Pipeline, "Capture", move |_, _| {
                    move |input, _| {
                        let gate = gates.borrow().get(i).map_or(0, |gate| gate.0);
                        input.for_each(|time, data| {
                            // what is read again as one epoch may be all that there ever was: a sink that holds it does not cost its memory
                            if *time.time() <= gate {
                                return;
                            }
                            captured.borrow_mut().entry(*time.time()).or_default().push((i, std::mem::take(data)));
                        });
                    }
                });
                done.probe_with(&probe);
            }
            Ok((states, orders, context.roots.take()))
        });
        let (states, orders, roots) = built?;
        let shapes = blueprint.roots.as_ref().map(|r| r.shapes.clone()).unwrap_or_default();
        if blueprint.roots.is_some() && shapes.len() != roots.len() {
            return Err(Error::internal(format!("{} roots were planned and {} rendered", shapes.len(), roots.len())));
        }
        let first = begin.first;
        let mut core = Core {
            timely,
            inputs,
            ingests,
            probe,
            captured,
            gates,
            rejects,
            tally,
            failure,
            states,
            roots,
            shapes,
            reported: first - 1,
            asked: VecDeque::new(),
            sealing: None,
        };
        core.inputs.iter_mut().for_each(|i| i.advance_to(first));
        Ok((core, orders))
    }

    /// Takes one message; gives false when the worker must stop.
    pub(crate) fn handle(&mut self, message: ToWorker) -> Result<bool> {
        match message {
            ToWorker::Fetch { source, epoch, fetch } => {
                let (changes, rejected) = self.ingests[source].rows(fetch)?;
                rejected.into_iter().for_each(|r| self.rejects.push(epoch, r));
                if let Some(mut changes) = changes {
                    // after what is read again as one, numbers of epochs may be left out
                    if *self.inputs[source].time() < epoch {
                        self.inputs[source].advance_to(epoch);
                    }
                    self.inputs[source].send_batch(&mut changes);
                }
            }
            ToWorker::Close { epoch, forget } => {
                self.asked.push_back(epoch);
                self.states.iter().for_each(|s| s.forget(forget));
                for input in &mut self.inputs {
                    input.advance_to(epoch + 1);
                    input.flush();
                }
            }
            ToWorker::Gates(gates) => *self.gates.borrow_mut() = gates,
            ToWorker::Restore(image) => {
                let (index, peers) = (self.timely.index(), self.timely.peers());
                let state = Restored { upto: image.upto, show: image.show };
                for ((root, shape), files) in self.roots.iter().zip(&self.shapes).zip(&image.roots) {
                    if let Some(files) = files {
                        root.restore(shape, files, owned(index, peers), state)?;
                    }
                }
            }
            ToWorker::Seal { epoch } => self.sealing = Some(epoch),
            ToWorker::Read { view, epoch, reply } => reply(self.states[view].scan(epoch)),
            ToWorker::Stop => return Ok(false),
        }
        Ok(true)
    }

    /// Runs the operators that have something to do; `park`: waits up to this long if there is nothing. An error is final.
    pub(crate) fn step(&mut self, park: Option<std::time::Duration>) -> Result<()> {
        let timely = &mut self.timely;
        caught("an operator panicked", || {
            match park {
                Some(time) => timely.step_or_park(Some(time)),
                None => timely.step(),
            };
            Ok(())
        })?;
        self.failure.get().map_or(Ok(()), Err)
    }

    /// Whether epochs were closed by the engine that the operators have not finished.
    pub(crate) fn is_behind(&self) -> bool {
        !self.asked.is_empty() || self.sealing.is_some()
    }

    /// What there is to tell the engine next.
    pub(crate) fn report(&mut self) -> Option<Report> {
        if let Some(share) = self.closed() {
            return Some(Report::Share(share));
        }
        let epoch = self.sealing.take_if(|e| *e <= self.reported)?;
        Some(Report::Sealed(epoch, self.roots.iter().map(|r| r.seal(epoch)).collect()))
    }

    /// The next epoch that all operators are through with.
    fn closed(&mut self) -> Option<Share> {
        let probe = &self.probe;
        let next = self.asked.pop_front_if(|next| !probe.less_equal(next))?;
        self.reported = next;
        let outputs = self.captured.borrow_mut().remove(&next).unwrap_or_default();
        Some(Share {
            epoch: next,
            outputs,
            rejected: self.rejects.take(next),
            left: self.tally.take(),
            updates: self.states.iter().map(|s| s.updates()).sum(),
            unsaved: self.roots.iter().map(Root::unsaved).sum(),
        })
    }

    /// Drops the dataflow, whatever is still in it.
    pub(crate) fn stop(mut self) {
        self.inputs.clear();
        self.states.clear();
        for dataflow in self.timely.installed_dataflows() {
            self.timely.drop_dataflow(dataflow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Payload;
    use crate::time::Partition;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    #[test]
    fn rows_that_a_sink_holds_are_not_gathered_for_it() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let node = || Node::Source { source: 0, columns: vec![0], schema: schema.clone() };
        let output = |title: &str| OutputPlan { view: "v".into(), title: title.into(), node: node() };
        let source = SourcePlan { name: "s".into(), format: None, full: schema.clone(), data: 1, wanted: vec![0] };
        let (views, outputs) = (vec![ViewPlan { name: "v".into(), node: node() }], vec![output("holds two"), output("is new")]);
        let blueprint = Blueprint { pipeline: "p".into(), sources: vec![source], views, outputs, roots: None };
        let begin = Begin { first: 1, storing: false, restoring: false };
        let (mut core, _) = Core::build(&blueprint, Allocator::Thread(Default::default()), begin).unwrap();
        core.handle(ToWorker::Gates([Epoch(2), Epoch(0)].into())).unwrap();
        let mut gathered = vec![];
        for epoch in 1..=3u64 {
            let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![epoch as i64]))]).unwrap();
            let (partition, payload) = (Partition::new("s", 0), Payload::Rows(Changes::inserts(rows)));
            let fetch = Fetch { partition, from: epoch, to: epoch + 1, rows: 1, bytes: 8, fingerprint: 0, latest: None, payload };
            core.handle(ToWorker::Fetch { source: 0, epoch, fetch }).unwrap();
            core.handle(ToWorker::Close { epoch, forget: 0 }).unwrap();
            let share = loop {
                core.step(None).unwrap();
                if let Some(Report::Share(share)) = core.report() {
                    break share;
                }
            };
            gathered.push(share.outputs.iter().map(|(output, rows)| (*output, rows.len())).collect::<Vec<_>>());
        }
        assert_eq!(gathered, [vec![(1, 1)], vec![(1, 1)], vec![(0, 1), (1, 1)]]);
        core.stop();
    }
}
