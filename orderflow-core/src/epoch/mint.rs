//! The mint closes epochs: after a time, a number of rows or of bytes, or when nothing more comes and something waits.

use super::{Binding, Input};
use crate::source::Fetch;
use crate::time::Epoch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// When an epoch closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time since its first record.
    pub interval: Duration,
    /// Records.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Default for Limits {
    /// One second, 1,000,000 rows or 64 MB.
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), rows: 1_000_000, bytes: 64 << 20 }
    }
}

impl Limits {
    /// How long the input must have been quiet before an epoch closes early: a tenth of its interval.
    pub fn quiet(&self) -> Duration {
        self.interval / 10
    }
}

/// The open epoch and the rule that closes it. Pure: told the time, never asks for it.
#[derive(Debug)]
pub struct Mint {
    limits: Limits,
    open: Binding,
    /// Of every partition that ever had a record with a timestamp.
    watermarks: BTreeMap<Input, i64>,
    rows: u64,
    bytes: u64,
    first: Option<Duration>,
    last: Duration,
}

impl Mint {
    /// The first epoch to be closed is `first`; watermarks go on from those that were bound before it.
    pub fn new(limits: Limits, first: Epoch, watermarks: BTreeMap<Input, i64>) -> Self {
        let open = Binding { epoch: first, ..Binding::default() };
        Self { limits, open, watermarks, rows: 0, bytes: 0, first: None, last: Duration::ZERO }
    }

    /// The watermark of every partition that has one, as of the newest epoch that was closed.
    pub fn watermarks(&self) -> &BTreeMap<Input, i64> {
        &self.watermarks
    }

    /// The open epoch.
    pub fn epoch(&self) -> Epoch {
        self.open.epoch
    }

    /// Whether the open epoch has any input.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds a fetch that came at `now`.
    pub fn add(&mut self, source: &Arc<str>, fetch: &Fetch, now: Duration) {
        self.open.add(source, fetch);
        self.rows += fetch.rows as u64;
        self.bytes += fetch.bytes as u64;
        self.first.get_or_insert(now);
        self.last = now;
    }

    /// How long until the open epoch closes; zero: now; `None`: not before more input comes. `hurry`: somebody waits for what is there.
    pub fn due(&self, now: Duration, hurry: bool) -> Option<Duration> {
        let first = self.first?;
        if hurry || self.rows >= self.limits.rows || self.bytes >= self.limits.bytes {
            return Some(Duration::ZERO);
        }
        let full = (first + self.limits.interval).saturating_sub(now);
        let quiet = (self.last + self.limits.quiet()).saturating_sub(now);
        Some(full.min(quiet))
    }

    /// Whether the open epoch closes now.
    pub fn is_due(&self, now: Duration) -> bool {
        self.due(now, false) == Some(Duration::ZERO)
    }

    /// Closes the open epoch at wall-clock time `minted_at`, when the partitions `idle` are so, and opens the next.
    pub fn close(&mut self, minted_at: i64, idle: BTreeSet<Input>) -> Binding {
        let next = Binding { epoch: self.open.epoch.next(), ..Binding::default() };
        let mut closed = std::mem::replace(&mut self.open, next);
        (closed.minted_at, closed.idle) = (minted_at, idle);
        for (input, range) in &mut closed.ranges {
            range.watermark = range.watermark.max(self.watermarks.get(input).copied());
            if let Some(at) = range.watermark {
                self.watermarks.insert(input.clone(), at);
            }
        }
        (self.rows, self.bytes, self.first) = (0, 0, None);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Payload;
    use crate::time::Partition;

    fn fetch(from: u64, rows: usize, bytes: usize) -> Fetch {
        Fetch {
            partition: Partition::new("t", 0),
            from,
            to: from + rows as u64,
            rows,
            bytes,
            fingerprint: 7,
            latest: None,
            payload: Payload::None,
        }
    }
    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn an_epoch_closes_by_time_rows_bytes_quiet_or_hurry() {
        let limits = Limits { interval: MS(1000), rows: 10, bytes: 100 };
        let mut mint = Mint::new(limits, Epoch(1), BTreeMap::new());
        assert_eq!(mint.due(MS(5000), true), None, "nothing came, nothing closes");
        mint.add(&"s".into(), &fetch(0, 1, 1), MS(100));
        assert_eq!(mint.due(MS(100), false), Some(MS(100)), "quiet for a tenth of the interval");
        mint.add(&"s".into(), &fetch(1, 1, 1), MS(1050));
        assert_eq!(mint.due(MS(1060), false), Some(MS(40)), "a second after the first record");
        assert_eq!(mint.due(MS(1060), true), Some(MS(0)));
        mint.add(&"s".into(), &fetch(2, 8, 1), MS(1060));
        assert_eq!(mint.due(MS(1060), false), Some(MS(0)), "ten rows");
        let binding = mint.close(42, BTreeSet::new());
        assert_eq!((binding.epoch, binding.rows(), binding.minted_at), (Epoch(1), 10, 42));
        let range = binding.ranges[&("s".into(), Partition::new("t", 0))];
        assert_eq!((range.from, range.to, range.bytes, range.fingerprint), (0, 10, 3, 21));
        assert!(mint.is_empty() && mint.epoch() == Epoch(2));
        mint.add(&"s".into(), &fetch(10, 1, 100), MS(2000));
        assert_eq!(mint.due(MS(2000), false), Some(MS(0)), "a hundred bytes");
    }

    #[test]
    fn a_watermark_goes_on_from_epoch_to_epoch_and_never_back() {
        let input = |id| -> Input { ("s".into(), Partition::new("t", id)) };
        let mut mint = Mint::new(Limits::default(), Epoch(7), BTreeMap::from([(input(1), 900)]));
        let mut close = |latest: &[(i32, Option<i64>)], idle: &[i32]| {
            for (id, latest) in latest {
                mint.add(&"s".into(), &Fetch { partition: Partition::new("t", *id), latest: *latest, ..fetch(0, 1, 1) }, MS(1));
            }
            let binding = mint.close(0, idle.iter().map(|id| input(*id)).collect());
            let watermarks = binding.ranges.iter().map(|((_, p), r)| (p.id, r.watermark)).collect::<Vec<_>>();
            (watermarks, binding.idle.len(), mint.watermarks().clone())
        };
        let (bound, idle, all) = close(&[(0, Some(500)), (0, Some(300)), (0, None), (1, Some(800)), (2, None)], &[1, 5]);
        assert_eq!((bound, idle), (vec![(0, Some(500)), (1, Some(900)), (2, None)], 2));
        assert_eq!(all, BTreeMap::from([(input(0), 500), (input(1), 900)]));
        let (bound, idle, all) = close(&[(2, Some(-5)), (0, Some(600))], &[]);
        assert_eq!((bound, idle), (vec![(0, Some(600)), (2, Some(-5))], 0));
        assert_eq!(all, BTreeMap::from([(input(0), 600), (input(1), 900), (input(2), -5)]));
        assert_eq!(close(&[(0, Some(100)), (1, None)], &[]).0, [(0, Some(600)), (1, Some(900))]);
    }
}
