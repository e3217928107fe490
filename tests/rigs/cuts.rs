//! Power cuts, on a disk that saves only what it was told to save, and on disks that do not even do that.

use crate::{
    disk::{Disk, Keep, Sync},
    life::Life,
    lossfs::Mount,
    size,
    worker::Orders,
};
use std::time::{Duration, Instant};

/// No start takes as long, nor does a worker.
const LIMIT: Duration = Duration::from_secs(10);

/// Cuts that one store lives through. Some stores see few large commits, some many small ones; some are closed often, which
/// folds the WAL in.
const CUTS: u64 = 25;

struct Account {
    cuts: u64,
    acked: u64,
    lives: Vec<Life>,
    /// Starts that failed, for good, until somebody took the files away.
    by_hand: Vec<String>,
}

impl Account {
    fn flaws(&self) -> Vec<&String> {
        self.lives.iter().flat_map(|life| &life.flaws).collect()
    }
}

/// Lets stores live through cuts; `None` without FUSE.
fn play(sync: Sync, keep: &[Keep], cuts: u64, seed: u64) -> Option<Account> {
    let begun = Instant::now();
    let mut account = Account { cuts: 0, acked: 0, lives: Vec::new(), by_hand: Vec::new() };
    let mut random = fastrand::Rng::with_seed(seed);
    while account.cuts < cuts {
        let seed = random.u64(..);
        let mut disk = Disk::new(seed);
        disk.sync = sync;
        let mount = Mount::new(disk)?;
        let mut orders = Orders::new(mount.path().join("t.db"), 0);
        (orders.size, orders.events) = *random.choice([(40, 300), (300, 150), (4000, 60)].iter()).unwrap();
        let mut life = Life::new();
        for _ in 0..CUTS.min(cuts - account.cuts) {
            orders.seed = random.u64(..);
            orders.cycles = random.u32(1..3);
            // Now and then at the very beginning: in the recovery.
            let latest = if random.u8(0..5) == 0 { 60 } else { 700 };
            // What a failed sync left behind is also found by a start without a cut.
            let only_ends = sync == Sync::Fails && random.bool();
            orders.abrupt = only_ends;
            mount.disk().until_cut = (!only_ends).then(|| random.u64(1..latest));
            let end = life.watch(life.orders(&orders).start(&[]), LIMIT, |_| mount.disk().off);
            let cut = mount.disk().off;
            assert!(!end.late && !end.stderr.contains("panicked"), "seed {seed}: {} {}", life.last, end.stderr);
            // Where a sync fails while the store is opened, it is opened by the next start; where they fail one after another,
            // nothing is promised, and who waited may give up.
            let refused = life.last.starts_with("unopened") || life.last == "gave up";
            let unopened = sync == Sync::Fails && refused;
            let lies = sync == Sync::Lies;
            assert!(cut || unopened || lies || end.status.success(), "seed {seed}: {}", life.last);
            account.cuts += 1;
            if !only_ends {
                mount.disk().cut(*random.choice(keep.iter()).unwrap());
            }
            if lies && let Err(why) = start(&mut life, &orders) {
                account.by_hand.push(format!("seed {seed}, cut {}: {why}", account.cuts));
                mount.disk().clear();
            }
        }
        mount.disk().cut(Keep::Nothing);
        mount.disk().sync = Sync::Honest;
        if let Err(why) = start(&mut life, &orders) {
            assert_eq!(sync, Sync::Lies, "seed {seed}: {why}");
            account.by_hand.push(format!("seed {seed}, at the end: {why}"));
        }
        assert!(life.wrong.is_empty(), "seed {seed}: {:?}", life.wrong);
        account.acked += life.acked();
        account.lives.push(life);
    }
    let starts: u64 = account.lives.iter().map(|life| life.starts).sum();
    println!("{sync:?}: {cuts} cuts, {} events acknowledged, {starts} starts, {:?}", account.acked, begun.elapsed());
    Some(account)
}

/// A start after a cut, and nothing else; the error says why a human would have to help.
fn start(life: &mut Life, orders: &Orders) -> Result<(), String> {
    let orders = life.orders(&Orders { commits: 0, cycles: 1, ..orders.clone() });
    let end = life.watch(orders.start(&[]), LIMIT, |_| false);
    assert!(!end.late && !end.stderr.contains("panicked"), "{orders:?}: {} {}", life.last, end.stderr);
    if end.status.success() { Ok(()) } else { Err(life.last.clone()) }
}

const ALL: [Keep; 4] = [Keep::Nothing, Keep::Everything, Keep::Some, Keep::Some];

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let (cuts, acked) = size((500, 300_000), (3_000, 2_000_000));
    let Some(account) = play(Sync::Honest, &ALL, cuts, 5) else { return };
    assert_eq!(account.flaws(), [""; 0]);
    assert!(account.acked >= acked, "only {} events", account.acked);
}

/// The control: what SQLite's `synchronous=NORMAL` does, not syncing the WAL, loses what was acknowledged.
#[test]
fn power_cuts_without_a_sync_of_the_log_lose_something() {
    let Some(account) = play(Sync::LiesFor("-wal"), &[Keep::Some, Keep::Nothing], 20, 6) else { return };
    let flaws = account.flaws();
    assert!(flaws.iter().any(|flaw| flaw.starts_with("lost")), "{flaws:?}");
}

/// Linux forgets what a failed sync did not write, and the next sync says yes.
#[test]
fn power_cuts_after_failed_syncs_lose_nothing_that_was_acknowledged() {
    let Some(account) = play(Sync::Fails, &ALL, size(200, 1_000), 7) else { return };
    assert_eq!(account.flaws(), [""; 0]);
    let refusals: u64 = account.lives.iter().map(|life| life.refusals).sum();
    assert!(refusals > 20, "{refusals}");
}

/// What a failed sync left in the log may be read, but is not on the disk: as long as it cannot be written again, nothing of
/// it may go into the database, where a power cut would leave half of it.
#[test]
fn a_log_that_cannot_be_written_again_is_left_alone() {
    let Some(mount) = Mount::new(Disk::new(9)) else { return };
    let orders = Orders { commits: 1000, ..Orders::new(mount.path().join("t.db"), 9) };
    let mut life = Life::new();
    life.watch(life.orders(&orders).start(&[]), LIMIT, |life| life.acked() > 500);
    let seen = |name: &str| {
        let disk = mount.disk();
        let file = disk.names.iter().find(|((_, known), _)| *known == *name).map(|(_, file)| *file);
        file.map(|file| disk.files[&file].seen.clone()).unwrap_or_default()
    };
    let before = (seen("t.db"), seen("t.db-wal"));
    assert!(before.1.len() > 10_000 && life.acked() > 0, "{} {}", before.1.len(), life.last);
    // As often as a start tries.
    mount.disk().failing = 3;
    assert!(start(&mut life, &orders).unwrap_err().starts_with("unopened"), "{}", life.last);
    assert_eq!(mount.disk().failing, 0);
    assert!((seen("t.db"), seen("t.db-wal")) == before, "the database was changed by a log that is not on the disk");
    start(&mut life, &orders).unwrap();
    assert_eq!(life.flaws, [""; 0]);
}

/// Whatever is lost on a disk that lies, every start succeeds and no payload is wrong.
#[test]
fn power_cuts_on_a_disk_that_lies_keep_nobody_from_starting() {
    let Some(account) = play(Sync::Lies, &[Keep::Some], size(200, 1_000), 8) else { return };
    assert!(!account.flaws().is_empty(), "a disk that lies loses something");
    assert_eq!(account.by_hand, [""; 0]);
}
