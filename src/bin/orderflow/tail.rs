//! `orderflow tail`: the records of a topic, one a line, from its beginning and then as they come.
//!
//! Invariant: what is acknowledged has been written, so with state no record is left out after a crash; the last ones may be shown again.

use crate::args::Tail;
use crate::words::by_options;
use orderflow::arrow::array::{Array, AsArray};
use orderflow::arrow::datatypes::{Int32Type, Int64Type, Schema};
use orderflow::format::json::Json;
use orderflow::kafka::{Kafka, Start};
use orderflow::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId};
use orderflow::{Error, Pipeline, Result};
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Runs until Ctrl-C, or until nobody reads the output any more.
pub(crate) async fn run(options: Tail) -> Result<()> {
    let topic = &options.from.topic;
    let group = match options.state {
        Some(_) => format!("orderflow-tail-{topic}"),
        None => format!("orderflow-tail-{}", std::process::id()),
    };
    // no column of the value is asked for: a record that is no JSON is shown all the same, from the dead letters
    let source = Kafka::topic(topic).brokers(&options.from.brokers).start(Start::Earliest).compacted();
    let source = source.group(group).format(Json::new(Arc::new(Schema::empty())));
    let mut flow = Pipeline::new(format!("tail-{topic}"));
    flow.source("records", source)?;
    let alone = Arc::new(AtomicBool::new(false));
    let lines = |columns| Lines { columns, alone: alone.clone() };
    flow.sql("SELECT _partition, _offset, _value FROM records")?.sink(lines([0, 1, 2]))?;
    let flow = flow.epoch_interval(options.epoch).dead_letters(lines([2, 3, 5]));
    let flow = match options.state {
        Some(state) => flow.state(state).wait_for_state(options.standby.time()),
        None => flow,
    };
    let running = flow.start().await.map_err(by_options)?;
    let ended = tokio::select! {
        ended = running.wait() => ended,
        _ = tokio::signal::ctrl_c() => running.drain().await,
    };
    if alone.load(Ordering::SeqCst) { Ok(()) } else { ended.map(drop) }
}

/// Shows partition, offset and value, found in these columns.
struct Lines {
    columns: [usize; 3],
    /// Set when nobody reads any more.
    alone: Arc<AtomicBool>,
}

impl Sink for Lines {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "lines"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        Ok(Opened { writer: Box::new(LinesWriter { lines: *self, id: context.writer, shown: None }), progress: None })
    }
}

struct LinesWriter {
    lines: Lines,
    id: WriterId,
    shown: Option<Progress>,
}

impl Writer for LinesWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let shown = closed.changes.iter().try_for_each(|changes| show(&mut out, changes.rows(), self.lines.columns));
        shown.and_then(|()| out.flush()).map_err(|e| {
            self.lines.alone.fetch_or(e.kind() == ErrorKind::BrokenPipe, Ordering::SeqCst);
            Error::external("cannot write to the standard output").caused_by(e).permanent()
        })?;
        self.shown = Some(Progress { writer: self.id, epoch: closed.epoch, part: 0 });
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _wait: Duration) -> Result<Committed> {
        Ok(Committed { progress: self.shown, ..Committed::default() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn show(out: &mut impl Write, rows: &orderflow::arrow::array::RecordBatch, [partition, offset, value]: [usize; 3]) -> io::Result<()> {
    let partitions = rows.column(partition).as_primitive::<Int32Type>();
    let offsets = rows.column(offset).as_primitive::<Int64Type>();
    let values = rows.column(value).as_binary::<i32>();
    for i in 0..rows.num_rows() {
        write!(out, "{}:{}\t", partitions.value(i), offsets.value(i))?;
        out.write_all(if values.is_null(i) { b"(tombstone)" } else { values.value(i) })?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
