//! What cannot be kept up to date, or would not come out the same when it is replayed, is refused here: what, why, what instead.
//!
//! Invariant: only the unoptimised plan is looked at. DataFusion freezes `now()` while it optimises and turns INTERSECT and
//! subqueries into joins, so afterwards the guilty one is out of sight.

use super::aggregate::AggregateCall;
use super::closure::{Closure, Custom};
use super::input::Input;
use crate::error::{Error, Result};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Volatility};

/// Refuses what `plan` asks for and a stream cannot give. `known` says whether an input belongs to the pipeline.
pub(super) fn check(plan: &LogicalPlan, known: &dyn Fn(&Input) -> bool) -> Result<()> {
    node(plan, known)?;
    let mut found = Ok(());
    let walked = plan.apply_expressions(|top| {
        found = clean(top);
        Ok(if found.is_err() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found?;
    walked.map_err(|e| Error::internal("cannot walk a plan").caused_by(e))?;
    plan.inputs().into_iter().try_for_each(|input| check(input, known))
}

fn refuse(what: &str, why: &str, hint: &str) -> Result<()> {
    Err(Error::user(format!("{what} cannot be kept up to date on a stream")).why(why).hint(hint))
}

fn node(plan: &LogicalPlan, known: &dyn Fn(&Input) -> bool) -> Result<()> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => Ok(()),
        LogicalPlan::Distinct(Distinct::All(_)) => Ok(()),
        LogicalPlan::Distinct(Distinct::On(_)) => refuse(
            "DISTINCT ON",
            "which row of a group stays depends on an order",
            "group by these columns and take min or max of the others",
        ),
        LogicalPlan::TableScan(scan) => match Input::of(scan) {
            Some(input) if known(input) => Ok(()),
            _ => Err(Error::user(format!("'{}' is no source or view of this pipeline", scan.table_name))
                .hint("declare it with source() or view() first")),
        },
        LogicalPlan::Aggregate(aggregate) => {
            if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
                return refuse(
                    "GROUPING SETS, CUBE and ROLLUP",
                    "there is no operator for them yet",
                    "make a view for each grouping and UNION ALL them",
                );
            }
            // the expressions inside come before the aggregates: random() in an argument is named as such
            aggregate.aggr_expr.iter().try_for_each(clean)?;
            aggregate.aggr_expr.iter().try_for_each(|e| AggregateCall::read(e, aggregate.input.schema()).map(drop))
        }
        LogicalPlan::Sort(_) => refuse("ORDER BY", "a view has no order: rows come and go one by one", SORT_LATER),
        LogicalPlan::Limit(_) => refuse("LIMIT and OFFSET", "which rows are the first changes with every row", SORT_LATER),
        LogicalPlan::Join(_) => refuse(
            "a join",
            "there is no operator for it yet",
            "aggregate and filter each side into a view of its own and join them in a query",
        ),
        LogicalPlan::Window(_) => refuse("a window function (OVER)", "there is no operator for it yet", "use GROUP BY and an aggregate"),
        LogicalPlan::RecursiveQuery(_) => refuse("WITH RECURSIVE", "there is no operator for it yet", "write the levels out as views"),
        LogicalPlan::Values(_) => refuse("VALUES", "constants are no stream", "send the rows through a memory source"),
        LogicalPlan::EmptyRelation(_) => refuse("SELECT without FROM", "constants are no stream", "name a source or a view after FROM"),
        LogicalPlan::Unnest(_) => refuse("UNNEST", "there is no operator for it yet", "use flat_map with a closure"),
        LogicalPlan::Subquery(_) => subquery(),
        LogicalPlan::Extension(_) if Closure::of(plan).is_some() || Custom::of(plan).is_some() => Ok(()),
        LogicalPlan::Extension(other) => {
            refuse(&format!("the operator {}", other.node.name()), "it is not one of ours", "wrap it with Custom::plan")
        }
        LogicalPlan::Repartition(_) => refuse("a repartition", "rows are spread over workers by their keys", "leave it out"),
        other => refuse(&kind(other), "it is no query", "a view is one SELECT"),
    }
}

const SORT_LATER: &str = "leave it out here and sort the view when you read it: query(\"SELECT … FROM view ORDER BY … LIMIT …\")";

fn subquery() -> Result<()> {
    refuse(
        "a subquery inside an expression",
        "it would be a join, and there is no operator for that yet",
        "make it a view and select from it",
    )
}

fn kind(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or_default().to_string()
}

/// Nothing inside `top` is refused.
fn clean(top: &Expr) -> Result<()> {
    let mut found = Ok(());
    let walked = top.apply(|expr| {
        found = expression(expr);
        Ok(if found.is_err() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found?;
    walked.map(drop).map_err(|e| Error::internal("cannot walk an expression").caused_by(e))
}

fn expression(expr: &Expr) -> Result<()> {
    match expr {
        Expr::ScalarFunction(call) => volatility(call.func.name(), call.func.signature().volatility),
        Expr::HigherOrderFunction(call) => volatility(call.func.name(), call.func.signature().volatility),
        Expr::WindowFunction(_) => refuse("a window function (OVER)", "there is no operator for it yet", "use GROUP BY and an aggregate"),
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) | Expr::OuterReferenceColumn(..) => {
            subquery()
        }
        Expr::Unnest(_) => refuse("UNNEST", "there is no operator for it yet", "use flat_map with a closure"),
        Expr::Placeholder(placeholder) => {
            Err(Error::user(format!("the parameter {} has no value", placeholder.id)).hint("write the value into the text"))
        }
        Expr::ScalarVariable(_, names) => {
            refuse(&format!("the variable {}", names.join(".")), "its value may change between two runs", "write the value into the text")
        }
        _ => Ok(()),
    }
}

fn volatility(name: &str, volatility: Volatility) -> Result<()> {
    match volatility {
        Volatility::Immutable => Ok(()),
        Volatility::Stable => Err(Error::user(format!("{name}() is not allowed here"))
            .why("the time of evaluation would change the answer when an epoch is replayed; it is allowed only as a temporal filter, which is not available yet")
            .hint("use the event-time column, or _timestamp, the record's own")),
        Volatility::Volatile => Err(Error::user(format!("{name}() is not allowed"))
            .why("it gives another answer every time, and a replayed epoch must give the same output again")
            .hint("derive the value from the row: from a key, or from _partition and _offset")),
    }
}
