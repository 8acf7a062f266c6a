//! `s3://bucket/prefix`: S3, and what speaks its protocol.
//!
//! Invariant: the environment is read by the client alone, and an option goes before it; whatever fails is tried again for a bounded time.

use super::{Background, Objects, PART};
use crate::error::{Error, Result};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use std::sync::Arc;
use std::time::Duration;

/// For how long, and how often, the client tries again by itself.
const TRY_FOR: Duration = Duration::from_secs(20);
const TRIES: usize = 4;

/// `s3://bucket/prefix`, perhaps only to look.
pub(in crate::store) fn open(url: &str, rest: &str, options: &[(&str, &str)], looks: bool) -> Result<Objects> {
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
    let endpoints = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
    if endpoints.iter().any(|key| builder.get_config_value(key).is_some_and(|e| e.starts_with("http://"))) {
        builder = builder.with_allow_http(true);
    }
    let unusable = |e| {
        let error = Error::user(format!("{url} cannot be used")).caused_by(e);
        error.hint("write s3://bucket/prefix; region, endpoint and credentials come from AWS_… in the environment, or by open_with")
    };
    let store = Arc::new(builder.build().map_err(unusable)?);
    let background = Arc::new(Background::new()?);
    Ok(Objects::opened(store.clone(), prefix.trim_end_matches('/'), url.into(), background, looks)?.in_parts(store, PART))
}
