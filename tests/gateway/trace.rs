//! The way of one event, as `tidegate trace` tells it: what was recorded of it, and what the store knows of any.

use crate::kit::{self, Gateway, LONG, Mosquitto, folder, http, port, wait_for, wait_for_port};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

/// Runs `tidegate` on the configuration in a folder; gives what it printed, as JSON, and whether it succeeded. One that has
/// just begun may not listen yet.
pub fn ask(dir: &Path, arguments: &[&str]) -> (Value, bool) {
    let arguments: Vec<&str> = arguments.iter().chain(&["-c", "tidegate.jsonc", "--format", "json"]).copied().collect();
    let mut out = kit::tidegate(dir, &arguments, "");
    wait_for("the gateway to listen for operators", LONG, || {
        let early = String::from_utf8_lossy(&out.stderr).contains("does not listen for operators");
        if early {
            out = kit::tidegate(dir, &arguments, "");
        }
        !early
    });
    let text = String::from_utf8(out.stdout).unwrap();
    let value = serde_json::from_str(&text);
    (value.unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&out.stderr))), out.status.success())
}

/// Who did what to an event, in order.
fn way(dir: &Path, id: &str) -> Vec<(String, String)> {
    let (answer, _) = ask(dir, &["trace", id]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    answer["steps"].as_array().unwrap().iter().map(|step| (text(&step["who"]), text(&step["what"]))).collect()
}

fn post(url: &str, event: &Value) -> String {
    let (status, answer) = http::post(url, &event.to_string()).unwrap();
    assert_eq!(status, 202, "{answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["ids"][0].as_str().unwrap().to_owned()
}

#[test]
fn each_step_of_an_event_is_told_with_its_effect_and_the_answers_of_who_got_it() {
    let (dir, listen, cloud, broker) = (folder(), port(), port(), port());
    let _broker = Mosquitto::start(dir.path(), broker);
    let _upstream =
        http::Upstream::start(cloud, |post: &http::Post| if post.body.contains("poison") { 422 } else { 201 });
    let configuration = format!(
        r#"{{
  "gateway": {{ "trace": {{ "sample": 1 }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "pipelines": {{
    "climate": {{ "from": ["web"], "to": ["cloud", "bus"], "processes": [
      {{ "type": "continue", "when": "event.temp < 85" }},
      {{ "type": "annotate", "set": {{ "site": "barn" }} }},
      {{ "type": "annotate", "name": "hot", "set": {{ "hot": true }}, "when": "event.temp > 40" }},
      {{ "type": "flatmap", "list": "parts", "keep": true, "when": "has(event.parts)" }} ] }},
    "other": {{ "from": ["web"], "to": ["cloud"], "processes": [
      {{ "type": "annotate", "set": {{ "sum": {{ "expr": "event.temp + event.more" }} }}, "when": "has(event.more)", "on_fail": "drop" }},
      {{ "type": "continue", "when": "has(event.more)" }} ] }} }},
  "sinks": {{
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }},
    "bus": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{broker}", "topic": "t" }} }} }}"#
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    for event in [
        json!({ "id": "a", "temp": 20 }),
        json!({ "id": "a", "temp": 20 }),
        json!({ "id": "b/b ü", "temp": 99 }),
        json!({ "id": "c", "temp": 50, "parts": [{ "n": 1 }, { "n": 2 }] }),
        json!({ "id": "d", "temp": 1, "note": "poison" }),
        json!({ "id": "e", "temp": 1, "more": "x" }),
    ] {
        post(&url, &event);
    }
    let made = post(&url, &json!({ "temp": 7 }));
    let last = |id: &str, what: &str| way(dir.path(), id).iter().filter(|(_, known)| known == what).count();
    for (id, what, count) in [
        ("a", "acknowledged", 2),
        ("c.1", "acknowledged", 2),
        ("d", "dead", 1),
        ("e", "dropped", 1),
        (&made, "acknowledged", 2),
    ] {
        wait_for(&format!("{what} of {id}"), LONG, || last(id, what) == count);
    }
    let steps = |id: &str, who: &str| -> Vec<String> {
        way(dir.path(), id).into_iter().filter(|(known, _)| known.starts_with(who)).map(|(_, what)| what).collect()
    };
    for (id, who, want) in [
        ("a", "sources.web", &["taken in", "taken in"][..]),
        ("a", "pipelines.climate.", &["passed", "changed", "skipped", "skipped"]),
        ("a", "pipelines.other.", &["skipped", "stopped"]),
        ("a", "store", &["committed", "repeat", "stored", "removed", "removed"]),
        ("b/b ü", "pipelines.climate.", &["stopped"]),
        ("c", "pipelines.climate.", &["passed", "changed", "changed", "emitted", "became", "became"]),
        ("c.0", "pipelines.climate.", &["made"]),
        ("e", "pipelines.other.", &["failed"]),
        (&made, "pipelines.climate.", &["passed", "changed", "skipped", "skipped"]),
    ] {
        if who == "store" {
            wait_for("it to be removed", LONG, || steps(id, who).len() == want.len());
            let (mut got, mut want) = (steps(id, who), want.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            got.sort();
            want.sort();
            assert_eq!(got, want);
            continue;
        }
        assert_eq!(steps(id, who), want, "{id} {who}");
    }
    let (answer, found) = ask(dir.path(), &["trace", "a"]);
    let said = |who: &str, what: &str| {
        let steps = answer["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["who"] == who && step["what"] == what);
        step.unwrap_or_else(|| panic!("no {who} {what} in {answer:#}")).clone()
    };
    assert!(found);
    assert_eq!(said("sinks.cloud", "acknowledged")["said"], "HTTP 201");
    assert_eq!(said("sinks.bus", "acknowledged")["said"], "PUBACK: success, and nobody has subscribed to it");
    assert!(said("sinks.cloud", "acknowledged")["us"].as_u64().unwrap() > 0);
    assert!(said("store", "committed")["said"].as_str().unwrap().starts_with("topic `web`, lane 1, number "));
    let (dead, _) = ask(dir.path(), &["trace", "d"]);
    assert_eq!(dead["letters"][0]["consumer"], "sinks.cloud", "{dead}");
    assert!(dead["letters"][0]["reason"].as_str().unwrap().contains("422"), "{dead}");
    // For people, too; and what nobody knows is an error.
    let out = kit::tidegate(dir.path(), &["trace", "d", "-c", "tidegate.jsonc"], "");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("dead letter 1 of sinks.cloud") && text.contains("pipelines.climate.annotate"), "{text}");
    let out = kit::tidegate(dir.path(), &["trace", "nobody", "-c", "tidegate.jsonc"], "");
    assert_eq!(
        (out.status.code(), String::from_utf8(out.stderr).unwrap().contains("nothing is known of `nobody`")),
        (Some(1), true)
    );
    assert!(gateway.stop().success());
}

#[test]
fn where_an_event_is_the_store_knows_of_each_whether_the_gateway_runs_or_not() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let status = Arc::new(AtomicU16::new(503));
    let says = status.clone();
    let upstream = http::Upstream::start(cloud, move |_| says.load(Relaxed));
    let configuration = format!(
        r#"{{
  "gateway": {{ "trace": {{ "sample": 0 }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "processes": [], "to": ["cloud"] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "batch": {{ "max": 2 }} }} }} }}"#
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    let made = post(&url, &json!({ "n": 0 }));
    for n in 1..300 {
        post(&url, &json!({ "id": format!("own-{n}"), "n": n }));
    }
    // How far the sink is with it in the pipeline's topic.
    let stands = |id: &str| {
        let (answer, found) = ask(dir.path(), &["trace", id]);
        assert!(found && answer["complete"] == true, "{answer}");
        let places = answer["places"].as_array().unwrap();
        let place = places.iter().find(|place| place["topic"] == "p").unwrap_or_else(|| panic!("{answer}"));
        assert!(place["is"] == "stored" && place["taken"].is_string(), "{answer}");
        (place["consumers"][0]["is"].as_str().unwrap().to_owned(), place["consumers"][0]["before"].as_u64().unwrap())
    };
    wait_for("the first to be in flight", LONG, || upstream.posts().len() > 1);
    wait_for("all to be through the pipeline", LONG, || {
        let (answer, _) = ask(dir.path(), &["trace", "own-299"]);
        answer["places"].as_array().unwrap().iter().any(|place| place["topic"] == "p")
    });
    assert_eq!(stands(&made), ("in flight".into(), 0));
    assert_eq!(stands("own-1").1, 1);
    assert_eq!(stands("own-299"), ("waits".into(), 299));
    // Of the source's topic the pipeline has passed all.
    let (answer, _) = ask(dir.path(), &["trace", &made]);
    assert!(answer["places"].as_array().unwrap().iter().any(|place| place["topic"] == "web"), "{answer}");
    assert!(answer["steps"].as_array().unwrap().is_empty());
    gateway.kill();
    assert_eq!(stands("own-299").0, "waits");
    status.store(422, Relaxed);
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    let dead = |id: &str| ask(dir.path(), &["trace", id]).0["letters"].as_array().unwrap().len();
    wait_for("one to be refused", LONG, || dead("own-7") == 1);
    status.store(200, Relaxed);
    wait_for("all to leave the store", LONG, || {
        let (answer, _) = ask(dir.path(), &["trace", "own-299"]);
        answer["places"].as_array().unwrap().is_empty()
    });
    // Of one that is gone it is still known that it was there.
    let (gone, found) = ask(dir.path(), &["trace", &made]);
    assert!(found && gone["places"][0]["is"] == "gone", "{gone}");
    let (gone, found) = ask(dir.path(), &["trace", "own-299"]);
    assert!(found && gone["known"] == json!(["web"]), "{gone}");
    // A bad end is recorded of each.
    assert!(way(dir.path(), "own-7").contains(&("sinks.cloud".into(), "dead".into())));
    assert!(gateway.stop().success());
}

#[test]
fn what_was_taken_and_dropped_since_the_store_is_full_says_so() {
    let (dir, listen) = (folder(), port());
    let configuration = format!(
        r#"{{
  "gateway": {{ "trace": {{ "sample": 0 }} }},
  "store": {{ "disk": {{ "events": {{ "high": 50, "low": 10 }}, "when_full": "drop_newest" }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{}/", "from": ["web"] }} }} }}"#,
        port()
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    for n in 0..60 {
        post(&format!("http://127.0.0.1:{listen}/v1/events"), &json!({ "id": format!("own-{n}"), "n": n }));
    }
    assert_eq!(way(dir.path(), "own-7"), []);
    assert_eq!(way(dir.path(), "own-59"), [("store".to_owned(), "dropped".to_owned())]);
    assert!(gateway.stop().success());
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Posts an event with a `traceparent`.
fn post_traced(url: &str, parent: &str, event: &Value) {
    let header = format!("traceparent: {parent}");
    let out = std::process::Command::new("curl")
        .args(["-sf", "-H", &header, "-d", &event.to_string(), url])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_traceparent_goes_with_its_event_in_and_out_by_http_and_mqtt() {
    let (dir, listen, cloud, broker, near) = (folder(), port(), port(), port(), port());
    let _broker = Mosquitto::start(dir.path(), broker);
    let upstream = http::Upstream::start(cloud, |_| 200);
    let sink = |name: &str, from: &str, more: &str| {
        format!(r#""{name}": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/{name}", "from": ["{from}"]{more} }}"#)
    };
    let configuration = format!(
        r#"{{
  "gateway": {{ "trace": {{ "sample": 0 }} }},
  "sources": {{
    "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }},
    "back": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{broker}", "subscribe": ["t"] }},
    "near": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{near}" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["piped"], "processes": [
    {{ "type": "annotate", "set": {{ "trace": {{ "expr": "meta.traceparent" }} }}, "when": "has(meta.traceparent)" }} ] }} }},
  "sinks": {{
    "bus": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{broker}", "topic": "t", "from": ["web"] }},
    "own": {{ "type": "mqtt", "url": "mqtt://127.0.0.1:{near}", "topic": "t", "from": ["web"] }},
    "piped": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/piped" }},
    {}, {}, {} }} }}"#,
        sink("direct", "web", r#", "envelope": true"#),
        sink("back", "back", ""),
        sink("near", "near", ""),
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    wait_for("the source to be subscribed", LONG, || {
        std::fs::read_to_string(dir.path().join("mosquitto.log")).is_ok_and(|log| log.contains("-back"))
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    let came = |path: &str| upstream.posts().into_iter().filter(|post| post.path == path).collect::<Vec<_>>();
    for (n, parent) in [PARENT, "00-nonsense-01"].into_iter().enumerate() {
        post_traced(&url, parent, &json!({ "n": n }));
        for path in ["/direct", "/piped", "/back", "/near"] {
            wait_for(&format!("it to come to {path}"), LONG, || came(path).len() > n);
            let post = came(path).remove(n);
            let want = (n == 0).then_some(PARENT);
            assert_eq!(post.headers.get("traceparent").map(String::as_str), want, "{path}");
            let event = post.events().remove(0);
            let body = if path == "/direct" { &event["body"] } else { &event };
            assert_eq!(body["n"], n);
            if path == "/direct" {
                assert_eq!(event["traceparent"].as_str(), want, "{event}");
            }
            if path == "/piped" {
                assert_eq!(body["trace"].as_str(), want, "{event}");
            }
        }
    }
    // Its sender records its part, so this one does, too; of the other nothing is asked for.
    let ids: Vec<String> =
        came("/direct").iter().map(|post| post.events()[0]["id"].as_str().unwrap().to_owned()).collect();
    let steps =
        |id: &str| way(dir.path(), id).into_iter().map(|(who, what)| format!("{who} {what}")).collect::<Vec<_>>();
    for step in ["sources.web taken in", "store committed", "pipelines.p.annotate changed", "sinks.bus acknowledged"] {
        assert!(steps(&ids[0]).contains(&step.to_owned()), "{step}: {:?}", steps(&ids[0]));
    }
    assert!(steps(&ids[1]).is_empty());
    assert!(gateway.stop().success());
}

#[test]
fn what_is_recorded_is_told_to_a_collector_which_may_be_away() {
    let (dir, listen, cloud, collector) = (folder(), port(), port(), port());
    let _upstream = http::Upstream::start(cloud, |_| 200);
    let configuration = format!(
        r#"{{
  "gateway": {{ "id": "barn-7", "trace": {{ "sample": 1, "otlp": {{
    "url": "http://127.0.0.1:{collector}/v1/traces", "headers": {{ "x-key": "secret" }} }} }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [ {{ "type": "annotate", "set": {{ "a": 1 }} }} ] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }} }} }}"#
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(listen);
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    post_traced(&url, PARENT, &json!({ "id": "a" }));
    post(&url, &json!({ "id": "b" }));
    wait_for("it to be told that the collector is away", LONG, || gateway.log().contains("gateway.trace.otlp: down"));
    let upstream = http::Upstream::start(collector, |_| 200);
    let spans = || -> Vec<Value> {
        let resources =
            upstream.events().into_iter().flat_map(|body| body["resourceSpans"].as_array().cloned().unwrap());
        resources.flat_map(|resource| resource["scopeSpans"][0]["spans"].as_array().cloned().unwrap()).collect()
    };
    let named = |id: &str, name: &str| {
        let of = |span: &Value| span["attributes"][0]["value"]["stringValue"] == id && span["name"] == name;
        spans().into_iter().find(of)
    };
    for id in ["a", "b"] {
        for name in ["store committed", "pipelines.p.annotate changed", "store stored", "sinks.cloud acknowledged"] {
            wait_for(&format!("the span `{name}` of {id}"), LONG, || named(id, name).is_some());
        }
    }
    let (root, sent, other) = (
        named("a", "store committed").unwrap(),
        named("a", "sinks.cloud acknowledged").unwrap(),
        named("b", "store committed").unwrap(),
    );
    assert_eq!((&root["traceId"], &root["parentSpanId"]), (&PARENT[3..35].into(), &PARENT[36..52].into()));
    assert_eq!((&sent["traceId"], &sent["parentSpanId"]), (&root["traceId"], &root["spanId"]));
    assert!(other["traceId"].as_str().unwrap().len() == 32 && other["traceId"] != root["traceId"]);
    let post = &upstream.posts()[0];
    assert_eq!(
        (&*post.path, &*post.headers["content-type"], &*post.headers["x-key"]),
        ("/v1/traces", "application/json", "secret")
    );
    assert!(post.body.contains(r#""stringValue":"barn-7""#), "{}", post.body);
    assert!(gateway.stop().success());
}
