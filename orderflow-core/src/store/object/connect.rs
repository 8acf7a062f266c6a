//! From a URL to a store.
//!
//! Invariant: nothing is read from the environment but what the clients of S3 and Hadoop read themselves; an option goes before it.
#![cfg_attr(not(any(feature = "s3", feature = "hdfs")), allow(unused_imports, dead_code))]

use super::{Background, Objects, PART};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// For how long, and how often, the client of S3 tries again by itself.
const TRY_FOR: Duration = Duration::from_secs(20);
const TRIES: usize = 4;

/// `s3://bucket/prefix`.
#[cfg(feature = "s3")]
pub(in crate::store) fn s3(url: &str, rest: &str, options: &[(&str, &str)]) -> Result<Objects> {
    use object_store::RetryConfig;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(Error::user(format!("'{url}' names no bucket")).hint("write s3://bucket/prefix"));
    }
    let retry = RetryConfig { max_retries: TRIES, retry_timeout: TRY_FOR, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    for (name, value) in options {
        let key: AmazonS3ConfigKey = name.parse().map_err(|e| {
            Error::user(format!("'{name}' is no option of S3"))
                .caused_by(e)
                .hint("options are endpoint, region, access_key_id, secret_access_key, …")
        })?;
        builder = builder.with_config(key, *value);
    }
    // whoever writes http:// means it
    if builder.get_config_value(&AmazonS3ConfigKey::Endpoint).is_some_and(|e| e.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let store = Arc::new(builder.build().map_err(|e| Error::user(format!("{url} cannot be used")).caused_by(e))?);
    Ok(Objects::over(store.clone(), prefix.trim_end_matches('/'), url)?.in_parts(store, PART))
}

/// `hdfs://namenode:port/folder`; without a name node the one of Hadoop's own configuration.
#[cfg(feature = "hdfs")]
pub(in crate::store) fn hdfs(url: &str, rest: &str, options: &[(&str, &str)]) -> Result<Objects> {
    use hdfs_native_object_store::HdfsObjectStoreBuilder;
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let background = Arc::new(Background::new()?);
    let mut builder = HdfsObjectStoreBuilder::new().with_config(options.iter().copied());
    if !host.is_empty() {
        builder = builder.with_url(format!("hdfs://{host}"));
    }
    if let Some(runtime) = &background.0 {
        builder = builder.with_io_runtime(runtime.handle().clone());
    }
    let store = builder.build().map_err(|e| Error::user(format!("{url} cannot be used")).caused_by(e))?;
    Objects::opened(Arc::new(store), folder.trim_end_matches('/'), url.into(), background)
}
