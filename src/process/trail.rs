//! Lists in an event that say what was done with it outside: `internal:spawn:output`, `internal:tee:output`.

use crate::{
    event::{Body, Path, json::Kind},
    fault::Fault,
};

/// Such a list of an event, by its name.
pub(super) struct Trail(Path);

impl Trail {
    /// Fails if the name is empty.
    pub fn new(name: &str) -> Result<Trail, String> {
        Path::of([name]).map(Trail).map_err(|e| e.to_string())
    }

    /// Whether an entry can be appended: before anything is done outside. An event of another gateway may bring entries.
    pub fn check(&self, body: &Body) -> Result<(), Fault> {
        match body.get(&self.0).map(|old| old.kind()) {
            None | Some(Kind::Array) => Ok(()),
            Some(kind) => Err(Fault::reject(format!("`{}` is {kind}, not a list", self.0))),
        }
    }

    /// Appends an entry, which is JSON.
    pub fn append(&self, body: &mut Body, entry: &[u8]) -> Result<(), Fault> {
        self.check(body)?;
        let inside = body.get(&self.0).and_then(|old| old.raw().strip_prefix(b"[")?.strip_suffix(b"]"));
        let inside = inside.unwrap_or_default().trim_ascii();
        let comma = if inside.is_empty() { &b""[..] } else { b"," };
        let list = [b"[", inside, comma, entry, b"]"].concat();
        body.set(&self.0, &list).map_err(Fault::reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn entries_are_appended() {
        for (body, want) in [
            ("{}", r#"{"internal:x":[{"n":1}]}"#),
            (r#"{"internal:x":[ ],"a":1}"#, r#"{"internal:x":[{"n":1}],"a":1}"#),
            (r#"{"internal:x":[0, "]"]}"#, r#"{"internal:x":[0, "]",{"n":1}]}"#),
            (r#"{"internal:x":{}}"#, "`internal:x` is an object, not a list"),
            (r#"{"internal:x":null}"#, "`internal:x` is null, not a list"),
        ] {
            let mut event = Body::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap();
            let done = Trail::new("internal:x").unwrap().append(&mut event, br#"{"n":1}"#);
            let got = done.map_or_else(|e| e.to_string(), |()| String::from_utf8_lossy(&event.to_bytes()).into_owned());
            assert_eq!(got, want, "{body}");
        }
    }
}
