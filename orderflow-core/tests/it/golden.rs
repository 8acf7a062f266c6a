//! What is stored of views to the byte: committed files are read to the rows that they hold, and a run of today leaves the same.
//!
//! Invariant: a run on one thread is a function of its input, and so are the names, epochs and bytes of these files. The ledger is not among them: its ids
//! are random.

use orderflow_core::Pipeline;
use orderflow_core::arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::util::display::array_value_to_string;
use orderflow_core::epoch::{Checkpoint, Limits};
use orderflow_core::operator::aggregate::StoredRows;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::state::{FileRef, Manifest, ViewOf, read};
use orderflow_core::store::{Memory, Store};
use orderflow_core::testing::{self, Topic, golden};
use orderflow_core::time::{Clock, Epoch};
use std::sync::Arc;
use std::time::Duration;

const NEVER: Duration = Duration::from_secs(1 << 30);

/// Views of each kind of trace, and their rows.
const VIEWS: &[(&str, &str, &[&str])] = &[
    ("larger", "SELECT city, qty FROM orders WHERE qty > 0", &["Indore|7", "Pune|3", "Pune|3", "|5"]),
    (
        "totals",
        "SELECT city, count(*) AS n, sum(qty) AS qty, sum(price) AS amount, avg(price) AS mean FROM orders GROUP BY city",
        &["Indore|2|7|1.98|0.990000", "Pune|3|4|12.51|4.170000", "|1|5|-1.25|-1.250000"],
    ),
    (
        "extremes",
        "SELECT city, min(qty) AS least, max(price) AS high, count(DISTINCT price) AS prices FROM orders GROUP BY city",
        &["Indore|7|0.99|1", "Pune|-2|10.00|3", "|5|-1.25|1"],
    ),
    ("wide", "SELECT sum(CAST(price AS DECIMAL(30, 4))) AS wide FROM orders", &["13.2400"]),
    ("kinds", "SELECT DISTINCT qty FROM orders", &["", "-2", "3", "5", "7"]),
];

fn orders() -> Topic {
    let cities = [Some("Pune"), Some("Indore"), None, Some("Pune"), Some("Indore"), Some("Pune")];
    let cents = Decimal128Array::from(vec![250, 99, -125, 1000, 99, 1]).with_precision_and_scale(18, 2).unwrap();
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("city", Arc::new(StringArray::from_iter(cities)), true),
        ("qty", Arc::new(Int64Array::from(vec![Some(3), None, Some(5), Some(-2), Some(7), Some(3)])), true),
        ("price", Arc::new(cents), false),
    ];
    Topic::rows(vec![RecordBatch::try_from_iter_with_nullable(columns).unwrap()])
}

/// The state that a run to the end leaves.
fn state() -> Arc<dyn Store> {
    let (state, clock): (Arc<dyn Store>, _) = (Arc::new(Memory::new()), Clock::manual(0));
    let mut flow = Pipeline::new("golden");
    flow.source("orders", orders()).unwrap();
    VIEWS.iter().for_each(|(name, sql, _)| drop(flow.view(name, sql).unwrap()));
    let limits = Limits { interval: NEVER, rows: u64::MAX, bytes: u64::MAX };
    let flow = flow.dead_letters(DataSet::on(Arc::new(Memory::new()), "dead letters", JsonLines)).epochs(limits).clock(clock.clone());
    testing::live(Ok(flow.state_on(state.clone(), "state").checkpoint_every(NEVER)), &clock, || false).unwrap();
    state
}

/// The rows of a view, as its files have them.
fn rows(store: &dyn Store, manifest: &Manifest, view: &ViewOf) -> Vec<String> {
    let root = &manifest.roots[view.root];
    let about: StoredRows = serde_json::from_value(root.rows.clone().unwrap()).unwrap();
    let trace = |files: &Vec<FileRef>| files.iter().map(|file| read(store, file).unwrap()).collect::<Vec<_>>();
    let rows = about.read(&root.traces.iter().map(trace).collect::<Vec<_>>()).unwrap();
    let row = |i| view.columns.iter().map(|(_, c)| array_value_to_string(rows.column(*c), i).unwrap()).collect::<Vec<_>>().join("|");
    let mut rows: Vec<String> = (0..rows.num_rows()).map(row).collect();
    rows.sort();
    rows
}

fn file(format: u32, name: &str) -> String {
    format!("{}/tests/golden/views-{format}/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_golden_files_of_views_are_what_is_written_and_can_be_read() {
    let state = state();
    let names = [state.list("roots/").unwrap(), state.list("checkpoints/").unwrap()].concat();
    for format in [1, 2] {
        let committed = Arc::new(Memory::new()) as Arc<dyn Store>;
        for name in &names {
            let golden = match format {
                2 => golden::same(&file(2, name), &state.get(name).unwrap().unwrap()),
                older => std::fs::read(file(older, name)).unwrap(),
            };
            committed.put_bytes(name, &golden).unwrap();
        }
        let manifest = committed.list("checkpoints/").unwrap().pop().unwrap();
        let crc = crc32fast::hash(&committed.get(&manifest).unwrap().unwrap());
        let manifest = Manifest::load(&*committed, &Checkpoint { epoch: Epoch(1), manifest, crc }).unwrap();
        assert_eq!(manifest.format, format);
        assert_eq!(manifest.views.iter().map(|view| view.view.as_str()).collect::<Vec<_>>(), VIEWS.iter().map(|v| v.0).collect::<Vec<_>>());
        for (view, (name, _, expected)) in manifest.views.iter().zip(VIEWS) {
            assert_eq!(rows(&*committed, &manifest, view), *expected, "{name}, format {format}");
        }
    }
}
