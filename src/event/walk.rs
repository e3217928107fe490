//! Walks JSON that was checked before, as the bytes it is. Read back from a disk they may still be anything: nothing
//! here panics or runs away on bytes that are not JSON, the values are then meaningless.

use super::json::{Kind, hex, plain, space};
use std::{borrow::Cow, fmt};

/// A value in bytes that were checked: no space around it, nothing copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a [u8]);

impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0))
    }
}

impl<'a> Json<'a> {
    /// Takes bytes that were checked; space around the value is cut off.
    pub fn trusted(bytes: &'a [u8]) -> Self {
        Json(bytes.trim_ascii())
    }

    /// The bytes of the value as they came.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    pub fn kind(self) -> Kind {
        match self.0.first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Null,
        }
    }

    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    pub fn as_bool(self) -> Option<bool> {
        match self.0 {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// The number, if it is written without fraction and exponent and fits.
    pub fn as_i64(self) -> Option<i64> {
        std::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// The number; `None` if it is too large for a double (`1e999`).
    pub fn as_f64(self) -> Option<f64> {
        let text = std::str::from_utf8(self.0).ok().filter(|_| self.kind() == Kind::Number)?;
        text.parse().ok().filter(|n: &f64| n.is_finite())
    }

    /// The text of a string, unescaped.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let inside = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        Some(unescape(inside))
    }

    /// The members of an object in their order, repeated names included; none for any other value.
    pub fn members(self) -> Members<'a> {
        Members::of(self.0)
    }

    /// The elements of a list; none for any other value.
    pub fn elements(self) -> Elements<'a> {
        Elements { bytes: self.0, at: if self.kind() == Kind::Array { 1 } else { self.0.len() } }
    }

    /// The member of that name; the last one, if the name is repeated.
    pub fn member(self, name: &str) -> Option<Json<'a>> {
        self.members().filter(|m| m.named(name)).last().map(|m| m.value)
    }
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The name as it came, without its quotes.
    pub raw_name: &'a [u8],
    /// Whether the name holds escapes.
    pub escaped: bool,
    pub value: Json<'a>,
    /// Where name and value start.
    pub(super) name_at: usize,
    pub(super) value_at: usize,
}

impl<'a> Member<'a> {
    pub fn name(&self) -> Cow<'a, str> {
        unescape(self.raw_name)
    }

    pub fn named(&self, name: &str) -> bool {
        same_name(self.raw_name, self.escaped, name)
    }
}

pub(super) fn same_name(raw: &[u8], escaped: bool, name: &str) -> bool {
    if escaped { unescape(raw) == name } else { raw == name.as_bytes() }
}

/// See [`Json::members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    /// The members of the object that `bytes` are, with or without space around it.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let start = space(bytes, 0);
        Members { bytes, at: if bytes.get(start) == Some(&b'{') { start + 1 } else { bytes.len() } }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let b = self.bytes;
        let quote = after(b, self.at, b',');
        if b.get(quote) != Some(&b'"') {
            return None;
        }
        let (end, escaped) = string_end(b, quote + 1);
        let raw_name = b.get(quote + 1..end)?;
        let start = after(b, end + 1, b':');
        self.at = skip(b, start);
        let value = b.get(start..self.at).filter(|v| !v.is_empty())?;
        Some(Member { raw_name, escaped, value: Json(value), name_at: quote + 1, value_at: start })
    }
}

/// See [`Json::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let start = after(self.bytes, self.at, b',');
        self.at = skip(self.bytes, start);
        self.bytes.get(start..self.at).filter(|v| !v.is_empty()).map(Json)
    }
}

/// Steps over white space, one `mark` if it is there, and white space again.
fn after(b: &[u8], i: usize, mark: u8) -> usize {
    let i = space(b, i);
    if b.get(i) == Some(&mark) { space(b, i + 1) } else { i }
}

/// The offset of the closing quote, and whether escapes came before it.
fn string_end(b: &[u8], mut i: usize) -> (usize, bool) {
    let mut escaped = false;
    loop {
        i = plain(b, i);
        match b.get(i) {
            Some(b'\\') => {
                escaped = true;
                i += 2;
            }
            Some(b'"') | None => return (i.min(b.len()), escaped),
            Some(_) => i += 1,
        }
    }
}

/// The offset after the value at `i`, which is trusted: only brackets and quotes are looked at. `i` if there is none.
fn skip(b: &[u8], mut i: usize) -> usize {
    let mut depth = 0usize;
    loop {
        match b.get(i) {
            Some(b'"') => i = string_end(b, i + 1).0 + 1,
            Some(b'{' | b'[') => {
                depth += 1;
                i += 1;
            }
            Some(b'}' | b']') if depth > 0 => {
                depth -= 1;
                i += 1;
            }
            Some(b'}' | b']') | None => return i.min(b.len()),
            Some(_) if depth > 0 => {
                i += 1;
                continue;
            }
            Some(_) => {
                while b.get(i).is_some_and(|c| !matches!(c, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')) {
                    i += 1;
                }
            }
        }
        if depth == 0 {
            return i.min(b.len());
        }
    }
}

/// The text that the inside of a string stands for. Borrowed, if there is nothing to unescape.
pub fn unescape(inside: &[u8]) -> Cow<'_, str> {
    if !inside.contains(&b'\\') {
        return String::from_utf8_lossy(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut i = 0;
    while let Some(&c) = inside.get(i) {
        if c != b'\\' {
            out.push(c);
            i += 1;
            continue;
        }
        let code = inside.get(i + 1).copied().unwrap_or(b'\\');
        i += 2;
        let c = match code {
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (c, length) = unescape_unicode(inside, i);
                i += length;
                c
            }
            other => {
                out.push(other);
                continue;
            }
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Cow::Owned(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// The character whose four hex digits are at `i`, with the second half of its pair; and how many bytes that took.
fn unescape_unicode(inside: &[u8], i: usize) -> (char, usize) {
    let Some(first) = hex(inside, i) else { return (char::REPLACEMENT_CHARACTER, 0) };
    if let (0xd800..0xdc00, Some(b"\\u"), Some(second @ 0xdc00..0xe000)) =
        (first, inside.get(i + 4..i + 6), hex(inside, i + 6))
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 10);
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 4)
}

/// Appends `text` as a JSON string, with its quotes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    out.push(b'"');
    loop {
        let to = plain(bytes, from);
        out.extend_from_slice(&bytes[from..to]);
        let Some(&c) = bytes.get(to) else { break };
        match c {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', c]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let hex = b"0123456789abcdef";
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex[usize::from(c >> 4)], hex[usize::from(c & 15)]]);
            }
        }
        from = to + 1;
    }
    out.push(b'"');
}
