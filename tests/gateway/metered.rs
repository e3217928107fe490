//! Links that are slow, metered or away: alarms pass a backlog, budgets and windows hold over kills.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

struct Ports {
    alarms: u16,
    /// For events of the telemetry's own priority.
    live: u16,
    cloud: u16,
}

impl Ports {
    fn new() -> Ports {
        Ports { alarms: port(), live: port(), cloud: port() }
    }

    /// Telemetry, two listeners, and a sink with some fields.
    fn start(&self, dir: &Path, count: u64, fields: &str) -> Gateway {
        let Ports { alarms, live, cloud } = self;
        let configuration = format!(
            r#"{{
  "gateway": {{ "id": "metered" }},
  "sources": {{
    "telemetry": {{ "type": "generate", "rate": 0, "count": {count}, "priority": 3, "fields": {{ "n": {{ "counter": {{}} }} }} }},
    "alarms": {{ "type": "http", "listen": "127.0.0.1:{alarms}", "priority": 7 }},
    "live": {{ "type": "http", "listen": "127.0.0.1:{live}", "priority": 3 }} }},
  "sinks": {{ "cloud": {{
    "type": "http", "from": ["telemetry", "alarms", "live"], "url": "http://127.0.0.1:{cloud}/", {fields} }} }} }}"#
        );
        let gateway = Gateway::start(dir, &configuration, &[]);
        wait_for_port(*alarms);
        wait_for_port(*live);
        gateway
    }
}

fn post(port: u16, name: &str, n: u64) {
    let posted = http::post(&format!("http://127.0.0.1:{port}/v1/events"), &format!(r#"{{"{name}":{n}}}"#));
    assert_eq!(posted.map(|(status, _)| status), Some(202));
}

/// The numbers of events that have this field, in the order in which they came.
fn numbers(upstream: &http::Upstream, name: &str) -> Vec<u64> {
    upstream.events().iter().filter_map(|event| event[name].as_u64()).collect()
}

fn distinct(mut numbers: Vec<u64>) -> usize {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

/// 20,000 events in CI, a million with `TIDEGATE_RIG=long`. The upstream needs 2 ms an event: 2 s for a full batch at first.
#[test]
fn an_alarm_passes_a_backlog() {
    let long = std::env::var("TIDEGATE_RIG").is_ok_and(|rig| rig == "long");
    let count = if long { 1_000_000 } else { 20_000 };
    let (dir, ports) = (folder(), Ports::new());
    let gateway = ports.start(dir.path(), count, r#""batch": { "max": 1000 }"#);
    let queued = format!("sinks.cloud: of `telemetry` delivered 0, queued {count},");
    wait_for("all of it", LONG * 10, || {
        thread::sleep(Duration::from_millis(300));
        Command::new("kill").args(["-USR1", &gateway.pid().to_string()]).status().unwrap();
        gateway.log().contains(&queued)
    });
    // The control: one of the telemetry's own priority waits behind all of it.
    post(ports.live, "control", 1);
    let (came, slow) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let alarms = Arc::new(Mutex::new(BTreeMap::new()));
    let control = Arc::new(AtomicBool::new(false));
    let (seen, times, still, late) = (came.clone(), alarms.clone(), slow.clone(), control.clone());
    let _upstream = http::Upstream::start(ports.cloud, move |post| {
        let events = post.events();
        let at = (Instant::now(), seen.fetch_add(events.len(), Ordering::SeqCst));
        times.lock().unwrap().extend(events.iter().filter_map(|e| e["alarm"].as_u64()).map(|n| (n, at)));
        late.fetch_or(events.iter().any(|e| e["control"] == 1), Ordering::SeqCst);
        if still.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(2 * events.len() as u64));
        }
        200
    });
    let mut waits = Vec::new();
    wait_for("the drain", LONG, || came.load(Ordering::SeqCst) > 2_000);
    for n in 0..20 {
        let (raised, before) = (Instant::now(), came.load(Ordering::SeqCst));
        post(ports.alarms, "alarm", n);
        wait_for("the alarm", LONG, || alarms.lock().unwrap().contains_key(&n));
        let (at, position) = alarms.lock().unwrap()[&n];
        waits.push(at - raised);
        assert!(position - before <= 1_000, "{} events passed alarm {n}", position - before);
    }
    waits.sort();
    println!("alarms were upstream after {waits:?}; {} of {count} events had come", came.load(Ordering::SeqCst));
    assert!(came.load(Ordering::SeqCst) < count as usize, "the backlog was still draining");
    assert!(!control.load(Ordering::SeqCst), "an event that is no alarm passed the backlog");
    assert!(waits[waits.len() / 2] < Duration::from_secs(1), "{waits:?}");
    slow.store(false, Ordering::SeqCst);
    wait_for("the rest", LONG * 10, || came.load(Ordering::SeqCst) > count as usize + 20);
    assert!(control.load(Ordering::SeqCst));
    assert!(gateway.stop().success());
}

#[test]
fn a_budget_holds_over_kills() {
    let (dir, ports) = (folder(), Ports::new());
    let upstream = http::Upstream::start(ports.cloud, |_| 200);
    for n in 0..4 {
        let fields = r#""batch": { "max": 20 }, "budget": { "bytes": "4KiB", "every": "1d" }"#;
        let gateway = ports.start(dir.path(), 5_000, fields);
        if n > 0 {
            let used_up = || gateway.log().matches("its budget is used up").count();
            wait_for("the budget's end", LONG, || used_up() >= n);
            post(ports.alarms, "alarm", n as u64);
            wait_for("the alarm", LONG, || numbers(&upstream, "alarm").contains(&(n as u64)));
        }
        gateway.kill();
    }
    let telemetry = numbers(&upstream, "n");
    let distinct = distinct(telemetry.clone());
    assert!(distinct > 100 && distinct * 8 <= 4096, "{distinct}");
    assert!(telemetry.len() <= distinct + 200, "a kill repeats what was sent in 200 ms");
}

#[test]
fn windows_hold_over_kills_and_alarms_pass() {
    let (dir, ports) = (folder(), Ports::new());
    // Twelve hours from now.
    let hour = (tidegate::clock::wall_ms() / 3_600_000 + 12) % 24;
    let shut = format!(r#""windows": [{{ "cron": "0 {hour} * * *", "for": "1h" }}]"#);
    let upstream = http::Upstream::start(ports.cloud, |_| 200);
    for n in 1..4 {
        let gateway = ports.start(dir.path(), 100, &shut);
        post(ports.alarms, "alarm", n);
        wait_for("the alarm", LONG, || numbers(&upstream, "alarm").contains(&n));
        assert!(gateway.log().contains("sinks.cloud: waits: outside of its windows until"));
        gateway.kill();
    }
    assert_eq!(numbers(&upstream, "n").len(), 0);
    let gateway = ports.start(dir.path(), 100, &shut.replace(&format!("0 {hour} "), "* * "));
    wait_for("telemetry", LONG, || distinct(numbers(&upstream, "n")) == 100);
    assert!(gateway.stop().success());
}

#[test]
fn a_live_share_survives_kills() {
    let (dir, ports) = (folder(), Ports::new());
    let upstream = http::Upstream::start(ports.cloud, |_| 200);
    let fields = r#""batch": { "max": 100 }, "drain": { "events": 2000, "live": 0.3 }"#;
    let mut sent = 0;
    for _ in 0..4 {
        let gateway = ports.start(dir.path(), 8_000, fields);
        let before = upstream.events().len();
        for _ in 0..40 {
            post(ports.live, "live", sent);
            sent += 1;
        }
        wait_for("the live ones", LONG, || distinct(numbers(&upstream, "live")) as u64 == sent);
        assert!(distinct(numbers(&upstream, "n")) < 8_000, "before the backlog");
        wait_for("some of it", LONG, || upstream.events().len() > before + 300);
        gateway.kill();
    }
    let gateway = ports.start(dir.path(), 8_000, fields);
    wait_for("everything", LONG, || distinct(numbers(&upstream, "n")) == 8_000);
    assert_eq!(distinct(numbers(&upstream, "live")) as u64, sent);
    assert!(gateway.stop().success());
}
