//! Logical expressions become physical ones that never wrap.
//!
//! Invariant: `+`, `-`, `*` and negation of integers fail on overflow, casts fail on what does not fit; DataFusion's default is to wrap.

use super::{literal, place};
use crate::error::Result;
use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};

use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use std::sync::Arc;

/// `expr` over batches with the columns of `input`, in their order.
pub(super) fn physical(expr: &Expr, input: &DFSchema, options: &Arc<ConfigOptions>) -> Result<Arc<dyn PhysicalExpr>> {
    plan(expr, input, options).map_err(|e| place::error_without_text(&format!("cannot evaluate {expr}"), e))
}

fn plan(expr: &Expr, input: &DFSchema, options: &Arc<ConfigOptions>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    // an expression that comes out of the optimiser has its types already: then this changes nothing
    let context = SimplifyContext::builder().with_schema(Arc::new(input.clone())).build();
    let expr = ExprSimplifier::new(context).coerce(literal::expressions(expr.clone(), input)?.data, input)?;
    let props = ExecutionProps { config_options: Some(options.clone()), ..ExecutionProps::new() };
    let planned = create_physical_expr(&expr, input, &props, &PhysicalPlanningContext::default())?;
    let schema = input.as_arrow();
    Ok(planned.transform_up(|e| checked(e, schema))?.data)
}

fn checked(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Transformed<Arc<dyn PhysicalExpr>>, DataFusionError> {
    let minus = |left, right| Arc::new(BinaryExpr::new(left, Operator::Minus, right).with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>;
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
        && matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
    {
        return Ok(Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true))));
    }
    if let Some(negative) = expr.downcast_ref::<NegativeExpr>()
        && negative.arg().data_type(schema)?.is_integer()
    {
        let zero = Literal::new(ScalarValue::new_zero(&negative.arg().data_type(schema)?)?);
        return Ok(Transformed::yes(minus(Arc::new(zero), negative.arg().clone())));
    }
    Ok(Transformed::no(expr))
}
