//! Conditions in our expression language.

use super::{
    pattern,
    reading::{At, Reader, Words, told},
};
use crate::expr::Expr;
use serde_json::Number;
use std::collections::BTreeSet;

const UNARY: Words = Words {
    what: "an operator",
    list: &[("UnknownUnary", 0), ("Negation", 3), ("Inversion", 4), ("LogicalNot", 5)],
    prefixes: &["Unary"],
};
const BINARY: Words = Words {
    what: "an operator",
    list: &[
        ("UnknownBinary", 0),
        ("Addition", 6),
        ("Subtract", 7),
        ("Multiply", 8),
        ("Divide", 9),
        ("Power", 10),
        ("Modulus", 11),
        ("RightShift", 12),
        ("LeftShift", 13),
        ("Or", 14),
        ("And", 15),
        ("Xor", 16),
    ],
    prefixes: &[],
};
const LOGICAL: Words = Words {
    what: "an operator",
    list: &[("UnknownLogical", 0), ("LogicalAnd", 17), ("LogicalOr", 18)],
    prefixes: &["Logical"],
};
const COMPARATOR: Words = Words {
    what: "an operator",
    list: &[
        ("UnknownComparator", 0),
        ("GreaterThan", 19),
        ("LessThan", 20),
        ("GreaterThanOrEqual", 21),
        ("LessThanOrEqual", 22),
        ("Equal", 23),
        ("NotEqual", 24),
        ("RegexMatch", 25),
        ("RegexNotMatch", 26),
    ],
    prefixes: &[],
};
const EXISTS: Words =
    Words { what: "an operator", list: &[("UnknownExists", 0), ("Exists", 1), ("NotExists", 2)], prefixes: &[] };

/// A condition as our expression; none if it always holds.
#[derive(Clone, Default)]
pub(super) struct Condition {
    pub when: Option<String>,
    /// Where it means more than it did.
    pub notes: BTreeSet<&'static str>,
}

/// What an expression gives, as far as the configuration shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Bool,
    Text,
    /// A double for sure: arithmetic with it is that of doubles.
    Double,
    /// A number that may be an int.
    Number,
    Any,
}

/// A part of an expression; `binds` as in our parser: 0 `?:`, 1 `||`, 2 `&&`, 3 relations, 4 sums, 5 products, 6 signs.
#[derive(Clone)]
struct Piece {
    text: String,
    binds: u8,
    sort: Sort,
}

impl Piece {
    fn new(text: impl Into<String>, binds: u8, sort: Sort) -> Self {
        Piece { text: text.into(), binds, sort }
    }

    /// The text as an argument: 5, not 5.0.
    fn short(&self) -> String {
        self.text.parse().map_or_else(|_| self.text.clone(), exact)
    }

    /// The text, in parentheses if it binds less than that.
    fn at(&self, level: u8) -> String {
        if self.binds < level { format!("({})", self.text) } else { self.text.clone() }
    }
}

enum Operand<'n> {
    Piece(Piece),
    Variable(String),
    Literal(String, At<'n>),
    Number(Number),
}

/// The highest level: a name, a constant, a call.
const WHOLE: u8 = 7;
const OPERANDS: &[&str] = &["expression", "variable", "literal", "numeric"];

/// Reads conditions. `nested`: variables inside of objects were read where this one stands.
pub(super) struct Conditions<'c, 'r, 't> {
    pub reader: &'c mut Reader<'r, 't>,
    pub nested: bool,
    notes: BTreeSet<&'static str>,
    inverted: bool,
}

/// The `condition` of a message, whose variables could be nested in the reference or not.
pub(super) fn condition(reader: &mut Reader<'_, '_>, of: &At<'_>, nested: bool) -> Condition {
    let Some(at) = of.get("condition") else { return Condition::default() };
    if at.node.fields().is_empty() && at.node.sort() == "an object" {
        return Condition::default();
    }
    let mut run = Conditions { reader, nested, notes: BTreeSet::new(), inverted: false };
    let when = match run.reader.one_of(&at, &["expression", "exists"]) {
        Some(("exists", exists)) => run.exists(&exists),
        Some((_, expression)) => run.top(&expression),
        None => None,
    };
    let notes = std::mem::take(&mut run.notes);
    if let Some(Err(e)) = when.as_deref().map(Expr::parse) {
        reader.error(&at, format!("it cannot be written as an expression here: {e}"));
    }
    Condition { when, notes }
}

impl<'n> Conditions<'_, '_, '_> {
    fn exists(&mut self, at: &At<'n>) -> Option<String> {
        if !self.reader.message(at, &["ops"]) {
            return None;
        }
        let ops = self.reader.list(at, "ops");
        if ops.is_empty() {
            self.reader.error(at, "`ops` is empty: there is nothing to look for");
        }
        let mut all = Vec::new();
        for op in ops {
            if !self.reader.message(&op, &["key", "op"]) {
                continue;
            }
            let word = self.reader.word(&op, "op", &EXISTS);
            let key = self.reader.named(&op, "key").map(|(key, _)| key);
            let (Some(word), Some(key)) = (word, key) else { continue };
            let place = if key.contains('.') { format!("event.find({})", quoted(&key)) } else { plain(&key) };
            all.push(format!("{}has({place})", if word == "NotExists" { "!" } else { "" }));
        }
        (!all.is_empty()).then(|| all.join(" && "))
    }

    fn top(&mut self, at: &At<'n>) -> Option<String> {
        let piece = self.expression(at)?;
        if matches!(piece.sort, Sort::Bool) {
            return Some(piece.text);
        }
        self.reader.error(at, "it gives a number, and a condition is true or false");
        None
    }

    fn expression(&mut self, at: &At<'n>) -> Option<Piece> {
        match self.reader.one_of(at, &["boolean", "comparator", "logical", "binary", "unary"])? {
            ("boolean", at) => {
                self.reader.message(&at, &["value"]).then_some(())?;
                self.notes.insert("constants could not be used in conditions");
                Some(Piece::new(self.reader.flag(&at, "value").to_string(), WHOLE, Sort::Bool))
            }
            ("comparator", at) => self.comparator(&at),
            ("logical", at) => self.logical(&at),
            ("binary", at) => self.binary(&at),
            (_, at) => self.unary(&at),
        }
    }

    fn operand(&mut self, of: &At<'n>, side: &str) -> Option<Operand<'n>> {
        let at = self.reader.required(of, side)?;
        Some(match self.reader.one_of(&at, OPERANDS)? {
            ("expression", at) => Operand::Piece(self.expression(&at)?),
            ("variable", at) => {
                self.reader.message(&at, &["name"]).then_some(())?;
                let (name, _) = self.reader.named(&at, "name")?;
                if !self.nested && name.contains('.') {
                    self.notes.insert("variables inside of objects and lists failed here");
                }
                Operand::Variable(name)
            }
            ("literal", at) => {
                let text = self.reader.as_text(&at);
                if text.contains(['"', '\\']) {
                    self.notes.insert("quotes and backslashes of literals are kept");
                }
                if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(['-', ':']) {
                    self.notes.insert("a literal that looks like a date is text");
                }
                Operand::Literal(text, at)
            }
            (_, at) => {
                let n = self.reader.as_number(&at)?;
                if (double(&n) * 1e4).fract() != 0.0 {
                    self.notes.insert("numbers are exact, no longer rounded to 4 decimals");
                }
                Operand::Number(n)
            }
        })
    }

    fn sides(&mut self, at: &At<'n>) -> Option<(Operand<'n>, Operand<'n>)> {
        self.reader.message(at, &["lhs", "rhs", "op"]).then_some(())?;
        let (left, right) = (self.operand(at, "lhs"), self.operand(at, "rhs"));
        Some((left?, right?))
    }

    fn comparator(&mut self, at: &At<'n>) -> Option<Piece> {
        let sides = self.sides(at);
        let word = self.reader.known_word(at, "op", &COMPARATOR)?;
        let (left, right) = sides?;
        let sign = match word {
            "RegexMatch" | "RegexNotMatch" => return self.matches(at, left, right, word == "RegexNotMatch"),
            "Equal" => "==",
            "NotEqual" => "!=",
            "GreaterThan" => ">",
            "LessThan" => "<",
            "GreaterThanOrEqual" => ">=",
            _ => "<=",
        };
        // Where an object would be unequal to the constant anyway, and so false, there is no need to pass over it.
        let constant = |side: &Operand<'_>| matches!(side, Operand::Literal(..) | Operand::Number(_));
        let whole = word == "Equal" && !self.inverted && (constant(&left) || constant(&right));
        let show = |side: &Operand<'_>| match side {
            Operand::Variable(name) if whole && !name.contains('.') => Piece::new(plain(name), WHOLE, Sort::Any),
            Operand::Number(n) => {
                let text = n.as_i64().map_or_else(|| exact(double(n)), |n| n.to_string());
                Piece::new(text, if double(n) < 0.0 { 6 } else { WHOLE }, Sort::Number)
            }
            side => side.piece(),
        };
        let (left, right) = (show(&left), show(&right));
        let open = |piece: &Piece| matches!(piece.sort, Sort::Any | Sort::Bool);
        if !["==", "!="].contains(&sign) && open(&left) && open(&right) {
            return Some(Piece::new(format!("order({}, {}) {sign} 0", left.text, right.text), 3, Sort::Bool));
        }
        Some(Piece::new(format!("{} {sign} {}", left.at(4), right.at(4)), 3, Sort::Bool))
    }

    fn matches(&mut self, of: &At<'n>, left: Operand<'n>, right: Operand<'n>, not: bool) -> Option<Piece> {
        let Operand::Literal(text, at) = right else {
            let message = "a pattern must be a `literal`: one that comes from the event is not compiled here";
            match of.get("rhs") {
                Some(at) => self.reader.error(&at, message),
                None => self.reader.error(of, message),
            }
            return None;
        };
        match pattern::checked(&text) {
            Ok(regex) => {
                let subject = left.piece();
                let subject =
                    if matches!(left, Operand::Number(_)) { format!("({})", subject.text) } else { subject.at(WHOLE) };
                let sign = if not { "!" } else { "" };
                Some(Piece::new(format!("{sign}{subject}.matches({})", quoted(&regex)), 6, Sort::Bool))
            }
            Err(e) => {
                self.reader.error(&at, e);
                None
            }
        }
    }

    fn logical(&mut self, at: &At<'n>) -> Option<Piece> {
        let sides = self.sides(at);
        let word = self.reader.known_word(at, "op", &LOGICAL)?;
        let or = word == "LogicalOr";
        if or {
            self.notes.insert("`LogicalOr` is or; it was read as and");
        }
        let (sign, binds) = if or { ("||", 1) } else { ("&&", 2) };
        let (left, right) = sides?;
        let mut pieces = Vec::new();
        for (side, name) in [(left, "lhs"), (right, "rhs")] {
            match side {
                Operand::Piece(piece) => pieces.push(piece.at(binds)),
                _ => {
                    let at = at.get(name).unwrap_or(at.clone());
                    self.reader.error(&at, format!("`{word}` takes an `expression` on both sides"));
                }
            }
        }
        (pieces.len() == 2).then(|| Piece::new(pieces.join(&format!(" {sign} ")), binds, Sort::Bool))
    }

    /// An operand of arithmetic: a variable, a number, or an expression that gives one.
    fn term(&mut self, of: &At<'n>, name: &str, side: Operand<'n>) -> Option<Piece> {
        let at = of.get(name).unwrap_or(of.clone());
        match &side {
            Operand::Literal(..) => {
                self.reader.error(&at, "expected `variable`, `numeric` or `expression`, found `literal`")
            }
            Operand::Piece(piece) if piece.sort == Sort::Bool => {
                self.reader.error(&at, "expected a number, found what is true or false");
            }
            Operand::Piece(piece) => {
                self.notes.insert("arithmetic inside of arithmetic did not load");
                return Some(piece.clone());
            }
            side => return Some(side.piece()),
        }
        None
    }

    fn binary(&mut self, at: &At<'n>) -> Option<Piece> {
        let sides = self.sides(at);
        let word = self.reader.known_word(at, "op", &BINARY)?;
        let (left, right) = sides?;
        let (left, right) = (self.term(at, "lhs", left), self.term(at, "rhs", right));
        let (left, right) = (left?, right?);
        let call = |name: &str, sort| Piece::new(format!("{name}({}, {})", left.short(), right.short()), WHOLE, sort);
        let (sign, binds) = match word {
            "Addition" if [&left, &right].iter().any(|side| matches!(side.sort, Sort::Any | Sort::Text)) => {
                return Some(call("plus", Sort::Any));
            }
            "Addition" => ("+", 4),
            "Subtract" => ("-", 4),
            "Multiply" => ("*", 5),
            "Divide" => ("/", 5),
            "Modulus" => ("%", 5),
            "Power" => return Some(call("pow", Sort::Double)),
            "RightShift" => return Some(call("bitShiftRight", Sort::Number)),
            "LeftShift" => {
                // All of it was without a sign.
                return Some(Piece::new(
                    format!("unsigned({})", call("bitShiftLeft", Sort::Number).text),
                    WHOLE,
                    Sort::Number,
                ));
            }
            "Or" => return Some(call("bitOr", Sort::Number)),
            "And" => return Some(call("bitAnd", Sort::Number)),
            _ => return Some(call("bitXor", Sort::Number)),
        };
        // All numbers were doubles: no overflow, and 7 / 2 is 3.5.
        let double = left.sort == Sort::Double || right.sort == Sort::Double;
        let left = if double { left.at(binds) } else { format!("{} * 1.0", left.at(5)) };
        Some(Piece::new(format!("{left} {sign} {}", right.at(binds + 1)), binds, Sort::Double))
    }

    fn unary(&mut self, at: &At<'n>) -> Option<Piece> {
        self.reader.message(at, &["rhs", "op"]).then_some(())?;
        let word = self.reader.known_word(at, "op", &UNARY)?;
        let inverted = word == "Inversion" || self.inverted;
        let before = std::mem::replace(&mut self.inverted, inverted);
        let side = self.operand(at, "rhs");
        self.inverted = before;
        let side = side?;
        if word == "Inversion" {
            self.notes.insert("`Inversion` is boolean not; it did not work");
            if let Operand::Literal(..) = side {
                let at = at.get("rhs").unwrap_or(at.clone());
                self.reader.error(&at, "expected `variable`, `numeric` or `expression`, found `literal`");
                return None;
            }
            return Some(Piece::new(format!("!{}", side.piece().at(6)), 6, Sort::Bool));
        }
        let piece = self.term(at, "rhs", side)?;
        if word == "Negation" {
            self.notes.insert("`Negation` is minus; it did not work");
            let sort = if piece.sort == Sort::Double { Sort::Double } else { Sort::Number };
            return Some(Piece::new(format!("-{}", piece.at(WHOLE)), 6, sort));
        }
        self.notes.insert("`LogicalNot` inverts the bits; it did not work");
        Some(Piece::new(format!("bitNot({})", piece.short()), WHOLE, Sort::Number))
    }
}

impl Operand<'_> {
    fn piece(&self) -> Piece {
        match self {
            Operand::Piece(piece) => piece.clone(),
            Operand::Variable(name) => Piece::new(format!("event.leaf({})", quoted(name)), WHOLE, Sort::Any),
            Operand::Literal(text, _) => Piece::new(quoted(text), WHOLE, Sort::Text),
            Operand::Number(n) => {
                let n = double(n);
                Piece::new(format!("{n:?}"), if n.is_sign_negative() { 6 } else { WHOLE }, Sort::Double)
            }
        }
    }
}

fn double(n: &Number) -> f64 {
    n.as_f64().unwrap_or(f64::INFINITY)
}

/// A number as short as it can be written: 5, not 5.0.
fn exact(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 9e15 { (n as i64).to_string() } else { format!("{n:?}") }
}

/// A field of the event by its name, which has no dots.
pub(super) fn plain(name: &str) -> String {
    let word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name != "in";
    if word { format!("event.{name}") } else { format!("event[{}]", quoted(name)) }
}

/// A text of our language, in single quotes since it stands in a text of JSON.
pub(super) fn quoted(text: &str) -> String {
    let strange = |c: char| c.is_control() || c == '\'';
    if text.contains('\\') && !text.contains(strange) {
        return format!("r'{text}'");
    }
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// How a condition is told in a comment.
pub(super) fn mended(notes: &BTreeSet<&'static str>, of: &str) -> Vec<String> {
    notes.iter().map(|note| format!("mended in {}: {note}", told(of))).collect()
}
