use super::super::tests::{Rig, build, check, event, reach};
use super::*;
use crate::systems::{
    System, Systems,
    http::testing::{
        Act::{self, Reset, Say, Stall},
        Server, status,
    },
    kv::Kv,
    objects::Objects,
    pubsub::{PubSub, Subscription},
};
use serde_json::json;
use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// All three sorts of systems, of which only what a tee uses is there: notes what it is given.
#[derive(Default)]
struct Notes {
    got: Mutex<Vec<String>>,
    away: Mutex<bool>,
}

impl Notes {
    fn take(&self, key: &str, value: &[u8], more: &str) -> Result<(), Fault> {
        if *self.away.lock().unwrap() {
            return Err(Fault::retry("away"));
        }
        self.got.lock().unwrap().push(format!("{key}{more} = {}", String::from_utf8_lossy(value)));
        Ok(())
    }

    fn taken(&self) -> String {
        self.got.lock().unwrap().drain(..).collect::<Vec<_>>().join("; ")
    }
}

#[async_trait]
impl Kv for Notes {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, Fault> {
        panic!("a tee does not read")
    }
    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault> {
        self.take(key, value, &ttl.map(|ttl| format!(" for {ttl:?}")).unwrap_or_default())
    }
    async fn compare_and_swap(&self, _: &str, _: Option<&[u8]>, _: &[u8]) -> Result<bool, Fault> {
        panic!("a tee does not compare")
    }
    async fn delete(&self, _: &str) -> Result<bool, Fault> {
        panic!("a tee does not delete")
    }
    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<String>, Fault> {
        panic!("a tee does not list")
    }
}

#[async_trait]
impl Objects for Notes {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, Fault> {
        panic!("a tee does not read")
    }
    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault> {
        self.take(key, object, "")
    }
    async fn delete(&self, _: &str) -> Result<(), Fault> {
        panic!("a tee does not delete")
    }
    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<String>, Fault> {
        panic!("a tee does not list")
    }
}

#[async_trait]
impl PubSub for Notes {
    async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Fault> {
        self.take(topic, message, "")
    }
    async fn subscribe(&self, _: &str) -> Result<Box<dyn Subscription>, Fault> {
        panic!("a tee does not listen")
    }
}

/// Systems `k`, `o` and `b`, all with the same notes.
fn systems() -> (Systems, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let mut systems = Systems::default();
    systems.insert("k", System::Kv(notes.clone()));
    systems.insert("o", System::Objects(notes.clone()));
    systems.insert("b", System::PubSub(notes.clone()));
    (systems, notes)
}

fn entry(uuid: &str, sort: &str, place: &str) -> String {
    format!(r#"{{"uuid":"{uuid}","outputType":"{sort}","connectionString":"{place}"}}"#)
}

#[tokio::test]
async fn a_copy_goes_to_a_system() {
    let (systems, notes) = systems();
    for (config, body, taken, sort, uuid, place) in [
        (json!({"to": {"kv": "k"}}), r#"{"v":1}"#, r#"e-1 = {"v":1}"#, "kvstore", "e-1", "k"),
        (
            json!({"to": {"kv": "k", "key": "event.v + 1", "ttl": "5s"}}),
            r#"{"v":1}"#,
            r#"2 for 5s = {"v":1}"#,
            "kvstore",
            "2",
            "k",
        ),
        (
            json!({"to": {"objects": "o", "key": "'a/' + meta.id"}, "merge": {"l": [2], "m": {"x": 1}}}),
            r#"{"l":[1]}"#,
            r#"a/e-1 = {"l":[1,2],"m":{"x":1}}"#,
            "object",
            "a/e-1",
            "o",
        ),
        (
            json!({"to": {"publish": "b", "topic": "t/1"}, "transform": [{"from": "v", "to": "w"}], "others": "drop"}),
            r#"{"v":1}"#,
            r#"t/1 = {"w":1}"#,
            "pubsub",
            "e-1.tee",
            "b",
        ),
    ] {
        let process = build(&KIND, systems.clone(), config).unwrap();
        let want = format!("{},\"internal:tee:output\":[{}]}}", &body[..body.len() - 1], entry(uuid, sort, place));
        for _ in 0..2 {
            assert_eq!(reach(&*process, event(body)).await, want);
            assert_eq!(notes.taken(), taken, "the same whenever it is made again");
        }
    }
}

#[tokio::test]
async fn what_does_not_arrive_does_not_go_on() {
    let (systems, notes) = systems();
    *notes.away.lock().unwrap() = true;
    for (config, body, want) in [
        (json!({"to": {"kv": "k"}}), "{}", "retry: to: away"),
        (json!({"to": {"kv": "k", "key": "event.a"}}), "{}", "rejected: to: key: column 1: `event.a` is absent"),
        (json!({"to": {"kv": "k", "key": "event"}}), "{}", "rejected: to: key: expected a text or a number, found map"),
        (
            json!({"to": {"kv": "k"}, "merge": {"m": {"v": 1}}}),
            r#"{"m":{"v":1}}"#,
            "rejected: merge: `m.v` is there already, and is a number",
        ),
        (
            json!({"to": {"kv": "k"}, "transform": [{"from": "v", "op": "sum"}]}),
            r#"{"v":1}"#,
            "rejected: transform[0]: `v`: expected a list, found a number",
        ),
        (
            json!({"to": {"kv": "k"}}),
            r#"{"internal:tee:output":"x"}"#,
            "rejected: `internal:tee:output` is a string, not a list",
        ),
        (
            json!({"to": {"directory": "/nowhere"}}),
            "{}",
            "retry: to: cannot write to `/nowhere`: No such file or directory (os error 2)",
        ),
    ] {
        let process = build(&KIND, systems.clone(), config.clone()).unwrap();
        assert_eq!(reach(&*process, event(body)).await, want, "{config}");
    }
    assert_eq!(notes.taken(), "");
}

#[tokio::test]
async fn a_copy_is_sent_to_a_topic_with_an_id_of_its_own() {
    for (to, sort, topic) in [(json!({"topic": "raw"}), "topic", "raw"), (json!({"sink": "raw"}), "sink", "p/tee")] {
        for (specs, outside, copy) in [
            (json!([]), false, r#"{"l":[{"v":1}],"internal:tee:output":[0]}"#),
            (
                json!([{"from": "l", "op": {"map": {"run": ["true"]}}}]),
                true,
                r#"{"l":[null],"internal:tee:output":[0]}"#,
            ),
        ] {
            let process = build(&KIND, Systems::default(), json!({"to": to, "transform": specs})).unwrap();
            assert_eq!(process.outside().is_some(), outside);
            let got = reach(&*process, event(r#"{"l":[{"v":1}],"internal:tee:output":[0]}"#)).await;
            let trail = entry("e-1.tee", sort, "raw");
            let original = format!(r#"{{"l":[{{"v":1}}],"internal:tee:output":[0,{trail}]}}"#);
            assert_eq!(got, format!("{topic} e-1.tee: {copy}; {original}"));
        }
    }
    let mut rig = Rig::new(&KIND, r#"{ "to": { "topic": "t" }, "when": "event.a == 1", "merge": {"b": 2} }"#).unwrap();
    assert_eq!(rig.feed(r#"{"a":2}"#), r#"{"a":2}"#);
    assert!(rig.sent.is_empty());
    rig.feed(r#"{"a":1}"#);
    assert_eq!(rig.sent, [r#"t: {"a":1,"b":2}"#]);
}

#[tokio::test]
async fn a_copy_becomes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let process = build(&KIND, Systems::default(), json!({"to": {"directory": dir.path()}})).unwrap();
    for n in [1, 2] {
        let got = reach(&*process, event(&format!("{{\"n\":{n}}}"))).await;
        assert!(got.ends_with(&format!("[{}]}}", entry("e-1", "localfile", dir.path().to_str().unwrap()))), "{got}");
        assert_eq!(fs::read_to_string(dir.path().join("e-1.json")).unwrap(), format!("{{\"n\":{n}}}\n"));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn said(line: &str, body: &str) -> Act {
    Say(format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

#[tokio::test]
async fn a_copy_is_posted_and_the_answer_kept() {
    let long = "x".repeat(100_000);
    for (act, keep, want) in [
        (status("200 OK"), true, ""),
        (said("201 Created", r#" {"ok": [1]} "#), true, r#","response":{"ok": [1]}"#),
        (said("200 OK", r#"{"ok":1}"#), false, ""),
        (said("200 OK", "{}"), true, ""),
        (said("202 Accepted", "thank\nyou"), true, r#","response":"thank\nyou""#),
        (said("200 OK", "[1]"), true, r#","response":"[1]""#),
        (said("200 OK", &long), true, &format!(r#","response":"{}""#, &long[..64 << 10])),
        (status("404 Not Found"), true, "rejected: to: `HOST` answered 404 Not Found"),
        (status("302 Found"), true, "rejected: to: `HOST` answered 302 Found: set `url` to where it moved: ``"),
        (status("401 Unauthorized"), true, "rejected: to: `HOST` answered 401 Unauthorized"),
        (status("500 Oops"), true, "retry: to: `HOST` answered 500 Internal Server Error"),
        (status("408 Slow"), true, "retry: to: `HOST` answered 408 Request Timeout"),
        (
            Say("HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".into()),
            true,
            "after 7s: to: `HOST` answered 429 Too Many Requests",
        ),
        (Reset, true, "retry: to: `HOST`: "),
        (Stall(Duration::from_millis(500)), true, "retry: to: `HOST`: timeout: global"),
    ] {
        let server = Server::start(vec![act]);
        let http = json!({"url": server.url(), "headers": {"X-A": "canary"}, "timeout": "300ms"});
        let config = json!({"to": {"http": http}, "keep_answer": keep, "merge": {"b": 2}});
        let process = build(&KIND, Systems::default(), config).unwrap();
        let got = reach(&*process, event(r#"{"a":1}"#)).await;
        let host = format!("127.0.0.1:{}", server.port);
        let place = format!("http://{host}/in");
        match want.starts_with(['r', 'a']) {
            true => assert!(got.starts_with(&want.replace("HOST", &host)), "{got}"),
            false => {
                let entry = entry("e-1.tee", "web", &place).replace("\"}", &format!("\"{want}}}"));
                assert_eq!(got, format!(r#"{{"a":1,"internal:tee:output":[{entry}]}}"#));
            }
        }
        let request = server.next();
        assert_eq!((request.line.as_str(), &request.body[..]), ("POST /in?x=y HTTP/1.1", &br#"{"a":1,"b":2}"#[..]));
        for (name, value) in [("content-type", "application/json"), ("idempotency-key", "e-1.tee"), ("x-a", "canary")] {
            assert_eq!(request.headers[name], value);
        }
        assert!(!got.contains("canary"), "{got}");
    }
}

#[test]
fn a_request_ends_with_the_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Server::start(vec![Stall(Duration::from_secs(60))]);
    let config = json!({"to": {"http": {"url": server.url(), "timeout": "5s"}}});
    let process = build(&KIND, Systems::default(), config).unwrap();
    let work = async { tokio::time::timeout(Duration::from_millis(100), reach(&*process, event("{}"))).await };
    assert!(runtime.block_on(work).is_err());
    let since = Instant::now();
    drop(process);
    drop(runtime); // waits for the thread of the request
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[test]
fn a_wrong_configuration_is_refused() {
    let one = "expected one of `topic`, `sink`, `kv`, `objects`, `publish`, `directory` and `http`";
    check(
        &KIND,
        &[
            ("{}", "", "wrong: missing field `to`"),
            (r#"{ "to": {} }"#, "", &format!("wrong: to: {one}")),
            (r#"{ "to": { "topic": "a", "sink": "b" } }"#, "", &format!("wrong: to: {one}")),
            (r#"{ "to": { "publish": "a" } }"#, "", "wrong: to: `publish` needs a `topic`"),
            (
                r#"{ "to": { "topic": "a", "key": "1" } }"#,
                "",
                "wrong: to.key: only with `kv`, `objects` or `directory`",
            ),
            (r#"{ "to": { "directory": "a", "ttl": "1s" } }"#, "", "wrong: to.ttl: only with `kv`"),
            (r#"{ "to": { "kv": "a" } }"#, "", "wrong: to.kv: there is no system `a`: `systems` is empty"),
            (r#"{ "to": { "topic": "a" }, "keep_answer": true }"#, "", "wrong: keep_answer: only `http` answers"),
            (
                r#"{ "to": { "http": { "url": "ftp://a" } } }"#,
                "",
                "wrong: to.http.url: expected a URL that starts with `https://` or `http://`",
            ),
            (
                r#"{ "to": { "http": { "url": "http://a", "tls": { "cert": "a" } } } }"#,
                "",
                "wrong: to.http.tls.cert: a certificate needs its private key: set `key` too",
            ),
            (
                r#"{ "to": { "topic": "a" }, "transform": [{ "op": "move" }] }"#,
                "",
                "wrong: transform[0]: `move` takes `from` and `to`",
            ),
        ],
    );
}
