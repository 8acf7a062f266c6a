//! Storing views takes as long as it takes, and nobody waits for it: neither workers nor sinks nor queries.
//!
//! Invariant: no time is judged. The store gives no answer until the test has seen everything else go on.

use crate::feed::{collect, feed};
use orderflow_core::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use orderflow_core::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use orderflow_core::sink::files::{DataSet, JsonLines};
use orderflow_core::sink::memory;
use orderflow_core::store::layer::{Layer, Layered};
use orderflow_core::store::{Memory, Store, Upload};
use orderflow_core::{Pipeline, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A store that begins no object while it is shut.
#[derive(Clone, Debug, Default)]
struct Slow {
    below: Memory,
    shut: Arc<AtomicBool>,
    /// Whoever waits.
    waiting: Arc<AtomicUsize>,
}

impl Layer for Slow {
    fn below(&self) -> &dyn Store {
        &self.below
    }

    fn put(&self, name: &str) -> Result<Box<dyn Upload>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.shut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.below.put(name)
    }
}

#[tokio::test]
async fn while_views_are_stored_epochs_go_on_on_any_number_of_workers() {
    for workers in [1, 2] {
        let (store, schema) = (Slow::default(), Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])));
        let (feed, source) = feed(schema.clone());
        let (sink, deliveries) = memory::sink(1_000);
        let mut flow = Pipeline::new("slow");
        flow.source("numbers", source).unwrap();
        flow.view("total", "SELECT n % 10 AS k, count(*) AS n FROM numbers GROUP BY n % 10").unwrap().sink(sink.auto_ack()).unwrap();
        let letters = DataSet::on(Arc::new(Memory::new()), "letters", JsonLines);
        let flow =
            flow.state_on(Arc::new(Layered(store.clone())), "state").checkpoint_every(Duration::from_secs(1 << 30)).dead_letters(letters);
        let running = flow.workers(workers).start().await.unwrap();
        let delivered = collect(deliveries);
        let batch = || RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(0..100)) as ArrayRef]).unwrap();
        feed.send(batch(), vec![1; 100]);
        running.settled().await.unwrap();

        store.shut.store(true, Ordering::SeqCst);
        let mut checkpoint = Box::pin(running.checkpoint());
        let began = Instant::now();
        while store.waiting.load(Ordering::SeqCst) == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing is stored");
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut checkpoint).await.is_err(), "it is not stored");
        }
        for round in 2..=20 {
            feed.send(batch(), vec![1; 100]);
            let status =
                tokio::time::timeout(Duration::from_secs(60), running.settled()).await.expect("epochs wait for the store").unwrap();
            assert_eq!((status.checkpoint, status.waits), (None, None));
            let n = running.query("SELECT sum(n) AS n FROM total").await.unwrap();
            assert_eq!(n[0].column(0).as_primitive::<Int64Type>().value(0), 100 * round);
        }
        // sinks commit all the same
        let began = Instant::now();
        while running.status().sinks[0].committed < running.status().complete {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", running.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.shut.store(false, Ordering::SeqCst);
        let stored = checkpoint.await.unwrap();
        assert!(stored < running.status().complete, "it is as of the epoch at which it was asked for");
        running.drain().await.unwrap();
        assert!(!delivered.join().unwrap().is_empty());
    }
}
