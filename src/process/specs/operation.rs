//! What can be done with a value.

use super::{
    super::{number::Number, pattern::Pattern},
    program::Work,
    steps::{Fold, Map},
};
use crate::{
    event::{
        Event,
        json::{Json, Kind as Sort, write_string},
    },
    expr::{EvalError, Expr},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// What is done with the value at `from`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Operation {
    /// The value as it is.
    #[default]
    Copy,
    /// The value as it is; it leaves its old place.
    Move,
    /// The sum of a list of numbers; 0 if it is empty.
    Sum,
    /// The number of elements of a list.
    Count,
    /// The smallest number of a list; nothing if it is empty.
    Min,
    /// The largest number of a list; nothing if it is empty.
    Max,
    /// The mean of a list of numbers; nothing if it is empty.
    Avg,
    /// The first element of a list, null if it is empty. The list stays as it is.
    PopHead,
    /// The last element of a list, null if it is empty. The list stays as it is.
    PopTail,
    /// Adds to a number, or to each in a list or object.
    Add(Number),
    /// Multiplies a number, or each in a list or object.
    Multiply(Number),
    /// Replaces every match in a text, or in each text of a list or object.
    Replace(Replace),
    /// An expression for a value, or for each element of a list or object, which it sees as `meta.item`, and the whole
    /// event as `event`. Where it reads an absent field, an element becomes null. Or a program, see its fields.
    Map(Map),
    /// An expression for each element of a list, from the first to the last, that sees the element as `meta.item` and
    /// what it gave for the one before as `meta.acc`. An element for which it reads an absent field is passed over. Or a
    /// program for each element, see its fields.
    FoldLeft(Fold),
    /// The same from the last element to the first.
    FoldRight(Fold),
    /// An expression for the whole event. Nothing, if it reads an absent field.
    Expr(Expr),
}

/// What to look for, and what to put in its place.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Replace {
    /// A regular expression.
    regex: Pattern,
    /// What takes the place of a match; `$1` or `${name}` is a group of it, `$$` a `$`.
    with: String,
}

impl Operation {
    /// The program that it takes, if it takes one.
    pub fn program(&self) -> Option<Work<'_>> {
        match self {
            Operation::Map(map) => map.program(),
            Operation::FoldLeft(fold) => fold.program(false),
            Operation::FoldRight(fold) => fold.program(true),
            _ => None,
        }
    }

    /// The result as JSON; `None` if there is none. The error says what is wrong with the value.
    pub fn apply(&self, value: Json<'_>, event: &Event) -> Result<Option<Vec<u8>>, String> {
        let mut out = Vec::new();
        match self {
            Operation::Copy | Operation::Move => out.extend_from_slice(value.raw()),
            Operation::Count => out.extend_from_slice(elements(value)?.count().to_string().as_bytes()),
            Operation::PopHead => out.extend_from_slice(elements(value)?.next().map_or(b"null", Json::raw)),
            Operation::PopTail => out.extend_from_slice(elements(value)?.last().map_or(b"null", Json::raw)),
            Operation::Sum => fold(value, Number::Int(0), Number::add)?.write(&mut out)?,
            Operation::Avg => {
                let count = elements(value)?.count();
                if count == 0 {
                    return Ok(None);
                }
                let sum = fold(value, Number::Int(0), Number::add)?;
                Number::Double(sum.as_f64() / count as f64).write(&mut out)?;
            }
            Operation::Min | Operation::Max => {
                let Some(first) = elements(value)?.next() else { return Ok(None) };
                let better =
                    if matches!(self, Operation::Min) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
                let best = |a: Number, b: Number| if b.order(a) == better { b } else { a };
                fold(value, number(first)?, best)?.write(&mut out)?;
            }
            Operation::Add(n) => each(value, &mut out, &mut |v, out| number(v)?.add(*n).write(out))?,
            Operation::Multiply(n) => each(value, &mut out, &mut |v, out| number(v)?.multiply(*n).write(out))?,
            Operation::Replace(Replace { regex, with }) => each(value, &mut out, &mut |v, out| {
                let text = v.as_str().ok_or_else(|| format!("expected a string, found {}", v.kind()))?;
                write_string(&regex.0.replace_all(&text, with), out);
                Ok(())
            })?,
            Operation::Map(map) => return map.apply(value, event),
            Operation::FoldLeft(fold) => fold.run(elements(value)?, event, &mut out)?,
            Operation::FoldRight(fold) => {
                let elements: Vec<_> = elements(value)?.collect();
                fold.run(elements.into_iter().rev(), event, &mut out)?;
            }
            Operation::Expr(expr) => match expr.eval(event) {
                Ok(value) => value.write_json(&mut out),
                Err(EvalError::Absent { .. }) => return Ok(None),
                Err(e) => return Err(e.to_string()),
            },
        }
        Ok(Some(out))
    }
}

pub(super) fn elements(value: Json<'_>) -> Result<impl Iterator<Item = Json<'_>>, String> {
    match value.kind() {
        Sort::Array => Ok(value.elements()),
        kind => Err(format!("expected a list, found {kind}")),
    }
}

fn number(value: Json<'_>) -> Result<Number, String> {
    Number::read(value).ok_or_else(|| format!("expected a number, found {}", value.kind()))
}

fn fold(list: Json<'_>, start: Number, step: impl Fn(Number, Number) -> Number) -> Result<Number, String> {
    elements(list)?.try_fold(start, |sum, element| Ok(step(sum, number(element)?)))
}

/// What makes one value out of another.
type One<'a> = dyn FnMut(Json<'_>, &mut Vec<u8>) -> Result<(), String> + 'a;

/// Applies `one` to a value, or to each element or member, one level deep.
pub(super) fn each(value: Json<'_>, out: &mut Vec<u8>, one: &mut One<'_>) -> Result<(), String> {
    match value.kind() {
        Sort::Array => {
            out.push(b'[');
            for (i, element) in value.elements().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                one(element, out)?;
            }
            out.push(b']');
        }
        Sort::Object => {
            out.push(b'{');
            for (i, member) in value.members().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.push(b'"');
                out.extend_from_slice(member.raw_name);
                out.extend_from_slice(b"\":");
                one(member.value, out)?;
            }
            out.push(b'}');
        }
        _ => one(value, out)?,
    }
    Ok(())
}
