//! A [`Disk`] as a mounted file system, through FUSE. No call passes the kernel's cache: what a process writes is here at
//! once, and what it reads comes from here.

use crate::disk::{Disk, Name, ROOT};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::{
    ffi::OsStr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Nothing is cached: a cut changes files behind the kernel's back.
const TTL: Duration = Duration::ZERO;

/// A mounted disk; unmounted with the value.
pub struct Mount {
    disk: Arc<Mutex<Disk>>,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// `None`, with a line that says so, where this machine or user has no FUSE.
    pub fn new(disk: Disk) -> Option<Mount> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(Mutex::new(disk));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("lossfs".into()), MountOption::NoAtime];
        match fuser::spawn_mount(Lossfs(disk.clone()), folder.path(), &config) {
            Ok(session) => Some(Mount { disk, folder, session: Some(session) }),
            Err(error) => {
                // Who asks for all of it wants to know when it is not.
                assert!(crate::size(true, false), "no FUSE: {error}");
                eprintln!("SKIPPED: /dev/fuse cannot be mounted here ({error}); it takes root and the kernel's fuse");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.session.take().map(BackgroundSession::umount_and_join);
    }
}

struct Lossfs(Arc<Mutex<Disk>>);

impl Lossfs {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(reply: ReplyEmpty, done: Option<()>) {
        match done {
            Some(()) => reply.ok(),
            None => reply.error(Errno::EIO),
        }
    }
}

impl Disk {
    /// Another one after each cut: what the kernel remembers of a file, such as that it was removed, is of before.
    fn generation(&self) -> Generation {
        Generation(self.cuts)
    }
}

fn name(parent: INodeNo, name: &OsStr) -> Name {
    (parent.0, name.to_owned())
}

fn attributes(disk: &Disk, file: u64) -> Option<FileAttr> {
    let found = disk.files.get(&file)?;
    let size = found.seen.len() as u64;
    Some(FileAttr {
        ino: INodeNo(file),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if found.folder { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for Lossfs {
    fn lookup(&self, _: &Request, parent: INodeNo, of: &OsStr, reply: ReplyEntry) {
        let disk = self.disk();
        match disk.names.get(&name(parent, of)).and_then(|file| attributes(&disk, *file)) {
            Some(found) => reply.entry(&TTL, &found, disk.generation()),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.disk(), file.0) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let done = size.is_none_or(|size| disk.resize(file.0, size as usize).is_some());
        match attributes(&disk, file.0).filter(|_| done) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::EIO),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, of: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let mut disk = self.disk();
        match disk.make(name(parent, of), true).and_then(|file| attributes(&disk, file)) {
            Some(made) => reply.entry(&TTL, &made, disk.generation()),
            None => reply.error(Errno::EIO),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, of: &OsStr, reply: ReplyEmpty) {
        Self::answer(reply, self.disk().remove(name(parent, of)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, of: &OsStr, reply: ReplyEmpty) {
        let (mut disk, name) = (self.disk(), name(parent, of));
        let folder = disk.names.get(&name).copied();
        match disk.names.keys().any(|(parent, _)| Some(*parent) == folder) {
            true => reply.error(Errno::ENOTEMPTY),
            false => Self::answer(reply, disk.remove(name)),
        }
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        of: &OsStr,
        to_parent: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        Self::answer(reply, self.disk().rename(name(parent, of), name(to_parent, to)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        of: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        match disk.make(name(parent, of), false).and_then(|file| attributes(&disk, file)) {
            Some(made) => reply.created(&TTL, &made, disk.generation(), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            None => reply.error(Errno::EIO),
        }
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = self.disk();
        match disk.files.get(&file.0).filter(|_| !disk.off) {
            Some(found) => {
                let from = found.seen.len().min(offset as usize);
                reply.data(&found.seen[from..found.seen.len().min(from + size as usize)]);
            }
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(file.0, offset as usize, data) {
            Some(()) => reply.written(data.len() as u32),
            None => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, file: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        Self::answer(reply, self.disk().sync(file.0).and_then(Result::ok));
    }

    fn fsyncdir(&self, _: &Request, folder: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        Self::answer(reply, self.disk().sync(folder.0).and_then(Result::ok));
    }

    fn fallocate(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk();
        let (end, now) = ((offset + length) as usize, disk.files.get(&file.0).map_or(0, |f| f.seen.len()));
        Self::answer(reply, if end > now { disk.resize(file.0, end) } else { Some(()) });
    }

    fn readdir(&self, _: &Request, folder: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let disk = self.disk();
        let inside = disk.names.iter().filter(|((parent, _), _)| *parent == folder.0);
        for (at, ((_, of), file)) in inside.enumerate().skip(offset as usize) {
            let is_folder = disk.files.get(file).is_some_and(|f| f.folder);
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*file), at as u64 + 1, kind, of) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20; // 4 GiB, nearly all of it free
        reply.statfs(blocks, blocks - 1024, blocks - 1024, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

#[test]
fn files_are_there_again_after_a_cut_if_they_were_synced() {
    use std::{fs, io::Write};
    let Some(mount) = Mount::new(Disk::new(1)) else { return };
    let at = |name: &str| mount.path().join(name);
    fs::create_dir(at("d")).unwrap();
    for name in ["kept", "d/lost"] {
        let mut file = fs::File::create(at(name)).unwrap();
        file.write_all(b"one\n").unwrap();
        file.sync_all().unwrap();
        if name == "kept" {
            fs::File::open(mount.path()).unwrap().sync_all().unwrap();
        }
        file.write_all(b"two\n").unwrap();
    }
    fs::rename(at("d/lost"), at("moved")).unwrap();
    assert_eq!(fs::read_to_string(at("moved")).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 3);
    mount.disk().cut(crate::disk::Keep::Nothing);
    assert_eq!(fs::read_to_string(at("kept")).unwrap(), "one\n");
    assert!(!at("moved").exists() && at("d").exists(), "the folder's sync saved the names before it");
    // What was removed and is there again takes files, also where the kernel still holds it; what holds one is not removed.
    let _held = fs::File::open(at("d")).unwrap();
    fs::remove_dir(at("d")).unwrap();
    mount.disk().cut(crate::disk::Keep::Nothing);
    fs::write(at("d/new"), "new").unwrap();
    assert!(fs::remove_dir(at("d")).is_err());
    mount.disk().off = true;
    assert!(fs::write(at("kept"), "three").is_err());
    assert!(mount.disk().names.contains_key(&(ROOT, "kept".into())));
}
