//! The ledger over time. Once a minute in which a counter changed, what it says then is written down, in a commit that is made
//! anyway: so what happened in a span is a difference, and a row less makes it coarser, never wrong. Losses are written in the
//! commit that they are made in, with their reasons, one row a minute for each.
//!
//! On a disk that somebody else has filled nothing of this is written: it must not stand in the way of what makes room.

use super::{
    Step,
    lane::Ledger,
    losses::{Loss, Losses},
    spent::{columns, stamp},
    writer::Writer,
};
use crate::clock::{self, Quality, Stamp};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

pub(super) const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Rows are kept so long.
const KEPT: i64 = 90 * DAY;
/// And so many of each: together less than 1 MiB.
const ROWS: i64 = 8192;
const LOSSES: i64 = 2048;
/// Reasons of one sort that a minute has; more are counted together.
const REASONS: usize = 8;
const OTHERS: &str = "other reasons";
/// Losses that may wait for a disk that takes none; with more, their reasons are not told apart.
const WAITING: usize = 256;
/// Rows that are merged: those older than the second, to one in each of the first. The later ones only if there are too many.
const COARSER: [(i64, i64); 4] = [(HOUR, DAY), (HOUR, HOUR), (DAY, 7 * DAY), (DAY, DAY)];

pub(super) type Pair = (String, String);
pub(super) type Counters = [u64; 7];

pub(super) fn counters(row: &Ledger) -> Counters {
    [row.accepted, row.delivered, row.stopped, row.dead, row.expired, row.evicted, row.offloaded]
}

/// What is written down, as the writer knows it.
#[derive(Default)]
pub(super) struct History {
    /// The last row of each topic and consumer.
    last: BTreeMap<Pair, Counters>,
    /// When rows were written last, by the steady clock; and when it was last looked which may go.
    written: Option<i64>,
    thinned: Option<i64>,
    /// The minute of the losses below, and their rows.
    minute: i64,
    rows: BTreeMap<Loss, i64>,
    /// Waits for the next commit that is made anyway.
    waiting: Losses,
    /// What is above is not what the database has.
    stale: bool,
    /// The store is being closed: there is no later commit.
    closing: bool,
}

impl History {
    fn read(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let sql = "SELECT topic, consumer, accepted, delivered, stopped, dead, expired, evicted, offloaded
            FROM history WHERE id IN (SELECT max(id) FROM history GROUP BY topic, consumer)";
        let mut query = db.prepare(sql)?;
        let rows = query.query_map([], |r| Ok(((r.get(0)?, r.get(1)?), columns(r, 2)?)))?;
        self.last = rows.collect::<rusqlite::Result<_>>()?;
        self.rows.clear();
        self.stale = false;
        Ok(())
    }

    /// What a failed transaction was to write is read again.
    pub fn doubt(&mut self) {
        self.stale = true;
    }

    /// Something to be written when there is a commit anyway.
    pub fn later(&mut self, mut loss: Loss, count: u64) {
        if self.waiting.len() >= WAITING && !self.waiting.contains_key(&loss) {
            loss.reason = OTHERS.into();
        }
        *self.waiting.entry(loss).or_default() += count;
    }

    pub fn close(&mut self) {
        self.closing = true;
    }

    fn due(&self, now: i64) -> bool {
        self.closing || self.written.is_none_or(|at| now - at >= MINUTE)
    }

    fn knows(&self, row: &Ledger) -> bool {
        self.last.get(&(row.topic.clone(), row.consumer.clone())) == Some(&counters(row))
    }

    /// Writes the rows that changed, as of a time.
    pub(super) fn write(
        &mut self,
        db: &Connection,
        ledger: &[Ledger],
        now: i64,
        stamp: &Stamp,
    ) -> rusqlite::Result<()> {
        for row in ledger {
            if self.knows(row) {
                continue;
            }
            let (pair, counters) = ((row.topic.clone(), row.consumer.clone()), counters(row));
            db.prepare_cached(
                "INSERT INTO history (at, boot, mono, wall, quality, topic, consumer, accepted, delivered, stopped, dead,
                    expired, evicted, offloaded) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute(params![
                now,
                stamp.boot,
                stamp.mono_ms as i64,
                stamp.wall_ms,
                stamp.quality as u8,
                pair.0,
                pair.1,
                counters[0] as i64,
                counters[1] as i64,
                counters[2] as i64,
                counters[3] as i64,
                counters[4] as i64,
                counters[5] as i64,
                counters[6] as i64
            ])?;
            self.last.insert(pair, counters);
        }
        self.written = Some(now);
        Ok(())
    }

    fn lose(&mut self, db: &Connection, lost: Losses, now: i64, stamp: &Stamp) -> rusqlite::Result<()> {
        if self.minute != now / MINUTE {
            self.minute = now / MINUTE;
            self.rows.clear();
        }
        for (mut loss, count) in lost {
            let like =
                |known: &&Loss| (&known.topic, &known.consumer, known.what) == (&loss.topic, &loss.consumer, loss.what);
            if !self.rows.contains_key(&loss) && self.rows.keys().filter(like).count() >= REASONS {
                loss.reason = OTHERS.into();
            }
            if let Some(id) = self.rows.get(&loss) {
                let sql = "UPDATE loss SET count = count + ?2, last = ?3 - mono WHERE id = ?1";
                db.prepare_cached(sql)?.execute(params![id, count as i64, stamp.mono_ms as i64])?;
                continue;
            }
            db.prepare_cached(
                "INSERT INTO loss (at, boot, mono, wall, quality, last, topic, consumer, what, reason, count)
                    VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                now,
                stamp.boot,
                stamp.mono_ms as i64,
                stamp.wall_ms,
                stamp.quality as u8,
                loss.topic,
                loss.consumer,
                loss.what,
                loss.reason,
                count as i64
            ])?;
            let id = db.last_insert_rowid();
            db.prepare_cached("DELETE FROM loss WHERE id <= ?1")?.execute([id - LOSSES])?;
            self.rows.insert(loss, id);
        }
        Ok(())
    }

    /// Lets old rows go, never the last of a topic and consumer.
    pub(super) fn thin(&mut self, db: &Connection, now: i64) -> rusqlite::Result<()> {
        if self.thinned.is_some_and(|at| now - at < HOUR) {
            return Ok(());
        }
        self.thinned = Some(now);
        db.execute("DELETE FROM loss WHERE at < ?1", [now - KEPT])?;
        let count = || db.query_row("SELECT count(*) FROM history", [], |r| r.get::<_, i64>(0));
        for (at, (unit, age)) in COARSER.iter().enumerate() {
            if at > 0 && count()? <= ROWS {
                break;
            }
            let sql = "DELETE FROM history WHERE at < ?1
                AND id NOT IN (SELECT max(id) FROM history GROUP BY topic, consumer, at / ?2)";
            db.execute(sql, [now - age, *unit])?;
        }
        // One older than that stays: what came later is the difference to it.
        let old = "DELETE FROM history WHERE at < ?1
            AND id NOT IN (SELECT max(id) FROM history WHERE at < ?1 GROUP BY topic, consumer)";
        let mut kept = KEPT;
        db.execute(old, [now - kept])?;
        while count()? > ROWS && kept > DAY {
            kept /= 2;
            db.execute(old, [now - kept])?;
        }
        Ok(())
    }

    /// The last row of all, as a time.
    fn end(db: &Connection) -> rusqlite::Result<Option<(i64, Stamp)>> {
        let mut query = db.prepare("SELECT at, boot, mono, wall, quality FROM history ORDER BY id DESC LIMIT 1")?;
        let mut rows = query.query([])?;
        rows.next()?.map(|r| Ok((r.get(0)?, stamp(r, 1)?))).transpose()
    }
}

impl Writer {
    /// At the start: what the run before counted within a minute of its last row. What a store counted before it kept such
    /// rows is said to be from before all times.
    pub(super) fn catch_up(&mut self) -> rusqlite::Result<()> {
        self.history.read(&self.db)?;
        let (ledger, now) = (self.index.ledger(), clock::steady_ms());
        let (at, stamp) = match History::end(&self.db)? {
            Some((at, last)) if at + MINUTE < now => {
                let (mono_ms, wall_ms) = (last.mono_ms + MINUTE.unsigned_abs(), last.wall_ms + MINUTE);
                (at + MINUTE, Stamp { mono_ms, wall_ms, ..last })
            }
            Some(_) => (now, clock::stamp()),
            None => (0, Stamp { quality: Quality::Synced, ..Stamp::default() }),
        };
        if ledger.iter().all(|row| self.history.knows(row)) {
            return Ok(());
        }
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let written = self.history.write(&self.db, &ledger, at, &stamp).and_then(|()| self.db.execute_batch("COMMIT"));
        self.history.written = None;
        written.inspect_err(|_| {
            self.db.execute_batch("ROLLBACK").ok();
        })
    }

    /// In the open transaction, at its end: what is to be written of what was counted.
    pub(super) fn keep_account(&mut self) -> rusqlite::Result<()> {
        if self.disk.full {
            return Ok(());
        }
        if self.history.stale {
            self.history.read(&self.db)?;
        }
        let now = clock::steady_ms();
        let due = self.history.due(now);
        if !due && self.open.lost.is_empty() {
            return Ok(());
        }
        let mut lost = std::mem::take(&mut self.open.lost);
        for (loss, count) in &self.history.waiting {
            *lost.entry(loss.clone()).or_default() += count;
        }
        let stamp = clock::stamp();
        self.history.lose(&self.db, lost, now, &stamp)?;
        self.open.accounted = true;
        if due {
            let ledger = self.index.ledger();
            self.history.write(&self.db, &ledger, now, &stamp)?;
            self.history.thin(&self.db, now)?;
        }
        Ok(())
    }

    /// After the commit.
    pub(super) fn accounted(&mut self, written: bool, lost: Losses) {
        if written {
            self.history.waiting.clear();
        }
        lost.into_iter().for_each(|(loss, count)| self.history.later(loss, count));
    }

    /// Events that a source was refused.
    pub(super) fn note_refused(&mut self, step: &Step, reason: &str) {
        for append in step.appends.iter().filter(|append| append.batch.count > 0) {
            self.history.later(Loss::new(&append.topic, "", "refused", reason), append.batch.count.into());
        }
    }
}
