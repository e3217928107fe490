//! Makes a new body out of an event.

use super::rejected;
use crate::{
    event::{Body, Event},
    expr::Expr,
    fault::Fault,
    kind::{Cx, Kind, Process},
};
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "map",
    about: "makes the whole body anew with an expression",
    example: r#"{ "type": "map", "expr": "{\"celsius\": event.temp, \"kelvin\": event.temp + 273.15}" }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// Makes the whole body anew with an expression; the rest of the event stays.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// An expression for the new body, which must be an object. If it reads a field that the event does not have, the
    /// event is rejected.
    expr: Expr,
}

impl Process for Config {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let body = match self.expr.eval(&event).map_err(|e| rejected("expr", e))? {
            value if value.type_name() == "map" => value.to_json(),
            value => return Err(rejected("expr", format!("a body is an object, not {}", value.type_name()))),
        };
        event.body = Body::parse(body.into()).map_err(|e| rejected("expr", e))?;
        cx.emit(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_body_is_made_anew() {
        let deep = format!(r#"{{"a":{}}}"#, "[".repeat(63) + &"]".repeat(63));
        check(
            &KIND,
            &[
                (r#"{ "expr": "{\"b\": event.a + 1, \"t\": meta.topic}" }"#, r#"{"a":1}"#, r#"{"b":2,"t":"barn"}"#),
                (r#"{ "expr": "event" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
                (r#"{ "expr": "event.m" }"#, r#"{"m":{"x":[1]}}"#, r#"{"x":[1]}"#),
                (r#"{ "expr": "{}" }"#, r#"{"a":1}"#, "{}"),
                (r#"{ "expr": "event.a" }"#, r#"{"a":1}"#, "rejected: expr: a body is an object, not int"),
                (r#"{ "expr": "event.a" }"#, r#"{"a":[]}"#, "rejected: expr: a body is an object, not list"),
                (r#"{ "expr": "event.a" }"#, "{}", "rejected: expr: column 1: `event.a` is absent"),
                (r#"{ "expr": "{\"b\": event.a}", "when": "has(event.a)" }"#, "{}", "{}"),
                (
                    r#"{ "expr": "{\"b\": [event.a]}" }"#,
                    &deep,
                    "rejected: expr: expected at most 64 levels of nesting at byte 68",
                ),
                ("{}", "", "wrong: missing field `expr`"),
            ],
        );
    }
}
