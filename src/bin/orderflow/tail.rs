//! `orderflow tail`: the records of a topic, one a line, from its beginning and then as they come.

use crate::args::Tail;
use orderflow::arrow::array::{Array, AsArray};
use orderflow::arrow::datatypes::{Int32Type, Int64Type, Schema};
use orderflow::format::json::Json;
use orderflow::kafka::{Kafka, Start};
use orderflow::{Error, Pipeline, Result, sink::memory};
use std::io::{BufWriter, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

/// Runs until Ctrl-C, or until nobody reads the output any more.
pub(crate) async fn run(options: Tail) -> Result<()> {
    // no column of the value is asked for: a record that is no JSON is shown all the same, from the dead letters
    let source = Kafka::topic(&options.from.topic).brokers(&options.from.brokers).start(Start::Earliest);
    let source = source.group(format!("orderflow-tail-{}", std::process::id())).format(Json::new(Arc::new(Schema::empty())));
    let mut flow = Pipeline::new("orderflow-tail");
    flow.source("records", source)?;
    let (sink, mut records) = memory::sink(4);
    let (dead, mut bad) = memory::sink(4);
    flow.sql("SELECT _partition, _offset, _value FROM records")?.sink(sink.auto_ack())?;
    let running = flow.epoch_interval(Duration::from_millis(100)).dead_letters(dead.auto_ack()).start().await?;
    let mut out = BufWriter::new(std::io::stdout());
    loop {
        let shown = tokio::select! {
            Some(delivery) = records.recv() => show(&mut out, &delivery, (0, 1, 2)),
            Some(delivery) = bad.recv() => show(&mut out, &delivery, (2, 3, 5)),
            ended = running.wait() => return ended.map(|_| ()),
            _ = tokio::signal::ctrl_c() => return running.stop().await.map(|_| ()),
        };
        match shown {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return running.stop().await.map(|_| ()),
            Err(e) => return Err(Error::external("cannot write to the standard output").caused_by(e)),
        }
    }
}

/// Prints partition, offset and value, found in these columns.
fn show(out: &mut impl Write, delivery: &memory::Delivery, columns: (usize, usize, usize)) -> std::io::Result<()> {
    for changes in &delivery.changes {
        let rows = changes.rows();
        let partitions = rows.column(columns.0).as_primitive::<Int32Type>();
        let offsets = rows.column(columns.1).as_primitive::<Int64Type>();
        let values = rows.column(columns.2).as_binary::<i32>();
        for i in 0..rows.num_rows() {
            write!(out, "{}:{}\t", partitions.value(i), offsets.value(i))?;
            out.write_all(if values.is_null(i) { b"(tombstone)" } else { values.value(i) })?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}
