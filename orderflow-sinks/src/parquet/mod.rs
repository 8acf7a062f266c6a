//! Parquet: a directory of `*.parquet` files, with `diff` and `epoch`.
//!
//! Invariant: memory is bounded by one row group, whatever the size of a file: 16 MB encoded or 250,000 rows. Decimals are
//! Parquet decimals and times are Parquet timestamps, so sums of money are exact in every reader.

use orderflow_core::arrow::array::RecordBatch;
use orderflow_core::arrow::datatypes::SchemaRef;
use orderflow_core::sink::files::{DataSet, FileEncoder, FileFormat};
use orderflow_core::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{self, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Most rows in a row group.
const GROUP_ROWS: usize = 250_000;
/// About the most encoded bytes in a row group; what the encoder holds in memory.
const GROUP_BYTES: usize = 16 << 20;

/// A data set of Parquet files: exactly once.
pub struct Parquet(DataSet<Columns>);

impl Parquet {
    /// How the files are compressed; [`Compression::Zstd`] unless said otherwise.
    pub fn compression(self, compression: Compression) -> Self {
        Parquet(self.0.map_format(|_| Columns(compression)))
    }
}

crate::data_set!(Parquet, Columns(Compression::default()));

/// How Parquet files are compressed. Every reader in use takes all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast, larger.
    Snappy,
    /// Nearly as fast, smaller.
    #[default]
    Zstd,
}

/// The format of the files.
struct Columns(Compression);

impl FileFormat for Columns {
    fn kind(&self) -> &'static str {
        "parquet"
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn FileEncoder>> {
        let compression = match self.0 {
            Compression::None => basic::Compression::UNCOMPRESSED,
            Compression::Snappy => basic::Compression::SNAPPY,
            Compression::Zstd => basic::Compression::ZSTD(ZstdLevel::default()),
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_created_by(concat!("orderflow ", env!("CARGO_PKG_VERSION")).into())
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))
            .map_err(|e| Error::user("a column cannot be written as Parquet").caused_by(e).hint("cast it in the query"))?;
        Ok(Box::new(ColumnsEncoder { writer: Some(writer) }))
    }
}

struct ColumnsEncoder {
    /// `None` once the file is finished.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

fn refused(e: ParquetError) -> Error {
    Error::internal("Parquet refused rows").caused_by(e)
}

impl FileEncoder for ColumnsEncoder {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Err(Error::internal("a Parquet file was written to after its end")) };
        let groups = writer.flushed_row_groups().len();
        writer.write(batch).map_err(refused)?;
        if writer.flushed_row_groups().len() > groups {
            // the writer counts what it wrote by itself, so its bytes can be taken from under it
            writer.sync().map_err(|e| refused(e.into()))?;
            out.append(writer.inner_mut());
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            out.append(&mut writer.into_inner().map_err(refused)?);
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.writer.as_ref().map_or(0, ArrowWriter::in_progress_size)
    }
}

#[cfg(test)]
pub(crate) mod tests;
