//! The log on standard error. A line that cannot be written is dropped: standard error may be a file on the disk that is
//! full, and that must never end the gateway (`eprintln!` would panic).

use crate::fault::printable;
use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && is_ours(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(record);
            std::io::stderr().lock().write_all(line.as_bytes()).ok();
        }
    }

    fn flush(&self) {}
}

/// The crates below may tell a URL with a secret in its query.
fn is_ours(target: &str) -> bool {
    target.split("::").next() == Some(env!("CARGO_PKG_NAME"))
}

/// A record as one line. What others say, such as the name of a device, may be in it: it makes no line of its own, and colours no
/// terminal.
fn line(record: &Record<'_>) -> String {
    let said = printable(record.args().to_string().as_bytes(), usize::MAX);
    format!("{:<5} [{}] {said}\n", record.level(), record.target())
}

/// Logs from `info` on, or as `RUST_LOG` says: `error`, `warn`, `info`, `debug`, `trace`, `off`.
pub(super) fn log() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    log::set_max_level(level.unwrap_or(LevelFilter::Info));
    log::set_logger(&Stderr).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn whatever_is_said_makes_one_line_and_only_of_ours() {
        let said =
            |text: &str| line(&Record::builder().level(Level::Warn).target("t").args(format_args!("{text}")).build());
        assert_eq!(said("a\nERROR [t] b\r\x1b[2J\u{9b}c"), "WARN  [t] a\\nERROR [t] b\\r\\u{1b}[2J\\u{9b}c\n");
        for (target, want) in [("tidegate::store", true), ("ureq::run", false)] {
            assert_eq!(is_ours(target), want, "{target}");
        }
    }
}
