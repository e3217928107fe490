//! Drops fields of an event.

use super::pattern::Pattern;
use crate::{
    event::{
        Body, Event, Path,
        body::PathError,
        json::{DEPTH, Json, Kind as Sort},
    },
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process},
};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error};

pub const KIND: Kind<dyn Process> = Kind {
    name: "filter",
    about: "drops or keeps fields, by place or by name",
    example: r#"{ "type": "filter", "drop": ["debug", "position.altitude", "**.password"], "drop_matching": "^_" }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        if config.keep.is_none()
            && config.drop.is_none()
            && config.keep_matching.is_none()
            && config.drop_matching.is_none()
        {
            return Err(ParamsError::at("", "expected `drop`, `keep`, `drop_matching` or `keep_matching`"));
        }
        Ok(Box::new(config))
    },
};

/// Drops fields of an event. Of several rules each works on what the one before it left: `keep`, `keep_matching`, `drop`,
/// `drop_matching`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Places whose fields stay, with what encloses them; all others go. A place is written `a.b.0.c`; `**.name` is
    /// every field of that name, however deep.
    #[serde(default)]
    keep: Option<Places>,
    /// Fields stay whose name fits this regular expression, at every level: a field stays only if what it lies in does.
    #[serde(default)]
    keep_matching: Option<Pattern>,
    /// Places whose fields go, written as for `keep`.
    #[serde(default)]
    drop: Option<Places>,
    /// Fields go whose name fits this regular expression, at every level.
    #[serde(default)]
    drop_matching: Option<Pattern>,
    /// Whether the two regular expressions look at objects in lists, too.
    #[serde(default = "yes")]
    lists: bool,
}

fn yes() -> bool {
    true
}

/// Places in an event, and names that are meant at any place.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Places(#[schemars(with = "Vec<String>")] Vec<Path>, #[schemars(skip)] Vec<String>);

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let (mut paths, mut names) = (Vec::new(), Vec::new());
        for text in Vec::<String>::deserialize(de)? {
            let anywhere = text.strip_prefix("**.");
            let path: Path = anywhere.unwrap_or(&text).parse().map_err(|e: PathError| D::Error::custom(e))?;
            let length = path.parts().len();
            if path.parts().any(|part| part == "*" || part == "**") {
                let message = format!("`{text}`: `*` stands for no name; `**.name` is every field of that name");
                return Err(D::Error::custom(message));
            }
            match (anywhere, length) {
                (None, _) => paths.push(path),
                (Some(_), 1) => names.extend(path.parts().map(str::to_owned)),
                _ => return Err(D::Error::custom(format!("`{text}`: after `**.` stands one name"))),
            }
        }
        Ok(Places(paths, names))
    }
}

impl Process for Config {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let body = &mut event.body;
        if let Some(places) = &self.keep {
            places.keep(body);
        }
        if let Some(Pattern(regex)) = &self.keep_matching {
            self.sift(body, regex, true);
        }
        if let Some(Places(paths, names)) = &self.drop {
            for path in paths {
                body.remove(path);
            }
            if !names.is_empty() {
                body.drop_named(|name| names.iter().any(|n| n == name));
            }
        }
        if let Some(Pattern(regex)) = &self.drop_matching {
            self.sift(body, regex, false);
        }

        cx.emit(event);
        Ok(())
    }
}

impl Config {
    /// Keeps the fields, at every level, whose name fits, or does not.
    fn sift(&self, body: &mut Body, regex: &Regex, fits: bool) {
        let bytes = body.to_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        sift(Json::trusted(&bytes), &|name| regex.is_match(name) == fits, self.lists, DEPTH, &mut out);
        if out.len() < bytes.len() {
            *body = Body::trusted(out.into());
        }
    }
}

/// Writes a value without the members whose name does not `stay`; at `depth` 0 what is further down is written as it is.
fn sift(value: Json<'_>, stays: &dyn Fn(&str) -> bool, lists: bool, depth: u32, out: &mut Vec<u8>) {
    match value.kind() {
        Sort::Object if depth > 0 => {
            out.push(b'{');
            for member in value.members().filter(|m| stays(&m.name())) {
                separate(out);
                name(member.raw_name, out);
                sift(member.value, stays, lists, depth - 1, out);
            }
            out.push(b'}');
        }
        Sort::Array if lists && depth > 0 => {
            out.push(b'[');
            for element in value.elements() {
                separate(out);
                sift(element, stays, lists, depth - 1, out);
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(value.raw()),
    }
}

/// A comma, unless an object or list was just begun.
fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

fn name(raw: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(raw);
    out.extend_from_slice(b"\":");
}

impl Places {
    fn keep(&self, body: &mut Body) {
        let bytes = body.to_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let paths: Vec<Vec<&str>> = self.0.iter().map(|path| path.parts().collect()).collect();
        let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
        if !self.pick(Json::trusted(&bytes), &paths, DEPTH, &mut out) {
            out.clear();
            out.extend_from_slice(b"{}");
        }
        *body = Body::trusted(out.into());
    }

    /// Writes of a value what stays; says whether that is anything. `paths` lead on from here.
    fn pick(&self, value: Json<'_>, paths: &[&[&str]], depth: u32, out: &mut Vec<u8>) -> bool {
        let (start, object) = (out.len(), value.kind() == Sort::Object);
        if depth == 0 || (paths.is_empty() && self.1.is_empty()) {
            return false;
        }
        let mut any = false;
        out.push(if object { b'{' } else { b'[' });
        for member in value.members() {
            let (mark, key) = (out.len(), member.name());
            separate(out);
            name(member.raw_name, out);
            let named = self.1.iter().any(|n| *n == key);
            if named {
                out.extend_from_slice(member.value.raw());
            } else if !self.pick_below(member.value, &key, paths, depth, out) {
                out.truncate(mark);
                continue;
            }
            any = true;
        }
        for (index, element) in value.elements().enumerate() {
            let mark = out.len();
            separate(out);
            if self.pick_below(element, &index.to_string(), paths, depth, out) {
                any = true;
            } else {
                out.truncate(mark);
            }
        }
        out.push(if object { b'}' } else { b']' });
        if !any {
            out.truncate(start);
        }
        any
    }

    /// As `pick`, for what stands under a name or index.
    fn pick_below(&self, value: Json<'_>, key: &str, paths: &[&[&str]], depth: u32, out: &mut Vec<u8>) -> bool {
        let tails = || paths.iter().filter_map(|path| path.split_first().filter(|(first, _)| **first == key));
        if tails().any(|(_, rest)| rest.is_empty()) {
            out.extend_from_slice(value.raw());
            return true;
        }
        let tails: Vec<&[&str]> = tails().map(|(_, rest)| rest).collect();
        self.pick(value, &tails, depth - 1, out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    const BODY: &str =
        r#"{"fooBar":1,"name":"frank","someMap":{"hi":"hello","foo2":1,"inner":{"foo":1}},"l":[{"foo":1,"x":2},7]}"#;

    #[test]
    fn fields_are_dropped_and_kept() {
        check(
            &KIND,
            &[
                // The reference's two cases; it does not look into lists.
                (
                    r#"{ "drop_matching": "foo.*", "lists": false }"#,
                    BODY,
                    r#"{"name":"frank","someMap":{"hi":"hello","inner":{}},"l":[{"foo":1,"x":2},7]}"#,
                ),
                (r#"{ "keep_matching": "someMap|hi", "lists": false }"#, BODY, r#"{"someMap":{"hi":"hello"}}"#),
                (
                    r#"{ "drop_matching": "foo" }"#,
                    BODY,
                    r#"{"name":"frank","someMap":{"hi":"hello","inner":{}},"l":[{"x":2},7]}"#,
                ),
                (r#"{ "keep_matching": "^(l|x)$" }"#, BODY, r#"{"l":[{"x":2},7]}"#),
                (r#"{ "drop_matching": "^no$" }"#, "{ \"a\" : 1 }", "{\"a\":1}"),
                (
                    r#"{ "drop": ["name", "someMap.inner", "l.0.foo", "no.such", "foo"] }"#,
                    BODY,
                    r#"{"fooBar":1,"someMap":{"hi":"hello","foo2":1},"l":[{"x":2},7]}"#,
                ),
                (
                    r#"{ "drop": ["**.foo", "name"] }"#,
                    BODY,
                    r#"{"fooBar":1,"someMap":{"hi":"hello","foo2":1,"inner":{}},"l":[{"x":2},7]}"#,
                ),
                (r#"{ "keep": ["l.0.x", "someMap.hi", "no"] }"#, BODY, r#"{"someMap":{"hi":"hello"},"l":[{"x":2}]}"#),
                (r#"{ "keep": ["someMap"] }"#, BODY, r#"{"someMap":{"hi":"hello","foo2":1,"inner":{"foo":1}}}"#),
                (r#"{ "keep": ["**.foo", "l.1"] }"#, BODY, r#"{"someMap":{"inner":{"foo":1}},"l":[{"foo":1},7]}"#),
                (r#"{ "keep": ["no"] }"#, BODY, "{}"),
                (r#"{ "keep": [] }"#, BODY, "{}"),
                (
                    r#"{ "keep": ["a", "b"], "drop": ["b.c"] }"#,
                    r#"{"a":1,"b":{"c":1,"d":2},"e":3}"#,
                    r#"{"a":1,"b":{"d":2}}"#,
                ),
                (r#"{ "drop": ["a"], "when": "event.a > 1" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
                (r#"{ "drop": ["a"], "when": "event.a > 1" }"#, r#"{"a":2}"#, "{}"),
            ],
        );
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        check(
            &KIND,
            &[
                ("{}", "", "wrong: expected `drop`, `keep`, `drop_matching` or `keep_matching`"),
                (r#"{ "drop": ["a..b"] }"#, "", "wrong: drop: path `a..b` has an empty part"),
                (
                    r#"{ "drop": ["a.*.b"] }"#,
                    "",
                    "wrong: drop: `a.*.b`: `*` stands for no name; `**.name` is every field of that name",
                ),
                (
                    r#"{ "keep": ["**"] }"#,
                    "",
                    "wrong: keep: `**`: `*` stands for no name; `**.name` is every field of that name",
                ),
                (r#"{ "drop": ["**.a.b"] }"#, "", "wrong: drop: `**.a.b`: after `**.` stands one name"),
                (
                    r#"{ "drop_matching": "(" }"#,
                    "",
                    "wrong: drop_matching: `(` is not a regular expression: unclosed group",
                ),
            ],
        );
    }
}
