//! Sequence numbers of a lane that no row has: what a broken database held and is not read yet, what is lost of it, and what
//! was never given out for sure.
//!
//! A reader waits where a range is not read yet, and passes over the others. Who passes what is lost has it counted as
//! evicted; numbers that were skipped count nowhere: the cursor's beginning moves with them.

use super::{
    carry,
    lane::Index,
    rows::{key, seq_of},
    writer::Writer,
};
use rusqlite::{Connection, params};

/// Rows that are looked at behind one that is missing.
const LOOKED: i64 = 2_000;

/// Numbers from its key up to, not including, `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub next: u64,
    /// Events were there and are gone; else the numbers were skipped.
    pub lost: bool,
}

/// What is still to be read of a lane out of a quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub at: u64,
    pub next: u64,
    /// Where the numbers ended is not known: what is missing at the end may never have been.
    pub vague: bool,
}

impl Index {
    fn holes_of(&self, lane: u16) -> impl Iterator<Item = (u64, Hole)> {
        self.holes.range((lane, 0)..=(lane, u64::MAX)).map(|((_, first), hole)| (*first, *hole))
    }

    /// Up to where a lane may be read from a number on.
    pub fn barrier(&self, lane: u16, seq: u64) -> u64 {
        self.unread.get(&lane).filter(|range| range.next > seq).map_or(u64::MAX, |range| range.at.max(seq))
    }

    /// The number, or the one after the holes that begin there, as far as they were read.
    pub fn land(&self, lane: u16, mut seq: u64) -> u64 {
        if self.holes.is_empty() {
            return seq;
        }
        let barrier = self.barrier(lane, seq);
        for (first, hole) in self.holes_of(lane) {
            if first <= seq && seq < hole.next {
                seq = hole.next.min(barrier);
            }
        }
        seq
    }

    /// How many of the numbers are lost, and how many were skipped.
    pub fn gone(&self, lane: u16, from: u64, to: u64) -> (u64, u64) {
        let (mut lost, mut skipped) = (0, 0);
        if !self.holes.is_empty() {
            for (first, hole) in self.holes_of(lane) {
                let count = hole.next.min(to).saturating_sub(first.max(from));
                *if hole.lost { &mut lost } else { &mut skipped } += count;
            }
        }
        (lost, skipped)
    }

    /// The parts of a range that neither lie in an object store nor are known to be gone.
    pub fn missing(&self, lane: u16, from: u64, to: u64) -> Vec<(u64, u64)> {
        let away = self.offloaded.range((lane, 0)..=(lane, u64::MAX)).map(|((_, first), away)| (*first, away.next));
        let mut known: Vec<(u64, u64)> =
            self.holes_of(lane).map(|(first, hole)| (first, hole.next)).chain(away).collect();
        known.sort_unstable();
        let (mut at, mut parts) = (from, Vec::new());
        for (first, next) in known {
            if first.min(to) > at {
                parts.push((at, first.min(to)));
            }
            at = at.max(next);
        }
        if to > at {
            parts.push((at, to));
        }
        parts
    }
}

pub(super) fn write_hole(db: &Connection, lane: u16, first: u64, hole: Hole) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO hole (id, next, lost) VALUES (?1, ?2, ?3)")?
        .execute(params![key(lane, first), hole.next as i64, hole.lost])
        .map(drop)
}

impl Writer {
    /// In the open transaction: a range of a lane has no rows.
    pub(super) fn dig(&mut self, lane: u16, from: u64, to: u64, lost: bool) -> rusqlite::Result<u64> {
        let mut count = 0;
        for (first, next) in self.index.missing(lane, from, to) {
            let hole = Hole { next, lost };
            write_hole(&self.db, lane, first, hole)?;
            self.index.holes.insert((lane, first), hole);
            count += next - first;
        }
        self.open.dug = true;
        Ok(count)
    }

    /// Looks into what readers missed: where there is neither a row nor anything in an object store, it is lost.
    pub(super) fn look_into_gaps(&mut self) {
        let gaps = std::mem::take(&mut self.shared.view().gaps);
        if gaps.is_empty() {
            return;
        }
        let mut lost = 0;
        let looked = self.alone(|writer| {
            for (lane, from) in gaps {
                lost += writer.look_into(lane, from)?;
            }
            Ok(())
        });
        if looked.is_ok() && lost > 0 {
            log::error!("store: {lost} events are gone from the database");
            self.begin_salvage();
        }
    }

    /// The next rows of a lane from a number on.
    fn look_into(&mut self, lane: u16, from: u64) -> rusqlite::Result<u64> {
        let Some(known) = self.index.lanes.get(&lane) else { return Ok(0) };
        let (from, end) = (from.max(known.first), known.next.min(self.index.barrier(lane, from)));
        if self.open.rows.contains_key(&lane) || from >= end {
            return Ok(0);
        }
        let (low, high) = (key(lane, 0), key(lane, from));
        let before = "SELECT max(id) FROM batch WHERE id BETWEEN ?1 AND ?2";
        let before: Option<i64> = self.db.prepare_cached(before)?.query_row([low, high], |r| r.get(0))?;
        let rows: Vec<(u64, u64)> = self
            .db
            .prepare_cached("SELECT id, count FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3")?
            .query_map([before.unwrap_or(high), key(lane, end - 1), LOOKED], |r| {
                Ok((seq_of(r.get(0)?), r.get::<_, i64>(1)?.unsigned_abs().clamp(1, 1 << 32)))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let (mut at, mut lost) = (from, 0);
        for (first, count) in &rows {
            if *first > at {
                lost += self.dig(lane, at, *first, true)?;
            }
            at = at.max(first + count);
        }
        if at < end && (rows.len() as i64) < LOOKED {
            lost += self.dig(lane, at, end, true)?;
        }
        carry::count(&self.db, &format!("lost:{lane}"), lost)?;
        Ok(lost)
    }

    /// In the open transaction: cursors that stand before a hole pass over it.
    pub(super) fn pass_holes(&mut self) {
        if self.index.holes.is_empty() {
            return;
        }
        let before: Vec<_> = self.index.cursors.iter().map(|(at, cursor)| (*at, cursor.seq)).collect();
        for (at, seq) in before {
            let land = self.index.land(at.1, seq);
            let (lost, skipped) = self.index.gone(at.1, seq, land);
            if let Some(cursor) = self.index.cursors.get_mut(&at).filter(|_| land > seq) {
                cursor.seq = land;
                cursor.evicted += lost;
                cursor.start += skipped as i64;
                self.open.cursors.insert(at);
                self.open.lanes.insert(at.1);
            }
        }
    }

    /// In the open transaction, after what was passed was trimmed: holes at the beginning of a lane that everybody has passed go.
    pub(super) fn fill_passed(&mut self) -> rusqlite::Result<()> {
        let holes: Vec<((u16, u64), Hole)> = self.index.holes.iter().map(|(at, hole)| (*at, *hole)).collect();
        for ((id, first), hole) in holes {
            let passed = self.index.passed(id);
            let read = self.index.barrier(id, first) >= hole.next;
            let Some(lane) = self.index.lanes.get_mut(&id) else { continue };
            if hole.next > passed || first > lane.first || !read {
                continue;
            }
            lane.first = lane.first.max(hole.next);
            self.db.prepare_cached("UPDATE lane SET first = ?2, next = ?3 WHERE id = ?1")?.execute(params![
                id,
                lane.first as i64,
                lane.next as i64
            ])?;
            self.db.prepare_cached("DELETE FROM hole WHERE id = ?1")?.execute([key(id, first)])?;
            self.index.holes.remove(&(id, first));
            self.open.lanes.insert(id);
            self.open.dug = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_passed_and_what_is_not_read_yet_is_waited_for() {
        let mut index = Index::default();
        index.holes.insert((1, 10), Hole { next: 20, lost: true });
        index.holes.insert((1, 20), Hole { next: 25, lost: false });
        index.unread.insert(1, Range { at: 30, next: 40, vague: false });
        for (seq, land, barrier) in
            [(5, 5, 30), (10, 25, 30), (22, 25, 30), (30, 30, 30), (35, 35, 35), (40, 40, u64::MAX)]
        {
            assert_eq!((index.land(1, seq), index.barrier(1, seq)), (land, barrier), "{seq}");
        }
        assert_eq!(index.gone(1, 0, 100), (10, 5));
        assert_eq!(index.gone(1, 15, 22), (5, 2));
        assert_eq!(index.missing(1, 5, 50), [(5, 10), (25, 50)]);
        assert_eq!(index.missing(2, 5, 50), [(5, 50)]);
        index.unread.insert(1, Range { at: 15, next: 40, vague: false });
        assert_eq!(index.land(1, 10), 15);
    }
}
