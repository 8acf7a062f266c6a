//! A table, and the statements that write its rows.
//!
//! Invariant: names are quoted and values are bound; what a statement says depends on the number of its rows only, which is a power of two, so that
//! a connection prepares a handful of them and no more.

use super::dialect::{Dialect, Kind};

/// A column that the sink writes.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

/// A table as the sink sees it: its own columns only.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) dialect: Dialect,
    /// As the user wrote it.
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Numbers of the key columns; none for a table that is appended to.
    pub(super) key: Vec<usize>,
}

impl Table {
    fn name(&self) -> String {
        self.dialect.table(&self.name)
    }

    fn column(&self, i: usize) -> String {
        self.dialect.quote(&self.columns[i].name)
    }

    fn list(&self, columns: impl IntoIterator<Item = usize>) -> String {
        columns.into_iter().map(|i| self.column(i)).collect::<Vec<_>>().join(", ")
    }

    /// `CREATE TABLE`. A key with a column that may be null is UNIQUE, since no primary key takes a null.
    pub(super) fn create(&self, collation: &str) -> String {
        let mut lines: Vec<String> = vec![];
        for (i, column) in self.columns.iter().enumerate() {
            let key = self.key.contains(&i);
            let not_null = if key && !column.nullable { " NOT NULL" } else { "" };
            lines.push(format!("{} {}{not_null}", self.column(i), self.dialect.column_type(column.kind, key, collation)));
        }
        if !self.key.is_empty() {
            let nullable = self.key.iter().any(|k| self.columns[*k].nullable);
            lines.push(format!("{} ({})", if nullable { "UNIQUE" } else { "PRIMARY KEY" }, self.list(self.key.iter().copied())));
        }
        let engine = if self.dialect == Dialect::MySql { " ENGINE = InnoDB" } else { "" };
        format!("CREATE TABLE IF NOT EXISTS {} (\n  {}\n){engine}", self.name(), lines.join(",\n  "))
    }

    /// Inserts `rows` rows; binds the values of all columns, row by row.
    pub(super) fn insert(&self, rows: usize) -> String {
        let all = 0..self.columns.len();
        format!("INSERT INTO {} ({}) VALUES {}", self.name(), self.list(all.clone()), self.tuples(&all.collect::<Vec<_>>(), rows))
    }

    /// As [`Table::insert`], replacing the other columns of a row whose key is there.
    pub(super) fn upsert(&self, rows: usize) -> String {
        let others: Vec<usize> = (0..self.columns.len()).filter(|i| !self.key.contains(i)).collect();
        let insert = self.insert(rows);
        if self.dialect == Dialect::MySql {
            // with nothing to replace it must still not fail
            let set = if others.is_empty() { &self.key } else { &others };
            let set: Vec<_> = set.iter().map(|i| format!("{0} = VALUES({0})", self.column(*i))).collect();
            return format!("{insert} ON DUPLICATE KEY UPDATE {}", set.join(", "));
        }
        let set: Vec<_> = others.iter().map(|i| format!("{0} = excluded.{0}", self.column(*i))).collect();
        let act = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!("{insert} ON CONFLICT ({}) DO {act}", self.list(self.key.iter().copied()))
    }

    /// Deletes the rows of `rows` keys, in which those columns are null that `nulls` says; binds the values of the others, key by key.
    pub(super) fn delete(&self, nulls: &[bool], rows: usize) -> String {
        let (null, bound): (Vec<_>, Vec<_>) = self.key.iter().zip(nulls).partition(|(_, null)| **null);
        let (null, bound): (Vec<usize>, Vec<usize>) =
            (null.into_iter().map(|(k, _)| *k).collect(), bound.into_iter().map(|(k, _)| *k).collect());
        let mut conditions: Vec<String> = null.iter().map(|k| format!("{} IS NULL", self.column(*k))).collect();
        match bound.as_slice() {
            [] => {}
            [one] => {
                let values: Vec<_> = (1..=rows).map(|n| self.dialect.comparand(n, self.columns[*one].kind)).collect();
                conditions.push(format!("{} IN ({})", self.column(*one), values.join(", ")));
            }
            // in this form all three planners find the index; (a, b) IN (…) makes SQLite read the whole table
            several => {
                let mut n = 0;
                let mut equal = |k: &usize| {
                    n += 1;
                    format!("{} = {}", self.column(*k), self.dialect.comparand(n, self.columns[*k].kind))
                };
                let keys: Vec<_> = (0..rows).map(|_| several.iter().map(&mut equal).collect::<Vec<_>>().join(" AND ")).collect();
                conditions.push(format!("({})", keys.join(" OR ")));
            }
        }
        format!("DELETE FROM {} WHERE {}", self.name(), conditions.join(" AND "))
    }

    /// Most rows that one of these statements may have.
    pub(super) fn most_rows(&self, deletes: bool) -> usize {
        let (columns, most) = if deletes { (self.key.len(), 256) } else { (self.columns.len(), 1024) };
        let fits = (self.dialect.bind_limit() / columns.max(1)).clamp(1, most);
        1 << fits.ilog2()
    }

    fn tuples(&self, columns: &[usize], rows: usize) -> String {
        let mut text = String::new();
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for (i, column) in columns.iter().enumerate() {
                if i > 0 {
                    text.push_str(", ");
                }
                text.push_str(&self.dialect.placeholder(row * columns.len() + i + 1, self.columns[*column].kind));
            }
            text.push(')');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(dialect: Dialect, key: &[usize]) -> Table {
        let column = |name: &str, kind, nullable| Column { name: name.into(), kind, nullable };
        let columns =
            vec![column("city", Kind::Text, false), column("type", Kind::Text, true), column("amount", Kind::Decimal(38, 2), true)];
        Table { dialect, name: "totals".into(), columns, key: key.to_vec() }
    }

    #[test]
    fn each_database_is_told_in_its_own_words() {
        let (lite, my, pg) = (table(Dialect::Sqlite, &[0]), table(Dialect::MySql, &[0, 1]), table(Dialect::Postgres, &[0, 1]));
        assert_eq!(
            lite.create("BINARY"),
            "CREATE TABLE IF NOT EXISTS \"totals\" (\n  \"city\" TEXT NOT NULL,\n  \"type\" TEXT,\n  \"amount\" TEXT,\n  PRIMARY KEY (\"city\")\n)"
        );
        assert!(my.create("utf8mb4_nopad_bin").contains("`type` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin,"));
        assert!(my.create("utf8mb4_nopad_bin").ends_with("UNIQUE (`city`, `type`)\n) ENGINE = InnoDB"));
        assert_eq!(
            lite.upsert(2),
            "INSERT INTO \"totals\" (\"city\", \"type\", \"amount\") VALUES (?, ?, ?), (?, ?, ?) \
             ON CONFLICT (\"city\") DO UPDATE SET \"type\" = excluded.\"type\", \"amount\" = excluded.\"amount\""
        );
        assert!(my.upsert(1).ends_with("ON DUPLICATE KEY UPDATE `amount` = VALUES(`amount`)"));
        assert!(pg.upsert(1).contains("VALUES ($1, $2, CAST($3 AS NUMERIC)) ON CONFLICT (\"city\", \"type\") DO UPDATE SET"));
        assert_eq!(
            table(Dialect::Sqlite, &[0, 1]).delete(&[false, false], 2),
            "DELETE FROM \"totals\" WHERE (\"city\" = ? AND \"type\" = ? OR \"city\" = ? AND \"type\" = ?)"
        );
        assert_eq!(lite.delete(&[false], 3), "DELETE FROM \"totals\" WHERE \"city\" IN (?, ?, ?)");
        assert_eq!(my.delete(&[false, true], 2), "DELETE FROM `totals` WHERE `type` IS NULL AND `city` IN (?, ?)");
        assert_eq!(
            pg.delete(&[false, false], 2),
            "DELETE FROM \"totals\" WHERE (\"city\" = $1 AND \"type\" = $2 OR \"city\" = $3 AND \"type\" = $4)"
        );
        assert_eq!(pg.delete(&[true, true], 1), "DELETE FROM \"totals\" WHERE \"city\" IS NULL AND \"type\" IS NULL");
        assert!(table(Dialect::Postgres, &[0, 1, 2]).upsert(1).ends_with("DO NOTHING"));
        assert!(table(Dialect::MySql, &[0, 1, 2]).upsert(1).contains("UPDATE `city` = VALUES(`city`), "));
    }

    #[test]
    fn a_statement_has_a_power_of_two_of_rows() {
        let mut wide = table(Dialect::Sqlite, &[0]);
        assert_eq!((wide.most_rows(false), wide.most_rows(true)), (1024, 256));
        wide.columns = vec![wide.columns[0].clone(); 100];
        assert_eq!(wide.most_rows(false), 256);
    }
}
