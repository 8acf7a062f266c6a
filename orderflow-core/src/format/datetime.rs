//! Dates and times as they are written, `2021-01-10 10:12` and its richer forms, to days and ticks since 1970.
//!
//! Invariant: a date or time that does not exist is refused, and no digit of a fraction is dropped: what the column's unit cannot
//! hold is [`Wrong`].

use super::column::Wrong;
use arrow::datatypes::TimeUnit;

/// Days since 1970-01-01 of a `YYYY-MM-DD`.
pub(crate) fn date(text: &[u8]) -> Result<i32, Wrong> {
    match text.len() {
        10 => days(text),
        _ => Err(Wrong::Type),
    }
}

/// Ticks since 1970-01-01T00:00 of `YYYY-MM-DD`, then a blank or `T`, `HH:MM`, optionally `:SS`, a fraction, and `Z` or an offset
/// (`+02:00`, `+0200`, `+02`) that is subtracted. A date alone means its midnight. Times without an offset are UTC.
pub(crate) fn timestamp(text: &[u8], unit: TimeUnit) -> Result<i64, Wrong> {
    let days = i64::from(days(text)?);
    let Some((separator, time)) = text[10..].split_first() else { return scaled(days * 86_400, 0, unit) };
    if !matches!(separator, b' ' | b'T' | b't') || time.len() < 5 || time[2] != b':' {
        return Err(Wrong::Type);
    }
    let (hour, minute) = (two(time, 0)?, two(time, 3)?);
    let (mut second, mut nanos, mut rest) = (0, 0, &time[5..]);
    if let [b':', after @ ..] = rest {
        second = two(after, 0)?;
        rest = &after[2..];
        if let [b'.' | b',', after @ ..] = rest {
            let count = after.iter().take_while(|b| b.is_ascii_digit()).count();
            nanos = fraction(&after[..count])?;
            rest = &after[count..];
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(Wrong::Date);
    }
    scaled(days * 86_400 + hour * 3600 + minute * 60 + second - offset(rest)?, nanos, unit)
}

/// `value` ticks of `from` in ticks of `to`.
pub(crate) fn convert(value: i64, from: TimeUnit, to: TimeUnit) -> Result<i64, Wrong> {
    let (from, to) = (ticks(from), ticks(to));
    if to >= from {
        return value.checked_mul(to / from).ok_or(Wrong::Range);
    }
    if value % (from / to) == 0 { Ok(value / (from / to)) } else { Err(Wrong::Fine) }
}

fn ticks(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn scaled(seconds: i64, nanos: i64, unit: TimeUnit) -> Result<i64, Wrong> {
    let ticks = ticks(unit);
    let tick = 1_000_000_000 / ticks;
    if nanos % tick != 0 {
        return Err(Wrong::Fine);
    }
    // in 128 bits, because before 1970 the seconds alone may lie just outside
    i64::try_from(i128::from(seconds) * i128::from(ticks) + i128::from(nanos / tick)).map_err(|_| Wrong::Range)
}

/// Days from the civil calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days(text: &[u8]) -> Result<i32, Wrong> {
    if text.len() < 10 || text[4] != b'-' || text[7] != b'-' {
        return Err(Wrong::Type);
    }
    let (year, month, day) = (two(text, 0)? * 100 + two(text, 2)?, two(text, 5)?, two(text, 8)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(Wrong::Date),
    };
    if day < 1 || day > length {
        return Err(Wrong::Date);
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Ok((era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468) as i32)
}

fn two(text: &[u8], at: usize) -> Result<i64, Wrong> {
    match text.get(at..at + 2) {
        Some([a @ b'0'..=b'9', b @ b'0'..=b'9']) => Ok(i64::from((a - b'0') * 10 + (b - b'0'))),
        _ => Err(Wrong::Type),
    }
}

/// Digits after the point, in nanoseconds; zeros behind the ninth are nothing lost.
fn fraction(digits: &[u8]) -> Result<i64, Wrong> {
    if digits.is_empty() {
        return Err(Wrong::Type);
    }
    if digits.iter().skip(9).any(|d| *d != b'0') {
        return Err(Wrong::Fine);
    }
    Ok((0..9).fold(0, |v, i| v * 10 + digits.get(i).map_or(0, |d| i64::from(d - b'0'))))
}

fn offset(text: &[u8]) -> Result<i64, Wrong> {
    let (sign, text) = match text {
        [] | [b'Z' | b'z'] => return Ok(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(Wrong::Type),
    };
    let (hours, minutes) = match text.len() {
        2 => (two(text, 0)?, 0),
        4 => (two(text, 0)?, two(text, 2)?),
        5 if text[2] == b':' => (two(text, 0)?, two(text, 3)?),
        _ => return Err(Wrong::Type),
    };
    if hours > 23 || minutes > 59 {
        return Err(Wrong::Date);
    }
    Ok(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tier;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Result<i64, Wrong> {
        timestamp(text.as_bytes(), TimeUnit::Second)
    }

    #[test]
    fn every_accepted_form_means_the_same_minute() {
        let forms = [
            "2021-01-10 10:12",
            "2021-01-10T10:12",
            "2021-01-10 10:12:00",
            "2021-01-10T10:12:00Z",
            "2021-01-10T10:12:00.000Z",
            "2021-01-10T12:12+02:00",
            "2021-01-10T12:12:00+0200",
            "2021-01-10 08:12:00.0-02",
        ];
        for form in forms {
            assert_eq!(seconds(form), Ok(1_610_273_520), "{form}");
        }
        assert_eq!(seconds("2021-01-10"), Ok(1_610_273_520 - 10 * 3600 - 12 * 60));
    }

    #[test]
    fn what_does_not_exist_or_does_not_fit_is_refused() {
        for text in [
            "2021-02-29 10:12",
            "2021-13-01 10:12",
            "2021-00-10 10:12",
            "2021-04-31 00:00",
            "2021-01-10 24:00",
            "2021-01-10 10:60",
            "1900-02-29",
        ] {
            assert_eq!(seconds(text), Err(Wrong::Date), "{text}");
        }
        for text in [
            "",
            "2021",
            "10.01.2021",
            "2021-01-10 ",
            "2021-01-10 10",
            "2021-01-10 10:12:",
            "2021-01-10 10:12:00.",
            "2021-01-10x10:12",
            "2021-01-10 10:12 Z",
            "2021-1-10 10:12",
        ] {
            assert_eq!(seconds(text), Err(Wrong::Type), "{text}");
        }
        assert_eq!(seconds("2021-01-10 10:12:00.5"), Err(Wrong::Fine));
        assert_eq!(timestamp(b"2021-01-10 10:12:00.123456789", TimeUnit::Microsecond), Err(Wrong::Fine));
        assert_eq!(timestamp(b"1969-12-31 23:59:59.123456789000", TimeUnit::Nanosecond), Ok(-876_543_211));
        assert_eq!(timestamp(b"9999-01-01 00:00", TimeUnit::Nanosecond), Err(Wrong::Range));
        assert_eq!(timestamp(b"1677-09-21 00:12:43.145224192", TimeUnit::Nanosecond), Ok(i64::MIN));
        assert_eq!(convert(1500, TimeUnit::Millisecond, TimeUnit::Second), Err(Wrong::Fine));
        assert_eq!(convert(1500, TimeUnit::Millisecond, TimeUnit::Nanosecond), Ok(1_500_000_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(tier::of(256, 1_000, 10_000)))]
        #[test]
        fn dates_are_those_of_chrono(days in -719_000i32..2_900_000) {
            let day = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0).unwrap();
            prop_assert_eq!(date(day.format("%Y-%m-%d").to_string().as_bytes()), Ok(days));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in "[0-9TZ:+. -]{0,36}") {
            let _ = (timestamp(&bytes, TimeUnit::Nanosecond), timestamp(text.as_bytes(), TimeUnit::Second), date(text.as_bytes()));
        }
    }
}
