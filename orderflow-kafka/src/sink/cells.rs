//! A column read as bytes, whatever its Arrow type: keys, values, topic names and headers.
//!
//! Invariant: text and binary columns are borrowed, never copied; any other type is printed once, as SQL would cast it to text.

use orderflow_core::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, LargeBinaryArray, LargeStringArray, ListArray, StringArray, StringViewArray,
};
use orderflow_core::arrow::compute::cast;
use orderflow_core::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use orderflow_core::{Error, Result};

/// What to do about a column that is no text and cannot become one.
const CAST: &str = "cast it to text in the expression that the sink is given, or select its parts";

/// A column whose cells are bytes.
#[derive(Clone, Debug)]
pub(crate) enum Cells {
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
}

impl Cells {
    pub(crate) fn new(column: &ArrayRef) -> Result<Self> {
        Ok(match column.data_type() {
            DataType::Utf8 => Self::Utf8(column.as_string().clone()),
            DataType::LargeUtf8 => Self::LargeUtf8(column.as_string().clone()),
            DataType::Utf8View => Self::Utf8View(column.as_string_view().clone()),
            DataType::Binary => Self::Binary(column.as_binary().clone()),
            DataType::LargeBinary => Self::LargeBinary(column.as_binary().clone()),
            DataType::BinaryView => Self::BinaryView(column.as_binary_view().clone()),
            other => {
                let text = cast(column, &DataType::Utf8)
                    .map_err(|e| Error::user(format!("a column of type {other} cannot be written as text")).caused_by(e).hint(CAST))?;
                Self::Utf8(text.as_string().clone())
            }
        })
    }

    pub(crate) fn get(&self, i: usize) -> Option<&[u8]> {
        match self {
            Self::Utf8(a) => a.is_valid(i).then(|| a.value(i).as_bytes()),
            Self::LargeUtf8(a) => a.is_valid(i).then(|| a.value(i).as_bytes()),
            Self::Utf8View(a) => a.is_valid(i).then(|| a.value(i).as_bytes()),
            Self::Binary(a) => a.is_valid(i).then(|| a.value(i)),
            Self::LargeBinary(a) => a.is_valid(i).then(|| a.value(i)),
            Self::BinaryView(a) => a.is_valid(i).then(|| a.value(i)),
        }
    }
}

/// A column of whole numbers: milliseconds since 1970, or offsets.
pub(crate) fn numbers(column: &ArrayRef) -> Result<orderflow_core::arrow::array::Int64Array> {
    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
    let refused = |e| {
        let error = Error::user(format!("a column of type {} is no timestamp", column.data_type())).caused_by(e);
        error.hint("give the sink a TIMESTAMP, or milliseconds since 1970 as a BIGINT")
    };
    let column = if column.data_type().is_temporal() { cast(column, &millis).map_err(refused)? } else { column.clone() };
    Ok(cast(&column, &DataType::Int64).map_err(refused)?.as_primitive::<Int64Type>().clone())
}

/// A column of headers: a list of (name, value).
#[derive(Clone, Debug)]
pub(crate) struct HeaderCells {
    lists: ListArray,
    names: Cells,
    values: Cells,
}

impl HeaderCells {
    pub(crate) fn new(column: &ArrayRef) -> Result<Self> {
        let refused = || {
            Error::user(format!("a column of type {} holds no headers", column.data_type()))
                .hint("headers are a list of structs with a text field and a text or binary field, as in _headers")
        };
        let lists = column.as_list_opt::<i32>().ok_or_else(refused)?.clone();
        let entries = lists.values().as_struct_opt().filter(|s| s.num_columns() == 2).ok_or_else(refused)?;
        let (names, values) = (Cells::new(entries.column(0))?, Cells::new(entries.column(1))?);
        Ok(Self { names, values, lists })
    }

    /// Number of headers of row `i`.
    pub(crate) fn len(&self, i: usize) -> usize {
        if self.lists.is_valid(i) { self.lists.value_length(i) as usize } else { 0 }
    }

    /// The headers of row `i`, in order.
    pub(crate) fn get(&self, i: usize) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let from = self.lists.value_offsets()[i] as usize;
        (from..from + self.len(i)).map(|j| (self.names.get(j).and_then(|n| std::str::from_utf8(n).ok()).unwrap_or(""), self.values.get(j)))
    }
}
