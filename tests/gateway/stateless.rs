//! Without a store: an answer says that everything was done, or what failed.

use crate::kit::{Gateway, folder, http, port, tidegate, wait_for_port};
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

const PROCESSES: &str = r#"[
    { "type": "continue", "when": "event.temp > 0" },
    { "type": "annotate", "set": { "site": "barn" } } ]"#;

#[test]
fn an_answer_comes_after_the_pipelines_and_names_what_failed() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let status = Arc::new(AtomicU16::new(200));
    let told = status.clone();
    let upstream = http::Upstream::start(cloud, move |_| told.load(Ordering::Relaxed));
    let configuration = format!(
        r#"{{
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "out": {{ "from": ["web"], "to": ["cloud"], "processes": {PROCESSES} }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "format": "ndjson" }} }} }}"#
    );
    let mut gateway = Gateway::start(dir.path(), &configuration, &["--stateless"]);
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    for (upstream_says, body, want, names, came) in [
        (200, r#"{"temp":20,"n":1}"#, 2, "", 1),
        (200, r#"[{"temp":20,"n":2},{"temp":-20,"n":3}]"#, 2, "", 2),
        (200, r#"{"temp":"hot"}"#, 5, "pipelines.out: continue", 2),
        (500, r#"{"temp":20,"n":4}"#, 5, "sinks.cloud", 2),
        (400, r#"{"temp":20,"n":5}"#, 5, "sinks.cloud", 2),
        (200, "{", 4, "", 2),
        (200, r#"{"temp":20,"n":6}"#, 2, "", 3),
    ] {
        status.store(upstream_says, Ordering::Relaxed);
        let (got, answer) = http::post(&url, body).unwrap();
        assert_eq!(got / 100, want, "{body}: {got} {answer}");
        assert!(answer.contains(names), "{body}: {answer}");
        // Not a moment later: the answer came after the upstream's.
        assert_eq!(upstream.events().len(), came, "{body}");
    }
    assert!(upstream.events().iter().all(|e| e["site"] == "barn"));
    gateway.alive();
    assert!(gateway.stop().success());
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["log", "tidegate.jsonc"], "nothing else is written");
}

#[test]
fn process_turns_lines_into_lines() {
    let dir = folder();
    let configuration = format!(
        r#"{{ "sources": {{ "in": {{ "type": "stdin" }} }},
  "pipelines": {{ "out": {{ "from": ["in"], "processes": {PROCESSES} }} }} }}"#
    );
    std::fs::write(dir.path().join("tidegate.jsonc"), configuration).unwrap();
    for (input, code, output, errors) in [
        ("", 0, "", &[][..]),
        (
            "{\"temp\":1}\n\n{\"temp\":-1}\n{\"temp\":2}",
            0,
            "{\"temp\":1,\"site\":\"barn\"}\n{\"temp\":2,\"site\":\"barn\"}\n",
            &[],
        ),
        (
            "{\"temp\":1}\nnonsense\n{\"temp\":\"hot\"}\n{\"temp\":3}\n",
            1,
            "{\"temp\":1,\"site\":\"barn\"}\n{\"temp\":3,\"site\":\"barn\"}\n",
            &["line 2: ", "line 3: pipelines.out: continue: ", "2 of 4 lines failed"],
        ),
    ] {
        let done = tidegate(dir.path(), &["process", "tidegate.jsonc"], input);
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{input}: {said}");
        assert_eq!(String::from_utf8(done.stdout).unwrap(), output, "{input}");
        assert!(errors.iter().all(|e| said.contains(e)), "{input}: {said}");
        assert_eq!(errors.is_empty(), said.is_empty(), "{input}: {said}");
    }
}
