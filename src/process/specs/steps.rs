//! Expressions, and where they stand programs, over the elements of a value.

use super::{
    super::child::Program,
    operation::each,
    program::{Work, program},
};
use crate::{
    budget::Span,
    event::{Body, Event, json::Json},
    expr::{EvalError, Expr, Scope, Value},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{borrow::Cow, fmt, sync::Arc};

/// What a program is asked without leave to go outside; nobody does.
const OUTSIDE: &str = "a program runs only outside";

/// Bytes that expressions over one value may build: without it an event of a megabyte could keep a core busy for
/// seconds by joining its texts one after another.
const BUILT: usize = 8 << 20;

/// What makes one value of another.
pub(super) enum Step {
    Expr(Expr),
    Run(Arc<Program>),
}

/// What is done with each element.
pub(super) struct Map(Step);

/// How a list becomes one value.
#[derive(Deserialize)]
#[serde(try_from = "FoldConfig")]
pub(super) struct Fold {
    start: serde_json::Value,
    step: Step,
}

/// An expression, or a program, for each element of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FoldConfig {
    /// What `meta.acc` is for the first element, and the result of an empty list; null if not given.
    #[serde(default)]
    start: serde_json::Value,
    /// What becomes of `meta.acc` with each element, `meta.item`.
    #[serde(default)]
    expr: Option<Expr>,
    /// Instead of `expr`: a program and its arguments, never a shell. Elements must be objects; it gets each on its stdin,
    /// with what it answered for the one before in `internal:acc`, and prints one JSON object, or nothing for null.
    #[serde(default)]
    run: Option<Vec<String>>,
    /// How long the program may run for an element, `1ms` to `1d`; 10 s if not given.
    #[serde(default)]
    timeout: Option<Span>,
}

impl TryFrom<FoldConfig> for Fold {
    type Error = String;
    fn try_from(FoldConfig { start, expr, run, timeout }: FoldConfig) -> Result<Self, String> {
        let step = match (expr, run, timeout) {
            (Some(expr), None, None) => Step::Expr(expr),
            (None, Some(run), timeout) => Step::Run(program(run, timeout)?),
            (Some(_), None, Some(_)) => return Err("`timeout` is for `run` alone".into()),
            _ => return Err("expected either `expr` or `run`".into()),
        };
        Ok(Fold { start, step })
    }
}

impl JsonSchema for Fold {
    fn schema_name() -> Cow<'static, str> {
        "Fold".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        FoldConfig::json_schema(generator)
    }
}

/// A program for a value, or for each element of a list or object.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MapConfig {
    /// The program and its arguments, never a shell. It gets an object, a list or a text as JSON on its stdin and prints
    /// one JSON object, which takes its place, or nothing, which makes it null. For a text any other answer counts as
    /// nothing.
    run: Vec<String>,
    /// How long it may run for an element, `1ms` to `1d`; 10 s if not given.
    #[serde(default)]
    timeout: Option<Span>,
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Map;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or an object with `run`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Map, E> {
                Expr::deserialize(text.into_deserializer()).map(|expr| Map(Step::Expr(expr)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Map, A::Error> {
                let MapConfig { run, timeout } = MapConfig::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Map(Step::Run(program(run, timeout).map_err(A::Error::custom)?)))
            }
        }
        de.deserialize_any(Either)
    }
}

impl JsonSchema for Map {
    fn schema_name() -> Cow<'static, str> {
        "Map".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (expr, run) = (generator.subschema_for::<Expr>(), generator.subschema_for::<MapConfig>());
        json_schema!({ "anyOf": [expr, run] })
    }
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

impl Map {
    pub fn program(&self) -> Option<Work<'_>> {
        match &self.0 {
            Step::Expr(_) => None,
            Step::Run(program) => Some(Work::Map(program)),
        }
    }

    /// The value of the expression for a value, or for each element or member. `None` if it reads what a single value
    /// lacks.
    pub fn apply(&self, value: Json<'_>, event: &Event) -> Result<Option<Vec<u8>>, String> {
        let Step::Expr(expr) = &self.0 else { return Err(OUTSIDE.into()) };
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
}

impl Fold {
    pub fn program(&self, right: bool) -> Option<Work<'_>> {
        match &self.step {
            Step::Expr(_) => None,
            Step::Run(program) => Some(Work::Fold { program, start: &self.start, right }),
        }
    }

    /// Appends the result, as JSON.
    pub fn run<'a>(
        &self,
        elements: impl Iterator<Item = Json<'a>>,
        event: &Event,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let Step::Expr(expr) = &self.step else { return Err(OUTSIDE.into()) };
        let mut acc = self.start.to_string().into_bytes();
        let (mut next, mut built) = (Vec::new(), 0);
        for item in elements {
            next.clear();
            match expr.eval(&Element { event, item, acc: Some(Json::trusted(&acc)) }) {
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

pub(super) fn within(built: usize) -> Result<(), String> {
    if built > BUILT { Err(format!("it builds more than {} MiB", BUILT >> 20)) } else { Ok(()) }
}
