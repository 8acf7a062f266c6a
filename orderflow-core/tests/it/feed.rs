//! A source that a test drives: signed batches go in one by one, each as one fetch.

use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::data::Changes;
use orderflow_core::error::Result;
use orderflow_core::format::Format;
use orderflow_core::sink::memory::{Deliveries, Delivery};
use orderflow_core::source::{Fetch, Fingerprint, Payload, Polled, Reader, Source, SourceContext, SourceStatus, Waker};
use orderflow_core::time::{Partition, Positions};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The test's end.
pub(crate) struct Feed {
    to: Sender<Changes>,
    wake: Arc<Mutex<Waker>>,
}

impl Feed {
    /// One fetch.
    pub(crate) fn send(&self, rows: RecordBatch, diffs: Vec<i64>) {
        self.to.send(Changes::signed(rows, diffs)).unwrap();
        self.wake.lock().unwrap().wake();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let (to, _) = channel();
        self.to = to; // hang up first, wake second
        self.wake.lock().unwrap().wake();
    }
}

/// The pipeline's end.
pub(crate) struct FeedSource {
    schema: SchemaRef,
    from: Receiver<Changes>,
    wake: Arc<Mutex<Waker>>,
}

pub(crate) fn feed(schema: SchemaRef) -> (Feed, FeedSource) {
    let (to, from) = channel();
    let wake = Arc::new(Mutex::new(Waker::default()));
    (Feed { to, wake: wake.clone() }, FeedSource { schema, from, wake })
}

impl Source for FeedSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        None
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        *self.wake.lock().unwrap() = context.wake;
        let at = context.resume.unwrap_or_default().into_values().next().unwrap_or(0);
        Ok(Box::new(FeedReader { name: context.name, from: self.from, at }))
    }
}

struct FeedReader {
    name: Arc<str>,
    from: Receiver<Changes>,
    at: u64,
}

impl Reader for FeedReader {
    fn poll(&mut self) -> Result<Polled> {
        let changes = match self.from.try_recv() {
            Ok(changes) => changes,
            Err(TryRecvError::Empty) => return Ok(Polled::Idle),
            Err(TryRecvError::Disconnected) => return Ok(Polled::Ended),
        };
        let (from, rows) = (self.at, changes.len());
        self.at += rows as u64;
        let mut fingerprint = Fingerprint::default();
        (from..self.at).for_each(|p| fingerprint.add(p, 0, None));
        let partition = Partition::new(self.name.clone(), 0);
        let bytes = changes.memory();
        Ok(Polled::Fetch(Fetch {
            partition,
            from,
            to: self.at,
            rows,
            bytes,
            fingerprint: fingerprint.finish(),
            latest: fingerprint.latest(),
            payload: Payload::Rows(changes),
        }))
    }

    fn acknowledge(&mut self, _: &Positions) -> Result<()> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::default()
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Receives everything that a memory sink delivers until it closes.
pub(crate) fn collect(mut deliveries: Deliveries) -> JoinHandle<Vec<Delivery>> {
    std::thread::spawn(move || std::iter::from_fn(|| deliveries.blocking_recv()).collect())
}
