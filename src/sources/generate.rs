//! Simulated sensors, for demonstrations and tests.

use crate::{
    budget::Span,
    clock,
    event::{Batch, Draft, json::write_string},
    fault::Fault,
    kind::{Intake, Kind, ParamsError, Source},
    store::Put,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, io::Write, time::Duration};

/// Batches are at least this far apart, so that a fast generator does not flush the disk for every event.
const TICK_MS: u64 = 10;
/// Events of one batch, and bytes of one batch: what one commit takes well.
const BATCH: u64 = 1024;
const BATCH_BYTES: usize = 256 << 10;
/// What was not made in time (the disk was slow, the machine slept) is made up for, but no more than this.
const LATE_MS: u64 = 1000;

pub const KIND: Kind<dyn Source> = Kind {
    name: "generate",
    about: "simulated sensors, at a rate, the same events for the same seed",
    example: r#"{ "type": "generate", "rate": 10.0, "devices": 3, "count": 1000, "seed": 7, "fields": {
    "device": { "device": {} },
    "n": { "counter": {} },
    "temperature": { "wave": { "min": 12.0, "max": 28.0, "period": "10m" } },
    "humidity": { "walk": { "start": 45.0, "step": 0.5, "min": 20.0, "max": 90.0 } },
    "light": { "uniform": { "min": 0.0, "max": 1000.0 } },
    "door": { "choice": ["open", "closed"] },
    "site": { "const": "barn" } } }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        config.check()?;
        Ok(Box::new(config))
    },
};

/// Makes events as sensors would send them. Which event comes when in the sequence depends on the seed alone; after a
/// restart the sequence goes on where it was committed, so `count` is exact.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Events per second, of all devices together; 0: as fast as the store takes them.
    #[serde(default = "one")]
    rate: f64,
    /// Events in all, restarts included, after which the source ends; 0: it never ends.
    #[serde(default)]
    count: u64,
    /// Another seed gives other values.
    #[serde(default)]
    seed: u64,
    /// Number of simulated devices, `device-1` and so on; they take turns. The name is also the event's key.
    #[serde(default = "three")]
    devices: u64,
    /// The body, by names of its fields. Without: `device`, `temperature` and `humidity`.
    #[serde(default = "usual")]
    fields: BTreeMap<String, Field>,
}

/// How the values of a field come about.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Field {
    /// A sine wave between two values; each device is at another place of it. Times count at the rate of the source,
    /// as fast as possible a thousand events a second.
    Wave { min: f64, max: f64, period: Span },
    /// Drifts from `start` up and down between two values, by at most `step` a reading.
    Walk { start: f64, step: f64, min: f64, max: f64 },
    /// Any value between two, all alike likely.
    Uniform { min: f64, max: f64 },
    /// One of these values, all alike likely.
    Choice(Vec<Value>),
    /// This value.
    Const(Value),
    /// The number of the event, from 0.
    Counter {},
    /// The name of the device.
    Device {},
}

fn one() -> f64 {
    1.0
}

fn three() -> u64 {
    3
}

fn usual() -> BTreeMap<String, Field> {
    let minutes = |n: u64| Span::millis(n * 60_000);
    BTreeMap::from([
        ("device".into(), Field::Device {}),
        ("temperature".into(), Field::Wave { min: 12.0, max: 28.0, period: minutes(10) }),
        ("humidity".into(), Field::Walk { start: 45.0, step: 0.5, min: 20.0, max: 90.0 }),
    ])
}

impl Config {
    fn check(&self) -> Result<(), ParamsError> {
        if !self.rate.is_finite() || !(0.0..=1e6).contains(&self.rate) {
            return Err(ParamsError::at("rate", "expected events per second, 0 to 1000000"));
        }
        if !(1..=1_000_000).contains(&self.devices) {
            return Err(ParamsError::at("devices", "expected 1 to 1000000"));
        }
        for (name, field) in &self.fields {
            let wrong = match field {
                Field::Wave { min, max, .. } | Field::Uniform { min, max } if min >= max => {
                    "expected `min` below `max`"
                }
                Field::Wave { period: Span(Duration::ZERO), .. } => "expected a `period` above 0",
                Field::Walk { start, min, max, .. } if min >= max || !(min..=max).contains(&start) => {
                    "expected `min` below `max` and `start` between them"
                }
                Field::Walk { step, .. } if *step <= 0.0 => "expected a `step` above 0",
                Field::Choice(values) if values.is_empty() => "expected values to choose from",
                _ => continue,
            };
            return Err(ParamsError::at(format!("fields.{name}"), wrong));
        }
        Ok(())
    }

    /// Writes the body of event `n`.
    fn write(&self, n: u64, out: &mut Vec<u8>) {
        let (device, reading) = (n % self.devices, n / self.devices);
        out.clear();
        out.push(b'{');
        for (place, (name, field)) in self.fields.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_string(name, out);
            out.push(b':');
            let seed = mix(self.seed, place as u64);
            match field {
                Field::Wave { min, max, period } => {
                    let seconds = n as f64 / if self.rate > 0.0 { self.rate } else { 1000.0 };
                    let turns = seconds / period.0.as_secs_f64() + unit(mix(seed, device));
                    number(min + (max - min) * (0.5 + 0.5 * (turns * std::f64::consts::TAU).sin()), max - min, out);
                }
                Field::Walk { start, step, min, max } => {
                    let value = walk(mix(seed, device), reading, *start, *step, (*min, *max));
                    number(value, max - min, out);
                }
                Field::Uniform { min, max } => number(min + (max - min) * unit(mix(seed, n)), max - min, out),
                Field::Choice(values) => json(values.get(mix(seed, n) as usize % values.len().max(1)), out),
                Field::Const(value) => json(Some(value), out),
                Field::Counter {} => out.extend_from_slice(n.to_string().as_bytes()),
                Field::Device {} => write_string(&device_name(device), out),
            }
        }
        out.push(b'}');
    }

    /// The events from `from` up to, not including, `to`, or as many as one commit takes.
    fn batch(&self, from: u64, to: u64, intake: &Intake) -> Result<Batch, Fault> {
        let (mut batch, mut body) = (Batch::default(), Vec::new());
        for n in from..to.min(from.saturating_add(BATCH)) {
            if batch.bytes() > BATCH_BYTES.min(intake.max_event().max(64 << 10)) {
                break;
            }
            self.write(n, &mut body);
            let key = device_name(n % self.devices);
            intake.push(&mut batch, &Draft { key: &key, body: &body, ..Draft::default() }).map_err(Fault::fatal)?;
        }
        Ok(batch)
    }
}

fn device_name(device: u64) -> String {
    format!("device-{}", device + 1)
}

/// One number out of two, as good as random (the finalizer of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number from 0 up to, not including, 1.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Goes straight from one random value to the next, so slowly that no reading differs by more than `step`: unlike a sum
/// of random steps it is known for any reading without those before it.
fn walk(seed: u64, reading: u64, start: f64, step: f64, (min, max): (f64, f64)) -> f64 {
    let leg = ((max - min) / step).ceil().clamp(1.0, 1e9) as u64;
    let (corner, along) = (reading / leg, (reading % leg) as f64 / leg as f64);
    let value = |corner| if corner == 0 { start } else { min + (max - min) * unit(mix(seed, corner)) };
    value(corner) + (value(corner + 1) - value(corner)) * along
}

/// Writes a value with as many decimals as give ten thousand steps or more over the range.
fn number(value: f64, range: f64, out: &mut Vec<u8>) {
    let decimals = (4.0 - range.log10().floor()).clamp(0.0, 15.0) as usize;
    write!(out, "{value:.decimals$}").ok(); // a `Vec` takes everything
}

fn json(value: Option<&Value>, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value.unwrap_or(&Value::Null)).ok();
}

#[async_trait]
impl Source for Config {
    async fn run(&mut self, intake: &Intake) -> Result<(), Fault> {
        let owner = super::owner(intake.topic());
        let made = intake.store().state(&owner, b"made", 1).await.map_err(super::refused)?;
        let made = made.first().and_then(|(_, n)| std::str::from_utf8(n).ok()?.parse().ok());
        let mut n: u64 = made.unwrap_or(0);
        let end = if self.count > 0 { self.count } else { u64::MAX };
        // When event `first` was due.
        let (mut first, mut since) = (n, clock::mono_ms());
        while n < end {
            let due = match clock::mono_ms().saturating_sub(since) {
                _ if self.rate == 0.0 => end,
                late if ((n - first) as f64 / self.rate) * 1e3 + (LATE_MS as f64) < late as f64 => {
                    (first, since) = (n, clock::mono_ms() - LATE_MS);
                    continue;
                }
                elapsed => first.saturating_add((elapsed as f64 / 1e3 * self.rate) as u64 + 1).min(end),
            };
            if due > n {
                let batch = self.batch(n, due, intake)?;
                n += batch.len() as u64;
                let value = Some(n.to_string().into_bytes());
                let state = vec![Put { owner: owner.clone(), key: b"made".to_vec(), value }];
                intake.append_with(batch, state).await.map_err(super::refused)?;
            }
            if due <= n && n < end {
                let next_ms = ((n - first) as f64 / self.rate * 1e3).ceil() as u64 + since;
                let wait = next_ms.saturating_sub(clock::mono_ms()).max(TICK_MS);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
        Ok(())
    }

    fn bounded(&self) -> bool {
        self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bodies, build, intake, intake_of, open};
    use super::*;
    use serde_json::json;

    async fn run(config: Value) -> Vec<Value> {
        let (intake, store) = intake(1000).await;
        build(&KIND, &config.to_string()).unwrap().run(&intake).await.unwrap();
        bodies(&store).await.iter().map(|b| serde_json::from_str(b).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_seed_gives_the_same_events_and_another_seed_others() {
        let config = |seed: u64| {
            let mut config: Value = serde_json::from_str(KIND.example).unwrap();
            config["rate"] = json!(0);
            config["seed"] = json!(seed);
            config
        };
        let (a, b, c) = (run(config(7)).await, run(config(7)).await, run(config(8)).await);
        assert_eq!(a.len(), 1000);
        assert!(a == b && a != c);
    }

    #[tokio::test]
    async fn every_field_keeps_to_what_was_asked() {
        let all = run(json!({ "rate": 0, "count": 4000, "devices": 2, "fields": {
            "wave": { "wave": { "min": -2, "max": 3, "period": "1s" } },
            "walk": { "walk": { "start": 5, "step": 0.25, "min": 0, "max": 10 } },
            "small": { "uniform": { "min": 0, "max": 0.001 } },
            "choice": { "choice": [1, "two", null] },
            "const": { "const": { "a": [1] } },
            "counter": { "counter": {} },
            "device": { "device": {} } } }))
        .await;
        let column = |name: &str, device: usize| -> Vec<f64> {
            all.iter().skip(device).step_by(2).map(|e| e[name].as_f64().unwrap()).collect()
        };
        for device in 0..2 {
            for (name, min, max) in [("wave", -2.0, 3.0), ("walk", 0.0, 10.0), ("small", 0.0, 0.001)] {
                let values = column(name, device);
                let low = values.iter().copied().fold(f64::MAX, f64::min);
                let high = values.iter().copied().fold(f64::MIN, f64::max);
                assert!(low >= min && high <= max && high - low > 0.7 * (max - min), "{name} {low} {high}");
            }
            let walk = column("walk", device);
            assert_eq!(walk[0], 5.0);
            assert!(walk.windows(2).all(|w| (w[0] - w[1]).abs() <= 0.2501), "{walk:?}");
        }
        for (n, event) in all.iter().enumerate() {
            assert_eq!(event["counter"], n);
            assert_eq!(event["device"], format!("device-{}", n % 2 + 1));
            assert_eq!(event["const"], json!({ "a": [1] }));
        }
        for choice in [json!(1), json!("two"), json!(null)] {
            assert!(all.iter().filter(|e| e["choice"] == choice).count() > 1000);
        }
    }

    #[tokio::test]
    async fn the_count_is_exact_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("t.db");
        let config = r#"{ "count": 30000, "rate": 0, "fields": { "n": { "counter": {} } } }"#;
        for _ in 0..4 {
            let store = open(Some(&db)).await;
            let mut source = build(&KIND, config).unwrap();
            let intake = intake_of(&store, 1000);
            // Dropped somewhere in the middle, like at a stop.
            tokio::time::timeout(Duration::from_millis(20), source.run(&intake)).await.ok();
            store.close().await;
        }
        let store = open(Some(&db)).await;
        build(&KIND, config).unwrap().run(&intake_of(&store, 1000)).await.unwrap();
        let want: Vec<_> = (0..30_000).map(|n| format!("{{\"n\":{n}}}")).collect();
        assert!(bodies(&store).await == want);
    }

    #[tokio::test]
    async fn the_rate_is_kept() {
        let started = clock::mono_ms();
        let events = run(json!({ "rate": 400, "count": 201 })).await;
        let took = clock::mono_ms() - started;
        assert_eq!(events.len(), 201);
        assert!((480..5000).contains(&took), "{took} ms");
        assert!(events[0]["temperature"].is_number() && events[0]["device"] == "device-1");
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        for (config, want) in [
            (json!({ "rate": -1 }), "rate: expected events per second, 0 to 1000000"),
            (json!({ "devices": 0 }), "devices: expected 1 to 1000000"),
            (
                json!({ "fields": { "a": { "wave": { "min": 1, "max": 1, "period": "1s" } } } }),
                "fields.a: expected `min` below `max`",
            ),
            (
                json!({ "fields": { "a": { "wave": { "min": 1, "max": 2, "period": "0s" } } } }),
                "fields.a: expected a `period` above 0",
            ),
            (
                json!({ "fields": { "a": { "walk": { "start": 9, "step": 1, "min": 1, "max": 2 } } } }),
                "fields.a: expected `min` below `max` and `start` between them",
            ),
            (json!({ "fields": { "a": { "choice": [] } } }), "fields.a: expected values to choose from"),
            (
                json!({ "fields": { "a": { "wav": {} } } }),
                "fields.a: unknown variant `wav`, expected one of `wave`, `walk`, `uniform`, `choice`, `const`, `counter`, `device`",
            ),
            (
                json!({ "fields": { "a": { "counter": { "x": 1 } } } }),
                "fields.a.counter.x: unknown field `x`, there are no fields",
            ),
        ] {
            assert_eq!(build(&KIND, &config.to_string()).err().as_deref(), Some(want));
        }
    }
}
