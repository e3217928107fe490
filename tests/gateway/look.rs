//! Looking into what is stored: SQL, queues, taps, replays, on a gateway that runs and on the store of one that does not.

use crate::kit::{self, Gateway, LONG, folder, port, wait_for, wait_for_port};
use serde_json::{Value, json};
use std::{path::Path, process::Output};

/// What is taken in is kept although everybody has passed it; nobody is at `cloud`.
fn configuration(listen: u16, cloud: u16) -> String {
    format!(
        r#"{{
  "topics": {{ "hook": {{ "keep": {{ "age": "30d" }} }} }},
  "sources": {{ "hook": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "warm": {{ "from": ["hook"], "processes": [
    {{ "type": "continue", "name": "above", "when": "event.temperature > 20.0" }},
    {{ "type": "annotate", "set": {{ "site": "barn" }} }} ] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["warm"] }} }} }}"#
    )
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    kit::tidegate(dir, &[arguments, &["-c", "tidegate.jsonc"]].concat(), "")
}

/// What it printed; it did not fail.
fn said(dir: &Path, arguments: &[&str]) -> String {
    let out = run(dir, arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The rows of an answer.
fn select(dir: &Path, sql: &str) -> Value {
    let text = said(dir, &["query", sql, "--format", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["rows"].take()
}

/// Sends events with temperatures; a hundredth degree tells them apart.
fn post(listen: u16, temperatures: impl IntoIterator<Item = f64>) {
    let lines: Vec<String> = temperatures.into_iter().map(|t| json!({ "temperature": t }).to_string()).collect();
    let out = std::process::Command::new("curl")
        .args(["-sf", "-H", "content-type: application/x-ndjson", "--data-binary", &lines.join("\n")])
        .arg(format!("http://127.0.0.1:{listen}/v1/events"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn yesterdays_average_is_read_by_sql_whether_the_gateway_runs_or_not() {
    let (dir, listen) = (folder(), port());
    let text = configuration(listen, port());
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    post(listen, [19.0, 20.0, 24.0]);
    let average = "SELECT avg(body ->> 'temperature') FROM events \
                   WHERE topic = 'hook' AND time >= datetime('now', '-1 day')";
    let check = || {
        assert_eq!(select(dir.path(), average), json!([[21.0]]));
        assert_eq!(select(dir.path(), "SELECT count(*) FROM events WHERE topic = 'warm'"), json!([[1]]));
        let table = "SELECT body ->> 'temperature' AS t, topic FROM events WHERE topic = 'hook' ORDER BY seq";
        assert_eq!(said(dir.path(), &["query", table]), "  t     topic\n  19.0  hook\n  20.0  hook\n  24.0  hook\n");
        assert_eq!(
            said(dir.path(), &["query", table, "--format", "csv"]),
            "t,topic\r\n19.0,hook\r\n20.0,hook\r\n24.0,hook\r\n"
        );
        let out = run(dir.path(), &["query", table, "--rows", "2"]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("there is more"), "{out:?}");
        for (sql, within, want) in [
            ("DELETE FROM batch", "5s", "not authorized"),
            ("WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT count(*) FROM r", "50ms", "not done within 50 ms"),
        ] {
            let out = run(dir.path(), &["query", sql, "--within", within]);
            assert_eq!(out.status.code(), Some(1), "{out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(want), "{out:?}");
        }
    };
    wait_for("the pipeline", LONG, || select(dir.path(), "SELECT count(*) FROM events WHERE topic = 'warm'") == json!([[1]]));
    check();
    assert!(gateway.stop().success());
    check();
}
