//! From a fetch to changes: records are decoded, hidden columns are added, bad records step aside.
//!
//! Invariant: every record of a fetch is either one row, in the order of the records, or one [`Rejected`] with its bytes and place.

mod lent;

use self::lent::Pool;
use crate::data::{Changes, Origin, Rejected};
use crate::error::{Error, Result};
use crate::format::{Decoder, Format};
use crate::source::{Fetch, Payload, RawBatch, meta};
use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListBuilder, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    StructBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, SchemaRef};
use std::sync::Arc;

/// Decodes the fetches of one source on one worker.
pub struct Ingest {
    name: Arc<str>,
    source: u32,
    decoder: Option<Box<dyn Decoder>>,
    columns: Vec<From>,
    schema: SchemaRef,
    pool: Pool,
}

/// Where an output column comes from.
enum From {
    /// Column of the decoder, or of the rows that the source delivers.
    Data(usize),
    /// A hidden column, by name.
    Hidden(String),
}

impl Ingest {
    /// Reads the columns `wanted` (indices into `full`: `data` data columns, then hidden ones).
    ///
    /// # Errors
    /// A column that the format cannot parse.
    pub fn new(name: Arc<str>, source: u32, format: Option<&dyn Format>, full: &SchemaRef, data: usize, wanted: &[usize]) -> Result<Self> {
        let parsed: Vec<usize> = wanted.iter().copied().filter(|i| *i < data).collect();
        let decoder = format.map(|f| f.decoder(&parsed)).transpose()?;
        let from = |i: &usize| match parsed.iter().position(|p| p == i) {
            Some(at) => From::Data(if decoder.is_some() { at } else { *i }),
            None => From::Hidden(full.field(*i).name().clone()),
        };
        let columns = wanted.iter().map(from).collect();
        Ok(Self { name, source, decoder, columns, schema: Arc::new(full.project(wanted)?), pool: Pool::default() })
    }

    /// The rows of `fetch` and its bad records.
    ///
    /// # Errors
    /// A source that breaks its contract.
    pub fn rows(&mut self, fetch: Fetch) -> Result<(Option<Changes>, Vec<Rejected>)> {
        let origin = Origin { source: self.source, partition: fetch.partition.clone(), position: fetch.from };
        let (changes, rejected) = match fetch.payload {
            Payload::None => return Ok((None, vec![])),
            Payload::Rows(changes) => {
                let data = |c: &From| match c {
                    From::Data(i) => Ok(*i),
                    From::Hidden(n) => Err(Error::user(format!("source '{}' delivers rows, so it has no column {n}", self.name))),
                };
                let indices = self.columns.iter().map(data).collect::<Result<Vec<_>>>()?;
                let columns = indices.iter().map(|i| changes.rows().column(*i).clone()).collect();
                (changes.with_rows(self.batch(columns, changes.len())?), vec![])
            }
            Payload::Raw(raw) => self.decode(&*raw, &fetch.partition)?,
        };
        let changes = Some(changes.with_origin(Some(origin))).filter(|c| !c.is_empty());
        Ok((changes, rejected))
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("source '{}' delivered columns that are not its schema's", self.name)).caused_by(e))
    }

    fn decode(&mut self, raw: &dyn RawBatch, partition: &crate::time::Partition) -> Result<(Changes, Vec<Rejected>)> {
        let Some(decoder) = self.decoder.as_mut() else {
            return Err(Error::internal(format!("source '{}' delivered bytes but has no format", self.name)));
        };
        let (mut rejected, mut bad) = (vec![], vec![]);
        let mut refused = raw.refused().iter().peekable();
        for i in 0..raw.len() {
            let record = raw.record(i);
            let pushed = match (refused.next_if(|r| r.record == i), record.value) {
                (Some(refused), _) => Err(refused.reason.clone()),
                (None, Some(value)) => decoder.push(value),
                (None, None) => Err("a tombstone (no value) in an append-only source".to_owned()),
            };
            if let Err(reason) = pushed {
                bad.push(i);
                let bytes = record.value.unwrap_or_default().to_vec();
                let place = Some((partition.clone(), record.position));
                rejected.push(Rejected { from: self.name.clone(), place, bytes, reason, diff: 1 });
            }
        }
        let batch = decoder.finish()?;
        let rows = raw.len() - bad.len();
        if batch.num_rows() != rows {
            return Err(Error::internal(format!("the decoder of source '{}' lost count: {} of {rows} rows", self.name, batch.num_rows())));
        }
        let mut next_bad = bad.iter().peekable();
        let good: Vec<usize> = if self.columns.iter().any(|c| matches!(c, From::Hidden(_))) {
            (0..raw.len()).filter(|i| next_bad.next_if(|b| *b == i).is_none()).collect()
        } else {
            vec![]
        };
        let column = |c: &From| match c {
            From::Data(i) => Ok(batch.column(*i).clone()),
            From::Hidden(name) => hidden(name, raw, partition, &good, &self.pool),
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        Ok((Changes::inserts(self.batch(columns, rows)?), rejected))
    }
}

fn hidden(name: &str, raw: &dyn RawBatch, partition: &crate::time::Partition, good: &[usize], pool: &Pool) -> Result<ArrayRef> {
    let records = || good.iter().map(|i| raw.record(*i));
    let binary = |f: for<'a> fn(&crate::source::RawRecord<'a>) -> Option<&'a [u8]>| {
        let column = pool.binary(good.iter().map(|i| f(&raw.record(*i))));
        column.ok_or_else(|| Error::external(format!("a fetch of {partition} has more than 2 GB")).hint("let the source take less at once"))
    };
    Ok(match name {
        meta::VALUE => binary(|r| r.value)?,
        meta::KEY => binary(|r| r.key)?,
        meta::TOPIC => Arc::new(StringArray::from_iter_values(good.iter().map(|_| &*partition.topic))),
        meta::PARTITION => Arc::new(Int32Array::from_value(partition.id, good.len())),
        meta::OFFSET => Arc::new(Int64Array::from_iter_values(records().map(|r| r.position as i64))),
        meta::TIMESTAMP => Arc::new(TimestampMillisecondArray::from_iter(records().map(|r| r.timestamp))),
        meta::HEADERS => headers(raw, good)?,
        other => return Err(Error::internal(format!("there is no hidden column {other}"))),
    })
}

fn headers(raw: &dyn RawBatch, good: &[usize]) -> Result<ArrayRef> {
    let DataType::List(item) = meta::headers_type() else { return Err(Error::internal("headers are a list")) };
    let DataType::Struct(fields) = item.data_type() else { return Err(Error::internal("a header is a struct")) };
    let entry = StructBuilder::new(fields.clone(), vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
    let mut list = ListBuilder::new(entry).with_field(item.clone());
    for i in good {
        let mut any = false;
        raw.headers(*i, &mut |key, value| {
            any = true;
            let entry = list.values();
            if let Some(k) = entry.field_builder::<StringBuilder>(0) {
                k.append_value(key);
            }
            if let Some(v) = entry.field_builder::<BinaryBuilder>(1) {
                v.append_option(value);
            }
            entry.append(true);
        });
        list.append(any);
    }
    Ok(Arc::new(list.finish()))
}
