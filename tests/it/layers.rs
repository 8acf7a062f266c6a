//! The map of the house as a test: who may import whom, how a file begins, and how long it may be.
//!
//! A room may import the rooms above it and itself. Code under test and files named `tests.rs` may import anything, since what they
//! prove is often how rooms fit together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `orderflow-core`, top first; rooms of one row do not know each other.
const CORE: &[&[&str]] = &[
    &["error", "bug"],
    &["time"],
    &["data"],
    &["store"],
    &["format"],
    &["source", "sink"],
    &["epoch"],
    &["state"],
    &["plan"],
    &["dataflow"],
    &["operator"],
    &["ingest", "egress"],
    &["runtime"],
    &["pipeline"],
    &["admin"],
    &["testing"],
];

/// Rooms of the facade.
const FACADE: &[&[&str]] = &[&["domain"], &["generator"], &["pipelines"]];

/// Names that a crate's root hands out, with the room they come from.
const AT_THE_ROOT: &[(&str, &str)] = &[("Error", "error"), ("Result", "error"), ("arrow", "error")];

/// Files of more than [`LONG`] lines, with the reason.
const LONG_FILES: &[(&str, &str)] = &[("orderflow-kafka/src/ffi.rs", "unsafe code stands in one file, where it can be judged as a whole")];

/// Above this a file wants a reason.
const LONG: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files under `folder`, with their paths from the root; none if there is no such folder.
pub(crate) fn rust_files(folder: &str) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// A file without its comments and without its test module, which by house rule stands last.
fn code(text: &str) -> String {
    without_comments(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default())
}

/// First segments of everything reached through `crate::`, groups in braces taken apart.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, name) in code.match_indices("crate::") {
        let inside_a_name = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if !inside_a_name {
            first_segments(&code[at + name.len()..], &mut found);
        }
    }
    found
}

fn first_segments(path: &str, found: &mut Vec<String>) {
    let Some(group) = path.strip_prefix('{') else {
        found.push(path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        return;
    };
    let mut depth = 0;
    let mut item = String::new();
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => first_segments(std::mem::take(&mut item).trim(), found),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    if !item.trim().is_empty() {
        first_segments(item.trim(), found);
    }
}

/// What is wrong with the imports of one file that stands in `room`.
fn wrong_imports(name: &str, text: &str, room: &str, rows: &[&[&str]]) -> Vec<String> {
    let row_of = |room: &str| rows.iter().position(|row| row.contains(&room));
    let Some(own) = row_of(room) else { return vec![format!("{name}: room '{room}' is not on the map in tests/it/layers.rs")] };
    let mut wrong = Vec::new();
    for import in imports(&code(text)) {
        let target = AT_THE_ROOT.iter().find(|(name, _)| *name == import).map_or(import.as_str(), |(_, room)| room);
        match row_of(target) {
            None => wrong.push(format!("{name}: imports crate::{import}, which is no room on the map")),
            Some(row) if row > own => wrong.push(format!("{name}: imports crate::{import}, which stands below '{room}'")),
            Some(row) if row == own && target != room => {
                wrong.push(format!("{name}: imports crate::{import}, which stands beside '{room}'"));
            }
            Some(_) => {}
        }
    }
    wrong
}

fn walk(source: &str, rows: &[&[&str]], unchecked: &[&str]) -> Vec<String> {
    let files = rust_files(source);
    assert!(!files.is_empty(), "no files under {source}");
    let mut wrong = Vec::new();
    for (name, text) in &files {
        let inside = name.strip_prefix(source).unwrap().trim_start_matches('/');
        let room = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let tests = name.ends_with("/tests.rs") || name.contains("/tests/");
        if !unchecked.contains(&room) && !tests {
            wrong.extend(wrong_imports(name, text, room, rows));
        }
    }
    wrong
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn rooms_import_only_rooms_above_them() {
    assert_none(&walk("orderflow-core/src", CORE, &["lib"]));
    assert_none(&walk("src", FACADE, &["lib", "bin"]));
}

#[test]
fn connectors_know_neither_each_other_nor_the_shop_and_the_model_knows_nobody() {
    let forbidden = BTreeMap::from([
        ("orderflow-core", &["orderflow_kafka", "orderflow_sinks", "orderflow::", "rdkafka", "clap"][..]),
        ("orderflow-kafka", &["orderflow_sinks", "orderflow::"][..]),
        ("orderflow-sinks", &["orderflow_kafka", "orderflow::", "rdkafka"][..]),
        ("model", &["orderflow_core", "orderflow_kafka", "orderflow_sinks", "orderflow::", "datafusion"][..]),
    ]);
    let mut wrong = Vec::new();
    for (package, names) in forbidden {
        for (file, text) in rust_files(package) {
            let code = without_comments(&text);
            wrong.extend(names.iter().filter(|n| code.contains(**n)).map(|n| format!("{file}: names {n}")));
        }
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let names: Vec<_> = names.iter().map(|n| n.trim_end_matches(':').replace('_', "-")).collect();
        let dependencies = manifest.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        wrong.extend(dependencies.filter(|d| names.iter().any(|n| n == d)).map(|d| format!("{package}/Cargo.toml: depends on {d}")));
    }
    assert_none(&wrong);
}

#[test]
fn every_file_says_what_it_is_and_is_no_longer_than_it_must_be() {
    let mut wrong = Vec::new();
    let mut long = Vec::new();
    for folder in ["src", "model", "orderflow-core", "orderflow-kafka", "orderflow-sinks", "tests", "examples", "benches"] {
        for (name, text) in rust_files(folder) {
            let lines = text.lines().count();
            if !text.starts_with("//! ") {
                wrong.push(format!("{name}: does not begin with `//!` and what it is for"));
            }
            if lines > LONG {
                if !LONG_FILES.iter().any(|(file, _)| *file == name) {
                    wrong.push(format!("{name}: {lines} lines; split it, or give the reason in LONG_FILES"));
                }
                long.push(name);
            }
        }
    }
    for (file, reason) in LONG_FILES {
        if !long.iter().any(|name| name == file) {
            wrong.push(format!("{file} is on the list of long files ({reason}) and is none: take it off"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_test_sees_what_it_should() {
    let text = "//! x\nuse crate::{data::{Changes, Rejected}, time};\nuse std::fmt; // crate::runtime\nfn f() { crate::plan::g(); }\n\
                use crate::Error;\n#[cfg(test)]\nmod tests {\n use crate::testing; }";
    assert_eq!(imports(&code(text)), ["data", "time", "plan", "Error"]);
    let wrong = |room| wrong_imports("f.rs", text, room, CORE).len();
    assert_eq!((wrong("plan"), wrong("sink"), wrong("time"), wrong("error"), wrong("cellar")), (0, 1, 2, 3, 1));
    assert_eq!(wrong_imports("f.rs", "use crate::sink::Sink;", "source", CORE).len(), 1, "sideways");
}
