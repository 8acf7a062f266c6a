//! What an object store said, as an error of ours: whose it is, whether it passes, and what to do.
//!
//! Invariant: only what somebody has to change first is permanent; whatever else goes wrong between here and there is worth another try.

use crate::error::Error;
use crate::store::PASSES;
use object_store::path::Path;
use std::fmt;
use std::sync::Arc;

/// What messages call a store.
#[derive(Clone)]
pub(super) struct Place(pub(super) Arc<str>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stores answer to whoever is not let in: HTTP's words, S3's, and Hadoop's.
const RIGHTS: [&str; 6] =
    ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AccessControlException"];
/// Where S3's client looks for credentials when it was given none.
const NOBODY: [&str; 3] = ["169.254.169.254", "169.254.170.2", "latest/meta-data"];
const REGION: [&str; 4] =
    ["incorrectly configured region", "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraint"];
const CONNECT: [&str; 7] = [
    "Connection refused",
    "dns error",
    "failed to lookup",
    "error trying to connect",
    "tcp connect",
    "tls handshake",
    "error sending request",
];

/// Whether there is no such object, in a bucket that is there. Hadoop's client passes on some exceptions of that kind as they came.
pub(super) fn is_absent(e: &object_store::Error) -> bool {
    match e {
        object_store::Error::NotFound { .. } => !text(e).contains("NoSuchBucket"),
        _ => text(e).contains("java.io.FileNotFoundException"),
    }
}

/// Everything that an error and its sources say.
fn text(e: &object_store::Error) -> String {
    let mut all = e.to_string();
    let mut next = std::error::Error::source(e);
    while let Some(e) = next {
        let more = e.to_string();
        if !all.contains(&more) {
            all = format!("{all}: {more}");
        }
        next = e.source();
    }
    all
}

/// What stands between the tags `word` of an XML text.
fn tag<'a>(xml: &'a str, word: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{word}>"), format!("</{word}>"));
    let rest = &xml[xml.find(&open)? + open.len()..];
    rest.find(&close).map(|end| &rest[..end])
}

impl Place {
    /// The error of `what` was tried with `path`.
    pub(super) fn said(&self, what: &str, path: &Path, e: object_store::Error) -> Error {
        use object_store::Error::*;
        let text = text(&e);
        let any = |words: &[&str]| words.iter().any(|w| text.contains(w));
        // S3 says in XML what is wrong
        let why = match (tag(&text, "Code"), tag(&text, "Message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            // and Hadoop adds where in its program that was
            _ => text.split("\n\tat ").next().unwrap_or_default().to_owned(),
        };
        let error = Error::external(format!("cannot {what} {path} in {self}")).why(why);
        let error = match &e {
            _ if any(&["NoSuchBucket"]) => error.hint("make the bucket, or name one that is there").permanent(),
            _ if any(&REGION) => error.hint("name the bucket's region: AWS_REGION, or the option region").permanent(),
            _ if any(&NOBODY) => error.hint("no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            PermissionDenied { .. } | Unauthenticated { .. } => refused(error),
            _ if any(&RIGHTS) => refused(error),
            NotImplemented { .. } | NotSupported { .. } => not_able(error),
            _ if any(&["501 Not Implemented"]) => not_able(error),
            InvalidPath { .. } | UnknownConfigurationKey { .. } => error.permanent(),
            _ if any(&CONNECT) => error.hint(format!("it cannot be reached: is the endpoint right, and is it up? {PASSES}")),
            _ => error,
        };
        error.caused_by(e)
    }
}

fn refused(error: Error) -> Error {
    let hint = "check the credentials, and give them the right to read, write, list and delete there";
    error.hint(hint).permanent()
}

fn not_able(error: Error) -> Error {
    error.hint("take a store that honours If-None-Match, or a local folder").permanent()
}
