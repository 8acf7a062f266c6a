//! [`Changes`]: an Arrow batch whose rows are inserted or deleted, at one epoch.
//!
//! Invariant: a batch that travels is never empty (the dataflow drops empty containers) and has one diff a row; append-only
//! input pays nothing for its diffs.

use crate::error::{Error, Result};
use crate::time::Partition;
use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Multiplicities of the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Diffs {
    /// Every row is inserted once.
    Ones,
    /// Row *i* changes its multiplicity by the *i*-th number; never 0.
    Each(Arc<[i64]>),
}

/// Where the rows of a batch stood in their source: they are consecutive records of one partition, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Number of the source in its pipeline.
    pub source: u32,
    /// Partition they came from.
    pub partition: Partition,
    /// Position of the first record of the fetch they came in.
    pub position: u64,
}

/// Signed rows: the one currency between sources, operators and sinks.
#[derive(Clone, Debug)]
pub struct Changes {
    rows: RecordBatch,
    diffs: Diffs,
    origin: Option<Origin>,
}

impl Changes {
    /// Every row inserted once.
    pub fn inserts(rows: RecordBatch) -> Self {
        Self { rows, diffs: Diffs::Ones, origin: None }
    }

    /// Row *i* with multiplicity `diffs[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn signed(rows: RecordBatch, diffs: Vec<i64>) -> Self {
        assert_eq!(rows.num_rows(), diffs.len(), "one diff a row");
        let diffs = if diffs.iter().all(|d| *d == 1) { Diffs::Ones } else { Diffs::Each(diffs.into()) };
        Self { rows, diffs, origin: None }
    }

    /// The same changes with their place in the source.
    pub fn with_origin(mut self, origin: Option<Origin>) -> Self {
        self.origin = origin;
        self
    }

    /// The rows.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// Columns of the rows.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The multiplicities.
    pub fn diffs(&self) -> &Diffs {
        &self.diffs
    }

    /// Multiplicity of row `i`.
    pub fn diff(&self, i: usize) -> i64 {
        match &self.diffs {
            Diffs::Ones => 1,
            Diffs::Each(d) => d[i],
        }
    }

    /// All multiplicities, in row order.
    pub fn diff_iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len()).map(|i| self.diff(i))
    }

    /// Where the rows stood in their source, if they met no stateful operator.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Bytes held in memory by the rows and their diffs.
    pub fn memory(&self) -> usize {
        self.rows.get_array_memory_size() + if matches!(self.diffs, Diffs::Ones) { 0 } else { 8 * self.len() }
    }

    /// The same multiplicities and origin over other columns.
    ///
    /// # Panics
    /// If the number of rows differs.
    pub fn with_rows(&self, rows: RecordBatch) -> Self {
        assert_eq!(rows.num_rows(), self.len(), "a projection keeps every row");
        Self { rows, diffs: self.diffs.clone(), origin: self.origin.clone() }
    }

    /// Every multiplicity with the other sign.
    pub fn negate(&self) -> Self {
        let diffs = self.diff_iter().map(|d| -d).collect();
        Self { diffs: Diffs::Each(diffs), ..self.clone() }
    }

    /// The rows where `keep` is true (null counts as false), in order.
    ///
    /// # Errors
    /// If Arrow refuses, which is a bug.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self> {
        let rows = filter_record_batch(&self.rows, keep)?;
        if rows.num_rows() == self.len() {
            return Ok(self.clone());
        }
        let diffs = match &self.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => {
                use arrow::array::Array;
                Diffs::Each((0..keep.len()).filter(|i| keep.is_valid(*i) && keep.value(*i)).map(|i| d[i]).collect())
            }
        };
        Ok(Self { rows, diffs, origin: self.origin.clone() })
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors
    /// If Arrow refuses, which is a bug.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self> {
        let rows = take_record_batch(&self.rows, indices)?;
        let diffs = match &self.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => Diffs::Each(indices.values().iter().map(|i| d[*i as usize]).collect()),
        };
        Ok(Self { rows, diffs, origin: self.origin.clone() })
    }

    /// Rows `from..from + len`, sharing memory.
    pub fn slice(&self, from: usize, len: usize) -> Self {
        let diffs = match &self.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => Diffs::Each(d[from..from + len].into()),
        };
        Self { rows: self.rows.slice(from, len), diffs, origin: self.origin.clone() }
    }

    /// One batch of all rows, in order; the origin is lost.
    ///
    /// # Errors
    /// If the columns differ.
    pub fn concat(schema: &SchemaRef, parts: &[Changes]) -> Result<Self> {
        let rows = concat_batches(schema, parts.iter().map(|c| &c.rows))
            .map_err(|e| Error::internal("batches with different columns were concatenated").caused_by(e))?;
        if parts.iter().all(|c| matches!(c.diffs, Diffs::Ones)) {
            return Ok(Self::inserts(rows));
        }
        Ok(Self::signed(rows, parts.iter().flat_map(Changes::diff_iter).collect()))
    }
}

impl Default for Changes {
    /// No rows and no columns: what the dataflow leaves behind when it takes a batch out of a buffer.
    fn default() -> Self {
        use std::sync::LazyLock;
        static EMPTY: LazyLock<RecordBatch> = LazyLock::new(|| RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())));
        Self::inserts(EMPTY.clone())
    }
}
