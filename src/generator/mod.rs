//! Orders out of nothing: seeded, deterministic, as fast as a broker takes them, and as dirty as one asks for.
//!
//! [`Orders`] is a value that says what to make; [`Records`] writes the bytes of one record after the other, [`Orders::source`]
//! feeds them to a pipeline, [`expected`](fn@expected) computes what a pipeline must find in them.
//!
//! Invariant: the record at position *i* is a function of (options, *i*) and of nothing else, so that any position can be made
//! again after a restart. Shares decide each record by itself: another share of one fate leaves all other orders as they were.

mod catalog;
mod draw;
mod expected;
mod source;
mod write;

#[cfg(test)]
mod tests;

pub use draw::{Damage, Fate};
pub use expected::{Expected, Total, expected};
pub use source::OrdersSource;
pub use write::Records;

use crate::domain::Order;
use draw::Draws;
use orderflow_core::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What orders to make: a builder, and the recipe itself.
#[derive(Clone, Debug)]
pub struct Orders {
    seed: u64,
    total: Option<u64>,
    rate: u64,
    start: i64,
    step: i64,
    customers: u32,
    failures: Share,
    late: Share,
    duplicates: Share,
    malformed: Share,
    unseen: Share,
    encoding: Encoding,
}

/// The form of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON object with the 16 fields of an order, about 381 bytes.
    Json,
    /// A CSV line with the 16 fields of an order, without a line end.
    Csv,
}

impl Orders {
    /// Endless clean orders as fast as they are taken: 24 cities, the six named payment types, 10,000 customers, 10 % failed payments, a second apart.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            total: None,
            rate: 0,
            start: 1_610_273_520_000, // 2021-01-10 10:12
            step: 1_000,
            customers: 10_000,
            failures: Share::of_thousand(100),
            late: Share::NONE,
            duplicates: Share::NONE,
            malformed: Share::NONE,
            unseen: Share::NONE,
            encoding: Encoding::Json,
        }
    }

    /// Ends after `records` records.
    pub fn total(self, records: u64) -> Self {
        Self { total: Some(records), ..self }
    }

    /// Records a second when used as a source; 0 is flat out.
    pub fn rate(self, per_second: u64) -> Self {
        Self { rate: per_second, ..self }
    }

    /// Event time of the first order, in milliseconds since 1970, and the time between two orders.
    pub fn event_time(self, start_millis: i64, step: Duration) -> Self {
        Self { start: start_millis, step: i64::try_from(step.as_millis()).unwrap_or(i64::MAX), ..self }
    }

    /// Number of distinct customers; 0 counts as 1.
    pub fn customers(self, distinct: u32) -> Self {
        Self { customers: distinct.max(1), ..self }
    }

    /// Share of orders whose payment failed.
    pub fn failures(self, share: Share) -> Self {
        Self { failures: share, ..self }
    }

    /// Share of orders whose event time is up to a day before that of their neighbours.
    pub fn late(self, share: Share) -> Self {
        Self { late: share, ..self }
    }

    /// Share of records that repeat, byte for byte, one of up to 64 records before.
    pub fn duplicates(self, share: Share) -> Self {
        Self { duplicates: share, ..self }
    }

    /// Share of records that are no order: every kind of [`Damage`], all equally often.
    pub fn malformed(self, share: Share) -> Self {
        Self { malformed: share, ..self }
    }

    /// Share of orders with a payment type outside the six, awkward ones among them.
    pub fn unseen_types(self, share: Share) -> Self {
        Self { unseen: share, ..self }
    }

    /// The form of the records.
    pub fn encoding(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    /// How many records there are; `None` without end.
    pub fn count(&self) -> Option<u64> {
        self.total
    }

    /// The order made for position `i`; whether the record there carries it, says [`Orders::fate`].
    pub fn order(&self, i: u64) -> Order {
        let mut draws = Draws::new(self.seed);
        let late = matches!(self.fate(i), Fate::Late);
        self.make(i, &draws.at(i), late).order()
    }

    /// What becomes of the record at position `i`.
    pub fn fate(&self, i: u64) -> Fate {
        let draw = Draws::new(self.seed).at(i);
        self.fate_of(i, &draw, &mut Draws::new(self.seed))
    }

    /// The records from position `from` on.
    pub fn records(&self, from: u64) -> Records {
        Records::new(self.clone(), from)
    }

    /// What decides each record, in words: all but how many there are and how fast they come.
    fn recipe(&self) -> String {
        let Self { seed, start, step, customers, encoding, .. } = self;
        let shares = [
            ("failed", self.failures),
            ("late", self.late),
            ("repeated", self.duplicates),
            ("malformed", self.malformed),
            ("of unseen payment types", self.unseen),
        ];
        let shares: Vec<String> =
            shares.into_iter().filter(|(_, s)| *s != Share::NONE).map(|(what, share)| format!("{share} {what}")).collect();
        let shares = if shares.is_empty() { "none failed".to_owned() } else { shares.join(", ") };
        format!("orders of seed {seed}, {encoding:?}, from {start} on every {step} ms, by {customers} customers, {shares}")
    }

    /// Event time of an order that is not late, in milliseconds since 1970; it is the timestamp of the record.
    fn event_millis(&self, i: u64) -> i64 {
        self.start.saturating_add(self.step.saturating_mul(i64::try_from(i).unwrap_or(i64::MAX)))
    }
}

/// A part of all records, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// No record.
    pub const NONE: Share = Share(0);
    /// Every record.
    pub const ALL: Share = Share(1 << 32);

    const fn of_thousand(n: u64) -> Self {
        Share((n << 32) / 1000)
    }

    /// The share `part`, from 0 to 1.
    ///
    /// # Errors
    /// If `part` is outside 0 to 1 or not a number.
    pub fn new(part: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&part) {
            Ok(Share((part * Share::ALL.0 as f64).round() as u64))
        } else {
            Err(Error::user(format!("{part} is not a share")).hint("a share goes from 0 (none) to 1 (all): 0.01 is one of a hundred"))
        }
    }

    fn takes(self, roll: u32) -> bool {
        u64::from(roll) < self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = format!("{:.8}", self.0 as f64 / Share::ALL.0 as f64);
        f.write_str(part.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let part: f64 = text.parse().map_err(|_| Error::user(format!("'{text}' is not a share")).hint("write a number from 0 to 1"))?;
        Share::new(part)
    }
}
