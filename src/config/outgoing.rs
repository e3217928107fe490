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
    /// The time zone of `cron`: `UTC`, an offset such as `+01:00`, or a name such as `Europe/Berlin` that the machine knows.
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
