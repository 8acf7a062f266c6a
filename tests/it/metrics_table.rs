//! `docs/metrics.md` names every metric that the sources tell the facade, and none that is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Kind by name of what is told in the sources below `folder`.
fn told(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            told(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for kind in ["counter", "gauge", "histogram"] {
                let mark = format!("metrics::{kind}!(\"");
                let names = text.split(mark.as_str()).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(|name| (name.to_owned(), kind.to_owned())));
            }
        }
    }
}

#[test]
fn every_metric_has_its_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut expected = BTreeMap::new();
    ["orderflow-core/src", "orderflow-kafka/src", "orderflow-sinks/src"].iter().for_each(|folder| told(&root.join(folder), &mut expected));
    let text = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), expected);
    assert!(expected.len() >= 8, "the sources were read wrongly: {expected:?}");
}
