//! Puts back what can be read of databases that were set aside, in the background, oldest first.
//!
//! A thread reads a lane's rows, past broken pages, and checks each row's CRC; the writer puts them into the fresh database under
//! their old numbers, in one transaction with how far it came, so that an end at any moment repeats nothing and loses nothing
//! more. Readers of a lane wait where it is not read yet, so old events come before new ones; other lanes go on. Over a disk
//! mark only as much comes back as its readers need to go on. In the ledger nothing is counted twice: what comes back was
//! accepted once, what is lost of it is evicted, by each consumer that had not passed it.
//!
//! When all has been read, one event in the topic `gateway` says what happened, in the transaction that forgets about it; without
//! a reader of the topic, the log has it alone.

use super::{
    Append, Refusal, Step, carry,
    carry::{PENDING, count, write_range},
    holes::Range,
    quarantine,
    rows::{crc, key, seq_of, unpack},
    walk::{views, walk},
    writer::Writer,
};
use crate::event::{Batch, Draft};
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The topic of what the gateway says of itself, and its priority: that of alarms.
const TOPIC: &str = "gateway";
const PRIORITY: u8 = 6;
/// Rows and bytes of one step: as much as a consumer reads at once.
const ROWS: usize = 256;
const BYTES: usize = 256 * 1024;
/// While something is to be read, the writer looks for it this often, and gives it so long at a time.
pub(super) const LOOK: Duration = Duration::from_millis(5);
const SHARE: Duration = Duration::from_millis(20);
/// After a refusal the next attempt comes after this.
const PAUSE: Duration = Duration::from_millis(200);
/// Consumers register within this after the start.
const REGISTERED: Duration = Duration::from_secs(3);

struct Row {
    id: i64,
    numbers: [i64; 4],
    body: Vec<u8>,
}

impl Row {
    fn first(&self) -> u64 {
        seq_of(self.id)
    }

    fn end(&self) -> u64 {
        self.first().saturating_add(self.numbers[0].unsigned_abs())
    }
}

/// What was found of a lane, from its range's beginning up to, not including, `to`.
struct Piece {
    lane: u16,
    to: u64,
    rows: Vec<Row>,
    unreadable: u64,
}

pub(super) struct Salvage {
    asks: mpsc::Sender<(u16, Range)>,
    pieces: mpsc::Receiver<Piece>,
    asked: bool,
    pending: Option<Piece>,
    begun: Instant,
    again: Option<Instant>,
}

impl Salvage {
    /// Starts the thread that reads; it ends with the writer.
    pub fn start(database: &Path) -> std::io::Result<Salvage> {
        let files: Vec<_> = quarantine::unread(database).into_iter().map(|(_, file)| file).collect();
        let (asks, asked) = mpsc::channel::<(u16, Range)>();
        let (send, pieces) = mpsc::sync_channel(1);
        thread::Builder::new().name("store-salvage".into()).spawn(move || {
            let views: Vec<Connection> = files.iter().flat_map(|file| views(file)).collect();
            for (lane, range) in asked {
                if send.send(read(&views, lane, range)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Salvage { asks, pieces, asked: false, pending: None, begun: Instant::now(), again: None })
    }
}

/// The next rows of a lane, of all that the views show.
fn read(views: &[Connection], lane: u16, range: Range) -> Piece {
    let mut piece = Piece { lane, to: range.next, rows: Vec::new(), unreadable: 0 };
    let mut found: BTreeMap<i64, Row> = BTreeMap::new();
    for view in views {
        let before = "SELECT max(id) FROM batch WHERE id BETWEEN ?1 AND ?2";
        let begin = view.query_row(before, params![key(lane, 0), key(lane, range.at)], |r| r.get::<_, Option<i64>>(0));
        let from = begin.ok().flatten().unwrap_or(key(lane, range.at));
        let query = "SELECT id, count, at, size, crc, body FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        let (mut rows, mut bytes, mut end) = (0, 0, 0);
        let walked = walk(view, query, (from, key(lane, range.next - 1)), None, |id, row| {
            let numbers = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            let body = row.get_ref(5)?.as_blob()?;
            let row = Row { id, numbers, body: Vec::new() };
            let [count, _, size, sum] = numbers;
            if row.end() <= range.at {
                return Ok(ControlFlow::Continue(()));
            }
            let fits =
                count > 0 && i64::from(crc(id, count, size, body)) == sum && unpack(id, count, size, sum, body).is_ok();
            if !fits || row.end() > range.next {
                return Err(rusqlite::Error::InvalidQuery);
            }
            (rows, bytes, end) = (rows + 1, bytes + body.len(), row.end());
            found.entry(id).or_insert(Row { body: body.to_vec(), ..row });
            Ok(if rows < ROWS && bytes < BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        piece.unreadable = piece.unreadable.max(walked.unreadable);
        if walked.next <= key(lane, range.next - 1) {
            piece.to = piece.to.min(end.max(range.at + 1));
        }
    }
    let mut at = range.at;
    for (_, row) in found {
        // Two rows with one event cannot be.
        if row.end() <= piece.to && row.end() > at && (row.first() >= at || at == range.at) {
            at = row.end();
            piece.rows.push(row);
        }
    }
    piece
}

impl Writer {
    /// Goes on with the salvage, if there is one, for a moment.
    pub(super) fn salvage(&mut self) {
        let since = Instant::now();
        while since.elapsed() < SHARE {
            let Some(mut salvage) = self.salvage.take_if(|s| s.again.is_none_or(|at| at <= since)) else { return };
            let went_on = self.salvage_step(&mut salvage);
            match went_on {
                Ok(Some(more)) => {
                    self.salvage = Some(salvage);
                    if !more {
                        return;
                    }
                }
                Ok(None) => return,
                Err(refusal) => {
                    log::debug!("store: salvage waits: {refusal}");
                    salvage.again = Some(since + PAUSE);
                    self.salvage.get_or_insert(salvage);
                    return;
                }
            }
        }
    }

    /// Whether there is more to do at once; `None` when all is done.
    fn salvage_step(&mut self, salvage: &mut Salvage) -> Result<Option<bool>, Refusal> {
        if salvage.pending.is_none() && !salvage.asked {
            let Some((lane, range)) = self.next_range(salvage) else {
                return if self.index.unread.is_empty() { self.report(salvage) } else { Ok(Some(false)) };
            };
            salvage.asked = salvage.asks.send((lane, range)).is_ok();
        }
        if salvage.pending.is_none() {
            match salvage.pieces.recv_timeout(SHARE) {
                Ok(piece) => (salvage.asked, salvage.pending) = (false, Some(piece)),
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Some(false)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Refusal::Failed("nobody reads".into())),
            }
        }
        if let Some(piece) = &salvage.pending {
            self.alone(|writer| writer.put_back_rows(piece))?;
            self.shared.view().wake(piece.lane);
            salvage.pending = None;
        }
        Ok(Some(true))
    }

    /// What is to be read next: of the highest priority; over a mark, or on a full disk, only what a reader has come to.
    fn next_range(&self, salvage: &Salvage) -> Option<(u16, Range)> {
        let roomy = !self.space.is_over() && !self.disk.full;
        let all_are_here = salvage.begun.elapsed() >= REGISTERED;
        let ready = |(lane, range): &(&u16, &Range)| {
            let read = self.index.cursors.keys().any(|(_, l)| l == *lane);
            (read || all_are_here) && (roomy || self.index.passed(**lane) >= range.at)
        };
        let priority = |lane: u16| self.index.lanes.get(&lane).map_or(0, |lane| lane.priority);
        let next = self.index.unread.iter().filter(ready).max_by_key(|(lane, _)| priority(**lane))?;
        Some((*next.0, *next.1))
    }

    fn put_back_rows(&mut self, piece: &Piece) -> rusqlite::Result<()> {
        let Some(range) = self.index.unread.get(&piece.lane).copied() else { return Ok(()) };
        let (mut at, mut back, mut lost) = (range.at, 0, 0);
        for row in &piece.rows {
            let [count, time, size, sum] = row.numbers;
            self.db
                .prepare_cached(
                    "INSERT OR IGNORE INTO batch (id, count, at, size, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![row.id, count, time, size, sum, row.body])?;
            if row.first() > at {
                lost += self.dig(piece.lane, at, row.first(), true)?;
            }
            back += row.end() - row.first().max(at);
            if let Some(lane) = self.index.lanes.get_mut(&piece.lane) {
                lane.bytes += row.body.len() as u64;
            }
            at = row.end();
        }
        let (done, mut most) = (piece.to >= range.next, 0);
        if piece.to > at && done && range.vague {
            most = self.dig(piece.lane, at, piece.to, false)?;
        } else if piece.to > at {
            lost += self.dig(piece.lane, at, piece.to, true)?;
        }
        for (name, more) in [
            ("salvaged".to_owned(), back),
            ("unreadable".to_owned(), piece.unreadable),
            (format!("lost:{}", piece.lane), lost),
            (format!("most:{}", piece.lane), most),
        ] {
            count(&self.db, &name, more)?;
        }
        if done {
            self.index.unread.remove(&piece.lane);
            self.db.prepare_cached("DELETE FROM unread WHERE lane = ?1")?.execute([piece.lane])?;
        } else {
            let range = Range { at: piece.to, ..range };
            self.index.unread.insert(piece.lane, range);
            write_range(&self.db, piece.lane, range)?;
        }
        self.open.dug = true;
        self.open.lanes.insert(piece.lane);
        Ok(())
    }

    /// All has been read: says what happened, once.
    fn report(&mut self, salvage: &Salvage) -> Result<Option<bool>, Refusal> {
        let reads = |c: &super::lane::Consumer| c.topics.iter().any(|topic| **topic == *TOPIC);
        let read = self.index.consumers.values().any(reads);
        if !read && salvage.begun.elapsed() < REGISTERED {
            return Ok(Some(false));
        }
        let told = self.alone(|writer| {
            let Some(text) = writer.account()? else { return Ok(None) };
            if read {
                let mut batch = Batch::default();
                batch.push(&Draft { body: text.as_bytes(), ..Draft::default() }).ok();
                let append = Append { topic: TOPIC.into(), priority: PRIORITY, batch };
                writer.apply(&Step { inner: true, appends: vec![append], ..Step::default() })?;
            }
            let forget = format!("DELETE FROM meta WHERE key GLOB '{PENDING}*'");
            writer.db.execute(&forget, [])?;
            Ok(Some(text))
        })?;
        if let Some(text) = told {
            log::warn!("store: all that could be read was put back: {text}");
        }
        if let Some(path) = self.options.path.as_deref()
            && let Err(error) = quarantine::done(path)
        {
            log::warn!("store: a quarantine could not be marked as done: {error}");
        }
        self.shared.view().salvaging = false;
        Ok(None)
    }

    /// What happened, as JSON; `None` if nothing.
    fn account(&self) -> rusqlite::Result<Option<String>> {
        let mut query =
            self.db.prepare(&format!("SELECT key, value FROM meta WHERE key GLOB '{PENDING}*' ORDER BY key"))?;
        let counts: BTreeMap<String, u64> = query
            .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?.unsigned_abs())))?
            .collect::<rusqlite::Result<_>>()?;
        if counts.is_empty() {
            return Ok(None);
        }
        let get = |name: &str| counts.get(&format!("{PENDING}{name}")).copied().unwrap_or(0);
        let mut lanes: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for (key, value) in &counts {
            let Some((kind, lane)) = key[PENDING.len()..].split_once(':') else { continue };
            let sums = lanes.entry(lane.parse().unwrap_or(0)).or_default();
            sums.1 += value;
            if kind == "lost" {
                sums.0 += value;
            }
        }
        let sum = lanes.values().fold((0, 0), |sum, (lost, most)| (sum.0 + lost, sum.1 + most));
        let lanes: Vec<serde_json::Value> = lanes
            .iter()
            .map(|(id, (lost, most))| {
                let lane = self.index.lanes.get(id);
                let (topic, priority) = (lane.map(|lane| &*lane.topic), lane.map(|lane| lane.priority));
                serde_json::json!({ "topic": topic, "priority": priority, "lost": lost, "lost_at_most": most })
            })
            .collect();
        let text = match get("quarantine") {
            0 => serde_json::json!({ "what": "storage_gap", "lost": sum.0, "lost_at_most": sum.1, "lanes": lanes }),
            number => serde_json::json!({
                "what": "storage_quarantined",
                "quarantine": self.options.path.as_deref().map(|path| {
                    super::beside(path, "-quarantine").join(number.to_string()).display().to_string()
                }),
                "salvaged": get("salvaged"),
                "lost": sum.0,
                "lost_at_most": sum.1,
                "unreadable_rows": get("unreadable"),
                "lanes": lanes,
            }),
        };
        Ok(Some(text.to_string()))
    }

    /// At the start, and after a fresh database was begun: whether there is something to read or to say.
    pub(super) fn begin_salvage(&mut self) {
        let Some(path) = self.options.path.clone() else { return };
        let pending = format!("SELECT 1 FROM meta WHERE key GLOB '{PENDING}*'");
        let pending = self.db.query_row(&pending, [], |_| Ok(())).optional().is_ok_and(|found| found.is_some());
        self.salvage = None;
        if pending || !self.index.unread.is_empty() {
            match Salvage::start(&path) {
                Ok(salvage) => self.salvage = Some(salvage),
                Err(error) => log::error!("store: what was set aside is not read before the next start: {error}"),
            }
        } else if let Err(error) = quarantine::done(&path) {
            log::warn!("store: a quarantine could not be marked as done: {error}");
        }
        self.shared.view().salvaging = self.salvage.is_some();
    }

    /// The database broke while it was in use: a fresh one takes its place, with what this run knows.
    pub(super) fn renew(&mut self) -> Result<(), super::OpenError> {
        let Some(path) = self.options.path.clone() else { return Ok(()) };
        self.broken = true;
        self.salvage = None;
        let index = self.shared.view().index.clone();
        let old = std::mem::replace(&mut self.db, Connection::open_in_memory()?);
        super::schema::leave_wal(&old);
        drop(old);
        if path.exists() && !self.moved {
            self.given.forget_salt();
            quarantine::set_aside(&path, false, "the database is broken")?;
        }
        self.moved = true;
        let db = super::schema::open(Some(&path))?;
        if super::schema::meta(&db, "store")?.is_none() {
            carry::fill(&db, &path, self.highest.bound(), None, Some(&index))?;
            let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('store', ?1), ('base', ?2)";
            db.execute(sql, [self.shared.store as i64, self.highest.bound().max(1) as i64])?;
        }
        self.base = self.highest.bound().max(1);
        self.db = db;
        self.eras.write_all(&self.db)?;
        self.stale = true;
        (self.broken, self.moved) = (false, false);
        self.shared.renewed();
        self.read_again().map_err(|refusal| super::OpenError::Later(refusal.to_string()))?;
        self.given.begin(self.shared.store, &self.index);
        self.begin_salvage();
        self.tune();
        Ok(())
    }
}
