//! Our optimiser against DataFusion's own: on random rows an optimised plan of ours gives the rows that DataFusion gives for the text.

use super::tests::tier;
use super::*;
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::{Distinct, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use std::sync::Arc;

const QUERIES: &[&str] = &[
    "SELECT * FROM orders",
    "SELECT city, kind, count(*) AS n, sum(qty * price) AS amount FROM orders GROUP BY city, kind",
    "SELECT city, sum(qty) FILTER (WHERE price > 1.5) AS s, count(DISTINCT kind) AS k, min(weight) AS w, max(DISTINCT qty) AS m FROM orders GROUP BY city HAVING count(*) > 1",
    "SELECT n, count(*) AS cities, min(total) AS least FROM (SELECT city, count(*) AS n, sum(price) AS total FROM orders WHERE qty <> 2 GROUP BY city) t WHERE n > 1 GROUP BY n",
    "SELECT DISTINCT city, upper(kind) AS k FROM orders WHERE weight > 0.5 OR weight IS NULL",
    "SELECT city FROM orders UNION SELECT kind FROM orders UNION ALL SELECT slug(city) FROM orders WHERE qty IN (1, 3)",
    "WITH a AS (SELECT city, qty + 1 AS q FROM orders), b AS (SELECT city, q * 2 AS q FROM a WHERE q > 1) SELECT q, count(*) AS n FROM b WHERE city LIKE 'a%' GROUP BY q",
    "SELECT CASE WHEN qty > 1 THEN price * 1.18 ELSE price END AS gross, coalesce(weight, 0.25) AS w FROM orders WHERE NOT (city = 'a' AND kind IS NOT NULL)",
    "SELECT city, 'x' AS x, city || 'y' AS y, avg(price) AS a FROM orders GROUP BY city, 'x', city || 'y'",
    "SELECT count(*) AS n, sum(qty) AS s FROM orders WHERE 1 = 2",
    "SELECT o.city, o.qty * o.qty + o.qty * o.qty AS twice FROM (SELECT * FROM orders WHERE true) AS o WHERE o.qty BETWEEN 1 AND 3",
    "SELECT city FROM orders WHERE weight BETWEEN 0.25 AND 1.25 AND city = city",
];

type Row = (Option<u8>, Option<u8>, Option<i64>, Option<i128>, Option<i8>);

fn schema() -> SchemaRef {
    let columns = [
        ("city", DataType::Utf8),
        ("kind", DataType::Utf8),
        ("qty", DataType::Int64),
        ("price", DataType::Decimal128(18, 2)),
        ("weight", DataType::Float64),
    ];
    Arc::new(Schema::new(columns.map(|(name, t)| Field::new(name, t, true)).to_vec()))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let text = |pick: fn(&Row) -> Option<u8>| {
        rows.iter().map(|r| pick(r).map(|c| ["a", "ab", "B c", ""][usize::from(c) % 4])).collect::<StringArray>()
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(text(|r| r.0)),
        Arc::new(text(|r| r.1)),
        Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.3).collect::<Decimal128Array>().with_precision_and_scale(18, 2).unwrap()),
        Arc::new(rows.iter().map(|r| r.4.map(|w| f64::from(w) / 4.0)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// All rows as sorted bytes.
fn bag(batches: &[RecordBatch]) -> Vec<Vec<u8>> {
    let Some(first) = batches.first() else { return Vec::new() };
    let fields = first.schema().fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let converter = RowConverter::new(fields).unwrap();
    let mut rows: Vec<Vec<u8>> = batches
        .iter()
        .flat_map(|b| converter.convert_columns(b.columns()).unwrap().iter().map(|r| r.data().to_vec()).collect::<Vec<_>>())
        .collect();
    rows.sort();
    rows
}

/// Runs an optimised plan as it is: only scans are bound to rows and DISTINCT written as its GROUP BY, for DataFusion has no other.
async fn run(plan: LogicalPlan, rows: &RecordBatch) -> Vec<RecordBatch> {
    let table = provider_as_source(Arc::new(MemTable::try_new(schema(), vec![vec![rows.clone()]]).unwrap()));
    let bound = plan.transform_up(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            scan.source = table.clone();
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let all = input.schema().columns().into_iter().map(datafusion::logical_expr::Expr::Column).collect::<Vec<_>>();
            LogicalPlanBuilder::from(input).aggregate(all, Vec::<datafusion::logical_expr::Expr>::new())?.build().map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    });
    let state = SessionContext::new().state();
    let physical = state.query_planner().create_physical_plan(&bound.unwrap().data, &state).await.unwrap();
    collect(physical, SessionContext::new().task_ctx()).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: tier::of(24, 48, 1_000), ..ProptestConfig::default() })]
    #[test]
    fn an_optimised_plan_answers_as_datafusion_does(
        rows in prop::collection::vec(
            (prop::option::of(0..4_u8), prop::option::of(0..4_u8), prop::option::of(-2..5_i64), prop::option::of(-300..300_i128), prop::option::of(-4..9_i8)),
            0..30,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rows = batch(&rows);
        let mut catalog = Catalog::new();
        catalog.add_source("orders", schema(), crate::source::meta::fields()).unwrap();
        for text in QUERIES {
            let plan = catalog.sql(text).unwrap();
            catalog.check(&plan).unwrap();
            let (names, plan) = (super::schema(&plan).unwrap(), catalog.optimise(plan).unwrap());
            let ours = runtime.block_on(run(plan.clone(), &rows));
            let theirs = runtime.block_on(batch_answer(vec![("orders".into(), schema(), vec![rows.clone()])], text)).unwrap();
            prop_assert_eq!(bag(&ours), bag(&theirs), "{}\n{}", text, plan.display_indent());
            let optimised = super::schema(&plan).unwrap();
            let shape = |s: &SchemaRef| s.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>();
            prop_assert_eq!(shape(&optimised), shape(&names), "{}", text);
        }
    }
}
