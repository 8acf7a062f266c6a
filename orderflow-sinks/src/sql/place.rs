//! Where a database is: its URL, and what of it may be shown.
//!
//! Invariant: what is displayed holds neither a password nor a parameter of the URL; nothing else of this room prints a URL.

use super::dialect::Dialect;
use orderflow_core::{Error, Result};
use std::fmt;

/// A database's URL, parsed as far as it concerns us.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dialect: Dialect,
    url: String,
    shown: String,
}

impl Place {
    /// Parses `sqlite:PATH`, `mysql://…`, `mariadb://…`, `postgres://…` or `postgresql://…`.
    ///
    /// # Errors
    /// Another scheme, or a SQLite database in memory.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        let dialect = match scheme {
            "sqlite" => Dialect::Sqlite,
            "mysql" | "mariadb" => Dialect::MySql,
            "postgres" | "postgresql" => Dialect::Postgres,
            _ => {
                return Err(Error::user("this is no URL of a database that orderflow can write to")
                    .why(if scheme.is_empty() { "it has no scheme".to_owned() } else { format!("its scheme is '{scheme}'") })
                    .hint("write sqlite:FILE, mysql://USER:PASSWORD@HOST/DATABASE or postgres://USER:PASSWORD@HOST/DATABASE"));
            }
        };
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if dialect == Dialect::Sqlite && (path.contains(":memory:") || parameters.contains("mode=memory")) {
            return Err(Error::user("a SQLite database in memory cannot be a sink")
                .why("it is gone with its connection, and so is the progress in it")
                .hint("name a file: sqlite:totals.db"));
        }
        let shown = match dialect {
            Dialect::Sqlite => path.to_owned(),
            // a password with an @ of its own must not show its end: everything up to the last one goes
            _ => match rest.trim_start_matches('/').rsplit_once('@') {
                Some((login, at)) => {
                    format!("//{}@{}", login.split(':').next().unwrap_or_default(), at.split('?').next().unwrap_or_default())
                }
                None => path.to_owned(),
            },
        };
        Ok(Self { dialect, url: url.to_owned(), shown: format!("{scheme}:{shown}") })
    }

    /// The whole URL, for the client library only.
    pub(super) fn secret(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("sqlite:out/totals.db", "sqlite:out/totals.db"),
            ("sqlite://out/totals.db?mode=rwc", "sqlite://out/totals.db"),
            ("mysql://shop:s3cret@db:3306/shop", "mysql://shop@db:3306/shop"),
            ("mariadb://shop:s3cret@db/shop?ssl-mode=required&password=s3cret", "mariadb://shop@db/shop"),
            ("postgres://shop:s3c@ret@db/shop", "postgres://shop@db/shop"),
            ("postgres://shop:s3c?ret@db/shop", "postgres://shop@db/shop"),
            ("postgresql://db/shop?password=s3cret", "postgresql://db/shop"),
        ] {
            assert_eq!(Place::parse(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_database_is_refused_with_a_hint_and_without_the_url() {
        for url in ["oracle://shop:s3cret@db/shop", "s3cret", "sqlite::memory:", "sqlite://x?mode=memory"] {
            let e = Place::parse(url).err().unwrap();
            assert!(e.remedy().is_some() && !e.to_string().contains("s3cret"), "{e}");
        }
    }
}
