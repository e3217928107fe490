//! What was given out, beside the database: for each lane the number after the last that was committed and the first that
//! somebody has not passed, and the salt of the WAL that holds it.
//!
//! Written after each commit and not synced: it survives the end of the process, and after a power cut it is behind. So what
//! it names and the database has not was lost; and after an end of the process alone it is exact. A WAL whose salt does not
//! follow is not this database's, or an older one of it.

use super::lane::Index;
use crate::clock;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: u64 = u64::from_le_bytes(*b"TIDEGIV1");
/// Bytes of the head and of each lane's entry: none crosses a sector.
const HEAD: u64 = 64;
const ENTRY: u64 = 32;
/// SQLite counts the first half of the salt up each time it begins the WAL anew; more often than this it does not between two
/// commits.
const ANEW: u32 = 1 << 20;

/// What the last run left.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub store: u64,
    /// The machine ran on since: the numbers are exact.
    pub exact: bool,
    /// By lane: the number after the last, the first that somebody had not passed, and a
    /// sum of its topic and priority.
    pub lanes: BTreeMap<u16, (u64, u64, u64)>,
}

#[derive(Default)]
pub(super) struct Given {
    database: Option<PathBuf>,
    file: Option<File>,
    store: u64,
    salt: u64,
    pub found: Option<Found>,
    /// The WAL that is there is not the one that was written last.
    pub strange_wal: bool,
}

fn sum(numbers: &[u64]) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    numbers.iter().for_each(|n| hash.update(&n.to_le_bytes()));
    u64::from(hash.finalize())
}

fn boot() -> u64 {
    u64::from(crc32fast::hash(clock::boot_id().as_bytes()))
}

fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// The salt of a WAL; `None` if there is none, or nothing in it.
pub(super) fn salt(wal: &Path) -> Option<u64> {
    let mut head = [0; 24];
    File::open(wal).ok()?.read_exact(&mut head).ok()?;
    let magic = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let [.., salt] = numbers::<3>(&head);
    (magic & !1 == 0x377f_0682).then_some(salt.swap_bytes())
}

/// Whether a WAL with one salt can come after one with another.
fn follows(before: u64, now: u64) -> bool {
    let times = ((now >> 32) as u32).wrapping_sub((before >> 32) as u32);
    before == 0 || now == before || (1..=ANEW).contains(&times)
}

impl Given {
    /// Reads what the last run left.
    pub fn open(database: Option<&Path>) -> Given {
        let Some(path) = database else { return Given::default() };
        let mut given = Given { database: Some(path.to_owned()), ..Given::default() };
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(super::beside(path, "-given"));
        let Some(mut file) = file.ok() else { return given };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok();
        given.file = Some(file);
        let [magic, store, boot_then, salt_then, check] = numbers(&bytes);
        if magic != MAGIC || check != sum(&[magic, store, boot_then, salt_then]) {
            return given;
        }
        given.store = store;
        let entries = bytes.get(HEAD as usize..).unwrap_or_default();
        let lanes = entries.chunks_exact(ENTRY as usize).zip(0..).filter_map(|(entry, lane): (_, u16)| {
            let [next, passed, name, check] = numbers(entry);
            let fits = next > 0 && check == sum(&[store, u64::from(lane), next, passed, name]);
            fits.then_some((lane, (next, passed, name)))
        });
        given.found = Some(Found { store, exact: boot_then == boot(), lanes: lanes.collect() });
        let wal = salt(&super::beside(path, "-wal"));
        given.strange_wal = wal.is_some_and(|now| !follows(salt_then, now));
        given.salt = salt_then;
        given
    }

    /// From here on the WAL may begin anew with any salt; this is on disk before it does.
    pub fn forget_salt(&mut self) {
        if self.salt == 0 {
            return;
        }
        self.salt = 0;
        self.write_head();
        self.file.as_ref().map(File::sync_data);
    }

    fn write_head(&self) {
        let head = [MAGIC, self.store, boot(), self.salt];
        self.write(0, &[&head[..], &[sum(&head)]].concat());
    }

    fn write(&self, at: u64, numbers: &[u64]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        // Where it cannot be written it is behind, which is what it may be.
        self.file.as_ref().map(|file| file.write_all_at(&bytes, at));
    }

    /// All that the database holds at the start of a run, and nothing else.
    pub fn begin(&mut self, store: u64, index: &Index) {
        self.store = store;
        self.write_head();
        let known = self.found.take().unwrap_or_default().lanes;
        for lane in known.keys().filter(|lane| !index.lanes.contains_key(lane)) {
            self.write(HEAD + u64::from(*lane) * ENTRY, &[0; 4]);
        }
        self.note(index, index.lanes.keys().copied());
        self.file.as_ref().map(File::sync_data);
    }

    /// After a commit, before anybody is told.
    pub fn note(&mut self, index: &Index, lanes: impl Iterator<Item = u16>) {
        let Some(database) = self.database.as_deref() else { return };
        for id in lanes {
            let Some(lane) = index.lanes.get(&id) else { continue };
            let passed = index.passed(id);
            let check = sum(&[self.store, u64::from(id), lane.next, passed, lane.name()]);
            self.write(HEAD + u64::from(id) * ENTRY, &[lane.next, passed, lane.name(), check]);
        }
        let now = salt(&super::beside(database, "-wal")).unwrap_or(0);
        if now != self.salt {
            self.salt = now;
            self.write_head();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_follows_itself_and_counts_up() {
        let salt = |count: u32, random: u32| u64::from(count) << 32 | u64::from(random);
        for (before, now, want) in [
            (0, salt(7, 9), true),
            (salt(7, 9), salt(7, 9), true),
            (salt(7, 9), salt(7, 8), false),
            (salt(7, 9), salt(8, 1), true),
            (salt(u32::MAX, 9), salt(0, 1), true),
            (salt(7, 9), salt(6, 9), false),
            (salt(7, 9), salt(7 + ANEW + 1, 9), false),
        ] {
            assert_eq!(follows(before, now), want, "{before:x} {now:x}");
        }
    }
}
