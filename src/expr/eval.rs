//! Walks the tree with an event.

use super::{
    EvalError, Scope,
    ast::{Binary, Node, Op},
    functions,
    value::{Held, Value},
};
use std::{borrow::Cow, cell::Cell};

/// Bytes that one evaluation may build: texts joined, lists made. Far above any value worth annotating; without it
/// an expression of 4 KiB could make 60 copies of a text of a megabyte.
const BUILT: usize = 64 << 10;

/// One evaluation.
pub(super) struct Run<'a> {
    text: &'a str,
    scope: &'a dyn Scope,
    built: Cell<usize>,
}

/// Why there is no value. Small, since an absent field is an everyday case.
pub(super) enum Stop<'a> {
    Absent(&'a Node),
    Failed(Box<EvalError>),
}

pub(super) type Out<'a> = Result<Value<'a>, Stop<'a>>;

/// The elements of a list.
type Items<'a> = Box<dyn Iterator<Item = Value<'a>> + 'a>;

impl<'a> Run<'a> {
    pub fn new(text: &'a str, scope: &'a dyn Scope) -> Self {
        Run { text, scope, built: Cell::new(0) }
    }

    /// The error that callers see.
    pub fn error(&self, stop: Stop<'_>) -> EvalError {
        match stop {
            Stop::Failed(error) => *error,
            Stop::Absent(node) => {
                EvalError::Absent { path: node.place(), column: super::column(self.text, node.at as usize) }
            }
        }
    }

    pub fn fail(&self, node: &Node, what: String) -> Stop<'a> {
        Stop::Failed(Box::new(EvalError::Failed { column: super::column(self.text, node.at as usize), what }))
    }

    pub fn overflow(&self, node: &Node) -> Stop<'a> {
        self.fail(node, "the int overflows".to_owned())
    }

    /// Counts bytes about to be built.
    pub fn spend(&self, node: &Node, bytes: usize) -> Result<(), Stop<'a>> {
        self.built.set(self.built.get().saturating_add(bytes));
        if self.built.get() > BUILT {
            return Err(self.fail(node, "the value becomes larger than 64 KiB".to_owned()));
        }
        Ok(())
    }

    pub fn text(&self, node: &'a Node) -> Result<Cow<'a, str>, Stop<'a>> {
        match self.eval(node)? {
            Value::Str(text) => Ok(text),
            other => Err(self.fail(node, format!("expected a string, not {}", other.type_name()))),
        }
    }

    pub fn int(&self, node: &'a Node) -> Result<i64, Stop<'a>> {
        match self.eval(node)? {
            Value::Int(int) => Ok(int),
            other => Err(self.fail(node, format!("expected an int, not {}", other.type_name()))),
        }
    }

    fn bool(&self, node: &'a Node) -> Result<bool, Stop<'a>> {
        match self.eval(node)? {
            Value::Bool(b) => Ok(b),
            other => Err(self.fail(node, format!("expected a bool, not {}", other.type_name()))),
        }
    }

    /// The elements of a list.
    pub fn items(&self, node: &Node, name: &str, list: Value<'a>) -> Result<Items<'a>, Stop<'a>> {
        match list {
            Value::List(Held::Own(items)) => Ok(Box::new(items.into_iter())),
            Value::List(Held::Lent(items)) => Ok(Box::new(items.iter().map(Value::lend))),
            Value::Raw(json) if json.raw().starts_with(b"[") => Ok(Box::new(json.elements().map(Value::from_json))),
            other => Err(self.fail(node, format!("`{name}` cannot take {}", other.type_name()))),
        }
    }

    pub fn eval(&self, node: &'a Node) -> Out<'a> {
        match &node.op {
            Op::Const(value) => Ok(value.lend()),
            Op::Field(path) => self.found(node, self.scope.event().get(path).map(Value::from_json)),
            Op::Event => self.event(node),
            Op::Meta(name, None) => self.found(node, self.scope.meta(name)),
            Op::Meta(name, Some(path)) => {
                let mut value = self.found(node, self.scope.meta(name))?;
                for part in path.parts() {
                    value = self.found(node, member(value, part))?;
                }
                Ok(value)
            }
            Op::Index(nodes) => self.index(node, &nodes[0], &nodes[1]),
            Op::Has(inner) => match self.eval(inner) {
                Ok(_) => Ok(Value::Bool(true)),
                Err(Stop::Absent(_)) => Ok(Value::Bool(false)),
                Err(failed) => Err(failed),
            },
            Op::Not(inner) => Ok(Value::Bool(!self.bool(inner)?)),
            Op::Negate(inner) => match self.eval(inner)? {
                Value::Int(i) => i.checked_neg().map(Value::Int).ok_or_else(|| self.overflow(node)),
                Value::Double(d) => Ok(Value::Double(-d)),
                other => Err(self.fail(node, format!("`-` cannot take {}", other.type_name()))),
            },
            Op::Logic(all, nodes) => self.logic(*all, nodes),
            Op::If(nodes) => self.eval(if self.bool(&nodes[0])? { &nodes[1] } else { &nodes[2] }),
            Op::Binary(binary, nodes) => self.binary(node, *binary, &nodes[0], &nodes[1]),
            Op::Call(function, args) => functions::call(self, node, *function, args),
            Op::Find(find) => self.found(node, find.run(self.scope.event()).map(Value::from_json)),
            Op::Matches(subject, regex) => Ok(Value::Bool(regex.is_match(&self.text(subject)?))),
            Op::List(nodes) => {
                self.spend(node, nodes.len() * size_of::<Value<'_>>())?;
                let items: Result<Vec<_>, _> = nodes.iter().map(|item| self.eval(item)).collect();
                Ok(Value::List(Held::Own(items?)))
            }
            Op::Map(members) => {
                self.spend(node, members.len() * 2 * size_of::<Value<'_>>())?;
                let pair = |(name, value): &'a (Box<str>, Node)| Ok((Cow::Borrowed(&**name), self.eval(value)?));
                let members: Result<Vec<_>, _> = members.iter().map(pair).collect();
                Ok(Value::Map(Held::Own(members?)))
            }
        }
    }

    fn found(&self, node: &'a Node, value: Option<Value<'a>>) -> Out<'a> {
        value.ok_or(Stop::Absent(node))
    }

    /// The whole body; if it was edited, as a map that is made for it.
    fn event(&self, node: &Node) -> Out<'a> {
        let body = self.scope.event();
        if let Some(json) = body.as_json() {
            return Ok(Value::Raw(json));
        }
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        for (name, json) in body.fields() {
            self.spend(node, 2 * size_of::<Value<'_>>() + name.len())?;
            members.push((name, Value::from_json(json)));
        }
        Ok(Value::Map(Held::Own(members)))
    }

    /// As in a path, what is not there or has no such places is absent.
    fn index(&self, node: &'a Node, of: &'a Node, key: &'a Node) -> Out<'a> {
        let (value, key) = (self.eval(of)?, self.eval(key)?);
        let place = match &key {
            Value::Str(name) => return self.found(node, member(value, name)),
            Value::Int(i) => usize::try_from(*i).ok(),
            Value::Double(d) if d.fract() == 0.0 => (*d >= 0.0).then_some(*d as usize),
            _ => return Err(self.fail(node, format!("{} is no index", key.type_name()))),
        };
        let items = self.items(node, "[]", value).ok();
        self.found(node, place.and_then(|place| items?.nth(place)))
    }

    /// `&&` and `||` of CEL: an operand that decides wins over an error of another, whichever comes first. Where an
    /// absent field and a failure meet, absent counts as false: it decides `&&`, and `||` reports the failure.
    fn logic(&self, all: bool, nodes: &'a [Node]) -> Out<'a> {
        let mut stop: Option<Stop<'a>> = None;
        for node in nodes {
            match self.bool(node) {
                Ok(b) if b == all => {}
                Ok(b) => return Ok(Value::Bool(b)),
                Err(new) => {
                    if stop.as_ref().is_none_or(|old| {
                        matches!((all, old, &new), (true, Stop::Failed(_), Stop::Absent(_)))
                            || matches!((all, old, &new), (false, Stop::Absent(_), Stop::Failed(_)))
                    }) {
                        stop = Some(new);
                    }
                }
            }
        }
        stop.map_or(Ok(Value::Bool(all)), Err)
    }

    fn binary(&self, node: &'a Node, binary: Binary, left: &'a Node, right: &'a Node) -> Out<'a> {
        let (a, b) = (self.eval(left)?, self.eval(right)?);
        let truth = match binary {
            Binary::Equal => a.equals(&b),
            Binary::Unequal => !a.equals(&b),
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                let order = a.order(&b).map_err(|()| self.mismatch(node, binary, &a, &b))?;
                order.is_some_and(|order| match binary {
                    Binary::Less => order.is_lt(),
                    Binary::LessEqual => order.is_le(),
                    Binary::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
            Binary::In => {
                if matches!(a, Value::List(_) | Value::Map(_) | Value::Raw(_)) {
                    return Err(self.fail(node, format!("`in` cannot look for {}", a.type_name())));
                }
                b.has(&a).ok_or_else(|| self.mismatch(node, binary, &a, &b))?
            }
            _ => return self.arithmetic(node, binary, a, b),
        };
        Ok(Value::Bool(truth))
    }

    fn mismatch(&self, node: &Node, binary: Binary, a: &Value<'_>, b: &Value<'_>) -> Stop<'a> {
        self.fail(node, format!("`{}` cannot take {} and {}", binary.sign(), a.type_name(), b.type_name()))
    }

    fn arithmetic(&self, node: &Node, binary: Binary, a: Value<'a>, b: Value<'a>) -> Out<'a> {
        match (a, b) {
            (Value::Int(a), Value::Int(b)) => {
                let result = match binary {
                    Binary::Add => a.checked_add(b),
                    Binary::Subtract => a.checked_sub(b),
                    Binary::Multiply => a.checked_mul(b),
                    _ if b == 0 => return Err(self.fail(node, "an int is divided by zero".to_owned())),
                    Binary::Divide => a.checked_div(b),
                    _ => a.checked_rem(b),
                };
                result.map(Value::Int).ok_or_else(|| self.overflow(node))
            }
            (Value::Double(a), Value::Double(b)) => Ok(Value::Double(doubles(binary, a, b))),
            (Value::Int(a), Value::Double(b)) => Ok(Value::Double(doubles(binary, a as f64, b))),
            (Value::Double(a), Value::Int(b)) => Ok(Value::Double(doubles(binary, a, b as f64))),
            (Value::Str(a), Value::Str(b)) if binary == Binary::Add => {
                self.spend(node, a.len() + b.len())?;
                let mut joined = a.into_owned();
                joined.push_str(&b);
                Ok(Value::Str(Cow::Owned(joined)))
            }
            (a, b) if binary == Binary::Add && a.type_name() == "list" && b.type_name() == "list" => {
                let mut joined = Vec::new();
                for item in self.items(node, "+", a)?.chain(self.items(node, "+", b)?) {
                    self.spend(node, size_of::<Value<'_>>())?;
                    joined.push(item);
                }
                Ok(Value::List(Held::Own(joined)))
            }
            (a, b) => Err(self.mismatch(node, binary, &a, &b)),
        }
    }
}

fn doubles(binary: Binary, a: f64, b: f64) -> f64 {
    match binary {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        _ => a % b,
    }
}

/// The member or element that a part of a path means.
fn member<'a>(value: Value<'a>, name: &str) -> Option<Value<'a>> {
    match value {
        Value::Raw(json) if json.raw().starts_with(b"{") => json.member(name).map(Value::from_json),
        Value::Raw(json) => json.elements().nth(name.parse().ok()?).map(Value::from_json),
        Value::Map(Held::Own(members)) => members.into_iter().rfind(|(own, _)| own == name).map(|(_, value)| value),
        Value::Map(Held::Lent(members)) => members.iter().rfind(|(own, _)| own == name).map(|(_, value)| value.lend()),
        _ => None,
    }
}
