//! The console: what changed, an epoch at a time, as a table for people or as JSON lines for machines.
//!
//! ```text
//!   epoch 12
//!     city    payment_type  orders  amount
//!   - Boston  Card               1   18.00
//!   + Boston  Card               2   36.00
//! ```
//! Invariant: an epoch counts as out once all its bytes were written and flushed; a terminal remembers nothing, so after a
//! crash an epoch may be shown again. Epochs without a row show nothing.

mod table;

use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::format::encode::JsonRows;
use orderflow_core::sink::{Closed, Column, Committed, Guarantee, Input, Opened, Progress, Sink, SinkContext, Writer, WriterId, signed};
use orderflow_core::store::io_error;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;
use table::Table;

/// Text that may wait for an output that takes nothing.
const WAITING: usize = 16 << 20;

/// Shows deltas on the standard output or elsewhere: at least once.
pub struct Console {
    out: Box<dyn Write + Send>,
    colour: bool,
    json: bool,
    limit: usize,
}

impl Console {
    /// A table of deltas on the standard output, `+` for a row that appears and `-` for one that is withdrawn, with a number
    /// where it is several times. In colour if it is a terminal and the environment does not say `NO_COLOR`.
    #[expect(clippy::disallowed_methods, reason = "NO_COLOR is a convention of the environment")]
    pub fn deltas() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Console { out: Box::new(io::stdout()), colour, json: false, limit: usize::MAX }
    }

    /// One JSON object a line instead, with `diff` and `epoch`.
    pub fn json(mut self) -> Self {
        self.json = true;
        self
    }

    /// Shows at most so many rows of an epoch and says how many it left out.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// Writes there instead, without colour.
    pub fn to(mut self, out: impl Write + Send + 'static) -> Self {
        (self.out, self.colour) = (Box::new(out), false);
        self
    }

    /// Colour or not, whatever the output is.
    pub fn colour(mut self, colour: bool) -> Self {
        self.colour = colour;
        self
    }
}

impl Sink for Console {
    fn columns(&self, input: &Input) -> Result<Option<Vec<Column>>> {
        if self.json {
            writable(&input.schema)?;
        }
        Ok(None)
    }

    fn guarantee(&self, _kept: bool) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn kind(&self) -> &'static str {
        "console"
    }

    fn open(self: Box<Self>, context: SinkContext) -> Result<Opened> {
        let shape = if self.json {
            writable(&context.schema)?;
            Shape::Json
        } else {
            Shape::Table(Table::new(context.schema, self.colour))
        };
        let (id, limit, out) = (context.writer, self.limit, self.out);
        let writer = ConsoleWriter { id, limit, shape, out, text: Vec::new(), written: 0, taken: None, committed: None };
        Ok(Opened { writer: Box::new(writer), progress: None })
    }
}

/// Refuses columns that JSON cannot say, or that would hide what the sink adds.
fn writable(columns: &SchemaRef) -> Result<()> {
    JsonRows::of(&RecordBatch::new_empty(signed::schema(columns)?)).map(drop)
}

enum Shape {
    Table(Table),
    Json,
}

struct ConsoleWriter {
    id: WriterId,
    limit: usize,
    shape: Shape,
    out: Box<dyn Write + Send>,
    /// What is still to be shown, from `written` on.
    text: Vec<u8>,
    written: usize,
    taken: Option<Epoch>,
    committed: Option<Epoch>,
}

impl ConsoleWriter {
    fn json(closed: &Closed, limit: usize, text: &mut Vec<u8>) -> Result<()> {
        let mut room = limit;
        for changes in &closed.changes {
            let mut rows = JsonRows::of(changes.rows())?;
            let shown = changes.len().min(room);
            for row in 0..shown {
                rows.append(row, Some((changes.diff(row), closed.epoch)), text);
                text.push(b'\n');
            }
            room -= shown;
        }
        if closed.rows() > limit {
            text.extend_from_slice(format!("{{\"epoch\":{},\"left_out\":{}}}\n", closed.epoch, closed.rows() - limit).as_bytes());
        }
        Ok(())
    }

    fn show(&mut self) -> io::Result<()> {
        while self.written < self.text.len() {
            match self.out.write(&self.text[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.flush()
    }
}

impl Writer for ConsoleWriter {
    fn write(&mut self, closed: Closed) -> Result<()> {
        if self.text.len() - self.written > WAITING {
            self.poll(Duration::ZERO)?;
        }
        let whole = self.text.len();
        let shaped = match &mut self.shape {
            Shape::Table(table) => table.epoch(&closed, self.limit, &mut self.text),
            Shape::Json => Self::json(&closed, self.limit, &mut self.text),
        };
        if shaped.is_err() {
            self.text.truncate(whole);
        }
        shaped?;
        self.taken = Some(closed.epoch);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll(&mut self, _wait: Duration) -> Result<Committed> {
        if self.committed < self.taken {
            self.show().map_err(|e| match e.kind() {
                ErrorKind::BrokenPipe => Error::external("nobody reads the console output any more")
                    .caused_by(e)
                    .hint("the program it was piped into has ended: start again, or write to a file")
                    .permanent(),
                _ => io_error("write to", "the console", e),
            })?;
            self.text.clear();
            self.written = 0;
            self.committed = self.taken;
        }
        let progress = self.committed.map(|epoch| Progress { writer: self.id, epoch, part: 0 });
        Ok(Committed { progress, pending_bytes: 0, refused: Vec::new() })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
