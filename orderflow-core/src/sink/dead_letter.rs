//! The default place of bad rows: a JSONL data set in a local folder, so that nothing is lost by default.
//!
//! Each line has `source`, `topic`, `partition`, `offset`, `reason`, then the record's bytes in one of two columns, and `diff`
//! and `epoch`: `bytes` holds them as text where they are UTF-8, else it is null and `bytes_base64` holds them in base64.
//! ```text
//!   {"source":"orders","topic":"orders","partition":0,"offset":7,"reason":"…","bytes":"{\"order_id\":","bytes_base64":null,"diff":1,"epoch":3}
//! ```
//! Invariant: exactly one of the two is not null, and from it the original bytes come back unchanged.

use super::files::{DataSet, FileEncoder, FileFormat, JsonLines};
use crate::error::{Error, Result};
use crate::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Dead letters in a folder; an ordinary sink, given rows with the columns of [`Rejected::schema`](crate::data::Rejected::schema).
pub struct DeadLetters(DataSet<Letters>);

impl DeadLetters {
    /// Appends to the data set in this folder, which is made if it is not there.
    pub fn append(folder: impl Into<PathBuf>) -> Self {
        DeadLetters(DataSet::append(folder, Letters))
    }
}

impl Sink for DeadLetters {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        self.0.columns(input)
    }

    fn guarantee(&self, kept: bool) -> Guarantee {
        self.0.guarantee(kept)
    }

    fn kind(&self) -> &'static str {
        "dead_letters"
    }

    fn look(&self, context: &SinkContext) -> Result<Option<Progress>> {
        self.0.look(context)
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Box::new(self.0).open(context)
    }
}

/// Dead letters in `dead_letters/<pipeline>-<ledger>/` under the current folder, which is made when the first one comes.
pub fn default_sink(pipeline: &str) -> Box<dyn Sink> {
    Box::new(WhenNeeded { pipeline: pipeline.to_owned() })
}

struct WhenNeeded {
    pipeline: String,
}

impl Sink for WhenNeeded {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn kind(&self) -> &'static str {
        "dead_letters"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let folder = PathBuf::from("dead_letters").join(format!("{}-{:08x}", self.pipeline, context.writer.ledger >> 96));
        Ok(Opened { writer: Box::new(NotYet { folder, context, open: None }), progress: None })
    }
}

/// A writer that opens its data set with the first row.
struct NotYet {
    folder: PathBuf,
    context: SinkContext,
    open: Option<Box<dyn Writer>>,
}

impl Writer for NotYet {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let writer = match &mut self.open {
            Some(writer) => writer,
            none => {
                tracing::warn!(folder = %self.folder.display(), "bad records go to this folder");
                none.insert(Box::new(DeadLetters::append(&self.folder)).open(self.context.clone())?.writer)
            }
        };
        writer.write(closed)
    }

    fn flush(&mut self) -> Result<()> {
        self.open.as_mut().map_or(Ok(()), |w| w.flush())
    }

    fn poll(&mut self, wait: Duration) -> Result<Committed> {
        self.open.as_mut().map_or_else(|| Ok(Committed::default()), |w| w.poll(wait))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.open.map_or(Ok(()), Writer::close)
    }
}

const BYTES: &str = "bytes";
const BASE64: &str = "bytes_base64";

/// JSON lines whose column `bytes` became two.
struct Letters;

impl FileFormat for Letters {
    fn kind(&self) -> &'static str {
        JsonLines.kind()
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>> {
        let (bytes, _) = schema
            .column_with_name(BYTES)
            .filter(|(_, f)| *f.data_type() == DataType::Binary)
            .ok_or_else(|| Error::internal("dead letters were opened for rows without a binary column 'bytes'"))?;
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        let both = [BYTES, BASE64].map(|name| Arc::new(Field::new(name, DataType::Utf8, true)));
        fields.splice(bytes..=bytes, both);
        let schema = Arc::new(Schema::new(fields));
        let lines = JsonLines.encoder(&schema)?;
        Ok(Box::new(LettersEncoder { lines, schema, bytes }))
    }
}

struct LettersEncoder {
    lines: Box<dyn FileEncoder>,
    schema: SchemaRef,
    bytes: usize,
}

impl FileEncoder for LettersEncoder {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let bytes = batch.column(self.bytes).as_binary::<i32>();
        let values = || bytes.iter().map(|b| b.map(|b| (std::str::from_utf8(b).ok(), b)));
        let text = StringArray::from_iter(values().map(|v| v.and_then(|(text, _)| text)));
        let base64 = values().map(|v| v.filter(|(text, _)| text.is_none()).map(|(_, b)| STANDARD.encode(b)));
        let base64 = StringArray::from_iter(base64);
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.splice(self.bytes..=self.bytes, [Arc::new(text) as ArrayRef, Arc::new(base64)]);
        self.lines.write(&RecordBatch::try_new(self.schema.clone(), columns)?, out)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.lines.finish(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Changes, Rejected};
    use crate::sink::Closed;
    use crate::testing::conformance::context;
    use crate::time::{Epoch, Partition};
    use serde_json::{Value, json};
    use std::time::Duration;

    fn rejected(offset: u64, bytes: &[u8], reason: &str) -> Rejected {
        let place = Some((Partition::new("orders", 0), offset));
        Rejected { from: "orders".into(), place, bytes: bytes.into(), reason: reason.into(), diff: 1 }
    }

    #[test]
    fn the_bytes_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(1, 1, &Rejected::schema());
        let mut writer = Box::new(DeadLetters::append(dir.path().join("dead_letters"))).open(context).unwrap().writer;
        let derived = Rejected { from: "totals".into(), place: None, bytes: b"{\"sum\":1}".into(), reason: "too big".into(), diff: -1 };
        let rows =
            [rejected(7, b"{\"order_id\":\n", "cut off"), rejected(8, &[0xff, 0xfe, 0], "not UTF-8"), rejected(9, b"", "empty"), derived];
        writer.write(Closed { epoch: Epoch(3), changes: vec![Rejected::to_changes(&rows).unwrap()] }).unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(3));
        writer.close().unwrap();

        let path = dir.path().join("dead_letters/lane-0_gen-0001_epochs-0000000003-0000000003.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let place = |offset: i64, reason: &str, text: Value, base64: Value| {
            json!({"source": "orders", "topic": "orders", "partition": 0, "offset": offset, "reason": reason,
                   "bytes": text, "bytes_base64": base64, "diff": 1, "epoch": 3})
        };
        let derived = json!({"source": "totals", "topic": null, "partition": null, "offset": null, "reason": "too big",
                             "bytes": "{\"sum\":1}", "bytes_base64": null, "diff": -1, "epoch": 3});
        let want = [
            place(7, "cut off", json!("{\"order_id\":\n"), Value::Null),
            place(8, "not UTF-8", Value::Null, json!("//4A")),
            place(9, "empty", json!(""), Value::Null),
            derived,
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn other_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let rows = Changes::inserts(RecordBatch::new_empty(Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))));
        assert!(DeadLetters::append(dir.path()).columns(&rows.schema().into()).is_err());
    }
}
