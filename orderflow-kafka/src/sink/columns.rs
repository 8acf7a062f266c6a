//! Which columns the sink asks for, and where it finds them again in the batches it is given.
//!
//! Invariant: asking ([`KafkaSink::wanted_columns`]) and finding ([`Layout::new`]) agree by the reserved names below, which no
//! view may use.

use super::KafkaSink;
use super::cells::{Cells, HeaderCells, numbers};
use orderflow_core::arrow::array::{Array, Int64Array, LargeBinaryArray};
use orderflow_core::arrow::buffer::OffsetBuffer;
use orderflow_core::arrow::datatypes::{Schema, SchemaRef};
use orderflow_core::data::{Changes, Origin};
use orderflow_core::format::encode::JsonRows;
use orderflow_core::sink::Column;
use orderflow_core::source::meta;
use orderflow_core::time::{Epoch, Partition};
use orderflow_core::{Error, Result};

const TOPIC: &str = "__topic_";
const KEY: &str = "__key";
const VALUE: &str = "__value";
const HEADERS: &str = "__headers";
const TIMESTAMP: &str = "__timestamp";
const OFFSET: &str = "__offset";

/// More transactions side by side than this serve nobody.
const MOST_LANES: usize = 64;

/// Where rows go.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Fixed(String),
    Sql(String),
}

/// A column name as SQL writes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn reserved(name: &str) -> bool {
    matches!(name, KEY | VALUE | HEADERS | TIMESTAMP | OFFSET) || name.starts_with(TOPIC)
}

impl KafkaSink {
    pub(super) fn wanted_columns(&self, input: &SchemaRef) -> Result<Option<Vec<Column>>> {
        if self.topics.is_empty() {
            return Err(Error::user("the Kafka sink names no topic").hint("use .topic(name) or .topic_sql(expression)"));
        }
        if !(1..=MOST_LANES).contains(&self.lanes) {
            return Err(Error::user(format!("a Kafka sink cannot have {} lanes", self.lanes)).hint(format!("choose 1 to {MOST_LANES}")));
        }
        if let Some(taken) = input.fields().iter().find(|f| reserved(f.name())) {
            return Err(
                Error::user(format!("the Kafka sink needs the name '{}' for itself", taken.name())).hint("rename the view's column")
            );
        }
        let has = |name: &str| input.field_with_name(name).is_ok();
        // a stream straight from a byte source keeps its bytes
        let passes = has(meta::VALUE) && self.value.is_none();
        let mut columns = vec![];
        let mut add = |name: &str, given: &Option<String>, hidden: &str| match given {
            Some(sql) => columns.push(Column::new(name, sql)),
            None if passes && has(hidden) => columns.push(Column::new(name, hidden)),
            None => {}
        };
        add(VALUE, &self.value, meta::VALUE);
        add(KEY, &self.key, meta::KEY);
        add(HEADERS, &self.headers, meta::HEADERS);
        add(TIMESTAMP, &self.timestamp, meta::TIMESTAMP);
        add(OFFSET, &None, meta::OFFSET);
        for (i, route) in self.topics.iter().enumerate() {
            if let Route::Sql(sql) = route {
                columns.push(Column::new(format!("{TOPIC}{i}"), sql));
            }
        }
        if passes || self.value.is_some() {
            return Ok(Some(columns));
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let visible = input.fields().iter().filter(|f| !meta::is_hidden(f.name())).map(|f| Column::new(f.name(), quoted(f.name())));
        Ok(Some(visible.chain(columns).collect()))
    }
}

/// Where the wanted columns stand in a batch.
#[derive(Debug)]
pub(crate) struct Layout {
    topics: Vec<Option<usize>>,
    key: Option<usize>,
    value: Option<usize>,
    headers: Option<usize>,
    timestamp: Option<usize>,
    offset: Option<usize>,
    json: Vec<usize>,
}

/// What the records of a batch are made of.
pub(crate) struct Parts {
    value: Cells,
    key: Option<Cells>,
    headers: Option<HeaderCells>,
    timestamp: Option<Int64Array>,
    pub(crate) places: Places,
}

/// Where the rows of a batch came from.
#[derive(Clone)]
pub(crate) struct Places {
    offset: Option<Int64Array>,
    origin: Option<Origin>,
}

impl Layout {
    /// Finds the columns of `schema`; `routes` is the number of topics a row has.
    pub(crate) fn new(schema: &Schema, routes: usize) -> Self {
        let find = |name: &str| schema.index_of(name).ok();
        Self {
            topics: (0..routes).map(|i| find(&format!("{TOPIC}{i}"))).collect(),
            key: find(KEY),
            value: find(VALUE),
            headers: find(HEADERS),
            timestamp: find(TIMESTAMP),
            offset: find(OFFSET),
            json: (0..schema.fields().len()).filter(|i| !reserved(schema.field(*i).name())).collect(),
        }
    }

    /// The topic names of each route; `None` for a fixed one.
    pub(crate) fn topics(&self, changes: &Changes) -> Result<Vec<Option<Cells>>> {
        let cells = |i: &Option<usize>| i.map(|i| Cells::new(changes.rows().column(i))).transpose();
        self.topics.iter().map(cells).collect()
    }

    /// Whether a record stands for a row's change, or for the row itself.
    pub(crate) fn writes_changes(&self) -> bool {
        self.value.is_none()
    }

    pub(crate) fn parts(&self, changes: &Changes, epoch: Epoch) -> Result<Parts> {
        let rows = changes.rows();
        let value = match self.value {
            Some(i) => Cells::new(rows.column(i))?,
            None => self.objects(changes, epoch)?,
        };
        Ok(Parts {
            value,
            key: self.key.map(|i| Cells::new(rows.column(i))).transpose()?,
            headers: self.headers.map(|i| HeaderCells::new(rows.column(i))).transpose()?,
            timestamp: self.timestamp.map(|i| numbers(rows.column(i))).transpose()?,
            places: Places { offset: self.offset.map(|i| numbers(rows.column(i))).transpose()?, origin: changes.origin().cloned() },
        })
    }

    /// The view's columns as JSON objects, each with the multiplicity and the epoch of its change.
    fn objects(&self, changes: &Changes, epoch: Epoch) -> Result<Cells> {
        let rows = changes.rows().project(&self.json)?;
        let mut json = JsonRows::of(&rows)?;
        let (mut bytes, mut ends) = (Vec::with_capacity(changes.len() * 64), Vec::with_capacity(changes.len() + 1));
        ends.push(0);
        for row in 0..changes.len() {
            json.append(row, Some((changes.diff(row), epoch)), &mut bytes);
            ends.push(bytes.len() as i64);
        }
        Ok(Cells::LargeBinary(LargeBinaryArray::new(OffsetBuffer::new(ends.into()), bytes.into(), None)))
    }
}

impl Parts {
    pub(crate) fn value(&self, i: usize) -> Option<&[u8]> {
        self.value.get(i)
    }

    pub(crate) fn key(&self, i: usize) -> Option<&[u8]> {
        self.key.as_ref()?.get(i)
    }

    pub(crate) fn headers(&self, i: usize) -> Option<&HeaderCells> {
        self.headers.as_ref().filter(|h| h.len(i) > 0)
    }

    pub(crate) fn timestamp(&self, i: usize) -> Option<i64> {
        let timestamp = self.timestamp.as_ref()?;
        timestamp.is_valid(i).then(|| timestamp.value(i))
    }
}

impl Places {
    fn offset(&self, i: usize) -> Option<u64> {
        let offset = self.offset.as_ref()?;
        if offset.is_valid(i) { u64::try_from(offset.value(i)).ok() } else { None }
    }

    /// What chooses the partition of a record without a key: its place in the source, where it has one.
    pub(crate) fn spread(&self, i: usize, otherwise: u64) -> u64 {
        let partition = self.origin.as_ref().map_or(0, |o| u64::from(o.partition.id.unsigned_abs()));
        // each source partition begins with another target, so that they do not all move in step
        self.offset(i).map_or(otherwise, |offset| offset.wrapping_add(partition << 10))
    }

    /// Partition and offset of a row.
    pub(crate) fn get(&self, i: usize) -> Option<(Partition, u64)> {
        Some((self.origin.as_ref()?.partition.clone(), self.offset(i)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kafka;
    use orderflow_core::arrow::array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
    use orderflow_core::arrow::datatypes::{DataType, Field};
    use orderflow_core::sink::Sink;
    use std::sync::Arc;

    fn stream() -> SchemaRef {
        let mut fields = vec![Field::new("city", DataType::Utf8, true)];
        fields.extend(meta::fields());
        Arc::new(Schema::new(fields))
    }

    fn view() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("city", DataType::Utf8, true), Field::new("a\"b", DataType::Int64, true)]))
    }

    fn columns(sink: &KafkaSink, schema: &SchemaRef) -> Option<Vec<String>> {
        Some(sink.columns(&schema.clone().into()).unwrap()?.into_iter().map(|c| format!("{}={}", c.name, c.sql)).collect())
    }

    #[test]
    fn a_stream_keeps_its_bytes() {
        let sink = Kafka::sink("b:1").topics_sql(["'a.' || city", "'b'"]);
        let wanted = columns(&sink, &stream()).unwrap();
        assert_eq!(
            wanted,
            [
                "__value=_value",
                "__key=_key",
                "__headers=_headers",
                "__timestamp=_timestamp",
                "__offset=_offset",
                "__topic_0='a.' || city",
                "__topic_1='b'"
            ]
        );
    }

    #[test]
    fn a_view_is_taken_whole_and_needs_nothing_more() {
        assert_eq!(columns(&Kafka::sink("b:1").topic("t"), &view()), None);
        let wanted = columns(&Kafka::sink("b:1").topic_sql("city").key("a\"b"), &view()).unwrap();
        assert_eq!(wanted, ["city=\"city\"", "a\"b=\"a\"\"b\"", "__key=\"a\"\"b\"", "__topic_0=city"]);
    }

    #[test]
    fn an_expression_replaces_the_default() {
        let sink = Kafka::sink("b:1").topic("t").value_sql("city").timestamp_sql("5");
        assert_eq!(columns(&sink, &stream()).unwrap(), ["__value=city", "__timestamp=5"]);
    }

    #[test]
    fn a_sink_without_a_topic_is_refused() {
        assert!(Kafka::sink("b:1").columns(&view().into()).unwrap_err().to_string().contains("no topic"));
    }

    #[test]
    fn a_number_of_lanes_that_makes_no_sense_is_refused() {
        for n in [0, 65] {
            let e = Kafka::sink("b:1").topic("t").lanes(n).columns(&view().into()).unwrap_err();
            assert!(e.to_string().contains(&format!("{n} lanes")) && e.remedy().unwrap().contains("1 to 64"), "{e}");
        }
        assert!(Kafka::sink("b:1").topic("t").lanes(64).columns(&view().into()).is_ok());
    }

    #[test]
    fn a_row_is_an_object_with_its_diff_and_epoch() {
        let money = Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(18, 2).unwrap();
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("ci\"ty", Arc::new(StringArray::from(vec![Some("Mum\"bai\n"), None])) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef, true),
            ("amount", Arc::new(money) as ArrayRef, true),
            (KEY, Arc::new(Int64Array::from(vec![8, 9])) as ArrayRef, true),
        ])
        .unwrap();
        let layout = Layout::new(&rows.schema(), 1);
        let parts = layout.parts(&Changes::signed(rows, vec![1, -1]), Epoch(7)).unwrap();
        let text = |i| std::str::from_utf8(parts.value(i).unwrap()).unwrap();
        assert_eq!(text(0), r#"{"ci\"ty":"Mum\"bai\n","n":1,"amount":123.45,"diff":1,"epoch":7}"#);
        assert_eq!(text(1), r#"{"ci\"ty":null,"n":2,"amount":-0.05,"diff":-1,"epoch":7}"#);
    }
}
