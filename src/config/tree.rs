//! JSON with comments as a tree that knows where each value stands and what was put in from outside.

use super::interpolate::{Filled, Outside, fill};
use super::report::{Report, field, shown};
use crate::budget::Size;
use jsonc_parser::{ParseOptions, ast, common::Ranged, errors::ParseErrorKind};
use serde_json::{Number, Value};

/// Far more than a gateway needs; a larger file is a mistake, such as a data file given as configuration.
pub(crate) const LARGEST: Size = Size(4 << 20);
/// Levels of nesting; it bounds recursion.
const DEEPEST: usize = 64;
/// The same for what programs write.
const DEEPEST_WRITTEN: usize = 256;
/// Of what is quoted where it should not stand: `undefined`, `True`.
const LONGEST_WORD: usize = 9;

/// A value and the byte offset where it starts.
pub(crate) struct Node {
    pub at: usize,
    pub content: Content,
}

pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(Filled),
    List(Vec<Node>),
    Object(Vec<Field>),
    /// Something that was already reported: it fits everywhere and is never decoded.
    Broken,
}

/// One field of an object; `at` is where its name stands.
pub(crate) struct Field {
    pub name: String,
    pub at: usize,
    pub node: Node,
}

/// Parses and fills in references. Reports every error; `None` when there is no tree to go on with.
pub(crate) fn parse(text: &str, outside: Outside<'_>, report: &mut Report<'_>) -> Option<Node> {
    grow(text, Some(outside), DEEPEST, report)
}

/// As `parse`, for a file that is no configuration of ours: texts are what they are, and it may nest deeper.
pub(crate) fn parse_plain(text: &str, report: &mut Report<'_>) -> Option<Node> {
    grow(text, None, DEEPEST_WRITTEN, report)
}

fn grow(text: &str, outside: Option<Outside<'_>>, deepest: usize, report: &mut Report<'_>) -> Option<Node> {
    if text.len() as u64 > LARGEST.0 {
        report.error("", 0, format!("the file is larger than {LARGEST}"));
        return None;
    }
    if let Some(at) = open_text(text) {
        report.error("", at, "text without its closing `\"` on the same line");
        return None;
    }
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
    };
    match jsonc_parser::parse_to_ast(text, &Default::default(), &options) {
        Ok(parsed) => match parsed.value {
            Some(value) => {
                let mut grow = Grow { text, outside, deepest, report };
                Some(grow.node(value, "", 1))
            }
            None => {
                report.error("", text.len(), "the file is empty, expected an object");
                None
            }
        },
        Err(e) => {
            let at = e.range().start;
            report.error("", at, explain(e.kind(), text.get(at..).unwrap_or_default(), deepest));
            None
        }
    }
}

/// Where a text starts that is still open at the end of its line: a forgotten quote, which the parser would only notice
/// further down.
fn open_text(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let skip = |from: usize, end: &str| text.get(from..)?.find(end).map(|n| from + n + end.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], bytes.get(i + 1)) {
            (b'/', Some(b'/')) => i = skip(i, "\n").unwrap_or(bytes.len()),
            (b'/', Some(b'*')) => i = skip(i + 2, "*/").unwrap_or(bytes.len()),
            (b'"', _) => {
                let start = i;
                i += 1;
                while *bytes.get(i)? != b'"' {
                    match bytes[i] {
                        b'\n' => return Some(start),
                        b'\\' if bytes.get(i + 1) != Some(&b'\n') => i += 2,
                        _ => i += 1,
                    }
                }
                i += 1;
            }
            _ => i += 1,
        }
    }
    None
}

fn explain(kind: &ParseErrorKind, rest: &str, deepest: usize) -> String {
    use ParseErrorKind as K;
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || "_-+.".contains(*c)).collect();
    let word = if word.is_empty() { rest.chars().take(1).collect() } else { word };
    // A longer one may be a secret whose quotes were forgotten.
    let short = if word.len() > LONGEST_WORD { "…".into() } else { shown(&word) };
    match kind {
        K::ExpectedColonAfterObjectKey => "expected `:` after the name of the field".into(),
        K::ExpectedObjectValue => "expected a value after `:`".into(),
        K::ExpectedStringObjectProperty => format!("names of fields stand in quotes: `\"{}\"`", shown(&word)),
        K::ExpectedComma => "expected `,` before the next value".into(),
        K::MultipleRootJsonValues => format!("expected the end of the file, found `{short}`"),
        K::SingleQuotedStringsNotAllowed => "text stands in double quotes".into(),
        K::HexadecimalNumbersNotAllowed | K::UnaryPlusNumbersNotAllowed => {
            format!("`{}` is not a number as JSON writes it", shown(&word))
        }
        K::ExpectedDigit | K::ExpectedDigitFollowingNegativeSign | K::ExpectedPlusMinusOrDigitInNumberLiteral => {
            "expected a digit".into()
        }
        K::String(kind) => kind.to_string().to_lowercase(),
        K::UnterminatedArray => "a list without its closing `]`".into(),
        K::UnterminatedObject => "an object without its closing `}`".into(),
        K::UnterminatedCommentBlock => "a comment without its closing `*/`".into(),
        K::NestingDepthExceeded => format!("nested deeper than {deepest} levels"),
        _ => format!("unexpected `{short}`"),
    }
}

struct Grow<'a, 'r, 't> {
    text: &'a str,
    outside: Option<Outside<'a>>,
    deepest: usize,
    report: &'r mut Report<'t>,
}

impl Grow<'_, '_, '_> {
    fn node(&mut self, value: ast::Value<'_>, path: &str, depth: usize) -> Node {
        let at = value.range().start;
        if depth > self.deepest {
            self.report.error(path, at, format!("nested deeper than {} levels", self.deepest));
            return Node { at, content: Content::Broken };
        }
        let content = match value {
            ast::Value::NullKeyword(_) => Content::Null,
            ast::Value::BooleanLit(b) => Content::Bool(b.value),
            ast::Value::NumberLit(n) => self.number(n.value, path, at),
            ast::Value::StringLit(s) => self.string(&s, path),
            ast::Value::Array(list) => {
                let items = list.elements.into_iter().enumerate();
                Content::List(items.map(|(i, v)| self.node(v, &format!("{path}[{i}]"), depth + 1)).collect())
            }
            ast::Value::Object(object) => self.object(object, path, depth),
        };
        Node { at, content }
    }

    fn number(&mut self, text: &str, path: &str, at: usize) -> Content {
        match serde_json::from_str::<Number>(text) {
            Ok(n) => Content::Number(n),
            Err(_) => {
                self.report.error(path, at, format!("`{}` is not a number that can be held", shown(text)));
                Content::Broken
            }
        }
    }

    fn string(&mut self, lit: &ast::StringLit<'_>, path: &str) -> Content {
        // The parser lets raw control characters through that JSON forbids.
        let raw = self.text.get(lit.range.start..lit.range.end).unwrap_or_default();
        if raw.contains(|c: char| c < ' ' && c != '\t') {
            self.report.error(path, lit.range.start, "text with a control character, write it as an escape");
            return Content::Broken;
        }
        let Some(outside) = self.outside else { return Content::Text(Filled::plain(&lit.value)) };
        match fill(&lit.value, outside) {
            Ok(filled) => Content::Text(filled),
            Err(message) => {
                self.report.error(path, lit.range.start, message);
                Content::Broken
            }
        }
    }

    fn object(&mut self, object: ast::Object<'_>, path: &str, depth: usize) -> Content {
        let mut seen = std::collections::HashSet::new();
        let mut fields: Vec<Field> = Vec::with_capacity(object.properties.len());
        for prop in object.properties {
            let at = prop.range.start;
            let name = prop.name.into_string();
            let path = field(path, &name);
            if !seen.insert(name.clone()) {
                self.report.error(path, at, "the field is given twice");
                continue;
            }
            let node = self.node(prop.value, &path, depth + 1);
            fields.push(Field { name, at, node });
        }
        Content::Object(fields)
    }
}

impl Node {
    /// The fields of an object; nothing for any other value.
    pub fn fields(&self) -> &[Field] {
        match &self.content {
            Content::Object(fields) => fields,
            _ => &[],
        }
    }

    /// The items of a list; nothing for any other value.
    pub fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        self.fields().iter().find(|f| f.name == name).map(|f| &f.node)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(filled) => Some(&filled.text),
            _ => None,
        }
    }

    /// The value for the decoder.
    pub fn json(&self) -> Value {
        match &self.content {
            Content::Null | Content::Broken => Value::Null,
            Content::Bool(b) => Value::Bool(*b),
            Content::Number(n) => Value::Number(n.clone()),
            Content::Text(filled) => Value::String(filled.text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::json).collect()),
            Content::Object(fields) => Value::Object(fields.iter().map(|f| (f.name.clone(), f.node.json())).collect()),
        }
    }

    /// The value as the file shows it, short: for messages. References are not resolved in it.
    pub fn shown(&self) -> String {
        match &self.content {
            Content::Bool(b) => format!("`{b}`"),
            Content::Number(n) => format!("`{n}`"),
            Content::Text(filled) => format!("`{}`", shown(filled.written())),
            _ => self.sort().into(),
        }
    }

    /// What sort of value it is, with its article.
    pub fn sort(&self) -> &'static str {
        match &self.content {
            Content::Null => "null",
            Content::Bool(true) => "`true`",
            Content::Bool(false) => "`false`",
            Content::Number(_) => "a number",
            Content::Text(_) => "text",
            Content::List(_) => "a list",
            Content::Object(_) => "an object",
            Content::Broken => "an error",
        }
    }

    /// The offset of the value that a decoder's path names (`tls.cert`, `steps[2].when`), or of the nearest one around it.
    pub fn locate(&self, path: &str) -> usize {
        let path = path.strip_prefix('.').unwrap_or(path);
        if let Some((index, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
            let item = index.parse::<usize>().ok().and_then(|i| self.items().get(i));
            return item.map_or(self.at, |n| n.locate(rest));
        }
        let below =
            |f: &&Field| path.strip_prefix(f.name.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']));
        let longest = self.fields().iter().filter(below).max_by_key(|f| f.name.len());
        longest.map_or(self.at, |f| f.node.locate(&path[f.name.len()..]))
    }

    /// Every text in it that was filled in from outside.
    pub fn filled(&self) -> Vec<&Filled> {
        match &self.content {
            Content::Text(filled) if !filled.parts.is_empty() => vec![filled],
            Content::List(items) => items.iter().flat_map(Node::filled).collect(),
            Content::Object(fields) => fields.iter().flat_map(|f| f.node.filled()).collect(),
            _ => Vec::new(),
        }
    }
}
