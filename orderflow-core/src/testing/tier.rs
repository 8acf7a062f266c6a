//! How much a test does, by the occasion: `ORDERFLOW_TIER` is `push` (the default), `full` or `nightly`, and `ORDERFLOW_HOURS` is time for more.
//!
//! Invariant: the occasion changes sizes only, never what is asserted. Tests of packages that cannot name this module take the file in by its path.

use std::env::VarError;
use std::time::Duration;

/// The size of the occasion's tier.
///
/// # Panics
/// If `ORDERFLOW_TIER` is no tier.
#[expect(clippy::disallowed_methods, reason = "the occasion comes from outside the test")]
pub fn of<T>(push: T, full: T, nightly: T) -> T {
    match std::env::var("ORDERFLOW_TIER").as_deref() {
        Err(VarError::NotPresent) | Ok("" | "push") => push,
        Ok("full") => full,
        Ok("nightly") => nightly,
        other => panic!("ORDERFLOW_TIER is {other:?}: it must be push, full or nightly"),
    }
}

/// For how long a test with random schedules goes on with fresh ones: the hours in `ORDERFLOW_HOURS`, by default none. A test that is several in one
/// divides it among them.
///
/// # Panics
/// If `ORDERFLOW_HOURS` is no number of hours.
#[expect(clippy::disallowed_methods, reason = "the occasion comes from outside the test")]
pub fn hours() -> Duration {
    match std::env::var("ORDERFLOW_HOURS") {
        Err(VarError::NotPresent) => Duration::ZERO,
        Ok(text) if text.is_empty() => Duration::ZERO,
        other => {
            let hours = other.as_ref().ok().and_then(|text| hours_in(text));
            hours.unwrap_or_else(|| panic!("ORDERFLOW_HOURS is {other:?}: it must be a number of hours, as 0.5 or 8"))
        }
    }
}

fn hours_in(text: &str) -> Option<Duration> {
    text.parse::<f64>().ok().and_then(|hours| Duration::try_from_secs_f64(hours * 3600.0).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_have_a_fraction_and_are_not_negative() {
        assert_eq!(hours_in("0.5"), Some(Duration::from_secs(1800)));
        assert_eq!(hours_in("8"), Some(Duration::from_secs(8 * 3600)));
        for wrong in ["-1", "NaN", "inf", "a night"] {
            assert_eq!(hours_in(wrong), None, "{wrong}");
        }
    }
}
