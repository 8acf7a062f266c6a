//! [`Changes`] as timely's container: counted by its rows, encodable as an Arrow IPC stream so that it could cross a process.

use crate::data::{Changes, Diffs};
use arrow::buffer::Buffer;
use arrow::ipc::{reader::StreamDecoder, writer::StreamWriter};
use std::io::Write;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

impl Accountable for Changes {
    fn record_count(&self) -> i64 {
        self.len() as i64
    }
}

/// `[u64 length of the IPC stream][IPC stream, padded to 8][diffs as little-endian i64, none if all are 1]`
fn encode(changes: &Changes) -> Vec<u8> {
    let mut out = vec![0u8; 8];
    let written = StreamWriter::try_new(&mut out, &changes.schema()).and_then(|mut w| w.write(changes.rows()).and_then(|()| w.finish()));
    written.expect("a batch that was built by Arrow is written by Arrow to memory");
    let ipc = (out.len() - 8) as u64;
    out[..8].copy_from_slice(&ipc.to_le_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    if let Diffs::Each(diffs) = changes.diffs() {
        diffs.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
    }
    out
}

impl ContainerBytes for Changes {
    fn length_in_bytes(&self) -> usize {
        encode(self).len()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        writer.write_all(&encode(self)).expect("timely gives a buffer of length_in_bytes()");
    }

    fn from_bytes(bytes: Bytes) -> Self {
        let ipc = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut body = Buffer::from(&bytes[8..8 + ipc]);
        let rows = StreamDecoder::new().decode(&mut body).expect("bytes that encode() made").expect("one batch");
        let diffs = bytes[8 + ipc.next_multiple_of(8)..].chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().expect("eight bytes")));
        let diffs: Vec<i64> = diffs.collect();
        if diffs.is_empty() { Changes::inserts(rows) } else { Changes::signed(rows, diffs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    #[test]
    fn changes_survive_the_wire() {
        let columns: [(&str, arrow::array::ArrayRef); 2] =
            [("a", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))), ("b", Arc::new(StringArray::from(vec!["x", "", "zz"])))];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        for changes in [Changes::inserts(rows.clone()), Changes::signed(rows, vec![1, -2, 3])] {
            let mut wire = vec![];
            changes.into_bytes(&mut wire);
            assert_eq!(wire.len(), changes.length_in_bytes());
            let back = Changes::from_bytes(timely::bytes::arc::BytesMut::from(wire).freeze());
            assert_eq!((back.rows(), back.diffs()), (changes.rows(), changes.diffs()));
        }
    }
}
