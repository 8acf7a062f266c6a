//! Rows as JSON objects, one a row, with the multiplicity and the epoch of the change.
//!
//! Invariant: the same rows give the same bytes: columns in schema order, nulls written, `diff` and `epoch` last.

use orderflow_core::arrow::array::{Array, RecordBatch};
use orderflow_core::arrow::json::writer::{EncoderOptions, make_encoder};
use orderflow_core::data::Changes;
use orderflow_core::time::Epoch;
use orderflow_core::{Error, Result};
use std::ops::Range;

/// The encoded rows of a batch.
#[derive(Debug, Default)]
pub(crate) struct JsonRows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl JsonRows {
    /// Row `i`.
    pub(crate) fn get(&self, i: usize) -> &[u8] {
        let from = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[Range { start: from, end: self.ends[i] }]
    }
}

/// Encodes the columns `wanted` of every row as `{"column":value,…,"diff":d,"epoch":e}`.
pub(crate) fn encode(changes: &Changes, wanted: &[usize], epoch: Epoch) -> Result<JsonRows> {
    let rows: RecordBatch = changes.rows().project(wanted)?;
    let schema = rows.schema();
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut columns = Vec::with_capacity(wanted.len());
    for (field, array) in schema.fields().iter().zip(rows.columns()) {
        let name = json_string(field.name());
        let encoder = make_encoder(field, array.as_ref(), &options).map_err(|e| {
            Error::user(format!("column '{}' of type {} cannot be written as JSON", field.name(), array.data_type())).caused_by(e)
        })?;
        columns.push((name, encoder));
    }
    let mut out = JsonRows { bytes: Vec::with_capacity(rows.num_rows() * 64), ends: Vec::with_capacity(rows.num_rows()) };
    for i in 0..rows.num_rows() {
        out.bytes.push(b'{');
        for (name, encoder) in &mut columns {
            out.bytes.extend_from_slice(name.as_bytes());
            out.bytes.push(b':');
            if encoder.is_null(i) {
                out.bytes.extend_from_slice(b"null");
            } else {
                encoder.encode(i, &mut out.bytes);
            }
            out.bytes.push(b',');
        }
        out.bytes.extend_from_slice(format!("\"diff\":{},\"epoch\":{epoch}}}", changes.diff(i)).as_bytes());
        out.ends.push(out.bytes.len());
    }
    Ok(out)
}

/// A JSON string literal.
fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderflow_core::arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_row_is_an_object_with_its_diff_and_epoch() {
        let money = Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(18, 2).unwrap();
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("ci\"ty", Arc::new(StringArray::from(vec![Some("Mum\"bai\n"), None])) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef, true),
            ("amount", Arc::new(money) as ArrayRef, true),
            ("hidden", Arc::new(Int64Array::from(vec![8, 9])) as ArrayRef, true),
        ])
        .unwrap();
        let json = encode(&Changes::signed(rows, vec![1, -1]), &[0, 1, 2], Epoch(7)).unwrap();
        let text = |i| std::str::from_utf8(json.get(i)).unwrap();
        assert_eq!(text(0), r#"{"ci\"ty":"Mum\"bai\n","n":1,"amount":123.45,"diff":1,"epoch":7}"#);
        assert_eq!(text(1), r#"{"ci\"ty":null,"n":2,"amount":-0.05,"diff":-1,"epoch":7}"#);
    }
}
