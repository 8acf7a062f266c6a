//! What the databases say differently: names, types, placeholders, locks.
//!
//! | Arrow | SQLite | MySQL, MariaDB | PostgreSQL |
//! |---|---|---|---|
//! | integers | BIGINT | BIGINT | BIGINT |
//! | UInt64, decimals | TEXT, every digit | DECIMAL(p, s) | NUMERIC(p, s) |
//! | floats | DOUBLE | DOUBLE | DOUBLE PRECISION |
//! | text | TEXT | LONGTEXT; in a key VARCHAR(255), compared byte by byte | TEXT |
//! | binary | BLOB | LONGBLOB; in a key VARBINARY(255) | BYTEA |
//! | boolean | BOOLEAN (0, 1) | BOOLEAN | BOOLEAN |
//! | date, time | TEXT, ISO 8601 | DATE, TIME(6) | DATE, TIME |
//! | timestamp | TEXT, ISO 8601, UTC | DATETIME(6), UTC | TIMESTAMP; with a zone TIMESTAMPTZ |
//!
//! Invariant: a value is stored as it is or refused; a type that would round it, or compare two keys as one that are two, is not used.

use orderflow_core::arrow::datatypes::{DataType, Field, TimeUnit};
use orderflow_core::{Error, Result};

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    MySql,
    Postgres,
}

/// What a column holds, as far as databases tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Float,
    /// Precision and scale.
    Decimal(u8, u8),
    Text,
    Bytes,
    Date,
    /// Digits of a second, at most 6 where the database has no more.
    Time(u8),
    /// Digits of a second, and whether it is a point on the world's time line.
    Timestamp(u8, bool),
}

impl Kind {
    /// The kind of a column.
    ///
    /// # Errors
    /// A type that the database has no exact place for.
    pub(super) fn of(field: &Field, dialect: Dialect) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::user(format!("column '{}' of type {} cannot be written to a table", field.name(), field.data_type()))
                .why(why)
                .hint("cast the column in the query"))
        };
        let digits = |unit: &TimeUnit| match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        };
        Ok(match field.data_type() {
            DataType::Boolean => Kind::Bool,
            DataType::UInt64 => Kind::Decimal(20, 0),
            t if t.is_integer() => Kind::Int,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Float,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
                match u8::try_from(*s) {
                    Ok(s) if dialect != Dialect::MySql || (*p <= 65 && s <= 30) => Kind::Decimal(*p, s),
                    Ok(_) => return refuse("DECIMAL has 65 digits there, 30 of them behind the point"),
                    Err(_) => return refuse("databases have no negative scale"),
                }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Kind::Bytes,
            DataType::Date32 | DataType::Date64 => Kind::Date,
            DataType::Time32(unit) | DataType::Time64(unit) => Kind::Time(digits(unit)),
            DataType::Timestamp(unit, zone) => Kind::Timestamp(digits(unit), zone.is_some()),
            _ => return refuse("a column of a table is a number, text, bytes, a boolean, a date or a time"),
        })
    }
}

impl Dialect {
    pub(super) fn name(self) -> &'static str {
        match self {
            Dialect::Sqlite => "sqlite",
            Dialect::MySql => "mysql",
            Dialect::Postgres => "postgres",
        }
    }

    /// A name that may be anything.
    pub(super) fn quote(self, name: &str) -> String {
        match self {
            Dialect::MySql => format!("`{}`", name.replace('`', "``")),
            _ => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A table's name, `schema.table` or `table`.
    pub(super) fn table(self, name: &str) -> String {
        name.split('.').map(|part| self.quote(part)).collect::<Vec<_>>().join(".")
    }

    /// Whether two names are one to the database.
    pub(super) fn same_name(self, a: &str, b: &str) -> bool {
        if self == Dialect::Postgres { a == b } else { a.eq_ignore_ascii_case(b) }
    }

    /// The place of bound value number `n`, counted from 1. PostgreSQL is given as text what has no type of its own in the client.
    pub(super) fn placeholder(self, n: usize, kind: Kind) -> String {
        if self != Dialect::Postgres {
            return "?".to_owned();
        }
        match kind {
            Kind::Decimal(..) => format!("CAST(${n} AS NUMERIC)"),
            Kind::Date => format!("CAST(${n} AS DATE)"),
            Kind::Time(_) => format!("CAST(${n} AS TIME)"),
            Kind::Timestamp(_, false) => format!("CAST(${n} AS TIMESTAMP)"),
            Kind::Timestamp(_, true) => format!("CAST(${n} AS TIMESTAMPTZ)"),
            Kind::Bool | Kind::Int | Kind::Float | Kind::Text | Kind::Bytes => format!("${n}"),
        }
    }

    /// As [`Dialect::placeholder`], to be compared with a column. MySQL compares a number with a text as floats, which takes two for one.
    pub(super) fn comparand(self, n: usize, kind: Kind) -> String {
        match (self, kind) {
            (Dialect::MySql, Kind::Decimal(p, s)) => format!("CAST(? AS DECIMAL({p}, {s}))"),
            (Dialect::MySql, Kind::Date) => "CAST(? AS DATE)".to_owned(),
            (Dialect::MySql, Kind::Time(_)) => "CAST(? AS TIME(6))".to_owned(),
            (Dialect::MySql, Kind::Timestamp(..)) => "CAST(? AS DATETIME(6))".to_owned(),
            _ => self.placeholder(n, kind),
        }
    }

    /// The type of a column that we make. `collation` is the one that compares bytes and nothing else.
    pub(super) fn column_type(self, kind: Kind, key: bool, collation: &str) -> String {
        let text = match (self, kind) {
            (_, Kind::Bool) => "BOOLEAN",
            (_, Kind::Int) => "BIGINT",
            (Dialect::Postgres, Kind::Float) => "DOUBLE PRECISION",
            (_, Kind::Float) => "DOUBLE",
            (Dialect::MySql, Kind::Decimal(p, s)) => return format!("DECIMAL({p}, {s})"),
            (Dialect::Postgres, Kind::Decimal(p, s)) => return format!("NUMERIC({p}, {s})"),
            (Dialect::MySql, Kind::Text) if key => return format!("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation}"),
            (Dialect::MySql, Kind::Text) => "LONGTEXT CHARACTER SET utf8mb4",
            (Dialect::MySql, Kind::Bytes) if key => "VARBINARY(255)",
            (Dialect::MySql, Kind::Bytes) => "LONGBLOB",
            (Dialect::Postgres, Kind::Bytes) => "BYTEA",
            (Dialect::Sqlite, Kind::Bytes) => "BLOB",
            (Dialect::MySql | Dialect::Postgres, Kind::Date) => "DATE",
            (Dialect::MySql, Kind::Time(_)) => "TIME(6)",
            (Dialect::Postgres, Kind::Time(_)) => "TIME",
            (Dialect::MySql, Kind::Timestamp(..)) => "DATETIME(6)",
            (Dialect::Postgres, Kind::Timestamp(_, false)) => "TIMESTAMP",
            (Dialect::Postgres, Kind::Timestamp(_, true)) => "TIMESTAMPTZ",
            (Dialect::Postgres, Kind::Text)
            | (Dialect::Sqlite, Kind::Text | Kind::Decimal(..) | Kind::Date | Kind::Time(_) | Kind::Timestamp(..)) => "TEXT",
        };
        text.to_owned()
    }

    /// Whether a column of type `declared`, as the database prints it, stores values of `kind` exactly.
    pub(super) fn holds(self, declared: &str, kind: Kind) -> bool {
        let declared = declared.to_ascii_lowercase();
        let (base, numbers) =
            declared.split_once('(').map_or((&*declared, ""), |(b, rest)| (b, rest.split(')').next().unwrap_or_default()));
        let base = base.trim_end_matches(" unsigned").trim();
        let number = |i: usize| numbers.split(',').nth(i).and_then(|n| n.trim().parse::<u8>().ok());
        let is = |names: &[&str]| names.contains(&base);
        let has = |parts: &[&str]| base.is_empty() || parts.iter().any(|p| base.contains(p));
        match (self, kind) {
            (Dialect::Sqlite, Kind::Bool | Kind::Int) => has(&["int", "bool", "num", "dec"]),
            (Dialect::Sqlite, Kind::Float) => has(&["real", "floa", "doub"]) && !base.contains("int"),
            (Dialect::Sqlite, Kind::Decimal(..) | Kind::Text) => has(&["char", "clob", "text"]) && !base.contains("int"),
            (Dialect::Sqlite, Kind::Bytes) => has(&["blob"]),
            (Dialect::Sqlite, Kind::Date | Kind::Time(_) | Kind::Timestamp(..)) => {
                has(&["char", "clob", "text", "date", "time"]) && !base.contains("int")
            }
            (Dialect::MySql, Kind::Bool) => base.ends_with("int"),
            (Dialect::MySql, Kind::Int) => base.ends_with("int") || base == "decimal",
            (Dialect::MySql, Kind::Float) => base == "double",
            (Dialect::MySql, Kind::Decimal(_, s)) => base == "decimal" && number(1).unwrap_or(0) >= s,
            (Dialect::MySql, Kind::Text) => base.ends_with("text") || is(&["varchar", "json", "enum"]),
            (Dialect::MySql, Kind::Bytes) => base.ends_with("blob") || base == "varbinary",
            (Dialect::MySql, Kind::Date) => is(&["date", "datetime"]),
            (Dialect::MySql, Kind::Time(d)) => base == "time" && number(0).unwrap_or(0) >= d.min(6),
            (Dialect::MySql, Kind::Timestamp(d, _)) => is(&["datetime", "timestamp"]) && number(0).unwrap_or(0) >= d.min(6),
            (Dialect::Postgres, Kind::Bool) => base == "boolean",
            (Dialect::Postgres, Kind::Int) => is(&["smallint", "integer", "bigint", "numeric"]),
            (Dialect::Postgres, Kind::Float) => base == "double precision",
            (Dialect::Postgres, Kind::Decimal(_, s)) => base == "numeric" && (numbers.is_empty() || number(1).unwrap_or(0) >= s),
            (Dialect::Postgres, Kind::Text) => is(&["text", "character varying"]),
            (Dialect::Postgres, Kind::Bytes) => base == "bytea",
            (Dialect::Postgres, Kind::Date) => base == "date",
            (Dialect::Postgres, Kind::Time(d)) => {
                base.starts_with("time")
                    && !base.starts_with("timestamp")
                    && !declared.ends_with("with time zone")
                    && number(0).unwrap_or(6) >= d.min(6)
            }
            (Dialect::Postgres, Kind::Timestamp(d, zoned)) => {
                base.starts_with("timestamp") && declared.ends_with("with time zone") == zoned && number(0).unwrap_or(6) >= d.min(6)
            }
        }
    }

    /// `expression` as text.
    pub(super) fn text(self, expression: &str) -> String {
        match self {
            Dialect::MySql => format!("CAST({expression} AS CHAR)"),
            _ => format!("CAST({expression} AS TEXT)"),
        }
    }

    pub(super) fn begin(self) -> &'static str {
        match self {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::MySql => "START TRANSACTION",
            Dialect::Postgres => "BEGIN",
        }
    }

    /// What a SELECT ends with that keeps its rows until the transaction ends. SQLite has the whole file already.
    pub(super) fn lock(self) -> &'static str {
        if self == Dialect::Sqlite { "" } else { " FOR UPDATE" }
    }

    /// Most values that one statement may bind.
    pub(super) fn bind_limit(self) -> usize {
        if self == Dialect::Sqlite { 32_766 } else { 65_535 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_makes_it_would_also_take_and_what_rounds_it_would_not() {
        let kinds = [
            Kind::Bool,
            Kind::Int,
            Kind::Float,
            Kind::Decimal(38, 2),
            Kind::Text,
            Kind::Bytes,
            Kind::Date,
            Kind::Time(6),
            Kind::Timestamp(6, false),
        ];
        for dialect in [Dialect::Sqlite, Dialect::MySql] {
            for kind in kinds {
                let made = dialect.column_type(kind, false, "x").replace("BOOLEAN", "tinyint(1)").replace(" CHARACTER SET utf8mb4", "");
                assert!(dialect.holds(&made, kind), "{dialect:?} {made} {kind:?}");
            }
        }
        for (dialect, declared, kind) in [
            (Dialect::Sqlite, "DECIMAL(38, 2)", Kind::Decimal(38, 2)),
            (Dialect::Sqlite, "REAL", Kind::Decimal(38, 2)),
            (Dialect::Sqlite, "INTEGER", Kind::Text),
            (Dialect::MySql, "decimal(10,1)", Kind::Decimal(38, 2)),
            (Dialect::MySql, "double", Kind::Decimal(38, 2)),
            (Dialect::MySql, "datetime", Kind::Timestamp(3, false)),
            (Dialect::MySql, "char(9)", Kind::Text),
            (Dialect::Postgres, "numeric(10,1)", Kind::Decimal(38, 2)),
            (Dialect::Postgres, "money", Kind::Decimal(38, 2)),
            (Dialect::Postgres, "timestamp with time zone", Kind::Timestamp(3, false)),
            (Dialect::Postgres, "timestamp(0) without time zone", Kind::Timestamp(3, false)),
            (Dialect::Postgres, "integer", Kind::Float),
        ] {
            assert!(!dialect.holds(declared, kind), "{dialect:?} {declared} {kind:?}");
        }
        for (declared, kind) in [
            ("numeric", Kind::Decimal(38, 2)),
            ("numeric(40,3)", Kind::Decimal(38, 2)),
            ("character varying(9)", Kind::Text),
            ("timestamp without time zone", Kind::Timestamp(6, false)),
            ("timestamp(3) with time zone", Kind::Timestamp(3, true)),
            ("time without time zone", Kind::Time(6)),
        ] {
            assert!(Dialect::Postgres.holds(declared, kind), "{declared} {kind:?}");
        }
    }

    #[test]
    fn names_are_quoted_whatever_is_in_them() {
        assert_eq!(Dialect::MySql.table("shop.to`tals"), "`shop`.`to``tals`");
        assert_eq!(Dialect::Postgres.table("to\"tals"), "\"to\"\"tals\"");
    }
}
