//! Whole numbers stay whole as long as they fit; all others are doubles.

use crate::{event::json::Json, expr::Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::{borrow::Cow, cmp::Ordering};

/// A number of an event or a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i64),
    Double(f64),
}

use Number::{Double, Int};

impl Number {
    /// `None` if the value is no number.
    pub fn read(value: Json<'_>) -> Option<Number> {
        match Value::from_json(value) {
            Value::Int(n) => Some(Int(n)),
            Value::Double(n) => Some(Double(n)),
            _ => None,
        }
    }

    pub fn as_f64(self) -> f64 {
        match self {
            Int(n) => n as f64,
            Double(n) => n,
        }
    }

    pub fn add(self, other: Number) -> Number {
        self.join(other, i64::checked_add, |a, b| a + b)
    }

    pub fn multiply(self, other: Number) -> Number {
        self.join(other, i64::checked_mul, |a, b| a * b)
    }

    fn join(self, other: Number, ints: fn(i64, i64) -> Option<i64>, doubles: fn(f64, f64) -> f64) -> Number {
        let whole = match (self, other) {
            (Int(a), Int(b)) => ints(a, b).map(Int),
            _ => None,
        };
        whole.unwrap_or_else(|| Double(doubles(self.as_f64(), other.as_f64())))
    }

    pub fn order(self, other: Number) -> Ordering {
        match (self, other) {
            (Int(a), Int(b)) => a.cmp(&b),
            _ => self.as_f64().total_cmp(&other.as_f64()),
        }
    }

    /// Appends it as JSON, which has no word for what is not finite.
    pub fn write(self, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Double(n) if !n.is_finite() => return Err("the result is not a finite number".into()),
            Double(n) => Value::Double(n).write_json(out),
            Int(n) => Value::Int(n).write_json(out),
        }
        Ok(())
    }
}

/// A number as text, the same for the same value however it is written: `1`, `1.0` and `10e-1` are `1`. A whole number
/// keeps all of its digits.
pub(super) fn text(value: Json<'_>) -> String {
    let raw = String::from_utf8_lossy(value.raw());
    if raw.bytes().all(|c| c == b'-' || c.is_ascii_digit()) {
        return if raw == "-0" { "0".into() } else { raw.into_owned() };
    }
    match value.as_f64() {
        Some(n) if n.fract() == 0.0 => (n + 0.0).to_string(), // -0.0 becomes 0
        Some(n) => format!("{n:?}"),
        None => raw.into_owned(),
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(de)?;
        Ok(number.as_i64().map_or_else(|| Double(number.as_f64().unwrap_or(f64::MAX)), Int))
    }
}

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_have_one_text() {
        for (same, want) in [
            (&["1", "1.0", "1e0", "10e-1"][..], "1"),
            (&["0", "-0", "0.0", "-0.0", "0e9"], "0"),
            (&["10000000000000000000", "1e19"], "10000000000000000000"),
            (&["18446744073709551615"], "18446744073709551615"),
            (&["9007199254740993"], "9007199254740993"),
            (&["-2.50", "-25e-1"], "-2.5"),
            (&["1e-7"], "1e-7"),
            (&["1e999"], "1e999"),
        ] {
            for raw in same {
                assert_eq!(text(Json::trusted(raw.as_bytes())), want, "{raw}");
            }
        }
    }
}
