//! Every command's `--help` ends with an example, and every example works: it is run beside a gateway with something in it.

use crate::kit::{Gateway, LONG, folder, http, port, wait_for, wait_for_port};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");
/// How long an example may run.
const SECONDS: &str = "20";

/// A small configuration of binge.
const BINGE: &str = r#"{ "partitionUuid": "c5024ca8-d601-499f-bb24-daae74357b5e", "pipelines": [], "processDefinitions": [],
  "externalSystems": [] }"#;

/// What is expected of the examples that begin so, instead of success.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    /// It runs until it is stopped, which happens after two seconds.
    Endless,
    /// Without the device it fails, and says so; with it, it may run for ever.
    Device,
    /// Success, or 1: its verdict is about this machine.
    Verdict,
}

/// By the words that an example begins with.
const OTHERS: &[(&str, Expect)] = &[
    ("tidegate run", Expect::Endless),
    ("tidegate gpio", Expect::Device),
    ("tidegate i2c", Expect::Device),
    ("tidegate modbus", Expect::Device),
    ("tidegate serial watch", Expect::Device),
    ("tidegate doctor", Expect::Verdict),
];

/// The help of a command and of all below it.
fn helps(command: &str, found: &mut Vec<(String, String)>) {
    let out = Command::new(PROGRAM).args(command.split_whitespace().skip(1)).arg("--help").output().unwrap();
    assert!(out.status.success(), "{command} --help: {out:?}");
    let help = String::from_utf8(out.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).and_then(|list| list.split("\n\n").next().map(str::to_owned));
    found.push((command.to_owned(), help));
    for line in list.iter().flat_map(|list| list.lines()).filter(|l| l.starts_with("  ") && !l.starts_with("   ")) {
        match line.split_whitespace().next() {
            Some("help") | None => {}
            Some(name) => helps(&format!("{command} {name}"), found),
        }
    }
}

/// The examples in a help, each of which may be broken over lines.
fn examples(help: &str) -> Vec<String> {
    let blocks = help.split("\n\n").filter_map(|block| block.trim().strip_prefix("Example: "));
    blocks.map(|block| block.lines().map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

/// A folder for the examples of a command and those below it, with the files that they name, and a `tidegate` that asks the
/// gateway of `configuration` where nothing is said.
fn place(configuration: &Path, command: &str) -> tempfile::TempDir {
    let dir = folder();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    symlink(project.join("configs"), dir.path().join("configs")).unwrap();
    fs::write(dir.path().join("pipeline.json"), BINGE).unwrap();
    fs::write(dir.path().join("secret.txt"), "secret\n").unwrap();
    fs::copy(configuration, dir.path().join("new.jsonc")).unwrap();
    if command != "init" {
        fs::copy(configuration, dir.path().join("tidegate.jsonc")).unwrap();
    }
    // A command that takes `--config` and was given none asks that gateway, not the machine's.
    let script = format!(
        r#"#!/bin/sh
case " $* " in *" -c "* | *" --config"*) exec '{PROGRAM}' "$@" ;; esac
if '{PROGRAM}' "$@" --help </dev/null 2>/dev/null | grep -q -e '--config <'; then set -- "$@" --config '{}'; fi
exec '{PROGRAM}' "$@"
"#,
        configuration.display()
    );
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::write(dir.path().join("bin/tidegate"), script).unwrap();
    fs::set_permissions(dir.path().join("bin/tidegate"), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

fn run(dir: &Path, configuration: &Path, example: &str, seconds: &str) -> Output {
    let example = example.replace("/etc/tidegate/tidegate.jsonc", configuration.to_str().unwrap());
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    Command::new("timeout")
        .args(["-k", "10", seconds, "sh", "-c", &example])
        .current_dir(dir)
        .env("PATH", path)
        .output()
        .unwrap()
}

/// What is wrong with the examples of a command.
fn flaws(dir: &Path, configuration: &Path, command: &str, help: &str) -> Vec<String> {
    let examples = examples(help);
    if examples.is_empty() {
        return vec![format!("`{command} --help` has no line `Example: …`")];
    }
    let mut flaws = Vec::new();
    for example in examples {
        let other = OTHERS.iter().find(|(words, _)| example.starts_with(words)).map(|(_, other)| *other);
        let endless = matches!(other, Some(Expect::Endless | Expect::Device));
        let out = run(dir, configuration, &example, if endless { "2" } else { SECONDS });
        let right = match (out.status.code(), other) {
            (Some(0), _) => true,
            (Some(1), Some(Expect::Device | Expect::Verdict)) => true,
            (Some(124), Some(Expect::Endless | Expect::Device)) => true, // as `timeout` says it
            _ => false,
        };
        if !right {
            let said = String::from_utf8_lossy(&out.stderr);
            flaws.push(format!("{example}: {}: {said}", out.status));
        }
    }
    flaws
}

/// A gateway that has something of everything: what came in and was delivered, dead letters, what a process remembers, what
/// nobody reads any more, and events that come all the time.
fn rig(dir: &Path, cloud: u16) -> Gateway {
    let (listen, store) = (port(), dir.join("tidegate.db"));
    let text = |old: &str| {
        format!(
            r#"{{
  "gateway": {{ "id": "barn" }}, "store": {{ "path": {store:?} }},
  "topics": {{ "hook": {{ "keep": {{ "age": "1d" }} }}, "restored": {{}} }},
  "sources": {{
    "hook": {{ "type": "http", "listen": "127.0.0.1:{listen}" }},
    "sensors": {{ "type": "generate", "rate": 20.0, "fields": {{ "temperature": {{ "const": 21.5 }} }} }} }},
  "pipelines": {{ "climate": {{ "from": ["hook", "sensors"], "to": ["cloud"], "processes": [
    {{ "type": "map", "expr": "{{'temperature': event.temperature + 0.5}}" }},
    {{ "type": "aggregate", "name": "mean", "field": "temperature", "op": "avg" }} ] }} }},
  "sinks": {{ {old}
    "cloud": {{ "type": "http", "url": "http://127.0.0.1:{cloud}/" }} }} }}"#
        )
    };
    let old = format!(r#""old": {{ "type": "http", "from": ["hook"], "url": "http://127.0.0.1:{cloud}/old" }},"#);
    let gateway = Gateway::start(dir, &text(&old), &[]);
    wait_for_port(listen);
    // Half of them are dead letters: a text cannot be added to.
    for n in 0..40 {
        let temperature = if n % 2 == 0 { "20.5" } else { "\"warm\"" };
        let (url, body) =
            (format!("http://127.0.0.1:{listen}/v1/events/attic"), format!(r#"{{"temperature": {temperature}}}"#));
        assert_eq!(http::post(&url, &body).map(|(status, _)| status), Some(202));
    }
    assert!(gateway.stop().success());
    let gateway = Gateway::start(dir, &text(""), &[]);
    wait_for_port(listen);
    gateway
}

#[test]
fn every_example_works() {
    let (dir, cloud) = (folder(), port());
    let upstream = http::Upstream::start(cloud, |_| 200);
    let _gateway = rig(dir.path(), cloud);
    wait_for("events upstream", LONG, || upstream.posts().iter().flat_map(http::Post::events).count() >= 30);
    let configuration = dir.path().join("tidegate.jsonc");
    let (mut found, mut places, mut told) = (Vec::new(), BTreeMap::new(), Vec::new());
    helps("tidegate", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for (command, help) in &found {
        let name = command.split(' ').nth(1).unwrap_or_default();
        let place = places.entry(name).or_insert_with(|| place(&configuration, name));
        told.extend(flaws(place.path(), &configuration, command, help));
    }
    assert!(told.is_empty(), "\n{}\nwhat cannot work here stands in `OTHERS`", told.join("\n"));
}

#[test]
fn an_example_that_is_missing_or_wrong_is_found() {
    let dir = folder();
    let configuration = dir.path().join("none.jsonc");
    fs::write(&configuration, "{}").unwrap();
    for (help, wrong) in [
        ("Text.\n\nUsage: x\n", true),
        ("Text.\n\nExample: tidegate kinds\n  http\n\nUsage: x\n", false),
        ("Text.\n\nExample: tidegate kinds nothing\n\nUsage: x\n", true),
        ("Text.\n\nExample: tidegate kinds --wrong\n", true),
        ("Text.\n\nExample: tidegate gpio nothing\n", true),
        ("Text.\n\nExample: tidegate kinds http\n\nExample: false\n", true),
    ] {
        let found = flaws(place(&configuration, "x").path(), &configuration, "tidegate x", help);
        assert_eq!(!found.is_empty(), wrong, "{help}: {found:?}");
    }
}

#[test]
fn the_manual_and_the_completions_have_every_command() {
    let dir = folder();
    clap_mangen::generate_to(tidegate::cli::command(), dir.path()).unwrap();
    let complete = |shell| {
        let path = clap_complete::generate_to(shell, &mut tidegate::cli::command(), "tidegate", dir.path()).unwrap();
        fs::read_to_string(path).unwrap()
    };
    let shells = [clap_complete::Shell::Bash, clap_complete::Shell::Fish, clap_complete::Shell::Zsh].map(complete);
    let mut found = Vec::new();
    helps("tidegate", &mut found);
    for (command, _) in found {
        assert!(dir.path().join(format!("{}.1", command.replace(' ', "-"))).exists(), "no page for `{command}`");
        let word = command.rsplit(' ').next().unwrap();
        assert!(shells.iter().all(|shell| shell.contains(word)), "no completion for `{command}`");
    }
}
