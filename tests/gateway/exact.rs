//! Processes with state and with a part outside, exact under concurrency and over kills.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

/// A gateway with an HTTP source `web` and an HTTP upstream.
pub struct Plant {
    pub dir: tempfile::TempDir,
    listen: u16,
    pub configuration: String,
    pub upstream: http::Upstream,
}

impl Plant {
    /// `pipelines` is the section of that name; the pipeline `p` reads `web` and writes to `cloud`.
    pub fn new(pipelines: &str) -> Plant {
        let (dir, listen, cloud) = (folder(), port(), port());
        let configuration = format!(
            r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "pipelines": {pipelines},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "envelope": true }} }} }}"#
        );
        Plant { dir, listen, configuration, upstream: http::Upstream::start(cloud, |_| 200) }
    }

    pub fn start(&self) -> Gateway {
        let gateway = Gateway::start(self.dir.path(), &self.configuration, &[]);
        wait_for_port(self.listen);
        gateway
    }

    /// As `start`, with a fault injected into system calls.
    pub fn start_with_fault(&self, call: &str, fault: &str) -> Gateway {
        let gateway = Gateway::start_with_fault(self.dir.path(), &self.configuration, call, fault);
        wait_for_port(self.listen);
        gateway
    }

    /// Posts events over 16 connections, each event in a request of its own; each again until it is accepted.
    pub fn post(&self, events: Vec<Value>) -> Vec<thread::JoinHandle<()>> {
        let url = format!("http://127.0.0.1:{}/v1/events", self.listen);
        let mut hands: Vec<Vec<String>> = vec![Vec::new(); 16];
        for (i, event) in events.iter().enumerate() {
            hands[i % 16].push(event.to_string());
        }
        let post = |events: Vec<String>| {
            let url = url.clone();
            thread::spawn(move || {
                for event in events {
                    while http::post(&url, &event).is_none_or(|(status, _)| status != 202) {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            })
        };
        hands.into_iter().map(post).collect()
    }

    /// The bodies of what arrived, by id: what comes twice is the same.
    pub fn arrived(&self) -> BTreeMap<String, Value> {
        let mut arrived = BTreeMap::new();
        for mut event in self.upstream.events() {
            let (id, body) = (event["id"].as_str().unwrap().to_owned(), event["body"].take());
            if let Some(before) = arrived.insert(id.clone(), body.clone()) {
                assert_eq!(before, body, "{id} came twice, and differs");
            }
        }
        arrived
    }

    pub fn wait(&self, count: usize) -> BTreeMap<String, Value> {
        wait_for(&format!("{count} events"), 3 * LONG, || self.arrived().len() >= count);
        self.arrived()
    }
}

#[test]
fn two_aggregates_over_sixteen_connections_are_exact() {
    let plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "processes": [
      { "type": "aggregate", "name": "count", "field": "v", "op": "count" },
      { "type": "aggregate", "name": "sum", "field": "v", "op": "sum" } ] } }"#,
    );
    let gateway = plant.start();
    for hand in plant.post((0..400).map(|n| json!({ "id": format!("e{n}"), "v": n })).collect()) {
        hand.join().unwrap();
    }
    let arrived = plant.wait(400);
    let document = |body: &Value| body["internal:aggregation:p"].clone();
    let counts: BTreeSet<u64> =
        arrived.values().map(|b| document(b)["v:AggCount"]["value"].as_u64().unwrap()).collect();
    assert!(counts.into_iter().eq(1..=400));
    let last = arrived.values().find(|b| document(b)["v:AggCount"]["value"] == 400).unwrap();
    assert_eq!(document(last), json!({ "v:AggCount": { "value": 400 }, "v:AggSum": { "value": 399 * 200 } }));
    assert!(gateway.stop().success());
}

#[test]
fn four_hundred_spawns_each_get_their_own_event() {
    let plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "workers": 16, "processes": [
      { "type": "spawn", "program": "/bin/cat", "args": [], "children": 16 } ] } }"#,
    );
    let gateway = plant.start();
    for hand in plant.post((0..400).map(|n| json!({ "id": format!("e{n}"), "v": n })).collect()) {
        hand.join().unwrap();
    }
    let arrived = plant.wait(400);
    for (id, body) in &arrived {
        assert_eq!(body["internal:spawn:output"], json!([{ "spawn": { "id": id, "v": body["v"] } }]));
    }
    assert!(gateway.stop().success());
}

#[test]
fn three_hundred_concurrent_completions_complete_once() {
    let plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "processes": [
      { "type": "complete", "name": "pair", "join": ["a", "b"], "timeout": "10m" } ] } }"#,
    );
    let gateway = plant.start();
    let half = |n: u64| {
        if n.is_multiple_of(2) {
            json!({ "id": n.to_string(), "a": n / 2 })
        } else {
            json!({ "id": n.to_string(), "b": n / 2 })
        }
    };
    for hand in plant.post((0..600).map(half).collect()) {
        hand.join().unwrap();
    }
    let arrived = plant.wait(600);
    let status = |status: &str| arrived.values().filter(|b| b["internal:completion:pair"] == status).count();
    assert_eq!((status("triggered"), status("complete")), (300, 300));
    let values: BTreeSet<u64> =
        arrived.values().filter_map(|b| b["internal:completion:state:pair"]["value"].as_u64()).collect();
    assert!(values.into_iter().eq(0..300));
    assert!(gateway.stop().success());
}

/// An event that has a value, a group and a partner.
pub fn half(n: u64) -> Value {
    match n % 2 {
        0 => json!({ "id": n.to_string(), "v": n, "odd": false, "a": n / 2 }),
        _ => json!({ "id": n.to_string(), "v": n, "odd": true, "b": n / 2 }),
    }
}

#[test]
fn kills_neither_lose_nor_count_twice() {
    const EVENTS: u64 = 10_000;
    let plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "processes": [
      { "type": "aggregate", "name": "count", "field": "v", "op": "count" },
      { "type": "aggregate", "name": "sum", "field": "v", "op": "sum", "by": ["odd"] },
      { "type": "complete", "name": "pair", "join": ["a", "b"] },
      { "type": "limit", "count": 9000 } ] } }"#,
    );
    let mut gateway = plant.start();
    let hands = plant.post((0..EVENTS).map(half).collect());
    let mut random = fastrand::Rng::with_seed(3);
    let mut kills = 0;
    while !hands.iter().all(thread::JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(random.u64(50..500)));
        gateway.alive();
        gateway.kill();
        kills += 1;
        gateway = plant.start();
    }
    for hand in hands {
        hand.join().unwrap();
    }
    let arrived = plant.wait(9000);
    assert!(gateway.stop().success());
    let (dead, ledger) = crate::refused::read(plant.dir.path());
    assert!(dead.is_empty());
    let row = ledger.iter().find(|r| r.consumer == "pipelines.p").unwrap();
    assert_eq!((row.accepted, row.delivered, row.stopped, row.queued), (EVENTS, EVENTS, EVENTS - 9000, 0));
    assert_eq!(plant.arrived().len(), 9000);
    in_order(&arrived, 9000);
    assert!(kills >= 5, "{kills} kills");
}

/// Each of the first events that were counted by `count`, summed by `sum` and joined by `pair` carries what was right then.
pub fn in_order(arrived: &BTreeMap<String, Value>, first: u64) {
    // The n-th event that was counted carries n: each number once.
    let number = |body: &Value| body["internal:aggregation:p"]["v:AggCount"]["value"].as_u64().unwrap();
    let numbers: BTreeSet<u64> = arrived.values().map(number).collect();
    assert!(numbers.into_iter().eq(1..=first));
    // Its sums are those of the events up to it, and each pair is completed by its second event.
    let mut in_order: Vec<&Value> = arrived.values().collect();
    in_order.sort_by_key(|body| number(body));
    let (mut sums, mut seen) = ([0, 0], BTreeMap::new());
    for body in in_order {
        sums[usize::from(body["odd"] == true)] += body["v"].as_u64().unwrap();
        let sum = &body["internal:aggregation:p"]["v:AggSum"];
        let found = ["false", "true"].map(|group| sum[group]["value"].as_u64().unwrap_or(0));
        assert_eq!(found, sums);
        let value = body["a"].as_u64().or(body["b"].as_u64()).unwrap();
        let times = seen.entry(value).and_modify(|n| *n += 1).or_insert(1);
        let status = if *times == 2 { "complete" } else { "triggered" };
        assert_eq!(body["internal:completion:pair"], status, "{body}");
    }
}

/// Runs a bounded gateway to its end, twice, and gives the lines that the file sink wrote after each run.
fn bounded(source: &str, pipeline: &str, input: &str) -> [Vec<Value>; 2] {
    let dir = folder();
    std::fs::write(dir.path().join("in"), input).unwrap();
    let configuration = format!(
        r#"{{ "sources": {{ "in": {source} }}, "pipelines": {{ "p": {{ "from": ["in"], "to": ["out"], {pipeline} }} }},
  "sinks": {{ "out": {{ "type": "file", "path": "out" }} }} }}"#
    );
    [(); 2].map(|()| {
        assert!(Gateway::start(dir.path(), &configuration, &[]).end().success());
        let text = std::fs::read_to_string(dir.path().join("out")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    })
}

fn lines(count: u64) -> String {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[test]
fn a_bounded_source_ends_with_the_exact_result() {
    let file = r#"{ "type": "file", "path": "in" }"#;
    for (pipeline, count, want) in [
        (
            r#""processes": [{ "type": "fold", "start": 0, "expr": "meta.acc + event.n", "each": 10 }]"#,
            25,
            r#"[{"value":45},{"value":190},{"value":300}]"#,
        ),
        (
            r#""processes": [{ "type": "fold", "start": 0, "expr": "meta.acc + event.n", "each": 5 },
                { "type": "fold", "start": 0, "expr": "meta.acc + 1", "each": 100, "into": "folds" }]"#,
            25,
            r#"[{"folds":5}]"#,
        ),
        (r#""processes": [{ "type": "fold", "expr": "event.n", "every": "1h" }]"#, 25, r#"[{"value":24}]"#),
        (r#""processes": [{ "type": "limit", "count": 3 }]"#, 10, r#"[{"n":0},{"n":1},{"n":2}]"#),
        (
            r#""processes": [{ "type": "map", "expr": "{'l': [event.n, event.n]}" }, { "type": "flatmap", "list": "l", "into": "n" },
                { "type": "limit", "count": 3 }]"#,
            10,
            r#"[{"n":0},{"n":0},{"n":1}]"#,
        ),
        (r#""processes": [{ "type": "flatmap", "list": "none" }]"#, 10, "[]"),
        (r#""processes": [{ "type": "limit", "count": 1 }, { "type": "checkpoint" }]"#, 10, r#"[{"n":0}]"#),
    ] {
        let want: Vec<Value> = serde_json::from_str(want).unwrap();
        for (run, got) in bounded(file, pipeline, &lines(count)).into_iter().enumerate() {
            assert_eq!(got, want, "{pipeline}, run {run}");
        }
    }
}

#[test]
fn two_hundred_events_with_random_delays_leave_in_order() {
    let slow = r#""workers": 8, "processes": [{ "type": "spawn", "wait": true, "children": 8, "program": "/bin/sh",
        "args": ["-c", "sleep 0.0$(($$ % 10))"] }]"#;
    let [first, second] = bounded(r#"{ "type": "file", "path": "in" }"#, slow, &lines(200));
    let numbers: Vec<u64> = first.iter().map(|event| event["n"].as_u64().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..200));
    assert_eq!(second.len(), 200);
}
