//! What a step does to the database, in the open transaction.

use super::{
    Append, Step,
    ballast::Cause,
    losses::{Ends, Losses},
    rows::{Chunk, ROW_BYTES, crc, key},
    seen::Verdict,
    writer::Writer,
};
use crate::{
    clock,
    event::{Batch, Id, batch::put_stamp},
    trace::{Note, Stretch},
};
use bytes::Bytes;
use rusqlite::params;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
};

/// Where a committed append lies.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    pub(super) store: u64,
    pub lane: u16,
    /// Sequence number of the first event that was stored.
    pub first: u64,
    pub count: u32,
    /// Indexes of events that were stored before with the same id and body: accepted, not stored again.
    pub repeats: Vec<u32>,
    /// Indexes of events whose id was used before with another body: they went to the dead letters.
    pub conflicts: Vec<u32>,
    /// Indexes of events that the topic's policy passed over, since the store is full: accepted, counted as evicted.
    pub passed: Vec<u32>,
}

impl Placed {
    /// The id of the event at an index of the batch that brought no id of its own.
    pub fn made_id(&self, index: u32) -> String {
        let before =
            self.repeats.iter().chain(&self.conflicts).chain(&self.passed).filter(|i| **i < index).count() as u64;
        self.id_at(self.first + u64::from(index) - before)
    }

    pub(super) fn id_at(&self, seq: u64) -> String {
        Id::Made { store: self.store, lane: self.lane, seq }.text().into_owned()
    }
}

/// What the open transaction has changed.
#[derive(Default)]
pub(super) struct Open {
    pub rows: BTreeMap<u16, Row>,
    pub fresh: Vec<(u16, Chunk)>,
    pub lanes: BTreeSet<u16>,
    pub cursors: BTreeSet<(u32, u16)>,
    /// Lanes of which events were dropped.
    pub thinned: BTreeSet<u16>,
    /// What is offloaded changed, and keys of objects that nothing names any more.
    pub moved: bool,
    pub spare: Vec<String>,
    /// Holes, or what is not read yet, changed.
    pub dug: bool,
    /// By lane: bytes and events that were written, and the first of them.
    pub grown: BTreeMap<u16, (u64, u64, u64)>,
    /// For who records what happens to single events: what left the store (whether it knows it still, and whether that is
    /// a bad end), and who ended badly.
    pub left: Vec<(Stretch, bool, bool)>,
    pub ended: Vec<Note>,
    /// Losses, with their reasons; and whether all that waited was written down.
    pub lost: Losses,
    pub accounted: bool,
}

/// A batch row that still grows.
pub(super) struct Row {
    first: u64,
    count: u32,
    data: Vec<u8>,
    stamped_now: bool,
}

impl Writer {
    pub(super) fn apply(&mut self, step: &Step) -> rusqlite::Result<Vec<Placed>> {
        let mut placed = Vec::with_capacity(step.appends.len());
        for append in &step.appends {
            let lane = self.lane(&append.topic, append.priority)?;
            placed.push(self.append(lane, append)?);
        }
        for m in &step.moves {
            if self.sought.contains_key(&m.consumer) {
                continue;
            }
            let seq = self.index.cursors.get(&(m.consumer, m.lane)).map_or(u64::MAX, |c| c.seq);
            let (lost, skipped) = self.index.gone(m.lane, seq, m.to);
            let mut ends = Ends { lost, ..Ends::default() };
            if let Some(cursor) = self.index.cursors.get_mut(&(m.consumer, m.lane)).filter(|c| m.to > c.seq) {
                cursor.start += skipped as i64;
                cursor.evicted += lost;
                let passed = (m.to - cursor.seq).saturating_sub(lost + skipped);
                cursor.seq = m.to;
                // It may have been moved on from below the consumer, which counts more than is left.
                let dead = m.dead.min(passed);
                let evicted = m.evicted.min(passed - dead);
                cursor.dead += dead;
                cursor.evicted += evicted;
                let expired = m.expired.min(passed - dead - evicted);
                cursor.expired += expired;
                let delivered = passed - dead - evicted - expired;
                cursor.delivered += delivered;
                cursor.stopped += m.stopped.min(delivered);
                self.open.cursors.insert((m.consumer, m.lane));
                self.open.lanes.insert(m.lane);
                ends = Ends { dead, evicted, expired, ..ends };
            }
            self.note_ends((m.consumer, m.lane), &ends, step);
        }
        for letter in &step.dead {
            self.bury(letter)?;
        }
        for dropped in &step.dropped {
            self.note_dropped(dropped);
        }
        for put in &step.state {
            match &put.value {
                Some(value) => self
                    .db
                    .prepare_cached("INSERT OR REPLACE INTO state (owner, key, value) VALUES (?1, ?2, ?3)")?
                    .execute(params![put.owner, put.key, value])?,
                None => self
                    .db
                    .prepare_cached("DELETE FROM state WHERE owner = ?1 AND key = ?2")?
                    .execute(params![put.owner, put.key])?,
            };
        }
        for (owner, key, due) in &step.timers {
            match due {
                Some(due) => self
                    .db
                    .prepare_cached("INSERT OR REPLACE INTO timer (owner, key, due) VALUES (?1, ?2, ?3)")?
                    .execute(params![owner, key, due])?,
                None => self
                    .db
                    .prepare_cached("DELETE FROM timer WHERE owner = ?1 AND key = ?2")?
                    .execute(params![owner, key])?,
            };
        }
        Ok(placed)
    }

    pub(super) fn append(&mut self, lane: u16, append: &Append) -> rusqlite::Result<Placed> {
        let batch = &append.batch;
        let (mut repeats, mut conflicts, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for (at, mark) in batch.marks.iter().enumerate() {
            match self.seen.judge(lane, mark) {
                Verdict::New => continue,
                Verdict::Repeat => repeats.push(mark.index),
                Verdict::Conflict => {
                    conflicts.push(mark.index);
                    let record = batch.data.get(mark.range.clone()).unwrap_or_default().to_vec();
                    self.conflict(lane, record)?;
                }
            }
            dropped.push(at);
        }
        let fresh = (!dropped.is_empty()).then(|| batch.without(&dropped));
        let batch = fresh.as_ref().unwrap_or(batch);
        let (mut passed, thinned) = (Vec::new(), self.thin(lane, append, batch));
        let batch = thinned.as_ref().map_or(batch, |(kept, _)| kept);
        if let Some((_, dropped)) = &thinned {
            let known = |i: &u32| repeats.contains(i) || conflicts.contains(i);
            let rest: Vec<u32> = (0..append.batch.count).filter(|i| !known(i)).collect();
            passed = dropped.iter().filter_map(|i| rest.get(*i as usize).copied()).collect();
            self.note_passed_over(append, &passed);
        }
        let first = self.index.lanes.get(&lane).map_or(0, |l| l.next);
        if batch.count > 0 {
            let end = first + u64::from(batch.count);
            self.highest.cover(end).map_err(no_number)?;
            if !batch.stamped() {
                self.options.trace.taken_in(self.shared.store, lane, first, batch.count);
            }
            if let Some(lane) = self.index.lanes.get_mut(&lane) {
                lane.next = end;
            }
            // A row is what a reader holds at least: no larger than it must be.
            let over = |row: &Row| row.data.len() + batch.bytes() > ROW_BYTES;
            if self.open.rows.get(&lane).is_some_and(over)
                && let Some(row) = self.open.rows.remove(&lane)
            {
                self.write_row(lane, row)?;
            }
            let row = self.open.rows.entry(lane).or_insert_with(|| Row::new(first));
            row.push(batch);
            if row.data.len() >= ROW_BYTES
                && let Some(row) = self.open.rows.remove(&lane)
            {
                self.write_row(lane, row)?;
            }
            self.open.lanes.insert(lane);
        }
        Ok(Placed { store: self.shared.store, lane, first, count: batch.count, repeats, conflicts, passed })
    }

    /// Writes everything that the transaction left open: batch rows, cursors, ids, and what may go.
    pub(super) fn flush(&mut self, now: i64) -> rusqlite::Result<()> {
        for (lane, row) in std::mem::take(&mut self.open.rows) {
            self.write_row(lane, row)?;
        }
        for id in &self.open.thinned {
            let Some(lane) = self.index.lanes.get(id) else { continue };
            self.db
                .prepare_cached("UPDATE lane SET dropped = ?2 WHERE id = ?1")?
                .execute(params![id, lane.dropped as i64])?;
        }
        self.evict()?;
        for (at, from, to) in self.trimmer.expire(&self.db, &mut self.index, &self.options, now)? {
            self.open.cursors.insert(at);
            self.note_expired(at, from, to);
        }
        self.pass_holes();
        self.open.lanes.extend(self.open.cursors.iter().map(|(_, lane)| *lane));
        for (consumer, lane) in &self.open.cursors {
            let Some(c) = self.index.cursors.get(&(*consumer, *lane)) else { continue };
            c.write(&self.db, (*consumer, *lane))?;
        }
        if let Some((row, marks)) = self.seen.row() {
            self.db
                .prepare_cached("INSERT INTO seen (id, at, marks) VALUES (?1, ?2, ?3)")?
                .execute(params![row, now, marks])?;
        }
        if let Some(row) = self.seen.expire(now) {
            self.db.prepare_cached("DELETE FROM seen WHERE id <= ?1")?.execute([row])?;
        }
        self.eras.write(&self.db)?;
        self.wear.note(&self.db, &self.shared.figures, false)?;
        let trimmed =
            self.trimmer.trim(&self.db, &mut self.index, &self.options, now, self.disk.full, self.space.is_over())?;
        for (lane, from, to) in trimmed {
            self.open.lanes.insert(lane);
            self.note_left((lane, from, to), "removed", || "everybody has passed it".into());
        }
        self.forget_passed()?;
        self.fill_passed()?;
        self.keep_account()
    }

    fn write_row(&mut self, lane: u16, row: Row) -> rusqlite::Result<()> {
        let size = row.data.len();
        let packed = (size >= 256).then(|| lz4_flex::block::compress(&row.data)).filter(|p| p.len() < size);
        let body = packed.as_deref().unwrap_or(&row.data);
        let (id, count) = (key(lane, row.first), i64::from(row.count));
        self.db
            .prepare_cached("INSERT INTO batch (id, count, at, size, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![id, count, clock::steady_ms(), size as i64, crc(id, count, size as i64, body), body])?;
        if let Some(lane) = self.index.lanes.get_mut(&lane) {
            lane.bytes += body.len() as u64;
        }
        self.shared.figures.raw.fetch_add(size as u64, Relaxed);
        self.shared.figures.packed.fetch_add(body.len() as u64, Relaxed);
        let (bytes, events, _) = self.open.grown.entry(lane).or_insert((0, 0, row.first));
        (*bytes, *events) = (*bytes + body.len() as u64, *events + u64::from(row.count));
        let data = Ok(Bytes::from(row.data));
        self.open.fresh.push((lane, Chunk { first: row.first, count: u64::from(row.count), data }));
        Ok(())
    }
}

impl Row {
    fn new(first: u64) -> Self {
        Row { first, count: 0, data: Vec::new(), stamped_now: false }
    }

    fn push(&mut self, batch: &Batch) {
        if !batch.stamped() && !self.stamped_now {
            put_stamp(&mut self.data, &clock::stamp());
        }
        self.stamped_now = !batch.stamped();
        self.data.extend_from_slice(&batch.data);
        self.count += batch.count;
    }
}

/// The highest number could not be written down.
fn no_number(error: std::io::Error) -> rusqlite::Error {
    let code = match Cause::of(&error) {
        Cause::Space => rusqlite::ffi::SQLITE_FULL,
        _ => rusqlite::ffi::SQLITE_IOERR,
    };
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(error.to_string()))
}
