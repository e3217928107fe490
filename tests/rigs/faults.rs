//! The disk says no: each kind of call fails in each way, once, now and then, and from then on.

use crate::{life::Life, size, strace::inject, worker::Orders};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(30);
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "EDQUOT", "EINTR"];
/// Kinds of calls, after how many of them it fails again, and about how many a run makes.
const CALLS: [(&str, u32, u32); 6] = [
    ("pwrite64", 23, 300),
    ("fdatasync", 4, 34),
    ("pread64", 9, 60),
    ("ftruncate", 2, 4),
    ("openat", 3, 20),
    ("unlink", 2, 3),
];

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Once,
    NowAndThen,
    FromThenOn,
}

/// What a run saw: how many calls failed, and acknowledgements between a failed sync of the log and the next that worked.
#[derive(Debug, Default)]
struct Seen {
    failed: usize,
    unsafe_acks: Vec<String>,
}

/// Reads what strace wrote, line by line: `PID  call(FD<path>, …) = …`, or the same in two halves.
fn read(seen: &str) -> Seen {
    let (mut unresolved, mut begun, mut found) = (false, BTreeMap::new(), Seen::default());
    for line in seen.lines() {
        let (pid, rest) = line.split_once(' ').unwrap_or_default();
        let rest = rest.trim_start();
        found.failed += usize::from(rest.contains("(INJECTED)"));
        if rest.contains("unfinished ...") {
            begun.insert(pid, rest);
        }
        let call = if rest.starts_with("<...") { begun.remove(pid).unwrap_or_default() } else { rest };
        if call.starts_with("fdatasync") && call.contains("-wal>") && !rest.contains("unfinished ...") {
            unresolved = rest.contains("(INJECTED)");
        }
        if unresolved && call.starts_with("write(1<") && call.contains("\"acked") {
            found.unsafe_acks.push(line.to_owned());
        }
    }
    found
}

/// One start with faults, and one without.
fn run(folder: &Path, error: &str, call: &str, first: u32, when: When, step: u32, hasty: bool) -> (Seen, Life) {
    let (seen, mut life) = (folder.join("calls"), Life::new());
    let mut orders = Orders::new(folder.join("t.db"), u64::from(first));
    (orders.commits, orders.single, orders.hasty) = (25, true, hasty);
    let place = format!("{error} {call} {first} {when:?}");
    let which = match when {
        When::Once => first.to_string(),
        When::NowAndThen => format!("{first}+{step}"),
        When::FromThenOn => format!("{first}+"),
    };
    let through = inject(&seen, &orders.path, call, &format!("error={error}:when={which}"));
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    let end = life.watch(orders.start(&through), LIMIT, |_| false);
    let begun = life.starts > 0;
    assert!(!end.late && !end.stderr.contains("panicked"), "{place}: {} {}", life.last, end.stderr);
    // A store that opens goes on by itself once the disk does; one that does not is opened by the next start.
    let over = life.last == "done" || life.last.starts_with("unopened");
    assert!(over || when == When::FromThenOn && life.last == "gave up", "{place}: {} {begun}", life.last);
    orders.hasty = false;
    let end = life.watch(life.orders(&Orders { commits: 3, ..orders }).start(&[]), LIMIT, |_| false);
    assert!(end.status.success(), "{place}: {} {}", life.last, end.stderr);
    (read(&fs::read_to_string(seen).unwrap()), life)
}

#[test]
fn faults_of_the_disk_lose_nothing_that_was_acknowledged() {
    let (begun, points) = (Instant::now(), size(6, 60));
    let mut rows = Vec::new();
    for (error, (call, step, count)) in ERRORS.iter().flat_map(|error| CALLS.map(|call| (error, call))) {
        // Spread over the run, the beginning more densely: there it is opened.
        let firsts = (0..points).map(|point| 1 + count * point * point / (points * points));
        let mut firsts: Vec<u32> = firsts.collect();
        firsts.dedup();
        for first in firsts {
            // A call that is interrupted is made again, as often as it takes.
            let whens = [When::Once, When::NowAndThen, When::FromThenOn].into_iter();
            let whens = whens.filter(|when| (*error, *when) != ("EINTR", When::FromThenOn));
            rows.extend(whens.map(|when| (*error, call, first, when, step)));
        }
    }
    let (runs, rows, sum) = (rows.len(), Mutex::new(rows.into_iter()), Mutex::new((0, 0, 0, 0)));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((error, call, first, when, step)) = rows.lock().unwrap().next() else { return };
                    let folder = crate::kit::folder();
                    let (seen, life) = run(folder.path(), error, call, first, when, step, false);
                    let place = format!("{error} {call} {first} {when:?}");
                    assert_eq!((&life.flaws, &life.wrong), (&vec![], &vec![]), "{place}");
                    assert_eq!(seen.unsafe_acks, [""; 0], "{place}");
                    let mut sum = sum.lock().unwrap();
                    *sum = (
                        sum.0 + seen.failed,
                        sum.1 + life.acked(),
                        sum.2 + life.refusals,
                        sum.3 + usize::from(seen.failed > 0),
                    );
                }
            });
        }
    });
    let (failed, acked, refused, hit) = sum.into_inner().unwrap();
    println!(
        "{runs} runs, {hit} with faults: {failed} calls failed, {refused} commits refused, {acked} events acknowledged, {:?}",
        begun.elapsed()
    );
    assert!(failed >= 1_000, "only {failed} calls failed");
}

/// The control: who says yes before the commit is found out.
#[test]
fn faults_find_who_acknowledges_too_early() {
    let folder = crate::kit::folder();
    let (seen, _) = run(folder.path(), "EIO", "fdatasync", 20, When::FromThenOn, 1, true);
    assert!(!seen.unsafe_acks.is_empty(), "{seen:?}");
}
