//! The optimiser, with the rules that are right on a stream.
//!
//! Invariant: the optimised plan gives the same changes as the plan it was made from, holds only the nodes that the lowering
//! knows, and no rule sees into or past one of our own nodes. Left out are the rules for what [`streamable`](super::streamable)
//! refuses (joins, subqueries, limits), those that make other nodes of what the lowering does itself (DISTINCT, count(DISTINCT)),
//! and those that make an empty relation, which never learns that its input goes on.

use super::closure::{Closure, Custom};
use super::literal::FloatLiterals;
use super::{physical, place};
use crate::error::{Error, Result};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, Extension, LogicalPlan, Operator, UserDefinedLogicalNodeCore};
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, AnalyzerRule, Optimizer, OptimizerContext};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Types, then rules, once for each stretch between our own nodes.
pub(super) fn optimise(plan: LogicalPlan, options: &Arc<ConfigOptions>) -> Result<LogicalPlan> {
    let sealed = plan.transform_down(|node| seal(node, options)).map_err(planning)?.data;
    let typed = Analyzer::with_rules(analysis()).execute_and_check(sealed, options, |_, _| {}).map_err(planning)?;
    constants_fit(&typed, options)?;
    let context = OptimizerContext::new_with_config_options(options.clone()).without_query_execution_start_time();
    let optimised = Optimizer::with_rules(vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(EliminateGroupByConstant::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ])
    .optimize(typed, &context, |_, _| {})
    .map_err(planning)?;
    let plan = optimised.transform_up(unseal).map_err(planning)?.data;
    lowerable(&plan)?;
    Ok(plan)
}

/// How types are settled, here and in queries over finished tables.
pub(super) fn analysis() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![Arc::new(ResolveGroupingFunction::new()), Arc::new(FloatLiterals), Arc::new(TypeCoercion::new())]
}

/// Errors of ours travel through DataFusion's tree walks and come out as they went in.
fn planning(e: DataFusionError) -> Error {
    place::error_without_text("this cannot be planned", e)
}

/// One of our own nodes, as a leaf that the rules cannot look behind.
#[derive(Clone)]
struct Sealed {
    plan: Arc<LogicalPlan>,
    schema: DFSchemaRef,
}

fn seal(plan: LogicalPlan, options: &Arc<ConfigOptions>) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    if !matches!(plan, LogicalPlan::Extension(_)) {
        return Ok(Transformed::no(plan));
    }
    let optimised = |input: LogicalPlan| optimise(input, options).map(Transformed::yes).map_err(|e| DataFusionError::External(Box::new(e)));
    let plan = plan.map_children(optimised)?.data;
    let sealed = Sealed { schema: plan.schema().clone(), plan: Arc::new(plan) };
    Ok(Transformed::new(LogicalPlan::Extension(Extension { node: Arc::new(sealed) }), true, TreeNodeRecursion::Jump))
}

fn unseal(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    match &plan {
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Sealed>() {
            Some(sealed) => Ok(Transformed::yes(LogicalPlan::clone(&sealed.plan))),
            None => Ok(Transformed::no(plan)),
        },
        // what is always true is no filter; what is never true stays one, so that its input still moves time on
        LogicalPlan::Filter(filter) if matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) => {
            Ok(Transformed::yes(LogicalPlan::clone(&filter.input)))
        }
        _ => Ok(Transformed::no(plan)),
    }
}

/// DataFusion folds constants with arithmetic that wraps; here they are computed with arithmetic that does not.
fn constants_fit(plan: &LogicalPlan, options: &Arc<ConfigOptions>) -> Result<()> {
    let nothing = DFSchema::empty();
    let one_row =
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &RecordBatchOptions::new().with_row_count(Some(1)))?;
    let visit = |expr: &Expr| {
        let arithmetic = matches!(
            expr,
            Expr::Negative(_) | Expr::BinaryExpr(BinaryExpr { op: Operator::Plus | Operator::Minus | Operator::Multiply, .. })
        );
        if !arithmetic || expr.any_column_refs() {
            return Ok(TreeNodeRecursion::Continue);
        }
        // what has no constant value (an aggregate, a lambda's variable) is not planned here and not folded there
        if let Ok(constant) = physical::physical(expr, &nothing, options)
            && let Err(e) = constant.evaluate(&one_row)
        {
            let e = Error::user(format!("the constant {expr} has no value"))
                .why(e.strip_backtrace())
                .hint("write a smaller one, or cast to DECIMAL");
            return Err(DataFusionError::External(Box::new(e)));
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(|node| node.apply_expressions(|top| top.apply(visit))).map(drop).map_err(planning)
}

fn lowerable(plan: &LogicalPlan) -> Result<()> {
    match plan {
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Distinct(Distinct::All(_))
        | LogicalPlan::Union(_)
        | LogicalPlan::SubqueryAlias(_) => {}
        LogicalPlan::Extension(_) if Closure::of(plan).is_some() || Custom::of(plan).is_some() => {}
        other => return Err(Error::internal(format!("an optimised plan holds {}", other.display()))),
    }
    plan.inputs().into_iter().try_for_each(lowerable)
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed: {}", self.plan.display())
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.plan == other.plan
    }
}

impl Eq for Sealed {}

impl PartialOrd for Sealed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.plan.partial_cmp(&other.plan)
    }
}

impl Hash for Sealed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.plan.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for Sealed {
    fn name(&self) -> &str {
        "Sealed"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self, DataFusionError> {
        Ok(self.clone())
    }
}
