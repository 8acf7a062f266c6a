//! A read of finished tables: here DataFusion does it all, ORDER BY, LIMIT and joins included.
//!
//! Invariant: a query reads; nothing that it says can change a table, write a file or define anything.

use super::functions::Function;
use super::{catalog, optimise, place, sql};
use crate::error::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast;
use std::sync::Arc;

/// The answer to `text` over `tables`, each a name, its columns and its rows. Must be awaited on a tokio runtime.
///
/// # Errors
/// Syntax, unknown names and wrong types, pointing at their place; what fails while the rows are computed.
pub async fn query<'f>(
    tables: Vec<(String, SchemaRef, Vec<RecordBatch>)>,
    functions: impl IntoIterator<Item = &'f Function>,
    text: &str,
) -> Result<Vec<RecordBatch>> {
    let parsed = sql::parse(text)?;
    let mut config = SessionConfig::from(catalog::options()).with_target_partitions(1).with_information_schema(false);
    config.options_mut().catalog.create_default_catalog_and_schema = true;
    let context = SessionContext::new_with_state(
        SessionStateBuilder::new().with_config(config).with_default_features().with_analyzer_rules(optimise::analysis()).build(),
    );
    for function in functions {
        context.register_udf(function.udf().as_ref().clone());
    }
    let names: Vec<String> = tables.iter().map(|(name, ..)| name.clone()).collect();
    let bad = |e: DataFusionError| Error::internal("cannot lay a table before DataFusion").caused_by(e);
    for (name, schema, batches) in tables {
        let table = MemTable::try_new(schema, vec![batches]).map_err(bad)?;
        context.register_table(TableReference::bare(name), Arc::new(table)).map_err(bad)?;
    }
    known(&parsed, text, &names)?;
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(parsed))));
    let plan = context.state().statement_to_plan(statement).await.map_err(|e| place::error(text, e))?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan).map_err(|e| place::error(text, e))?;
    let frame = context.execute_logical_plan(plan).await.map_err(|e| place::error(text, e))?;
    frame.collect().await.map_err(|e| Error::user(format!("the query `{}` failed", text.trim())).why(e.strip_backtrace()))
}

/// What a stream must have arrived at once its input is `tables`: the batch answer, for tests that compare.
///
/// # Errors
/// As [`query`].
pub async fn batch_answer(tables: Vec<(String, SchemaRef, Vec<RecordBatch>)>, text: &str) -> Result<Vec<RecordBatch>> {
    let ours = super::functions::ours();
    query(tables, &ours, text).await
}

/// Names of the tables that the query `text` reads, without those it defines itself.
///
/// # Errors
/// Syntax, and statements that are no query.
pub fn tables_of(text: &str) -> Result<Vec<String>> {
    references(&sql::parse(text)?, text).map(|found| found.iter().map(|t| t.table().to_string()).collect())
}

fn references(query: &ast::Query, text: &str) -> Result<Vec<TableReference>> {
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query.clone()))));
    resolve_table_references(&statement, true).map(|(tables, _)| tables).map_err(|e| place::error(text, e))
}

fn known(query: &ast::Query, text: &str, names: &[String]) -> Result<()> {
    for table in references(query, text)? {
        if !names.iter().any(|n| n == table.table()) {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(place::unknown_table(text, table.table(), &known));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::util::pretty::pretty_format_batches;

    fn totals() -> Vec<(String, SchemaRef, Vec<RecordBatch>)> {
        let fields = [("city", DataType::Utf8), ("qty", DataType::Int64), ("weight", DataType::Float64)];
        let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
        let city = StringArray::from(vec![Some("Mumbai"), Some("São Paulo"), None]);
        let (qty, weight) = (Int64Array::from(vec![3, 1, 2]), Float64Array::from(vec![0.5, 1e20, 2.5]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(city), Arc::new(qty), Arc::new(weight)]).unwrap();
        vec![("totals".into(), schema.clone(), vec![batch]), ("none".into(), schema, vec![])]
    }

    #[tokio::test]
    async fn a_query_may_sort_join_and_use_our_functions() {
        let text =
            "SELECT slug(a.city) AS s, a.qty FROM totals a JOIN totals b ON a.qty = b.qty WHERE a.weight > 0.25 ORDER BY a.qty LIMIT 2";
        let answer = batch_answer(totals(), text).await.unwrap();
        let expected =
            "+-----------+-----+\n| s         | qty |\n+-----------+-----+\n| s-o-paulo | 1   |\n|           | 2   |\n+-----------+-----+";
        assert_eq!(pretty_format_batches(&answer).unwrap().to_string(), expected);
        let empty = batch_answer(totals(), "SELECT count(*) AS n FROM none").await.unwrap();
        assert_eq!(pretty_format_batches(&empty).unwrap().to_string(), "+---+\n| n |\n+---+\n| 0 |\n+---+");
    }

    #[tokio::test]
    async fn a_query_only_reads_and_points_at_its_errors() {
        for (text, begins) in [
            ("SELECT citty FROM totals", "unknown column 'citty' at line 1, column 8\n"),
            ("SELECT city FROM totls", "unknown table 'totls' at line 1, column 18\n"),
            ("CREATE TABLE x AS SELECT 1", "CREATE is not possible here"),
            ("DELETE FROM totals", "DELETE is not possible here"),
            ("COPY totals TO 'x.csv'", "COPY is not possible here"),
            ("SET a = 1", "SET is not possible here"),
            ("SELECT 1 / (qty - 1) FROM totals", "the query `SELECT 1 / (qty - 1) FROM totals` failed: "),
        ] {
            let e = batch_answer(totals(), text).await.unwrap_err().to_string();
            assert!(e.starts_with(begins), "{text}: {e}");
        }
    }

    #[test]
    fn a_query_says_which_tables_it_reads() {
        let text = "WITH t AS (SELECT * FROM totals) SELECT * FROM t JOIN orders o USING (city) WHERE qty IN (SELECT qty FROM \"Other\")";
        assert_eq!(tables_of(text).unwrap(), ["Other", "orders", "totals"]);
        assert!(tables_of("SELECT 1").unwrap().is_empty());
        assert!(tables_of("DROP TABLE totals").is_err());
    }
}
