//! SIGKILL at the N-th call that changes something, for N = 1, 2, 3 … and each kind of call: what is acknowledged is there.

use crate::{life::Life, size, strace::inject, worker::Orders};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

fn store(folder: &Path) -> PathBuf {
    folder.join("t.db")
}

const LIMIT: Duration = Duration::from_secs(20);

/// Kinds of calls, and how many of each are killed at.
const KINDS: [(&str, u32); 6] =
    [("pwrite64", 330), ("fdatasync", 100), ("openat", 40), ("ftruncate", 6), ("unlink", 6), ("rename", 3)];

/// Works in `folder`, to be killed at the `n`-th call of a kind; gives whether it was.
fn killed(folder: &Path, life: &mut Life, orders: &Orders, call: &str, n: u32) -> bool {
    let seen = folder.join("calls");
    let through = inject(&seen, &store(folder), call, &format!("signal=SIGKILL:when={n}"));
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    let end = life.watch(life.orders(orders).start(&through), LIMIT, |_| false);
    assert!(!end.late && !end.stderr.contains("panicked"), "{call} {n}: {} {}", life.last, end.stderr);
    assert!(!end.status.success() || life.last == "done", "{call} {n}: {}", life.last);
    life.last != "done"
}

/// Kills at every call of a kind; gives how many kills and acknowledged events that were. One store lives through them, or
/// each kill has a store of its own, from before its first byte.
fn series(call: &str, most: u32, anew: bool) -> (u64, u64) {
    let (mut kills, mut acked) = (0, 0);
    let mut folder = crate::kit::folder();
    let mut life = Life::new();
    for n in 1..=most {
        if anew {
            (folder, life) = (crate::kit::folder(), Life::new());
        }
        let mut orders = Orders::new(store(folder.path()), u64::from(n));
        (orders.commits, orders.events) = (25, 12);
        let was_killed = killed(folder.path(), &mut life, &orders, call, n);
        kills += u64::from(was_killed);
        if anew || !was_killed || n == most {
            let end = life.watch(life.orders(&Orders { commits: 0, ..orders }).start(&[]), LIMIT, |_| false);
            assert!(end.status.success(), "{call} {n}: {} {}", life.last, end.stderr);
            acked += life.acked();
            assert_eq!((&life.flaws, &life.wrong), (&vec![], &vec![]), "{call} {n}");
        }
        if !was_killed {
            break;
        }
    }
    (kills, acked)
}

#[test]
fn kills_at_every_call_lose_nothing_that_was_acknowledged() {
    let begun = Instant::now();
    let (kills, acked) = (AtomicU64::new(0), AtomicU64::new(0));
    let rows: Vec<(&str, u32, bool)> = KINDS
        .iter()
        .flat_map(|(call, most)| [(*call, size(*most, 10 * most), false), (*call, size(most / 4, *most).max(6), true)])
        .collect();
    let rows = std::sync::Mutex::new(rows.into_iter());
    // Starting processes takes most of the time: two at once.
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((call, most, anew)) = rows.lock().unwrap().next() else { return };
                    let (some, events) = series(call, most, anew);
                    kills.fetch_add(some, Ordering::Relaxed);
                    acked.fetch_add(events, Ordering::Relaxed);
                    println!(
                        "{call}, {}: {some} kills, {events} events",
                        if anew { "from nothing" } else { "one store" }
                    );
                }
            });
        }
    });
    let (kills, acked) = (kills.into_inner(), acked.into_inner());
    println!("{kills} kills, {acked} events acknowledged, {:?}", begun.elapsed());
    assert!(kills >= size(500, 2_000), "only {kills} kills");
}

/// The control: who says yes before the commit is lost by a kill in it.
#[test]
fn kills_of_who_acknowledges_too_early_lose_something() {
    let folder = crate::kit::folder();
    let (mut life, mut orders) = (Life::new(), Orders::new(store(folder.path()), 1));
    orders.hasty = true;
    for n in 10..20 {
        killed(folder.path(), &mut life, &orders, "fdatasync", n);
    }
    assert!(life.flaws.iter().any(|flaw| flaw.starts_with("lost")), "{:?}", life.flaws);
}
