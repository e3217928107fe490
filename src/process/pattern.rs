//! A regular expression as a configuration holds it.

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use std::borrow::Cow;

/// A regular expression; it matches anywhere in a text unless it begins with `^` or ends with `$`.
#[derive(Debug)]
pub(super) struct Pattern(pub Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = String::deserialize(de)?;
        Regex::new(&text).map(Pattern).map_err(|e| {
            let cause = e.to_string(); // several lines with a picture; the last says what is wrong
            let cause = cause.lines().last().unwrap_or_default().trim_start_matches("error: ");
            D::Error::custom(format!("`{text}` is not a regular expression: {cause}"))
        })
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "regex" })
    }
}
