//! Room that nobody else can take: a preallocated file beside the database, for the day somebody else fills the disk.
//!
//! A full disk dead-locks a WAL database: what is delivered cannot be deleted, since the delete itself has to be written
//! down first. So the ballast is given up then, and what it held goes into a WAL that is allocated in one piece, into
//! folding the old WAL into the database, and into some free pages: six units in all, of which the WAL may hold four.

use super::writer::folder_of;
use rustix::{fs::FallocateFlags, io::Errno};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Bytes of a unit: a sixth of a sixteenth of the file system, within these.
const SMALLEST: u64 = 256 << 10;
const LARGEST: u64 = 2 << 20;
/// Units of the ballast, of the WAL on an ordinary day, and of the WAL while the disk is full.
const ALL: u64 = 6;
const WAL: u64 = 4;
const WAL_FULL: u64 = 2;

/// Bytes of a file system: all, and those that may be had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub total: u64,
    pub free: u64,
}

/// Why nothing can be written beside the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No space, or a quota.
    Space,
    ReadOnly,
    /// It can be; or it is something else.
    Other,
}

/// The ballast of a database; that of a store in memory is nothing.
pub(super) struct Ballast {
    database: Option<PathBuf>,
    unit: u64,
}

impl Ballast {
    pub fn beside(database: Option<&Path>) -> Self {
        let mut ballast = Ballast { database: database.map(Path::to_owned), unit: SMALLEST };
        if let Some(room) = ballast.room() {
            let share = room.total / 16 / ALL;
            ballast.unit = share.clamp(SMALLEST.min(room.total / 4 / ALL), LARGEST);
        }
        ballast
    }

    /// What the WAL may hold: on an ordinary day, or while the disk is full.
    pub fn wal(&self, full: bool) -> u64 {
        self.unit * if full { WAL_FULL } else { WAL }
    }

    /// Free pages that the database is given when the disk is full.
    pub fn pages(&self) -> u64 {
        self.unit
    }

    /// `None` where the file system does not say.
    pub fn room(&self) -> Option<Room> {
        let stat = rustix::fs::statvfs(folder_of(self.database.as_deref()?)).ok()?;
        let room = Room { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize };
        (room.total > 0).then_some(room)
    }

    /// Makes it, unless it is there. Twice its size has to be free, under a quota too: so that a disk around the limit does
    /// not let it come and go.
    pub fn make(&self) -> io::Result<()> {
        let Some(path) = self.file("-ballast") else { return Ok(()) };
        let size = self.unit * ALL;
        let file = File::options().create(true).write(true).truncate(false).open(&path)?;
        let is = file.metadata()?;
        if is.len() == size && is.blocks() * 512 >= size {
            return Ok(());
        }
        let made = allocate(&file, 2 * size, size).and_then(|()| file.set_len(size)).and_then(|()| file.sync_all());
        if made.is_err() {
            fs::remove_file(&path).ok();
        }
        made
    }

    /// Whether a ballast is likely to be had.
    pub fn may_be_made(&self) -> bool {
        self.room().is_none_or(|room| room.free >= 2 * ALL * self.unit)
    }

    /// Gives it up; says whether there was one.
    pub fn give_up(&self) -> bool {
        self.file("-ballast").is_some_and(|path| fs::remove_file(path).is_ok())
    }

    /// Before the database is opened on a full disk: the ballast becomes the WAL, of which there is none, without being free in
    /// between. SQLite takes zeros for an empty WAL.
    pub fn become_wal(&self) {
        let (Some(ballast), Some(wal)) = (self.file("-ballast"), self.file("-wal")) else { return };
        let full = self.room().is_some_and(|room| room.free < self.unit);
        if !full || fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
            return;
        }
        let cut = File::options().write(true).open(&ballast).and_then(|file| file.set_len(self.unit * WAL));
        if cut.and_then(|()| fs::rename(&ballast, &wal)).is_ok() {
            log::info!("store: the disk is full: the ballast serves as the WAL");
        }
    }

    /// Lets the WAL have all that it needs while the disk is full. It is longer than what is in it: SQLite tells by
    /// checksums where that ends.
    pub fn hold_wal(&self) -> io::Result<()> {
        let Some(path) = self.file("-wal") else { return Ok(()) };
        let file = File::options().create(true).write(true).truncate(false).open(path)?;
        match file.metadata()?.len() < self.wal(true) {
            true => allocate(&file, self.wal(true), self.wal(true)),
            false => Ok(()),
        }
    }

    /// Tries to write a block beside the database.
    pub fn probe(&self) -> Cause {
        let Some(path) = self.file("-probe") else { return Cause::Other };
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        fs::remove_file(&path).ok();
        written.map_or_else(|error| Cause::of(&error), |()| Cause::Other)
    }

    fn file(&self, suffix: &str) -> Option<PathBuf> {
        Some(super::beside(self.database.as_deref()?, suffix))
    }
}

impl Cause {
    pub fn of(error: &io::Error) -> Cause {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Cause::Space,
            ErrorKind::ReadOnlyFilesystem => Cause::ReadOnly,
            _ => Cause::Other,
        }
    }
}

/// Blocks for a file up to a length; where the file system knows no other way, so many bytes are written out.
fn allocate(file: &File, length: u64, written: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            let (mut file, block) = (file, [0; 64 << 10]);
            let from = file.seek(SeekFrom::End(0))?;
            for at in (from..written).step_by(block.len()) {
                file.write_all(&block[..block.len().min((written - at) as usize)])?;
            }
            Ok(())
        }
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballast_has_its_blocks_and_goes() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap();
        let ballast = Ballast::beside(Some(&dir.path().join("t.db")));
        let path = dir.path().join("t.db-ballast");
        for before in [None, Some(5), Some(100 << 20)] {
            if let Some(length) = before {
                File::create(&path).unwrap().set_len(length).unwrap();
            }
            ballast.make().unwrap();
            let is = fs::metadata(&path).unwrap();
            assert_eq!(is.len(), ballast.unit * ALL);
            assert!(is.blocks() * 512 >= is.len(), "{before:?}: {} blocks", is.blocks());
        }
        assert!(ballast.give_up() && !ballast.give_up());
        assert_eq!(ballast.probe(), Cause::Other);
        assert!(Ballast::beside(None).make().is_ok() && !Ballast::beside(None).give_up());
    }
}
