//! Rows that sinks refuse, stored as [`spooled`](super::spool) rows are: the sink stands for the source, its lane for the partition.
//!
//! Invariant: what is read is what the sink told, row for row.

use super::spool::{Spooled, read_spool};
use crate::data::Rejected;
use crate::epoch::SpoolRef;
use crate::error::{Error, Result};
use crate::source::{Fetch, Payload};
use crate::store::Store;
use crate::time::{Epoch, Partition};

/// Name of the object with the letters that this generation stores as number `n`, told of epochs up to `upto`.
pub fn letters_name(upto: Epoch, generation: u64, n: u64) -> String {
    format!("spool/{:010}-g{generation:04}-l{n:06}.rows", upto.0)
}

/// What a lane of a sink leaves out, as rows to be stored; nothing if that is nothing.
///
/// # Errors
/// Only if Arrow refuses the columns, which is a bug.
pub fn letters_rows(sink: &str, lane: usize, rows: &[Rejected]) -> Result<Vec<Spooled>> {
    if rows.is_empty() {
        return Ok(vec![]);
    }
    let changes = Rejected::to_changes(rows)?;
    let fetch = Fetch {
        partition: Partition::new("refused", lane as i32),
        from: 0,
        to: rows.len() as u64,
        rows: rows.len(),
        bytes: changes.memory(),
        fingerprint: 0,
        latest: None,
        payload: Payload::Rows(changes),
    };
    Ok(vec![(sink.into(), fetch)])
}

/// The rows of an object.
///
/// # Errors
/// As [`read_spool`].
pub fn read_letters(store: &dyn Store, object: &SpoolRef) -> Result<Vec<Rejected>> {
    let mut rows = vec![];
    for (_, fetch) in read_spool(store, object)? {
        match &fetch.payload {
            Payload::Rows(changes) => rows.extend(Rejected::from_changes(changes)?),
            Payload::None | Payload::Raw(_) => return Err(Error::internal(format!("'{}' holds no letters", object.name))),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::{generation_of, write_spool};
    use super::*;
    use crate::store::Memory;

    #[test]
    fn letters_are_stored_and_read() {
        let letter =
            |bytes: &[u8], diff| Rejected { from: "v".into(), place: None, bytes: bytes.to_vec(), reason: "too long".into(), diff };
        let letters = [letter(b"a", 1), letter(&[b'x'; 5_000], 1), letter(b"a", -1)];
        let (store, name) = (Memory::new(), letters_name(Epoch(7), 3, 12));
        assert_eq!(generation_of(&name), Some(3));
        let object = write_spool(&store, name, Epoch(7), &letters_rows("jsonl of v", 2, &letters).unwrap()).unwrap();
        assert_eq!(read_letters(&store, &object).unwrap(), letters);
        assert!(letters_rows("jsonl of v", 2, &[]).unwrap().is_empty());
    }
}
