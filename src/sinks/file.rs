//! Events in a file, one a line, on the disk before the batch counts as delivered; a full file makes room for the next.

use crate::{
    budget::{Size, Span},
    clock,
    event::{Event, json},
    fault::Fault,
    kind::{Kind, ParamsError, Sink},
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

/// No line is longer: an event has less than 64 MiB, and an envelope around it.
const TAIL: u64 = 65 << 20;

pub const KIND: Kind<dyn Sink> = Kind {
    name: "file",
    about: "one line of JSON an event in a file, synced to the disk and rotated by size and age",
    example: r#"{ "type": "file", "path": "events.ndjson", "envelope": false,
  "rotate": { "size": "16MiB", "age": "1d", "keep": 5 } }"#,
    schema: Config::json_schema,
    build: |params| {
        let config: Config = params.decode()?;
        if config.path.file_name().is_none() {
            return Err(ParamsError::at("path", "expected the path of a file"));
        }
        let envelope = config.envelope;
        let log = Log { config, file: None, len: 0, begun_ms: 0 };
        Ok(Box::new(Synced { envelope, log: Arc::new(Mutex::new(log)) }))
    },
};

/// Appends events to a file. A batch counts as delivered once it is on the disk; a line that a power cut tore is
/// removed at the next start, and its event written again.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file, relative to the directory in which the gateway was started; its own directory must exist.
    #[schemars(with = "String")]
    path: PathBuf,
    /// Whether the body is wrapped in an object with the event's id, topic, key, priority and times.
    #[serde(default)]
    envelope: bool,
    /// When a file is full, and what becomes of full ones.
    #[serde(default)]
    rotate: Rotate,
}

/// A full file is renamed: `events.ndjson` to `events.000001.2026-11-21T10-00-00Z.ndjson`, with rising numbers.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Rotate {
    /// A file does not grow beyond this, unless one batch is larger.
    size: Size,
    /// A file that was begun this long ago is full at the next batch. Without: age does not count.
    age: Option<Span>,
    /// Full files that are kept; the oldest are deleted.
    keep: u32,
}

impl Default for Rotate {
    fn default() -> Self {
        Rotate { size: Size(16 << 20), age: None, keep: 5 }
    }
}

/// The sink. The log is locked while a thread writes, since the runtime may drop a delivery in the middle.
struct Synced {
    envelope: bool,
    log: Arc<Mutex<Log>>,
}

#[async_trait]
impl Sink for Synced {
    async fn deliver(&mut self, batch: &[Event]) -> Result<(), Fault> {
        let log = self.log.clone();
        let lines = super::lines(batch, self.envelope);
        let append = move || log.lock().unwrap_or_else(PoisonError::into_inner).append(&lines);
        tokio::task::spawn_blocking(append).await.map_err(Fault::retry)?
    }
}

/// The file that grows.
struct Log {
    config: Config,
    file: Option<File>,
    /// Bytes of whole, synced lines.
    len: u64,
    begun_ms: i64,
}

impl Log {
    /// Writes whole lines; `Ok` means that they are on the disk. After a fault nothing of them is there.
    fn append(&mut self, lines: &[u8]) -> Result<(), Fault> {
        if !self.in_place() {
            self.open()?;
        }
        if self.full(lines.len() as u64) {
            self.rotate().map_err(|e| self.fault(&e))?;
            self.open()?;
        }
        let Some(file) = &mut self.file else { return Err(self.fault(&ErrorKind::NotFound.into())) };
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What a failed flush left in memory is not to be trusted: the file is opened again.
            file.set_len(self.len).ok();
            self.file = None;
            return Err(self.fault(&error));
        }
        self.len += lines.len() as u64;
        Ok(())
    }

    /// Whether the open file is still the one under its name: others may have moved or deleted it.
    fn in_place(&self) -> bool {
        let identity = |m: &Metadata| (m.dev(), m.ino());
        let Some(file) = &self.file else { return false };
        matches!((file.metadata(), fs::metadata(&self.config.path)), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
    }

    fn full(&self, more: u64) -> bool {
        let Rotate { size, age, .. } = &self.config.rotate;
        let old = |age: &Span| i128::from(clock::wall_ms()) - i128::from(self.begun_ms) >= age.0.as_millis() as i128;
        self.len > 0 && (self.len + more > size.0 || age.as_ref().is_some_and(old))
    }

    fn open(&mut self) -> Result<(), Fault> {
        let path = &self.config.path;
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(|e| self.fault(&e))?;
        let metadata = file.metadata().map_err(|e| self.fault(&e))?;
        if !metadata.is_file() {
            return Err(Fault::fatal(format!("`{}` is not a regular file", path.display())));
        }
        self.len = mend(&mut file, metadata.len(), path).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => Fault::fatal(e),
            _ => self.fault(&e),
        })?;
        sync_directory(path).map_err(|e| self.fault(&e))?;
        let now = clock::wall_ms();
        let created = metadata.created().or(metadata.modified()).ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let created = created.and_then(|t| i64::try_from(t.as_millis()).ok()).filter(|t| *t < now && self.len > 0);
        self.begun_ms = created.unwrap_or(now);
        self.file = Some(file);
        Ok(())
    }

    /// Renames the full file and deletes those that are too many.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.config.path;
        self.file = None;
        let mut full = full_files(path)?;
        let number = full.last().map_or(1, |(number, _)| number + 1);
        let time = clock::rfc3339(clock::wall_ms()).replace(':', "-");
        let (stem, ending) = name_parts(path);
        let name = path.with_file_name(format!("{stem}.{number:06}.{}Z{ending}", time.get(..19).unwrap_or(&time)));
        fs::rename(path, &name)?;
        sync_directory(path)?;
        full.push((number, name));
        let too_many = full.len().saturating_sub(self.config.rotate.keep as usize);
        for (_, old) in &full[..too_many] {
            if let Err(e) = fs::remove_file(old) {
                log::warn!("cannot delete `{}`: {e}", old.display());
            }
        }
        Ok(())
    }

    fn fault(&self, error: &io::Error) -> Fault {
        let path = self.config.path.display();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Fault::retry(format!("the disk of `{path}` is full")),
            _ => Fault::retry(format!("cannot write `{path}`: {error}")),
        }
    }
}

/// `events` and `.ndjson`.
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let ending = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
    (text(path.file_stem()), ending.unwrap_or_default())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The rotated files and their numbers, rising. The number orders them, not the time: clocks of boards step back.
fn full_files(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (stem, ending) = name_parts(path);
    let number = |name: &str| {
        let inside = name.strip_prefix(&stem)?.strip_prefix('.')?.strip_suffix(&ending)?;
        let (number, time) = inside.split_once('.')?;
        let ours = number.len() >= 6 && time.len() == 20 && time.ends_with('Z');
        number.parse::<u64>().ok().filter(|_| ours)
    };
    let mut full = Vec::new();
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        full.extend(entry.file_name().to_str().and_then(number).map(|n| (n, entry.path())));
    }
    full.sort();
    Ok(full)
}

/// Makes a new name last through a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Removes the line that a power cut tore, and gives the length then. Leaves alone what never was a line of ours.
fn mend(file: &mut File, len: u64, path: &Path) -> io::Result<u64> {
    let from = after_last_line_end(file, len)?;
    if from == len {
        return Ok(len);
    }
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(TAIL).read_to_end(&mut tail)?;
    let ours = matches!(tail.first(), Some(b'{' | 0)) && len - from < TAIL;
    if !ours {
        let text = format!(
            "`{}` ends in the middle of a line that is no event; is it another program's file?",
            path.display()
        );
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    if json::check(&tail).is_ok() {
        file.write_all(b"\n")?;
        file.sync_data()?;
        return Ok(len + 1);
    }
    log::warn!("`{}`: removed {} bytes of a torn line from its end", path.display(), len - from);
    file.set_len(from)?;
    file.sync_data()?;
    Ok(from)
}

fn after_last_line_end(file: &mut File, len: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let block = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|c| *c == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{build, events};
    use super::*;

    fn log(path: &Path, rotate: &str) -> Log {
        let rotate = serde_json::from_str(rotate).unwrap();
        Log { config: Config { path: path.to_owned(), envelope: false, rotate }, file: None, len: 0, begun_ms: 0 }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn batches_are_appended_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.ndjson");
        for body in ["{\"a\":1}", "{\"a\":2}"] {
            let mut sink = build(&KIND, &serde_json::json!({ "path": path }).to_string()).unwrap();
            sink.deliver(&events(&[body]).await).await.unwrap();
            sink.deliver(&events(&[body]).await).await.unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":1}\n{\"a\":2}\n{\"a\":2}\n");
        assert_eq!(build(&KIND, r#"{ "path": "/" }"#).err().unwrap(), "path: expected the path of a file");
    }

    #[test]
    fn a_torn_line_is_removed_and_a_foreign_file_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.ndjson");
        let long = "x".repeat(200_000);
        for (before, after) in [
            ("", Ok("")),
            ("{}\n", Ok("{}\n")),
            ("{}\n{\"a\":", Ok("{}\n")),
            ("{\"a\":", Ok("")),
            ("{}\n\0\0\0", Ok("{}\n")),
            ("{}\n{\"a\":1}", Ok("{}\n{\"a\":1}\n")),
            (&format!("{{}}\n{{\"{long}"), Ok("{}\n")),
            ("{\n  \"a\": 1\n}", Err("ends in the middle of a line that is no event")),
        ] {
            fs::write(&path, before).unwrap();
            let ended = log(&path, "{}").append(b"{\"new\":1}\n");
            let now = fs::read_to_string(&path).unwrap();
            match after {
                Ok(after) => assert_eq!(now, format!("{after}{{\"new\":1}}\n")),
                Err(text) => {
                    let fault = ended.unwrap_err();
                    assert!(matches!(&fault, Fault::Fatal(_)) && fault.to_string().contains(text), "{fault}");
                    assert_eq!(now, before);
                }
            }
        }
    }

    #[test]
    fn full_files_are_numbered_and_the_oldest_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.ndjson");
        fs::write(dir.path().join("e.000001.notes.ndjson"), "not ours").unwrap();
        for restart in [false, true] {
            let mut log = log(&path, r#"{ "size": 20, "keep": 2 }"#);
            for n in 0..8 {
                if restart {
                    log.file = None;
                }
                log.append(format!("{{\"n\":{n}}}\n").as_bytes()).unwrap();
            }
        }
        let names = names(dir.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!((names[0].as_str(), names[3].as_str()), ("e.000001.notes.ndjson", "e.ndjson"));
        let parts: Vec<_> = names[1].split('.').collect();
        assert!(parts[1] == "000006" && parts[2].len() == 20 && parts[2].ends_with('Z'), "{names:?}");
        assert_eq!(fs::read_to_string(dir.path().join(&names[2])).unwrap(), "{\"n\":4}\n{\"n\":5}\n");
        let mut log = log(&path, r#"{ "age": "1ms" }"#);
        log.append(b"{}\n").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        log.append(b"{}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("e.ndjson"), dir.path().join("away"));
        let mut log = log(&path, "{}");
        log.append(b"{\"a\":1}\n").unwrap();
        fs::rename(&path, &away).unwrap();
        log.append(b"{\"a\":2}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
        assert_eq!(fs::read_to_string(&away).unwrap(), "{\"a\":1}\n");
    }

    #[test]
    fn what_cannot_be_written_is_said_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/e.ndjson");
        let fault = log(&missing, "{}").append(b"{}\n").unwrap_err();
        assert!(matches!(fault, Fault::Retry(_)));
        assert!(fault.to_string().contains("No such file or directory"), "{fault}");
        let fault = log(Path::new("/dev/full"), "{}").append(b"{}\n").unwrap_err();
        assert_eq!(fault.to_string(), "`/dev/full` is not a regular file");
        let full = log(&missing, "{}").fault(&ErrorKind::StorageFull.into());
        assert_eq!(full.to_string(), format!("the disk of `{}` is full", missing.display()));
    }

    /// A batch that meets the end of the disk leaves nothing behind: a read-only handle stands for the full disk.
    #[test]
    fn a_failed_write_leaves_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.ndjson");
        let mut log = log(&path, "{}");
        log.append(b"{\"a\":1}\n").unwrap();
        log.file = Some(File::open(&path).unwrap());
        assert!(matches!(log.append(b"{\"a\":2}\n"), Err(Fault::Retry(_))));
        log.append(b"{\"a\":3}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
    }
}
