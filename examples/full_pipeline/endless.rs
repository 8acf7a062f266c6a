//! A source that has no end, whatever is in it: who follows waits for what may come, until stopped.
//!
//! Invariant: only what is new is waited for. A source that ends before what an earlier run had read has lost it, and nothing will bring that.

use orderflow::Result;
use orderflow::arrow::datatypes::SchemaRef;
use orderflow::format::Format;
use orderflow::source::{Polled, Reader, Rewind, Source, SourceContext, SourceStatus};
use orderflow::time::Positions;
use std::sync::Arc;

/// The source in it, idle where that one ends.
pub(crate) struct Endless<S>(pub(crate) S);

impl<S: Source> Source for Endless<S> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn format(&self) -> Option<Arc<dyn Format>> {
        self.0.format()
    }

    fn rewind(&self) -> Rewind {
        self.0.rewind()
    }

    fn identity(&self) -> Option<String> {
        self.0.identity()
    }

    fn open(self: Box<Self>, context: SourceContext) -> Result<Box<dyn Reader>> {
        let stood = context.stood.clone();
        Ok(Box::new(EndlessReader { inner: Box::new(self.0).open(context)?, stood }))
    }
}

struct EndlessReader {
    inner: Box<dyn Reader>,
    /// How far an earlier run had read.
    stood: Positions,
}

impl EndlessReader {
    /// Whether a partition is not as far as an earlier run was.
    fn is_behind(&self) -> bool {
        self.inner.status().partitions.iter().any(|p| self.stood.get(&p.partition).is_some_and(|stood| p.position < *stood))
    }
}

impl Reader for EndlessReader {
    fn poll(&mut self) -> Result<Polled> {
        Ok(match self.inner.poll()? {
            Polled::Ended if !self.is_behind() => Polled::Idle,
            more => more,
        })
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        self.inner.acknowledge(positions)
    }

    fn status(&self) -> SourceStatus {
        self.inner.status()
    }

    fn close(&mut self) -> Result<()> {
        self.inner.close()
    }
}
