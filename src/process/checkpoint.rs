//! A durable point in a pipeline.

use crate::kind::{Kind, Process};
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "checkpoint",
    about: "a durable point: after a crash events go on behind it, and what was done before is not repeated",
    example: r#"{ "type": "checkpoint", "name": "classified" }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// A durable point in a long pipeline: events are committed here. After a crash or a stop they resume behind it, and what
/// was done before is not repeated. What stands before it and what stands behind it work side by side. Behind it,
/// `meta.topic` is `PIPELINE/NAME`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

/// The pipeline is split here before it runs; where it is not, an event just passes.
impl Process for Config {}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn events_pass() {
        check(
            &KIND,
            &[
                ("{}", r#"{"a":1}"#, r#"{"a":1}"#),
                (r#"{ "at": 1 }"#, "", "wrong: at: unknown field `at`, there are no fields"),
            ],
        );
    }
}
