//! The typed door: serde structs in, serde structs out, on the same plan as SQL.
//!
//! Invariant: a value that went through a batch and back is the value it was, or there is an error; a decimal is never rounded. A
//! closure carries a name and a version, because a view that was computed with it is only valid while it answers the same.

use super::closure::{BatchFn, Closure};
use super::input::columns_named;
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, Decimal128Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};
use std::sync::Arc;

/// A row as a Rust struct.
///
/// The default schema is traced from the type: integers, floats, bools, strings, enums without data (as text), nested structs and
/// lists of these; an `Option` is nullable. A type whose Rust name does not tell the column's type (decimals, dates, timestamps)
/// needs its schema written out.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its columns, with the names that serde gives its fields.
    ///
    /// # Errors
    /// A field whose column type cannot be told from its Rust type.
    fn schema() -> Result<SchemaRef> {
        traced::<Self>()
    }
}

fn traced<T: DeserializeOwned>() -> Result<SchemaRef> {
    let options = TracingOptions::default()
        .strings_as_large_utf8(false)
        .bytes_as_large_binary(false)
        .sequence_as_large_list(false)
        .enums_without_data_as_strings(true);
    let fields = Vec::<FieldRef>::from_type::<T>(options).map_err(|e| {
        Error::user(format!("cannot tell the columns of {}", std::any::type_name::<T>()))
            .why(first_line(&e))
            .hint("implement Record::schema() and write the columns out: Field::new(\"price\", DataType::Decimal128(18, 2), false), …")
    })?;
    // an enum without data is text, not a dictionary
    let text = |f: FieldRef| match f.data_type() {
        DataType::Dictionary(..) => Arc::new(Field::new(f.name(), DataType::Utf8, f.is_nullable())),
        _ => f,
    };
    Ok(Arc::new(Schema::new(fields.into_iter().map(text).collect::<Vec<_>>())))
}

fn first_line(e: &serde_arrow::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// The rows of `batch`; columns that `T` does not have are ignored.
///
/// # Errors
/// A column that is missing, null where `T` has no `Option`, or of a type that `T` does not read.
pub fn rows_of<T: DeserializeOwned>(batch: &RecordBatch) -> Result<Vec<T>> {
    serde_arrow::from_record_batch(batch).map_err(|e| {
        Error::user(format!("a row does not fit {}", std::any::type_name::<T>()))
            .why(first_line(&e))
            .hint("a column that can be null needs an Option")
    })
}

/// `rows` as a batch with [`Record::schema`].
///
/// # Errors
/// A value that does not fit its column; a decimal with more digits than its column holds is one.
pub fn batch_of<T: Record>(rows: &[T]) -> Result<RecordBatch> {
    batch_with(&T::schema()?, rows)
}

/// `rows` as a batch with `schema`, for callers that keep the schema.
///
/// # Errors
/// As [`batch_of`].
pub fn batch_with<T: Serialize>(schema: &SchemaRef, rows: &[T]) -> Result<RecordBatch> {
    if let Some(field) = schema.fields().iter().find(|f| f.data_type().is_nested() && holds_decimal(f.data_type())) {
        return Err(Error::user(format!("column '{}' holds decimals inside a {}", field.name(), field.data_type()))
            .why("they would be rounded on the way")
            .hint("make the decimal a field of the record itself"));
    }
    // serde_arrow cuts digits that a decimal column does not hold: so decimals travel as text and are parsed here
    let as_text: Vec<FieldRef> = (schema.fields().iter())
        .map(|f| if f.data_type().is_decimal() { Arc::new(Field::new(f.name(), DataType::Utf8, f.is_nullable())) } else { f.clone() })
        .collect();
    let refused =
        |e: serde_arrow::Error| Error::user(format!("a {} does not fit its columns", std::any::type_name::<T>())).why(first_line(&e));
    let columns = serde_arrow::to_arrow(&as_text, rows).map_err(refused)?;
    let columns: Vec<ArrayRef> = (columns.into_iter().zip(schema.fields()))
        .map(|(column, field)| match field.data_type() {
            DataType::Decimal128(precision, scale) => decimals(&column, field, *precision, *scale),
            t if t.is_decimal() => Err(Error::user(format!("column '{}' is {t}", field.name())).hint("typed rows take Decimal128")),
            _ => Ok(column),
        })
        .collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

fn holds_decimal(t: &DataType) -> bool {
    match t {
        DataType::Struct(fields) => fields.iter().any(|f| holds_decimal(f.data_type())),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => holds_decimal(f.data_type()),
        t => t.is_decimal(),
    }
}

fn decimals(text: &ArrayRef, field: &Field, precision: u8, scale: i8) -> Result<ArrayRef> {
    let Some(text) = text.as_any().downcast_ref::<StringArray>() else {
        return Err(Error::internal("serde_arrow gave no text for a decimal"));
    };
    let parsed: Decimal128Array = (text.iter())
        .map(|value| {
            value
                .map(|v| {
                    exact(v, precision, scale)
                        .ok_or_else(|| Error::user(format!("{v} does not fit column '{}' of type {}", field.name(), field.data_type())))
                })
                .transpose()
        })
        .collect::<Result<_>>()?;
    Ok(Arc::new(parsed.with_precision_and_scale(precision, scale)?))
}

/// `-12.30` as a count of units of 10^-scale, if it is exactly that and has no more than `precision` digits.
fn exact(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let scale = usize::try_from(scale).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || fraction.len() > scale || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padding = std::iter::repeat_n(b'0', scale - fraction.len());
    let units = (whole.bytes().chain(fraction.bytes()).chain(padding))
        .try_fold(0_i128, |units, digit| units.checked_mul(10)?.checked_add(i128::from(digit - b'0')))?;
    let fits = units < 10_i128.checked_pow(u32::from(precision))?;
    fits.then_some(if negative { -units } else { units })
}

/// A user's function over a row, with the name and version under which state remembers it.
pub struct UserFn<T, R> {
    name: Arc<str>,
    version: u32,
    f: Arc<dyn Fn(&T) -> R + Send + Sync>,
}

impl<T, R> Clone for UserFn<T, R> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), version: self.version, f: self.f.clone() }
    }
}

/// `f` under a name of its own; `version` changes whenever its answers do. The parameter's type must be written, since Rust infers
/// it only where the bound stands beside a known `T`: `closure("large", 1, |o: &Order| o.qty > 10)`.
pub fn closure<T, R>(name: impl Into<Arc<str>>, version: u32, f: impl Fn(&T) -> R + Send + Sync + 'static) -> UserFn<T, R> {
    UserFn { name: name.into(), version, f: Arc::new(f) }
}

/// The columns of `T`, by name, out of `plan`: what a closure over `T` reads.
///
/// # Errors
/// A column that is not there, or whose values `T` cannot hold.
pub fn project<T: Record>(plan: LogicalPlan) -> Result<LogicalPlan> {
    let wanted = T::schema()?;
    let here = std::any::type_name::<T>();
    let columns = columns_named(&plan, wanted.fields().iter().map(|f| f.name().as_str())).map_err(|e| e.at(here))?;
    let plan = (LogicalPlanBuilder::from(plan).project(columns).and_then(LogicalPlanBuilder::build))
        .map_err(|e| Error::internal("cannot project the columns of a record").caused_by(e))?;
    for (is, wants) in plan.schema().fields().iter().zip(wanted.fields()) {
        if class(is.data_type()) != class(wants.data_type()) {
            return Err(Error::user(format!("column '{}' is {}, but {here} has {}", is.name(), is.data_type(), wants.data_type()))
                .hint("change the field's type, or cast the column with SQL first"));
        }
    }
    Ok(plan)
}

/// Types between which serde converts without loss or fails.
fn class(t: &DataType) -> u8 {
    match t {
        DataType::Boolean => 0,
        t if t.is_integer() => 1,
        t if t.is_floating() => 2,
        t if t.is_decimal() => 3,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => 4,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => 5,
        DataType::Date32 | DataType::Date64 => 6,
        DataType::Timestamp(..) => 7,
        DataType::Time32(_) | DataType::Time64(_) => 8,
        DataType::Struct(_) => 9,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => 10,
        _ => 11,
    }
}

/// Rows of `input` for which `keep` holds, with the columns of `T`.
///
/// # Errors
/// As [`project`].
pub fn filter<T: Record>(input: LogicalPlan, keep: UserFn<T, bool>) -> Result<LogicalPlan> {
    let input = project::<T>(input)?;
    let schema = super::schema(&input)?;
    let f = keep.f;
    let batch: BatchFn = Arc::new(move |batch| {
        let rows = rows_of::<T>(batch).map_err(|e| e.to_string())?;
        let kept: Vec<u32> = rows.iter().zip(0..).filter(|(row, _)| f(row)).map(|(_, i)| i).collect();
        let out = take_record_batch(batch, &UInt32Array::from(kept.clone())).map_err(|e| e.to_string())?;
        Ok((out, kept))
    });
    Closure::plan(keep.name, keep.version, &schema, input, batch)
}

/// One row of `U` for each row of `input`.
///
/// # Errors
/// As [`project`], and a `U` without a schema.
pub fn map<T: Record, U: Record>(input: LogicalPlan, to: UserFn<T, U>) -> Result<LogicalPlan> {
    let f = to.f;
    each(input, to.name, to.version, move |rows: &[T]| rows.iter().zip(0..).map(|(row, i)| (f(row), i)).collect())
}

/// Any number of rows of `U` for each row of `input`.
///
/// # Errors
/// As [`project`], and a `U` without a schema.
pub fn flat_map<T: Record, U: Record>(input: LogicalPlan, to: UserFn<T, Vec<U>>) -> Result<LogicalPlan> {
    let f = to.f;
    each(input, to.name, to.version, move |rows: &[T]| {
        rows.iter().zip(0..).flat_map(|(row, i)| f(row).into_iter().map(move |out| (out, i))).collect()
    })
}

fn each<T: Record, U: Record>(
    input: LogicalPlan,
    name: Arc<str>,
    version: u32,
    f: impl Fn(&[T]) -> Vec<(U, u32)> + Send + Sync + 'static,
) -> Result<LogicalPlan> {
    let input = project::<T>(input)?;
    let schema = U::schema()?;
    let columns = schema.clone();
    let batch: BatchFn = Arc::new(move |batch| {
        let rows = rows_of::<T>(batch).map_err(|e| e.to_string())?;
        let (out, from): (Vec<U>, Vec<u32>) = f(&rows).into_iter().unzip();
        Ok((batch_with(&columns, &out).map_err(|e| e.to_string())?, from))
    });
    Closure::plan(name, version, &schema, input, batch)
}

#[cfg(test)]
mod tests;
