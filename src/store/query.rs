//! SQL by an operator over what is stored: read only, on a connection and a thread of its own, one question at a time, with
//! limits of time, rows, bytes and memory. An open read keeps the WAL from being folded in, so none stays open for long.
//!
//! Events lie in batches, so the view `events` is made of functions. Only a batch whose event is looked at is read and
//! decoded: what `topic`, `priority`, `seq` or `stored` rule out costs next to nothing.

use super::{
    Store,
    dead::origin,
    eras::Eras,
    lane::Shared,
    rows::{key, seq_of, unpack},
    schema,
};
use crate::{
    budget::resident,
    clock,
    event::{
        Event,
        batch::{Pause, Place, Records},
    },
};
use bytes::Bytes;
use rusqlite::{
    Batch, Connection,
    fallible_iterator::FallibleIterator,
    functions::{Context, FunctionFlags},
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{Value as Cell, ValueRef},
};
use serde_json::Value;
use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The longest a question may take: meanwhile the WAL grows.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Rows of an answer.
pub const MOST_ROWS: usize = 100_000;
/// Bytes of an answer, about.
const ANSWER: usize = 2 << 20;
/// Bytes by which the gateway's memory may grow over a question: sorting and grouping are held there.
const MEMORY: u64 = 16 << 20;
/// Bytes by which the WAL may grow over it.
const WAL: u64 = 32 << 20;
/// Bytes of one value: what one instruction may take, and how long it may work. Batches, and most events, are smaller.
const VALUE: i32 = 2 << 20;
/// Other limits: SQL's own length, how deep and wide it may be, what cannot be interrupted.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_LENGTH, VALUE),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];
/// Instructions of SQLite between two looks at the time; each may have made a value.
const STEPS: i32 = 100;
/// Between two looks at memory and the WAL.
const LOOK: Duration = Duration::from_millis(5);
/// A batch that says it has more events than this is damaged: an event has four bytes at least, a row 256 KiB.
const EVENTS: i64 = 100_000;
/// Batches that are held decoded: a join of `events` with itself takes them in turn.
const HELD: usize = 2;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Query {
    pub sql: String,
    pub rows: usize,
    pub time: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Selected {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// There are more rows.
    pub more: bool,
    /// Batches that were looked into and whose CRC does not fit: their events are `NULL`.
    pub damaged: usize,
}

impl Store {
    /// Answers a question in SQL; an error says what is wrong with it, or which limit it met.
    pub async fn query(&self, query: Query) -> Result<Selected, String> {
        let path = self.path.clone().ok_or("nothing is stored")?;
        let turn = self.queries.clone().acquire_owned().await.map_err(|_| "the store is closed")?;
        let (shared, given_up) = (self.shared.clone(), Arc::new(AtomicBool::new(false)));
        let (reply, answer) = oneshot::channel();
        let _left = GivenUp(given_up.clone());
        let work = move || {
            reply.send(run(&path, &shared, &query, &given_up)).ok();
            drop(turn);
        };
        thread::Builder::new().name("store-query".into()).spawn(work).map_err(|error| error.to_string())?;
        answer.await.unwrap_or_else(|_| Err("the store is closed".into()))
    }
}

/// Nobody waits for the answer any more.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn run(path: &Path, shared: &Arc<Shared>, query: &Query, given_up: &Arc<AtomicBool>) -> Result<Selected, String> {
    let wrong = |error: rusqlite::Error| error.to_string();
    let db = schema::open_reader(path).map_err(|error| error.to_string())?;
    let batches = Arc::new(Mutex::new(Batches::of(shared.clone())));
    functions(&db, &batches).and_then(|()| views(&db, shared)).map_err(wrong)?;
    let why = Arc::new(Mutex::new(None));
    let mut guard = Guard::new(path, shared, query.time, given_up);
    let told = why.clone();
    let ends = move || {
        let ends = guard.ends();
        *lock(&told) = ends.clone();
        ends.is_some()
    };
    restrict(&db).and_then(|()| db.progress_handler(STEPS, Some(ends))).map_err(wrong)?;
    let found = select(&db, query);
    let why = lock(&why).take();
    let damaged = lock(&batches).damaged.len();
    found.map(|found| Selected { damaged, ..found }).map_err(|error| why.unwrap_or(error))
}

/// From here on the connection only reads, and only its own database.
fn restrict(db: &Connection) -> rusqlite::Result<()> {
    for (limit, most) in LIMITS {
        db.set_limit(*limit, *most)?;
    }
    db.pragma_update(None, "query_only", true)?;
    db.authorizer(Some(|asked: AuthContext<'_>| match asked.action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } | AuthAction::Function { .. } => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }))
}

fn select(db: &Connection, query: &Query) -> Result<Selected, String> {
    let wrong = |error: rusqlite::Error| match error {
        rusqlite::Error::SqlInputError { msg, offset, .. } if offset >= 0 => format!("{msg}, at byte {offset}"),
        error => error.to_string(),
    };
    let mut statements = Batch::new(db, &query.sql);
    let mut statement = statements.next().map_err(wrong)?.ok_or("there is no SQL")?;
    if statements.next().map_err(wrong)?.is_some() {
        return Err("expected one statement".into());
    }
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let (count, mut found, mut bytes) = (columns.len(), Selected { columns, ..Selected::default() }, 0);
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(wrong)? {
        if found.rows.len() >= query.rows || bytes >= ANSWER {
            found.more = true;
            break;
        }
        let mut cells = Vec::with_capacity(count);
        for at in 0..count {
            let (cell, size) = cell(row.get_ref(at).map_err(wrong)?);
            bytes += size;
            cells.push(cell);
        }
        found.rows.push(cells);
    }
    Ok(found)
}

/// A value as JSON, and the bytes it takes, about. Bytes that are no text are written in hexadecimal.
fn cell(value: ValueRef<'_>) -> (Value, usize) {
    let cell = match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => n.into(),
        ValueRef::Real(n) => n.into(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into(),
        ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        },
    };
    let size = cell.as_str().map_or(0, str::len) + size_of::<Value>();
    (cell, size)
}

/// Ends a question that has become too much.
struct Guard {
    shared: Arc<Shared>,
    given_up: Arc<AtomicBool>,
    time: Duration,
    until: Instant,
    look: Instant,
    memory: u64,
    wal: PathBuf,
    wal_bytes: u64,
}

impl Guard {
    fn new(path: &Path, shared: &Arc<Shared>, time: Duration, given_up: &Arc<AtomicBool>) -> Guard {
        let now = Instant::now();
        let mut guard = Guard {
            shared: shared.clone(),
            given_up: given_up.clone(),
            time,
            until: now + time,
            look: now,
            memory: resident(),
            wal: super::beside(path, "-wal"),
            wal_bytes: 0,
        };
        guard.wal_bytes = guard.wal_size();
        guard
    }

    /// Why it is to end now.
    fn ends(&mut self) -> Option<String> {
        let now = Instant::now();
        if now >= self.until {
            return Some(format!("not done within {} ms", self.time.as_millis()));
        }
        if self.given_up.load(Relaxed) || self.shared.closing.load(Relaxed) {
            return Some("given up".into());
        }
        if now < self.look {
            return None;
        }
        self.look = now + LOOK;
        if resident().saturating_sub(self.memory) > MEMORY {
            return Some(format!("it takes more than {} MiB of memory", MEMORY >> 20));
        }
        if self.wal_size().saturating_sub(self.wal_bytes) > WAL {
            return Some(format!("{} MiB were stored meanwhile: ask for less at once", WAL >> 20));
        }
        self.shared.full.load(Relaxed).then(|| "the store is full and needs to make room".into())
    }

    fn wal_size(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |is| is.len())
    }
}

/// Columns of an event, in the order of [`Batches::part`]; those of a time compare with the form of SQLite's `datetime` too.
const PARTS: [&str; 8] = ["id", "key", "time", "taken", "quality", "time_ms", "meta", "body"];
const TIMES: [&str; 2] = ["time", "taken"];

fn views(db: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let part = |(at, name): (usize, &&str)| {
        let time = if TIMES.contains(name) { " COLLATE time" } else { "" };
        // The bytes of a batch are read only where it is not held already.
        format!(
            "CASE WHEN event_is_held(b.id) THEN event_part({at}, b.id, e.value) \
             ELSE event_part({at}, b.id, e.value, b.count, b.size, b.crc, b.body) END{time} AS {name}"
        )
    };
    let parts: Vec<String> = PARTS.iter().enumerate().map(part).collect();
    let (low, high) = (key(0, 0), key(0, u64::MAX));
    db.execute_batch(&format!(
        "CREATE TEMP VIEW events AS SELECT l.topic, l.priority, e.value AS seq, {}, event_time(b.at) COLLATE time AS stored
            FROM main.lane l CROSS JOIN main.batch b ON b.id BETWEEN (l.id << 48) + {low} AND (l.id << 48) + {high}
            CROSS JOIN json_each(event_numbers(b.id, b.count)) e;
        CREATE TEMP VIEW state AS SELECT owner, CAST(key AS TEXT) AS key, CAST(value AS TEXT) AS value FROM main.state;
        CREATE TEMP VIEW timers AS SELECT owner, CAST(key AS TEXT) AS key, event_time(due) COLLATE time AS due
            FROM main.timer;
        CREATE TEMP VIEW dead AS SELECT id, wall_time(at) COLLATE time AS at, consumer, topic, seq, event, reason,
            CAST(body AS TEXT) AS body FROM main.dead;
        CREATE TEMP TABLE ledger (topic, consumer, accepted, delivered, stopped, queued, dead, expired, evicted, offloaded);
        CREATE TEMP TABLE consumers (consumer, topic, priority, seq, next);",
        parts.join(", ")
    ))?;
    for row in shared.ledger() {
        let numbers =
            [row.accepted, row.delivered, row.stopped, row.queued, row.dead, row.expired, row.evicted, row.offloaded];
        let [a, b, c, d, e, f, g, h] = numbers.map(|n| n as i64);
        db.prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
            .execute(rusqlite::params![row.topic, row.consumer, a, b, c, d, e, f, g, h])?;
    }
    let index = shared.view().index.clone();
    for ((consumer, lane), cursor) in &index.cursors {
        let (Some(consumer), Some(lane)) = (index.consumers.get(consumer), index.lanes.get(lane)) else { continue };
        db.prepare_cached("INSERT INTO consumers VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(rusqlite::params![
            consumer.name,
            &*lane.topic,
            lane.priority,
            cursor.seq as i64,
            lane.next as i64
        ])?;
    }
    Ok(())
}

fn functions(db: &Connection, batches: &Arc<Mutex<Batches>>) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let all = batches.clone();
    db.create_scalar_function("event_numbers", 2, flags, move |cx| Ok(lock(&all).numbers(cx.get(0)?, cx.get(1)?)))?;
    let all = batches.clone();
    db.create_scalar_function("event_is_held", 1, flags, move |cx| Ok(lock(&all).is_held(cx.get(0)?)))?;
    for arguments in [3, 7] {
        let all = batches.clone();
        db.create_scalar_function("event_part", arguments, flags, move |cx| lock(&all).part(cx))?;
    }
    let all = batches.clone();
    db.create_scalar_function("event_time", 1, flags, move |cx| Ok(lock(&all).wall(cx.get(0)?)))?;
    db.create_scalar_function("wall_time", 1, flags, |cx| Ok(clock::rfc3339(cx.get(0)?)))?;
    db.create_collation("time", by_time)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times as RFC 3339 writes them in UTC, and as SQLite's functions do: `T` or a space, with `Z` or without.
fn by_time(a: &str, b: &str) -> Ordering {
    let plain = |text: &str| {
        let bytes = text.strip_suffix('Z').unwrap_or(text).as_bytes().to_vec();
        bytes.into_iter().map(|byte| if byte == b'T' { b' ' } else { byte }).collect::<Vec<u8>>()
    };
    plain(a).cmp(&plain(b))
}

/// A batch, and the event of it that was looked at last.
struct Open {
    id: i64,
    /// `None` where the CRC does not fit.
    data: Option<Bytes>,
    place: Place,
    begin: Pause,
    /// Behind the event.
    pause: Pause,
    event: Option<Event>,
}

impl Open {
    fn event(&mut self, seq: u64, eras: &Eras) -> Option<&Event> {
        if self.event.as_ref().is_none_or(|event| event.seq != seq) {
            if seq < self.pause.seq {
                self.pause = self.begin;
            }
            let mut records = Records::resume(self.data.as_ref()?, &self.place, self.pause);
            records.skip_to(seq)?;
            let mut event = records.next()?;
            eras.mend(&mut event.stamp);
            (self.event, self.pause) = (Some(event), records.pause());
        }
        self.event.as_ref()
    }
}

/// The batches that are held.
struct Batches {
    shared: Arc<Shared>,
    eras: Arc<Eras>,
    held: VecDeque<Open>,
    damaged: BTreeSet<i64>,
}

impl Batches {
    fn of(shared: Arc<Shared>) -> Batches {
        let eras = shared.view().eras.clone();
        Batches { shared, eras, held: VecDeque::new(), damaged: BTreeSet::new() }
    }

    /// The sequence numbers of a batch, as a JSON array.
    fn numbers(&mut self, id: i64, count: i64) -> String {
        if !(0..=EVENTS).contains(&count) {
            self.damaged.insert(id);
            return "[]".into();
        }
        let first = seq_of(id);
        let numbers: Vec<String> = (first..first + count.unsigned_abs()).map(|seq| seq.to_string()).collect();
        format!("[{}]", numbers.join(","))
    }

    fn is_held(&self, id: i64) -> bool {
        self.held.iter().any(|open| open.id == id)
    }

    /// A steady time by the wall clock.
    fn wall(&self, steady_ms: i64) -> String {
        let mut stamp = clock::stamp_of(steady_ms);
        self.eras.mend(&mut stamp);
        clock::rfc3339(stamp.wall_ms)
    }

    /// A column of an event: which, the batch, the sequence number and, where the batch is not held, what the row has.
    fn part(&mut self, cx: &Context<'_>) -> rusqlite::Result<Cell> {
        let (which, id, seq): (usize, i64, i64) = (cx.get::<u8>(0)?.into(), cx.get(1)?, cx.get(2)?);
        if !self.is_held(id) && cx.len() == 7 {
            self.hold(id, cx)?;
        }
        let Some(open) = self.held.iter_mut().find(|open| open.id == id) else { return Ok(Cell::Null) };
        let Some(event) = open.event(seq.unsigned_abs(), &self.eras) else { return Ok(Cell::Null) };
        let text = |bytes: &[u8]| Cell::Text(String::from_utf8_lossy(bytes).into_owned());
        Ok(match PARTS.get(which).copied().unwrap_or_default() {
            "id" => Cell::Text(event.id.text().into_owned()),
            "key" => Cell::Text(event.key.as_str().to_owned()),
            "time" => Cell::Text(clock::rfc3339(event.happened())),
            "time_ms" => Cell::Integer(event.happened()),
            "taken" => Cell::Text(clock::rfc3339(event.stamp.wall_ms)),
            "quality" => Cell::Text(event.stamp.quality.name().to_owned()),
            "meta" if event.meta.is_empty() => Cell::Null,
            "meta" => text(&event.meta),
            _ => text(&event.body.to_bytes()),
        })
    }

    fn hold(&mut self, id: i64, cx: &Context<'_>) -> rusqlite::Result<()> {
        let body = cx.get_raw(6);
        let data = unpack(id, cx.get(3)?, cx.get(4)?, cx.get(5)?, body.as_blob().unwrap_or_default()).ok();
        if data.is_none() {
            self.damaged.insert(id);
        }
        let lane = (id >> 48) as u16;
        let known = self.shared.view().index.lanes.get(&lane).map(|l| (origin(&l.topic), l.priority));
        let (topic, priority) = known.unwrap_or_else(|| ("".into(), 0));
        let place = Place { store: self.shared.store, lane, topic, priority };
        let begin = Records::new(&Bytes::new(), &place, seq_of(id)).pause();
        if self.held.len() >= HELD {
            self.held.pop_front();
        }
        self.held.push_back(Open { id, data, place, begin, pause: begin, event: None });
        Ok(())
    }
}
