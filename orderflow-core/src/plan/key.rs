//! The key of a plan: columns that no two of its rows share, where the plan itself proves it.
//!
//! ```text
//!   GROUP BY g…     g…                     projection        every column of the key, under its new name; else none
//!   DISTINCT        its input's, or all    WHERE, alias      its input's
//!   view            that of its own plan   all else          none
//! ```
//! Invariant: what is named here holds for every input and at every epoch; equal is what GROUP BY takes for equal, null with null
//! included. A key without a column means one row at most (an aggregate without GROUP BY).

use super::input::{Input, InputKind};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

/// Names of the columns of `plan` that no two rows share; `None` where nothing is proven. `of_view` gives the key of a view by its name.
pub fn key(plan: &LogicalPlan, of_view: &dyn Fn(&str) -> Option<Vec<String>>) -> Option<Vec<String>> {
    let columns = columns(plan, of_view)?;
    Some(columns.into_iter().map(|i| plan.schema().field(i).name().clone()).collect())
}

fn columns(plan: &LogicalPlan, of_view: &dyn Fn(&str) -> Option<Vec<String>>) -> Option<Vec<usize>> {
    match plan {
        LogicalPlan::Filter(filter) => columns(&filter.input, of_view),
        LogicalPlan::SubqueryAlias(alias) => columns(&alias.input, of_view),
        LogicalPlan::Aggregate(aggregate) => {
            let sets = aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
            (!sets).then(|| (0..aggregate.group_expr.len()).collect())
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            columns(input, of_view).or_else(|| Some((0..input.schema().fields().len()).collect()))
        }
        LogicalPlan::Projection(projection) => {
            let from = projection.input.schema();
            let under_its_name = |key| projection.expr.iter().position(|e| plain(e, from) == Some(key));
            columns(&projection.input, of_view)?.into_iter().map(under_its_name).collect()
        }
        LogicalPlan::TableScan(scan) => {
            let input = Input::of(scan).filter(|input| input.kind() == InputKind::View)?;
            let names = of_view(input.name())?;
            names.iter().map(|name| scan.projected_schema.index_of_column_by_name(None, name)).collect()
        }
        _ => None,
    }
}

/// The column that `expr` hands on as it is.
fn plain(expr: &Expr, from: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr, from),
        Expr::Column(column) => from.maybe_index_of_column(column),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Catalog;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn key_of(sql: &str) -> Option<String> {
        let mut catalog = Catalog::new();
        let field = |n: &str, t| Field::new(n, t, true);
        let orders = vec![field("id", DataType::Int64), field("city", DataType::Utf8), field("qty", DataType::Int64)];
        catalog.add_source("orders", Arc::new(Schema::new(orders)), vec![]).unwrap();
        let totals = vec![field("n", DataType::Int64), field("city", DataType::Utf8)];
        catalog.add_view("totals", Arc::new(Schema::new(totals.clone()))).unwrap();
        catalog.add_view("loose", Arc::new(Schema::new(totals))).unwrap();
        let plan = catalog.sql(sql).unwrap();
        catalog.check(&plan).unwrap();
        key(&plan, &|view| (view == "totals").then(|| vec!["city".to_owned()])).map(|names| names.join(" "))
    }

    #[test]
    fn a_key_is_followed_from_the_group_to_the_top_and_given_up_where_it_is_lost() {
        for (sql, expected) in [
            ("SELECT city, count(*) AS n FROM orders GROUP BY city", Some("city")),
            ("SELECT count(*) AS n, city AS town, id FROM orders GROUP BY id, city", Some("id town")),
            ("SELECT upper(city) AS city, count(*) AS n FROM orders GROUP BY upper(city)", Some("city")),
            (
                "SELECT t.town FROM (SELECT city AS town, count(*) AS n FROM orders GROUP BY city HAVING count(*) > 1) AS t WHERE t.n < 9",
                Some("town"),
            ),
            ("WITH t AS (SELECT city, sum(qty) AS q FROM orders GROUP BY city) SELECT q, city FROM t", Some("city")),
            ("SELECT city, city AS again, max(id) AS id FROM orders GROUP BY city", Some("city")),
            ("SELECT DISTINCT city, qty FROM orders", Some("city qty")),
            ("SELECT DISTINCT city, n FROM (SELECT city, count(*) AS n FROM orders GROUP BY city)", Some("city")),
            ("SELECT DISTINCT n FROM (SELECT city, count(*) AS n FROM orders GROUP BY city)", Some("n")),
            ("SELECT * FROM totals", Some("city")),
            ("SELECT city AS c, n + 1 AS n FROM totals WHERE n > 3", Some("c")),
            ("SELECT count(*) AS n FROM orders", Some("")),
            // lost, or never there
            ("SELECT n FROM totals", None),
            ("SELECT upper(city) AS city, n FROM totals", None),
            ("SELECT * FROM loose", None),
            ("SELECT * FROM orders", None),
            ("SELECT count(*) AS n, id FROM orders GROUP BY id, city", None),
            ("SELECT city FROM totals UNION ALL SELECT city FROM totals", None),
        ] {
            assert_eq!(key_of(sql).as_deref(), expected, "{sql}");
        }
    }
}
