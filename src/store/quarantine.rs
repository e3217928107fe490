//! Where broken databases go: `DB-quarantine/N/` beside the database, all its files together, numbered as they came, so that
//! a clock of 1970 does no harm.
//!
//! The database moves first: a WAL without a database is the sign of a move that was cut off, which the next start ends. A
//! quarantine whose salvage is done has a file `salvaged` in it; it is kept for who wants to look into it, while there is room.

use super::{beside, given, writer::folder_of};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// So many quarantines are kept, and so many bytes of them.
const KEPT: usize = 2;
const BYTES: u64 = 1 << 30;
const DONE: &str = "salvaged";
/// A WAL that is not the database's own is kept under another name, so that nobody folds it in.
const STRANGE: &str = "-wal-strange";

fn folders(database: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(beside(database, "-quarantine")).into_iter().flatten().filter_map(Result::ok);
    let numbered = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let mut folders: Vec<(u64, PathBuf)> = numbered.collect();
    folders.sort_unstable();
    folders
}

/// How many databases were set aside and are still there.
pub(super) fn count(database: &Path) -> u64 {
    folders(database).len() as u64
}

/// Databases that were set aside and not read yet, the newest first, with their numbers.
pub(super) fn unread(database: &Path) -> Vec<(u64, PathBuf)> {
    let name = database.file_name().unwrap_or(OsStr::new(""));
    let all = folders(database).into_iter().rev().filter(|(_, folder)| !folder.join(DONE).exists());
    all.map(|(n, folder)| (n, folder.join(name))).filter(|(_, file)| file.exists()).collect()
}

/// Before the database is opened: ends a move that was cut off, and sets aside a database that is empty while its WAL is not, or
/// whose WAL is not its own. Gives whether anything was set aside.
pub(super) fn mend(database: &Path, strange_wal: bool) -> io::Result<bool> {
    let wal = beside(database, "-wal");
    let empty = fs::metadata(database).map_or(true, |file| file.len() == 0);
    if given::salt(&wal).is_none() || !empty && !strange_wal {
        return Ok(false);
    }
    if let Some((_, moved)) = unread(database).into_iter().next()
        && !database.exists()
        && !beside(&moved, "-wal").exists()
        && !beside(&moved, STRANGE).exists()
    {
        fs::rename(&wal, beside(&moved, if strange_wal { STRANGE } else { "-wal" }))?;
        File::open(folder_of(&moved))?.sync_all()?;
        File::open(folder_of(database))?.sync_all()?;
        return Ok(true);
    }
    let why = if empty { "the database is gone, its WAL is not" } else { "the WAL is not the database's own" };
    set_aside(database, strange_wal, why)?;
    Ok(true)
}

/// Moves a database aside, all its files together, so that a fresh one can serve.
pub(super) fn set_aside(database: &Path, strange_wal: bool, why: &str) -> io::Result<()> {
    let root = beside(database, "-quarantine");
    fs::create_dir_all(&root)?;
    let number = folders(database).last().map_or(1, |(n, _)| n + 1);
    let folder = root.join(number.to_string());
    fs::create_dir(&folder)?;
    let moved = folder.join(database.file_name().unwrap_or(OsStr::new("")));
    for (from, to) in
        [("", ""), ("-wal", if strange_wal { STRANGE } else { "-wal" }), ("-shm", "-shm"), ("-journal", "-journal")]
    {
        match fs::rename(beside(database, from), beside(&moved, to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for folder in [folder.as_path(), &root, folder_of(database)] {
        File::open(folder)?.sync_all()?;
    }
    log::error!(
        "store: {why}; it was moved to `{}`, a fresh database serves, and what can be read of the old one is put back",
        folder.display()
    );
    Ok(())
}

/// All that was set aside has been read.
pub(super) fn done(database: &Path) -> io::Result<()> {
    for (_, file) in unread(database) {
        File::create(folder_of(&file).join(DONE))?.sync_all()?;
        File::open(folder_of(&file))?.sync_all()?;
    }
    prune(database, KEPT, BYTES);
    Ok(())
}

/// Removes quarantines that were read, the oldest first, down to so many and so many bytes; and folders that hold nothing.
pub(super) fn prune(database: &Path, kept: usize, bytes: u64) {
    let size = |folder: &Path| -> u64 {
        let files = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    let all = folders(database);
    let (mut count, mut sum) = (all.len(), all.iter().map(|(_, folder)| size(folder)).sum::<u64>());
    for (_, folder) in all {
        if fs::remove_dir(&folder).is_ok() {
            count -= 1;
        } else if (count > kept || sum > bytes) && folder.join(DONE).exists() {
            let own = size(&folder);
            // The sign goes last, so that what is left of a removal that was cut off is not read again.
            let files = fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
            files.filter(|file| file.file_name() != DONE).for_each(|file| drop(fs::remove_file(file.path())));
            fs::remove_dir_all(&folder).ok();
            (count, sum) = (count - 1, sum - own);
        }
    }
}
