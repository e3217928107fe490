//! What every consumer has passed goes, when retention allows or the store is full; the WAL is folded in.

use super::{
    Keep, Options,
    lane::{Index, Lane, View},
    rows::{key, seq_of},
    schema,
};
use crate::clock::millis_of;
use rusqlite::{Connection, params};
use std::time::{Duration, Instant};

/// Rows looked at in one go, a lane: bounds how long one commit takes.
const ROWS: i64 = 512;
/// The same on a full disk: what is deleted is written to the WAL first.
const ROWS_FULL: i64 = 100;
/// A lane is trimmed in this many milliseconds again at the earliest: fewer, larger deletes dirty fewer pages.
const PAUSE_MS: u128 = 100;
/// Without load, the WAL is folded in this long after the last commit but one.
const CHECKPOINT: Duration = Duration::from_secs(60);
/// The disk mark is looked at every so many milliseconds.
const LOOK_MS: u128 = 100;

/// Consumer and lane, and the numbers that its cursor was moved over.
pub(super) type Moved = ((u32, u16), u64, u64);

#[derive(Default)]
pub(super) struct Trimmer {
    waits: bool,
    trimmed: Option<Instant>,
    expired: Option<Instant>,
    looked: Option<Instant>,
    folded: Option<Instant>,
    commits_folded: u64,
    commits: u64,
}

fn older(than_ms: u128, then: Option<Instant>) -> bool {
    then.is_none_or(|then| then.elapsed().as_millis() >= than_ms)
}

impl Trimmer {
    /// Deletes, in the open transaction, rows that everybody passed. Gives the parts of lanes that went.
    pub fn trim(
        &mut self,
        db: &Connection,
        index: &mut Index,
        options: &Options,
        now: i64,
        full: bool,
        over: bool,
    ) -> rusqlite::Result<Vec<(u16, u64, u64)>> {
        if std::mem::take(&mut self.waits) || !full && !older(PAUSE_MS, self.trimmed) {
            return Ok(Vec::new());
        }
        let limit = if full { ROWS_FULL } else { ROWS };
        self.trimmed = Some(Instant::now());
        let passed: Vec<(u16, u64)> = index
            .lanes
            .iter()
            .map(|(id, l)| (*id, index.passed(*id), l.first))
            .filter(|(_, p, first)| p > first)
            .map(|(id, p, _)| (id, p))
            .collect();
        let mut changed = Vec::new();
        for (id, passed) in &passed {
            let Some(lane) = index.lanes.get_mut(id) else { continue };
            let passed = *passed;
            let keep = options.keep.get(&*lane.topic).copied().filter(|_| !full && !over).unwrap_or_default();
            let Some((end, bytes)) = droppable(db, *id, lane, passed, keep, now, limit)? else {
                continue;
            };
            db.prepare_cached("DELETE FROM batch WHERE id BETWEEN ?1 AND ?2")?
                .execute(params![key(*id, 0), key(*id, end - 1)])?;
            changed.push((*id, lane.first, end));
            lane.first = end;
            lane.bytes = lane.bytes.saturating_sub(bytes);
            db.prepare_cached("UPDATE lane SET first = ?2, next = ?3 WHERE id = ?1")?.execute(params![
                id,
                end as i64,
                lane.next as i64
            ])?;
        }
        Ok(changed)
    }

    /// Moves cursors over rows that are too old as a whole, at `now` by the steady clock: nobody reads them to find that out.
    /// Gives which were moved, and over what.
    pub fn expire(
        &mut self,
        db: &Connection,
        index: &mut Index,
        options: &Options,
        now: i64,
    ) -> rusqlite::Result<Vec<Moved>> {
        let mut moved = Vec::new();
        if options.ttl.is_empty() || !older(PAUSE_MS, self.expired) {
            return Ok(moved);
        }
        self.expired = Some(Instant::now());
        for (id, lane) in &index.lanes {
            let Some(ttl) = options.ttl.get(&*lane.topic).filter(|_| lane.next > lane.first) else { continue };
            let end = aged(db, *id, lane, now.saturating_sub(millis_of(ttl.as_millis())))?;
            for ((consumer, _), cursor) in index.cursors.iter_mut().filter(|((_, l), c)| l == id && c.seq < end) {
                cursor.expired += end - cursor.seq;
                moved.push(((*consumer, *id), cursor.seq, end));
                cursor.seq = end;
            }
        }
        Ok(moved)
    }

    /// Not in the next transaction.
    pub fn waits(&mut self) {
        self.waits = true;
    }

    /// Whether a trim at rest may find something: some lane holds what everybody passed, or what
    /// gets too old.
    pub fn due(&self, index: &Index, options: &Options, full: bool) -> bool {
        if full {
            return index.lanes.iter().any(|(id, l)| index.passed(*id) > l.first);
        }
        let ages = |lane: &Lane| lane.next > lane.first && options.ttl.contains_key(&*lane.topic);
        if index.lanes.values().any(ages) && older(60_000, self.trimmed) {
            return true;
        }
        let kept = |topic: &str| options.keep.get(topic).is_some_and(|k| k.age.is_some() || k.bytes.is_some());
        let wait = |topic: &str| if kept(topic) { 60_000 } else { PAUSE_MS };
        index.lanes.iter().any(|(id, l)| index.passed(*id) > l.first && older(wait(&l.topic), self.trimmed))
    }

    /// After a commit: how much is in use, where it was measured.
    pub fn note(&mut self, view: &mut View, db: &Connection) -> Option<u64> {
        self.commits += 1;
        if !older(LOOK_MS, self.looked) {
            return None;
        }
        self.looked = Some(Instant::now());
        let used = schema::used(db).ok()?;
        view.used = used;
        Some(used)
    }

    /// Folds the WAL into the database when there was no load for a while: a short WAL is soon read after a power cut.
    pub fn checkpoint(&mut self, db: &Connection) {
        let since = *self.folded.get_or_insert_with(Instant::now);
        if since.elapsed() < CHECKPOINT {
            return;
        }
        self.folded = Some(Instant::now());
        if self.commits != self.commits_folded {
            self.commits_folded = self.commits;
            if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
                log::warn!("store: checkpoint failed: {error}");
            }
        }
    }
}

/// Up to where the rows of a lane were all written at a time or before.
fn aged(db: &Connection, id: u16, lane: &Lane, then: i64) -> rusqlite::Result<u64> {
    let sql = "SELECT id, count, at FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3";
    let mut query = db.prepare_cached(sql)?;
    let mut rows = query.query(params![key(id, lane.first), key(id, lane.next), ROWS])?;
    let mut end = lane.first;
    while let Some(row) = rows.next()? {
        let (row_id, count, at): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if at > then {
            break;
        }
        end = seq_of(row_id) + count.unsigned_abs();
    }
    Ok(end)
}

/// Up to which sequence number rows may go, and their bytes.
fn droppable(
    db: &Connection,
    id: u16,
    lane: &Lane,
    passed: u64,
    keep: Keep,
    now: i64,
    limit: i64,
) -> rusqlite::Result<Option<(u64, u64)>> {
    let age = keep.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let mut query = db.prepare_cached(
        "SELECT id, count, at, length(body) FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = query.query(params![key(id, lane.first), key(id, passed), limit])?;
    let (mut end, mut bytes, mut held) = (None, 0, lane.bytes);
    while let Some(row) = rows.next()? {
        let (id, count, at, len): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let (row_end, len) = (seq_of(id) + count.unsigned_abs(), len.unsigned_abs());
        let kept = match (age, keep.bytes) {
            (None, None) => false,
            (age, limit) => {
                age.is_none_or(|age| at.saturating_add(age) > now) && limit.is_none_or(|limit| held <= limit)
            }
        };
        if row_end > passed || kept {
            break;
        }
        end = Some(row_end);
        bytes += len;
        held = held.saturating_sub(len);
    }
    Ok(end.map(|end| (end, bytes)))
}

/// Bytes that a lane's rows hold.
pub(super) fn bytes(db: &Connection, lane: u16) -> rusqlite::Result<u64> {
    let sum = "SELECT coalesce(sum(length(body)), 0) FROM batch WHERE id BETWEEN ?1 AND ?2";
    db.query_row(sum, params![key(lane, 0), key(lane, u64::MAX)], |r| r.get::<_, i64>(0)).map(i64::unsigned_abs)
}
