//! Reads a table of a broken database in order of its rows' ids, past what cannot be read.
//!
//! A page that cannot be read fails every query that begins in it. So the first id behind it is looked for, in steps that
//! double, then halve.

use super::given;
use rusqlite::{Connection, OpenFlags, Row, Statement, config::DbConfig, params};
use std::{fs::File, ops::ControlFlow, path::Path, time::Instant};

/// What a walk came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// The first id that was not looked at; beyond the last when all were.
    pub next: i64,
    /// Rows, or runs of them, that cannot be read.
    pub unreadable: u64,
}

/// The ways to look at a database that was set aside: with its WAL, and as it was before it. What either holds was committed
/// once.
pub(super) fn views(file: &Path) -> Vec<Connection> {
    if std::fs::metadata(file).is_ok_and(|file| file.len() == 0) && given::salt(&super::beside(file, "-wal")).is_some()
    {
        // SQLite removes the WAL of an empty database unread.
        File::options().write(true).open(file).and_then(|file| file.set_len(2048)).ok();
    }
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let with_wal = Connection::open_with_flags_and_vfs(file, flags | OpenFlags::SQLITE_OPEN_READ_WRITE, c"unix-excl");
    let mut uri = String::from("file:");
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(*byte)),
            other => uri += &format!("%{other:02x}"),
        }
    }
    let without = Connection::open_with_flags(uri + "?immutable=1", flags | OpenFlags::SQLITE_OPEN_READ_ONLY);
    let views = [with_wal, without].into_iter().filter_map(Result::ok);
    views
        .inspect(|db| {
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok();
            // Without `writable_schema` a file that is too short is not read at all.
            for pragma in [
                "writable_schema=1",
                "query_only=1",
                "cell_size_check=1",
                "mmap_size=0",
                "cache_size=-512",
                "trusted_schema=0",
            ] {
                db.query_row(&format!("PRAGMA {pragma}"), [], |_| Ok(())).ok();
            }
        })
        .collect()
}

/// Hands over each row with an id from `from` to `to`: the query takes these two, gives the id first, and orders by it. A row that
/// `each` cannot read is counted. Ends early when `each` says so, or at the deadline.
pub(super) fn walk(
    db: &Connection,
    query: &str,
    (from, to): (i64, i64),
    deadline: Option<Instant>,
    mut each: impl FnMut(i64, &Row<'_>) -> rusqlite::Result<ControlFlow<()>>,
) -> Walk {
    let mut walk = Walk { next: from, unreadable: 0 };
    let Ok(mut statement) = db.prepare_cached(query) else {
        return Walk { next: to.saturating_add(1), unreadable: 1 };
    };
    'again: while walk.next <= to {
        if deadline.is_some_and(|end| Instant::now() > end) {
            walk.unreadable += 1;
            return walk;
        }
        let began = walk.next;
        if let Ok(mut rows) = statement.query(params![walk.next, to]) {
            loop {
                let Ok(row) = rows.next() else { break };
                let Some(row) = row else {
                    walk.next = to.saturating_add(1);
                    return walk;
                };
                let Ok(id) = row.get::<_, i64>(0) else { break };
                if id < walk.next {
                    break; // a tree that leads back
                }
                walk.next = id.saturating_add(1);
                match each(id, row) {
                    Err(_) => walk.unreadable += 1,
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return walk,
                }
                if deadline.is_some_and(|end| Instant::now() > end) {
                    continue 'again;
                }
            }
        }
        // Right behind a row that was read, it is tried once more.
        if walk.next == began || !reads(&mut statement, walk.next, to) {
            walk.unreadable += 1;
            walk.next = behind(&mut statement, walk.next, to);
        }
    }
    walk
}

fn reads(statement: &mut Statement<'_>, from: i64, to: i64) -> bool {
    statement.query(params![from, to]).is_ok_and(|mut rows| match rows.next() {
        Ok(Some(row)) => row.get::<_, i64>(0).is_ok_and(|id| id >= from),
        Ok(None) => true,
        Err(_) => false,
    })
}

/// The first id behind one that cannot be read from.
fn behind(statement: &mut Statement<'_>, bad: i64, to: i64) -> i64 {
    let (mut bad, mut step) = (bad, 1_i64);
    let mut good = loop {
        let at = bad.saturating_add(step);
        if at > to {
            break to.saturating_add(1);
        }
        if reads(statement, at, to) {
            break at;
        }
        (bad, step) = (at, step.saturating_mul(2));
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if reads(statement, middle, to) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that a walk over a table of 2,000 rows finds after a page of the file was zeroed.
    fn found(harm: impl FnOnce(&mut Vec<u8>)) -> (usize, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size=1024; CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB)").unwrap();
        db.execute_batch("BEGIN").unwrap();
        for id in 0..2_000 {
            db.execute("INSERT INTO t VALUES (?1, randomblob(100))", [id << 20]).unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        db.close().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        harm(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let db = views(&path).pop().unwrap();
        let mut ids = Vec::new();
        let walk = walk(
            &db,
            "SELECT id, x FROM t WHERE id BETWEEN ?1 AND ?2 ORDER BY id",
            (0, i64::MAX - 1),
            None,
            |id, _| {
                ids.push(id);
                Ok(ControlFlow::Continue(()))
            },
        );
        assert_eq!(walk.next, i64::MAX);
        assert!(ids.is_sorted_by(|a, b| a < b));
        (ids.len(), walk.unreadable)
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        assert_eq!(found(|_| {}), (2_000, 0));
        let page = |n: usize| move |bytes: &mut Vec<u8>| bytes[n * 1024..][..1024].fill(0);
        // Pages of rows hold nine each.
        assert_eq!(found(page(20)), (1_991, 1));
        let (rows, unreadable) = found(|bytes| [20, 21, 50].iter().for_each(|n| page(*n)(bytes)));
        assert!(rows == 1_973 && (2..=3).contains(&unreadable), "{rows} {unreadable}");
        // The file ends in its middle.
        let (rows, unreadable) = found(|bytes| bytes.truncate(100 * 1024));
        assert!((800..1_000).contains(&rows) && unreadable > 0, "{rows} {unreadable}");
    }
}
