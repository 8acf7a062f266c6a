//! The sink against databases: SQLite in a file always, MySQL, MariaDB and PostgreSQL where `ORDERFLOW_MYSQL` and `ORDERFLOW_POSTGRES` name one.
//!
//! Invariant: what is in a table is read by plain queries on a connection of its own.

mod faults;
mod golden;
mod pipeline;
mod planted;
mod refusals;
mod rows;

use super::Sql;
use super::connection::{Connect, Connection, Failure, Value};
use super::dialect::Dialect;
use super::place::Place;
use super::writer::Driver;
use orderflow_core::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::data::{Changes, Rejected};
use orderflow_core::error::Retry;
use orderflow_core::sink::{Closed, Input, Opened, Progress, Refused, Sink, SinkContext, Writer};
use orderflow_core::testing::conformance::context;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long the database may take in a test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database.
struct Db {
    url: String,
    place: Place,
    driver: Driver,
    /// Logging in takes longer than a query.
    connection: RefCell<Option<Box<dyn Connection>>>,
    _dir: Option<TempDir>,
}

impl Db {
    fn at(url: String, dir: Option<TempDir>) -> Self {
        Db { place: Place::parse(&url).unwrap(), url, driver: Driver::new().unwrap(), connection: RefCell::default(), _dir: dir }
    }

    fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(format!("sqlite:{}", dir.path().join("test.db").display()), Some(dir))
    }

    /// Those that the environment names.
    fn real() -> Vec<Self> {
        let urls = ["ORDERFLOW_MYSQL", "ORDERFLOW_POSTGRES"].into_iter().filter_map(|name| std::env::var(name).ok());
        urls.map(|url| Self::at(url, None)).collect()
    }

    /// One without any table, where that costs nothing: then making the tables is a part of what goes wrong.
    fn fresh(&self) -> Option<Self> {
        (self.dialect() == Dialect::Sqlite).then(Self::sqlite)
    }

    fn dialect(&self) -> Dialect {
        self.place.dialect
    }

    /// A name that no table has.
    fn table(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        format!("t{}_{now:x}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn execute(&self, sql: &str) {
        self.run(sql, async |connection| connection.execute(sql, vec![]).await);
    }

    fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.run(sql, async |connection| connection.rows(sql, vec![]).await)
    }

    fn run<T>(&self, sql: &str, call: impl AsyncFnOnce(&mut dyn Connection) -> Result<T, Failure>) -> T {
        let mut connection = self.connection.take();
        let answer = self.driver.run(async {
            if connection.is_none() {
                connection = Some(self.place.connect().await?);
            }
            call(connection.as_mut().unwrap().as_mut()).await
        });
        self.connection.replace(connection);
        answer.unwrap().unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    /// The columns of all rows of `table` as text, in the order of the text, `-` for null.
    fn read(&self, table: &str, columns: &[&str]) -> Vec<String> {
        let (list, table) = (self.list(columns), self.dialect().table(table));
        let row = |row: Vec<Option<String>>| row.into_iter().map(|c| c.unwrap_or("-".into())).collect::<Vec<_>>().join(" ");
        let mut rows: Vec<String> = self.rows(&format!("SELECT {list} FROM {table}")).into_iter().map(row).collect();
        rows.sort();
        rows
    }

    fn list(&self, columns: &[&str]) -> String {
        columns.iter().map(|c| self.dialect().text(&self.dialect().quote(c))).collect::<Vec<_>>().join(", ")
    }

    fn upsert(&self, table: &str, key: &[&str]) -> Sql {
        Sql::upsert(&self.url, table).trust_key(key.iter().copied())
    }

    fn append(&self, table: &str) -> Sql {
        Sql::append(&self.url, table)
    }
}

/// Makes a test of each function for SQLite, and one for the real databases.
macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::$name(&super::Db::sqlite());
            })*
        }
        mod real_databases {
            $(#[test]
            fn $name() {
                super::Db::real().iter().for_each(super::$name);
            })*
        }
    };
}
use everywhere;

/// `k` and `v`, either of which may be null, and `name`.
fn schema() -> SchemaRef {
    let fields = [("k", DataType::Int64), ("v", DataType::Int64), ("name", DataType::Utf8)];
    Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()))
}

/// An epoch of rows `(k, v, diff)`; the name is made of the value.
fn closed(epoch: u64, rows: &[(Option<i64>, i64, i64)]) -> Closed {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| format!("n{}", r.1)))),
    ];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    Closed { epoch: Epoch(epoch), changes: vec![Changes::signed(batch, rows.iter().map(|r| r.2).collect())] }
}

fn open_as(sink: Sql, generation: u64, target: &str) -> Result<Opened> {
    // each test has progress rows of its own, whatever its tables are called
    let context = SinkContext { pipeline: target.into(), ..context(1, generation, &schema()) };
    sink.columns(&Input::from(schema())).unwrap();
    Box::new(sink).open(context)
}

fn open(sink: Sql, generation: u64) -> Box<dyn Writer> {
    open_as(sink, generation, "test").unwrap().writer
}

/// Polls until everything up to `epoch` is out, through passing failures; gives the rows that were refused.
fn commit(writer: &mut dyn Writer, epoch: u64) -> Result<Vec<Rejected>> {
    let mut refused = vec![];
    writer.flush()?;
    for _ in 0..1000 {
        match writer.poll(PATIENCE) {
            Ok(answer) => {
                refused.extend(answer.refused.into_iter().flat_map(Refused::bind));
                if answer.progress.is_some_and(|p: Progress| p.epoch.0 >= epoch) {
                    return Ok(refused);
                }
            }
            Err(e) if e.retry() == Retry::Backoff => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::internal("it never came out"))
}

/// What a closure of [`Db::read`] would show for a map of keys and values.
fn shown<'a>(rows: impl IntoIterator<Item = (&'a Option<i64>, &'a i64)>) -> Vec<String> {
    let row = |(k, v): (&Option<i64>, &i64)| format!("{} {v} n{v}", k.map_or("-".into(), |k| k.to_string()));
    let mut rows: Vec<_> = rows.into_iter().map(row).collect();
    rows.sort();
    rows
}
