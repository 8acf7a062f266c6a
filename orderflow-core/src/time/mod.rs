//! Time as the engine knows it: epochs of processing, positions in sources, and the only clock.
//!
//! Invariant: nothing else in the library asks the operating system what time it is, so a test that holds the [`Clock`] holds time.

mod clock;

pub use clock::Clock;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One closed slice of input, numbered from 1; epoch 0 is the resolved start, before any input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One ordered log of a source: a partition of a topic, a file, or the single log of a channel or generator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic, the file's path, or the source's own name.
    pub topic: Arc<str>,
    /// Number within the topic; 0 where there is only one.
    pub id: i32,
}

impl Partition {
    /// Partition `id` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, id: i32) -> Self {
        Self { topic: topic.into(), id }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.id)
    }
}

/// A source's own time in one partition: the position of the *next* record (a Kafka offset, a byte position, a row number).
pub type Position = u64;

/// The next position of every partition that a source has seen.
pub type Positions = BTreeMap<Partition, Position>;
