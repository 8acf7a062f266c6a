//! The conformance suite for files in a folder, and what CSV cannot hold.

use super::*;
use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
use orderflow_core::sink::Sink;
use orderflow_core::testing::conformance::{self, SeenRow, SinkSubject};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Read = Box<dyn Fn(&Path) -> Vec<SeenRow>>;

/// A data set in a folder of its own, and how to read it.
pub(crate) struct Dir {
    dir: tempfile::TempDir,
    make: fn(PathBuf) -> Box<dyn Sink>,
    read: Read,
}

impl Dir {
    pub(crate) fn new(make: fn(PathBuf) -> Box<dyn Sink>, read: impl Fn(&Path) -> Vec<SeenRow> + 'static) -> Self {
        Dir { dir: tempfile::tempdir().unwrap(), make, read: Box::new(read) }
    }
}

impl SinkSubject for Dir {
    fn sink(&mut self) -> Box<dyn Sink> {
        (self.make)(self.dir.path().join("set"))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        (self.read)(&self.dir.path().join("set"))
    }
}

/// The visible files of a data set, in order of their names.
pub(crate) fn files(ending: &str, dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == ending));
    files.sort();
    files
}

/// The rows of all visible files.
pub(crate) fn seen_as(ending: &str, dir: &Path, read: impl Fn(&str) -> Vec<SeenRow>) -> Vec<SeenRow> {
    files(ending, dir).iter().flat_map(|f| read(&std::fs::read_to_string(f).unwrap())).collect()
}

#[test]
fn conforms() {
    let read = |text: &str| {
        let fields = [("id", DataType::Int64), ("name", DataType::Utf8), ("diff", DataType::Int64), ("epoch", DataType::Int64)];
        let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
        let reader = orderflow_core::arrow::csv::ReaderBuilder::new(schema).with_header(true).build(text.as_bytes()).unwrap();
        reader.flat_map(|b| crate::parquet::tests::rows(&b.unwrap())).collect()
    };
    conformance::sink(&mut Dir::new(|dir| Box::new(Csv::append(dir)), move |dir| seen_as("csv", dir, read)));
}

#[test]
fn a_list_is_refused_when_the_pipeline_is_built() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let e = Csv::append("x").columns(&Arc::new(Schema::new(vec![Field::new("tags", list, true)])).into()).unwrap_err();
    assert!(e.to_string().contains("'tags'") && e.remedy().is_some(), "{e}");
}
