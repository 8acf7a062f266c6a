//! The progress row to the byte: a committed one is gone on from, and today's code leaves the same.

use super::*;
use orderflow_core::sink::WriterId;
use orderflow_core::testing::golden;

/// The table of progress rows of a SQLite, and its only row, as statements.
fn dump(db: &Db) -> String {
    let text = |sql: &str| db.rows(sql).remove(0).remove(0).unwrap();
    let columns = ["pipeline", "view", "target", "ledger", "generation", "written_by", "epoch", "part"];
    let values = columns.map(|column| format!("quote(\"{column}\")")).join(" || ', ' || ");
    let table = text("SELECT sql FROM sqlite_master WHERE name = 'orderflow_progress'");
    format!("{table};\nINSERT INTO orderflow_progress VALUES ({});\n", text(&format!("SELECT {values} FROM orderflow_progress")))
}

#[test]
fn the_golden_row_is_what_is_written_and_is_gone_on_from() {
    let db = Db::sqlite();
    let mut writer = open(db.append("orders"), 1);
    for epoch in 1..=3 {
        writer.write(closed(epoch, &[(Some(1), 1, 1)])).unwrap();
    }
    commit(writer.as_mut(), 3).unwrap();
    writer.close().unwrap();
    // opened once more, so that the owner is not who wrote it
    open(db.append("orders"), 2).close().unwrap();
    let golden = golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/progress-1.sql"), dump(&db).as_bytes());

    let older = Db::sqlite();
    String::from_utf8(golden).unwrap().split_terminator(";\n").for_each(|statement| older.execute(statement));
    let opened = open_as(older.append("orders"), 3, "test").unwrap();
    assert_eq!(opened.progress, Some(Progress { writer: WriterId { ledger: 1, generation: 1 }, epoch: Epoch(3), part: 0 }));
    let mut writer = opened.writer;
    writer.write(closed(4, &[(Some(4), 1, 1)])).unwrap();
    commit(writer.as_mut(), 4).unwrap();
    assert_eq!(older.read("orders", &["k", "epoch"]), ["4 4"]);
    let row = "00000000000000000000000000000001 3 3 4 0";
    assert_eq!(older.read("orderflow_progress", &["ledger", "generation", "written_by", "epoch", "part"]), [row]);
}
