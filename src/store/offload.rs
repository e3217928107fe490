//! Events that lie in an object store for a while: the newest rows of a topic go there, and come back in order.
//!
//! An offloaded range is a hole in its lane: the sequence numbers stay, and the same rows fill it again. The rows leave in
//! the transaction that writes their manifest, after the object was read back; the manifest leaves in the transaction that
//! brings the rows back, before the object is deleted. So at any moment each event lies here, or in an object that the
//! manifest names; what an object holds that no manifest names lies here too.

use super::{
    Policy, Refusal, Store,
    lane::Away,
    rows::{crc, key, seq_of},
    writer::Writer,
};
use crate::clock;
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How the object of a range begins, with its version.
const MAGIC: &[u8; 8] = b"TIDEROW1";
/// Bytes before a row's body: id, count, at, size, crc and length of the body.
const HEAD: usize = 48;
/// Without a signal, the store is asked for an errand this often.
const LOOK: Duration = Duration::from_millis(500);
/// What came back does not go again for so long, or while a consumer is in it.
const STAY: Duration = Duration::from_secs(2);
/// Objects to delete that are remembered; more are found at the next start.
const SPARE: usize = 1000;

/// What is to be done outside of the store.
#[derive(Debug)]
pub enum Errand {
    /// Put it into the object store, read it back, and say so with [`Store::went`].
    Out(Parcel),
    /// Fetch it, and hand it over with [`Store::came`].
    Back(Manifest),
    /// Delete the object of this key.
    Forget(String),
}

/// Rows on their way out.
#[derive(Debug)]
pub struct Parcel {
    lane: u16,
    first: u64,
    next: u64,
    rows: u64,
    bytes: u64,
    /// What the object is to hold.
    pub object: Vec<u8>,
    /// Of the object.
    pub sha256: [u8; 32],
}

/// Rows that lie in an object.
#[derive(Clone, Debug)]
pub struct Manifest {
    lane: u16,
    first: u64,
    next: u64,
    /// The object's key, length in bytes, and SHA-256.
    pub key: String,
    pub length: u64,
    pub sha256: [u8; 32],
}

/// What the writer knows about errands.
#[derive(Default)]
pub(super) struct Errands {
    /// Keys of objects that nothing names any more.
    pub spare: Vec<String>,
    /// Ranges that came back lately: lane, first, next, when.
    back: Vec<(u16, u64, u64, Instant)>,
    /// Ranges whose object did not come, and when it is asked for again: meanwhile others come.
    missed: BTreeMap<(u16, u64), Instant>,
}

impl Parcel {
    /// The last part of its key: lane, first sequence number, and the one after the last.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.lane, self.first, self.next)
    }
}

impl Store {
    /// The store's random number: it keeps objects of several stores apart.
    pub fn number(&self) -> u64 {
        self.shared.store
    }

    /// Waits for something to do.
    pub async fn errand(&self) -> Result<Errand, Refusal> {
        loop {
            if let Some(errand) = self.errand_now().await? {
                return Ok(errand);
            }
            timeout(LOOK, self.shared.offload.notified()).await.ok();
        }
    }

    pub(super) async fn errand_now(&self) -> Result<Option<Errand>, Refusal> {
        self.work(Writer::errand).await
    }

    /// The parcel lies in the object of this key: its rows go. False: they are not the same any more, the object is to go.
    pub async fn went(&self, parcel: Parcel, key: String) -> Result<bool, Refusal> {
        self.work(move |writer| writer.alone(|writer| writer.depart(&parcel, &key))).await
    }

    /// What the object holds: its rows come back, and the object is to go. What is damaged of it becomes a dead letter
    /// of each consumer.
    pub async fn came(&self, manifest: Manifest, object: Vec<u8>) -> Result<(), Refusal> {
        self.work(move |writer| writer.arrive(&manifest, &object)).await
    }

    /// Whether the object of this key is needed.
    pub async fn needs(&self, key: String) -> Result<bool, Refusal> {
        self.work(move |writer| {
            let find = "SELECT 1 FROM offloaded WHERE object = ?1";
            let found = writer.db.query_row(find, [key], |_| Ok(())).optional();
            found.map(|found| found.is_some()).map_err(|error| Refusal::Failed(error.to_string()))
        })
        .await
    }

    /// What failed is tried again after `wait`, and other errands go on: this range, or else what is to go out. As long as
    /// nothing can be put there, intake over the mark is refused.
    pub async fn offload_fails(&self, range: Option<Manifest>, wait: Duration) -> Result<(), Refusal> {
        self.work(move |writer| {
            let again = Instant::now() + wait;
            match range {
                Some(range) => writer.errands.missed.insert((range.lane, range.first), again),
                None => writer.space.failing.replace(again),
            };
            Ok(())
        })
        .await
    }

    /// What failed is tried again at once: it may be another object store now.
    pub async fn offload_begins(&self) -> Result<(), Refusal> {
        self.work(|writer| {
            writer.space.failing = None;
            writer.errands.missed.clear();
            Ok(())
        })
        .await
    }

    /// Whether something failed that has not worked since, and is still to be done.
    pub async fn offload_ails(&self) -> Result<bool, Refusal> {
        self.work(|writer| Ok(writer.space.failing.is_some() || !writer.errands.missed.is_empty())).await
    }
}

impl Writer {
    fn errand(&mut self) -> Result<Option<Errand>, Refusal> {
        if let Some(key) = self.errands.spare.pop() {
            return Ok(Some(Errand::Forget(key)));
        }
        if self.stale || self.disk.full {
            return Ok(None);
        }
        let found = match self.parcel() {
            Ok(None) => self.manifest().map(|found| found.map(Errand::Back)),
            found => found.map(|parcel| parcel.map(Errand::Out)),
        };
        found.map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// The newest rows of a topic that is over its mark, those of the lowest priority first.
    fn parcel(&mut self) -> rusqlite::Result<Option<Parcel>> {
        let (bytes, events) = self.space.excess();
        let rests = self.space.failing.is_some_and(|again| Instant::now() < again);
        if rests || !self.space.is_over() || bytes == 0 && events == 0 {
            return Ok(None);
        }
        let inside = |index: &super::lane::Index, lane: u16, first: u64, next: u64| {
            index.cursors.iter().any(|((consumer, l), cursor)| {
                let registered = index.consumers.get(consumer).is_some_and(|c| !c.topics.is_empty());
                *l == lane && registered && (first..next).contains(&cursor.seq)
            })
        };
        let index = &self.index;
        self.errands.back.retain(|(lane, first, next, at)| at.elapsed() < STAY || inside(index, *lane, *first, *next));
        let mut lanes: Vec<(u8, std::cmp::Reverse<u64>, u16)> = Vec::new();
        for (id, lane) in &self.index.lanes {
            if self.space.over(lane.priority) && self.policy(&lane.topic) == Policy::Offload {
                let from = self.index.passed(*id).max(lane.first);
                let stored = lane.next.saturating_sub(from).saturating_sub(self.index.away(*id, from));
                lanes.push((lane.priority, std::cmp::Reverse(stored), *id));
            }
        }
        lanes.sort_unstable();
        for (.., lane) in lanes {
            if let Some(parcel) = self.newest(lane, bytes, events)? {
                return Ok(Some(parcel));
            }
        }
        Ok(None)
    }

    /// The newest rows of a lane that follow one another, up to what is to go or goes at once.
    fn newest(&self, lane: u16, mut excess: u64, mut events: u64) -> rusqlite::Result<Option<Parcel>> {
        let (most, most_events) = self.space.parcel();
        let stays = |first: u64| {
            let mut back = self.errands.back.iter();
            back.any(|(l, from, to, _)| *l == lane && (*from..*to).contains(&first))
        };
        let mut query = self.db.prepare_cached(
            "SELECT id, count, at, size, crc, body FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC",
        )?;
        let mut found = query.query(params![key(lane, self.index.passed(lane)), key(lane, u64::MAX)])?;
        let (mut rows, mut bytes, mut count, mut next, mut from) = (Vec::new(), 0, 0, 0, 0);
        while let Some(row) = found.next()? {
            let numbers: [i64; 5] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            let body = row.get_ref(5)?.as_blob().unwrap_or_default();
            let (first, n, len) = (seq_of(numbers[0]), numbers[1].unsigned_abs(), body.len() as u64);
            let fits =
                bytes + len <= most && count + n <= most_events && first + n == from && (excess > 0 || events > 0);
            if rows.is_empty() && stays(first) {
                continue;
            }
            if !rows.is_empty() && (!fits || stays(first)) {
                break;
            }
            if rows.is_empty() {
                next = first + n;
            }
            (bytes, count, from) = (bytes + len, count + n, first);
            (excess, events) = (excess.saturating_sub(len), events.saturating_sub(n));
            rows.push((numbers, body.to_vec()));
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let mut object = Vec::with_capacity(MAGIC.len() + bytes as usize + rows.len() * HEAD);
        object.extend_from_slice(MAGIC);
        for (numbers, body) in rows.iter().rev() {
            numbers.iter().for_each(|n| object.extend_from_slice(&n.to_le_bytes()));
            object.extend_from_slice(&(body.len() as u64).to_le_bytes());
            object.extend_from_slice(body);
        }
        let sha256 = Sha256::digest(&object).into();
        Ok(Some(Parcel { lane, first: from, next, rows: rows.len() as u64, bytes, object, sha256 }))
    }

    /// A range that a reader has come to: while there is room, or when nothing else of its lane is here.
    fn manifest(&mut self) -> rusqlite::Result<Option<Manifest>> {
        let wanted: Vec<(u16, u64)> = {
            let mut view = self.shared.view();
            view.wanted.retain(|at| self.index.offloaded.contains_key(at));
            view.wanted.iter().copied().collect()
        };
        self.errands.missed.retain(|at, _| wanted.contains(at));
        let now = Instant::now();
        let rests = |at| self.errands.missed.get(at).is_some_and(|again| now < *again);
        let priority = |lane: u16| self.index.lanes.get(&lane).map_or(0, |lane| lane.priority);
        let here = |lane: u16, first: u64| {
            let from = self.index.passed(lane).max(self.index.lanes.get(&lane).map_or(0, |l| l.first));
            let away = self.index.away(lane, from).saturating_sub(self.index.away(lane, first));
            first.saturating_sub(from).saturating_sub(away)
        };
        let room = self.space.below_high();
        let ready = wanted.iter().filter(|at| !rests(*at) && (room || here(at.0, at.1) == 0));
        let Some((lane, first)) = ready.max_by_key(|(lane, _)| priority(*lane)).copied() else {
            return Ok(None);
        };
        let find = "SELECT next, object, length, sha256 FROM offloaded WHERE id = ?1";
        let manifest = self.db.prepare_cached(find)?.query_row([key(lane, first)], |r| {
            let (next, length) = (r.get::<_, i64>(0)?.unsigned_abs(), r.get::<_, i64>(2)?.unsigned_abs());
            Ok(Manifest { lane, first, next, key: r.get(1)?, length, sha256: r.get(3)? })
        });
        manifest.optional()
    }

    fn depart(&mut self, parcel: &Parcel, object: &str) -> rusqlite::Result<bool> {
        self.space.failing = None;
        let Parcel { lane, first, next, .. } = *parcel;
        let range = params![key(lane, first), key(lane, next - 1)];
        let count = "SELECT count(*), coalesce(sum(count), 0) FROM batch WHERE id BETWEEN ?1 AND ?2";
        let here: (i64, i64) = self.db.prepare_cached(count)?.query_row(range, |r| Ok((r.get(0)?, r.get(1)?)))?;
        if here != (parcel.rows as i64, (next - first) as i64) {
            return Ok(false);
        }
        self.db
            .prepare_cached(
                "INSERT INTO offloaded (id, next, bytes, object, length, sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                key(lane, first),
                next as i64,
                parcel.bytes as i64,
                object,
                parcel.object.len() as i64,
                parcel.sha256
            ])?;
        self.db.prepare_cached("DELETE FROM batch WHERE id BETWEEN ?1 AND ?2")?.execute(range)?;
        self.index.offloaded.insert((lane, first), Away { next, bytes: parcel.bytes });
        if let Some(lane) = self.index.lanes.get_mut(&lane) {
            lane.bytes = lane.bytes.saturating_sub(parcel.bytes);
        }
        self.open.lanes.insert(lane);
        self.open.moved = true;
        self.note_left((lane, first, next), "offloaded", || format!("to `{object}`"));
        Ok(true)
    }

    fn arrive(&mut self, manifest: &Manifest, object: &[u8]) -> Result<(), Refusal> {
        let Manifest { lane, first, next, .. } = *manifest;
        self.errands.missed.remove(&(lane, first));
        if !self.index.offloaded.contains_key(&(lane, first)) {
            return Ok(());
        }
        self.alone(|writer| {
            for (numbers, body) in rows(object, lane, first, next) {
                let [id, count, at, size, sum] = numbers;
                writer
                    .db
                    .prepare_cached(
                        "INSERT OR REPLACE INTO batch (id, count, at, size, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![id, count, at, size, sum, body])?;
            }
            writer.db.prepare_cached("DELETE FROM offloaded WHERE id = ?1")?.execute([key(lane, first)])?;
            let away = writer.index.offloaded.remove(&(lane, first));
            if let Some(lane) = writer.index.lanes.get_mut(&lane) {
                lane.bytes += away.map_or(0, |away| away.bytes);
            }
            writer.open.lanes.insert(lane);
            writer.open.moved = true;
            writer.note_left((lane, first, next), "brought back", || "from the object store".into());
            Ok(())
        })?;
        self.errands.back.push((lane, first, next, Instant::now()));
        let mut view = self.shared.view();
        view.wanted.remove(&(lane, first));
        view.wake(lane);
        Ok(())
    }

    /// In the open transaction: ranges that everybody has passed go without coming back.
    pub(super) fn forget_passed(&mut self) -> rusqlite::Result<()> {
        if self.index.offloaded.is_empty() {
            return Ok(());
        }
        let lanes: Vec<u16> = self.index.lanes.keys().copied().collect();
        for lane in lanes {
            let passed = self.index.passed(lane);
            while let Some((&(l, first), away)) = self.index.offloaded.range((lane, 0)..).next()
                && l == lane
                && away.next <= passed
            {
                let find = "DELETE FROM offloaded WHERE id = ?1 RETURNING object";
                let object: Option<String> =
                    self.db.prepare_cached(find)?.query_row([key(lane, first)], |r| r.get(0)).optional()?;
                self.index.offloaded.remove(&(lane, first));
                self.open.spare.extend(object);
                self.open.moved = true;
            }
        }
        Ok(())
    }

    /// After the commit that changed what is offloaded.
    pub(super) fn publish_moved(&mut self, spare: Vec<String>) {
        self.shared.view().index.offloaded.clone_from(&self.index.offloaded);
        self.errands.spare.extend(spare);
        self.errands.spare.truncate(SPARE);
        self.shared.offload.notify_one();
    }
}

/// The rows in an object, in order and without a hole: what is missing of the range stands as a row whose CRC does not fit.
fn rows(object: &[u8], lane: u16, first: u64, next: u64) -> Vec<([i64; 5], Vec<u8>)> {
    let mut rest = object.strip_prefix(MAGIC).unwrap_or_default();
    let (mut rows, mut at) = (Vec::new(), first);
    let missing = |from: u64, to: u64| {
        let (id, count) = (key(lane, from), (to - from) as i64);
        ([id, count, clock::wall_ms(), 0, i64::from(crc(id, count, 0, &[]) ^ 1)], Vec::new())
    };
    while let Some((head, body)) = rest.split_at_checked(HEAD) {
        let (numbers, _) = head.as_chunks::<8>();
        let number = |at: usize| numbers.get(at).map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let length = usize::try_from(number(5)).unwrap_or(usize::MAX);
        let (from, count) = (seq_of(number(0)), number(1).unsigned_abs());
        let fits = number(0) == key(lane, from) && from >= at && count > 0 && from.saturating_add(count) <= next;
        let Some((body, after)) = body.split_at_checked(length).filter(|_| fits) else { break };
        if from > at {
            rows.push(missing(at, from));
        }
        rows.push(([number(0), number(1), number(2), number(3), number(4)], body.to_vec()));
        (at, rest) = (from + count, after);
    }
    if at < next {
        rows.push(missing(at, next));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_gives_every_number_of_its_range_once() {
        let row = |first: u64, count: u64, body: &[u8]| {
            let numbers = [key(3, first), count as i64, 1, 2, 3, body.len() as i64];
            [numbers.iter().flat_map(|n| n.to_le_bytes()).collect(), body.to_vec()].concat()
        };
        let whole = [MAGIC.to_vec(), row(10, 2, b"ab"), row(12, 3, b"c"), row(15, 5, b"")].concat();
        for (object, want) in [
            (whole.clone(), vec![(10, 2), (12, 3), (15, 5)]),
            (whole[..whole.len() - 1].to_vec(), vec![(10, 2), (12, 3), (15, 5)]),
            (whole[..70].to_vec(), vec![(10, 2), (12, 8)]),
            (b"nonsense".to_vec(), vec![(10, 10)]),
            (Vec::new(), vec![(10, 10)]),
            ([MAGIC.to_vec(), row(12, 3, b"c")].concat(), vec![(10, 2), (12, 3), (15, 5)]),
            ([MAGIC.to_vec(), row(12, 9, b"c")].concat(), vec![(10, 10)]),
            ([MAGIC.to_vec(), row(10, 5, b""), row(12, 3, b"c")].concat(), vec![(10, 5), (15, 5)]),
        ] {
            let rows = rows(&object, 3, 10, 20);
            let ranges: Vec<(u64, i64)> = rows.iter().map(|([id, count, ..], _)| (seq_of(*id), *count)).collect();
            assert_eq!(ranges, want, "{}", object.len());
        }
    }
}
