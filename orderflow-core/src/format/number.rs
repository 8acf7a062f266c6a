//! Numbers as they are written: one pass over the digits, then an exact conversion to whatever the column wants.
//!
//! Invariant: no conversion goes through a float unless the column is one, and none loses a digit: what does not fit is [`Wrong`].

use super::column::Wrong;

/// A number as it is written, already known to be well formed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<'a> {
    /// All of it.
    pub(crate) text: &'a [u8],
    negative: bool,
    /// Its digits without the point; meaningless unless `plain`.
    digits: u64,
    /// How many of them stand after the point.
    fraction: u32,
    /// At most 19 digits and no exponent.
    plain: bool,
}

/// 10 to the power of the index, as far as 64 bits reach.
const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < 20 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Powers of ten that a double holds exactly, and by which it therefore divides correctly rounded (Clinger 1990).
const EXACT: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

impl<'a> Number<'a> {
    /// The number that begins at `start`, by the grammar of RFC 8259, and where it ends; else where it breaks and what was missing there.
    #[inline]
    pub(crate) fn scan(bytes: &'a [u8], start: usize) -> Result<(Self, usize), (&'static str, usize)> {
        let negative = bytes.get(start) == Some(&b'-');
        let whole = start + usize::from(negative);
        let mut at = whole;
        let mut digits = 0u64;
        run(bytes, &mut at, &mut digits);
        let mut count = at - whole;
        if count == 0 {
            return Err(("a digit was expected", at));
        }
        if count > 1 && bytes[whole] == b'0' {
            return Err(("a number must not begin with 0", whole));
        }
        let mut fraction = 0;
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            let from = at;
            run(bytes, &mut at, &mut digits);
            fraction = at - from;
            if fraction == 0 {
                return Err(("a digit was expected after the point", at));
            }
            count += fraction;
        }
        let mut plain = count <= 19;
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            plain = false;
            at += 1;
            if matches!(bytes.get(at), Some(b'+' | b'-')) {
                at += 1;
            }
            let from = at;
            run(bytes, &mut at, &mut digits);
            if at == from {
                return Err(("a digit was expected in the exponent", at));
            }
        }
        Ok((Self { text: &bytes[start..at], negative, digits, fraction: fraction as u32, plain }, at))
    }

    /// The number that `text` is as a whole, written by a person: a plus sign and leading zeros may stand before it.
    pub(crate) fn lenient(text: &'a [u8]) -> Option<Self> {
        let (negative, unsigned) = match text.first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let zeros = unsigned.iter().take_while(|b| **b == b'0').count();
        let zeros = if unsigned.get(zeros).is_some_and(u8::is_ascii_digit) { zeros } else { zeros.saturating_sub(1) };
        let (number, end) = Self::scan(unsigned, zeros).ok()?;
        (end == unsigned.len() && unsigned.first() != Some(&b'-')).then_some(Self { negative, ..number })
    }

    /// As a whole number; `10.0` and `1e1` are whole, `10.5` is not.
    #[inline]
    pub(crate) fn integer(&self) -> Result<i128, Wrong> {
        if self.plain && self.fraction == 0 {
            let value = i128::from(self.digits);
            return Ok(if self.negative { -value } else { value });
        }
        match self.exact(0) {
            Err(Wrong::Fraction) => Err(Wrong::Type),
            other => other,
        }
    }

    /// Times 10 to the power of `scale`, exactly; `limit` is 10 to the power of the column's precision.
    #[inline]
    pub(crate) fn decimal(&self, scale: u8, limit: i128) -> Result<i128, Wrong> {
        let shift = i32::from(scale) - self.fraction as i32;
        let value = if self.plain && (0..=18).contains(&shift) {
            let value = i128::from(self.digits) * i128::from(POWERS[shift as usize]);
            if self.negative { -value } else { value }
        } else {
            self.exact(scale)?
        };
        if value < limit && value > -limit { Ok(value) } else { Err(Wrong::Range) }
    }

    /// Any number of digits and any exponent.
    #[cold]
    fn exact(&self, scale: u8) -> Result<i128, Wrong> {
        let split = self.text.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(self.text.len());
        let mantissa = &self.text[..split];
        let mut shift = i64::from(scale) + exponent(self.text.get(split + 1..).unwrap_or_default());
        if let Some(point) = mantissa.iter().position(|b| *b == b'.') {
            shift -= (mantissa.len() - point - 1) as i64;
        }
        let mut significant = mantissa.iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0').skip_while(|d| *d == 0);
        let (mut value, mut zeros) = (0u128, 0u32);
        // zeros wait until a digit follows them: at the end they cost precision only if the column cannot take them back
        for digit in &mut significant {
            if digit == 0 {
                zeros += 1;
                continue;
            }
            let power = 10u128.checked_pow(zeros + 1).ok_or_else(|| too_long(shift))?;
            value = value.checked_mul(power).and_then(|v| v.checked_add(u128::from(digit))).ok_or_else(|| too_long(shift))?;
            zeros = 0;
        }
        shift += i64::from(zeros);
        if value == 0 {
            return Ok(0);
        }
        if shift < 0 {
            return Err(Wrong::Fraction);
        }
        let power = u32::try_from(shift).ok().and_then(|s| 10u128.checked_pow(s)).ok_or(Wrong::Range)?;
        let value = value.checked_mul(power).and_then(|v| i128::try_from(v).ok()).ok_or(Wrong::Range)?;
        Ok(if self.negative { -value } else { value })
    }

    /// As the nearest double.
    #[inline]
    pub(crate) fn double(&self) -> Result<f64, Wrong> {
        if self.plain && self.digits <= 1 << 53 && self.fraction <= 22 {
            let value = self.digits as f64 / EXACT[self.fraction as usize];
            return Ok(if self.negative { -value } else { value });
        }
        self.nearest(f64::is_finite)
    }

    /// As the nearest single.
    pub(crate) fn single(&self) -> Result<f32, Wrong> {
        self.nearest(f32::is_finite)
    }

    fn nearest<F: std::str::FromStr + std::ops::Neg<Output = F> + Copy>(&self, finite: fn(F) -> bool) -> Result<F, Wrong> {
        let text = std::str::from_utf8(self.text).map_err(|_| Wrong::Type)?;
        let value: F = text.parse().map_err(|_| Wrong::Type)?;
        // the sign may stand outside the text where a person wrote it
        let value = if self.negative && !text.starts_with('-') { -value } else { value };
        if finite(value) { Ok(value) } else { Err(Wrong::Range) }
    }
}

/// Digits that are too many for 128 bits: too fine if they lie behind the last place, else too big.
fn too_long(shift: i64) -> Wrong {
    if shift < 0 { Wrong::Fraction } else { Wrong::Range }
}

/// The exponent, far enough out to be hopeless where it does not fit.
fn exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = digits.iter().fold(0i64, |v, d| (v * 10 + i64::from(d - b'0')).min(1 << 40));
    if negative { -value } else { value }
}

#[inline]
fn run(bytes: &[u8], at: &mut usize, digits: &mut u64) {
    while let Some(b) = bytes.get(*at) {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        *digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        *at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tier;
    use proptest::prelude::*;

    fn number(text: &str) -> Number<'_> {
        let (number, end) = Number::scan(text.as_bytes(), 0).expect(text);
        assert_eq!(end, text.len(), "{text}");
        number
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let limit = 10i128.pow(18);
        let ok = [
            ("10", 1000),
            ("-0.05", -5),
            ("59999.90", 5_999_990),
            ("1e3", 100_000),
            ("1.2500", 125),
            ("125E-2", 125),
            ("0e999999999999", 0),
        ];
        for (text, value) in ok {
            assert_eq!(number(text).decimal(2, limit), Ok(value), "{text}");
        }
        assert_eq!(number("9999999999999999.99").decimal(2, limit), Ok(limit - 1));
        assert_eq!(number("0.000000000000000000000000000000000000000000001").decimal(2, limit), Err(Wrong::Fraction));
        assert_eq!(number("100000000000000000000000000000000000000000000.00").decimal(2, limit), Err(Wrong::Range));
        for (text, why) in [
            ("1.005", Wrong::Fraction),
            ("1e-3", Wrong::Fraction),
            ("10000000000000000.00", Wrong::Range),
            ("1e99999999999999999999", Wrong::Range),
        ] {
            assert_eq!(number(text).decimal(2, limit), Err(why), "{text}");
        }
    }

    #[test]
    fn only_numbers_are_numbers() {
        for text in ["", "-", "01", "+1", ".5", "1.", "1e", "1e+", "x", "-x"] {
            assert!(Number::scan(text.as_bytes(), 0).is_err(), "{text}");
        }
        for (text, value) in [("007", 7), ("+7", 7), ("-007", -7), ("0", 0), ("000", 0), ("-0", 0)] {
            assert_eq!(Number::lenient(text.as_bytes()).expect(text).integer(), Ok(value), "{text}");
        }
        for text in ["", "+", "--1", "+-1", "1 ", "0x1", "1e"] {
            assert!(Number::lenient(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(Number::lenient(b"-00.50").map(|n| n.single()), Some(Ok(-0.5)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
        #[test]
        fn doubles_are_those_of_the_standard_library(value in any::<f64>().prop_filter("finite", |v| v.is_finite()), short in any::<i32>(), scale in 0u32..12) {
            let text = format!("{value:?}");
            prop_assert_eq!(number(&text).double().unwrap().to_bits(), value.to_bits());
            let text = format!("{}{}.{:0width$}", if short < 0 { "-" } else { "" }, short.unsigned_abs() / 7, short.unsigned_abs() % 7, width = scale as usize + 1);
            prop_assert_eq!(number(&text).double().unwrap().to_bits(), text.parse::<f64>().unwrap().to_bits());
        }

        #[test]
        fn decimals_are_those_of_their_text(value in -(10i128.pow(37))..10i128.pow(37), scale in 0u8..12) {
            let power = 10i128.pow(u32::from(scale));
            let sign = if value < 0 { "-" } else { "" };
            let text = if scale == 0 { value.to_string() } else { format!("{sign}{}.{:0w$}", value.abs() / power, value.abs() % power, w = usize::from(scale)) };
            prop_assert_eq!(number(&text).decimal(scale, 10i128.pow(38)), Ok(value));
            prop_assert_eq!(number(&format!("{value}e-{scale}")).decimal(scale, 10i128.pow(38)), Ok(value));
        }
    }
}
