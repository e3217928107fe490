//! Lets events pass at a rate.

use super::groups::{self, unreadable};
use crate::{
    event::{Event, Path},
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, num::NonZeroU32, str::FromStr, time::Duration};

pub const KIND: Kind<dyn Process> = Kind {
    name: "throttle",
    about: "lets events pass at a rate; others wait, or the pipeline ends for them",
    example: r#"{ "type": "throttle", "rate": "5/m", "burst": 3, "over": "drop", "by": ["device"] }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        groups::check(&config.by)?;
        if config.over == Over::Wait && !config.by.is_empty() {
            return Err(ParamsError::at("by", "one group would wait for another; it takes `\"over\": \"drop\"`"));
        }
        Ok(Box::new(config))
    },
};

/// Lets events pass at a rate. It is a bucket of `burst` tokens into which a token comes at the rate; an event takes one.
/// After a restart the bucket is as full as it would be without. Where the clock was set back, so that an event would wait
/// longer than a token takes, the bucket is full again.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Events per second, minute or hour: `"10/s"`, `"5/m"`, `"1/h"`; at most a million a second.
    rate: Rate,
    /// How many may pass at once after a pause. With 1, what is late once is not made up for.
    #[serde(default = "one")]
    burst: NonZeroU32,
    /// What happens to an event for which there is no token: `"wait"`, and all behind it, or `"drop"`: the pipeline ends
    /// for it; it counts as stopped.
    #[serde(default)]
    over: Over,
    /// A bucket for each group of events that are equal in these fields; only with `"drop"`.
    #[serde(default)]
    by: Vec<Path>,
    /// The most groups that are remembered. Beyond it the bucket that is nearest to full is forgotten.
    #[serde(default = "groups::max_groups")]
    max_groups: NonZeroU32,
}

fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Over {
    /// It waits, and all behind it.
    #[default]
    Wait,
    /// The pipeline ends for it.
    Drop,
}

/// Nanoseconds that a token takes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rate {
    period: i128,
    text: String,
}

const MAX_PER_SECOND: u64 = 1_000_000;
const MILLISECOND: i128 = 1_000_000;

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate; write it like \"10/s\", \"5/m\" or \"1/h\"");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: u64 = count.trim().parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        let seconds: u64 = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        if count > MAX_PER_SECOND * seconds {
            return Err(format!("`{text}` is more than a million a second"));
        }
        Ok(Rate { period: i128::from(seconds) * 1_000_000_000 / i128::from(count), text: text.to_owned() })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        String::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^ *[0-9]+ */ *(s|m|min|h) *$", "examples": ["10/s"] })
    }
}

/// When a bucket will be full, in nanoseconds since 1970: all that there is to remember of it.
fn read(key: &[u8], text: &[u8]) -> Result<i128, Fault> {
    let full = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    full.ok_or_else(|| unreadable(key, "expected a whole number"))
}

impl Config {
    /// Whether a bucket can be that far from full; else the clock was set back.
    fn is_possible(&self, full: i128, now: i128) -> bool {
        full.saturating_sub(now) <= self.rate.period * i128::from(self.burst.get())
    }

    /// Forgets the buckets that are full, or else the one that is nearest to it.
    fn make_room(&self, now: i128, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if cx.list().count() < self.max_groups.get() as usize {
            return Ok(());
        }
        let all: Result<Vec<_>, Fault> = cx.list().map(|(key, text)| Ok((read(key, text)?, key.to_vec()))).collect();
        let mut all = all?;
        all.sort_unstable();
        let past: Vec<_> = all.iter().filter(|(full, _)| *full <= now || !self.is_possible(*full, now)).collect();
        for (_, key) in if past.is_empty() { all.iter().take(1).collect() } else { past } {
            cx.delete(key);
        }
        Ok(())
    }
}

impl Process for Config {
    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let now = i128::from(cx.now) * MILLISECOND;
        let key = groups::key(&self.by, &event.body);
        let before = cx.get(&key).map(|text| read(&key, text)).transpose()?;
        // The clock counts milliseconds: at more than a token in each, those of the last one are still there.
        let grain = if self.rate.period < MILLISECOND { MILLISECOND } else { 0 };
        let full = match before.filter(|full| self.is_possible(*full, now)) {
            Some(full) => full.max(now - grain),
            None => now,
        };
        let wait = full - now - self.rate.period * i128::from(self.burst.get() - 1);
        if wait <= 0 {
            if before.is_none() {
                self.make_room(now, cx)?;
            }
            cx.put(&key, (full + self.rate.period).to_string())?;
            cx.emit(event);
        } else if self.over == Over::Wait {
            let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
            return Err(Fault::RetryAfter(wait, anyhow::anyhow!("the rate of {} is reached", self.rate.text)));
        }
        Ok(())
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn delays(&self) -> bool {
        self.over == Over::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Rig, check};
    use super::*;

    /// Feeds events at these milliseconds and gives what became of each: `+` passed, `-` dropped, or the wait.
    fn run(config: &str, times: &[i64]) -> String {
        let mut rig = Rig::new(&KIND, config).unwrap();
        let one = |now: &i64| {
            rig.now = *now;
            match rig.feed("{}").as_str() {
                "{}" => "+".to_owned(),
                "" => "-".to_owned(),
                other => other.replace("wait: ", ""),
            }
        };
        times.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn events_pass_at_the_rate() {
        for (config, times, want) in [
            (r#"{ "rate": "10/s" }"#, &[0, 0, 50, 99, 100, 100, 5000, 5000][..], "+ 100ms 50ms 1ms + 100ms + 100ms"),
            (
                r#"{ "rate": "10/s", "burst": 3 }"#,
                &[0, 0, 0, 0, 100, 100, 9000, 9000, 9000, 9000],
                "+ + + 100ms + 100ms + + + 100ms",
            ),
            (r#"{ "rate": "1/h" }"#, &[0, 1], "+ 3599.999s"),
            (r#"{ "rate": "2/m", "over": "drop" }"#, &[0, 1, 29_999, 30_000, 30_001], "+ - - + -"),
            // The clock goes back.
            (r#"{ "rate": "1/m" }"#, &[100_000, 99_999, 1, 1, 60_001], "+ + + 60s +"),
            (r#"{ "rate": "1/m", "burst": 2 }"#, &[100_000, 50_000, 10_000, 10_000, 10_000], "+ 50s + + 60s"),
            // More than one a millisecond.
            (r#"{ "rate": "3000/s" }"#, &[5, 5, 6, 6, 6, 6], "+ 333.333µs + + + 333.332µs"),
        ] {
            assert_eq!(run(config, times), want, "{config} {times:?}");
        }
    }

    #[test]
    fn the_rate_is_kept_for_long() {
        for (rate, want) in [("7/s", 70), ("300/m", 50), ("250/s", 2500), ("1500/s", 15_000), ("10000/s", 100_000)] {
            let mut rig = Rig::new(&KIND, &format!(r#"{{ "rate": "{rate}", "over": "drop" }}"#)).unwrap();
            let mut passed = 0;
            for now in 0..10_000 {
                rig.now = now;
                while rig.feed("{}") == "{}" {
                    passed += 1;
                }
            }
            assert!((want - want / 100 - 1..=want + 11).contains(&passed), "{rate}: {passed}");
        }
    }

    #[test]
    fn groups_have_their_own_buckets_and_are_bounded() {
        let config = r#"{ "rate": "1/s", "over": "drop", "by": ["d"], "max_groups": 3 }"#;
        let mut rig = Rig::new(&KIND, config).unwrap();
        let mut feed = |now: i64, d: u32| {
            rig.now = now;
            let passed = !rig.feed(&format!(r#"{{"d":{d}}}"#)).is_empty();
            (passed, rig.keys().join(" "))
        };
        assert_eq!(feed(0, 1), (true, r#"["1"]"#.into()));
        assert!(!feed(0, 1).0);
        assert_eq!(feed(500, 2), (true, r#"["1"] ["2"]"#.into()));
        assert_eq!(feed(600, 3).1, r#"["1"] ["2"] ["3"]"#);
        assert_eq!(feed(700, 4).1, r#"["2"] ["3"] ["4"]"#); // 1 is nearest to full
        assert!(!feed(700, 3).0);
        assert_eq!(feed(1650, 5).1, r#"["4"] ["5"]"#); // 2 and 3 are full
    }

    #[test]
    fn a_state_that_is_no_number_is_told() {
        let mut rig = Rig::new(&KIND, r#"{ "rate": "1/s" }"#).unwrap();
        rig.remember(b"[]", "soon");
        assert_eq!(rig.feed("{}"), "rejected: the state for `[]`: expected a whole number");
        for extreme in [i128::MAX, i128::MIN] {
            rig.remember(b"[]", &extreme.to_string());
            assert_eq!(rig.feed("{}"), "{}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let rate = |rate: &str| format!(r#"{{ "rate": "{rate}" }}"#);
        let no_rate =
            |rate: &str| format!("wrong: rate: `{rate}` is not a rate; write it like \"10/s\", \"5/m\" or \"1/h\"");
        for wrong in ["10", "0/s", "-1/s", "1.5/s", "1/d", "/s", "99999999999999999999/s"] {
            check(&KIND, &[(&rate(wrong), "", &no_rate(wrong))]);
        }
        check(
            &KIND,
            &[
                (&rate("1000001/s"), "", "wrong: rate: `1000001/s` is more than a million a second"),
                (
                    r#"{ "rate": "1/s", "by": ["d"] }"#,
                    "",
                    "wrong: by: one group would wait for another; it takes `\"over\": \"drop\"`",
                ),
                (
                    r#"{ "rate": "1/s", "burst": 0 }"#,
                    "",
                    "wrong: burst: invalid value: integer `0`, expected a nonzero u32",
                ),
            ],
        );
    }
}
