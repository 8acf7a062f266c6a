//! Tables of SQLite, MySQL, MariaDB and PostgreSQL: rows and progress in one transaction, exactly once.
//!
//! ```no_run
//! use orderflow_sinks::Sql;
//!
//! // one row a group, replaced when it changes; the key is the view's GROUP BY
//! let current = Sql::upsert("sqlite:totals.db", "totals");
//! let same = Sql::upsert("postgres://shop:secret@db/shop", "totals").key(["city", "payment_type"]);
//! // every change, with the columns `diff` and `epoch`
//! let history = Sql::append("mysql://shop:secret@db/shop", "totals_log");
//! ```
//! A table that is not there is made, with types that hold every value as it is; decimals are text in SQLite, which has none. One that is
//! there needs the view's columns (and may have more), and with a key a unique index of exactly its columns. Beside it lies `orderflow_progress`, with a row for
//! each sink: pipeline, view and table name it. Who empties a table to begin again deletes its row as well.
//!
//! Invariant: what a transaction finds in the progress row, which it takes first and writes last, decides whether it may write at all; so an older
//! writer stops, and a commit whose answer was lost is neither lost nor done twice.

mod act;
mod connection;
mod dialect;
mod net;
mod place;
mod progress;
mod statement;
mod target;
#[cfg(all(test, feature = "sqlite"))]
mod tests;
mod values;
mod writer;

use connection::Connect;
use dialect::Kind;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::sink::{Column, Guarantee, Input, Opened, Progress, Sink, SinkContext, signed};
use orderflow_core::{Error, Result};
use place::Place;
use progress::ProgressRow;
use statement::Table;
use std::sync::{Arc, OnceLock};
use target::Target;
use writer::{Driver, SqlWriter};

/// A table as a sink: exactly once.
pub struct Sql {
    url: String,
    table: String,
    mode: Mode,
    /// The view's own key, once it was asked for.
    proven: OnceLock<Vec<String>>,
    /// Another way to the database: for tests.
    connector: Option<Arc<dyn Connect>>,
}

enum Mode {
    /// And whether a key was asked for all the same.
    Append {
        keyed: bool,
    },
    Upsert {
        key: Option<Vec<String>>,
        trusted: bool,
    },
}

impl Sql {
    /// One row for each key: replaced when it changes, deleted when it is withdrawn.
    ///
    /// `url` is `sqlite:FILE`, `mysql://USER:PASSWORD@HOST/DATABASE`, `mariadb://…` or `postgres://…`; `table` is its name, with `schema.` before it if
    /// need be. The key is what the view is grouped by, unless [`Sql::key`] says otherwise. A key may hold nulls, which are one value, as in GROUP BY.
    pub fn upsert(url: impl Into<String>, table: impl Into<String>) -> Self {
        Self::new(url.into(), table.into(), Mode::Upsert { key: None, trusted: false })
    }

    /// Every change as a row of its own, with the columns `diff` (+1 it appears, −1 it is withdrawn) and `epoch`; arguments as in [`Sql::upsert`].
    pub fn append(url: impl Into<String>, table: impl Into<String>) -> Self {
        Self::new(url.into(), table.into(), Mode::Append { keyed: false })
    }

    fn new(url: String, table: String, mode: Mode) -> Self {
        Self { url, table, mode, proven: OnceLock::new(), connector: None }
    }

    /// The columns of the key: those that the view is grouped by, and more if you like. Any others are refused.
    pub fn key(self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.keyed(columns, false)
    }

    /// As [`Sql::key`], on your word: for rows whose key no query can prove, such as `order_id` of a source.
    ///
    /// If two rows do have the same key, the later one is in the table, and none once one of them is withdrawn.
    pub fn trust_key(self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.keyed(columns, true)
    }

    fn keyed(mut self, columns: impl IntoIterator<Item = impl Into<String>>, trusted: bool) -> Self {
        self.mode = match self.mode {
            Mode::Append { .. } => Mode::Append { keyed: true },
            Mode::Upsert { .. } => Mode::Upsert { key: Some(columns.into_iter().map(Into::into).collect()), trusted },
        };
        self
    }

    #[cfg(test)]
    fn through(mut self, connector: Arc<dyn Connect>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// The key's names, for a view of which `proven` is known; none to append.
    fn key_for(&self, proven: Option<&Vec<String>>) -> Result<Vec<String>> {
        let (key, trusted) = match &self.mode {
            Mode::Append { keyed: false } => return Ok(vec![]),
            Mode::Append { keyed: true } => {
                return Err(Error::user("a table that is appended to has no key").hint("leave key() out, or say Sql::upsert(…)"));
            }
            Mode::Upsert { key, trusted } => (key, *trusted),
        };
        let unknown =
            |what: String| Error::user(what).why("no two rows of a table may share their key, and nothing proves that of these rows");
        let by_hand = "group by the key, or say trust_key([…]) if you know that it is unique";
        match (key, proven) {
            (Some(key), _) if key.is_empty() => Err(Error::user("a key needs a column").hint("name the columns, or leave key() out")),
            (Some(key), _) if trusted => Ok(key.clone()),
            (Some(key), Some(proven)) if proven.iter().all(|p| key.contains(p)) => Ok(key.clone()),
            (Some(key), Some(proven)) => Err(unknown(format!("({}) is not known to be a key of this view", key.join(", "))).hint(format!(
                "its key is ({}): name at least these columns, or say trust_key([…]) if you know better",
                proven.join(", ")
            ))),
            (Some(key), None) => Err(unknown(format!("({}) is not known to be a key of these rows", key.join(", "))).hint(by_hand)),
            (None, Some(proven)) if proven.is_empty() => Err(Error::user("this view has one row and no column to know it by")
                .hint("give it one: SELECT 'all' AS id, … and key([\"id\"])")),
            (None, Some(proven)) => Ok(proven.clone()),
            (None, None) => Err(unknown("these rows have no known key".to_owned()).hint(by_hand)),
        }
    }

    /// The table for rows of `input` with the key `key`, and its columns as Arrow has them.
    fn table(&self, place: &Place, input: &SchemaRef, key: &[String]) -> Result<(Table, SchemaRef)> {
        let schema = if matches!(self.mode, Mode::Append { .. }) { signed::schema(input)? } else { input.clone() };
        let column = |f: &Arc<orderflow_core::arrow::datatypes::Field>| {
            Ok(statement::Column { name: f.name().clone(), kind: Kind::of(f, place.dialect)?, nullable: f.is_nullable() })
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let number = |name: &String| {
            schema.fields().iter().position(|f| f.name() == name).ok_or_else(|| {
                let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::user(format!("the key's column '{name}' is no column of the view")).hint(format!("there are: {}", names.join(", ")))
            })
        };
        let key = key.iter().map(number).collect::<Result<Vec<_>>>()?;
        if let Some(twice) = (1..key.len()).find(|i| key[..*i].contains(&key[*i])) {
            return Err(Error::user(format!("the key names the column '{}' twice", schema.field(key[twice]).name())).hint("name it once"));
        }
        Ok((Table { dialect: place.dialect, name: self.table.clone(), columns, key }, schema))
    }
}

impl Sql {
    /// The table as the place of the sink, and what to say if it cannot be opened.
    fn target(&self, context: &SinkContext) -> Result<(Target, String)> {
        let place = Place::parse(&self.url)?;
        let key = match self.proven.get() {
            Some(key) => key.clone(),
            None => self.key_for(None)?,
        };
        let (table, schema) = self.table(&place, &context.schema, &key)?;
        let (pipeline, view, target) = (context.pipeline.clone(), context.view.clone(), self.table.clone());
        let progress = ProgressRow { dialect: place.dialect, pipeline, view, target };
        let doing = format!("cannot open the table {} in {place}", self.table);
        let connector = self.connector.clone().unwrap_or_else(|| Arc::new(place));
        Ok((Target { connector, table, progress, schema, view: context.view.clone() }, doing))
    }
}

impl Sink for Sql {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        let place = Place::parse(&self.url)?;
        connection::available(place.dialect)?;
        let key = self.key_for(input.key.as_ref())?;
        self.table(&place, &input.schema, &key)?;
        let _ = self.proven.set(key); // asked again, it is the same
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        Place::parse(&self.url).map_or("sql", |place| place.dialect.name())
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        let (target, doing) = self.target(context)?;
        Driver::new()?.run(target.look())?.map_err(|failure| failure.error(doing))
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let (target, doing) = self.target(&context)?;
        let target = Arc::new(target);
        let driver = Driver::new()?;
        let me = context.writer;
        let (connection, progress) = driver.run(target.open(me))?.map_err(|failure| failure.error(doing))?;
        let writer = SqlWriter::new(target, me, driver, connection, progress);
        Ok(Opened { writer: Box::new(writer), progress })
    }
}
