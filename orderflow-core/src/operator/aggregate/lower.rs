//! `LogicalPlan::Aggregate` becomes an [`Aggregate`].

use super::{Aggregate, Call, Func, Values};
use crate::error::{Error, Result};
use crate::operator::lower::Physical;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate as Plan, Cast, Expr, TryCast};
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
    for (i, expr) in plan.aggr_expr.iter().enumerate() {
        let Expr::AggregateFunction(call) = unalias(expr) else {
            return Err(Error::user(format!("'{expr}' is not an aggregate that can be kept up to date")));
        };
        let result = fields[plan.group_expr.len() + i].data_type();
        out.add(call, result, schema, input, physical)?;
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
    fn add(
        &mut self,
        call: &AggregateFunction,
        result: &DataType,
        schema: &datafusion::common::DFSchema,
        input: &SchemaRef,
        physical: &Physical<'_>,
    ) -> Result<()> {
        let refuse = |why: &str, hint: &str| Err(Error::user(format!("{} cannot be kept up to date", call.func.name())).why(why).hint(hint));
        let params = &call.params;
        if !params.order_by.is_empty() {
            return refuse("ORDER BY inside an aggregate depends on arrival", "leave ORDER BY out");
        }
        let arg = match params.args.as_slice() {
            [] => None,
            [Expr::Literal(value, _)] if !value.is_null() => None,
            [arg] => Some(arg),
            _ => return refuse("it has more than one argument", "count one expression, for example concat(a, b)"),
        };
        let name = call.func.name();
        // the mean of integers is planned over floats; it is kept over the integers themselves, exactly
        let arg = arg.map(|e| if name == "avg" { exact(e, schema) } else { e });
        let arg = arg.map(|e| physical(e, schema)).transpose()?;
        let data_type = arg.as_ref().map(|e| e.data_type(input)).transpose();
        let data_type = data_type.map_err(|e| Error::internal("a planned argument has no type").caused_by(e))?;
        let filter = params.filter.as_ref().map(|f| physical(f, schema)).transpose()?;
        let next = self.values.len();
        let (func, values) = match (name, params.distinct, data_type) {
            ("count", false, _) => (Func::Count, None),
            ("count", true, Some(t)) => (Func::CountDistinct(next), Some((t, false))),
            ("min", _, Some(t)) => (Func::Min(next), Some((t, false))),
            ("max", _, Some(t)) => (Func::Max(next), Some((t, true))),
            ("sum", false, Some(t)) => (Func::Sum { wide: wide(&t)? }, None),
            ("avg", false, Some(t)) => (Func::Avg { wide: wide(&t)?, scale_up: scale_up(&t, result)? }, None),
            ("sum" | "avg", true, _) => return refuse("DISTINCT is kept for count only", "aggregate over SELECT DISTINCT … instead"),
            ("sum" | "avg" | "min" | "max" | "count", _, None) => {
                return refuse("its argument is a constant", "count(*) counts rows; multiply it for the rest");
            }
            _ => return refuse("it is not one of count, sum, avg, min, max", "use these, or compute it with query() over a kept view"),
        };
        if let Some((data_type, descending)) = values {
            self.values.push(Values { data_type, descending, call: self.calls.len() });
        }
        let word = self.width;
        self.width += func.words(arg.is_some() || filter.is_some());
        self.calls.push(Call { func, arg, filter, word, out: result.clone() });
        Ok(())
    }
}

/// The argument below a cast to float, if it is a number that adds up exactly.
fn exact<'a>(e: &'a Expr, schema: &datafusion::common::DFSchema) -> &'a Expr {
    use datafusion::logical_expr::ExprSchemable;
    let (Expr::Cast(Cast { expr: inner, field, .. }) | Expr::TryCast(TryCast { expr: inner, field, .. })) = e else { return e };
    match inner.get_type(schema) {
        Ok(t) if field.data_type().is_floating() && (t.is_integer() || matches!(t, DataType::Decimal128(..))) => inner,
        _ => e,
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
