//! Holds a catalogue to its own rules; a test runs it over the real one.

use super::{Catalogue, common_fields, load_with, schema};
use crate::kind::{Kind, ParamsError};
use crate::systems::System;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

/// What is wrong with the kinds themselves, one line each: a name twice, a field without a meaning or with the name of a
/// common one, an example that does not build. References in examples
/// stand for `x`.
pub fn flaws<S: ?Sized, P: ?Sized, K: ?Sized>(catalogue: &Catalogue<'_, S, P, K>) -> Vec<String> {
    let schema = schema(catalogue);
    let mut found = Vec::new();
    check("source", catalogue.sources, &schema, &mut found);
    check("process", catalogue.processes, &schema, &mut found);
    check("sink", catalogue.sinks, &schema, &mut found);
    check("system", catalogue.systems, &schema, &mut found);
    let systems = systems(catalogue.systems);
    for kind in catalogue.sources {
        let text = format!(r#"{{ {systems} "sources": {{ "example": {} }} }}"#, kind.example);
        build("source", kind, &text, catalogue, &mut found);
    }
    for kind in catalogue.processes {
        let text = format!(
            r#"{{ {systems} "topics": {{ "t": {{}} }}, "pipelines": {{ "example": {{ "from": ["t"], "processes": [{}] }} }} }}"#,
            kind.example
        );
        build("process", kind, &text, catalogue, &mut found);
    }
    for kind in catalogue.sinks {
        let text = format!(r#"{{ {systems} "sinks": {{ "example": {} }} }}"#, kind.example);
        build("sink", kind, &text, catalogue, &mut found);
    }
    for kind in catalogue.systems {
        let text = format!(r#"{{ "systems": {{ "example": {} }} }}"#, kind.example);
        build("system", kind, &text, catalogue, &mut found);
    }
    found
}

/// The section that examples may refer to: the systems that need nothing outside, by their kinds' names.
fn systems(kinds: &[Kind<System>]) -> String {
    let inside = kinds.iter().filter(|kind| kind.name.starts_with("memory_"));
    let entries: Vec<String> = inside.map(|kind| format!("\"{}\": {}", kind.name, kind.example)).collect();
    format!("\"systems\": {{ {} }},", entries.join(", "))
}

fn check<T: ?Sized>(sort: &str, kinds: &[Kind<T>], schema: &Value, found: &mut Vec<String>) {
    let mut names = HashSet::new();
    let common = common_fields(sort);
    for kind in kinds {
        let mut flaw = |message: String| found.push(format!("{sort} `{}`: {message}", kind.name));
        if !names.insert(kind.name) {
            flaw("the name is taken twice".into());
        }
        if kind.about.is_empty() || kind.about.contains('\n') || kind.about.ends_with('.') {
            flaw("`about` is not one line without a full stop".into());
        }
        let own = (kind.schema)(&mut schemars::SchemaGenerator::default());
        if own.get("type").and_then(Value::as_str) != Some("object") {
            flaw("its configuration is not a struct".into());
        }
        for name in own.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name) {
            if common.contains(name) {
                flaw(format!("every {sort} has a field `{name}` already"));
            }
        }
        let fields = schema["$defs"][format!("{sort}.{}", kind.name)]["properties"].as_object();
        for (name, field) in fields.into_iter().flatten() {
            let target = field["$ref"].as_str().and_then(|r| schema.pointer(r.strip_prefix('#')?));
            if field.get("description").or_else(|| target?.get("description")).is_none() {
                flaw(format!("the field `{name}` has no doc comment"));
            }
        }
    }
}

fn build<T: ?Sized, S: ?Sized, P: ?Sized, K: ?Sized>(
    sort: &str,
    kind: &Kind<T>,
    text: &str,
    catalogue: &Catalogue<'_, S, P, K>,
    found: &mut Vec<String>,
) {
    let mut flaw = |e: ParamsError| found.push(format!("{sort} `{}`: its example: {e}", kind.name));
    match load_with(Path::new("example"), text, catalogue, &|_| Ok("x".into())) {
        Err(problems) => problems.into_iter().for_each(|p| flaw(ParamsError::at(p.path, p.message))),
        Ok((plan, _)) => {
            let processes = plan.pipelines.iter().flat_map(|p| &p.processes).map(|p| p.kind);
            let kinds = plan.sources.iter().map(|s| s.kind).chain(plan.sinks.iter().map(|s| s.kind)).chain(processes);
            if sort != "system" && !kinds.eq([kind.name]) {
                flaw(ParamsError::at("type", "it is another kind"));
            }
        }
    }
}
