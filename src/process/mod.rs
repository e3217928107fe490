//! The steps of a pipeline: one file, or folder, a kind. Plain functions of an event; nothing here reads a clock.

pub mod annotate;
pub mod continue_;
pub mod filter;
mod pattern;
pub mod transform;

use crate::{
    event::{Body, Event, json::Json},
    expr::{Expr, Scope, Value},
    fault::Fault,
    kind::{Kind, Process},
};
use std::fmt;

/// Every kind of process.
pub const KINDS: &[Kind<dyn Process>] = &[annotate::KIND, continue_::KIND, filter::KIND, transform::KIND];

/// What expressions see of an event: `event` is the body. `meta` is what the source says of the event (the MQTT `topic`,
/// for instance), and for all other names the envelope: `id`, `topic`, `key`, `priority`, `time` and `intake` in
/// milliseconds since 1970, `synced`.
impl Scope for Event {
    fn event(&self) -> &Body {
        &self.body
    }

    fn meta(&self, name: &str) -> Option<Value<'_>> {
        if let Some(value) = Json::trusted(&self.meta).member(name) {
            return Some(Value::from_json(value));
        }
        Some(match name {
            "id" => Value::Str(self.id.text()),
            "topic" => Value::Str((&*self.topic).into()),
            "key" => Value::Str(self.key.as_str().into()),
            "priority" => Value::Int(self.priority.into()),
            "time" => Value::Int(self.happened()),
            "intake" => Value::Int(self.stamp.wall_ms),
            "synced" => Value::Bool(self.stamp.synced),
            _ => return None,
        })
    }
}

/// Whether a condition, if there is one, holds for an event.
fn holds(when: Option<&Expr>, event: &Event) -> Result<bool, Fault> {
    when.map_or(Ok(true), |when| when.test(event).map_err(|e| rejected("when", e)))
}

/// A rejection that names the place in the configuration.
fn rejected(place: impl fmt::Display, cause: impl fmt::Display) -> Fault {
    Fault::reject(format!("{place}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Stamp,
        event::{Id, Text},
        kind::{Cx, Params},
    };

    pub fn event(body: &str) -> Event {
        let body = Body::parse(bytes::Bytes::copy_from_slice(body.as_bytes())).unwrap();
        Event {
            id: Id::Own(Text::from("e-1")),
            topic: "barn".into(),
            lane: 0,
            seq: 1,
            key: Text::from("k"),
            priority: 4,
            time: None,
            stamp: Stamp { wall_ms: 1000, ..Stamp::default() },
            meta: bytes::Bytes::from_static(br#"{"client":"c-1","key":"of the source"}"#),
            body,
        }
    }

    pub fn build(kind: &Kind<dyn Process>, config: &str) -> Result<Box<dyn Process>, String> {
        let mut value: serde_json::Value = serde_json::from_str(config).unwrap();
        value.as_object_mut().unwrap().shift_remove("type");
        (kind.build)(Params::new("p", crate::kind::Scope::default(), value)).map_err(|e| e.to_string())
    }

    /// What a process makes of a body: the bodies it emits, or why it rejects it.
    pub fn process(process: &dyn Process, body: &str) -> String {
        let (mut out, mut sent) = (Vec::new(), Vec::new());
        let mut cx = Cx { now: 2000, out: &mut out, sent: &mut sent };
        match process.process(event(body), &mut cx) {
            Ok(()) => out.iter().map(|e| String::from_utf8(e.body.to_bytes().to_vec()).unwrap()).collect(),
            Err(fault) => {
                assert!(matches!(fault, Fault::Reject(_)));
                format!("rejected: {fault}")
            }
        }
    }

    /// Rows of configuration, body, and what comes out; or of a wrong configuration and what is said about it.
    pub fn check(kind: &Kind<dyn Process>, rows: &[(&str, &str, &str)]) {
        for (config, body, want) in rows {
            let got = match build(kind, config) {
                Ok(built) => process(&*built, body),
                Err(wrong) => format!("wrong: {wrong}"),
            };
            assert_eq!(got, *want, "{config} of {body}");
        }
    }

    #[test]
    fn every_example_builds_and_runs() {
        for kind in KINDS {
            let out = process(&*build(kind, kind.example).unwrap(), r#"{"temp":20.5,"list":[1,2]}"#);
            assert!(!out.starts_with("rejected"), "{}: {out}", kind.name);
        }
    }

    #[test]
    fn an_expression_sees_the_body_the_envelope_and_what_the_source_says() {
        for (text, want) in [
            ("event.a", "1"),
            ("meta.id", "\"e-1\""),
            ("meta.topic", "\"barn\""),
            ("meta.key", "\"of the source\""),
            ("meta.client", "\"c-1\""),
            ("meta.priority", "4"),
            ("meta.time", "1000"),
            ("meta.intake", "1000"),
            ("meta.synced", "false"),
            ("has(meta.other)", "false"),
        ] {
            let event = event(r#"{"a":1}"#);
            assert_eq!(Expr::parse(text).unwrap().eval(&event).unwrap().to_json(), want.as_bytes(), "{text}");
        }
    }

    /// A look at costs: `cargo test --release process::tests::cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost() {
        // Of this thread: the machine does other things, too.
        let cpu_ns = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let pad = "x".repeat(90);
        let body = format!(
            r#"{{"device":"d1","temp":21.5,"hum":40,"state":{{"door":"open","n":[1,2,3]}},"a":1,"b":"two","_pad":"{pad}"}}"#
        );
        for (kind, config) in [
            (&continue_::KIND, r#"{ "when": "event.temp > -40.0 && event.temp < 85.0" }"#),
            (&annotate::KIND, r#"{ "set": { "site": "barn" } }"#),
            (&annotate::KIND, r#"{ "set": { "f": { "expr": "event.temp * 1.8 + 32.0" } } }"#),
            (&filter::KIND, r#"{ "drop": ["a"] }"#),
            (&filter::KIND, r#"{ "drop_matching": "^_" }"#),
            (&filter::KIND, r#"{ "keep": ["device", "temp", "state.door"] }"#),
            (&transform::KIND, r#"{ "specs": [{ "from": "temp", "to": "t", "op": "move" }] }"#),
            (&transform::KIND, r#"{ "specs": [{ "from": "state.n", "to": "sum", "op": "sum" }] }"#),
            (&transform::KIND, r#"{ "specs": [{ "from": "b", "op": { "replace": { "regex": "t", "with": "T" } } }] }"#),
        ] {
            let built = build(kind, config).unwrap();
            let event = event(&body);
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            let mut run = |processes: &[&dyn Process]| -> i64 {
                let begun = cpu_ns();
                for _ in 0..200_000 {
                    out.clear();
                    // As from the store: not parsed yet.
                    let mut event = Event { body: Body::trusted(event.body.to_bytes()), ..event.clone() };
                    for process in processes {
                        let mut cx = Cx { now: 0, out: &mut out, sent: &mut sent };
                        process.process(event, &mut cx).unwrap();
                        event = out.pop().unwrap();
                    }
                    std::hint::black_box(event.body.to_bytes());
                }
                (cpu_ns() - begun) / 200_000
            };
            println!("{:5} ns, the second in a chain {:4}: {config}", run(&[&*built]), {
                let first = build(&continue_::KIND, r#"{ "when": "has(event.device)" }"#).unwrap();
                run(&[&*first, &*built]) - run(&[&*first])
            });
        }
    }
}
