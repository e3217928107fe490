//! Tokens to a tree: precedence climbing over the grammar of CEL without macros.

use super::{
    ParseError,
    ast::{Binary, Node, Op},
    find::Find,
    functions::{self, FUNCTIONS, Function, Spec},
    lexer::{Token, tokens},
    value::{Held, Value},
};
use crate::event::path::Path;
use regex::RegexBuilder;
use std::borrow::Cow;

/// Bytes of an expression. A rule that people read has some hundred; 4 KiB keep its tree small.
const LENGTH: usize = 4 << 10;

/// Levels of an expression, so that parsing and evaluating stay within a small stack.
const LEVELS: u32 = 64;

/// Bytes of a compiled pattern and of its cache: some expressions hold a pattern each, and a gateway may have 32 MiB.
const PATTERN: usize = 256 << 10;

pub(super) fn parse(text: &str) -> Result<Node, ParseError> {
    if text.len() > LENGTH {
        return Err(ParseError::new(text, LENGTH, "the expression is longer than 4 KiB"));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, level: 0 };
    let root = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(root),
        Token::Name(word) if word == "and" => parser.wrong("`and` is written `&&`"),
        Token::Name(word) if word == "or" => parser.wrong("`or` is written `||`"),
        _ => parser.wrong("expected an operator or the end"),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, usize)>,
    next: usize,
    level: u32,
}

type Parsed = Result<Node, ParseError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, self.at(), what))
    }

    fn wrong_at<T>(&self, at: usize, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, at, what))
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(own) if *own == mark);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, mark: &str, after: &str) -> Result<(), ParseError> {
        if self.accept(mark) { Ok(()) } else { self.wrong(format!("expected `{mark}` {after}")) }
    }

    fn node(&self, at: usize, op: Op) -> Parsed {
        let node = Node::new(at, op);
        if node.height > LEVELS { self.too_deep(at) } else { Ok(node) }
    }

    fn too_deep<T>(&self, at: usize) -> Result<T, ParseError> {
        self.wrong_at(at, format!("the expression has more than {LEVELS} levels"))
    }

    /// Runs `inner` one level deeper.
    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.level >= LEVELS {
            return self.too_deep(self.at());
        }
        self.level += 1;
        let parsed = inner(self);
        self.level -= 1;
        parsed
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(|p| {
            let condition = p.operators(1)?;
            let at = p.at();
            if !p.accept("?") {
                return Ok(condition);
            }
            let yes = p.operators(1)?;
            p.expect(":", "and what holds otherwise")?;
            let no = p.expression()?;
            p.node(at, Op::If(Box::new([condition, yes, no])))
        })
    }

    /// Operators that bind at least as strongly as `level`.
    fn operators(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let at = self.at();
            let sign = match self.peek() {
                Token::Mark(sign) => *sign,
                Token::Name(word) if word == "in" => "in",
                _ => return Ok(left),
            };
            let own = match sign {
                "||" => 1,
                "&&" => 2,
                _ => Binary::of(sign).map_or(0, |(_, level)| level),
            };
            if own < level || own == 0 {
                return Ok(left);
            }
            self.take();
            let right = self.operators(own + 1)?;
            left = match Binary::of(sign) {
                Some((binary, _)) => self.node(at, Op::Binary(binary, Box::new([left, right])))?,
                None => self.logic(at, own == 2, left, right)?,
            };
        }
    }

    fn logic(&self, at: usize, all: bool, left: Node, right: Node) -> Parsed {
        match left.op {
            Op::Logic(own, mut nodes) if own == all => {
                nodes.push(right);
                self.node(left.at as usize, Op::Logic(all, nodes))
            }
            op => {
                let left = Node { op, ..left };
                self.node(at, Op::Logic(all, vec![left, right]))
            }
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        if self.accept("!") {
            let inner = self.deeper(Self::unary)?;
            return self.node(at, Op::Not(Box::new(inner)));
        }
        if self.accept("-") {
            // 9223372036854775808 is no int, but with the sign before it it is one.
            if let Token::Int(n) = *self.peek()
                && n == 1 << 63
            {
                self.take();
                return self.suffixes(Node::new(at, Op::Const(Value::Int(i64::MIN))));
            }
            let inner = self.deeper(Self::unary)?;
            return match inner.op {
                Op::Const(Value::Int(n)) if n != i64::MIN => self.node(at, Op::Const(Value::Int(-n))),
                Op::Const(Value::Double(d)) => self.node(at, Op::Const(Value::Double(-d))),
                op => self.node(at, Op::Negate(Box::new(Node { op, ..inner }))),
            };
        }
        let node = self.primary()?;
        self.suffixes(node)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let constant = match self.take() {
            Token::Int(n) => match i64::try_from(n) {
                Ok(int) => Value::Int(int),
                Err(_) => return self.wrong_at(at, "the number is out of range"),
            },
            Token::Double(d) => Value::Double(d),
            Token::Text(text) => Value::Str(Cow::Owned(text)),
            Token::Name(name) => return self.named(at, &name),
            Token::Mark("(") => {
                let inner = self.expression()?;
                self.expect(")", "to close the parenthesis")?;
                return Ok(inner);
            }
            Token::Mark("[") => return self.list(at),
            Token::Mark("{") => return self.map(at),
            Token::End => return self.wrong_at(at, "expected a value, found the end"),
            Token::Mark(mark) => return self.wrong_at(at, format!("expected a value, found `{mark}`")),
        };
        self.node(at, Op::Const(constant))
    }

    fn named(&mut self, at: usize, name: &str) -> Parsed {
        match name {
            "true" | "false" => return self.node(at, Op::Const(Value::Bool(name == "true"))),
            "null" => return self.node(at, Op::Const(Value::Null)),
            "event" => return self.node(at, Op::Event),
            "meta" => return self.meta(at),
            "not" => return self.wrong_at(at, "`not` is written `!`"),
            _ => {}
        }
        if !self.accept("(") {
            return self.wrong_at(
                at,
                match functions::closest(name, ["event", "meta", "true", "false", "null"].into_iter()) {
                    Some(close) => format!("`{name}` is not known here; did you mean `{close}`?"),
                    None => format!("`{name}` is not known here; a field of the event is written `event.{name}`"),
                },
            );
        }
        if name != "has" {
            let function = self.function(at, name, false)?;
            let args = self.list_of(")")?;
            return self.call(at, function, args, false);
        }
        let args = self.list_of(")")?;
        match <[Node; 1]>::try_from(args) {
            Ok([inner]) if matches!(inner.op, Op::Field(_) | Op::Meta(..) | Op::Index(_) | Op::Find(_)) => {
                self.node(at, Op::Has(Box::new(inner)))
            }
            _ => self.wrong_at(at, "`has` takes one field: `has(event.a.b)`"),
        }
    }

    fn meta(&mut self, at: usize) -> Parsed {
        let name = match (self.accept("."), self.accept("[")) {
            (true, _) => match self.take() {
                Token::Name(name) => name,
                _ => return self.wrong_at(at, "expected a name after `meta.`"),
            },
            (_, true) => match self.take() {
                Token::Text(name) => {
                    self.expect("]", "after the name")?;
                    name
                }
                _ => return self.wrong_at(at, "expected a name in quotes after `meta[`"),
            },
            _ => return self.wrong_at(at, "`meta` is not a value of its own; write `meta.` and a name"),
        };
        self.node(at, Op::Meta(name.into(), None))
    }

    /// Fields, indexes and methods after a value.
    fn suffixes(&mut self, mut node: Node) -> Parsed {
        loop {
            let at = self.at();
            if self.accept(".") {
                let at = self.at();
                let Token::Name(name) = self.take() else {
                    return self.wrong_at(at, "expected the name of a field or function after `.`");
                };
                node = if self.accept("(") {
                    let function = self.function(at, &name, true)?;
                    let mut args = vec![node];
                    args.extend(self.list_of(")")?);
                    self.call(at, function, args, true)?
                } else {
                    self.select(at, node, Value::Str(Cow::Owned(name)))?
                };
            } else if self.accept("[") {
                let index = self.expression()?;
                self.expect("]", "after the index")?;
                node = match index.op {
                    Op::Const(key) => self.select(at, node, key)?,
                    op => self.node(at, Op::Index(Box::new([node, Node { op, ..index }])))?,
                };
            } else {
                return Ok(node);
            }
        }
    }

    /// A field or index known now becomes part of the path into the event.
    fn select(&self, at: usize, node: Node, key: Value<'static>) -> Parsed {
        let name = match &key {
            Value::Str(name) => name.to_string(),
            Value::Int(i) if *i >= 0 => i.to_string(),
            _ => String::new(),
        };
        let longer = |path: Option<&Path>| Path::of(path.iter().flat_map(|p| p.parts()).chain([name.as_str()])).ok();
        let op = match &node.op {
            Op::Event => longer(None).map(Op::Field),
            Op::Field(path) => longer(Some(path)).map(Op::Field),
            Op::Meta(first, path) => longer(path.as_ref()).map(|path| Op::Meta(first.clone(), Some(path))),
            _ => None,
        };
        match op {
            Some(op) => self.node(node.at as usize, op),
            None => {
                let key = Node::new(at, Op::Const(key));
                self.node(at, Op::Index(Box::new([node, key])))
            }
        }
    }

    /// Expressions with commas between, up to `close`; one comma may follow the last.
    fn list_of(&mut self, close: &str) -> Result<Vec<Node>, ParseError> {
        let mut all = Vec::new();
        while !self.accept(close) {
            all.push(self.expression()?);
            if !self.accept(",") {
                self.expect(close, "or `,`")?;
                break;
            }
        }
        Ok(all)
    }

    fn list(&mut self, at: usize) -> Parsed {
        let nodes = self.list_of("]")?;
        if nodes.iter().all(|node| matches!(node.op, Op::Const(_))) {
            let items = nodes.into_iter().filter_map(|node| if let Op::Const(v) = node.op { Some(v) } else { None });
            return self.node(at, Op::Const(Value::List(Held::Own(items.collect()))));
        }
        self.node(at, Op::List(nodes))
    }

    fn map(&mut self, at: usize) -> Parsed {
        let mut members: Vec<(Box<str>, Node)> = Vec::new();
        while !self.accept("}") {
            let at = self.at();
            let Token::Text(key) = self.take() else { return self.wrong_at(at, "expected a key in quotes") };
            if members.iter().any(|(own, _)| **own == *key) {
                return self.wrong_at(at, format!("the key `{key}` is there twice"));
            }
            self.expect(":", "after the key")?;
            members.push((key.into(), self.expression()?));
            if !self.accept(",") {
                self.expect("}", "or `,`")?;
                break;
            }
        }
        self.node(at, Op::Map(members))
    }

    fn function(&self, at: usize, name: &str, method: bool) -> Result<&'static Spec, ParseError> {
        let Some(function) = FUNCTIONS.iter().find(|f| f.name == name) else {
            return self.wrong_at(at, unknown(name));
        };
        if method && !function.method {
            return self.wrong_at(at, format!("`{name}` is written `{name}(…)`, not after a dot"));
        }
        if !method && !function.global {
            return self.wrong_at(at, format!("`{name}` stands after a value: `event.text.{name}(…)`"));
        }
        Ok(function)
    }

    fn call(&self, at: usize, function: &Spec, args: Vec<Node>, method: bool) -> Parsed {
        let (least, most) = function.arguments;
        if !(least..=most).contains(&args.len()) {
            let (receiver, got) = (usize::from(method), args.len() - usize::from(method));
            let (least, most) = (least - receiver, most - receiver);
            let want = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return self.wrong_at(at, format!("arguments of `{}`: expected {want}, found {got}", function.name));
        }
        if function.id == Function::Matches {
            return self.pattern(at, args);
        }
        if matches!(function.id, Function::Find | Function::Leaf) {
            return self.find(at, function, args);
        }
        self.node(at, Op::Call(function.id, args))
    }

    fn find(&self, at: usize, function: &Spec, mut args: Vec<Node>) -> Parsed {
        let (place, event) = (args.pop(), args.pop());
        let (Some(Node { at: place, op: Op::Const(Value::Str(text)), .. }), Some(Node { op: Op::Event, .. })) =
            (place, event)
        else {
            let name = function.name;
            return self.wrong_at(at, format!("`{name}` takes a place in quotes: `event.{name}(\"a.b\")`"));
        };
        match Find::new(&text, function.id == Function::Leaf) {
            Ok(find) => self.node(at, Op::Find(Box::new(find))),
            Err(e) => self.wrong_at(place as usize, e),
        }
    }

    /// A pattern is compiled here, once. Were it computed, an event could make the gateway compile patterns.
    fn pattern(&self, at: usize, mut args: Vec<Node>) -> Parsed {
        let (pattern, subject) = (args.pop(), args.pop());
        let (Some(Node { at: place, op: Op::Const(Value::Str(text)), .. }), Some(subject)) = (pattern, subject) else {
            return self.wrong_at(at, "the pattern of `matches` must be a text in quotes");
        };
        match RegexBuilder::new(&text).size_limit(PATTERN).dfa_size_limit(PATTERN).build() {
            Ok(regex) => self.node(at, Op::Matches(Box::new(subject), regex)),
            Err(regex::Error::CompiledTooBig(_)) => {
                self.wrong_at(place as usize, "the pattern takes more than 256 KiB when compiled")
            }
            Err(e) => {
                let text = e.to_string();
                let cause = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                self.wrong_at(place as usize, format!("bad pattern: {cause}"))
            }
        }
    }
}

fn unknown(name: &str) -> String {
    if ["all", "exists", "exists_one", "map", "filter"].contains(&name) {
        return format!("`{name}` is a loop of CEL; there are no loops here");
    }
    match functions::closest(name, FUNCTIONS.iter().map(|f| f.name).chain(["has"])) {
        Some(close) => format!("there is no function `{name}`; did you mean `{close}`?"),
        None => format!("there is no function `{name}`"),
    }
}
