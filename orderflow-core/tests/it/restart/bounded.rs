//! A bounded run ends where it was to end when it began, however often it is killed; when it has finished the next one ends where the input ends then.

use super::changed::sums;
use super::*;
use orderflow_core::epoch::Log;
use orderflow_core::format::json::Json;
use orderflow_core::source::file;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Files that grow: an epoch each.
struct Input(Vec<PathBuf>);

impl Input {
    fn new(dir: &Path) -> Self {
        let input = Self(["a", "b", "c"].map(|name| dir.join(name)).into());
        input.0.iter().for_each(|path| fs::write(path, "").unwrap());
        input
    }

    /// Twenty more lines in each file.
    fn grow(&self) {
        for path in &self.0 {
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            for p in 0..20 {
                let (k, v) = row(0, p);
                writeln!(file, "{{\"k\":{k},\"v\":{v}}}").unwrap();
            }
        }
    }

    /// A run until it has ended or `dead` says so.
    fn run(&self, world: &World, dead: impl Fn() -> bool) {
        let clock = Clock::manual(1_000_000);
        let source = file::JsonLines::files(&self.0, Json::new(schema()));
        testing::live(pipeline(&[TOTALS], world, source, &clock), &clock, dead).unwrap();
    }
}

/// The newest epoch that is bound, and whether ends are.
fn bound(world: &World) -> (u64, bool) {
    let seen = Log::look(world.state.clone(), "state").unwrap();
    seen.map_or((0, false), |s| (s.found.bindings.last().map_or(s.found.base(), |b| b.epoch).0, !s.found.ends.is_empty()))
}

/// Rows counted in all groups.
fn counted(world: &World) -> u64 {
    let n = |row: String| row.split("\"n\": Number(").nth(1).unwrap().split(')').next().unwrap().parse::<u64>().unwrap();
    sums(&world.rows(), "totals").into_keys().map(n).sum()
}

#[test]
fn a_bounded_run_that_was_killed_ends_where_it_was_to_end() {
    for every in [ALWAYS, AT_THE_END] {
        let dir = tempfile::tempdir().unwrap();
        let (input, world) = (Input::new(dir.path()), World::with(every));
        input.grow();
        for lines in [60, 180, 300] {
            let begun = bound(&world).0;
            for epochs in [1, 2] {
                input.run(&world, || bound(&world).0 >= begun + epochs);
                assert!(bound(&world).1, "it was killed in mid-run");
                input.grow();
            }
            input.run(&world, || false);
            assert_eq!(counted(&world), lines, "what came in the meantime is of the next run");
            assert!(!bound(&world).1, "what has finished binds nobody");
        }
    }
}
