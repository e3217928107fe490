//! The JSON Schema of the whole configuration, put together from the settings and the catalogue: what editors get and
//! what a configuration is held against.

use super::Catalogue;
use super::settings::{NAME, NAME_FORM, PipelineSettings, ProcessCommon, Settings, SinkCommon, SourceCommon};
use super::validate::Rules;
use crate::kind::Kind;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

/// The JSON Schema (2020-12) of a configuration with these kinds.
pub fn schema<S: ?Sized, P: ?Sized, K: ?Sized>(catalogue: &Catalogue<'_, S, P, K>) -> Value {
    let mut g = SchemaGenerator::default();
    let mut defs = Rules::new();
    add_kinds("source", catalogue.sources, &mut g, &mut defs);
    add_kinds("process", catalogue.processes, &mut g, &mut defs);
    add_kinds("sink", catalogue.sinks, &mut g, &mut defs);
    add_kinds("system", catalogue.systems, &mut g, &mut defs);

    let mut pipeline = PipelineSettings::json_schema(&mut g).to_value();
    pipeline["properties"]["processes"] = json!({
        "type": "array",
        "description": "The steps, in order.",
        "items": { "$ref": "#/$defs/process" },
        "maxItems": 256,
        "default": [],
    });
    defs.insert("pipeline".into(), pipeline);

    let mut root = Settings::json_schema(&mut g).to_value();
    let properties = &mut root["properties"];
    properties["$schema"] = json!({ "type": "string", "description": "For editors; not read." });
    for (name, about, item) in [
        ("sources", "Where events come from, by name. A source's events form a topic of its name.", "source"),
        ("pipelines", "Chains of processes, by name. A pipeline's output is a topic of its name.", "pipeline"),
        ("sinks", "Where events go, by name.", "sink"),
        ("systems", "Stores and brokers that sources and processes refer to, by name.", "system"),
    ] {
        properties[name] = json!({
            "type": "object", "description": about, "additionalProperties": { "$ref": format!("#/$defs/{item}") },
        });
    }
    for name in ["sources", "pipelines", "sinks", "systems", "topics"] {
        properties[name]["propertyNames"] = json!({ "pattern": NAME, "title": NAME_FORM });
    }
    let generated = g.take_definitions(true);
    defs.extend(generated);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Tidegate configuration");
    root["$defs"] = Value::Object(defs);
    root
}

/// The names of the fields that every `source`, `process`, `sink` or `system` has; a kind's own struct does not see them.
pub(crate) fn common_fields(sort: &str) -> Vec<String> {
    let schema = commons(sort).map(|schema| schema(&mut SchemaGenerator::default()));
    let properties = schema.as_ref().and_then(|s| s.get("properties")?.as_object());
    ["type".to_owned()].into_iter().chain(properties.into_iter().flat_map(Rules::keys).cloned()).collect()
}

fn commons(sort: &str) -> Option<fn(&mut SchemaGenerator) -> Schema> {
    match sort {
        "source" => Some(SourceCommon::json_schema),
        "process" => Some(ProcessCommon::json_schema),
        "sink" => Some(SinkCommon::json_schema),
        _ => None,
    }
}

/// Defines `source`, which looks at `type` only, and from there leads to `source.http` and the other kinds.
fn add_kinds<T: ?Sized>(sort: &str, kinds: &[Kind<T>], g: &mut SchemaGenerator, defs: &mut Rules) {
    let mut branches = Vec::new();
    for kind in kinds {
        let name = format!("{sort}.{}", kind.name);
        branches.push(json!({
            "if": { "properties": { "type": { "const": kind.name } }, "required": ["type"] },
            "then": { "$ref": format!("#/$defs/{name}") },
        }));
        defs.insert(name, component(sort, kind, g));
    }
    let names: Vec<&str> = kinds.iter().map(|k| k.name).collect();
    let chosen = json!({
        "type": "object",
        "required": ["type"],
        "properties": { "type": { "type": "string", "enum": names, "description": format!("The kind of {sort}.") } },
        "allOf": branches,
    });
    defs.insert(sort.into(), chosen);
}

/// A kind's own fields, and the common ones.
fn component<T: ?Sized>(sort: &str, kind: &Kind<T>, g: &mut SchemaGenerator) -> Value {
    let own = (kind.schema)(g).to_value();
    let common = commons(sort).map_or(Value::Null, |schema| schema(g).to_value());
    let mut properties = Rules::new();
    properties.insert("type".into(), json!({ "const": kind.name, "description": kind.about }));
    let mut required = vec![json!("type")];
    for part in [&own, &common] {
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
    }
    json!({
        "type": "object",
        "description": own.get("description").cloned().unwrap_or_else(|| kind.about.into()),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
