//! The one thread that writes. It takes everything that waits into one transaction, commits, then answers.

use super::{
    Append, Dead, OpenError, Options, Placed, Refusal, Request, Step,
    ballast::{Ballast, Cause},
    highest::Highest,
    lane::{Index, Shared},
    load::{identity, load, next_boot, register_boot, unreadable},
    offload::Errands,
    rows::{Chunk, ROW_BYTES, crc, key},
    schema,
    seen::{Seen, Verdict},
    space::Space,
    tight::Disk,
    trim,
};
use crate::{
    clock,
    event::{Batch, batch::put_stamp},
};
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A step that rides is on disk at the latest after this.
const RIDE: Duration = Duration::from_millis(200);
/// Steps that wait for the offload are looked at this often.
const HELD: Duration = Duration::from_millis(20);
/// Steps taken into one transaction, at most: bounds what one failure takes back.
const GROUP: usize = 4096;
/// Dead letters beyond this many are dropped, the oldest first.
const MAX_DEAD: i64 = 10_000;

type Reply = oneshot::Sender<Result<Vec<Placed>, Refusal>>;
/// A step that somebody waits for.
pub(super) type Waiting = (Step, Option<OwnedSemaphorePermit>, Reply);

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    /// What is on disk and in the open transaction. After a failure it is read again.
    pub(super) index: Index,
    /// After a failure it could not be read again: nothing in memory is believed.
    pub(super) stale: bool,
    pub(super) seen: Seen,
    highest: Highest,
    pub(super) base: u64,
    pub(super) disk: Disk,
    pub(super) space: Space,
    pub(super) errands: Errands,
    /// Steps that nobody waits for, folded into one.
    pub(super) riding: Step,
    pub(super) ride_since: Option<Instant>,
    pub(super) trimmer: trim::Trimmer,
    pub(super) open: Open,
}

/// What the open transaction has changed.
#[derive(Default)]
pub(super) struct Open {
    rows: BTreeMap<u16, Row>,
    fresh: Vec<(u16, Chunk)>,
    pub lanes: BTreeSet<u16>,
    pub cursors: BTreeSet<(u32, u16)>,
    /// Lanes of which events were dropped.
    pub thinned: BTreeSet<u16>,
    /// What is offloaded changed, and keys of objects that nothing names any more.
    pub moved: bool,
    pub spare: Vec<String>,
    /// By lane: bytes and events that were written, and the first of them.
    pub grown: BTreeMap<u16, (u64, u64, u64)>,
}

/// A batch row that still grows.
struct Row {
    first: u64,
    count: u32,
    data: Vec<u8>,
    stamped_now: bool,
}

/// Opens the file, reads what it holds and starts the thread.
pub(super) fn start(options: Options) -> Result<(Arc<Shared>, mpsc::Sender<Request>), OpenError> {
    let path = options.path.as_deref();
    let mut highest = Highest::open(path)?;
    let ballast = Ballast::beside(path);
    ballast.become_wal();
    let opened = schema::open(path).and_then(|db| load(&db, &options).map(|_| db));
    let db = match opened {
        Err(_) if ballast.probe() == Cause::Space && ballast.give_up() => {
            schema::open(path).and_then(|db| load(&db, &options).map(|_| db))
        }
        opened => opened,
    };
    let db = match db {
        Ok(db) => db,
        Err(OpenError::Sqlite(error)) if unreadable(&error) => {
            let path = path.ok_or(OpenError::Sqlite(error))?;
            let folder = schema::set_aside(path, clock::wall_ms())?;
            log::error!(
                "store: the database cannot be read; it was moved to `{}` and a fresh one begun",
                folder.display()
            );
            schema::open(Some(path))?
        }
        Err(error) => return Err(error),
    };
    let (store, base) = identity(&db, &highest)?;
    if let Err(error) = highest.cover(base)
        && Cause::of(&error) == Cause::Other
    {
        return Err(error.into()); // on a full disk it is tried again before the first number is given out
    }
    let (index, seen) = load(&db, &options)?;
    clock::set_boot(next_boot(&db)?);
    let shared = Arc::new(Shared::new(store, index.clone()));
    let (send, receive) = mpsc::channel();
    let trimmer = trim::Trimmer::default();
    let space = Space::new(&options, ballast.room());
    let mut writer = Writer {
        db,
        options,
        shared: shared.clone(),
        index,
        stale: false,
        seen,
        highest,
        base,
        space,
        errands: Errands::default(),
        disk: Disk::new(ballast),
        riding: Step::default(),
        ride_since: None,
        trimmer,
        open: Open::default(),
    };
    writer.settle_in();
    thread::Builder::new().name("store-write".into()).spawn(move || writer.run(&receive))?;
    Ok((shared, send))
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        loop {
            let mut wait = self.ride_since.map_or(Duration::from_secs(1), |since| RIDE.saturating_sub(since.elapsed()));
            if !self.space.held.is_empty() {
                wait = wait.min(HELD);
            }
            let mut group = match requests.recv_timeout(wait) {
                Ok(request) => vec![request],
                Err(mpsc::RecvTimeoutError::Timeout) => Vec::new(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.finish(),
            };
            while group.len() < GROUP
                && let Ok(request) = requests.try_recv()
            {
                group.push(request);
            }
            if let Some(closed) = self.serve(group) {
                self.finish();
                drop(self);
                closed.send(()).ok();
                return;
            }
        }
    }

    /// Commits what waits, then does what is not a step. Gives the reply to a close.
    fn serve(&mut self, group: Vec<Request>) -> Option<oneshot::Sender<()>> {
        self.look_at_disk();
        let (mut steps, mut rest) = (Vec::new(), Vec::new());
        for request in group {
            match request {
                Request::Commit { step, permit, reply } => steps.push((step, permit, reply)),
                Request::Ride(step) => {
                    self.ride_since.get_or_insert_with(Instant::now);
                    self.riding.fold(step);
                }
                other => rest.push(other),
            }
        }
        let ride_is_due = self.ride_since.is_some_and(|since| since.elapsed() >= RIDE);
        if !steps.is_empty() || ride_is_due || !self.space.held.is_empty() {
            self.commit(steps);
        } else if rest.is_empty() && self.ride_since.is_none() {
            self.rest();
        }
        for request in rest {
            match request {
                Request::Consumer { name, topics, start, reply } => {
                    let done = self.alone(|w| w.register(&name, &topics, start));
                    reply.send(done).ok();
                }
                Request::Forget { name, reply } => {
                    let done = self.alone(|w| w.forget(&name));
                    reply.send(done).ok();
                }
                Request::Read(read) => {
                    read.run(&self.db);
                }
                Request::Close(reply) => return Some(reply),
                Request::Do(work) => work(self),
                Request::Commit { .. } | Request::Ride(_) => {}
            }
        }
        None
    }

    /// One transaction for all of them: what rides comes first, since it is older.
    fn commit(&mut self, steps: Vec<Waiting>) {
        let steps = self.hold(steps);
        if self.disk.full {
            return self.commit_apart(steps);
        }
        let riding = std::mem::take(&mut self.riding);
        self.ride_since = None;
        let mut answers: Vec<Result<Vec<Placed>, Refusal>> = Vec::with_capacity(steps.len());
        let result = self.transaction(|writer| {
            writer.apply(&riding)?;
            for (step, ..) in &steps {
                answers.push(if writer.refuses(step) { Err(Refusal::Full) } else { Ok(writer.apply(step)?) });
            }
            Ok(())
        });
        if let Err(refusal) = result {
            self.put_back(riding);
            if self.disk.full {
                return self.commit_apart(steps);
            }
            answers = steps.iter().map(|_| Err(refusal.clone())).collect();
        }
        for ((_, permit, reply), answer) in steps.into_iter().zip(answers) {
            drop(permit);
            reply.send(answer).ok();
        }
    }

    /// A request that is no step, in a transaction of its own.
    pub(super) fn alone<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let mut value = None;
        self.trimmer.waits();
        let done = self.transaction(|writer| {
            value = Some(work(writer)?);
            Ok(())
        });
        if let Err(refusal) = done {
            self.read_again().ok(); // such work may have changed what is published
            return Err(refusal);
        }
        value.ok_or(Refusal::Closed)
    }

    /// Begins, works, writes what is open, commits and publishes; or takes everything back.
    pub(super) fn transaction(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<()>) -> Result<(), Refusal> {
        if let Some(refusal) = self.disk.known() {
            return Err(refusal);
        }
        if self.stale {
            self.read_again()?;
        }
        let now = clock::wall_ms();
        let result = self
            .db
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.execute([]))
            .and_then(|_| work(self))
            .and_then(|()| self.flush(now))
            .and_then(|()| self.db.prepare_cached("COMMIT")?.execute([]));
        let open = std::mem::take(&mut self.open);
        if let Err(error) = result {
            self.seen.forget();
            return Err(self.take_back(&error));
        }
        self.disk.wrote();
        self.seen.settle(now);
        let (lanes, cursors): (Vec<_>, Vec<_>) = (open.lanes.into_iter().collect(), open.cursors.into_iter().collect());
        let mut view = self.shared.view();
        view.publish(&self.index, &lanes, &cursors, open.fresh);
        let used = self.trimmer.note(&mut view, &self.db);
        drop(view);
        if open.moved {
            self.publish_moved(open.spare);
        }
        self.measure(used);
        Ok(())
    }

    pub(super) fn adopt(&mut self, mut index: Index) {
        for (id, consumer) in &mut index.consumers {
            if let Some(known) = self.index.consumers.get(id) {
                consumer.topics.clone_from(&known.topics);
            }
        }
        self.shared.view().index = index.clone();
        self.index = index;
    }

    pub(super) fn apply(&mut self, step: &Step) -> rusqlite::Result<Vec<Placed>> {
        let mut placed = Vec::with_capacity(step.appends.len());
        for append in &step.appends {
            let lane = self.lane(&append.topic, append.priority)?;
            placed.push(self.append(lane, append)?);
        }
        for m in &step.moves {
            if let Some(cursor) = self.index.cursors.get_mut(&(m.consumer, m.lane)).filter(|c| m.to > c.seq) {
                let passed = m.to - cursor.seq;
                cursor.seq = m.to;
                // It may have been moved on from below the consumer, which counts more than is left.
                let dead = m.dead.min(passed);
                let evicted = m.evicted.min(passed - dead);
                cursor.dead += dead;
                cursor.evicted += evicted;
                cursor.delivered += passed - dead - evicted;
                cursor.stopped += m.stopped.min(passed - dead - evicted);
                self.open.cursors.insert((m.consumer, m.lane));
                self.open.lanes.insert(m.lane);
            }
        }
        for letter in &step.dead {
            self.bury(letter)?;
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

    fn append(&mut self, lane: u16, append: &Append) -> rusqlite::Result<Placed> {
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
        }
        let first = self.index.lanes.get(&lane).map_or(0, |l| l.next);
        if batch.count > 0 {
            let end = first + u64::from(batch.count);
            self.highest.cover(end).map_err(no_number)?;
            if let Some(lane) = self.index.lanes.get_mut(&lane) {
                lane.next = end;
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

    /// An id that came before with another body: the event is kept among the dead letters.
    fn conflict(&mut self, lane: u16, record: Vec<u8>) -> rusqlite::Result<()> {
        use crate::event::batch::{Place, Records};
        let Some(topic) = self.index.lanes.get(&lane).map(|l| l.topic.clone()) else { return Ok(()) };
        let place = Place { store: self.shared.store, lane, topic: topic.clone(), priority: 0 };
        let data = Bytes::from(record);
        let mut body = Vec::new();
        let event = Records::new(&data, &place, 0).next();
        let id = event.as_ref().map(|e| e.id.text().into_owned()).unwrap_or_default();
        if let Some(mut event) = event {
            event.stamp = clock::stamp();
            event.write_envelope(&mut body);
        }
        let reason = "the id was used before with another body".to_owned();
        self.bury(&Dead { consumer: String::new(), topic: topic.to_string(), seq: 0, event: id, reason, body })
    }

    fn bury(&mut self, letter: &Dead) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO dead (at, consumer, topic, seq, event, reason, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                clock::wall_ms(),
                letter.consumer,
                letter.topic,
                letter.seq as i64,
                letter.event,
                letter.reason,
                letter.body
            ])?;
        let id = self.db.last_insert_rowid();
        self.db.prepare_cached("DELETE FROM dead WHERE id <= ?1")?.execute([id - MAX_DEAD])?;
        Ok(())
    }

    /// Writes everything that the transaction left open: batch rows, cursors, ids, and what may go.
    fn flush(&mut self, now: i64) -> rusqlite::Result<()> {
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
        for (consumer, lane) in &self.open.cursors {
            let Some(c) = self.index.cursors.get(&(*consumer, *lane)) else { continue };
            self.db.prepare_cached("INSERT OR REPLACE INTO cursor (id, start, seq, delivered, stopped, dead, expired, evicted, dropped)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
                params![
                    (i64::from(*consumer) << 16) | i64::from(*lane),
                    c.start as i64,
                    c.seq as i64,
                    c.delivered as i64,
                    c.stopped as i64,
                    c.dead as i64,
                    c.expired as i64,
                    c.evicted as i64,
                    c.dropped as i64
                ],
            )?;
        }
        if let Some((row, marks)) = self.seen.row() {
            self.db
                .prepare_cached("INSERT INTO seen (id, at, marks) VALUES (?1, ?2, ?3)")?
                .execute(params![row, now, marks])?;
        }
        if let Some(row) = self.seen.expire(now) {
            self.db.prepare_cached("DELETE FROM seen WHERE id <= ?1")?.execute([row])?;
        }
        if let Some(boot) = self.disk.boot {
            register_boot(&self.db, boot)?;
        }
        let trimmed =
            self.trimmer.trim(&self.db, &mut self.index, &self.options, now, self.disk.full, self.space.is_over())?;
        self.open.lanes.extend(trimmed);
        self.forget_passed()?;
        Ok(())
    }

    fn write_row(&mut self, lane: u16, row: Row) -> rusqlite::Result<()> {
        let size = row.data.len();
        let packed = (size >= 256).then(|| lz4_flex::block::compress(&row.data)).filter(|p| p.len() < size);
        let body = packed.as_deref().unwrap_or(&row.data);
        let (id, count) = (key(lane, row.first), i64::from(row.count));
        self.db
            .prepare_cached("INSERT INTO batch (id, count, at, size, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![id, count, clock::wall_ms(), size as i64, crc(id, count, size as i64, body), body])?;
        if let Some(lane) = self.index.lanes.get_mut(&lane) {
            lane.bytes += body.len() as u64;
        }
        let (bytes, events, _) = self.open.grown.entry(lane).or_insert((0, 0, row.first));
        (*bytes, *events) = (*bytes + body.len() as u64, *events + u64::from(row.count));
        let data = Ok(Bytes::from(row.data));
        self.open.fresh.push((lane, Chunk { first: row.first, count: u64::from(row.count), data }));
        Ok(())
    }

    /// Nobody waits: look for what retention lets go, and now and then fold the WAL into the database.
    fn rest(&mut self) {
        if self.space.is_over() {
            let used = schema::used(&self.db).ok();
            self.measure(used);
        }
        if self.trimmer.due(&self.index, &self.options, false) {
            self.transaction(|_| Ok(())).ok();
        }
        self.trimmer.checkpoint(&self.db);
    }

    fn finish(&mut self) {
        if self.ride_since.is_some() {
            self.commit(Vec::new());
        }
        if self.disk.full {
            return schema::keep_wal(&self.db); // its blocks would be gone
        }
        if let Err(error) = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            log::warn!("store: the last checkpoint failed, the WAL stays: {error}");
        }
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

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
