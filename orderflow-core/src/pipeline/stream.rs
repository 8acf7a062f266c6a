//! A stream under construction: fluent calls that grow the same plan as SQL does.

use super::{Flow, OutputDef, add_view};
use crate::error::{Error, Result};
use crate::operator::RawOperator;
use crate::plan::typed::{self, Record, closure};
use crate::plan::{Custom, visible};
use crate::sink::Sink;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use std::any::Any;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of a source, a view or a query, before the pipeline starts. A clone is the same stream.
#[derive(Clone)]
pub struct Stream {
    flow: Arc<Mutex<Flow>>,
    name: Arc<str>,
    plan: LogicalPlan,
}

fn planning(e: DataFusionError) -> Error {
    Error::user("this cannot be planned").why(e.strip_backtrace())
}

impl Stream {
    pub(crate) fn new(flow: Arc<Mutex<Flow>>, name: &str, plan: LogicalPlan) -> Self {
        Self { flow, name: name.into(), plan }
    }

    fn with(&self, plan: impl FnOnce(LogicalPlanBuilder) -> Result<LogicalPlanBuilder, DataFusionError>) -> Result<Self> {
        let plan = plan(LogicalPlanBuilder::from(self.plan.clone())).and_then(LogicalPlanBuilder::build).map_err(planning)?;
        Ok(Self { plan, ..self.clone() })
    }

    /// Its visible columns.
    ///
    /// # Errors
    /// Two columns of the same name.
    pub fn schema(&self) -> Result<SchemaRef> {
        crate::plan::schema(&visible(self.plan.clone())?)
    }

    /// The plan so far, printed.
    pub fn explain(&self) -> String {
        self.plan.display_indent().to_string()
    }

    /// Rows for which `predicate` is true.
    ///
    /// # Errors
    /// An unknown column, or an expression that is not boolean.
    pub fn filter(&self, predicate: Expr) -> Result<Self> {
        self.with(|p| p.filter(predicate))
    }

    /// The given columns.
    ///
    /// # Errors
    /// An unknown column, or two of one name.
    pub fn select(&self, columns: impl IntoIterator<Item = Expr>) -> Result<Self> {
        self.with(|p| p.project(columns))
    }

    /// One row for each group, with the group's expressions and the aggregates.
    ///
    /// # Errors
    /// An unknown column.
    pub fn aggregate(&self, groups: impl IntoIterator<Item = Expr>, aggregates: impl IntoIterator<Item = Expr>) -> Result<Self> {
        self.with(|p| p.aggregate(groups, aggregates))
    }

    /// Every visible row once, however often it occurs.
    ///
    /// # Errors
    /// Only if DataFusion refuses the plan.
    pub fn distinct(&self) -> Result<Self> {
        let plan = visible(self.plan.clone())?;
        Self { plan, ..self.clone() }.with(LogicalPlanBuilder::distinct)
    }

    /// All visible rows of both (`UNION ALL`).
    ///
    /// # Errors
    /// Columns that do not fit together.
    pub fn union(&self, other: &Stream) -> Result<Self> {
        let (plan, other) = (visible(self.plan.clone())?, visible(other.plan.clone())?);
        Self { plan, ..self.clone() }.with(|p| p.union(other))
    }

    /// The rows as values of `T`, for closures.
    ///
    /// # Errors
    /// A field of `T` that is no column, or whose type cannot hold it.
    pub fn rows<T: Record>(&self) -> Result<Typed<T>> {
        let stream = Self { plan: typed::project::<T>(self.plan.clone())?, ..self.clone() };
        Ok(Typed { stream, rows: PhantomData })
    }

    /// The raw door: a timely operator of the user's own, called once on every worker with the stream of changes.
    ///
    /// It must answer the same changes at the same epochs whenever it is run, whatever the number of workers; how it distributes rows is its own affair.
    /// Its operators are those of [`timely`], re-exported in the version that streams here are of.
    ///
    /// # Errors
    /// Columns of one name.
    pub fn operator(
        &self,
        name: &str,
        version: u32,
        schema: &SchemaRef,
        f: impl for<'s> Fn(crate::dataflow::Stream<'s>) -> crate::dataflow::Stream<'s> + Send + Sync + 'static,
    ) -> Result<Self> {
        let payload: Arc<dyn Any + Send + Sync> = Arc::new(Box::new(f) as Box<RawOperator>);
        let plan = Custom::plan(name, version, schema, visible(self.plan.clone())?, payload)?;
        Ok(Self { plan, ..self.clone() })
    }

    /// Names the stream: from here on SQL knows it, and it can be read while the pipeline runs.
    ///
    /// # Errors
    /// A name that is taken, or a plan that cannot be kept up to date.
    pub fn view(&self, name: &str) -> Result<Self> {
        add_view(&self.flow, name, self.plan.clone())
    }

    /// Writes the visible columns to a sink.
    ///
    /// # Errors
    /// What the sink cannot do, or a plan that cannot be kept up to date.
    pub fn sink(&self, sink: impl Sink) -> Result<Self> {
        self.output(visible(self.plan.clone())?, Box::new(sink))
    }

    /// Writes every row to a sink that chooses where by row, with the record's own bytes, key, headers and timestamp at hand.
    ///
    /// # Errors
    /// As [`Stream::sink`].
    pub fn route(&self, sink: impl Sink) -> Result<Self> {
        self.output(self.plan.clone(), Box::new(sink))
    }

    fn output(&self, plan: LogicalPlan, sink: Box<dyn Sink>) -> Result<Self> {
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let input = Arc::new(plan.schema().as_arrow().clone());
        let key = flow.key(&plan);
        let plan = match sink.columns(&crate::sink::Input { schema: input, key })? {
            None => plan,
            Some(columns) => {
                let expr = |c: &crate::sink::Column| Ok(flow.catalog.expr(&c.sql, &plan)?.alias(&c.name));
                let exprs = columns.iter().map(expr).collect::<Result<Vec<_>>>()?;
                LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build).map_err(planning)?
            }
        };
        let place = format!("sink {} of {}", sink.kind(), self.name);
        let plan = flow.catalog.prepare(plan).map_err(|e| e.at(&place))?;
        let schema = crate::plan::schema(&plan)?;
        flow.outputs.push(OutputDef { view: self.name.clone(), plan, schema, sink });
        drop(flow);
        Ok(self.clone())
    }
}

/// Rows as values of `T`.
pub struct Typed<T> {
    stream: Stream,
    rows: PhantomData<fn() -> T>,
}

impl<T: Record> Typed<T> {
    /// Rows for which `keep` holds. State remembers the closure by name and version: raise the version when its answers change.
    ///
    /// # Errors
    /// Only if DataFusion refuses the plan.
    pub fn filter(&self, name: &str, version: u32, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Result<Self> {
        let plan = typed::filter(self.stream.plan.clone(), closure(name, version, keep))?;
        Ok(Self { stream: Stream { plan, ..self.stream.clone() }, rows: PhantomData })
    }

    /// One row of `U` for each row.
    ///
    /// # Errors
    /// A `U` without a schema.
    pub fn map<U: Record>(&self, name: &str, version: u32, to: impl Fn(&T) -> U + Send + Sync + 'static) -> Result<Typed<U>> {
        let plan = typed::map(self.stream.plan.clone(), closure(name, version, to))?;
        Ok(Typed { stream: Stream { plan, ..self.stream.clone() }, rows: PhantomData })
    }

    /// Any number of rows of `U` for each row.
    ///
    /// # Errors
    /// A `U` without a schema.
    pub fn flat_map<U: Record>(&self, name: &str, version: u32, to: impl Fn(&T) -> Vec<U> + Send + Sync + 'static) -> Result<Typed<U>> {
        let plan = typed::flat_map(self.stream.plan.clone(), closure(name, version, to))?;
        Ok(Typed { stream: Stream { plan, ..self.stream.clone() }, rows: PhantomData })
    }

    /// Names the stream, as [`Stream::view`].
    ///
    /// # Errors
    /// As [`Stream::view`].
    pub fn view(&self, name: &str) -> Result<Stream> {
        self.stream.view(name)
    }

    /// The same rows as columns again.
    pub fn stream(&self) -> Stream {
        self.stream.clone()
    }
}
