//! Holds the project to its own rules: who may import whom, lengths, names, and what must be absent. Each rule is a
//! function of one file, and proves itself on a planted violation.
#![allow(clippy::unwrap_used)]

mod deny;
mod layers;
mod rules;
mod source;

use source::{File, walk};
use std::{path::Path, process::Command};

/// What is wrong, and on which line (0: the file as a whole).
type Finding = (usize, String);
type Rule = fn(&File) -> Vec<Finding>;

fn project() -> Vec<File> {
    walk(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// Applies a rule to the project's files whose path begins with `under` and ends with `end`.
fn hold(under: &str, end: &str, rule: Rule) {
    let mut told = Vec::new();
    for file in project().iter().filter(|f| f.path.starts_with(under) && f.path.ends_with(end)) {
        told.extend(rule(file).into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.path)));
    }
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

#[test]
fn layers_hold() {
    let files = project();
    let kinds = layers::kinds(&files);
    let mut told = Vec::new();
    for file in files.iter().filter(|f| f.path.starts_with("src/") && f.path.ends_with(".rs")) {
        let found = layers::imports(file, &kinds).into_iter();
        told.extend(found.map(|(line, what)| format!("{}:{line}: {what}", file.path)));
    }
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

#[test]
fn every_kind_is_in_its_registry() {
    let told = layers::unregistered(&project());
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    hold("src/", ".rs", rules::lengths);
    hold("benches/", ".rs", rules::lengths);
}

#[test]
fn nothing_is_unsafe() {
    hold("", ".rs", rules::no_unsafe);
}

#[test]
fn clocks_are_read_where_they_may() {
    hold("src/", ".rs", rules::clocks);
}

#[test]
fn sql_stays_in_the_store() {
    hold("src/", ".rs", rules::sql);
}

#[test]
fn nobody_else_spawns() {
    hold("src/", ".rs", rules::spawning);
}

#[test]
fn nobody_else_has_children() {
    hold("src/", ".rs", rules::children);
}

#[test]
fn names_say_something() {
    hold("", ".rs", rules::names);
}

#[test]
fn nothing_depends_on_this_machine() {
    hold("", "", rules::places);
}

#[test]
fn crates_are_what_deny_toml_says() {
    let files = project();
    let toml = &files.iter().find(|file| file.path == "deny.toml").unwrap().text;
    let mut told = deny::check(toml);
    // Those of other machines, too.
    let lock = files.iter().find(|file| file.path == "Cargo.lock").unwrap();
    told.extend(
        rules::crates(lock, &deny::list(toml, "bans", "deny"))
            .into_iter()
            .map(|(line, what)| format!("Cargo.lock:{line}: {what}")),
    );
    assert!(told.is_empty(), "\n{}", told.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn each_promise_of_security_md_has_its_test() {
    let files = project();
    let text = &files.iter().find(|file| file.path == "SECURITY.md").unwrap().text;
    let told = rules::promises(text, &files);
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

/// What `tidegate check` says about a configuration, and, if that is nothing, `tidegate test`; nothing if it is right.
fn flaws(file: &Path, credentials: &Path) -> String {
    for (command, end) in [("check", ""), ("test", "FAILED")] {
        let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        check.arg(command).arg(file).env("HOOK_TOKEN", "0123456789abcdef").env("UPSTREAM_TOKEN", "0123456789abcdef");
        let output = check.env("CREDENTIALS_DIRECTORY", credentials).output().unwrap();
        let mut told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.is_empty(), output.status.success(), "{told}");
        if !told.is_empty() {
            let said = String::from_utf8(output.stdout).unwrap();
            told.extend(said.lines().filter(|line| !end.is_empty() && line.starts_with(end)));
            return told;
        }
    }
    String::new()
}

#[test]
fn the_examples_are_right() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broker"), "secret").unwrap();
    let (mut told, mut seen) = (String::new(), 0);
    for file in project() {
        let whole = file.path.starts_with("configs/")
            || (file.path.starts_with("board/") && file.path.ends_with("/tidegate.jsonc"));
        let shown: Vec<&str> = match whole {
            true => vec![&file.text],
            false if file.path == "README.md" => {
                let blocks = file.text.split("```jsonc\n").skip(1);
                blocks.map(|block| block.split("```").next().unwrap()).collect()
            }
            false => Vec::new(),
        };
        for text in shown {
            let copy = folder.path().join("shown.jsonc");
            std::fs::write(&copy, text).unwrap();
            told += &flaws(&copy, folder.path()).replace(copy.to_str().unwrap(), &file.path);
            seen += 1;
        }
    }
    assert!(told.is_empty() && seen > 10, "{seen} examples\n{told}");
    std::fs::write(folder.path().join("wrong.jsonc"), "{ \"sinks\": 1 }").unwrap();
    assert!(flaws(&folder.path().join("wrong.jsonc"), folder.path()).contains("sinks"));
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").map(str::to_owned).collect()
}

#[test]
fn the_readme_names_every_command_and_kind() {
    let commands = commands();
    assert!(commands.iter().any(|c| c == "run"), "{commands:?}");
    let all = tidegate::cli::catalogue();
    let kinds = |sort: &str, names: Vec<&str>| names.iter().map(|n| format!("{sort}.{n}")).collect::<Vec<_>>();
    let wanted = [
        kinds("source", all.sources.iter().map(|k| k.name).collect()),
        kinds("process", all.processes.iter().map(|k| k.name).collect()),
        kinds("sink", all.sinks.iter().map(|k| k.name).collect()),
        kinds("system", all.systems.iter().map(|k| k.name).collect()),
        kinds("command", commands.iter().map(String::as_str).collect()),
    ]
    .concat();
    let readme = project().into_iter().find(|f| f.path == "README.md").unwrap();
    let told = rules::unmentioned(&readme.text, &wanted);
    assert!(told.is_empty(), "not in README.md: {}", told.join(", "));
}
