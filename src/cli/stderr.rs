//! The log on standard error. A line that cannot be written is dropped: standard error may be a file on the disk that is
//! full, and that must never end the gateway (`eprintln!` would panic).

use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{:<5} [{}] {}\n", record.level(), record.target(), record.args());
            std::io::stderr().lock().write_all(line.as_bytes()).ok();
        }
    }

    fn flush(&self) {}
}

/// Logs from `info` on, or as `RUST_LOG` says: `error`, `warn`, `info`, `debug`, `trace`, `off`.
pub(super) fn log() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Info));
    log::set_logger(&Stderr).ok();
}
