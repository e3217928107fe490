//! The highest sequence number, kept outside the database: if the database is lost, no number is used twice.
//!
//! Beside `tidegate.db` lies `tidegate.db-highest` with a bound above every number given out so far, raised in large
//! steps so that it is written once in 65,536 events.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

const STEP: u64 = 1 << 16;

pub(super) struct Highest {
    file: Option<PathBuf>,
    bound: u64,
}

impl Highest {
    /// Reads the bound; 0 when there is none. Without a path nothing is ever written.
    pub fn open(database: Option<&Path>) -> io::Result<Self> {
        let file = database.map(|path| super::beside(path, "-highest"));
        let text = match file.as_deref().map(std::fs::read_to_string) {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound && e.kind() != io::ErrorKind::InvalidData => {
                return Err(e);
            }
            Some(Ok(text)) => text,
            _ => String::new(),
        };
        Ok(Highest { file, bound: text.trim().parse().unwrap_or(0) })
    }

    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// Makes sure that `seq` lies below the bound on disk, before it is given out.
    pub fn cover(&mut self, seq: u64) -> io::Result<()> {
        if seq < self.bound {
            return Ok(());
        }
        let bound = (seq / STEP + 1) * STEP;
        if let Some(path) = &self.file {
            replace(path, format!("{bound}\n").as_bytes())?;
        }
        self.bound = bound;
        Ok(())
    }
}

/// Replaces a small file so that after a power cut either the old or the new content is there.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("highest-new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(super::writer::folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_survives_and_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("t.db");
        let mut highest = Highest::open(Some(&db)).unwrap();
        assert_eq!(highest.bound(), 0);
        highest.cover(5).unwrap();
        highest.cover(STEP + 1).unwrap();
        let bound = Highest::open(Some(&db)).unwrap().bound();
        assert!(bound > STEP + 1, "{bound}");
        std::fs::write(dir.path().join("t.db-highest"), b"\xff\xfe not a number").unwrap();
        assert_eq!(Highest::open(Some(&db)).unwrap().bound(), 0);
    }
}
