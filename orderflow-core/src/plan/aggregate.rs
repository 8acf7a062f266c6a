//! An aggregate call, read out of a plan's expression.
//!
//! Invariant: what comes out here can be kept up to date under retractions and in any order of arrival; everything else is an
//! error that names the call. Floats are not summed, since their sum depends on the order; a sum of money is a sum of decimals.

use crate::error::{Error, Result};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable};

/// The aggregates that are kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aggregator {
    /// Rows, or rows whose argument is not null.
    Count,
    /// Different values of the argument that are not null.
    CountDistinct,
    /// Sum of integers or decimals.
    Sum,
    /// Sum divided by count.
    Avg,
    /// Least value that is not null.
    Min,
    /// Greatest value that is not null.
    Max,
}

/// One aggregate of an `Aggregate` node.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Which one.
    pub aggregator: Aggregator,
    /// Its argument; `None` only for a count of rows. An average of integers has the integer itself, not DataFusion's cast of it to
    /// a float, so that the sum stays exact.
    pub argument: Option<Expr>,
    /// Rows that do not pass are not seen by the aggregate.
    pub filter: Option<Expr>,
    /// Name, type and nullability of the result.
    pub result: FieldRef,
}

impl AggregateCall {
    /// Reads `expr`, one of the `aggr_expr` of an aggregate over `input`.
    ///
    /// # Errors
    /// An aggregate that cannot be kept up to date exactly, with the way around it.
    pub fn read(expr: &Expr, input: &DFSchema) -> Result<Self> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias_nested().data else {
            return Err(Error::internal(format!("{expr} is not an aggregate")));
        };
        if !params.order_by.is_empty() {
            return Err(refuse(expr, "ORDER BY inside an aggregate depends on an order that a stream does not keep", "leave it out"));
        }
        let name = func.name();
        let distinct = params.distinct;
        let aggregator = match (name, distinct) {
            ("count", false) => Aggregator::Count,
            ("count", true) => Aggregator::CountDistinct,
            ("sum", false) => Aggregator::Sum,
            ("avg", false) => Aggregator::Avg,
            ("min", _) => Aggregator::Min,
            ("max", _) => Aggregator::Max,
            ("sum" | "avg", true) => {
                let way = format!("take {name} over (SELECT DISTINCT …)");
                return Err(refuse(expr, "only count takes DISTINCT", &way));
            }
            _ if name.starts_with("approx_") => {
                let why = "an approximate aggregate cannot take rows back";
                return Err(refuse(expr, why, "count(DISTINCT …), min and max are exact"));
            }
            _ => {
                let why = format!("the aggregate {name} cannot be kept up to date yet");
                return Err(refuse(expr, &why, "there are count, count(DISTINCT …), sum, avg, min and max, each with FILTER"));
            }
        };
        let result = expr.to_field(input).map_err(|e| Error::user(format!("cannot plan {expr}")).why(e.strip_backtrace()))?.1;
        let argument = match <[Expr; 1]>::try_from(params.args) {
            Ok([argument]) => argument,
            Err(_) => return Err(refuse(expr, "an aggregate takes one argument", "concatenate or nest the arguments")),
        };
        let argument = match aggregator {
            Aggregator::Count if argument.nullable(input).is_ok_and(|n| !n) => None,
            Aggregator::Sum | Aggregator::Avg => Some(summable(expr, argument, input)?),
            _ => Some(argument),
        };
        Ok(Self { aggregator, argument, filter: params.filter.map(|f| *f), result })
    }
}

/// The argument of a sum or an average, if it can be summed exactly.
fn summable(call: &Expr, argument: Expr, input: &DFSchema) -> Result<Expr> {
    let type_of = |e: &Expr| e.get_type(input).map_err(|e| Error::user(format!("cannot plan {call}")).why(e.strip_backtrace()));
    let exact = |t: &DataType| t.is_integer() || t.is_decimal() || t.is_null();
    let found = type_of(&argument)?;
    if exact(&found) {
        return Ok(argument);
    }
    if let Expr::Cast(Cast { expr, field }) = &argument
        && matches!(call_name(call), Some("avg"))
        && field.data_type() == &DataType::Float64
        && type_of(expr)?.is_integer()
    {
        return Ok((**expr).clone());
    }
    if found.is_floating() {
        let way = format!("cast it to a decimal: CAST({argument} AS DECIMAL(18, 2))");
        return Err(refuse(call, "a sum of floats depends on the order of the rows", &way));
    }
    Err(refuse(call, &format!("{found} cannot be summed"), "sum and avg take integers and decimals"))
}

fn call_name(call: &Expr) -> Option<&str> {
    match call {
        Expr::Alias(alias) => call_name(&alias.expr),
        Expr::AggregateFunction(f) => Some(f.func.name()),
        _ => None,
    }
}

fn refuse(call: &Expr, why: &str, way: &str) -> Error {
    Error::user(format!("{} cannot be kept up to date", call.clone().unalias_nested().data)).why(why).hint(way)
}
