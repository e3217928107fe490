//! Makes an event of each element of a list.

use super::rejected;
use crate::{
    event::{
        Body, Event, Path,
        json::{Json, Kind as Sort},
    },
    fault::Fault,
    kind::{Cx, Kind, Process},
};
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "flatmap",
    about: "makes an event of each element of a list",
    example: r#"{ "type": "flatmap", "list": "list", "keep": true, "into": "reading" }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// Makes an event of each element of a list, in order. Its id is that of the event, a dot and the element's index from 0;
/// topic, key, priority, times and meta stay. Where the list is absent, null or empty, the pipeline ends.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The place of the list (`a.b`). Anything but a list there rejects the event.
    list: Path,
    /// Whether the event's other fields stand in each new event too. A field of the element wins.
    #[serde(default)]
    keep: bool,
    /// The place of the element in its event. Without it an element must be an object, whose fields are put there; any
    /// other rejects the event.
    #[serde(default)]
    into: Option<Path>,
}

/// Bytes that the events of one event may take together: with `keep`, a body of a megabyte could otherwise become
/// gigabytes.
const MADE: usize = 16 << 20;
/// What an event takes besides its body, about.
const ENVELOPE: usize = 256;

impl Config {
    fn body(&self, rest: &Body, element: Json<'_>) -> Result<Body, Fault> {
        let mut body = rest.clone();
        match &self.into {
            Some(into) => body.set(into, element.raw()).map_err(Fault::reject)?,
            None if element.kind() != Sort::Object => {
                return Err(Fault::reject(format!("without `into` it must be an object, not {}", element.kind())));
            }
            None if !self.keep => return Ok(Body::trusted(bytes::Bytes::copy_from_slice(element.raw()))),
            None => {
                for member in element.members() {
                    // A field without a name has no path: it is left out.
                    if let Ok(path) = Path::of([&*member.name()]) {
                        body.set(&path, member.value.raw()).map_err(Fault::reject)?;
                    }
                }
            }
        }
        Body::parse(body.to_bytes()).map_err(Fault::reject) // `into` may lie deeper than a body may be
    }
}

impl Process for Config {
    fn memory(&self) -> usize {
        MADE
    }

    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let list = match event.body.get(&self.list) {
            None => return Ok(()),
            Some(list) => match list.kind() {
                Sort::Null => return Ok(()),
                Sort::Array => list,
                kind => return Err(rejected(format!("`{}`", self.list), format!("expected a list, found {kind}"))),
            },
        };
        let mut rest = Body::default();
        if self.keep {
            rest = event.body.clone();
            rest.remove(&self.list);
        }
        let mut made = 0;
        for (i, element) in list.elements().enumerate() {
            let body = self.body(&rest, element).map_err(|e| rejected(format!("`{}.{i}`", self.list), e))?;
            made += ENVELOPE + body.size();
            if made > MADE {
                let cause = format!("the events become larger than {} MiB together", MADE >> 20);
                return Err(rejected(format!("`{}`", self.list), cause));
            }
            cx.emit(event.part(i, body));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Rig, check};
    use super::*;

    #[test]
    fn elements_become_events() {
        check(
            &KIND,
            &[
                (r#"{ "list": "l" }"#, r#"{"l":[{"a":1},{"b":[2]},{}],"x":1}"#, r#"{"a":1}{"b":[2]}{}"#),
                (r#"{ "list": "o.l" }"#, r#"{"o":{"l":[{"a":1}]}}"#, r#"{"a":1}"#),
                (r#"{ "list": "l.1" }"#, r#"{"l":[0,[{"a":1}]]}"#, r#"{"a":1}"#),
                (
                    r#"{ "list": "l", "into": "v" }"#,
                    r#"{"l":[1,"x",null,{"a":1}]}"#,
                    r#"{"v":1}{"v":"x"}{"v":null}{"v":{"a":1}}"#,
                ),
                (
                    r#"{ "list": "l", "keep": true }"#,
                    r#"{"x":1,"l":[{"a":1},{"x":2,"":3},{"l":5}]}"#,
                    r#"{"x":1,"a":1}{"x":2}{"x":1,"l":5}"#,
                ),
                (
                    r#"{ "list": "l", "keep": true, "into": "l" }"#,
                    r#"{"x":1,"l":[1,2]}"#,
                    r#"{"x":1,"l":1}{"x":1,"l":2}"#,
                ),
                (
                    r#"{ "list": "o.l", "keep": true, "into": "o.e" }"#,
                    r#"{"o":{"l":[1],"p":2}}"#,
                    r#"{"o":{"p":2,"e":1}}"#,
                ),
                (r#"{ "list": "l" }"#, r#"{"l":[]}"#, ""),
                (r#"{ "list": "l" }"#, r#"{"l":null}"#, ""),
                (r#"{ "list": "l" }"#, "{}", ""),
                (r#"{ "list": "l" }"#, r#"{"l":1}"#, "rejected: `l`: expected a list, found a number"),
                (r#"{ "list": "l" }"#, r#"{"l":{}}"#, "rejected: `l`: expected a list, found an object"),
                (
                    r#"{ "list": "l" }"#,
                    r#"{"l":[{},1]}"#,
                    "rejected: `l.1`: without `into` it must be an object, not a number",
                ),
                (
                    r#"{ "list": "l", "keep": true, "into": "x.y" }"#,
                    r#"{"l":[1],"x":1}"#,
                    "rejected: `l.0`: `x` is a number, not an object",
                ),
                ("{}", "", "wrong: missing field `list`"),
            ],
        );
    }

    #[test]
    fn ids_are_their_own_and_the_same_again() {
        let mut rig = Rig::new(&KIND, r#"{ "list": "l", "into": "v" }"#).unwrap();
        for _ in 0..2 {
            rig.feed_as("e-7", r#"{"l":[1,2]}"#);
            assert_eq!(rig.ids(), ["e-7.0", "e-7.1"]);
            assert_eq!((rig.out[1].key.as_str(), rig.out[1].priority, rig.out[1].happened()), ("k", 4, 1000));
        }
    }

    #[test]
    fn what_comes_out_is_bounded() {
        let mut rig = Rig::new(&KIND, r#"{ "list": "l", "keep": true }"#).unwrap();
        let body = format!(r#"{{"l":[{}{{}}],"x":"{}"}}"#, "{},".repeat(40), "x".repeat(500_000));
        assert_eq!(rig.feed(&body), "rejected: `l`: the events become larger than 16 MiB together");
        let body = format!(r#"{{"l":[{}{{}}]}}"#, "{},".repeat(100_000));
        assert!(rig.feed(&body).starts_with("rejected: `l`: the events"));
        let deep = format!(r#"{{"l":[{}]}}"#, "[".repeat(62) + &"]".repeat(62));
        let mut rig = Rig::new(&KIND, r#"{ "list": "l", "into": "a.b.c" }"#).unwrap();
        assert!(rig.feed(&deep).starts_with("rejected: `l.0`: expected at most 64 levels"));
    }
}
