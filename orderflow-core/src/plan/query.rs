//! A read of finished tables: here DataFusion does it all, ORDER BY, LIMIT and joins included.
//!
//! Invariant: a query reads; nothing that it says can change a table, write a file or define anything.

use super::functions::Function;
use super::{catalog, place, sql};
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
    let context = SessionContext::new_with_state(SessionStateBuilder::new().with_config(config).with_default_features().build());
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
