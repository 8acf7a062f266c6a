//! Columns under construction: plain vectors that grow by one value a record and become Arrow arrays at the end.
//!
//! Invariant: a push appends exactly one value or none, and [`Leaf::truncate`] takes back what came after a record began, so that a bad
//! record leaves no trace. Nulls are remembered as row numbers: a column without any pays nothing for them.

use super::datetime;
use super::number::Number;
use crate::error::{Error, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, types,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, TimeUnit};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Why a value does not fit into its column; [`Wrong::describe`] makes the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is something else.
    Type,
    /// It is outside the type's range.
    Range,
    /// It has more decimal places than the column keeps.
    Fraction,
    /// There is no such date or time.
    Date,
    /// It is a time finer than the column's unit.
    Fine,
    /// It is null and must not be.
    Null,
    /// The batch has no room for it: finish it first.
    Full,
}

impl Wrong {
    /// The sentence for the dead letter: `name` is the field's path, `found` the text as it stood.
    #[cold]
    pub(crate) fn describe(self, name: &str, data_type: &DataType, found: &[u8]) -> String {
        let found = Shown(found);
        match self {
            Wrong::Type => format!("field '{name}': expected {}, found {found}", Expected(data_type)),
            Wrong::Range => format!("field '{name}': {found} does not fit into {data_type}"),
            Wrong::Fraction => format!("field '{name}': {found} has more decimal places than {data_type} keeps"),
            Wrong::Date => format!("field '{name}': there is no such date or time as {found}"),
            Wrong::Fine => format!("field '{name}': {found} is finer than {data_type} keeps"),
            Wrong::Null => format!("field '{name}' must not be null"),
            Wrong::Full => format!("field '{name}': the batch holds 2 GiB of text already"),
        }
    }
}

/// A type in the words of the one who writes the records.
struct Expected<'a>(&'a DataType);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            DataType::Boolean => "true or false",
            t if t.is_integer() => "a whole number",
            t if t.is_floating() => "a number",
            DataType::Decimal128(..) => "a decimal number",
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => return f.write_str("text"),
            DataType::Date32 => "a date like 2021-01-10",
            DataType::Timestamp(..) => "a time like 2021-01-10 10:12",
            DataType::List(_) => return f.write_str("a list"),
            DataType::Struct(_) => return f.write_str("an object"),
            other => return write!(f, "{other}"),
        };
        write!(f, "{words} ({})", self.0)
    }
}

/// The first bytes of a value, for a sentence.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        match self.0 {
            [] => f.write_str("nothing"),
            text if text.len() <= SHOWN => f.write_str(&String::from_utf8_lossy(text)),
            text => write!(f, "{}… ({} bytes)", String::from_utf8_lossy(&text[..SHOWN]).trim_end_matches('\u{fffd}'), text.len()),
        }
    }
}

/// How the schema is to be read, beyond its types.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeafOptions {
    /// What a bare number in a timestamp column counts; `None`: it is an error.
    pub(crate) unix: Option<TimeUnit>,
}

/// A column of single values.
#[derive(Debug)]
pub(crate) struct Leaf {
    values: Values,
    /// Row numbers of the nulls, ascending.
    nulls: Vec<u32>,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal { values: Vec<i128>, scale: u8, limit: i128 },
    Date(Vec<i32>),
    Timestamp { values: Vec<i64>, unit: TimeUnit, unix: Option<TimeUnit> },
    Text { ends: Vec<i32>, bytes: Vec<u8> },
}

/// The same expression for every vector of fixed width, another for text.
macro_rules! each {
    ($values:expr, $v:ident => $fixed:expr, ($ends:ident, $bytes:ident) => $text:expr) => {
        match $values {
            Values::Boolean($v) => $fixed,
            Values::Int8($v) => $fixed,
            Values::Int16($v) => $fixed,
            Values::Int32($v) | Values::Date($v) => $fixed,
            Values::Int64($v) | Values::Timestamp { values: $v, .. } => $fixed,
            Values::UInt8($v) => $fixed,
            Values::UInt16($v) => $fixed,
            Values::UInt32($v) => $fixed,
            Values::UInt64($v) => $fixed,
            Values::Float32($v) => $fixed,
            Values::Float64($v) => $fixed,
            Values::Decimal { values: $v, .. } => $fixed,
            Values::Text { ends: $ends, bytes: $bytes } => $text,
        }
    };
}

impl Leaf {
    /// A column of `data_type`; `None` if records cannot be parsed into that type.
    pub(crate) fn new(data_type: &DataType, options: LeafOptions) -> Option<Self> {
        let values = match data_type {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt8 => Values::UInt8(Vec::new()),
            DataType::UInt16 => Values::UInt16(Vec::new()),
            DataType::UInt32 => Values::UInt32(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) => {
                let scale = u8::try_from(*scale).ok()?;
                Values::Decimal { values: Vec::new(), scale, limit: 10i128.checked_pow(u32::from(*precision))? }
            }
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Timestamp(unit, zone) if zone.as_deref().is_none_or(is_utc) => {
                Values::Timestamp { values: Vec::new(), unit: *unit, unix: options.unix }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Values::Text { ends: Vec::new(), bytes: Vec::new() },
            _ => return None,
        };
        Some(Self { values, nulls: Vec::new() })
    }

    /// Values so far.
    pub(crate) fn len(&self) -> usize {
        each!(&self.values, v => v.len(), (ends, _bytes) => ends.len())
    }

    /// Takes back everything after the first `len` values.
    pub(crate) fn truncate(&mut self, len: usize) {
        each!(&mut self.values, v => v.truncate(len), (ends, bytes) => {
            ends.truncate(len);
            bytes.truncate(ends.last().map_or(0, |end| *end as usize));
        });
        while self.nulls.last().is_some_and(|row| *row as usize >= len) {
            self.nulls.pop();
        }
    }

    /// Appends a null.
    #[inline]
    pub(crate) fn push_null(&mut self) -> Result<(), Wrong> {
        self.nulls.push(u32::try_from(self.len()).map_err(|_| Wrong::Full)?);
        each!(&mut self.values, v => v.push(Default::default()), (ends, _bytes) => ends.push(ends.last().copied().unwrap_or(0)));
        Ok(())
    }

    /// Appends a JSON number, or a number that stands in a text format.
    #[inline]
    pub(crate) fn push_number(&mut self, number: &Number<'_>) -> Result<(), Wrong> {
        macro_rules! integer {
            ($v:expr) => {
                $v.push(number.integer()?.try_into().map_err(|_| Wrong::Range)?)
            };
        }
        match &mut self.values {
            Values::Int64(v) => integer!(v),
            Values::Decimal { values, scale, limit } => values.push(number.decimal(*scale, *limit)?),
            Values::Float64(v) => v.push(number.double()?),
            Values::Int32(v) => integer!(v),
            Values::Float32(v) => v.push(number.single()?),
            Values::Int8(v) => integer!(v),
            Values::Int16(v) => integer!(v),
            Values::UInt8(v) => integer!(v),
            Values::UInt16(v) => integer!(v),
            Values::UInt32(v) => integer!(v),
            Values::UInt64(v) => integer!(v),
            Values::Timestamp { values, unit, unix: Some(unix) } => {
                let value = i64::try_from(number.integer()?).map_err(|_| Wrong::Range)?;
                values.push(datetime::convert(value, *unix, *unit)?);
            }
            _ => return Err(Wrong::Type),
        }
        Ok(())
    }

    /// Appends a JSON string, its escapes resolved: text, a date or time, or a decimal that its writer kept from becoming a float.
    #[inline]
    pub(crate) fn push_string(&mut self, text: &[u8]) -> Result<(), Wrong> {
        match &mut self.values {
            Values::Text { ends, bytes } => {
                let end = i32::try_from(bytes.len() + text.len()).map_err(|_| Wrong::Full)?;
                bytes.extend_from_slice(text);
                ends.push(end);
            }
            Values::Timestamp { values, unit, .. } => values.push(datetime::timestamp(text, *unit)?),
            Values::Date(values) => values.push(datetime::date(text)?),
            Values::Decimal { values, scale, limit } => {
                values.push(Number::lenient(text).ok_or(Wrong::Type)?.decimal(*scale, *limit)?);
            }
            _ => return Err(Wrong::Type),
        }
        Ok(())
    }

    /// Appends a JSON `true` or `false`.
    #[inline]
    pub(crate) fn push_bool(&mut self, value: bool) -> Result<(), Wrong> {
        match &mut self.values {
            Values::Boolean(v) => {
                v.push(value);
                Ok(())
            }
            _ => Err(Wrong::Type),
        }
    }

    /// Appends what `text` means in a format that knows only text.
    #[inline]
    pub(crate) fn push_text(&mut self, text: &[u8]) -> Result<(), Wrong> {
        match &self.values {
            Values::Text { .. } | Values::Date(_) | Values::Decimal { .. } => self.push_string(text),
            Values::Timestamp { unix: None, .. } => self.push_string(text),
            Values::Boolean(_) => match text {
                b"true" | b"TRUE" | b"True" => self.push_bool(true),
                b"false" | b"FALSE" | b"False" => self.push_bool(false),
                _ => Err(Wrong::Type),
            },
            Values::Timestamp { .. } => match Number::lenient(text) {
                Some(number) => self.push_number(&number),
                None => self.push_string(text),
            },
            _ => self.push_number(&Number::lenient(text).ok_or(Wrong::Type)?),
        }
    }

    /// Whether an empty field is a value of its own.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.values, Values::Text { .. })
    }

    /// The values as an array of `data_type`, the type this column was made for; starts over with room for as many.
    pub(crate) fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef> {
        let rows = self.len();
        let nulls = null_buffer(&mut self.nulls, rows);
        macro_rules! primitive {
            ($v:expr, $t:ty) => {
                Arc::new(PrimitiveArray::<$t>::try_new(fresh($v).into(), nulls)?)
            };
        }
        Ok(match &mut self.values {
            Values::Boolean(v) => Arc::new(BooleanArray::new(BooleanBuffer::from(fresh(v)), nulls)),
            Values::Int8(v) => primitive!(v, types::Int8Type),
            Values::Int16(v) => primitive!(v, types::Int16Type),
            Values::Int32(v) => primitive!(v, types::Int32Type),
            Values::Int64(v) => primitive!(v, types::Int64Type),
            Values::UInt8(v) => primitive!(v, types::UInt8Type),
            Values::UInt16(v) => primitive!(v, types::UInt16Type),
            Values::UInt32(v) => primitive!(v, types::UInt32Type),
            Values::UInt64(v) => primitive!(v, types::UInt64Type),
            Values::Float32(v) => primitive!(v, types::Float32Type),
            Values::Float64(v) => primitive!(v, types::Float64Type),
            Values::Date(v) => Arc::new(Date32Array::try_new(fresh(v).into(), nulls)?),
            Values::Decimal { values, .. } => {
                Arc::new(Decimal128Array::try_new(fresh(values).into(), nulls)?.with_data_type(data_type.clone()))
            }
            Values::Timestamp { values, unit, .. } => {
                let (values, zone): (ScalarBuffer<i64>, _) = (
                    fresh(values).into(),
                    match data_type {
                        DataType::Timestamp(_, zone) => zone.clone(),
                        _ => None,
                    },
                );
                match unit {
                    TimeUnit::Second => Arc::new(TimestampSecondArray::try_new(values, nulls)?.with_timezone_opt(zone)),
                    TimeUnit::Millisecond => Arc::new(TimestampMillisecondArray::try_new(values, nulls)?.with_timezone_opt(zone)),
                    TimeUnit::Microsecond => Arc::new(TimestampMicrosecondArray::try_new(values, nulls)?.with_timezone_opt(zone)),
                    TimeUnit::Nanosecond => Arc::new(TimestampNanosecondArray::try_new(values, nulls)?.with_timezone_opt(zone)),
                }
            }
            Values::Text { ends, bytes } => {
                let text = Buffer::from(fresh(bytes));
                match data_type {
                    DataType::LargeUtf8 => Arc::new(LargeStringArray::try_new(offsets(ends), text, nulls)?),
                    DataType::Utf8View => Arc::new(StringViewArray::from(&StringArray::try_new(offsets(ends), text, nulls)?)),
                    DataType::Utf8 => Arc::new(StringArray::try_new(offsets(ends), text, nulls)?),
                    other => return Err(Error::internal(format!("a column of text was asked for {other}"))),
                }
            }
        })
    }
}

/// Whether timestamps of this zone are written in UTC.
fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "Z" | "+00:00" | "Etc/UTC")
}

/// The vector, leaving an empty one with the same room.
fn fresh<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = values.len();
    std::mem::replace(values, Vec::with_capacity(room))
}

/// Ends of values as Arrow wants them: with a 0 in front.
pub(crate) fn offsets<O: arrow::array::OffsetSizeTrait + From<i32>>(ends: &mut Vec<i32>) -> OffsetBuffer<O> {
    let offsets = std::iter::once(0).chain(ends.iter().copied()).map(O::from).collect::<Vec<O>>();
    ends.clear();
    OffsetBuffer::new(offsets.into())
}

/// The nulls at these rows of `rows`; clears them.
pub(crate) fn null_buffer(nulls: &mut Vec<u32>, rows: usize) -> Option<NullBuffer> {
    if nulls.is_empty() {
        return None;
    }
    let mut bits = MutableBuffer::new(rows.div_ceil(8)).with_bitset(rows.div_ceil(8), true);
    for row in nulls.drain(..) {
        bits.as_slice_mut()[row as usize / 8] &= !(1 << (row % 8));
    }
    Some(NullBuffer::new(BooleanBuffer::new(bits.into(), 0, rows)))
}

/// The sentence for a column that a format cannot parse.
pub(crate) fn unsupported(format: &str, name: &str, data_type: &DataType) -> Error {
    let instead: Cow<'_, str> = match data_type {
        DataType::Timestamp(_, Some(zone)) => {
            format!("timestamps are read as UTC, not as {zone}: take a Timestamp without zone or with UTC").into()
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal256(..) | DataType::Decimal128(..) => {
            "take Decimal128 with a scale of 0 or more".into()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "text formats have no bytes: take Utf8 and decode in the query, for example with decode(x, 'base64')".into()
        }
        DataType::Date64 => "take Date32 or Timestamp".into(),
        DataType::Map(..) => "take a Struct with the keys you read".into(),
        _ => "take Boolean, an integer, a float, Decimal128, Utf8, Date32 or Timestamp".into(),
    };
    Error::user(format!("column '{name}' of type {data_type} cannot be read from {format}")).hint(instead)
}
