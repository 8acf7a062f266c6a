//! `hdfs://namenode:port/folder`: HDFS, by a client that needs no Java.
//!
//! Invariant: Hadoop's own configuration is read by the client alone, and an option goes before it.

use super::{Background, Objects};
use crate::error::{Error, Result};
use hdfs_native_object_store::HdfsObjectStoreBuilder;
use std::sync::Arc;

/// `hdfs://namenode:port/folder`, perhaps only to look; without a name node the one of Hadoop's own configuration.
pub(in crate::store) fn open(url: &str, rest: &str, options: &[(&str, &str)], looks: bool) -> Result<Objects> {
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let background = Arc::new(Background::new()?);
    let mut builder = HdfsObjectStoreBuilder::new().with_config(options.iter().copied());
    if !host.is_empty() {
        builder = builder.with_url(format!("hdfs://{host}"));
    }
    if let Some(runtime) = &background.0 {
        builder = builder.with_io_runtime(runtime.handle().clone());
    }
    let unusable = |e| Error::user(format!("{url} cannot be used")).caused_by(e).hint("write hdfs://namenode:port/folder");
    let store = builder.build().map_err(unusable)?;
    Objects::opened(Arc::new(store), folder.trim_end_matches('/'), url.into(), background, looks)
}
