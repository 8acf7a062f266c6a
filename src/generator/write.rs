//! Orders become bytes, by hand: a generator must be faster than what it feeds.
//!
//! Invariant: what is written for a whole order is valid JSON or CSV and means exactly [`Orders::order`].

use super::catalog::name;
use super::draw::{Damage, Draws, Fate, Made};
use super::{Encoding, Orders};

/// The records of [`Orders`], one after the other.
pub struct Records {
    orders: Orders,
    position: u64,
    draws: Draws,
    others: Draws,
}

impl Records {
    pub(super) fn new(orders: Orders, position: u64) -> Self {
        let draws = || Draws::new(orders.seed);
        Self { position, draws: draws(), others: draws(), orders }
    }

    /// Position of the record that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Appends the next record to `out` and says how many bytes it has; `None` after the last one.
    pub fn next_into(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        let i = self.position;
        if self.orders.total.is_some_and(|total| i >= total) {
            return None;
        }
        self.position += 1;
        let from = out.len();
        let draw = self.draws.at(i);
        match self.orders.fate_of(i, &draw, &mut self.others) {
            Fate::Whole => self.write(&self.orders.make(i, &draw, false), None, out),
            Fate::Late => self.write(&self.orders.make(i, &draw, true), None, out),
            Fate::Malformed(damage) => self.write(&self.orders.make(i, &draw, false), Some(damage), out),
            Fate::Duplicate { of } => {
                let draw = self.others.at(of);
                let late = matches!(self.orders.fate_of(of, &draw, &mut self.others), Fate::Late);
                self.write(&self.orders.make(of, &draw, late), None, out);
            }
        }
        Some(out.len() - from)
    }

    fn write(&self, made: &Made, damage: Option<Damage>, out: &mut Vec<u8>) {
        let from = out.len();
        match damage {
            Some(Damage::Empty) => return,
            Some(Damage::NotAnOrder) => return out.extend_from_slice(b"the order service could not serialise this one"),
            _ => {}
        }
        match self.orders.encoding {
            Encoding::Json => json(made, damage, out),
            Encoding::Csv => csv(made, damage, out),
        }
        if damage == Some(Damage::Truncated) {
            // a CSV line is whole again when only its last field is cut: stay before it
            let len = match self.orders.encoding {
                Encoding::Json => out.len() - from,
                Encoding::Csv => out[from..].iter().rposition(|b| *b == b',').unwrap_or(2),
            };
            out.truncate(from + made.cut(len));
        }
    }
}

const TOO_BIG: &[u8] = b"1000000000000000000000000000000";

fn json(m: &Made, damage: Option<Damage>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"order_id\":");
    number(m.order_id, out);
    out.extend_from_slice(b",\"customer_id\":");
    number(m.customer.into(), out);
    out.extend_from_slice(b",\"customer_name\":\"");
    customer_name(m, damage, out);
    out.extend_from_slice(b"\",\"product_id\":");
    number(m.product.id.into(), out);
    out.extend_from_slice(b",\"product_name\":\"");
    out.extend_from_slice(m.product.name.as_bytes());
    out.extend_from_slice(b"\",\"product_category\":\"");
    out.extend_from_slice(m.product.category.as_bytes());
    out.extend_from_slice(b"\",\"payment_type\":\"");
    escaped(m.payment_type, b'\\', out);
    out.extend_from_slice(b"\",\"qty\":");
    match damage {
        Some(Damage::WrongType) => out.extend_from_slice(b"\"many\""),
        _ => number(m.qty.into(), out),
    }
    match damage {
        Some(Damage::MissingField) => {}
        Some(Damage::NumberTooBig) => {
            out.extend_from_slice(b",\"price\":");
            out.extend_from_slice(TOO_BIG);
        }
        _ => {
            out.extend_from_slice(b",\"price\":");
            money(m.cents, out);
        }
    }
    out.extend_from_slice(b",\"datetime\":\"");
    datetime(m.millis, out);
    out.extend_from_slice(b"\",\"country\":\"");
    out.extend_from_slice(m.city.country.as_bytes());
    out.extend_from_slice(b"\",\"city\":\"");
    out.extend_from_slice(m.city.name.as_bytes());
    out.extend_from_slice(b"\",\"ecommerce_website_name\":\"");
    out.extend_from_slice(m.site.as_bytes());
    out.extend_from_slice(b"\",\"payment_txn_id\":");
    number(m.transaction.into(), out);
    match m.failure {
        None => out.extend_from_slice(b",\"payment_txn_success\":\"Y\",\"failure_reason\":null}"),
        Some(reason) => {
            out.extend_from_slice(b",\"payment_txn_success\":\"N\",\"failure_reason\":\"");
            out.extend_from_slice(reason.as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
}

fn csv(m: &Made, damage: Option<Damage>, out: &mut Vec<u8>) {
    number(m.order_id, out);
    out.push(b',');
    number(m.customer.into(), out);
    out.push(b',');
    customer_name(m, damage, out);
    out.push(b',');
    number(m.product.id.into(), out);
    for text in [m.product.name, m.product.category] {
        out.push(b',');
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b',');
    if m.payment_type.contains(['"', ',']) {
        out.push(b'"');
        escaped(m.payment_type, b'"', out);
        out.push(b'"');
    } else {
        out.extend_from_slice(m.payment_type.as_bytes());
    }
    out.push(b',');
    match damage {
        Some(Damage::WrongType) => out.extend_from_slice(b"many"),
        _ => number(m.qty.into(), out),
    }
    match damage {
        Some(Damage::MissingField) => {}
        Some(Damage::NumberTooBig) => {
            out.push(b',');
            out.extend_from_slice(TOO_BIG);
        }
        _ => {
            out.push(b',');
            money(m.cents, out);
        }
    }
    out.push(b',');
    datetime(m.millis, out);
    for text in [m.city.country, m.city.name, m.site] {
        out.push(b',');
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b',');
    number(m.transaction.into(), out);
    out.extend_from_slice(if m.failure.is_some() { b",N," } else { b",Y," });
    out.extend_from_slice(m.failure.unwrap_or_default().as_bytes());
}

fn customer_name(m: &Made, damage: Option<Damage>, out: &mut Vec<u8>) {
    let (first, last) = name(m.customer);
    out.extend_from_slice(first.as_bytes());
    out.push(if damage == Some(Damage::NotUtf8) { 0xFF } else { b' ' });
    out.extend_from_slice(last.as_bytes());
}

/// Puts `escape` before quotes and before itself.
fn escaped(text: &str, escape: u8, out: &mut Vec<u8>) {
    for b in text.bytes() {
        if b == b'"' || b == escape {
            out.push(escape);
        }
        out.push(b);
    }
}

fn number(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn two(n: u64) -> [u8; 2] {
    [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]
}

fn money(cents: u64, out: &mut Vec<u8>) {
    number(cents / 100, out);
    let [tens, ones] = two(cents % 100);
    out.extend_from_slice(&[b'.', tens, ones]);
}

/// `2021-01-10 10:12`, with seconds where there are any. The date by Howard Hinnant's `civil_from_days`.
fn datetime(millis: i64, out: &mut Vec<u8>) {
    let seconds = millis.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u64);
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u64;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u64;
    let year = (year_of_era + era * 400 + i64::from(month <= 2)) as u64;
    let ([y1, y2], [y3, y4], [m1, m2], [d1, d2]) = (two(year / 100), two(year), two(month), two(day));
    let ([h1, h2], [i1, i2], [s1, s2]) = (two(second / 3600), two(second / 60 % 60), two(second % 60));
    let text = [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', h1, h2, b':', i1, i2, b':', s1, s2];
    out.extend_from_slice(if second.is_multiple_of(60) { &text[..16] } else { &text });
}
