//! Fields made out of fields: what a `transform` does with its event, and a `tee` with its copy.

mod operation;
mod program;
mod steps;

use super::{holds, rejected};
use crate::{
    event::{
        Body, Event, Path,
        json::{Json, Kind as Sort},
    },
    expr::Expr,
    fault::Fault,
    kind::ParamsError,
};
use bytes::Bytes;
use operation::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of fields that no spec makes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Others {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Drop,
}

/// One field to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
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
        let mut whole = Bytes::new();
        match self.read(event, &mut whole) {
            // Nothing to do: whatever the condition says, and even if it fails.
            Some(_) if !holds(self.when.as_ref(), event)? => Ok(None),
            Some(value) => self.op.apply(value, event).map_err(|e| rejected(self.place(), e)),
            None => Ok(None),
        }
    }

    /// As `make`, also where that takes a program.
    async fn make_outside(&self, event: &Event) -> Result<Option<Vec<u8>>, Fault> {
        let Some(work) = self.op.program() else { return self.make(event) };
        let mut whole = Bytes::new();
        match self.read(event, &mut whole) {
            Some(_) if !holds(self.when.as_ref(), event)? => Ok(None),
            Some(value) => work.run(value).await.map(Some).map_err(|fault| fault.at(self.place())),
            None => Ok(None),
        }
    }

    /// What is at `from`, unless it is null. An edited body must be written, into `whole`, to be read as one value.
    fn read<'a>(&self, event: &'a Event, whole: &'a mut Bytes) -> Option<Json<'a>> {
        let value = match &self.from {
            Some(path) => event.body.get(path)?,
            None if matches!(self.op, Operation::Expr(_)) => Json::trusted(b"{}"),
            None => {
                *whole = event.body.to_bytes();
                Json::trusted(whole)
            }
        };
        (!value.is_null()).then_some(value)
    }

    fn place(&self) -> String {
        format!("`{}`", self.from.as_ref().map_or("the event", Path::as_str))
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

/// All that is made of one event.
pub(super) struct Specs {
    /// The field of the configuration in which they stand.
    field: &'static str,
    specs: Vec<Spec>,
    others: Others,
}

impl Specs {
    pub fn new(field: &'static str, specs: Vec<Spec>, others: Others) -> Result<Self, ParamsError> {
        for (i, spec) in specs.iter().enumerate() {
            spec.check().map_err(|message| ParamsError::at(format!("{field}[{i}]"), message))?;
        }
        Ok(Specs { field, specs, others })
    }

    /// Whether one of them takes a program: then only `apply_outside` will do.
    pub fn run_programs(&self) -> bool {
        self.specs.iter().any(|spec| spec.op.program().is_some())
    }

    /// The event is as it was, or half done, if it fails: it is rejected then.
    pub fn apply(&self, event: &mut Event) -> Result<(), Fault> {
        let mut made = Vec::with_capacity(self.specs.len());
        for (i, spec) in self.specs.iter().enumerate() {
            made.extend(spec.make(event).map_err(|fault| self.at(i, fault))?.map(|value| (i, spec, value)));
        }
        self.put(made, &mut event.body)
    }

    /// As `apply`, with programs; the event is as it was if it fails.
    pub async fn apply_outside(&self, event: &mut Event) -> Result<(), Fault> {
        let mut made = Vec::with_capacity(self.specs.len());
        for (i, spec) in self.specs.iter().enumerate() {
            let value = spec.make_outside(event).await.map_err(|fault| self.at(i, fault))?;
            made.extend(value.map(|value| (i, spec, value)));
        }
        let mut body = event.body.clone();
        self.put(made, &mut body)?;
        event.body = body;
        Ok(())
    }

    fn put(&self, made: Vec<(usize, &Spec, Vec<u8>)>, body: &mut Body) -> Result<(), Fault> {
        if self.others == Others::Drop {
            *body = Body::default();
        }
        for (_, spec, _) in made.iter().filter(|(_, spec, _)| matches!(spec.op, Operation::Move)) {
            spec.from.as_ref().map(|from| body.remove(from));
        }
        for (i, spec, value) in &made {
            spec.put(value, body).map_err(|fault| self.at(*i, fault))?;
        }
        Ok(())
    }

    fn at(&self, i: usize, fault: Fault) -> Fault {
        fault.at(format!("{}[{i}]", self.field))
    }
}
