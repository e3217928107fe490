//! How a database is opened, whatever is at its path: a broken one is set aside and a fresh one filled with what it told.

use super::{
    OpenError, Options, beside, carry,
    eras::Eras,
    given::{Found, Given},
    highest::Highest,
    lane::Index,
    load::{closed, identity, load, unreadable},
    quarantine, schema,
    seen::Seen,
};
use crate::clock;
use rusqlite::Connection;
use std::{path::Path, time::Duration};

/// Where commits are missing, the rest is looked through for so long.
const CHECK: Duration = Duration::from_secs(2);

/// A database that can be used.
pub(super) struct Opened {
    pub db: Connection,
    pub store: u64,
    pub base: u64,
    pub index: Index,
    pub seen: Seen,
    pub eras: Eras,
    /// The run before this one did not end in order, although the machine went on.
    pub died: bool,
}

/// Opens what is there, or sets it aside and begins a fresh one.
pub(super) fn open(options: &Options, highest: &Highest, given: &Given) -> Result<Opened, OpenError> {
    match usable(options, highest, given) {
        Err(error) if is_broken(&error) => {
            let Some(path) = options.path.as_deref() else { return Err(error) };
            quarantine::set_aside(path, given.strange_wal, &format!("the database cannot be used: {error}"))?;
            usable(options, highest, given)
        }
        opened => opened,
    }
}

/// Whether the file is at fault: not the disk, another process, or whoever put it there.
fn is_broken(error: &OpenError) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TypeMismatch, Unknown};
    match error {
        OpenError::Broken(_) => true,
        OpenError::Sqlite(error) => {
            // In a schema that is not ours any more, tables and columns are missing, or there already.
            let odd = [Unknown, ConstraintViolation, TypeMismatch];
            let code = error.sqlite_error_code();
            unreadable(error)
                || code.is_some_and(|code| odd.contains(&code))
                || matches!(error, rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::InvalidColumnName(_))
        }
        _ => false,
    }
}

fn usable(options: &Options, highest: &Highest, given: &Given) -> Result<Opened, OpenError> {
    let path = options.path.as_deref();
    if let Some(path) = path {
        header(path)?;
    }
    let db = schema::open(path)?;
    let store = schema::meta(&db, "store")?.map(i64::unsigned_abs);
    let found = given.found.as_ref();
    if let (None, Some(path)) = (store, path) {
        carry::fill(&db, path, highest.bound(), found, None)?;
    }
    let mut opened = read(db, options, highest)?;
    let found = found.filter(|found| store == Some(found.store));
    if store.is_some() {
        check(&opened, found, highest.bound())?;
    }
    if let Some(found) = found
        && carry::is_behind(&opened.index, opened.base, found)
    {
        look_through(&opened.db)?;
        opened.db.execute_batch("BEGIN IMMEDIATE")?;
        let closed = carry::close_gap(&opened.db, &opened.index, opened.base, highest.bound(), found)
            .and_then(|()| opened.db.execute_batch("COMMIT"));
        if let Err(error) = closed {
            opened.db.execute_batch("ROLLBACK").ok();
            return Err(error.into());
        }
        opened = read(opened.db, options, highest)?;
    }
    Ok(opened)
}

fn read(db: Connection, options: &Options, highest: &Highest) -> Result<Opened, OpenError> {
    let (store, base) = identity(&db, highest)?;
    let (index, seen) = load(&db, options)?;
    let eras = Eras::load(&db, &clock::boot_id(), &clock::stamp())?;
    let died = eras.began_before() && closed(&db)? != eras.start() - 1;
    Ok(Opened { db, store, base, index, seen, eras, died })
}

/// Versions of the file format that SQLite would take for a newer SQLite's, to be read only.
fn header(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::FileExt;
    let mut head = [0; 20];
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    match file.read_exact_at(&mut head, 0) {
        Ok(())
            if head.starts_with(b"SQLite format 3\0")
                && head[18..].iter().any(|version| !(1..=2).contains(version)) =>
        {
            Err(OpenError::Broken("its header is not one of SQLite's".into()))
        }
        _ => Ok(()),
    }
}

/// What is read is what was written: counters fit each other, and lanes have the names that they had.
fn check(opened: &Opened, found: Option<&Found>, bound: u64) -> Result<(), OpenError> {
    let given = found.into_iter().flat_map(|found| found.lanes.values()).map(|(next, ..)| *next).max();
    let bound = if bound > 0 { bound.max(given.unwrap_or(0)) } else { 1 << 48 };
    let index = &opened.index;
    let lane_of = |lane: u16| index.lanes.get(&lane);
    for ((consumer, lane), cursor) in &index.cursors {
        let known = index.consumers.contains_key(consumer) && lane_of(*lane).is_some_and(|l| cursor.seq <= l.next);
        if !known || !cursor.adds_up() {
            return Err(OpenError::Broken(format!("the cursor of consumer {consumer} in lane {lane} is damaged")));
        }
    }
    for (id, lane) in &index.lanes {
        let given = found.and_then(|found| found.lanes.get(id));
        if lane.first > lane.next || lane.next > bound || given.is_some_and(|(.., name)| *name != lane.name()) {
            return Err(OpenError::Broken(format!("lane {id} is damaged")));
        }
    }
    Ok(())
}

/// Commits are missing: the file may be of several times. Looked through as far as time allows.
fn look_through(db: &Connection) -> Result<(), OpenError> {
    let interrupt = db.get_interrupt_handle();
    let (done, over) = std::sync::mpsc::channel::<()>();
    std::thread::Builder::new().name("store-check".into()).spawn(move || {
        if over.recv_timeout(CHECK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    })?;
    let result = db.query_row("PRAGMA quick_check(1)", [], |r| r.get::<_, String>(0));
    drop(done);
    match result {
        Ok(text) if text != "ok" => Err(OpenError::Broken(text)),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// Before anything is opened: what the last run left is read, and a move that was cut off is ended.
pub(super) fn given(path: Option<&Path>) -> Result<Given, OpenError> {
    let mut given = Given::open(path);
    if let Some(path) = path
        && (quarantine::mend(path, given.strange_wal)? || !beside(path, "-wal").exists())
    {
        given.strange_wal = false;
    }
    given.forget_salt();
    Ok(given)
}
