//! One observation, from intake to upstream, and how a run of them is written down.

pub mod batch;
pub mod body;
pub mod json;
pub mod parent;
pub mod path;
mod splice;
pub mod walk;

pub use batch::{Batch, Draft, Unfit};
pub use body::Body;
pub use path::Path;

use crate::clock::{self, Stamp};
use bytes::Bytes;
use std::{borrow::Cow, fmt, sync::Arc};

/// UTF-8 text that shares the bytes of the batch it was read from.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The text. Bytes that are not UTF-8 (they were checked at intake and by CRC) read as one replacement character.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("\u{fffd}")
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Text(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(Bytes::from(text))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What tells an event from every other: the producer's own id, or one made from where the event was first stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// The producer's.
    Own(Text),
    /// `<store>-<lane>-<sequence number>`: the store's random number, and the place of the first append.
    Made { store: u64, lane: u16, seq: u64 },
}

impl Id {
    /// The id as text, the same after every restart.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Id::Own(text) => Cow::Borrowed(text.as_str()),
            Id::Made { store, lane, seq } => Cow::Owned(format!("{store:016x}-{lane}-{seq}")),
        }
    }
}

/// When an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As the device says: milliseconds since 1970.
    Told(i64),
    /// When the gateway sampled it: milliseconds of the monotonic clock, in the boot of the intake. So it is right also where
    /// the wall clock was set only later.
    Sampled(u64),
}

/// One observation.
#[derive(Clone, Debug)]
pub struct Event {
    /// Tells it from every other; a repeat carries the same.
    pub id: Id,
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// Where it lies there: the lane (the topic at its priority), and its number in it; 0 before it was stored.
    pub lane: u16,
    pub seq: u64,
    /// What it is about (a device, an MQTT topic); may be empty.
    pub key: Text,
    /// 0 to 7, 7 is the most urgent.
    pub priority: u8,
    /// When it happened, as its source says.
    pub time: Option<When>,
    /// When the gateway took it in.
    pub stamp: Stamp,
    /// Seconds after its intake from which on nobody wants it any more, as its source says.
    pub ttl: Option<u32>,
    /// When it expires, by this or by its topic, in milliseconds of the steady clock; `i64::MAX`: never.
    pub expires: i64,
    /// What the source knows besides the body (MQTT topic, client, user properties): a JSON object, or empty.
    pub meta: Bytes,
    /// The observation itself: a JSON object.
    pub body: Body,
}

impl Event {
    /// The event at an index of those that were made of this one: as this, but with another body and an id of its own,
    /// the same whenever it is made again.
    pub fn part(&self, index: usize, body: Body) -> Event {
        let id = Id::Own(Text::from(format!("{}.{index}", self.id.text())));
        Event { id, body, ..self.clone() }
    }

    /// An event that no source sent. The id must be the same when it is made again after a crash.
    pub fn made(id: String, topic: Arc<str>, now: i64, body: Body) -> Event {
        Event {
            id: Id::Own(Text::from(id)),
            topic,
            lane: 0,
            seq: 0,
            key: Text::default(),
            priority: 4,
            time: None,
            stamp: Stamp { wall_ms: now, ..Stamp::default() },
            ttl: None,
            expires: i64::MAX,
            meta: Bytes::new(),
            body,
        }
    }

    /// Its `traceparent`, if it came with one.
    pub fn parent(&self) -> Option<&str> {
        parent::of(&self.meta)
    }

    /// Whether it is too old to be delivered.
    pub fn is_expired(&self) -> bool {
        self.expires != i64::MAX && self.expires <= clock::steady_ms()
    }

    /// When it happened, or, where the source does not say, when it was taken in: milliseconds since 1970.
    pub fn happened(&self) -> i64 {
        match self.time {
            None => self.stamp.wall_ms,
            Some(When::Told(ms)) => ms,
            Some(When::Sampled(mono)) => {
                let before = i64::try_from(self.stamp.mono_ms.saturating_sub(mono)).unwrap_or(i64::MAX);
                self.stamp.wall_ms.saturating_sub(before)
            }
        }
    }

    /// The event that [`Event::write_envelope`] wrote. Of its intake only the wall time is left, and a time to live is not.
    pub fn of_envelope(text: &[u8]) -> Option<Event> {
        (json::check(text).ok()? == json::Kind::Object).then_some(())?;
        let all = walk::Json::trusted(text);
        let text = |name| all.member(name).and_then(walk::Json::as_str);
        let time = |name| text(name).and_then(|time| clock::parse_time(&time));
        let (happened, intake) = (time("time")?, time("intake")?);
        let bytes = |name| all.member(name).map(|value| Bytes::copy_from_slice(value.raw()));
        Some(Event {
            id: Id::Own(Text::from(text("id")?.as_ref())),
            topic: text("topic")?.as_ref().into(),
            lane: 0,
            seq: 0,
            key: text("key").map(|key| Text::from(key.as_ref())).unwrap_or_default(),
            priority: u8::try_from(all.member("priority")?.as_i64()?).ok().filter(|p| *p <= 7)?,
            time: (happened != intake).then_some(When::Told(happened)),
            stamp: Stamp::at(intake, &text("time_quality").unwrap_or_default()),
            ttl: None,
            expires: i64::MAX,
            meta: bytes("meta").unwrap_or_default(),
            body: Body::parse(bytes("body")?).ok()?,
        })
    }

    /// Writes the event with its envelope as one JSON object, without a line end:
    /// `{"id":…,"topic":…,"key":…,"priority":…,"time":…,"intake":…,"time_quality":…,"traceparent":…,"meta":{…},"body":{…}}`.
    pub fn write_envelope(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":");
        walk::write_string(&self.id.text(), out);
        out.extend_from_slice(b",\"topic\":");
        walk::write_string(&self.topic, out);
        if !self.key.as_str().is_empty() {
            out.extend_from_slice(b",\"key\":");
            walk::write_string(self.key.as_str(), out);
        }
        out.extend_from_slice(format!(",\"priority\":{},\"time\":\"", self.priority).as_bytes());
        out.extend_from_slice(clock::rfc3339(self.happened()).as_bytes());
        out.extend_from_slice(b"\",\"intake\":\"");
        out.extend_from_slice(clock::rfc3339(self.stamp.wall_ms).as_bytes());
        out.extend_from_slice(format!("\",\"time_quality\":\"{}\"", self.stamp.quality.name()).as_bytes());
        if let Some(parent) = self.parent() {
            out.extend_from_slice(b",\"traceparent\":\"");
            out.extend_from_slice(parent.as_bytes());
            out.push(b'"');
        }
        if !self.meta.is_empty() {
            out.extend_from_slice(b",\"meta\":");
            out.extend_from_slice(&self.meta);
        }
        out.extend_from_slice(b",\"body\":");
        self.body.write(out);
        out.push(b'}');
    }
}
