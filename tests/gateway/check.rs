//! What is wrong is said with its place; what the program tells about itself can be read by programs.

use crate::kit::{folder, tidegate};

#[test]
fn a_wrong_configuration_exits_78_and_says_where() {
    let dir = folder();
    for (configuration, want) in [
        ("", "tidegate.jsonc:1:1"),
        ("{", "tidegate.jsonc:1:1"),
        (r#"{ "sources": { "a": { "type": "htp" } } }"#, "expected"),
        ("{ \"sources\": {\n  \"a\": { \"type\": \"http\", \"lisen\": \"127.0.0.1:1\" } } }", "tidegate.jsonc:2:26"),
        (r#"{ "sinks": { "a": { "type": "http", "url": 5 } } }"#, "sinks.a.url"),
        (r#"{ "sources": { "a": { "type": "http", "listen": "nowhere" } } }"#, "sources.a.listen"),
        (r#"{ "pipelines": { "p": { "from": ["nobody"], "processes": [] } } }"#, "nobody"),
        (r#"{ "store": { "disk": { "high": "1MiB", "low": "2MiB" } } }"#, "store.disk.low"),
    ] {
        std::fs::write(dir.path().join("tidegate.jsonc"), configuration).unwrap();
        for command in ["check", "run", "process"] {
            let output = tidegate(dir.path(), &[command, "tidegate.jsonc"], "");
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{command} {configuration}: {said}");
            assert!(said.contains(want) && said.contains("tidegate.jsonc"), "{configuration}: {said}");
        }
    }
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["tidegate.jsonc"], "a wrong configuration leaves nothing behind");
}

#[test]
fn wrong_arguments_exit_2_and_a_missing_file_78() {
    let dir = folder();
    for (arguments, code) in [
        (&["fly"][..], 2),
        (&[], 2),
        (&["run"], 2),
        (&["run", "--fast", "x"], 2),
        (&["check", "absent.jsonc"], 78),
        (&["import-binge", "absent.json"], 1),
        (&["run", "absent.jsonc"], 78),
        (&["kinds", "nothing"], 1),
        (&["--version"], 0),
        (&["--help"], 0),
    ] {
        let output = tidegate(dir.path(), arguments, "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(said.is_empty(), code == 0, "{arguments:?}: {said}");
    }
}

#[test]
fn kinds_and_schema_can_be_read_by_programs() {
    let dir = folder();
    let run = |arguments: &[&str]| {
        let output = tidegate(dir.path(), arguments, "");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let kinds: serde_json::Value = serde_json::from_str(&run(&["kinds", "--format", "json"])).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&run(&["schema"])).unwrap();
    assert_eq!(schema["type"], "object");
    let text = run(&["kinds"]);
    let mut found = 0;
    for (sort, kind) in [("source", "http"), ("source", "mqtt_listen"), ("process", "annotate"), ("sink", "mqtt")] {
        assert!(text.contains(kind), "{kind}");
        assert!(run(&["kinds", kind]).contains(kind), "{kind}");
        assert!(schema["$defs"][format!("{sort}.{kind}")].is_object(), "{sort}.{kind}");
        found += usize::from(kinds.to_string().contains(&format!("\"{kind}\"")));
    }
    assert_eq!(found, 4);
}
