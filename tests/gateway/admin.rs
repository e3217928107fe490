//! What operators see of a running gateway, and what they move: consumers, events, states, metrics, and who is let in.

use crate::kit::{self, Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn configuration(listen: u16, cloud: u16, admin: &str, more: &str) -> String {
    format!(
        r#"{{
  "gateway": {{ "id": "barn" }}, "admin": {admin}, "store": {{ "disk": {{ "endurance": "40TiB" }} }},
  "topics": {{ "web": {{ "keep": {{ "age": "1h" }} }} }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "id": "id" }} }},
  "pipelines": {{ "climate": {{ "from": ["web"], "processes": [
      {{ "type": "continue", "when": "event.n % 5 != 4" }},
      {{ "type": "aggregate", "name": "count", "field": "n", "op": "count", "by": ["room"] }} ] }} }},
  "sinks": {{ {more}
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/cloud", "from": ["web"], "batch": {{ "max": 5 }} }} }} }}"#
    )
}

fn unix() -> &'static str {
    r#"{ "listen": "unix" }"#
}

/// Runs `tidegate`; what it printed as JSON, or what it said was wrong.
fn tidegate(dir: &Path, arguments: &[&str]) -> Result<Value, String> {
    let arguments: Vec<&str> = arguments.iter().chain(&["-c", "tidegate.jsonc", "--format", "json"]).copied().collect();
    let out = kit::tidegate(dir, &arguments, "");
    match out.status.success() {
        true => Ok(serde_json::from_slice(&out.stdout).unwrap()),
        false => Err(String::from_utf8(out.stderr).unwrap()),
    }
}

fn ask(dir: &Path, arguments: &[&str]) -> Value {
    tidegate(dir, arguments).unwrap()
}

/// Status and body of an answer; it is asked whoever shows whatever certificate.
fn curl(method: &str, url: &str, token: &str) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["-sk", "-X", method, "-w", "\n%{http_code}", url]);
    if !token.is_empty() {
        command.args(["-H", &format!("authorization: Bearer {token}")]);
    }
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn post(listen: u16, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let body = format!(r#"{{"id":"e{n}","n":{n},"room":"r{}"}}"#, n % 2);
        assert_eq!(http::post(&format!("http://127.0.0.1:{listen}/v1/events"), &body).unwrap().0, 202);
    }
}

fn taken(upstream: &http::Upstream) -> Vec<u64> {
    upstream.events().iter().map(|e| e["n"].as_u64().unwrap()).collect()
}

/// The ledger of a consumer, which adds up once nothing moves.
fn row(dir: &Path, consumer: &str) -> BTreeMap<String, u64> {
    let ledger = ask(dir, &["ledger"])["ledger"].clone();
    let row =
        ledger.as_array().unwrap().iter().find(|row| row["consumer"] == consumer && row["topic"] == "web").unwrap();
    let row: BTreeMap<String, u64> =
        row.as_object().unwrap().iter().filter_map(|(name, n)| Some((name.clone(), n.as_u64()?))).collect();
    let ends = ["delivered", "queued", "dead", "expired", "evicted", "offloaded"];
    assert_eq!(row["accepted"], ends.iter().map(|name| row[*name]).sum::<u64>(), "{row:?}");
    row
}

#[test]
fn a_consumer_is_moved_back_and_forward_whether_the_gateway_runs_or_not() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    let upstream =
        http::Upstream::start(cloud, move |_: &http::Post| if is_away.load(Ordering::Relaxed) { 503 } else { 200 });
    let text = configuration(listen, cloud, unix(), "");
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    post(listen, 0..10);
    let delivered = |n: usize| wait_for("events upstream", LONG, || taken(&upstream).len() == n);
    let settled = || wait_for("nothing to be queued", LONG, || row(dir.path(), "sinks.cloud")["queued"] == 0);
    delivered(10);
    settled();

    // Back, by each way to say it.
    let first = ask(dir.path(), &["seek", "sinks.cloud", "--to", "oldest"]);
    assert_eq!((&first["again"], &first["passed"], &first["lanes"][0]["gone"]), (&10.into(), &0.into(), &false.into()));
    delivered(20);
    let seq = first["lanes"][0]["to"].as_u64().unwrap() + 7;
    assert_eq!(ask(dir.path(), &["seek", "sinks.cloud", "--to", &seq.to_string()])["again"], 3);
    delivered(23);
    assert_eq!(ask(dir.path(), &["seek", "sinks.cloud", "--to", "-1h", "--topic", "web"])["again"], 10);
    delivered(33);
    settled();
    assert_eq!(row(dir.path(), "sinks.cloud")["accepted"], 33);
    assert_eq!(ask(dir.path(), &["status"])["taken"], 10, "what comes again was taken in once");
    let texts: BTreeSet<String> = upstream.events().iter().map(Value::to_string).collect();
    assert_eq!(texts.len(), 10, "each with the same id and body");

    // Forward, past what an upstream that is away would get when it is back; what is in hand still goes.
    away.store(true, Ordering::Relaxed);
    post(listen, 10..30);
    wait_for("the upstream to be down", LONG, || !ask(dir.path(), &["status"])["down"].as_array().unwrap().is_empty());
    let passed = ask(dir.path(), &["seek", "sinks.cloud", "--to", "newest"])["passed"].clone();
    assert_eq!((&passed, row(dir.path(), "sinks.cloud")["evicted"]), (&20.into(), 20));
    away.store(false, Ordering::Relaxed);
    post(listen, 30..31);
    wait_for("the next one", LONG, || taken(&upstream).contains(&30));
    let passed_over = taken(&upstream).iter().filter(|n| (10..30).contains(*n)).count();
    assert!(passed_over <= 5, "{passed_over} of those passed over were in hand");
    settled();

    // A pipeline counts again what comes again.
    let count = || {
        let state = ask(dir.path(), &["state", "climate.count"]);
        state["values"].as_array().unwrap().iter().map(|v| v["value"].as_u64().unwrap()).sum::<u64>()
    };
    wait_for("25 of 31 to be counted", LONG, || count() == 25);
    ask(dir.path(), &["seek", "pipelines.climate", "--to", "oldest"]);
    wait_for("them to be counted again", LONG, || count() == 50);
    for (arguments, why) in [
        (&["seek", "sinks.nobody", "--to", "oldest"][..], "there is no consumer `sinks.nobody`"),
        (&["seek", "sinks.cloud", "--to", "yesterday"], "`to`: expected `oldest`, `newest`"),
        (&["seek", "sinks.cloud", "--to", "oldest", "--topic", "x"], "has read nothing"),
        (&["forget", "sinks.cloud"], "`sinks.cloud` is in use"),
    ] {
        let told = tidegate(dir.path(), arguments).unwrap_err();
        assert!(told.contains(why), "{told}");
    }

    // Nobody runs: it begins there.
    gateway.kill();
    let before = taken(&upstream).len();
    assert!(tidegate(dir.path(), &["forget", "sinks.cloud"]).unwrap_err().contains("no gateway runs"));
    assert_eq!(ask(dir.path(), &["seek", "sinks.cloud", "--to", "oldest"])["again"], 31);
    let gateway = Gateway::start(dir.path(), &text, &[]);
    delivered(before + 31);
    settled();
    assert!(gateway.stop().success());

    // Another takes its place; the old one is forgotten, with what waited for it.
    let gateway = Gateway::start(dir.path(), &text.replace("\"cloud\":", "\"other\":"), &[]);
    wait_for_port(listen);
    post(listen, 31..34);
    wait_for("the old one to be behind", LONG, || row(dir.path(), "sinks.cloud")["queued"] == 3);
    assert_eq!(ask(dir.path(), &["forget", "sinks.cloud"])["queued"], 3);
    assert!(ask(dir.path(), &["ledger"])["ledger"].as_array().unwrap().iter().all(|r| r["consumer"] != "sinks.cloud"));
    assert!(gateway.stop().success());
}

#[test]
fn topics_consumers_events_and_states_are_shown_to_who_has_the_token() {
    let (dir, listen, cloud, admin) = (folder(), port(), port(), port());
    let text = configuration(listen, cloud, &format!(r#"{{ "listen": "127.0.0.1:{admin}" }}"#), "");
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    wait_for_port(admin);
    post(listen, 0..10);
    let token = fs::read_to_string(dir.path().join("tidegate.db-token")).unwrap().trim().to_owned();
    let url = |path: &str| format!("http://127.0.0.1:{admin}{path}");
    let get = |path: &str| {
        let (status, body) = curl("GET", &url(path), &token);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    // The document names all of it; without the token nothing is told, nor done.
    let (status, document) = curl("GET", &url("/api/v1/openapi.json"), "");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut closed = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let only_operators = operation["security"] == serde_json::json!([{ "token": [] }]);
            let path = path.replace("{name}", "sinks.cloud").replace("{id}", "e1");
            let (status, _) = curl(&method.to_uppercase(), &url(&path), "");
            assert_eq!(status == 401, only_operators, "{method} {path}: {status}");
            closed += u64::from(only_operators);
        }
    }
    assert!(closed > 10, "{closed}");

    wait_for("the upstream to be down", LONG, || get("/api/v1/consumers/sinks.cloud")["down"].is_object());
    let topics = get("/api/v1/topics");
    let web = topics["topics"].as_array().unwrap().iter().find(|topic| topic["topic"] == "web").unwrap();
    assert_eq!(
        (&web["events"], &web["priority"], &web["when_full"]),
        (&10.into(), &4.into(), &"reject".into()),
        "{web}"
    );
    assert_eq!((&web["keep_seconds"], &web["ttl_seconds"]), (&3600.0.into(), &Value::Null), "{web}");
    assert!(web["bytes"].as_u64().unwrap() > 100 && web["oldest_seconds"].as_f64().unwrap() < 60.0, "{web}");
    let cloud = get("/api/v1/consumers/sinks.cloud");
    assert_eq!((&cloud["queued"], &cloud["paused"], &cloud["configured"]), (&10.into(), &false.into(), &true.into()));
    assert!(cloud["in_flight"].as_u64().unwrap() > 0 && cloud["lanes"][0]["cursor"].is_u64(), "{cloud}");
    let all = get("/api/v1/consumers");
    let names: BTreeSet<&str> =
        all["consumers"].as_array().unwrap().iter().map(|c| c["consumer"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["pipelines.climate", "sinks.cloud"]));

    let numbers = |path: &str| -> Vec<u64> {
        get(path)["events"].as_array().unwrap().iter().map(|e| e["body"]["n"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers("/api/v1/events?topic=web&limit=3"), [0, 1, 2]);
    let seq = get("/api/v1/events?topic=web&limit=3")["events"][2]["seq"].as_u64().unwrap();
    assert_eq!(numbers(&format!("/api/v1/events?topic=web&from={seq}&limit=2")), [2, 3]);
    assert_eq!(numbers("/api/v1/events?topic=web&time=-1h&limit=1000"), (0..10).collect::<Vec<_>>());
    assert_eq!(numbers("/api/v1/events?topic=web&priority=7"), [0; 0]);
    assert_eq!(numbers("/api/v1/events/e3?topic=web"), [3]);
    let event = &get("/api/v1/events/e3?topic=web")["events"][0];
    assert_eq!(
        (&event["id"], &event["topic"], &event["priority"]),
        (&"e3".into(), &"web".into(), &4.into()),
        "{event}"
    );
    for (method, path, status) in [
        ("GET", "/api/v1/events", 400),
        ("GET", "/api/v1/events?topic=web&time=soon", 400),
        ("GET", "/api/v1/events/e99", 404),
        ("GET", "/api/v1/consumers/nobody", 404),
        ("POST", "/api/v1/topics", 405),
        ("POST", "/api/v1/consumers/sinks.cloud/seek", 400),
        ("POST", "/api/v1/log?level=loud", 400),
        ("POST", "/api/v1/log?level=debug", 200),
    ] {
        let (got, body) = curl(method, &url(path), &token);
        assert_eq!(got, status, "{method} {path}: {body}");
    }
    wait_for("more to be logged", LONG, || gateway.log().contains("DEBUG"));
    assert_eq!(ask(dir.path(), &["log-level", "info"])["level"], "info");

    wait_for("all to be counted", LONG, || {
        let state = get("/api/v1/state?owner=climate.count");
        state["values"].as_array().unwrap().iter().map(|v| v["value"].as_u64().unwrap()).sum::<u64>() == 8
    });
    assert_eq!(get("/api/v1/state")["owners"][0]["owner"], "pipelines.climate.count");
    assert_eq!(get("/api/v1/state?owner=sources.web")["values"].as_array().unwrap().len(), 0);
    assert!(gateway.stop().success());
}

/// What `/metrics` says, by name and labels as they are written.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(name, n)| (name.to_owned(), n.parse().unwrap())).unwrap()).collect()
}

#[test]
fn metrics_please_promtool_and_agree_with_the_ledger() {
    let (dir, listen, cloud, admin) = (folder(), port(), port(), port());
    let upstream = http::Upstream::start(cloud, |post: &http::Post| match post.path.as_str() {
        "/cloud" if post.body.contains("\"n\":3,") => 422,
        "/cloud" => 200,
        _ => 503,
    });
    let slow =
        format!(r#""slow": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/slow", "from": ["web", "climate"] }},"#);
    let text = configuration(listen, cloud, &format!(r#"{{ "listen": "127.0.0.1:{admin}" }}"#), &slow);
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    wait_for_port(admin);
    post(listen, 0..20);
    assert_eq!(http::post(&format!("http://127.0.0.1:{listen}/v1/events"), "[1]").unwrap().0, 400);
    wait_for("all but one upstream", LONG, || taken(&upstream).iter().collect::<BTreeSet<_>>().len() == 19);
    ask(dir.path(), &["seek", "sinks.slow", "--to", "newest", "--topic", "web"]);
    wait_for("nothing to move", LONG, || {
        let row = row(dir.path(), "sinks.cloud");
        row["queued"] == 0 && row["dead"] == 1
    });
    // Nothing moves any more: both say the same.
    let ledger = ask(dir.path(), &["ledger"])["ledger"].clone();
    let (status, metrics) = curl("GET", &format!("http://127.0.0.1:{admin}/metrics"), "");
    assert_eq!((status, &ledger), (200, &ask(dir.path(), &["ledger"])["ledger"]));
    let known = samples(&metrics);
    let mut compared = 0;
    for row in ledger.as_array().unwrap() {
        let labels = format!(
            "{{topic=\"{}\",consumer=\"{}\"}}",
            row["topic"].as_str().unwrap(),
            row["consumer"].as_str().unwrap()
        );
        for (column, number) in row.as_object().unwrap() {
            let Some(number) = number.as_f64() else { continue };
            let total = if ["queued", "offloaded"].contains(&column.as_str()) { "" } else { "_total" };
            assert_eq!(known.get(&format!("tidegate_events_{column}{total}{labels}")), Some(&number), "{column} {row}");
            compared += 1;
        }
    }
    assert!(compared >= 32, "{compared}");
    let queued = |consumer: &str| {
        let rows = ledger.as_array().unwrap().iter().filter(|row| row["consumer"] == consumer);
        rows.map(|row| row["queued"].as_f64().unwrap()).sum::<f64>()
    };
    for (name, want) in [
        ("events_stopped_total{topic=\"web\",consumer=\"pipelines.climate\"}", 4.0),
        ("events_evicted_total{topic=\"web\",consumer=\"sinks.slow\"}", 20.0),
        ("events_dead_total{topic=\"web\",consumer=\"sinks.cloud\"}", 1.0),
        ("dead_letters", 1.0),
        ("source_events_total{source=\"web\"}", 20.0),
        ("source_refused_total{source=\"web\"}", 1.0),
        ("source_lost_total{source=\"web\"}", 0.0),
        ("process_in_total{pipeline=\"pipelines.climate\",process=\"continue\"}", 20.0),
        ("process_in_total{pipeline=\"pipelines.climate\",process=\"count\"}", 16.0),
        ("component_up{component=\"sinks.cloud\"}", 1.0),
        ("component_up{component=\"sinks.slow\"}", 0.0),
        ("component_up{component=\"sources.web\"}", 1.0),
        ("sink_delivery_events_sum{sink=\"sinks.cloud\"}", 19.0),
        ("store_commit_events_sum", 20.0 + 16.0),
        ("queue_events{consumer=\"sinks.slow\",topic=\"climate\",priority=\"4\"}", queued("sinks.slow")),
        ("queue_events{consumer=\"sinks.cloud\",topic=\"web\",priority=\"4\"}", 0.0),
        ("disk_endurance_bytes", (40_u64 << 40) as f64),
        ("gateway_info{gateway=\"barn\"}", 1.0),
        ("store_quarantines", 0.0),
    ] {
        assert_eq!(known.get(&format!("tidegate_{name}")), Some(&want), "{name} in {metrics}");
    }
    let more = |name: &str, than: f64| {
        assert!(known.get(&format!("tidegate_{name}")).is_some_and(|n| *n > than), "{name} in {metrics}");
    };
    more("queue_bytes{consumer=\"sinks.slow\",topic=\"climate\",priority=\"4\"}", 100.0);
    more("store_flush_seconds_count", 5.0);
    more("store_taken_bytes_total", 20.0 * 40.0);
    more("resident_memory_bytes", 1e6);
    more("memory_limit_bytes{pool=\"events\"}", 1e6);
    more("component_offline_seconds_total{component=\"sinks.slow\"}", 0.0);
    more("disk_life_written_bytes_total", -1.0);

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the package prometheus");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.is_empty(), "{said}\n{metrics}");
    assert!(gateway.stop().success());
}

#[test]
fn other_machines_are_served_over_tls_and_with_the_token_only() {
    let (dir, listen, cloud, admin) = (folder(), port(), port(), port());
    for name in ["admin", "other"] {
        let made = rcgen::generate_simple_self_signed(vec!["barn".into()]).unwrap();
        fs::write(dir.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(dir.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let open = format!(r#"{{ "listen": "0.0.0.0:{admin}" }}"#);
    fs::write(dir.path().join("open.jsonc"), configuration(listen, cloud, &open, "")).unwrap();
    let out = kit::tidegate(dir.path(), &["check", "open.jsonc"], "");
    assert_eq!(out.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&out.stderr).contains("admin.listen: other machines reach this"), "{out:?}");

    let tls = format!(r#"{{ "listen": "0.0.0.0:{admin}", "tls": {{ "cert": "admin.pem", "key": "admin.key" }} }}"#);
    let text = configuration(listen, cloud, &tls, "");
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    wait_for_port(admin);
    let token = fs::read_to_string(dir.path().join("tidegate.db-token")).unwrap().trim().to_owned();
    for (path, token, want) in [
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/metrics", "", 401),
        ("/metrics", "wrong", 401),
        ("/metrics", &token, 200),
        ("/api/v1/status", "", 401),
        ("/api/v1/status", &token, 200),
    ] {
        assert_eq!(curl("GET", &format!("https://127.0.0.1:{admin}{path}"), token).0, want, "{path}");
    }
    // Who speaks no TLS gets nothing.
    let plain = Command::new("curl").args(["-s", &format!("http://127.0.0.1:{admin}/healthz")]).output().unwrap();
    assert!(plain.stdout.is_empty() && !plain.status.success(), "{plain:?}");
    // The client trusts this certificate, which nobody vouches for, and no other.
    assert_eq!(ask(dir.path(), &["status"])["running"], true);
    fs::write(dir.path().join("tidegate.jsonc"), text.replace("admin.pem", "other.pem")).unwrap();
    let told = tidegate(dir.path(), &["status"]).unwrap_err();
    assert!(told.contains("invalid peer certificate"), "{told}");
    // Who guesses is answered, late.
    let begun = std::time::Instant::now();
    for _ in 0..12 {
        assert_eq!(curl("GET", &format!("https://127.0.0.1:{admin}/metrics"), "guess").0, 401);
    }
    assert!(begun.elapsed().as_millis() >= 2000, "{:?}", begun.elapsed());
    assert!(gateway.stop().success());
}
