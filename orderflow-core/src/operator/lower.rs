//! Plan nodes become [`Node`]s. Expects an optimised plan that was found streamable; what it does not know it refuses by name.

use super::map::Step;
use super::{Node, aggregate, closure, keep};
use crate::error::{Error, Result};
use crate::plan::{self, Input, InputKind};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::PhysicalExpr;
use std::collections::HashMap;
use std::sync::Arc;

/// Makes physical expressions over a schema.
pub type Physical<'a> = dyn Fn(&Expr, &DFSchema) -> Result<Arc<dyn PhysicalExpr>> + 'a;

/// Lowers plans over known tables.
pub struct Lowering<'a> {
    /// Number of a source or view in its pipeline.
    pub number: &'a dyn Fn(InputKind, &str) -> Option<usize>,
    /// Makes physical expressions.
    pub physical: &'a Physical<'a>,
}

impl Lowering<'_> {
    /// The node that computes `plan`, with the plan's column names.
    ///
    /// # Errors
    /// A plan node or expression that cannot be kept up to date.
    pub fn lower(&self, plan: &LogicalPlan) -> Result<Node> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Filter(filter) => {
                let input = self.lower(&filter.input)?;
                Ok(Step::Filter((self.physical)(&filter.predicate, filter.input.schema())?).after(input))
            }
            LogicalPlan::Projection(projection) => {
                let input = self.lower(&projection.input)?;
                let exprs = projection.expr.iter().map(|e| (self.physical)(e, projection.input.schema()));
                let exprs = exprs.collect::<Result<Vec<_>>>()?;
                let schema = typed(projection.schema.as_arrow(), &exprs, &input.schema())?;
                Ok(Step::Project(exprs, schema).after(input))
            }
            LogicalPlan::Aggregate(aggregate) => {
                let input = self.lower(&aggregate.input)?;
                let plan = aggregate::lower(aggregate, &input.schema(), self.physical)?;
                Ok(Node::Aggregate(Box::new(input), Arc::new(plan)))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.lower(input)?;
                let plan = keep::all_columns(&input.schema())?;
                Ok(Node::Aggregate(Box::new(input), Arc::new(plan)))
            }
            LogicalPlan::Union(union) => {
                let schema = plain(union.schema.as_arrow());
                let inputs = union.inputs.iter().map(|i| Ok(retyped(self.lower(i)?, &schema)));
                Ok(Node::Union(inputs.collect::<Result<_>>()?, schema))
            }
            LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row => Ok(Node::Union(vec![], plain(empty.schema.as_arrow()))),
            LogicalPlan::Extension(_) => self.extension(plan),
            other => Err(refused(other)),
        }
    }

    fn extension(&self, plan: &LogicalPlan) -> Result<Node> {
        if let Some(c) = plan::Closure::of(plan) {
            let input = self.lower(c.input())?;
            let closure =
                closure::Closure { name: c.name().into(), version: c.version(), schema: plan::schema(plan)?, f: c.function().clone() };
            return Ok(Node::Closure(Box::new(input), closure));
        }
        let Some(c) = plan::Custom::of(plan) else { return Err(refused(plan)) };
        let f = c.payload().downcast_ref::<Box<super::RawOperator>>();
        if f.is_none() {
            return Err(Error::internal("a raw operator without its function"));
        }
        let input = self.lower(c.input())?;
        let custom = closure::Custom { name: c.name().into(), schema: plan::schema(plan)?, payload: c.payload().clone() };
        Ok(Node::Custom(Box::new(input), custom))
    }

    fn scan(&self, scan: &TableScan) -> Result<Node> {
        let input = Input::of(scan).ok_or_else(|| Error::internal("a table that is no source and no view"))?;
        let (name, full) = (input.name(), input.columns());
        let number = (self.number)(input.kind(), name).ok_or_else(|| Error::user(format!("there is no source or view '{name}'")))?;
        let wanted: Vec<usize> = scan.projection.clone().unwrap_or_else(|| (0..full.fields().len()).collect());
        let mut read = wanted.clone();
        for column in scan.filters.iter().flat_map(|f| f.column_refs().into_iter().map(|c: &Column| c.name.clone()).collect::<Vec<_>>()) {
            let i = full.index_of(&column)?;
            if !read.contains(&i) {
                read.push(i);
            }
        }
        let node = |columns: Vec<usize>| -> Result<Node> {
            let schema = Arc::new(full.project(&columns)?);
            Ok(match input.kind() {
                InputKind::Source => Node::Source { source: number, columns, schema },
                InputKind::View => Node::View { view: number, columns, schema },
            })
        };
        let mut out = node(read.clone())?;
        if scan.filters.is_empty() {
            return Ok(out);
        }
        let schema = DFSchema::try_from_qualified_schema(TableReference::bare(name), &out.schema()).map_err(planning)?;
        for filter in &scan.filters {
            out = Step::Filter((self.physical)(filter, &schema)?).after(out);
        }
        if read != wanted {
            let columns = wanted.iter().map(|c| {
                let field = full.field(*c);
                let i = read.iter().position(|r| r == c).unwrap_or_default();
                Arc::new(datafusion::physical_expr::expressions::Column::new(field.name(), i)) as Arc<dyn PhysicalExpr>
            });
            out = Step::Project(columns.collect(), Arc::new(full.project(&wanted)?)).after(out);
        }
        Ok(out)
    }
}

fn planning(e: datafusion::error::DataFusionError) -> Error {
    Error::internal("DataFusion refused a schema of ours").caused_by(e)
}

fn refused(plan: &LogicalPlan) -> Error {
    Error::user(format!("'{}' cannot be kept up to date", plan.display()))
        .why("orderflow keeps SELECT with WHERE, GROUP BY, DISTINCT and UNION ALL up to date today")
        .hint("rewrite the query with these, or run it with query() over kept views")
}

/// The fields without metadata that DataFusion may have put there.
pub(super) fn plain(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_metadata(HashMap::new()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Names from the plan, types from the expressions themselves.
fn typed(schema: &Schema, exprs: &[Arc<dyn PhysicalExpr>], input: &SchemaRef) -> Result<SchemaRef> {
    let field = |(f, e): (&Arc<arrow::datatypes::Field>, &Arc<dyn PhysicalExpr>)| {
        let data_type = e.data_type(input).map_err(planning)?;
        let nullable = f.is_nullable() || e.nullable(input).map_err(planning)?;
        Ok(arrow::datatypes::Field::new(f.name(), data_type, nullable))
    };
    Ok(Arc::new(Schema::new(schema.fields().iter().zip(exprs).map(field).collect::<Result<Vec<_>>>()?)))
}

/// The same rows under the names and nullability of `schema`.
fn retyped(input: Node, schema: &SchemaRef) -> Node {
    if input.schema() == *schema {
        return input;
    }
    let from = input.schema();
    let column = |(i, f): (usize, &Arc<arrow::datatypes::Field>)| {
        let column = Arc::new(datafusion::physical_expr::expressions::Column::new(from.field(i).name(), i)) as Arc<dyn PhysicalExpr>;
        if from.field(i).data_type() == f.data_type() {
            column
        } else {
            Arc::new(datafusion::physical_expr::expressions::CastExpr::new(column, f.data_type().clone(), None)) as Arc<dyn PhysicalExpr>
        }
    };
    let exprs = schema.fields().iter().enumerate().map(column).collect();
    Step::Project(exprs, schema.clone()).after(input)
}
