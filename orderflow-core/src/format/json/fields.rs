//! The fields of an object: which key stands where, and which column wants it.
//!
//! Records of one stream look alike. So a slot remembers, for each place in the object, the bytes that stood between two values in an
//! earlier record (comma, blanks, key, colon) and the column they announced: where they stand again, one comparison replaces parsing
//! the key and looking it up. Invariant: a slot holds only bytes that were parsed as grammar when it was learnt, so to meet them again
//! proves the same; what differs is parsed anew.

use super::column::{Bad, Column};
use super::scan::{Cursor, unescape};
use crate::error::{Error, Result};
use crate::format::column::LeafOptions;
use arrow::datatypes::Fields as Schema;
use hashbrown::HashMap;

/// Places that are remembered, and how long the bytes between two values may be: a stream of random keys must not fill memory.
const SLOTS: usize = 512;
const SLOT_BYTES: usize = 256;

/// The columns of an object.
#[derive(Debug)]
pub(super) struct Fields {
    columns: Vec<Column>,
    by_name: HashMap<Box<[u8]>, usize>,
    slots: Vec<Slot>,
    /// Number of the object, counted over good and bad ones, in which a column was last filled.
    filled: Vec<u64>,
    object: u64,
}

#[derive(Debug)]
struct Slot {
    bytes: Vec<u8>,
    /// The column that wants the value.
    column: Option<usize>,
}

impl Default for Slot {
    /// A place that nothing is remembered of: a byte that never stands between values.
    fn default() -> Self {
        Self { bytes: vec![0], column: None }
    }
}

/// What stands at the cursor where a field or the end may stand.
enum Next {
    Field(Option<usize>),
    End,
}

impl Fields {
    /// Columns for the fields of an object; errors put `within` before their names.
    ///
    /// # Errors
    /// A type that JSON cannot be parsed into.
    pub(super) fn new(schema: &Schema, within: &str, options: LeafOptions) -> Result<Self> {
        let columns =
            schema.iter().map(|field| Column::new(field, format!("{within}{}", field.name()), options)).collect::<Result<Vec<_>>>()?;
        let by_name: HashMap<Box<[u8]>, usize> = columns.iter().enumerate().map(|(i, c)| (c.name().as_bytes().into(), i)).collect();
        if by_name.len() < columns.len() {
            return Err(Error::user("two columns of the schema have the same name").hint("give every column a name of its own"));
        }
        Ok(Self { filled: vec![0; columns.len()], columns, by_name, slots: Vec::new(), object: 0 })
    }

    /// Its columns in the order of the schema.
    pub(super) fn columns_mut(&mut self) -> impl Iterator<Item = &mut Column> {
        self.columns.iter_mut()
    }

    /// Takes back everything after the first `rows` values of each column.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Appends the object that begins at the cursor or after white space there: one value to each column.
    pub(super) fn push(&mut self, cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Result<(), Bad> {
        self.object += 1;
        let (mut slot, mut count) = (0, 0);
        loop {
            let wanted = if let Some((column, skipped)) = self.remembered(slot, cursor) {
                slot += skipped;
                column
            } else {
                match self.learn(slot, cursor, scratch)? {
                    Next::Field(column) => column,
                    Next::End => break,
                }
            };
            slot += 1;
            cursor.token();
            match wanted {
                None => cursor.skip()?,
                Some(i) => {
                    if std::mem::replace(&mut self.filled[i], self.object) == self.object {
                        return Err(self.columns[i].twice());
                    }
                    self.columns[i].push(cursor, scratch)?;
                    count += 1;
                }
            }
            if cursor.peek() == Some(b'}') {
                cursor.at += 1;
                break;
            }
        }
        if count < self.columns.len() {
            let mut missing = self.columns.iter_mut().zip(&self.filled).filter(|(_, filled)| **filled != self.object);
            return missing.try_for_each(|(column, _)| column.push_missing());
        }
        Ok(())
    }

    /// The column announced by what is at the cursor, if an earlier record had the same there or (a field left out) at the next place.
    #[inline]
    fn remembered(&self, slot: usize, cursor: &mut Cursor<'_>) -> Option<(Option<usize>, usize)> {
        let rest = &cursor.bytes[cursor.at..];
        let expected = self.slots.get(slot)?;
        if begins(rest, &expected.bytes) {
            cursor.at += expected.bytes.len();
            return Some((expected.column, 0));
        }
        // not at the first place: what a later one remembers has no opening brace
        let next = self.slots.get(slot + 1).filter(|next| slot > 0 && begins(rest, &next.bytes))?;
        cursor.at += next.bytes.len();
        Some((next.column, 1))
    }

    /// Parses what announces the next value, and remembers it.
    #[cold]
    fn learn(&mut self, slot: usize, cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Result<Next, Bad> {
        let start = cursor.at;
        let first = slot == 0;
        match (cursor.token(), first) {
            (Some(b'{'), true) => {
                cursor.at += 1;
                if cursor.token() == Some(b'}') {
                    cursor.at += 1;
                    return Ok(Next::End);
                }
            }
            (Some(b','), false) => cursor.at += 1,
            (Some(b'}'), false) => {
                cursor.at += 1;
                return Ok(Next::End);
            }
            (_, true) => return Err(cursor.fault("an object was expected").into()),
            (_, false) => return Err(cursor.fault("',' or '}' was expected").into()),
        }
        let key = cursor.key()?;
        let name = if key.escaped {
            scratch.clear();
            unescape(key.raw, scratch);
            &scratch[..]
        } else {
            key.raw
        };
        let column = self.by_name.get(name).copied();
        cursor.token();
        if slot < SLOTS && cursor.at - start <= SLOT_BYTES {
            if slot >= self.slots.len() {
                self.slots.resize_with(slot + 1, Slot::default);
            }
            let learnt = &mut self.slots[slot];
            learnt.bytes.clear();
            learnt.bytes.extend_from_slice(&cursor.bytes[start..cursor.at]);
            learnt.column = column;
        }
        Ok(Next::Field(column))
    }
}

/// `text.starts_with(with)`, by words of eight bytes: the texts are too short for the call of a compare routine to pay.
#[inline]
fn begins(text: &[u8], with: &[u8]) -> bool {
    let Some(text) = text.get(..with.len()) else { return false };
    match (text.last_chunk::<8>(), with.last_chunk::<8>()) {
        (Some(a), Some(b)) => a == b && text.as_chunks::<8>().0.iter().zip(with.as_chunks::<8>().0).all(|(a, b)| a == b),
        _ => text == with,
    }
}
