//! The Modbus source, sink and command against pymodbus, over TCP and over a serial line of two ptys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../gateway/kit/mod.rs"]
mod kit;
mod peer;

use peer::Peer;
use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Each of its units has holding registers 0 to 99 of 100 × unit + address, input registers of 10000 more, and coils of which
/// every third is on.
fn peers(dir: &Path) -> [Peer; 2] {
    [Peer::tcp(dir, kit::port()), Peer::rtu(dir)]
}

/// What the gateway's file sink has of a group, with envelopes; a line that is being written is none.
fn events(dir: &Path, group: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("events.ndjson")).unwrap_or_default();
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|event| event["body"]["group"] == group).collect()
}

const POLL_MS: i64 = 200;

/// A gateway that polls three units, and writes to the first what is posted to it.
fn configuration(connect: &str, port: u16) -> String {
    let group = |unit: u8| {
        format!(
            r#""unit-{unit}": {{ "unit": {unit}, "function": "holding", "every": "{POLL_MS}ms", "values": {{
                "a": {{ "address": 4 }}, "sum": {{ "address": 5, "as": "u32", "words": "little" }},
                "set": {{ "address": 20, "as": "i16", "scale": 0.1 }},
                "wide": {{ "address": 21, "as": "f32" }},
                "name": {{ "address": 30, "as": "text", "length": 4, "report": {{ "when": "change" }} }} }} }}"#
        )
    };
    let groups = [1, 2, 3].map(group).join(",");
    format!(
        r#"{{
        "sources": {{
            "meters": {{ "type": "modbus", "connect": {connect}, "timeout": "300ms", "retries": 1, "groups": {{ {groups},
                "coils": {{ "unit": 1, "function": "coil", "every": "300ms", "report": {{ "when": "change" }},
                            "values": {{ "pump": {{ "address": 7 }}, "other": {{ "address": 9 }} }} }} }} }},
            "commands": {{ "type": "http", "listen": "127.0.0.1:{port}" }}
        }},
        "sinks": {{
            "file": {{ "type": "file", "path": "events.ndjson", "envelope": true, "from": ["meters"] }},
            "valves": {{ "type": "modbus", "connect": {connect}, "from": ["commands"], "writes": [
                {{ "unit": 1, "function": "register", "address": 20, "value": "event.set", "as": "i16", "scale": 0.1 }},
                {{ "unit": 1, "function": "registers", "address": 21, "value": "event.wide", "as": "f32" }},
                {{ "unit": 1, "function": "registers", "address": 30, "value": "event.name", "as": "text", "length": 4 }},
                {{ "unit": 1, "function": "coil", "address": 7, "value": "event.pump" }} ] }}
        }} }}"#
    )
}

fn started(peer: &Peer, dir: &Path) -> (kit::Gateway, String) {
    let port = kit::port();
    let gateway = kit::Gateway::start(dir, &configuration(&peer.connect, port), &[]);
    kit::wait_for("the first poll", kit::LONG, || !events(dir, "unit-3").is_empty());
    (gateway, format!("http://127.0.0.1:{port}/v1/events"))
}

/// The body of the newest event of a group.
fn newest(dir: &Path, group: &str) -> Value {
    events(dir, group).pop().unwrap_or_default()["body"].take()
}

#[test]
fn a_dead_unit_among_three_does_not_hold_up_the_others() {
    for at in 0..2 {
        let dir = kit::folder();
        let mut peer = peers(dir.path()).into_iter().nth(at).unwrap();
        let (gateway, _) = started(&peer, dir.path());
        let seconds = 8;
        std::thread::sleep(Duration::from_secs(seconds));
        for unit in [1, 3] {
            let events = events(dir.path(), &format!("unit-{unit}"));
            let first = &events[0]["body"];
            assert_eq!(first["a"], 100 * unit + 4, "{first}");
            assert_eq!(first["sum"], (100 * unit + 6) * 65_536 + 100 * unit + 5, "{first}");
            assert_eq!((&first["unit"], &events[0]["key"]), (&unit.into(), &format!("{unit}/unit-{unit}").into()));
            let name = events.iter().filter(|e| e["body"].get("name").is_some()).count();
            assert_eq!(name, 1, "it never changed");
            let times: Vec<i64> = events
                .iter()
                .map(|e| e["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond())
                .collect();
            let gap = times.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            let expected = seconds as usize * 1000 / POLL_MS as usize;
            // One poll may be late by what an attempt at the dead unit costs, and by what a busy machine does.
            assert!(times.len() * 10 >= expected * 8, "unit {unit}: {} events of {expected}", times.len());
            assert!(gap < 5 * POLL_MS, "unit {unit}: {gap} ms without an event");
        }
        assert!(events(dir.path(), "unit-2").is_empty());
        peer.tell("on 2");
        kit::wait_for("unit 2", kit::LONG, || !events(dir.path(), "unit-2").is_empty());
        assert_eq!(newest(dir.path(), "unit-2")["a"], 204);
        let log = gateway.log();
        assert_eq!(log.matches("unit 2 does not answer, trying again: no answer in time").count(), 1, "{log}");
        assert_eq!(log.matches("unit 2 answers again after").count(), 1, "{log}");
        assert!(!log.contains("unit 1 ") && !log.contains("unit 3 "), "{log}");
        assert!(gateway.stop().success());
    }
}

#[test]
fn what_is_written_is_read_back_while_polls_go_on() {
    for at in 0..2 {
        let dir = kit::folder();
        let mut peer = peers(dir.path()).into_iter().nth(at).unwrap();
        peer.tell("on 2");
        let (gateway, url) = started(&peer, dir.path());
        for n in 0..30 {
            let body = format!(r#"{{ "set": -{n}.5, "wide": {n}.25, "name": "no {n}", "pump": {} }}"#, n % 2 == 1);
            assert_eq!(kit::http::post(&url, &body).unwrap().0, 202);
            std::thread::sleep(Duration::from_millis(20));
        }
        kit::wait_for("the last command", kit::LONG, || newest(dir.path(), "unit-1")["set"] == -29.5);
        kit::wait_for("its coil", kit::LONG, || newest(dir.path(), "coils")["pump"] == true);
        let names: Vec<Value> = events(dir.path(), "unit-1").iter().map(|e| e["body"]["name"].clone()).collect();
        assert!(names.contains(&"no 29".into()), "{names:?}");
        assert_eq!(newest(dir.path(), "unit-1")["wide"], 29.25);
        let log = gateway.log();
        assert!(!log.contains("does not answer") && !log.contains("down"), "{log}");
        assert!(gateway.stop().success());
        assert_eq!(peer.read(dir.path(), "--unit 1 --holding 20 --as i16"), "   20  -295\n");
    }
}

#[test]
fn noise_and_echo_on_the_line_are_got_over() {
    let dir = kit::folder();
    let mut peer = Peer::rtu(dir.path());
    peer.tell("on 2");
    let (gateway, url) = started(&peer, dir.path());
    for wire in ["noise", "echo"] {
        peer.tell(wire);
        let before = events(dir.path(), "unit-1").len();
        kit::wait_for("polls", kit::LONG, || events(dir.path(), "unit-1").len() > before + 10);
    }
    // The line is known to echo: a command is done when the unit has answered, not when the command was heard.
    peer.tell("off 1");
    assert_eq!(kit::http::post(&url, r#"{ "set": 7.5, "pump": true }"#).unwrap().0, 202);
    kit::wait_for("the failed command", kit::LONG, || gateway.log().contains("valves: down, trying again"));
    peer.tell("on 1");
    kit::wait_for("the command", kit::LONG, || newest(dir.path(), "unit-1")["set"] == 7.5);
    assert!(gateway.stop().success());
}

#[test]
fn a_unit_that_is_started_again_is_polled_again() {
    let dir = kit::folder();
    let port = kit::port();
    let peer = Peer::tcp(dir.path(), port);
    let (gateway, _) = started(&peer, dir.path());
    drop(peer);
    kit::wait_for("its end", kit::LONG, || gateway.log().contains("meters: down, trying again"));
    let before = events(dir.path(), "unit-1").len();
    let _again = Peer::tcp(dir.path(), port);
    kit::wait_for("polls", kit::LONG, || events(dir.path(), "unit-1").len() > before + 3);
    assert!(gateway.stop().success());
}

#[test]
fn the_command_reads_what_is_there() {
    let dir = kit::folder();
    for peer in peers(dir.path()) {
        for (arguments, want) in [
            ("--unit 3 --holding 5 --count 3", "    5  305\n    6  306\n    7  307\n"),
            ("--unit 1 --input 0 --as u32 --words little", "    0  661989236\n"),
            (
                "--unit 1 --coil 2 --count 2 --format json",
                "[{\"address\":2,\"value\":false},{\"address\":3,\"value\":true}]\n",
            ),
            ("--unit 1 --discrete 3", "    3  false\n"),
            ("--unit 1 --holding 99 --count 2", "tidegate: unit 1: illegal data address\n"),
            ("--unit 2 --holding 0", "tidegate: unit 2: no answer in time\n"),
            (
                "--unit 1 --holding 65535 --count 2",
                "tidegate: --count: the values end behind the last address, 65535\n",
            ),
        ] {
            assert_eq!(peer.read(dir.path(), arguments), want, "{arguments}");
        }
    }
    let begun = Instant::now();
    let done = kit::tidegate(dir.path(), &["modbus", "read", "--tcp", "127.0.0.1:1", "--holding", "0"], "");
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(told.starts_with("tidegate: cannot connect to `127.0.0.1:1`: ") && begun.elapsed() < kit::LONG, "{told}");
    assert_eq!(done.status.code(), Some(1));
}
