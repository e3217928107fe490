//! Links that are slow, metered or away: alarms pass a backlog, budgets and windows hold over kills.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A listener for alarms, telemetry, and an upstream, with fields of the sink.
fn configuration(web: u16, cloud: u16, count: u64, fields: &str) -> String {
    format!(
        r#"{{
  "gateway": {{ "id": "metered" }},
  "sources": {{
    "telemetry": {{ "type": "generate", "rate": 0, "count": {count}, "priority": 3, "fields": {{ "n": {{ "counter": {{}} }} }} }},
    "alarms": {{ "type": "http", "listen": "127.0.0.1:{web}", "priority": 7 }},
    "live": {{ "type": "http", "listen": "127.0.0.1:{}", "priority": 3 }} }},
  "sinks": {{ "cloud": {{ "type": "http", "from": ["telemetry", "alarms", "live"], "url": "http://127.0.0.1:{cloud}/", {fields} }} }} }}"#,
        port()
    )
}

fn raise(web: u16, n: usize) {
    let posted = http::post(&format!("http://127.0.0.1:{web}/v1/events"), &format!(r#"{{"alarm":{n}}}"#));
    assert_eq!(posted.map(|(status, _)| status), Some(202));
}

/// 20,000 events in CI, a million with `TIDEGATE_RIG=long`. The upstream needs 2 ms an event at first: 2 s for a full batch.
#[test]
fn an_alarm_passes_a_backlog() {
    let long = std::env::var("TIDEGATE_RIG").is_ok_and(|rig| rig == "long");
    let count = if long { 1_000_000 } else { 20_000 };
    let (dir, web, cloud) = (folder(), port(), port());
    let gateway = Gateway::start(dir.path(), &configuration(web, cloud, count, r#""batch": { "max": 1000 }"#), &[]);
    wait_for_port(web);
    wait_for("the queue", LONG * 4, || gateway.log().contains("down, trying again"));
    std::thread::sleep(Duration::from_secs(if long { 60 } else { 3 })); // it fills
    let (came, alarms) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let slow = Arc::new(AtomicBool::new(true));
    let (seen, times, still) = (came.clone(), alarms.clone(), slow.clone());
    let _upstream = http::Upstream::start(cloud, move |post| {
        let events = post.events();
        let at = (Instant::now(), seen.fetch_add(events.len(), Ordering::SeqCst));
        times.lock().unwrap().extend(events.iter().filter_map(|e| e["alarm"].as_u64()).map(|n| (n, at)));
        if still.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(2 * events.len() as u64));
        }
        200
    });
    let mut waits = Vec::new();
    wait_for("the drain", LONG, || came.load(Ordering::SeqCst) > 2_000);
    for n in 0..20 {
        let (raised, before) = (Instant::now(), came.load(Ordering::SeqCst));
        raise(web, n);
        wait_for("the alarm", LONG, || alarms.lock().unwrap().iter().any(|(known, _)| *known == n as u64));
        let (_, (at, position)) = *alarms.lock().unwrap().iter().find(|(known, _)| *known == n as u64).unwrap();
        waits.push(at - raised);
        assert!(position - before <= 1_000, "{} events passed alarm {n}", position - before);
    }
    waits.sort();
    println!("alarms were upstream after {waits:?}; {} of {count} events had come", came.load(Ordering::SeqCst));
    assert!(came.load(Ordering::SeqCst) < count as usize, "the backlog was still draining");
    assert!(waits[waits.len() / 2] < Duration::from_secs(1), "{waits:?}");
    slow.store(false, Ordering::SeqCst);
    wait_for("the rest", LONG * 10, || came.load(Ordering::SeqCst) >= count as usize + 20);
    assert!(gateway.stop().success());
}

#[test]
fn a_budget_holds_over_kills() {
    let (dir, web, cloud) = (folder(), port(), port());
    let configuration =
        configuration(web, cloud, 5_000, r#""batch": { "max": 20 }, "budget": { "bytes": "4KiB", "every": "1d" }"#);
    let upstream = http::Upstream::start(cloud, |_| 200);
    for n in 0..4 {
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        wait_for_port(web);
        if n > 0 {
            wait_for("the budget's end", LONG, || gateway.log().matches("its budget is used up").count() >= n);
            raise(web, n);
            wait_for("the alarm", LONG, || upstream.events().iter().any(|e| e["alarm"] == n));
        }
        gateway.kill();
    }
    let telemetry: Vec<u64> = upstream.events().iter().filter_map(|e| e["n"].as_u64()).collect();
    let mut distinct = telemetry.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 100 && distinct.len() * 8 <= 4096, "{}", distinct.len());
    assert!(telemetry.len() <= distinct.len() + 200, "a kill repeats what was sent in 200 ms");
}

#[test]
fn windows_hold_over_kills_and_alarms_pass() {
    let (dir, web, cloud) = (folder(), port(), port());
    // Twelve hours from now.
    let hour = (tidegate::clock::wall_ms() / 3_600_000 + 12) % 24;
    let shut = format!(r#""windows": [{{ "cron": "0 {hour} * * *", "for": "1h" }}]"#);
    let upstream = http::Upstream::start(cloud, |_| 200);
    for n in 1..4 {
        let gateway = Gateway::start(dir.path(), &configuration(web, cloud, 100, &shut), &[]);
        wait_for_port(web);
        raise(web, n);
        wait_for("the alarm", LONG, || upstream.events().iter().any(|e| e["alarm"] == n));
        assert!(gateway.log().contains("sinks.cloud: waits: outside of its windows until"));
        gateway.kill();
    }
    assert!(upstream.events().iter().all(|e| e["n"].is_null()));
    let open = shut.replace(&format!("0 {hour} "), "* * ");
    let gateway = Gateway::start(dir.path(), &configuration(web, cloud, 100, &open), &[]);
    wait_for("telemetry", LONG, || upstream.events().iter().filter(|e| e["n"].is_u64()).count() >= 100);
    assert!(gateway.stop().success());
}

#[test]
fn a_live_share_survives_kills() {
    let (dir, web, cloud) = (folder(), port(), port());
    let fields = r#""batch": { "max": 100 }, "drain": { "events": 2000, "live": 0.3 }"#;
    let configuration = configuration(web, cloud, 8_000, fields);
    let upstream = http::Upstream::start(cloud, |_| 200);
    let (live, mut sent) = (configuration.rsplit("127.0.0.1:").nth(1).map(|rest| rest[..5].to_owned()).unwrap(), 0);
    for _ in 0..4 {
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        wait_for_port(live.parse().unwrap());
        let before = upstream.events().len();
        for _ in 0..40 {
            let url = format!("http://127.0.0.1:{live}/v1/events");
            assert_eq!(http::post(&url, &format!(r#"{{"live":{sent}}}"#)).map(|(status, _)| status), Some(202));
            sent += 1;
        }
        wait_for("some of it", LONG, || upstream.events().len() > before + 300);
        gateway.kill();
    }
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    let all = |name: &str| {
        let mut numbers: Vec<u64> = upstream.events().iter().filter_map(|e| e[name].as_u64()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    };
    wait_for("everything", LONG, || all("n") >= 8_000 && all("live") == sent);
    assert!(gateway.stop().success());
}
