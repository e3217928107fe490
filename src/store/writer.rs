//! The one thread that writes. It takes everything that waits into one transaction, commits, then answers.

use super::{
    OpenError, Options, Placed, Refusal, Request, Step,
    eras::Eras,
    highest::Highest,
    lane::{Index, Shared},
    load::{closed, identity, load, note_closed, unreadable},
    rows::{Chunk, ROW_BYTES, crc, key},
    schema,
    seen::{Seen, Verdict},
    trim,
};
use crate::{
    clock,
    event::{Batch, batch::put_stamp},
};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, params};
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
/// Steps taken into one transaction, at most: bounds what one failure takes back.
const GROUP: usize = 4096;
type Reply = oneshot::Sender<Result<Vec<Placed>, Refusal>>;

pub(super) struct Writer {
    pub(super) db: Connection,
    options: Options,
    pub(super) shared: Arc<Shared>,
    /// What is on disk and in the open transaction. After a failure it is read again.
    pub(super) index: Index,
    /// After a failure it could not be read again: nothing in memory is believed.
    stale: bool,
    seen: Seen,
    eras: Eras,
    highest: Highest,
    pub(super) base: u64,
    full: bool,
    /// Steps that nobody waits for, folded into one.
    riding: Step,
    ride_since: Option<Instant>,
    trimmer: trim::Trimmer,
    pub(super) open: Open,
}

/// What the open transaction has changed.
#[derive(Default)]
pub(super) struct Open {
    rows: BTreeMap<u16, Row>,
    fresh: Vec<(u16, Chunk)>,
    pub lanes: BTreeSet<u16>,
    pub cursors: BTreeSet<(u32, u16)>,
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
    let db = match schema::open(path).and_then(|db| load(&db, &options).map(|_| db)) {
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
    highest.cover(base)?;
    let (index, seen) = load(&db, &options)?;
    let now = clock::stamp();
    let mut eras = Eras::load(&db, &clock::boot_id(), &now)?;
    eras.write(&db)?;
    eras.settle();
    clock::set_boot(eras.start());
    clock::set_steady(eras.steady_at_boot());
    let died = eras.began_before() && closed(&db)? != eras.start() - 1;
    let shared = Arc::new(Shared::new(store, died, &options, index.clone(), &eras));
    let (send, receive) = mpsc::channel();
    let trimmer = trim::Trimmer::default();
    let writer = Writer {
        db,
        options,
        shared: shared.clone(),
        index,
        stale: false,
        seen,
        eras,
        highest,
        base,
        full: false,
        riding: Step::default(),
        ride_since: None,
        trimmer,
        open: Open::default(),
    };
    thread::Builder::new().name("store-write".into()).spawn(move || writer.run(&receive))?;
    Ok((shared, send))
}

impl Writer {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        loop {
            let wait = self.ride_since.map_or(Duration::from_secs(1), |since| RIDE.saturating_sub(since.elapsed()));
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
        if !steps.is_empty() || ride_is_due {
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
                Request::Commit { .. } | Request::Ride(_) => {}
            }
        }
        None
    }

    /// One transaction for all of them: what rides comes first, since it is older.
    fn commit(&mut self, steps: Vec<(Step, Option<OwnedSemaphorePermit>, Reply)>) {
        let riding = std::mem::take(&mut self.riding);
        self.ride_since = None;
        let mut answers: Vec<Result<Vec<Placed>, Refusal>> = Vec::with_capacity(steps.len());
        let result = self.transaction(|writer| {
            writer.apply(&riding)?;
            for (step, ..) in &steps {
                answers.push(if writer.full && step.is_intake() {
                    Err(Refusal::Full)
                } else {
                    Ok(writer.apply(step)?)
                });
            }
            Ok(())
        });
        if let Err(refusal) = result {
            answers = steps.iter().map(|_| Err(refusal.clone())).collect();
            self.ride_since = Some(Instant::now());
            self.riding = riding;
        }
        for ((_, permit, reply), answer) in steps.into_iter().zip(answers) {
            drop(permit);
            reply.send(answer).ok();
        }
    }

    /// A request that is no step, in a transaction of its own.
    fn alone<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let mut value = None;
        self.transaction(|writer| {
            value = Some(work(writer)?);
            Ok(())
        })?;
        value.ok_or(Refusal::Closed)
    }

    /// Begins, works, writes what is open, commits and publishes; or takes everything back.
    fn transaction(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<()>) -> Result<(), Refusal> {
        if self.stale {
            self.read_again()?;
        }
        let now = clock::steady_ms();
        self.eras.note(&clock::stamp());
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
            self.take_back(&error);
            return Err(if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
                Refusal::Full
            } else {
                Refusal::Failed(error.to_string())
            });
        }
        self.seen.settle(now);
        let noted = self.eras.settle();
        let (lanes, cursors): (Vec<_>, Vec<_>) = (open.lanes.into_iter().collect(), open.cursors.into_iter().collect());
        let mut view = self.shared.view();
        if noted {
            view.eras = Arc::new(self.eras.clone());
        }
        view.publish(&self.index, &lanes, &cursors, open.fresh);
        self.trimmer.note(&mut view, &self.db, &self.options, &mut self.full);
        Ok(())
    }

    /// After a failure nothing in memory is believed: what is on disk is read again, on a fresh connection unless the
    /// disk was merely full. Until that works, everything is refused.
    fn take_back(&mut self, error: &rusqlite::Error) {
        self.db.execute_batch("ROLLBACK").ok();
        if error.sqlite_error_code() != Some(ErrorCode::DiskFull) {
            log::error!("store: commit failed, opening the database again: {error}");
            if let Some(path) = self.options.path.as_deref() {
                match schema::open(Some(path)) {
                    Ok(db) => self.db = db,
                    Err(error) => log::error!("store: `{}` does not open: {error}", path.display()),
                }
            }
        }
        self.stale = true;
        if let Err(refusal) = self.read_again() {
            log::error!("store: reading it again: {refusal}");
        }
    }

    fn read_again(&mut self) -> Result<(), Refusal> {
        let (index, seen) = load(&self.db, &self.options).map_err(|error| Refusal::Failed(error.to_string()))?;
        self.seen = seen;
        self.adopt(index);
        self.stale = false;
        Ok(())
    }

    fn adopt(&mut self, mut index: Index) {
        for (id, consumer) in &mut index.consumers {
            if let Some(known) = self.index.consumers.get(id) {
                consumer.topics.clone_from(&known.topics);
            }
        }
        self.shared.view().index = index.clone();
        self.index = index;
    }

    fn apply(&mut self, step: &Step) -> rusqlite::Result<Vec<Placed>> {
        let mut placed = Vec::with_capacity(step.appends.len());
        for append in &step.appends {
            let lane = self.lane(&append.topic, append.priority)?;
            placed.push(self.append(lane, &append.batch)?);
        }
        for m in &step.moves {
            if let Some(cursor) = self.index.cursors.get_mut(&(m.consumer, m.lane)).filter(|c| m.to > c.seq) {
                let passed = m.to - cursor.seq;
                cursor.seq = m.to;
                cursor.dead += m.dead;
                cursor.evicted += m.evicted;
                cursor.expired += m.expired;
                cursor.stopped += m.stopped;
                cursor.delivered += passed.saturating_sub(m.dead + m.evicted + m.expired);
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

    fn append(&mut self, lane: u16, batch: &Batch) -> rusqlite::Result<Placed> {
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
        let thinned = (!dropped.is_empty()).then(|| batch.without(&dropped));
        let batch = thinned.as_ref().unwrap_or(batch);
        let first = self.index.lanes.get(&lane).map_or(0, |l| l.next);
        if batch.count > 0 {
            let end = first + u64::from(batch.count);
            self.highest.cover(end).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
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
        Ok(Placed { store: self.shared.store, lane, first, count: batch.count, repeats, conflicts })
    }

    /// Writes everything that the transaction left open: batch rows, cursors, ids, and what may go.
    fn flush(&mut self, now: i64) -> rusqlite::Result<()> {
        for (lane, row) in std::mem::take(&mut self.open.rows) {
            self.write_row(lane, row)?;
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
        let cursors = &mut self.open.cursors;
        let trimmed = self.trimmer.trim(&self.db, &mut self.index, &self.options, now, cursors)?;
        self.open.lanes.extend(trimmed);
        for (consumer, lane) in &self.open.cursors {
            let Some(c) = self.index.cursors.get(&(*consumer, *lane)) else { continue };
            self.db.prepare_cached("INSERT OR REPLACE INTO cursor VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(
                params![
                    (i64::from(*consumer) << 16) | i64::from(*lane),
                    c.start as i64,
                    c.seq as i64,
                    c.delivered as i64,
                    c.stopped as i64,
                    c.dead as i64,
                    c.expired as i64,
                    c.evicted as i64
                ],
            )?;
        }
        Ok(())
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
        let data = Ok(Bytes::from(row.data));
        self.open.fresh.push((lane, Chunk { first: row.first, count: u64::from(row.count), data }));
        Ok(())
    }

    /// Nobody waits: look for what retention lets go, and now and then fold the WAL into the database. That the wall clock
    /// was set is written down at once.
    fn rest(&mut self) {
        if self.trimmer.due(&self.index, &self.options) || self.eras.learns(&clock::stamp()) {
            self.transaction(|_| Ok(())).ok();
        }
        self.trimmer.checkpoint(&self.db);
    }

    fn finish(&mut self) {
        if self.ride_since.is_some() {
            self.commit(Vec::new());
        }
        let start = self.eras.start();
        if let Err(refusal) = self.alone(|writer| note_closed(&writer.db, start)) {
            log::warn!("store: the end of this run could not be written down: {refusal}");
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

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
