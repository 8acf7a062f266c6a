//! Where a store is: in a local folder, by its path, or in a store that machines share, by its URL.
//!
//! Invariant: what has no `://` in it is a path, whatever it looks like; a URL whose kind this build does not know is refused, and never taken
//! for a folder of that name.

use crate::error::{Error, Result};
use crate::store::{Folder, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The kind of a URL and what follows `://`; nothing of a path.
fn url(place: &Path) -> Option<(&str, &str)> {
    place.to_str()?.split_once("://").filter(|(kind, _)| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '+'))
}

/// Whether it is a URL, so that no part of it lies in a folder of this machine.
pub fn is_url(place: impl AsRef<Path>) -> bool {
    url(place.as_ref()).is_some()
}

/// Opens the store at a path of a local folder, or at a URL: `s3://bucket/prefix` with the feature `s3`, `hdfs://namenode:port/folder` with
/// the feature `hdfs`. Credentials, region and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
/// `AWS_REGION`, `AWS_ENDPOINT_URL` and what else S3's clients know; `HADOOP_CONF_DIR`).
///
/// # Errors
/// A URL of a kind that is not known; a store that cannot be opened, does not answer, or cannot write an object only if it is not there.
pub fn open(place: impl AsRef<Path>) -> Result<Arc<dyn Store>> {
    open_with(place, &[])
}

/// As [`open`]; a folder that is in use is tried again for as long as `patience` lasts and `waits` says so. A URL has no lock to wait for.
///
/// # Errors
/// As [`open`].
pub fn open_within(place: impl AsRef<Path>, patience: Duration, waits: &dyn Fn() -> bool) -> Result<Arc<dyn Store>> {
    let place = place.as_ref();
    if is_url(place) { open(place) } else { Ok(Arc::new(Folder::open_within(place, patience, waits)?)) }
}

/// A store to look into only, also while somebody else has it open; `None` if there is no such folder. Nothing is written, so it may be looked into
/// without the right to write.
///
/// # Errors
/// A URL of a kind that is not known. Whether a store at a URL answers shows when it is read.
pub fn look(place: impl AsRef<Path>) -> Result<Option<Arc<dyn Store>>> {
    let place = place.as_ref();
    if let Some((kind, rest)) = url(place) {
        return open_url(&place.display().to_string(), kind, rest, &[], true).map(Some);
    }
    Ok(if place.is_dir() { Some(Arc::new(Folder::look(place))) } else { None })
}

/// As [`open`], with options that go before the environment: `endpoint`, `region`, `access_key_id`, `secret_access_key` and all others of
/// `object_store`'s `AmazonS3ConfigKey` for S3, the properties of its configuration for Hadoop. A folder has none.
///
/// # Errors
/// As [`open`], and an option that is not known.
pub fn open_with(place: impl AsRef<Path>, options: &[(&str, &str)]) -> Result<Arc<dyn Store>> {
    let place = place.as_ref();
    let Some((kind, rest)) = url(place) else {
        return match options.first() {
            None => Ok(Arc::new(Folder::open(place)?)),
            Some((name, _)) => {
                Err(Error::user(format!("'{name}' is no option of the folder {}", place.display())).hint("a folder has none"))
            }
        };
    };
    open_url(&place.display().to_string(), kind, rest, options, false)
}

#[cfg_attr(not(any(feature = "s3", feature = "hdfs")), expect(unused_variables, reason = "no kind of URL is known"))]
fn open_url(place: &str, kind: &str, rest: &str, options: &[(&str, &str)], looks: bool) -> Result<Arc<dyn Store>> {
    match kind {
        #[cfg(feature = "s3")]
        "s3" | "s3a" => Ok(Arc::new(super::object::s3::open(place, rest, options, looks)?)),
        #[cfg(feature = "hdfs")]
        "hdfs" => Ok(Arc::new(super::object::hdfs::open(place, rest, options, looks)?)),
        #[cfg(not(feature = "s3"))]
        "s3" | "s3a" => Err(not_built(place, "s3")),
        #[cfg(not(feature = "hdfs"))]
        "hdfs" => Err(not_built(place, "hdfs")),
        _ => {
            let error = Error::user(format!("'{place}' is of a kind that is not known"));
            Err(error.hint("name a folder by its path alone, or s3://… or hdfs://…"))
        }
    }
}

#[cfg(not(all(feature = "s3", feature = "hdfs")))]
fn not_built(place: &str, feature: &str) -> Error {
    let why = format!("this build is without the feature {feature}");
    Error::user(format!("{place} cannot be opened")).why(why).hint(format!("build with the feature {feature}"))
}
