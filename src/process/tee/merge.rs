//! One object put into another.

use crate::event::json::{Json, Kind};

/// `old` with the members of `new`, both checked objects: objects are merged, lists joined. The error names a member that
/// is there already.
pub(super) fn merged(old: &[u8], new: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(old.len() + new.len());
    merge(Json::trusted(old), Json::trusted(new), "", &mut out)?;
    Ok(out)
}

fn merge(old: Json<'_>, new: Json<'_>, place: &str, out: &mut Vec<u8>) -> Result<(), String> {
    match (old.kind(), new.kind()) {
        (Kind::Object, Kind::Object) => objects(old, new, place, out),
        (Kind::Array, Kind::Array) => {
            let inside = |list: Json<'_>| {
                let raw = list.raw();
                raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default().trim_ascii().to_vec()
            };
            let parts: Vec<_> = [inside(old), inside(new)].into_iter().filter(|part| !part.is_empty()).collect();
            out.push(b'[');
            out.extend_from_slice(&parts.join(&b','));
            out.push(b']');
            Ok(())
        }
        (kind, _) => Err(format!("`{place}` is there already, and is {kind}")),
    }
}

fn objects(old: Json<'_>, new: Json<'_>, place: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let new: Vec<_> = new.members().map(|member| (member.name(), member)).collect();
    // Of members with one name the last counts; the others stay, as nobody reads them.
    let mut last = vec![None; new.len()];
    for (at, member) in old.members().enumerate() {
        if let Some(same) = new.iter().position(|(name, _)| member.named(name)) {
            last[same] = Some(at);
        }
    }
    let mut first = true;
    let mut start = |raw_name: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(if std::mem::take(&mut first) { b"\"" } else { b",\"" });
        out.extend_from_slice(raw_name);
        out.extend_from_slice(b"\":");
    };
    out.push(b'{');
    for (at, member) in old.members().enumerate() {
        start(member.raw_name, out);
        match last.iter().position(|last| *last == Some(at)) {
            None => out.extend_from_slice(member.value.raw()),
            Some(same) => {
                let (name, new) = &new[same];
                let below = if place.is_empty() { name.to_string() } else { format!("{place}.{name}") };
                merge(member.value, new.value, &below, out)?;
            }
        }
    }
    for ((_, member), _) in new.iter().zip(&last).filter(|(_, last)| last.is_none()) {
        start(member.raw_name, out);
        out.extend_from_slice(member.value.raw());
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_merged_and_lists_joined() {
        for (old, new, want) in [
            ("{}", r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"b": 2}"#, r#"{"a":{"x":1}}"#, r#"{"b":2,"a":{"x":1}}"#),
            (
                r#"{"m":{"a":1e400,"n":{}},"l":[ 1 ]}"#,
                r#"{"m":{"b":2,"n":{"o":[]}},"l":[3]}"#,
                r#"{"m":{"a":1e400,"n":{"o":[]},"b":2},"l":[1,3]}"#,
            ),
            (r#"{"l":[],"k":[[]]}"#, r#"{"l":[ ],"k":[]}"#, r#"{"l":[],"k":[[]]}"#),
            (r#"{"\u006d":{"a":1}}"#, r#"{"m":{"b":2}}"#, r#"{"\u006d":{"a":1,"b":2}}"#),
            (r#"{"m":0,"m":{}}"#, r#"{"m":{"b":2}}"#, r#"{"m":0,"m":{"b":2}}"#),
            (r#"{"v":1}"#, r#"{"v":2}"#, "`v` is there already, and is a number"),
            (r#"{"v":1}"#, r#"{"v":1}"#, "`v` is there already, and is a number"),
            (r#"{"m":{"v":null}}"#, r#"{"m":{"v":{}}}"#, "`m.v` is there already, and is null"),
            (r#"{"m":{}}"#, r#"{"m":[]}"#, "`m` is there already, and is an object"),
            (r#"{"m":[]}"#, r#"{"m":{}}"#, "`m` is there already, and is a list"),
        ] {
            let got = merged(old.as_bytes(), new.as_bytes());
            let got = got.map_or_else(|e| e, |out| String::from_utf8(out).unwrap());
            assert_eq!(got, want, "{old} and {new}");
        }
    }
}
