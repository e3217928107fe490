//! JSON as bytes: checked once in one pass here, afterwards walked raw (`walk`) and never copied into a tree.
//!
//! The grammar is RFC 8259, strictly; strings follow `serde_json`, which refuses lone surrogates.

pub use super::walk::{Elements, Json, Member, Members, unescape, write_string};
use std::fmt;

/// How deep objects and lists may nest. A machine word then remembers what each level is, and whoever walks a checked
/// document recursively stays within a small stack. Events of the field nest three or four deep.
pub const DEPTH: u32 = 64;

/// Why bytes are not JSON, and at which byte, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct JsonError {
    pub at: usize,
    pub what: &'static str,
}

fn wrong<T>(at: usize, what: &'static str) -> Result<T, JsonError> {
    Err(JsonError { at, what })
}

/// What a JSON value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "a list",
            Kind::Object => "an object",
        })
    }
}

/// Checks that `bytes` are one JSON document with nothing but white space around it, and says what it is.
///
/// Numbers may have any size: RFC 8259 sets none. Linear in time, constant in memory.
pub fn check(bytes: &[u8]) -> Result<Kind, JsonError> {
    let start = space(bytes, 0);
    let end = value(bytes, start)?;
    utf8(bytes, 0, bytes.len())?;
    let rest = space(bytes, end);
    if rest < bytes.len() {
        return wrong(rest, "expected the end of the document");
    }
    Ok(Json::trusted(&bytes[start..]).kind())
}

/// The documents of a stream: NDJSON, or values one after another with or without white space between.
///
/// Each item is one document without the space around it. After an error, which carries the offset in the whole
/// stream, there are no more.
pub fn documents(bytes: &[u8]) -> Documents<'_> {
    Documents { bytes, at: 0 }
}

/// See [`documents`].
#[derive(Clone, Debug)]
pub struct Documents<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<&'a [u8], JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = space(self.bytes, self.at);
        if start >= self.bytes.len() {
            return None;
        }
        let document = value(self.bytes, start).and_then(|end| {
            utf8(self.bytes, start, end)?;
            // `12` and `true` have no end of their own: `1true` is a mistake, not two documents.
            let closed = matches!(self.bytes[end - 1], b'}' | b']' | b'"');
            match self.bytes.get(end) {
                Some(b' ' | b'\t' | b'\r' | b'\n' | b'{' | b'[' | b'"') | None => Ok(end),
                Some(_) if closed => Ok(end),
                Some(_) => wrong(end, "expected white space after the document"),
            }
        });
        self.at = *document.as_ref().unwrap_or(&self.bytes.len());
        Some(document.map(|end| &self.bytes[start..end]))
    }
}

fn utf8(b: &[u8], start: usize, end: usize) -> Result<(), JsonError> {
    match std::str::from_utf8(&b[start..end]) {
        Ok(_) => Ok(()),
        Err(e) => wrong(start + e.valid_up_to(), "expected UTF-8"),
    }
}

pub(super) fn space(b: &[u8], mut i: usize) -> usize {
    if b.get(i).is_some_and(|c| *c > b' ') {
        return i; // most JSON is compact
    }
    while matches!(b.get(i), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        i += 1;
    }
    i
}

/// Checks the value that starts at `i`; gives the offset after it.
fn value(b: &[u8], mut i: usize) -> Result<usize, JsonError> {
    let (mut depth, mut objects) = (0, 0u64); // one bit a level, the lowest is the innermost: is it an object?
    loop {
        i = space(b, i);
        match b.get(i) {
            Some(b'"') => i = string(b, i + 1)?,
            Some(open @ (b'{' | b'[')) => {
                if depth == DEPTH {
                    return wrong(i, "expected at most 64 levels of nesting");
                }
                let object = *open == b'{';
                let inside = space(b, i + 1);
                if b.get(inside) == Some(if object { &b'}' } else { &b']' }) {
                    i = inside + 1;
                } else {
                    depth += 1;
                    objects = objects << 1 | u64::from(object);
                    i = if object { key(b, inside)? } else { inside };
                    continue;
                }
            }
            Some(b'-' | b'0'..=b'9') => i = number(b, i)?,
            Some(b't') => i = literal(b, i, b"true", "expected `true`")?,
            Some(b'f') => i = literal(b, i, b"false", "expected `false`")?,
            Some(b'n') => i = literal(b, i, b"null", "expected `null`")?,
            _ => return wrong(i, "expected a value"),
        }
        loop {
            if depth == 0 {
                return Ok(i);
            }
            i = space(b, i);
            match (objects & 1 == 1, b.get(i)) {
                (false, Some(b',')) => break i += 1,
                (true, Some(b',')) => break i = key(b, space(b, i + 1))?,
                (true, Some(b'}')) | (false, Some(b']')) => {
                    i += 1;
                    depth -= 1;
                    objects >>= 1;
                }
                (true, _) => return wrong(i, "expected `,` or `}`"),
                (false, _) => return wrong(i, "expected `,` or `]`"),
            }
        }
    }
}

/// A key with its colon; gives the offset after the colon.
fn key(b: &[u8], i: usize) -> Result<usize, JsonError> {
    if b.get(i) != Some(&b'"') {
        return wrong(i, "expected a key in double quotes");
    }
    let i = space(b, string(b, i + 1)?);
    if b.get(i) != Some(&b':') {
        return wrong(i, "expected `:`");
    }
    Ok(i + 1)
}

/// The rest of a string, its opening quote already read; gives the offset after the closing quote.
fn string(b: &[u8], mut i: usize) -> Result<usize, JsonError> {
    loop {
        i = plain(b, i);
        match b.get(i) {
            Some(b'"') => return Ok(i + 1),
            Some(b'\\') => i = escape(b, i)?,
            Some(_) => return wrong(i, "expected no control character in a string"),
            None => return wrong(i, "expected `\"` at the end of the string"),
        }
    }
}

/// The offset of the first byte from `i` on that a string must not hold bare: quote, backslash, control character.
/// Eight bytes at a time; the lowest byte that is marked is marked rightly, borrows only go upwards.
pub(super) fn plain(b: &[u8], mut i: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(eight) = b.get(i..).and_then(|rest| rest.first_chunk::<8>()) {
        let x = u64::from_le_bytes(*eight);
        let (quote, slash) = (x ^ (ONES * 0x22), x ^ (ONES * 0x5c));
        let marks = (x.wrapping_sub(ONES * 0x20) & !x)
            | (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash);
        if marks & HIGH != 0 {
            return i + ((marks & HIGH).trailing_zeros() / 8) as usize;
        }
        i += 8;
    }
    while b.get(i).is_some_and(|c| !matches!(c, b'"' | b'\\' | 0..=0x1f)) {
        i += 1;
    }
    i
}

/// The escape whose backslash is at `i`; gives the offset after it.
fn escape(b: &[u8], i: usize) -> Result<usize, JsonError> {
    match b.get(i + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(i + 2),
        Some(b'u') => match hex(b, i + 2) {
            None => wrong(i, "expected four hex digits after `\\u`"),
            Some(0xd800..0xdc00) => match (b.get(i + 6..i + 8), hex(b, i + 8)) {
                (Some(b"\\u"), Some(0xdc00..0xe000)) => Ok(i + 12),
                _ => wrong(i, "expected the second half of a surrogate pair"),
            },
            Some(0xdc00..0xe000) => wrong(i, "expected the first half of a surrogate pair"),
            Some(_) => Ok(i + 6),
        },
        _ => wrong(i, "expected an escape that JSON knows"),
    }
}

pub(super) fn hex(b: &[u8], i: usize) -> Option<u32> {
    b.get(i..i + 4)?.iter().try_fold(0, |n, c| Some(n << 4 | (*c as char).to_digit(16)?))
}

fn number(b: &[u8], start: usize) -> Result<usize, JsonError> {
    let digits = |mut i: usize| {
        while matches!(b.get(i), Some(b'0'..=b'9')) {
            i += 1;
        }
        i
    };
    let first = start + usize::from(b[start] == b'-');
    let mut i = if b.get(first) == Some(&b'0') { first + 1 } else { digits(first) };
    if i == first {
        return wrong(i, "expected a digit");
    }
    if b.get(i) == Some(&b'.') {
        let fraction = i + 1;
        i = digits(fraction);
        if i == fraction {
            return wrong(i, "expected a digit");
        }
    }
    if matches!(b.get(i), Some(b'e' | b'E')) {
        let exponent = i + 1 + usize::from(matches!(b.get(i + 1), Some(b'+' | b'-')));
        i = digits(exponent);
        if i == exponent {
            return wrong(i, "expected a digit");
        }
    }
    Ok(i)
}

fn literal(b: &[u8], i: usize, word: &[u8], what: &'static str) -> Result<usize, JsonError> {
    if b[i..].starts_with(word) { Ok(i + word.len()) } else { wrong(i, what) }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
