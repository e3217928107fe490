//! Sends a copy of an event elsewhere.

mod file;
mod merge;
mod target;

use super::{
    specs::{Others, Spec, Specs},
    trail::Trail,
};
use crate::{
    event::{
        Body, Event, Id, Path, Text,
        json::{self, Json, Kind as Sort, write_string},
    },
    fault::Fault,
    kind::{Cx, Kind, Outside, Params, ParamsError, Process},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use target::{Target, To};

pub const KIND: Kind<dyn Process> = Kind {
    name: "tee",
    about: "sends a copy to a topic, a sink, a store, a broker, a directory or a URL; the event itself goes on",
    example: r#"{ "type": "tee", "to": { "http": { "url": "https://example.org/hook" } }, "keep_answer": true,
  "transform": [{ "from": "temp", "to": "value" }], "others": "drop", "merge": { "site": "barn", "tags": ["copy"] } }"#,
    schema: Config::json_schema,
    build: |params| Ok(Box::new(Tee::new(&params)?)),
};

/// Sends a copy of each event elsewhere. When it is safe there, the event goes on with an entry `{"uuid", "outputType",
/// "connectionString", "response"}` appended to its list `internal:tee:output`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where the copy goes: one of the fields, with those that belong to it.
    to: To,
    /// Makes fields of the copy, as the `specs` of `transform`.
    #[serde(default)]
    transform: Vec<Spec>,
    /// Whether the other fields stay in the copy: `"keep"` or `"drop"`.
    #[serde(default)]
    others: Others,
    /// Put into the copy at last: objects are merged, lists joined; any other field that is there already rejects the
    /// event.
    #[serde(default)]
    merge: Map<String, Value>,
    /// Puts the first 64 KiB of what the server answers into the entry as `response`: an object as it is, else its text.
    /// For `http` alone.
    #[serde(default)]
    keep_answer: bool,
    /// What `connectionString` says in the entry, if not what the target is called.
    #[serde(default)]
    label: Option<String>,
}

struct Tee {
    /// Of the process.
    name: String,
    target: Target,
    specs: Specs,
    /// An object as JSON, if there is anything to merge.
    merge: Option<Vec<u8>>,
    keep_answer: bool,
    label: Option<String>,
    trail: Trail,
    /// Where the copy waits that programs made outside, until it is sent to a topic with the event's step.
    ready: Path,
}

impl Tee {
    fn new(params: &Params) -> Result<Self, ParamsError> {
        let Config { to, transform, others, merge, keep_answer, label } = params.decode()?;
        let target = Target::new(to, params)?;
        if keep_answer && !matches!(target, Target::Http(_)) {
            return Err(ParamsError::at("keep_answer", "only `http` answers"));
        }
        let wrong = |message: String| ParamsError::at("", message);
        Ok(Tee {
            name: params.name.clone(),
            target,
            specs: Specs::new("transform", transform, others)?,
            merge: (!merge.is_empty()).then(|| Value::Object(merge).to_string().into_bytes()),
            keep_answer,
            label,
            trail: Trail::new("internal:tee:output").map_err(wrong)?,
            ready: Path::of(["internal:tee:copy"]).map_err(|e| wrong(e.to_string()))?,
        })
    }

    /// The copy, with an id of its own that is the same whenever it is made again.
    fn finished(&self, mut copy: Event) -> Result<Event, Fault> {
        if let Some(merge) = &self.merge {
            let merged = merge::merged(&copy.body.to_bytes(), merge).map_err(|e| Fault::reject(e).at("merge"))?;
            copy.body = Body::trusted(merged.into());
        }
        copy.id = Id::Own(Text::from(format!("{}.{}", copy.id.text(), self.name)));
        Ok(copy)
    }

    async fn copy_outside(&self, event: &Event) -> Result<Event, Fault> {
        let mut copy = event.clone();
        self.specs.apply_outside(&mut copy).await?;
        self.finished(copy)
    }

    fn copy(&self, event: &mut Event) -> Result<Event, Fault> {
        let mut copy = event.clone();
        if !self.specs.run_programs() {
            self.specs.apply(&mut copy)?;
            return self.finished(copy);
        }
        let made = event.body.get(&self.ready).map(|made| Body::trusted(made.raw().to_vec().into()));
        copy.body = made.ok_or_else(|| Fault::reject("no copy was made outside"))?;
        event.body.remove(&self.ready);
        copy.id = Id::Own(Text::from(format!("{}.{}", copy.id.text(), self.name)));
        Ok(copy)
    }

    fn note(&self, event: &mut Event, id: &str, answer: &[u8]) -> Result<(), Fault> {
        let (sort, place) = self.target.described();
        let mut entry = b"{\"uuid\":".to_vec();
        write_string(id, &mut entry);
        entry.extend_from_slice(b",\"outputType\":");
        write_string(sort, &mut entry);
        entry.extend_from_slice(b",\"connectionString\":");
        write_string(self.label.as_ref().unwrap_or(&place), &mut entry);
        if self.keep_answer {
            write_answer(answer, &mut entry);
        }
        entry.push(b'}');
        self.trail.append(&mut event.body, &entry)
    }
}

/// Appends what a server answered as one more member, unless that is nothing.
fn write_answer(answer: &[u8], out: &mut Vec<u8>) {
    let answer = answer.trim_ascii();
    let object = json::check(answer) == Ok(Sort::Object);
    if answer.is_empty() || (object && Json::trusted(answer).members().next().is_none()) {
        return;
    }
    out.extend_from_slice(b",\"response\":");
    if object {
        out.extend_from_slice(answer);
    } else {
        write_string(&String::from_utf8_lossy(answer), out);
    }
}

impl Process for Tee {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Target::Topic(topic) | Target::Sink { topic, .. } = &self.target {
            let copy = self.copy(&mut event)?;
            self.note(&mut event, &copy.id.text(), b"")?;
            cx.send(topic, copy);
        }
        cx.emit(event);
        Ok(())
    }

    fn outside(&self) -> Option<&dyn Outside> {
        let inside = matches!(self.target, Target::Topic(_) | Target::Sink { .. }) && !self.specs.run_programs();
        (!inside).then_some(self)
    }
}

#[async_trait]
impl Outside for Tee {
    async fn reach(&self, event: &mut Event) -> Result<(), Fault> {
        self.trail.check(&event.body)?;
        let copy = self.copy_outside(event).await?;
        if matches!(self.target, Target::Topic(_) | Target::Sink { .. }) {
            return event.body.set(&self.ready, &copy.body.to_bytes()).map_err(Fault::reject);
        }
        let (id, answer) = self.target.put(event, copy).await.map_err(|fault| fault.at("to"))?;
        self.note(event, &id, &answer)
    }
}

#[cfg(test)]
mod tests;
