//! Columns become ordered key bytes and back, and a pinned hash sends every key to one of 256 buckets.
//!
//! Invariants: two rows have equal bytes exactly when they are equal as SQL groups them (null equals null, −0.0 equals 0.0, all
//! NaN are one value). [`hash_columns`] depends on the values alone, never on Arrow's row format, on the batch they stand in or on the width of
//! an integer column: it is part of the state format and has test vectors.

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type, SchemaRef};
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use arrow::{downcast_primitive_array, error::ArrowError};
use std::sync::Arc;

/// Number of buckets that keys hash to; a worker owns whole buckets and files are sorted by them.
pub const BUCKETS: usize = 256;

/// Encodes rows of fixed columns as bytes that compare as the rows do, and decodes them.
pub struct RowCodec {
    converter: RowConverter,
    parser: RowParser,
    types: Vec<DataType>,
}

impl RowCodec {
    /// A codec for columns of these types; the last `descending` columns sort in reverse (for a maximum).
    ///
    /// # Errors
    /// A type that cannot be a key (a map, for example).
    pub fn new(types: &[DataType], descending: usize) -> Result<Self> {
        let ascending = types.len() - descending;
        let field = |(i, t): (usize, &DataType)| {
            let options = arrow::compute::SortOptions { descending: i >= ascending, nulls_first: true };
            SortField::new_with_options(t.clone(), options)
        };
        let fields: Vec<SortField> = types.iter().enumerate().map(field).collect();
        if !RowConverter::supports_fields(&fields) {
            return Err(Error::user(format!("columns of types {types:?} cannot be grouped or compared"))
                .hint("cast the column to a simple type, for example VARCHAR"));
        }
        let converter = RowConverter::new(fields)?;
        let parser = converter.parser();
        Ok(Self { converter, parser, types: types.to_vec() })
    }

    /// The types of the columns.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Encodes all rows of `columns`, which must have been through [`normalise`].
    ///
    /// # Errors
    /// If a column has another type than the codec's.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Rows> {
        Ok(self.converter.convert_columns(columns)?)
    }

    /// Decodes rows that this codec (or one with the same types) encoded.
    ///
    /// # Errors
    /// More different values than a dictionary of the column's type has room for; else if Arrow refuses, which is a bug.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let columns = self.converter.convert_rows(rows.map(|r| self.parser.parse(r)))?;
        columns.into_iter().zip(&self.types).map(|(column, wanted)| as_declared(column, wanted)).collect()
    }
}

/// Rows come out of Arrow's row format without dictionaries.
fn as_declared(column: ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if column.data_type() == wanted {
        return Ok(column);
    }
    cast(&column, wanted).map_err(|e| {
        Error::user(format!("a column of type {wanted} cannot hold its values"))
            .caused_by(e)
            .hint("cast it to a plain type, or to a dictionary with wider keys")
    })
}

/// Codec for all columns of `schema`.
///
/// # Errors
/// As [`RowCodec::new`].
pub fn codec_of(schema: &SchemaRef) -> Result<RowCodec> {
    RowCodec::new(&schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>(), 0)
}

/// −0.0 becomes 0.0 and every NaN the same NaN; other columns are returned as they are.
pub fn normalise(column: &ArrayRef) -> ArrayRef {
    fn floats<T: ArrowPrimitiveType>(a: &PrimitiveArray<T>, fix: impl Fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(a.unary::<_, T>(fix))
    }
    match column.data_type() {
        DataType::Float64 => floats::<Float64Type>(column.as_primitive(), |v| if v.is_nan() { f64::NAN } else { v + 0.0 }),
        DataType::Float32 => floats::<Float32Type>(column.as_primitive(), |v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
        DataType::Dictionary(..) => {
            let packed = column.as_any_dictionary();
            packed.with_values(normalise(packed.values()))
        }
        _ => column.clone(),
    }
}

/// The bucket of a hash: its highest byte.
pub fn bucket(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The worker, of `peers`, that owns a bucket: contiguous ranges, so that workers in order are buckets in order.
pub fn owner(bucket: u8, peers: usize) -> usize {
    usize::from(bucket) * peers / BUCKETS
}

/// The buckets that worker `index` of `peers` owns.
pub fn owned(index: usize, peers: usize) -> std::ops::Range<usize> {
    (index * BUCKETS).div_ceil(peers)..((index + 1) * BUCKETS).div_ceil(peers)
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const NULL: u64 = 0xd1b5_4a32_d192_ed03;
const K: u64 = 0xa076_1d64_78bd_642f;

#[inline(always)]
fn mix(h: u64, word: u64) -> u64 {
    let p = u128::from(h ^ word) * u128::from(K);
    (p as u64) ^ ((p >> 64) as u64)
}

#[inline(always)]
fn bytes(mut h: u64, value: &[u8]) -> u64 {
    let mut chunks = value.chunks_exact(8);
    for c in &mut chunks {
        h = mix(h, u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]));
    }
    let rest = chunks.remainder();
    let mut tail = [0u8; 8];
    tail[..rest.len()].copy_from_slice(rest);
    mix(mix(h, u64::from_le_bytes(tail)), value.len() as u64 ^ SEED)
}

/// One 64-bit hash a row over normalised columns, into `out`.
///
/// The function is pinned: `h = SEED`; then for each column `h = mix(h, word)` for every 64-bit word of the value, where `mix(h, w)` folds
/// the 128-bit product of `h ^ w` and a constant. Integers, dates and timestamps are one sign-extended word, 128-bit decimals two,
/// floats their bits as `f64`, booleans 0 or 1, strings and binaries their little-endian words, then tail and length; null is a constant.
///
/// # Errors
/// A nested type that Arrow's row format refuses.
pub fn hash_columns(columns: &[ArrayRef], rows: usize, out: &mut Vec<u64>) -> Result<()> {
    out.clear();
    out.resize(rows, SEED);
    for column in columns {
        hash_column(column, out)?;
    }
    // a last round, so that a single small integer reaches the high bits that choose the bucket
    out.iter_mut().for_each(|h| *h = mix(*h, SEED));
    Ok(())
}

fn hash_with<'a, A: Array, V>(a: &'a A, out: &mut [u64], value: impl Fn(&'a A, usize) -> V, hash: impl Fn(u64, V) -> u64) {
    match a.nulls() {
        None => out.iter_mut().enumerate().for_each(|(i, h)| *h = hash(*h, value(a, i))),
        Some(nulls) => {
            out.iter_mut().enumerate().for_each(|(i, h)| *h = if nulls.is_valid(i) { hash(*h, value(a, i)) } else { mix(*h, NULL) })
        }
    }
}

/// A primitive value as the words of its hash.
trait Words {
    fn hash(self, h: u64) -> u64;
}
macro_rules! words {
    ($($t:ty => |$v:ident, $h:ident| $e:expr),* $(,)?) => { $(impl Words for $t { #[inline(always)] fn hash(self, $h: u64) -> u64 { let $v = self; $e } })* };
}
words! {
    i8 => |v, h| mix(h, v as i64 as u64), i16 => |v, h| mix(h, v as i64 as u64), i32 => |v, h| mix(h, v as i64 as u64), i64 => |v, h| mix(h, v as u64),
    u8 => |v, h| mix(h, u64::from(v)), u16 => |v, h| mix(h, u64::from(v)), u32 => |v, h| mix(h, u64::from(v)), u64 => |v, h| mix(h, v),
    i128 => |v, h| mix(mix(h, v as u64), (v >> 64) as u64),
    arrow::datatypes::i256 => |v, h| v.to_le_bytes().chunks_exact(8).fold(h, |h, c| mix(h, u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))),
    f32 => |v, h| mix(h, f64::from(v).to_bits()), f64 => |v, h| mix(h, v.to_bits()),
    half::f16 => |v, h| mix(h, v.to_f64().to_bits()),
    arrow::datatypes::IntervalDayTime => |v, h| mix(mix(h, v.days as i64 as u64), v.milliseconds as i64 as u64),
    arrow::datatypes::IntervalMonthDayNano => |v, h| mix(mix(mix(h, v.months as i64 as u64), v.days as i64 as u64), v.nanoseconds as u64),
}

fn hash_column(column: &ArrayRef, out: &mut [u64]) -> Result<()> {
    let column = &**column;
    downcast_primitive_array!(
        column => hash_with(column, out, |a, i| a.value(i), |h, v| v.hash(h)),
        DataType::Boolean => hash_with(column.as_boolean(), out, |a, i| a.value(i), |h, v| mix(h, u64::from(v))),
        DataType::Utf8 => hash_with(column.as_string::<i32>(), out, |a, i| a.value(i).as_bytes(), bytes),
        DataType::LargeUtf8 => hash_with(column.as_string::<i64>(), out, |a, i| a.value(i).as_bytes(), bytes),
        DataType::Utf8View => hash_with(column.as_string_view(), out, |a, i| a.value(i).as_bytes(), bytes),
        DataType::Binary => hash_with(column.as_binary::<i32>(), out, |a, i| a.value(i), bytes),
        DataType::LargeBinary => hash_with(column.as_binary::<i64>(), out, |a, i| a.value(i), bytes),
        DataType::BinaryView => hash_with(column.as_binary_view(), out, |a, i| a.value(i), bytes),
        DataType::FixedSizeBinary(_) => hash_with(column.as_fixed_size_binary(), out, |a, i| a.value(i), bytes),
        DataType::Dictionary(_, values) => hash_column(&cast(column, values)?, out)?,
        DataType::Null => out.iter_mut().for_each(|h| *h = mix(*h, NULL)),
        t => {
            let codec = RowCodec::new(std::slice::from_ref(t), 0)?;
            let rows = codec.encode(&[arrow::array::make_array(column.to_data())])?;
            out.iter_mut().zip(rows.iter()).for_each(|(h, r)| *h = bytes(*h, r.as_ref()));
        }
    );
    Ok::<(), ArrowError>(()).map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{DictionaryArray, Float64Array, Int8Array, Int32Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::Int8Type;

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut out = vec![];
        hash_columns(columns, columns[0].len(), &mut out).unwrap();
        out
    }

    #[test]
    fn the_hash_is_pinned() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("Mumbai"), Some(""), None, Some("Thiruvananthapuram")]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(-1), None, Some(i64::MAX)]));
        let expected = ["c7c7a481968117f5", "8d581a2d817cafd6", "0073b4828ee0f0a6", "e955d92f9ed6408d"];
        let got: Vec<String> = hashes(&[text, number]).iter().map(|h| format!("{h:016x}")).collect();
        assert_eq!(got, expected, "the hash is part of the state format: it must never change");
    }

    #[test]
    fn equal_values_hash_alike_whatever_their_column() {
        let a: ArrayRef = Arc::new(StringArray::from(vec!["x", "a longer string than twelve"]));
        let b: ArrayRef = Arc::new(StringViewArray::from(vec!["x", "a longer string than twelve"]));
        assert_eq!(hashes(&[a]), hashes(&[b]));
        let values = ["x", "a longer string than twelve", "x"];
        let (plain, packed) = (StringArray::from_iter_values(values), values.into_iter().collect::<DictionaryArray<Int8Type>>());
        assert_eq!(hashes(&[Arc::new(plain)]), hashes(&[Arc::new(packed)]));
        let a: ArrayRef = Arc::new(Int32Array::from(vec![-7, 7]));
        let b: ArrayRef = Arc::new(Int64Array::from(vec![-7, 7]));
        assert_eq!(hashes(&[a]), hashes(&[b]));
    }

    #[test]
    fn zeros_and_nans_are_one_value() {
        let c: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let c = normalise(&c);
        let h = hashes(std::slice::from_ref(&c));
        assert_eq!((h[0], h[2]), (h[1], h[3]));
        let packed: ArrayRef = Arc::new(DictionaryArray::new(
            Int8Array::from(vec![0, 1, 2, 3]),
            Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN])),
        ));
        assert_eq!(hashes(&[normalise(&packed)]), h);
        let rows = RowCodec::new(&[DataType::Float64], 0).unwrap().encode(&[c]).unwrap();
        assert_eq!((rows.row(0), rows.row(2)), (rows.row(1), rows.row(3)));
    }

    #[test]
    fn buckets_are_spread_and_owned_in_order() {
        let c: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let mut count = [0usize; BUCKETS];
        hashes(&[c]).iter().for_each(|h| count[usize::from(bucket(*h))] += 1);
        assert!(count.iter().all(|n| (250..550).contains(n)), "{count:?}");
        for peers in [1, 2, 3, 4, 256] {
            let owners: Vec<usize> = (0..=255).map(|b| owner(b, peers)).collect();
            assert!(owners.is_sorted() && owners[0] == 0 && owners[255] == peers - 1);
            (0..peers).for_each(|i| {
                assert!(
                    owned(i, peers).all(|b| owners[b] == i) && owned(i, peers).end == (0..256).rposition(|b| owners[b] == i).unwrap() + 1
                )
            });
        }
    }
}
