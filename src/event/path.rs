//! Where in a body a value stands: `a.b.0.c`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr};

use super::json::DEPTH;

/// A place in a body: names of members and indexes of lists, with dots between: `a.b.0.c`. A dot that belongs to a name
/// is written `\.`, a backslash `\\`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Path {
    text: Box<str>,
    parts: Box<[Part]>,
}

/// A name or, where a list stands, an index.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub name: Box<str>,
    pub index: Option<u32>,
}

/// Why a path cannot be read, or why nothing can be set there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(pub(super) String);

impl Path {
    /// The path of these names and indexes, taken as they are. Fails if there are none, if one is empty, or more than 64.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Path, PathError> {
        let mut text = String::new();
        let mut parts = Vec::new();
        for name in names {
            if !parts.is_empty() {
                text.push('.');
            }
            text.push_str(&name.replace('\\', "\\\\").replace('.', "\\."));
            parts.push(Part::new(name));
        }
        Path::checked(text, parts)
    }

    fn checked(text: String, parts: Vec<Part>) -> Result<Path, PathError> {
        if parts.is_empty() || parts.iter().any(|part| part.name.is_empty()) {
            return Err(PathError(format!("path `{text}` has an empty part")));
        }
        if parts.len() > DEPTH as usize {
            return Err(PathError(format!("path `{text}` has more than {DEPTH} parts, the depth of a body")));
        }
        Ok(Path { text: text.into(), parts: parts.into() })
    }

    /// The names and indexes, without escapes.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parts.iter().map(|part| &*part.name)
    }

    /// The path as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn as_parts(&self) -> &[Part] {
        &self.parts
    }

    /// The first `count` parts, as text for an error.
    pub(super) fn place(&self, count: usize) -> String {
        let names: Vec<_> = self.parts().take(count).collect();
        names.join(".")
    }
}

impl Part {
    fn new(name: &str) -> Part {
        let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|c| c.is_ascii_digit()));
        Part { name: name.into(), index: plain.then(|| name.parse().ok()).flatten() }
    }
}

impl FromStr for Path {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Path, PathError> {
        let (mut parts, mut name) = (Vec::new(), String::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '.' => parts.push(Part::new(&std::mem::take(&mut name))),
                '\\' => match chars.next() {
                    Some(c @ ('.' | '\\')) => name.push(c),
                    _ => return Err(PathError(format!("path `{text}`: a backslash stands only before `.` or `\\`"))),
                },
                c => name.push(c),
            }
        }
        parts.push(Part::new(&name));
        Path::checked(text.to_owned(), parts)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({})", self.text)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(de)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.text)
    }
}

impl JsonSchema for Path {
    fn schema_name() -> Cow<'static, str> {
        "Path".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A place in the event: names and list indexes with dots between; a literal dot is written `\\.`.",
            "examples": ["a.b.0.c"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_and_written() {
        for (text, want) in [
            ("a", Ok(vec!["a"])),
            ("a.b.0.c", Ok(vec!["a", "b", "0", "c"])),
            (r"a\.b.c\\", Ok(vec!["a.b", r"c\"])),
            ("", Err("path `` has an empty part")),
            ("a..b", Err("path `a..b` has an empty part")),
            ("a.", Err("path `a.` has an empty part")),
            (r"a\b", Err(r"path `a\b`: a backslash stands only before `.` or `\`")),
        ] {
            let got = text.parse::<Path>().map_err(|e| e.to_string());
            assert_eq!(
                got.as_ref().map(|p| p.parts().collect()),
                want.map_err(str::to_owned).as_ref().cloned(),
                "{text}"
            );
            if let Ok(path) = got {
                assert_eq!(Path::of(path.parts()), Ok(path.clone()));
                assert_eq!(serde_json::from_value::<Path>(serde_json::json!(text)).unwrap(), path);
            }
        }
        assert!(["a"; 65].join(".").parse::<Path>().is_err());
        let error = serde_json::from_str::<Path>("\"a..b\"").unwrap_err().to_string();
        assert!(error.contains("empty part"), "{error}");
    }
}
