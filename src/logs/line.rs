//! One line: when, how bad, where from, what.

use super::priority;
use crate::clock;
use log::{Level, Record};
use serde_json::json;

/// Bytes of a message; what is longer is cut. Escaped as JSON, and with what stands around it, it fits into what a pipe that is
/// ready takes without blocking, 4096 bytes.
const LONGEST: usize = 1800;
/// The same of a module's name.
const LONGEST_MODULE: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Milliseconds since 1970.
    pub at: i64,
    pub level: Level,
    module: String,
    /// Without control characters.
    pub message: String,
}

impl Line {
    pub fn of(record: &Record<'_>, at: i64) -> Line {
        let (module, message) = (clean(record.target(), LONGEST_MODULE), clean(&record.args().to_string(), LONGEST));
        Line { at, level: record.level(), module, message }
    }

    /// It came so many more times.
    pub fn again(self, times: u64) -> Line {
        let word = if times == 1 { "time" } else { "times" };
        Line { message: format!("{} ({times} more {word})", self.message), ..self }
    }

    /// What it is about, by the place that it begins with: `sinks.cloud: down`, `store: …`.
    fn component(&self) -> Option<&str> {
        let (place, _) = self.message.split_once(": ")?;
        let plain = place.len() <= 200 && place.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/#!".contains(c));
        let sort = place.split(['.', '/']).next().unwrap_or_default();
        let known = ["sources", "pipelines", "sinks", "systems", "store", "admin"].contains(&sort);
        (plain && known).then_some(place)
    }

    pub fn text(&self, colour: bool) -> String {
        let paint = match self.level {
            Level::Error => "\x1b[31m",
            Level::Warn => "\x1b[33m",
            Level::Info => "\x1b[32m",
            Level::Debug | Level::Trace => "\x1b[2m",
        };
        let (on, off) = if colour { (paint, "\x1b[0m") } else { ("", "") };
        let time = clock::rfc3339(self.at);
        format!("{time} {on}{:<5}{off} [{}] {}\n", self.level, self.module, self.message)
    }

    /// With the priority that systemd reads; it has a clock itself.
    pub fn prefixed(&self) -> String {
        format!("<{}>{}\n", priority(self.level), self.message)
    }

    pub fn json(&self) -> String {
        let level = self.level.as_str().to_lowercase();
        let mut line = json!({ "time": clock::rfc3339(self.at), "level": level, "module": self.module });
        if let Some(component) = self.component() {
            line["component"] = component.into();
        }
        line["message"] = self.message.as_str().into();
        line.to_string()
    }

    /// The fields of journald's own protocol. No value holds a newline.
    pub fn fields(&self) -> String {
        let mut fields = format!(
            "PRIORITY={}\nSYSLOG_IDENTIFIER=tidegate\nCODE_MODULE={}\nMESSAGE={}\n",
            priority(self.level),
            self.module,
            self.message
        );
        if let Some(component) = self.component() {
            fields += &format!("COMPONENT={component}\n");
        }
        fields
    }
}

/// A text as it may stand in one line, at most so many bytes of it: nothing in it begins another line, or moves a cursor.
fn clean(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for c in text.chars() {
        if out.len() > longest {
            out.push('…');
            break;
        }
        match c {
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level, message: &str) -> Line {
        Line::of(&Record::builder().level(level).target("tidegate::x").args(format_args!("{message}")).build(), 0)
    }

    #[test]
    fn a_line_has_its_forms() {
        let warn = line(Level::Warn, "sinks.cloud: down: \"x\"\nERROR [x] forged\x1b[2J");
        let message = "sinks.cloud: down: \"x\"\\nERROR [x] forged\\u{1b}[2J";
        for (got, want) in [
            (warn.text(false), format!("1970-01-01T00:00:00.000Z WARN  [tidegate::x] {message}\n")),
            (warn.text(true), format!("1970-01-01T00:00:00.000Z \x1b[33mWARN \x1b[0m [tidegate::x] {message}\n")),
            (warn.prefixed(), format!("<4>{message}\n")),
            (
                warn.fields(),
                format!(
                    "PRIORITY=4\nSYSLOG_IDENTIFIER=tidegate\nCODE_MODULE=tidegate::x\nMESSAGE={message}\nCOMPONENT=sinks.cloud\n"
                ),
            ),
        ] {
            assert_eq!(got, want);
        }
        let json: serde_json::Value = serde_json::from_str(&warn.json()).unwrap();
        let want = json!({ "time": "1970-01-01T00:00:00.000Z", "level": "warn", "module": "tidegate::x",
            "component": "sinks.cloud", "message": message });
        assert_eq!(json, want);
        assert!(!warn.json().contains('\n'));
        assert!(line(Level::Info, "a\tb").again(1).message.ends_with("a\\tb (1 more time)"));
    }

    #[test]
    fn a_line_says_what_it_is_about() {
        for (message, want) in [
            ("sinks.cloud: down", Some("sinks.cloud")),
            ("pipelines.p/half: of `p`", Some("pipelines.p/half")),
            ("sources.web: x: y", Some("sources.web")),
            ("store: the disk is full", Some("store")),
            ("running", None),
            ("stopped: all", None),
            ("sinks.a b: c", None),
        ] {
            assert_eq!(line(Level::Info, message).component(), want, "{message}");
        }
    }

    #[test]
    fn a_long_line_is_cut_and_fits_into_a_pipe() {
        for piece in ["\\", "\"", "\n", "é", "\u{1f300}", "\u{7f}"] {
            let line = line(Level::Error, &piece.repeat(100_000)).again(u64::MAX);
            for form in [line.text(true), line.json(), line.fields(), line.prefixed()] {
                assert!(form.len() < 4096, "{piece:?}: {}", form.len());
            }
        }
    }
}
