//! The log: where its lines go, and which of them are kept at hand for operators.
//!
//! On a terminal they are for people; under systemd they go to journald with their fields; in a container they are JSON. A
//! line is told when a state changes; one that comes again and again is counted instead.
//!
//! No line ends or stops the gateway. What cannot be written is dropped: standard error may be a file on the disk that is full
//! (`simple_logger` panics there, as `eprintln!` does: so neither is used), or a pipe that nobody reads.

mod journal;
mod line;
mod repeats;

use crate::clock;
use journal::Journal;
use line::Line;
use log::{Level, LevelFilter, Log, Metadata, Record};
use repeats::Repeats;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::fstat,
};
use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Bytes of the newest lines that are kept at hand: a thousand or two.
const KEPT: usize = 256 << 10;

static LOGS: OnceLock<Logs> = OnceLock::new();

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// Fields for journald.
    Journal,
}

impl Form {
    /// Its names.
    pub const NAMES: [&'static str; 3] = ["text", "json", "journal"];

    fn of(name: &str) -> Option<Form> {
        [Form::Text, Form::Json, Form::Journal].into_iter().zip(Form::NAMES).find(|known| known.1 == name).map(|k| k.0)
    }

    /// What suits who reads: a person at a terminal, journald, whatever collects what a container prints; else a file.
    fn suited(terminal: bool, journal: bool, container: bool) -> Form {
        match (terminal, journal, container) {
            (false, true, _) => Form::Journal,
            (false, false, true) => Form::Json,
            _ => Form::Text,
        }
    }
}

struct Logs {
    form: Form,
    colour: bool,
    journal: Option<Journal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    repeats: Repeats,
    /// The newest lines, as JSON.
    kept: VecDeque<String>,
    bytes: usize,
}

/// Begins to log, from `info` on or as `RUST_LOG` says: `error`, `warn`, `info`, `debug`, `trace`, `off`. `asked` is the name of
/// a form; without it `TIDEGATE_LOG` says which, or what standard error is.
pub fn begin(asked: Option<&str>) {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Info));
    let (variable, terminal) = (std::env::var("TIDEGATE_LOG").ok(), std::io::stderr().is_terminal());
    let named = asked.or(variable.as_deref()).filter(|name| !name.is_empty());
    let chosen = named.and_then(Form::of);
    let form = chosen.unwrap_or_else(|| Form::suited(terminal, is_journal(), is_container()));
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let journal = (form == Form::Journal).then(|| Journal::new(Path::new(JOURNAL))).flatten();
    log::set_logger(LOGS.get_or_init(|| Logs { form, colour, journal, state: Mutex::default() })).ok();
    if let (Some(name), None) = (named, chosen) {
        log::warn!("TIDEGATE_LOG: expected one of {} instead of `{name}`", Form::NAMES.join(", "));
    }
}

/// Whether standard error goes to journald, which says so by the device and inode of the socket.
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(std::io::stderr()).is_ok_and(|is| said == format!("{}:{}", is.st_dev, is.st_ino))
}

/// By what Docker, Podman and systemd-nspawn leave.
fn is_container() -> bool {
    ["/run/.containerenv", "/.dockerenv"].iter().any(|mark| Path::new(mark).exists())
        || std::env::var_os("container").is_some()
}

/// The crates below may tell a URL with a secret in its query.
fn is_ours(target: &str) -> bool {
    target.split("::").next() == Some(env!("CARGO_PKG_NAME"))
}

/// The newest lines of this process, the oldest first, each as a JSON object: at most `most`, and at most 256 KiB.
pub fn recent(most: usize) -> Vec<String> {
    let Some(logs) = LOGS.get() else { return Vec::new() };
    let state = logs.lock();
    state.kept.iter().skip(state.kept.len().saturating_sub(most)).cloned().collect()
}

impl Log for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_ours(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = Line::of(record, clock::wall_ms());
            let mut state = self.lock();
            for line in state.repeats.see(line, clock::mono_ms()) {
                self.tell(&mut state, &line);
            }
        }
    }

    /// Tells the repeats that were counted.
    fn flush(&self) {
        let mut state = self.lock();
        for line in state.repeats.due(clock::mono_ms()) {
            self.tell(&mut state, &line);
        }
    }
}

impl Logs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One writes at a time: the lock is held.
    fn tell(&self, state: &mut State, line: &Line) {
        let json = line.json();
        match (&self.journal, self.form) {
            (Some(journal), _) if journal.send(line) => {}
            (_, Form::Journal) => write(&line.prefixed()),
            (_, Form::Json) => write(&format!("{json}\n")),
            (_, Form::Text) => write(&line.text(self.colour)),
        }
        state.keep(json);
    }
}

impl State {
    fn keep(&mut self, line: String) {
        self.bytes += line.len();
        self.kept.push_back(line);
        while self.bytes > KEPT {
            self.bytes -= self.kept.pop_front().map_or(self.bytes, |line| line.len());
        }
    }
}

/// To standard error, if it takes a line now: a pipe that is ready takes 4 KiB without blocking, and no line is longer.
fn write(line: &str) {
    let mut err = std::io::stderr().lock();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&err, PollFlags::OUT)], Some(&now));
    if ready.is_ok_and(|ready| ready > 0) {
        err.write_all(line.as_bytes()).ok();
    }
}

/// As syslog counts them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_suits_who_reads() {
        for (terminal, journal, container, want) in [
            (true, false, false, Form::Text),
            (true, true, true, Form::Text),
            (false, true, false, Form::Journal),
            (false, true, true, Form::Journal),
            (false, false, true, Form::Json),
            (false, false, false, Form::Text),
        ] {
            assert_eq!(Form::suited(terminal, journal, container), want, "{terminal} {journal} {container}");
        }
        assert_eq!(Form::NAMES.map(Form::of), [Some(Form::Text), Some(Form::Json), Some(Form::Journal)]);
        assert_eq!(Form::of("xml"), None);
    }

    #[test]
    fn only_lines_of_ours_are_told() {
        for (target, want) in [("tidegate::store", true), ("tidegate", true), ("ureq::run", false), ("", false)] {
            assert_eq!(is_ours(target), want, "{target}");
        }
    }

    #[test]
    fn what_is_kept_is_the_newest_and_bounded() {
        let mut state = State::default();
        for n in 0..1000 {
            state.keep(format!("{n:01000}"));
        }
        assert_eq!((state.kept.len(), state.bytes), (KEPT / 1000, KEPT / 1000 * 1000));
        assert_eq!(state.kept.back().unwrap().trim_start_matches('0'), "999");
        state.keep("x".repeat(KEPT + 1));
        assert_eq!((state.kept.len(), state.bytes), (0, 0));
    }
}
