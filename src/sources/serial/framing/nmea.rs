//! NMEA 0183: `$GPGGA,…*47` and a line end. The checksum is the exclusive or of all between `$` and `*`.

use super::{Broken, Made, Taker, hex};

#[derive(Default)]
pub(super) struct Nmea {
    inside: bool,
}

impl Nmea {
    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        match byte {
            b'$' | b'!' => {
                if std::mem::replace(&mut self.inside, true) {
                    made.broken(Broken::Torn, taker);
                }
                made.push(byte);
            }
            b'\r' | b'\n' if self.inside => {
                self.inside = false;
                match content(&made.buffer) {
                    Some(length) => {
                        made.buffer.truncate(length);
                        made.frame(taker);
                    }
                    None => made.broken(Broken::Checksum, taker),
                }
            }
            b' '..=b'~' if self.inside => {
                if !made.push(byte) {
                    self.inside = false;
                    made.broken(Broken::Long, taker);
                }
            }
            _ if self.inside => {
                self.inside = false;
                made.broken(Broken::Encoding, taker);
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => made.noise(byte, taker),
        }
    }
}

/// Bytes before the `*` of a sentence whose checksum is right.
fn content(sentence: &[u8]) -> Option<usize> {
    let length = sentence.len().checked_sub(3)?;
    let &[b'*', high, low] = sentence.get(length..)? else { return None };
    let sum = sentence.get(1..length)?.iter().fold(0, |sum, byte| sum ^ byte);
    (hex(high, low)? == sum).then_some(length)
}
