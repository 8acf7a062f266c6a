//! How many records each topic has taken, for whoever keeps the handle.
//!
//! Invariant: a record is counted when the broker has confirmed it, once per topic it was written to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of confirmed records by topic; a handle that stays valid while the sink runs and after.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Counters {
    /// Records by topic.
    pub fn records(&self) -> BTreeMap<String, u64> {
        let topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        topics.iter().map(|(topic, n)| (topic.clone(), n.load(Ordering::Relaxed))).collect()
    }

    /// Records in all topics.
    pub fn total(&self) -> u64 {
        self.records().values().sum()
    }

    /// The count of one topic, which appears with its first record.
    pub(crate) fn topic(&self, name: &str) -> Arc<AtomicU64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }
}
