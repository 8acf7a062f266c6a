//! The grammar of RFC 8259 over one record: where a value ends, whether it is well formed, what a string says.
//!
//! Invariant: no recursion and no allocation per value, so neither depth nor length of a record can hurt. The record is known to be UTF-8
//! before a cursor sees it, so every byte outside the grammar's own is text.

use crate::format::number::Number;

/// How deep lists and objects may lie in each other.
const DEPTH: usize = 128;

/// Where the grammar is broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) what: &'static str,
    pub(super) at: usize,
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<'a> {
    pub(super) raw: &'a [u8],
    pub(super) escaped: bool,
}

/// A place in a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The byte here.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no white space.
    #[inline]
    pub(super) fn token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// An error here: the record ends too early, or `what`.
    #[cold]
    pub(super) fn fault(&self, what: &'static str) -> Syntax {
        Syntax { what: if self.at >= self.bytes.len() { "the record is cut off" } else { what }, at: self.at.min(self.bytes.len()) }
    }

    #[cold]
    fn fault_at<T>(&mut self, at: usize, what: &'static str) -> Result<T, Syntax> {
        self.at = at;
        Err(self.fault(what))
    }

    /// The number that begins here.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number<'a>, Syntax> {
        match Number::scan(self.bytes, self.at) {
            Ok((number, end)) => {
                self.at = end;
                Ok(number)
            }
            Err((what, at)) => self.fault_at(at, what),
        }
    }

    /// `true`, `false` or `null`, whichever begins here with `word`'s first letter.
    #[inline]
    pub(super) fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        let same = self.bytes[self.at..].iter().zip(word.as_bytes()).take_while(|(a, b)| a == b).count();
        self.fault_at(self.at + same, "a value was expected")
    }

    /// The string whose opening quote is here.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Quoted<'a>, Syntax> {
        let start = self.at + 1;
        let mut at = plain_end(self.bytes, start);
        let mut escaped = false;
        loop {
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Quoted { raw: &self.bytes[start..at], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    at = match escape(self.bytes, at) {
                        Ok((_, next)) => plain_end(self.bytes, next),
                        Err((what, at)) => return self.fault_at(at, what),
                    };
                }
                Some(_) => return self.fault_at(at, "a control character stands in a string"),
                None => return self.fault_at(at, ""),
            }
        }
    }

    /// Checks and steps over the value that begins here.
    #[inline]
    pub(super) fn skip(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b'{' | b'[') => self.skip_nested(),
            Some(b'n') => self.word("null"),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            _ => Err(self.fault("a value was expected")),
        }
    }

    /// [`Cursor::skip`] over a list or object; what encloses the place is kept as one bit a level.
    fn skip_nested(&mut self) -> Result<(), Syntax> {
        let (mut depth, mut objects) = (0usize, 0u128);
        loop {
            // at an opening bracket
            if depth == DEPTH {
                return Err(self.fault("lists and objects lie deeper than 128 in each other"));
            }
            depth += 1;
            objects = objects << 1 | u128::from(self.peek() == Some(b'{'));
            self.at += 1;
            let mut more = !matches!((self.token(), objects & 1), (Some(b'}'), 1) | (Some(b']'), 0));
            loop {
                if more {
                    if objects & 1 == 1 {
                        self.key()?;
                    }
                    if matches!(self.token(), Some(b'{' | b'[')) {
                        break;
                    }
                    self.skip()?;
                }
                more = match (self.token(), objects & 1) {
                    (Some(b','), _) if more => {
                        self.at += 1;
                        self.token();
                        true
                    }
                    (Some(b'}'), 1) | (Some(b']'), 0) => {
                        self.at += 1;
                        (depth, objects) = (depth - 1, objects >> 1);
                        if depth == 0 {
                            return Ok(());
                        }
                        // the closed one was a value of what encloses it: a comma or the end follows
                        match (self.token(), objects & 1) {
                            (Some(b','), _) => {
                                self.at += 1;
                                self.token();
                                true
                            }
                            _ => false,
                        }
                    }
                    (_, 1) => return Err(self.fault("',' or '}' was expected")),
                    _ => return Err(self.fault("',' or ']' was expected")),
                };
            }
        }
    }

    /// A field's name and the colon after it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Quoted<'a>, Syntax> {
        if self.token() != Some(b'"') {
            return Err(self.fault("a field's name in quotes was expected"));
        }
        let name = self.string()?;
        if self.token() != Some(b':') {
            return Err(self.fault("':' was expected after a field's name"));
        }
        self.at += 1;
        Ok(name)
    }
}

/// Appends what `raw`, a string that [`Cursor::string`] has let through, says.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < raw.len() {
        let next = plain_end(raw, at);
        out.extend_from_slice(&raw[at..next]);
        at = next;
        if at < raw.len() {
            let Ok((c, next)) = escape(raw, at) else { return };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            at = next;
        }
    }
}

/// The character that the escape at `at` means and where the text goes on; else where it breaks.
#[cold]
fn escape(bytes: &[u8], at: usize) -> Result<(char, usize), (&'static str, usize)> {
    let c = match bytes.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let high = hex(bytes, at + 2)?;
            if let Some(c) = char::from_u32(high) {
                return Ok((c, at + 6));
            }
            if high < 0xdc00 && bytes.get(at + 6) == Some(&b'\\') && bytes.get(at + 7) == Some(&b'u') {
                let low = hex(bytes, at + 8)?;
                if (0xdc00..0xe000).contains(&low)
                    && let Some(c) = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                {
                    return Ok((c, at + 12));
                }
            }
            // cut off between the halves is cut off; anything else is half a character
            return Err(("half of a surrogate pair stands alone", if high < 0xdc00 && at + 6 >= bytes.len() { bytes.len() } else { at }));
        }
        Some(_) => return Err(("an unknown escape stands in a string", at)),
        None => return Err(("", at + 1)),
    };
    Ok((c, at + 2))
}

fn hex(bytes: &[u8], at: usize) -> Result<u32, (&'static str, usize)> {
    let mut value = 0;
    for i in at..at + 4 {
        let digit = bytes.get(i).and_then(|b| char::from(*b).to_digit(16)).ok_or(("\\u wants four hexadecimal digits", i))?;
        value = value << 4 | digit;
    }
    Ok(value)
}

/// Where the plain text that begins at `at` ends: at a quote, a backslash, a control character, or the end.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let special = special(u64::from_le_bytes(*chunk));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(b) = bytes.get(at) {
        if *b < 0x20 || *b == b'"' || *b == b'\\' {
            break;
        }
        at += 1;
    }
    at
}

/// Eight bytes at once: the lowest bit that is set lies in the first byte that ends plain text (a borrow can only spoil bytes above it).
/// After "Determine if a word has a byte less than n", Sean Eron Anderson, Bit Twiddling Hacks.
#[inline]
fn special(text: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let quote = text ^ (ONES * b'"' as u64);
    let backslash = text ^ (ONES * b'\\' as u64);
    let marks =
        (text.wrapping_sub(ONES * 0x20) & !text) | (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    marks & (ONES * 0x80)
}
