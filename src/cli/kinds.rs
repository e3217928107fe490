//! `tidegate kinds`: the catalogue as people and programs read it, from the same schema that checks a configuration.

use super::Format;
use crate::config::{self, Catalogue, choice, unknown_name};
use crate::kind::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// One kind, with all that the configuration says about it.
#[derive(Serialize)]
struct Page {
    sort: &'static str,
    name: &'static str,
    about: &'static str,
    fields: Vec<Row>,
    example: &'static str,
}

/// One field. Nested ones have their path: `tls.cert`, `paths[].path`, `headers.*`.
#[derive(Serialize)]
struct Row {
    field: String,
    r#type: String,
    required: bool,
    default: Value,
    meaning: String,
    /// Whether every component of the sort has it.
    common: bool,
}

const SORTS: [(&str, &str); 4] =
    [("source", "sources"), ("process", "processes"), ("sink", "sinks"), ("system", "systems")];
/// Columns of a terminal.
/// The widest that the column of types gets.
const TYPE: usize = 34;
const WIDTH: usize = 110;
/// Lists of lists deeper than this are plain lists; it ends types that contain themselves.
const DEEPEST: usize = 4;

/// All kinds, or all there is to know about those called `name`. The error is for the user.
pub fn kinds<S: ?Sized, P: ?Sized, K: ?Sized>(
    catalogue: &Catalogue<'_, S, P, K>,
    name: Option<&str>,
    format: Format,
) -> Result<String, String> {
    let schema = config::schema(catalogue);
    let mut pages = pages("source", catalogue.sources, &schema);
    pages.extend(self::pages("process", catalogue.processes, &schema));
    pages.extend(self::pages("sink", catalogue.sinks, &schema));
    pages.extend(self::pages("system", catalogue.systems, &schema));
    let Some(name) = name else {
        return Ok(match format {
            Format::Text => list(&pages),
            Format::Json => list_json(&pages),
        });
    };
    let names: Vec<&str> = pages.iter().map(|p| p.name).collect();
    let chosen: Vec<&Page> = pages.iter().filter(|p| p.name == name).collect();
    match format {
        _ if chosen.is_empty() => Err(unknown_name("kind", &format!("`{name}`"), &names)),
        Format::Text => Ok(chosen.into_iter().map(show).collect::<Vec<_>>().join("\n")),
        Format::Json => Ok(format!("{:#}\n", json!(chosen))),
    }
}

fn pages<T: ?Sized>(sort: &'static str, kinds: &[Kind<T>], schema: &Value) -> Vec<Page> {
    let common = config::common_fields(sort);
    let page = |kind: &Kind<T>| {
        let mut fields = Vec::new();
        rows(schema, &[&schema["$defs"][format!("{sort}.{}", kind.name)]], "", &mut fields);
        for row in &mut fields {
            row.common = common.iter().any(|c| row.field.split(['.', '[']).next() == Some(c));
        }
        Page { sort, name: kind.name, about: kind.about, fields, example: kind.example }
    };
    kinds.iter().map(page).collect()
}

fn list(pages: &[Page]) -> String {
    let mut out = String::new();
    let width = pages.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for (sort, title) in SORTS {
        let _ = writeln!(out, "{title}");
        for page in pages.iter().filter(|p| p.sort == sort) {
            let _ = writeln!(out, "  {:width$}  {}", page.name, page.about);
        }
    }
    out
}

fn list_json(pages: &[Page]) -> String {
    let of = |sort| {
        let chosen = pages.iter().filter(|p| p.sort == sort);
        Value::Array(chosen.map(|p| json!({ "name": p.name, "about": p.about })).collect())
    };
    let all: serde_json::Map<String, Value> = SORTS.iter().map(|(sort, title)| ((*title).into(), of(*sort))).collect();
    format!("{:#}\n", Value::Object(all))
}

fn show(page: &Page) -> String {
    let mut out = format!("{} ({}): {}\n", page.name, page.sort, page.about);
    let (common, own): (Vec<&Row>, Vec<&Row>) = page.fields.iter().partition(|r| r.common);
    if !own.is_empty() {
        let _ = write!(out, "\nfields\n{}", table(&own));
    }
    if !common.is_empty() {
        let _ = write!(out, "\nfields of every {}\n{}", page.sort, table(&common));
    }
    out.push_str("\nexample\n");
    for line in page.example.trim().lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

fn table(rows: &[&Row]) -> String {
    let default = |r: &Row| match &r.default {
        _ if r.required => "required".to_owned(),
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let types: Vec<Vec<String>> = rows.iter().map(|row| wrap(&row.r#type, TYPE)).collect();
    let widest = |column: &dyn Fn(&Row) -> usize| rows.iter().map(|r| column(r)).max().unwrap_or(0);
    let (a, c) = (widest(&|r| r.field.len()), widest(&|r| default(r).len()));
    let b = types.iter().flatten().map(|line| line.chars().count()).max().unwrap_or(0);
    let rest = WIDTH.saturating_sub(a + b + c + 8).max(30);
    let mut out = String::new();
    for (row, types) in rows.iter().zip(&types) {
        let meaning = wrap(&row.meaning, rest);
        for line in 0..types.len().max(meaning.len()) {
            let of = |lines: &[String]| lines.get(line).cloned().unwrap_or_default();
            let (field, default) = if line == 0 { (row.field.as_str(), default(row)) } else { ("", String::new()) };
            let text = format!("  {field:a$}  {:b$}  {default:c$}  {}", of(types), of(&meaning));
            let _ = writeln!(out, "{}", text.trim_end());
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The fields of an object, each followed by its own. `around` ends with that object; what contains itself is not
/// unfolded again.
fn rows(root: &Value, around: &[&Value], prefix: &str, out: &mut Vec<Row>) {
    let Some(object) = around.last() else { return };
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, schema) in object["properties"].as_object().into_iter().flatten() {
        if name == "type" && prefix.is_empty() {
            continue;
        }
        let field = format!("{prefix}{name}");
        let inner = value_of(root, schema);
        let about = schema.get("description").or_else(|| inner.get("description")).and_then(Value::as_str);
        let below = [("", inner), (".*", &inner["additionalProperties"]), ("[]", &inner["items"])];
        let below = below.map(|(step, s)| (step, value_of(root, s)));
        let below = below.into_iter().find(|(_, s)| s["properties"].is_object());
        let default = if below.is_some() { &Value::Null } else { &schema["default"] };
        out.push(Row {
            field: field.clone(),
            r#type: type_of(root, schema, 0),
            required: required.contains(&name.as_str()),
            default: default.clone(),
            meaning: about.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
            common: false,
        });
        if let Some((step, schema)) = below.filter(|(_, s)| !around.iter().any(|a| std::ptr::eq(*a, *s))) {
            rows(root, &[around, &[schema]].concat(), &format!("{field}{step}."), out);
        }
        for variant in variants(root, inner).filter(|v| !around.iter().any(|a| std::ptr::eq(*a, *v))) {
            let first = out.len();
            rows(root, &[around, &[variant]].concat(), &format!("{field}."), out);
            // Of an object that stands for one word of a choice, the choice says what it does.
            if variant["properties"].as_object().is_some_and(|p| p.len() == 1)
                && let (Some(row), Some(about)) = (out.get_mut(first), variant["description"].as_str())
            {
                row.meaning = about.split_whitespace().collect::<Vec<_>>().join(" ");
                row.required = false;
            }
        }
    }
}

/// Of a choice those that are objects with fields.
fn variants<'a>(root: &'a Value, schema: &'a Value) -> impl Iterator<Item = &'a Value> {
    let branches = ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
    branches.map(|branch| value_of(root, branch)).filter(|branch| branch["properties"].is_object())
}

/// What a schema stands for: through a reference, and through `Option`.
fn value_of<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let is_null = |s: &&Value| s["type"] == "null";
    let some = schema["anyOf"].as_array().filter(|b| b.len() == 2 && b.iter().any(|s| is_null(&s)));
    let schema = some.and_then(|b| b.iter().find(|s| !is_null(s))).unwrap_or(schema);
    let target = schema["$ref"].as_str().and_then(|r| root.pointer(r.strip_prefix('#')?));
    target.unwrap_or(schema)
}

fn type_of(root: &Value, schema: &Value, depth: usize) -> String {
    let schema = value_of(root, schema);
    let words = |s: &Value| -> Vec<String> {
        let words = s["enum"].as_array().into_iter().flatten().chain(s.get("const"));
        words.filter_map(Value::as_str).map(|w| format!("\"{w}\"")).collect()
    };
    let branches = ["anyOf", "oneOf"].iter().filter_map(|k| schema[*k].as_array()).flatten();
    let mut branches: Vec<String> = branches.map(|b| type_of(root, b, depth + 1)).filter(|t| t != "null").collect();
    branches.dedup();
    if !branches.is_empty() {
        return choice(branches);
    }
    let words = words(schema);
    if !words.is_empty() {
        return choice(words);
    }
    let below = |key: &str, many: &str| match schema.get(key) {
        Some(inner) if depth < DEEPEST && inner.is_object() => match type_of(root, inner, depth + 1).as_str() {
            "object" => format!("{many} of objects"),
            inner => format!("{many} of {inner}"),
        },
        _ => many.to_owned(),
    };
    let sort = |name: &str| match name {
        "string" => match schema["examples"][0].as_str() {
            Some(example) => format!("text like \"{example}\""),
            None => "text".into(),
        },
        "integer" | "number" => {
            let (least, most) = (&schema["minimum"], &schema["maximum"]);
            let range = if most.is_null() { String::new() } else { format!(" {least} to {most}") };
            format!("{}{range}", config::sort(name).trim_start_matches("a "))
        }
        "object" if schema["properties"].is_object() => "object".into(),
        "object" => below("additionalProperties", "map"),
        "array" => below("items", "list"),
        other => config::sort(other).to_owned(),
    };
    match &schema["type"] {
        Value::String(one) => sort(one),
        Value::Array(many) => choice(many.iter().filter_map(Value::as_str).filter(|s| *s != "null").map(sort)),
        _ => "anything".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Size, Span};
    use schemars::JsonSchema;
    use serde::Deserialize;

    /// Takes requests.
    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Hook {
        /// Address and port, which may well be described
        /// over several lines that are put together and then folded at the width of a terminal.
        listen: String,
        /// Encryption.
        tls: Option<Tls>,
        /// What is served.
        #[serde(default)]
        routes: Vec<Route>,
        /// Sent with every answer.
        #[serde(default)]
        headers: std::collections::BTreeMap<String, String>,
        /// Longest wait.
        #[serde(default = "wait")]
        wait: Span,
    }

    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Tls {
        /// PEM file.
        cert: String,
        /// Who is asked for a certificate.
        #[serde(default)]
        client: Option<Client>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code)]
    enum Client {
        None,
        All,
    }

    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Route {
        /// Begins with a slash.
        path: String,
        /// Any body of this size.
        #[schemars(range(min = 1, max = 9))]
        most: Option<u8>,
        /// Nested.
        inner: Vec<Route>,
        size: Option<Size>,
        /// Where it goes.
        to: To,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code)]
    enum To {
        /// Nowhere.
        Nothing,
        /// A topic of that name.
        Topic(String),
        /// A file of that name.
        File(String),
    }

    fn wait() -> Span {
        Span::millis(5_000)
    }

    const HOOK: Kind<str> = Kind {
        name: "http",
        about: "events posted over HTTP",
        example: r#"{ "type": "http" }"#,
        schema: Hook::json_schema,
        build: |_| Ok("".into()),
    };
    const FILE: Kind<str> = Kind { name: "file", about: "lines of a file", ..HOOK };
    const CATALOGUE: Catalogue<'static, str, str, str> =
        Catalogue { sources: &[FILE, HOOK], processes: &[], sinks: &[HOOK], systems: &[] };

    #[test]
    fn the_list_is_short() {
        let told = kinds(&CATALOGUE, None, Format::Text).unwrap();
        assert_eq!(
            told,
            "sources\n  file  lines of a file\n  http  events posted over HTTP\nprocesses\nsinks\n  http  events posted over HTTP\nsystems\n"
        );
        let told: Value = serde_json::from_str(&kinds(&CATALOGUE, None, Format::Json).unwrap()).unwrap();
        assert_eq!(told["sources"][0], json!({ "name": "file", "about": "lines of a file" }));
    }

    #[test]
    fn a_kind_is_shown_with_its_fields() {
        let told = kinds(&CATALOGUE, Some("http"), Format::Text).unwrap();
        let sink = told.find("http (sink): ").unwrap();
        assert!(told.starts_with("http (source): events posted over HTTP\n\nfields\n") && sink > 0);
        for line in [
            "  tls.client         \"none\" or \"all\"                    -         Who is asked for a certificate.",
            "  headers            map of text                        {}        Sent with every answer.",
            "  wait               text like \"5s\"                     5s        Longest wait.",
            "  routes[].most      whole number 1 to 9                -         Any body of this size.",
            "  routes[].to        \"nothing\" or object                required  Where it goes.",
            "  routes[].to.topic  text                               -         A topic of that name.",
            "  routes[].to.file   text                               -         A file of that name.",
        ] {
            assert!(told[..sink].contains(line), "{line}\n{told}");
        }
        assert!(told.lines().all(|l| l.len() <= WIDTH + 10));
        assert!(told.contains("\nfields of every source\n") && told.contains("\nfields of every sink\n"));
        assert!(told.ends_with("\nexample\n  { \"type\": \"http\" }\n"));
        let told: Value = serde_json::from_str(&kinds(&CATALOGUE, Some("http"), Format::Json).unwrap()).unwrap();
        assert_eq!(told[1]["sort"], "sink");
        assert_eq!(told[0]["fields"][0]["field"], "listen");
        assert_eq!(told[0]["fields"][0]["required"], true);
        assert!(told[0]["fields"].as_array().unwrap().iter().any(|f| f["field"] == "priority" && f["common"] == true));
    }

    #[test]
    fn an_unknown_kind_gets_a_guess() {
        let told = kinds(&CATALOGUE, Some("htp"), Format::Text);
        assert_eq!(told, Err("there is no kind `htp`, did you mean `http`?".into()));
    }
}
