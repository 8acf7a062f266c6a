//! MySQL and MariaDB.
//!
//! Invariant: the session is strict, so a value that does not fit is an error and never cut; a session that was left behind by a process that
//! vanished ends by itself, and its locks with it.

use super::{Answer, Connection, Failure, Server, adapter, of_the_client};
use sqlx::ConnectOptions;
use sqlx::mysql::{MySql, MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use std::str::FromStr;

adapter!(MySqlAdapter, MySqlConnection, MySql, classify);

/// Strictness; and how many seconds a session lives of which nothing is heard.
const SESSION: &str = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE'), SESSION wait_timeout = 180";

pub(super) fn connect(url: &str) -> Answer<'static, Box<dyn Connection>> {
    // the client library knows one scheme, the servers are two
    let options = MySqlConnectOptions::from_str(&url.replacen("mariadb:", "mysql:", 1));
    Box::pin(async move {
        let options = options.map_err(|e| classify(&e))?.disable_statement_logging();
        let connection = options.connect().await.map_err(|e| classify(&e))?;
        let mut open = MySqlAdapter { connection, server: Server { largest: 1 << 20, collation: "utf8mb4_0900_bin" } };
        open.execute(SESSION, vec![]).await?;
        let about = open.rows("SELECT CAST(VERSION() AS CHAR), CAST(@@max_allowed_packet AS CHAR)", vec![]).await?;
        if let Some([Some(version), Some(packet)]) = about.first().map(Vec::as_slice) {
            open.server.largest = packet.parse().unwrap_or(open.server.largest);
            if version.to_ascii_lowercase().contains("mariadb") {
                open.server.collation = "utf8mb4_nopad_bin";
            }
        }
        Ok(Box::new(open) as Box<dyn Connection>)
    })
}

fn classify(e: &sqlx::Error) -> Failure {
    let sqlx::Error::Database(database) = e else { return of_the_client(e) };
    let said = database.to_string();
    let Some(mysql) = database.try_downcast_ref::<MySqlDatabaseError>() else { return Failure::Passing(said) };
    let class = mysql.code().map_or("", |c| c.get(..2).unwrap_or_default());
    match mysql.number() {
        // too many connections, going down, out of memory or disk, lost, killed, read only, lock waits, deadlocks
        1021
        | 1037
        | 1038
        | 1040
        | 1041
        | 1053
        | 1077
        | 1079
        | 1114
        | 1135
        | 1152
        | 1158..=1161
        | 1180
        | 1203
        | 1205
        | 1206
        | 1213
        | 1226
        | 1290
        | 1317
        | 1792
        | 1836
        | 1927
        | 3024
        | 3058 => Failure::Passing(said),
        1044 | 1045 | 1049 | 1142 | 1143 | 1227 | 1698 => Failure::Permanent(said, "check user, password, database and rights"),
        // a column of the table's own without a value: every row would be refused
        1364 => Failure::Permanent(said, "give the columns that are not the view's a default"),
        // out of range, cut off, a wrong value, a CHECK, a key that is too long
        1153 | 1264 | 1265 | 1366 | 1367 | 1406 | 1690 | 1071 | 3819 | 4025 => Failure::Row(said),
        // data, constraint, SIGNAL of a trigger
        _ if matches!(class, "22" | "23" | "45") => Failure::Row(said),
        _ if class == "08" => Failure::Passing(said),
        _ => Failure::Permanent(said, "the table must have the columns of the view: change it back, or write into a new one"),
    }
}
