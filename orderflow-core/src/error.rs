//! One error for the whole library: what happened, why, and what to do about it.
//!
//! Invariant: every error knows whose it is ([`Kind`]) and whether trying again can help ([`Retry`]); its text names the
//! place (topic, partition, offset, file, SQL position) and, where there is one, the remedy.

use std::fmt;
use std::sync::Arc;

/// The result of everything in orderflow that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller asked for something that cannot be: wrong SQL, an unknown column, a folder that is taken.
    User,
    /// Something outside failed: a broker, a disk, a database.
    External,
    /// A broken invariant of ours: a bug.
    Internal,
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// The same call fails again until somebody changes something.
    Never,
    /// The cause is likely to pass: try again after a pause.
    Backoff,
}

/// What failed, why, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Error {
    kind: Kind,
    retry: Retry,
    what: String,
    why: Option<String>,
    hint: Option<String>,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of the caller's: `what` says what cannot be done.
    pub fn user(what: impl Into<String>) -> Self {
        Self::new(Kind::User, Retry::Never, what)
    }

    /// A failure outside the library, worth another try by default.
    pub fn external(what: impl Into<String>) -> Self {
        Self::new(Kind::External, Retry::Backoff, what)
    }

    /// A broken invariant of the library.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, Retry::Never, what).hint("this is a bug in orderflow: please report it with this message")
    }

    fn new(kind: Kind, retry: Retry, what: impl Into<String>) -> Self {
        Self { kind, retry, what: what.into(), why: None, hint: None, source: None }
    }

    /// Adds the reason.
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds the remedy.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the underlying error as the reason.
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.why.get_or_insert_with(|| source.to_string());
        self.source = Some(Arc::new(source));
        self
    }

    /// Says that trying again does not help.
    pub fn permanent(mut self) -> Self {
        self.retry = Retry::Never;
        self
    }

    /// Puts the place where it happened in front of the message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Whose error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The remedy, where one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Error::internal("Arrow refused an operation").caused_by(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_why_and_what_to_do() {
        let e = Error::user("unknown column 'citty'").why("table orders has no such column").hint("did you mean 'city'?");
        assert_eq!(e.to_string(), "unknown column 'citty': table orders has no such column\n  hint: did you mean 'city'?");
        assert_eq!((e.kind(), e.retry()), (Kind::User, Retry::Never));
    }

    #[test]
    fn a_cause_is_kept_as_the_reason() {
        let e = Error::external("cannot write /x").caused_by(std::io::Error::other("disk full"));
        assert_eq!(e.to_string(), "cannot write /x: disk full");
        assert!(std::error::Error::source(&e).is_some());
    }
}
