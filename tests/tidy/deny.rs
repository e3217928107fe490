//! Holds the crates to the lists of deny.toml, as `cargo deny` does, without it: licences, bans, versions, sources.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Cargo's own name of it, written so that it breaks no rule of `rules::places`.
const DEFAULT_REGISTRY: &str = concat!("registry+https://github.com/rust-lang/crates.", "io-index");

/// The texts of a list in a section of a TOML file that is written as deny.toml is; of a table in it, the first.
pub fn list(toml: &str, section: &str, name: &str) -> Vec<String> {
    let lines = toml.lines().map(|line| line.split(" #").next().unwrap().trim()).filter(|line| !line.starts_with('#'));
    let section =
        lines.skip_while(|line| *line != format!("[{section}]")).skip(1).take_while(|line| !line.starts_with('['));
    let mut section = section.skip_while(|line| !line.starts_with(&format!("{name} = [")));
    let first = section.next().unwrap_or_default().split_once('[').map_or("", |(_, rest)| rest);
    if let Some((inside, _)) = first.split_once(']') {
        return inside.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    }
    let entries = section.take_while(|line| *line != "]");
    entries.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// What cargo knows of all crates that are built for a target.
fn metadata(target: &str) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "metadata",
        "--locked",
        "--offline",
        "--all-features",
        "--format-version=1",
        "--filter-platform",
        target,
    ]);
    let out = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    // What is built for others than this machine may not have been fetched.
    assert!(out.status.success(), "run `cargo fetch --locked`: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Whether a licence expression (SPDX) is met by what is allowed. `WITH` needs the whole of it to be allowed.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = both(words, allowed);
    while words.pop_if(|word| *word == "OR").is_some() {
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while words.pop_if(|word| *word == "AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let Some(word) = words.pop() else { return false };
    if word == "(" {
        let met = either(words, allowed);
        return words.pop() == Some(")") && met;
    }
    let exception = words.pop_if(|word| *word == "WITH").and_then(|_| words.pop());
    let whole = exception.map_or(word.to_owned(), |exception| format!("{word} WITH {exception}"));
    allowed.contains(&whole)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The crates that the binary is built with, without those that only tests need: by id.
fn built(metadata: &Value) -> BTreeSet<&str> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let (mut found, mut next) = (BTreeSet::new(), vec![text(&metadata["resolve"], "root")]);
    while let Some(id) = next.pop() {
        if found.insert(id) {
            let needed = nodes[id]["deps"].as_array().unwrap().iter();
            let for_more = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev");
            next.extend(needed.filter(for_more).map(|dep| text(dep, "pkg")));
        }
    }
    found
}

/// What is wrong with the crates of one target.
pub fn wrong(metadata: &Value, toml: &str) -> BTreeSet<String> {
    let [allowed, banned, skipped] =
        [("licenses", "allow"), ("bans", "deny"), ("bans", "skip")].map(|(section, name)| list(toml, section, name));
    let (mut told, built) = (BTreeSet::new(), built(metadata));
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let (name, version, license) = (text(package, "name"), text(package, "version"), text(package, "license"));
        let mut tell = |what: String| told.insert(format!("{name} {version}: {what}"));
        if !is_met(license, &allowed) {
            tell(format!("the licence `{license}` is not among those of deny.toml"));
        }
        if banned.iter().any(|banned| banned == name) {
            tell("is banned by deny.toml".into());
        }
        let own = package["source"].is_null() && metadata["resolve"]["root"] == package["id"];
        if !own && text(package, "source") != DEFAULT_REGISTRY {
            tell("is from elsewhere than the default registry".into());
        }
        if built.contains(text(package, "id")) {
            versions.entry(name).or_default().push(format!("{name}@{version}"));
        }
    }
    for (_, mut versions) in versions {
        versions.retain(|version| !skipped.contains(version));
        if versions.len() > 1 {
            told.insert(format!("more than one version: {}", versions.join(", ")));
        }
    }
    told
}

/// What is wrong with the crates of all targets, and with deny.toml: what it allows and nobody has.
pub fn check(toml: &str) -> BTreeSet<String> {
    let (mut told, mut there) = (BTreeSet::new(), BTreeSet::new());
    for target in list(toml, "graph", "targets") {
        let metadata = metadata(&target);
        told.extend(wrong(&metadata, toml));
        for package in metadata["packages"].as_array().unwrap() {
            there.insert(format!("{}@{}", text(package, "name"), text(package, "version")));
            let words = text(package, "license").split(|c: char| c.is_whitespace() || "()/".contains(c));
            there.extend(words.map(str::to_owned));
        }
    }
    let listed = [list(toml, "bans", "skip"), list(toml, "licenses", "allow")].concat();
    told.extend(listed.into_iter().filter(|it| !there.contains(it)).map(|it| format!("deny.toml: nothing is `{it}`")));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "[licenses]\nallow = [\n    \"MIT\", # \"x\"\n    # \"GPL\"\n    \"ISC\",\n]\n[bans]\n\
        deny = [{ crate = \"bad\" }]\nskip = [\n    { crate = \"two@2.0.0\", reason = \"r\" },\n]\n";

    #[test]
    fn lists_are_read() {
        for (section, name, want) in [
            ("licenses", "allow", &["MIT", "ISC"][..]),
            ("bans", "deny", &["bad"]),
            ("bans", "skip", &["two@2.0.0"]),
            ("bans", "allow", &[]),
            ("none", "allow", &[]),
        ] {
            assert_eq!(list(TOML, section, name), want, "{section}.{name}");
        }
    }

    #[test]
    fn a_licence_is_met_or_not() {
        let allowed = ["MIT", "ISC", "A WITH e"].map(str::to_owned);
        for (expression, want) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(GPL-3.0 OR MIT) AND ISC", true),
            ("GPL-3.0 OR MIT AND X", false),
            ("A WITH e", true),
            ("A", false),
            ("MIT ISC", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(is_met(expression, &allowed), want, "{expression}");
        }
    }

    #[test]
    fn a_crate_that_may_not_be_there_is_found() {
        let index = DEFAULT_REGISTRY;
        let package = |name: &str, version: &str, license: &str, source: &str| {
            serde_json::json!({ "id": format!("{name}{version}"), "name": name, "version": version, "license": license,
                "source": if source.is_empty() { Value::Null } else { source.into() } })
        };
        let packages = [
            package("own", "1.0.0", "MIT", ""),
            package("two", "1.0.0", "MIT", index),
            package("two", "2.0.0", "ISC", index),
            package("three", "1.0.0", "MIT", index),
            package("three", "2.0.0", "MIT", index),
            package("test", "1.0.0", "MIT", index),
            package("test", "2.0.0", "MIT", index),
            package("bad", "1.0.0", "MIT", index),
            package("free", "1.0.0", "GPL-3.0", index),
            package("git", "1.0.0", "MIT", "git+https://example.org/git"),
            package("path", "1.0.0", "MIT", ""),
        ];
        let nodes = packages.iter().map(|package| {
            let deps = packages.iter().filter(|dep| package["name"] == "own" && dep["name"] != "own");
            let kind = |dep: &Value| if dep["name"] == "test" { "dev".into() } else { Value::Null };
            let deps = deps.map(|dep| serde_json::json!({ "pkg": dep["id"], "dep_kinds": [{ "kind": kind(dep) }] }));
            serde_json::json!({ "id": package["id"], "deps": deps.collect::<Vec<_>>() })
        });
        let nodes: Vec<Value> = nodes.collect();
        let metadata = serde_json::json!({ "packages": packages, "resolve": { "root": "own1.0.0", "nodes": nodes } });
        let told: Vec<String> = wrong(&metadata, TOML).into_iter().collect();
        assert_eq!(
            told,
            [
                "bad 1.0.0: is banned by deny.toml",
                "free 1.0.0: the licence `GPL-3.0` is not among those of deny.toml",
                "git 1.0.0: is from elsewhere than the default registry",
                "more than one version: three@1.0.0, three@2.0.0",
                "path 1.0.0: is from elsewhere than the default registry",
            ]
        );
    }
}
