//! A connection to a database, as little of it as a sink needs: run a statement, read rows as text, and say what went wrong.
//!
//! Invariant: every failure is one of three, and only the database's own codes decide which. After a [`Failure::Passing`] the connection is not used
//! again, since nobody knows what became of its transaction; no call waits longer than [`PATIENCE`].

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use super::dialect::Dialect;
use super::place::Place;
use orderflow_core::{Error, Result};
use std::pin::Pin;
use std::time::Duration;

/// How long one statement may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a new connection may take.
const CONNECTING: Duration = Duration::from_secs(15);

/// What a call gives, later.
pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A value that is bound to a statement; its variant is its type also where it is null.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(Option<bool>),
    Int(Option<i64>),
    Float(Option<f64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Value::Text(Some(text.into()))
    }

    /// About how many bytes it takes in a statement.
    pub(super) fn size(&self) -> usize {
        match self {
            Value::Text(Some(text)) => text.len() + 9,
            Value::Bytes(Some(bytes)) => bytes.len() + 9,
            _ => 9,
        }
    }
}

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The database cannot be reached, is not able just now, or did not answer: whether it did it is unknown.
    Passing(String),
    /// It will never take one of these rows.
    Row(String),
    /// The same call fails until somebody changes something; with the remedy.
    Permanent(String, &'static str),
}

impl Failure {
    /// As the library's error.
    pub(super) fn error(self, doing: impl Into<String>) -> Error {
        match self {
            Failure::Passing(why) => Error::external(doing).why(why).hint("it is tried again until the database answers"),
            Failure::Row(why) => Error::external(doing).why(why).permanent(),
            Failure::Permanent(why, hint) => Error::user(doing).why(why).hint(hint),
        }
    }
}

/// What a server is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// Most bytes that one statement may have.
    pub(super) largest: usize,
    /// The collation that takes two texts for one only if their bytes are the same.
    pub(super) collation: &'static str,
}

/// An open connection.
pub(super) trait Connection: Send {
    fn server(&self) -> Server;

    /// Runs one statement.
    fn execute<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, ()>;

    /// Runs one query all of whose columns are text.
    fn rows<'a>(&'a mut self, sql: &'a str, values: Vec<Value>) -> Answer<'a, Vec<Vec<Option<String>>>>;

    /// Says goodbye.
    fn close(self: Box<Self>) -> Answer<'static, ()>;
}

/// Makes connections to one database.
pub(super) trait Connect: Send + Sync {
    fn connect(&self) -> Answer<'_, Box<dyn Connection>>;
}

impl Connect for Place {
    fn connect(&self) -> Answer<'_, Box<dyn Connection>> {
        let opening = match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => sqlite::connect(self.secret()),
            #[cfg(feature = "mysql")]
            Dialect::MySql => mysql::connect(self.secret()),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => postgres::connect(self.secret()),
            #[allow(unreachable_patterns, reason = "which databases are compiled in depends on the features")]
            _ => return Box::pin(async { Err(not_compiled_in()) }),
        };
        #[allow(unreachable_code, reason = "as above")]
        Box::pin(async move { tokio::time::timeout(CONNECTING, opening).await.unwrap_or_else(|_| Err(no_answer(CONNECTING))) })
    }
}

/// Whether this build can talk to such a database.
///
/// # Errors
/// It cannot, with the feature that is missing.
pub(super) fn available(dialect: Dialect) -> Result<()> {
    let compiled_in = match dialect {
        Dialect::Sqlite => cfg!(feature = "sqlite"),
        Dialect::MySql => cfg!(feature = "mysql"),
        Dialect::Postgres => cfg!(feature = "postgres"),
    };
    if compiled_in {
        return Ok(());
    }
    Err(Error::user(format!("this program was built without {}", dialect.name()))
        .hint(format!("build it with the feature '{}' of orderflow", dialect.name())))
}

fn not_compiled_in() -> Failure {
    Failure::Permanent("this program was built without this database".into(), "build it with the database's feature of orderflow")
}

fn no_answer(after: Duration) -> Failure {
    Failure::Passing(format!("the database gave no answer within {} s", after.as_secs()))
}

/// What the client library says without the database having said anything.
fn of_the_client(e: &sqlx::Error) -> Failure {
    match e {
        sqlx::Error::Configuration(_) => Failure::Permanent(e.to_string(), "correct the URL of the database"),
        sqlx::Error::Tls(_) => {
            Failure::Permanent(e.to_string(), "this build speaks no TLS: allow connections without it, over a safe network")
        }
        sqlx::Error::Encode(_) => Failure::Row(e.to_string()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            Failure::Permanent(e.to_string(), "this is a bug in orderflow: please report it with this message")
        }
        _ => Failure::Passing(e.to_string()),
    }
}

/// Makes a [`Connection`] of a client library's own, whose type is known here: its traits are not made to be generic over.
#[allow(unused_macros, reason = "it is used by the databases that are compiled in")]
macro_rules! adapter {
    ($name:ident, $connection:ty, $database:ty, $classify:path) => {
        pub(super) struct $name {
            connection: $connection,
            server: $crate::sql::connection::Server,
        }

        impl $name {
            fn query(
                sql: &str,
                values: Vec<$crate::sql::connection::Value>,
            ) -> sqlx::query::Query<'static, $database, <$database as sqlx::Database>::Arguments> {
                use $crate::sql::connection::Value;
                let mut query = sqlx::query::<$database>(sqlx::AssertSqlSafe(sql));
                for value in values {
                    query = match value {
                        Value::Bool(v) => query.bind(v),
                        Value::Int(v) => query.bind(v),
                        Value::Float(v) => query.bind(v),
                        Value::Text(v) => query.bind(v),
                        Value::Bytes(v) => query.bind(v),
                    };
                }
                query
            }
        }

        impl $crate::sql::connection::Connection for $name {
            fn server(&self) -> $crate::sql::connection::Server {
                self.server
            }

            fn execute<'a>(
                &'a mut self,
                sql: &'a str,
                values: Vec<$crate::sql::connection::Value>,
            ) -> $crate::sql::connection::Answer<'a, ()> {
                Box::pin($crate::sql::connection::in_time(
                    async move {
                        if values.is_empty() {
                            // not every statement can be prepared: transactions cannot
                            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.connection).await.map(drop)
                        } else {
                            Self::query(sql, values).execute(&mut self.connection).await.map(drop)
                        }
                    },
                    $classify,
                ))
            }

            fn rows<'a>(
                &'a mut self,
                sql: &'a str,
                values: Vec<$crate::sql::connection::Value>,
            ) -> $crate::sql::connection::Answer<'a, Vec<Vec<Option<String>>>> {
                use sqlx::Row;
                Box::pin($crate::sql::connection::in_time(
                    async move {
                        let rows = Self::query(sql, values).fetch_all(&mut self.connection).await?;
                        rows.iter().map(|row| (0..row.len()).map(|i| row.try_get::<Option<String>, usize>(i)).collect()).collect()
                    },
                    $classify,
                ))
            }

            fn close(self: Box<Self>) -> $crate::sql::connection::Answer<'static, ()> {
                Box::pin($crate::sql::connection::in_time(sqlx::Connection::close(self.connection), $classify))
            }
        }
    };
}
#[allow(unused_imports, reason = "as above")]
use adapter;

/// What `call` gives within [`PATIENCE`].
#[allow(dead_code, reason = "as above")]
async fn in_time<T>(call: impl Future<Output = Result<T, sqlx::Error>>, classify: fn(&sqlx::Error) -> Failure) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|e| classify(&e)),
        Err(_) => Err(no_answer(PATIENCE)),
    }
}
