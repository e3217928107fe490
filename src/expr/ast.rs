//! An expression as a tree.

use super::{find::Find, functions::Function, value::Value};
use crate::event::path::Path;
use regex::Regex;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The byte in the text that an error points to.
    pub at: u32,
    /// Levels of nodes from here down, this one included.
    pub height: u32,
    pub op: Op,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Const(Value<'static>),
    /// The whole event, or a place in it.
    Event,
    Field(Path),
    /// A name of the envelope, and the place inside it.
    Meta(Box<str>, Option<Path>),
    Index(Box<[Node; 2]>),
    Has(Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// `&&` (`true`) or `||` of two or more: one node, so that a long chain is not deep.
    Logic(bool, Vec<Node>),
    If(Box<[Node; 3]>),
    Binary(Binary, Box<[Node; 2]>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Regex),
    Find(Box<Find>),
    List(Vec<Node>),
    Map(Vec<(Box<str>, Node)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

impl Binary {
    /// The operator of that sign with how strongly it binds: 3 relations, 4 sums, 5 products (1 and 2 are `||`, `&&`).
    pub fn of(sign: &str) -> Option<(Binary, u8)> {
        SIGNS.iter().find(|(_, own, _)| *own == sign).map(|(binary, _, level)| (*binary, *level))
    }

    pub fn sign(self) -> &'static str {
        SIGNS.iter().find(|(binary, ..)| *binary == self).map_or("", |(_, sign, _)| sign)
    }
}

const SIGNS: &[(Binary, &str, u8)] = &[
    (Binary::Add, "+", 4),
    (Binary::Subtract, "-", 4),
    (Binary::Multiply, "*", 5),
    (Binary::Divide, "/", 5),
    (Binary::Remainder, "%", 5),
    (Binary::Equal, "==", 3),
    (Binary::Unequal, "!=", 3),
    (Binary::Less, "<", 3),
    (Binary::LessEqual, "<=", 3),
    (Binary::Greater, ">", 3),
    (Binary::GreaterEqual, ">=", 3),
    (Binary::In, "in", 3),
];

impl Node {
    pub fn new(at: usize, op: Op) -> Node {
        let tallest = |nodes: &[Node]| nodes.iter().map(|node| node.height).max().unwrap_or(0);
        let below = match &op {
            Op::Const(_) | Op::Event | Op::Field(_) | Op::Meta(..) | Op::Find(_) => 0,
            Op::Has(node) | Op::Not(node) | Op::Negate(node) | Op::Matches(node, _) => node.height,
            Op::Index(nodes) | Op::Binary(_, nodes) => tallest(&nodes[..]),
            Op::If(nodes) => tallest(&nodes[..]),
            Op::Logic(_, nodes) | Op::Call(_, nodes) | Op::List(nodes) => tallest(nodes),
            Op::Map(members) => members.iter().map(|(_, node)| node.height).max().unwrap_or(0),
        };
        Node { at: at as u32, height: below + 1, op }
    }

    /// How an absent value is called in an error.
    pub fn place(&self) -> String {
        match &self.op {
            Op::Event => "event".to_owned(),
            Op::Field(path) => format!("event.{path}"),
            Op::Meta(name, None) => format!("meta.{name}"),
            Op::Meta(name, Some(path)) => format!("meta.{name}.{path}"),
            Op::Find(find) => format!("event.{}", find.path),
            Op::Index(nodes) => match &nodes[1].op {
                Op::Const(Value::Int(i)) => format!("{}[{i}]", nodes[0].place()),
                Op::Const(Value::Str(name)) => format!("{}.{name}", nodes[0].place()),
                _ => format!("{}[…]", nodes[0].place()),
            },
            _ => "(…)".to_owned(),
        }
    }
}
