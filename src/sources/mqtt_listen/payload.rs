//! Messages for subscribers, out of events: the exact bytes that came in go out.

use super::props::Props;
use crate::{
    event::{Event, json::Json},
    systems::mqtt::payload::Form,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// A message for subscribers: owned, since what waits for them must not pin the log's buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub client: String,
    pub qos: u8,
    pub retain: bool,
    /// Seconds to live, from `at` on.
    pub expiry: Option<u32>,
    /// When it was taken in, milliseconds of the steady clock.
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
        let mut message = Message::read(topic(event).into_owned(), &event.meta, &event.body.to_bytes(), 0);
        message.at = event.expires.saturating_sub(i64::from(message.expiry.unwrap_or(0)) * 1000);
        message
    }

    /// The same from the parts that are kept for a retained message.
    pub fn read(topic: String, meta: &[u8], body: &[u8], at: i64) -> Message {
        let mut message = Message { topic, at, ..Message::default() };
        let mut form = Form::Object;
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
                "wrapped" => form = text().map_or(Form::Object, |name| Form::named(&name)),
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
        if !form.unwrap(Json::trusted(body), &mut message.payload) {
            message.payload.extend_from_slice(body);
        }
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

/// Meta and body, kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub meta: Bytes,
    pub body: Bytes,
    /// When it was taken in, milliseconds of the steady clock.
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
    use crate::{
        event::json,
        systems::mqtt::payload::{About, wrap},
    };

    fn unwrap(meta: &str, body: &[u8]) -> Vec<u8> {
        Message::read(String::new(), meta.as_bytes(), body, 0).payload
    }

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
            let mut scratch = Vec::new();
            let (got, form) = wrap(payload, &mut scratch);
            assert_eq!((std::str::from_utf8(got).unwrap(), form), (body, Form::named(how)));
            json::check(got).unwrap();
            assert_eq!(unwrap(&format!(r#"{{"wrapped":"{how}"}}"#), got), payload);
        }
        assert_eq!(unwrap("", b"{\"a\": 1}\n"), b"{\"a\": 1}\n");
        for (how, body, want) in [
            ("text", r#"{"site":"barn","payload":"on"}"#, "on"),
            ("text", r#"{"payload":1}"#, r#"{"payload":1}"#),
            ("base64", r#"{"payload_base64":"*"}"#, r#"{"payload_base64":"*"}"#),
            ("json", r#"{"a":1}"#, r#"{"a":1}"#),
            ("else", r#"{"payload":1}"#, r#"{"payload":1}"#),
        ] {
            let got = unwrap(&format!(r#"{{"wrapped":"{how}"}}"#), body.as_bytes());
            assert_eq!(String::from_utf8_lossy(&got), want, "{how}");
        }
    }

    #[test]
    fn user_properties_go_on_in_their_order() {
        let props = Props { user: vec![("b", "1"), ("a", "2"), ("B", "3")], ..Props::default() };
        let (mut meta, mut want) = (Vec::new(), Vec::new());
        props.about().write(&mut meta);
        props.put_message(&mut want);
        assert_eq!(Message::read(String::new(), &meta, b"{}", 0).props, want);
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
        let about =
            About { topic: "é/\"x\"", client: Some("c\n"), qos: 2, retain: true, form: Form::Text, ..props.about() };
        let mut meta = Vec::new();
        about.write(&mut meta);
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
