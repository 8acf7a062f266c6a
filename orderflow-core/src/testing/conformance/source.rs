//! What every bounded source of bytes or rows must do: hand out each record once, in order, and go on after any fetch as if it had never stopped.

use crate::format::encode::JsonRows;
use crate::source::{Fingerprint, Payload, Polled, Reader, Rewind, Source, SourceContext, Waker};
use crate::time::{Clock, Partition, Position, Positions};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How long a source may be idle before the suite gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// From how many places at most reading is begun anew.
const RESUMED: usize = 40;

/// A record as it was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRecord {
    /// Where it stood.
    pub partition: Partition,
    /// Its position there.
    pub position: Position,
    /// Its bytes, or the first ones of a refused record; of a row, the row as a JSON object.
    pub value: Option<Vec<u8>>,
    /// Why the source refuses it, if it does.
    pub refused: Option<String>,
}

/// What one reading found.
#[derive(Default)]
struct Reading {
    records: Vec<SeenRecord>,
    /// After each fetch: the positions, and the number of records up to there.
    cuts: Vec<(Positions, usize)>,
    /// Sum of the fingerprints of each partition.
    fingerprints: BTreeMap<Partition, u64>,
}

/// Reads the source that `open` makes, whole and then once more from after each of its fetches (or so many of them), and gives what it
/// holds. Every source made must find the same records. A source without a format hands out rows, one at each position.
///
/// # Panics
/// When the source breaks the contract.
#[expect(clippy::expect_used, reason = "a test's helper panics with what went wrong")]
pub fn source(open: &mut dyn FnMut() -> Box<dyn Source>) -> Vec<SeenRecord> {
    let whole = read(open(), None);
    let step = whole.cuts.len().div_ceil(RESUMED).max(1);
    for (positions, before) in whole.cuts.iter().step_by(step) {
        let rest = read(open(), Some(positions.clone()));
        let of = |records: &[SeenRecord], p: &Partition| records.iter().filter(|r| r.partition == *p).cloned().collect::<Vec<_>>();
        for (partition, sum) in &whole.fingerprints {
            let after = of(&whole.records[*before..], partition);
            assert_eq!(of(&rest.records, partition), after, "resumed at {positions:?}");
            if after.is_empty() {
                continue;
            }
            let first = of(&whole.records, partition).len() == after.len();
            let found = rest.fingerprints.get(partition).expect("it has records");
            assert_eq!(found == sum, first, "the fingerprint is that of the records that were read");
        }
    }
    whole.records
}

fn read(source: Box<dyn Source>, resume: Option<Positions>) -> Reading {
    let (wake, woken) = sync_channel(1);
    let context = SourceContext {
        pipeline: "conformance".into(),
        name: "source".into(),
        resume: resume.clone(),
        until: None,
        stood: Positions::new(),
        wake: Waker::new(move || {
            let _ = wake.try_send(()); // it is awake already
        }),
        clock: Clock::manual(0),
    };
    assert_eq!(source.rewind(), Rewind::ByPosition, "what is given once only cannot be read again");
    let rows = source.format().is_none().then(|| source.schema());
    let mut reader = source.open(context).expect("opens");
    let mut reading = Reading::default();
    let mut at = resume.unwrap_or_default();
    while poll(&mut *reader, rows.as_ref(), &woken, &mut reading, &mut at) {}
    assert!(matches!(reader.poll(), Ok(Polled::Ended)), "the end is final");
    for status in reader.status().partitions {
        assert!(status.end.is_none_or(|end| status.position == end), "{status:?} at the end");
        assert!(at.get(&status.partition).is_none_or(|at| *at == status.position), "{status:?}, and fetches ended at {at:?}");
    }
    reader.acknowledge(&at).expect("takes an acknowledgement");
    reader.close().expect("closes");
    reading
}

/// One poll of a source of bytes, or of rows with these columns; false at the end.
fn poll(reader: &mut dyn Reader, rows: Option<&SchemaRef>, woken: &Receiver<()>, reading: &mut Reading, at: &mut Positions) -> bool {
    let fetch = match reader.poll().expect("polls") {
        Polled::Ended => return false,
        Polled::Idle => {
            woken.recv_timeout(PATIENCE).expect("after Idle the engine is woken");
            return true;
        }
        Polled::Fetch(fetch) => fetch,
    };
    let before = at.insert(fetch.partition.clone(), fetch.to);
    assert!(before.is_none_or(|to| fetch.from >= to) && fetch.to > fetch.from, "{}: {} to {}", fetch.partition, fetch.from, fetch.to);
    match &fetch.payload {
        Payload::None => assert_eq!(fetch.rows, 0),
        Payload::Rows(changes) => {
            let Some(columns) = rows else { panic!("a source with a format hands out bytes") };
            assert_eq!(&changes.schema(), columns, "rows have the columns that the source names");
            let held = changes.len();
            assert!(held == fetch.rows && held as u64 == fetch.to - fetch.from, "{held} rows, {} to {}", fetch.from, fetch.to);
            let mut fingerprint = Fingerprint::default();
            (fetch.from..fetch.to).for_each(|p| fingerprint.add(p, 0, None));
            assert_eq!(fetch.fingerprint, fingerprint.finish(), "of rows the fingerprint is that of their positions");
            let mut json = JsonRows::of(changes.rows()).expect("columns that JSON can say");
            for (row, position) in (fetch.from..fetch.to).enumerate() {
                let mut value = vec![];
                json.append(row, None, &mut value);
                reading.records.push(SeenRecord { partition: fetch.partition.clone(), position, value: Some(value), refused: None });
            }
        }
        Payload::Raw(batch) => {
            assert!(rows.is_none(), "a source without a format hands out rows");
            assert!(fetch.rows == batch.len() && !batch.is_empty(), "{} rows, {} records", fetch.rows, batch.len());
            let refused: BTreeMap<usize, &str> = batch.refused().iter().map(|r| (r.record, r.reason.as_str())).collect();
            let order: Vec<usize> = batch.refused().iter().map(|r| r.record).collect();
            assert!(order.is_sorted_by(|a, b| a < b) && order.iter().all(|r| *r < batch.len()), "refused: {order:?} of {}", batch.len());
            let mut next = fetch.from;
            for i in 0..batch.len() {
                let record = batch.record(i);
                assert!(record.position >= next && record.position < fetch.to, "record {} of {next} to {}", record.position, fetch.to);
                next = record.position + 1;
                reading.records.push(SeenRecord {
                    partition: fetch.partition.clone(),
                    position: record.position,
                    value: record.value.map(Into::into),
                    refused: refused.get(&i).map(|r| (*r).to_owned()),
                });
            }
        }
    }
    let sum = reading.fingerprints.entry(fetch.partition.clone()).or_default();
    *sum = sum.wrapping_add(fetch.fingerprint);
    reading.cuts.push((at.clone(), reading.records.len()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::format::Format;
    use crate::operator::closure::panic_text;
    use crate::testing::Topic;
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    fn schema(column: &str) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, false)]))
    }

    /// Two partitions of rows.
    fn topic() -> Topic {
        let rows = |from, to| RecordBatch::try_new(schema("n"), vec![Arc::new(Int64Array::from_iter_values(from..to))]).unwrap();
        Topic::rows(vec![rows(0, 20), rows(100, 107)])
    }

    /// Breaks the contract in one way.
    struct Wrong {
        topic: Topic,
        begins_anew: bool,
        columns: SchemaRef,
    }

    impl Source for Wrong {
        fn schema(&self) -> SchemaRef {
            self.columns.clone()
        }

        fn format(&self) -> Option<Arc<dyn Format>> {
            None
        }

        fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
            let resume = context.resume.filter(|_| !self.begins_anew);
            Box::new(self.topic).open(SourceContext { resume, ..context })
        }
    }

    fn judged(mut make: impl FnMut() -> Box<dyn Source>) -> std::result::Result<Vec<SeenRecord>, String> {
        catch_unwind(AssertUnwindSafe(|| source(&mut make))).map_err(|panic| panic_text(&*panic))
    }

    #[test]
    fn a_source_of_rows_is_judged_too() {
        let seen = judged(|| Box::new(topic())).unwrap();
        let of = |id: i32| {
            let rows = seen.iter().filter(|r| r.partition.id == id);
            rows.map(|r| (r.position, String::from_utf8(r.value.clone().unwrap()).unwrap())).collect::<Vec<_>>()
        };
        let rows = |from: i64, n: u64| (0..n).map(|p| (p, format!("{{\"n\":{}}}", from + p as i64))).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (rows(0, 20), rows(100, 7)));

        let wrong =
            |begins_anew, column| move || Box::new(Wrong { topic: topic(), begins_anew, columns: schema(column) }) as Box<dyn Source>;
        assert_eq!(judged(wrong(false, "n")).unwrap(), seen);
        let said = judged(wrong(false, "m")).unwrap_err();
        assert!(said.contains("rows have the columns that the source names"), "{said}");
        assert!(judged(wrong(true, "n")).is_err(), "it gives rows again");
        let said = judged(|| Box::new(topic().altered(1, 3))).unwrap_err();
        assert!(said.contains("of rows the fingerprint is that of their positions"), "{said}");
    }
}
