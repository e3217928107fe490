//! The rules that need no more than one file.

use crate::{
    Finding,
    source::{File, has_word},
};

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

/// Where a stop watch may be read, and why. The wall clock is `clock`'s alone.
const STOP_WATCH: &[(&str, &str)] = &[
    ("runtime/", "backoff, waits of batches, deadlines of the stop"),
    ("store/", "when to trim, to fold the WAL and to commit what rides"),
    ("sources/", "an edge: how long a device may keep quiet"),
    ("sinks/", "an edge: how long an upstream may take"),
    ("systems/", "an edge: as above"),
    ("cli/doctor/", "how fast the disk and an upstream answer"),
];

/// Where threads and tasks are begun, and why.
const SPAWNING: &[(&str, &str)] = &[
    ("runtime/", "it starts, watches and stops everything"),
    ("store/", "the writer, and who reads the disk for others"),
];

/// Where a child process is begun, and why.
const CHILDREN: &[(&str, &str)] = &[("process/child.rs", "it limits them, and ends each with its whole group")];
/// Where SQL is spoken, and why.
const SQL: &[(&str, &str)] =
    &[("store/", "the store's own file"), ("systems/kv/sqlite.rs", "the file of a key-value system")];

/// Words that say nothing.
const EMPTY_WORDS: [&str; 8] = ["manager", "handler", "util", "utils", "common", "base", "helper", "helpers"];

fn listed(path: &str, list: &[(&str, &str)]) -> bool {
    list.iter().any(|(prefix, _)| path.strip_prefix("src/").unwrap_or(path).starts_with(prefix))
}

/// The lines of `code` with one of the words.
fn with_words(code: &str, words: &[&str], what: &str) -> Vec<Finding> {
    let found = |(number, line): (usize, &str)| {
        let word = words.iter().find(|word| has_word(line, word))?;
        Some((number + 1, format!("`{word}` {what}")))
    };
    code.lines().enumerate().filter_map(found).collect()
}

/// A file has at most 500 lines without its tests, a function 70.
pub fn lengths(file: &File) -> Vec<Finding> {
    let code = file.code();
    let tests = code.lines().zip(file.text.lines()).filter(|(kept, all)| kept.is_empty() && !all.is_empty());
    let tests = tests.filter(|(_, all)| !all.trim_start().starts_with("//")).count();
    let length = if code.is_empty() { 0 } else { file.text.lines().count() - tests };
    let mut found = Vec::new();
    if length > LONGEST_FILE {
        found.push((0, format!("{length} lines without its tests, at most {LONGEST_FILE}")));
    }
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let lines = body(&code[at..]).matches('\n').count() + 1;
        if lines > LONGEST_FUNCTION {
            let line = code[..at].matches('\n').count() + 1;
            found.push((line, format!("a function of {lines} lines, at most {LONGEST_FUNCTION}")));
        }
    }
    found
}

/// A function from its `fn` to its closing brace, or to the `;` or `)` that ends it without a body.
fn body(code: &str) -> &str {
    let (mut around, mut braces) = (0, 0);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => around += 1,
            ')' | ']' => around -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        if braces == 0 && (c == '}' || around < 0 || (c == ';' && around == 0)) {
            return &code[..at];
        }
    }
    code
}

pub fn no_unsafe(file: &File) -> Vec<Finding> {
    with_words(&file.all_code(), &["unsafe"], "is never used here")
}

/// The wall clock is read in `clock` alone, a stop watch where listed; processes and expressions are given the time.
pub fn clocks(file: &File) -> Vec<Finding> {
    let code = file.code();
    let mut found = Vec::new();
    if file.path != "src/clock.rs" {
        found.extend(with_words(
            &code,
            &["SystemTime", "clock_gettime", "Timestamp::now"],
            "reads a clock outside `clock`",
        ));
        if !listed(&file.path, STOP_WATCH) {
            found.extend(with_words(&code, &["Instant::now"], "reads a stop watch where none may be"));
        }
    }
    if listed(&file.path, &[("process/", ""), ("expr/", "")]) {
        let words =
            ["wall_ms()", "mono_ms()", "stamp()", "Instant", "clock::wall_ms", "clock::mono_ms", "clock::stamp"];
        found.extend(with_words(&code, &words, "reads a clock: time is an argument here"));
    }
    found
}

pub fn sql(file: &File) -> Vec<Finding> {
    if listed(&file.path, SQL) {
        return Vec::new();
    }
    let mut found = with_words(&file.code(), &["rusqlite"], "is used outside the store");
    let starts = ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "CREATE TABLE ", "DROP TABLE ", "PRAGMA "];
    for (line, text) in file.literals() {
        if starts.iter().any(|start| text.trim_start().starts_with(start)) {
            found.push((line, "SQL outside the store".to_owned()));
        }
    }
    found
}

/// What a task starts inside itself goes into a `JoinSet` and ends with it, and a call that blocks is a `spawn_blocking`;
/// nothing else begins a task or a thread.
pub fn spawning(file: &File) -> Vec<Finding> {
    if listed(&file.path, SPAWNING) {
        return Vec::new();
    }
    let words = ["tokio::spawn", "task::spawn", "thread::spawn", "thread::Builder"];
    with_words(&file.code(), &words, "where nothing may be spawned")
}

/// Programs are run in one place, which bounds their time, output and number.
pub fn children(file: &File) -> Vec<Finding> {
    if listed(&file.path, CHILDREN) {
        return Vec::new();
    }
    with_words(&file.code(), &["process::Command", "Command::new", "kill_process_group"], "where no child may be begun")
}

/// No file, module or type has a name that says nothing.
pub fn names(file: &File) -> Vec<Finding> {
    let stem = file.path.trim_end_matches(".rs");
    let parts = stem.split(['/', '_']).filter(|part| EMPTY_WORDS.contains(part));
    let mut found: Vec<Finding> = parts.map(|part| (0, format!("`{part}` says nothing: it names the file"))).collect();
    for (number, line) in file.all_code().lines().enumerate() {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for pair in words.windows(2).filter(|pair| ["struct", "enum", "trait", "type", "mod"].contains(&pair[0])) {
            let last = pair[1].rfind(|c: char| c.is_uppercase() || c == '_').unwrap_or(0);
            let last = pair[1][last..].trim_start_matches('_').to_lowercase();
            // `SourceCommon` and `SinkCommon` name what it is: the fields that all components of a sort have.
            if EMPTY_WORDS.contains(&last.as_str()) && last != "common" {
                found.push((number + 1, format!("`{last}` says nothing: `{}`", pair[1])));
            }
        }
    }
    found
}

/// No registry's host and no path of a machine: what is built here is built anywhere.
pub fn places(file: &File) -> Vec<Finding> {
    // Written so that this file does not break its own rule.
    let lock = concat!("source = \"registry+https://github.com/rust-lang/crates.", "io-index\"");
    let hosts = ["crates.!io", "pypi.!org", "pythonhosted.!org", "npmjs.!org", "docker.!io", "ghcr.!io", "quay.!io"]
        .into_iter()
        .chain(["deb.!debian.org", "security.!debian.org", "archive.!ubuntu.com", "static.!rust-lang.org"])
        .chain(["/!work/", "/!root/"]);
    let needles: Vec<String> = hosts.map(|host| host.replace('!', "")).collect();
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if file.path.ends_with("Cargo.lock") && line == lock {
            continue; // cargo's own name of its default registry
        }
        let foreign = file.path == "Cargo.lock" && line.starts_with("source = ");
        if let Some(needle) = needles.iter().find(|n| line.contains(*n)) {
            found.push((number + 1, format!("`{needle}` names a registry or a place of one machine")));
        } else if foreign {
            found.push((number + 1, "a crate from elsewhere than the default registry".to_owned()));
        }
    }
    found
}

/// Of Cargo.lock: crates that shall stay out, and a second SQLite.
pub fn crates(file: &File, banned: &[String]) -> Vec<Finding> {
    let names: Vec<(usize, &str)> = (file.text.lines().enumerate())
        .filter_map(|(number, line)| Some((number + 1, line.strip_prefix("name = \"")?.strip_suffix('"')?)))
        .collect();
    let unwanted = names.iter().filter(|(_, name)| banned.iter().any(|banned| banned == name));
    let mut found: Vec<Finding> = unwanted.map(|(line, name)| (*line, format!("`{name}` shall stay out"))).collect();
    for (line, name) in names.iter().filter(|(_, name)| *name == "libsqlite3-sys").skip(1) {
        found.push((*line, format!("a second `{name}`")));
    }
    found
}

/// What is wrong with the promises of SECURITY.md, a line of a table each: in its last column there is a test for it, `file: name`.
pub fn promises(text: &str, files: &[File]) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let (mut told, mut seen) = (Vec::new(), 0);
    for row in rows {
        let tests: Vec<&str> =
            row.trim_end_matches(" |").rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect();
        for test in &tests {
            let there = test.split_once(": ").is_some_and(|(path, name)| {
                files.iter().any(|file| {
                    file.path == path
                        && file
                            .text
                            .contains(&(if path.ends_with(".rs") { format!("fn {name}(") } else { name.to_owned() }))
                })
            });
            if !there {
                told.push(format!("there is no test `{test}`"));
            }
        }
        if tests.is_empty() {
            told.push(format!("a promise without a test: {row}"));
        }
        seen += 1;
    }
    if seen == 0 {
        told.push("no promise".into());
    }
    told
}

/// Which of these, as `source.http` or `command.run`, a README does not name. A kind stands in backquotes in the table
/// of its sort, a command behind the program's name.
pub fn unmentioned(readme: &str, wanted: &[String]) -> Vec<String> {
    let named = |wanted: &&String| {
        let (sort, name) = wanted.split_once('.').unwrap();
        match sort {
            "command" => readme.contains(&format!("`tidegate {name}")),
            _ => readme.lines().any(|l| l.starts_with(&format!("| {sort} | `{name}` |"))),
        }
    };
    wanted.iter().filter(|w| !named(w)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rule;

    /// Rows of a rule, a path, a text, and the lines on which something is found.
    fn check(rule: Rule, rows: &[(&str, &str, &[usize])]) {
        for (path, text, want) in rows {
            let found = rule(&File { path: (*path).to_owned(), text: (*text).to_owned() });
            let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
            assert_eq!(lines, *want, "{path}: {text}: {found:?}");
        }
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let long = |lines: usize, around: &str| {
            let body = "    a();\n".repeat(lines - 2);
            around.replace('@', &format!("fn f(a: [u8; 4]) -> Option<()>\n{{\n{}}}", &body[9..]))
        };
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    a!();\n".repeat(600));
        check(
            lengths,
            &[
                ("src/a.rs", &long(70, "x!();\n@\n"), &[]),
                ("src/a.rs", &long(71, "x!();\npub(crate) async @\n"), &[2]),
                ("src/a.rs", &long(71, "trait A {\n    fn a();\n    fn b(&self) {}\n}\nimpl B {\n@\n}\n"), &[6]),
                ("src/a.rs", &"const A: () = ();\n".repeat(500), &[]),
                ("src/a.rs", &"/// A\n".repeat(501), &[0]),
                ("src/a.rs", &format!("{}{tests}", "a!();\n\n".repeat(250)), &[]),
                ("src/a.rs", &format!("{}{tests}", "a!();\n\n".repeat(251)), &[0]),
                ("src/a/tests.rs", &"a!();\n".repeat(501), &[]),
            ],
        );
    }

    #[test]
    fn what_must_be_absent_is_found() {
        let (io, work) = (concat!("crates.", "io"), concat!("/wor", "k/x"));
        let lock = format!("source = \"registry+https://github.com/rust-lang/{io}-index\"\n");
        check(no_unsafe, &[("src/a.rs", "#![forbid(unsafe_code)] // unsafe\nlet x = unsafe { y };", &[2])]);
        check(
            clocks,
            &[
                ("src/clock.rs", "clock_gettime()", &[]),
                ("src/runtime/mod.rs", "Instant::now(); SystemTime::now()", &[1]),
                ("src/kind/mod.rs", "Instant::now(); wall_ms()", &[1]),
                ("src/process/a.rs", "clock::rfc3339(cx.now);\nclock::wall_ms();\nuse std::time::Instant;", &[2, 3]),
                ("src/expr/a.rs", "stamp.wall_ms; \"Instant\"; // stamp()", &[]),
                ("src/sinks/a.rs", "time::Instant::now()\n#[cfg(test)]\nmod tests {\n    SystemTime::now();\n}\n", &[]),
            ],
        );
        check(
            sql,
            &[
                ("src/store/a.rs", "use rusqlite::X; q(\"SELECT 1\")", &[]),
                ("src/systems/kv/sqlite.rs", "use rusqlite::X; q(\"SELECT 1\")", &[]),
                ("src/systems/kv/memory.rs", "use rusqlite::X; q(\"SELECT 1\")", &[1, 1]),
                ("src/cli/a.rs", "use rusqlite::X;\nq(\"\n  SELECT 1\"); log(\"no SELECT here\")", &[1, 2]),
            ],
        );
        check(
            spawning,
            &[
                ("src/runtime/a.rs", "tokio::spawn(x)", &[]),
                (
                    "src/sinks/a.rs",
                    "set.spawn(x);\ntokio::spawn(x);\nthread::Builder::new();\nspawn_blocking(x)",
                    &[2, 3],
                ),
            ],
        );
        check(
            children,
            &[
                ("src/process/child.rs", "Command::new(x); kill_process_group(y)", &[]),
                ("src/process/a.rs", "use tokio::process::Command;\nCommand::new(x)\nenum Command {}", &[1, 2]),
                ("src/process/child_tests.rs", "Command::new(x)", &[]),
            ],
        );
        check(
            names,
            &[
                ("src/http_util.rs", "struct Base64; struct Utility; trait HandlerOf {}", &[0]),
                ("src/common/a.rs", "pub struct EventManager<T>;\nenum Helper {}\nmod utils;", &[0, 1, 2, 3]),
            ],
        );
        check(
            places,
            &[
                ("README.md", &format!("from {io}\nsee {work}"), &[1, 2]),
                ("Cargo.lock", &lock, &[]),
                ("Cargo.lock", &format!("{lock}source = \"registry+https://mirror.example/index\""), &[2]),
            ],
        );
        check(
            |file| crates(file, &["aws-lc-sys".to_owned()]),
            &[
                ("Cargo.lock", "name = \"ring\"\nname = \"aws-lc-sys\"\nname = \"libsqlite3-sys\"", &[2]),
                ("Cargo.lock", "name = \"libsqlite3-sys\"\n\nname = \"libsqlite3-sys\"", &[3]),
            ],
        );
    }

    #[test]
    fn a_promise_without_its_test_is_found() {
        let files = [File { path: "tests/a.rs".into(), text: "fn it_holds() {}".into() }];
        for (row, want) in [
            ("| it holds | `tests/a.rs: it_holds` |", 0),
            ("| it holds | `tests/a.rs: it_holds`, `tests/a.rs: it_hold` |", 1),
            ("| it holds | `tests/b.rs: it_holds` |", 1),
            ("| `it` holds | |", 1),
            ("no table", 1),
        ] {
            assert_eq!(promises(&format!("| promise | test |\n|---|---|\n{row}"), &files).len(), want, "{row}");
        }
    }

    #[test]
    fn what_a_readme_leaves_out_is_found() {
        let readme = "| source | `http` | posts |\n| sink | `file` | lines |\n`tidegate run FILE`";
        let wanted = ["source.http", "sink.http", "sink.file", "command.run", "command.check"].map(str::to_owned);
        assert_eq!(unmentioned(readme, &wanted), ["sink.http", "command.check"]);
    }
}
