//! Messages as events, and back: the exact bytes that came in go out to subscribers.
//!
//! | payload | body | `meta.wrapped` |
//! |---|---|---|
//! | a JSON object | as it is | |
//! | any other JSON value | `{"payload": value}` | `json` |
//! | other text | `{"payload": "text"}` | `text` |
//! | bytes | `{"payload_base64": "…"}` | `base64` |

use super::props::Props;
use crate::event::{
    Event,
    json::{self, Json, write_string},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// What a payload becomes if it is no JSON object: the body, and how it was wrapped.
pub fn wrap(payload: &[u8]) -> (Vec<u8>, &'static str) {
    let mut body = Vec::with_capacity(payload.len() + payload.len() / 3 + 24);
    let how = match (json::check(payload), std::str::from_utf8(payload)) {
        // White space around the value would be lost.
        (Ok(_), _) if payload.trim_ascii().len() == payload.len() => {
            body.extend_from_slice(b"{\"payload\":");
            body.extend_from_slice(payload);
            "json"
        }
        (_, Ok(text)) => {
            body.extend_from_slice(b"{\"payload\":");
            write_string(text, &mut body);
            "text"
        }
        _ => {
            body.extend_from_slice(b"{\"payload_base64\":\"");
            body.extend_from_slice(STANDARD.encode(payload).as_bytes());
            body.push(b'"');
            "base64"
        }
    };
    body.push(b'}');
    (body, how)
}

/// What the gateway knows of a message besides its payload.
#[derive(Clone, Debug, Default)]
pub struct About<'a> {
    pub topic: &'a str,
    pub client: &'a str,
    pub qos: u8,
    pub retain: bool,
    pub props: Option<&'a Props<'a>>,
}

/// Writes `meta`. The topic comes first: [`topic`] looks for it there.
pub fn write_meta(about: &About<'_>, wrapped: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"topic\":");
    write_string(about.topic, out);
    out.extend_from_slice(b",\"client\":");
    write_string(about.client, out);
    out.extend_from_slice(b",\"qos\":");
    out.push(b'0' + about.qos);
    if about.retain {
        out.extend_from_slice(b",\"retain\":true");
    }
    let mut text = |name: &str, value: &str| {
        write_string_member(name, value, out);
    };
    if let Some(how) = wrapped {
        text("wrapped", how);
    }
    if let Some(props) = about.props {
        for (name, value) in [("content_type", props.content_type), ("response_topic", props.response_topic)] {
            if let Some(value) = value {
                text(name, value);
            }
        }
        if let Some(data) = props.correlation {
            text("correlation", &STANDARD.encode(data));
        }
        for (name, n) in [("format", props.format.map(u32::from)), ("expiry", props.expiry)] {
            if let Some(n) = n {
                out.extend_from_slice(format!(",\"{name}\":{n}").as_bytes());
            }
        }
        write_user(&props.user, out);
    }
    out.push(b'}');
}

fn write_string_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b',');
    write_string(name, out);
    out.push(b':');
    write_string(value, out);
}

/// User properties as one object; a name that comes repeatedly has a list, where it stands first.
fn write_user(user: &[(&str, &str)], out: &mut Vec<u8>) {
    if user.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"user\":{");
    let mut first = true;
    for (at, (name, value)) in user.iter().enumerate() {
        if user[..at].iter().any(|(n, _)| n == name) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        let more: Vec<&str> = user[at + 1..].iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect();
        if more.is_empty() {
            write_string(value, out);
            continue;
        }
        out.push(b'[');
        write_string(value, out);
        for value in more {
            out.push(b',');
            write_string(value, out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// A message for subscribers: owned, since what waits for them must not pin the log's buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub client: String,
    pub qos: u8,
    pub retain: bool,
    /// Seconds to live, from `at` on.
    pub expiry: Option<u32>,
    /// When it was taken in, milliseconds since 1970.
    pub at: i64,
    pub props: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The MQTT topic of an event: what `meta` says, or for events from elsewhere the key. Called for every event of the
/// log and every session, so it looks at the first bytes only.
pub fn topic(event: &Event) -> std::borrow::Cow<'_, str> {
    let inside = event.meta.strip_prefix(b"{\"topic\":\"").and_then(|rest| {
        let end = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        (rest[end] == b'"').then(|| &rest[..end])
    });
    match inside.and_then(|raw| std::str::from_utf8(raw).ok()) {
        Some(topic) => topic.into(),
        None if event.meta.is_empty() => event.key.as_str().into(),
        None => match Json::trusted(&event.meta).member("topic").and_then(Json::as_str) {
            Some(topic) => topic,
            None => event.key.as_str().into(),
        },
    }
}

impl Message {
    /// The message that an event was, or, for one that comes from a pipeline, is to be.
    pub fn of(event: &Event) -> Message {
        Message::read(topic(event).into_owned(), &event.meta, &event.body.to_bytes(), event.stamp.wall_ms)
    }

    /// The same from the parts that are kept for a retained message.
    pub fn read(topic: String, meta: &[u8], body: &[u8], at: i64) -> Message {
        let mut message = Message { topic, at, ..Message::default() };
        let mut wrapped = None;
        let (mut content_type, mut response_topic, mut correlation) = (None, None, None);
        let mut props = Props::default();
        let mut user = Vec::new();
        for member in Json::trusted(meta).members() {
            let value = member.value;
            let text = || value.as_str();
            match &*member.name() {
                "client" => message.client = text().unwrap_or_default().into_owned(),
                "qos" => message.qos = value.as_i64().and_then(|n| u8::try_from(n).ok()).unwrap_or(0).min(2),
                "retain" => message.retain = value.as_bool() == Some(true),
                "expiry" => message.expiry = value.as_i64().and_then(|n| u32::try_from(n).ok()),
                "format" => props.format = value.as_i64().map(|n| u8::from(n != 0)),
                "wrapped" => wrapped = text(),
                "content_type" => content_type = text(),
                "response_topic" => response_topic = text(),
                "correlation" => correlation = text().and_then(|t| STANDARD.decode(&*t).ok()),
                "user" => {
                    for member in value.members() {
                        let name = member.name();
                        match member.value.as_str() {
                            Some(value) => user.push((name, value)),
                            None => {
                                let values = member.value.elements().filter_map(Json::as_str);
                                user.extend(values.map(|v| (name.clone(), v)));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        props.content_type = content_type.as_deref();
        props.response_topic = response_topic.as_deref();
        props.correlation = correlation.as_deref();
        props.user = user.iter().map(|(n, v)| (&**n, &**v)).collect();
        props.put_message(&mut message.props);
        message.payload = unwrap(wrapped.as_deref(), body);
        message
    }

    /// Bytes it takes in memory.
    pub fn size(&self) -> usize {
        std::mem::size_of::<Message>() + self.topic.len() + self.client.len() + self.props.len() + self.payload.len()
    }

    /// Seconds that are left at `now`; `Err` when its time is over.
    pub fn left(&self, now: i64) -> Result<Option<u32>, ()> {
        let Some(expiry) = self.expiry else { return Ok(None) };
        let waited = u32::try_from(now.saturating_sub(self.at).max(0) / 1000).unwrap_or(u32::MAX);
        match expiry.checked_sub(waited) {
            Some(0) | None => Err(()),
            left => Ok(left),
        }
    }
}

fn unwrap(how: Option<&str>, body: &[u8]) -> Vec<u8> {
    let member = |name| Json::trusted(body).member(name);
    let found = match how {
        Some("json") => member("payload").map(|v| v.raw().to_vec()),
        Some("text") => member("payload").and_then(Json::as_str).map(|t| t.into_owned().into_bytes()),
        Some("base64") => member("payload_base64").and_then(Json::as_str).and_then(|t| STANDARD.decode(&*t).ok()),
        _ => None,
    };
    found.unwrap_or_else(|| body.to_vec())
}

/// Meta and body, kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub meta: Bytes,
    pub body: Bytes,
    pub at: i64,
}

impl Kept {
    /// As one value for the store: time, length of meta, meta, body.
    pub fn to_value(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.meta.len() + self.body.len());
        out.extend_from_slice(&self.at.to_be_bytes());
        out.extend_from_slice(&(self.meta.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.meta);
        out.extend_from_slice(&self.body);
        out
    }

    pub fn from_value(value: Vec<u8>) -> Option<Kept> {
        let value = Bytes::from(value);
        let at = i64::from_be_bytes(*value.first_chunk()?);
        let len = u32::from_be_bytes(*value.get(8..)?.first_chunk()?) as usize;
        let rest = value.slice(12..);
        (len <= rest.len()).then(|| Kept { meta: rest.slice(..len), body: rest.slice(len..), at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_comes_out_as_it_went_in() {
        for (payload, body, how) in [
            (&b"21.5"[..], r#"{"payload":21.5}"#, "json"),
            (b"\"on\"", r#"{"payload":"on"}"#, "json"),
            (b"[1,2]", r#"{"payload":[1,2]}"#, "json"),
            (b" 1 ", r#"{"payload":" 1 "}"#, "text"),
            (b"on", r#"{"payload":"on"}"#, "text"),
            (b"", r#"{"payload":""}"#, "text"),
            (b"{\"a\":", r#"{"payload":"{\"a\":"}"#, "text"),
            (b"a\0\n", "{\"payload\":\"a\\u0000\\n\"}", "text"),
            (b"\xff\x00", r#"{"payload_base64":"/wA="}"#, "base64"),
        ] {
            let (got, how_got) = wrap(payload);
            assert_eq!((String::from_utf8(got.clone()).unwrap().as_str(), how_got), (body, how));
            json::check(&got).unwrap();
            assert_eq!(unwrap(Some(how_got), &got), payload);
        }
        assert_eq!(unwrap(None, b"{\"a\": 1}\n"), b"{\"a\": 1}\n");
    }

    #[test]
    fn meta_holds_all_that_a_message_had() {
        let props = Props {
            format: Some(1),
            expiry: Some(60),
            content_type: Some("text/plain"),
            response_topic: Some("r/\"1\""),
            correlation: Some(&[0, 255]),
            user: vec![("a", "1"), ("b", "2"), ("a", "3")],
            ..Props::default()
        };
        let about = About { topic: "é/\"x\"", client: "c\n", qos: 2, retain: true, props: Some(&props) };
        let mut meta = Vec::new();
        write_meta(&about, Some("text"), &mut meta);
        json::check(&meta).unwrap();
        let text = String::from_utf8(meta.clone()).unwrap();
        assert!(text.contains(r#""user":{"a":["1","3"],"b":"2"}"#), "{text}");
        let message = Message::read("é/\"x\"".into(), &meta, br#"{"payload":"on"}"#, 1000);
        assert_eq!(
            (message.client.as_str(), message.qos, message.retain, message.payload.as_slice()),
            ("c\n", 2, true, &b"on"[..])
        );
        assert_eq!((message.left(31_000), message.left(61_000)), (Ok(Some(30)), Err(())));
        let mut want = Vec::new();
        Props { user: vec![("a", "1"), ("a", "3"), ("b", "2")], ..props }.put_message(&mut want);
        assert_eq!(message.props, want);
        let kept = Kept { meta: meta.into(), body: Bytes::from_static(b"{}"), at: 7 };
        assert_eq!(Kept::from_value(kept.to_value()), Some(kept));
        assert_eq!(Kept::from_value(vec![0; 11]), None);
        assert_eq!(Kept::from_value(vec![255; 13]), None);
    }
}
