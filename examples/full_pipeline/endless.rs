//! A source that has no end, whatever is in it: who follows waits for what may come, until stopped.

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
        Ok(Box::new(EndlessReader(Box::new(self.0).open(context)?)))
    }
}

struct EndlessReader(Box<dyn Reader>);

impl Reader for EndlessReader {
    fn poll(&mut self) -> Result<Polled> {
        Ok(match self.0.poll()? {
            Polled::Ended => Polled::Idle,
            more => more,
        })
    }

    fn acknowledge(&mut self, positions: &Positions) -> Result<()> {
        self.0.acknowledge(positions)
    }

    fn status(&self) -> SourceStatus {
        self.0.status()
    }

    fn close(&mut self) -> Result<()> {
        self.0.close()
    }
}
