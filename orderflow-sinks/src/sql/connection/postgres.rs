//! PostgreSQL.
//!
//! Invariant: a session that was left in a transaction by a process that vanished ends by itself, and its locks with it.

use super::{Answer, Connection, Failure, Server, adapter, of_the_client};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, Postgres};
use std::str::FromStr;

adapter!(PostgresAdapter, PgConnection, Postgres, classify);

pub(super) fn connect(url: &str) -> Answer<'static, Box<dyn Connection>> {
    let options = PgConnectOptions::from_str(url);
    Box::pin(async move {
        let options = options.map_err(|e| classify(&e))?.application_name("orderflow").disable_statement_logging();
        let connection = options.connect().await.map_err(|e| classify(&e))?;
        let mut open = PostgresAdapter { connection, server: Server { largest: 256 << 20, collation: "\"C\"" } };
        open.execute("SET idle_in_transaction_session_timeout = '180s'", vec![]).await?;
        Ok(Box::new(open) as Box<dyn Connection>)
    })
}

fn classify(e: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = e else { return of_the_client(e) };
    let code = database.code().unwrap_or_default().into_owned();
    let said = format!("{database} ({code})");
    match (code.get(..2).unwrap_or_default(), &*code) {
        // connections, resources, cancelled or shut down, deadlocks, locks, a server that only reads for now, internal
        ("08" | "53" | "57" | "58" | "40", _) | (_, "55P03" | "25006" | "25P03") => Failure::Passing(said),
        // data, constraints, limits of an index row, a trigger's RAISE
        ("22" | "23" | "54" | "44", _) | (_, "P0001") => Failure::Row(said),
        ("28", _) | (_, "3D000" | "42501") => Failure::Permanent(said, "check user, password, database and rights"),
        _ => Failure::Permanent(said, "the table must have the columns of the view: change it back, or write into a new one"),
    }
}
