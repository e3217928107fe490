//! An event's body, which stays the bytes that came.

pub use super::{
    json::{Json, JsonError},
    path::{Path, PathError},
};

use super::{
    json::{self, DEPTH, Kind},
    path::Part,
    splice::{cut, descend, member, nest, only, splice, without},
    walk::{Members, same_name},
};
use bytes::Bytes;
use std::{borrow::Cow, sync::OnceLock};

/// Bytes that edits may leave behind before a body is written anew: what one `set` after another can waste.
const WASTE: usize = 64 << 10;

/// A JSON object as the bytes that came. Its members are indexed at first touch, values inside them are looked for
/// when asked for, and edits are spliced in on output. Of members with one name the last counts.
#[derive(Clone, Debug)]
pub struct Body {
    raw: Bytes,
    index: OnceLock<Box<Index>>,
}

/// The members of the body. A span is a place in `raw` with `added` behind it.
#[derive(Clone, Debug)]
struct Index {
    slots: Vec<Slot>,
    added: Vec<u8>,
    edited: bool,
}

type Span = (u32, u32);

/// A member; the name is without its quotes.
#[derive(Clone, Debug)]
struct Slot {
    name: Span,
    escaped: bool,
    value: Span,
}

impl Default for Body {
    fn default() -> Self {
        Body::trusted(Bytes::from_static(b"{}"))
    }
}

impl Body {
    /// Checks the bytes: they must be one JSON object of less than 2 GiB, nested at most 64 deep.
    pub fn parse(raw: Bytes) -> Result<Body, JsonError> {
        if raw.len() > i32::MAX as usize {
            return Err(JsonError { at: i32::MAX as usize, what: "expected less than 2 GiB" });
        }
        match json::check(&raw)? {
            Kind::Object => Ok(Body::trusted(raw)),
            _ => Err(JsonError { at: 0, what: "expected an object" }),
        }
    }

    /// Bytes that were checked before. If they are no object after all, the body has no fields and is written as it is.
    pub fn trusted(raw: Bytes) -> Body {
        Body { raw, index: OnceLock::new() }
    }

    /// The value at `path`.
    pub fn get(&self, path: &Path) -> Option<Json<'_>> {
        let (first, rest) = path.as_parts().split_first()?;
        let index = self.index();
        let slot = index.slots.iter().rfind(|slot| slot.named(first, &self.raw, &index.added))?;
        descend(slot.value(&self.raw, &index.added), rest)
    }

    /// The whole object, if nothing was edited; else `to_bytes` has to write it first.
    pub fn as_json(&self) -> Option<Json<'_>> {
        (!self.edited()).then(|| Json::trusted(&self.raw))
    }

    /// The members, top level only, in order. A repeated name comes repeatedly.
    pub fn fields(&self) -> impl Iterator<Item = (Cow<'_, str>, Json<'_>)> {
        let index = self.index();
        index.slots.iter().map(move |slot| {
            let name = slice(slot.name, &self.raw, &index.added);
            (json::unescape(name), slot.value(&self.raw, &index.added))
        })
    }

    /// Puts `value`, which must be JSON already, at `path`. Objects on the way are created, the end of a list may be
    /// appended to; fails if a scalar is in the way.
    pub fn set(&mut self, path: &Path, value: &[u8]) -> Result<(), PathError> {
        self.edit(|raw, index| {
            let Some((first, rest)) = path.as_parts().split_first() else { return Ok(()) };
            let found = index.find(first, raw);
            let span = match found {
                _ if rest.is_empty() => index.add(raw, value),
                None => {
                    let mut out = Vec::with_capacity(path.as_str().len() + value.len() + 16);
                    nest(rest, value, &mut out);
                    index.add(raw, &out)
                }
                Some(at) => {
                    let old = index.slots[at].value(raw, &index.added);
                    let mut out = Vec::with_capacity(old.raw().len() + path.as_str().len() + value.len() + 16);
                    splice(old, path, 1, value, &mut out)?;
                    index.add(raw, &out)
                }
            };
            match found {
                Some(at) => index.put(at, span, raw),
                None => {
                    let (name, escaped) = index.add_name(raw, &first.name);
                    index.slots.push(Slot { name, escaped, value: span });
                }
            }
            index.edited = true;
            Ok(())
        })
    }

    /// Removes what is at `path`; says whether there was anything.
    pub fn remove(&mut self, path: &Path) -> bool {
        let Some((first, rest)) = path.as_parts().split_first() else { return false };
        if !rest.is_empty() && self.get(path).is_none() {
            return false;
        }
        self.edit(|raw, index| {
            let Some(at) = index.find(first, raw) else { return false };
            if rest.is_empty() {
                let Index { slots, added, .. } = index;
                slots.retain(|slot| !slot.named(first, raw, added));
            } else {
                let mut out = Vec::new();
                cut(index.slots[at].value(raw, &index.added), rest, &mut out);
                let span = index.add(raw, &out);
                index.put(at, span, raw);
            }
            index.edited = true;
            true
        })
    }

    /// Moves what is at `from` to `to`, replacing what was there; says whether there was anything at `from`. If `to`
    /// cannot be set, nothing changes. At the top level a member keeps its place.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<bool, PathError> {
        let Some(value) = self.get(from) else { return Ok(false) };
        if from == to {
            return Ok(true);
        }
        if let ([old], [new]) = (from.as_parts(), to.as_parts()) {
            self.rename_field(old, new);
            return Ok(true);
        }
        let value = value.raw().to_vec();
        let mut renamed = self.clone();
        renamed.remove(from);
        renamed.set(to, &value)?;
        *self = renamed;
        Ok(true)
    }

    fn rename_field(&mut self, old: &Part, new: &Part) {
        self.edit(|raw, index| {
            let Some(at) = index.find(old, raw) else { return };
            let mut slot = index.slots[at].clone();
            (slot.name, slot.escaped) = index.add_name(raw, &new.name);
            let Index { slots, added, .. } = index;
            let mut place = 0;
            slots.retain(|slot| {
                place += 1;
                place == at + 1 || !(slot.named(old, raw, added) || slot.named(new, raw, added))
            });
            let at = slots.iter().rposition(|slot| slot.named(old, raw, added)).unwrap_or(0);
            slots[at] = slot;
            index.edited = true;
        });
    }

    /// Keeps the members, top level only, of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, Json<'_>) -> bool) {
        self.rebuild(|name, value, _| if keep(name, value) { Kept::Whole } else { Kept::Nothing });
    }

    /// Removes the members whose name is `named`, however deep, lists included.
    pub fn drop_named(&mut self, mut named: impl FnMut(&str) -> bool) {
        self.rebuild(|name, value, out| {
            if named(name) {
                Kept::Nothing
            } else if matches!(value.kind(), Kind::Object | Kind::Array) && without(value, &mut named, DEPTH, out) {
                Kept::Rewritten
            } else {
                Kept::Whole
            }
        });
    }

    /// Keeps the members whose name is `named`, however deep, whole and with what encloses them.
    pub fn keep_named(&mut self, mut named: impl FnMut(&str) -> bool) {
        self.rebuild(|name, value, out| {
            if named(name) {
                Kept::Whole
            } else if only(value, &mut named, DEPTH, out) {
                Kept::Rewritten
            } else {
                Kept::Nothing
            }
        });
    }

    /// Bytes that the body takes, edits included.
    pub fn size(&self) -> usize {
        self.raw.len() + self.index.get().map_or(0, |index| index.added.len())
    }

    /// The body as JSON; without edits the very bytes that came, not copied.
    pub fn to_bytes(&self) -> Bytes {
        if !self.edited() {
            return self.raw.clone();
        }
        let mut out = Vec::with_capacity(self.size() + 16);
        self.write(&mut out);
        out.into()
    }

    /// Appends the body as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some(index) = self.index.get().filter(|index| index.edited) else {
            return out.extend_from_slice(&self.raw);
        };
        let mut first = true;
        out.push(b'{');
        for slot in &index.slots {
            let name = slice(slot.name, &self.raw, &index.added);
            member(name, &mut first, out);
            out.extend_from_slice(slice(slot.value, &self.raw, &index.added));
        }
        out.push(b'}');
    }

    fn edited(&self) -> bool {
        self.index.get().is_some_and(|index| index.edited)
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Box::new(Index::new(&self.raw)))
    }

    fn edit<R>(&mut self, change: impl FnOnce(&[u8], &mut Index) -> R) -> R {
        let mut index = self.index.take().unwrap_or_else(|| Box::new(Index::new(&self.raw)));
        let result = change(&self.raw, &mut index);
        let wasteful = index.added.len() > self.raw.len() + WASTE;
        self.index = OnceLock::from(index);
        if wasteful {
            *self = Body::trusted(self.to_bytes());
        }
        result
    }

    /// Passes every member to `sift`, which may write a new value.
    fn rebuild(&mut self, mut sift: impl FnMut(&str, Json<'_>, &mut Vec<u8>) -> Kept) {
        self.edit(|raw, index| {
            let mut slots = std::mem::take(&mut index.slots);
            let (count, mut out) = (slots.len(), Vec::new());
            slots.retain_mut(|slot| {
                let name = json::unescape(slice(slot.name, raw, &index.added));
                out.clear();
                match sift(&name, slot.value(raw, &index.added), &mut out) {
                    Kept::Whole => true,
                    Kept::Nothing => false,
                    Kept::Rewritten => {
                        slot.value = index.add(raw, &out);
                        index.edited = true;
                        true
                    }
                }
            });
            index.edited |= slots.len() < count;
            index.slots = slots;
        });
    }
}

enum Kept {
    Whole,
    Nothing,
    /// What was written in its place.
    Rewritten,
}

fn slice<'a>((start, end): Span, raw: &'a [u8], added: &'a [u8]) -> &'a [u8] {
    let (start, end) = (start as usize, end as usize);
    match start.checked_sub(raw.len()) {
        Some(start) => added.get(start..end - raw.len()),
        None => raw.get(start..end),
    }
    .unwrap_or_default()
}

impl Slot {
    fn named(&self, part: &Part, raw: &[u8], added: &[u8]) -> bool {
        let length = (self.name.1 - self.name.0) as usize;
        (self.escaped || length == part.name.len()) && same_name(slice(self.name, raw, added), self.escaped, &part.name)
    }

    fn value<'a>(&self, raw: &'a [u8], added: &'a [u8]) -> Json<'a> {
        Json::trusted(slice(self.value, raw, added))
    }
}

impl Index {
    fn new(raw: &[u8]) -> Index {
        let mut slots = Vec::with_capacity(16); // most events fit, in one allocation
        if raw.len() <= i32::MAX as usize {
            let span = |start: usize, bytes: &[u8]| (start as u32, (start + bytes.len()) as u32);
            slots.extend(Members::of(raw).map(|m| Slot {
                name: span(m.name_at, m.raw_name),
                escaped: m.escaped,
                value: span(m.value_at, m.value.raw()),
            }));
        }
        Index { slots, added: Vec::new(), edited: false }
    }

    fn find(&self, part: &Part, raw: &[u8]) -> Option<usize> {
        self.slots.iter().rposition(|slot| slot.named(part, raw, &self.added))
    }

    fn add(&mut self, raw: &[u8], bytes: &[u8]) -> Span {
        if self.added.is_empty() {
            self.added.reserve(bytes.len().max(96)); // room for the edits of a usual chain, taken once
        }
        let start = raw.len() + self.added.len();
        self.added.extend_from_slice(bytes);
        (start as u32, (start + bytes.len()) as u32)
    }

    /// As `add`, for a name; says whether it holds escapes.
    fn add_name(&mut self, raw: &[u8], name: &str) -> (Span, bool) {
        let (start, _) = self.add(raw, b"");
        json::write_string(name, &mut self.added);
        let end = start + (self.added.len() - (start as usize - raw.len())) as u32;
        let inside = (start + 1, end - 1);
        let escaped = slice(inside, raw, &self.added).contains(&b'\\');
        (inside, escaped)
    }

    /// Gives the member at `at` a new value and removes those before it that have its name.
    fn put(&mut self, at: usize, value: Span, raw: &[u8]) {
        self.slots[at].value = value;
        let name = self.slots[at].clone();
        let name = json::unescape(slice(name.name, raw, &self.added));
        let mut place = 0;
        let added = &self.added;
        self.slots.retain(|slot| {
            place += 1;
            place > at || !same_name(slice(slot.name, raw, added), slot.escaped, &name)
        });
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
