//! `docs/dependencies.md` has one line for every dependency of the workspace, and none for what is gone; a package that is taken alone is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_dependency_has_its_line_and_its_licence() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]\n").nth(1).unwrap().split("\n[workspace.").next().unwrap();
    let declared: BTreeSet<_> = section
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split([' ', '=']).next())
        .filter(|name| !name.starts_with("orderflow"))
        .collect();
    let text = read("docs/dependencies.md");
    let rows: Vec<Vec<_>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for row in &rows {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?} lacks a cell");
    }
    let described: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(described.len(), rows.len(), "a crate has two lines");
    assert_eq!(declared, described);
    assert!(declared.len() > 20 && declared.contains("serde"), "the manifest was read wrongly");
}

#[test]
fn every_package_that_is_taken_alone_says_what_it_is_and_brings_its_licences() {
    for package in [".", "orderflow-core", "orderflow-kafka", "orderflow-sinks"] {
        let manifest = read(&format!("{package}/Cargo.toml"));
        for line in ["description = \"", "license.workspace", "readme.workspace", "keywords.workspace", "categories.workspace"] {
            assert!(manifest.lines().any(|l| l.starts_with(line)), "{package} has no {line}");
        }
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert_eq!(read(&format!("{package}/{licence}")), read(licence), "{package}");
        }
    }
}

#[test]
fn the_engine_alone_declares_neither_a_broker_nor_a_command_line() {
    let manifest = read("orderflow-core/Cargo.toml");
    for name in ["rdkafka", "clap", "indicatif", "comfy-table", "tracing-subscriber", "orderflow-kafka", "orderflow-sinks"] {
        assert!(!manifest.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name)), "orderflow-core depends on {name}");
    }
}

#[test]
fn whoever_takes_the_engine_alone_gets_neither_a_broker_nor_a_command_line() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "orderflow-core", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let packages: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for name in ["rdkafka", "rdkafka-sys", "clap", "orderflow-kafka", "orderflow-sinks"] {
        assert!(!packages.contains(name), "orderflow-core brings {name}");
    }
    assert!(packages.contains("datafusion") && packages.contains("timely"), "the tree was read wrongly");
}
