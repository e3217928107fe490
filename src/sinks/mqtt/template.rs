//! The topic of an event: `sites/{gateway}/{topic}/{event.room}`.

use crate::{
    event::{Event, Path, body::Json},
    systems::mqtt::check_topic,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, str::FromStr};

/// A topic with places for what the event says.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Gateway,
    Topic,
    Key,
    Meta(Path),
    Body(Path),
}

impl FromStr for Template {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, tail) = rest.split_at(at);
            let (name, after) = tail
                .strip_prefix('{')
                .and_then(|t| t.split_once('}'))
                .filter(|(name, _)| !name.contains('{'))
                .ok_or_else(|| format!("`{text}`: braces do not match at character {}", text.len() - tail.len() + 1))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::named(name).map_err(|why| format!("`{text}`: {why}"))?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let fixed: String = parts.iter().map(|p| if let Part::Text(t) = p { t } else { "x" }).collect();
        check_topic(&fixed).map_err(|why| format!("`{text}` {why}"))?;
        Ok(Template { text: text.to_owned(), parts })
    }
}

impl Part {
    fn named(name: &str) -> Result<Part, String> {
        let path = |text: &str| text.parse::<Path>().map_err(|e| e.to_string());
        match name.split_once('.') {
            None if name == "gateway" => Ok(Part::Gateway),
            None if name == "topic" => Ok(Part::Topic),
            None if name == "key" => Ok(Part::Key),
            Some(("meta", rest)) => path(rest).map(Part::Meta),
            Some(("event", rest)) => path(rest).map(Part::Body),
            _ => Err(format!(
                "unknown place `{{{name}}}`, expected `{{gateway}}`, `{{topic}}`, `{{key}}`, `{{meta.NAME}}` or `{{event.PATH}}`"
            )),
        }
    }
}

impl Template {
    /// `{key}`.
    pub fn key() -> Self {
        Template { text: "{key}".into(), parts: vec![Part::Key] }
    }

    /// Puts in what is the same for all events.
    pub fn of_gateway(mut self, gateway: &str) -> Self {
        for part in &mut self.parts {
            if matches!(part, Part::Gateway) {
                *part = Part::Text(gateway.to_owned());
            }
        }
        self
    }

    /// The topic of an event, in `out`. The error says why the event has none.
    pub fn write(&self, event: &Event, out: &mut String) -> Result<(), String> {
        out.clear();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Gateway => {}
                Part::Topic => out.push_str(&event.topic),
                Part::Key => match event.key.as_str() {
                    "" => out.push_str(&event.topic),
                    key => out.push_str(key),
                },
                Part::Meta(path) => put_value("meta", path, Json::trusted(&event.meta).find(path), out)?,
                Part::Body(path) => put_value("event", path, event.body.get(path), out)?,
            }
        }
        check_topic(out).map_err(|why| format!("the topic `{out:.100}` {why}"))
    }
}

fn put_value(of: &str, path: &Path, value: Option<Json<'_>>, out: &mut String) -> Result<(), String> {
    let before = out.len();
    match value {
        Some(value) => match value.as_str() {
            Some(text) => out.push_str(&text),
            None if value.as_bool().is_some() || value.as_f64().is_some() => {
                out.push_str(&String::from_utf8_lossy(value.raw()));
            }
            None => return Err(format!("the topic needs `{of}.{path}`, which is {}", value.kind())),
        },
        None => return Err(format!("the topic needs `{of}.{path}`, which the event does not have")),
    }
    if out.len() == before {
        return Err(format!("the topic needs `{of}.{path}`, which is empty"));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.text)
    }
}

impl JsonSchema for Template {
    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": ["sites/{gateway}/{topic}"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Body;

    fn event(key: &str, meta: &str, body: &str) -> Event {
        let body = Body::parse(body.to_owned().into()).unwrap();
        let meta = meta.to_owned().into();
        Event { lane: 1, key: key.into(), meta, ..Event::made("1".into(), "hook".into(), 0, body) }
    }

    #[test]
    fn a_topic_is_made_of_what_the_event_says() {
        let meta = r#"{"topic":"a/b","user":{"unit":"C"}}"#;
        let body =
            r#"{"room":"barn","n":7,"on":true,"deep":{"x":"y"},"none":null,"empty":"","bad":"a+b","nul":"a\u0000b"}"#;
        for (template, want) in [
            ("{key}", "dev/1"),
            ("sites/{gateway}/{topic}", "sites/g-1/hook"),
            ("/{event.room}/{event.n}/{event.on}/{event.deep.x}", "/barn/7/true/y"),
            ("{meta.topic}/{meta.user.unit}", "a/b/C"),
            ("fixed", "fixed"),
            ("{event.deep}", "the topic needs `event.deep`, which is an object"),
            ("{event.none}", "the topic needs `event.none`, which is null"),
            ("{event.no}", "the topic needs `event.no`, which the event does not have"),
            ("{meta.no}", "the topic needs `meta.no`, which the event does not have"),
            ("a/{event.empty}/b", "the topic needs `event.empty`, which is empty"),
            ("{event.bad}", "the topic `a+b` has a wildcard, which only subscriptions may have"),
            ("{event.nul}", "the topic `a\0b` has a control character"),
        ] {
            let template = template.parse::<Template>().unwrap().of_gateway("g-1");
            let mut out = "before".to_owned();
            let got = template.write(&event("dev/1", meta, body), &mut out);
            assert_eq!(got.map_or_else(|e| e, |()| out), want);
        }
        let mut out = String::new();
        "a/{key}".parse::<Template>().unwrap().write(&event("", "", "{}"), &mut out).unwrap();
        assert_eq!(out, "a/hook", "an event without key");
    }

    #[test]
    fn a_wrong_template_is_refused() {
        for (text, want) in [
            ("", "is empty"),
            ("a/{key", "`a/{key`: braces do not match at character 3"),
            ("a}", "braces do not match at character 2"),
            ("{a{b}}", "braces do not match"),
            ("{keys}", "unknown place `{keys}`, expected"),
            ("{event.}", "empty part"),
            ("a/#", "has a wildcard"),
        ] {
            let error = text.parse::<Template>().map(|t| t.text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
