//! Running sums, extremes, means, counts and histograms.

mod document;

use super::{
    groups::{self, unreadable},
    number::Number,
    rejected,
};
use crate::{
    event::{
        Event, Path,
        json::{self, Json, Kind as Sort, write_string},
    },
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process},
};
use document::Document;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, num::NonZeroU32};

pub const KIND: Kind<dyn Process> = Kind {
    name: "aggregate",
    about: "keeps running sums, extremes, means, counts or histograms, by groups",
    example: r#"{ "type": "aggregate", "field": "temp", "op": "avg", "by": ["site", "device.id"] }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        groups::check(&config.by)?;
        if config.field.is_none() && config.op != Op::Count {
            return Err(ParamsError::at("field", "it may be absent only with `\"op\": \"count\"`"));
        }
        let label = config.label.as_ref().unwrap_or(&params.scope.pipeline);
        let forward = Path::of([&*format!("internal:aggregation:{label}")]);
        let forward = forward.map_err(|e| ParamsError::at("name", e))?;
        Ok(Box::new(Aggregate { prefix: config.prefix(), forward, name: params.name, config }))
    },
};

/// Keeps a running aggregate of a field, for ever: there are no windows. It is exact: it commits with the event it counts.
///
/// An event without the field, or with an object or list there, changes nothing. A value that cannot be counted rejects
/// its event, and only that: anything but a number, and null in a histogram. Whole numbers are added exactly up to 2^63 and
/// as doubles beyond; a result too large for a double rejects the event. If `field`, `op` or `by` are changed, it begins
/// anew.
///
/// With `forward`, every event gets the state of all aggregates of the pipeline (or of its part before or behind a
/// checkpoint), in `internal:aggregation:PIPELINE`:
/// `{"FIELD:TYPE": {"GROUP": {"GROUP": LEAF}}}`, where the type is `AggSum`, `AggMax`, `AggMin`, `AggAvg`, `AggCount` or
/// `AggDiscreteHistogram`, and the leaf `{"value": N}`, of a mean `{"sum": N, "num": N}`, of a histogram
/// `{"buckets": {"TEXT": N}}`. If two aggregates of a pipeline have a value at the same place, that of the later is seen.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What is aggregated (`a.b.0.c`). To count events whatever is in them, leave it out; it is called `*` then.
    #[serde(default)]
    field: Option<Path>,
    /// `"sum"`, `"min"`, `"max"`, `"avg"`, `"count"` (of values of any type, also null) or `"histogram"` (how often each
    /// value came, by its text).
    op: Op,
    /// An aggregate for each group of events that are equal in these fields. An absent field is the group `nil`, null the
    /// group `<nil>`, numbers and others have their text.
    #[serde(default)]
    by: Vec<Path>,
    /// Whether events get the state of all aggregates of the pipeline. Writing it takes time and room for each group.
    #[serde(default = "yes")]
    forward: bool,
    /// What that field ends with, if not with the name of the pipeline.
    #[serde(default)]
    label: Option<String>,
    /// The most groups, and in a histogram the most values of all groups together. An event that would begin one more is
    /// rejected.
    #[serde(default = "groups::max_groups")]
    max_groups: NonZeroU32,
}

fn yes() -> bool {
    true
}

/// What is made of the values.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Op {
    Sum,
    Min,
    Max,
    Avg,
    Count,
    Histogram,
}

impl Op {
    /// The seed's name for it.
    fn name(self) -> &'static str {
        match self {
            Op::Sum => "AggSum",
            Op::Min => "AggMin",
            Op::Max => "AggMax",
            Op::Avg => "AggAvg",
            Op::Count => "AggCount",
            Op::Histogram => "AggDiscreteHistogram",
        }
    }

    /// The state, one value more; `None` if `old` makes no sense. The error says what is wrong with the value.
    fn step(self, old: Option<Json<'_>>, value: Option<Json<'_>>) -> Result<Option<Vec<u8>>, String> {
        let mut out = Vec::new();
        match self {
            Op::Count | Op::Histogram => {
                if self == Op::Histogram && value.is_some_and(Json::is_null) {
                    return Err("expected a string, a number or a boolean, found null".into());
                }
                let Some(n) = old.map_or(Some(0), Json::as_i64) else { return Ok(None) };
                Number::Int(n.saturating_add(1)).write(&mut out)?;
            }
            Op::Avg => {
                let value = finite(value)?;
                let (sum, num) = match old {
                    None => (Some(Number::Int(0)), Some(0)),
                    Some(old) => (old.member("sum").and_then(Number::read), old.member("num").and_then(Json::as_i64)),
                };
                let (Some(sum), Some(num)) = (sum, num) else { return Ok(None) };
                out.extend_from_slice(b"{\"sum\":");
                sum.add(value).write(&mut out)?;
                out.extend_from_slice(b",\"num\":");
                Number::Int(num.saturating_add(1)).write(&mut out)?;
                out.push(b'}');
            }
            Op::Sum | Op::Min | Op::Max => {
                let value = finite(value)?;
                let new = match old.map(Number::read) {
                    None => value,
                    Some(None) => return Ok(None),
                    Some(Some(old)) => match self {
                        Op::Min if value.order(old) == Ordering::Less => value,
                        Op::Max if value.order(old) == Ordering::Greater => value,
                        Op::Sum => old.add(value),
                        _ => old,
                    },
                };
                new.write(&mut out)?;
            }
        }
        Ok(Some(out))
    }
}

/// A number that JSON has a word for.
fn finite(value: Option<Json<'_>>) -> Result<Number, String> {
    let value = value.unwrap_or(Json::trusted(b"null"));
    match Number::read(value) {
        Some(n) if n.as_f64().is_finite() => Ok(n),
        Some(_) => Err("the number is too large for a double".into()),
        None => Err(format!("expected a number, found {}", value.kind())),
    }
}

struct Aggregate {
    config: Config,
    /// How the keys of its state begin: what it aggregates, and by which fields.
    prefix: Vec<u8>,
    name: String,
    forward: Path,
}

impl Config {
    fn prefix(&self) -> Vec<u8> {
        // The seed writes a dot that belongs to a name like any other.
        let field =
            self.field.as_ref().map_or_else(|| "*".to_owned(), |field| field.parts().collect::<Vec<_>>().join("."));
        let mut out = b"[".to_vec();
        write_string(&format!("{field}:{}", self.op.name()), &mut out);
        out.extend_from_slice(b",[");
        for (i, path) in self.by.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(path.as_str(), &mut out);
        }
        out.extend_from_slice(b"],");
        out
    }
}

impl Aggregate {
    /// Counts an event.
    fn count(&self, event: &Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let value = self.config.field.as_ref().map(|field| event.body.get(field));
        let value = match value {
            None => None,
            Some(Some(value)) if !matches!(value.kind(), Sort::Object | Sort::Array) => Some(value),
            Some(_) => return Ok(()),
        };
        let mut key = self.prefix.clone();
        key.extend(groups::key(&self.config.by, &event.body));
        if let (Op::Histogram, Some(value)) = (self.config.op, value) {
            key.push(b',');
            write_string(&groups::text(value), &mut key);
        }
        key.push(b']');

        let old = cx.get(&key);
        if let Some(old) = old {
            json::check(old).map_err(|e| unreadable(&key, e))?;
        }
        let new = self.config.op.step(old.map(|old| Json::trusted(old)), value);
        let place = self.config.field.as_ref().map_or("the event", Path::as_str);
        let new = new.map_err(|e| rejected(format!("`{place}`"), e))?;
        let new = new.ok_or_else(|| unreadable(&key, "expected an aggregate"))?;
        if old.is_none() {
            self.forget_others(cx);
            groups::room(self.config.max_groups, cx)?;
        }
        cx.put(&key, new)
    }

    /// Forgets what it aggregated under another configuration. There is none where a key is known already.
    fn forget_others(&self, cx: &mut Cx<'_>) {
        let others = cx.list().map(|(key, _)| key).filter(|key| !key.starts_with(&self.prefix));
        let others: Vec<_> = others.map(<[u8]>::to_vec).collect();
        others.iter().for_each(|key| cx.delete(key));
    }

    fn document(&self, cx: &Cx<'_>) -> Result<Vec<u8>, Fault> {
        let mut document = Document::default();
        // Its own comes last, to be seen where two are at one place.
        for own in [false, true] {
            for (_, key, value) in cx.siblings().filter(|(name, ..)| (*name == self.name) == own) {
                if !own || key.starts_with(&self.prefix) {
                    document.add(key, value)?;
                }
            }
        }
        let mut out = Vec::new();
        document.write(&mut out);
        Ok(out)
    }
}

impl Process for Aggregate {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.count(&event, cx)?;
        if self.config.forward {
            event.body.set(&self.forward, &self.document(cx)?).map_err(Fault::reject)?;
        }
        cx.emit(event);
        Ok(())
    }

    fn keeps_state(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
