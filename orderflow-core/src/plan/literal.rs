//! A number with a point is a decimal, so that money stays exact, unless it meets a float: then it is a float.
//!
//! Invariant: no float column is cast to a decimal only because a literal stands beside it. DataFusion would do that for
//! comparisons, CASE and COALESCE, and a large float would then fail to fit.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Turns decimal literals beside floats into floats, everywhere in a plan.
#[derive(Debug)]
pub(super) struct FloatLiterals;

impl AnalyzerRule for FloatLiterals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                expressions(expr, &schema)?.map_data(|expr| Ok(name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }

    fn name(&self) -> &str {
        "float_literals"
    }
}

/// The same for one expression over `schema`.
pub(super) fn expressions(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    expr.transform_up(|expr| {
        if matches!(expr, Expr::Alias(_) | Expr::Cast(_) | Expr::TryCast(_) | Expr::AggregateFunction(_) | Expr::WindowFunction(_)) {
            return Ok(Transformed::no(expr));
        }
        let mut beside_float = false;
        expr.apply_children(|child| {
            // a type that cannot be told yet is told by DataFusion's own coercion, with its error
            beside_float |= !matches!(child, Expr::Literal(..)) && child.get_type(schema).is_ok_and(|t| t.is_floating());
            Ok(TreeNodeRecursion::Continue)
        })?;
        if beside_float { expr.map_children(as_float) } else { Ok(Transformed::no(expr)) }
    })
}

fn as_float(expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::Literal(value, metadata) if value.data_type().is_decimal() => {
            Ok(Transformed::yes(Expr::Literal(value.cast_to(&DataType::Float64)?, metadata)))
        }
        Expr::Negative(inner) if matches!(*inner, Expr::Literal(..)) => {
            Ok(as_float(*inner)?.update_data(|inner| Expr::Negative(Box::new(inner))))
        }
        other => Ok(Transformed::no(other)),
    }
}
