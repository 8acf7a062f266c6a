//! A bad row is data: it leaves the stream with its bytes, its place and the reason, and nothing else stops.

use crate::data::Changes;
use crate::error::{Error, Result};
use crate::time::Partition;
use arrow::array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use std::sync::{Arc, LazyLock};

/// One refused record or row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Name of the source or view that refused it.
    pub from: Arc<str>,
    /// Where the record stood; `None` for a derived row (a group whose sum does not fit).
    pub place: Option<(Partition, u64)>,
    /// The original bytes, or a derived row printed as JSON.
    pub bytes: Vec<u8>,
    /// Why, in one sentence.
    pub reason: String,
    /// +1 refused, −1 the refusal is withdrawn (a sum fits again).
    pub diff: i64,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("source", DataType::Utf8, false),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("bytes", DataType::Binary, false),
    ]))
});

impl Rejected {
    /// Columns of the dead letters: `source`, `topic`, `partition`, `offset`, `reason`, `bytes`.
    pub fn schema() -> SchemaRef {
        SCHEMA.clone()
    }

    /// The rows as changes with [`Rejected::schema`], in the order given.
    ///
    /// # Errors
    /// Only if Arrow refuses the columns, which is a bug.
    pub fn to_changes(rows: &[Rejected]) -> Result<Changes> {
        let place = |f: fn(&(Partition, u64)) -> i64| rows.iter().map(move |r| r.place.as_ref().map(f));
        let batch = RecordBatch::try_new(
            SCHEMA.clone(),
            vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &*r.from))),
                Arc::new(StringArray::from_iter(rows.iter().map(|r| r.place.as_ref().map(|p| &*p.0.topic)))),
                Arc::new(Int32Array::from_iter(place(|p| i64::from(p.0.id)).map(|v| v.map(|v| v as i32)))),
                Arc::new(Int64Array::from_iter(place(|p| p.1 as i64))),
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.reason))),
                Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.bytes))),
            ],
        )?;
        Ok(Changes::signed(batch, rows.iter().map(|r| r.diff).collect()))
    }

    /// The rows of which [`Rejected::to_changes`] made these.
    ///
    /// # Errors
    /// Other columns than [`Rejected::schema`].
    pub fn from_changes(changes: &Changes) -> Result<Vec<Rejected>> {
        let columns = changes.rows().columns();
        let text = |i: usize| columns.get(i)?.as_string_opt::<i32>();
        let numbers = || {
            let (partition, offset) = (columns.get(2)?.as_primitive_opt::<Int32Type>()?, columns.get(3)?.as_primitive_opt::<Int64Type>()?);
            Some((partition, offset, columns.get(5)?.as_binary_opt::<i32>()?))
        };
        let (Some(from), Some(topic), Some(reason), Some((partition, offset, bytes))) = (text(0), text(1), text(4), numbers()) else {
            return Err(Error::internal("these columns are not those of dead letters"));
        };
        let place = |i: usize| topic.is_valid(i).then(|| (Partition::new(topic.value(i), partition.value(i)), offset.value(i) as u64));
        let row = |(i, diff): (usize, i64)| Rejected {
            from: from.value(i).into(),
            place: place(i),
            bytes: bytes.value(i).to_vec(),
            reason: reason.value(i).to_owned(),
            diff,
        };
        Ok(changes.diff_iter().enumerate().map(row).collect())
    }

    /// The canonical order of dead letters within an epoch: source, partition, offset, then reason and bytes.
    pub fn sort(rows: &mut [Rejected]) {
        rows.sort_by(|a, b| (&a.from, &a.place, &a.reason, &a.bytes, a.diff).cmp(&(&b.from, &b.place, &b.reason, &b.bytes, b.diff)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_as_they_were_written() {
        let letter =
            |place, bytes: &[u8], diff| Rejected { from: "v".into(), place, bytes: bytes.to_vec(), reason: "too large".into(), diff };
        let letters = vec![letter(Some((Partition::new("t", 3), 7)), b"\x00\xff", 1), letter(None, b"{}", -1), letter(None, b"", 1)];
        assert_eq!(Rejected::from_changes(&Rejected::to_changes(&letters).unwrap()).unwrap(), letters);
        let other = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef)]).unwrap();
        assert!(Rejected::from_changes(&Changes::inserts(other)).is_err());
    }
}
