//! The rules of a schema for one value, without what lies below it. Each gives a message if the value breaks it.

use super::report::shown;
use super::suggest::{choice, unknown_word};
use super::tree::{Content, Node};
use super::validate::{Rules, array};
use regex::Regex;
use serde_json::{Number, Value};

/// Whether the value is of a sort that `type` allows.
pub(super) fn sort_fits(rules: &Rules, node: &Node) -> bool {
    let sorts = sorts(rules);
    let any = |names: &[&str]| names.iter().any(|n| sorts.contains(n));
    sorts.is_empty()
        || match &node.content {
            Content::Null => any(&["null"]),
            Content::Bool(_) => any(&["boolean"]),
            Content::Number(n) if n.is_f64() => any(&["number"]),
            Content::Number(_) => any(&["number", "integer"]),
            Content::Text(_) => any(&["string"]),
            Content::List(_) => any(&["array"]),
            Content::Object(_) => any(&["object"]),
            Content::Broken => true,
        }
}

fn sorts(rules: &Rules) -> Vec<&str> {
    match rules.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The words of an enum without data: its only allowed texts.
pub(super) fn words(rules: &Rules) -> Vec<&str> {
    array(rules, "enum").iter().chain(rules.get("const")).filter_map(Value::as_str).collect()
}

/// `expected a, b or c, found d`, over all alternatives.
pub(super) fn mismatch<'a>(alternatives: impl IntoIterator<Item = &'a Rules>, node: &Node) -> String {
    let mut expected: Vec<String> = Vec::new();
    let mut whole = false;
    for rules in alternatives {
        let words = words(rules);
        let sorts = sorts(rules);
        whole |= sorts.contains(&"integer") && !sorts.contains(&"number");
        let told = sorts.iter().filter(|s| **s != "null" && (words.is_empty() || **s != "string"));
        let told = told.map(|s| sort(s).to_owned());
        expected.extend(words.iter().map(|w| format!("`{w}`")).chain(told));
    }
    expected.dedup();
    if expected.is_empty() {
        expected.push("null".into());
    }
    let number = matches!(node.content, Content::Number(_));
    let found = if whole && number { node.shown() } else { node.sort().to_owned() };
    format!("expected {}, found {found}", choice(expected))
}

/// A sort of value as people call it.
pub(crate) fn sort(name: &str) -> &str {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object",
        other => other,
    }
}

/// `const` and `enum`.
pub(super) fn literal(rules: &Rules, node: &Node, kind: bool) -> Option<String> {
    let mut allowed = array(rules, "enum").iter().chain(rules.get("const")).peekable();
    allowed.peek()?;
    if allowed.any(|a| *a == node.json()) {
        return None;
    }
    Some(unknown_word(kind, &node.shown(), &words(rules)))
}

/// `minimum` and its kin.
pub(super) fn number(rules: &Rules, n: &Number) -> Option<String> {
    let value = n.as_f64()?;
    let limit = |key: &str| rules.get(key).and_then(Value::as_number);
    let outside =
        |key: &str, wrong: fn(f64, f64) -> bool| limit(key).and_then(Number::as_f64).is_some_and(|l| wrong(value, l));
    let expected = if outside("exclusiveMinimum", |v, l| v <= l) {
        format!("more than {}", limit("exclusiveMinimum")?)
    } else if outside("exclusiveMaximum", |v, l| v >= l) {
        format!("less than {}", limit("exclusiveMaximum")?)
    } else if outside("minimum", |v, l| v < l) || outside("maximum", |v, l| v > l) {
        between(limit("minimum"), limit("maximum"))
    } else {
        return None;
    };
    Some(format!("expected {expected}, found `{n}`"))
}

fn between(least: Option<&Number>, most: Option<&Number>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "another number".into(),
    }
}

/// `minLength`, `maxLength` and `pattern`. A pattern is told by the schema's title, examples or description.
pub(super) fn text(rules: &Rules, text: &str, shown: &str) -> Option<String> {
    if let Some(expected) = extent(rules, "minLength", "maxLength", text.chars().count()) {
        return Some(match text {
            "" => "expected text, found an empty one".into(),
            _ => format!("expected {expected} characters, found {shown}"),
        });
    }
    let pattern = Regex::new(rules.get("pattern")?.as_str()?).ok()?;
    (!pattern.is_match(text)).then(|| format!("expected {}, found {shown}", form(rules)))
}

fn form(rules: &Rules) -> String {
    let text = |key| rules.get(key).and_then(Value::as_str).and_then(|d| d.lines().next());
    match (text("title"), array(rules, "examples").first(), text("description")) {
        (Some(title), _, _) => title.to_owned(),
        (None, Some(example), _) => format!("something like {example}"),
        (None, None, Some(description)) => format!("another text ({})", description.trim_end_matches('.')),
        _ => "another text".into(),
    }
}

/// The name of a field that the user chose.
pub(super) fn name(rules: &Rules, name: &str) -> Option<String> {
    text(rules, name, &format!("`{}`", shown(name)))
}

/// `minItems` and `maxItems`.
pub(super) fn count(rules: &Rules, items: usize) -> Option<String> {
    let expected = extent(rules, "minItems", "maxItems", items)?;
    Some(format!(
        "expected {expected} in the list, found {}",
        if items == 0 { "none".into() } else { items.to_string() }
    ))
}

fn extent(rules: &Rules, least: &str, most: &str, is: usize) -> Option<String> {
    let limit = |key| rules.get(key).and_then(Value::as_number);
    let (least, most) = (limit(least), limit(most));
    let is = is as u64;
    let outside =
        least.and_then(Number::as_u64).is_some_and(|l| is < l) || most.and_then(Number::as_u64).is_some_and(|m| is > m);
    outside.then(|| between(least, most))
}
