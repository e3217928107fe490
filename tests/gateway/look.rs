//! Looking into what is stored: SQL, queues, taps, replays, on a gateway that runs and on the store of one that does not.

use crate::kit::{self, Gateway, LONG, folder, port, wait_for, wait_for_port};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::Path,
    process::{Output, Stdio},
};

/// What is taken in is kept although everybody has passed it; nobody is at `cloud`.
fn configuration(listen: u16, cloud: u16) -> String {
    format!(
        r#"{{
  "topics": {{ "hook": {{ "keep": {{ "age": "30d" }} }} }},
  "sources": {{ "hook": {{ "type": "http", "listen": "127.0.0.1:{listen}" }} }},
  "pipelines": {{ "warm": {{ "from": ["hook"], "processes": [
    {{ "type": "continue", "name": "above", "when": "event.temperature > 20.0" }},
    {{ "type": "annotate", "set": {{ "site": "barn" }} }} ] }} }},
  "sinks": {{ "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/", "from": ["warm"] }} }} }}"#
    )
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    kit::tidegate(dir, &[arguments, &["-c", "tidegate.jsonc"]].concat(), "")
}

/// What it printed; it did not fail.
fn said(dir: &Path, arguments: &[&str]) -> String {
    let out = run(dir, arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The rows of an answer.
fn select(dir: &Path, sql: &str) -> Value {
    let text = said(dir, &["query", sql, "--format", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["rows"].take()
}

/// Sends events with temperatures.
fn post(listen: u16, temperatures: impl IntoIterator<Item = f64>) {
    let lines: Vec<String> = temperatures.into_iter().map(|t| json!({ "temperature": t }).to_string()).collect();
    let out = std::process::Command::new("curl")
        .args(["-sf", "-H", "content-type: application/x-ndjson", "--data-binary", &lines.join("\n")])
        .arg(format!("http://127.0.0.1:{listen}/v1/events"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn yesterdays_average_is_read_by_sql_whether_the_gateway_runs_or_not() {
    let (dir, listen) = (folder(), port());
    let text = configuration(listen, port());
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    post(listen, [19.0, 20.0, 24.0]);
    let average = "SELECT avg(body ->> 'temperature') FROM events \
                   WHERE topic = 'hook' AND time >= datetime('now', '-1 day')";
    let check = || {
        assert_eq!(select(dir.path(), average), json!([[21.0]]));
        assert_eq!(select(dir.path(), "SELECT count(*) FROM events WHERE topic = 'warm'"), json!([[1]]));
        let table = "SELECT body ->> 'temperature' AS t, topic FROM events WHERE topic = 'hook' ORDER BY seq";
        assert_eq!(said(dir.path(), &["query", table]), "  t     topic\n  19.0  hook\n  20.0  hook\n  24.0  hook\n");
        assert_eq!(
            said(dir.path(), &["query", table, "--format", "csv"]),
            "t,topic\r\n19.0,hook\r\n20.0,hook\r\n24.0,hook\r\n"
        );
        let out = run(dir.path(), &["query", table, "--rows", "2"]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("there is more"), "{out:?}");
        for (sql, within, want) in [
            ("DELETE FROM batch", "5s", "not authorized"),
            (
                "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT count(*) FROM r",
                "50ms",
                "not done within 50 ms",
            ),
        ] {
            let out = run(dir.path(), &["query", sql, "--within", within]);
            assert_eq!(out.status.code(), Some(1), "{out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(want), "{out:?}");
        }
    };
    wait_for("the pipeline", LONG, || {
        select(dir.path(), "SELECT count(*) FROM events WHERE topic = 'warm'") == json!([[1]])
    });
    check();
    assert!(gateway.stop().success());
    check();
}

/// Bodies of the lines that were printed.
fn temperatures(lines: &str) -> Vec<f64> {
    let one = |line: &str| serde_json::from_str::<Value>(line).unwrap()["body"]["temperature"].as_f64().unwrap();
    lines.lines().map(one).collect()
}

#[test]
fn what_is_stored_is_listed_and_shown_and_moved_to_another_gateway_once() {
    let (here, there, listen, far) = (folder(), folder(), port(), port());
    let gateway = Gateway::start(here.path(), &configuration(listen, port()), &[]);
    wait_for_port(listen);
    let degrees = |range: std::ops::Range<i32>| range.map(|n| 20.0 + f64::from(n) / 4.0);
    post(listen, degrees(0..1500));
    post(listen, degrees(1500..1503));
    wait_for("the pipeline", LONG, || {
        select(here.path(), "SELECT count(*) FROM events WHERE topic = 'warm'") == json!([[1502]])
    });
    let list: Value = serde_json::from_str(&said(here.path(), &["queue", "ls", "--format", "json"])).unwrap();
    assert_eq!(list["topics"][0]["events"], 1503, "{list}");
    let sink = list["consumers"].as_array().unwrap().iter().find(|c| c["consumer"] == "sinks.cloud").unwrap();
    assert_eq!(sink["queued"], 1502, "{list}");
    let text = said(here.path(), &["queue", "ls"]);
    assert!(text.contains("CONSUMER") && text.contains("sinks.cloud"), "{text}");
    let peek = |arguments: &[&str]| temperatures(&said(here.path(), &[&["queue", "peek", "hook"], arguments].concat()));
    assert_eq!(peek(&["-n", "2"]), [20.0, 20.25]);
    assert_eq!(peek(&["--from", "newest", "-n", "2"]), [395.25, 395.5]);
    assert_eq!(peek(&["--from", "-1h", "-n", "1"]), [20.0]);

    // Written out while the gateway runs, and after it.
    assert!(said(here.path(), &["queue", "export", "hook", "running"]).starts_with("1503 events"));
    assert!(gateway.stop().success());
    said(here.path(), &["queue", "export", "hook", "stopped"]);
    let file = std::fs::read_to_string(here.path().join("running")).unwrap();
    assert_eq!(file, std::fs::read_to_string(here.path().join("stopped")).unwrap());
    assert_eq!(file.lines().count(), 1504);
    said(here.path(), &["queue", "export", "--all", "all"]);
    assert_eq!(std::fs::read_to_string(here.path().join("all")).unwrap().lines().count(), 1503 + 1502 + 1);
    assert_eq!(
        said(here.path(), &["queue", "export", "hook", "-", "--from", "2999-01-01T00:00:00Z"]).lines().count(),
        1
    );

    // Taken in elsewhere: once, whatever is run again, with ids and times.
    std::fs::write(there.path().join("tidegate.jsonc"), configuration(far, port())).unwrap();
    let gateway = Gateway::start(there.path(), &configuration(far, port()), &[]);
    wait_for_port(far);
    let import = |file: &str, arguments: &[&str]| {
        let path = here.path().join(file);
        run(there.path(), &[&["queue", "import", path.to_str().unwrap()], arguments].concat())
    };
    for (file, wrong) in [("cut", &file[..file.len() / 2]), ("changed", &file.replacen("20.25", "20.75", 1))] {
        std::fs::write(here.path().join(file), wrong).unwrap();
        let out = import(file, &[]);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{out:?}");
    }
    for want in ["1503 taken in", "0 taken in, 1503 in an earlier run"] {
        let out = import("running", &[]);
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).starts_with(want), "{out:?}");
    }
    // Another file with the same events: the store knows their ids.
    let (more, last) = file.trim_end().rsplit_once('\n').unwrap();
    assert!(last.contains("sha256"));
    let lines = format!("{more}\n{{\"no\":\"event\"}}\n");
    let trailer = json!({ "tidegate": "export", "events": 1504, "sha256": sha256(&lines) });
    std::fs::write(here.path().join("more"), format!("{lines}{trailer}\n")).unwrap();
    let out = import("more", &[]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0 taken in, 1503 were there already, 1 are wrong\n");
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("line 1504: "), "{out:?}");
    let out = import("stopped", &["--topic", "warm", "--format", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&out.stdout).unwrap()["new"], 1503, "{out:?}");
    let sums =
        "SELECT count(*), count(DISTINCT id), min(time), max(body ->> 'temperature') FROM events WHERE topic = 'hook'";
    assert_eq!(select(here.path(), sums), select(there.path(), sums));
    assert!(gateway.stop().success());
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn events_are_seen_as_they_pass_a_topic_or_a_process() {
    let (dir, listen) = (folder(), port());
    let gateway = Gateway::start(dir.path(), &configuration(listen, port()), &[]);
    wait_for_port(listen);
    wait_for("the admin socket", LONG, || UnixStream::connect(dir.path().join("tidegate.db-admin")).is_ok());
    let tap = |arguments: &[&str]| run(dir.path(), &[&["tap"], arguments].concat());
    let seen: Vec<Output> = std::thread::scope(|scope| {
        let taps = [
            &["hook", "-n", "3"][..],
            &["warm.above", "-n", "2"],
            &["warm.annotate", "--when", "event.temperature > 30.0", "-n", "1", "--format", "text"],
        ];
        let taps = taps.map(|arguments| scope.spawn(move || tap(arguments)));
        while !taps.iter().all(|tap| tap.is_finished()) {
            post(listen, [10.0, 25.0, 35.0]);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        taps.into_iter().map(|tap| tap.join().unwrap()).collect()
    });
    let out = |n: usize| String::from_utf8(seen[n].stdout.clone()).unwrap();
    assert_eq!(out(0).lines().count(), 3, "{seen:?}");
    assert!(temperatures(&out(1)).iter().all(|t| *t > 20.0) && out(1).lines().count() == 2, "{seen:?}");
    assert!(
        out(2).ends_with("hook  {\"site\":\"barn\",\"temperature\":35.0}\n") || out(2).contains("35.0"),
        "{seen:?}"
    );
    for out in &seen {
        assert!(
            out.status.success() && String::from_utf8_lossy(&out.stderr).contains(" 0 more found no room"),
            "{out:?}"
        );
    }
    for (arguments, want) in [
        (&["warm", "--for", "50ms"][..], "events, "),
        (&["nothing"], "there is no topic or process `nothing`; there are: hook, warm, warm.above, warm.annotate"),
        (&["hook", "--when", "event.("], "`when`: "),
    ] {
        let out = tap(arguments);
        assert!(String::from_utf8_lossy(&out.stderr).contains(want), "{out:?}");
    }
    // No more than four look on at once.
    std::thread::scope(|scope| {
        let taps = [0; 6].map(|_| scope.spawn(|| tap(&["hook", "--for", "1s"])));
        let done = taps.map(|tap| tap.join().unwrap().status.success());
        assert_eq!(done.iter().filter(|done| **done).count(), 4, "{done:?}");
    });
    assert!(gateway.stop().success());
    assert!(String::from_utf8_lossy(&tap(&["hook"]).stderr).contains("no gateway runs"));
}

#[test]
fn who_looks_on_and_is_slow_is_told_at_once_what_was_left_out() {
    let (dir, listen) = (folder(), port());
    let gateway = Gateway::start(dir.path(), &configuration(listen, port()), &[]);
    wait_for_port(listen);
    wait_for("the admin socket", LONG, || UnixStream::connect(dir.path().join("tidegate.db-admin")).is_ok());
    // It is killed before its time is over: what it tells till then is what somebody sees who presses Ctrl-C.
    let mut tap = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["tap", "warm.annotate", "--for", "1m", "-c", "tidegate.jsonc"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tap.stdout.take().unwrap()).lines();
    let mut first = String::new();
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| lines.next().unwrap().unwrap());
        while !seen.is_finished() {
            post(listen, [25.0]);
        }
        first = seen.join().unwrap();
    });
    assert!(first.contains("25.0"), "{first}");
    // More than pipe, sockets and room take, while nobody reads.
    (0..10).for_each(|_| post(listen, (0..2000).map(|_| 30.0)));
    let mut told = BufReader::new(tap.stderr.take().unwrap()).lines();
    let reading = std::thread::spawn(move || lines.take_while(Result::is_ok).count());
    let line = std::thread::scope(|scope| {
        let told = scope.spawn(|| told.next().unwrap().unwrap());
        while !told.is_finished() {
            post(listen, [25.0]);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        told.join().unwrap()
    });
    assert!(line.contains("more found no room") && !line.contains(" 0 more"), "{line}");
    assert!(tap.try_wait().unwrap().is_none(), "not only at the end");
    tap.kill().unwrap();
    tap.wait().unwrap();
    assert!(reading.join().unwrap() > 0);
    assert!(gateway.stop().success());
}

#[test]
fn stored_events_are_run_through_a_candidate_and_the_difference_is_told() {
    let (dir, listen) = (folder(), port());
    let text = configuration(listen, port());
    let gateway = Gateway::start(dir.path(), &text, &[]);
    wait_for_port(listen);
    post(listen, (0..400).map(|n| f64::from(n) / 10.0));
    let replay = |candidate: &str| {
        std::fs::write(dir.path().join("candidate.jsonc"), candidate).unwrap();
        let out = run(dir.path(), &["replay", "candidate.jsonc", "--since", "1h", "--format", "json"]);
        (out.status.code(), serde_json::from_slice::<Value>(&out.stdout).unwrap_or_default(), out.stderr)
    };
    let counts = |all: &Value| {
        let row = &all["pipelines"][0];
        ["same", "changed", "only_before", "only_after"].map(|name| row[name].as_u64().unwrap())
    };
    let (code, all, _) = replay(&text);
    assert_eq!((code, &all["events"], counts(&all)), (Some(0), &json!(400), [199, 0, 0, 0]), "{all}");
    // No more than it is to take, which it says.
    for (limit, more) in [("400", false), ("399", true)] {
        let command = ["replay", "candidate.jsonc", "--since", "1h", "--limit", limit, "--format", "json"];
        let all: Value = serde_json::from_slice(&run(dir.path(), &command).stdout).unwrap();
        assert_eq!((&all["events"], &all["more"]), (&json!(limit.parse::<u64>().unwrap()), &json!(more)), "{all}");
    }
    // Warmer, and called otherwise.
    let (code, all, _) = replay(&text.replace("> 20.0", "> 30.0"));
    assert_eq!((code, counts(&all)), (Some(1), [99, 0, 100, 0]), "{all}");
    let (code, all, _) = replay(&text.replace("> 20.0", "> 15.0").replace("barn", "attic"));
    assert_eq!((code, counts(&all)), (Some(1), [0, 199, 0, 50]), "{all}");
    let field = json!({ "field": "site", "before": "barn", "after": "attic" });
    assert!(
        all["pipelines"][0]["first"]
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d["fields"] == json!([field]) || d["after"].is_object()),
        "{all}"
    );
    // What fails is told; a wrong candidate too.
    let (code, all, _) = replay(&text.replace("event.temperature > 20.0", "event.temperature > 'a'"));
    assert_eq!((code, &all["failed"]["after"]), (Some(1), &json!(400)), "{all}");
    let (code, _, error) = replay(&text.replace("continue", "kontinue"));
    assert!(
        code == Some(1) && String::from_utf8_lossy(&error).contains("kontinue"),
        "{}",
        String::from_utf8_lossy(&error)
    );
    let out = run(dir.path(), &["replay", "candidate.jsonc", "--topic", "absent"]);
    assert_eq!(out.status.code(), Some(1));
    // Nothing of it was stored or sent.
    assert_eq!(select(dir.path(), "SELECT count(*) FROM events WHERE topic = 'hook'"), json!([[400]]));
    assert!(gateway.stop().success());
    assert_eq!(replay(&text).0, Some(0));
}

#[test]
fn top_looks_once_where_no_terminal_is_and_leaves_a_terminal_as_it_was() {
    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{LocalModes, tcgetattr},
    };
    use std::{
        fs::OpenOptions,
        io::{Read, Write},
        process::{Command, Stdio},
    };
    let (dir, listen) = (folder(), port());
    let gateway = Gateway::start(dir.path(), &configuration(listen, port()), &[]);
    wait_for_port(listen);
    post(listen, [10.0, 25.0, 35.0]);
    let text = said(dir.path(), &["top"]);
    for part in ["TOPIC", "hook", "CONSUMER", "sinks.cloud", "PROCESS", "annotate", "took in 3 events", "down"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'));

    let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&control).unwrap();
    unlockpt(&control).unwrap();
    let name = ptsname(&control, Vec::new()).unwrap().into_string().unwrap();
    let line = OpenOptions::new().read(true).write(true).open(&name).unwrap();
    let mut control = std::fs::File::from(control);
    for key in [b"q", b"\x03"] {
        let end = || Stdio::from(line.try_clone().unwrap());
        let mut top = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["top", "-c", "tidegate.jsonc"])
            .current_dir(dir.path())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        while !shown.contains("sinks.cloud") {
            let mut bytes = [0; 4096];
            let read = control.read(&mut bytes).unwrap();
            shown += &String::from_utf8_lossy(&bytes[..read]);
        }
        assert!(shown.starts_with("\x1b[?1049h"), "{shown}");
        assert!(!tcgetattr(&line).unwrap().local_modes.contains(LocalModes::ICANON));
        control.write_all(key).unwrap();
        while !shown.ends_with("\x1b[?1049l") {
            let mut bytes = [0; 4096];
            let read = control.read(&mut bytes).unwrap();
            shown += &String::from_utf8_lossy(&bytes[..read]);
        }
        assert!(top.wait().unwrap().success());
        assert!(tcgetattr(&line).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }
    assert!(gateway.stop().success());
}
