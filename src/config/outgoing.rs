//! What a sink sends when: the fields that every sink has for a link that is slow, metered or often away. The doc comments are
//! the user's documentation.

use super::cron::{Cron, Zone};
use super::settings::SinkCommon;
use crate::budget::{Size, Span};
use crate::event::Path;
use crate::kind::ParamsError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How fast a sink sends, and what goes first while a backlog drains.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Events a second at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub events: Option<u32>,
    /// Bytes of events a second at most, counted as their bodies and what their sources know besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// While more waits than goes in one delivery, this share of the events sent is for those that come in now, so that
    /// they arrive fresh; what waits follows in its order. Without it every topic is delivered in the order in which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.99))]
    pub live: Option<f64>,
}

/// What happens to events that have waited long.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Late {
    /// An event that was taken in longer ago than this is late.
    pub after: Span,
    /// Field of the body that is set to `true` in a late event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Another sink that late events go to instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A time in which a sink may send.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When it opens: minute, hour, day of the month, month, day of the week, as in `crontab(5)`. To spread a fleet, each
    /// gateway begins a little later, always by the same: up to a tenth of `for`, 5 minutes at most.
    pub cron: Cron,
    /// How long it is open.
    #[serde(rename = "for")]
    pub length: Span,
    /// The time zone of `cron`: `UTC`, an offset such as `+01:00`, a name such as `Europe/Berlin` that the machine knows, or a
    /// rule of POSIX such as `CET-1CEST,M3.5.0,M10.5.0/3`.
    #[serde(default)]
    pub zone: Zone,
}

/// How much a sink may send.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Bytes of events, counted as their bodies and what their sources know besides: headers, envelopes and what is sent
    /// again after a failure come on top, compression off it.
    pub bytes: Size,
    /// For how long that has to do. It begins with the first delivery, and is remembered over restarts.
    #[serde(default = "one_day")]
    pub every: Span,
}

fn one_day() -> Span {
    Span::millis(86_400_000)
}

/// What is wrong with these fields that no schema can say.
pub(super) fn check(common: &SinkCommon) -> Result<(), ParamsError> {
    let some = |at: &str, amount: u64| match amount {
        0 => Err(ParamsError::at(at, "nothing could ever be sent; expected more than 0")),
        _ => Ok(()),
    };
    some("drain.bytes", common.drain.bytes.map_or(1, |size| size.0))?;
    if let Some(budget) = &common.budget {
        some("budget.bytes", budget.bytes.0)?;
        if budget.every < Span::millis(1000) {
            return Err(ParamsError::at("budget.every", "expected at least `1s`"));
        }
    }
    for (at, window) in common.windows.iter().enumerate() {
        if window.length < Span::millis(60_000) {
            return Err(ParamsError::at(
                format!("windows[{at}].for"),
                "expected at least `1m`: `cron` counts in minutes",
            ));
        }
    }
    match &common.late {
        Some(Late { mark: None, to: None, .. }) => {
            Err(ParamsError::at("late", "expected `mark` or `to`: what happens to a late event"))
        }
        Some(Late { mark: Some(_), to: Some(_), .. }) => {
            Err(ParamsError::at("late.mark", "an event that goes to another sink is not marked; choose `mark` or `to`"))
        }
        Some(Late { mark: Some(mark), .. }) => {
            mark.parse::<Path>().map(|_| ()).map_err(|e| ParamsError::at("late.mark", e.to_string()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{load_with, tests::TOYS};

    /// What is wrong with a sink `cloud` with these fields, beside which there is a sink `archive`, and one with late events.
    fn errors(fields: &str) -> Vec<String> {
        let text = format!(
            r#"{{ "sinks": {{
  "archive": {{ "type": "http", "url": "x://" }},
  "chain": {{ "type": "http", "url": "x://", "late": {{ "after": "1h", "to": "archive" }} }},
  "cloud": {{ {fields},
    "type": "http", "url": "x://" }} }} }}"#
        );
        let outside = |_: &str| Err("nothing is outside".to_owned());
        let loaded = load_with(std::path::Path::new("f"), &text, &TOYS, &outside);
        loaded.map_or_else(|problems| problems.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn what_could_never_send_is_refused_with_its_place() {
        // The fields, the error, and the text at whose last place it is told.
        for (fields, want, at) in [
            (r#""drain": { "events": 500, "bytes": "1MiB", "live": 0.3 }, "urgent": 8"#, "", ""),
            (r#""windows": [{ "cron": "0 2 * * *", "for": "2h", "zone": "CET-1CEST,M3.5.0,M10.5.0/3" }]"#, "", ""),
            (r#""budget": { "bytes": "10MiB" }, "late": { "after": "1h", "mark": "late" }"#, "", ""),
            (r#""late": { "after": "1h", "to": "archive" }"#, "", ""),
            (r#""drain": { "events": 0 }"#, "drain.events: expected at least 1, found `0`", "0"),
            (r#""drain": { "bytes": 0 }"#, "drain.bytes: nothing could ever be sent; expected more than 0", "0"),
            (r#""drain": { "live": 1 }"#, "drain.live: expected 0.01 to 0.99, found `1`", "1"),
            (r#""drain": { "rate": 1 }"#, "drain: unknown field `rate`", "\"rate"),
            (r#""urgent": 9"#, "urgent: expected 0 to 8, found `9`", "9"),
            (r#""budget": { "bytes": "0" }"#, "budget.bytes: nothing could ever be sent; expected more than 0", "\"0"),
            (r#""budget": { "bytes": 9, "every": "0s" }"#, "budget.every: expected at least `1s`", "\"0s"),
            (r#""budget": {}"#, "budget: missing field `bytes`", "{"),
            (
                r#""windows": [{ "cron": "0 0 30 2 *", "for": "2h" }]"#,
                "windows[0].cron: never comes: no `2` has a day `30`",
                "\"0 0",
            ),
            (
                r#""windows": [{ "cron": "0 2 * * *", "for": "2h" }, { "cron": "0 2 * *", "for": "2h" }]"#,
                "windows[1].cron: has 4 fields, expected five: minute, hour, day, month, day of the week; such as \
                 `0 2 * * *`",
                "\"0 2",
            ),
            (
                r#""windows": [{ "cron": "0 2 * * *", "for": "5s" }]"#,
                "windows[0].for: expected at least `1m`: `cron` counts in minutes",
                "\"5s",
            ),
            (
                r#""windows": [{ "cron": "0 2 * * *", "for": "2h", "zone": "Mars" }]"#,
                "windows[0].zone: this machine knows no time zone `Mars`; `UTC`, `+01:00` and `CET-1",
                "\"Mars",
            ),
            (r#""late": { "after": "1h" }"#, "late: expected `mark` or `to`: what happens to a late event", "{"),
            (
                r#""late": { "after": "1h", "mark": "a", "to": "archive" }"#,
                "late.mark: an event that goes to another sink is not marked; choose `mark` or `to`",
                "\"a\"",
            ),
            (r#""late": { "after": "1h", "mark": "a..b" }"#, "late.mark: ", "\"a..b"),
            (
                r#""late": { "after": "1h", "to": "archiv" }"#,
                "late.to: there is no sink `archiv`, did you mean `archive`?",
                "\"archiv",
            ),
            (r#""late": { "after": "1h", "to": "cloud" }"#, "late.to: is the sink itself", "\"cloud"),
            (
                r#""late": { "after": "1h", "to": "chain" }"#,
                "late.to: the sink `chain` passes late events on itself",
                "\"chain",
            ),
        ] {
            let got = errors(fields);
            if want.is_empty() {
                assert_eq!(got, [""; 0], "{fields}");
                continue;
            }
            let place = format!("(f:4:{})", r#"  "cloud": { "#.len() + fields.rfind(at).unwrap() + 1);
            let right = |got: &String| got.starts_with(&format!("sinks.cloud.{want}")) && got.ends_with(&place);
            assert!(got.len() == 1 && got.iter().all(right), "{fields}: {got:#?}, not at {place}");
        }
    }
}
