//! The configuration without the components' own fields. The doc comments are the user's documentation.

use super::admin::AdminSettings;
use super::cases::Case;
use super::outgoing::{Budget, Drain, Late, Window};
use crate::budget::{Size, Span};
use crate::expr::Expr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The gateway's own settings, as read.
#[derive(Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who this gateway is.
    pub gateway: GatewaySettings,
    /// Where events are kept, and how many.
    pub store: StoreSettings,
    /// Where operators see and steer it.
    pub admin: AdminSettings,
    /// Settings of topics. A topic is named after the source or pipeline that writes it. A topic that only a process or
    /// `on_fail` writes has to stand here, if only as `{}`, to be read.
    pub topics: BTreeMap<String, TopicSettings>,
}

/// Who this gateway is.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Name of this gateway, carried by every event. Without it: the host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("pattern" = NAME, "title" = NAME_FORM))]
    pub id: String,
    /// How much memory events, requests, connections and caches may take together, beside some 12 MiB for the program itself.
    /// Sources make their producers wait, or refuse them, rather than take more; a configuration whose parts cannot fit is
    /// wrong. `tidegate check` adds it up. Without it: what the parts need, and 160 MiB for what comes in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
}

/// A name: of a topic, a consumer, a gateway.
pub(super) const NAME: &str = "^[A-Za-z0-9_.-]{1,64}$";
pub(super) const NAME_FORM: &str = "a name of 1 to 64 letters, digits, `_`, `.` and `-`";

/// Where events are kept, and how many.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// File of the store; relative to the working directory, not to the configuration file. Other files of the store lie
    /// beside it.
    #[schemars(length(min = 1))]
    pub path: String,
    /// How much of the disk the store may take.
    pub disk: DiskSettings,
    /// How long a repeated event is known to be a repeat.
    pub dedupe: DedupeSettings,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings { path: "tidegate.db".into(), disk: DiskSettings::default(), dedupe: DedupeSettings::default() }
    }
}

/// How much of the disk the store may take. A mark that is passed holds until there is room down to `low`; meanwhile
/// `when_full` says what happens to new events, each by its priority: 0 and 1 from `soft` on, 2 to 5 from `high` on, 6 and 7
/// from `critical` on.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {
    /// From this size on sources are refused, or what `when_full` says, until there is room again.
    pub high: Size,
    /// Below this size sources are taken in again. Without it: 80 % of `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<Size>,
    /// The mark of the priorities 0 and 1. Without it: `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<Size>,
    /// The mark of the priorities 6 and 7, until there is room down to `high`. Without it: a sixteenth above `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical: Option<Size>,
    /// The same by the number of events that not every reader has passed. Without it only bytes count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<EventMarks>,
    /// What is left free on the file system for others: with less, the store counts as full, with half of it as critically so,
    /// until there is a quarter more. Without it: a sixteenth of the file system, at most 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// How much may be written to the disk in its life, as its maker says (TBW). With it `/metrics` tells how long it lasts at
    /// the present pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endurance: Option<Size>,
    /// What happens to new events while the mark is passed, where their topic does not say it.
    pub when_full: WhenFull,
    /// Where `"offload"` takes events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadSettings>,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings {
            high: Size(1 << 30),
            low: None,
            soft: None,
            critical: None,
            events: None,
            free: None,
            endurance: None,
            when_full: WhenFull::Reject,
            offload: None,
        }
    }
}

impl DiskSettings {
    /// The low mark, given or worked out.
    pub fn low(&self) -> Size {
        self.low.unwrap_or(Size(self.high.0 / 5 * 4))
    }
}

/// Marks that count events which not every reader has passed.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct EventMarks {
    /// From so many events on the store counts as full.
    #[schemars(range(min = 1, max = 1_000_000_000_000u64))]
    pub high: u64,
    /// Below so many it does not any more. Without it: 80 % of `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<u64>,
}

impl EventMarks {
    /// The low mark, given or worked out.
    pub fn low(&self) -> u64 {
        self.low.unwrap_or(self.high / 5 * 4)
    }
}

/// Where events are taken that the store has no room for.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct OffloadSettings {
    /// An object store of `systems`: a directory on another disk, a server.
    pub to: String,
    /// What the keys of its objects begin with.
    #[serde(default = "prefix")]
    #[schemars(length(max = 256))]
    pub prefix: String,
}

fn prefix() -> String {
    "tidegate".into()
}

/// What happens to new events of a topic while the store is full. What a pipeline writes is never refused.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The source is refused: 429, no PUBACK.
    #[default]
    Reject,
    /// They are taken, and the oldest events of the topic are dropped, those of the lowest priority first.
    DropOldest,
    /// They are acknowledged and dropped.
    DropNewest,
    /// As `drop_newest`, but one of so many is kept.
    Sample(#[schemars(range(min = 1, max = 1_000_000))] u32),
    /// They are taken, and the newest events of the topic are moved to the object store of `store.disk.offload` until the store
    /// is down to `low`. They come back in order. As long as the object store fails, the source is refused.
    Offload,
}

/// How long a repeated event is known to be a repeat.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct DedupeSettings {
    /// An id that comes again within this time is a repeat: it is acknowledged, but not stored again.
    pub window: Span,
    /// How many ids are remembered at most; 0 turns it off.
    #[schemars(range(max = 10_000_000))]
    pub ids: u64,
}

impl Default for DedupeSettings {
    fn default() -> Self {
        DedupeSettings { window: Span::millis(3_600_000), ids: 65_536 }
    }
}

/// Settings of one topic.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct TopicSettings {
    /// What is kept after all its readers are done with it; nothing is, without this.
    pub keep: Keep,
    /// How old its events may get: older ones are not delivered any more, and are counted as expired. Time without power counts
    /// as far as it is known. Without it, only events that bring a `ttl` of their own expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// What happens to its new events while the store is full. Without it: what `store.disk` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
}

/// What is kept of a topic after all its readers are done with it. The first limit that is reached counts.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// How old a kept event may get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// How many bytes of events are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
}

/// What every source has besides its own fields.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct SourceCommon {
    /// Field of the body that holds the event's id, such as `meta.id`. An id that comes again is a repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Field of the body that holds the event's time: RFC 3339, or seconds, milliseconds, microseconds or nanoseconds
    /// since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Field of the body that holds the event's key: what it is about, such as the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Field of the body that says how long after its intake the event is of use: seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// From 0, the lowest, to 7, for alarms.
    #[schemars(range(max = 7))]
    pub priority: u8,
    /// Larger events are refused.
    pub max_event: Size,
}

impl Default for SourceCommon {
    fn default() -> Self {
        SourceCommon { id: None, time: None, key: None, ttl: None, priority: 4, max_event: Size(256 << 10) }
    }
}

/// What every sink has besides its own fields.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct SinkCommon {
    /// Topics to deliver, besides the output of the pipelines that name this sink in their `to`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// How many events are delivered at once.
    pub batch: Batch,
    /// When a failed delivery is tried again.
    pub retry: Retry,
    /// Where a sink begins that has never run before.
    pub start: Start,
    /// How fast it sends, and what goes first while a backlog drains.
    pub drain: Drain,
    /// When it may send; without any, always. While the machine's clock is not set (it is not synchronised and shows a
    /// year before 2020) no window is open for ten minutes, and all are from then on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub windows: Vec<Window>,
    /// How much it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Events of this priority and above wait neither for `drain`, `windows` and `budget`, where they are counted, nor for
    /// a batch to fill. With 8, all do.
    #[schemars(range(max = 8))]
    pub urgent: u8,
    /// What happens to events that have waited long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
}

impl Default for SinkCommon {
    fn default() -> Self {
        SinkCommon {
            from: Vec::new(),
            batch: Batch::default(),
            retry: Retry::default(),
            start: Start::default(),
            drain: Drain::default(),
            windows: Vec::new(),
            budget: None,
            urgent: 6,
            late: None,
        }
    }
}

/// How many events are delivered at once: what is there, up to `max` and `bytes`, after `wait` at the latest.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Events in one delivery at most; fewer where a delivery takes more than half a second and a smaller one takes less,
    /// so that alarms get through.
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// Bytes in one delivery at most; a single larger event goes alone. Without it: 256 KiB, less with a small
    /// `gateway.memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// How long to wait for a batch to fill.
    pub wait: Span,
}

impl Batch {
    /// Bytes in one delivery, if nothing says otherwise.
    pub const BYTES: usize = 256 << 10;
}

impl Default for Batch {
    fn default() -> Self {
        Batch { max: 1000, bytes: None, wait: Span::millis(0) }
    }
}

/// When a failed delivery is tried again: after a random time that grows from `initial` to `max`.
#[derive(Serialize, Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The first wait.
    pub initial: Span,
    /// The longest wait. It is also how late the return of an upstream may be noticed, unless something else that was down
    /// comes up, or the machine gets a route or a carrier: then it is tried at once, every five seconds at most.
    pub max: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { initial: Span::millis(100), max: Span::millis(800) }
    }
}

/// Where a consumer begins that has never run before.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest event that the store has.
    #[default]
    Oldest,
    /// With what comes from then on.
    Newest,
}

/// A chain of processes over the events of its topics. Its output is a topic of its name.
#[derive(Deserialize, JsonSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct PipelineSettings {
    /// Topics it reads: names of sources, of other pipelines, or of `topics`.
    #[schemars(length(min = 1))]
    pub from: Vec<String>,
    /// Sinks that deliver its output.
    #[serde(default)]
    pub to: Vec<String>,
    /// Where a pipeline begins that has never run before.
    #[serde(default)]
    pub start: Start,
    /// When a process that reaches outside tries again, if it does not say so itself.
    #[serde(default)]
    pub retry: Attempts,
    /// What happens to an event that a process fails, if the process does not say so itself.
    #[serde(default)]
    pub on_fail: OnFail,
    /// For how many events at once its processes may reach outside. The events leave in their order all the same.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub workers: u32,
    /// Whether `workers` never work on two events of the same key at once.
    #[serde(default)]
    pub per_key: bool,
    /// How much its processes may remember; an event that needs more is failed. Without it: 8 MiB, less with a small
    /// `gateway.memory`.
    #[serde(default)]
    pub state: Option<Size>,
    /// Tests of this pipeline, for `tidegate test`.
    #[serde(default)]
    pub tests: Vec<Case>,
}

fn one() -> u32 {
    1
}

impl PipelineSettings {
    /// Bytes that processes may remember, if nothing says otherwise.
    pub const STATE: usize = 8 << 20;
}

/// What every process has besides its own fields.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessCommon {
    /// Its counters, and what it remembers, go by this name. Without it: its kind; `KIND#2` for the second of its kind in
    /// the pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = NAME, "title" = NAME_FORM))]
    pub name: Option<String>,
    /// Events for which this does not hold go on unchanged; behind a `continue`, they do not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// When it tries again what it does outside of the gateway. Without it: as the pipeline says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Attempts>,
    /// What happens to an event that it fails. Without it: as the pipeline says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fail: Option<OnFail>,
}

/// When a process tries again what it does outside of the gateway.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Attempts {
    /// How often a failed event is tried again before `on_fail`. Without it: what may pass (an upstream that cannot be
    /// reached) is tried again until it works, all else goes to `on_fail` at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// The first wait.
    pub initial: Span,
    /// By how much each wait is longer than the one before.
    #[schemars(range(min = 1, max = 10))]
    pub factor: f64,
    /// The longest wait.
    pub max: Span,
}

impl Default for Attempts {
    fn default() -> Self {
        Attempts { count: None, initial: Span::millis(100), factor: 2.0, max: Span::millis(30_000) }
    }
}

/// What happens to an event that a process fails.
#[derive(Serialize, Deserialize, JsonSchema, Default, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnFail {
    /// It goes to the dead letters, with the reason.
    #[default]
    Dead,
    /// It goes nowhere; it is only counted.
    Drop,
    /// It goes on to the next process as if this one were not there.
    Continue,
    /// It goes to this topic.
    Topic(#[schemars(extend("pattern" = NAME, "title" = NAME_FORM))] String),
}
