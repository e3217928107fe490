use super::super::tests::{build, check, event, reach};
use super::*;
use crate::systems::Systems;
use serde_json::json;
use std::{fs, time::Instant};
use tokio::time::timeout;

fn sh(script: &str, more: serde_json::Value) -> Box<dyn Process> {
    let mut config = json!({ "program": "/bin/sh", "args": ["-c", script] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build(&KIND, Systems::default(), config).unwrap()
}

#[tokio::test]
async fn an_answer_is_appended() {
    for (script, body, want) in [
        ("cat", r#"{"v":1}"#, r#"{"v":1,"internal:spawn:output":[{"spawn":{"v":1}}]}"#),
        ("true", r#"{"v":1}"#, r#"{"v":1,"internal:spawn:output":[{"spawn":null}]}"#),
        ("true", r#"{"internal:spawn:output":[{"S":{}}]}"#, r#"{"internal:spawn:output":[{"S":{}},{"spawn":null}]}"#),
        ("exit 9", r#"{"internal:spawn:output":1}"#, "rejected: `internal:spawn:output` is a number, not a list"),
        ("echo hi", "{}", "rejected: `/bin/sh` printed what is not one JSON object: `hi`"),
        ("exit 3", "{}", "rejected: `/bin/sh` ended with status 3"),
    ] {
        assert_eq!(reach(&*sh(script, json!({})), event(body)).await, want, "{script}");
    }
    let nowhere = build(&KIND, Systems::default(), json!({ "program": "/nowhere" })).unwrap();
    assert!(reach(&*nowhere, event("{}")).await.starts_with("retry: `/nowhere` cannot be started"));
}

#[tokio::test]
async fn four_hundred_at_once_get_their_own_event() {
    let config = json!({ "program": "cat", "children": 16, "timeout": "1m" });
    let process: Arc<dyn Process> = build(&KIND, Systems::default(), config).unwrap().into();
    let mut all = JoinSet::new();
    for n in 0..400 {
        let process = process.clone();
        all.spawn(async move {
            let got = reach(&*process, event(&format!("{{\"n\":{n}}}"))).await;
            assert_eq!(got, format!("{{\"n\":{n},\"internal:spawn:output\":[{{\"spawn\":{{\"n\":{n}}}}}]}}"));
        });
    }
    let mut done = 0;
    while let Some(one) = all.join_next().await {
        one.unwrap();
        done += 1;
    }
    assert_eq!(done, 400);
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn nobody_need_wait_but_for_a_seat() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("got");
    let script = format!("cat >> {0}; sleep 0.3; echo . >> {0}", file.display());
    let process = sh(&script, json!({ "wait": false, "children": 1 }));
    let since = Instant::now();
    assert_eq!(reach(&*process, event(r#"{"v":1}"#)).await, r#"{"v":1}"#);
    assert!(since.elapsed() < Duration::from_millis(250), "{:?}", since.elapsed());
    assert_eq!(reach(&*process, event(r#"{"v":2}"#)).await, r#"{"v":2}"#);
    until("the second", || fs::read_to_string(&file).unwrap() == "{\"v\":1}.\n{\"v\":2}.\n").await;
    assert!(since.elapsed() > Duration::from_millis(500), "the second waited for the first: {:?}", since.elapsed());
}

#[tokio::test]
async fn failures_of_those_nobody_waits_for_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    let config: Config = serde_json::from_value(json!({
        "program": "/bin/sh", "wait": false, "timeout": "200ms",
        "args": ["-c", format!("yes 2>/dev/null | head -c 1000000; exec <&-; test -e {}", good.display())],
    }))
    .unwrap();
    let process = Spawn::new("s", "p", config).unwrap();
    let failures = || process.trouble.failures.load(Relaxed);
    for n in 1..3 {
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20));
        reach(&process, event(&large)).await;
        until("the failure", || failures() == n).await;
    }
    fs::write(&good, "").unwrap();
    assert_eq!(reach(&process, event("{}")).await, "{}");
    until("the success", || failures() == 0).await;
}

#[tokio::test]
async fn those_nobody_waits_for_end_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("id");
    let process = sh(&format!("echo $$ > {}; exec sleep 30", file.display()), json!({ "wait": false }));
    assert_eq!(reach(&*process, event("{}")).await, "{}");
    until("the id", || fs::read_to_string(&file).is_ok_and(|id| id.ends_with('\n'))).await;
    let place = format!("/proc/{}", fs::read_to_string(&file).unwrap().trim());
    assert!(fs::exists(&place).unwrap());
    drop(process);
    until("it is killed and reaped", || !fs::exists(&place).unwrap()).await;
}

#[tokio::test]
async fn a_delay_comes_before_the_start() {
    let process = sh("cat", json!({ "delay": "150ms" }));
    assert!(timeout(Duration::from_millis(100), reach(&*process, event("{}"))).await.is_err());
    let since = Instant::now();
    reach(&*process, event("{}")).await;
    assert!(since.elapsed() >= Duration::from_millis(150));
}

#[test]
fn a_wrong_configuration_is_refused() {
    check(
        &KIND,
        &[
            ("{}", "", "wrong: missing field `program`"),
            (r#"{ "program": "" }"#, "", "wrong: expected the path of a program"),
            (
                r#"{ "program": "a", "args": ["\u0000"] }"#,
                "",
                "wrong: a program, its arguments and its environment cannot have NUL characters",
            ),
            (r#"{ "program": "a", "env": { "A=": "" } }"#, "", "wrong: `A=` is not the name of a variable"),
            (r#"{ "program": "a", "children": 0 }"#, "", "wrong: children: expected 1 to 1024"),
            (r#"{ "program": "a", "timeout": "0s" }"#, "", "wrong: expected a `timeout` of 1ms to 1d"),
            (r#"{ "program": "a", "max_output": "1GiB" }"#, "", "wrong: max_output: expected 1B to 16MiB"),
        ],
    );
}
