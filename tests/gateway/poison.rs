//! An event that kills the gateway, whenever it is worked on.

use crate::{
    exact::Plant,
    kit::{Gateway, LONG, folder, http, port, wait_for_port},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn an_event_that_kills_the_gateway_is_set_aside_and_the_others_get_on() {
    const EVENTS: usize = 40;
    let program = r#"body=$(cat); case $body in *poison*) kill -9 $PPID; sleep 1;; esac; echo \"$body\""#;
    for workers in [1, 8] {
        let plant = Plant::new(&format!(
            r#"{{ "p": {{ "from": ["web"], "to": ["cloud"], "workers": {workers}, "processes": [
          {{ "type": "spawn", "program": "/bin/sh", "args": ["-c", "{program}"] }},
          {{ "type": "aggregate", "name": "count", "field": "v", "op": "count" }} ] }} }}"#
        ));
        let event = |n: usize| json!({ "id": format!("e{n}"), "v": if n == 10 { "poison" } else { "good" } });
        let mut gateway = plant.start();
        // They are taken in at once; whoever is not answered before a death comes again.
        let hands = plant.post((0..EVENTS).map(event).collect());
        let mut deaths = 0;
        while plant.arrived().len() < EVENTS - 1 || !hands.iter().all(thread::JoinHandle::is_finished) {
            if gateway.has_ended() {
                deaths += 1;
                assert!(deaths < 10, "{}", gateway.log());
                gateway = Gateway::start(plant.dir.path(), &plant.configuration, &[]);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let arrived = plant.arrived();
        assert!(!arrived.contains_key("e10"), "{deaths} deaths");
        assert_eq!(arrived.len(), EVENTS - 1);
        assert!((3..=4).contains(&deaths), "{deaths} deaths");
        assert!(gateway.log().contains("`e10` has killed the gateway again and again and is set aside"));
        assert!(gateway.stop().success());
    }
}

/// An upstream whose answer to one event is the end of the gateway: so it is with an event that takes all memory.
#[test]
fn an_event_that_kills_the_gateway_while_it_is_delivered_is_set_aside_too() {
    const EVENTS: u64 = 300;
    let (dir, listen, cloud) = (folder(), port(), port());
    let victim = Arc::new(AtomicU32::new(0));
    let pid = victim.clone();
    let upstream = http::Upstream::start(cloud, move |post| {
        if post.body.contains("poison") {
            Command::new("kill").args(["-9", &pid.load(Relaxed).to_string()]).status().unwrap();
        }
        200
    });
    let configuration = format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["web"], "batch": {{ "max": 100 }} }} }} }}"#
    );
    let start = || {
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        victim.store(gateway.pid(), Relaxed);
        gateway
    };
    let mut gateway = start();
    wait_for_port(listen);
    let events = |range: std::ops::Range<u64>| -> String {
        let name = |n| if n == EVENTS / 2 { "poison" } else { "good" };
        let events: Vec<String> = range.map(|n| format!(r#"{{"n":{n},"v":"{}"}}"#, name(n))).collect();
        format!("[{}]", events.join(","))
    };
    let url = format!("http://127.0.0.1:{listen}/v1/events");
    assert_eq!(http::post(&url, &events(0..EVENTS)).unwrap().0, 202);
    let arrived = || -> BTreeSet<u64> {
        let posts = upstream.posts();
        let whole = posts.iter().filter(|post| !post.body.contains("poison"));
        whole.flat_map(http::Post::events).map(|event| event["n"].as_u64().unwrap()).collect()
    };
    let (begun, mut deaths) = (Instant::now(), 0);
    while arrived().len() as u64 != EVENTS - 1 {
        assert!(begun.elapsed() < LONG, "{} arrived, {deaths} deaths: {}", arrived().len(), gateway.log());
        if gateway.has_ended() {
            deaths += 1;
            gateway = start();
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!(gateway.log().contains("has killed the gateway again and again and is set aside"), "{}", gateway.log());
    assert!((4..=6).contains(&deaths), "{deaths} deaths");
    assert!(gateway.stop().success());
    let (dead, ledger) = crate::refused::read(dir.path());
    assert_eq!((dead.len(), dead[0].consumer.as_str()), (1, "sinks.cloud"));
    assert!(String::from_utf8_lossy(&dead[0].body).contains("poison"));
    assert_eq!((ledger[0].accepted, ledger[0].delivered, ledger[0].dead), (EVENTS, EVENTS - 1, 1));
}

/// Somebody else kills the gateway again and again while its upstream is away, at the times at which it looks for who did it.
#[test]
fn who_is_killed_by_others_blames_no_event() {
    const EVENTS: u64 = 40;
    let (dir, listen, cloud) = (folder(), port(), port());
    let configuration = format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["web"], "batch": {{ "max": 20 }} }} }} }}"#
    );
    let body: Vec<String> = (0..EVENTS).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    // All are suspect, then one of them, then that one again, a second later.
    for (kill, ms) in [400, 400, 400, 1500, 1500].into_iter().enumerate() {
        let gateway = Gateway::start(dir.path(), &configuration, &[]);
        wait_for_port(listen);
        if kill == 0 {
            let posted = http::post(&format!("http://127.0.0.1:{listen}/v1/events"), &format!("[{}]", body.join(",")));
            assert_eq!(posted.unwrap().0, 202);
        }
        thread::sleep(Duration::from_millis(ms));
        gateway.kill();
    }
    let upstream = http::Upstream::start(cloud, |_| 200);
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    let arrived = || -> BTreeSet<u64> {
        upstream.posts().iter().flat_map(http::Post::events).map(|event| event["n"].as_u64().unwrap()).collect()
    };
    crate::kit::wait_for("all events", LONG, || arrived().len() as u64 == EVENTS);
    assert!(!gateway.log().contains("set aside"), "{}", gateway.log());
    assert!(gateway.stop().success());
}
