//! An object store as files below a directory. A key's parts are directories, the last one is the file.
//!
//! Every step of a way is opened by itself and never through a symbolic link, so whoever may write below the directory
//! cannot lead out of it.

use super::{MAX_KEY, MAX_OBJECT, Objects, RESERVED, check_key, check_list, check_put};
use crate::{fault::Fault, systems::blocking::Blocking};
use async_trait::async_trait;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat, renameat, unlinkat},
    io::{Errno, Result as Done},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

/// Keeps objects as files below a directory: the parts of a key are directories, the last one is the file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory, relative to that in which the gateway was started; it is made if the one above it exists. One
    /// gateway and one system use it.
    #[schemars(with = "String")]
    pub path: PathBuf,
}

/// A disk that is silent for so long has an illness.
const PATIENCE: Duration = Duration::from_secs(30);
/// Files and directories that one `list` looks at, so that it comes to an end.
const MAX_LOOKED: usize = 1_000_000;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

pub struct Directory {
    name: String,
    root: Blocking<Root>,
}

struct Root {
    path: PathBuf,
    /// The directory of what is not whole yet, once it was emptied of what a crash left.
    partial: Option<OwnedFd>,
}

impl Directory {
    pub fn new(config: Config) -> Result<Self, (String, String)> {
        if config.path.as_os_str().is_empty() {
            return Err(("path".into(), "expected the path of a directory".into()));
        }
        let name = config.path.display().to_string();
        Ok(Directory { name, root: Blocking::new(Root { path: config.path, partial: None }) })
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Root) -> Done<R> + Send + 'static,
    ) -> Result<Result<R, Errno>, Fault> {
        self.root.call(PATIENCE, &self.name, |root| Ok(work(root))).await
    }

    /// What went wrong with a key, or with the directory.
    fn fault(&self, key: &str, error: Errno) -> Fault {
        match error {
            // Where the way leads through a file, ends at a directory, or at a link.
            Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::LOOP => Fault::reject(format!(
                "`{}`: the key {key:.100?} lies above or below that of another object, or at a link",
                self.name
            )),
            Errno::FBIG => {
                Fault::reject(format!("`{}`: the key {key:.100?} is not a regular file of 64 MiB at most", self.name))
            }
            Errno::NAMETOOLONG => Fault::reject(format!("`{}`: the key {key:.100?} is too long", self.name)),
            error => Fault::retry(format!("`{}`: {}", self.name, std::io::Error::from(error))),
        }
    }
}

impl Root {
    fn open(&self) -> Done<OwnedFd> {
        let mode = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, &self.path, mode, Mode::empty()) {
            Err(Errno::NOENT) => {
                mkdirat(CWD, &self.path, Mode::from(0o777))?;
                let above = self.path.parent().filter(|p| !p.as_os_str().is_empty());
                fsync(openat(CWD, above.unwrap_or(".".as_ref()), mode, Mode::empty())?)?;
                openat(CWD, &self.path, mode, Mode::empty())
            }
            opened => opened,
        }
    }

    /// The directories on the way to a key, from the root on, and the name of its file. With `make` they are made where
    /// they are missing, and last through a power cut.
    fn way<'k>(&self, key: &'k str, make: bool) -> Done<(Vec<OwnedFd>, &'k str)> {
        let (folders, name) = key.rsplit_once('/').map_or((None, key), |(folders, name)| (Some(folders), name));
        let mut at = self.open()?;
        let mut way = Vec::new();
        for part in folders.into_iter().flat_map(|folders| folders.split('/')) {
            let next = match openat(&at, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    mkdirat(&at, part, Mode::from(0o777))?;
                    fsync(&at)?;
                    openat(&at, part, FOLDER, Mode::empty())?
                }
                opened => opened?,
            };
            way.push(std::mem::replace(&mut at, next));
        }
        way.push(at);
        Ok((way, name))
    }

    /// Where objects are written before they get their name.
    fn partial(&mut self) -> Done<&OwnedFd> {
        let partial = match self.partial.take() {
            // It was removed if it has no name any more.
            Some(partial) if fstat(&partial)?.st_nlink > 0 => partial,
            _ => {
                let root = self.open()?;
                let name = format!("{RESERVED}-partial");
                match mkdirat(&root, &name, Mode::from(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                let partial = openat(&root, &name, FOLDER, Mode::empty())?;
                for entry in Dir::read_from(&partial)? {
                    let entry = entry?;
                    if entry.file_type() == FileType::RegularFile {
                        unlinkat(&partial, entry.file_name(), AtFlags::empty())?;
                    }
                }
                partial
            }
        };
        Ok(self.partial.insert(partial))
    }

    fn get(&self, key: &str) -> Done<Vec<u8>> {
        let (way, name) = self.way(key, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&way[way.len() - 1], name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::NOENT);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size > MAX_OBJECT as i64 {
            return Err(Errno::FBIG);
        }
        let mut object = Vec::with_capacity(stat.st_size as usize);
        File::from(file).take(MAX_OBJECT as u64).read_to_end(&mut object).map_err(errno)?;
        Ok(object)
    }

    fn put(&mut self, key: &str, object: &[u8]) -> Done<()> {
        let (way, name) = self.way(key, true)?;
        let partial = self.partial()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // One at a time: there is one writer.
        let mut file = File::from(openat(partial, "object", flags, Mode::from(0o666))?);
        let folder = &way[way.len() - 1];
        let written = file.write_all(object).and_then(|()| file.sync_all()).map_err(errno);
        if let Err(error) = written.and_then(|()| renameat(partial, "object", folder, name)) {
            unlinkat(partial, "object", AtFlags::empty()).ok();
            return Err(error);
        }
        fsync(folder)
    }

    /// Removes an object, and the directories that held nothing else.
    fn delete(&self, key: &str) -> Done<()> {
        let (way, name) = self.way(key, false)?;
        let folder = &way[way.len() - 1];
        unlinkat(folder, name, AtFlags::empty())?;
        fsync(folder)?;
        let above = way.iter().zip(key.split('/')).take(way.len() - 1).collect::<Vec<_>>();
        for (folder, part) in above.into_iter().rev() {
            if unlinkat(folder, part, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// What a list looks for, and what it has found: the smallest keys so far.
struct Search<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    keys: BTreeSet<String>,
    looked: usize,
}

impl Search<'_> {
    /// Looks through a directory whose keys begin with `path`; the root has none.
    fn folder(&mut self, folder: &OwnedFd, path: &str) -> Done<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            self.looked += 1;
            if self.looked > MAX_LOOKED {
                return Err(Errno::OVERFLOW);
            }
            let Some(name) = entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")) else {
                continue;
            };
            let key = format!("{path}{name}");
            let is = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            if is == FileType::RegularFile && self.wanted(&key) && check_key(&key).is_ok() {
                self.keys.insert(key);
                if self.keys.len() > self.limit {
                    self.keys.pop_last();
                }
            } else if is == FileType::Directory && self.leads(&format!("{key}/")) {
                match openat(folder, name, FOLDER, Mode::empty()) {
                    Ok(below) => self.folder(&below, &format!("{key}/"))?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn wanted(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && key > self.after && self.fits(key)
    }

    /// Whether one more key of at least this may be among the smallest.
    fn fits(&self, key: &str) -> bool {
        self.keys.len() < self.limit || self.keys.last().is_some_and(|last| key < last.as_str())
    }

    /// Whether keys that begin with `path` can be wanted.
    fn leads(&self, path: &str) -> bool {
        let prefix = self.prefix.starts_with(path) || path.starts_with(self.prefix);
        let after = path > self.after || self.after.starts_with(path);
        // Deeper, no key is one of ours: nothing but a foreign hand made that.
        prefix && after && self.fits(path) && path.len() < MAX_KEY && path.matches('/').count() < super::MAX_PARTS
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[async_trait]
impl Objects for Directory {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Fault> {
        check_key(key)?;
        let own = key.to_owned();
        match self.run(move |root| root.get(&own)).await? {
            Ok(object) => Ok(Some(object)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.fault(key, error)),
        }
    }

    async fn put(&self, key: &str, object: &[u8]) -> Result<(), Fault> {
        check_put(key, object)?;
        let (own, object) = (key.to_owned(), object.to_vec());
        self.run(move |root| root.put(&own, &object)).await?.map_err(|error| self.fault(key, error))
    }

    async fn delete(&self, key: &str) -> Result<(), Fault> {
        check_key(key)?;
        let own = key.to_owned();
        match self.run(move |root| root.delete(&own)).await? {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(()),
            Err(error) => Err(self.fault(key, error)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Fault> {
        let limit = check_list(prefix, after, limit)?;
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        let search = move |root: &mut Root| {
            let mut search = Search { prefix: &prefix, after: &after, limit, keys: BTreeSet::new(), looked: 0 };
            if limit > 0 {
                search.folder(&root.open()?, "")?;
            }
            Ok(search.keys.into_iter().collect())
        };
        match self.run(search).await? {
            Err(Errno::OVERFLOW) => Err(Fault::reject(format!("`{}` holds more than {MAX_LOOKED} files", self.name))),
            done => done.map_err(|error| self.fault("", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    fn store(path: &Path) -> Directory {
        Directory::new(Config { path: path.to_owned() }).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[tokio::test]
    async fn a_key_is_a_file_and_nothing_else_remains() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("made"), dir.path().join("out"));
        let store = store(&root);
        store.put("a/b/c.json", b"{}").await.unwrap();
        assert_eq!(fs::read(root.join("a/b/c.json")).unwrap(), b"{}");
        store.put("a/d", b"x").await.unwrap();
        store.delete("a/b/c.json").await.unwrap();
        assert!(root.join("a").exists() && !root.join("a/b").exists());
        for (key, want) in [("a", "lies above or below"), ("a/d/e", "lies above or below")] {
            let fault = store.put(key, b"").await.unwrap_err();
            assert!(matches!(fault, Fault::Reject(_)) && fault.to_string().contains(want), "{key}: {fault}");
            assert_eq!(store.get(key).await.unwrap(), None);
            store.delete(key).await.unwrap();
        }
        assert_eq!(fs::read_dir(root.join(".tidegate-partial")).unwrap().count(), 0);
        fs::remove_dir_all(&root).unwrap();
        store.put("a", b"again").await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap(), b"again");
        assert!(!out.exists());
    }

    #[tokio::test]
    async fn no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join("secret"), "s").unwrap();
        symlink(&out, root.join("folder")).unwrap();
        symlink(out.join("secret"), root.join("file")).unwrap();
        symlink(&root, root.join("circle")).unwrap();
        let store = store(&root);
        for key in ["folder/secret", "file"] {
            assert!(!matches!(store.get(key).await, Ok(Some(_))), "{key}");
        }
        assert!(matches!(store.put("folder/secret", b"x").await, Err(Fault::Reject(_))));
        store.delete("folder/secret").await.ok();
        store.put("file", b"x").await.unwrap();
        assert_eq!(fs::read_to_string(out.join("secret")).unwrap(), "s");
        assert_eq!(store.list("", None, 10).await.unwrap(), ["file"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_neither_seen_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join(".tidegate-partial");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("object"), "half").unwrap();
        fs::write(partial.join("older"), "half").unwrap();
        let store = store(dir.path());
        assert_eq!(store.list("", None, 10).await.unwrap(), [""; 0]);
        store.put("a", b"whole").await.unwrap();
        assert_eq!(store.list("", None, 10).await.unwrap(), ["a"]);
        assert_eq!(fs::read_dir(&partial).unwrap().count(), 0);
    }
}
