//! The disk of the store: what it is, what it takes and how fast; and who may read what lies there.

use super::{Finding, PATIENCE, number, size, touches::Touches, within};
use crate::{
    config::{Settings, shareable},
    store::beside,
};
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Writes that measure the disk, and the bytes of each: a small commit.
const WRITES: usize = 16;
const WRITE: usize = 4096;
/// No flash answers that fast: the disk, or the machine below this one, says that it has written what it has not.
const TOO_FAST: Duration = Duration::from_micros(30);
/// What waits for a commit waits longer than a person wants to.
const SLOW: Duration = Duration::from_millis(100);

/// What a file system is good for: its magic number (`statfs(2)`), its name, what is wrong with it, and how bad that is.
const SYSTEMS: &[(u32, &str, &str, bool)] = &[
    (0x6969, "nfs", NETWORK, true),
    (0x517b, "smb", NETWORK, true),
    (0xff53_4d42, "cifs", NETWORK, true),
    (0xfe53_4d42, "smb2", NETWORK, true),
    (0x0102_1997, "9p", NETWORK, true),
    (0x00c3_6400, "ceph", NETWORK, true),
    (0x0102_1994, "tmpfs", "it is memory, and gone at the next boot", true),
    (0x8584_58f6, "ramfs", "it is memory, and gone at the next boot", true),
    (0x4d44, "vfat", "a power cut may damage all of it", false),
    (0x2011_bab0, "exfat", "a power cut may damage all of it", false),
    (0x7366_746e, "ntfs", "a power cut may damage all of it", false),
    (0x794c_7630, "overlay", "in a container it is gone with the container", false),
    (0x6573_5546, "fuse", "whether it syncs is up to a program", false),
    (0xef53, "ext4", "", false),
    (0x5846_5342, "xfs", "", false),
    (0x9123_683e, "btrfs", "", false),
    (0xf2f5_2010, "f2fs", "", false),
    (0x2405_1905, "ubifs", "", false),
    (0x2fc1_2fc1, "zfs", "", false),
];
const NETWORK: &str = "locks and syncs of a network's file system cannot be relied on";

/// The folder of the store, and the path of the store.
fn folder(settings: &Settings) -> (PathBuf, &Path) {
    let store = Path::new(&settings.store.path);
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty());
    (folder.unwrap_or(Path::new(".")).to_owned(), store)
}

/// What can be seen without writing.
pub(super) fn look(settings: &Settings, status: Option<&Value>) -> Vec<Finding> {
    let (folder, store) = folder(settings);
    let shown = folder.display();
    let (system, space) = match (statfs(&folder), statvfs(&folder)) {
        (Ok(system), Ok(space)) => (system, space),
        (Err(error), _) | (_, Err(error)) => {
            let advice = "relative paths begin where the gateway is started: for the service that is /var/lib/tidegate";
            return vec![Finding::wrong("store.folder", format!("`{shown}`: {error}"), advice)];
        }
    };
    let mut findings = vec![file_system(system.f_type as u64 as u32)];
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let advice = "mount it with rw; a card that fails is remounted so, `dmesg` says why";
        findings.push(Finding::wrong("disk.mount", format!("`{shown}` is read-only"), advice));
    }
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let whole = space.f_blocks.saturating_mul(space.f_frsize);
    let used =
        status.map_or_else(|| fs::metadata(store).map_or(0, |is| is.len()), |status| number(status, "/store/bytes"));
    findings.push(room(settings, free, whole, used));
    if store.is_relative() && !store.exists() && status.is_none() {
        let says = format!("there is no `{}`, seen from this directory", store.display());
        let advice = "the path is relative to where the gateway is started: for the service that is /var/lib/tidegate";
        findings.push(Finding::doubtful("store.path", says, advice));
    }
    findings.extend(rights(&folder, store));
    findings
}

/// Who may read and write what is stored.
fn rights(folder: &Path, store: &Path) -> Vec<Finding> {
    const CHECK: &str = "store.folder";
    let Ok(is) = fs::metadata(folder) else { return Vec::new() };
    let (shown, mode, me) = (folder.display(), is.mode(), rustix::process::geteuid().as_raw());
    let advice = format!("chmod 700 {shown}");
    let read = fs::metadata(store).is_ok_and(|is| is.mode() & 0o004 != 0);
    let mut findings = vec![if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        Finding::wrong(CHECK, format!("everybody may write in `{shown}`"), advice)
    } else if mode & 0o005 == 0 {
        Finding::right(CHECK, format!("`{shown}` is for its user only"))
    } else if read {
        Finding::doubtful(CHECK, format!("everybody may read the events in `{}`", store.display()), advice)
    } else {
        Finding::right(CHECK, format!("`{shown}` can be entered, its store cannot be read"))
    }];
    let owner = fs::metadata(store).map_or(is.uid(), |is| is.uid());
    if owner != me {
        let says = format!("the store belongs to the user of number {owner}, and this is {me}");
        findings.push(Finding::doubtful("store.user", says, "ask as that user: `sudo -u tidegate tidegate doctor`"));
    }
    findings
}

fn file_system(magic: u32) -> Finding {
    match SYSTEMS.iter().find(|known| known.0 == magic) {
        Some((_, name, "", _)) => Finding::right("disk.kind", name),
        Some((_, name, why, true)) => {
            Finding::wrong("disk.kind", format!("{name}: {why}"), "put `store.path` on a disk of this machine")
        }
        Some((_, name, why, false)) => {
            Finding::doubtful("disk.kind", format!("{name}: {why}"), "put `store.path` on ext4, xfs, btrfs or f2fs")
        }
        None => Finding::doubtful(
            "disk.kind",
            format!("a file system of kind {magic:#x}"),
            "see whether it syncs: ext4, xfs, btrfs and f2fs do",
        ),
    }
}

/// Whether the store can grow as far as it may.
fn room(settings: &Settings, free: u64, whole: u64, used: u64) -> Finding {
    let disk = &settings.store.disk;
    let spare = disk.free.map_or_else(|| (whole / 16).min(64 << 20), |free| free.0);
    let grows = disk.high.0.saturating_sub(used);
    let says = format!("{} free, the store has {} and may grow by {}", size(free), size(used), size(grows));
    if free <= spare {
        Finding::wrong("disk.free", says, format!("make room: with less than {} free events are refused", size(spare)))
    } else if free < grows.saturating_add(spare) {
        Finding::doubtful(
            "disk.free",
            says,
            "the disk is full before the store is: lower `store.disk.high`, or make room",
        )
    } else {
        Finding::right("disk.free", says)
    }
}

/// How long a sync takes, by a file beside the store that is removed again; and half of them were as fast as what comes with it.
pub(super) async fn latency(settings: &Settings) -> (Option<Finding>, Option<Duration>) {
    const CHECK: &str = "disk.sync";
    let (folder, _) = folder(settings);
    if !folder.is_dir() {
        return (None, None); // told already
    }
    let took = match within(move || measure(&folder)).await {
        Some(Ok(took)) => took,
        Some(Err(error)) => {
            let advice = "ask as the gateway's user, who must be able to write there";
            return (Some(Finding::doubtful(CHECK, format!("it could not be measured: {error}"), advice)), None);
        }
        None => {
            let says = format!("a sync takes longer than {} s", PATIENCE.as_secs());
            return (Some(Finding::wrong(CHECK, says, "the disk hangs or fails: see `dmesg`")), None);
        }
    };
    let (half, most) = (took[took.len() / 2], took[took.len() - 1]);
    let ms = |span: Duration| format!("{:.2} ms", span.as_secs_f64() * 1e3);
    let says = format!("half of {} syncs took {} at most, the longest {}", took.len(), ms(half), ms(most));
    let finding = if half < TOO_FAST {
        let advice = "no flash is that fast: it may lie, and lose at a power cut what it said it had; see the manual of the \
                      disk or of the virtual machine about flushes";
        Finding::doubtful(CHECK, says, advice)
    } else if half > SLOW {
        Finding::doubtful(CHECK, says, "each commit takes that long; a better card, or one less worn, is faster")
    } else {
        Finding::right(CHECK, says)
    };
    (Some(finding), Some(half))
}

/// From the shortest to the longest.
fn measure(folder: &Path) -> io::Result<Vec<Duration>> {
    let path = folder.join(format!(".tidegate-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    let began = Instant::now();
    let mut write = || {
        let at = Instant::now();
        file.write_all(&[0x5a; WRITE])?;
        file.sync_data()?;
        Ok(at.elapsed())
    };
    let took: io::Result<Vec<Duration>> =
        (0..WRITES).map(|_| write()).take_while(|_| began.elapsed() < PATIENCE).collect();
    fs::remove_file(&path)?;
    let mut took = took?;
    took.sort();
    if took.is_empty() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(took) }
}

/// Files that hold secrets and that everybody may read.
pub(super) fn secrets(settings: &Settings, touches: &Touches) -> Vec<Finding> {
    let servers = touches.servers.iter().map(|(_, tls)| tls.key.clone());
    let clients = touches.upstreams.iter().filter_map(|(_, upstream)| upstream.tls.as_ref()?.key.clone());
    let files = servers.chain(clients).chain([beside(settings.store.path.as_ref(), "-token")]);
    let open = |path: PathBuf| {
        let mode = fs::metadata(&path).ok()?.mode();
        let shown = path.display();
        (mode & 0o004 != 0)
            .then(|| Finding::wrong("secrets", format!("everybody may read `{shown}`"), format!("chmod 600 {shown}")))
    };
    let found: Vec<Finding> = files.filter_map(open).collect();
    if found.is_empty() {
        vec![Finding::right("secrets", "no private key or token can be read by everybody")]
    } else {
        found
    }
}

/// Secrets that stand in a configuration that everybody may read.
pub(super) fn told_to_all(file: &Path, text: &str) -> Option<Finding> {
    let open = fs::metadata(file).ok()?.mode() & 0o004 != 0;
    let (shown, _) = shareable(file, text)?;
    let says = format!("everybody may read `{}`, and a secret seems to stand in it", file.display());
    let advice = "put it into a file of its own, as `${cred:NAME}` or `${file:/path}`, or chmod 640 and give it to the gateway's group";
    (open && shown.to_string().contains("***")).then(|| Finding::doubtful("secrets", says, advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict::{self, Doubtful, Right, Wrong};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_disk_is_judged_by_its_kind_and_room() {
        for (magic, verdict, says) in [
            (0xef53, Right, "ext4"),
            (0x6969, Wrong, "network"),
            (0x0102_1994, Wrong, "memory"),
            (0x4d44, Doubtful, "power cut"),
            (0x794c_7630, Doubtful, "container"),
            (0x1234, Doubtful, "0x1234"),
        ] {
            let found = file_system(magic);
            assert!(found.verdict == verdict && found.says.contains(says), "{found:?}");
        }
        let settings = Settings::default(); // `high` is 1 GiB
        let gib = 1 << 30;
        for (free, whole, used, want) in [
            (8 * gib, 16 * gib, 0, Right),
            (gib / 2, 16 * gib, gib * 3 / 4, Right),
            (gib / 2, 16 * gib, 0, Doubtful),
            (64 << 20, 16 * gib, 0, Wrong),
            (1 << 20, 16 << 20, 0, Wrong),
        ] {
            let found = room(&settings, free, whole, used);
            assert_eq!(found.verdict, want, "{found:?}");
        }
    }

    #[test]
    fn the_folder_and_the_secrets_in_it_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.store.path = dir.path().join("t.db").display().to_string();
        let verdict = |mode: u32| -> Verdict {
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            let found = look(&settings, None);
            found.iter().find(|finding| finding.check == "store.folder").unwrap().verdict
        };
        assert_eq!([0o700, 0o755, 0o777, 0o1777].map(verdict), [Right, Right, Wrong, Right]);
        fs::write(&settings.store.path, "").unwrap();
        fs::set_permissions(&settings.store.path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!([0o700, 0o755].map(verdict), [Right, Doubtful]);
        assert_eq!(secrets(&settings, &Touches::default())[0].verdict, Right);
        fs::write(dir.path().join("t.db-token"), "x").unwrap();
        fs::set_permissions(dir.path().join("t.db-token"), PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(secrets(&settings, &Touches::default())[0].verdict, Wrong);
        assert_eq!(measure(dir.path()).unwrap().len(), WRITES);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        let file = dir.path().join("c.jsonc");
        for (text, mode, want) in [
            (r#"{ "password": "hunter2" }"#, 0o644, true),
            (r#"{ "password": "hunter2" }"#, 0o640, false),
            (r#"{ "password": "${cred:x}" }"#, 0o644, false),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(told_to_all(&file, text).is_some(), want, "{text} {mode:o}");
        }
        settings.store.path = dir.path().join("none/t.db").display().to_string();
        assert_eq!(look(&settings, None)[0].verdict, Wrong);
    }
}
