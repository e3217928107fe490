//! Sources that end: the gateway delivers everything and ends, too.

use crate::kit::{Gateway, LONG, folder, wait_for};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

fn configuration(source: &str) -> String {
    format!(
        r#"{{
  "sources": {{ "in": {source} }},
  "pipelines": {{ "out": {{ "from": ["in"], "to": ["log"],
    "processes": [{{ "type": "annotate", "set": {{ "site": "barn" }} }}] }} }},
  "sinks": {{ "log": {{ "type": "file", "path": "out.ndjson", "envelope": true, "rotate": {{ "size": "1GiB" }} }} }} }}"#
    )
}

fn write_lines(dir: &Path, count: u64) {
    let lines: Vec<String> = (0..count).map(|n| format!("{{\"n\":{n},\"note\":\"{:>100}\"}}\n", n * 31)).collect();
    fs::write(dir.join("in.ndjson"), lines.concat()).unwrap();
}

/// The numbers that came out, in order, with their ids; whole lines only.
fn numbers(dir: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(dir.join("out.ndjson")).unwrap();
    let parse = |line: &str| {
        let envelope: Value = serde_json::from_str(line).unwrap();
        assert_eq!(envelope["body"]["site"], "barn", "{line}");
        (envelope["body"]["n"].as_u64().unwrap(), envelope["id"].as_str().unwrap().to_owned())
    };
    text.lines().map(parse).collect()
}

const FILE: &str = r#"{ "type": "file", "path": "in.ndjson" }"#;
const GENERATE: &str = r#"{ "type": "generate", "rate": 0, "count": 20000, "fields": { "n": { "counter": {} }, "device": { "device": {} } } }"#;

#[test]
fn a_file_and_a_count_of_readings_come_out_whole_and_in_order() {
    for source in [FILE, GENERATE] {
        let dir = folder();
        write_lines(dir.path(), 20_000);
        let status = Gateway::start(dir.path(), &configuration(source), &[]).end();
        assert_eq!(status.code(), Some(0), "{source}");
        let came: Vec<u64> = numbers(dir.path()).into_iter().map(|(n, _)| n).collect();
        assert!(came.iter().copied().eq(0..20_000), "{source}: {} lines", came.len());
        // Started again it has nothing to do: what was read stays read.
        let status = Gateway::start(dir.path(), &configuration(source), &[]).end();
        assert_eq!(status.code(), Some(0), "{source}, again");
        assert_eq!(numbers(dir.path()).len(), 20_000, "{source}, again");
    }
}

#[test]
fn killed_in_the_middle_it_goes_on_and_no_line_is_missing() {
    const COUNT: u64 = 60_000;
    for source in [FILE.to_owned(), GENERATE.replace("20000", &COUNT.to_string())] {
        let dir = folder();
        write_lines(dir.path(), COUNT);
        let out = dir.path().join("out.ndjson");
        let size = || fs::metadata(&out).map_or(0, |m| m.len());
        for part in 1..=4 {
            let gateway = Gateway::start(dir.path(), &configuration(&source), &[]);
            wait_for("some output", LONG, || size() > part * 1_000_000);
            gateway.kill();
        }
        let status = Gateway::start(dir.path(), &configuration(&source), &[]).end();
        assert_eq!(status.code(), Some(0), "{source}");
        let came = numbers(dir.path());
        let ids: BTreeSet<&str> = came.iter().map(|(_, id)| id.as_str()).collect();
        let mut events: BTreeMap<u64, &str> = BTreeMap::new();
        for (n, id) in &came {
            assert_eq!(events.insert(*n, id).unwrap_or(id), id, "{n} was taken in twice");
        }
        assert!(events.keys().copied().eq(0..COUNT), "{source}: {} of {COUNT}", events.len());
        assert_eq!(ids.len() as u64, COUNT, "{source}: inside, each event is one");
        println!("{source}: {} repeats", came.len() as u64 - COUNT);
    }
}
