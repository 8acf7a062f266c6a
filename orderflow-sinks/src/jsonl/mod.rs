//! JSON lines: a directory of `*.jsonl` files, one object a row, with `diff` and `epoch`.
//!
//! Invariant: every object has every column, null where there is no value; a decimal keeps all its digits.

use orderflow_core::Result;
use orderflow_core::sink::files::{DataSet, JsonLines};

/// A data set of JSONL files: exactly once.
pub struct Jsonl(DataSet<JsonLines>);

crate::data_set!(Jsonl, JsonLines);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv::tests::{Dir, seen_as};
    use orderflow_core::testing::conformance::{self, SeenRow};

    #[test]
    fn conforms() {
        let read = |text: &str| {
            let row = |line: &str| {
                let v: serde_json::Value = serde_json::from_str(line).unwrap();
                let number = |n: &str| v[n].as_i64().unwrap();
                SeenRow {
                    epoch: number("epoch") as u64,
                    diff: number("diff"),
                    id: number("id"),
                    name: v["name"].as_str().map(str::to_owned),
                }
            };
            text.lines().map(row).collect()
        };
        conformance::sink(&mut Dir::new(|dir| Box::new(Jsonl::append(dir)), move |dir| seen_as("jsonl", dir, read)));
    }
}
