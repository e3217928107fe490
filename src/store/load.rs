//! What a database holds, read at the start and again after a failure.

use super::{
    Keep, OpenError, Options,
    highest::Highest,
    holes::{Hole, Range},
    lane::{Away, Consumer, Cursor, Index, Lane},
    rows::{key, seq_of},
    seen::Seen,
    trim,
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

/// Whether the file is at fault: SQLite says so, or a row holds what was never written, or stands in an index that knows another.
pub(super) fn unreadable(error: &rusqlite::Error) -> bool {
    // A page lies beyond the end of the file. An input error of the disk has another number.
    if error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ) {
        return true;
    }
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation)
    ) || matches!(
        error,
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
    )
}

/// The store's random number, and where the numbers of new lanes begin: above all that a lost database gave out.
pub(super) fn identity(db: &Connection, highest: &Highest) -> Result<(u64, u64), OpenError> {
    let fresh = fastrand::i64(1..=i64::MAX);
    db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('store', ?1)", [fresh])?;
    let base = i64::try_from(highest.bound().max(1)).unwrap_or(i64::MAX);
    db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('base', ?1)", [base])?;
    let read = |key: &str| db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get::<_, i64>(0));
    Ok((read("store")?.unsigned_abs(), read("base")?.unsigned_abs()))
}

/// The last start of the gateway that was followed by an orderly end; 0: none.
pub(super) fn closed(db: &Connection) -> Result<u32, OpenError> {
    let closed = db.query_row("SELECT value FROM meta WHERE key = 'closed'", [], |r| r.get(0)).optional()?;
    Ok(closed.unwrap_or(0))
}

pub(super) fn note_closed(db: &Connection, start: u32) -> rusqlite::Result<()> {
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('closed', ?1)", [start]).map(drop)
}

pub(super) fn load(db: &Connection, options: &Options) -> Result<(Index, Seen), OpenError> {
    let mut index = Index::default();
    let mut query = db.prepare("SELECT id, topic, priority, start, first, next, dropped FROM lane")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let id: u16 = r.get(0)?;
        let topic: String = r.get(1)?;
        let number = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let (start, first, mut next, dropped) = (number(3)?, number(4)?, number(5)?, number(6)?);
        let last = db
            .prepare_cached("SELECT id, count FROM batch WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1")?
            .query_row(params![key(id, 0), key(id, u64::MAX)], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)));
        match last {
            Ok((key, count)) => next = next.max(seq_of(key) + count.unsigned_abs()),
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            Err(error) => return Err(error.into()),
        }
        let bytes = match options.keep.get(&topic) {
            Some(Keep { bytes: Some(_), .. }) => trim::bytes(db, id)?,
            _ => 0,
        };
        index.lanes.insert(id, Lane { topic: topic.into(), priority: r.get(2)?, start, first, next, bytes, dropped });
    }
    let mut query = db.prepare("SELECT id, name FROM consumer")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        index.consumers.insert(r.get(0)?, Consumer { name: r.get(1)?, topics: Vec::new() });
    }
    let mut query =
        db.prepare("SELECT id, start, seq, delivered, stopped, dead, expired, evicted, dropped FROM cursor")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let id: i64 = r.get(0)?;
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let cursor = Cursor {
            start: r.get(1)?,
            seq: n(2)?,
            delivered: n(3)?,
            stopped: n(4)?,
            dead: n(5)?,
            expired: n(6)?,
            evicted: n(7)?,
            dropped: n(8)?,
        };
        index.cursors.insert(((id >> 16) as u32, id as u16), cursor);
    }
    let mut query = db.prepare("SELECT id, next, bytes FROM offloaded")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let (id, away) = (r.get::<_, i64>(0)?, Away { next: n(1)?, bytes: n(2)? });
        let lane = (id >> 48) as u16;
        index.offloaded.insert((lane, seq_of(id)), away);
        if let Some(lane) = index.lanes.get_mut(&lane) {
            lane.next = lane.next.max(away.next);
        }
    }
    load_holes(db, &mut index)?;
    Ok((index, Seen::load(db, options.window)?))
}

fn load_holes(db: &Connection, index: &mut Index) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT id, next, lost FROM hole")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let id: i64 = r.get(0)?;
        let hole = Hole { next: r.get::<_, i64>(1)?.unsigned_abs(), lost: r.get(2)? };
        index.holes.insert(((id >> 48) as u16, seq_of(id)), hole);
    }
    let mut query = db.prepare("SELECT lane, at, next, vague FROM unread")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        index.unread.insert(r.get(0)?, Range { at: n(1)?, next: n(2)?, vague: r.get(3)? });
    }
    Ok(())
}
