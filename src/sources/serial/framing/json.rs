//! JSON objects one after another. Each byte is held against the grammar as it comes: so a torn object ends where the next
//! one shows that it is torn, not where the buffer is full.

use super::{Broken, Made, Taker};

/// Nesting that is followed; deeper is broken. A bit says for each level whether it is an object.
const DEPTH: usize = 64;

#[derive(Default)]
pub(super) struct Json {
    at: At,
    objects: u64,
    depth: usize,
    /// There is garbage since the last object.
    garbage: bool,
    /// The last byte that was no white space; a line end after it counts as one, too.
    before: u8,
}

/// What may come next.
#[derive(Clone, Copy, Default, PartialEq)]
enum At {
    #[default]
    Outside,
    /// A value; in a list just opened, or an object, its end is possible as well.
    Value {
        first: bool,
    },
    Name {
        first: bool,
    },
    Colon,
    /// A comma or the end.
    Next,
    /// Inside a text, and what comes after it.
    Text {
        name: bool,
    },
    Escape {
        name: bool,
    },
    /// Inside a number or word; which one, shows when the body is checked.
    Word,
}

impl Json {
    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        if self.at == At::Outside {
            return self.outside(byte, made, taker);
        }
        if !made.push(byte) {
            self.fail(Broken::Long, made, taker);
        } else if !self.step(byte) {
            made.buffer.pop();
            let nested = made.buffer.trim_ascii_end().last().copied();
            self.before = nested.unwrap_or_default();
            self.fail(Broken::Content, made, taker);
            // The byte that does not fit may be the first of the next object.
            self.outside(byte, made, taker);
        } else if self.depth == 0 {
            (self.at, self.garbage, self.before) = (At::Outside, false, b'}');
            made.frame(taker);
        }
    }

    fn fail(&mut self, why: Broken, made: &mut Made, taker: Taker<'_>) {
        (self.at, self.depth, self.garbage, made.noisy) = (At::Outside, 0, true, true);
        made.broken(why, taker);
    }

    fn outside(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        // In garbage, a brace behind one of these opens an object inside one that is torn.
        let inner = self.garbage && matches!(self.before, b':' | b',' | b'[');
        match byte {
            b'{' if !inner => {
                made.push(byte);
                (self.at, self.objects, self.depth) = (At::Name { first: true }, 1, 1);
            }
            b'\n' => self.before = byte,
            // RFC 7464 begins each text with a record separator.
            b' ' | b'\t' | b'\r' | 0x1e => {}
            _ => {
                (self.garbage, self.before) = (true, byte);
                made.noise(byte, taker);
            }
        }
    }

    /// Goes on by a byte; says whether the grammar has it here.
    fn step(&mut self, byte: u8) -> bool {
        let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.at = match (self.at, byte) {
            (At::Text { name }, b'\\') => At::Escape { name },
            (At::Text { name }, b'"') => {
                if name {
                    At::Colon
                } else {
                    At::Next
                }
            }
            (At::Text { .. }, 0..0x20) => return false,
            (At::Text { .. }, _) => return true,
            (At::Escape { name }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' | b'u') => At::Text { name },
            (At::Word, b'0'..=b'9' | b'a'..=b'z' | b'+' | b'-' | b'.' | b'E') => return true,
            (At::Word, _) if blank => At::Next,
            _ if blank && !matches!(self.at, At::Escape { .. }) => return true,
            (At::Name { .. }, b'"') => At::Text { name: true },
            (At::Name { first: true } | At::Next | At::Word, b'}') if self.in_object() => self.close(),
            (At::Value { first: true } | At::Next | At::Word, b']') if !self.in_object() => self.close(),
            (At::Next | At::Word, b',') if self.in_object() => At::Name { first: false },
            (At::Next | At::Word, b',') => At::Value { first: false },
            (At::Colon, b':') => At::Value { first: false },
            (At::Value { .. }, b'"') => At::Text { name: false },
            (At::Value { .. }, b'{') if self.depth < DEPTH => self.open(true),
            (At::Value { .. }, b'[') if self.depth < DEPTH => self.open(false),
            (At::Value { .. }, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => At::Word,
            _ => return false,
        };
        true
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn open(&mut self, object: bool) -> At {
        self.objects = self.objects << 1 | u64::from(object);
        self.depth += 1;
        if object { At::Name { first: true } } else { At::Value { first: true } }
    }

    fn close(&mut self) -> At {
        self.objects >>= 1;
        self.depth -= 1;
        At::Next
    }
}
