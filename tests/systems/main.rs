//! One contract for each sort of system, run over every backend, those outside with a real server: redis-server,
//! moto's S3 and mosquitto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../gateway/kit/mod.rs"]
mod kit;
mod kv;
mod objects;
mod pubsub;
mod servers;

use std::{
    path::Path,
    time::{Duration, Instant},
};
use tidegate::{
    fault::Fault,
    kind::{Params, Scope, systems::KINDS},
    systems::System,
};

/// The longest that a system may take that was told to take a second.
const LATE: Duration = Duration::from_secs(8);

/// A system as a configuration describes it.
fn build(kind: &str, dir: &Path, config: serde_json::Value) -> Result<System, String> {
    let kind = KINDS.iter().find(|k| k.name == kind).unwrap();
    let scope = Scope { gateway: "barn".into(), data: dir.to_owned(), ..Scope::default() };
    (kind.build)(Params::new("shared", scope, config)).map(|system| *system).map_err(|e| e.to_string())
}

/// Rows: what was tried, and whether it has to be a `Reject`.
fn rejected<T: std::fmt::Debug>(what: &str, done: Result<T, Fault>) {
    assert!(matches!(done, Err(Fault::Reject(_))), "{what}: {done:?}");
}

/// Tries until it works again, as the runtime does.
async fn at_last<T, W: Future<Output = Result<T, Fault>>>(what: &str, mut work: impl FnMut() -> W) -> T {
    let begun = Instant::now();
    loop {
        match work().await {
            Ok(done) => return done,
            Err(Fault::Retry(e)) => assert!(begun.elapsed() < kit::LONG, "{what}: {e:#}"),
            Err(fault) => panic!("{what}: {fault:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server that is away or silent is a `Retry`, and soon.
async fn retried<T: std::fmt::Debug>(what: &str, work: impl Future<Output = Result<T, Fault>>) {
    let begun = Instant::now();
    let done = work.await;
    assert!(matches!(done, Err(Fault::Retry(_))), "{what}: {done:?}");
    assert!(begun.elapsed() < LATE, "{what}: {:?}", begun.elapsed());
}

/// A configuration that names systems, as `tidegate check` sees it.
#[test]
fn the_configuration_names_systems() {
    let dir = kit::folder();
    let text = r#"{
        "systems": {
            "seen": { "type": "sqlite" }, "cache": { "type": "memory_kv", "limit": "1MiB" },
            "bus": { "type": "memory_broker" }, "files": { "type": "directory", "path": "objects" },
            SYSTEM
        },
        "sources": { "in": { "type": "subscribe", "system": "NAME", "topic": "a" } },
        "sinks": { "out": { "type": "stdout", "from": ["in"] } }
    }"#;
    for (name, system, want) in [
        ("bus", "", "ok: 1 sources, 0 pipelines, 1 sinks, 4 systems"),
        ("bus", "", "warning: systems.seen: nothing uses this system"),
        ("bux", "", "there is no system `bux`; there are: bus, cache, files, seen"),
        ("seen", "", "sources.in.system: `seen` is a key-value store, not a broker"),
        ("bus", r#""x": { "type": "redis" }"#, "systems.x: missing field `url`"),
        ("bus", r#""x": { "type": "redis", "url": "redis://h", "db": 1 }"#, "systems.x: unknown field `db`"),
        ("bus", r#""x": { "type": "redis", "url": "http://canary" }"#, "systems.x.url: expected `redis://"),
        ("bus", r#""x": { "type": "sqlite3" }"#, "systems.x.type: unknown kind `sqlite3`, did you mean `sqlite`?"),
        ("x", r#""x": { "type": "sqlite", "limit": "1kB" }"#, "systems.x.limit: expected at least 1MiB"),
        ("x", r#""x": { "type": "sqlite", "limit": "1kB" }"#, "sources.in.system: the system `x` is itself wrong"),
        ("bus", r#""a b": { "type": "sqlite" }"#, "a name of 1 to 64 letters"),
    ] {
        std::fs::write(dir.path().join("c.jsonc"), text.replace("NAME", name).replace("SYSTEM", system)).unwrap();
        let done = kit::tidegate(dir.path(), &["check", "c.jsonc"], "");
        let told = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
        assert!(told.contains(want) && !told.contains("canary"), "{name} {system}: {told}");
    }
    assert!(!dir.path().join("objects").exists(), "checking makes nothing");
}

/// Every example builds, also with a feature missing: then it says which.
#[test]
fn every_kind_builds_or_says_what_it_lacks() {
    for kind in KINDS {
        let example = kind.example.replace("${MQTT_PASSWORD:-secret}", "x").replace("${cred:s3}", "x");
        let mut config: serde_json::Value = serde_json::from_str(&example).unwrap();
        config.as_object_mut().unwrap().shift_remove("type");
        let built = build(kind.name, Path::new("."), config);
        let has = match kind.name {
            "redis" => cfg!(feature = "redis"),
            "s3" => cfg!(feature = "s3"),
            _ => true,
        };
        let lacks = format!("type: this binary was built without the feature `{}`", kind.name);
        assert_eq!(built.err(), (!has).then_some(lacks));
    }
}

/// Names, doc comments and examples are as those of every kind should be.
#[cfg(all(feature = "redis", feature = "s3"))]
#[test]
fn the_kinds_have_no_flaws() {
    let mut flaws = tidegate::config::flaws(&tidegate::cli::catalogue());
    flaws.retain(|flaw| flaw.starts_with("system ") || flaw.starts_with("source `subscribe`"));
    assert_eq!(flaws, [""; 0]);
}
