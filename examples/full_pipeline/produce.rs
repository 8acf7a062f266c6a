//! The producer: seeded orders into the topic, as fast as asked and never too far ahead of the pipeline.
//!
//! Invariant: in each partition the bytes written and not yet read by the pipeline stay below the bound, because a partition of the embedded broker
//! forgets what is beyond 5 MB. In each: on a busy machine one alone may be read late.

use super::PARTITIONS;
use orderflow::Result;
use orderflow::error::Retry;
use orderflow::generator::Orders;
use orderflow::kafka::{Producer, Record};
use orderflow::source::SourceStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What producer and pipeline tell each other.
#[derive(Default)]
pub(crate) struct Pace {
    /// Orders written.
    pub(crate) produced: AtomicU64,
    /// Records that the pipeline has read, by partition.
    pub(crate) read: [AtomicU64; PARTITIONS as usize],
    /// Told to end early.
    pub(crate) stop: AtomicBool,
}

impl Pace {
    /// The pipeline has come so far.
    pub(crate) fn note(&self, source: &SourceStatus) {
        for p in &source.partitions {
            if let Some(read) = self.read.get(p.partition.id as usize) {
                read.store(p.position, Ordering::Relaxed);
            }
        }
    }

    /// Ends the producer when the run is over, however it ends: it may be waiting for a pipeline that is gone.
    pub(crate) fn stop_when_dropped(self: &Arc<Self>) -> impl Drop {
        struct Stop(Arc<Pace>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        Stop(self.clone())
    }
}

/// Takes confirmations. That no broker can be reached is no end: the pipeline says so, and what was sent leaves when one can.
fn confirm(producer: &mut Producer, wait: Duration) -> Result<()> {
    producer.poll(wait).or_else(|e| if e.retry() == Retry::Backoff { Ok(()) } else { Err(e) })
}

/// Writes all orders of `recipe`; `rate` a second, 0: flat out. With `ahead`, into a new topic: the partitions take turns, and in each it is at most so many
/// bytes ahead of what was read.
pub(crate) fn produce(brokers: &str, topic: &str, recipe: &Orders, rate: u64, ahead: Option<u64>, pace: &Arc<Pace>) -> Result<u64> {
    let mut producer = Producer::connect(brokers)?;
    let mut records = recipe.records(0);
    let (mut value, mut key) = (Vec::new(), String::new());
    let (start, mut bytes, mut n) = (Instant::now(), 0u64, 0u64);
    let partitions = pace.read.len() as u64;
    while !pace.stop.load(Ordering::Relaxed) {
        let turn = n % partitions;
        // orders are of about one size
        let unread = || (n / partitions).saturating_sub(pace.read[turn as usize].load(Ordering::Relaxed)) * bytes / n.max(1);
        if ahead.is_some_and(|bound| unread() > bound)
            || rate > 0 && n as f64 > start.elapsed().as_secs_f64() * rate as f64
            || !producer.has_room()
        {
            confirm(&mut producer, Duration::from_millis(2))?;
            continue;
        }
        value.clear();
        key.clear();
        let position = records.position();
        let Some(size) = records.next_into(&mut value) else { break };
        use std::fmt::Write;
        let _ = write!(key, "{position}"); // writing to a String cannot fail
        let partition = ahead.map(|_| turn as i32);
        let record = Record { value: Some(&value), key: Some(key.as_bytes()), partition, ..Record::default() };
        producer.send(topic, record)?;
        (bytes, n) = (bytes + size as u64, n + 1);
        if n.is_multiple_of(1000) {
            confirm(&mut producer, Duration::ZERO)?;
            pace.produced.store(n, Ordering::Relaxed);
        }
    }
    producer.flush(Duration::from_secs(60))?;
    pace.produced.store(n, Ordering::Relaxed);
    Ok(n)
}
