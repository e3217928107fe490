//! Brings into a fresh database what an old one, or what was given out, tells: lanes with their topics, consumers and their
//! cursors, boots, ids of producers, dead letters, what lies in objects, and what pipelines remember. The store's number and the
//! lanes' ids stay, so events keep their ids; new numbers begin above all that were given out.
//!
//! The rows of events follow in the background (see `salvage`). What a pipeline remembers is taken over only with its cursors: where
//! these cannot be read as a whole, all consumers begin at the oldest event that is left, and pipelines with nothing.

use super::{
    OpenError,
    given::Found,
    holes::{Hole, Range, write_hole},
    lane::{Cursor, Index, name_of},
    quarantine,
    walk::{views, walk},
};
use rusqlite::{Connection, OptionalExtension, ToSql, params, types::ValueRef};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A start waits this long for what is carried over, at most: what comes later than that is counted as unreadable.
const LIMIT: Duration = Duration::from_secs(4);

/// Tables and their columns: whole numbers, text, bytes; `n` may be null. The small ones that all the rest hangs on come first.
const TABLES: [(&str, &str); 11] = [
    ("meta", "key:t value:i"),
    ("lane", "id:i topic:t priority:i start:i first:i next:i dropped:i"),
    ("consumer", "id:i name:t"),
    ("cursor", "id:i start:i seq:i delivered:i stopped:i dead:i expired:i evicted:i dropped:i"),
    ("boot", "n:i id:t at:i steady:n aged:n wall:n last:i"),
    ("offloaded", "id:i next:i bytes:i object:t length:i sha256:b"),
    ("hole", "id:i next:i lost:i"),
    ("seen", "id:i at:i marks:b"),
    ("state", "owner:t key:b value:b"),
    ("timer", "owner:t key:b due:i"),
    ("dead", "id:i at:i consumer:t topic:t seq:i event:t reason:t body:b"),
];
const TABLES_OF_CURSORS: [&str; 3] = ["lane", "consumer", "cursor"];

/// What no store ever wrote, and what belongs to the old file alone.
const CLEAN: &str = "
    DELETE FROM meta WHERE key IN ('base', 'closed', 'salvage:salvaged', 'salvage:quarantine');
    DELETE FROM lane WHERE id NOT BETWEEN 1 AND 65534 OR priority NOT BETWEEN 0 AND 7 OR topic = '' OR dropped < 0
        OR start < 0 OR first < start OR next < first OR next >= 1 << 48;
    DELETE FROM consumer WHERE id NOT BETWEEN 1 AND 4294967294;
    DELETE FROM cursor WHERE id >> 16 NOT IN (SELECT id FROM consumer) OR id & 65535 NOT IN (SELECT id FROM lane)
        OR min(seq, delivered, stopped, dead, expired, evicted, dropped) < 0 OR seq >= 1 << 48;
    DELETE FROM boot WHERE n NOT BETWEEN 1 AND 4294967294 OR last < 0;
    DELETE FROM offloaded WHERE id >> 48 NOT IN (SELECT id FROM lane) OR next <= id & 0xffffffffffff OR bytes < 0
        OR length(sha256) <> 32;
    DELETE FROM hole WHERE id >> 48 NOT IN (SELECT id FROM lane) OR next <= id & 0xffffffffffff;
    DELETE FROM seen WHERE length(marks) % 12 <> 0;
";

/// What is to be told once all has been read. It waits in the table `meta`, under these names.
pub(super) const PENDING: &str = "salvage:";

pub(super) fn count(db: &Connection, name: &str, more: u64) -> rusqlite::Result<()> {
    if more == 0 {
        return Ok(());
    }
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = value + ?2";
    db.prepare_cached(sql)?.execute(params![format!("{PENDING}{name}"), more as i64]).map(drop)
}

/// Fills a fresh database in one transaction. `memory` is what this run knows, if it has begun: that is exact. `bound` lies above
/// all numbers that were given out.
pub(super) fn fill(
    db: &Connection,
    path: &Path,
    bound: u64,
    found: Option<&Found>,
    memory: Option<&Index>,
) -> Result<(), OpenError> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let filled = bring(db, path, bound, found, memory).and_then(|()| db.execute_batch("COMMIT"));
    if filled.is_err() {
        db.execute_batch("ROLLBACK").ok();
    }
    Ok(filled?)
}

fn bring(
    db: &Connection,
    path: &Path,
    bound: u64,
    found: Option<&Found>,
    memory: Option<&Index>,
) -> rusqlite::Result<()> {
    let (mut whole, mut unreadable) = (true, 0);
    let files = quarantine::unread(path);
    let deadline = Instant::now() + LIMIT;
    if let Some((number, views)) = told(&files) {
        let mut take = |table: &str, columns: &str| -> rusqlite::Result<()> {
            let lost = match views.first() {
                Some(view) => copy(view, db, table, columns, deadline)?,
                None => 1,
            };
            unreadable += lost;
            // An older state of these is better than none.
            if lost > 0 && ["meta", "lane", "boot"].contains(&table) {
                for view in views.iter().skip(1) {
                    copy(view, db, table, columns, deadline)?;
                }
            }
            whole &= lost == 0 || !TABLES_OF_CURSORS.contains(&table);
            Ok(())
        };
        TABLES.iter().try_for_each(|(table, columns)| take(table, columns))?;
        db.execute_batch(CLEAN)?;
        count(db, "quarantine", number)?;
        count(db, "unreadable", unreadable)?;
    }
    if let Some(index) = memory {
        from_memory(db, index)?;
    } else if !whole || !add_up(db)? {
        whole = false;
        db.execute_batch(
            "DELETE FROM cursor; DELETE FROM consumer; DELETE FROM state WHERE owner GLOB 'pipelines.*';
             DELETE FROM timer WHERE owner GLOB 'pipelines.*'",
        )?;
    }
    let store: Option<i64> = db.query_row("SELECT max(value) FROM meta WHERE key = 'store'", [], |r| r.get(0))?;
    let found = found.filter(|found| store.is_none_or(|store| store.unsigned_abs() == found.store));
    if memory.is_none() {
        drop_strangers(db, found)?;
    }
    let lanes = number_anew(db, bound, found, memory.is_some(), whole)?;
    // Lanes of which nothing is left but what was given out.
    for (lane, (next, passed, _)) in found.iter().flat_map(|found| &found.lanes) {
        if !lanes.contains(lane) {
            count(db, &format!("lost:{lane}"), next.saturating_sub(*passed))?;
        }
    }
    if let Some(found) = found {
        let sql = "INSERT OR IGNORE INTO meta (key, value) VALUES ('store', ?1)";
        db.execute(sql, [found.store as i64])?;
    }
    // A bound alone says no more.
    if found.is_none_or(|found| !found.exact) && lanes.is_empty() && bound > 0 && memory.is_none() {
        count(db, "most:0", bound)?;
    }
    Ok(())
}

/// The newest that tells something: one that was set aside before it was filled tells nothing, and one before it may.
fn told(files: &[(u64, PathBuf)]) -> Option<(u64, Vec<Connection>)> {
    let mut newest = None;
    for (number, file) in files {
        let views = views(file);
        if !views.iter().all(is_blank) {
            return Some((*number, views));
        }
        newest = newest.or(Some((*number, views)));
    }
    newest
}

/// Whether a database was begun, and nothing is in it yet.
fn is_blank(view: &Connection) -> bool {
    let count = |sql: &str| view.query_row(sql, [], |r| r.get::<_, i64>(0)).ok();
    count("SELECT count(*) FROM sqlite_schema") == Some(0)
        || count("SELECT count(*) FROM meta WHERE key = 'store'") == Some(0)
}

/// Copies the rows of a table whose columns are what they should be; gives how many were not, or could not be read.
fn copy(from: &Connection, to: &Connection, table: &str, columns: &str, deadline: Instant) -> rusqlite::Result<u64> {
    let mut known = from.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).ok();
    let known: Vec<String> = known
        .as_mut()
        .and_then(|query| Some(query.query_map([], |r| r.get(0)).ok()?.filter_map(Result::ok).collect()))
        .unwrap_or_default();
    // An older version has fewer columns, or not the table.
    let columns = columns.split(' ').filter_map(|column| column.split_once(':'));
    let columns: Vec<(&str, &str)> = columns.filter(|(name, _)| known.iter().any(|known| known == name)).collect();
    if columns.is_empty() {
        return Ok(u64::from(table != "hole"));
    }
    let names = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let places = (1..=columns.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})");
    let mut failed = None;
    let query = format!("SELECT rowid, {names} FROM {table} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid");
    let walked = walk(from, &query, (0, i64::MAX - 1), Some(deadline), |_, row| {
        let mut values: Vec<ValueRef<'_>> = Vec::with_capacity(columns.len());
        for (at, (name, kind)) in columns.iter().enumerate() {
            let value = row.get_ref(at + 1)?;
            let fits = match value {
                ValueRef::Integer(_) => *kind == "i" || *kind == "n",
                ValueRef::Text(text) => *kind == "t" && std::str::from_utf8(text).is_ok(),
                ValueRef::Blob(_) => *kind == "b",
                ValueRef::Null => *kind == "n",
                ValueRef::Real(_) => false,
            };
            if !fits {
                return Err(rusqlite::Error::InvalidColumnType(at, (*name).to_owned(), value.data_type()));
            }
            values.push(value);
        }
        let values: Vec<rusqlite::types::ToSqlOutput<'_>> =
            values.into_iter().map(rusqlite::types::ToSqlOutput::Borrowed).collect();
        let values: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
        match to.prepare_cached(&insert).and_then(|mut insert| insert.execute(&values[..])) {
            Ok(_) => Ok(ControlFlow::Continue(())),
            Err(error) => {
                failed = Some(error);
                Ok(ControlFlow::Break(()))
            }
        }
    });
    failed.map_or(Ok(walked.unreadable), Err)
}

/// What this run knows of lanes and cursors is better than what the file says.
fn from_memory(db: &Connection, index: &Index) -> rusqlite::Result<()> {
    db.execute_batch("DELETE FROM lane; DELETE FROM consumer; DELETE FROM cursor; DELETE FROM hole")?;
    for (id, lane) in &index.lanes {
        db.execute(
            "INSERT INTO lane (id, topic, priority, start, first, next, dropped) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                id,
                lane.topic.as_ref(),
                lane.priority,
                lane.start as i64,
                lane.first as i64,
                lane.next as i64,
                lane.dropped as i64
            ],
        )?;
    }
    for (id, consumer) in &index.consumers {
        db.execute("INSERT INTO consumer (id, name) VALUES (?1, ?2)", params![id, consumer.name])?;
    }
    for (at, cursor) in &index.cursors {
        cursor.write(db, *at)?;
    }
    index.holes.iter().try_for_each(|((lane, first), hole)| write_hole(db, *lane, *first, *hole))
}

/// Whether the counters of all cursors fit each other.
fn add_up(db: &Connection) -> rusqlite::Result<bool> {
    let mut query = db.prepare("SELECT start, seq, delivered, dead, expired, evicted, dropped FROM cursor")?;
    let mut rows = query.query([])?;
    while let Some(r) = rows.next()? {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let (start, seq, delivered, dead, expired) = (r.get(0)?, n(1)?, n(2)?, n(3)?, n(4)?);
        let (evicted, dropped) = (n(5)?, n(6)?);
        if !(Cursor { start, seq, delivered, dead, expired, evicted, dropped, stopped: 0 }).adds_up() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lanes whose names are not those that they had go.
fn drop_strangers(db: &Connection, found: Option<&Found>) -> rusqlite::Result<()> {
    for (lane, (_, _, name)) in found.iter().flat_map(|found| &found.lanes) {
        let known = db.query_row("SELECT topic, priority FROM lane WHERE id = ?1", [lane], |r| {
            Ok(name_of(&r.get::<_, String>(0)?, r.get(1)?))
        });
        if known.optional()?.is_some_and(|known| known != *name) {
            db.execute("DELETE FROM lane WHERE id = ?1", [lane])?;
            db.execute("DELETE FROM cursor WHERE id & 65535 = ?1", [lane])?;
        }
    }
    Ok(())
}

/// Where each lane goes on, and what is to be read of it. Gives the lanes.
fn number_anew(
    db: &Connection,
    bound: u64,
    found: Option<&Found>,
    exact: bool,
    whole: bool,
) -> rusqlite::Result<Vec<u16>> {
    let mut query = db.prepare("SELECT id, first, next FROM lane")?;
    let lanes: Vec<(u16, i64, i64)> =
        query.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
    for (id, first, next) in &lanes {
        let (first, next) = (first.unsigned_abs(), next.unsigned_abs());
        // No number lies above the bound: such a row is damaged.
        let (first, mut end) = if !exact && bound > 0 && next > bound { (0, 0) } else { (first, next) };
        let given = found.and_then(|found| found.lanes.get(id)).copied();
        end = end.max(given.map_or(0, |(next, ..)| next));
        let vague = !(exact || given.is_some() && found.is_some_and(|found| found.exact));
        let fresh = if exact { end } else { end.max(bound) };
        let passed = given.map_or(0, |(_, passed, _)| passed);
        let of_lane = "id & 65535 = ?1";
        let raise =
            format!("UPDATE cursor SET delivered = delivered + ?2 - seq, seq = ?2 WHERE {of_lane} AND seq < ?2");
        if !exact {
            db.execute(&raise, params![id, passed as i64])?;
        }
        // A cursor beyond all that was given out is damaged: its consumer begins anew.
        let anew = format!(
            "UPDATE cursor SET start = ?2, seq = ?2, delivered = 0, stopped = 0, dead = 0, expired = 0, evicted = 0, dropped = 0
                WHERE {of_lane} AND seq > ?3"
        );
        db.execute(&anew, params![id, first.max(passed).min(end) as i64, fresh as i64])?;
        let lowest = format!("SELECT min(seq) FROM cursor WHERE {of_lane}");
        let lowest: Option<i64> = db.query_row(&lowest, [id], |r| r.get(0))?;
        let at = match lowest {
            Some(seq) => seq.unsigned_abs().max(first),
            // Nobody had read it, or who did is not known.
            None if whole => end,
            None => first.max(passed),
        };
        let to = if vague { fresh } else { end };
        let range = Range { at: at.min(to), next: to, vague };
        let pass = format!("UPDATE cursor SET evicted = evicted + ?2 - seq, seq = ?2 WHERE {of_lane} AND seq < ?2");
        db.execute(&pass, params![id, range.at as i64])?;
        let open = range.at < range.next && (lowest.is_some() || !whole);
        if open {
            write_range(db, *id, range)?;
        }
        // Skipped numbers count for nobody.
        let skipped = if open { fresh - range.next } else { fresh - at.min(fresh) };
        if skipped > 0 {
            write_hole(db, *id, fresh - skipped, Hole { next: fresh, lost: false })?;
        }
        db.execute(
            "UPDATE lane SET start = start + ?2, first = ?3, next = ?4 WHERE id = ?1",
            params![id, (fresh - end) as i64, range.at as i64, fresh as i64],
        )?;
    }
    Ok(lanes.into_iter().map(|(id, ..)| id).collect())
}

pub(super) fn write_range(db: &Connection, lane: u16, range: Range) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO unread (lane, at, next, vague) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![lane, range.at as i64, range.next as i64, range.vague])
        .map(drop)
}

/// The database is whole, but commits that it had are gone, as far as is known from outside: numbers go on above all that were
/// given out.
pub(super) fn close_gap(db: &Connection, index: &Index, base: u64, bound: u64, found: &Found) -> rusqlite::Result<()> {
    for (lane, (given, passed, _)) in &found.lanes {
        let (given, from) = (*given, next(index, base, *lane));
        if given <= from {
            continue;
        }
        let lost = given - from.max(*passed).min(given);
        let topic = index.lanes.get(lane).map_or("a new topic", |lane| &*lane.topic);
        log::error!("store: commits are gone: of `{topic}`, {lost} events that were not delivered");
        count(db, &format!("lost:{lane}"), lost)?;
        let fresh = bound.max(given);
        if !found.exact {
            count(db, &format!("most:{lane}"), fresh - given)?;
        }
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('base', ?1)", [bound.max(base) as i64])?;
        if !index.lanes.contains_key(lane) {
            continue;
        }
        let id = i64::from(*lane);
        db.execute(
            "UPDATE cursor SET delivered = delivered + ?2 - seq, seq = ?2 WHERE id & 65535 = ?1 AND seq < ?2",
            params![id, *passed as i64],
        )?;
        write_hole(db, *lane, from, Hole { next: given, lost: true })?;
        if fresh > given {
            write_hole(db, *lane, given, Hole { next: fresh, lost: false })?;
        }
        let start = "UPDATE lane SET start = start + ?2, next = ?3 WHERE id = ?1";
        db.execute(start, params![id, (fresh - given) as i64, fresh as i64])?;
    }
    count(db, "gap", 1)
}

fn next(index: &Index, base: u64, lane: u16) -> u64 {
    index.lanes.get(&lane).map_or(base, |lane| lane.next)
}

/// Whether more was given out than the database knows.
pub(super) fn is_behind(index: &Index, base: u64, found: &Found) -> bool {
    found.lanes.iter().any(|(lane, (given, ..))| *given > next(index, base, *lane))
}
