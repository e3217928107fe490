//! What Agglo answered, and what an imported configuration answers. `agglo/*.json` hold configurations, events, and what
//! the reference said to them; `mended.rs` where Tidegate differs, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod mended;
mod run;

use mended::Mended;
use run::{Said, run};
use serde_json::{Value, json};

const PARTITION: &str = "c5024ca8-d601-499f-bb24-daae74357b5e";

fn data(name: &str) -> Value {
    let path = format!("{}/tests/reference/agglo/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A configuration with one pipeline, `p`, of one process.
fn alone(process: Value) -> Value {
    let name = process.as_object().unwrap().values().next().unwrap()["name"].clone();
    json!({
        "partitionUuid": PARTITION,
        "pipelines": [{ "name": "p", "processes": [{ "name": name }] }],
        "processDefinitions": [process],
        "externalSystems": [{ "name": "K", "externalType": "ExternalKVStore", "connectionString": "mem:x" }],
    })
}

/// What the reference said, unless it was mended: of each event its result, or that it fails.
fn expected(group: &str, name: &str, reference: &Value) -> Said {
    match mended::mended(group, name) {
        Some(Mended::Wrong(message)) => Said::Wrong(message.to_owned()),
        Some(Mended::Results(results)) => Said::events(results.as_array().unwrap()),
        None => match reference {
            Value::String(load) if load.starts_with("LOAD") => Said::Wrong(String::new()),
            Value::Array(events) if events.first().and_then(Value::as_str).is_some_and(|e| e.starts_with("LOAD")) => {
                Said::Wrong(String::new())
            }
            Value::Array(events) => Said::events(events),
            one => Said::events(std::slice::from_ref(one)),
        },
    }
}

/// Runs all cases that `make` makes one of, and tells every difference.
fn check(cases: &[Value], make: impl Fn(&Value) -> Option<(Value, Vec<Value>, Said)>) {
    let (mut told, mut count) = (String::new(), 0);
    for case in cases {
        let Some((config, events, want)) = make(case) else { continue };
        count += 1;
        let (got, text) = run(&config, &events);
        if !want.agrees(&got) {
            told += &format!("\n{}:\n  want {want:?}\n  got  {got:?}\n{text}\n", case["name"]);
        }
    }
    assert!(told.is_empty() && count > 0, "{told}");
}

fn conditions(group: &str, process: impl Fn(&Value) -> Value, holds: &str) {
    let file = data("conditions");
    check(file["cases"].as_array().unwrap(), |case| {
        let name = case["name"].as_str().unwrap();
        let said = match (mended::condition(group, name), case["reference"][group].as_str().unwrap()) {
            (Some(Ok(truth)), _) => truth.to_string(),
            (Some(Err(message)), _) => format!("LOAD{message}"),
            (None, reference) => reference.to_owned(),
        };
        let want = match said.as_str() {
            "true" | "false" => Said::Has(holds.to_owned(), said == "true"),
            load if load.starts_with("LOAD:") => Said::Wrong(String::new()),
            load if load.starts_with("LOAD") => Said::Wrong(load[4..].to_owned()),
            error => Said::events(&[error.into()]),
        };
        Some((alone(process(&case["condition"])), vec![file["event"].clone()], want))
    });
}

#[test]
fn conditions_of_annotators() {
    let annotator = |condition: &Value| json!({ "annotator": { "name": "P", "annotations": [{ "fieldKey": "hit", "value": "yes", "condition": condition }] } });
    conditions("annotator", annotator, "hit");
}

#[test]
fn conditions_of_tees() {
    let tee = |condition: &Value| json!({ "tee": { "name": "P", "condition": condition, "outputConnectorRef": "K" } });
    conditions("tee", tee, "internal:tee:output");
}

/// Runs a program: that is outside of the gateway.
fn outside(case: &Value) -> bool {
    case["specs"].to_string().contains("Args\":{\"path\"")
}

fn transforms(wanted: impl Fn(&Value) -> bool) {
    let file = data("transforms");
    check(file["cases"].as_array().unwrap(), |case| {
        let process = json!({ "transformer": {
            "name": "P", "specs": case["specs"], "forwardInputFields": case["forwardInputFields"] } });
        let want = expected("transforms", case["name"].as_str().unwrap(), &case["reference"]);
        wanted(case).then(|| (alone(process), vec![file["event"].clone()], want))
    });
}

#[test]
fn transformations() {
    transforms(|case| !outside(case));
}

#[test]
fn transformations_by_programs() {
    transforms(outside);
}

fn processes(kinds: &[&str]) {
    let file = data("processes");
    check(file["cases"].as_array().unwrap(), |case| {
        let definitions = case["config"]["processDefinitions"].as_array().unwrap();
        let of = |kind: &&str| definitions.iter().any(|d| d.get(kind).is_some());
        let group = ["aggregator", "completer", "spawner", "tee"].iter().find(|kind| of(kind)).unwrap_or(&"");
        let want = expected("processes", case["name"].as_str().unwrap(), &case["reference"]);
        let events = case["events"].as_array().unwrap().clone();
        kinds.contains(group).then(|| (case["config"].clone(), events, want))
    });
}

#[test]
fn processes_without_state() {
    processes(&[""]);
}

#[test]
fn processes_with_state() {
    processes(&["aggregator", "completer"]);
}

#[test]
fn processes_that_reach_outside() {
    processes(&["spawner", "tee"]);
}
