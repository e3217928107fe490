//! The OpenAPI document: what [`ROUTES`] says, for programs.

use super::{
    config,
    routes::{ROUTES, Route, To, braced},
    tap,
};
use serde_json::{Value, json};

/// What is posted: where, and of what media type it is.
const BODIES: [(&str, &str); 3] =
    [(config::PATH, "text/plain"), ("/api/v1/query", "application/sql"), ("/api/v1/import", "application/x-ndjson")];

/// It whole, as OpenAPI 3.1 wants it.
pub(super) fn document() -> Value {
    let mut paths = json!({});
    for route in ROUTES {
        paths[route.path][route.method.to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Tidegate", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "MIT OR Apache-2.0" } },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Problem": { "type": "object", "required": ["status", "detail"], "properties": {
                "type": { "type": "string" }, "status": { "type": "integer" }, "detail": { "type": "string" } } } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let text = json!({ "type": "string" });
    let parts = route.path.split('/').filter_map(braced);
    let parts = parts.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }));
    let query = route.query.iter().map(
        |(name, about)| json!({ "name": name, "in": "query", "required": false, "description": about, "schema": text }),
    );
    let media = match route.path {
        "/metrics" => "text/plain",
        tap::PATH => "application/x-ndjson",
        _ => "application/json",
    };
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    let mut operation = json!({
        "summary": route.about,
        "operationId": id(route),
        "parameters": parts.chain(query).collect::<Vec<_>>(),
        "responses": {
            "200": { "description": "done", "content": { media: {} } },
            "default": { "description": "refused", "content": problem },
        },
    });
    if let Some((_, media)) = BODIES.iter().find(|(path, _)| route.method == "POST" && *path == route.path) {
        operation["requestBody"] = json!({ "required": true, "content": { *media: { "schema": text } } });
    }
    match route.to {
        To::All => {}
        To::Near => operation["security"] = json!([{ "token": [] }, {}]),
        To::Operator => operation["security"] = json!([{ "token": [] }]),
    }
    operation
}

/// For those who make a client of the document: `post_dead_retry`.
fn id(route: &Route) -> String {
    let path = route.path.strip_prefix("/api/v1").unwrap_or(route.path);
    let words = path.split(['/', '.']).filter(|word| !word.is_empty()).map(|word| braced(word).unwrap_or(word));
    words.fold(route.method.to_lowercase(), |id, word| id + "_" + word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_names_every_question_with_its_parameters_and_who_may_ask() {
        let document = document();
        let mut ids = BTreeSet::new();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.to_lowercase()];
            assert_eq!(operation["summary"], route.about, "{}", route.path);
            assert_eq!(operation["security"].is_array(), route.to != To::All, "{}", route.path);
            let named: Vec<_> =
                operation["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
            let query = route.query.iter().map(|(name, _)| *name);
            let want: Vec<_> = route.path.split('/').filter_map(braced).chain(query).collect();
            assert_eq!(named, want, "{}", route.path);
            let brings = route.about.contains("body");
            assert_eq!(operation["requestBody"].is_object(), brings, "{}", route.path);
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{}", route.path);
        }
    }
}
