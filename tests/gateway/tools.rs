//! What helps an operator to find out what is wrong: the log, `doctor`, `support-bundle`; and `init`, to begin with.

use crate::kit::{self, Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use flate2::read::GzDecoder;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
};

/// Runs `tidegate` on the configuration in a folder; gives its exit code and what it printed, as JSON.
fn ask(dir: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments: Vec<&str> = arguments.iter().chain(&["-c", "tidegate.jsonc", "--format", "json"]).copied().collect();
    let out = kit::tidegate(dir, &arguments, "");
    let text = String::from_utf8(out.stdout).unwrap();
    let value =
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text} {out:?}", out = out.stderr));
    (out.status.code(), value)
}

fn post(listen: u16, body: &str) {
    let answer = http::post(&format!("http://127.0.0.1:{listen}/v1/events/attic"), body);
    assert!(answer.as_ref().is_some_and(|(status, _)| *status == 202), "{answer:?}");
}

#[test]
fn the_log_is_lines_of_json_and_an_operator_gets_the_newest() {
    let (dir, listen, cloud) = (folder(), port(), port());
    let text = format!(
        r#"{{
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["web"] }} }} }}"#
    );
    let gateway = Gateway::start(dir.path(), &text, &["--log", "json"]);
    wait_for_port(listen);
    post(listen, "{}");
    let lines = || -> Vec<Value> { ask(dir.path(), &["logs", "-n", "1000"]).1["lines"].as_array().unwrap().clone() };
    let down = |line: &Value| line["component"] == "sinks.cloud" && line["level"] == "warn";
    wait_for("a line about the upstream", LONG, || lines().iter().any(down));
    assert_eq!(ask(dir.path(), &["logs", "-n", "1"]).1["lines"].as_array().unwrap().len(), 1);
    let text = kit::tidegate(dir.path(), &["logs", "-c", "tidegate.jsonc"], "").stdout;
    assert!(String::from_utf8(text).unwrap().contains(" WARN  sinks.cloud: down, trying again: "));
    // A connection that is refused is told once, not at each attempt; a configuration that stays wrong, some times.
    fs::write(dir.path().join("tidegate.jsonc.wrong"), "{").unwrap();
    let log = gateway.log();
    let written: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(written.iter().filter(|line| down(line)).count(), 1, "{log}");
    for line in &written {
        assert!(["time", "level", "module", "message"].iter().all(|name| line[name].is_string()), "{line}");
    }
    assert!(gateway.stop().success());
    let out = kit::tidegate(dir.path(), &["logs", "-c", "tidegate.jsonc"], "");
    assert!(String::from_utf8_lossy(&out.stderr).contains("no gateway runs"), "{out:?}");
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let (dir, listen) = (folder(), port());
    let text = format!(
        r#"{{ "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "sinks": {{ "none": {{ "type": "file", "path": "out.ndjson", "from": ["web"] }} }} }}"#
    );
    fs::write(dir.path().join("tidegate.jsonc"), text).unwrap();
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "tidegate.jsonc"])
        .current_dir(dir.path())
        .env("TIDEGATE_LOG", "json")
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .stderr(Stdio::piped()) // and never read
        .spawn()
        .unwrap();
    wait_for_port(listen);
    // Each report has lines of its own, since the numbers grow; the pipe is full long before the last.
    for n in 0..250 {
        post(listen, &format!("{{\"n\": {n}}}"));
        Command::new("kill").args(["-USR1", &gateway.id().to_string()]).status().unwrap();
    }
    post(listen, "{\"last\": true}");
    wait_for("the last event", LONG, || {
        fs::read_to_string(dir.path().join("out.ndjson")).is_ok_and(|text| text.contains("last"))
    });
    Command::new("kill").args(["-TERM", &gateway.id().to_string()]).status().unwrap();
    let mut ended = None;
    wait_for("its end", LONG, || {
        ended = gateway.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success());
    let mut said = String::new();
    gateway.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.len() > 60_000, "the pipe was never full: {} bytes", said.len());
    for line in said.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("a torn line: {line}"));
    }
}

#[test]
fn the_form_of_the_log_suits_who_reads_it() {
    // An option, variables of the environment (`*`: the device and inode of standard error), and how the log begins.
    for (option, env, want) in [
        (None, [("TIDEGATE_LOG", "json"), ("NONE", "")], "{\"time\":\"20"),
        (Some("text"), [("TIDEGATE_LOG", "json"), ("NONE", "")], "20"),
        (None, [("TIDEGATE_LOG", ""), ("JOURNAL_STREAM", "*")], "<6>"),
        (None, [("TIDEGATE_LOG", "text"), ("JOURNAL_STREAM", "*")], "20"),
    ] {
        if want == "<6>" && Path::new("/run/systemd/journal/socket").exists() {
            continue; // there it goes to the journal itself
        }
        let dir = folder();
        let text = r#"{ "sources": { "in": { "type": "generate", "count": 3 } }, "sinks": { "out": { "type": "file", "path": "o", "from": ["in"] } } }"#;
        fs::write(dir.path().join("tidegate.jsonc"), text).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let is = log.metadata().unwrap();
        let stream = format!("{}:{}", is.dev(), is.ino());
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").args(option.map(|form| ["--log", form]).into_iter().flatten()).arg("tidegate.jsonc");
        command.envs(env.map(|(name, value)| (name, if value == "*" { &*stream } else { value })));
        assert!(command.current_dir(dir.path()).stderr(log).status().unwrap().success());
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.contains("running") && log.lines().all(|line| line.starts_with(want)), "{option:?} {env:?}: {log}");
    }
}

/// An authority and a certificate for localhost that is good for so many days.
fn certificate(dir: &Path, days: i64) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let date = |days: i64| {
        let ms = tidegate::clock::wall_ms() + days * 86_400_000;
        let text = tidegate::clock::rfc3339(ms);
        let part = |range: std::ops::Range<usize>| text[range].parse::<u16>().unwrap();
        rcgen::date_time_ymd(part(0..4).into(), part(5..7) as u8, part(8..10) as u8)
    };
    (params.not_before, params.not_after) = (date(-9), date(days));
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &ca).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(dir.join("key.pem"), PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let (dir, listen) = (folder(), port());
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    // Its upstream is itself: a listener with TLS.
    let configuration = |more: &str| {
        format!(
            r#"{{
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}", "tls": {{ "cert": "cert.pem", "key": "key.pem" }} }} {more} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "https://localhost:{listen}/v1/events", "from": ["web"],
    "tls": {{ "ca": "ca.pem" }}, "start": "newest" }} }} }}"#
        )
    };
    let write = |text: &str| fs::write(dir.path().join("tidegate.jsonc"), text).unwrap();
    let diagnosed = |check: &str, verdict: &str, says: &str| {
        let (code, found) = ask(dir.path(), &["doctor"]);
        let list = found["findings"].as_array().unwrap();
        let matches =
            |f: &&Value| f["check"] == check && f["verdict"] == verdict && f["says"].as_str().unwrap().contains(says);
        assert!(list.iter().any(|f| matches(&f)), "{check} {verdict} {says}: {found:#}");
        assert_eq!(code, Some(i32::from(found["wrong"] != 0)), "{found:#}");
        for finding in list {
            assert_eq!(finding["verdict"] == "right", finding["advice"].is_null(), "{finding}");
        }
    };
    diagnosed("configuration", "wrong", "cannot be read");
    certificate(dir.path(), 13);
    write(&configuration(r#", "x": { "type": "htpp" }"#));
    diagnosed("configuration", "wrong", "htpp");
    write(&configuration(""));
    diagnosed("gateway", "doubtful", "no gateway runs");
    diagnosed("sources.web", "right", "is free");
    diagnosed("sources.web.tls.cert", "doubtful", "expires in 12 days");
    diagnosed("sinks.cloud", "wrong", "no connection to localhost");
    diagnosed("disk.sync", "right", "half of 16 syncs");
    {
        let _other = TcpListener::bind(("127.0.0.1", listen)).unwrap();
        diagnosed("sources.web", "wrong", "cannot listen");
    }
    let gateway = Gateway::start(dir.path(), &configuration(""), &[]);
    wait_for_port(listen);
    diagnosed("gateway", "right", "runs for");
    diagnosed("sources.web", "right", "taken, as the gateway runs");
    diagnosed("sinks.cloud", "right", "speaks TLSv1_3");
    diagnosed("sinks.cloud", "doubtful", "the certificate of localhost: expires in 12 days");
    fs::set_permissions(dir.path().join("key.pem"), PermissionsExt::from_mode(0o644)).unwrap();
    diagnosed("secrets", "wrong", "key.pem");
    fs::write(dir.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    diagnosed("sources.web.tls", "wrong", "cannot be used with the certificate");
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    diagnosed("store.folder", "wrong", "everybody may write");
    assert!(gateway.stop().success());
    let mut left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.all(|name| !name.to_string_lossy().contains("doctor")));
    // It does not need anybody's secrets, and tells of their absence as of a doubt.
    write(r#"{ "sources": { "web": { "type": "http", "tokens": ["${cred:absent}"] } }, "sinks": {} }"#);
    diagnosed("configuration", "doubtful", "CREDENTIALS_DIRECTORY");
    let out = kit::tidegate(dir.path(), &["doctor", "-c", "tidegate.jsonc", "--rate", "20/s", "--size", "200B"], "");
    let text = String::from_utf8(out.stdout).unwrap();
    for line in ["6 hours offline at 20.000 events/s", "a day are written", " doubtful, "] {
        assert!(text.contains(line), "{text}");
    }
}

/// An upstream that refuses everything, and says what it was sent back to who sent it.
fn refuse_with_its_own_words(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"]") {
                match stream.read(&mut piece) {
                    Ok(1..) => request.extend(piece.iter().take_while(|byte| **byte != 0)),
                    _ => break,
                }
                piece = [0; 4096];
            }
            let body = String::from_utf8_lossy(&request).split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
            let head = format!("HTTP/1.1 422 No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).ok();
        }
    });
}

#[test]
fn no_secret_and_no_body_is_in_a_support_bundle() {
    const CANARIES: [&str; 7] = [
        "canary-literal-token",
        "canary-by-environment",
        "canary-by-file",
        "canary-in-the-url",
        "canary-in-an-event",
        "canary-in-a-comment",
        "canary-elsewhere-in-the-environment",
    ];
    let [literal, variable, file, url, event, comment, elsewhere] = CANARIES;
    let (dir, listen, cloud) = (folder(), port(), port());
    fs::write(dir.path().join("secret"), file).unwrap();
    fs::set_permissions(dir.path().join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    refuse_with_its_own_words(cloud);
    let text = format!(
        r#"{{ // {comment}
  "gateway": {{ "id": "barn" }},
  "sources": {{ "web": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "p": {{ "from": ["web"], "to": ["cloud"], "processes": [
    {{ "type": "annotate", "set": {{ "sum": {{ "expr": "event.n + 1.0" }}, "like": "{literal}" }} }} ] }} }},
  "sinks": {{
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/in?sig={url}",
      "headers": {{ "authorization": "Bearer {literal}", "x-a": "${{BUNDLE_CANARY}}", "x-b": "${{file:{}}}" }} }} }} }}"#,
        dir.path().join("secret").display()
    );
    let gateway =
        Gateway::start_with(dir.path(), &text, &[("BUNDLE_CANARY", variable), ("ELSEWHERE", elsewhere)], None);
    wait_for_port(listen);
    for n in ["1", "\"x\""] {
        post(listen, &format!(r#"{{"n": {n}, "note": "{event}"}}"#));
    }
    wait_for("dead letters of both", LONG, || {
        ask(dir.path(), &["dead", "ls"]).1["letters"].as_array().unwrap().len() == 2
    });
    let letters = ask(dir.path(), &["dead", "ls"]).1["letters"].clone();
    let quotes = |letter: &Value| letter["reason"].as_str().unwrap().contains(event);
    assert!(letters.as_array().unwrap().iter().any(quotes), "the upstream's words are its reason: {letters:#}");
    for running in [true, false] {
        let name = if running { "running.tar.gz" } else { "stopped.tar.gz" };
        let out = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["support-bundle", "-c", "tidegate.jsonc", "-o", name])
            .envs([("BUNDLE_CANARY", variable), ("ELSEWHERE", elsewhere)])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        let path = dir.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // tar reads it, and everything is in it.
        let list = Command::new("tar").args(["-tzf", name]).current_dir(dir.path()).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        for file in [
            "version.txt",
            "configuration.json",
            "status.json",
            "ledger.json",
            "dead.json",
            "metrics.txt",
            "logs.ndjson",
            "doctor.json",
            "system.txt",
        ] {
            assert!(list.contains(&format!("/{file}\n")), "{list}");
        }
        let mut content = String::new();
        GzDecoder::new(fs::File::open(&path).unwrap()).read_to_string(&mut content).unwrap();
        let token = fs::read_to_string(dir.path().join("tidegate.db-token")).unwrap();
        for canary in CANARIES.iter().copied().chain([token.trim()]) {
            assert!(!content.contains(canary), "{canary} is in it: {content}");
        }
        for there in ["answered 422", "pipelines.p", "${BUNDLE_CANARY}", "\"verdict\"", "/proc/mounts"] {
            assert!(content.contains(there), "{there} is not in it: {content}");
        }
        assert_eq!(content.contains("tidegate_events_accepted_total"), running);
        let again = kit::tidegate(dir.path(), &["support-bundle", "-c", "tidegate.jsonc", "-o", name], "");
        assert_eq!(again.status.code(), Some(1), "it overwrites nothing: {again:?}");
        if running {
            Command::new("kill").args(["-KILL", &gateway.pid().to_string()]).status().unwrap();
            wait_for("its end", LONG, || ask(dir.path(), &["status"]).1["running"] == false);
        }
    }
}

#[test]
fn a_configuration_to_begin_with_is_right_and_overwrites_nothing() {
    let dir = folder();
    let out = kit::tidegate(dir.path(), &["init"], "");
    let list = String::from_utf8(out.stdout).unwrap();
    let uses: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(uses.len() >= 4, "{list}");
    for name in uses {
        let said = |arguments: &[&str]| kit::tidegate(dir.path(), arguments, "");
        let file = format!("{name}.jsonc");
        let out = said(&["init", name, "-o", &file]);
        assert!(out.status.success(), "{out:?}");
        let text = fs::read_to_string(dir.path().join(&file)).unwrap();
        assert_eq!(said(&["init", name]).stdout, text.as_bytes());
        assert!(text.lines().filter(|line| line.trim_start().starts_with("//")).count() >= 5, "{name} teaches little");
        for command in ["check", "test"] {
            let out = said(&[command, &file]);
            assert!(out.status.success() && out.stderr.is_empty(), "{command} {name}: {out:?}");
        }
        fs::write(dir.path().join(&file), "mine").unwrap();
        let out = said(&["init", name, "-o", &file]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("--force"), "{out:?}");
        assert_eq!(fs::read_to_string(dir.path().join(&file)).unwrap(), "mine");
        assert!(said(&["init", name, "-o", &file, "--force"]).status.success());
        assert_eq!(fs::read_to_string(dir.path().join(&file)).unwrap(), text);
    }
    assert_eq!(kit::tidegate(dir.path(), &["init", "nothing"], "").status.code(), Some(1));
}
