//! Rewrites a raw value with one place in it changed: found, set, cut, or sifted by names.

use super::{
    json::{self, Json, Kind},
    path::{Part, Path, PathError},
};

/// The value that `parts` lead to from `value`.
pub(super) fn descend<'a>(mut value: Json<'a>, parts: &[Part]) -> Option<Json<'a>> {
    for part in parts {
        value = match value.kind() {
            Kind::Object => value.member(&part.name)?,
            Kind::Array => value.elements().nth(part.index? as usize)?,
            _ => return None,
        };
    }
    Some(value)
}

fn comma(first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

/// Writes the start of a member up to its value; `name` is raw.
pub(super) fn member(name: &[u8], first: &mut bool, out: &mut Vec<u8>) {
    comma(first, out);
    out.push(b'"');
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
}

/// Writes `value` inside new objects of these names.
pub(super) fn nest(parts: &[Part], value: &[u8], out: &mut Vec<u8>) {
    for part in parts {
        out.push(b'{');
        json::write_string(&part.name, out);
        out.push(b':');
    }
    out.extend_from_slice(value);
    out.extend(parts.iter().map(|_| b'}'));
}

/// Writes `old`, which stands after `depth` parts of `path`, with `value` at its end.
pub(super) fn splice(
    old: Json<'_>,
    path: &Path,
    depth: usize,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), PathError> {
    let Some((part, rest)) = path.as_parts()[depth..].split_first() else {
        out.extend_from_slice(value);
        return Ok(());
    };
    let mut first = true;
    match old.kind() {
        Kind::Object => {
            let last = old.members().filter(|m| m.named(&part.name)).count();
            let mut seen = 0;
            out.push(b'{');
            for m in old.members() {
                if !m.named(&part.name) {
                    member(m.raw_name, &mut first, out);
                    out.extend_from_slice(m.value.raw());
                    continue;
                }
                seen += 1;
                if seen == last {
                    member(m.raw_name, &mut first, out);
                    splice(m.value, path, depth + 1, value, out)?;
                }
            }
            if last == 0 {
                comma(&mut first, out);
                json::write_string(&part.name, out);
                out.push(b':');
                nest(rest, value, out);
            }
            out.push(b'}');
            Ok(())
        }
        Kind::Array => {
            let count = old.elements().count();
            let Some(index) = part.index.map(|i| i as usize).filter(|i| *i <= count) else {
                let place = path.place(depth);
                let what = format!("`{place}` is a list of {count}, `{}` is no index in it", part.name);
                return Err(PathError(what));
            };
            out.push(b'[');
            for (i, element) in old.elements().enumerate() {
                comma(&mut first, out);
                if i == index {
                    splice(element, path, depth + 1, value, out)?;
                } else {
                    out.extend_from_slice(element.raw());
                }
            }
            if index == count {
                comma(&mut first, out);
                nest(rest, value, out);
            }
            out.push(b']');
            Ok(())
        }
        kind => Err(PathError(format!("`{}` is {kind}, not an object", path.place(depth)))),
    }
}

/// Writes `old` without what is at the end of `parts`.
pub(super) fn cut(old: Json<'_>, parts: &[Part], out: &mut Vec<u8>) {
    let Some((part, rest)) = parts.split_first() else { return };
    let mut first = true;
    if old.kind() == Kind::Object {
        let last = old.members().filter(|m| m.named(&part.name)).count();
        let mut seen = 0;
        out.push(b'{');
        for m in old.members() {
            let this = m.named(&part.name);
            seen += usize::from(this);
            if !this {
                member(m.raw_name, &mut first, out);
                out.extend_from_slice(m.value.raw());
            } else if seen == last && !rest.is_empty() {
                member(m.raw_name, &mut first, out);
                cut(m.value, rest, out);
            }
        }
        out.push(b'}');
    } else {
        out.push(b'[');
        for (i, element) in old.elements().enumerate() {
            let this = part.index == u32::try_from(i).ok();
            if this && rest.is_empty() {
                continue;
            }
            comma(&mut first, out);
            if this {
                cut(element, rest, out);
            } else {
                out.extend_from_slice(element.raw());
            }
        }
        out.push(b']');
    }
}

/// Writes `old` without the members that are `named`; says whether there were any. What lies more than `depth` levels
/// down goes too.
pub(super) fn without(old: Json<'_>, named: &mut dyn FnMut(&str) -> bool, depth: u32, out: &mut Vec<u8>) -> bool {
    let (mut first, mut gone) = (true, false);
    match old.kind() {
        Kind::Object | Kind::Array if depth == 0 => {
            out.extend_from_slice(b"null");
            gone = true;
        }
        Kind::Object => {
            out.push(b'{');
            for m in old.members() {
                if named(&m.name()) {
                    gone = true;
                } else {
                    member(m.raw_name, &mut first, out);
                    gone |= without(m.value, named, depth - 1, out);
                }
            }
            out.push(b'}');
        }
        Kind::Array => {
            out.push(b'[');
            for element in old.elements() {
                comma(&mut first, out);
                gone |= without(element, named, depth - 1, out);
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(old.raw()),
    }
    gone
}

/// Writes of `old` the members that are `named` and what encloses them; says whether there were any. Nothing is looked
/// for more than `depth` levels down.
pub(super) fn only(old: Json<'_>, named: &mut dyn FnMut(&str) -> bool, depth: u32, out: &mut Vec<u8>) -> bool {
    if depth == 0 {
        return false;
    }
    let start = out.len();
    let mut first = true;
    match old.kind() {
        Kind::Object => {
            out.push(b'{');
            for m in old.members() {
                let (mark, was) = (out.len(), first);
                member(m.raw_name, &mut first, out);
                if named(&m.name()) {
                    out.extend_from_slice(m.value.raw());
                } else if !only(m.value, named, depth - 1, out) {
                    out.truncate(mark);
                    first = was;
                }
            }
            out.push(b'}');
        }
        Kind::Array => {
            out.push(b'[');
            for element in old.elements() {
                let (mark, was) = (out.len(), first);
                comma(&mut first, out);
                if !only(element, named, depth - 1, out) {
                    out.truncate(mark);
                    first = was;
                }
            }
            out.push(b']');
        }
        _ => {}
    }
    if first {
        out.truncate(start);
    }
    !first
}
