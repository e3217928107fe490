//! Images that are broken: every start succeeds, no payload is wrong, no sequence number comes again.

use crate::{kit::folder, life::Life, size, strace::inject, worker::Orders};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// No start takes longer, salvage in the background aside.
const LIMIT: Duration = Duration::from_secs(10);
const PAGE: usize = 2048;
/// The most bytes in an event; those of the foreign store have another.
const SIZE: u64 = 300;
/// Where what was set aside goes.
const SET_ASIDE: &str = "t.db-quarantine";

/// What is done to an image.
#[derive(Clone, Copy, Debug)]
enum Harm {
    FlippedBits(u32),
    ZeroedPages(usize),
    TrashedPage,
    Truncated,
    Garbage,
    Empty,
    /// The log: gone, of another database, of an earlier time, and as above.
    NoLog,
    ForeignLog,
    StaleLog,
    FlippedLog,
    TruncatedLog,
    NoHighest,
}

const HARMS: [Harm; 14] = [
    Harm::FlippedBits(1),
    Harm::FlippedBits(64),
    Harm::ZeroedPages(1),
    Harm::ZeroedPages(12),
    Harm::TrashedPage,
    Harm::Truncated,
    Harm::Garbage,
    Harm::Empty,
    Harm::NoLog,
    Harm::ForeignLog,
    Harm::StaleLog,
    Harm::FlippedLog,
    Harm::TruncatedLog,
    Harm::NoHighest,
];

impl Harm {
    /// Whether everything that was acknowledged must be there all the same.
    fn harmless(self) -> bool {
        matches!(self, Harm::NoHighest)
    }

    fn apply(self, at: &Path, others: [&Path; 2], random: &mut fastrand::Rng) {
        let [database, log] = ["t.db", "t.db-wal"].map(|name| at.join(name));
        match self {
            Harm::NoLog => fs::remove_file(log).unwrap(),
            Harm::NoHighest => fs::remove_file(at.join("t.db-highest")).unwrap(),
            Harm::ForeignLog => drop(fs::copy(others[0].join("t.db-wal"), log).unwrap()),
            Harm::StaleLog => drop(fs::copy(others[1].join("t.db-wal"), log).unwrap()),
            Harm::FlippedLog | Harm::TruncatedLog => self.change(&log, random),
            _ => self.change(&database, random),
        }
    }

    fn change(self, file: &Path, random: &mut fastrand::Rng) {
        let mut bytes = fs::read(file).unwrap();
        let page = random.usize(0..bytes.len() / PAGE) * PAGE;
        match self {
            Harm::FlippedBits(count) => (0..count).for_each(|_| flip(&mut bytes, random)),
            Harm::FlippedLog => flip(&mut bytes, random),
            Harm::Truncated | Harm::TruncatedLog => bytes.truncate(random.usize(0..bytes.len())),
            Harm::ZeroedPages(count) => {
                let end = bytes.len().min(page + count * PAGE);
                bytes[page..end].fill(0);
            }
            Harm::TrashedPage => bytes[page..page + PAGE].fill_with(|| random.u8(..)),
            Harm::Garbage => bytes.fill_with(|| random.u8(..)),
            _ => bytes.clear(),
        }
        fs::write(file, bytes).unwrap();
    }
}

fn flip(bytes: &mut [u8], random: &mut fastrand::Rng) {
    let at = random.usize(0..bytes.len());
    bytes[at] ^= 1 << random.u8(0..8);
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A store that was folded some times and left with a log and events that nobody has passed; and its image at an earlier time.
fn image(seed: u64, size: u64) -> (tempfile::TempDir, tempfile::TempDir, Life) {
    let (now, earlier, mut life) = (folder(), folder(), Life::new());
    let mut orders = Orders::new(now.path().join("t.db"), seed);
    (orders.abrupt, orders.commits, orders.behind, orders.size) = (true, 20, true, size);
    for cycles in [3, 2, 1] {
        orders.cycles = cycles;
        let end = life.watch(life.orders(&orders).start(&[]), LIMIT, |_| false);
        assert!(end.status.success(), "{} {}", life.last, end.stderr);
        if cycles == 2 {
            copy(now.path(), earlier.path());
        }
    }
    assert_eq!(life.flaws, [""; 0]);
    (now, earlier, life)
}

/// What starts with broken images came to, by harm.
#[derive(Default, Debug)]
struct Sum {
    starts: u64,
    set_aside: u64,
    /// Starts after which something acknowledged was not there; the store has to say so in each.
    with_loss: u64,
    /// Events that were missing, and that the store said to have lost.
    missing: u64,
    told: u64,
    slowest: Duration,
    /// Starts that failed, payloads that are wrong, sequence numbers that came again.
    flaws: Vec<String>,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.starts += other.starts;
        self.set_aside += other.set_aside;
        self.with_loss += other.with_loss;
        self.missing += other.missing;
        self.told += other.told;
        self.slowest = self.slowest.max(other.slowest);
        self.flaws.extend(other.flaws);
    }
}

/// How many events of `a` and `b` the store says are lost, and at most are.
fn told(life: &Life) -> (u64, u64) {
    let mut sum = (0, 0);
    for told in &life.told {
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        // What `out` has was made of `a`; a lane without a name may have been any.
        for lane in told["lanes"].as_array().unwrap().iter().filter(|lane| lane["topic"] != "out") {
            sum.0 += if lane["topic"].is_null() { 0 } else { lane["lost"].as_u64().unwrap() };
            sum.1 += lane["lost_at_most"].as_u64().unwrap();
        }
    }
    sum
}

fn start(harm: Harm, seed: u64, own: &(tempfile::TempDir, tempfile::TempDir, Life), foreign: &Path, sum: &mut Sum) {
    let (at, mut life, mut random) = (folder(), own.2.clone(), fastrand::Rng::with_seed(seed));
    copy(own.0.path(), at.path());
    harm.apply(at.path(), [foreign, own.1.path()], &mut random);
    let mut orders = Orders::new(at.path().join("t.db"), seed);
    (orders.commits, orders.size, orders.behind) = (3, SIZE, true);
    let begun = Instant::now();
    let end = life.watch(life.orders(&orders).start(&[]), LIMIT, |_| false);
    sum.slowest = sum.slowest.max(begun.elapsed());
    sum.starts += 1;
    if end.late || !end.status.success() || end.stderr.contains("panicked") {
        sum.flaws.push(format!("{harm:?} {seed}: did not start: {} {}", life.last, end.stderr));
    }
    sum.set_aside += fs::read_dir(at.path().join(SET_ASIDE)).map_or(0, Iterator::count) as u64;
    sum.with_loss += u64::from(life.missing > 0);
    sum.missing += life.missing;
    let (told, at_most) = told(&life);
    sum.told += told;
    let exact = told == at_most;
    if life.missing > at_most + life.damaged || exact && life.missing < told {
        let Life { missing, damaged, .. } = life;
        let place = format!("{harm:?} {seed}");
        sum.flaws
            .push(format!("{place}: {missing} missing, {damaged} damaged, {:?} told, {:?}", life.told, life.flaws));
    }
    sum.flaws.extend(life.wrong.iter().map(|line| format!("{harm:?} {seed}: {line}")));
    let again = life.flaws.iter().filter(|flaw| harm.harmless() || flaw.starts_with("again"));
    sum.flaws.extend(again.map(|flaw| format!("{harm:?} {seed}: {flaw}")));
}

#[test]
fn broken_images_start_and_deliver_nothing_wrong() {
    let (begun, images) = (Instant::now(), size(300, 3_000));
    let (own, foreign) = (image(1, SIZE), image(2, SIZE + 1));
    let (next, sums) = (AtomicU64::new(0), Mutex::new(BTreeMap::<String, Sum>::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= images {
                        return;
                    }
                    let harm = HARMS[n as usize % HARMS.len()];
                    let mut sum = Sum::default();
                    start(harm, n, &own, foreign.0.path(), &mut sum);
                    sums.lock().unwrap().entry(format!("{harm:?}")).or_default().add(sum);
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap();
    for (harm, sum) in &sums {
        let Sum { starts, set_aside, with_loss, missing, told, slowest, flaws } = sum;
        println!(
            "{harm}: {starts} starts, {set_aside} set aside, {with_loss} with loss ({missing} events, {told} told), at most {slowest:?}, {} flaws",
            flaws.len()
        );
    }
    println!("{images} images in {:?}", begun.elapsed());
    let flaws: Vec<&String> = sums.values().flat_map(|sum| &sum.flaws).collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
}

/// The control.
#[test]
fn a_payload_that_nobody_sent_is_noticed() {
    let (own, earlier, mut life) = image(3, SIZE);
    drop(earlier);
    let mut orders = Orders::new(own.path().join("t.db"), 3);
    (orders.commits, orders.size) = (0, SIZE + 1); // as if all of them were of somebody else
    life.watch(life.orders(&orders).start(&[]), LIMIT, |_| false);
    assert!(life.wrong.len() > 100, "{}", life.wrong.len());
}

/// SIGKILL at every so many-th call of a kind, while a broken database is set aside and what is in it put back.
#[test]
fn killed_while_it_puts_back_it_goes_on_and_loses_nothing_more() {
    let own = image(4, SIZE);
    // Killed at a call, if at any, and started again: what is missing then, what the store says of it, and whether it was killed.
    let play = |seed: u64, kill: Option<(&str, u32)>| {
        let at = folder();
        copy(own.0.path(), at.path());
        Harm::ZeroedPages(2).apply(at.path(), [own.1.path(); 2], &mut fastrand::Rng::with_seed(seed));
        let mut orders = Orders::new(at.path().join("t.db"), 11);
        (orders.commits, orders.size, orders.behind) = (0, SIZE, true);
        let mut killed = false;
        if let Some((call, n)) = kill {
            let through = inject(&at.path().join("calls"), &orders.path, call, &format!("signal=SIGKILL:when={n}"));
            let through: Vec<&str> = through.iter().map(String::as_str).collect();
            let mut life = own.2.clone();
            let end = life.watch(life.orders(&orders).start(&through), LIMIT, |_| false);
            assert!(!end.late && !end.stderr.contains("panicked"), "{kill:?}: {} {}", life.last, end.stderr);
            killed = life.last != "done";
        }
        let mut life = own.2.clone();
        let end = life.watch(life.orders(&orders).start(&[]), LIMIT, |_| false);
        assert!(end.status.success() && !end.late, "{kill:?}: {} {}", life.last, end.stderr);
        assert_eq!(life.wrong, [""; 0], "{kill:?}");
        assert!(!life.flaws.iter().any(|flaw| flaw.starts_with("again")), "{kill:?}: {:?}", life.flaws);
        let aside = at.path().join(SET_ASIDE).exists();
        (if aside { life.missing } else { 0 }, told(&life), life.told.len(), killed)
    };
    let seed = (1..100).find(|seed| play(*seed, None).0 > 0).unwrap();
    let (missing, all_told, events, _) = play(seed, None);
    assert!(missing == all_told.0 && events == 1, "{missing} missing, {all_told:?} told, {events} events");
    let mut kills = 0;
    for (call, every) in [("pwrite64", 4), ("fdatasync", 1), ("fsync", 1), ("rename", 1), ("unlink", 1), ("mkdir", 1)] {
        for n in (1..=size(40, 400) as u32).map(|n| 1 + (n - 1) * every) {
            let (now, said, told, killed) = play(seed, Some((call, n)));
            if !killed {
                break;
            }
            kills += 1;
            assert_eq!((now, told), (missing, 1), "{call} {n} {said:?}");
            assert!(said.0 <= said.1 && missing <= said.1, "{call} {n}: {said:?} told of {missing}");
        }
    }
    println!("{kills} kills, {missing} events missing each time");
    assert!(kills > 30, "{kills}");
}
