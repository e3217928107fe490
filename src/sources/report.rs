//! When a polled value is told: each time, when it has changed, when it has left a band, and at least every so often.

use crate::budget::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use std::hash::{DefaultHasher, Hash, Hasher};

/// When a polled value is told. Without fields: each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// `always`; `change`, when it differs from what was told last; `{ "band": 0.5 }`, when it differs from that by so much
    /// or more; `{ "percent": 2 }`, when it differs by so many percent of that or more.
    pub when: When,
    /// But it is told when it was not for this long.
    pub at_least: Option<Span>,
}

/// What a value must have done to be told. What is no number (a bool, a text, nothing) is told when it differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Nothing: it is told each time.
    #[default]
    Always,
    /// It differs from what was told last.
    Change,
    /// It differs by so much or more.
    Band(f64),
    /// It differs by so many percent or more of what was told last.
    Percent(f64),
}

/// A value that was polled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample<'a> {
    /// There is none: a float that is no number.
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(&'a str),
}

/// Decides for one value. It remembers what was told last in a fixed number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    policy: Policy,
    /// What was told last, and when.
    last: Option<(Seen, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A hash: two texts in 2⁶⁴ look the same.
    Text(u64),
}

impl Policy {
    /// What is wrong with it: the field, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match self.when {
            When::Band(by) | When::Percent(by) if !by.is_finite() || by <= 0.0 => {
                Err(("when", "expected a number above 0"))
            }
            _ => Ok(()),
        }
    }
}

impl Report {
    pub fn new(policy: Policy) -> Report {
        Report { policy, last: None }
    }

    /// Whether the value is to be told, at a time in milliseconds of a clock that never steps back. If so, it counts as
    /// told.
    pub fn tell(&mut self, sample: Sample<'_>, now_ms: u64) -> bool {
        let seen = sample.seen();
        let told = match &self.last {
            None => true,
            Some((last, at)) => {
                let since = now_ms.saturating_sub(*at);
                let late = self.policy.at_least.is_some_and(|span| u128::from(since) >= span.0.as_millis());
                late || self.policy.when.wants(last, &seen)
            }
        };
        if told {
            self.last = Some((seen, now_ms));
        }
        told
    }

    /// The value was told, whatever the policy says: by an edge, for instance.
    pub fn told(&mut self, sample: Sample<'_>, now_ms: u64) {
        self.last = Some((sample.seen(), now_ms));
    }

    /// What was told got lost: the next value is told.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

impl Sample<'_> {
    fn seen(self) -> Seen {
        match self {
            Sample::Null => Seen::Null,
            Sample::Bool(b) => Seen::Bool(b),
            Sample::Int(i) => Seen::Int(i),
            Sample::Float(f) if f.is_nan() => Seen::Null,
            Sample::Float(f) => Seen::Float(f),
            Sample::Text(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                Seen::Text(hasher.finish())
            }
        }
    }
}

impl When {
    fn wants(self, last: &Seen, seen: &Seen) -> bool {
        match (self, last.number(), seen.number()) {
            (When::Always, ..) => true,
            (When::Band(by), Some(last), Some(new)) => (new - last).abs() >= by,
            // Of 0, any change is more than every percentage.
            (When::Percent(by), Some(last), Some(new)) => new != last && (new - last).abs() >= last.abs() * by / 100.0,
            _ => last != seen,
        }
    }
}

impl Seen {
    fn number(self) -> Option<f64> {
        match self {
            Seen::Int(i) => Some(i as f64),
            Seen::Float(f) => Some(f),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sample::{Bool, Float, Int, Null, Text};

    #[test]
    fn a_value_is_told_as_its_policy_says() {
        let big = 1i128 << 60;
        for (policy, samples) in [
            ("{}", vec![(Int(1), true), (Int(1), true), (Null, true)]),
            (
                r#"{ "when": "change" }"#,
                vec![(Int(1), true), (Int(1), false), (Int(2), true), (Int(1), true), (Null, true), (Null, false)],
            ),
            (r#"{ "when": "change" }"#, vec![(Int(big), true), (Int(big + 1), true), (Int(big + 1), false)]),
            (r#"{ "when": "change" }"#, vec![(Bool(true), true), (Bool(true), false), (Bool(false), true)]),
            (r#"{ "when": "change" }"#, vec![(Text("a"), true), (Text("a"), false), (Text("b"), true)]),
            (r#"{ "when": "change" }"#, vec![(Float(f64::NAN), true), (Float(f64::NAN), false), (Float(0.0), true)]),
            // A slow drift is told when it has left the band around what was told, not around what was seen.
            (
                r#"{ "when": { "band": 0.5 } }"#,
                vec![
                    (Float(20.0), true),
                    (Float(20.3), false),
                    (Float(20.49), false),
                    (Float(20.5), true),
                    (Float(20.1), false),
                    (Float(19.9), true),
                    (Null, true),
                    (Int(19), true),
                ],
            ),
            (r#"{ "when": { "band": 2 } }"#, vec![(Bool(true), true), (Bool(false), true), (Bool(false), false)]),
            (
                r#"{ "when": { "percent": 10 } }"#,
                vec![
                    (Int(-100), true),
                    (Int(-109), false),
                    (Int(-91), false),
                    (Int(-110), true),
                    (Int(0), true),
                    (Int(0), false),
                    (Float(0.001), true),
                ],
            ),
            // A second passes between samples.
            (
                r#"{ "when": "change", "at_least": "3s" }"#,
                vec![(Int(1), true), (Int(1), false), (Int(1), false), (Int(1), true), (Int(2), true), (Int(2), false)],
            ),
        ] {
            let parsed: Policy = serde_json::from_str(policy).unwrap();
            parsed.check().unwrap();
            let mut report = Report::new(parsed);
            for (n, (sample, want)) in samples.into_iter().enumerate() {
                assert_eq!(report.tell(sample, n as u64 * 1000), want, "{policy}, sample {n}");
            }
            report.forget();
            assert!(report.tell(Int(1), 0));
            report.told(Int(2), 0);
            assert_eq!(report.tell(Int(2), 0), parsed.when == When::Always);
        }
    }

    #[test]
    fn a_wrong_policy_is_refused() {
        for (policy, want) in [
            (r#"{ "when": { "band": 0 } }"#, "above 0"),
            (r#"{ "when": { "percent": -1 } }"#, "above 0"),
            (r#"{ "when": "sometimes" }"#, "unknown variant `sometimes`"),
            (r#"{ "band": 1 }"#, "unknown field `band`"),
        ] {
            let told = match serde_json::from_str::<Policy>(policy) {
                Ok(parsed) => parsed.check().unwrap_err().1.to_owned(),
                Err(e) => e.to_string(),
            };
            assert!(told.contains(want), "{policy}: {told}");
        }
        assert!(size_of::<Report>() <= 128, "{}", size_of::<Report>());
    }
}
