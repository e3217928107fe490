//! What pipelines remember, while the disk fails, the gateway is killed or stopped, and its configuration changes.

use crate::{
    exact::{Plant, half, in_order},
    kit::{Gateway, LONG, folder, wait_for},
    refused,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

fn numbered(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(|n| json!({ "id": format!("e{n}"), "v": n })).collect()
}

#[test]
fn a_disk_that_fails_and_kills_count_nothing_twice() {
    const EVENTS: u64 = 700;
    const LATE: u64 = 100;
    let mut random = fastrand::Rng::with_seed(11);
    let faults = |plant: &Plant| {
        fs::read_to_string(plant.dir.path().join("faults")).unwrap_or_default().matches("(INJECTED)").count()
    };
    for (call, fault) in [
        ("fdatasync", "error=EIO:when=20+7"),
        ("pwrite64", "error=EIO:when=60+101"),
        ("pwrite64", "error=ENOSPC:when=61+613"), // each makes the store give up its ballast, which takes hundreds of writes
    ] {
        let plant = Plant::new(&format!(
            r#"{{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [
          {{ "type": "aggregate", "name": "count", "field": "v", "op": "count" }},
          {{ "type": "aggregate", "name": "sum", "field": "v", "op": "sum", "by": ["odd"] }},
          {{ "type": "complete", "name": "pair", "join": ["a", "b"], "timeout": "1h" }},
          {{ "type": "checkpoint" }},
          {{ "type": "throttle", "rate": "20000/s" }},
          {{ "type": "limit", "count": {} }},
          {{ "type": "aggregate", "name": "late", "label": "late", "field": "v", "op": "count" }} ] }} }}"#,
            EVENTS + LATE / 2
        ));
        let mut gateway = plant.start_with_fault(call, fault);
        let hands = plant.post((0..EVENTS).map(half).collect());
        let mut injected = 0;
        while !hands.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(random.u64(400..900)));
            gateway.alive();
            gateway.kill();
            injected += faults(&plant);
            gateway = plant.start_with_fault(call, fault);
        }
        plant.wait(EVENTS as usize);
        gateway.kill();
        injected += faults(&plant);
        assert!(injected >= 3, "{call} {fault}: only {injected} faults");

        let gateway = plant.start();
        plant.post((EVENTS..EVENTS + LATE).map(half).collect()).into_iter().for_each(|hand| hand.join().unwrap());
        plant.wait((EVENTS + LATE / 2) as usize);
        // What the limit stops does not arrive: only the gateway knows when it is done with it.
        let done = format!("pipelines.p/checkpoint: of `p/checkpoint` delivered {}, queued 0,", EVENTS + LATE);
        wait_for("the last events", LONG, || {
            thread::sleep(Duration::from_millis(50));
            Command::new("kill").args(["-USR1", &gateway.pid().to_string()]).status().unwrap();
            gateway.log().contains(&done)
        });
        assert!(gateway.stop().success());
        let (dead, ledger) = refused::read(plant.dir.path());
        assert!(dead.is_empty());
        for (consumer, stopped) in [("pipelines.p", 0), ("pipelines.p/checkpoint", LATE / 2)] {
            let row = ledger.iter().find(|row| row.consumer == consumer).unwrap();
            let all = EVENTS + LATE;
            assert_eq!(
                (row.accepted, row.delivered, row.stopped, row.queued),
                (all, all, stopped, 0),
                "{call} {fault}"
            );
        }
        let arrived = plant.arrived();
        in_order(&arrived, EVENTS + LATE / 2);
        let late = |body: &Value| body["internal:aggregation:late"]["v:AggCount"]["value"].as_u64().unwrap();
        assert!(arrived.values().map(late).collect::<BTreeSet<_>>().into_iter().eq(1..=EVENTS + LATE / 2));
    }
}

#[test]
fn killed_with_spawns_in_flight_every_topic_gets_every_event_once() {
    const EVENTS: u64 = 600;
    let mut plant = Plant::new(
        r#"{ "p": { "from": ["web"], "workers": 8, "to": ["cloud"], "on_fail": { "topic": "odd" }, "processes": [
      { "type": "tee", "to": { "topic": "copies" } },
      { "type": "spawn", "program": "/bin/cat", "args": [], "children": 8 },
      { "type": "continue", "when": "event.v % 2 == 0 || event.id < 1" },
      { "type": "aggregate", "name": "count", "op": "count" } ] },
    "q": { "from": ["odd", "copies", "p"], "to": ["cloud"], "processes": [
      { "type": "aggregate", "name": "count", "op": "count" } ] } }"#,
    );
    plant.configuration = plant.configuration.replacen('{', r#"{ "topics": { "odd": {}, "copies": {} }, "#, 1);
    let mut gateway = plant.start();
    let hands = plant.post(numbered(0..EVENTS));
    let mut random = fastrand::Rng::with_seed(5);
    let mut kills = 0;
    while !hands.iter().all(thread::JoinHandle::is_finished) || kills < 5 {
        thread::sleep(Duration::from_millis(random.u64(50..300)));
        gateway.alive();
        gateway.kill();
        kills += 1;
        gateway = plant.start();
    }
    // `q` gets an even event from `p` and as a copy; an odd one is failed, and leaves no copy.
    let numbers = |topic: &str| -> BTreeSet<u64> {
        let events = plant.upstream.events();
        let of_topic = events.iter().filter(|event| event["topic"] == topic);
        of_topic
            .map(|e| e["body"][format!("internal:aggregation:{topic}")]["*:AggCount"]["value"].as_u64().unwrap())
            .collect()
    };
    let done = || numbers("q").len() as u64 >= 3 * EVENTS / 2 && numbers("p").len() as u64 >= EVENTS / 2;
    wait_for("all events", LONG, done);
    assert!(gateway.stop().success());
    assert!(numbers("p").into_iter().eq(1..=EVENTS / 2));
    let (dead, ledger) = refused::read(plant.dir.path());
    assert!(dead.is_empty());
    for (topic, count) in [("odd", EVENTS / 2), ("copies", EVENTS / 2), ("p", EVENTS / 2)] {
        let row = ledger.iter().find(|row| row.consumer == "pipelines.q" && row.topic == topic).unwrap();
        assert_eq!((row.accepted, row.delivered, row.queued), (count, count, 0), "{topic} after {kills} kills");
    }
    assert!(numbers("q").into_iter().eq(1..=3 * EVENTS / 2));
}

/// Whether a process runs with this in its command line.
fn runs(mark: &str) -> bool {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.into_iter().any(|line| String::from_utf8_lossy(&line).contains(mark))
}

#[test]
fn a_stop_waits_for_no_child_that_hangs_and_leaves_none() {
    let seconds = format!("3{}.25", std::process::id());
    for (hangs, workers) in [
        (
            format!(
                r#"{{ "type": "spawn", "program": "/bin/sh", "args": ["-c", "sleep {seconds} & wait"], "timeout": "1h" }}"#
            ),
            1,
        ),
        (format!(r#"{{ "type": "spawn", "program": "/bin/sleep", "args": ["{seconds}"], "timeout": "1h" }}"#), 4),
        (r#"{ "type": "spawn", "program": "/nowhere", "args": [] }"#.to_owned(), 4),
    ] {
        let pipeline = |process: &str| {
            format!(
                r#"{{ "p": {{ "from": ["web"], "to": ["cloud"], "workers": {workers}, "processes": [ {process},
          {{ "type": "aggregate", "name": "count", "op": "count" }} ] }} }}"#
            )
        };
        let mut plant = Plant::new(&pipeline(&hangs));
        let gateway = plant.start();
        plant.post(numbered(0..10)).into_iter().for_each(|hand| hand.join().unwrap());
        if hangs.contains("sleep") {
            wait_for("a child", LONG, || runs(&seconds));
        }
        let told = Instant::now();
        assert!(gateway.stop().success());
        assert!(told.elapsed() < Duration::from_secs(6), "the stop took {:?}", told.elapsed());
        wait_for("the children's end", Duration::from_secs(2), || !runs(&seconds));
        let cat = r#"{ "type": "spawn", "program": "/bin/cat", "args": [] }"#;
        plant.configuration = plant.configuration.replacen(&hangs, cat, 1);
        let gateway = plant.start();
        let count = |body: &Value| body["internal:aggregation:p"]["*:AggCount"]["value"].as_u64().unwrap();
        assert!(plant.wait(10).values().map(count).collect::<BTreeSet<_>>().into_iter().eq(1..=10));
        assert!(gateway.stop().success());
    }
}

#[test]
fn what_a_changed_configuration_leaves_behind_is_told_and_comes_back() {
    let pipelines = |name: &str, processes: &str| {
        format!(r#"{{ "{name}": {{ "from": ["web"], "to": ["cloud"], "processes": [ {processes} ] }} }}"#)
    };
    let count = r#"{ "type": "aggregate", "name": "count", "op": "count" }"#;
    let first = pipelines(
        "p",
        &format!(
            r#"{count}, {{ "type": "checkpoint", "name": "half" }}, {{ "type": "spawn", "program": "/nowhere", "args": [] }}"#
        ),
    );
    let mut plant = Plant::new(&first);
    let post = |plant: &Plant, numbers| plant.post(numbered(numbers)).into_iter().for_each(|hand| hand.join().unwrap());
    let gateway = plant.start();
    post(&plant, 0..5);
    wait_for("the events at the checkpoint", LONG, || {
        Command::new("kill").args(["-USR1", &gateway.pid().to_string()]).status().unwrap();
        thread::sleep(Duration::from_millis(50));
        gateway.log().contains("pipelines.p/half: of `p/half` delivered 0, queued 5")
    });
    assert!(gateway.stop().success());

    // The checkpoint is gone, another process stands before, and the worker has another name.
    let map = r#"{ "type": "annotate", "set": { "site": "barn" } }"#;
    let second = pipelines("p", &format!("{map}, {count}"));
    plant.configuration = plant.configuration.replacen(&first, &second, 1);
    let gateway = plant.start();
    post(&plant, 5..8);
    let numbers = |plant: &Plant| -> BTreeSet<u64> {
        plant.arrived().values().map(|b| b["internal:aggregation:p"]["*:AggCount"]["value"].as_u64().unwrap()).collect()
    };
    plant.wait(3);
    assert!(numbers(&plant).into_iter().eq(6..=8), "{:?}", numbers(&plant));
    let log = gateway.log();
    assert!(
        log.contains("`pipelines.p/half` is not in the configuration any more; the store keeps its 5 events"),
        "{log}"
    );
    assert!(gateway.stop().success());

    let third = pipelines("r", "");
    plant.configuration = plant.configuration.replacen(&second, &third, 1);
    let gateway = plant.start();
    wait_for("the warning", LONG, || {
        gateway.log().contains("`pipelines.p.count` is not in the configuration any more; the store keeps the 1 values")
    });
    assert!(gateway.stop().success());

    // Put back, they go on.
    let fourth = first.replace("/nowhere", "/bin/cat");
    plant.configuration = plant.configuration.replacen(&third, &fourth, 1);
    let gateway = plant.start();
    post(&plant, 8..9);
    wait_for("what was left behind", LONG, || numbers(&plant).into_iter().eq(1..=9));
    assert!(gateway.stop().success());

    // A topic that is not read any more.
    let fifth = pipelines("p", r#"{ "type": "spawn", "program": "/nowhere", "args": [] }"#);
    plant.configuration = plant.configuration.replacen(&fourth, &fifth, 1);
    let gateway = plant.start();
    post(&plant, 9..11);
    assert!(gateway.stop().success());
    let sixth = fifth.replace("\"web\"", "\"other\"");
    plant.configuration =
        plant.configuration.replacen(&fifth, &sixth, 1).replacen('{', r#"{ "topics": { "other": {} }, "#, 1);
    let gateway = plant.start();
    wait_for("the other warning", LONG, || {
        gateway.log().contains("`pipelines.p` does not read `web` any more; it had 2 events of it to go")
    });
    assert!(gateway.stop().success());
}

#[test]
fn the_last_words_are_said_once_whatever_happens() {
    let configuration = r#"{ "sources": { "in": { "type": "file", "path": "in" } },
  "pipelines": { "p": { "from": ["in"], "to": ["out"], "processes": [
      { "type": "fold", "name": "sum", "start": 0, "expr": "meta.acc + event.n", "each": 1000 },
      { "type": "fold", "name": "sums", "start": 0, "expr": "meta.acc + 1" } ] },
    "q": { "from": ["p", "in"], "to": ["out"], "processes": [{ "type": "limit", "count": 2 }] } },
  "sinks": { "out": { "type": "file", "path": "out", "envelope": true } } }"#;
    let prepare = || {
        let dir = folder();
        fs::write(dir.path().join("in"), (0..2500).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>()).unwrap();
        dir
    };
    let said = |dir: &Path| -> Vec<Value> {
        let text = fs::read_to_string(dir.join("out")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_p = lines.filter(|event| event["topic"] == "p");
        let by_id: BTreeMap<String, Value> = of_p.map(|e| (e["id"].to_string(), e["body"].clone())).collect();
        by_id.into_values().collect()
    };
    let want = [json!({ "value": 3 })];
    // A fresh store takes many flushes to make, then the end is near the eighth: of those, each third one fails. (Each
    // failure is followed by a flush of what was read back, so that of every second one only these would come through.)
    for first in 4..8 {
        let dir = prepare();
        refused::read(dir.path());
        let fault = format!("error=EIO:when={first}+3");
        let gateway = Gateway::start_with_fault(dir.path(), configuration, "fdatasync", &fault);
        assert!(gateway.end().success(), "{fault}");
        assert_eq!(said(dir.path()), want, "{fault}");
    }
    let (dir, mut random) = (prepare(), fastrand::Rng::with_seed(1));
    for _ in 0..15 {
        let gateway = Gateway::start(dir.path(), configuration, &[]);
        thread::sleep(Duration::from_millis(random.u64(20..150)));
        gateway.kill();
    }
    assert!(Gateway::start(dir.path(), configuration, &[]).end().success());
    assert_eq!(said(dir.path()), want);
}

#[test]
fn many_timeouts_that_came_while_it_was_off_fire_once_over_kills() {
    const EVENTS: usize = 600;
    let plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "processes": [
      { "type": "complete", "name": "pair", "join": ["a", "b"], "timeout": "2s", "carry": ["note"] },
      { "type": "aggregate", "name": "count", "op": "count" } ] } }"#,
    );
    let mut gateway = plant.start();
    // Together more than may wait for the disk at once.
    let note = "x".repeat(8 << 10);
    let events = (0..EVENTS).map(|n| json!({ "id": n.to_string(), "a": n, "note": note })).collect();
    plant.post(events).into_iter().for_each(|hand| hand.join().unwrap());
    gateway.kill();
    thread::sleep(Duration::from_secs(2));
    for ms in [30, 60, 90, 120] {
        gateway = plant.start();
        thread::sleep(Duration::from_millis(ms));
        gateway.kill();
    }
    gateway = plant.start();
    let arrived = plant.wait(2 * EVENTS);
    assert!(gateway.stop().success());
    let status = |status: &str| arrived.values().filter(|b| b["internal:completion:pair"] == status).count();
    assert_eq!((status("triggered"), status("timedout")), (EVENTS, EVENTS));
    let count = |body: &Value| body["internal:aggregation:p"]["*:AggCount"]["value"].as_u64().unwrap();
    assert!(arrived.values().map(count).collect::<BTreeSet<_>>().into_iter().eq(1..=2 * EVENTS as u64));
    let (_, ledger) = refused::read(plant.dir.path());
    let row = ledger.iter().find(|row| row.consumer == "sinks.cloud").unwrap();
    assert_eq!((row.accepted, row.delivered, row.queued), (2 * EVENTS as u64, 2 * EVENTS as u64, 0));
}

#[test]
fn an_event_that_needs_too_much_memory_is_failed_alone_and_the_rest_counted() {
    let mut plant = Plant::new(
        r#"{ "p": { "from": ["web"], "to": ["cloud"], "state": "2KiB", "processes": [
      { "type": "aggregate", "name": "count", "op": "count", "by": ["room"] } ] } }"#,
    );
    let event = |n: u64| json!({ "id": n.to_string(), "room": n % 100 });
    let post = |plant: &Plant, n: u64| plant.post(vec![event(n)]).into_iter().for_each(|hand| hand.join().unwrap());
    let gateway = plant.start();
    (0..100).for_each(|n| post(&plant, n));
    (100..110).for_each(|n| post(&plant, n));
    wait_for("the last of the known rooms", LONG, || plant.arrived().contains_key("109"));
    assert!(gateway.stop().success());
    let (dead, _) = refused::read(plant.dir.path());
    let rooms = plant.arrived().len() - 10;
    assert_eq!(dead.len(), 100 - rooms);
    assert!(dead.iter().all(|letter| letter.reason.contains("state is full")), "{}", dead[0].reason);

    // What it remembers is more than it may now: that is counted on, and nothing new begun.
    plant.configuration = plant.configuration.replacen("2KiB", "1KiB", 1);
    let gateway = plant.start();
    (200..210).for_each(|n| post(&plant, n));
    (300 + rooms as u64..400).for_each(|n| post(&plant, n));
    post(&plant, 400);
    wait_for("the last of the known rooms", LONG, || plant.arrived().contains_key("400"));
    assert!(gateway.stop().success());
    let counts = |n: u64| plant.arrived()[&n.to_string()]["internal:aggregation:p"]["*:AggCount"]["0"]["value"].clone();
    assert_eq!([0, 100, 200].map(counts), [1, 2, 3].map(|n| json!(n)));
    assert_eq!(refused::read(plant.dir.path()).0.len(), 2 * (100 - rooms));
}
