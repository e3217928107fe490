//! Sets or pulses a GPIO line, and leaves it in a safe state.

use crate::{
    board::{Line, Output},
    budget::Span,
    clock,
    event::Event,
    expr::{Expr, Value},
    fault::Fault,
    kind::{Kind, ParamsError, Sink},
};
use async_trait::async_trait;
use embedded_hal::digital::{OutputPin, PinState};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};
use std::{
    borrow::Cow,
    fmt::{self, Display},
    future::pending,
    time::Duration,
};

pub const KIND: Kind<dyn Sink> = Kind {
    name: "gpio",
    about: "sets or pulses a GPIO line, with a safe state for when the gateway stops",
    example: r#"{ "type": "gpio", "line": "pin 13", "value": "event.temperature > 30.0", "safe": false, "max_age": "1m" }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        let (line, active_low) = (config.line.clone(), config.active_low);
        let open = move |active| Output::open(&line, active_low, active).map_err(|e| e.to_string());
        Ok(Box::new(Switch::new(config, Box::new(open))?))
    },
};

/// Drives a GPIO line from events: active when the value is true. It has the safe state from the start until the first event, and
/// again at the stop. If the power fails or the gateway is killed, the line is what the chip makes of it: a pull resistor on
/// the board is the only safe state then. After a crash the last events are done once more.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The line: by its name (`GPIO27`), by the pin of the board's header (`pin 13`), or by chip and offset (`gpiochip0:27`).
    line: Line,
    /// Whether the line shall be active, as an expression that gives true, false, 1 or 0. An event for which it gives something
    /// else, or that lacks a field, is refused.
    #[serde(default = "value")]
    value: String,
    /// True makes the line active for this long only, up to 1m; the next event waits. False makes it inactive at once.
    pulse: Option<Span>,
    /// Whether active is low: relays are often switched like that.
    #[serde(default)]
    active_low: bool,
    /// The state at the start, at the stop and when the line fails: `false` inactive, `true` active, `"keep"` as it was.
    #[serde(default)]
    safe: Safe,
    /// An event that is older is refused and changes nothing: who comes late shall not open a valve.
    max_age: Option<Span>,
}

/// The state that harms nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safe {
    Active(bool),
    Keep,
}

impl Default for Safe {
    fn default() -> Self {
        Safe::Active(false)
    }
}

impl<'de> Deserialize<'de> for Safe {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct State;
        impl Visitor<'_> for State {
            type Value = Safe;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"keep\"")
            }
            fn visit_bool<E: Error>(self, active: bool) -> Result<Safe, E> {
                Ok(Safe::Active(active))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Safe, E> {
                if text == "keep" { Ok(Safe::Keep) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
            }
        }
        de.deserialize_any(State)
    }
}

impl Serialize for Safe {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        match self {
            Safe::Active(active) => ser.serialize_bool(*active),
            Safe::Keep => ser.serialize_str("keep"),
        }
    }
}

impl JsonSchema for Safe {
    fn schema_name() -> Cow<'static, str> {
        "Safe".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "const": "keep" }] })
    }
}

fn value() -> String {
    "event.value".into()
}

/// A valve may take seconds; a longer pulse would hold up the stop and every event behind it.
const LONGEST_PULSE: Span = Span::millis(60_000);

/// Takes hold of the line, and makes it active or not in the same moment.
type Open<P> = Box<dyn FnMut(bool) -> Result<P, String> + Send>;

struct Switch<P> {
    line: Line,
    value: Expr,
    pulse: Option<Duration>,
    safe: Safe,
    max_age: Option<Span>,
    open: Open<P>,
    pin: Option<P>,
    /// Whether a pulse has begun and not ended.
    pulsing: bool,
}

impl<P: OutputPin<Error: Display>> Switch<P> {
    fn new(config: Config, open: Open<P>) -> Result<Self, ParamsError> {
        let Config { line, value, pulse, safe, max_age, .. } = config;
        let wrong = |e| ParamsError::at("value", format!("expression `{value}`: {e}"));
        let value = Expr::parse(&value).map_err(wrong)?;
        if pulse.is_some_and(|span| span.0.is_zero() || span > LONGEST_PULSE) {
            return Err(ParamsError::at("pulse", format!("expected more than 0s and at most {LONGEST_PULSE}")));
        }
        let pulse = pulse.map(|span| span.0);
        Ok(Switch { line, value, pulse, safe, max_age, open, pin: None, pulsing: false })
    }

    /// What an event asks for.
    fn wanted(&self, event: &Event, now_ms: i64) -> Result<bool, Fault> {
        let age = now_ms.saturating_sub(event.happened()).max(0).unsigned_abs();
        if let Some(limit) = self.max_age.filter(|limit| u128::from(age) > limit.0.as_millis()) {
            return Err(Fault::reject(format!("it is {} s old, `max_age` is {limit}", age / 1000)));
        }
        match self.value.eval(event).map_err(|e| Fault::reject(format!("value: {e}")))? {
            Value::Bool(active) => Ok(active),
            Value::Int(n @ (0 | 1)) => Ok(n == 1),
            other => Err(Fault::reject(format!("value: expected true, false, 1 or 0, not {}", other.type_name()))),
        }
    }

    fn set(&mut self, active: bool) -> Result<(), Fault> {
        let line = &self.line;
        let Some(pin) = &mut self.pin else {
            self.pin = Some((self.open)(active).map_err(Fault::retry)?);
            return Ok(());
        };
        let Err(error) = pin.set_state(PinState::from(active)) else { return Ok(()) };
        let fault = Fault::retry(format!("`{line}`: {error}"));
        // It may still be able to do this; it is let go of, and taken anew in the safe state.
        if let Safe::Active(safe) = self.safe {
            pin.set_state(PinState::from(safe)).ok();
        }
        self.pin = None;
        Err(fault)
    }
}

#[async_trait]
impl<P: OutputPin<Error: Display> + Send> Sink for Switch<P> {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        // All are judged before the first is done: a refused batch comes again in halves.
        let now_ms = clock::wall_ms();
        let wanted = batch.iter().map(|event| self.wanted(event, now_ms)).collect::<Result<Vec<_>, _>>()?;
        if self.pin.is_none()
            && let Safe::Active(safe) = self.safe
        {
            self.set(safe)?;
        }
        for active in wanted {
            self.set(active)?;
            if let Some(pulse) = self.pulse.filter(|_| active) {
                self.pulsing = true;
                tokio::time::sleep(pulse).await;
                self.set(false)?;
                self.pulsing = false;
            }
        }
        Ok(())
    }

    async fn idle(&mut self) -> Fault {
        if let (None, Safe::Active(safe)) = (&self.pin, self.safe)
            && let Err(fault) = self.set(safe)
        {
            return fault;
        }
        pending().await
    }

    async fn close(&mut self) {
        let last = match self.safe {
            Safe::Active(safe) => Some(safe),
            Safe::Keep => self.pulsing.then_some(false),
        };
        if let (Some(active), true) = (last, self.pin.is_some())
            && let Err(fault) = self.set(active)
        {
            log::warn!("the line is not in its safe state: {fault}");
        }
        self.pin = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{build, events};
    use super::*;
    use crate::board::LineError;
    use embedded_hal::digital::ErrorType;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    /// What became of the line: `open1`, `0`, `1`, `fail`, `free`.
    #[derive(Clone, Default)]
    struct Trace(Arc<Mutex<Vec<String>>>);

    impl Trace {
        fn add(&self, what: impl Display) {
            self.0.lock().unwrap().push(what.to_string());
        }

        fn take(&self) -> String {
            std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
        }
    }

    /// A pin that fails when it is told to be high for the third time.
    struct Scripted {
        trace: Trace,
        highs: u32,
    }

    impl ErrorType for Scripted {
        type Error = LineError;
    }

    impl OutputPin for Scripted {
        fn set_low(&mut self) -> Result<(), LineError> {
            self.trace.add(0);
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), LineError> {
            self.highs += 1;
            let what = if self.highs == 3 { "fail" } else { "1" };
            self.trace.add(what);
            if self.highs == 3 { Err(LineError::from("pulled out".to_owned())) } else { Ok(()) }
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.trace.add("free");
        }
    }

    fn switch(config: &str, trace: &Trace) -> Result<Switch<Scripted>, String> {
        let trace = trace.clone();
        let open = move |active| {
            trace.add(format!("open{}", u8::from(active)));
            Ok(Scripted { trace: trace.clone(), highs: 0 })
        };
        let config = serde_json::from_str(config).map_err(|e| e.to_string())?;
        Switch::new(config, Box::new(open)).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn events_drive_the_line() {
        let [on, off] = [r#"{"value":true,"t":31}"#, r#"{"value":false,"t":3}"#];
        let none = r#"{"t":1}"#;
        for (config, bodies, want) in [
            (r#"{ "line": "x" }"#, &[on, off, on][..], "open0 1 0 1 | 0 free"),
            (r#"{ "line": "x" }"#, &[r#"{"value":1}"#, r#"{"value":0}"#], "open0 1 0 | 0 free"),
            (r#"{ "line": "x", "safe": true }"#, &[off], "open1 0 | 1 free"),
            (r#"{ "line": "x", "safe": "keep" }"#, &[on, off], "open1 0 | free"),
            (r#"{ "line": "x", "value": "event.t > 30" }"#, &[on, off], "open0 1 0 | 0 free"),
            (r#"{ "line": "x", "pulse": "20ms" }"#, &[on, off, on], "open0 1 0 0 1 0 | 0 free"),
            // Nothing of a batch is done if one of it is refused.
            (r#"{ "line": "x" }"#, &[on, none], "value: column 1: `event.value` is absent | "),
            (r#"{ "line": "x", "value": "event.t" }"#, &[on], "value: expected true, false, 1 or 0, not int | "),
            (
                r#"{ "line": "x", "value": "event.t > 'a'" }"#,
                &[on],
                "value: column 9: `>` cannot take int and string | ",
            ),
            (r#"{ "line": "x", "max_age": "1m" }"#, &[on], "it is # s old, `max_age` is 1m | "),
            // It fails, is made safe, let go of and taken anew.
            (r#"{ "line": "x" }"#, &[on, on, on], "`x`: pulled out open0 1 1 fail 0 free | "),
        ] {
            let trace = Trace::default();
            let mut switch = switch(config, &trace).unwrap();
            let told = match switch.deliver(&events(bodies).await).await {
                Ok(()) => trace.take(),
                Err(fault) => {
                    assert_eq!(matches!(fault, Fault::Retry(_)), fault.to_string().contains("pulled out"));
                    // The events of `events` are of 1970.
                    let words = fault.to_string();
                    let mut words: Vec<&str> = words.split(' ').collect();
                    if words[..2] == ["it", "is"] {
                        words[2] = "#";
                    }
                    format!("{} {}", words.join(" "), trace.take()).trim_end().to_owned()
                }
            };
            switch.close().await;
            assert_eq!(format!("{told} | {}", trace.take()), want, "{config} {bodies:?}");
        }
    }

    #[tokio::test]
    async fn a_pulse_takes_its_time_and_ends_at_the_stop() {
        let trace = Trace::default();
        let mut switch = switch(r#"{ "line": "x", "pulse": "30ms", "safe": "keep" }"#, &trace).unwrap();
        let batch = events(&[r#"{"value":true}"#]).await;
        let begun = Instant::now();
        switch.deliver(&batch).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!(trace.take(), "open1 0");
        assert!(tokio::time::timeout(Duration::from_millis(5), switch.deliver(&batch)).await.is_err());
        switch.close().await;
        assert_eq!(trace.take(), "1 0 free");
    }

    #[tokio::test]
    async fn the_safe_state_holds_from_the_start() {
        for (safe, want) in [("true", "open1"), ("false", "open0"), ("\"keep\"", "")] {
            let trace = Trace::default();
            let mut switch = switch(&format!(r#"{{ "line": "x", "safe": {safe} }}"#), &trace).unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(5), switch.idle()).await.is_err());
            assert!(tokio::time::timeout(Duration::from_millis(5), switch.idle()).await.is_err());
            assert_eq!(trace.take(), want);
        }
    }

    #[test]
    fn a_wrong_configuration_is_told() {
        for (config, want) in [
            (
                r#"{ "line": "GPIO27", "safe": "off" }"#,
                "safe: invalid value: string \"off\", expected true, false or \"keep\"",
            ),
            (r#"{ "line": "GPIO27", "value": "event." }"#, "value: expression `event.`: column 7: "),
            (r#"{ "line": "GPIO27", "pulse": "2m" }"#, "pulse: expected more than 0s and at most 1m"),
            (r#"{ "line": "GPIO27", "pulse": "0s" }"#, "pulse: expected more than 0s"),
            ("{}", "missing field `line`"),
        ] {
            let told = build(&KIND, config).err().unwrap_or_default();
            assert!(told.starts_with(want), "{config}: {told}");
        }
    }

    /// There is no chip where tests run; on a board this test says nothing.
    #[tokio::test]
    async fn a_machine_without_chips_says_so() {
        if crate::board::chips().is_err() {
            let fault = build(&KIND, KIND.example).unwrap().idle().await;
            assert!(matches!(fault, Fault::Retry(_)));
            assert!(fault.to_string().starts_with("this machine has no GPIO chips"), "{fault}");
        }
    }
}
