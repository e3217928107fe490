//! A payload as an event's body and back, and what else a packet says as meta.
//!
//! A JSON object is the body as it is. Everything else is kept whole under one field: another JSON value or UTF-8 text
//! as `{"payload": …}`, other bytes as `{"payload_base64": "…"}`. Meta says which it was.

use crate::event::{
    Body,
    json::{self, Json, Kind, write_string},
    parent,
};
use base64::{Engine, engine::general_purpose::STANDARD};

/// How a payload became a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// It was a JSON object.
    #[default]
    Object,
    /// It was another JSON value.
    Json,
    /// It was UTF-8, but not JSON.
    Text,
    /// It was neither.
    Base64,
}

impl Form {
    /// As meta names it under `wrapped`, unless it was an object.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Form::Object => None,
            Form::Json => Some("json"),
            Form::Text => Some("text"),
            Form::Base64 => Some("base64"),
        }
    }

    /// What `wrapped` says; an object, if it is none of these words.
    pub fn named(name: &str) -> Self {
        match name {
            "json" => Form::Json,
            "text" => Form::Text,
            "base64" => Form::Base64,
            _ => Form::Object,
        }
    }

    /// The field that holds the payload.
    fn field(self) -> &'static str {
        if self == Form::Base64 { "payload_base64" } else { "payload" }
    }

    /// Writes the payload that lies in `body`, whatever else is in it; `false` if there is none of this form.
    pub fn unwrap(self, body: Json<'_>, out: &mut Vec<u8>) -> bool {
        self != Form::Object && body.member(self.field()).is_some_and(|value| self.put_back(value, out))
    }

    fn put_back(self, value: Json<'_>, out: &mut Vec<u8>) -> bool {
        if self == Form::Json {
            out.extend_from_slice(value.raw());
            return true;
        }
        match (self, value.as_str()) {
            (Form::Text, Some(text)) => out.extend_from_slice(text.as_bytes()),
            (Form::Base64, Some(text)) => match STANDARD.decode(text.as_bytes()) {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }
}

/// The body of a payload, in `scratch` where it had to be wrapped. A number is JSON, so `21.5` becomes
/// `{"payload":21.5}`.
pub fn wrap<'a>(payload: &'a [u8], scratch: &'a mut Vec<u8>) -> (&'a [u8], Form) {
    let kind = json::check(payload);
    if kind == Ok(Kind::Object) {
        return (payload, Form::Object);
    }
    scratch.clear();
    scratch.reserve(payload.len() + payload.len() / 3 + 24);
    let form = match (kind, std::str::from_utf8(payload)) {
        // White space around the value would be lost, and a list as deep as a body may be is too deep in one.
        (Ok(kind), _) if payload.trim_ascii().len() == payload.len() && (kind != Kind::Array || fits(payload)) => {
            scratch.extend_from_slice(b"{\"payload\":");
            scratch.extend_from_slice(payload);
            Form::Json
        }
        (_, Ok(text)) => {
            scratch.extend_from_slice(b"{\"payload\":");
            write_string(text, scratch);
            Form::Text
        }
        _ => {
            scratch.extend_from_slice(b"{\"payload_base64\":");
            write_string(&STANDARD.encode(payload), scratch);
            Form::Base64
        }
    };
    scratch.push(b'}');
    (scratch, form)
}

/// Whether a list may stand in a body: as deep as it is, one level below the top.
fn fits(list: &[u8]) -> bool {
    json::check(&[b"[", list, b"]"].concat()).is_ok()
}

/// Writes the payload that was wrapped, if it was and the body holds nothing else by now.
pub fn unwrap(body: &Body, meta: &[u8], out: &mut Vec<u8>) -> bool {
    let form = Json::trusted(meta).member("wrapped").and_then(Json::as_str).map_or(Form::Object, |f| Form::named(&f));
    if form == Form::Object {
        return false;
    }
    let mut fields = body.fields();
    let (Some((name, value)), None) = (fields.next(), fields.next()) else { return false };
    name == form.field() && form.put_back(value, out)
}

/// What a PUBLISH says besides its payload (3.3.2.3).
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a, S = &'a str> {
    pub topic: &'a str,
    /// The client that sent it, where that is known.
    pub client: Option<&'a str>,
    pub qos: u8,
    pub retain: bool,
    pub form: Form,
    pub content_type: Option<&'a str>,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a [u8]>,
    /// 1: the sender says that the payload is text.
    pub format: Option<u8>,
    /// Seconds that the message is of use.
    pub expiry: Option<u32>,
    pub user: &'a [(S, S)],
    /// The names of user properties stay in the order they came in, which a server has to pass on (MQTT-3.3.2-18), and
    /// are not sorted.
    pub in_order: bool,
}

impl<S: AsRef<str>> About<'_, S> {
    /// Writes the meta of the event:
    /// `{"topic":…,"client":…,"qos":1,"retain":true,"wrapped":"json|text|base64","content_type":…,"response_topic":…,
    /// "correlation":base64,"format":1,"expiry":…,"user":{…},"traceparent":…}`, without what is absent or false. Who reads many metas may rely on the topic to come first.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"topic\":");
        write_string(self.topic, out);
        put_text("client", self.client, out);
        out.extend_from_slice(b",\"qos\":");
        out.push(b'0' + self.qos);
        if self.retain {
            out.extend_from_slice(b",\"retain\":true");
        }
        put_text("wrapped", self.form.name(), out);
        put_text("content_type", self.content_type, out);
        put_text("response_topic", self.response_topic, out);
        put_text("correlation", self.correlation.map(|c| STANDARD.encode(c)).as_deref(), out);
        for (name, n) in [("format", self.format.map(u32::from)), ("expiry", self.expiry)] {
            if let Some(n) = n {
                out.extend_from_slice(format!(",\"{name}\":{n}").as_bytes());
            }
        }
        put_user(self.user, self.in_order, out);
        out.push(b'}');
        let named = self.user.iter().find(|(name, _)| name.as_ref() == "traceparent");
        parent::put(named.map(|(_, value)| value.as_ref()), out);
    }
}

fn put_text(name: &str, value: Option<&str>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.push(b',');
        write_string(name, out);
        out.push(b':');
        write_string(value, out);
    }
}

/// User properties as one object; a name that comes repeatedly has a list, which in order stands where it came first.
fn put_user<S: AsRef<str>>(user: &[(S, S)], in_order: bool, out: &mut Vec<u8>) {
    if user.is_empty() {
        return;
    }
    // Sorted even for the order they had, since a packet may hold very many.
    let mut all: Vec<_> = user.iter().enumerate().map(|(at, (n, v))| (at, n.as_ref(), v.as_ref())).collect();
    all.sort_unstable_by_key(|&(at, name, _)| (name, at));
    if in_order {
        for i in 1..all.len() {
            if all[i].1 == all[i - 1].1 {
                all[i].0 = all[i - 1].0;
            }
        }
        all.sort_by_key(|&(first, ..)| first);
    }
    out.extend_from_slice(b",\"user\":");
    let mut mark = b'{';
    for same in all.chunk_by(|a, b| a.1 == b.1) {
        out.push(std::mem::replace(&mut mark, b','));
        write_string(same[0].1, out);
        out.push(b':');
        if let [(_, _, value)] = same {
            write_string(value, out);
            continue;
        }
        for (i, (_, _, value)) in same.iter().enumerate() {
            out.push(if i == 0 { b'[' } else { b',' });
            write_string(value, out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_kept_whole_and_comes_back() {
        let deep = "[".repeat(70) + &"]".repeat(70);
        let edge = "[".repeat(64) + &"]".repeat(64);
        for (payload, want, form) in [
            (&br#"{"t":1}"#[..], r#"{"t":1}"#, Form::Object),
            (b" {} ", " {} ", Form::Object),
            (b"21.5", r#"{"payload":21.5}"#, Form::Json),
            (b" 1 ", r#"{"payload":" 1 "}"#, Form::Text),
            (b"[1, 2]", r#"{"payload":[1, 2]}"#, Form::Json),
            (b"\"on\"", r#"{"payload":"on"}"#, Form::Json),
            (b"ON", r#"{"payload":"ON"}"#, Form::Text),
            (b"", r#"{"payload":""}"#, Form::Text),
            (b"a\"\n\0", r#"{"payload":"a\"\n\u0000"}"#, Form::Text),
            (b"{broken", r#"{"payload":"{broken"}"#, Form::Text),
            (b"\xff\x00", r#"{"payload_base64":"/wA="}"#, Form::Base64),
            (deep.as_bytes(), &format!("{{\"payload\":\"{deep}\"}}"), Form::Text),
            (edge.as_bytes(), &format!("{{\"payload\":\"{edge}\"}}"), Form::Text),
        ] {
            let mut scratch = Vec::new();
            let (body, got) = wrap(payload, &mut scratch);
            assert_eq!((String::from_utf8_lossy(body).as_ref(), got), (want, form));
            let body = Body::parse(body.to_vec().into()).unwrap();
            let about: About<'_> = About { form, ..About::default() };
            let (mut meta, mut back) = (Vec::new(), Vec::new());
            about.write(&mut meta);
            assert_eq!(unwrap(&body, &meta, &mut back), form != Form::Object);
            assert!(form == Form::Object || back == payload, "{back:?}");
        }
    }

    #[test]
    fn what_was_changed_since_is_not_unwrapped() {
        for (body, meta) in [
            (r#"{"payload":1,"site":"barn"}"#, r#"{"wrapped":"json"}"#),
            (r#"{"payload":1}"#, r#"{"wrapped":"text"}"#),
            (r#"{"payload":1}"#, r#"{"wrapped":1}"#),
            (r#"{"payload":1}"#, ""),
            (r#"{}"#, r#"{"wrapped":"json"}"#),
            (r#"{"payload_base64":"*"}"#, r#"{"wrapped":"base64"}"#),
        ] {
            let body = Body::parse(body.to_owned().into()).unwrap();
            assert!(!unwrap(&body, meta.as_bytes(), &mut Vec::new()), "{meta}");
        }
    }

    #[test]
    fn user_properties_are_sorted_or_in_order() {
        for (user, sorted, in_order) in [
            (&[("b", "1")][..], r#"{"b":"1"}"#, r#"{"b":"1"}"#),
            (&[("b", "1"), ("a", "2")], r#"{"a":"2","b":"1"}"#, r#"{"b":"1","a":"2"}"#),
            (
                &[("c", "2"), ("b", "9"), ("c", "1"), ("a", ""), ("b", "8"), ("c", "2")],
                r#"{"a":"","b":["9","8"],"c":["2","1","2"]}"#,
                r#"{"c":["2","1","2"],"b":["9","8"],"a":""}"#,
            ),
        ] {
            for (order, want) in [(false, sorted), (true, in_order)] {
                let mut meta = Vec::new();
                About { user, in_order: order, ..About::default() }.write(&mut meta);
                let want = format!(r#"{{"topic":"","qos":0,"user":{want}}}"#);
                assert_eq!(String::from_utf8_lossy(&meta), want);
            }
        }
    }

    #[test]
    fn a_traceparent_among_the_user_properties_stands_where_it_is_found() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (value, want) in [(text, Some(text)), ("nonsense", None)] {
            let (user, mut meta) = ([("a", "1"), ("traceparent", value)], Vec::new());
            About { topic: "t", user: &user, ..About::default() }.write(&mut meta);
            assert_eq!((parent::of(&meta), json::check(&meta)), (want, Ok(Kind::Object)));
        }
    }

    #[test]
    fn meta_says_what_the_packet_said() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let user = [pair("b", "1"), pair("a", "\""), pair("b", "2")];
        let plain = About { topic: "a/b", qos: 1, ..About::default() };
        let about = About {
            client: Some("c"),
            retain: true,
            form: Form::Text,
            user: &user,
            content_type: Some("text/plain"),
            response_topic: Some("r"),
            correlation: Some(b"\xff"),
            format: Some(1),
            expiry: Some(60),
            ..plain
        };
        for (about, want) in [
            (plain, r#"{"topic":"a/b","qos":1}"#),
            (
                about,
                concat!(
                    r#"{"topic":"a/b","client":"c","qos":1,"retain":true,"wrapped":"text","content_type":"text/plain","#,
                    r#""response_topic":"r","correlation":"/w==","format":1,"expiry":60,"user":{"a":"\"","b":["1","2"]}}"#
                ),
            ),
        ] {
            let mut meta = Vec::new();
            about.write(&mut meta);
            assert_eq!(String::from_utf8_lossy(&meta), want);
            assert_eq!(json::check(&meta), Ok(Kind::Object));
        }
    }
}
