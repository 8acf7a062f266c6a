//! A pipeline as a user has it, in a folder of its own: input files, a folder for the state, and a data set for every sink.
//!
//! Invariant: the input is a function of nothing, and epochs are cut by rows alone, so what a run that never had to wait leaves in its data sets is
//! the same byte for byte however often it was killed.

use orderflow_core::Pipeline;
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::epoch::Limits;
use orderflow_core::error::Result;
use orderflow_core::format::json::Json;
use orderflow_core::pipeline::Stepper;
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::source::file;
use orderflow_core::store::Store;
use orderflow_core::time::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Files of input, each one fetch.
pub(crate) const FILES: u64 = 60;
/// Rows of one file.
pub(crate) const ROWS: u64 = 9;
/// An epoch ends behind the file that fills it.
const EPOCH: u64 = 20;

/// As a data set on the folder itself.
pub(crate) type SetOf<'a> = &'a dyn Fn(&'static str) -> DataSet<JsonLines>;

pub(crate) struct Place {
    dir: tempfile::TempDir,
    files: u64,
}

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(["file", "k", "v"].map(|n| Field::new(n, DataType::Int64, false)).to_vec()))
}

/// Row `i` of a file, as if drawn.
pub(crate) fn row(file: u64, i: u64) -> (i64, i64) {
    let h = (file * ROWS + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9);
    ((h % 7) as i64, (h >> 32) as i64 % 50)
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(FILES)
    }

    /// With so many files of input.
    pub(crate) fn of(files: u64) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), files };
        fs::create_dir(place.path("input")).unwrap();
        for file in 0..files {
            let line = |i| {
                let (k, v) = row(file, i);
                format!("{{\"file\":{file},\"k\":{k},\"v\":{v}}}\n")
            };
            fs::write(place.path("input").join(format!("{file:04}.jsonl")), (0..ROWS).map(line).collect::<String>()).unwrap();
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes a file of the input away, or brings it back.
    pub(crate) fn hide(&self, file: u64, hidden: bool) {
        let [name, aside] = ["jsonl", "hidden"].map(|ending| self.path("input").join(format!("{file:04}.{ending}")));
        let (from, to) = if hidden { (name, aside) } else { (aside, name) };
        fs::rename(from, to).unwrap();
    }

    /// A data set in the folder: one that commits every epoch, or, if it is called `routed`, seldom.
    pub(crate) fn set(&self, name: &'static str) -> DataSet<JsonLines> {
        rolled(name, DataSet::append(self.path(name), JsonLines))
    }

    /// Source and sinks, without state.
    pub(crate) fn flow(&self, sets: SetOf<'_>) -> Result<Pipeline> {
        let mut flow = Pipeline::new("place");
        flow.source("numbers", file::JsonLines::dir(self.path("input"), Json::new(schema())))?;
        flow.sql("SELECT file, k, v FROM numbers WHERE v % 3 <> 0")?.sink(sets("routed"))?;
        flow.view("totals", "SELECT k, count(*) AS n, sum(v) AS v, min(v) AS low, count(DISTINCT v) AS vs FROM numbers GROUP BY k")?
            .sink(sets("totals"))?;
        Ok(flow.dead_letters(sets("dead_letters")).epochs(Limits { interval: Duration::from_secs(1 << 30), rows: EPOCH, bytes: u64::MAX }))
    }

    /// The whole, with its state and all data sets in the folder, checkpoints as often as possible.
    pub(crate) fn pipeline(&self, clock: &Clock) -> Result<Pipeline> {
        let flow = self.flow(&|name| self.set(name))?;
        Ok(flow.clock(clock.clone()).state(self.path("state")).checkpoint_every(Duration::ZERO))
    }

    /// One life, to the end of the input.
    pub(crate) fn run(&self) -> Result<()> {
        let clock = Clock::manual(0);
        finish(&mut self.pipeline(&clock)?.stepper()?, &clock)
    }

    /// One life that ends, as by a power cut, when so many more checkpoints are complete.
    pub(crate) fn die_after(&self, checkpoints: usize) {
        let clock = Clock::manual(0);
        let mut stepper = self.pipeline(&clock).unwrap().stepper().unwrap();
        let mut complete = BTreeSet::new();
        while complete.len() < checkpoints {
            step(&mut stepper, &clock).unwrap().expect("it does not end before");
            let status = stepper.status();
            complete.extend(status.checkpoint.filter(|c| status.restored.is_none_or(|restored| *c > restored)));
        }
    }

    /// What readers of the data sets see: their files by name.
    pub(crate) fn visible(&self) -> BTreeMap<String, String> {
        let sets = ["routed", "totals", "dead_letters"].into_iter().filter(|set| self.path(set).exists());
        let below = sets.flat_map(|set| bytes_below(&self.path(set)).into_iter().map(move |(name, bytes)| (set, name, bytes)));
        let visible = below.filter(|(_, name, _)| name.components().count() == 1);
        visible.map(|(set, name, bytes)| (format!("{set}/{}", name.display()), String::from_utf8(bytes).unwrap())).collect()
    }

    /// The rows of each data set, in the order of their epochs.
    pub(crate) fn rows(&self) -> BTreeMap<String, String> {
        rows_of(&self.visible())
    }

    /// What a run that is never interrupted leaves.
    pub(crate) fn uninterrupted(&self) -> BTreeMap<String, String> {
        let place = Place::of(self.files);
        place.run().unwrap();
        place.rows()
    }
}

/// With the rolls of [`Place::set`].
pub(crate) fn rolled(name: &str, set: DataSet<JsonLines>) -> DataSet<JsonLines> {
    set.roll_rows(if name == "routed" { 100 } else { 1 }).roll_after(Duration::from_secs(1 << 30))
}

/// The files that readers of a data set see, by set and name.
pub(crate) fn visible_in(set: &str, store: &dyn Store) -> Vec<(String, String)> {
    let names = store.list("").unwrap().into_iter().filter(|n| !n.contains('/'));
    names.map(|n| (format!("{set}/{n}"), String::from_utf8(store.get(&n).unwrap().unwrap()).unwrap())).collect()
}

/// The rows of each data set, in the order of their epochs, whichever generation wrote them.
pub(crate) fn rows_of(files: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut sorted: Vec<(&str, &str, &String)> = files
        .iter()
        .map(|(name, text)| {
            let (set, file) = name.split_once('/').unwrap();
            (set, file.split_once("epochs-").unwrap().1, text)
        })
        .collect();
    sorted.sort();
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    sorted.iter().for_each(|(set, _, text)| rows.entry((*set).to_owned()).or_default().push_str(text));
    rows
}

/// How often each row of each data set is there, whichever epochs brought it: where input had to wait, epochs are cut otherwise.
pub(crate) fn net(rows: &BTreeMap<String, String>) -> BTreeMap<String, i64> {
    let mut net: BTreeMap<String, i64> = BTreeMap::new();
    for (set, text) in rows {
        for line in text.lines() {
            let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            row.remove("epoch");
            let diff = row.remove("diff").unwrap().as_i64().unwrap();
            *net.entry(format!("{set} {row:?}")).or_default() += diff;
        }
    }
    net.retain(|_, n| *n != 0);
    net
}

/// One step; whoever waits waits for time to pass.
pub(crate) fn step(stepper: &mut Stepper, clock: &Clock) -> Result<Option<bool>> {
    let done = stepper.step()?;
    if done == Some(false) {
        clock.advance(Duration::from_secs(1));
    }
    Ok(done)
}

/// Steps to the end.
pub(crate) fn finish(stepper: &mut Stepper, clock: &Clock) -> Result<()> {
    for _ in 0..200_000 {
        if step(stepper, clock)?.is_none() {
            return Ok(());
        }
    }
    panic!("it does not end: {:?}", stepper.status());
}

/// Every file below a folder, by its path, none if there is no such folder; what an open store keeps for itself is left out.
pub(crate) fn bytes_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with(".orderflow") => {}
                true => folders.push(path),
                false => drop(found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap())),
            }
        }
    }
    found
}

/// A copy of a folder, as a backup makes it.
pub(crate) fn copy(from: &Path, to: &Path) {
    for (name, bytes) in bytes_below(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
