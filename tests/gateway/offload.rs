//! What the store has no room for lies in an object store, and comes back in order; also when the gateway is killed.

use crate::{
    account::Arrivals,
    kit::{Gateway, LONG, folder, http, wait_for, wait_for_port},
    rig::Rig,
};
use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

#[cfg(feature = "s3")]
#[allow(dead_code)] // the tests of systems use the rest
#[path = "../systems/servers.rs"]
mod servers;

const DISK: &str = r#""store": { "disk": { "events": { "high": 1000, "low": 200 }, "when_full": "offload",
    "offload": { "to": "away", "prefix": "barn" } } }"#;
const DIRECTORY: &str = r#"{ "type": "directory", "path": "objects" }"#;

/// Files below a folder, but not what is not whole yet.
fn objects(folder: &Path) -> usize {
    let found =
        Command::new("find").arg(folder).args(["-type", "f", "-not", "-path", "*/.tidegate*"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().count()
}

/// What the gateway reports: queued and offloaded for a consumer.
fn report(gateway: &Gateway, consumer: &str) -> (u64, u64) {
    let before = gateway.log().len();
    let number = |line: &str, word: &str| -> u64 {
        let rest = &line[line.find(word).unwrap() + word.len() + 1..];
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let mut found = None;
    wait_for("the report", LONG, || {
        Command::new("kill").args(["-USR1", &gateway.pid().to_string()]).status().unwrap();
        thread::sleep(Duration::from_millis(20));
        let log = gateway.log();
        let line = log[before..].lines().find(|line| line.contains(&format!("{consumer}: of")));
        found = line
            .filter(|line| line.contains("offloaded"))
            .map(|line| (number(line, "queued"), number(line, "offloaded")));
        found.is_some()
    });
    found.unwrap()
}

/// Five thousand events with the upstream down, then up.
fn thousand_stay(away: &str, folder_of_objects: Option<&str>) {
    const ALL: u64 = 5_000;
    let (dir, rig) = (folder(), Rig::new());
    let configuration = format!(
        r#"{{ {DISK}, "systems": {{ "away": {away} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{}", "id": "id" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "from": ["web"], "url": "http://127.0.0.1:{}/", "envelope": true }} }} }}"#,
        rig.http, rig.cloud
    );
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(rig.http);
    let (done, mut most) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (sent, refused) = rig.post_until_refused("post", 0, ALL);
            done.store(true, Ordering::Relaxed);
            assert!(!refused, "refused after {sent}");
        });
        while !done.load(Ordering::Relaxed) {
            most = report(&gateway, "sinks.cloud").0.max(most);
            thread::sleep(Duration::from_millis(20));
        }
    });
    let (mut queued, mut offloaded) = (0, 0);
    wait_for("the store to be near its mark", LONG, || {
        (queued, offloaded) = report(&gateway, "sinks.cloud");
        queued <= 1_000
    });
    println!("at most {most} events in the store; then {queued}, and {offloaded} offloaded");
    assert_eq!(queued + offloaded, ALL);
    assert!(most <= 1_100 && queued >= 100, "{most} {queued}");
    // Started again, it has nothing in memory.
    assert!(gateway.stop().success());
    let gateway = Gateway::start(dir.path(), &configuration, &[]);
    wait_for_port(rig.http);
    let arrivals = Arrivals::default();
    let _cloud = rig.cloud(&arrivals);
    wait_for("all events", LONG, || arrivals.distinct() == ALL as usize);
    arrivals.check(&[("post", ALL)]);
    wait_for("the ledger", LONG, || report(&gateway, "sinks.cloud") == (0, 0));
    if let Some(folder) = folder_of_objects {
        wait_for("all objects to go", LONG, || objects(&dir.path().join(folder)) == 0);
    }
    assert!(gateway.stop().success());
}

#[test]
fn above_the_high_mark_events_lie_in_a_directory_and_come_back_in_order() {
    thousand_stay(DIRECTORY, Some("objects"));
}

#[cfg(feature = "s3")]
#[test]
fn above_the_high_mark_events_lie_on_an_s3_server_and_come_back_in_order() {
    let dir = folder();
    let server = servers::Server::s3(dir.path());
    let away = format!(
        r#"{{ "type": "s3", "endpoint": "http://127.0.0.1:{}", "bucket": "readings", "access_key": "a", "secret_key": "b" }}"#,
        server.port
    );
    thousand_stay(&away, None);
}

#[test]
fn killed_again_and_again_while_events_go_and_come_none_is_lost() {
    const ALL: u64 = 12_000;
    let (dir, rig) = (folder(), Arc::new(Rig::new()));
    let sections = format!(r#"{DISK}, "systems": {{ "away": {DIRECTORY} }}"#);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut gateway = rig.start_with(dir.path(), &sections);
    let producer = {
        let (rig, acknowledged) = (rig.clone(), acknowledged.clone());
        thread::spawn(move || rig.post_all("post", 0..ALL, &acknowledged))
    };
    let mut random = fastrand::Rng::with_seed(7);
    for kill in 1..=10 {
        wait_for("acknowledgements", LONG, || acknowledged.load(Ordering::Relaxed) >= ALL * kill / 11);
        thread::sleep(Duration::from_millis(random.u64(0..100)));
        gateway.alive();
        gateway.kill();
        gateway = rig.start_with(dir.path(), &sections);
    }
    producer.join().unwrap();
    wait_for("the objects", LONG, || objects(&dir.path().join("objects")) > 10);
    println!("{} objects", objects(&dir.path().join("objects")));
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    for kill in 1..=10 {
        let part = (ALL * kill / 11) as usize;
        wait_for("arrivals", LONG, || by_http.distinct() >= part && by_mqtt.distinct() >= part);
        thread::sleep(Duration::from_millis(random.u64(0..30)));
        gateway.alive();
        gateway.kill();
        gateway = rig.start_with(dir.path(), &sections);
    }
    let all = ALL as usize;
    wait_for("the rest", LONG, || by_http.distinct() >= all && by_mqtt.distinct() >= all);
    by_http.check(&[("post", ALL)]);
    by_mqtt.check(&[("post", ALL)]);
    wait_for("all objects to go", LONG, || objects(&dir.path().join("objects")) == 0);
    assert!(gateway.stop().success());
}

#[test]
fn an_object_store_that_fails_makes_sources_wait_and_mends() {
    let (dir, rig) = (folder(), Rig::new());
    // A file where the directory is to be: nothing can be put there.
    std::fs::write(dir.path().join("objects"), "").unwrap();
    let gateway = rig.start_with(dir.path(), &format!(r#"{DISK}, "systems": {{ "away": {DIRECTORY} }}"#));
    let (sent, refused) = rig.post_until_refused("post", 0, 5_000);
    assert!(refused && sent < 3_000, "{sent}");
    let url = format!("http://127.0.0.1:{}/v1/events", rig.http);
    assert_eq!(http::post(&url, "{}").unwrap().0, 429);
    std::fs::remove_file(dir.path().join("objects")).unwrap();
    let mut now = sent;
    wait_for("events to be taken again", LONG, || {
        (now, _) = rig.post_until_refused("post", now, 5_000);
        now == 5_000
    });
    let arrivals = Arrivals::default();
    let _cloud = rig.cloud(&arrivals);
    wait_for("all events", LONG, || arrivals.distinct() == 5_000);
    arrivals.check(&[("post", 5_000)]);
    assert!(gateway.stop().success());
}

#[test]
fn a_directory_that_takes_nothing_any_more_gives_back_what_it_has() {
    let (dir, rig) = (folder(), Rig::new());
    let sections = format!(r#"{DISK}, "systems": {{ "away": {DIRECTORY} }}"#);
    let gateway = rig.start_with(dir.path(), &sections);
    let (first, refused) = rig.post_until_refused("post", 0, 2_000);
    assert!(!refused);
    wait_for("the objects", LONG, || report(&gateway, "sinks.cloud").0 <= 1_000);
    assert!(gateway.stop().success());
    // A file where objects are written before they get their name.
    let partial = dir.path().join("objects/.tidegate-partial");
    std::fs::remove_dir_all(&partial).unwrap();
    std::fs::write(&partial, "").unwrap();
    let gateway = rig.start_with(dir.path(), &sections);
    let (sent, refused) = rig.post_until_refused("post", first, 9_000);
    assert!(refused && sent < 5_000, "{sent}");
    let (by_http, by_mqtt) = (Arrivals::default(), Arrivals::default());
    let (_cloud, _bridge) = (rig.cloud(&by_http), rig.bridge(&by_mqtt));
    let all = sent as usize;
    wait_for("all events", LONG, || by_http.distinct() == all && by_mqtt.distinct() == all);
    by_http.check(&[("post", sent)]);
    let mut now = sent;
    wait_for("events to be taken again", LONG, || {
        (now, _) = rig.post_until_refused("post", now, sent + 40);
        now == sent + 40
    });
    assert!(gateway.stop().success());
}
