//! The only `now`: the machine's clock, or one that a test moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time: milliseconds since 1970 for stamping, and a monotonic reading for waiting.
#[derive(Clone, Debug)]
pub struct Clock(Inner);

#[derive(Clone, Debug)]
enum Inner {
    System(Instant),
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    pub fn system() -> Self {
        Clock(Inner::System(Instant::now()))
    }

    /// A clock that stands still until [`Clock::advance`] moves it; starts at `millis` since 1970.
    pub fn manual(millis: u64) -> Self {
        Clock(Inner::Manual(Arc::new(AtomicU64::new(millis * 1000))))
    }

    /// Milliseconds since 1970, UTC.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    pub fn unix_millis(&self) -> i64 {
        match &self.0 {
            Inner::System(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
            Inner::Manual(t) => (t.load(Ordering::SeqCst) / 1000) as i64,
        }
    }

    /// Time since this clock was made; never goes back.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Inner::System(start) => start.elapsed(),
            Inner::Manual(t) => Duration::from_micros(t.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; does nothing to the machine's.
    pub fn advance(&self, by: Duration) {
        if let Inner::Manual(t) = &self.0 {
            t.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::system()
    }
}
