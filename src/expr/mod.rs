//! Conditions and computed values: a subset of CEL, the Common Expression Language.
//!
//! `event` is the body, `meta` the envelope. There are ints and doubles (`0x1f`, `-5`, `2.5e3`), strings (`"…"`, `'…'`,
//! `r"…"`, `"""…"""`), `true`, `false`, `null`, lists `[a, b]` and maps `{"key": value}`; fields `event.a.b`,
//! `event["a b"]`, `event.list[0]`; `has(event.a.b)`; `+ - * / %`, `== != < <= > >=`, `in`, `&& || !`, `c ? a : b`;
//! - `size`, `contains`, `startsWith`, `endsWith`, `matches`, and `int`, `double`, `string`, `bool` of the CEL standard;
//! - `lowerAscii`, `upperAscii`, `trim`, `replace`, `split`, `substring`, `join` of CEL's string extension;
//! - `bitAnd`, `bitOr`, `bitXor`, `bitNot`, `bitShiftLeft`, `bitShiftRight` of CEL's math extension, without its `math.`;
//! - our own: `abs`, `min`, `max` (of arguments or of a list), `floor`, `ceil`, `round` (to decimals: `round(x, 2)`),
//!   `pow(x, y)`, `rfc3339(ms)` for milliseconds since 1970;
//! - for rules that come from elsewhere: `plus(a, b)` adds numbers as doubles and joins texts, also with numbers;
//!   `order(a, b)` is -1, 0 or 1 for two numbers or two strings and fails for anything else; `event.find("a.b")` also finds
//!   a field whose name itself has the dot, and `event.leaf("a.b")` only what is neither list nor map.
//!
//! There are no macros, so the cost is bounded by expression × event. Where this is not CEL:
//! - ints and doubles mix: `21 + 0.5` is a double, and so is `5.5 % 2`. Sensors send 21 and 21.5. `1u` is an int.
//! - `has(event.a.b)` is false if `a` is absent or no object, and a field of something that has none is absent.
//! - An absent field makes a condition false. It counts as false in `&&` and `||`, too.
//! - `int(true)` is 1; `double("inf")` fails; a list that is too short makes `list[i]` absent.
//! - Bits are also those of doubles, whose fraction is cut off.
//! - The pattern of `matches`, the place of `find` and `leaf` and the keys of maps are written out; `in` looks for scalars only.
//! - A result that is not a finite number fails, since JSON has no words for it.

mod ast;
mod eval;
mod find;
mod functions;
mod lexer;
mod numbers;
mod parser;
mod value;

pub use value::{Held, Value};

use crate::event::body::Body;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

/// An expression, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Expr(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    root: ast::Node,
}

/// What an expression can read.
pub trait Scope {
    /// `event`
    fn event(&self) -> &Body;
    /// `meta.<name>`; `None` if there is no such thing.
    fn meta(&self, name: &str) -> Option<Value<'_>>;
}

/// Why a text is no expression; columns are counted in characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {what}")]
pub struct ParseError {
    pub column: usize,
    pub what: String,
}

/// Why an expression has no value for this event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It reads a field that the event does not have.
    #[error("column {column}: `{path}` is absent")]
    Absent { path: String, column: usize },
    /// A type error, an overflow, or a value that becomes too large.
    #[error("column {column}: {what}")]
    Failed { column: usize, what: String },
}

fn column(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(start, _)| *start < at).count() + 1
}

impl ParseError {
    fn new(text: &str, at: usize, what: impl Into<String>) -> Self {
        ParseError { column: column(text, at), what: what.into() }
    }
}

impl Expr {
    /// Compiles at most 4 KiB of text.
    pub fn parse(text: &str) -> Result<Expr, ParseError> {
        let root = parser::parse(text)?;
        Ok(Expr(Arc::new(Compiled { text: text.into(), root })))
    }

    /// The value for an event. Borrows where it can; what it builds is at most 64 KiB.
    pub fn eval<'a>(&'a self, scope: &'a dyn Scope) -> Result<Value<'a>, EvalError> {
        let run = eval::Run::new(&self.0.text, scope);
        match run.eval(&self.0.root) {
            Ok(Value::Double(d)) if !d.is_finite() => {
                Err(EvalError::Failed { column: 1, what: "the result is not a finite number".to_owned() })
            }
            Ok(value) => Ok(value),
            Err(stop) => Err(run.error(stop)),
        }
    }

    /// The condition for an event: false if it reads an absent field. Fails on a type error, and if it is no condition.
    pub fn test(&self, scope: &dyn Scope) -> Result<bool, EvalError> {
        let run = eval::Run::new(&self.0.text, scope);
        match run.eval(&self.0.root) {
            Ok(Value::Bool(b)) => Ok(b),
            Ok(other) => {
                let what = format!("a condition must be a bool, not {}", other.type_name());
                Err(EvalError::Failed { column: 1, what })
            }
            Err(eval::Stop::Absent(_)) => Ok(false),
            Err(stop) => Err(run.error(stop)),
        }
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for Expr {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Expr::parse(text)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expr({})", self.as_str())
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(de)?;
        Expr::parse(&text).map_err(|e| serde::de::Error::custom(format!("expression `{text}`: {e}")))
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(self.as_str())
    }
}

impl JsonSchema for Expr {
    fn schema_name() -> Cow<'static, str> {
        "Expr".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": 4096,
            "description": "An expression in a subset of CEL; `event` is the body, `meta` the envelope.",
            "examples": ["event.temp > -40.0 && event.temp < 85.0"]
        })
    }
}

#[cfg(test)]
mod tests;
