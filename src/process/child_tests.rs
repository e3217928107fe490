use super::*;
use std::{fs, path::Path};
use tokio::{task::JoinSet, time::sleep};

fn program(path: &str, args: &[&str], limit_ms: u64) -> Arc<Program> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let program = Program::new(path.into(), args, Span::millis(limit_ms), 4);
    Arc::new(program.with(BTreeMap::new(), None, Size(100_000)))
}

fn sh(script: &str, limit_ms: u64) -> Arc<Program> {
    program("/bin/sh", &["-c", script], limit_ms)
}

fn told(answer: Result<Vec<u8>, Fault>) -> String {
    match answer {
        Ok(out) => String::from_utf8_lossy(&out).into_owned(),
        Err(Fault::Retry(e)) => format!("retry: {e}"),
        Err(Fault::Reject(e)) => format!("reject: {e}"),
        Err(fault) => format!("{fault:?}"),
    }
}

/// Whether a process is there: running or, not yet reaped, a zombie.
fn there(id: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// A script for `sh`, the milliseconds it may run, and what comes of it for a small and a large input.
const SCRIPTS: &[(&str, u64, &str)] = &[
    ("cat >/dev/null; echo ' {\"a\": [1]} '", 5000, "{\"a\": [1]}"),
    ("true", 5000, "null"),
    ("echo warn >&2; echo '{}'", 5000, "{}"),
    ("exec <&-; sleep 0.1; echo '{}'", 5000, "{}"),
    ("sleep 0.1; echo '{}'", 5000, "{}"),
    ("exec >&- 2>&-; sleep 0.1", 5000, "null"),
    ("echo hi", 5000, "reject: `/bin/sh` printed what is not one JSON object: `hi`"),
    ("echo '[1]'", 5000, "reject: `/bin/sh` printed what is not one JSON object: `[1]`"),
    ("echo '{} {}'", 5000, "reject: `/bin/sh` printed what is not one JSON object: `{} {}`"),
    (
        "printf '\\377\\033[2J\\n\\000'",
        5000,
        "reject: `/bin/sh` printed what is not one JSON object: `\u{fffd}\\u{1b}[2J\\n\\u{0}`",
    ),
    ("echo no >&2; echo '{}'; exit 3", 5000, "reject: `/bin/sh` ended with status 3: no"),
    ("exit 1", 5000, "reject: `/bin/sh` ended with status 1"),
    ("kill -9 $$", 5000, "reject: `/bin/sh` was ended by signal 9"),
    ("yes", 5000, "reject: `/bin/sh` printed more than 97.7KiB"),
    ("trap '' TERM INT HUP; echo slow >&2; sleep 30", 300, "reject: `/bin/sh` did not end within 300ms: slow"),
    ("sleep 30 & echo '{}'", 5000, "{}"),
    ("setsid sleep 11 & sleep 0.05; echo '{}'", 5000, "{}"),
    ("sleep 30 & exit 4", 5000, "reject: `/bin/sh` ended with status 4"),
    ("kill -STOP $$", 300, "reject: `/bin/sh` did not end within 300ms"),
];

#[tokio::test]
async fn whatever_a_child_does_its_end_is_told_soon() {
    let mut rows = JoinSet::new();
    for (script, limit, want) in SCRIPTS {
        for input in ["{}".to_owned(), format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20))] {
            rows.spawn(async move {
                let got = timeout(Duration::from_secs(10), sh(script, *limit).answer(input.as_bytes())).await;
                assert_eq!(told(got.unwrap_or_else(|_| Err(Fault::fatal("it hangs")))), *want, "{script}");
            });
        }
    }
    while let Some(row) = rows.join_next().await {
        row.unwrap();
    }
}

#[tokio::test]
async fn what_came_last_from_stderr_is_told() {
    let got = told(sh("yes no >&2", 200).answer(b"{}").await);
    assert!(got.starts_with("reject: `/bin/sh` did not end within 200ms: …") && got.len() < 3 * QUOTE, "{got}");
    let got = told(sh("seq 1000 >&2; echo the end >&2; exit 1", 5000).answer(b"{}").await);
    assert!(got.contains(": …") && got.ends_with("\\n999\\n1000\\nthe end"), "{got}");
    let got = told(sh("seq 1000", 5000).answer(b"{}").await);
    assert!(got.contains("`1\\n2\\n3") && got.ends_with("`…"), "{got}");
}

#[tokio::test]
async fn all_that_was_printed_is_there() {
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(90_000));
    for _ in 0..20 {
        assert_eq!(told(program("cat", &[], 5000).answer(large.as_bytes()).await), large);
    }
}

#[tokio::test]
async fn what_it_tells_of_its_environment_is_not_told() {
    let env: BTreeMap<String, String> = [("TOKEN".to_owned(), "canary-token".to_owned())].into();
    for (script, want) in [
        ("echo no $TOKEN >&2; exit 1", "reject: `/bin/sh` ended with status 1: no …"),
        ("echo $TOKEN", "reject: `/bin/sh` printed what is not one JSON object: `…`"),
        // Cut by what is told, and by what is kept.
        ("printf '%s%295s' $TOKEN . >&2; exit 1", " ."),
        ("printf '%s%595s' $TOKEN . >&2; exit 1", " ."),
    ] {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let program = Program::new("/bin/sh".into(), args, Span::millis(5000), 1);
        let got = told(Arc::new(program.with(env.clone(), None, Size(1000))).answer(b"{}").await);
        assert!(got.ends_with(want) && !got.contains("token"), "{script}: {got}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    for (path, want) in [
        ("/nowhere/it", "retry: `/nowhere/it` cannot be started: No such file or directory (os error 2)"),
        (plain.to_str().unwrap(), "cannot be started: Permission denied (os error 13)"),
        ("/", "cannot be started: Permission denied (os error 13)"),
    ] {
        let got = told(program(path, &[], 1000).answer(b"{}").await);
        assert!(got.starts_with("retry: ") && got.ends_with(want), "{got}");
    }
}

#[tokio::test]
async fn the_environment_is_what_was_asked_for() {
    let env: BTreeMap<String, String> = [("A".to_owned(), "b c $PATH".to_owned())].into();
    let dir = tempfile::tempdir().unwrap();
    let given = |path: &str, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let program = Program::new(path.into(), args, Span::millis(5000), 1);
        Arc::new(program.with(env.clone(), Some(dir.path().into()), Size(1 << 20)))
    };
    let path = std::env::var("PATH").unwrap();
    let mut lines: Vec<String> = told(given("env", &[]).run(b"").await).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["A=b c $PATH".to_owned(), format!("PATH={path}")]);
    assert_eq!(told(given("pwd", &[]).run(b"").await).trim(), dir.path().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(told(given("echo", &["$A;", "*", "a b"]).run(b"").await), "$A; * a b\n");
}

/// Starts a child with a child of its own, and gives the ids of both.
async fn family(dir: &Path) -> (Run, String, String) {
    let file = dir.join("ids");
    let script = format!("trap '' TERM; sleep 30 & echo $$ $! > {}; wait", file.display());
    let run = sh(&script, 60_000).start(true).await.unwrap();
    until("the ids", || fs::read_to_string(&file).is_ok_and(|ids| ids.ends_with('\n'))).await;
    let ids = fs::read_to_string(&file).unwrap();
    let (child, grandchild) = ids.trim().split_once(' ').unwrap();
    (run, child.to_owned(), grandchild.to_owned())
}

#[tokio::test]
async fn a_family_ends_with_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (run, child, grandchild) = family(dir.path()).await;
    assert!(there(&child).is_some() && there(&grandchild).is_some());
    assert!(timeout(Duration::from_millis(50), run.finish(b"{}", None)).await.is_err());
    until("the child is reaped", || there(&child).is_none()).await;
    until("the grandchild is dead", || there(&grandchild).is_none_or(|state| state == 'Z')).await;
}

#[tokio::test]
async fn what_a_child_leaves_behind_ends_with_it() {
    let got = sh("sleep 30 >&- 2>&- & echo $!", 5000).run(b"{}").await.unwrap();
    let grandchild = String::from_utf8(got).unwrap();
    until("the grandchild is dead", || there(grandchild.trim()).is_none_or(|state| state == 'Z')).await;
}

#[tokio::test]
async fn children_wait_for_a_seat() {
    let cat = Arc::new(Program::new("cat".into(), Vec::new(), Span::millis(5000), 1));
    let first = cat.start(true).await.unwrap();
    assert!(timeout(Duration::from_millis(50), cat.start(true)).await.is_err());
    drop(first);
    assert_eq!(told(cat.answer(b"{}").await), "{}");
}
