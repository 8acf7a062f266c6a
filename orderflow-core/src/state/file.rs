//! One file: record batches as an Arrow stream, with length and checksum kept by whoever points to it.

use crate::error::{Error, Result};
use crate::store::{Store, Upload};
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};
use std::io;

/// Where a file is, what it should be, and which epochs it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name in the store.
    pub name: String,
    /// The newest epoch whose changes are in it.
    pub upto: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of all its bytes.
    pub crc: u32,
}

/// Counts and checks what goes through.
struct Counted {
    upload: Box<dyn Upload>,
    bytes: u64,
    crc: crc32fast::Hasher,
    failed: Option<Error>,
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.upload.write(bytes) {
            Ok(n) => {
                self.bytes += n as u64;
                self.crc.update(&bytes[..n]);
                Ok(n)
            }
            Err(e) => {
                let text = e.to_string();
                self.failed = Some(e);
                Err(io::Error::other(text))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes batches as they come into a file of this name; it survives a crash when this returns.
///
/// # Errors
/// What could not be written, or the first error among `batches`.
pub fn write(
    store: &dyn Store,
    name: String,
    upto: u64,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<FileRef> {
    let mut out = Counted { upload: store.put(&name)?, bytes: 0, crc: crc32fast::Hasher::new(), failed: None };
    let mut rows = 0;
    let copy = || -> Result<()> {
        let mut writer = StreamWriter::try_new(&mut out, schema)?;
        for batch in batches {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            writer.write(&batch)?;
        }
        Ok(writer.finish()?)
    };
    let copied = copy();
    if let Some(e) = out.failed.take() {
        return Err(e);
    }
    copied?;
    out.upload.finish()?;
    Ok(FileRef { name, upto, rows, bytes: out.bytes, crc: out.crc.finalize() })
}

/// Copies a file from one store to another, under the same name.
///
/// # Errors
/// As [`read`], and what could not be written.
pub fn copy(from: &dyn Store, to: &dyn Store, file: &FileRef) -> Result<()> {
    to.put_bytes(&file.name, &bytes(from, file)?)
}

/// The batches of a file.
///
/// # Errors
/// [`Retry::Backoff`](crate::error::Retry) if it could not be read now; permanent if it is not there, or is not what was written.
pub fn read(store: &dyn Store, file: &FileRef) -> Result<Vec<RecordBatch>> {
    let mut buffer = Buffer::from_vec(bytes(store, file)?);
    let (mut decoder, mut batches) = (StreamDecoder::new(), vec![]);
    while let Some(batch) = decoder.decode(&mut buffer).map_err(|e| damaged(file, e.to_string()))? {
        batches.push(batch);
    }
    Ok(batches)
}

fn damaged(file: &FileRef, why: String) -> Error {
    Error::external(format!("the stored state '{}' is damaged", file.name)).why(why).permanent()
}

/// All bytes of a file, checked.
fn bytes(store: &dyn Store, file: &FileRef) -> Result<Vec<u8>> {
    checked(store, &file.name, Some(file.bytes), file.crc, &|why| damaged(file, why))
}

/// All bytes of an object, if they are as many as they should be (where that is known) and have this CRC-32; `damaged` makes the error of why not.
pub(super) fn checked(store: &dyn Store, name: &str, length: Option<u64>, crc: u32, damaged: &dyn Fn(String) -> Error) -> Result<Vec<u8>> {
    let bytes = store.get(name)?.ok_or_else(|| damaged("it is not there".to_owned()))?;
    if let Some(length) = length.filter(|length| bytes.len() as u64 != *length) {
        return Err(damaged(format!("it has {} bytes and should have {length}", bytes.len())));
    }
    if crc32fast::hash(&bytes) != crc {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    Ok(bytes)
}
