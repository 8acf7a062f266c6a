//! SQLite, whose C code is compiled in. Its connection has a thread of its own, made by the client library.
//!
//! Invariant: a lock that another process holds is waited for, then [`Failure::Passing`]; so is a full disk.

use super::{Answer, Connection, Failure, Server, adapter, of_the_client};
use sqlx::ConnectOptions;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection};
use std::str::FromStr;
use std::time::Duration;

/// How long a lock of another process is waited for.
const BUSY: Duration = Duration::from_secs(10);

adapter!(SqliteAdapter, SqliteConnection, Sqlite, classify);

pub(super) fn connect(url: &str) -> Answer<'static, Box<dyn Connection>> {
    let options = SqliteConnectOptions::from_str(url);
    Box::pin(async move {
        let options = options.map_err(|e| classify(&e))?.create_if_missing(true).busy_timeout(BUSY).disable_statement_logging();
        let connection = options.connect().await.map_err(|e| classify(&e))?;
        Ok(Box::new(SqliteAdapter { connection, server: Server { largest: 256 << 20, collation: "BINARY" } }) as Box<dyn Connection>)
    })
}

fn classify(e: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = e else { return of_the_client(e) };
    let said = database.to_string();
    let code = database.code().and_then(|c| c.parse::<i32>().ok()).unwrap_or_default();
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL, SCHEMA
        5..=7 | 9 | 10 | 13 | 15 | 17 => Failure::Passing(said),
        // TOOBIG, CONSTRAINT, MISMATCH
        18..=20 => Failure::Row(said),
        14 => Failure::Permanent(said, "the folder must exist and be writable"),
        8 | 23 => Failure::Permanent(said, "the file must be writable for this program"),
        11 | 26 => Failure::Permanent(said, "the file is damaged or no SQLite database: restore it, or name another one"),
        _ => Failure::Permanent(said, TABLE_HAS_CHANGED),
    }
}

const TABLE_HAS_CHANGED: &str = "the table must have the columns of the view: change it back, or write into a new one";
