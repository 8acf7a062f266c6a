//! What a person sees, what a machine reads, and an output that goes away.

use super::*;
use orderflow_core::arrow::array::{Decimal128Array, Int64Array, RecordBatch, StringArray};
use orderflow_core::arrow::datatypes::{DataType, Field, Schema};
use orderflow_core::data::Changes;
use orderflow_core::error::Retry;
use orderflow_core::testing::conformance::{self, SeenRow, SinkSubject, context};
use std::sync::{Arc, Mutex};

/// An output that the test can read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.len().min(7); // a pipe takes what it takes
        self.0.lock().unwrap().extend_from_slice(&bytes[..part]);
        Ok(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn schema() -> SchemaRef {
    let fields = [("city", DataType::Utf8), ("orders", DataType::Int64), ("amount", DataType::Decimal128(38, 2))];
    Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()))
}

fn changes(rows: &[(i64, Option<&str>, i64, Option<i128>)]) -> Vec<Changes> {
    let cities = StringArray::from_iter(rows.iter().map(|r| r.1));
    let orders = Int64Array::from_iter_values(rows.iter().map(|r| r.2));
    let amounts = Decimal128Array::from_iter(rows.iter().map(|r| r.3)).with_precision_and_scale(38, 2).unwrap();
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(cities), Arc::new(orders), Arc::new(amounts)]).unwrap();
    vec![Changes::signed(batch, rows.iter().map(|r| r.0).collect())]
}

fn shown(console: Console, epochs: Vec<(u64, Vec<Changes>)>) -> String {
    let paper = Paper::default();
    let mut writer = Box::new(console.on_paper(&paper)).open(context(1, 1, &schema())).unwrap().writer;
    for (n, changes) in epochs {
        writer.write(Closed { epoch: Epoch(n), changes }).unwrap();
        assert_eq!(writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(n));
    }
    writer.close().unwrap();
    paper.text()
}

impl Console {
    /// [`Console::to`] that keeps a colour that was asked for.
    fn on_paper(self, paper: &Paper) -> Self {
        let colour = self.colour;
        self.to(paper.clone()).colour(colour)
    }
}

#[test]
fn people_see_an_aligned_table() {
    let long = "a city with a name that is far too long for a console";
    let text = shown(
        Console::deltas().colour(false),
        vec![
            (1, changes(&[(1, Some("Boston"), 1, Some(1_800)), (1, Some("Zürich"), 12, Some(123_456_789))])),
            (2, Vec::new()),
            (3, changes(&[(-1, Some("Boston"), 1, Some(1_800)), (1, Some("Boston"), 2, Some(3_600)), (1, None, -7, None)])),
            (4, changes(&[(1, Some("東京"), 5, Some(5)), (3, Some(long), 1_000_000, Some(-100)), (-2, Some("a\tb\x1b[31m"), 0, Some(0))])),
        ],
    );
    let want = "\
epoch 1
  city    orders      amount
+ Boston       1       18.00
+ Zürich      12  1234567.89
epoch 3
- Boston       1       18.00
+ Boston       2       36.00
+ null        -7        null
epoch 4
   city                               orders      amount
+  東京                                    5        0.05
+3 a city with a name that is far …  1000000       -1.00
-2 a\\tb\\u{1b}[31m                          0        0.00
";
    assert_eq!(text, want, "\n{text}");
}

#[test]
fn the_header_comes_again_after_a_page() {
    let rows: Vec<_> = (0..30).map(|i| (1, Some("Oxford"), i, Some(1))).collect();
    let text = shown(Console::deltas().colour(false), vec![(1, changes(&rows)), (2, changes(&rows[..15]))]);
    let headers: Vec<_> = text.lines().enumerate().filter(|(_, l)| l.contains("city")).map(|(i, _)| i).collect();
    assert_eq!(headers, [1, 22, 44], "after 20 rows each");
}

#[test]
fn a_limit_says_what_it_left_out() {
    let rows = [(1, Some("A"), 1, Some(1)), (1, Some("B"), 2, Some(2)), (-1, Some("C"), 3, Some(3))];
    let two = [changes(&rows), changes(&rows)].concat();
    let epochs = || vec![(1, two.clone()), (2, changes(&rows[..1]))];
    let text = shown(Console::deltas().colour(false).limit(4), epochs());
    assert_eq!(text.lines().filter(|l| l.starts_with(['+', '-'])).count(), 5);
    assert!(text.contains("\n… 2 more rows\nepoch 2\n"), "{text}");
    let json = shown(Console::deltas().json().limit(5), epochs());
    assert_eq!(json.lines().count(), 7);
    assert_eq!(json.lines().nth(5), Some(r#"{"epoch":1,"left_out":1}"#));
    assert_eq!(json.lines().nth(2), Some(r#"{"city":"C","orders":3,"amount":0.03,"diff":-1,"epoch":1}"#));
    assert!(shown(Console::deltas().colour(false).limit(0), epochs()).contains("epoch 2\n… 1 more row\n"));
}

#[test]
fn colour_is_for_terminals_only() {
    let rows = || vec![(1, changes(&[(1, Some("A"), 1, Some(1)), (-1, Some("B"), 1, Some(1))]))];
    let text = shown(Console::deltas().colour(true), rows());
    assert!(text.contains("\x1b[32m+ A") && text.contains("\x1b[31m- B"), "{text:?}");
    let paper = Paper::default();
    assert!(!Console::deltas().colour(true).to(paper).colour, "another output gets none unless told");
}

struct Screen {
    paper: Paper,
}

impl SinkSubject for Screen {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(Console::deltas().json().to(self.paper.clone()))
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        let row = |line: &str| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |n: &str| v[n].as_i64().unwrap();
            SeenRow { epoch: number("epoch") as u64, diff: number("diff"), id: number("id"), name: v["name"].as_str().map(str::to_owned) }
        };
        self.paper.text().lines().map(row).collect()
    }
}

#[test]
fn conforms() {
    conformance::sink(&mut Screen { paper: Paper::default() });
}

/// Fails with one error after the other, then works.
struct Failing(Vec<ErrorKind>, Paper);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.pop() {
            Some(kind) => Err(kind.into()),
            None => self.1.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_goes_away_ends_it_cleanly() {
    let open = |kinds: Vec<ErrorKind>, paper: &Paper| {
        let console = Console::deltas().json().to(Failing(kinds, paper.clone()));
        let mut writer = Box::new(console).open(context(1, 1, &schema())).unwrap().writer;
        writer.write(Closed { epoch: Epoch(1), changes: changes(&[(1, Some("A"), 1, Some(1))]) }).unwrap();
        writer
    };
    let paper = Paper::default();
    let e = open(vec![ErrorKind::BrokenPipe], &paper).poll(Duration::ZERO).unwrap_err();
    assert!(e.retry() == Retry::Never && e.to_string().contains("nobody reads"), "{e}");

    let mut writer = open(vec![ErrorKind::WouldBlock, ErrorKind::Interrupted], &paper);
    assert_eq!(writer.poll(Duration::ZERO).unwrap_err().retry(), Retry::Backoff);
    assert_eq!(writer.poll(Duration::ZERO).unwrap().progress.unwrap().epoch, Epoch(1));
    assert_eq!(paper.text(), "{\"city\":\"A\",\"orders\":1,\"amount\":0.01,\"diff\":1,\"epoch\":1}\n", "once, whole");
}

#[test]
fn a_view_with_a_column_called_diff_can_be_seen_as_a_table_only() {
    let schema = Arc::new(Schema::new(vec![Field::new("diff", DataType::Int64, false)]));
    assert!(Console::deltas().columns(&schema.clone().into()).is_ok());
    assert!(Console::deltas().json().columns(&schema.clone().into()).is_err());
}
