//! A configuration of Agglo, imported and run by the real program.

use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// What came of a configuration and its events.
#[derive(Debug)]
pub enum Said {
    /// The configuration is refused, with this in a message.
    Wrong(String),
    /// The results in order, and the numbers, from 1, of the events that failed.
    Events(Vec<Value>, Vec<usize>),
    /// Expected only: the one result has the field, or not.
    Has(String, bool),
}

/// Each event of the reference whose answer says this was stopped, not failed.
const STOPPED: &str = "stopping processing";

impl Said {
    /// Out of the reference's answers, one an event.
    pub fn events(answers: &[Value]) -> Said {
        let failed = |answer: &Value| answer.as_str().is_some_and(|e| !e.contains(STOPPED));
        let numbers = answers.iter().enumerate().filter(|(_, answer)| failed(answer)).map(|(i, _)| i + 1);
        let results = answers.iter().filter(|answer| !answer.is_string()).map(masked);
        Said::Events(results.collect(), numbers.collect())
    }

    pub fn agrees(&self, got: &Said) -> bool {
        match (self, got) {
            (Said::Wrong(part), Said::Wrong(message)) => message.contains(part.as_str()),
            (Said::Events(results, failed), Said::Events(got, numbers)) => results == got && failed == numbers,
            (Said::Has(field, has), Said::Events(got, failed)) => {
                failed.is_empty() && got.len() == 1 && got[0].get(field).is_some() == *has
            }
            _ => false,
        }
    }
}

fn tidegate(arguments: &[&str], folder: &Path, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).current_dir(folder).env("RUST_LOG", "error");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok(); // it may have ended already
    child.wait_with_output().unwrap()
}

/// What comes of it, and our configuration.
pub fn run(config: &Value, events: &[Value]) -> (Said, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("binge.json"), format!("{config:#}")).unwrap();
    let imported = tidegate(&["import-binge", "binge.json"], folder.path(), "");
    let told = String::from_utf8(imported.stderr).unwrap();
    if imported.status.code() == Some(78) {
        assert!(told.lines().all(|line| line.ends_with(')') && line.contains("(binge.json:")), "{told}");
        return (Said::Wrong(told), String::new());
    }
    assert!(imported.status.success() && told.is_empty(), "{told}\n{config:#}");
    let text = String::from_utf8(imported.stdout).unwrap();
    std::fs::write(folder.path().join("tidegate.jsonc"), &text).unwrap();
    let checked = tidegate(&["check", "tidegate.jsonc"], folder.path(), "");
    assert!(checked.status.success(), "{}\n{text}", String::from_utf8_lossy(&checked.stderr));
    let input: String = events.iter().map(|event| format!("{event}\n")).collect();
    let output = tidegate(&["process", "tidegate.jsonc"], folder.path(), &input);
    let results = String::from_utf8(output.stdout).unwrap();
    let results = results.lines().map(|line| masked(&serde_json::from_str(line).unwrap())).collect();
    let told = String::from_utf8(output.stderr).unwrap();
    let number = |line: &str| line.strip_prefix("line ")?.split(':').next()?.parse().ok();
    (Said::Events(results, told.lines().filter_map(number).collect()), format!("{text}\n{told}"))
}

/// An event without what every event gets, ids told apart from nothing, and all numbers doubles.
fn masked(event: &Value) -> Value {
    let mut event = plain(event);
    for key in ["internal:messageID", "internal:partitionID", "internal:name"] {
        event.as_object_mut().unwrap().remove(key);
    }
    event
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().unwrap()),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| match key.as_str() {
                "uuid" | "internal:messageID" => (key.clone(), json!("<id>")),
                _ => (key.clone(), plain(value)),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
