//! Lets an event pass, or ends the pipeline for it.

use crate::kind::{Kind, Process};
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "continue",
    about: "lets events pass for which `when` holds; for others the pipeline ends here",
    example: r#"{ "type": "continue", "when": "event.temp > -40.0 && event.temp < 85.0" }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// Ends the pipeline for events for which its `when` does not hold. They count as stopped, not as failed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

impl Process for Config {
    fn stops(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn only_events_that_fit_go_on() {
        check(
            &KIND,
            &[
                (r#"{ "when": "event.a > 1" }"#, r#"{"a":2}"#, r#"{"a":2}"#),
                (r#"{ "when": "event.a > 1" }"#, r#"{"a":1}"#, ""),
                (r#"{ "when": "event.a > 1" }"#, r#"{"b":1}"#, ""),
                (r#"{ "when": "event.a > 1 || event.b == 1" }"#, r#"{"b":1}"#, r#"{"b":1}"#),
                (
                    r#"{ "when": "event.a > 1" }"#,
                    r#"{"a":"x"}"#,
                    "rejected: when: column 9: `>` cannot take string and int",
                ),
                (
                    r#"{ "when": "event.a" }"#,
                    r#"{"a":"x"}"#,
                    "rejected: when: column 1: a condition must be a bool, not string",
                ),
                ("{}", "{}", "{}"),
            ],
        );
    }
}
