//! The rows behind the stored traces of an aggregate, or of a view's kept rows, without the pipeline that wrote them.
//!
//! Invariant: what [`StoredRows::read`] gives is what a scan of the running state would give as of the same epoch.

use super::fold::Codecs;
use super::value::Row;
use super::{Aggregate, Call, Func, Values};
use crate::data::rowkey::{BUCKETS, bucket, hash_columns};
use crate::dataflow::arrange::{Acc, Accs, Bytes};
use crate::dataflow::partials::Partials;
use crate::error::{Error, Result};
use crate::operator::root::trace_shapes;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How stored traces make rows: small, as it stands in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRows {
    /// Columns of the rows, then types of values: an empty Arrow stream, in base64.
    schema: String,
    keys: usize,
    width: usize,
    calls: Vec<StoredCall>,
    values: Vec<StoredValues>,
    /// Whether a row occurs as often as its group has rows.
    each: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredCall {
    func: Func,
    word: usize,
    /// Whether it counts rows.
    plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredValues {
    call: usize,
    descending: bool,
}

impl StoredRows {
    /// Of a plan; `each`: its groups are the rows of a view, each as often as it occurs.
    ///
    /// # Errors
    /// Only if Arrow refuses, which is a bug.
    pub fn of(plan: &Aggregate, each: bool) -> Result<Self> {
        let values = plan.values.iter().enumerate().map(|(i, v)| Field::new(format!("value {i}"), v.data_type.clone(), true));
        let fields = plan.schema.fields().iter().map(|f| f.as_ref().clone()).chain(values).collect::<Vec<_>>();
        let mut bytes = vec![];
        StreamWriter::try_new(&mut bytes, &Schema::new(fields))?.finish()?;
        let call = |c: &Call| StoredCall { func: c.func, word: c.word, plain: c.arg.is_none() && c.filter.is_none() };
        Ok(Self {
            schema: STANDARD.encode(bytes),
            keys: plan.keys.len(),
            width: plan.width,
            calls: plan.calls.iter().map(call).collect(),
            values: plan.values.iter().map(|v| StoredValues { call: v.call, descending: v.descending }).collect(),
            each,
        })
    }

    fn plan(&self) -> Result<Aggregate> {
        let wrong = || Error::external("the description of a stored state makes no sense").permanent();
        let bytes = STANDARD.decode(&self.schema).map_err(|e| wrong().caused_by(e))?;
        let all = StreamReader::try_new(bytes.as_slice(), None).map_err(|e| wrong().caused_by(e))?.schema();
        let columns = self.keys + self.calls.len();
        if all.fields().len() != columns + self.values.len() || self.values.iter().any(|v| v.call >= self.calls.len()) {
            return Err(wrong());
        }
        let rows: SchemaRef = Arc::new(Schema::new(all.fields()[..columns].to_vec()));
        let column = |i: usize| Arc::new(Column::new(rows.field(i).name(), i)) as Arc<dyn PhysicalExpr>;
        let call = |(i, c): (usize, &StoredCall)| Call {
            func: c.func,
            // what it was computed from is in the accumulators already; only whether there was something counts
            arg: (!c.plain).then(|| column(0)),
            filter: None,
            word: c.word,
            out: rows.field(self.keys + i).data_type().clone(),
        };
        let value = |(i, v): (usize, &StoredValues)| Values {
            data_type: all.field(columns + i).data_type().clone(),
            descending: v.descending,
            call: v.call,
        };
        Ok(Aggregate {
            keys: (0..self.keys).map(column).collect(),
            key_types: rows.fields()[..self.keys].iter().map(|f| f.data_type().clone()).collect(),
            calls: self.calls.iter().enumerate().map(call).collect(),
            values: self.values.iter().enumerate().map(value).collect(),
            width: self.width,
            schema: rows,
        })
    }

    /// Columns of the rows.
    ///
    /// # Errors
    /// A description that makes no sense.
    pub fn schema(&self) -> Result<SchemaRef> {
        Ok(self.plan()?.schema)
    }

    /// The rows in these traces, each given as the content of its files.
    ///
    /// # Errors
    /// Columns that are not those that the description names.
    pub fn read(&self, traces: &[Vec<Vec<RecordBatch>>]) -> Result<RecordBatch> {
        let plan = self.plan()?;
        let shapes = trace_shapes(&plan);
        if shapes.len() != traces.len() {
            return Err(Error::external("a stored state has another number of traces than its description").permanent());
        }
        let content = |(shape, files): (&crate::operator::root::TraceShape, &Vec<Vec<RecordBatch>>)| {
            Ok(Partials::merge(files.iter().map(|f| shape.decode(f, 0..BUCKETS)).collect::<Result<_>>()?))
        };
        let contents = shapes.iter().zip(traces).map(content).collect::<Result<Vec<Partials>>>()?;
        let (mut keys, mut accs) = (Bytes::default(), Accs::with_width(self.width, 0));
        for (i, key) in contents[0].keys.iter().enumerate().filter(|(i, _)| contents[0].accs.get(*i).iter().any(|w| *w != 0)) {
            keys.push(key);
            accs.push(contents[0].accs.get(i));
        }
        if keys.count() == 0 && plan.keys.is_empty() {
            // the only row of an aggregate without keys is there from the beginning
            let mut hash = vec![];
            hash_columns(&[], 1, &mut hash)?;
            keys.push(&[bucket(hash[0])]);
            accs.push_zero();
        }
        let (mut shown, mut columns, mut row): (Vec<&[u8]>, Vec<Vec<_>>, Vec<_>) = (vec![], vec![vec![]; plan.calls.len()], vec![]);
        let mut acc = Acc::zero(self.width);
        for (i, key) in keys.iter().enumerate() {
            acc.0.copy_from_slice(accs.get(i));
            if self.each {
                (0..acc.0[0].max(0)).for_each(|_| shown.push(key));
            } else if plan.row(&acc, |v| first(&contents[v + 1], key), &mut row) == Row::Shown {
                shown.push(key);
                row.drain(..).zip(&mut columns).for_each(|(v, column)| column.push(v));
            }
        }
        if shown.is_empty() { Ok(RecordBatch::new_empty(plan.schema.clone())) } else { Codecs::new(&plan)?.batch(&plan, &shown, columns) }
    }
}

/// The first live value of a group in the sorted content of a trace of values.
fn first(content: &Partials, group: &[u8]) -> Option<Vec<u8>> {
    let (mut low, mut high) = (0, content.keys.count());
    while low < high {
        let middle = low.midpoint(high);
        if content.keys.get(middle) < group { low = middle + 1 } else { high = middle }
    }
    let of_group = (low..content.keys.count()).take_while(|i| content.keys.get(*i).starts_with(group));
    of_group.into_iter().find(|i| content.accs.get(*i)[0] > 0).map(|i| content.keys.get(i)[group.len()..].to_vec())
}
