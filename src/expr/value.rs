//! What expressions compute with.

use crate::event::json::{self, Json, Kind};
use std::{borrow::Cow, cmp::Ordering, io::Write, ops::Deref};

/// A value; it borrows from the event and the expression where it can.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(Cow<'a, str>),
    /// A list or an object as it stands in the event.
    Raw(Json<'a>),
    List(Held<'a, Value<'a>>),
    Map(Held<'a, (Cow<'a, str>, Value<'a>)>),
}

/// Items made here or lent by the expression. (A `Cow` would not do: it is invariant in the lifetime of its items.)
#[derive(Clone, Debug)]
pub enum Held<'a, T> {
    Own(Vec<T>),
    Lent(&'a [T]),
}

impl<T> Deref for Held<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Held::Own(items) => items,
            Held::Lent(items) => items,
        }
    }
}

/// Deeper than any checked body nests; beyond it values are compared byte by byte.
const DEEP: u32 = 2 * json::DEPTH;

impl<'a> Value<'a> {
    /// A value of the event. A number without fraction and exponent that fits is an int, any other a double; one too
    /// large for a double is infinite, which still compares rightly.
    pub fn from_json(json: Json<'a>) -> Value<'a> {
        match json.kind() {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(json.as_bool().unwrap_or_default()),
            Kind::Number => match json.as_i64() {
                Some(int) => Value::Int(int),
                None => {
                    let sign = if json.raw().starts_with(b"-") { -1.0 } else { 1.0 };
                    Value::Double(json.as_f64().unwrap_or(sign * f64::INFINITY))
                }
            },
            Kind::String => Value::Str(json.as_str().unwrap_or_default()),
            Kind::Array | Kind::Object => Value::Raw(json),
        }
    }

    /// The same value, borrowed.
    pub fn lend(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(b) => Value::Bool(*b),
            Value::Int(i) => Value::Int(*i),
            Value::Double(d) => Value::Double(*d),
            Value::Str(s) => Value::Str(Cow::Borrowed(s)),
            Value::Raw(json) => Value::Raw(*json),
            Value::List(items) => Value::List(Held::Lent(items)),
            Value::Map(items) => Value::Map(Held::Lent(items)),
        }
    }

    /// The name of the type, for errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Double(_) => "double",
            Value::Str(_) => "string",
            Value::Raw(json) if json.kind() == Kind::Array => "list",
            Value::List(_) => "list",
            Value::Raw(_) | Value::Map(_) => "map",
        }
    }

    /// Appends the value as JSON. A double that is not finite, inside a list, becomes `null`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match self {
            Value::Null => out.write_all(b"null"),
            Value::Bool(b) => write!(out, "{b}"),
            Value::Int(i) => write!(out, "{i}"),
            Value::Double(d) if d.is_finite() => write!(out, "{d:?}"),
            Value::Double(_) => out.write_all(b"null"),
            Value::Str(s) => {
                json::write_string(s, out);
                Ok(())
            }
            Value::Raw(json) => out.write_all(json.raw()),
            Value::List(items) => {
                out.push(b'[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.write_all(b"]")
            }
            Value::Map(members) => {
                out.push(b'{');
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    json::write_string(name, out);
                    out.push(b':');
                    value.write_json(out);
                }
                out.write_all(b"}")
            }
        };
    }

    /// The value as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out
    }

    /// Elements of a list; `None` for anything else.
    pub(super) fn items(&self) -> Option<Box<dyn Iterator<Item = Value<'_>> + '_>> {
        match self {
            Value::List(items) => Some(Box::new(items.iter().map(Value::lend))),
            Value::Raw(json) if json.kind() == Kind::Array => Some(Box::new(json.elements().map(Value::from_json))),
            _ => None,
        }
    }

    /// Whether a list has the item, or a map the key; `None` where `in` makes no sense.
    pub(super) fn has(&self, item: &Value<'_>) -> Option<bool> {
        match (self, item) {
            (Value::Map(members), Value::Str(key)) => Some(members.iter().any(|(name, _)| name == key)),
            (Value::Raw(json), Value::Str(key)) if json.kind() == Kind::Object => Some(json.member(key).is_some()),
            // CEL has maps with such keys; here all keys are strings.
            (map, Value::Int(_) | Value::Double(_) | Value::Bool(_)) if map.type_name() == "map" => Some(false),
            (Value::List(items), _) => Some(items.iter().any(|own| own.equals(item))),
            (Value::Raw(json), _) if json.kind() == Kind::Array => {
                Some(json.elements().any(|own| Value::from_json(own).equals(item)))
            }
            _ => None,
        }
    }

    /// Number of elements, members or characters; `None` for scalars.
    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Value::Str(s) => s.chars().count(),
            Value::List(items) => items.len(),
            Value::Map(members) => members.len(),
            Value::Raw(json) if json.kind() == Kind::Array => json.elements().count(),
            Value::Raw(json) => sorted_members(&Value::Raw(*json)).len(),
            _ => return None,
        })
    }

    /// Equality as in CEL: numbers by value, values of different types are unequal.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        equal(self, other, DEEP)
    }

    /// The order of numbers (by value), strings, booleans. `Err` for types that have no order with each other; `None`
    /// for a double that is not a number.
    pub(super) fn order(&self, other: &Value<'_>) -> Result<Option<Ordering>, ()> {
        Ok(match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => order_mixed(*a, *b),
            (Value::Double(a), Value::Int(b)) => order_mixed(*b, *a).map(Ordering::reverse),
            (Value::Str(a), Value::Str(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => return Err(()),
        })
    }
}

/// Exact: a cast of the integer would round beyond 2^53.
fn order_mixed(int: i64, double: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if double.is_nan() {
        None
    } else if double >= LIMIT {
        Some(Ordering::Less)
    } else if double < -LIMIT {
        Some(Ordering::Greater)
    } else {
        let whole = double.trunc();
        Some(int.cmp(&(whole as i64)).then_with(|| 0.0.partial_cmp(&(double - whole)).unwrap_or(Ordering::Equal)))
    }
}

fn equal(a: &Value<'_>, b: &Value<'_>, depth: u32) -> bool {
    if let (Value::Raw(a), Value::Raw(b)) = (a, b)
        && (depth == 0 || a.raw() == b.raw())
    {
        return a.raw() == b.raw();
    }
    let depth = depth.saturating_sub(1);
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::List(_) | Value::Raw(_) | Value::Map(_), _) => match (a.items(), b.items()) {
            (Some(mut a), Some(mut b)) => loop {
                match (a.next(), b.next()) {
                    (None, None) => break true,
                    (Some(a), Some(b)) if equal(&a, &b, depth) => {}
                    _ => break false,
                }
            },
            (None, None) if b.type_name() == "map" => {
                let (a, b) = (sorted_members(a), sorted_members(b));
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && equal(&a.1, &b.1, depth))
            }
            _ => false,
        },
        _ => a.order(b) == Ok(Some(Ordering::Equal)),
    }
}

/// The members of a map by name, of a repeated name the last: what two maps are compared by without taking the square
/// of their size.
fn sorted_members<'v>(map: &'v Value<'_>) -> Vec<(Cow<'v, str>, Value<'v>)> {
    let mut members: Vec<(Cow<'v, str>, Value<'v>)> = match map {
        Value::Map(members) => members.iter().map(|(name, v)| (Cow::Borrowed(&**name), v.lend())).collect(),
        Value::Raw(json) => json.members().map(|m| (m.name(), Value::from_json(m.value))).collect(),
        _ => Vec::new(),
    };
    members.reverse();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members.dedup_by(|later, first| later.0 == first.0);
    members
}
