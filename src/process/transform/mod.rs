//! Makes fields out of fields.

mod operation;
mod steps;

use super::{holds, rejected};
use crate::{
    event::{
        Body, Event, Path,
        json::{Json, Kind as Sort},
    },
    expr::Expr,
    fault::Fault,
    kind::{Cx, Kind, ParamsError, Process},
};
use operation::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const KIND: Kind<dyn Process> = Kind {
    name: "transform",
    about: "makes fields out of fields: copies, sums, replaces, folds, computes",
    example: r#"{ "type": "transform", "others": "keep", "specs": [
    { "from": "temp", "to": "air.temp", "op": "move" },
    { "from": "list", "to": "total", "op": "sum" },
    { "from": "list", "to": "doubled", "op": { "multiply": 2 } },
    { "from": "path", "op": { "replace": { "regex": "^/dev/(.*)$", "with": "$1" } } },
    { "from": "list", "to": "largest", "op": { "fold_left": { "start": 0, "expr": "max(meta.acc, meta.item)" } } },
    { "to": "hot", "op": { "expr": "event.temp > 30.0" } } ] }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        for (i, spec) in config.specs.iter().enumerate() {
            spec.check().map_err(|message| ParamsError::at(format!("specs[{i}]"), message))?;
        }
        Ok(Box::new(config))
    },
};

/// Makes fields out of fields. Every spec reads the event as it came, never what another spec made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What to make; of two specs with the same `to` the later wins.
    specs: Vec<Spec>,
    /// Whether the event's own fields stay beside those that are made: `"keep"` or `"drop"`.
    #[serde(default)]
    others: Others,
}

/// What becomes of fields that no spec makes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Others {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Drop,
}

/// One field to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Spec {
    /// The place that is read (`a.b.0.c`); if it is absent or null, the spec is passed over. Without: the whole event.
    #[serde(default)]
    from: Option<Path>,
    /// The place that is written; objects on the way are created. Without: `from`; without that, too, the result must
    /// be an object, whose fields are put into the event.
    #[serde(default)]
    to: Option<Path>,
    /// What is done; `"copy"` if not given.
    #[serde(default)]
    op: Operation,
    /// The spec is passed over if this does not hold.
    #[serde(default)]
    when: Option<Expr>,
}

impl Spec {
    fn check(&self) -> Result<(), &'static str> {
        match (&self.op, &self.from, &self.to) {
            (Operation::Expr(_), Some(_), _) => Err("`expr` reads `event` and takes no `from`"),
            (Operation::Move, None, _) | (Operation::Move, _, None) => Err("`move` takes `from` and `to`"),
            _ => Ok(()),
        }
    }

    /// The value that the spec makes of the event, as JSON; `None`: it is passed over.
    fn make(&self, event: &Event) -> Result<Option<Vec<u8>>, Fault> {
        if !holds(self.when.as_ref(), event)? {
            return Ok(None);
        }
        let place = self.from.as_ref().map_or("the event", Path::as_str);
        let whole; // an edited body must be written to be read as one value
        let value = match &self.from {
            Some(path) => event.body.get(path),
            None if matches!(self.op, Operation::Expr(_)) => Some(Json::trusted(b"{}")),
            None => {
                whole = event.body.to_bytes();
                Some(Json::trusted(&whole))
            }
        };
        match value.filter(|value| !value.is_null()) {
            Some(value) => self.op.apply(value, event).map_err(|e| rejected(format!("`{place}`"), e)),
            None => Ok(None),
        }
    }

    /// Puts a value that the spec made into the result.
    fn put(&self, value: &[u8], out: &mut Body) -> Result<(), Fault> {
        if let Some(to) = self.to.as_ref().or(self.from.as_ref()) {
            return out.set(to, value).map_err(Fault::reject);
        }
        let object = Json::trusted(value);
        if object.kind() != Sort::Object {
            return Err(Fault::reject(format!("without `to` the result must be an object, not {}", object.kind())));
        }
        for member in object.members() {
            let name = member.name();
            // A field without a name has no path: it is left out.
            if let Ok(path) = Path::of([&*name]) {
                out.set(&path, member.value.raw()).map_err(Fault::reject)?;
            }
        }
        Ok(())
    }
}

impl Process for Config {
    fn process(&self, mut event: Event, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let at = |i: usize| move |fault: Fault| rejected(format!("specs[{i}]"), fault);
        let mut made = Vec::with_capacity(self.specs.len());
        for (i, spec) in self.specs.iter().enumerate() {
            made.extend(spec.make(&event).map_err(at(i))?.map(|value| (i, spec, value)));
        }
        if self.others == Others::Drop {
            event.body = Body::default();
        }
        for (_, spec, _) in made.iter().filter(|(_, spec, _)| matches!(spec.op, Operation::Move)) {
            spec.from.as_ref().map(|from| event.body.remove(from));
        }
        for (i, spec, value) in &made {
            spec.put(value, &mut event.body).map_err(at(*i))?;
        }

        cx.emit(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
