//! The groups that fields put events in, and how many of them a process remembers.

use super::{number, rejected};
use crate::{
    event::{
        Body, Path,
        json::{Json, Kind as Sort, write_string},
    },
    fault::Fault,
    kind::{Cx, ParamsError},
};
use std::{fmt, num::NonZeroU32};

/// Groups that a process remembers if its configuration says nothing: with a few hundred bytes each they take a small part
/// of the pipeline's `state`.
pub(super) const MAX_GROUPS: NonZeroU32 = match NonZeroU32::new(1000) {
    Some(n) => n,
    None => NonZeroU32::MIN,
};

/// Fields that may make a group: each is a level in a document of groups, and a body nests at most 64 deep.
pub(super) const MAX_FIELDS: usize = 32;

pub(super) fn max_groups() -> NonZeroU32 {
    MAX_GROUPS
}

/// Checks the fields of a configuration's `by`.
pub(super) fn check(by: &[Path]) -> Result<(), ParamsError> {
    match by.len() {
        0..=MAX_FIELDS => Ok(()),
        more => Err(ParamsError::at("by", format!("{more} fields, at most {MAX_FIELDS}"))),
    }
}

/// What tells a group from others: a JSON list of a text for each field, `nil` where the event has none.
pub(super) fn key(by: &[Path], body: &Body) -> Vec<u8> {
    let mut out = vec![b'['];
    for (i, path) in by.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(&body.get(path).map_or_else(|| "nil".to_owned(), text), &mut out);
    }
    out.push(b']');
    out
}

/// A value as the name of its group: a string as it is, a number as `number::text`, null as the seed calls it.
pub(super) fn text(value: Json<'_>) -> String {
    match value.kind() {
        Sort::String => value.as_str().unwrap_or_default().into_owned(),
        Sort::Number => number::text(value),
        Sort::Null => "<nil>".to_owned(),
        Sort::Bool | Sort::Array | Sort::Object => String::from_utf8_lossy(value.raw()).into_owned(),
    }
}

/// Refuses one more group, if the process, which remembers one value a group, has all it may have.
pub(super) fn room(max: NonZeroU32, cx: &Cx<'_>) -> Result<(), Fault> {
    if cx.list().count() < max.get() as usize {
        return Ok(());
    }
    Err(Fault::reject(format!("this event begins a new group, beyond the {max} of `max_groups`")))
}

/// A rejection because of what was remembered: by another version, or altered from outside.
pub(super) fn unreadable(key: &[u8], cause: impl fmt::Display) -> Fault {
    let key = String::from_utf8_lossy(&key[..key.len().min(80)]);
    rejected(format!("the state for `{key}`"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_groups() {
        let body =
            br#"{"s":"a\"b","n":1.0,"f":0.5,"b":true,"z":null,"l":[1, 2],"m":{"n":3},"big":18446744073709551615}"#;
        let body = Body::parse(bytes::Bytes::from_static(body)).unwrap();
        for (by, want) in [
            (&[][..], "[]"),
            (&["s"], r#"["a\"b"]"#),
            (&["n", "f"], r#"["1","0.5"]"#),
            (&["b", "z", "absent"], r#"["true","<nil>","nil"]"#),
            (&["l", "l.1", "m.n", "m.n.o"], r#"["[1, 2]","2","3","nil"]"#),
            (&["big"], r#"["18446744073709551615"]"#),
        ] {
            let by: Vec<Path> = by.iter().map(|path| path.parse().unwrap()).collect();
            assert_eq!(String::from_utf8(key(&by, &body)).unwrap(), want);
        }
    }
}
