//! Cuts the bytes of a port into frames. Nothing here reads or waits: bytes go in as they come, frames come out.
//!
//! A byte costs the same whatever came before it, and what is kept has a fixed size. Bytes that are no frame are counted by
//! reason, and the next frame is looked for behind them.

mod check;
mod cobs;
mod delimited;
mod json;
mod nmea;
mod sized;

#[cfg(test)]
pub mod tests;

pub use check::Check;

use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;

/// Bytes of the longest frame that can be asked for, as received.
pub const LONGEST: usize = 64 << 10;
/// Bytes that a buffer has beyond the longest frame, for what ends one.
const SLACK: usize = 16;
/// Bytes that a mark may have: what fits into a register.
const MARK: usize = 8;

/// How frames are told apart; default: `lines`. `json`, `nmea`, `slip` and `cobs` are words as well. The others say more:
/// `{ "fixed": { "length": 9, "start": "0x5959" } }`, `{ "delimited": { "start": "\u0002", "end": "\u0003" } }` (also `escape`,
/// `escape_xor`), `{ "length": { "size": 2, "start": "0xaa" } }` (also `little_endian`, `offset`, `counts`, `more`).
/// `configs/serial.jsonc` explains them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Framing {
    /// Lines of text that end with `line_end`. Empty ones are passed over.
    #[default]
    Lines,
    /// JSON objects one after another, with line ends, white space or nothing between them. Lists and scalars are none.
    Json,
    /// Sentences of NMEA 0183, `$…*hh` or `!…*hh`; those without a checksum, or with a wrong one, are broken.
    Nmea,
    /// SLIP (RFC 1055).
    Slip,
    /// Consistent Overhead Byte Stuffing, with a zero byte at the end of each frame.
    Cobs,
    /// Frames of one length.
    Fixed {
        /// Bytes of a frame, `start` and checksum included.
        length: usize,
        /// What each frame begins with. Without it a byte that is lost shifts all frames, unless `gap` is set.
        start: Option<Mark>,
    },
    /// Frames between marks.
    Delimited {
        /// What a frame begins with. Without it, it begins where the one before has ended.
        start: Option<Mark>,
        /// What a frame ends with.
        end: Mark,
        /// The byte behind this one is taken as it is: `0x7d`. If `start` and `end` contain it (DLE STX … DLE ETX), it is so
        /// only where it does not belong to them.
        escape: Option<Mark>,
        /// What an escaped byte is combined with by exclusive or: 32 for HDLC.
        #[serde(default)]
        escape_xor: u8,
    },
    /// Frames that say how long they are.
    Length {
        /// Bytes of the length: 1, 2 or 4.
        size: u8,
        /// Whether its lowest byte comes first.
        #[serde(default)]
        little_endian: bool,
        /// Bytes before it; default: as many as `start` has.
        offset: Option<u8>,
        #[serde(default)]
        counts: Counted,
        /// Bytes at the end of a frame that the length does not count, such as those of a checksum.
        #[serde(default)]
        more: u8,
        /// What each frame begins with. Without it a wrong length may cost many frames, unless `gap` is set.
        start: Option<Mark>,
    },
}

/// What a length counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// The bytes behind it.
    #[default]
    Rest,
    /// Those, and itself.
    Itself,
    /// All bytes of the frame.
    Frame,
}

/// One to eight bytes that tell where a frame begins or ends: text such as `"\r\n"` or `"\u0002"`, or hexadecimal such as
/// `"0xaa55"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mark {
    /// The last byte is the lowest.
    bits: u64,
    length: usize,
}

impl Framing {
    /// Whether frames of at most `max` bytes can be of this form; the error says which field is wrong, and why.
    pub fn fits(&self, max: usize, check: Option<Check>) -> Result<(), (&'static str, String)> {
        let check = check.map_or(0, Check::length);
        match self {
            Framing::Fixed { length, start } => {
                let least = start.map_or(0, |start| start.length) + check + 1;
                if !(least..=max).contains(length) {
                    return Err(("fixed.length", format!("expected {least} to {max}, which is `max_frame`")));
                }
            }
            Framing::Delimited { start, end, escape: Some(escape), .. } => {
                if escape.length != 1 {
                    return Err(("delimited.escape", "expected one byte".into()));
                }
                if start.is_some_and(|start| start == *escape) || end == escape {
                    return Err(("delimited.escape", "it is also `start` or `end`".into()));
                }
            }
            Framing::Length { size, offset, start, more, .. } => {
                let start = start.map_or(0, |start| start.length);
                let offset = offset.map_or(start, usize::from);
                if ![1, 2, 4].contains(size) {
                    return Err(("length.size", "expected 1, 2 or 4".into()));
                }
                if offset < start {
                    return Err(("length.offset", "the length cannot lie within `start`".into()));
                }
                let least = offset + usize::from(*size) + check.max(usize::from(*more));
                if least >= max {
                    let why = format!("a frame has {least} bytes without any content, and `max_frame` is {max}");
                    return Err(("length", why));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Why bytes were no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More bytes than a frame may have, or a length that says so.
    Long,
    /// It stopped in the middle: another one began, or nothing came for `gap`.
    Torn,
    /// A wrong checksum, or none.
    Checksum,
    /// A sequence that its encoding does not have.
    Encoding,
    /// It cannot be an event's body: not JSON, not UTF-8.
    Content,
    /// Bytes between frames; those without a frame between them count once.
    Noise,
}

impl Broken {
    pub const ALL: [Broken; 6] =
        [Broken::Long, Broken::Torn, Broken::Checksum, Broken::Encoding, Broken::Content, Broken::Noise];

    pub fn name(self) -> &'static str {
        ["long", "torn", "checksum", "encoding", "content", "noise"][self as usize]
    }
}

/// How often bytes were no frame, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Broken::ALL.len()]);

impl Counts {
    pub fn add(&mut self, why: Broken) {
        self.0[why as usize] += 1;
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that are there, with how often.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Broken::ALL.into_iter().map(|why| (why.name(), self.0[why as usize])).filter(|(_, count)| *count > 0)
    }

    /// What was added since.
    pub fn since(&self, before: &Counts) -> Counts {
        Counts(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    /// Both together.
    pub fn and(&self, other: &Counts) -> Counts {
        Counts(std::array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, count)) in self.each().enumerate() {
            write!(f, "{}{count} {name}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What comes out: a frame's content, or why bytes were none and the first of them.
pub type Piece<'a> = Result<&'a [u8], (Broken, &'a [u8])>;

/// Who takes what comes out, with the time of its first byte, as given to `feed`.
pub type Taker<'a> = &'a mut (dyn FnMut(u64, Piece<'_>) + Send);

/// Assembles frames.
pub struct Framer {
    decoder: Decoder,
    made: Made,
    gap_ms: Option<u64>,
}

enum Decoder {
    Delimited(delimited::Delimited),
    Slip(delimited::Slip),
    Cobs(cobs::Cobs),
    Json(json::Json),
    Nmea(nmea::Nmea),
    Sized(sized::Sized),
}

/// What frames have in common besides how they are told apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes of a frame as received, at most `LONGEST`.
    pub max: usize,
    pub check: Option<Check>,
    /// A silence in which a frame cannot be, in milliseconds.
    pub gap_ms: Option<u64>,
    /// What comes before the first end of a frame is passed over.
    pub skip_first: bool,
}

impl Framer {
    /// `line_end` is for lines; the default is a line feed, with or without a carriage return before it.
    pub fn new(framing: &Framing, line_end: Option<Mark>, limits: Limits) -> Framer {
        let Limits { max, check, gap_ms, skip_first } = limits;
        let decoder = match framing {
            Framing::Lines => Decoder::Delimited(delimited::Delimited::lines(line_end, skip_first)),
            Framing::Json => Decoder::Json(json::Json::default()),
            Framing::Nmea => Decoder::Nmea(nmea::Nmea::default()),
            Framing::Slip => Decoder::Slip(delimited::Slip::new(skip_first)),
            Framing::Cobs => Decoder::Cobs(cobs::Cobs::new(skip_first)),
            Framing::Delimited { start, end, escape, escape_xor } => {
                let escape = escape.map(|mark| (mark.bits as u8, *escape_xor));
                Decoder::Delimited(delimited::Delimited::new(*start, *end, escape, skip_first))
            }
            Framing::Fixed { length, start } => Decoder::Sized(sized::Sized::fixed(*length, *start)),
            Framing::Length { size, little_endian, offset, counts, more, start } => {
                let shape = sized::Prefix {
                    offset: offset.map_or(start.map_or(0, |start| start.length), usize::from),
                    size: usize::from(*size),
                    little_endian: *little_endian,
                    counts: *counts,
                    more: usize::from(*more),
                };
                Decoder::Sized(sized::Sized::prefixed(shape, *start))
            }
        };
        Framer { decoder, made: Made::new(max.min(LONGEST), check), gap_ms }
    }

    /// Takes what came at `now`, after nothing had come for `quiet_ms` while we listened.
    pub fn feed(&mut self, bytes: &[u8], now: u64, quiet_ms: u64, taker: Taker<'_>) {
        self.made.now = now;
        if self.gap_ms.is_some_and(|gap| quiet_ms >= gap) {
            self.cut(taker);
        }
        for byte in bytes {
            let made = &mut self.made;
            match &mut self.decoder {
                Decoder::Delimited(decoder) => decoder.byte(*byte, made, taker),
                Decoder::Slip(decoder) => decoder.byte(*byte, made, taker),
                Decoder::Cobs(decoder) => decoder.byte(*byte, made, taker),
                Decoder::Json(decoder) => decoder.byte(*byte, made, taker),
                Decoder::Nmea(decoder) => decoder.byte(*byte, made, taker),
                Decoder::Sized(decoder) => decoder.byte(*byte, made, taker),
            }
        }
    }

    /// Nothing follows what came: a frame that is not whole is torn.
    pub fn cut(&mut self, taker: Taker<'_>) {
        if !self.made.buffer.is_empty() {
            self.made.broken(Broken::Torn, taker);
        }
        match &mut self.decoder {
            Decoder::Delimited(decoder) => decoder.reset(),
            Decoder::Slip(decoder) => *decoder = delimited::Slip::new(false),
            Decoder::Cobs(decoder) => *decoder = cobs::Cobs::new(false),
            Decoder::Json(decoder) => *decoder = json::Json::default(),
            Decoder::Nmea(decoder) => *decoder = nmea::Nmea::default(),
            Decoder::Sized(decoder) => decoder.reset(),
        }
    }
}

/// The frame in the making, which decoders fill, and the way out for it.
struct Made {
    /// Fixed memory; its pages are taken from the machine when a frame first reaches them.
    buffer: Box<heapless::Vec<u8, { LONGEST + SLACK }>>,
    max: usize,
    check: Option<Check>,
    /// When the bytes came that are fed now, and when the first in the buffer did.
    now: u64,
    first: u64,
    /// Bytes of the noise between frames were counted.
    noisy: bool,
}

impl Made {
    fn new(max: usize, check: Option<Check>) -> Made {
        Made { buffer: Box::default(), max, check, now: 0, first: 0, noisy: false }
    }

    /// Adds a byte; says whether there was room.
    fn push(&mut self, byte: u8) -> bool {
        if self.buffer.is_empty() {
            self.first = self.now;
        }
        self.buffer.len() < self.max + SLACK && self.buffer.push(byte).is_ok()
    }

    /// The buffer is a frame; its checksum is looked at and cut off.
    fn frame(&mut self, taker: Taker<'_>) {
        if self.buffer.len() > self.max {
            return self.broken(Broken::Long, taker);
        }
        match self.check {
            None => {}
            Some(check) => match check.verify(&self.buffer) {
                Some(content) => self.buffer.truncate(content),
                None => return self.broken(Broken::Checksum, taker),
            },
        }
        self.noisy = false;
        taker(self.first, Ok(&self.buffer));
        self.buffer.clear();
    }

    /// The buffer is none.
    fn broken(&mut self, why: Broken, taker: Taker<'_>) {
        taker(if self.buffer.is_empty() { self.now } else { self.first }, Err((why, &self.buffer)));
        self.buffer.clear();
    }

    /// A byte between frames.
    fn noise(&mut self, byte: u8, taker: Taker<'_>) {
        if !std::mem::replace(&mut self.noisy, true) {
            taker(self.now, Err((Broken::Noise, &[byte])));
        }
    }
}

/// The last bytes that came, to see marks in.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    bits: u64,
    length: usize,
}

impl Window {
    fn push(&mut self, byte: u8) {
        self.bits = self.bits << 8 | u64::from(byte);
        self.length = (self.length + 1).min(MARK);
    }

    fn ends_with(&self, mark: &Mark) -> bool {
        self.length >= mark.length && self.bits & mark.mask() == mark.bits
    }
}

impl Mark {
    /// A mark of up to eight bytes.
    fn of(bytes: &[u8]) -> Option<Mark> {
        (1..=MARK).contains(&bytes.len()).then(|| Mark {
            bits: bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
            length: bytes.len(),
        })
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.length)
    }

    fn byte(&self, at: usize) -> u8 {
        (self.bits >> (8 * (self.length - 1 - at))) as u8
    }

    /// How many bytes it has.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl TryFrom<String> for Mark {
    type Error = String;

    fn try_from(text: String) -> Result<Mark, String> {
        let bytes = match text.strip_prefix("0x") {
            None => Some(text.as_bytes().to_vec()),
            Some(digits) => (digits.len() % 2 == 0)
                .then(|| digits.as_bytes().chunks(2).map(|pair| hex(pair[0], pair[1])).collect())
                .flatten(),
        };
        let expected = || format!("`{text:.40}` is not 1 to {MARK} bytes; write text, or hexadecimal like \"0xaa55\"");
        bytes.and_then(|bytes| Mark::of(&bytes)).ok_or_else(expected)
    }
}

/// A byte from its two digits.
fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

impl JsonSchema for Mark {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mark".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "examples": ["0xaa55", "\r\n", "\u{2}"] })
    }
}
