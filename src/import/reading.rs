//! The JSON form of protobuf, read strictly: everything that does not fit is told with its place.

use crate::config::{
    report::{Report, field, shown},
    suggest::{choice, unknown_field, unknown_word},
    tree::{Content, Field, Node},
};
use serde_json::Number;

/// A value and the path to it.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub path: String,
}

impl<'n> At<'n> {
    /// A field that is given; null counts as not given.
    pub fn get(&self, name: &str) -> Option<At<'n>> {
        let node = self.node.get(name).filter(|node| !matches!(node.content, Content::Null))?;
        Some(At { node, path: field(&self.path, name) })
    }

    pub fn items(&self) -> impl Iterator<Item = At<'n>> + use<'n> {
        let path = self.path.clone();
        self.node.items().iter().enumerate().map(move |(i, node)| At { node, path: format!("{path}[{i}]") })
    }
}

/// The names of an enum with their numbers.
pub(super) struct Words {
    pub what: &'static str,
    pub list: &'static [(&'static str, i64)],
    /// What the names begin with that Agglo's configuration generator leaves out.
    pub prefixes: &'static [&'static str],
}

/// Collects what is wrong.
pub(super) struct Reader<'r, 't>(pub &'r mut Report<'t>);

impl Reader<'_, '_> {
    pub fn error(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.0.error(at.path.clone(), at.node.at, message);
    }

    /// Whether it is an object, and tells its fields that are not known.
    pub fn message(&mut self, at: &At<'_>, known: &[&'static str]) -> bool {
        match &at.node.content {
            Content::Object(fields) => {
                for Field { name, at: place, .. } in fields.iter().filter(|f| !known.contains(&f.name.as_str())) {
                    let free: Vec<&str> = known.iter().copied().filter(|k| at.node.get(k).is_none()).collect();
                    self.0.error(at.path.clone(), *place, unknown_field(name, &free));
                }
                true
            }
            _ => {
                self.misfit(at, "an object");
                false
            }
        }
    }

    fn misfit(&mut self, at: &At<'_>, expected: &str) {
        if !matches!(at.node.content, Content::Broken) {
            self.error(at, format!("expected {expected}, found {}", at.node.sort()));
        }
    }

    /// A field that must be there.
    pub fn required<'n>(&mut self, of: &At<'n>, name: &str) -> Option<At<'n>> {
        let found = of.get(name);
        if found.is_none() && !matches!(of.node.content, Content::Broken) {
            self.error(of, format!("missing field `{name}`"));
        }
        found
    }

    /// As `required`, for an object with these fields.
    pub fn part<'n>(&mut self, of: &At<'n>, name: &str, known: &[&'static str]) -> Option<At<'n>> {
        self.required(of, name).filter(|part| self.message(part, known))
    }

    /// The one field of these that is given.
    pub fn one_of<'n>(&mut self, of: &At<'n>, names: &[&'static str]) -> Option<(&'static str, At<'n>)> {
        if !self.message(of, names) {
            return None;
        }
        let given: Vec<(&'static str, At<'n>)> = names.iter().filter_map(|n| Some((*n, of.get(n)?))).collect();
        match &given[..] {
            [one] => Some(one.clone()),
            // A field that is not known was told, and is what was meant.
            [] if of.node.fields().iter().any(|f| !names.contains(&f.name.as_str())) => None,
            [] => {
                let expected = choice(names.iter().map(|n| format!("`{n}`")));
                self.error(of, format!("expected {expected}"));
                None
            }
            [(first, _), (second, at), ..] => {
                self.error(
                    at,
                    format!("`{first}` is given too, and only one can be: take out `{first}` or `{second}`"),
                );
                None
            }
        }
    }

    pub fn list<'n>(&mut self, of: &At<'n>, name: &str) -> Vec<At<'n>> {
        let Some(list) = of.get(name) else { return Vec::new() };
        if !matches!(list.node.content, Content::List(_)) {
            self.misfit(&list, "a list");
        }
        list.items().collect()
    }

    /// A text; empty if it is not given.
    pub fn text(&mut self, of: &At<'_>, name: &str) -> String {
        of.get(name).map(|at| self.as_text(&at)).unwrap_or_default()
    }

    pub fn as_text(&mut self, at: &At<'_>) -> String {
        match at.node.text() {
            Some(text) => text.to_owned(),
            None => {
                self.misfit(at, "text");
                String::new()
            }
        }
    }

    pub fn texts<'n>(&mut self, of: &At<'n>, name: &str) -> Vec<(String, At<'n>)> {
        self.list(of, name).into_iter().map(|at| (self.as_text(&at), at)).collect()
    }

    /// A text that says something, and where it stands.
    pub fn named<'n>(&mut self, of: &At<'n>, name: &str) -> Option<(String, At<'n>)> {
        let at = self.required(of, name)?;
        let text = self.as_text(&at);
        if text.is_empty() && at.node.text().is_some() {
            self.error(&at, "expected text, found an empty one");
        }
        (!text.is_empty()).then_some((text, at))
    }

    pub fn flag(&mut self, of: &At<'_>, name: &str) -> bool {
        match of.get(name) {
            Some(At { node: Node { content: Content::Bool(b), .. }, .. }) => *b,
            Some(at) => {
                self.misfit(&at, "true or false");
                false
            }
            None => false,
        }
    }

    /// A whole number, quoted or not; 0 if it is not given.
    pub fn whole(&mut self, of: &At<'_>, name: &str, least: i64, most: i64) -> i64 {
        let Some(at) = of.get(name) else { return 0 };
        let whole = number(at.node).map(|n| n.as_i64().or_else(|| n.as_f64().and_then(integral)));
        match whole {
            Some(Some(n)) if (least..=most).contains(&n) => n,
            Some(_) => {
                self.error(&at, format!("expected a whole number from {least} to {most}, found {}", at.node.shown()));
                0
            }
            None => {
                self.misfit(&at, "a whole number");
                0
            }
        }
    }

    /// A number, quoted or not.
    pub fn as_number(&mut self, at: &At<'_>) -> Option<Number> {
        let text = at.node.text().unwrap_or_default();
        if ["NaN", "Infinity", "-Infinity"].contains(&text) {
            self.error(at, format!("`{text}` is not a number that JSON can hold"));
            return None;
        }
        let number = number(at.node).filter(|n| n.as_f64().is_some_and(f64::is_finite));
        if number.is_none() {
            self.misfit(at, "a number");
        }
        number
    }

    /// A word of an enum, by name or number; its first, if none is given.
    pub fn word(&mut self, of: &At<'_>, name: &str, words: &Words) -> Option<&'static str> {
        let Some(at) = of.get(name) else { return words.list.first().map(|(word, _)| *word) };
        let found = match &at.node.content {
            Content::Text(text) => {
                let given = match text.text.as_str() {
                    "RegexNoMatch" => "RegexNotMatch",
                    given => given,
                };
                let short = |word: &str| words.prefixes.iter().any(|p| word.strip_prefix(p) == Some(given));
                words.list.iter().find(|(word, _)| *word == given).or(words.list.iter().find(|(word, _)| short(word)))
            }
            Content::Number(_) => {
                let n = number(at.node).and_then(|n| n.as_i64().or_else(|| n.as_f64().and_then(integral)));
                words.list.iter().find(|(_, number)| n == Some(*number))
            }
            _ => {
                self.misfit(&at, &format!("{}, by name or number", words.what));
                return None;
            }
        };
        if found.is_none() {
            let known: Vec<&str> = words.list.iter().skip(1).map(|(word, _)| *word).collect();
            self.error(&at, unknown_word(false, &at.node.shown(), &known));
        }
        found.map(|(word, _)| *word)
    }

    /// As `word`, but the first, which means that nothing is known, is not accepted.
    pub fn known_word(&mut self, of: &At<'_>, name: &str, words: &Words) -> Option<&'static str> {
        let word = self.word(of, name, words)?;
        if words.list.first().is_some_and(|(first, _)| *first == word) {
            let known = choice(words.list.iter().skip(1).map(|(word, _)| format!("`{word}`")));
            let (at, path) = of.get(name).map_or((of.node.at, &of.path), |at| (at.node.at, &of.path));
            self.0.error(field(path, name), at, format!("expected {}: {known}", words.what));
            return None;
        }
        Some(word)
    }
}

/// A number, or one in quotes.
fn number(node: &Node) -> Option<Number> {
    match &node.content {
        Content::Number(n) => Some(n.clone()),
        Content::Text(text) => serde_json::from_str(&text.text).ok().filter(|_| text.text.trim() == text.text),
        _ => None,
    }
}

fn integral(n: f64) -> Option<i64> {
    (n.fract() == 0.0 && n.abs() < 9e15).then_some(n as i64)
}

/// A name as it may stand in a message or comment.
pub(super) fn told(name: &str) -> String {
    format!("`{}`", shown(name))
}
