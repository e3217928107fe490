//! The configurations that ran, in the folder `STORE-config` beside the store: each as it was written, with when it came, by
//! whom, and how it ended. So one that is on trial goes back whatever happens, and the way back is known later, too.

use crate::{clock, store::beside};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// So many are kept, each of at most 4 MiB as its file was.
const MOST: usize = 20;
/// Bytes of the list of all.
const LIST: u64 = 1 << 20;
/// Bytes of a configuration.
const LARGEST: u64 = 4 << 20;

/// What became of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It goes back by itself, unless it is confirmed.
    OnTrial,
    /// It ran for good; the last of these does so still.
    Confirmed,
    /// The one before came back.
    RolledBack,
}

/// A configuration that ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub number: u32,
    /// When it came, RFC 3339, and how far that clock can be trusted.
    pub at: String,
    pub clock: String,
    /// `start`, `sighup`, `api` or `rollback`.
    pub by: String,
    pub state: State,
    /// Why it was rolled back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Of its text.
    pub sha256: String,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct List {
    /// The confirmed one.
    running: Option<u32>,
    /// One that went back while its text could not be taken out of the file: a start leaves it, too.
    #[serde(default)]
    rejected: Option<u32>,
    /// Consumers that came with one on trial: without it nobody would ever pass what is kept for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    made: Vec<String>,
    versions: Vec<Version>,
}

/// All that are kept.
pub struct Versions {
    folder: PathBuf,
    list: List,
}

/// Of a text.
pub(super) fn sum_of(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Versions {
    /// Those beside a store. What cannot be read counts as none.
    pub fn beside(store: &Path) -> Versions {
        let folder = beside(store, "-config");
        let list = read(&folder.join("list.json"), LIST).and_then(|text| Ok(serde_json::from_str(&text)?));
        let list = list.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                log::warn!("`{}`: the versions of the configuration are not known: {error}", folder.display());
            }
            List::default()
        });
        Versions { folder, list }
    }

    /// All, the oldest first.
    pub fn all(&self) -> &[Version] {
        &self.list.versions
    }

    pub fn get(&self, number: u32) -> Option<&Version> {
        self.list.versions.iter().find(|version| version.number == number)
    }

    /// The one that runs for good, or that comes back if the one on trial does not stay.
    pub fn confirmed(&self) -> Option<&Version> {
        self.list.running.and_then(|number| self.get(number))
    }

    pub fn on_trial(&self) -> Option<&Version> {
        self.list.versions.iter().find(|version| version.state == State::OnTrial)
    }

    /// The one that runs.
    pub fn running(&self) -> Option<&Version> {
        self.on_trial().or_else(|| self.confirmed())
    }

    /// The last that ran for good before the one that runs.
    pub fn before(&self) -> Option<&Version> {
        let now = self.running()?;
        let earlier = self.list.versions.iter().rev().skip_while(|version| version.number >= now.number);
        earlier.filter(|version| version.sha256 != now.sha256).find(|version| version.state == State::Confirmed)
    }

    /// As it was written.
    pub fn text(&self, number: u32) -> io::Result<String> {
        read(&self.place(number), LARGEST)
    }

    fn place(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number}.jsonc"))
    }

    /// Consumers that came with one on trial, until it is known which of them stay.
    pub(super) fn made(&self) -> &[String] {
        &self.list.made
    }

    /// Which of them stay is known, but for some.
    pub(super) fn settled(&mut self, left: Vec<String>) {
        self.list.made = left;
        // Where it cannot be written down, the next start looks at them once more.
        self.save(self.list.clone()).ok();
    }

    /// Writes down that a configuration is about to run, for good or on trial, with the consumers that come with it; gives its
    /// number. The text that runs for good already keeps the number it has. One that is on trial is so no more.
    pub fn begin(&mut self, text: &str, by: &str, state: State, made: &[String]) -> io::Result<u32> {
        let sha256 = sum_of(text);
        let mut list = self.list.clone();
        let tried = list.versions.iter_mut().find(|version| version.state == State::OnTrial);
        let replaces = tried.is_some();
        if let Some(tried) = tried {
            (tried.state, tried.why) = (State::RolledBack, "another took its place".to_owned());
        }
        let same = self.confirmed().filter(|version| version.sha256 == sha256).map(|version| version.number);
        let number = match same {
            Some(number) if !replaces => return Ok(number),
            Some(number) => number,
            None => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
                let number = list.versions.last().map_or(1, |last| last.number + 1);
                replace(&self.place(number), text, None)?;
                let now = clock::stamp();
                let (at, clock) = (clock::rfc3339(now.wall_ms), now.quality.name().to_owned());
                let (by, why) = (by.to_owned(), String::new());
                list.versions.push(Version { number, at, clock, by, state, why, sha256 });
                number
            }
        };
        match state {
            State::Confirmed => list.running = Some(number),
            _ => list.made.extend_from_slice(made),
        }
        list.rejected = None;
        self.save(list)?;
        Ok(number)
    }

    /// What became of one that was begun. `left_in_file`: its text still stands in the file.
    pub fn end(&mut self, number: u32, state: State, why: &str, left_in_file: bool) -> io::Result<()> {
        let mut list = self.list.clone();
        let Some(version) = list.versions.iter_mut().find(|version| version.number == number) else {
            return Ok(());
        };
        (version.state, version.why) = (state, why.to_owned());
        match state {
            State::Confirmed => list.running = Some(number),
            State::RolledBack if list.running == Some(number) => {
                let earlier = list.versions.iter().rev().filter(|v| v.number < number);
                list.running = earlier.into_iter().find(|v| v.state == State::Confirmed).map(|v| v.number);
            }
            _ => {}
        }
        list.rejected = left_in_file.then_some(number);
        self.save(list)
    }

    /// One that is not to run at a start, though it may stand in the file: it was on trial when the gateway ended, or went back
    /// while its text could not be taken out.
    pub(super) fn left(&self) -> Option<&Version> {
        self.on_trial().or_else(|| self.get(self.list.rejected?))
    }

    /// What is to be known from now on. If it cannot be written down, it is as it was.
    fn save(&mut self, mut list: List) -> io::Result<()> {
        let gone = list.drop_oldest();
        replace(&self.folder.join("list.json"), &serde_json::to_string_pretty(&list)?, None)?;
        self.list = list;
        for number in gone {
            fs::remove_file(self.place(number)).ok();
        }
        Ok(())
    }
}

impl List {
    /// Gives the numbers of those that are too many.
    fn drop_oldest(&mut self) -> Vec<u32> {
        let (running, mut gone) = (self.running, Vec::new());
        while self.versions.len() > MOST {
            let spare = |version: &Version| Some(version.number) != running && version.state != State::OnTrial;
            let Some(at) = self.versions.iter().position(spare) else { break };
            gone.push(self.versions.remove(at).number);
        }
        gone
    }
}

fn read(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts a text in the place of a file, which is there whole whatever happens: the old one or the new one. With `like`, it has
/// the mode and owner of that file.
fn replace(path: &Path, text: &str, like: Option<&fs::Metadata>) -> io::Result<()> {
    let new = beside(path, ".new");
    fs::remove_file(&new).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        if let Some(like) = like {
            let is = file.metadata()?;
            if (is.uid(), is.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
            file.set_permissions(like.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

/// Writes a configuration over its file: whole or not at all, with the mode and owner it has. One that the gateway's user may
/// not write is left, even where its folder would let it be replaced.
pub(super) fn write_file(file: &Path, text: &str) -> Result<(), String> {
    let write = || {
        let file = fs::canonicalize(file)?;
        let is = File::options().append(true).open(&file)?.metadata()?;
        replace(&file, text, Some(&is))
    };
    write().map_err(|error| {
        let user = rustix::process::geteuid().as_raw();
        let error = error.to_string().to_lowercase();
        format!("`{}` cannot be written by the gateway's user (number {user}): {error}", file.display())
    })
}

/// What is to run at a start: what the file says, unless that was on trial when the gateway ended, or had gone back while it
/// could not be taken out of the file. Then it is what ran for good before, which is written into the file, if that can be.
pub fn at_start(file: &Path, text: &str, store: &Path) -> Option<String> {
    let mut versions = Versions::beside(store);
    let left = versions.left()?.clone();
    let why = if left.why.is_empty() { "the gateway ended before it was confirmed" } else { &left.why };
    let confirmed = versions.confirmed().filter(|_| left.sha256 == sum_of(text)).map(|version| version.number);
    let confirmed = confirmed.and_then(|number| {
        let text = versions.text(number);
        let text = text.inspect_err(|error| log::error!("version {number} of the configuration is gone: {error}"));
        Some((number, text.ok()?))
    });
    let mut stays = false;
    if let Some((number, text)) = &confirmed {
        log::warn!("version {} of the configuration went back to version {number}: {why}", left.number);
        let written = write_file(file, text);
        stays = written.inspect_err(|why| log::error!("the file still says what went back: {why}")).is_err();
    }
    if let Err(error) = versions.end(left.number, State::RolledBack, why, stays) {
        log::warn!("the end of version {} of the configuration could not be written down: {error}", left.number);
    }
    confirmed.map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_kept_with_their_ends_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("t.db");
        let mut versions = Versions::beside(&store);
        assert_eq!(versions.begin("a", "start", State::Confirmed, &[]).unwrap(), 1);
        assert_eq!(
            versions.begin("a", "sighup", State::Confirmed, &[]).unwrap(),
            1,
            "the same text is the same version"
        );
        assert_eq!(versions.begin("b", "api", State::OnTrial, &[]).unwrap(), 2);
        let mut versions = Versions::beside(&store);
        let left = |versions: &Versions| versions.left().map(|version| version.number);
        assert_eq!(versions.running().map(|v| v.number), Some(2));
        assert_eq!((left(&versions), versions.confirmed().map(|v| v.number)), (Some(2), Some(1)));
        versions.end(2, State::RolledBack, "it was not confirmed", false).unwrap();
        assert_eq!(left(&versions), None, "who writes it into the file again means it");
        assert_eq!(versions.begin("c", "sighup", State::OnTrial, &[]).unwrap(), 3);
        versions.end(3, State::RolledBack, "`sinks.x` is down", true).unwrap();
        let mut versions = Versions::beside(&store);
        assert_eq!(left(&versions), Some(3));
        assert_eq!(versions.begin("d", "api", State::OnTrial, &[]).unwrap(), 4);
        versions.end(4, State::Confirmed, "", false).unwrap();
        assert_eq!(versions.before().map(|v| v.number), Some(1));
        for n in 0..30 {
            versions.begin(&format!("e{n}"), "sighup", State::Confirmed, &[]).unwrap();
        }
        assert_eq!((versions.all().len(), versions.confirmed().map(|v| v.number)), (MOST, Some(34)));
        assert_eq!(versions.text(34).unwrap(), "e29");
        let folder = dir.path().join("t.db-config");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), MOST + 1);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(folder.join("list.json"), "{").unwrap();
        assert_eq!(Versions::beside(&store).all().len(), 0);
    }

    #[test]
    fn what_cannot_be_written_down_is_as_it_was_and_who_takes_a_trials_place_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, list) = (dir.path().join("t.db"), dir.path().join("t.db-config/list.json"));
        let mut versions = Versions::beside(&store);
        let known = |versions: &Versions| {
            let all: Vec<State> = versions.all().iter().map(|version| version.state).collect();
            (all, versions.confirmed().map(|version| version.number), versions.made().to_vec())
        };
        versions.begin("a", "start", State::Confirmed, &[]).unwrap();
        versions.begin("b", "api", State::OnTrial, &["sinks.b".to_owned()]).unwrap();
        let before = known(&versions);
        // No file takes the place of a folder, not even for root.
        fs::remove_file(&list).unwrap();
        fs::create_dir(&list).unwrap();
        versions.begin("c", "sighup", State::OnTrial, &["sinks.c".to_owned()]).unwrap_err();
        assert_eq!(known(&versions), before);
        versions.begin("c", "sighup", State::Confirmed, &[]).unwrap_err();
        assert_eq!(known(&versions), before);
        versions.end(2, State::Confirmed, "", false).unwrap_err();
        assert_eq!(known(&versions), before);
        fs::remove_dir(&list).unwrap();
        // The one that ran for good comes back, or another takes the trial's place.
        assert_eq!(versions.begin("a", "sighup", State::Confirmed, &[]).unwrap(), 1);
        assert_eq!(known(&versions).0, [State::Confirmed, State::RolledBack]);
        versions.begin("c", "api", State::OnTrial, &["sinks.c".to_owned()]).unwrap();
        versions.begin("d", "sighup", State::OnTrial, &[]).unwrap();
        let mut versions = Versions::beside(&store);
        let states = [State::Confirmed, State::RolledBack, State::RolledBack, State::OnTrial];
        let made = vec!["sinks.b".to_owned(), "sinks.c".to_owned()];
        assert_eq!(known(&versions), (states.to_vec(), Some(1), made));
        versions.settled(Vec::new());
        assert!(Versions::beside(&store).made().is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole_and_stays_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("c.jsonc"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("c.jsonc", &link).unwrap();
        write_file(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
        let wrong = write_file(&dir.path().join("none"), "new").unwrap_err();
        assert!(wrong.contains("cannot be written by the gateway's user"), "{wrong}");
    }
}
