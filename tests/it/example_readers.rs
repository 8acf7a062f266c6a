//! What the example left, read by the command that it prints, with DuckDB from PyPI.
//!
//! Invariant: the command is the one that was printed, run where the example ran; no text of it stands here.

use crate::full_pipeline::{DIRTY, dirty, good, program};
use orderflow::generator::expected;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Asks DuckDB as its own program does, and prints a line a row.
const DUCKDB: &str = "import sys, duckdb\nfor row in duckdb.sql(sys.argv[1]).fetchall(): print(*row, sep='\\t')";

/// Its output, if it ended well.
fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[test]
#[ignore = "needs Python, and PyPI the first time"]
fn the_command_that_the_example_prints_reads_what_is_in_its_closing_table() {
    let dir = tempfile::tempdir().unwrap();
    let said = good(program(dir.path()).args(["--orders", "4000", "--seed", "9", "--out", "results"]).args(DIRTY));
    let printed = said.lines().find_map(|line| line.trim().strip_prefix("read it: duckdb -c \"")?.strip_suffix('"'));
    let sql = printed.unwrap_or_else(|| panic!("no command is printed: {said}"));

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // three readers agree; and it brings the DuckDB that is asked below
    output(Command::new(root.join("scripts/read-check")).arg(dir.path().join("results/city_payment_totals")).current_dir(root));
    let target = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let mut python = Command::new(target.join("venv-read-check/bin/python"));
    let found = output(python.args(["-c", DUCKDB, sql]).env("PYTHONIOENCODING", "utf-8").current_dir(dir.path()));

    let mut orders = BTreeMap::new();
    for line in found.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let [city, payment_type, n] = cells.as_slice() else { panic!("{line}") };
        let before = orders.insert(((*city).to_owned(), (*payment_type).to_owned()), n.parse::<u64>().unwrap());
        assert_eq!(before, None, "two rows of one group: {line}");
    }
    let totals = expected(&dirty(9), 4_000).totals;
    assert_eq!(orders, totals.into_iter().map(|(group, total)| (group, total.orders)).collect());
}
