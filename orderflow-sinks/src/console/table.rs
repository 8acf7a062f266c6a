//! The table: columns that stay aligned over the epochs.
//!
//! Invariant: a column only ever gets wider, up to 32 characters; the header comes again when one did, or after 20 rows. A cell
//! cannot break the table or drive the terminal: control characters are shown as escapes.

use orderflow_core::Result;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::arrow::util::display::{ArrayFormatter, FormatOptions};
use orderflow_core::sink::Closed;
use std::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Widest cell.
const CELL: usize = 32;
/// Rows after which the header is repeated.
const PAGE: usize = 20;

pub(super) struct Table {
    heads: Vec<Cell>,
    /// Width of the sign, then of each column.
    widths: Vec<usize>,
    right: Vec<bool>,
    colour: bool,
    /// Rows that the reader may see before the header must come again; 0: it is due.
    page: usize,
}

/// A text and the columns it takes on a terminal.
struct Cell {
    text: String,
    width: usize,
}

impl Cell {
    /// Makes a text fit: no control characters, at most [`CELL`] wide.
    fn new(raw: &str) -> Self {
        let mut text = String::with_capacity(raw.len());
        for c in raw.chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        if text.width() > CELL {
            let mut room = CELL - 1;
            let fits = |c: &char| {
                let left = room.checked_sub(c.width().unwrap_or(0));
                room = left.unwrap_or(0);
                left.is_some()
            };
            text = text.chars().take_while(fits).chain(['…']).collect();
        }
        Cell { width: text.width(), text }
    }
}

impl Table {
    pub(super) fn new(schema: SchemaRef, colour: bool) -> Self {
        let heads: Vec<Cell> = schema.fields().iter().map(|f| Cell::new(f.name())).collect();
        let widths = std::iter::once(1).chain(heads.iter().map(|h| h.width)).collect();
        let right = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
        Table { heads, widths, right, colour, page: 0 }
    }

    /// Appends one epoch, at most `limit` rows of it.
    pub(super) fn epoch(&mut self, closed: &Closed, limit: usize, out: &mut Vec<u8>) -> Result<()> {
        if closed.rows() == 0 {
            return Ok(());
        }
        let rows = cells(closed, limit)?;
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                if cell.width > *width {
                    (*width, self.page) = (cell.width, 0);
                }
            }
        }
        let mut text = String::new();
        self.paint(&mut text, "2", &format!("epoch {}", closed.epoch));
        for row in &rows {
            if self.page == 0 {
                let blank = Cell::new("");
                let line = self.line(std::iter::once(&blank).chain(&self.heads));
                self.paint(&mut text, "1", &line);
                self.page = PAGE;
            }
            let line = self.line(row.iter());
            self.paint(&mut text, if line.starts_with('-') { "31" } else { "32" }, &line);
            self.page -= 1;
        }
        if closed.rows() > limit {
            let left = closed.rows() - limit;
            self.paint(&mut text, "2", &format!("… {left} more row{}", if left == 1 { "" } else { "s" }));
        }
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a Cell>) -> String {
        let mut line = String::new();
        for (i, (cell, width)) in cells.zip(&self.widths).enumerate() {
            let pad = width - cell.width;
            let (before, after) = if i > 0 && self.right[i - 1] { (pad, 0) } else { (0, pad) };
            let gap = if i < 2 { i } else { 2 };
            let _ = write!(line, "{:gap$}{:before$}{}{:after$}", "", "", cell.text, ""); // a String takes everything
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn paint(&self, text: &mut String, code: &str, line: &str) {
        let _ = if self.colour { writeln!(text, "\x1b[{code}m{line}\x1b[0m") } else { writeln!(text, "{line}") };
    }
}

/// The first `limit` rows: sign, then every column.
fn cells(closed: &Closed, limit: usize) -> Result<Vec<Vec<Cell>>> {
    let options = FormatOptions::new().with_null("null").with_display_error(true);
    let mut rows = Vec::new();
    for changes in &closed.changes {
        let columns = changes.rows().columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<Vec<_>, _>>()?;
        for i in 0..changes.len().min(limit - rows.len()) {
            let sign = match changes.diff(i) {
                1 => "+".into(),
                -1 => "-".into(),
                n => format!("{n:+}"),
            };
            rows.push(std::iter::once(Cell::new(&sign)).chain(columns.iter().map(|c| Cell::new(&c.value(i).to_string()))).collect());
        }
    }
    Ok(rows)
}
