//! Rows of sources that cannot give them again, as they are stored: one object an epoch, of all such sources.
//!
//! ```text
//!   {"format":1,"source":"orders","topic":"orders","partition":0,"signed":false,"fetches":[{"from":0,"to":3,"rows":3,…}]}
//!   Arrow stream, a batch for each fetch that has rows; if signed, the last column holds the multiplicities
//!   {"format":1,"source":"payments",…
//! ```
//! Invariant: objects put one behind the other are an object. Whatever is read has the length and the checksum that the ledger says.

use super::file::checked;
use crate::data::{Changes, Diffs};
use crate::epoch::SpoolRef;
use crate::error::{Error, Result};
use crate::source::{Fetch, Payload};
use crate::store::{Store, format_of};
use crate::time::{Epoch, Partition};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Version of the format, written into every header.
const FORMAT: u32 = 1;

/// A fetch, which carries rows or nothing, and the name of its source.
pub type Spooled = (Arc<str>, Fetch);

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    source: String,
    topic: String,
    partition: i32,
    signed: bool,
    fetches: Vec<StoredFetch>,
}

#[derive(Serialize, Deserialize)]
struct StoredFetch {
    from: u64,
    to: u64,
    rows: usize,
    bytes: usize,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest: Option<i64>,
}

/// Name of the object with the rows of `epoch`, written by this generation.
pub fn spool_name(epoch: Epoch, generation: u64) -> String {
    format!("spool/{:010}-g{generation:04}.rows", epoch.0)
}

/// Writes the fetches of one epoch into the object `name`; it survives a crash when this returns.
///
/// # Errors
/// What could not be written.
pub fn write_spool(store: &dyn Store, name: String, epoch: Epoch, fetches: &[Spooled]) -> Result<SpoolRef> {
    let mut sections: Vec<Vec<&Spooled>> = vec![];
    for fetch in fetches {
        let same = |s: &&mut Vec<&Spooled>| s.first().is_some_and(|f| (&f.0, &f.1.partition) == (&fetch.0, &fetch.1.partition));
        match sections.iter_mut().find(same) {
            Some(section) => section.push(fetch),
            None => sections.push(vec![fetch]),
        }
    }
    let mut bytes = vec![];
    sections.iter().try_for_each(|section| write_section(&mut bytes, section))?;
    put(store, name, epoch, &bytes)
}

fn put(store: &dyn Store, name: String, upto: Epoch, bytes: &[u8]) -> Result<SpoolRef> {
    store.put_bytes(&name, bytes)?;
    Ok(SpoolRef { upto, name, bytes: bytes.len() as u64, crc: crc32fast::hash(bytes) })
}

/// Fetches of one partition of one source.
fn write_section(out: &mut Vec<u8>, section: &[&Spooled]) -> Result<()> {
    let Some((source, first)) = section.first().map(|s| (&s.0, &s.1)) else { return Ok(()) };
    let (mut fetches, mut batches): (Vec<StoredFetch>, Vec<&Changes>) = (vec![], vec![]);
    for f in section.iter().map(|s| &s.1) {
        match &f.payload {
            Payload::Rows(rows) => batches.push(rows),
            Payload::None => {}
            Payload::Raw(_) => return Err(Error::internal(format!("source {source} is spooled and gave bytes instead of rows"))),
        }
        let fingerprint = format!("{:016x}", f.fingerprint);
        fetches.push(StoredFetch { from: f.from, to: f.to, rows: f.rows, bytes: f.bytes, fingerprint, latest: f.latest });
    }
    let Partition { topic, id } = &first.partition;
    let signed = batches.iter().any(|c| !matches!(c.diffs(), Diffs::Ones));
    let header = Header { format: FORMAT, source: source.to_string(), topic: topic.to_string(), partition: *id, signed, fetches };
    serde_json::to_writer(&mut *out, &header).map_err(|e| Error::internal("spooled rows cannot be described").caused_by(e))?;
    out.push(b'\n');
    let Some(schema) = batches.first().map(|c| c.schema()) else { return Ok(()) };
    let stored = if signed { with_diffs(&schema) } else { schema };
    let mut writer = StreamWriter::try_new(out, &stored)?;
    for changes in batches {
        let mut columns = changes.rows().columns().to_vec();
        if signed {
            columns.push(Arc::new(changes.diff_iter().collect::<Int64Array>()) as ArrayRef);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        writer.write(&RecordBatch::try_new_with_options(stored.clone(), columns, &options)?)?;
    }
    Ok(writer.finish()?)
}

fn with_diffs(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone());
    Arc::new(Schema::new(fields.chain([Field::new("diff", DataType::Int64, false)]).collect::<Vec<_>>()))
}

fn damaged(object: &SpoolRef, why: impl std::fmt::Display) -> Error {
    Error::external(format!("the stored rows '{}' are damaged", object.name))
        .why(why)
        .hint("restore the state from a copy, or start anew with another state and other sinks: the source cannot give them again")
        .permanent()
}

/// All bytes of an object, checked.
fn content(store: &dyn Store, object: &SpoolRef) -> Result<Vec<u8>> {
    checked(store, &object.name, Some(object.bytes), object.crc, &|why| damaged(object, why))
}

/// Copies an object from one store to another, under the same name.
///
/// # Errors
/// As [`read_spool`], and what could not be written.
pub fn copy_spool(from: &dyn Store, to: &dyn Store, object: &SpoolRef) -> Result<()> {
    to.put_bytes(&object.name, &content(from, object)?)
}

/// The fetches of an object, those of a partition in order. They are as they were: where a fetch began is to be seen in dead letters.
///
/// # Errors
/// [`Retry::Backoff`](crate::error::Retry) if it could not be read now; permanent if it is not there, or is not what was written.
pub fn read_spool(store: &dyn Store, object: &SpoolRef) -> Result<Vec<Spooled>> {
    let bytes = content(store, object)?;
    let (mut rest, mut fetches) = (&bytes[..], vec![]);
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap_or(0);
        if let Some(format) = format_of(&rest[..end]).ok().filter(|format| *format > FORMAT) {
            return Err(Error::user(format!("the stored rows '{}' were written by a newer version of orderflow", object.name))
                .why(format!("they have format {format}, this version reads {FORMAT}"))
                .hint("start it with that version, or a newer one; nothing was changed"));
        }
        read_section(&mut rest, &mut fetches).map_err(|why| damaged(object, why))?;
    }
    Ok(fetches)
}

fn read_section(rest: &mut &[u8], fetches: &mut Vec<Spooled>) -> std::result::Result<(), String> {
    let end = rest.iter().position(|b| *b == b'\n').ok_or("a header has no end")?;
    let header: Header = serde_json::from_slice(&rest[..end]).map_err(|e| e.to_string())?;
    if header.format != FORMAT {
        return Err(format!("it has format {}, this version reads {FORMAT}", header.format));
    }
    *rest = &rest[end + 1..];
    let (source, partition): (Arc<str>, _) = (header.source.into(), Partition::new(header.topic, header.partition));
    let mut batches = match header.fetches.iter().any(|f| f.rows > 0) {
        true => StreamReader::try_new(&mut *rest, None).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>),
        false => Ok(vec![]),
    }
    .map_err(|e| e.to_string())?
    .into_iter();
    for f in header.fetches {
        let payload = match f.rows {
            0 => Payload::None,
            n => Payload::Rows(changes(batches.next().filter(|b| b.num_rows() == n).ok_or("rows are missing")?, header.signed)?),
        };
        let fingerprint = u64::from_str_radix(&f.fingerprint, 16).map_err(|e| e.to_string())?;
        let partition = partition.clone();
        fetches.push((
            source.clone(),
            Fetch { partition, from: f.from, to: f.to, rows: f.rows, bytes: f.bytes, fingerprint, latest: f.latest, payload },
        ));
    }
    Ok(())
}

fn changes(batch: RecordBatch, signed: bool) -> std::result::Result<Changes, String> {
    if !signed {
        return Ok(Changes::inserts(batch));
    }
    let last = batch.num_columns().checked_sub(1).ok_or("multiplicities are missing")?;
    let diffs = batch.column(last).as_primitive_opt::<Int64Type>().ok_or("multiplicities are missing")?.values().to_vec();
    let columns = batch.project(&(0..last).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    Ok(Changes::signed(columns, diffs))
}

/// Puts objects one behind the other into the object `name`; it survives a crash when this returns.
///
/// # Errors
/// As [`read_spool`], and what could not be written.
pub fn join_spool(store: &dyn Store, name: String, objects: &[SpoolRef]) -> Result<SpoolRef> {
    let mut bytes = vec![];
    for object in objects {
        bytes.extend(content(store, object)?);
    }
    put(store, name, objects.iter().map(|o| o.upto).max().unwrap_or_default(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;
    use crate::testing::golden;

    fn fetch(source: &str, from: u64, values: &[i64], diffs: Option<Vec<i64>>) -> Spooled {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap();
        let changes = diffs.map_or_else(|| Changes::inserts(batch.clone()), |d| Changes::signed(batch.clone(), d));
        let (rows, to) = (values.len(), from + values.len() as u64);
        let payload = if rows == 0 { Payload::None } else { Payload::Rows(changes) };
        let to = if rows == 0 { from + 3 } else { to };
        (
            source.into(),
            Fetch {
                partition: Partition::new(source, 0),
                from,
                to,
                rows,
                bytes: 8 * rows,
                fingerprint: u64::MAX - from,
                latest: (from > 3).then_some(-7),
                payload,
            },
        )
    }

    /// Source, from, to, rows, fingerprint, and each row with its multiplicity.
    type Shown = (String, u64, u64, usize, u64, Vec<(i64, i64)>);

    fn shown(fetches: &[Spooled]) -> Vec<Shown> {
        let rows = |f: &Fetch| match &f.payload {
            Payload::Rows(c) => c.rows().column(0).as_primitive::<Int64Type>().values().iter().copied().zip(c.diff_iter()).collect(),
            _ => vec![],
        };
        fetches.iter().map(|(s, f)| (s.to_string(), f.from, f.to, f.rows, f.fingerprint, rows(f))).collect()
    }

    #[test]
    fn rows_that_a_newer_version_stored_are_not_called_damaged() {
        let (store, header) = (Memory::new(), "{\"format\":99,\"shards\":[]}\nand what only it can read");
        let object = put(&store, spool_name(Epoch(4), 1), Epoch(4), header.as_bytes()).unwrap();
        let e = read_spool(&store, &object).err().unwrap();
        assert!(
            e.kind() == crate::error::Kind::User && e.to_string().contains("newer version") && e.to_string().contains("format 99"),
            "{e}"
        );
        assert!(e.remedy().unwrap().contains("that version") && !e.to_string().contains("damaged"), "{e}");
    }

    #[test]
    fn fetches_are_read_as_they_were_written_and_objects_can_be_joined() {
        let store = Memory::new();
        let first =
            [fetch("a", 0, &[1, 2], None), fetch("b", 7, &[], None), fetch("a", 2, &[3], Some(vec![-1])), fetch("c", 0, &[5], None)];
        let one = write_spool(&store, spool_name(Epoch(4), 1), Epoch(4), &first).unwrap();
        let two = write_spool(&store, spool_name(Epoch(5), 1), Epoch(5), &[fetch("a", 3, &[9], None)]).unwrap();
        let both = join_spool(&store, "spool/both".into(), &[one.clone(), two.clone()]).unwrap();
        assert_eq!((both.upto, both.bytes), (Epoch(5), one.bytes + two.bytes));
        let latest: Vec<_> = read_spool(&store, &both).unwrap().iter().map(|(_, fetch)| fetch.latest).collect();
        assert_eq!(latest, [None, None, Some(-7), None, None]);
        let joined = shown(&read_spool(&store, &both).unwrap());
        let section =
            |source: &str, from: u64, to, rows: &[(i64, i64)]| (source.to_owned(), from, to, rows.len(), u64::MAX - from, rows.to_vec());
        let a = [section("a", 0, 2, &[(1, 1), (2, 1)]), section("a", 2, 3, &[(3, -1)])];
        let rest = [section("b", 7, 10, &[]), section("c", 0, 1, &[(5, 1)]), section("a", 3, 4, &[(9, 1)])];
        assert_eq!(joined, a.into_iter().chain(rest).collect::<Vec<_>>());
    }

    #[test]
    fn the_golden_object_is_what_is_written_and_can_be_read() {
        let store = Memory::new();
        let fetches = [fetch("a", 0, &[1, 2], None), fetch("b", 7, &[], None), fetch("a", 4, &[3], Some(vec![-1]))];
        let written = write_spool(&store, spool_name(Epoch(4), 1), Epoch(4), &fetches).unwrap();
        let written = store.get(&written.name).unwrap().unwrap();
        let golden = golden::same(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/spool-1.rows"), &written);
        let object = put(&store, "spool/golden".into(), Epoch(4), &golden).unwrap();
        let read = read_spool(&store, &object).unwrap();
        let a = [("a".to_owned(), 0, 2, 2, u64::MAX, vec![(1, 1), (2, 1)]), ("a".to_owned(), 4, 5, 1, u64::MAX - 4, vec![(3, -1)])];
        let b = ("b".to_owned(), 7, 10, 0, u64::MAX - 7, vec![]);
        assert_eq!(shown(&read), a.into_iter().chain([b]).collect::<Vec<Shown>>());
        assert_eq!(read.iter().map(|(_, fetch)| fetch.latest).collect::<Vec<_>>(), [None, Some(-7), Some(-7)]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed_by_name() {
        let store = Memory::new();
        let object = write_spool(&store, spool_name(Epoch(4), 1), Epoch(4), &[fetch("a", 0, &[1, 2], Some(vec![1, -1]))]).unwrap();
        let bytes = store.get(&object.name).unwrap().unwrap();
        let store: &dyn Store = &store;
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1 << (i % 8);
            for bad in [&bad[..], &bytes[..i]] {
                store.put_bytes(&object.name, bad).unwrap();
                let e = read_spool(store, &object).err().unwrap();
                assert!(e.to_string().contains(&object.name) && e.remedy().is_some(), "{e}");
            }
        }
        store.delete(&object.name).unwrap();
        assert!(read_spool(store, &object).err().unwrap().to_string().contains("not there"));
    }
}
