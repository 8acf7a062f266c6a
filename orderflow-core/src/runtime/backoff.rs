//! Pauses between tries, each twice as long as the one before.
//!
//! Invariant: told the time, never asks for it; the first try after a success waits for nothing.

use std::time::Duration;

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    /// Until when, and how long that pause is in all.
    pause: Option<(Duration, Duration)>,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, pause: None }
    }

    /// It failed at `now`.
    pub(crate) fn failed(&mut self, now: Duration) {
        let step = self.pause.map_or(self.first, |(_, step)| (step * 2).min(self.longest));
        self.pause = Some((now + step, step));
    }

    /// It worked.
    pub(crate) fn worked(&mut self) {
        self.pause = None;
    }

    /// What is left of the pause, perhaps zero; `None` if the last try worked.
    pub(crate) fn left(&self, now: Duration) -> Option<Duration> {
        self.pause.map(|(until, _)| until.saturating_sub(now))
    }

    /// Whether it may be tried.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        self.left(now).is_none_or(|left| left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(100), ms(300));
        assert!(b.left(ms(0)).is_none() && b.is_over(ms(0)));
        for (now, pause) in [(0, 100), (100, 200), (300, 300), (600, 300)] {
            b.failed(ms(now));
            assert_eq!(b.left(ms(now)), Some(ms(pause)));
            assert!(!b.is_over(ms(now + pause - 1)) && b.is_over(ms(now + pause)));
        }
        b.worked();
        b.failed(ms(1000));
        assert_eq!(b.left(ms(1000)), Some(ms(100)));
    }
}
