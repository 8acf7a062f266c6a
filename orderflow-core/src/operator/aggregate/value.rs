//! From accumulators to the columns of a group's row.

use super::{Aggregate, Call, Func};
use crate::data::rowkey::RowCodec;
use crate::dataflow::arrange::Acc;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, i256};
use std::sync::Arc;

/// One column of one group's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Number(i128),
    Float(f64),
    /// Row bytes of a least or greatest value.
    Bytes(Vec<u8>),
}

/// A group's row: its values stand beside it, in a buffer that is used for every group.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    /// The group has no rows.
    Absent,
    /// The values are in the buffer.
    Shown,
    /// Why it cannot be shown.
    Refused(String),
}

impl Aggregate {
    /// The row of a group whose accumulators are `acc`, its values into `out`; `first` finds the first live value of the group in a trace of values.
    pub(super) fn row(&self, acc: &Acc, mut first: impl FnMut(usize) -> Option<Vec<u8>>, out: &mut Vec<Value>) -> Row {
        out.clear();
        let rows = acc.0[0];
        if rows < 0 || rows == 0 && acc.0.iter().any(|w| *w != 0) {
            return Row::Refused("more rows were deleted from the group than inserted".to_owned());
        }
        if rows == 0 && !self.keys.is_empty() {
            return Row::Absent;
        }
        for call in &self.calls {
            match call.value(acc, &mut first) {
                Ok(value) => out.push(value),
                Err(reason) => {
                    out.clear();
                    return Row::Refused(reason);
                }
            }
        }
        Row::Shown
    }
}

impl Call {
    fn value(&self, acc: &Acc, first: &mut impl FnMut(usize) -> Option<Vec<u8>>) -> Result<Value, String> {
        let word = |i: usize| acc.0[self.word + i];
        match self.func {
            Func::Count if self.arg.is_none() && self.filter.is_none() => Ok(Value::Number(acc.0[0])),
            Func::Count | Func::CountDistinct(_) => Ok(Value::Number(word(0))),
            Func::Min(v) | Func::Max(v) => Ok(first(v).map_or(Value::Null, Value::Bytes)),
            Func::Sum { .. } | Func::Avg { .. } if word(0) == 0 => Ok(Value::Null),
            Func::Sum { wide: false } => self.fit_narrow("sum", word(1)),
            // most sums of wide values are narrow themselves
            Func::Sum { wide: true } => match word(2).checked_mul(1i128 << 64).and_then(|high| high.checked_add(word(1))) {
                Some(sum) => self.fit_narrow("sum", sum),
                None => self.fit("sum", total(word(1), word(2), true)),
            },
            Func::Avg { wide, scale_up } => {
                let sum = total(word(1), if wide { word(2) } else { 0 }, wide);
                if self.out == DataType::Float64 {
                    let sum = sum.to_i128().ok_or("the sum behind an average does not fit 128 bits")?;
                    return Ok(Value::Float(sum as f64 / word(0) as f64));
                }
                let scaled = sum.checked_mul(i256::from_i128(10i128.pow(scale_up))).ok_or("the sum behind an average does not fit")?;
                self.fit("avg", scaled.wrapping_div(i256::from_i128(word(0))))
            }
        }
    }

    fn fit(&self, name: &str, value: i256) -> Result<Value, String> {
        match value.to_i128() {
            Some(v) => self.fit_narrow(name, v),
            None => Err(format!("the {name} {value} does not fit {}", self.out)),
        }
    }

    fn fit_narrow(&self, name: &str, value: i128) -> Result<Value, String> {
        let fits = match &self.out {
            DataType::Decimal128(p, _) => POWERS.get(usize::from(*p)).is_none_or(|m| value.unsigned_abs() < *m),
            DataType::UInt64 => u64::try_from(value).is_ok(),
            _ => i64::try_from(value).is_ok(),
        };
        if fits { Ok(Value::Number(value)) } else { Err(format!("the {name} {value} does not fit {}", self.out)) }
    }
}

/// Powers of ten: what a decimal of as many digits stays below.
const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

fn total(low: i128, high: i128, wide: bool) -> i256 {
    let low = i256::from_i128(low);
    if wide { i256::from_i128(high).wrapping_mul(i256::from_i128(1i128 << 64)).wrapping_add(low) } else { low }
}

/// The values of one call for many rows, as a column.
pub(super) fn column(call: &Call, values: Vec<Value>, codecs: &[RowCodec], nulls: &[Vec<u8>]) -> Result<ArrayRef> {
    if let Func::Min(v) | Func::Max(v) = call.func {
        let bytes = |value: &'_ Value| match value {
            Value::Bytes(b) => b.clone(),
            _ => nulls[v].clone(),
        };
        let rows: Vec<Vec<u8>> = values.iter().map(bytes).collect();
        let columns = codecs[v].decode(rows.iter().map(Vec::as_slice))?;
        let column = columns.into_iter().next().ok_or_else(|| Error::internal("a value codec decodes one column"))?;
        return Ok(if column.data_type() == &call.out { column } else { cast(&column, &call.out)? });
    }
    let number = |v: &Value| match v {
        Value::Number(n) => Some(*n),
        _ => None,
    };
    Ok(match &call.out {
        DataType::Float64 => {
            Arc::new(Float64Array::from_iter(values.iter().map(|v| if let Value::Float(f) = v { Some(*f) } else { None })))
        }
        DataType::Decimal128(p, s) => Arc::new(values.iter().map(number).collect::<Decimal128Array>().with_precision_and_scale(*p, *s)?),
        DataType::UInt64 => Arc::new(values.iter().map(|v| number(v).map(|n| n as u64)).collect::<UInt64Array>()),
        DataType::Int64 => Arc::new(values.iter().map(|v| number(v).map(|n| n as i64)).collect::<Int64Array>()),
        other => return Err(Error::internal(format!("an aggregate of type {other} was planned"))),
    })
}
