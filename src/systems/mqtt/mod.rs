//! MQTT as a client, 5 and 3.1.1: one connection to a broker, and what its packets mean as events.
//!
//! A connection is used until its first error and then made anew; what must be sent again is known to the store, so
//! nothing is kept here. Section numbers are those of the OASIS standard, version 5.0.

pub mod link;
pub mod payload;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

pub use link::{Dial, Link};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// Where a broker listens: `mqtt://host:1883`, or `mqtts://host:8883` for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl FromStr for Broker {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            // The text is not repeated: it holds a password.
            return Err("user and password do not belong into the url; set `username` and `password`".into());
        }
        let wrong = |why: &str| format!("`{text}`: {why}; write it like \"mqtt://host:1883\" or \"mqtts://host:8883\"");
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl", rest)) => (true, rest),
            Some(_) => return Err(wrong("expected `mqtt://` or `mqtts://`")),
            None => return Err(wrong("`mqtt://` is missing")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("nothing may follow the port"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| wrong("`]` is missing"))?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong("the host is missing"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or_else(|| wrong("the port is no port"))?,
            None if port.is_empty() => [1883, 8883][usize::from(tls)],
            None => return Err(wrong("the port is no port")),
        };
        Ok(Broker { tls, host: host.to_owned(), port })
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl<'de> Deserialize<'de> for Broker {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Broker {
    fn schema_name() -> Cow<'static, str> {
        "Broker".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(mqtts?|tcp|ssl)://", "examples": ["mqtts://broker.example.org:8883"] })
    }
}

/// The protocol that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Version {
    /// MQTT 5: refusals have reasons, and events carry their id in a user property.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1, for brokers that know no other.
    #[serde(rename = "3.1.1")]
    V3,
}

/// A message with a fixed text: at birth, at death, or as last will.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `{gateway}` stands for the gateway's id.
    pub topic: String,
    /// The text that is sent; may be empty.
    #[serde(default)]
    pub payload: String,
    /// 0, 1 or 2.
    #[serde(default = "Message::qos")]
    #[schemars(range(max = 2))]
    pub qos: u8,
    /// Whether the broker keeps it for those who subscribe later.
    #[serde(default)]
    pub retain: bool,
}

impl Message {
    fn qos() -> u8 {
        1
    }

    /// Puts the gateway's id in and says what is wrong: the field, and why.
    pub fn complete(mut self, gateway: &str) -> Result<Self, (&'static str, String)> {
        self.topic = self.topic.replace("{gateway}", gateway);
        check_topic(&self.topic).map_err(|why| ("topic", format!("`{}` {why}", self.topic)))?;
        if self.payload.len() > usize::from(u16::MAX) {
            return Err(("payload", "is longer than the 65,535 bytes of a will".into()));
        }
        check_qos(self.qos).map_err(|why| ("qos", why))?;
        Ok(self)
    }
}

/// For constructors.
pub fn check_qos(qos: u8) -> Result<(), String> {
    if qos > 2 { Err(format!("`{qos}` is no quality of service; expected 0, 1 or 2")) } else { Ok(()) }
}

/// Whether a message can be published there (4.7.3). The error continues a sentence that begins with the topic.
pub fn check_topic(topic: &str) -> Result<(), &'static str> {
    if topic.contains(['+', '#']) {
        return Err("has a wildcard, which only subscriptions may have");
    }
    check_name(topic)
}

/// Whether it can be subscribed to (4.7.1).
pub fn check_filter(filter: &str) -> Result<(), &'static str> {
    check_name(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        if level.len() > 1 && level.contains(['+', '#']) {
            return Err("has a wildcard that does not stand for a whole level");
        }
        if level == "#" && !last {
            return Err("has a `#` that is not its last level");
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name.len() {
        0 => Err("is empty"),
        1..=65_535 if name.chars().all(allowed) => Ok(()),
        1..=65_535 => Err("has a control character"),
        _ => Err("is longer than 65,535 bytes"),
    }
}

/// Brokers may close the connection for characters of 1.5.4, and mosquitto does: an event with one of them would come
/// back for ever.
pub fn allowed(c: char) -> bool {
    let code = u32::from(c);
    !(c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_read_and_written() {
        for (text, want) in [
            ("mqtt://barn", "mqtt://barn:1883"),
            ("mqtts://barn/", "mqtts://barn:8883"),
            ("tcp://10.0.0.1:1884", "mqtt://10.0.0.1:1884"),
            ("mqtts://[::1]:1884", "mqtts://[::1]:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("barn:1883", "`mqtt://` is missing"),
            ("http://barn", "expected `mqtt://` or `mqtts://`"),
            ("mqtt://", "the host is missing"),
            ("mqtt://:1883", "the host is missing"),
            ("mqtt://barn:", "the port is no port"),
            ("mqtt://barn:0", "the port is no port"),
            ("mqtt://barn:70000", "the port is no port"),
            ("mqtt://[::1", "`]` is missing"),
            ("mqtt://[::1]1883", "the port is no port"),
            ("mqtt://barn/a", "nothing may follow the port"),
            ("mqtt://a:canary@barn", "user and password do not belong"),
            ("amqp://a:canary@barn", "user and password do not belong"),
            ("a:canary@barn", "user and password do not belong"),
        ] {
            let got = text.parse::<Broker>().map_or_else(|e| e, |b| b.to_string());
            assert!(got.contains(want) && !got.contains("canary"), "{text}: {got}");
        }
    }

    #[test]
    fn names_are_checked_before_a_broker_closes_the_connection_for_them() {
        for (name, topic, filter) in [
            ("a/b", true, true),
            ("/a//b/", true, true),
            ("a/ü/💧", true, true),
            ("$SYS/a", true, true),
            ("", false, false),
            ("a/+/b", false, true),
            ("#", false, true),
            ("a/#", false, true),
            ("a/#/b", false, false),
            ("a/b+", false, false),
            ("a\0b", false, false),
            ("a\nb", false, false),
            ("a\u{85}b", false, false),
            ("a\u{ffff}b", false, false),
            (&"x".repeat(65_536), false, false),
        ] {
            assert_eq!((check_topic(name).is_ok(), check_filter(name).is_ok()), (topic, filter), "{name:.20}");
        }
    }
}
