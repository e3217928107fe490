//! Reads from the file, in short transactions on a connection and a thread of their own, so that the writer never waits
//! for a reader and no open reader keeps the WAL from being recycled.

use super::{OpenError, Refusal, Request, Store, lane::Shared, load::unreadable, schema};
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
};
use tokio::sync::oneshot;

/// At most so many rows are read in one go: a slow gateway has one event in each.
const ROWS: usize = 256;
/// At most so many bytes are read in one go, before decompression, plus one row: what a consumer holds in memory.
const BYTES: usize = 256 * 1024;
/// A row holds at most this much before compression; see `writer`.
pub(super) const ROW_BYTES: usize = 256 * 1024;
/// No event is larger than this, so no row is larger than this and `ROW_BYTES` together.
pub(super) const MAX_RAW: usize = 64 << 20;

/// One batch row, decompressed.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub first: u64,
    pub count: u64,
    /// `Err` holds the stored bytes of a row whose CRC does not fit.
    pub data: Result<Bytes, Vec<u8>>,
}

impl Chunk {
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Bytes it takes in memory, about: one of a single small event is mostly itself.
    pub fn size(&self) -> usize {
        size_of::<Chunk>() + self.data.as_ref().map_or(0, Bytes::len)
    }
}

/// Gives what is at fault with the file, if it is.
type Work = Box<dyn FnOnce(&Connection) -> Result<(), String> + Send>;

/// Work for the reading thread; `None` ends it.
pub(super) struct Read(Option<Work>);

impl Read {
    pub const END: Read = Read(None);

    /// Does the work; gives what it says of the file, or `None` when it is the end.
    pub fn run(self, db: &Connection) -> Option<Result<(), String>> {
        self.0.map(|work| work(db))
    }
}

/// Starts the reading thread; it ends when the last handle is gone.
pub(super) fn start(path: &Path, shared: Arc<Shared>) -> Result<mpsc::Sender<Read>, OpenError> {
    let (mut generation, path) = (shared.generation(), path.to_owned());
    let mut db = match schema::open_reader(&path) {
        Err(OpenError::Sqlite(error)) if unreadable(&error) => {
            shared.broke(generation, &error.to_string());
            Connection::open_in_memory()? // it has nothing to read, which is told, until a fresh one is there
        }
        opened => opened?,
    };
    let (send, receive) = mpsc::channel::<Read>();
    thread::Builder::new().name("store-read".into()).spawn(move || {
        for read in receive {
            // A fresh database took the place of a broken one.
            let now = shared.generation();
            if now != generation
                && let Ok(fresh) = schema::open_reader(&path)
            {
                (db, generation) = (fresh, now);
            }
            match read.run(&db) {
                None => return,
                Some(Err(why)) => shared.broke(generation, &why),
                Some(Ok(())) => {}
            }
        }
    })?;
    Ok(send)
}

/// A store in memory has one connection: its reads go through the writer.
pub(super) fn through(requests: mpsc::Sender<Request>) -> mpsc::Sender<Read> {
    let (send, receive) = mpsc::channel::<Read>();
    thread::spawn(move || {
        for read in receive {
            if requests.send(Request::Read(read)).is_err() {
                return;
            }
        }
    });
    send
}

pub(super) async fn ask<T: Send + 'static>(
    reads: &mpsc::Sender<Read>,
    query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    let read = Read(Some(Box::new(move |db| {
        let found = query(db);
        let fault = found.as_ref().err().filter(|error| unreadable(error)).map(ToString::to_string);
        reply.send(found).ok();
        fault.map_or(Ok(()), Err)
    })));
    reads.send(read).map_err(|_| Refusal::Closed)?;
    answer.await.map_err(|_| Refusal::Closed)?.map_err(|e| Refusal::Failed(e.to_string()))
}

pub(super) fn key(lane: u16, seq: u64) -> i64 {
    (i64::from(lane) << 48) | (seq & 0xffff_ffff_ffff) as i64
}

pub(super) fn seq_of(key: i64) -> u64 {
    key as u64 & 0xffff_ffff_ffff
}

/// CRC-32 of a row as stored.
pub(super) fn crc(key: i64, count: i64, size: i64, body: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for n in [key, count, size] {
        hash.update(&n.to_le_bytes());
    }
    hash.update(body);
    hash.finalize()
}

/// The rows of a lane from the one that holds `seq` on.
pub(super) async fn batches(reads: &mpsc::Sender<Read>, lane: u16, seq: u64) -> Result<Vec<Chunk>, Refusal> {
    ask(reads, move |db| {
        let (low, high) = (key(lane, 0), key(lane, u64::MAX));
        let from: Option<i64> = db
            .prepare_cached("SELECT max(id) FROM batch WHERE id BETWEEN ?1 AND ?2")?
            .query_row(params![low, key(lane, seq)], |r| r.get(0))?;
        let mut query =
            db.prepare_cached("SELECT id, count, size, crc, body FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
        let mut rows = query.query(params![from.unwrap_or(low), high])?;
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let (id, count, size, sum): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let body = row.get_ref(4)?.as_blob().unwrap_or_default();
            let chunk =
                Chunk { first: seq_of(id), count: count.unsigned_abs(), data: unpack(id, count, size, sum, body) };
            if chunk.end() <= seq && (chunk.data.is_ok() || chunk.first < seq) {
                continue;
            }
            bytes += size.unsigned_abs() as usize;
            chunks.push(chunk);
            if chunks.len() >= ROWS || bytes >= BYTES {
                break;
            }
        }
        Ok(chunks)
    })
    .await
}

pub(super) fn unpack(id: i64, count: i64, size: i64, sum: i64, body: &[u8]) -> Result<Bytes, Vec<u8>> {
    let size_fits = usize::try_from(size).ok().filter(|n| *n <= MAX_RAW);
    match size_fits {
        Some(size) if i64::from(crc(id, count, size as i64, body)) == sum => {
            if size == body.len() {
                return Ok(Bytes::copy_from_slice(body));
            }
            lz4_flex::block::decompress(body, size).map(Bytes::from).map_err(|_| body.to_vec())
        }
        _ => Err(body.to_vec()),
    }
}

impl Store {
    /// What an owner remembers under keys with this prefix, in order of the keys; at most `limit` of them.
    pub async fn state(&self, owner: &str, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Refusal> {
        let (owner, prefix) = (owner.to_owned(), prefix.to_vec());
        ask(&self.reads, move |db| {
            let mut query =
                db.prepare_cached("SELECT key, value FROM state WHERE owner = ?1 AND key >= ?2 ORDER BY key")?;
            let mut rows = query.query(params![owner, prefix])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                if !key.starts_with(&prefix) || found.len() >= limit {
                    break;
                }
                found.push((key, row.get(1)?));
            }
            Ok(found)
        })
        .await
    }

    /// Owners with this prefix who remember something, and how many keys.
    pub async fn owners(&self, prefix: &str) -> Result<Vec<(String, u64)>, Refusal> {
        let (low, high) = (prefix.to_owned(), format!("{prefix}\u{10ffff}"));
        ask(&self.reads, move |db| {
            let sql = "SELECT owner, count(*) FROM state WHERE owner BETWEEN ?1 AND ?2 GROUP BY owner ORDER BY owner";
            let mut query = db.prepare(sql)?;
            query.query_map(params![low, high], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.unsigned_abs())))?.collect()
        })
        .await
    }

    /// An owner's timers, the earliest first; at most `limit` of them.
    pub async fn timers(&self, owner: &str, limit: usize) -> Result<Vec<(Vec<u8>, i64)>, Refusal> {
        let owner = owner.to_owned();
        ask(&self.reads, move |db| {
            let mut query = db.prepare_cached("SELECT key, due FROM timer WHERE owner = ?1 ORDER BY due LIMIT ?2")?;
            query.query_map(params![owner, limit as i64], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
        })
        .await
    }
}
