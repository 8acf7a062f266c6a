//! A table of a database as the place of one sink: found or made, checked, and won.
//!
//! Invariant: whose it is comes first: a table that another state wrote is neither changed nor fenced. No table is made or changed inside a
//! transaction. A table that is there must store the view's columns exactly and, with a key, have it as a unique index.

use super::connection::{Connect, Connection, Failure, Value};
use super::dialect::{Dialect, Kind};
use super::progress::{Opening, ProgressRow, at_opening};
use super::statement::Table;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::bug::{Bug, planted};
use orderflow_core::sink::{Progress, WriterId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that does not change while a sink is open.
pub(super) struct Target {
    pub(super) connector: Arc<dyn Connect>,
    pub(super) table: Table,
    pub(super) progress: ProgressRow,
    /// Columns of the table, as Arrow has them.
    pub(super) schema: SchemaRef,
    pub(super) view: Arc<str>,
}

/// A column of a table that is there.
struct Found {
    name: String,
    declared: String,
    collation: Option<String>,
    /// Whether the database numbers it by itself.
    numbered: bool,
}

impl Target {
    /// Wins the table for `me`; gives what it holds.
    pub(super) async fn open(&self, me: WriterId) -> Result<(Box<dyn Connection>, Option<Progress>), Failure> {
        let mut connection = self.connector.connect().await?;
        let link = connection.as_mut();
        let row = &self.progress;
        let rows = ProgressRow::table(row.dialect);
        self.make(link, &rows).await?;
        let seen = row.read(link, false).await?;
        if let Opening::Foreign(progress) = at_opening(seen, me)? {
            return Ok((connection, Some(progress)));
        }
        self.make(link, &self.table).await?;
        self.check(link).await?;
        row.make(link).await?;
        link.execute(row.dialect.begin(), vec![]).await?;
        // an older writer may have committed since it was seen
        let said = if planted(Bug::ReadBeforeFence) { Ok(seen) } else { row.read(link, true).await };
        let opening = match said.and_then(|said| at_opening(said, me)) {
            Ok(opening) => opening,
            Err(failure) => {
                let _ = link.execute("ROLLBACK", vec![]).await; // the connection is let go of anyway
                return Err(failure);
            }
        };
        let progress = match opening {
            Opening::Foreign(progress) => {
                link.execute("ROLLBACK", vec![]).await?;
                Some(progress)
            }
            Opening::Ours(progress) => {
                row.own(link, me).await?;
                link.execute("COMMIT", vec![]).await?;
                progress
            }
        };
        Ok((connection, progress))
    }

    /// What the table holds, as its row says now; nothing is made or locked.
    pub(super) async fn look(&self) -> Result<Option<Progress>, Failure> {
        let mut connection = self.connector.connect().await?;
        let link = connection.as_mut();
        if columns(link, &ProgressRow::table(self.progress.dialect)).await?.is_empty() {
            return Ok(None);
        }
        Ok(self.progress.read(link, false).await?.progress)
    }

    /// Makes a table that is not there. Who may not make tables can still use those that are.
    async fn make(&self, connection: &mut dyn Connection, table: &Table) -> Result<(), Failure> {
        if !columns(connection, table).await?.is_empty() {
            return Ok(());
        }
        let create = table.create(connection.server().collation);
        match connection.execute(&create, vec![]).await {
            // another process made it at the same moment
            Err(Failure::Row(_)) => connection.execute(&create, vec![]).await,
            other => other,
        }
    }

    async fn check(&self, connection: &mut dyn Connection) -> Result<(), Failure> {
        let (table, dialect) = (&self.table, self.table.dialect);
        if dialect == Dialect::MySql && !is_transactional(connection, table).await? {
            return Err(Failure::Permanent("it is no table with transactions".into(), "ALTER TABLE … ENGINE = InnoDB"));
        }
        let found = columns(connection, table).await?;
        for (i, column) in table.columns.iter().enumerate() {
            let Some(there) = found.iter().find(|f| dialect.same_name(&f.name, &column.name)) else {
                return Err(Failure::Permanent(
                    format!("the table has no column '{}'", column.name),
                    "add it, or write into a table that is not there yet: it is made with the right columns",
                ));
            };
            if !dialect.holds(&there.declared, column.kind) {
                let wanted = dialect.column_type(column.kind, table.key.contains(&i), connection.server().collation);
                return Err(Failure::Permanent(
                    format!("column '{}' is {}, which does not hold the view's values exactly: {wanted} does", column.name, there.declared),
                    "change the column's type, or write into a table that is not there yet",
                ));
            }
            let collation = there.collation.as_deref().unwrap_or_default();
            let folds = dialect == Dialect::MySql && !(collation.ends_with("nopad_bin") || collation.ends_with("0900_bin"));
            if table.key.contains(&i) && column.kind == Kind::Text && folds {
                return Err(Failure::Permanent(
                    format!("column '{}' of the key has the collation {collation}, which takes different texts for the same", column.name),
                    "give it the collation utf8mb4_nopad_bin (MariaDB) or utf8mb4_0900_bin (MySQL)",
                ));
            }
        }
        if table.key.is_empty() { Ok(()) } else { self.check_key(connection, &found).await }
    }

    async fn check_key(&self, connection: &mut dyn Connection, found: &[Found]) -> Result<(), Failure> {
        let (table, dialect) = (&self.table, self.table.dialect);
        let is_key = |name: &Option<String>| {
            let names = table.key.iter().map(|k| &table.columns[*k].name);
            name.as_ref().is_some_and(|name| names.into_iter().any(|k| dialect.same_name(k, name)))
        };
        let indices = unique_indices(connection, table).await?;
        let covers = |index: &Vec<Option<String>>| index.iter().filter(|c| is_key(c)).count() == table.key.len();
        if !indices.iter().any(|index| index.len() == table.key.len() && covers(index)) {
            return Err(Failure::Permanent(
                "the table has no unique index of exactly the key's columns".into(),
                "make one: CREATE UNIQUE INDEX … ON the table (the key's columns)",
            ));
        }
        // MySQL replaces the row that any unique index finds: it must be the one of the key
        let numbered =
            |name: &Option<String>| found.iter().any(|f| f.numbered && name.as_ref().is_some_and(|n| dialect.same_name(&f.name, n)));
        let other = indices.iter().find(|index| !covers(index) && !index.iter().any(numbered));
        match other.filter(|_| dialect == Dialect::MySql) {
            Some(_) => Err(Failure::Permanent(
                "the table has a second unique index, by which another row would be replaced".into(),
                "drop that index, or let a query copy the rows into that table",
            )),
            None => Ok(()),
        }
    }
}

/// Schema, if it is said, and name.
fn parts(table: &Table) -> (Option<&str>, &str) {
    table.name.rsplit_once('.').map_or((None, &*table.name), |(schema, name)| (Some(schema), name))
}

/// The values that the catalogue queries of `dialect` bind.
fn which(table: &Table) -> Vec<Value> {
    let (schema, name) = parts(table);
    match table.dialect {
        Dialect::Postgres => vec![Value::text(table.dialect.table(&table.name))],
        Dialect::MySql => vec![Value::Text(schema.map(str::to_owned)), Value::text(name)],
        Dialect::Sqlite => vec![Value::text(name), Value::text(schema.unwrap_or("main"))],
    }
}

async fn columns(connection: &mut dyn Connection, table: &Table) -> Result<Vec<Found>, Failure> {
    let sql = match table.dialect {
        Dialect::Sqlite => "SELECT name, type, NULL, NULL FROM pragma_table_info(?, ?)",
        Dialect::MySql => {
            "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), CAST(collation_name AS CHAR), CAST(extra AS CHAR) \
             FROM information_schema.columns WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ? ORDER BY ordinal_position"
        }
        Dialect::Postgres => {
            "SELECT attname::text, format_type(atttypid, atttypmod)::text, NULL::text, NULL::text FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        }
    };
    let rows = connection.rows(sql, which(table)).await?;
    let found = rows.into_iter().filter_map(|row| {
        let [name, declared, collation, extra] = <[_; 4]>::try_from(row).ok()?;
        let numbered = extra.is_some_and(|e| e.to_ascii_lowercase().contains("auto_increment"));
        Some(Found { name: name?, declared: declared.unwrap_or_default(), collation, numbered })
    });
    Ok(found.collect())
}

/// The columns of every unique index that holds for all rows; `None` stands for an expression, or a part of a column.
async fn unique_indices(connection: &mut dyn Connection, table: &Table) -> Result<Vec<Vec<Option<String>>>, Failure> {
    let sql = match table.dialect {
        // the rowid under its name is a key without an index
        Dialect::Sqlite => {
            "SELECT l.name, CASE x.coll WHEN 'BINARY' THEN x.name END FROM pragma_index_list(?1, ?2) l, pragma_index_xinfo(l.name, ?2) x \
             WHERE l.\"unique\" = 1 AND l.partial = 0 AND x.key = 1 \
             UNION ALL SELECT '', name FROM pragma_table_info(?1, ?2) WHERE pk > 0 AND upper(type) = 'INTEGER' \
             AND (SELECT count(*) FROM pragma_table_info(?1, ?2) WHERE pk > 0) = 1"
        }
        Dialect::MySql => {
            "SELECT CAST(index_name AS CHAR), CASE WHEN sub_part IS NULL THEN CAST(column_name AS CHAR) END FROM information_schema.statistics \
             WHERE non_unique = 0 AND table_schema = COALESCE(?, DATABASE()) AND table_name = ? ORDER BY index_name, seq_in_index"
        }
        Dialect::Postgres => {
            "SELECT i.indexrelid::text, a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) \
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0 WHERE i.indrelid = to_regclass($1) \
             AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND k.n <= i.indnkeyatts ORDER BY 1, k.n"
        }
    };
    let mut indices: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for row in connection.rows(sql, which(table)).await? {
        if let Ok([index, column]) = <[_; 2]>::try_from(row) {
            indices.entry(index.unwrap_or_default()).or_default().push(column);
        }
    }
    Ok(indices.into_values().collect())
}

async fn is_transactional(connection: &mut dyn Connection, table: &Table) -> Result<bool, Failure> {
    let sql = "SELECT CAST(e.transactions AS CHAR) FROM information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine \
               WHERE t.table_schema = COALESCE(?, DATABASE()) AND t.table_name = ?";
    let rows = connection.rows(sql, which(table)).await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()).is_some_and(|yes| yes.eq_ignore_ascii_case("yes")))
}
