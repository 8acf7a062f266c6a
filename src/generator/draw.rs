//! What chance decides about one position: 16 random words, and what they mean.
//!
//! Invariant: a position owns one ChaCha block, so that reading on costs nothing and reading anywhere costs one block; each word
//! decides one thing.

use super::Orders;
use super::catalog::{CITIES, City, FAILURE_REASONS, PRODUCTS, Product, SITES, UNSEEN_TYPES};
use crate::domain::Order;
use crate::domain::order::PAYMENT_TYPES;
use chrono::DateTime;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rust_decimal::Decimal;

/// The random words of a position: one ChaCha block.
pub(super) type Draw = [u32; 16];

// which word decides what
const CUSTOMER: usize = 0;
const PRODUCT: usize = 1;
const PAYMENT_TYPE: usize = 2;
const QTY: usize = 3;
const PRICE: usize = 4;
const CITY: usize = 5;
const SITE: usize = 6;
const TRANSACTION: usize = 7;
const FAILED: usize = 8;
const REASON: usize = 9;
const UNSEEN: usize = 10;
const MALFORMED: usize = 11;
const DUPLICATE: usize = 12;
const LATE: usize = 13;
/// How far back a duplicate looks, how late a late order is, which damage is done.
const DETAIL: usize = 14;
/// Where a truncated record ends.
const CUT: usize = 15;

/// How far back a duplicate's original lies at most.
const REACH: u32 = 64;
/// How many positions a duplicate tries until it finds one that is no duplicate and not malformed.
const TRIES: u64 = 16;

/// Reads the words of any position; of consecutive ones fast.
pub(super) struct Draws {
    rng: ChaCha8Rng,
    next: u64,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), next: 0 }
    }

    pub(super) fn at(&mut self, i: u64) -> Draw {
        if i != self.next {
            self.rng.set_word_pos(u128::from(i) * 16);
        }
        self.next = i.wrapping_add(1);
        std::array::from_fn(|_| self.rng.next_u32())
    }
}

/// A number below `n`, each equally often.
fn below(n: u32, word: u32) -> u32 {
    ((u64::from(n) * u64::from(word)) >> 32) as u32
}

fn pick<T: Copy>(all: &[T], word: u32) -> T {
    all[below(all.len() as u32, word) as usize]
}

/// What becomes of the record of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It carries the order of the position.
    Whole,
    /// So it does, and the order's event time lies up to a day back.
    Late,
    /// It repeats the record at position `of`.
    Duplicate {
        /// The original: whole or late.
        of: u64,
    },
    /// It is no order.
    Malformed(Damage),
}

/// How a record is damaged: each one makes the record bad for whoever reads `qty`, `price`, `city` and `payment_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Damage {
    /// A sentence and no JSON (in CSV: one field).
    NotAnOrder,
    /// The record ends in the middle.
    Truncated,
    /// `qty` is a word.
    WrongType,
    /// `price` is not there.
    MissingField,
    /// `price` has 31 digits.
    NumberTooBig,
    /// `customer_name` is not UTF-8.
    NotUtf8,
    /// No byte at all.
    Empty,
}

impl Damage {
    /// All of them.
    pub const ALL: [Damage; 7] = [
        Damage::NotAnOrder,
        Damage::Truncated,
        Damage::WrongType,
        Damage::MissingField,
        Damage::NumberTooBig,
        Damage::NotUtf8,
        Damage::Empty,
    ];
}

/// An order before it is written, borrowed from the catalog.
pub(super) struct Made {
    pub(super) order_id: u64,
    pub(super) customer: u32,
    pub(super) product: Product,
    pub(super) payment_type: &'static str,
    pub(super) qty: u32,
    pub(super) cents: u64,
    pub(super) millis: i64,
    pub(super) city: City,
    pub(super) site: &'static str,
    pub(super) transaction: u32,
    pub(super) failure: Option<&'static str>,
    /// Where the record is cut if it is truncated.
    pub(super) cut: u32,
}

impl Made {
    pub(super) fn order(&self) -> Order {
        let (first, last) = super::catalog::name(self.customer);
        Order {
            order_id: self.order_id as i64,
            customer_id: i64::from(self.customer),
            customer_name: format!("{first} {last}"),
            product_id: i64::from(self.product.id),
            product_name: self.product.name.into(),
            product_category: self.product.category.into(),
            payment_type: self.payment_type.into(),
            qty: i64::from(self.qty),
            price: Decimal::new(self.cents as i64, 2),
            datetime: DateTime::from_timestamp_millis(self.millis).unwrap_or_default().naive_utc(),
            country: self.city.country.into(),
            city: self.city.name.into(),
            ecommerce_website_name: self.site.into(),
            payment_txn_id: i64::from(self.transaction),
            payment_txn_success: if self.failure.is_some() { "N" } else { "Y" }.into(),
            failure_reason: self.failure.map(Into::into),
        }
    }

    /// Where a record of `len` bytes is cut: something remains and something is missing.
    pub(super) fn cut(&self, len: usize) -> usize {
        1 + below(len as u32 - 1, self.cut) as usize
    }
}

impl Orders {
    pub(super) fn make(&self, i: u64, w: &Draw, late: bool) -> Made {
        let product = pick(&PRODUCTS, w[PRODUCT]);
        let behind = if late { 60_000 * i64::from(1 + below(24 * 60, w[DETAIL])) } else { 0 };
        Made {
            order_id: i + 1,
            customer: 1 + below(self.customers, w[CUSTOMER]),
            product,
            payment_type: if self.unseen.takes(w[UNSEEN]) {
                pick(&UNSEEN_TYPES, w[PAYMENT_TYPE])
            } else {
                pick(&PAYMENT_TYPES, w[PAYMENT_TYPE])
            },
            // small numbers often, large ones seldom
            qty: 1 + (below(6, w[QTY]) * below(6, w[QTY].rotate_left(16))),
            cents: u64::from(product.cents + below(product.cents / 10 + 1, w[PRICE])),
            millis: self.event_millis(i).saturating_sub(behind).div_euclid(1000) * 1000,
            city: pick(&CITIES, w[CITY]),
            site: pick(&SITES, w[SITE]),
            transaction: 10_000 + below(90_000, w[TRANSACTION]),
            failure: self.failures.takes(w[FAILED]).then(|| pick(&FAILURE_REASONS, w[REASON])),
            cut: w[CUT],
        }
    }

    /// `others` reads the words of other positions.
    pub(super) fn fate_of(&self, i: u64, w: &Draw, others: &mut Draws) -> Fate {
        if self.malformed.takes(w[MALFORMED]) {
            return Fate::Malformed(pick(&Damage::ALL, w[DETAIL]));
        }
        if self.duplicates.takes(w[DUPLICATE]) {
            let nearest = u64::from(1 + below(REACH, w[DETAIL]));
            let whole = |w: &Draw| !self.malformed.takes(w[MALFORMED]) && !self.duplicates.takes(w[DUPLICATE]);
            let original = (nearest..nearest + TRIES).map_while(|back| i.checked_sub(back)).find(|j| whole(&others.at(*j)));
            if let Some(of) = original {
                return Fate::Duplicate { of };
            }
        }
        if self.late.takes(w[LATE]) { Fate::Late } else { Fate::Whole }
    }
}
