//! Nodes become operators of one worker's dataflow.

use super::eval::{Blame, Rejects};
use super::keep::{self, Selected, State, Through};
use super::root::Root;
use super::tally::Tally;
use super::{Node, Order, aggregate, closure, map};
use crate::data::Changes;
use crate::dataflow::Stream;
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Concatenate, Operator};
use timely::dataflow::{ProbeHandle, Scope};

/// The first failure of a worker's operators: it ends the engine, never the host.
#[derive(Clone, Default)]
pub struct Failure(Rc<RefCell<Option<Error>>>);

impl Failure {
    /// Reports a failure; the first one is kept.
    pub fn set(&self, e: Error) {
        self.0.borrow_mut().get_or_insert(e);
    }

    /// The first failure, if any.
    pub fn get(&self) -> Option<Error> {
        self.0.borrow().clone()
    }
}

/// What rendering needs to know of the worker.
pub struct Context<'s> {
    /// Name of the pipeline.
    pub pipeline: Arc<str>,
    /// The dataflow under construction.
    pub scope: Scope<'s, u64>,
    /// The stream of each source and the columns (indices into the source's full schema) that it carries.
    pub sources: Vec<(Stream<'s>, Vec<usize>)>,
    /// The views rendered so far.
    pub views: Vec<Rendered<'s>>,
    /// Where refused rows go.
    pub rejects: Rejects,
    /// Where rows that leave operators are counted.
    pub tally: Tally,
    /// Where failures go.
    pub failure: Failure,
    /// The first epoch of this run.
    pub first: u64,
    /// Whether state is stored.
    pub storing: bool,
    /// Whether state that was stored is there again at the first epoch.
    pub restoring: bool,
    /// The roots rendered so far.
    pub roots: RefCell<Vec<Root>>,
}

/// A rendered node.
#[derive(Clone)]
pub struct Rendered<'s> {
    /// Its changes.
    pub stream: Stream<'s>,
    /// Canonical order of its epochs.
    pub order: Order,
    /// State that can answer for it, if an operator below has some.
    pub state: Option<Rc<dyn State>>,
    /// Number of its columns.
    pub columns: usize,
    /// Whether its past lies outside.
    pub live: bool,
}

impl<'s> Context<'s> {
    /// The place for an operator's traces, which are a root if what it reads is `live`.
    fn root(&self, live: bool) -> Root {
        let root = Root { first: self.first, stored: live && self.storing, restoring: live && self.restoring, ..Root::default() };
        if live {
            self.roots.borrow_mut().push(root.clone());
        }
        root
    }

    /// Renders `node` for the view `view`; metrics count it as an operator of `counted_as`.
    ///
    /// # Errors
    /// What cannot be rendered, which lowering should have refused.
    pub fn render(&self, node: &Node, view: &Arc<str>, counted_as: &Arc<str>) -> Result<Rendered<'s>> {
        let blame = self.blame(view, counted_as);
        let width = node.schema().fields().len();
        let stateless = |stream, order, live| Rendered { stream, order, state: None, columns: width, live };
        Ok(match node {
            Node::Source { source, columns, schema } => {
                let (stream, carried) = &self.sources[*source];
                let position =
                    |c: &usize| carried.iter().position(|x| x == c).ok_or_else(|| Error::internal("a column that no source carries"));
                let positions = columns.iter().map(position).collect::<Result<Vec<_>>>()?;
                let stream = stream.clone();
                let all = positions.len() == carried.len() && positions.is_sorted();
                stateless(if all { stream } else { self.select(stream, positions, schema, blame) }, Order::Origin, true)
            }
            Node::View { view, columns, schema } => {
                let below = &self.views[*view];
                let stream = self.select(below.stream.clone(), columns.clone(), schema, blame);
                let all = (0..below.columns).all(|c| columns.contains(&c));
                let order = if below.order == Order::Key && !all { Order::Sorted } else { below.order };
                let select = |s: &Rc<dyn State>| Rc::new(Selected { state: s.clone(), indices: columns.clone() }) as Rc<dyn State>;
                Rendered { stream, order, state: below.state.as_ref().map(select), columns: width, live: below.live }
            }
            Node::Map(input, plan) => {
                let below = self.render(input, view, counted_as)?;
                let order = plan.order(below.order, input.schema().fields().len());
                let through = |state| Rc::new(Through { state, map: plan.clone(), view: view.clone() }) as Rc<dyn State>;
                let stream = map::render(below.stream, plan.clone(), blame, self.failure.clone());
                Rendered { stream, order, state: below.state.map(through), columns: width, live: below.live }
            }
            Node::Aggregate(input, plan) => {
                let below = self.render(input, view, counted_as)?;
                let (stream, state) = aggregate::render(below.stream, plan.clone(), blame, self.failure.clone(), self.root(below.live));
                Rendered { stream, order: Order::Key, state: Some(Rc::new(state)), columns: width, live: false }
            }
            Node::Union(inputs, _) => {
                let inputs = inputs.iter().map(|n| self.render(n, view, counted_as)).collect::<Result<Vec<_>>>()?;
                // two branches over one source share origins, so only a sort makes the order canonical
                let live = inputs.iter().any(|r| r.live);
                stateless(self.scope.concatenate(inputs.into_iter().map(|r| r.stream)), Order::Sorted, live)
            }
            Node::Closure(input, plan) => {
                let below = self.render(input, view, counted_as)?;
                let order = if below.order == Order::Origin { Order::Origin } else { Order::Sorted };
                stateless(closure::render(below.stream, plan.clone(), blame, self.failure.clone()), order, below.live)
            }
            Node::Custom(input, plan) => {
                let below = self.render(input, view, counted_as)?;
                let f = plan.payload.downcast_ref::<Box<super::RawOperator>>();
                let f = f.ok_or_else(|| Error::internal("a raw operator without its function"))?;
                stateless(f(below.stream), Order::Sorted, below.live)
            }
        })
    }

    fn blame(&self, view: &Arc<str>, counted_as: &Arc<str>) -> Blame {
        Blame {
            view: view.clone(),
            counted_as: counted_as.clone(),
            rejects: self.rejects.clone(),
            pipeline: self.pipeline.clone(),
            tally: self.tally.clone(),
        }
    }

    fn select(&self, stream: Stream<'s>, indices: Vec<usize>, schema: &arrow::datatypes::SchemaRef, blame: Blame) -> Stream<'s> {
        let (schema, failure) = (schema.clone(), self.failure.clone());
        stream.unary::<NoopBuilder<Changes>, _, _, _>(Pipeline, "Select", move |_, _| {
            move |input, output| {
                input.for_each(|time, data| match map::select(data, &indices, &schema) {
                    Ok(mut changes) => output.session_with_builder(&time).give_container(&mut changes),
                    Err(e) => failure.set(e.at(format!("view {}", blame.view))),
                });
            }
        })
    }

    /// Makes a view readable: through the state below it, or by keeping its rows.
    ///
    /// # Errors
    /// A column that cannot be kept because it cannot be compared.
    pub fn keep(&self, rendered: &Rendered<'s>, node: &Node, view: &Arc<str>, probe: &ProbeHandle<u64>) -> Result<Rc<dyn State>> {
        match &rendered.state {
            Some(state) => Ok(state.clone()),
            None => {
                let blame = self.blame(view, view);
                keep::render(rendered.stream.clone(), &node.schema(), blame, self.failure.clone(), probe, self.root(rendered.live))
            }
        }
    }
}
