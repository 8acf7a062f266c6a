//! Columns of Arrow become values that a statement binds.
//!
//! Invariant: a value is bound as it is or not at all: decimals digit by digit, times to the last digit that the database has; what it
//! cannot hold is the row's fault, with the reason.

use super::connection::Value;
use super::dialect::{Dialect, Kind};
use orderflow_core::arrow::array::{Array, ArrayRef, AsArray};
use orderflow_core::arrow::compute::cast;
use orderflow_core::arrow::datatypes::{DataType, Float64Type, Int64Type};
use orderflow_core::arrow::util::display::{ArrayFormatter, FormatOptions};

const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);

/// The values of `column`, one a row.
///
/// # Errors
/// What the database cannot hold.
pub(super) fn values(kind: Kind, dialect: Dialect, column: &ArrayRef) -> Result<Vec<Value>, String> {
    let as_type = |t: &DataType| cast(column, t).map_err(|e| e.to_string());
    match kind {
        Kind::Bool => Ok(column.as_boolean().iter().map(Value::Bool).collect()),
        Kind::Int => Ok(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().iter().map(Value::Int).collect()),
        Kind::Float => as_type(&DataType::Float64)?.as_primitive::<Float64Type>().iter().map(|v| float(v, dialect)).collect(),
        Kind::Text => Ok(as_type(&DataType::Utf8)?.as_string::<i32>().iter().map(|v| Value::Text(v.map(str::to_owned))).collect()),
        Kind::Bytes => Ok(as_type(&DataType::Binary)?.as_binary::<i32>().iter().map(|v| Value::Bytes(v.map(<[u8]>::to_vec))).collect()),
        Kind::Decimal(..) => printed(column, ""),
        Kind::Date => printed(&as_type(&DataType::Date32)?, ""),
        Kind::Time(digits) => {
            whole_micros(column, digits, dialect)?;
            printed(column, "")
        }
        Kind::Timestamp(digits, zoned) => {
            whole_micros(column, digits, dialect)?;
            let DataType::Timestamp(unit, _) = column.data_type() else { return Err(format!("a {} is no time", column.data_type())) };
            // by way of the number: casting from one zone to another would move the clock's hands
            let number = as_type(&DataType::Int64)?;
            let utc = cast(&number, &DataType::Timestamp(*unit, None)).map_err(|e| e.to_string())?;
            printed(&utc, if zoned && dialect != Dialect::MySql { "+00:00" } else { "" })
        }
    }
}

/// Not every database has all floats: SQLite makes NULL of what is no number, MySQL has no infinity either.
fn float(value: Option<f64>, dialect: Dialect) -> Result<Value, String> {
    match value {
        Some(v) if (v.is_nan() && dialect != Dialect::Postgres) || (v.is_infinite() && dialect == Dialect::MySql) => {
            Err(format!("the database has no {v}"))
        }
        v => Ok(Value::Float(v)),
    }
}

fn printed(column: &ArrayRef, suffix: &str) -> Result<Vec<Value>, String> {
    let formatter = ArrayFormatter::try_new(column.as_ref(), &OPTIONS).map_err(|e| e.to_string())?;
    let value = |i| match column.is_valid(i) {
        true => formatter.value(i).try_to_string().map(|mut text| {
            text.push_str(suffix);
            Value::Text(Some(text))
        }),
        false => Ok(Value::Text(None)),
    };
    (0..column.len()).map(value).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Refuses what is finer than a microsecond where that would be rounded.
fn whole_micros(column: &ArrayRef, digits: u8, dialect: Dialect) -> Result<(), String> {
    if digits <= 6 || dialect == Dialect::Sqlite {
        return Ok(());
    }
    let number = cast(column, &DataType::Int64).map_err(|e| e.to_string())?;
    match number.as_primitive::<Int64Type>().iter().flatten().find(|v| v % 1000 != 0) {
        Some(_) => Err("a time is finer than a microsecond, which is where the database's times end".into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderflow_core::arrow::array::{Decimal128Array, Float64Array, TimestampNanosecondArray, TimestampSecondArray};
    use std::sync::Arc;

    fn one(kind: Kind, dialect: Dialect, column: impl Array + 'static) -> Result<Value, String> {
        values(kind, dialect, &(Arc::new(column) as ArrayRef)).map(|mut v| v.remove(0))
    }

    #[test]
    fn money_keeps_every_digit_and_times_their_instant() {
        let money = Decimal128Array::from(vec![-1_230]).with_precision_and_scale(38, 2).unwrap();
        assert_eq!(one(Kind::Decimal(38, 2), Dialect::Sqlite, money).unwrap(), Value::text("-12.30"));
        let there = TimestampSecondArray::from(vec![1_610_273_520]).with_timezone("+05:30");
        assert_eq!(one(Kind::Timestamp(0, true), Dialect::Postgres, there.clone()).unwrap(), Value::text("2021-01-10T10:12:00+00:00"));
        assert_eq!(one(Kind::Timestamp(0, true), Dialect::MySql, there).unwrap(), Value::text("2021-01-10T10:12:00"));
    }

    #[test]
    fn what_would_be_rounded_or_lost_is_refused() {
        let fine = || TimestampNanosecondArray::from(vec![1_000_000_001]);
        assert!(one(Kind::Timestamp(9, false), Dialect::Postgres, fine()).is_err());
        assert_eq!(one(Kind::Timestamp(9, false), Dialect::Sqlite, fine()).unwrap(), Value::text("1970-01-01T00:00:01.000000001"));
        assert!(one(Kind::Float, Dialect::Sqlite, Float64Array::from(vec![f64::NAN])).is_err());
        assert!(one(Kind::Float, Dialect::MySql, Float64Array::from(vec![f64::INFINITY])).is_err());
        assert!(one(Kind::Float, Dialect::Postgres, Float64Array::from(vec![f64::NAN])).is_ok());
    }
}
