//! Another configuration while it runs: what did not change runs on, nothing is lost or doubled, and what does not stay goes
//! back by itself.

use crate::kit::{self, Gateway, LONG, folder, http, mqtt, port, wait_for, wait_for_port};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

/// `tidegate config …` on the gateway of a folder.
fn config(dir: &Path, arguments: &[&str]) -> Result<Value, String> {
    let arguments: Vec<&str> =
        ["config"].iter().chain(arguments).chain(&["-c", "tidegate.jsonc", "--format", "json"]).copied().collect();
    let out = kit::tidegate(dir, &arguments, "");
    if !out.status.success() {
        return Err(String::from_utf8(out.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&out.stdout).unwrap())
}

fn apply(dir: &Path, text: &str, arguments: &[&str]) -> Result<Value, String> {
    fs::write(dir.join("new.jsonc"), text).unwrap();
    config(dir, &[&["apply", "new.jsonc"], arguments].concat())
}

fn file(dir: &Path) -> String {
    fs::read_to_string(dir.join("tidegate.jsonc")).unwrap()
}

fn status(dir: &Path) -> Value {
    let out = kit::tidegate(dir, &["status", "-c", "tidegate.jsonc", "--format", "json"], "");
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

/// The states of all versions, the newest first.
fn states(dir: &Path) -> Vec<String> {
    let log = config(dir, &["log"]).unwrap();
    log["versions"].as_array().unwrap().iter().map(|v| v["state"].as_str().unwrap().to_owned()).collect()
}

/// For whom something is kept.
fn consumers(dir: &Path) -> BTreeSet<String> {
    let status = status(dir);
    let rows = status["consumers"].as_array().unwrap();
    rows.iter().map(|row| row["consumer"].as_str().unwrap().to_owned()).collect()
}

fn hangup(gateway: &Gateway) {
    assert!(Command::new("kill").args(["-HUP", &gateway.pid().to_string()]).status().unwrap().success());
}

/// Writes a configuration and has it taken over.
fn reload(dir: &Path, gateway: &Gateway, text: &str) {
    // Not by the log, which counts what it says again and again.
    let version = || status(dir)["config"]["version"].as_u64();
    let before = version();
    fs::write(dir.join("tidegate.jsonc"), text).unwrap();
    hangup(gateway);
    wait_for("the configuration to be taken over", LONG, || version() > before);
}

/// The lines of a file of events, by their number, with the ids they came with.
fn lines(dir: &Path, name: &str) -> BTreeMap<u64, Vec<Value>> {
    let mut all: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(dir.join(name)).unwrap_or_default().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        all.entry(event["body"]["n"].as_u64().unwrap()).or_default().push(event);
    }
    all
}

/// A gateway whose pipeline, sink and number of sinks change.
fn busy(broker: u16, web: u16, round: u32) -> String {
    let extra = match round % 2 {
        1 => {
            r#", "extra": { "type": "file", "path": "extra.ndjson", "envelope": true, "rotate": { "size": "1GiB" }, "from": ["in"] }"#
        }
        _ => "",
    };
    let (mark, batch) = (round / 2, 500 + round % 3);
    format!(
        r#"{{ "sources": {{ "in": {{ "type": "mqtt_listen", "listen": "127.0.0.1:{broker}" }},
             "web": {{ "type": "http", "listen": "127.0.0.1:{web}" }} }},
  "pipelines": {{ "edited": {{ "from": ["in"], "to": ["through"], "processes": [
    {{ "type": "annotate", "set": {{ "mark": {mark} }} }} ] }} }},
  "sinks": {{
    "steady": {{ "type": "file", "path": "steady.ndjson", "envelope": true, "rotate": {{ "size": "1GiB" }}, "from": ["in"] }},
    "probed": {{ "type": "file", "path": "probed.ndjson", "envelope": true, "from": ["web"] }},
    "through": {{ "type": "file", "path": "through.ndjson", "envelope": true, "rotate": {{ "size": "1GiB" }}, "batch": {{ "max": {batch} }} }}{extra} }} }}"#
    )
}

#[test]
fn a_reload_every_two_seconds_under_load_loses_and_doubles_nothing() {
    let long = std::env::var("TIDEGATE_RIG").is_ok_and(|rig| rig == "long");
    let (rounds, every) = if long { (30, Duration::from_secs(2)) } else { (5, Duration::from_millis(1500)) };
    let (dir, broker, web) = (folder(), port(), port());
    let gateway = Gateway::start(dir.path(), &busy(broker, web, 0), &[]);
    wait_for_port(broker);
    wait_for_port(web);
    let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Two producers with 10,000 events a second each, if that is taken.
    let producers: Vec<_> = (0..2_u64)
        .map(|producer| {
            let (stop, acked) = (stop.clone(), acked.clone());
            kit::runtime().spawn(async move {
                let mut load = mqtt::Load::new(&format!("p{producer}"), 500);
                load.pace = Some(Duration::from_micros(100));
                let mut from = producer * 100_000_000;
                while !stop.load(Relaxed) {
                    let body = |n: u64| format!(r#"{{"n":{n},"text":"some two hundred bytes or less"}}"#).into_bytes();
                    let count = |_| {
                        acked.fetch_add(1, Relaxed);
                    };
                    load.run(broker, from..from + 5000, body, count).await;
                    from += 5000;
                }
                from - producer * 100_000_000
            })
        })
        .collect();
    // How long a single event waits for its answer, all the while.
    let (probing, reloading) = (stop.clone(), Arc::new(AtomicBool::new(false)));
    let now = reloading.clone();
    let probe = std::thread::spawn(move || {
        let (mut longest, mut sent) = ([Duration::ZERO; 2], 0);
        while !probing.load(Relaxed) {
            let begun = Instant::now();
            let during = now.load(Relaxed);
            let answer = http::post(&format!("http://127.0.0.1:{web}/v1/events"), &format!(r#"{{"n":{sent}}}"#));
            assert_eq!(answer.map(|(status, _)| status), Some(202), "event {sent}");
            let of = &mut longest[usize::from(during || now.load(Relaxed))];
            *of = begun.elapsed().max(*of);
            sent += 1;
            sleep(Duration::from_millis(5));
        }
        (longest, sent)
    });
    let begun = Instant::now();
    for round in 1..=rounds {
        sleep(every);
        reloading.store(true, Relaxed);
        reload(dir.path(), &gateway, &busy(broker, web, round));
        reloading.store(false, Relaxed);
    }
    sleep(every);
    stop.store(true, Relaxed);
    let sent: Vec<u64> = producers.into_iter().map(|p| kit::runtime().block_on(p).unwrap()).collect();
    let rate = acked.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let ([quiet, during], probes) = probe.join().unwrap();
    println!("{rate:.0} events/s; an answer took {during:?} at most during a reload, {quiet:?} else");
    let all: BTreeSet<u64> = (0..2).flat_map(|p| p * 100_000_000..p * 100_000_000 + sent[p as usize]).collect();
    let ledger = || {
        let out = kit::tidegate(dir.path(), &["ledger", "-c", "tidegate.jsonc", "--format", "json"], "");
        let all: Value = serde_json::from_slice(&out.stdout).unwrap();
        all["ledger"].as_array().unwrap().clone()
    };
    wait_for("everything to be delivered", LONG * 2, || ledger().iter().all(|row| row["queued"] == 0));
    for row in ledger() {
        let n = |name: &str| row[name].as_u64().unwrap();
        let sum: u64 = ["delivered", "queued", "dead", "expired", "evicted", "offloaded"].map(n).iter().sum();
        assert_eq!((n("accepted"), n("dead")), (sum, 0), "{row}");
        if row["topic"] != "web" && row["consumer"] != "sinks.extra" {
            assert_eq!(n("accepted"), all.len() as u64, "{row}");
        }
    }
    assert!(gateway.stop().success());
    assert_eq!(lines(dir.path(), "probed.ndjson").len(), probes);
    for name in ["steady.ndjson", "through.ndjson", "extra.ndjson"] {
        let came = lines(dir.path(), name);
        // The one that is now there and now not begins with what there was, and misses nothing from then on.
        let first = |n: &u64| {
            name != "extra.ndjson" || came.range(n / 100_000_000 * 100_000_000..).next().is_some_and(|(f, _)| f <= n)
        };
        assert!(came.keys().eq(all.iter().filter(|n| first(n))), "{name}: {} of {} events", came.len(), all.len());
        let repeated: Vec<_> = came.values().filter(|events| events.len() > 1).collect();
        assert!(name != "steady.ndjson" || repeated.is_empty(), "{name}: {repeated:?}");
        for events in repeated {
            assert!(events.iter().all(|event| event["id"] == events[0]["id"]), "{name}: {events:?}");
        }
    }
    let marks: BTreeSet<u64> =
        lines(dir.path(), "through.ndjson").values().map(|e| e[0]["body"]["mark"].as_u64().unwrap()).collect();
    assert_eq!(marks, (0..=u64::from(rounds) / 2).collect(), "every edit was at work");
}

/// Two sources, a pipeline that remembers, and one whose key-value store is soon full.
fn remembering(first: u16, second: u16, most: &str, mark: u32) -> String {
    format!(
        r#"{{ "systems": {{ "kv": {{ "type": "memory_kv", "limit": "400" }} }},
  "sources": {{ "first": {{ "type": "http", "listen": "127.0.0.1:{first}" }},
             "second": {{ "type": "http", "listen": "127.0.0.1:{second}", "max_body": "{most}" }} }},
  "pipelines": {{
    "sums": {{ "from": ["first"], "to": ["out"], "processes": [
      {{ "type": "annotate", "set": {{ "mark": {mark} }} }}, {{ "type": "aggregate", "field": "n", "op": "sum" }} ] }},
    "keys": {{ "from": ["second"], "to": ["out"], "processes": [
      {{ "type": "annotate", "set": {{ "mark": {mark} }} }},
      {{ "type": "tee", "to": {{ "kv": "kv", "key": "event.k" }} }} ] }} }},
  "sinks": {{ "out": {{ "type": "file", "path": "out.ndjson", "envelope": true }} }} }}"#
    )
}

/// A connection over which one event after another is posted.
struct Kept(TcpStream);

impl Kept {
    fn open(port: u16) -> Kept {
        Kept(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// The status, or nothing if the connection is gone.
    fn post(&mut self, body: &str) -> Option<u16> {
        let head = format!("POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(head.as_bytes()).ok()?;
        let mut answer = [0; 4096];
        let n = self.0.read(&mut answer).ok().filter(|n| *n > 12)?;
        std::str::from_utf8(&answer[9..12.min(n)]).ok()?.parse().ok()
    }
}

#[test]
fn what_did_not_change_keeps_its_connection_and_what_it_remembers() {
    let (dir, first, second) = (folder(), port(), port());
    let gateway = Gateway::start(dir.path(), &remembering(first, second, "1MiB", 1), &[]);
    wait_for_port(first);
    wait_for_port(second);
    let (mut one, mut two) = (Kept::open(first), Kept::open(second));
    for n in 1..=5 {
        assert_eq!(one.post(&format!(r#"{{"n":{n}}}"#)), Some(202));
    }
    assert_eq!(two.post(r#"{"n":1,"k":"a"}"#), Some(202));
    let out = || lines(dir.path(), "out.ndjson");
    wait_for("five sums and a key", LONG, || out().values().map(Vec::len).sum::<usize>() == 6);
    // The second source is another one now, and both pipelines; not the first source, and not the key-value store.
    reload(dir.path(), &gateway, &remembering(first, second, "2MiB", 2));
    for n in 6..=10 {
        assert_eq!(one.post(&format!(r#"{{"n":{n}}}"#)), Some(202), "the connection is still there");
    }
    assert_eq!(two.post(r#"{"n":11,"k":"b"}"#), None, "this source was started anew");
    wait_for("ten sums", LONG, || out().contains_key(&10));
    let tenth = out()[&10][0]["body"].to_string();
    assert!(tenth.contains("\"mark\":2") && tenth.contains("55"), "{tenth}");
    let mut two = Kept::open(second);
    for k in ["b", "c", "d"] {
        assert_eq!(two.post(&format!(r#"{{"n":12,"k":"{k}"}}"#)), Some(202));
    }
    // There is room for two keys: the first one is still known, so that only one more is.
    wait_for("all to be through", LONG, || {
        let rows = status(dir.path())["consumers"].as_array().unwrap().clone();
        let keys: Vec<&Value> = rows.iter().filter(|row| row["consumer"] == "pipelines.keys").collect();
        keys.iter().all(|row| row["accepted"] == 4 && row["queued"] == 0)
    });
    assert_eq!(status(dir.path())["store"]["dead_letters"], 2);
    assert!(gateway.stop().success());
}

/// A gateway with a sink for each port.
fn plain(web: u16, clouds: &[u16], confirm: &str) -> String {
    let sinks: Vec<String> = clouds
        .iter()
        .enumerate()
        .map(|(n, cloud)| {
            format!(r#""c{n}": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/{n}", "from": ["web"] }}"#)
        })
        .collect();
    format!(
        r#"{{ "gateway": {{ "id": "barn"{confirm} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{web}" }} }},
  "sinks": {{ {} }} }}"#,
        sinks.join(", ")
    )
}

fn post(web: u16, n: u64) {
    assert_eq!(http::post(&format!("http://127.0.0.1:{web}/v1/events"), &format!(r#"{{"n":{n}}}"#)).unwrap().0, 202);
}

#[test]
fn a_wrong_configuration_changes_nothing_and_says_every_problem() {
    let (dir, web, cloud) = (folder(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let right = plain(web, &[cloud], "");
    let gateway = Gateway::start(dir.path(), &right, &[]);
    wait_for_port(web);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    let wrong = right.replace("\"url\"", "\"ulr\"").replace("\"listen\"", "\"lisen\"");
    let told = apply(dir.path(), &wrong, &[]).unwrap_err();
    assert!(told.contains("`ulr`") && told.contains("`lisen`"), "{told}");
    assert_eq!(file(dir.path()), right);
    assert_eq!(status(dir.path())["config"]["differs"], Value::Null);

    fs::write(dir.path().join("tidegate.jsonc"), &wrong).unwrap();
    // The client needs the settings alone, which are right.
    let says = |what: &str| status(dir.path())["config"]["differs"].as_str().is_some_and(|says| says.contains(what));
    assert!(says("differs from what runs"));
    hangup(&gateway);
    wait_for("it to be told", LONG, || says("`lisen`"));
    assert!(gateway.log().contains("`ulr`") && gateway.log().contains("going on with the old one"));
    post(web, 1);
    wait_for("the event", LONG, || upstream.events().len() == 1);
    assert_eq!(states(dir.path()), ["running"]);

    // Nor does one that the disk cannot take: the file stays as it is.
    fs::write(dir.path().join("tidegate.jsonc"), &right).unwrap();
    fs::remove_dir_all(dir.path().join("tidegate.db-config")).unwrap();
    fs::write(dir.path().join("tidegate.db-config"), "").unwrap();
    let told = apply(dir.path(), &plain(web, &[cloud, cloud], ""), &["--confirm-within", "60s"]).unwrap_err();
    assert!(told.contains("cannot be tried"), "{told}");
    assert_eq!(file(dir.path()), right);
    assert!(gateway.stop().success());
}

#[test]
fn what_is_not_confirmed_or_not_healthy_goes_back_by_itself() {
    let (dir, web, cloud, nobody) = (folder(), port(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let right = plain(web, &[cloud], "");
    let gateway = Gateway::start(dir.path(), &right, &[]);
    wait_for_port(web);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    // Not confirmed.
    let more = plain(web, &[cloud, cloud], "");
    let done = apply(dir.path(), &more, &["--confirm-within", "1s"]).unwrap();
    assert_eq!(
        (&done["version"], &done["started"][0], done["kept"].as_u64()),
        (&2.into(), &"sinks.c1".into(), Some(2))
    );
    assert_eq!((file(dir.path()), states(dir.path())), (more.clone(), vec!["on trial".into(), "confirmed".to_owned()]));
    assert!(apply(dir.path(), &right, &[]).unwrap_err().contains("on trial"));
    post(web, 1);
    wait_for("both sinks", LONG, || upstream.events().len() == 2);
    wait_for("it to go back", LONG, || file(dir.path()) == right && states(dir.path()) == ["rolled back", "running"]);
    post(web, 2);
    wait_for("one sink", LONG, || upstream.events().len() == 3);
    assert_eq!(consumers(dir.path()), ["sinks.c0".to_owned()].into(), "nothing is kept for a sink that never was");
    // Confirmed.
    apply(dir.path(), &more, &["--confirm-within", "2s"]).unwrap();
    config(dir.path(), &["confirm"]).unwrap();
    sleep(Duration::from_millis(2500));
    assert_eq!((file(dir.path()), states(dir.path())[0].as_str()), (more.clone(), "running"));
    // SIGHUP: what works stays, what is down goes back, with nobody there.
    let tried = r#", "confirm": "1s""#;
    let well = plain(web, &[cloud, cloud, cloud], tried);
    reload(dir.path(), &gateway, &well);
    wait_for("it to stay", LONG, || states(dir.path())[0] == "running");
    let ill = plain(web, &[cloud, cloud, cloud, nobody], tried);
    reload(dir.path(), &gateway, &ill);
    post(web, 3);
    wait_for("it to go back", LONG, || file(dir.path()) == well && states(dir.path())[0] == "rolled back");
    let log = config(dir.path(), &["log"]).unwrap();
    assert!(log["versions"][0]["why"].as_str().unwrap().contains("`sinks.c3` is down"), "{log}");
    // An operator goes back further.
    config(dir.path(), &["rollback", "1"]).unwrap();
    assert_eq!(file(dir.path()), right);
    assert!(gateway.stop().success());
    // All of it is known to one that does not run.
    let told = kit::tidegate(dir.path(), &["config", "diff", "1", "3", "-c", "tidegate.jsonc"], "");
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("+++ version 3") && told.contains("\n+  \"sinks\""), "{told}");
    let shown = kit::tidegate(dir.path(), &["config", "show", "1", "-c", "tidegate.jsonc"], "");
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), right);
}

#[test]
fn a_kill_while_a_configuration_is_on_trial_takes_it_back() {
    let (dir, web, cloud) = (folder(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let (right, more) = (plain(web, &[cloud], ""), plain(web, &[cloud, cloud], ""));
    let gateway = Gateway::start(dir.path(), &right, &[]);
    wait_for_port(web);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    post(web, 0);
    wait_for("one sink", LONG, || upstream.events().len() == 1);
    apply(dir.path(), &more, &["--confirm-within", "1h"]).unwrap();
    assert_eq!(consumers(dir.path()), ["sinks.c0", "sinks.c1"].map(String::from).into());
    gateway.kill();
    let gateway = Gateway::start(dir.path(), &file(dir.path()), &[]);
    wait_for("it to go back", LONG, || gateway.log().contains("went back to version 1"));
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    assert_eq!(
        (file(dir.path()), states(dir.path())),
        (right.clone(), vec!["rolled back".into(), "running".to_owned()])
    );
    wait_for_port(web);
    assert_eq!(consumers(dir.path()), ["sinks.c0".to_owned()].into(), "nothing is kept for a sink that never was");
    post(web, 1);
    wait_for("one sink", LONG, || upstream.events().iter().filter(|event| event["n"] == 1).count() == 1);
    // Nor if the gateway starts again as a whole.
    apply(dir.path(), &more, &["--confirm-within", "1h"]).unwrap();
    fs::write(dir.path().join("tidegate.jsonc"), right.replace("barn", "house")).unwrap();
    hangup(&gateway);
    wait_for("the other name", LONG, || status(dir.path())["gateway"] == "house");
    assert_eq!(consumers(dir.path()), ["sinks.c0".to_owned()].into());
    // Who writes it into the file means it.
    gateway.kill();
    let gateway = Gateway::start(dir.path(), &more, &[]);
    wait_for_port(web);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 5);
    assert_eq!(file(dir.path()), more);
    assert!(gateway.stop().success());
}

#[test]
fn what_only_one_on_trial_was_to_see_is_kept_for_when_it_comes_again() {
    let (dir, web, other, cloud, away) = (folder(), port(), port(), port(), port());
    let right = plain(web, &[cloud], "");
    let source = format!(r#""sources": {{ "other": {{ "type": "http", "listen": "127.0.0.1:{other}" }}, "#);
    let more = right.replace(r#""sources": { "#, &source).replace(
        r#""sinks": { "#,
        &format!(r#""sinks": {{ "c1": {{ "type": "http", "url": "http://127.0.0.1:{away}/", "from": ["other"] }}, "#),
    );
    let gateway = Gateway::start(dir.path(), &right, &[]);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    apply(dir.path(), &more, &["--confirm-within", "1h"]).unwrap();
    wait_for_port(other);
    post(other, 7);
    config(dir.path(), &["rollback"]).unwrap();
    assert_eq!(consumers(dir.path()), ["sinks.c1".to_owned()].into());
    assert!(gateway.log().contains("the store keeps its 1 events for it"));
    let upstream = http::Upstream::start(away, |_| 200);
    apply(dir.path(), &more, &[]).unwrap();
    wait_for("what was acknowledged", LONG, || upstream.events().iter().any(|event| event["n"] == 7));
    assert!(gateway.stop().success());
}

#[test]
fn who_is_told_to_stop_while_it_starts_again_stops() {
    let (dir, web) = (folder(), port());
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = plain(web, &[upstream.local_addr().unwrap().port()], "");
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(web);
    post(web, 1);
    // It never answers.
    let _hangs = upstream.accept().unwrap();
    fs::write(dir.path().join("tidegate.jsonc"), text.replace("barn", "house")).unwrap();
    hangup(&gateway);
    wait_for("it to stop", LONG, || gateway.log().contains("stopping"));
    assert!(gateway.stop().success());
}

#[test]
fn one_goes_back_also_where_others_write_the_file() {
    let (dir, web, cloud) = (folder(), port(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let (right, bad) = (plain(web, &[cloud], ""), plain(web, &[cloud, cloud], ""));
    let gateway = Gateway::start(dir.path(), &right, &[]);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    // Nobody, not even root, can put another file in its place.
    fs::create_dir_all(dir.path().join("tidegate.jsonc.new/x")).unwrap();
    reload(dir.path(), &gateway, &bad);
    let told = apply(dir.path(), &right, &[]).unwrap_err();
    assert!(told.contains("cannot be written") && told.contains("then reload"), "{told}");
    let done = config(dir.path(), &["rollback"]).unwrap();
    let warning = done["warnings"][0].as_str().unwrap();
    assert!(warning.contains("cannot be written") && warning.contains("is not taken up again"), "{done}");
    let went_back = || {
        assert_eq!(file(dir.path()), bad);
        assert_eq!(states(dir.path()), ["running", "rolled back", "rolled back", "confirmed"]);
    };
    went_back();
    post(web, 1);
    wait_for("one sink", LONG, || upstream.events().len() == 1);
    // A start takes what went back for what it is.
    gateway.kill();
    let gateway = Gateway::start(dir.path(), &bad, &[]);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 4);
    went_back();
    wait_for_port(web);
    post(web, 2);
    // The first may come again: it was killed.
    wait_for("the second", LONG, || upstream.events().iter().any(|event| event["n"] == 2));
    // Who reloads it means it, and who writes another as well.
    hangup(&gateway);
    wait_for("the reload", LONG, || status(dir.path())["config"]["version"] == 5);
    config(dir.path(), &["rollback"]).unwrap();
    let other = plain(web, &[cloud, cloud, cloud], "");
    fs::write(dir.path().join("tidegate.jsonc"), &other).unwrap();
    gateway.kill();
    let gateway = Gateway::start(dir.path(), &other, &[]);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 7);
    // The file says something else than what went back: the next start takes that.
    fs::write(dir.path().join("tidegate.jsonc"), &right).unwrap();
    let done = config(dir.path(), &["rollback"]).unwrap();
    assert!(done["warnings"][0].as_str().unwrap().contains("the next start takes up"), "{done}");
    assert!(gateway.stop().success());
}

#[test]
fn operators_find_the_gateway_where_its_settings_say_now() {
    let (dir, web, admin) = (folder(), port(), port());
    let text = |listen: &str| {
        let plain = plain(web, &[port()], "");
        plain.replacen("{ ", &format!(r#"{{ "admin": {{ "listen": "{listen}" }}, "#), 1)
    };
    let gateway = Gateway::start(dir.path(), &text("unix"), &[]);
    wait_for_port(web);
    wait_for("the admin socket", LONG, || status(dir.path())["config"]["version"] == 1);
    let done = apply(dir.path(), &text(&format!("127.0.0.1:{admin}")), &[]).unwrap();
    assert_eq!((&done["version"], &done["restarts"]), (&2.into(), &false.into()));
    wait_for("the other listener", LONG, || status(dir.path())["config"]["version"] == 2);
    // Another name of the gateway starts it again, as a whole and in the same process.
    let other = text("unix").replace("barn", "house");
    assert!(apply(dir.path(), &other, &["--confirm-within", "9s"]).unwrap_err().contains("cannot be tried"));
    assert_eq!(apply(dir.path(), &other, &[]).unwrap()["restarts"], true);
    wait_for("the other name", LONG, || status(dir.path())["gateway"] == "house");
    assert_eq!(states(dir.path()), ["running", "confirmed", "confirmed"]);
    assert!(gateway.stop().success());
}

#[test]
fn sessions_of_a_source_that_is_gone_are_told_and_can_be_forgotten() {
    let (dir, broker, web, admin) = (folder(), port(), port(), port());
    let of = |devices: &str| {
        format!(
            r#"{{ "admin": {{ "listen": "127.0.0.1:{admin}" }}, "sources": {{ "devices": {devices} }},
  "sinks": {{ "out": {{ "type": "file", "path": "out.ndjson", "from": ["devices"] }} }} }}"#
        )
    };
    let before = of(&format!(r#"{{ "type": "mqtt_listen", "listen": "127.0.0.1:{broker}" }}"#));
    let after = of(&format!(r#"{{ "type": "http", "listen": "127.0.0.1:{web}" }}"#));
    let subscribe = || {
        let mut stream = TcpStream::connect(("127.0.0.1", broker)).unwrap();
        let filter = mqtt::packet(0x82, b"\0\x01\0\x01#\x01");
        stream.write_all(&[mqtt::connect("away", false), filter].concat()).unwrap();
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!((answer[0], answer[4]), (0x20, 0x90));
        answer[2] == 1
    };
    let forget = || {
        let token = fs::read_to_string(dir.path().join("tidegate.db-token")).unwrap();
        let (header, url) = (
            format!("authorization: Bearer {}", token.trim()),
            format!("http://127.0.0.1:{admin}/api/v1/consumers/devices%2Faway/forget"),
        );
        let out = Command::new("curl").args(["-s", "-X", "POST", "-H", &header, &url]).output().unwrap();
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let gateway = Gateway::start(dir.path(), &before, &[]);
    wait_for_port(broker);
    assert!(!subscribe() && subscribe(), "the session lasts");
    assert!(forget()["detail"].as_str().unwrap().contains("`devices/away` is in use"));
    let mut device = TcpStream::connect(("127.0.0.1", broker)).unwrap();
    device.write_all(&[mqtt::connect("device", true), mqtt::publish("t", 1, false, b"{}")].concat()).unwrap();
    device.read_exact(&mut [0; 8]).unwrap();

    // It goes, and another comes whose events the session never reads.
    reload(dir.path(), &gateway, &after);
    wait_for("the warning", LONG, || {
        gateway.log().contains("`devices`: MQTT sessions are not in the configuration any more, 1 of them")
    });
    wait_for_port(web);
    for n in 0..3 {
        http::post(&format!("http://127.0.0.1:{web}/v1/events"), &format!(r#"{{"n":{n}}}"#)).unwrap();
    }
    assert!(gateway.stop().success());
    let gateway = Gateway::start(dir.path(), &after, &[]);
    wait_for("the warning after a start", LONG, || {
        gateway.log().contains("events for them; `tidegate forget devices/away`")
    });
    wait_for_port(admin);
    let queued = forget()["queued"].as_u64().unwrap();
    assert!((3..=4).contains(&queued), "{queued}");
    assert!(forget()["detail"].as_str().unwrap().contains("there is no consumer `devices/away`"));

    // Nothing is left of it.
    reload(dir.path(), &gateway, &before);
    wait_for_port(broker);
    assert!(!subscribe(), "the session is forgotten");
    assert!(gateway.stop().success());
}
