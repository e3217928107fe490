//! Frames between marks: lines, start and end bytes with escapes, SLIP.

use super::{Broken, Made, Mark, Taker, Window};

/// Frames that end with a mark, and may begin with one.
pub(super) struct Delimited {
    start: Option<Mark>,
    end: Mark,
    /// The escape byte, and what the byte behind it is combined with.
    escape: Option<(u8, u8)>,
    /// A carriage return before the end belongs to it.
    strip_return: bool,
    state: State,
    window: Window,
    escaped: bool,
    /// Bytes since the last frame.
    outside: usize,
}

#[derive(PartialEq)]
enum State {
    /// Waits for a start mark.
    Outside,
    Inside,
    /// Passes over all up to the next mark.
    Skipping,
}

impl Delimited {
    pub fn new(start: Option<Mark>, end: Mark, escape: Option<(u8, u8)>, skip_first: bool) -> Self {
        // One mark between all frames: what ends one begins the next, and what comes before the first is none.
        let between = start == Some(end);
        let start = if between { None } else { start };
        let state = match start {
            Some(_) => State::Outside,
            None if skip_first || between => State::Skipping,
            None => State::Inside,
        };
        let window = Window::default();
        Delimited { start, end, escape, strip_return: false, state, window, escaped: false, outside: 0 }
    }

    pub fn lines(end: Option<Mark>, skip_first: bool) -> Self {
        let feed = Mark { bits: u64::from(b'\n'), length: 1 };
        let mut lines = Delimited::new(None, end.unwrap_or(feed), None, skip_first);
        lines.strip_return = end.is_none();
        lines
    }

    pub fn reset(&mut self) {
        self.begin();
        self.state = if self.start.is_some() { State::Outside } else { State::Inside };
    }

    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        self.window.push(byte);
        if std::mem::take(&mut self.escaped) {
            let Some((escape, xor)) = self.escape else { return };
            // Only a mark in which the byte stands behind an escape byte can end here.
            let part = |mark: &Mark| mark.length > 1 && mark.byte(mark.length - 2) == escape;
            if part(&self.end) && self.window.ends_with(&self.end) {
                self.end(self.end.length - 2, made, taker);
            } else if self.start.is_some_and(|start| part(&start) && self.window.ends_with(&start)) {
                self.start(made, taker);
            } else {
                self.window = Window::default();
                self.take(byte ^ xor, made, taker);
            }
        } else if self.state == State::Outside {
            self.outside += 1;
            let Some(start) = self.start else { return };
            if self.window.ends_with(&start) {
                self.start(made, taker);
            } else if self.outside >= start.length && !byte.is_ascii_whitespace() {
                made.noise(byte, taker);
            }
        } else if self.escape.is_some_and(|(escape, _)| escape == byte) {
            self.escaped = true;
        } else if self.window.ends_with(&self.end) {
            self.end(self.end.length - 1, made, taker);
        } else if self.start.is_some_and(|start| self.window.ends_with(&start)) {
            self.start(made, taker);
        } else {
            self.take(byte, made, taker);
        }
    }

    fn begin(&mut self) {
        (self.state, self.window, self.escaped, self.outside) = (State::Inside, Window::default(), false, 0);
    }

    fn start(&mut self, made: &mut Made, taker: Taker<'_>) {
        // The mark's first bytes are in the buffer by now.
        if self.state == State::Inside && made.buffer.len() >= self.start.map_or(0, |start| start.length) {
            made.broken(Broken::Torn, taker);
        }
        made.buffer.clear();
        self.begin();
    }

    /// `cut` bytes of the mark are in the buffer.
    fn end(&mut self, cut: usize, made: &mut Made, taker: Taker<'_>) {
        let inside = self.state == State::Inside;
        self.reset();
        made.buffer.truncate(made.buffer.len().saturating_sub(cut));
        if self.strip_return && made.buffer.last() == Some(&b'\r') {
            made.buffer.pop();
        }
        if !made.buffer.is_empty() && inside {
            made.frame(taker);
        }
        made.buffer.clear();
    }

    fn take(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        if self.state == State::Inside && !made.push(byte) {
            made.broken(Broken::Long, taker);
            self.state = State::Skipping;
        }
    }
}

const END: u8 = 0xc0;
const ESC: u8 = 0xdb;
const ESC_END: u8 = 0xdc;
const ESC_ESC: u8 = 0xdd;

/// SLIP (RFC 1055).
#[derive(Default)]
pub(super) struct Slip {
    escaped: bool,
    skipping: bool,
}

impl Slip {
    pub fn new(skip_first: bool) -> Self {
        Slip { escaped: false, skipping: skip_first }
    }

    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        let escaped = std::mem::take(&mut self.escaped);
        let byte = match (escaped, byte) {
            (true, ESC_END) => END,
            (true, ESC_ESC) => ESC,
            (_, END) => {
                let skipped = std::mem::take(&mut self.skipping);
                return match (skipped, escaped) {
                    (false, true) => made.broken(Broken::Encoding, taker),
                    (false, false) if !made.buffer.is_empty() => made.frame(taker),
                    _ => {}
                };
            }
            (true, _) => return self.skip(Broken::Encoding, made, taker),
            (false, ESC) => {
                self.escaped = true;
                return;
            }
            (false, byte) => byte,
        };
        if !self.skipping && !made.push(byte) {
            self.skip(Broken::Long, made, taker);
        }
    }

    fn skip(&mut self, why: Broken, made: &mut Made, taker: Taker<'_>) {
        if !std::mem::replace(&mut self.skipping, true) {
            made.broken(why, taker);
        }
    }
}
