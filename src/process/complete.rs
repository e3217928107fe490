//! Joins events that have equal values.

use super::{
    groups::unreadable,
    number,
    origin::{self, Origin},
    rejected,
};
use crate::{
    budget::Span,
    event::{
        Body, Event, Path,
        json::{Json, Kind as Sort, write_string},
    },
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process, Timer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

pub const KIND: Kind<dyn Process> = Kind {
    name: "complete",
    about: "joins events on equal values of two or more fields, within a time",
    example: r#"{ "type": "complete", "join": ["order.id", "payment.order"], "timeout": "1h", "carry": ["order.total"] }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        if config.join.len() < 2 {
            return Err(ParamsError::at("join", "it takes two fields or more"));
        }
        for (i, path) in config.join.iter().enumerate() {
            if config.join[..i].contains(path) {
                return Err(ParamsError::at(format!("join[{i}]"), format!("`{path}` stands there twice")));
            }
        }
        if config.timeout.is_some_and(|span| span.0.is_zero()) {
            return Err(ParamsError::at("timeout", "it must be longer than 0; without it nothing times out"));
        }
        let field = |name: &str| Path::of([name]).map_err(|e| ParamsError::at("name", e));
        Ok(Box::new(Complete {
            status: field(&format!("internal:completion:{}", config.label.as_ref().unwrap_or(&params.name)))?,
            state: field(&format!("internal:completion:state:{}", config.label.as_ref().unwrap_or(&params.name)))?,
            maker: origin::maker(&params),
            config,
        }))
    },
};

/// Joins events that have equal values in the fields `join`. The first event with a value begins its completion; when each
/// of the fields has been seen with that value, in any number of events and any order, it is complete.
///
/// Every event goes on, with `"triggered"` or `"complete"` in `internal:completion:NAME`. One that completes has the
/// completion too, as `{"value": …, "resolved": {"FIELD": true, …}, "deadline": …}` in `internal:completion:state:NAME`;
/// the deadline is in nanoseconds since 1970, or -1. After that a completion of the value begins anew. An event that
/// has several values counts in the completion of each: it is `"complete"` if one of them is, and shows the first that is.
///
/// Values are equal if they are of one type: 1 and 1.0 are, 1 and "1" are not. An object or list is no value, nor is an
/// absent field; an event without any passes unchanged. Null rejects the event.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Two fields or more, each in an event of its own or several in one.
    join: Vec<Path>,
    /// After this time since its first event a completion ends: an event is made with `"timedout"` in
    /// `internal:completion:NAME`, the completion, and what was carried; it has the topic, key and priority of the first
    /// event. Without it, a value whose partners never come is remembered for ever.
    #[serde(default)]
    timeout: Option<Span>,
    /// Fields of the earlier events, the latest that had each, that are put into the one that completes or that is made by
    /// the timeout. A field that is there already, or that has no place because of another, is left out.
    #[serde(default)]
    carry: Vec<Path>,
    /// What the two fields end with, if not with the name of the process.
    #[serde(default)]
    label: Option<String>,
}

struct Complete {
    config: Config,
    status: Path,
    state: Path,
    maker: String,
}

/// A completion that is not complete, as it is remembered under its value.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    value: Box<RawValue>,
    /// The fields that were seen.
    resolved: Vec<String>,
    /// In milliseconds since 1970.
    due: Option<i64>,
    first: Origin,
    /// The field in which the first event had the value.
    field: String,
    carried: BTreeMap<String, Box<RawValue>>,
}

/// A value of an event, and the fields that have it.
struct Found<'e> {
    key: Vec<u8>,
    value: Json<'e>,
    fields: Vec<&'e Path>,
}

fn raw(value: Json<'_>) -> Result<Box<RawValue>, Fault> {
    RawValue::from_string(String::from_utf8_lossy(value.raw()).into_owned()).map_err(Fault::reject)
}

/// The same for equal values: JSON, with a number as `number::text`.
fn alike(value: Json<'_>) -> Vec<u8> {
    match value.kind() {
        Sort::Number => number::text(value).into_bytes(),
        Sort::String => {
            let mut out = Vec::new();
            write_string(&value.as_str().unwrap_or_default(), &mut out);
            out
        }
        _ => value.raw().to_vec(),
    }
}

impl Open {
    fn read(key: &[u8], cx: &Cx<'_>) -> Result<Option<Open>, Fault> {
        cx.get(key).map(|bytes| serde_json::from_slice(bytes).map_err(|e| unreadable(key, e))).transpose()
    }

    fn has(&self, field: &Path) -> bool {
        self.resolved.iter().any(|seen| seen == field.as_str())
    }

    /// Remembers what an event has of the fields to carry.
    fn take(&mut self, carry: &[Path], event: &Event) -> Result<(), Fault> {
        for path in carry {
            if let Some(value) = event.body.get(path) {
                self.carried.insert(path.as_str().to_owned(), raw(value)?);
            }
        }
        Ok(())
    }

    fn carry(&self, body: &mut Body) {
        for (path, value) in &self.carried {
            if let Ok(path) = path.parse()
                && body.get(&path).is_none()
            {
                body.set(&path, value.get().as_bytes()).ok(); // something else is in its place
            }
        }
    }

    /// The completion as events show it.
    fn shown(&self, join: &[Path]) -> Vec<u8> {
        let mut out = b"{\"value\":".to_vec();
        out.extend_from_slice(self.value.get().as_bytes());
        out.extend_from_slice(b",\"resolved\":{");
        for (i, path) in join.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(path.as_str(), &mut out);
            out.extend_from_slice(if self.has(path) { b":true" } else { b":false" });
        }
        let deadline = self.due.map_or(-1, |ms| ms.saturating_mul(1_000_000));
        out.extend_from_slice(format!("}},\"deadline\":{deadline}}}").as_bytes());
        out
    }
}

impl Complete {
    /// The values of an event.
    fn values<'e>(&'e self, event: &'e Event) -> Result<Vec<Found<'e>>, Fault> {
        let mut values: Vec<Found<'e>> = Vec::new();
        for path in &self.config.join {
            let Some(value) = event.body.get(path) else { continue };
            match value.kind() {
                Sort::Object | Sort::Array => continue,
                Sort::Null => {
                    let cause = "expected a string, a number or a boolean to join on, found null";
                    return Err(rejected(format!("`{path}`"), cause));
                }
                Sort::String | Sort::Number | Sort::Bool => {}
            }
            let key = alike(value);
            match values.iter_mut().find(|found| found.key == key) {
                Some(found) => found.fields.push(path),
                None => values.push(Found { key, value, fields: vec![path] }),
            }
        }
        Ok(values)
    }

    /// Counts an event in the completion of a value, and gives that if it is complete now.
    fn see(&self, event: &Event, found: Found<'_>, cx: &mut Cx<'_>) -> Result<Option<Open>, Fault> {
        let Found { key, value, fields } = found;
        let mut open = Open::read(&key, cx)?;
        if open.as_ref().and_then(|open| open.due).is_some_and(|due| due <= cx.now) {
            self.time_out(&key, cx)?; // its timer was about to come
            open = None;
        }
        let mut open = match open {
            Some(open) => open,
            None => {
                let span = self.config.timeout.map(|Span(time)| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
                let due = span.map(|ms| cx.now.saturating_add(ms));
                due.inspect(|due| cx.set_timer(&key, *due));
                let (first, field) = (Origin::of(event), fields[0].as_str().to_owned());
                Open { value: raw(value)?, resolved: Vec::new(), due, first, field, carried: BTreeMap::new() }
            }
        };
        for field in fields {
            if !open.has(field) {
                open.resolved.push(field.as_str().to_owned());
            }
        }
        if self.config.join.iter().all(|field| open.has(field)) {
            cx.delete(&key);
            cx.cancel_timer(&key);
            return Ok(Some(open));
        }
        open.take(&self.config.carry, event)?;
        cx.put(&key, serde_json::to_vec(&open).map_err(Fault::reject)?)?;
        Ok(None)
    }

    /// Ends a completion whose time is over.
    fn time_out(&self, key: &[u8], cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Some(open) = Open::read(key, cx)? else { return Ok(()) };
        cx.delete(key);
        cx.cancel_timer(key);
        let mut body = Body::default();
        open.carry(&mut body);
        body.set(&self.status, b"\"timedout\"").map_err(Fault::reject)?;
        body.set(&self.state, &open.shown(&self.config.join)).map_err(Fault::reject)?;
        let id = origin::id(&[&open.first.id, &self.maker, &open.field, "timedout"]);
        cx.emit(open.first.event(id, cx.now, body));
        Ok(())
    }
}

impl Process for Complete {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let values = self.values(&event)?;
        if values.is_empty() {
            cx.emit(event);
            return Ok(());
        }
        let mut complete = Vec::new();
        for found in values {
            complete.extend(self.see(&event, found, cx)?);
        }
        let status: &[u8] = if complete.is_empty() { b"\"triggered\"" } else { b"\"complete\"" };
        event.body.set(&self.status, status).map_err(Fault::reject)?;
        if let Some(first) = complete.first() {
            event.body.set(&self.state, &first.shown(&self.config.join)).map_err(Fault::reject)?;
        }
        for done in &complete {
            done.carry(&mut event.body);
        }
        cx.emit(event);
        Ok(())
    }

    fn timer(&self, timer: Timer, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.time_out(&timer.key, cx)
    }

    fn keeps_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "complete_tests.rs"]
mod tests;
