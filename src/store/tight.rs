//! After a failed transaction: what was it, what is believed, and how to go on while somebody else has filled the disk.

use super::{
    Refusal, Step,
    ballast::{Ballast, Cause},
    load::{load, unreadable},
    schema,
    writer::{Waiting, Writer},
};
use rusqlite::ErrorCode;
use std::time::{Duration, Instant};

/// How often a full disk is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// On a disk that takes no writes, the next attempt comes after this; until then the answer is known.
const PAUSE: Duration = Duration::from_millis(200);
/// Transactions in a row that only delete what everybody has passed.
const TRIMS: usize = 50;
/// Sequence numbers that are set aside for the steps of consumers while the disk is full.
const AHEAD: u64 = 1 << 24;
/// Dead letters that wait for a disk that takes none; the oldest are dropped beyond.
const LETTERS: usize = 1000;

/// Whether the disk takes what is written.
pub(super) struct Disk {
    pub ballast: Ballast,
    /// It is full, and not by us: the ballast is given up, intake is refused, every step is a transaction of its own.
    pub full: bool,
    looked: Option<Instant>,
    /// Since when it takes nothing at all, and what it says.
    dead: Option<(Instant, String)>,
    /// Told already that it takes nothing.
    told: bool,
}

impl Disk {
    pub fn new(ballast: Ballast) -> Self {
        Disk { ballast, full: false, looked: None, dead: None, told: false }
    }

    /// The answer, where it is known without trying.
    pub fn known(&self) -> Option<Refusal> {
        let (since, why) = self.dead.as_ref()?;
        (since.elapsed() < PAUSE).then(|| Refusal::Failed(why.clone()))
    }

    /// A transaction was committed.
    pub fn wrote(&mut self) {
        if self.dead.take().is_some() || self.told {
            self.told = false;
            log::info!("store: the disk takes writes again");
        }
    }
}

impl Writer {
    /// Before the first request: the ballast, and the number of this start.
    pub(super) fn settle_in(&mut self) {
        match self.disk.ballast.make() {
            Err(error) if Cause::of(&error) == Cause::Space => self.tighten(),
            Err(error) => log::warn!("store: no room could be set aside for the day the disk is full: {error}"),
            Ok(()) => {}
        }
        self.tune();
        // What cannot be written now goes with the first transaction that can.
        if self.eras.write(&self.db).is_err() {
            self.tighten();
            if let Err(error) = self.eras.write(&self.db) {
                log::warn!("store: the disk takes no writes ({error}): what it holds is delivered");
                return;
            }
        }
        self.eras.settle();
    }

    /// Looks whether a disk that was full has room again.
    pub(super) fn look_at_disk(&mut self) {
        let looked = self.disk.looked.is_some_and(|at| at.elapsed() < LOOK);
        if !self.disk.full || looked {
            return;
        }
        self.disk.looked = Some(Instant::now());
        if self.disk.ballast.may_be_made() && self.disk.ballast.make().is_ok() {
            self.disk.full = false;
            self.tune();
            log::info!("store: there is room on the disk again: intake is open");
        }
    }

    /// The disk is full, and not by our own mark. From here on nothing may need new blocks: the WAL is held and folded in
    /// often, and the database does not grow.
    fn tighten(&mut self) {
        let first = !self.disk.full;
        if first {
            log::warn!("store: the disk is full: intake is refused, what is stored is delivered");
            self.disk.full = true;
            self.disk.looked = Some(Instant::now());
            self.disk.ballast.give_up();
            // Now there is a block for it; later there may be none.
            if let Some(last) = self.index.lanes.values().map(|lane| lane.next).max()
                && let Err(error) = self.highest.cover(last.saturating_add(AHEAD))
            {
                log::warn!("store: numbers could not be kept for a disk that is full: {error}");
            }
            if let Err(error) = self.disk.ballast.hold_wal() {
                log::warn!("store: the WAL could not be held: {error}");
            }
        }
        self.fold();
        if first && schema::unused(&self.db).is_ok_and(|free| free < self.disk.ballast.pages()) {
            // They are written and folded in before they are freed, so that they have their blocks.
            let grown = self.db.execute(
                "INSERT OR REPLACE INTO state (owner, key, value) VALUES ('store', x'00', zeroblob(?1))",
                [self.disk.ballast.pages() as i64],
            );
            self.fold();
            if let Err(error) = grown.and_then(|_| self.db.execute("DELETE FROM state WHERE owner = 'store'", [])) {
                log::warn!("store: the database got no free pages: {error}");
            }
            self.fold();
        }
        self.tune();
    }

    fn fold(&self) {
        self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).ok();
    }

    /// Sets the WAL's and the database's limits by the state of the disk.
    pub(super) fn tune(&mut self) {
        if self.options.path.is_none() {
            return;
        }
        let full = self.disk.full;
        // While the disk is full the WAL must begin anew well before its end.
        let wal = self.disk.ballast.wal(full) / if full { 4 } else { 1 };
        if let Err(error) = schema::limit(&self.db, wal, full) {
            log::warn!("store: its limits could not be set: {error}");
        }
    }

    /// After a failure nothing in memory is believed. When the disk was merely full, SQLite has not written the end of the
    /// commit, and what is published is what is on disk; else that is read again, on a fresh connection. Until that works,
    /// everything is refused.
    pub(super) fn take_back(&mut self, error: &rusqlite::Error) -> Refusal {
        self.db.execute_batch("ROLLBACK").ok();
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            self.index = self.shared.view().index.clone();
            self.tighten();
            return Refusal::Full;
        }
        if unreadable(error) && self.options.path.is_some() {
            log::error!("store: the database is broken: {error}");
            self.broken = true;
            if let Err(error) = self.renew() {
                log::error!("store: no fresh database could be begun: {error}");
            }
            return Refusal::Failed("the database is broken, a fresh one takes its place".into());
        }
        let cause = self.disk.ballast.probe();
        let refusal = Refusal::Failed(match cause {
            Cause::ReadOnly => "the file system is read-only".to_owned(),
            _ => error.to_string(),
        });
        if !self.disk.told {
            log::error!("store: commit failed, opening the database again: {error}");
        }
        if cause == Cause::ReadOnly {
            self.disk.dead = Some((Instant::now(), refusal.to_string()));
        } else if let Some(path) = self.options.path.as_deref() {
            match schema::open(Some(path)) {
                Ok(db) => self.db = db,
                Err(error) if self.disk.told => log::debug!("store: `{}` does not open: {error}", path.display()),
                Err(error) => log::error!("store: `{}` does not open: {error}", path.display()),
            }
        }
        self.disk.told = true;
        self.stale = true;
        if let Err(refusal) = self.read_again() {
            log::error!("store: reading it again: {refusal}");
        }
        if cause == Cause::Space {
            self.tighten();
            return Refusal::Full;
        }
        self.tune();
        refusal
    }

    pub(super) fn read_again(&mut self) -> Result<(), Refusal> {
        let (index, seen) = load(&self.db, &self.options).map_err(|error| Refusal::Failed(error.to_string()))?;
        self.seen = seen;
        self.adopt(index);
        self.stale = false;
        Ok(())
    }

    /// On a full disk each step stands alone, what rides first: it makes room. Nothing from outside is taken.
    pub(super) fn commit_apart(&mut self, steps: Vec<Waiting>) {
        let riding = std::mem::take(&mut self.riding);
        let since = self.ride_since.take();
        if since.is_some() && self.transaction(|writer| writer.apply(&riding).map(drop)).is_err() {
            self.put_back(riding);
        }
        for (step, share, reply) in steps {
            let mut placed = Vec::new();
            let answer = if step.is_outside() {
                self.note_refused(&step, "the disk was full");
                Err(Refusal::Full)
            } else if let Some(refusal) = self.refusal(&step) {
                Err(refusal)
            } else {
                self.transaction(|writer| {
                    placed = writer.apply(&step)?;
                    Ok(())
                })
            };
            drop(share);
            reply.send(answer.map(|()| placed)).ok();
        }
        for _ in 0..TRIMS {
            if !self.trimmer.due(&self.index, &self.options, true) || self.transaction(|_| Ok(())).is_err() {
                break;
            }
        }
    }

    /// What rode and could not be committed rides again.
    pub(super) fn put_back(&mut self, mut riding: Step) {
        let extra = riding.dead.len().saturating_sub(LETTERS);
        if extra > 0 {
            log::warn!("store: {extra} dead letters are dropped: the disk takes none");
            riding.dead.drain(..extra);
        }
        self.ride_since = Some(Instant::now());
        self.riding = riding;
    }
}
