//! The conformance suite, and what a host can do.

use super::*;
use crate::error::Retry;
use crate::testing::conformance::{self, SeenRow, SinkSubject, closed, context, schema};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;

struct Host {
    sink: MemorySink,
    deliveries: Deliveries,
    stored: Vec<SeenRow>,
    by_epoch: bool,
}

fn rows(delivery: &Delivery) -> Vec<SeenRow> {
    let row = |c: &Changes, i: usize| {
        let names = c.rows().column(1).as_string::<i32>();
        let name = names.is_valid(i).then(|| names.value(i).to_owned());
        SeenRow { epoch: delivery.epoch().0, diff: c.diff(i), id: c.rows().column(0).as_primitive::<Int64Type>().value(i), name }
    };
    delivery.changes.iter().flat_map(|c| (0..c.len()).map(move |i| row(c, i))).collect()
}

impl SinkSubject for Host {
    fn sink(&mut self) -> Box<dyn Sink> {
        Box::new(self.sink.clone())
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        self.stored.clone()
    }

    fn between_polls(&mut self) {
        while let Ok(Some(delivery)) = self.deliveries.try_recv() {
            self.stored.extend(rows(&delivery));
            if self.by_epoch { self.deliveries.ack(delivery.epoch()) } else { delivery.ack() }
        }
    }
}

/// A host that takes nothing until told: polls of uncommitted epochs must not move it.
struct Careful(Host, bool);

impl SinkSubject for Careful {
    fn sink(&mut self) -> Box<dyn Sink> {
        self.0.sink()
    }

    fn seen(&mut self) -> Vec<SeenRow> {
        self.0.seen()
    }

    fn between_polls(&mut self) {
        // every second call only: the writer has to wait for the host
        self.1 = !self.1;
        if self.1 {
            self.0.between_polls();
        }
    }
}

#[test]
fn conforms() {
    for by_epoch in [false, true] {
        let (sink, deliveries) = sink(2);
        conformance::sink(&mut Careful(Host { sink, deliveries, stored: Vec::new(), by_epoch }, by_epoch));
    }
}

#[test]
fn auto_ack_conforms() {
    let (sink, deliveries) = sink(2);
    conformance::sink(&mut Host { sink: sink.auto_ack(), deliveries, stored: Vec::new(), by_epoch: false });
}

#[test]
fn progress_is_what_the_host_acknowledged() {
    for by_epoch in [false, true] {
        let (sink, deliveries) = sink(2);
        let mut host = Careful(Host { sink: sink.clone(), deliveries, stored: Vec::new(), by_epoch }, false);
        let mut writer = Box::new(sink).open(context(1, 1, &schema())).unwrap().writer;
        for n in 1..=5 {
            writer.write(closed(n)).unwrap();
        }
        let committed = writer.poll(Duration::ZERO).unwrap();
        assert_eq!(committed.progress, None);
        assert!(committed.pending_bytes > 0, "3 of 5 epochs found no room");
        for _ in 0..10 {
            host.between_polls();
            writer.poll(Duration::ZERO).unwrap();
        }
        let committed = writer.poll(Duration::ZERO).unwrap();
        assert_eq!(committed.progress.unwrap().epoch, Epoch(5));
        assert_eq!(committed.pending_bytes, 0);
        assert_eq!(host.seen(), (1..=5).flat_map(conformance::expected).collect::<Vec<_>>());
    }
}

#[test]
fn a_new_opening_delivers_again_what_was_not_acknowledged() {
    let (sink, mut deliveries) = sink(9);
    let mut first = Box::new(sink.clone()).open(context(1, 1, &schema())).unwrap().writer;
    for n in 1..=3 {
        first.write(closed(n)).unwrap();
    }
    deliveries.try_recv().unwrap().unwrap().ack();
    let late = deliveries.try_recv().unwrap().unwrap();
    assert_eq!(late.epoch(), Epoch(2));

    let second = Box::new(sink).open(context(1, 2, &schema())).unwrap();
    let held = second.progress.unwrap();
    assert_eq!((held.epoch, held.writer.generation), (Epoch(1), 1));
    let mut second = second.writer;
    late.ack();
    deliveries.ack(Epoch(2));
    assert_eq!(second.poll(Duration::ZERO).unwrap().progress, Some(held), "a late acknowledgement is ignored");
    assert_eq!(deliveries.try_recv().unwrap_err(), Empty);
    second.write(closed(2)).unwrap();
    assert_eq!(deliveries.try_recv().unwrap().unwrap().progress.writer.generation, 2);
    assert_eq!(first.poll(Duration::ZERO).unwrap_err().retry(), Retry::Never, "the older writer is fenced");
    assert!(second.write(closed(2)).is_err(), "an epoch is given once");
}

#[test]
fn a_host_that_kept_the_progress_goes_on_after_it() {
    let kept = Progress { writer: WriterId { ledger: 1, generation: 4 }, epoch: Epoch(17), part: 0 };
    let (sink, _deliveries) = sink(1);
    assert_eq!(Box::new(sink.resume_after(kept)).open(context(1, 5, &schema())).unwrap().progress, Some(kept));
}

#[test]
fn a_host_that_is_gone_ends_the_pipeline() {
    let (sink, deliveries) = sink(1);
    let mut writer = Box::new(sink.clone()).open(context(1, 1, &schema())).unwrap().writer;
    writer.write(closed(1)).unwrap();
    drop(deliveries);
    for e in [writer.write(closed(2)).unwrap_err(), writer.poll(Duration::from_secs(9)).unwrap_err()] {
        assert_eq!(e.retry(), Retry::Never);
        assert!(e.to_string().contains("the host dropped the receiver"), "{e}");
    }
    assert!(Box::new(sink).open(context(1, 2, &schema())).is_err());
}

#[test]
fn the_host_learns_the_end() {
    let (sink, mut deliveries) = sink(1);
    let mut writer = Box::new(sink).open(context(1, 1, &schema())).unwrap().writer;
    writer.write(closed(1)).unwrap();
    assert_eq!(deliveries.blocking_recv().unwrap().epoch(), Epoch(1));
    writer.close().unwrap();
    assert!(deliveries.blocking_recv().is_none());
    assert!(deliveries.try_recv().unwrap().is_none());
}

/// Writes 100 epochs from a thread of its own, and closes when all are acknowledged.
fn pump(sink: MemorySink) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut writer = Box::new(sink).open(context(1, 1, &schema())).unwrap().writer;
        for n in 1..=100 {
            writer.write(closed(n)).unwrap();
            writer.poll(Duration::ZERO).unwrap();
        }
        while writer.poll(Duration::from_secs(60)).unwrap().progress.map(|p| p.epoch) != Some(Epoch(100)) {}
        writer.close().unwrap();
    })
}

#[test]
fn every_runtime_and_none_will_do() {
    let all: Vec<_> = (1..=100).flat_map(conformance::expected).collect();
    let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for runtime in [&current, &multi] {
        let (sink, mut deliveries) = sink(3);
        let writing = pump(sink);
        let seen = runtime.block_on(async {
            let mut seen = Vec::new();
            while let Some(delivery) = deliveries.recv().await {
                seen.extend(rows(&delivery));
                delivery.ack();
            }
            seen
        });
        writing.join().unwrap();
        assert_eq!(seen, all);
    }
    let (sink, mut deliveries) = sink(3);
    let writing = pump(sink);
    let mut seen = Vec::new();
    while let Some(delivery) = deliveries.blocking_recv() {
        seen.extend(rows(&delivery));
        delivery.ack();
    }
    writing.join().unwrap();
    assert_eq!(seen, all);
}
