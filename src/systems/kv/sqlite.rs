//! A key-value store in an SQLite file of its own.

use super::{Kv, check_key, check_list, check_put, check_swap, full};
use crate::{budget::Size, clock, fault::Fault, systems::blocking::Blocking};
use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Keeps values in an SQLite file; each change is on the disk before it is answered.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file, relative to the directory in which the gateway was started; no other program may have it open. Default:
    /// `NAME.kv.db` beside the store.
    #[schemars(with = "Option<String>")]
    pub path: Option<PathBuf>,
    /// Bytes that the file may have.
    #[serde(default = "default_limit")]
    pub limit: Size,
}

fn default_limit() -> Size {
    Size(256 << 20)
}

/// "TIDK": tells our files from other SQLite databases, the gateway's store among them.
const APPLICATION_ID: i64 = 0x5449_444b;
/// SQLite's own default.
const PAGE_SIZE: u64 = 4096;
/// A commit takes milliseconds; a disk that is silent for so long has an illness.
const PATIENCE: Duration = Duration::from_secs(30);
/// Expired rows that a change removes in passing, so that none takes long.
const SWEPT: i64 = 100;

const TABLES: &str = "
    CREATE TABLE entry (key TEXT NOT NULL UNIQUE, value BLOB NOT NULL, due INTEGER);
    CREATE INDEX entry_due ON entry (due) WHERE due IS NOT NULL;
";

pub struct SqliteKv {
    path: PathBuf,
    limit: Size,
    name: String,
    /// Opened at the first call, and again after a failure.
    db: Blocking<Option<Connection>>,
}

impl SqliteKv {
    /// For a system of that name; `data` is where its file lies if the configuration does not say.
    pub fn new(config: Config, name: &str, data: &Path) -> Result<Self, (String, String)> {
        let path = config.path.unwrap_or_else(|| data.join(format!("{name}.kv.db")));
        if path.file_name().is_none() {
            return Err(("path".into(), "expected the path of a file".into()));
        }
        if config.limit.0 < 1 << 20 {
            return Err(("limit".into(), "expected at least 1MiB".into()));
        }
        Ok(SqliteKv { name: path.display().to_string(), path, limit: config.limit, db: Blocking::new(None) })
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, Fault> {
        let (path, name, limit) = (self.path.clone(), self.name.clone(), self.limit);
        let call = move |slot: &mut Option<Connection>| {
            let mut db = match slot.take() {
                Some(db) => db,
                None => open(&path, limit).map_err(|e| Fault::retry(format!("`{name}`: {e:#}")))?,
            };
            let error = match work(&mut db) {
                Ok(done) => {
                    *slot = Some(db);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let room = error.sqlite_error_code() == Some(ErrorCode::DiskFull) && at_limit(&db, limit).unwrap_or(false);
            let fault = match room {
                true => full(limit, expiring(&db).unwrap_or(true)),
                false => Fault::retry(format!("`{name}`: {error}")),
            };
            *slot = room.then_some(db);
            Err(fault)
        };
        self.db.call(PATIENCE, &self.name, call).await
    }

    /// A change, which removes some of what has expired in the same transaction.
    async fn change(
        &self,
        change: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<bool, Fault> {
        self.run(move |db| {
            let (step, now) = (db.transaction()?, clock::steady_ms());
            let expired = "DELETE FROM entry WHERE rowid IN (SELECT rowid FROM entry WHERE due <= ?1 LIMIT ?2)";
            step.prepare_cached(expired)?.execute(params![now, SWEPT])?;
            let changed = change(&step, now)?;
            step.commit()?;
            Ok(changed > 0)
        })
        .await
    }
}

fn open(path: &Path, limit: Size) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // As in the store: `unix-excl` needs no memory map, which a full disk would make a SIGBUS.
    let mut db = Connection::open_with_flags_and_vfs(path, flags, c"unix-excl")?;
    let fresh = db.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))? == 0;
    if fresh {
        db.pragma_update(None, "page_size", PAGE_SIZE as i64)?;
    } else if pragma(&db, "application_id")? != APPLICATION_ID {
        anyhow::bail!("it is another program's database");
    }
    let mode: String = db.query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0))?;
    let pages = i64::try_from(limit.0 / PAGE_SIZE).unwrap_or(i64::MAX);
    for (name, value) in [
        ("synchronous", 2), // FULL: in WAL mode NORMAL loses what was acknowledged at a power cut
        ("mmap_size", 0),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("cache_size", -512), // KiB
        ("max_page_count", pages),
    ] {
        // Some pragmas answer with a row, some with none.
        db.query_row(&format!("PRAGMA {name}={value}"), [], |_| Ok(())).optional()?;
    }
    let synchronous = pragma(&db, "synchronous")?;
    if mode != "wal" || synchronous != 2 {
        anyhow::bail!("journal_mode is {mode}, synchronous is {synchronous}");
    }
    if fresh {
        let step = db.transaction()?;
        step.execute_batch(TABLES)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.commit()?;
    }
    Ok(db)
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0))
}

/// Whether the file may not grow, rather than that the disk is full.
fn at_limit(db: &Connection, limit: Size) -> rusqlite::Result<bool> {
    // A value may need some hundred pages at once.
    let reserve = (super::MAX_VALUE as u64 / PAGE_SIZE) * 2;
    Ok(pragma(db, "page_count")?.unsigned_abs() + reserve >= limit.0 / PAGE_SIZE)
}

fn expiring(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM entry WHERE due IS NOT NULL)", [], |r| r.get(0))
}

#[async_trait]
impl Kv for SqliteKv {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(move |db| {
            let sql = "SELECT value FROM entry WHERE key = ?1 AND (due IS NULL OR due > ?2)";
            db.prepare_cached(sql)?.query_row(params![key, clock::steady_ms()], |r| r.get(0)).optional()
        })
        .await
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), Fault> {
        let ttl = check_put(key, value, ttl)?;
        let (key, value) = (key.to_owned(), value.to_vec());
        self.change(move |step, now| {
            let due = ttl.map(|ms| now.saturating_add_unsigned(ms));
            let sql = "INSERT INTO entry (key, value, due) VALUES (?1, ?2, ?3)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value, due = excluded.due";
            step.prepare_cached(sql)?.execute(params![key, value, due])
        })
        .await
        .map(|_| ())
    }

    async fn compare_and_swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Result<bool, Fault> {
        check_swap(key, old, new)?;
        let (key, old, new) = (key.to_owned(), old.map(<[u8]>::to_vec), new.to_vec());
        self.change(move |step, now| match old {
            Some(old) => {
                let sql = "UPDATE entry SET value = ?1, due = NULL
                    WHERE key = ?2 AND value = ?3 AND (due IS NULL OR due > ?4)";
                step.prepare_cached(sql)?.execute(params![new, key, old, now])
            }
            None => {
                let sql = "INSERT INTO entry (key, value) VALUES (?1, ?2)
                    ON CONFLICT (key) DO UPDATE SET value = excluded.value, due = NULL WHERE entry.due <= ?3";
                step.prepare_cached(sql)?.execute(params![key, new, now])
            }
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<bool, Fault> {
        check_key(key)?;
        let key = key.to_owned();
        self.change(move |step, now| {
            let sql = "DELETE FROM entry WHERE key = ?1 AND (due IS NULL OR due > ?2)";
            step.prepare_cached(sql)?.execute(params![key, now])
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        self.run(move |db| {
            let sql = "SELECT key FROM entry WHERE key >= ?1 AND key > ?2 AND (due IS NULL OR due > ?3) ORDER BY key";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query(params![prefix, after, clock::steady_ms()])?;
            let mut keys = Vec::new();
            while keys.len() < limit
                && let Some(row) = rows.next()?
            {
                let key: String = row.get(0)?;
                if !key.starts_with(&prefix) {
                    break;
                }
                keys.push(key);
            }
            Ok(keys)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(dir: &Path, limit: Size) -> SqliteKv {
        SqliteKv::new(Config { path: None, limit }, "seen", dir).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[tokio::test]
    async fn what_was_put_outlives_a_restart_until_it_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let first = kv(dir.path(), default_limit());
        first.put("for ever", b"1", None).await.unwrap();
        first.put("a while", b"2", Some(Duration::from_millis(300))).await.unwrap();
        drop(first);
        assert!(dir.path().join("seen.kv.db").exists());
        let again = kv(dir.path(), default_limit());
        assert_eq!(again.get("a while").await.unwrap().as_deref(), Some(&b"2"[..]));
        tokio::time::sleep(Duration::from_millis(310)).await;
        assert_eq!(again.get("a while").await.unwrap(), None);
        again.put("other", b"3", None).await.unwrap();
        let rows = again.run(|db| db.query_row("SELECT count(*) FROM entry", [], |r| r.get::<_, i64>(0))).await;
        assert_eq!(rows.unwrap(), 2, "the expired row was removed in passing");
    }

    #[tokio::test]
    async fn what_has_expired_and_is_not_removed_yet_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let kv = kv(dir.path(), default_limit());
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
            INSERT INTO entry (key, value, due) SELECT 'k' || i, x'01', i FROM n";
        kv.run(move |db| db.execute_batch(fill)).await.unwrap();
        assert_eq!(kv.get("k999").await.unwrap(), None);
        assert_eq!(kv.list("", None, 10).await.unwrap(), [""; 0]);
        assert!(!kv.compare_and_swap("k999", Some(b"\x01"), b"2").await.unwrap());
        assert!(!kv.delete("k998").await.unwrap());
        assert!(kv.compare_and_swap("k999", None, b"3").await.unwrap());
        assert_eq!(kv.list("", None, 10).await.unwrap(), ["k999"]);
        let rows = kv.run(|db| db.query_row("SELECT count(*) FROM entry", [], |r| r.get::<_, i64>(0))).await;
        assert_eq!(rows.unwrap(), 1000 - 3 * SWEPT, "three changes");
    }

    #[tokio::test]
    async fn a_full_file_can_be_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let kv = kv(dir.path(), Size(4 << 20));
        let (mut n, value) = (0, vec![7; 500_000]);
        let fault = loop {
            n += 1;
            match kv.put(&n.to_string(), &value, None).await {
                Ok(()) => assert!(n < 20),
                Err(fault) => break fault,
            }
        };
        assert!(n > 5 && matches!(fault, Fault::Reject(_)), "{n} {fault}");
        assert_eq!(fault.to_string(), "the key-value store is full, it may hold 4MiB");
        assert!(kv.delete("1").await.unwrap() && kv.delete("2").await.unwrap());
        kv.put("1", &value, Some(Duration::from_secs(60))).await.unwrap();
        assert!(matches!(kv.put("z", &[7; 1 << 20], None).await, Err(Fault::Retry(_))), "`1` will expire");
        assert_eq!(kv.get("3").await.unwrap(), Some(value));
    }

    #[tokio::test]
    async fn another_database_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen.kv.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (a)").unwrap();
        drop(other);
        let fault = kv(dir.path(), default_limit()).get("a").await.unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)));
        assert!(fault.to_string().ends_with("seen.kv.db`: it is another program's database"), "{fault}");
        let missing = kv(&dir.path().join("none"), default_limit()).get("a").await.unwrap_err();
        assert!(matches!(missing, Fault::Retry(_)));
    }
}
