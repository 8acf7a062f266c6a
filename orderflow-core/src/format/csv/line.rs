//! Where a CSV record and its fields end, by RFC 4180, in one place for the decoder and for whoever cuts a file into records.
//!
//! Invariant: a quote opens a quoted field only as the field's first byte; within it, delimiters and line ends are text and a doubled
//! quote is one. Nothing is repaired: text after a closing quote, or a quote that is never closed, is an error.

use memchr::{memchr, memchr2};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// Its text; in a quoted field with `doubled`, quotes still stand doubled.
    pub(crate) text: &'a [u8],
    /// Whether it stood in quotes.
    pub(crate) quoted: bool,
    /// Whether it contains doubled quotes.
    pub(crate) doubled: bool,
}

impl Field<'_> {
    /// Appends what the field says.
    pub(crate) fn unquote(&self, out: &mut Vec<u8>) {
        let mut rest = self.text;
        while let Some(quote) = memchr(b'"', rest) {
            out.extend_from_slice(&rest[..=quote]);
            rest = rest.get(quote + 2..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }
}

/// The field of `record` that begins at `start`, and where the next one begins; `None`: it was the last.
///
/// # Errors
/// What is wrong with its quotes.
pub(crate) fn field(record: &[u8], start: usize, delimiter: u8) -> Result<(Field<'_>, Option<usize>), &'static str> {
    if record.get(start) != Some(&b'"') {
        let end = memchr(delimiter, &record[start..]).map(|n| start + n);
        let text = &record[start..end.unwrap_or(record.len())];
        return Ok((Field { text, quoted: false, doubled: false }, end.map(|end| end + 1)));
    }
    let (mut at, mut doubled) = (start + 1, false);
    loop {
        at += memchr(b'"', &record[at..]).ok_or("a quoted field has no end")?;
        match record.get(at + 1) {
            Some(b'"') => (at, doubled) = (at + 2, true),
            next => {
                let text = &record[start + 1..at];
                return match next {
                    None => Ok((Field { text, quoted: true, doubled }, None)),
                    Some(b) if *b == delimiter => Ok((Field { text, quoted: true, doubled }, Some(at + 2))),
                    Some(_) => Err("text follows the closing quote of a field"),
                };
            }
        }
    }
}

/// Finds line ends outside quotes in bytes that come block by block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Splitter {
    quoted: bool,
}

impl Splitter {
    /// The place of the first line end at or after `at` in the record that begins at `start`; else from where to search on when more bytes
    /// have come.
    pub(crate) fn line_end(&mut self, bytes: &[u8], start: usize, mut at: usize, delimiter: u8) -> Result<usize, usize> {
        loop {
            if self.quoted {
                let quote = at + memchr(b'"', &bytes[at..]).ok_or(bytes.len())?;
                match bytes.get(quote + 1) {
                    None => return Err(quote),
                    Some(b'"') => at = quote + 2,
                    Some(_) => (self.quoted, at) = (false, quote + 1),
                }
            } else {
                let found = at + memchr2(b'"', b'\n', &bytes[at..]).ok_or(bytes.len())?;
                if bytes[found] == b'\n' {
                    return Ok(found);
                }
                self.quoted = found == start || bytes[found - 1] == delimiter;
                at = found + 1;
            }
        }
    }
}
