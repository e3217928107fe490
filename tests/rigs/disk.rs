//! A disk that can lose its power: what processes see, what is on the platter, and between them a journal of changes that
//! no sync has covered.
//!
//! It is as unkind as POSIX allows: a sync of a file saves its bytes and size but not its name, names are saved by a sync
//! of a folder (all of them, in order, as a file system's own journal does), and what is not saved may survive in part, in any
//! order, torn between sectors.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What the kernel writes back whole.
const PAGE: usize = 4096;
pub const ROOT: u64 = 1;

/// What becomes of unsynced changes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    Everything,
    Some,
}

/// What a sync does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Honest,
    /// It says yes and saves nothing.
    Lies,
    /// As `Lies` for files with this end of their names; as SQLite's `synchronous=NORMAL` leaves the WAL.
    LiesFor(&'static str),
    /// It fails now and then, and what it should have saved is never written, though it can still be read: as Linux does.
    Fails,
}

pub type Name = (u64, OsString);

enum Change {
    Write(usize, Vec<u8>),
    Size(usize),
}

enum Naming {
    Put(Name, u64),
    Drop(Name),
    Move(Name, Name),
}

#[derive(Default)]
pub struct File {
    pub folder: bool,
    pub seen: Vec<u8>,
    kept: Vec<u8>,
    unsynced: Vec<Change>,
    /// Pages that the kernel takes for written though a failed sync lost them.
    ghosts: BTreeSet<usize>,
}

pub struct Disk {
    pub files: HashMap<u64, File>,
    pub names: BTreeMap<Name, u64>,
    kept_names: BTreeMap<Name, u64>,
    unsynced: Vec<Naming>,
    next: u64,
    pub sync: Sync,
    /// So many syncs of the log fail, whatever else is said.
    pub failing: u32,
    /// The power goes at this change, counted down.
    pub until_cut: Option<u64>,
    pub off: bool,
    pub changes: u64,
    pub cuts: u64,
    pub random: fastrand::Rng,
}

fn apply(names: &mut BTreeMap<Name, u64>, naming: &Naming) {
    match naming {
        Naming::Put(name, file) => drop(names.insert(name.clone(), *file)),
        Naming::Drop(name) => drop(names.remove(name)),
        Naming::Move(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, data) => put(bytes, *at, data),
            Change::Size(size) => bytes.resize(*size, 0),
        }
    }
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        let root = File { folder: true, ..File::default() };
        Disk {
            files: HashMap::from([(ROOT, root)]),
            names: BTreeMap::new(),
            kept_names: BTreeMap::new(),
            unsynced: Vec::new(),
            next: ROOT + 1,
            sync: Sync::Honest,
            failing: 0,
            until_cut: None,
            off: false,
            changes: 0,
            cuts: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Counts a change; gives whether it still happens.
    fn change(&mut self) -> bool {
        if self.off {
            return false;
        }
        self.changes += 1;
        if let Some(left) = &mut self.until_cut {
            *left -= 1;
            self.off = *left == 0;
        }
        true
    }

    pub fn make(&mut self, name: Name, folder: bool) -> Option<u64> {
        if !self.change() {
            return None;
        }
        let file = self.next;
        self.next += 1;
        self.files.insert(file, File { folder, ..File::default() });
        self.naming(Naming::Put(name, file));
        Some(file)
    }

    pub fn remove(&mut self, name: Name) -> Option<()> {
        self.change().then(|| self.naming(Naming::Drop(name)))
    }

    pub fn rename(&mut self, from: Name, to: Name) -> Option<()> {
        self.change().then(|| self.naming(Naming::Move(from, to)))
    }

    fn naming(&mut self, naming: Naming) {
        apply(&mut self.names, &naming);
        self.unsynced.push(naming);
    }

    pub fn write(&mut self, file: u64, at: usize, data: &[u8]) -> Option<()> {
        let happens = self.change();
        let file = self.files.get_mut(&file).filter(|_| happens)?;
        put(&mut file.seen, at, data);
        // Whoever writes a page again writes all of it.
        let (first, last) = (at / PAGE, (at + data.len()) / PAGE);
        let again = (first..=last).any(|page| file.ghosts.remove(&page));
        let change = match again {
            true => {
                let end = file.seen.len().min((last + 1) * PAGE);
                Change::Write(first * PAGE, file.seen[first * PAGE..end].to_vec())
            }
            false => Change::Write(at, data.to_vec()),
        };
        file.unsynced.push(change);
        Some(())
    }

    pub fn resize(&mut self, file: u64, size: usize) -> Option<()> {
        let happens = self.change();
        let file = self.files.get_mut(&file).filter(|_| happens)?;
        file.seen.resize(size, 0);
        file.unsynced.push(Change::Size(size));
        Some(())
    }

    /// `Err` is a sync that fails.
    pub fn sync(&mut self, file: u64) -> Option<Result<(), ()>> {
        if !self.change() || self.off {
            return None;
        }
        let ends =
            |end: &str| self.names.iter().any(|(name, id)| *id == file && name.1.to_string_lossy().ends_with(end));
        let file_of = self.files.get(&file)?;
        let fails = self.failing > 0 && ends("-wal");
        self.failing -= u32::from(fails);
        match self.sync {
            Sync::Lies => return Some(Ok(())),
            Sync::LiesFor(end) if ends(end) => return Some(Ok(())),
            _ if fails || self.sync == Sync::Fails && !file_of.folder && self.random.u8(0..12) == 0 => {
                let file = self.files.get_mut(&file)?;
                for change in file.unsynced.drain(..) {
                    match change {
                        Change::Write(at, data) => file.ghosts.extend(at / PAGE..=(at + data.len()) / PAGE),
                        Change::Size(size) => file.kept.resize(size, 0), // of the journal, not of the pages
                    }
                }
                return Some(Err(()));
            }
            _ => {}
        }
        if file_of.folder {
            for naming in self.unsynced.drain(..) {
                apply(&mut self.kept_names, &naming);
            }
        } else if let Some(file) = self.files.get_mut(&file) {
            let File { kept, unsynced, .. } = file;
            unsynced.drain(..).for_each(|change| change.apply(kept));
        }
        Some(Ok(()))
    }

    /// Somebody takes all files away.
    pub fn clear(&mut self) {
        self.names.clear();
        self.kept_names.clear();
        self.unsynced.clear();
    }

    /// The power is gone, and comes back.
    pub fn cut(&mut self, keep: Keep) {
        self.cuts += 1;
        let names = match keep {
            Keep::Nothing => 0,
            Keep::Everything => self.unsynced.len(),
            Keep::Some => self.random.usize(0..=self.unsynced.len()),
        };
        for naming in self.unsynced.drain(..).take(names) {
            apply(&mut self.kept_names, &naming);
        }
        self.names.clone_from(&self.kept_names);
        let named: BTreeSet<u64> = self.names.values().copied().chain([ROOT]).collect();
        self.files.retain(|id, _| named.contains(id));
        // In the order of their numbers, so that a seed means one outcome.
        for id in named {
            let Some(file) = self.files.get_mut(&id) else { continue };
            for change in std::mem::take(&mut file.unsynced) {
                match keep {
                    Keep::Nothing => {}
                    Keep::Everything => change.apply(&mut file.kept),
                    Keep::Some => survive(&mut self.random, change, &mut file.kept),
                }
            }
            file.ghosts.clear();
            file.seen.clone_from(&file.kept);
        }
        (self.off, self.until_cut) = (false, None);
    }
}

/// A change that nobody synced is lost, or happens, or, a write, happens to some of its sectors.
fn survive(random: &mut fastrand::Rng, change: Change, kept: &mut Vec<u8>) {
    match (random.u8(0..4), change) {
        (0 | 1, _) => {}
        (2, Change::Write(at, data)) => {
            let mut from = 0;
            while from < data.len() {
                let to = data.len().min(((at + from) / SECTOR + 1) * SECTOR - at);
                if random.bool() {
                    put(kept, at + from, &data[from..to]);
                }
                from = to;
            }
        }
        (_, change) => change.apply(kept),
    }
}

#[test]
fn what_is_synced_survives_and_what_is_not_may_be_torn() {
    let name = |name: &str| (ROOT, OsString::from(name));
    let bytes = |disk: &Disk, name: &Name| disk.names.get(name).map(|id| disk.files[id].seen.clone());
    let (mut torn, mut lost) = (false, false);
    for seed in 0..40 {
        let mut disk = Disk::new(seed);
        let file = disk.make(name("a"), false).unwrap();
        disk.write(file, 0, &[1; 2000]).unwrap();
        disk.sync(file).unwrap().unwrap();
        disk.sync(ROOT).unwrap().unwrap();
        disk.write(file, 0, &[2; 2000]).unwrap();
        disk.make(name("b"), false).unwrap();
        disk.rename(name("a"), name("c")).unwrap();
        disk.cut(Keep::Some);
        lost |= disk.names.contains_key(&name("a")) && !disk.names.contains_key(&name("b"));
        let kept = bytes(&disk, &name("a")).or_else(|| bytes(&disk, &name("c"))).unwrap();
        assert_eq!(kept.len(), 2000);
        torn |= kept.contains(&1) && kept.contains(&2);
        assert!(kept.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    }
    assert!(torn && lost);
    for (sync, keep, want) in [
        (Sync::Honest, Keep::Nothing, Some(vec![7; 3])),
        (Sync::Lies, Keep::Nothing, None),
        (Sync::LiesFor("-wal"), Keep::Nothing, Some(vec![])),
        (Sync::LiesFor("-wal"), Keep::Everything, Some(vec![7; 3])),
    ] {
        let mut disk = Disk::new(1);
        disk.sync = sync;
        let file = disk.make(name("x-wal"), false).unwrap();
        disk.write(file, 0, &[7; 3]).unwrap();
        disk.sync(file).unwrap().unwrap();
        disk.sync(ROOT).unwrap().unwrap();
        disk.cut(keep);
        assert_eq!(bytes(&disk, &name("x-wal")), want, "{sync:?} {keep:?}");
    }
}
