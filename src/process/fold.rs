//! Makes one value out of many events.

use super::{
    groups::{self, unreadable},
    origin::{self, Origin},
    rejected,
};
use crate::{
    budget::Span,
    event::{Body, Event, Id, Path, Text, json::Json},
    expr::{EvalError, Expr, Scope, Value},
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process, Timer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::num::{NonZeroU32, NonZeroU64};

pub const KIND: Kind<dyn Process> = Kind {
    name: "fold",
    about: "makes one value out of many events, and tells it after so many or so long",
    example: r#"{ "type": "fold", "start": {"n": 0, "max": -273.15}, "by": ["room"],
    "expr": "{\"n\": meta.acc.n + 1, \"max\": max(meta.acc.max, event.temp)}", "each": 10, "every": "1m" }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        groups::check(&config.by)?;
        if config.every.is_some_and(|span| span.0.is_zero()) {
            return Err(ParamsError::at("every", "it must be longer than 0"));
        }
        let into = Path::of(["value"]).map_err(|e| ParamsError::at("into", e))?;
        let maker = origin::maker(&params);
        Ok(Box::new(Fold { config, into, maker }))
    },
};

/// Makes one value out of many events, which end here. What goes on are events that tell the value: after each `each`-th
/// event, `every` so often if there was an event since, and at the end, when all sources are bounded and have ended.
///
/// The event that tells it after `each` has the key, times and meta of the last event; the others have its topic, key and
/// priority. The body is the value, if that is an object, or has it in the field `value`; the fields `by` are put in where
/// it does not have them. The id is made of the last event's id and this process's name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What `meta.acc` is for the first event; null if not given.
    #[serde(default)]
    start: serde_json::Value,
    /// What becomes of the value with each `event`; the value so far is `meta.acc`. An event that lacks a field which is
    /// read here is passed over: it changes nothing and does not count.
    expr: Expr,
    /// Tells the value after so many events.
    #[serde(default)]
    each: Option<NonZeroU64>,
    /// Tells the value so long after the first event that changed it since it was told.
    #[serde(default)]
    every: Option<Span>,
    /// A value of its own for each group of events that are equal in these fields. One that is absent counts as `nil`.
    #[serde(default)]
    by: Vec<Path>,
    /// The most groups; an event that would begin one more is rejected.
    #[serde(default = "groups::max_groups")]
    max_groups: NonZeroU32,
    /// The place of the value in the event that tells it.
    #[serde(default)]
    into: Option<Path>,
    /// Whether the value begins anew with `start` after it was told. Else it goes on.
    #[serde(default)]
    reset: bool,
}

struct Fold {
    config: Config,
    /// Where a value stands that is no object.
    into: Path,
    maker: String,
}

/// What is remembered of a group.
#[derive(Serialize, Deserialize)]
struct State {
    acc: Box<RawValue>,
    /// Events since it was told, and since it began.
    new: u64,
    all: u64,
    /// The last event.
    last: Origin,
    /// The fields `by` with their values.
    by: Vec<(String, Box<RawValue>)>,
}

/// What the expression sees.
struct Sight<'a> {
    event: &'a Event,
    acc: Json<'a>,
}

impl Scope for Sight<'_> {
    fn event(&self) -> &Body {
        &self.event.body
    }

    fn meta(&self, name: &str) -> Option<Value<'_>> {
        if name == "acc" { Some(Value::from_json(self.acc)) } else { self.event.meta(name) }
    }
}

fn raw(bytes: &[u8]) -> Result<Box<RawValue>, Fault> {
    RawValue::from_string(String::from_utf8_lossy(bytes).into_owned()).map_err(Fault::reject)
}

impl Fold {
    fn read(key: &[u8], cx: &Cx<'_>) -> Result<Option<State>, Fault> {
        cx.get(key).map(|bytes| serde_json::from_slice(bytes).map_err(|e| unreadable(key, e))).transpose()
    }

    fn begin(&self, event: &Event) -> Result<State, Fault> {
        let mut by = Vec::new();
        for path in &self.config.by {
            if let Some(value) = event.body.get(path) {
                by.push((path.as_str().to_owned(), raw(value.raw())?));
            }
        }
        Ok(State { acc: raw(self.config.start.to_string().as_bytes())?, new: 0, all: 0, last: Origin::of(event), by })
    }

    /// The body that tells a value.
    fn body(&self, state: &State) -> Result<Body, Fault> {
        let acc = Json::trusted(state.acc.get().as_bytes());
        let mut body = match &self.config.into {
            None if acc.kind() == crate::event::json::Kind::Object => Body::trusted(acc.raw().to_vec().into()),
            into => {
                let mut body = Body::default();
                body.set(into.as_ref().unwrap_or(&self.into), acc.raw()).map_err(Fault::reject)?;
                body
            }
        };
        for (path, value) in &state.by {
            if let Ok(path) = path.parse()
                && body.get(&path).is_none()
            {
                body.set(&path, value.get().as_bytes()).ok(); // the value itself is in its place
            }
        }
        Body::parse(body.to_bytes()).map_err(|e| rejected("the value", e))
    }

    fn id(&self, state: &State) -> String {
        origin::id(&[&state.last.id, &self.maker, &state.all.to_string()])
    }

    /// Remembers that a value was told.
    fn told(&self, key: &[u8], mut state: State, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.cancel_timer(key);
        if self.config.reset {
            cx.delete(key);
            return Ok(());
        }
        state.new = 0;
        keep(key, &state, cx)
    }

    /// Tells a value that changed since it was told, without an event at hand.
    fn tell(&self, key: &[u8], cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Some(state) = Fold::read(key, cx)?.filter(|state| state.new > 0) else { return Ok(()) };
        cx.emit(state.last.event(self.id(&state), cx.now, self.body(&state)?));
        self.told(key, state, cx)
    }
}

fn keep(key: &[u8], state: &State, cx: &mut Cx<'_>) -> Result<(), Fault> {
    cx.put(key, serde_json::to_vec(state).map_err(Fault::reject)?)
}

impl Process for Fold {
    fn process(&self, event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let key = groups::key(&self.config.by, &event.body);
        let (is_new, mut state) = match Fold::read(&key, cx)? {
            Some(state) => (false, state),
            None => (true, self.begin(&event)?),
        };
        let sight = Sight { event: &event, acc: Json::trusted(state.acc.get().as_bytes()) };
        let acc = match self.config.expr.eval(&sight) {
            Ok(value) => value.to_json(),
            Err(EvalError::Absent { .. }) => return Ok(()),
            Err(e) => return Err(rejected("expr", e)),
        };
        if is_new {
            groups::room(self.config.max_groups, cx)?;
        }
        state.acc = raw(&acc)?;
        state.last = Origin::of(&event);
        (state.new, state.all) = (state.new.saturating_add(1), state.all.saturating_add(1));
        let body = self.body(&state)?; // a value that could not be told must not be remembered
        if self.config.each.is_some_and(|each| state.new >= each.get()) {
            cx.emit(Event { id: Id::Own(Text::from(self.id(&state))), body, ..event });
            return self.told(&key, state, cx);
        }
        if let Some(Span(time)) = self.config.every
            && cx.timer(&key).is_none()
        {
            cx.set_timer(&key, cx.now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)));
        }
        keep(&key, &state, cx)
    }

    fn timer(&self, timer: Timer, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.tell(&timer.key, cx)
    }

    fn finish(&self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let keys: Vec<Vec<u8>> = cx.list().map(|(key, _)| key.to_vec()).collect();
        keys.iter().try_for_each(|key| self.tell(key, cx))
    }

    fn keeps_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
