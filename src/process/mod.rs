//! The steps of a pipeline: one file, or folder, a kind. Plain functions of an event; nothing here reads a clock.

pub mod aggregate;
pub mod annotate;
pub mod checkpoint;
mod child;
pub mod complete;
pub mod continue_;
pub mod filter;
pub mod flatmap;
pub mod fold;
mod groups;
pub mod limit;
pub mod map;
mod number;
mod origin;
mod pattern;
pub mod spawn;
mod specs;
pub mod tee;
pub mod throttle;
mod trail;
pub mod transform;

use crate::{
    event::{Body, Event, json::Json},
    expr::{Expr, Scope, Value},
    fault::Fault,
    kind::{Kind, Process},
};
use std::fmt;

/// Every kind of process.
pub const KINDS: &[Kind<dyn Process>] = &[
    aggregate::KIND,
    annotate::KIND,
    checkpoint::KIND,
    complete::KIND,
    continue_::KIND,
    filter::KIND,
    flatmap::KIND,
    fold::KIND,
    limit::KIND,
    map::KIND,
    spawn::KIND,
    tee::KIND,
    throttle::KIND,
    transform::KIND,
];

/// What expressions see of an event: `event` is the body. `meta` is what the source says of the event (the MQTT `topic`,
/// for instance), and for all other names the envelope: `id`, `topic`, `key`, `priority`, `time` and `intake` in
/// milliseconds since 1970, and `time_quality`, how far these can be trusted: `synced`, `restamped` (worked out when the clock
/// was set), `estimated` or `unsynced`.
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
            "time_quality" => Value::Str(self.stamp.quality.name().into()),
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
        event::{Id, Text},
        kind::{Cx, Memory, Params},
        systems::Systems,
    };

    pub fn event(body: &str) -> Event {
        let body = Body::parse(bytes::Bytes::copy_from_slice(body.as_bytes())).unwrap();
        Event {
            seq: 1,
            key: Text::from("k"),
            meta: bytes::Bytes::from_static(br#"{"client":"c-1","key":"of the source"}"#),
            ..Event::made("e-1".into(), "barn".into(), 1000, body)
        }
    }

    /// One process as the runtime drives it, with its memory and a clock that is moved by hand.
    pub struct Rig {
        process: Box<dyn Process>,
        when: Option<Expr>,
        memory: Memory,
        pub now: i64,
        /// What was sent to topics, as `topic: body`.
        pub sent: Vec<String>,
        /// What the last call emitted.
        pub out: Vec<Event>,
    }

    impl Rig {
        /// A process of the pipeline `p`, called after its kind unless it has a `name`.
        pub fn new(kind: &Kind<dyn Process>, config: &str) -> Result<Rig, String> {
            let mut value: serde_json::Value = serde_json::from_str(config).unwrap();
            let own = value.as_object_mut().unwrap();
            for common in ["type", "retry", "on_fail"] {
                own.shift_remove(common);
            }
            let when = own.shift_remove("when").map(|when| when.as_str().unwrap().parse().unwrap());
            let name = own.shift_remove("name").map_or(kind.name.into(), |n| n.as_str().unwrap().to_owned());
            let scope = crate::kind::Scope { pipeline: "p".into(), ..Default::default() };
            let memory = Memory::new("p", &[(&name, kind.name)], 1 << 20);
            let process = (kind.build)(Params::new(name, scope, value)).map_err(|e| e.to_string())?;
            Ok(Rig { process, when, memory, now: 2000, sent: Vec::new(), out: Vec::new() })
        }

        /// The bodies of what comes out for an event of this body, one after another, or why it is rejected; then what
        /// it changed is taken back.
        pub fn feed(&mut self, body: &str) -> String {
            self.feed_as("e-1", body)
        }

        /// The same for an event of this id.
        pub fn feed_as(&mut self, id: &str, body: &str) -> String {
            let event = Event { id: Id::Own(Text::from(id)), ..event(body) };
            self.out.clear();
            if !holds(self.when.as_ref(), &event).unwrap_or(true) {
                return if self.process.stops() { String::new() } else { body.to_owned() };
            }
            self.run(|process, when, cx| {
                holds(when, &event)?;
                process.process(event, cx)
            })
        }

        /// The ids of what the last call emitted.
        pub fn ids(&self) -> Vec<String> {
            self.out.iter().map(|event| event.id.text().into_owned()).collect()
        }

        /// What it remembers, as `key=value` and `key@time`.
        pub fn state(&mut self) -> Vec<String> {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            let cx = Cx { now: 0, out: &mut out, sent: &mut sent, memory: &mut self.memory, at: 0 };
            let keys: Vec<Vec<u8>> = cx.list().map(|(key, _)| key.to_vec()).collect();
            let timers = keys.iter().filter_map(|key| Some(format!("{}@{}", text(key), cx.timer(key)?)));
            cx.list().map(|(key, value)| format!("{}={}", text(key), text(value))).chain(timers).collect()
        }

        /// The keys of what it remembers.
        pub fn keys(&mut self) -> Vec<String> {
            self.state().iter().filter_map(|entry| Some(entry.split_once('=')?.0.to_owned())).collect()
        }

        /// Puts something into its state, as another version or a person might have.
        pub fn remember(&mut self, key: &[u8], value: &str) {
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            let mut cx = Cx { now: 0, out: &mut out, sent: &mut sent, memory: &mut self.memory, at: 0 };
            cx.put(key, value.to_owned()).unwrap();
        }

        /// When it wants to be called next.
        pub fn due(&self) -> Option<i64> {
            self.memory.next_due()
        }

        pub fn savepoint(&self) -> usize {
            self.memory.savepoint()
        }

        /// Takes back what was remembered since then.
        pub fn rollback(&mut self, savepoint: usize) {
            self.memory.rollback(savepoint);
        }

        /// Moves the clock and gives what timers emit.
        pub fn advance(&mut self, now: i64) -> String {
            let mut all = String::new();
            self.out.clear();
            while let Some((_, timer)) = self.memory.take_due(now) {
                self.now = self.now.max(timer.due);
                all += &self.run(|process, _, cx| process.timer(timer, cx));
            }
            self.now = now;
            all
        }

        /// What it emits at the end of all sources.
        pub fn finish(&mut self) -> String {
            self.out.clear();
            self.run(|process, _, cx| process.finish(cx))
        }

        fn run(&mut self, run: impl FnOnce(&dyn Process, Option<&Expr>, &mut Cx<'_>) -> Result<(), Fault>) -> String {
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            let savepoint = self.memory.savepoint();
            let mut cx = Cx { now: self.now, out: &mut out, sent: &mut sent, memory: &mut self.memory, at: 0 };
            match run(&*self.process, self.when.as_ref(), &mut cx) {
                Ok(()) => {
                    let body = |e: &Event| String::from_utf8(e.body.to_bytes().to_vec()).unwrap();
                    self.sent.extend(sent.iter().map(|(topic, e)| format!("{topic}: {}", body(e))));
                    let text = out.iter().map(body).collect();
                    self.out.append(&mut out);
                    text
                }
                Err(fault) => {
                    self.memory.rollback(savepoint);
                    match fault {
                        Fault::RetryAfter(wait, _) => format!("wait: {wait:?}"),
                        fault => format!("rejected: {fault}"),
                    }
                }
            }
        }
    }

    /// What comes of an event at a process with a part outside: that part first, as the runtime does it. What it sends is
    /// put before what it emits, as `topic id: body; `.
    pub async fn reach(process: &dyn Process, mut event: Event) -> String {
        let (mut out, mut sent, mut memory) = (Vec::new(), Vec::new(), Memory::new("p", &[("x", "x")], 1 << 20));
        let reached = match process.outside() {
            Some(outside) => outside.reach(&mut event).await,
            None => Ok(()),
        };
        let mut cx = Cx { now: 2000, out: &mut out, sent: &mut sent, memory: &mut memory, at: 0 };
        match reached.and_then(|()| process.process(event, &mut cx)) {
            Ok(()) => {
                let body = |e: &Event| String::from_utf8(e.body.to_bytes().to_vec()).unwrap();
                let sent = sent.iter().map(|(topic, e)| format!("{topic} {}: {}; ", e.id.text(), body(e)));
                sent.chain(out.iter().map(body)).collect()
            }
            Err(Fault::Retry(e)) => format!("retry: {e:#}"),
            Err(Fault::RetryAfter(wait, e)) => format!("after {wait:?}: {e:#}"),
            Err(fault) => format!("rejected: {fault}"),
        }
    }

    /// A process of the pipeline `p`, or what is wrong with it.
    pub fn build(
        kind: &Kind<dyn Process>,
        systems: Systems,
        config: serde_json::Value,
    ) -> Result<Box<dyn Process>, String> {
        let scope = crate::kind::Scope { pipeline: "p".into(), systems, ..Default::default() };
        (kind.build)(Params::new(kind.name, scope, config)).map_err(|e| e.to_string())
    }

    /// Rows of configuration, body, and what comes out; or of a wrong configuration and what is said about it.
    pub fn check(kind: &Kind<dyn Process>, rows: &[(&str, &str, &str)]) {
        for (config, body, want) in rows {
            let got = match Rig::new(kind, config) {
                Ok(mut rig) => rig.feed(body),
                Err(wrong) => format!("wrong: {wrong}"),
            };
            assert_eq!(got, *want, "{config} of {body}");
        }
    }

    #[test]
    fn every_example_builds_and_runs() {
        for kind in KINDS {
            let out = Rig::new(kind, kind.example).unwrap().feed(r#"{"temp":20.5,"list":[1,2]}"#);
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
            ("meta.time_quality", "\"unsynced\""),
            ("has(meta.other)", "false"),
        ] {
            let event = event(r#"{"a":1}"#);
            assert_eq!(Expr::parse(text).unwrap().eval(&event).unwrap().to_json(), want.as_bytes(), "{text}");
        }
    }
}
