//! The file: how it is opened, what is in it, how an older one is brought up to date and a newer one refused.

use super::OpenError;
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// "TIDE": tells our files from other SQLite databases.
const APPLICATION_ID: i64 = 0x5449_4445;
/// 2048 wrote the fewest bytes per event of 1024 to 16384 (measured on ext4).
const PAGE_SIZE: i64 = 2048;
/// The WAL is checkpointed from 8 MiB on: below, checkpoints cost flushes; above, recovery after a power cut takes longer.
const WAL_PAGES: i64 = 8 * 1024 * 1024 / PAGE_SIZE;

/// Each entry brings a file from the version of its index to the next. Never change one that was released.
const MIGRATIONS: &[&str] = &["
    -- A lane is a topic at one priority. `first` is the oldest sequence number kept, `next` is exact only when the
    -- lane is empty: otherwise the last batch tells. `start` is where its numbers began.
    CREATE TABLE lane (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, priority INTEGER NOT NULL, start INTEGER NOT NULL,
        first INTEGER NOT NULL, next INTEGER NOT NULL, UNIQUE (topic, priority));
    -- id = lane << 48 | first sequence number; at = intake of the first event, ms; size = bytes before compression;
    -- crc = CRC-32 over id, count, size and body as stored.
    CREATE TABLE batch (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, at INTEGER NOT NULL, size INTEGER NOT NULL,
        crc INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE TABLE consumer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    -- id = consumer << 16 | lane; seq = the next to read; the counters are the ledger.
    CREATE TABLE cursor (id INTEGER PRIMARY KEY, start INTEGER NOT NULL, seq INTEGER NOT NULL, delivered INTEGER NOT NULL,
        stopped INTEGER NOT NULL, dead INTEGER NOT NULL, expired INTEGER NOT NULL, evicted INTEGER NOT NULL);
    -- What components remember: state of processes, MQTT sessions, retained messages.
    CREATE TABLE state (owner TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (owner, key));
    CREATE TABLE timer (owner TEXT NOT NULL, key BLOB NOT NULL, due INTEGER NOT NULL, PRIMARY KEY (owner, key));
    CREATE TABLE dead (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, consumer TEXT NOT NULL, topic TEXT NOT NULL,
        seq INTEGER NOT NULL, event TEXT NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL);
    -- One row per commit that took in events with a producer's id: 12 bytes each, see `seen`.
    CREATE TABLE seen (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, marks BLOB NOT NULL);
    CREATE TABLE boot (n INTEGER PRIMARY KEY, id TEXT NOT NULL, at INTEGER NOT NULL);
    -- store: the random number in made ids; base: where the numbers of a new lane begin.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
", "
    -- steady: the steady clock at the machine's boot; aged: as that, for ages, see `eras`; wall: the wall clock then, known once it was set; last: the latest
    -- monotonic time known. All in ms. Ages (`batch.at`, `seen.at`, timers) are by the steady clock from here on.
    ALTER TABLE boot ADD COLUMN steady INTEGER;
    ALTER TABLE boot ADD COLUMN aged INTEGER;
    ALTER TABLE boot ADD COLUMN wall INTEGER;
    ALTER TABLE boot ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
", "
    -- dropped: accepted and never stored, since the store was full; in a cursor, of those in evicted.
    ALTER TABLE lane ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cursor ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
    -- Rows that lie in an object instead. id = lane << 48 | first sequence number; next = the one after the last;
    -- bytes = of the rows' bodies; length and sha256 = of the object.
    CREATE TABLE offloaded (id INTEGER PRIMARY KEY, next INTEGER NOT NULL, bytes INTEGER NOT NULL, object TEXT NOT NULL,
        length INTEGER NOT NULL, sha256 BLOB NOT NULL);
", "
    -- Numbers that no row has, see `holes`: id = lane << 48 | first, next = the one after the last; lost: events were there.
    CREATE TABLE hole (id INTEGER PRIMARY KEY, next INTEGER NOT NULL, lost INTEGER NOT NULL);
    -- What is still to be read of a lane out of a quarantine; vague: where it ended is not known.
    CREATE TABLE unread (lane INTEGER PRIMARY KEY, at INTEGER NOT NULL, next INTEGER NOT NULL, vague INTEGER NOT NULL);
", "
    -- The ledger over time, see `history`: what it said then. at = by the steady clock; boot to quality: as a stamp has them.
    CREATE TABLE history (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, boot INTEGER NOT NULL, mono INTEGER NOT NULL,
        wall INTEGER NOT NULL, quality INTEGER NOT NULL, topic TEXT NOT NULL, consumer TEXT NOT NULL,
        accepted INTEGER NOT NULL, delivered INTEGER NOT NULL, stopped INTEGER NOT NULL, dead INTEGER NOT NULL,
        expired INTEGER NOT NULL, evicted INTEGER NOT NULL, offloaded INTEGER NOT NULL);
    -- Losses of a minute, and what was refused; last = the last of them, in ms after the first.
    CREATE TABLE loss (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, boot INTEGER NOT NULL, mono INTEGER NOT NULL,
        wall INTEGER NOT NULL, quality INTEGER NOT NULL, last INTEGER NOT NULL, topic TEXT NOT NULL, consumer TEXT NOT NULL,
        what TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL);
"];

/// Opens the writer's connection and brings the file up to date.
pub(super) fn open(path: Option<&Path>) -> Result<Connection, OpenError> {
    let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    // Until the WAL is known to be on disk, nothing of it goes into the database: not at the end of an attempt either.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let fresh = db.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))? == 0;
    if fresh {
        db.pragma_update(None, "page_size", PAGE_SIZE)?;
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
    } else if pragma(&db, "application_id")? != APPLICATION_ID {
        // A bit of it may have flipped: nobody else's has such a table.
        let ours = meta(&db, "store").is_ok_and(|store| store.is_some());
        return Err(if ours { OpenError::Broken("its application id is damaged".into()) } else { OpenError::Foreign });
    }
    let version = usize::try_from(pragma(&db, "user_version")?).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        let said = meta(&db, "schema").ok().flatten().map(i64::unsigned_abs);
        return Err(match said {
            Some(said) if said <= MIGRATIONS.len() as u64 => OpenError::Broken("its schema version is damaged".into()),
            _ => OpenError::Newer { found: version, known: MIGRATIONS.len() },
        });
    }
    if let Some(path) = path {
        write_again(path)?;
    }
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    if path.is_some() {
        db.query_row("PRAGMA journal_mode=WAL", [], |r| r.get::<_, String>(0))?;
    }
    tune(&db)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    // -n is KiB: the writer's cache holds the pages of a few commits and the tail of the B-tree.
    db.pragma_update(None, "cache_size", -2048)?;
    for (at, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        let step = db.transaction()?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "user_version", at as i64 + 1)?;
        // Once more, to tell a newer one from a damaged one.
        step.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('schema', ?1)", [at as i64 + 1])?;
        step.commit()?;
    }
    if path.is_some() {
        read_back(&db)?;
    }
    Ok(db)
}

/// A number of the table `meta`, if it is there.
pub(super) fn meta(db: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional()
}

/// Writes the WAL that the last run left once more, as it is, and syncs it. What a failed sync did not write, Linux still shows
/// to who reads it, until the power goes: a WAL with such a hole looks whole, and what is appended behind it would be lost.
fn write_again(path: &Path) -> std::io::Result<()> {
    let wal = match File::options().read(true).write(true).open(super::beside(path, "-wal")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        wal => wal?,
    };
    // A disk that fails now and then is asked again.
    let patient = |work: &dyn Fn() -> std::io::Result<()>| work().or_else(|_| work()).or_else(|_| work());
    let every_piece = || {
        let (mut at, mut piece) = (0, vec![0; 1 << 20]);
        loop {
            let n = wal.read_at(&mut piece, at)?;
            if n == 0 {
                return wal.sync_data();
            }
            patient(&|| wal.write_all_at(&piece[..n], at))?;
            at += n as u64;
        }
    };
    patient(&every_piece)
}

/// Opens a second connection of this process that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let db = connect(Some(path), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    tune(&db)?;
    db.pragma_update(None, "cache_size", -256)?;
    Ok(db)
}

/// `unix-excl` keeps the WAL's index in our heap: no memory map (a full disk would be a SIGBUS), no other process.
fn connect(path: Option<&Path>, flags: OpenFlags) -> Result<Connection, OpenError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = match path {
        Some(path) => Connection::open_with_flags_and_vfs(path, flags, c"unix-excl")?,
        None => Connection::open_in_memory()?,
    };
    Ok(db)
}

fn tune(db: &Connection) -> Result<(), OpenError> {
    for (name, value) in [
        ("synchronous", 2), // FULL: in WAL mode NORMAL loses what was acknowledged at a power cut
        ("mmap_size", 0),
        ("temp_store", 2),
        ("cell_size_check", 1),
        ("trusted_schema", 0),
    ] {
        // Some pragmas answer with a row, some with none.
        db.query_row(&format!("PRAGMA {name}={value}"), [], |_| Ok(())).optional()?;
    }
    Ok(())
}

/// What acknowledging rests on is read back, since SQLite ignores what it does not like.
fn read_back(db: &Connection) -> Result<(), OpenError> {
    let mode: String = db.query_row("PRAGMA journal_mode", [], |r| r.get(0))?;
    let synchronous = pragma(db, "synchronous")?;
    if mode != "wal" || synchronous != 2 {
        return Err(OpenError::Unsafe(format!("journal_mode is {mode}, synchronous is {synchronous}")));
    }
    Ok(())
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0))
}

/// Bytes in use by rows, free pages not counted.
pub(super) fn used(db: &Connection) -> rusqlite::Result<u64> {
    let pages = pragma(db, "page_count")? - pragma(db, "freelist_count")?;
    Ok((pages * pragma(db, "page_size")?).unsigned_abs())
}

/// Bytes of free pages inside of the file.
pub(super) fn unused(db: &Connection) -> rusqlite::Result<u64> {
    Ok((pragma(db, "freelist_count")? * pragma(db, "page_size")?).unsigned_abs())
}

/// From how many bytes on the WAL is folded in, and whether the file may grow.
pub(super) fn limit(db: &Connection, wal: u64, full: bool) -> rusqlite::Result<()> {
    let wal = (wal as i64 / PAGE_SIZE).clamp(1, WAL_PAGES);
    // SQLite takes the size that the file has for less.
    let pages = if full { 1 } else { i64::from(u32::MAX - 1) };
    for pragma in [format!("wal_autocheckpoint={wal}"), format!("max_page_count={pages}")] {
        db.query_row(&format!("PRAGMA {pragma}"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Leaves the WAL as it is when the connection ends.
pub(super) fn keep_wal(db: &Connection) {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).ok();
    leave_wal(db);
}

/// As that, and does not fold it in before: the database is broken.
pub(super) fn leave_wal(db: &Connection) {
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok();
}
