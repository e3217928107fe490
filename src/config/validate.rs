//! Holds a tree against the part of JSON Schema 2020-12 that `schemars` writes, and says everything that is wrong in
//! words. `oneOf` is read as `anyOf`: the alternatives of a Rust enum exclude each other.

use super::report::{Finding, field};
use super::rules;
use super::suggest::{nearest, unknown_field, unknown_word};
use super::tree::{Content, Field, Node};
use serde_json::{Map, Value};

pub(super) type Rules = Map<String, Value>;

/// Everything in the tree that does not fit the schema.
pub(super) fn validate(schema: &Value, node: &Node) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    Check { root: schema }.node(schema, node, "", &mut found);
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn put(&mut self, path: &str, at: usize, message: impl Into<Option<String>>) {
        if let Some(message) = message.into() {
            self.0.push(Finding { path: path.to_owned(), at, message });
        }
    }
}

struct Check<'a> {
    root: &'a Value,
}

impl<'a> Check<'a> {
    fn node(&self, schema: &'a Value, node: &Node, path: &str, found: &mut Found) {
        if matches!(node.content, Content::Broken) {
            return;
        }
        let Value::Object(rules) = schema else {
            let refused = schema == &Value::Bool(false);
            return found.put(path, node.at, refused.then(|| "nothing is expected here".to_owned()));
        };
        if rules.contains_key("$ref") {
            self.node(self.resolved(schema), node, path, found);
        }
        if !rules::sort_fits(rules, node) {
            return found.put(path, node.at, rules::mismatch([rules], node));
        }
        if let Some(message) = rules::literal(rules, node, is_kind(path)) {
            return found.put(path, node.at, message);
        }
        match &node.content {
            Content::Number(n) => found.put(path, node.at, rules::number(rules, n)),
            Content::Text(t) => found.put(path, node.at, rules::text(rules, &t.text, &node.shown())),
            Content::List(items) => self.list(rules, node, items, path, found),
            Content::Object(fields) => self.object(rules, node, fields, path, found),
            _ => {}
        }
        let branches = self.branches(rules);
        if !branches.is_empty() {
            self.alternatives(&branches, node, path, found);
        }
        for rule in array(rules, "allOf") {
            self.node(rule, node, path, found);
        }
        if let Some(condition) = rules.get("if") {
            let holds = self.told(condition, node, path).is_empty();
            if let Some(rule) = rules.get(if holds { "then" } else { "else" }) {
                self.node(rule, node, path, found);
            }
        }
    }

    fn told(&self, schema: &'a Value, node: &Node, path: &str) -> Vec<Finding> {
        let mut found = Found(Vec::new());
        self.node(schema, node, path, &mut found);
        found.0
    }

    /// What a `$ref` into `$defs` names, or the schema itself.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        pointer.and_then(|p| self.root.pointer(p)).unwrap_or(schema)
    }

    fn list(&self, rules: &'a Rules, node: &Node, items: &[Node], path: &str, found: &mut Found) {
        found.put(path, node.at, rules::count(rules, items.len()));
        let first = array(rules, "prefixItems");
        for (i, item) in items.iter().enumerate() {
            if let Some(rule) = first.get(i).or_else(|| rules.get("items")) {
                self.node(rule, item, &format!("{path}[{i}]"), found);
            }
        }
    }

    fn object(&self, rules: &'a Rules, node: &Node, fields: &[Field], path: &str, found: &mut Found) {
        let known = rules.get("properties").and_then(Value::as_object);
        let mut meant = Vec::new();
        for given in fields {
            let below = field(path, &given.name);
            if let Some(Value::Object(rule)) = rules.get("propertyNames") {
                found.put(path, given.at, rules::name(rule, &given.name));
            }
            match (known.and_then(|k| k.get(&given.name)), rules.get("additionalProperties")) {
                (Some(rule), _) => self.node(rule, &given.node, &below, found),
                (None, Some(Value::Bool(false))) => {
                    let names = known.into_iter().flat_map(Rules::keys).map(String::as_str);
                    let free: Vec<&str> = names.filter(|n| node.get(n).is_none() && *n != "$schema").collect();
                    meant.extend(nearest(&given.name, free.iter().copied()));
                    found.put(path, given.at, unknown_field(&given.name, &free));
                }
                (None, Some(rule)) => self.node(rule, &given.node, &below, found),
                (None, None) => {}
            }
        }
        // A field that is there under a mistyped name is not reported as missing too.
        for name in array(rules, "required").iter().filter_map(Value::as_str) {
            if node.get(name).is_none() && !meant.contains(&name) {
                found.put(path, node.at, format!("missing field `{name}`"));
            }
        }
    }

    /// The alternatives of a schema, nested ones included.
    fn branches(&self, rules: &'a Rules) -> Vec<&'a Value> {
        let direct = ["anyOf", "oneOf"].into_iter().flat_map(|key| array(rules, key));
        let resolved = direct.map(|branch| self.resolved(branch));
        let nested = resolved.flat_map(|branch| match branch {
            Value::Object(rules) if rules.contains_key("anyOf") || rules.contains_key("oneOf") => self.branches(rules),
            _ => vec![branch],
        });
        nested.collect()
    }

    /// Reports nothing if one branch fits, else what the branch says that was most likely meant.
    fn alternatives(&self, branches: &[&'a Value], node: &Node, path: &str, found: &mut Found) {
        let told: Vec<Vec<Finding>> = branches.iter().map(|b| self.told(b, node, path)).collect();
        if told.iter().any(Vec::is_empty) {
            return;
        }
        let rules = || branches.iter().filter_map(|b| b.as_object());
        let words: Vec<&str> = rules().flat_map(rules::words).collect();
        let near: Vec<(&'a Rules, Vec<Finding>)> = branches
            .iter()
            .zip(told)
            .filter_map(|(b, told)| Some((b.as_object()?, told)))
            .filter(|(rules, _)| rules::words(rules).is_empty() && rules::sort_fits(rules, node))
            .collect();
        match node.text() {
            _ if !near.is_empty() => self.nearest(near, node, path, found),
            Some(_) if !words.is_empty() => {
                found.put(path, node.at, unknown_word(is_kind(path), &node.shown(), &words));
            }
            _ => found.put(path, node.at, rules::mismatch(rules(), node)),
        }
    }

    /// Of the branches of the right sort: the one whose tag is named, else the one with the least to say.
    fn nearest(&self, near: Vec<(&'a Rules, Vec<Finding>)>, node: &Node, path: &str, found: &mut Found) {
        let (all, told): (Vec<&Rules>, Vec<Vec<Finding>>) = near.into_iter().unzip();
        let told = if let Some(tag) = tag(&all) {
            let words: Vec<&str> = all.iter().filter_map(|rules| tag_word(rules, tag)).collect();
            let Some(given) = node.get(tag) else {
                return found.put(path, node.at, format!("missing field `{tag}`"));
            };
            match words.iter().position(|w| given.text() == Some(*w)) {
                Some(at) => told.into_iter().nth(at),
                None => {
                    let message = unknown_word(tag == "type", &given.shown(), &words);
                    return found.put(&field(path, tag), given.at, message);
                }
            }
        } else {
            told.into_iter().min_by_key(Vec::len)
        };
        found.0.extend(told.unwrap_or_default());
    }
}

/// The field whose word tells the branches apart (`#[serde(tag)]`).
fn tag<'a>(branches: &[&'a Rules]) -> Option<&'a str> {
    let names = branches.first()?.get("properties")?.as_object()?.keys();
    names.map(String::as_str).find(|name| branches.iter().all(|rules| tag_word(rules, name).is_some()))
}

fn tag_word<'a>(rules: &'a Rules, tag: &str) -> Option<&'a str> {
    rules.get("properties")?.get(tag)?.get("const")?.as_str()
}

fn is_kind(path: &str) -> bool {
    path.ends_with(".type")
}

pub(super) fn array<'a>(rules: &'a Rules, key: &str) -> &'a [Value] {
    rules.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
