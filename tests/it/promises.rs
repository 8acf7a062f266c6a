//! `docs/guarantees.md` names the tests that show what it promises: each of them is there.
//!
//! Invariant: a test is looked for only in files whose paths have the modules of its name; `…` stands for the rest of a name, or for all tests of a module.

use crate::layers::rust_files;
use std::fs;
use std::path::Path;

/// Where the sources and tests of all packages are.
const FOLDERS: [&str; 9] = [
    "tests",
    "src",
    "orderflow-core/src",
    "orderflow-core/tests",
    "orderflow-kafka/src",
    "orderflow-kafka/tests",
    "orderflow-sinks/src",
    "orderflow-sinks/tests",
    "model/tests",
];

/// What stands between backticks and looks like the name of a test or of its module.
fn names(text: &str) -> Vec<&str> {
    let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:…".contains(c);
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| name.chars().all(may) && (name.contains("::") || name.starts_with("real_"))).collect()
}

/// Whether a file has such a test, or is the module itself.
fn is_there(name: &str, files: &[(String, String)]) -> bool {
    // tests of a file may stand in it or beside it
    let mut modules: Vec<&str> = name.split("::").filter(|part| *part != "tests").collect();
    let test = modules.pop_if(|part| part.ends_with('…')).map(|part| part.trim_end_matches('…'));
    let within = |path: &str, modules: &[&str]| {
        let path = path.replace('-', "_");
        let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        modules.iter().all(|module| parts.contains(module))
    };
    files.iter().any(|(path, text)| match (test, modules.split_last()) {
        (Some(beginning), _) => within(path, &modules) && text.contains(&format!("fn {beginning}")),
        (None, Some((last, rest))) => within(path, &modules) || within(path, rest) && text.contains(&format!("fn {last}(")),
        (None, None) => false,
    })
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let files: Vec<(String, String)> = FOLDERS.iter().flat_map(|folder| rust_files(folder)).collect();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md")).unwrap();
    let names = names(&text);
    assert!(names.len() > 50, "the page was read wrongly: {names:?}");
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name, &files)).collect();
    assert!(missing.is_empty(), "nobody has these: {missing:?}");
    for nobody in ["lost::a_state_that_flies_…", "lots::a_state_folder_…", "restart::nowhere"] {
        assert!(!is_there(nobody, &files), "{nobody}");
    }
}
