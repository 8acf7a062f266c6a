//! A source that a test writes as a script: what comes next is a function of the positions from which its partitions are read on.

use orderflow_core::Result;
use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::data::Changes;
use orderflow_core::format::Format;
use orderflow_core::source::{Fetch, Fingerprint, Payload, Polled, Reader, Source, SourceContext, SourceStatus};
use orderflow_core::time::{Partition, Position, Positions};
use std::sync::Arc;

/// What a test has to say.
pub(crate) trait Script: Send + 'static {
    /// Columns of its rows.
    fn schema(&self) -> SchemaRef;

    /// Its partitions, where the pipeline calls it by this name.
    fn partitions(&self, source: &str) -> Vec<Partition>;

    /// What comes after these positions.
    fn next(&self, at: &Positions) -> Next;

    /// What it says about itself there.
    fn status(&self, _at: &Positions) -> SourceStatus {
        SourceStatus::default()
    }
}

/// What comes next.
pub(crate) enum Next {
    Run(Run),
    Idle,
    Ended,
}

/// Positions of one partition, read in one go.
pub(crate) struct Run {
    pub(crate) partition: Partition,
    pub(crate) from: Position,
    pub(crate) to: Position,
    /// Those that hold a record, and the records.
    pub(crate) records: Vec<Position>,
    pub(crate) rows: RecordBatch,
    /// The newest timestamp among them.
    pub(crate) latest: Option<i64>,
}

/// A script as a source.
pub(crate) struct Scripted<S>(pub(crate) S);

impl<S: Script> Source for Scripted<S> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let resume = context.resume.unwrap_or_default();
        let from = |p: Partition| {
            let at = resume.get(&p).copied().unwrap_or(0);
            (p, at)
        };
        let at = self.0.partitions(&context.name).into_iter().map(from).collect();
        Ok(Box::new(ScriptReader { script: self.0, at }))
    }
}

struct ScriptReader<S> {
    script: S,
    at: Positions,
}

impl<S: Script> Reader for ScriptReader<S> {
    fn poll(&mut self) -> Result<Polled> {
        let run = match self.script.next(&self.at) {
            Next::Run(run) => run,
            Next::Idle => return Ok(Polled::Idle),
            Next::Ended => return Ok(Polled::Ended),
        };
        let Run { partition, from, to, records, rows, latest } = run;
        self.at.insert(partition.clone(), to);
        let mut fingerprint = Fingerprint::default();
        records.iter().for_each(|p| fingerprint.add(*p, 0, None));
        let (count, bytes) = (rows.num_rows(), 8 * rows.num_columns() * rows.num_rows());
        assert_eq!(records.len(), count, "each record has a row");
        let payload = if count == 0 { Payload::None } else { Payload::Rows(Changes::inserts(rows)) };
        let fingerprint = fingerprint.finish();
        Ok(Polled::Fetch(Fetch { partition, from, to, rows: count, bytes, fingerprint, latest, payload }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        self.script.status(&self.at)
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
