//! `LogicalPlan::Aggregate` becomes an [`Aggregate`].

use super::{Aggregate, Call, Func, Values};
use crate::error::{Error, Result};
use crate::operator::Physical;
use crate::plan::{AggregateCall, Aggregator};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Aggregate as Plan, Expr};
use std::sync::Arc;

/// Plans the groups and calls of `plan` over `input`.
///
/// # Errors
/// A call that cannot be kept up to date, or a key that cannot be compared.
pub fn lower(plan: &Plan, input: &SchemaRef, physical: &Physical<'_>) -> Result<Aggregate> {
    let schema = plan.input.schema();
    let keys = plan.group_expr.iter().map(|e| physical(unalias(e), schema)).collect::<Result<Vec<_>>>()?;
    let typed = |e: &Arc<dyn datafusion::physical_plan::PhysicalExpr>| {
        e.data_type(input).map_err(|e| Error::internal("a planned expression has no type").caused_by(e))
    };
    let key_types = keys.iter().map(typed).collect::<Result<Vec<_>>>()?;
    let mut out = Aggregate { keys, key_types, calls: vec![], schema: input.clone(), width: 1, values: vec![] };
    let fields = plan.schema.fields();
    for expr in &plan.aggr_expr {
        out.add(expr, schema, input, physical)?;
    }
    let field = |(i, f): (usize, &Arc<Field>)| {
        let data_type = out.key_types.get(i).cloned().unwrap_or_else(|| out.calls[i - out.keys.len()].out.clone());
        Field::new(f.name(), data_type, f.is_nullable())
    };
    out.schema = Arc::new(Schema::new(fields.iter().enumerate().map(field).collect::<Vec<_>>()));
    Ok(out)
}

fn unalias(e: &Expr) -> &Expr {
    match e {
        Expr::Alias(a) => unalias(&a.expr),
        e => e,
    }
}

impl Aggregate {
    fn add(&mut self, expr: &Expr, schema: &DFSchema, input: &SchemaRef, physical: &Physical<'_>) -> Result<()> {
        let call = AggregateCall::read(expr, schema)?;
        let arg = call.argument.as_ref().map(|e| physical(e, schema)).transpose()?;
        let data_type = arg.as_ref().map(|e| e.data_type(input)).transpose();
        let data_type = data_type.map_err(|e| Error::internal("a planned argument has no type").caused_by(e))?.unwrap_or(DataType::Null);
        let filter = call.filter.as_ref().map(|f| physical(f, schema)).transpose()?;
        let (next, out) = (self.values.len(), call.result.data_type().clone());
        let (func, descending) = match call.aggregator {
            Aggregator::Count => (Func::Count, None),
            Aggregator::CountDistinct => (Func::CountDistinct(next), Some(false)),
            Aggregator::Min => (Func::Min(next), Some(false)),
            Aggregator::Max => (Func::Max(next), Some(true)),
            Aggregator::Sum => (Func::Sum { wide: wide(&data_type)? }, None),
            Aggregator::Avg => (Func::Avg { wide: wide(&data_type)?, scale_up: scale_up(&data_type, &out)? }, None),
        };
        if let Some(descending) = descending {
            self.values.push(Values { data_type, descending, call: self.calls.len() });
        }
        let word = self.width;
        self.width += func.words(arg.is_some() || filter.is_some());
        self.calls.push(Call { func, arg, filter, word, out });
        Ok(())
    }
}

fn wide(t: &DataType) -> Result<bool> {
    match t {
        DataType::Decimal128(p, _) => Ok(*p > 18),
        t if t.is_integer() => Ok(false),
        t => Err(Error::user(format!("sum and avg of {t} cannot be kept exactly"))
            .why("floating-point sums depend on the order of addition")
            .hint("cast to DECIMAL first: sum(CAST(x AS DECIMAL(18, 6)))")),
    }
}

fn scale_up(arg: &DataType, result: &DataType) -> Result<u32> {
    match (arg, result) {
        (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => Ok(u32::try_from(to - from).unwrap_or_default()),
        (t, DataType::Float64) if t.is_integer() => Ok(0),
        (a, r) => Err(Error::user(format!("avg of {a} as {r} cannot be kept up to date")).hint("cast the argument to DECIMAL or BIGINT")),
    }
}
