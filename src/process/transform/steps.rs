//! Expressions over the elements of a value.

use super::operation::each;
use crate::{
    event::{Body, Event, json::Json},
    expr::{EvalError, Expr, Scope, Value},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// Bytes that expressions over one value may build: without it an event of a megabyte could keep a core busy for
/// seconds by joining its texts one after another.
const BUILT: usize = 8 << 20;

/// How a list becomes one value.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fold {
    /// What `meta.acc` is for the first element, and the result of an empty list; null if not given.
    #[serde(default)]
    start: serde_json::Value,
    /// What becomes of `meta.acc` with each element, `meta.item`.
    expr: Expr,
}

/// What an expression sees of an element.
struct Element<'a> {
    event: &'a Event,
    item: Json<'a>,
    acc: Option<Json<'a>>,
}

impl Scope for Element<'_> {
    fn event(&self) -> &Body {
        &self.event.body
    }

    fn meta(&self, name: &str) -> Option<Value<'_>> {
        match (name, self.acc) {
            ("item", _) => Some(Value::from_json(self.item)),
            ("acc", Some(acc)) => Some(Value::from_json(acc)),
            _ => self.event.meta(name),
        }
    }
}

/// The value of an expression for a value, or for each element or member. `None` if it reads what a single value lacks.
pub(super) fn map(expr: &Expr, value: Json<'_>, event: &Event) -> Result<Option<Vec<u8>>, String> {
    let mut out = Vec::new();
    let mut absent = false;
    each(value, &mut out, &mut |item, out| {
        match expr.eval(&Element { event, item, acc: None }) {
            Ok(value) => value.write_json(out),
            Err(EvalError::Absent { .. }) => {
                absent = true;
                out.extend_from_slice(b"null");
            }
            Err(e) => return Err(e.to_string()),
        }
        within(out.len())
    })?;
    let single = value.elements().next().is_none() && value.members().next().is_none();
    Ok((!(single && absent)).then_some(out))
}

impl Fold {
    /// Appends the result, as JSON.
    pub fn run<'a>(
        &self,
        elements: impl Iterator<Item = Json<'a>>,
        event: &Event,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut acc = self.start.to_string().into_bytes();
        let (mut next, mut built) = (Vec::new(), 0);
        for item in elements {
            next.clear();
            match self.expr.eval(&Element { event, item, acc: Some(Json::trusted(&acc)) }) {
                Ok(value) => value.write_json(&mut next),
                Err(EvalError::Absent { .. }) => continue,
                Err(e) => return Err(e.to_string()),
            }
            built += next.len();
            within(built)?;
            std::mem::swap(&mut acc, &mut next);
        }
        out.extend_from_slice(&acc);
        Ok(())
    }
}

fn within(built: usize) -> Result<(), String> {
    if built > BUILT { Err(format!("the expression builds more than {} MiB", BUILT >> 20)) } else { Ok(()) }
}
