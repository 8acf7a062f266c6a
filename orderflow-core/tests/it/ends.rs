//! How a pipeline ends, well or not: whatever closing a source or a sink does, all of them are closed before the state is let go, and no error is lost.
//!
//! Invariant: an end that is closed still finds the folder of the state locked, as a standby does that waits for it.

use crate::heard::Heard;
use orderflow_core::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use orderflow_core::format::Format;
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Sink, SinkContext, Writer};
use orderflow_core::source::{Polled, Reader, Source, SourceContext, SourceStatus};
use orderflow_core::store::Folder;
use orderflow_core::testing::listening;
use orderflow_core::time::{Clock, Positions};
use orderflow_core::{Error, Phase, Pipeline, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What an end does when it is closed, or a source when it is asked for rows.
#[derive(Clone, Copy)]
enum Closing {
    Well,
    Fails,
    Panics,
}

use Closing::{Fails, Panics, Well};

/// How something is closed, or how it cannot even be opened.
type Opens = std::result::Result<Closing, Closing>;

/// What was closed, in order, and the folder whose lock is looked at then.
#[derive(Clone)]
struct Book {
    state: PathBuf,
    closed: Arc<Mutex<Vec<String>>>,
}

impl Book {
    fn new(dir: &tempfile::TempDir) -> Self {
        Self { state: dir.path().join("state"), closed: Arc::default() }
    }

    fn close(&self, name: &str, how: Closing) -> Result<()> {
        let late = if Folder::open(&self.state).is_ok() { " after the state" } else { "" };
        self.closed.lock().unwrap().push(format!("{name}{late}"));
        match how {
            Well => Ok(()),
            Fails => Err(Error::external(format!("{name} does not answer"))),
            Panics => panic!("{name} is out of crackers"),
        }
    }

    /// What was closed, now that the state is free.
    fn closed(&self) -> Vec<String> {
        Folder::open(&self.state).unwrap();
        self.closed.lock().unwrap().clone()
    }
}

/// A source that ends at once, or does not, or panics when it is opened.
struct Spring {
    name: &'static str,
    opens: bool,
    polls: Closing,
    closing: Closing,
    book: Book,
}

impl Source for Spring {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, _: SourceContext) -> Result<Box<dyn Reader>> {
        assert!(self.opens, "{} is out of crackers", self.name);
        Ok(self)
    }
}

impl Reader for Spring {
    fn poll(&mut self) -> Result<Polled> {
        match self.polls {
            Well => Ok(Polled::Ended),
            Fails => Err(Error::external("out of cheese").permanent()),
            Panics => panic!("{} is out of crackers", self.name),
        }
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }

    fn close(&mut self) -> Result<()> {
        self.book.close(self.name, self.closing)
    }
}

/// A sink that gets no row.
struct Drain {
    name: &'static str,
    closing: Opens,
    book: Book,
}

impl Sink for Drain {
    fn columns(&self, _: &Input) -> Result<Option<Vec<Column>>> {
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        self.name
    }

    fn open(self: Box<Self>, _: SinkContext) -> Result<Opened> {
        let Self { name, closing, book } = *self;
        let closing = closing.map_err(|how| match how {
            Panics => panic!("{name} is out of crackers"),
            _ => Error::user("out of cheese"),
        })?;
        Ok(Opened { writer: Box::new(DrainWriter { name, closing, book }), progress: None })
    }
}

struct DrainWriter {
    name: &'static str,
    closing: Closing,
    book: Book,
}

impl Writer for DrainWriter {
    fn write(&mut self, _: Closed) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Committed> {
        Ok(Committed::default())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.book.close(self.name, self.closing)
    }
}

/// Two sources, the first of which may do otherwise; sinks of its rows, one of the other's, and one of the dead letters.
fn flow(book: &Book, polls: Closing, [a, b]: [Closing; 2], [x, y, z]: [Opens; 3]) -> Pipeline {
    let source = |name, polls, closing| Spring { name, opens: true, polls, closing, book: book.clone() };
    let sink = |name, closing| Drain { name, closing, book: book.clone() };
    let mut flow = Pipeline::new("ends");
    let first = flow.source("a", source("a", polls, a)).unwrap();
    first.view("v").unwrap().sink(sink("x", x)).unwrap().sink(sink("y", y)).unwrap();
    flow.source("b", source("b", Well, b)).unwrap().view("w").unwrap().sink(sink("z", z)).unwrap();
    flow.dead_letters(sink("letters", Ok(Well))).state(&book.state)
}

const ALL: [&str; 6] = ["a", "b", "x", "y", "z", "letters"];

/// Runs it on this thread until it ends: why, and what was said meanwhile.
fn end_of(flow: Pipeline) -> (Error, Heard) {
    let (heard, clock) = (Heard::default(), Clock::manual(0));
    let outcome: Result<()> = listening(heard.clone(), || {
        let mut stepper = flow.clock(clock.clone()).stepper()?;
        for _ in 0..10_000 {
            match stepper.step()? {
                Some(busy) => clock.advance(Duration::from_secs(u64::from(!busy))),
                None => return Ok(()),
            }
        }
        panic!("it does not end: {:?}", stepper.status())
    });
    (outcome.unwrap_err(), heard)
}

fn assert_said(heard: &Heard, errors: &[&str]) {
    for error in errors {
        assert_eq!(heard.lines(error).len(), 1, "{error}: {:?}", heard.lines(""));
    }
    assert_eq!(heard.lines("closing ").len(), errors.len(), "{:?}", heard.lines(""));
}

#[test]
fn after_a_failure_all_ends_are_closed_before_the_state_is_let_go_and_every_error_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let (e, heard) = end_of(flow(&book, Fails, [Panics, Fails], [Ok(Fails), Ok(Panics), Ok(Well)]));
    assert!(e.to_string().contains("out of cheese") && !e.to_string().contains("crackers"), "{e}");
    assert_eq!(book.closed(), ALL);
    let said = [
        "closing source a: it panicked: a is out of crackers",
        "closing source b: b does not answer",
        "closing sink x of v: x does not answer",
        "closing sink y of v: it panicked: y is out of crackers",
    ];
    assert_said(&heard, &said);
}

#[test]
fn after_a_good_end_a_panic_in_one_close_does_not_hide_the_error_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let (e, heard) = end_of(flow(&book, Well, [Fails, Panics], [Ok(Panics), Ok(Well), Ok(Fails)]));
    assert_eq!(e.to_string(), "closing source a: a does not answer");
    assert_eq!(book.closed(), ALL, "each once");
    let said = [
        "closing source b: it panicked: b is out of crackers",
        "closing sink x of v: it panicked: x is out of crackers",
        "closing sink z of w: z does not answer",
    ];
    assert_said(&heard, &said);
}

#[test]
fn a_start_that_fails_closes_what_is_open_before_the_state_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let (e, heard) = end_of(flow(&book, Well, [Well, Well], [Ok(Panics), Ok(Fails), Err(Fails)]));
    assert_eq!(e.to_string(), "sink z of w: out of cheese");
    assert_eq!(book.closed(), ["x", "y"]);
    assert_said(&heard, &["closing sink x of v: it panicked: x is out of crackers", "closing sink y of v: y does not answer"]);
}

#[test]
fn a_panic_while_something_is_opened_is_told_with_its_place_and_closes_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let (e, _) = end_of(flow(&book, Well, [Well, Well], [Ok(Well), Err(Panics), Ok(Well)]));
    let told = "sink y of v: it panicked: y is out of crackers\n  hint: a panic is a bug of who wrote this source or sink";
    assert!(e.to_string().starts_with(told), "{e}");
    assert_eq!(book.closed(), ["x"]);

    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let mut flow = flow(&book, Well, [Well, Well], [Ok(Well), Ok(Well), Ok(Well)]);
    flow.source("c", Spring { name: "c", opens: false, polls: Well, closing: Well, book: book.clone() }).unwrap().view("u").unwrap();
    let (e, _) = end_of(flow);
    assert!(e.to_string().starts_with("source c: it panicked: c is out of crackers\n"), "{e}");
    assert_eq!(book.closed(), ALL);
}

#[tokio::test]
async fn with_threads_it_is_the_same() {
    for (polls, why) in
        [(Fails, "out of cheese"), (Well, "closing source a: a does not answer"), (Panics, "source a: it panicked: a is out of crackers")]
    {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::new(&dir);
        let running = flow(&book, polls, [Fails, Panics], [Ok(Panics), Ok(Well), Ok(Fails)]).start().await.unwrap();
        let e = running.wait().await.unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
        assert!(matches!(running.status().phase, Phase::Failed(_)));
        assert_eq!(book.closed(), ALL);
    }
    let dir = tempfile::tempdir().unwrap();
    let book = Book::new(&dir);
    let e = flow(&book, Well, [Well, Well], [Ok(Fails), Ok(Panics), Err(Fails)]).start().await.err().unwrap();
    assert_eq!((e.to_string(), book.closed()), ("sink z of w: out of cheese".to_owned(), vec!["x".to_owned(), "y".to_owned()]));
}

#[tokio::test]
async fn whoever_hears_of_the_end_finds_every_source_and_sink_gone_though_the_handle_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (polls, closing) in [(Well, Well), (Well, Panics), (Fails, Fails)] {
        let book = Book::new(&dir);
        let running = flow(&book, polls, [closing, Well], [Ok(Well), Ok(closing), Ok(Well)]).start().await.unwrap();
        let good = running.wait().await.is_ok();
        assert_eq!(good, matches!((polls, closing), (Well, Well)));
        assert_eq!(Arc::strong_count(&book.closed), 1, "a connection is closed with what has it");
        drop(running);
    }
}
