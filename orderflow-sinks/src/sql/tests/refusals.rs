//! What is refused: rows that a table does not take, tables that do not take rows, keys that are none, places that are not there.

use super::*;
use orderflow_core::error::Kind;

everywhere!(
    refused_rows_are_found_and_the_others_are_written,
    the_row_under_a_refused_one_goes,
    a_table_that_would_not_hold_the_rows_is_refused,
    a_table_that_is_there_keeps_its_other_columns
);

/// Makes a table that takes no `v` of 1,000 or more.
pub(super) fn checked(db: &Db, table: &str, key: &str) {
    let (text, name) = if db.dialect() == Dialect::Postgres { ("TEXT", "\"v\"") } else { ("VARCHAR(100)", "v") };
    db.execute(&format!("CREATE TABLE {table} (k BIGINT {key}, v BIGINT CHECK ({name} < 1000), name {text}, diff BIGINT, epoch BIGINT)"));
}

fn refused_rows_are_found_and_the_others_are_written(db: &Db) {
    for append in [true, false] {
        let table = db.table();
        checked(db, &table, if append { "" } else { "PRIMARY KEY" });
        let mut writer = open(if append { db.append(&table) } else { db.upsert(&table, &["k"]) }, 1);
        // the first, the last, two neighbours and some in between of several thousands, over three epochs
        let bad = |k: i64| [0, 700, 701, 1_500, 2_999].contains(&k);
        for n in 0..3 {
            let rows: Vec<_> = (n * 1000..(n + 1) * 1000).map(|k| (Some(k), if bad(k) { 5_000 } else { k % 1000 }, 1)).collect();
            writer.write(closed(n as u64 + 1, &rows)).unwrap();
        }
        let mut refused = commit(writer.as_mut(), 3).unwrap();
        refused.sort_by(|a, b| a.bytes.cmp(&b.bytes));
        assert_eq!(db.read(&table, &["k"]).len(), 2_995);
        let said: Vec<_> = refused.iter().map(|r| String::from_utf8(r.bytes.clone()).unwrap()).collect();
        assert_eq!(said, [0, 1_500, 2_999, 700, 701].map(|k| format!("{{\"k\":{k},\"v\":5000,\"name\":\"n5000\"}}")));
        assert!(refused.iter().all(|r| r.diff == 1 && &*r.from == "view" && r.reason.contains(&table)), "{refused:?}");
        // each is reported once, and the stream goes on
        writer.write(closed(4, &[(Some(9_999), 1, 1)])).unwrap();
        assert_eq!(commit(writer.as_mut(), 4).unwrap(), []);
        assert_eq!(db.read(&table, &["k"]).len(), 2_996);
    }
}

fn the_row_under_a_refused_one_goes(db: &Db) {
    let table = db.table();
    checked(db, &table, "PRIMARY KEY");
    let mut writer = open(db.upsert(&table, &["k"]), 1);
    writer.write(closed(1, &[(Some(1), 1, 1), (Some(2), 2, 1)])).unwrap();
    commit(writer.as_mut(), 1).unwrap();
    writer.write(closed(2, &[(Some(1), 1, -1), (Some(1), 5_000, 1), (None, 3, 1)])).unwrap();
    let refused = commit(writer.as_mut(), 2).unwrap();
    // SQLite alone lets a null into this key: the rowid is made up. It is not what the view says, but the table is the user's own
    let nulls = usize::from(db.dialect() != Dialect::Sqlite);
    assert_eq!(refused.len(), 1 + nulls, "{refused:?}");
    assert!(!db.read(&table, &["k"]).contains(&"1".into()), "the view does not hold the old row any more");
    writer.write(closed(3, &[(Some(1), 5_000, -1), (Some(1), 7, 1)])).unwrap();
    assert_eq!(commit(writer.as_mut(), 3).unwrap(), []);
    assert!(db.read(&table, &["k", "v"]).contains(&"1 7".into()), "and its next one comes");
}

fn a_table_that_would_not_hold_the_rows_is_refused(db: &Db) {
    let decimal =
        Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("amount", DataType::Decimal128(38, 2), true)]));
    let (exact, rounding) = match db.dialect() {
        Dialect::Sqlite => ("TEXT", "NUMERIC"),
        Dialect::MySql => ("DECIMAL(40, 2)", "DECIMAL(40, 1)"),
        Dialect::Postgres => ("NUMERIC", "NUMERIC(40, 1)"),
    };
    for (columns, says) in [
        (format!("k BIGINT PRIMARY KEY, amount {exact}"), ""),
        ("k BIGINT PRIMARY KEY".to_owned(), "no column 'amount'"),
        (format!("k BIGINT PRIMARY KEY, amount {rounding}"), "does not hold the view's values exactly"),
        ("k BIGINT PRIMARY KEY, amount DOUBLE PRECISION".to_owned(), "does not hold the view's values exactly"),
        (format!("k BIGINT, amount {exact}"), "no unique index"),
        (format!("k BIGINT, amount {exact}, other BIGINT, UNIQUE (k, other)"), "no unique index"),
        (format!("k BIGINT, amount {exact}, UNIQUE (k)"), ""),
    ] {
        let table = db.table();
        db.execute(&format!("CREATE TABLE {table} ({columns})"));
        let opened = Box::new(db.upsert(&table, &["k"])).open(context(1, 1, &decimal));
        match opened {
            Ok(_) => assert_eq!(says, "", "{columns}"),
            Err(e) => assert!(
                !says.is_empty() && e.to_string().contains(says) && e.remedy().is_some() && e.kind() == Kind::User,
                "{columns}: {e}"
            ),
        }
    }
    if db.dialect() == Dialect::MySql {
        for (columns, says) in [
            ("k VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY, n BIGINT", "different texts for the same"),
            ("k VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, n BIGINT UNIQUE", "second unique index"),
            ("id BIGINT AUTO_INCREMENT PRIMARY KEY, k VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin UNIQUE, n BIGINT", ""),
            (
                "k VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, n BIGINT) ENGINE = MyISAM COMMENT = (",
                "no table with transactions",
            ),
        ] {
            let table = db.table();
            db.execute(&format!("CREATE TABLE {table} ({columns})").replace("COMMENT = ()", ""));
            let keyed = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("n", DataType::Int64, true)]));
            match Box::new(db.upsert(&table, &["k"])).open(context(1, 1, &keyed)) {
                Ok(_) => assert_eq!(says, "", "{columns}"),
                Err(e) => assert!(!says.is_empty() && e.to_string().contains(says), "{columns}: {e}"),
            }
        }
    }
}

fn a_table_that_is_there_keeps_its_other_columns(db: &Db) {
    let table = db.table();
    let text = if db.dialect() == Dialect::Postgres { "TEXT" } else { "VARCHAR(100)" };
    db.execute(&format!("CREATE TABLE {table} (note VARCHAR(20) DEFAULT 'ours', k BIGINT PRIMARY KEY, name {text}, v BIGINT)"));
    let mut writer = open(db.upsert(&table, &["k"]), 1);
    writer.write(closed(1, &[(Some(1), 1, 1)])).unwrap();
    commit(writer.as_mut(), 1).unwrap();
    db.execute(&format!("UPDATE {table} SET note = 'theirs'"));
    writer.write(closed(2, &[(Some(1), 1, -1), (Some(1), 2, 1), (Some(2), 2, 1)])).unwrap();
    commit(writer.as_mut(), 2).unwrap();
    assert_eq!(db.read(&table, &["k", "v", "note"]), ["1 2 theirs", "2 2 ours"]);
}

#[test]
fn a_key_must_be_proven_or_vouched_for() {
    let input = |key: Option<&[&str]>| Input { schema: schema(), key: key.map(|k| k.iter().map(|n| (*n).to_owned()).collect()) };
    let plain = || Sql::upsert("sqlite:x.db", "t");
    assert!(Sql::append("sqlite:x.db", "t").key(["k"]).columns(&input(None)).unwrap_err().remedy().is_some());
    for (sink, proven, says) in [
        (plain(), Some(&["k"][..]), ""),
        (plain().key(["k"]), Some(&["k"]), ""),
        (plain().key(["v", "k"]), Some(&["k"]), ""),
        (plain().trust_key(["name"]), None, ""),
        (plain(), None, "no known key"),
        (plain(), Some(&[]), "one row"),
        (plain().key(["name"]), Some(&[]), ""),
        (plain().key(["k"]), Some(&["k", "v"]), "its key is (k, v)"),
        (plain().key(["k"]), None, "trust_key"),
        (plain().key(Vec::<String>::new()), Some(&["k"]), "needs a column"),
        (plain().trust_key(["city"]), None, "no column of the view"),
        (plain().key(["k", "k"]), Some(&["k"]), "twice"),
    ] {
        match sink.columns(&input(proven)) {
            Ok(columns) => assert!(says.is_empty() && columns.is_none(), "{proven:?}"),
            Err(e) => assert!(!says.is_empty() && e.to_string().contains(says) && e.remedy().is_some(), "{e}"),
        }
    }
}

#[test]
fn what_a_table_cannot_hold_is_refused_with_the_column() {
    let list = DataType::new_list(DataType::Int64, true);
    let nested = Arc::new(Schema::new(vec![Field::new("many", list, true)]));
    let e = Sql::append("sqlite:x.db", "t").columns(&nested.into()).unwrap_err();
    assert!(e.to_string().contains("'many'") && e.remedy().is_some(), "{e}");
    let wide = Arc::new(Schema::new(vec![Field::new("wide", DataType::Decimal256(76, 2), true)]));
    assert!(Sql::append("mysql://x/y", "t").columns(&wide.clone().into()).is_err());
    assert!(Sql::append("postgres://x/y", "t").columns(&wide.into()).is_ok());
    let taken = Arc::new(Schema::new(vec![Field::new("diff", DataType::Int64, true)]));
    assert!(Sql::append("sqlite:x.db", "t").columns(&taken.into()).is_err());
}

#[test]
fn what_is_not_there_is_said_without_a_password() {
    let nowhere = |url: &str| open_as(Sql::append(url, "t"), 1, "test").err().unwrap();
    for url in ["mysql://shop:s3cret@127.0.0.1:1/shop", "postgres://shop:s3cret@127.0.0.1:1/shop"] {
        let e = nowhere(url);
        assert!(e.retry() == Retry::Backoff && !format!("{e} {e:?}").contains("s3cret") && e.to_string().contains("127.0.0.1:1"), "{e:?}");
    }
    let e = nowhere("sqlite:/no/such/folder/x.db");
    assert!(e.retry() == Retry::Never && e.to_string().contains("the folder must exist"), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.db");
    std::fs::write(&file, "this is a letter and no database, and long enough for a header of one hundred bytes, which it then is not")
        .unwrap();
    let e = nowhere(&format!("sqlite:{}", file.display()));
    assert!(e.retry() == Retry::Never, "{e}");
}

#[test]
fn real_passwords_that_are_wrong_are_for_good() {
    for db in Db::real() {
        let e = open_as(Sql::append(db.url.replacen(":test@", ":wr0ng@", 1), "t"), 1, "test").err().unwrap();
        assert!(e.retry() == Retry::Never && e.kind() == Kind::User && !format!("{e:?}").contains("wr0ng"), "{e:?}");
    }
}
