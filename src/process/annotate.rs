//! Sets fields to constants or to what expressions give.

use super::rejected;
use crate::{
    event::{Event, Path},
    expr::{EvalError, Expr},
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub const KIND: Kind<dyn Process> = Kind {
    name: "annotate",
    about: "sets fields to constants or computed values",
    example: r#"{ "type": "annotate", "set": {
    "site": "barn",
    "place.floor": 2,
    "fahrenheit": { "expr": "event.temp * 1.8 + 32.0" } },
  "exists": "replace", "when": "has(event.temp)" }"#,
    schema: Config::json_schema,
    build: |params| {
        let Config { set, exists } = params.decode()?;
        let set: Result<_, _> = set.into_iter().map(|(place, value)| Setting::new(place, value)).collect();
        Ok(Box::new(Annotate { set: set?, exists }))
    },
};

/// Sets fields of an event, one after another; a computed value sees those set before it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Places in the event (`a.b.0.c`) with their values: `{ "expr": "…" }` is computed, any other JSON is a constant.
    /// Objects on the way are created. A computed value that reads a field that the event does not have is not set.
    #[schemars(with = "BTreeMap<String, Value>")]
    set: Map<String, Value>,
    /// What happens to a field that is there already, be it null: `"keep"`, `"replace"` or `"fail"`.
    #[serde(default)]
    exists: Exists,
}

/// What happens to a field that is there already.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Exists {
    /// It stays as it is.
    Keep,
    /// It gets the new value.
    #[default]
    Replace,
    /// The event is rejected.
    Fail,
}

struct Annotate {
    set: Vec<Setting>,
    exists: Exists,
}

struct Setting {
    place: Path,
    value: What,
}

enum What {
    Constant(Vec<u8>),
    Computed(Expr),
}

impl Setting {
    fn new(place: String, value: Value) -> Result<Self, ParamsError> {
        let wrong = |message: String| ParamsError::at(format!("set.{place}"), message);
        let path = place.parse().map_err(|e: crate::event::body::PathError| wrong(e.to_string()))?;
        let expression = value.as_object().filter(|object| object.len() == 1).and_then(|object| object.get("expr"));
        let value = match expression {
            Some(Value::String(text)) => {
                What::Computed(Expr::parse(text).map_err(|e| wrong(format!("expression `{text}`: {e}")))?)
            }
            Some(_) => return Err(wrong("expected the text of an expression in `expr`".into())),
            None => What::Constant(value.to_string().into_bytes()),
        };
        Ok(Setting { place: path, value })
    }
}

impl Process for Annotate {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        for Setting { place, value } in &self.set {
            let wrong = |cause: &dyn std::fmt::Display| rejected(format!("set.{place}"), cause);
            if self.exists != Exists::Replace && event.body.get(place).is_some() {
                match self.exists {
                    Exists::Fail => return Err(wrong(&"the field is there already")),
                    _ => continue,
                }
            }
            let computed = match value {
                What::Constant(value) => {
                    event.body.set(place, value).map_err(|e| wrong(&e))?;
                    continue;
                }
                What::Computed(expr) => expr.eval(&event).map(|value| value.to_json()),
            };
            match computed {
                Ok(value) => event.body.set(place, &value).map_err(|e| wrong(&e))?,
                Err(EvalError::Absent { .. }) => {}
                Err(e) => return Err(wrong(&e)),
            }
        }

        cx.emit(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn fields_are_set() {
        check(
            &KIND,
            &[
                (r#"{ "set": { "x": "1" } }"#, r#"{"a":1}"#, r#"{"a":1,"x":"1"}"#),
                (
                    r#"{ "set": { "o.p": [1, null], "o.q": {} } }"#,
                    r#"{"o":{"r":1}}"#,
                    r#"{"o":{"r":1,"p":[1,null],"q":{}}}"#,
                ),
                (r#"{ "set": { "l.1.x": true } }"#, r#"{"l":[{},{}]}"#, r#"{"l":[{},{"x":true}]}"#),
                (r#"{ "set": { "f": { "expr": "event.c * 1.8 + 32.0" } } }"#, r#"{"c":10}"#, r#"{"c":10,"f":50.0}"#),
                (r#"{ "set": { "b": 1, "a": { "expr": "event.b + 1" } } }"#, "{}", r#"{"b":1,"a":2}"#),
                (r#"{ "set": { "f": { "expr": "event.c" }, "d": 1 } }"#, "{}", r#"{"d":1}"#),
                (r#"{ "set": { "t": { "expr": "meta.topic" } } }"#, "{}", r#"{"t":"barn"}"#),
                (r#"{ "set": { "o": { "expr": "1", "other": 2 } } }"#, "{}", r#"{"o":{"expr":"1","other":2}}"#),
                (r#"{ "set": { "a": 2 } }"#, r#"{"a":1}"#, r#"{"a":2}"#),
                (r#"{ "set": { "a": 2, "b": 3 }, "exists": "keep" }"#, r#"{"a":null}"#, r#"{"a":null,"b":3}"#),
                (
                    r#"{ "set": { "b": 3, "a": 2 }, "exists": "fail" }"#,
                    r#"{"a":1}"#,
                    "rejected: set.a: the field is there already",
                ),
                (r#"{ "set": { "a": 2 }, "when": "event.b == 1" }"#, r#"{"a":1,"b":1}"#, r#"{"a":2,"b":1}"#),
                (r#"{ "set": { "a": 2 }, "when": "event.b == 1" }"#, r#"{"a":1}"#, r#"{"a":1}"#),
                (r#"{ "set": { "a.b": 2 } }"#, r#"{"a":1}"#, "rejected: set.a.b: `a` is a number, not an object"),
                (
                    r#"{ "set": { "a": { "expr": "event.s * 2" } } }"#,
                    r#"{"s":"x"}"#,
                    "rejected: set.a: column 9: `*` cannot take string and int",
                ),
            ],
        );
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        check(
            &KIND,
            &[
                ("{}", "", "wrong: missing field `set`"),
                (r#"{ "set": { "a..b": 1 } }"#, "", "wrong: set.a..b: path `a..b` has an empty part"),
                (
                    r#"{ "set": { "a": { "expr": 1 } } }"#,
                    "",
                    "wrong: set.a: expected the text of an expression in `expr`",
                ),
                (
                    r#"{ "set": { "a": { "expr": "1 +" } } }"#,
                    "",
                    "wrong: set.a: expression `1 +`: column 4: expected a value, found the end",
                ),
            ],
        );
    }
}
