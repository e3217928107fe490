//! Frames whose length is known: fixed, or told by themselves.

use super::{Broken, Counted, Made, Mark, Taker};

/// Bytes that may be looked at again for each that comes, and how many of them may be saved up, in frames: a checksum that
/// fails may mean that the frame began elsewhere, and then what it swallowed is looked through once more.
pub(super) const AGAIN: usize = 4;
const SAVED: usize = 16;

/// Where the length stands and what it means.
pub(super) struct Prefix {
    pub offset: usize,
    pub size: usize,
    pub little_endian: bool,
    pub counts: Counted,
    pub more: usize,
}

enum Length {
    Fixed(usize),
    Told(Prefix),
}

pub(super) struct Sized {
    start: Option<Mark>,
    length: Length,
    /// Bytes that the buffer must have before it is worth a look.
    need: usize,
    credit: usize,
    /// Wrong lengths since the last frame were counted.
    lost: bool,
}

/// What lies at some place of the buffer.
enum Found {
    /// So many bytes are needed to tell.
    Part(usize),
    /// So many bytes are a frame, if its checksum is right.
    Frame(usize),
    /// No frame begins there; it may be a wrong length.
    Nothing(Option<Broken>),
}

impl Sized {
    pub fn fixed(length: usize, start: Option<Mark>) -> Self {
        Sized { start, length: Length::Fixed(length), need: 1, credit: 0, lost: false }
    }

    pub fn prefixed(prefix: Prefix, start: Option<Mark>) -> Self {
        Sized { start, length: Length::Told(prefix), need: 1, credit: 0, lost: false }
    }

    pub fn reset(&mut self) {
        (self.need, self.lost) = (1, false);
    }

    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        self.credit = (self.credit + AGAIN).min(SAVED * made.max);
        made.push(byte); // there is room: `need` is at most the longest frame
        if made.buffer.len() >= self.need {
            self.look(made, taker);
        }
    }

    /// Takes all frames out of the buffer that are whole.
    fn look(&mut self, made: &mut Made, taker: Taker<'_>) {
        let mut at = 0;
        loop {
            match self.find(&made.buffer[at..], made.max) {
                Found::Part(need) => {
                    self.need = need;
                    break;
                }
                Found::Nothing(why) => {
                    match why {
                        None => made.noise(made.buffer[at], taker),
                        Some(_) if std::mem::replace(&mut self.lost, true) => {}
                        Some(why) => taker(made.now, Err((why, &made.buffer[at..]))),
                    }
                    at += 1;
                }
                Found::Frame(length) => {
                    let frame = &made.buffer[at..at + length];
                    match made.check.map_or(Some(length), |check| check.verify(frame)) {
                        Some(end) if self.content(end) < end => {
                            (made.noisy, self.lost) = (false, false);
                            let time = if at == 0 { made.first } else { made.now };
                            // What lies between mark and length moves up to what follows the length.
                            let from = at + self.content(end);
                            let content = self.start.map_or(0, |start| start.length);
                            if let Length::Told(prefix) = &self.length {
                                made.buffer.copy_within(at + content..at + prefix.offset, from);
                            }
                            taker(time, Ok(&made.buffer[from..at + end]));
                            at += length;
                        }
                        // The length says that nothing follows it: a sign of life, perhaps, but no event.
                        Some(_) => at += length,
                        None => {
                            taker(made.now, Err((Broken::Checksum, frame)));
                            let again = self.credit >= length;
                            self.credit -= if again { length } else { 0 };
                            at += if again { 1 } else { length };
                        }
                    }
                }
            }
        }
        if at > 0 {
            let rest = made.buffer.len() - at;
            made.buffer.copy_within(at.., 0);
            made.buffer.truncate(rest);
            made.first = made.now;
        }
    }

    /// Bytes before which nothing can be told.
    fn header(&self) -> usize {
        match &self.length {
            Length::Fixed(_) => self.start.map_or(1, |start| start.length),
            Length::Told(prefix) => prefix.offset + prefix.size,
        }
    }

    /// Where a frame's content begins, once the length is out of its way.
    fn content(&self, end: usize) -> usize {
        let start = self.start.map_or(0, |start| start.length);
        let size = if let Length::Told(prefix) = &self.length { prefix.size } else { 0 };
        (start + size).min(end)
    }

    fn find(&self, bytes: &[u8], max: usize) -> Found {
        if let Some(start) = &self.start
            && bytes.iter().take(start.length).enumerate().any(|(at, byte)| start.byte(at) != *byte)
        {
            return Found::Nothing(None);
        }
        let header = self.header();
        if bytes.len() < header {
            return Found::Part(if self.start.is_some() { bytes.len() + 1 } else { header });
        }
        let length = match &self.length {
            Length::Fixed(length) => *length,
            Length::Told(prefix) => match prefix.length(bytes) {
                length if length > max => return Found::Nothing(Some(Broken::Long)),
                length if length < header => return Found::Nothing(Some(Broken::Encoding)),
                length => length,
            },
        };
        if bytes.len() < length { Found::Part(length) } else { Found::Frame(length) }
    }
}

impl Prefix {
    /// Bytes of the whole frame.
    fn length(&self, bytes: &[u8]) -> usize {
        let digits = bytes[self.offset..self.offset + self.size].iter();
        let add = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        // Four bytes fit into `usize` on all that this runs on.
        let told = if self.little_endian { digits.rev().fold(0, add) } else { digits.fold(0, add) };
        let before = match self.counts {
            Counted::Rest => self.offset + self.size,
            Counted::Itself => self.offset,
            Counted::Frame => 0,
        };
        told.saturating_add(before + self.more)
    }
}
