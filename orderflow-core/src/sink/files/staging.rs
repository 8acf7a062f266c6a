//! One data file on its way to the staging folder.
//!
//! ```text
//!   rows ─► encoder ─► out (memory) ─► upload (disk) ─► synced
//! ```
//! Invariant: the encoder writes to memory, which cannot fail; bytes leave `out` only once the disk has taken them. So a full
//! disk loses nothing: what it did not take stays here, and the same call goes on later.

use super::record::FileEntry;
use super::{FileEncoder, FileFormat};
use crate::error::Result;
use crate::store::{Store, Upload};
use crate::time::Epoch;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Bytes that are collected before they go to the disk.
const CHUNK: usize = 256 << 10;

pub(super) struct Staging {
    staged: String,
    encoder: Option<Box<dyn FileEncoder>>,
    out: Vec<u8>,
    upload: Option<Box<dyn Upload>>,
    checksum: crc32fast::Hasher,
    written: u64,
    rows: u64,
    first: Epoch,
    last: Epoch,
}

impl Staging {
    pub(super) fn new(staged: String, format: &dyn FileFormat, schema: &SchemaRef, first: Epoch) -> Result<Self> {
        let encoder = Some(format.encoder(schema)?);
        let (out, upload, checksum) = (Vec::new(), None, crc32fast::Hasher::new());
        Ok(Self { staged, encoder, out, upload, checksum, written: 0, rows: 0, first, last: first })
    }

    /// Takes rows into memory. The file must be open.
    pub(super) fn append(&mut self, batch: &RecordBatch, epoch: Epoch) -> Result<()> {
        if let Some(encoder) = &mut self.encoder {
            encoder.write(batch, &mut self.out)?;
            self.rows += batch.num_rows() as u64;
            self.last = epoch;
        }
        Ok(())
    }

    /// Gives to the disk what is worth a call; of a sealed file, everything.
    pub(super) fn drain(&mut self, store: &dyn Store) -> Result<()> {
        if self.is_open() && self.out.len() < CHUNK { Ok(()) } else { self.drain_all(store) }
    }

    /// Ends the file in memory; no row can be added any more.
    pub(super) fn seal(&mut self) -> Result<()> {
        if let Some(mut encoder) = self.encoder.take() {
            encoder.finish(&mut self.out)?;
        }
        Ok(())
    }

    /// Brings a sealed file to the staging folder, durably. May be called again after an error, and after success.
    pub(super) fn stage(&mut self, store: &dyn Store) -> Result<()> {
        self.drain_all(store)?;
        self.upload.as_mut().map_or(Ok(()), |upload| upload.finish())
    }

    fn drain_all(&mut self, store: &dyn Store) -> Result<()> {
        let mut from = 0;
        let mut result = Ok(());
        while from < self.out.len() {
            let upload = match &mut self.upload {
                Some(upload) => upload,
                None => self.upload.insert(store.put(&self.staged)?),
            };
            match upload.write(&self.out[from..]) {
                Ok(n) => {
                    self.checksum.update(&self.out[from..from + n]);
                    from += n;
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        self.written += from as u64;
        self.out.drain(..from);
        result
    }

    pub(super) fn is_open(&self) -> bool {
        self.encoder.is_some()
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// About how large the file would be if it ended here.
    pub(super) fn bytes(&self) -> u64 {
        self.written + (self.out.len() + self.encoder.as_ref().map_or(0, |e| e.held())) as u64
    }

    /// Bytes in memory that wait for the disk.
    pub(super) fn waiting(&self) -> usize {
        self.out.len()
    }

    pub(super) fn staged(&self) -> &str {
        &self.staged
    }

    /// How a commit names the sealed file, wherever its bytes are by now; `twin` tells files of the same epochs apart.
    pub(super) fn entry(&self, generation: u64, ending: &str, twin: usize) -> FileEntry {
        let twin = if twin == 0 { String::new() } else { format!("_{}", twin + 1) };
        let name = format!("lane-0_gen-{generation:04}_epochs-{:010}-{:010}{twin}.{ending}", self.first.0, self.last.0);
        let (bytes, mut checksum) = (self.written + self.out.len() as u64, self.checksum.clone());
        checksum.update(&self.out);
        FileEntry { staged: self.staged.clone(), name, rows: self.rows, bytes, crc32: checksum.finalize() }
    }

    /// Whether the two would get the same name.
    pub(super) fn same_epochs(&self, other: &Staging) -> bool {
        (self.first, self.last) == (other.first, other.last)
    }
}
