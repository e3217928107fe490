//! Who may import whom. The table stands in `src/lib.rs` for people, here for the machine.

use crate::{Finding, source::File};
use std::collections::BTreeSet;

const WORDS: &[&str] = &["budget", "clock", "event", "expr", "fault", "logs", "tally"];
const MEANS: &[&str] = &["board", "store", "systems"];
const PARTS: &[&str] = &["kind", "sources", "process", "sinks"];
const ASSEMBLY: &[&str] = &["config", "import", "runtime"];

/// A module, the layers that it may use, and single modules besides.
type Row = (&'static str, &'static [&'static [&'static str]], &'static [&'static str]);
const TABLE: &[Row] = &[
    ("budget", &[], &[]),
    ("clock", &[], &[]),
    ("fault", &[], &[]),
    ("tally", &[], &[]),
    ("event", &[], &["clock"]),
    ("logs", &[], &["clock"]),
    ("expr", &[], &["event"]),
    ("board", &[WORDS], &[]),
    ("store", &[WORDS], &[]),
    ("systems", &[WORDS], &[]),
    ("kind", &[WORDS, MEANS], &[]),
    ("sources", &[WORDS, MEANS], &["kind"]),
    ("process", &[WORDS, MEANS], &["kind"]),
    ("sinks", &[WORDS, MEANS], &["kind"]),
    ("config", &[WORDS, MEANS], &["kind"]),
    ("import", &[WORDS], &["config"]),
    ("runtime", &[WORDS, MEANS], &["kind", "config"]),
    ("admin", &[WORDS, MEANS], &["kind", "config", "runtime"]),
    ("cli", &[WORDS, MEANS, PARTS, ASSEMBLY], &["admin"]),
    ("main", &[], &["cli"]),
    ("lib", &[], &[]),
];
/// Folders of components.
pub const FOLDERS: [&str; 3] = ["sources", "process", "sinks"];

/// What a file imports and may not. `kinds` are the modules with a `KIND`, as `sources::http`: components never import
/// each other; a module beside them without a `KIND` is code that they share.
pub fn imports(file: &File, kinds: &BTreeSet<String>) -> Vec<Finding> {
    let own = module(&file.path);
    let Some((_, lists, single)) = TABLE.iter().find(|(name, ..)| *name == own[0]) else {
        return vec![(0, format!("`{}` has no place in the layer table", own[0]))];
    };
    let mut found = Vec::new();
    for (line, path) in paths(&file.code(), &own) {
        let Some(top) = path.first().filter(|top| **top != own[0]) else {
            let component = path.iter().take(2).map(String::as_str).collect::<Vec<_>>().join("::");
            if own.len() > 1 && path.get(1) != own.get(1) && kinds.contains(&component) {
                found.push((line, format!("a component imports another: `{component}`")));
            }
            continue;
        };
        if !lists.iter().any(|list| list.contains(&top.as_str())) && !single.contains(&top.as_str()) {
            found.push((line, format!("`{}` may not import `{top}`", own[0])));
        }
    }
    found.dedup();
    found
}

/// `src/sources/http/body.rs` is `sources`, `http`, `body`.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// The first two names, from the crate's root, of every path in the code that begins with `crate` or `super`, and its
/// line. The binary's `tidegate` is the crate too.
fn paths(code: &str, own: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "tidegate::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let (mut rest, mut base) = (&code[at..], own.to_vec());
            match rest.strip_prefix("super::") {
                None => (rest, base) = (&rest[start.len()..], Vec::new()),
                Some(_) => {
                    while let Some(next) = rest.strip_prefix("super::") {
                        base.pop();
                        rest = next;
                    }
                }
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(names(rest, 2usize.saturating_sub(base.len())).into_iter().map(|path| {
                let path = base.iter().cloned().chain(path).take(2).collect();
                (line, path)
            }));
        }
    }
    found
}

/// The paths that a path or a list of paths in braces stands for, to `depth` names.
fn names(rest: &str, depth: usize) -> Vec<Vec<String>> {
    let rest = rest.trim_start();
    if depth == 0 {
        return vec![Vec::new()];
    }
    if let Some(list) = rest.strip_prefix('{') {
        return items(list).into_iter().flat_map(|item| names(item, depth)).collect();
    }
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    match rest[name.len()..].strip_prefix("::") {
        _ if name.is_empty() => Vec::new(),
        None => vec![vec![name]],
        Some(below) => {
            let mut below = names(below, depth - 1);
            if below.is_empty() {
                below.push(Vec::new());
            }
            below.into_iter().map(|path| [vec![name.clone()], path].concat()).collect()
        }
    }
}

/// The items of a list, up to the brace that ends it.
fn items(list: &str) -> Vec<&str> {
    let (mut out, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                out.push(&list[from..at]);
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    out
}

/// Every module with a `KIND`.
pub fn kinds(files: &[File]) -> BTreeSet<String> {
    let with_kind = files.iter().filter(|f| f.code().contains(" const KIND: Kind<"));
    let modules = with_kind.map(|f| module(&f.path)).filter(|m| m.len() > 1 && FOLDERS.contains(&m[0].as_str()));
    modules.map(|m| m[..2].join("::")).collect()
}

/// Kinds that stand in no registry.
pub fn unregistered(files: &[File]) -> Vec<String> {
    let registry = |folder: &str| files.iter().find(|f| f.path == format!("src/{folder}/mod.rs"));
    let missing = |kind: &&String| {
        let (folder, name) = kind.split_once("::").unwrap();
        let code = registry(folder).map(File::code).unwrap_or_default();
        let list = code.split("const KINDS").nth(1).and_then(|c| c.split(';').next()).unwrap_or_default().to_owned();
        !crate::source::has_word(&list, &format!("{name}::KIND"))
    };
    kinds(files).iter().filter(missing).map(|kind| format!("`{kind}` is in no `KINDS`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_import_is_found() {
        let kinds = ["sources::file", "sources::http", "sinks::http"].map(str::to_owned).into();
        for (path, text, want) in [
            ("src/event/body.rs", "use crate::{clock, event::json};", &[][..]),
            ("src/event/body.rs", "\nuse crate::store::Store;", &["2 `event` may not import `store`"]),
            ("src/store/mod.rs", "fn f() { crate::runtime::go() }", &["1 `store` may not import `runtime`"]),
            ("src/sources/http/mod.rs", "use crate::{\n    kind::{Kind, Source},\n    store::Put,\n};", &[]),
            ("src/sources/http/body.rs", "use super::{listener, super::file};", &[]),
            (
                "src/sources/http/body.rs",
                "use super::super::file::A;",
                &["1 a component imports another: `sources::file`"],
            ),
            (
                "src/sources/file.rs",
                "use super::{documents::A, http};",
                &["1 a component imports another: `sources::http`"],
            ),
            ("src/sources/file.rs", "use crate::sources::file::A;", &[]),
            ("src/sources/mod.rs", "use self::file::A;", &[]),
            ("src/sinks/http.rs", "use crate::sources::http::A;", &["1 `sinks` may not import `sources`"]),
            (
                "src/config/mod.rs",
                "use crate::{kind, runtime::{self, Plan}};",
                &["1 `config` may not import `runtime`"],
            ),
            ("src/runtime/mod.rs", "use crate::{config, kind};", &[]),
            ("src/main.rs", "tidegate::cli::main(); tidegate::store::open()", &["1 `main` may not import `store`"]),
            ("src/wobble.rs", "", &["0 `wobble` has no place in the layer table"]),
            ("src/store/tests.rs", "use crate::runtime;", &[]),
        ] {
            let found = imports(&File { path: path.into(), text: text.into() }, &kinds);
            let found: Vec<String> = found.into_iter().map(|(line, what)| format!("{line} {what}")).collect();
            assert_eq!(found, want, "{path}: {text}");
        }
    }

    #[test]
    fn a_kind_outside_its_registry_is_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let kind = "pub const KIND: Kind<dyn Sink> = Kind {};";
        for (registry, want) in [
            ("pub const KINDS: &[Kind<dyn Sink>] = &[file::KIND, http::KIND];", &[][..]),
            (
                "pub mod http;\npub const KINDS: &[Kind<dyn Sink>] = &[file::KIND]; // http::KIND",
                &["`sinks::http` is in no `KINDS`"],
            ),
        ] {
            let files = [
                file("src/sinks/mod.rs", registry),
                file("src/sinks/file.rs", kind),
                file("src/sinks/http/mod.rs", kind),
            ];
            assert_eq!(unregistered(&files), want);
        }
    }
}
