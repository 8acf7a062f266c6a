//! JSON values become columns: a [`Leaf`] for what is single, lists and objects as trees of columns.
//!
//! Invariant: [`Column::push`] appends one value or fails; after a failure the owner truncates the whole tree to the rows it had.

use super::fields::Fields;
use super::scan::{Cursor, Syntax, unescape};
use crate::error::Result;
use crate::format::column::{Leaf, LeafOptions, Wrong, null_buffer, offsets, unsupported};
use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::datatypes::{DataType, FieldRef};
use std::sync::Arc;

/// Why a record is bad; boxed, because it is rare and should not make every result wide.
#[derive(Debug)]
pub(super) struct Bad(Box<Reason>);

#[derive(Debug)]
enum Reason {
    Syntax(Syntax),
    Field(String),
}

impl Bad {
    /// A sentence about a field.
    #[cold]
    pub(super) fn field(sentence: String) -> Self {
        Bad(Box::new(Reason::Field(sentence)))
    }

    /// The sentence for the dead letter.
    pub(super) fn sentence(self) -> String {
        match *self.0 {
            Reason::Field(sentence) => sentence,
            Reason::Syntax(Syntax { what, at }) => format!("not JSON at byte {at}: {what}"),
        }
    }
}

impl From<Syntax> for Bad {
    #[cold]
    fn from(syntax: Syntax) -> Self {
        Bad(Box::new(Reason::Syntax(syntax)))
    }
}

/// A column of the schema while it is filled.
#[derive(Debug)]
pub(super) struct Column {
    field: FieldRef,
    /// Its name with those of the objects around it.
    path: String,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Leaf(Leaf),
    List { ends: Vec<i32>, nulls: Vec<u32>, item: Box<Column> },
    Struct { rows: usize, nulls: Vec<u32>, fields: Box<Fields> },
}

impl Column {
    /// A column for `field`, which errors call `path`.
    ///
    /// # Errors
    /// A type that JSON cannot be parsed into.
    pub(super) fn new(field: &FieldRef, path: String, options: LeafOptions) -> Result<Self> {
        let node = match field.data_type() {
            DataType::List(item) => {
                let item = Box::new(Column::new(item, format!("{path}[]"), options)?);
                Node::List { ends: Vec::new(), nulls: Vec::new(), item }
            }
            DataType::Struct(children) => {
                let fields = Box::new(Fields::new(children, &format!("{path}."), options)?);
                Node::Struct { rows: 0, nulls: Vec::new(), fields }
            }
            single => Node::Leaf(Leaf::new(single, options).ok_or_else(|| unsupported("JSON", &path, single))?),
        };
        Ok(Self { field: field.clone(), path, node })
    }

    /// Its name, as records spell it.
    pub(super) fn name(&self) -> &str {
        self.field.name()
    }

    /// Takes back everything after the first `len` values.
    pub(super) fn truncate(&mut self, len: usize) {
        let forget = |nulls: &mut Vec<u32>| {
            while nulls.last().is_some_and(|row| *row as usize >= len) {
                nulls.pop();
            }
        };
        match &mut self.node {
            Node::Leaf(leaf) => leaf.truncate(len),
            Node::List { ends, nulls, item } => {
                ends.truncate(len);
                item.truncate(ends.last().map_or(0, |end| *end as usize));
                forget(nulls);
            }
            Node::Struct { rows, nulls, fields } => {
                *rows = len.min(*rows);
                fields.truncate(len);
                forget(nulls);
            }
        }
    }

    /// Appends the value that begins at the cursor.
    #[inline]
    pub(super) fn push(&mut self, cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Result<(), Bad> {
        let start = cursor.at;
        let pushed = match (cursor.peek(), &mut self.node) {
            (Some(b'"'), Node::Leaf(leaf)) => {
                let text = cursor.string()?;
                if text.escaped {
                    scratch.clear();
                    unescape(text.raw, scratch);
                    leaf.push_string(scratch)
                } else {
                    leaf.push_string(text.raw)
                }
            }
            (Some(b'-' | b'0'..=b'9'), Node::Leaf(leaf)) => leaf.push_number(&cursor.number()?),
            (Some(b't'), Node::Leaf(leaf)) => {
                cursor.word("true")?;
                leaf.push_bool(true)
            }
            (Some(b'f'), Node::Leaf(leaf)) => {
                cursor.word("false")?;
                leaf.push_bool(false)
            }
            (Some(b'n'), _) => {
                cursor.word("null")?;
                if self.field.is_nullable() { self.push_null() } else { Err(Wrong::Null) }
            }
            (Some(b'['), Node::List { .. }) => return self.push_list(cursor, scratch),
            (Some(b'{'), Node::Struct { rows, fields, .. }) => {
                fields.push(cursor, scratch)?;
                *rows += 1;
                return Ok(());
            }
            _ => {
                cursor.skip()?;
                Err(Wrong::Type)
            }
        };
        pushed.map_err(|wrong| self.bad(wrong, &cursor.bytes[start..cursor.at]))
    }

    fn push_list(&mut self, cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Result<(), Bad> {
        let Node::List { ends, item, .. } = &mut self.node else { return Ok(()) };
        let mut len = ends.last().copied().unwrap_or(0);
        cursor.at += 1;
        if cursor.token() == Some(b']') {
            cursor.at += 1;
            ends.push(len);
            return Ok(());
        }
        loop {
            cursor.token();
            item.push(cursor, scratch)?;
            len = len.checked_add(1).ok_or_else(|| Bad::field(Wrong::Full.describe(&self.path, self.field.data_type(), b"")))?;
            match cursor.token() {
                Some(b',') => cursor.at += 1,
                Some(b']') => {
                    cursor.at += 1;
                    ends.push(len);
                    return Ok(());
                }
                _ => return Err(cursor.fault("',' or ']' was expected").into()),
            }
        }
    }

    /// Appends a null, whether or not the column may hold one: below a null object every column gets a row.
    fn push_null(&mut self) -> Result<(), Wrong> {
        let row = |len: usize| u32::try_from(len).map_err(|_| Wrong::Full);
        match &mut self.node {
            Node::Leaf(leaf) => leaf.push_null(),
            Node::List { ends, nulls, .. } => {
                nulls.push(row(ends.len())?);
                ends.push(ends.last().copied().unwrap_or(0));
                Ok(())
            }
            Node::Struct { rows, nulls, fields } => {
                nulls.push(row(*rows)?);
                *rows += 1;
                fields.columns_mut().try_for_each(Column::push_null)
            }
        }
    }

    /// Appends what a record without this field means.
    pub(super) fn push_missing(&mut self) -> Result<(), Bad> {
        if !self.field.is_nullable() {
            return Err(Bad::field(format!("field '{}' is missing", self.path)));
        }
        self.push_null().map_err(|wrong| self.bad(wrong, b""))
    }

    /// The sentence for a field that stands twice in its object.
    #[cold]
    pub(super) fn twice(&self) -> Bad {
        Bad::field(format!("field '{}' appears twice", self.path))
    }

    #[cold]
    fn bad(&self, wrong: Wrong, found: &[u8]) -> Bad {
        Bad::field(wrong.describe(&self.path, self.field.data_type(), found))
    }

    /// The values as an array; starts over.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        match (&mut self.node, self.field.data_type()) {
            (Node::Leaf(leaf), data_type) => leaf.finish(data_type),
            (Node::List { ends, nulls, item }, _) => {
                let nulls = null_buffer(nulls, ends.len());
                let values = item.finish()?;
                Ok(Arc::new(ListArray::try_new(item.field.clone(), offsets(ends), values, nulls)?))
            }
            (Node::Struct { rows, nulls, fields }, data_type) => {
                let DataType::Struct(children) = data_type else {
                    return Err(crate::Error::internal(format!("an object was asked for {data_type}")));
                };
                let nulls = null_buffer(nulls, *rows);
                let arrays = fields.columns_mut().map(Column::finish).collect::<Result<Vec<_>>>()?;
                let len = std::mem::take(rows);
                Ok(Arc::new(StructArray::try_new_with_length(children.clone(), arrays, nulls, len)?))
            }
        }
    }
}
