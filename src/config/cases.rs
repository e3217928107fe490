//! Tests that stand beside a pipeline in the configuration.

use crate::budget::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A test of the pipeline, for `tidegate test`; a running gateway does not look at it. Its clock stands still but for
/// steps with `wait`, and what its processes remember is empty at first.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, in a few words.
    pub name: String,
    /// What the clock says at first: RFC 3339, or milliseconds since 1970 as text. Without it: 2000-01-01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What processes that reach outside (`spawn`, some `tee`s) set in the event, by the name of the process. Those that
    /// stand neither here nor in `run` do nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, Map<String, Value>>,
    /// Names of processes that really reach outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
    /// What happens, one after another.
    #[schemars(length(min = 1))]
    pub steps: Vec<CaseStep>,
}

/// Events come, or time passes; and what is expected of it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct CaseStep {
    /// The bodies of events that come.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Map<String, Value>>,
    /// Their topic; without it: the first that the pipeline reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Their key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The id of the event, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What their source says of them, such as the MQTT `topic`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
    /// Time that passes before they come; timers fire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// Whether it is the end: processes emit what they hold, as at the end of bounded sources.
    pub end: bool,
    /// The bodies of all events that the pipeline puts out in this step, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<Map<String, Value>>>,
    /// As `out`, but the events may have more fields, at every level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has: Option<Vec<Map<String, Value>>>,
    /// The bodies of events that go to other topics, by topic; for the sink of a tee: `PIPELINE/PROCESS`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sent: BTreeMap<String, Vec<Map<String, Value>>>,
    /// A part of the reason for which an event is failed. Without it none may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<String>,
}
