//! A line that comes again and again is told a few times and then counted, so that no flapping link fills a disk with its log.

use super::line::Line;
use log::Level;
use std::{collections::HashMap, mem::take};

/// Within this many milliseconds ...
const WINDOW: u64 = 60_000;
/// ... the same line is told so many times: enough to see that something comes and goes.
const TOLD: u32 = 5;
/// Lines that are known at once.
const KNOWN: usize = 64;

#[derive(Default)]
pub(super) struct Repeats(HashMap<(Level, String), Seen>);

struct Seen {
    /// Its last one, or the first of the window.
    line: Line,
    since: u64,
    told: u32,
    hidden: u64,
}

impl Repeats {
    /// A line came; gives what is to be told.
    pub fn see(&mut self, line: Line, now: u64) -> Vec<Line> {
        let key = (line.level, line.message.clone());
        let Some(seen) = self.0.get_mut(&key) else {
            let gone = if self.0.len() < KNOWN { Vec::new() } else { self.forget(now) };
            self.0.insert(key, Seen { line: line.clone(), since: now, told: 1, hidden: 0 });
            return gone.into_iter().chain([line]).collect();
        };
        if now.saturating_sub(seen.since) >= WINDOW {
            (seen.since, seen.told) = (now, 0);
        } else if seen.told >= TOLD {
            (seen.line, seen.hidden) = (line, seen.hidden + 1);
            return Vec::new();
        }
        seen.told += 1;
        vec![match take(&mut seen.hidden) {
            0 => line,
            hidden => line.again(hidden),
        }]
    }

    /// What was counted and not told yet. It goes on being counted.
    pub fn due(&mut self, now: u64) -> Vec<Line> {
        let mut told = Vec::new();
        for seen in self.0.values_mut().filter(|seen| seen.hidden > 0) {
            seen.since = now;
            told.push(seen.line.clone().again(take(&mut seen.hidden)));
        }
        self.0.retain(|_, seen| now.saturating_sub(seen.since) < WINDOW);
        told.sort_by_key(|line| line.at);
        told
    }

    /// Forgets those whose window is over, or else the oldest; gives what was not told of them.
    fn forget(&mut self, now: u64) -> Vec<Line> {
        let oldest = self.0.values().map(|seen| seen.since).min().unwrap_or(now);
        let gone = self.0.extract_if(|_, seen| seen.since == oldest || now.saturating_sub(seen.since) >= WINDOW);
        let told = gone.filter(|(_, seen)| seen.hidden > 0).map(|(_, seen)| seen.line.again(seen.hidden));
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Record;

    fn line(message: &str) -> Line {
        Line::of(&Record::builder().level(Level::Warn).target("m").args(format_args!("{message}")).build(), 0)
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn what_comes_again_and_again_is_counted() {
        let mut repeats = Repeats::default();
        let mut see = |message: &str, now| texts(repeats.see(line(message), now));
        for n in 0..5 {
            assert_eq!(see("a", n), ["a"], "{n}");
        }
        for n in 5..17 {
            assert_eq!(see("a", n), [""; 0], "{n}");
        }
        assert_eq!(see("b", 20), ["b"]);
        assert_eq!(see("a", 59_999), [""; 0]);
        assert_eq!(see("a", 60_000), ["a (13 more times)"]);
        for n in 0..4 {
            assert_eq!(see("a", 60_001 + n), ["a"], "{n}");
        }
        assert_eq!(see("a", 60_010), [""; 0]);
        assert_eq!(texts(repeats.due(100_000)), ["a (1 more time)"]);
        assert_eq!(texts(repeats.due(100_000)), [""; 0]);
        assert_eq!(texts(repeats.see(line("a"), 100_001)), [""; 0], "it goes on");
        assert_eq!(texts(repeats.due(200_000)), ["a (1 more time)"]);
        assert_eq!(texts(repeats.due(300_000)), [""; 0]);
        assert!(repeats.0.is_empty());
    }

    #[test]
    fn it_is_bounded_and_loses_no_count() {
        let mut repeats = Repeats::default();
        for n in 0..7 {
            repeats.see(line("first"), n);
        }
        let mut told = Vec::new();
        for n in 0..500 {
            told.extend(texts(repeats.see(line(&n.to_string()), 10 + n)));
            assert!(repeats.0.len() <= KNOWN);
        }
        assert_eq!(told.iter().filter(|text| *text == "first (2 more times)").count(), 1);
        assert_eq!(told.len(), 501);
    }
}
