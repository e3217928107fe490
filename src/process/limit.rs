//! Lets a number of events pass, and no more.

use super::groups::unreadable;
use crate::{
    event::Event,
    fault::Fault,
    kind::{Cx, Kind, Process},
};
use schemars::JsonSchema;
use serde::Deserialize;

pub const KIND: Kind<dyn Process> = Kind {
    name: "limit",
    about: "lets so many events pass; for all others the pipeline ends here",
    example: r#"{ "type": "limit", "count": 1000 }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(params.decode::<Config>()?)),
};

/// Lets so many events pass, ever: the count is kept over restarts. For each further one the pipeline ends here; it counts
/// as stopped, not as failed. An event that a later process rejects has passed here, but is not counted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many events pass.
    count: u64,
}

const PASSED: &[u8] = b"passed";

impl Process for Config {
    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let read = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let passed = match cx.get(PASSED) {
            Some(text) => read(text).ok_or_else(|| unreadable(PASSED, "expected a whole number"))?,
            None => 0,
        };
        if passed < self.count {
            cx.put(PASSED, (passed + 1).to_string())?;
            cx.emit(event);
        }
        Ok(())
    }

    fn keeps_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Rig, check};
    use super::*;

    #[test]
    fn so_many_pass_and_no_more() {
        let mut rig = Rig::new(&KIND, r#"{ "count": 2, "when": "event.a > 0" }"#).unwrap();
        for (body, want) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":0}"#, r#"{"a":0}"#),
            (r#"{"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":3}"#, ""),
            (r#"{"a":4}"#, ""),
        ] {
            assert_eq!(rig.feed(body), want, "{body}");
        }
        check(&KIND, &[(r#"{ "count": 0 }"#, "{}", "")]);
    }

    #[test]
    fn a_state_that_is_no_number_is_told() {
        let mut rig = Rig::new(&KIND, KIND.example).unwrap();
        for bad in ["", "x", "-1", "1.0", "99999999999999999999"] {
            rig.remember(PASSED, bad);
            assert_eq!(rig.feed("{}"), "rejected: the state for `passed`: expected a whole number", "{bad}");
        }
        rig.remember(PASSED, "999");
        assert_eq!(rig.feed("{}") + &rig.feed("{}"), "{}");
    }
}
