//! How much a test does, by the occasion: `ORDERFLOW_TIER` is `push` (the default), `full` or `nightly`.
//!
//! Invariant: a tier changes sizes only, never what is asserted. Tests of packages that cannot name this module take the file in by its path.

/// The size of the occasion's tier.
///
/// # Panics
/// If `ORDERFLOW_TIER` is no tier.
#[expect(clippy::disallowed_methods, reason = "the occasion comes from outside the test")]
pub fn of<T>(push: T, full: T, nightly: T) -> T {
    match std::env::var("ORDERFLOW_TIER").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("" | "push") => push,
        Ok("full") => full,
        Ok("nightly") => nightly,
        other => panic!("ORDERFLOW_TIER is {other:?}: it must be push, full or nightly"),
    }
}
