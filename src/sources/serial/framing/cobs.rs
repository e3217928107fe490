//! Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999): no zero in a frame, one behind it.

use super::{Broken, Made, Taker};

pub(super) struct Cobs {
    skipping: bool,
}

impl Cobs {
    pub fn new(skip_first: bool) -> Self {
        Cobs { skipping: skip_first }
    }

    pub fn byte(&mut self, byte: u8, made: &mut Made, taker: Taker<'_>) {
        if byte != 0 {
            if !self.skipping && !made.push(byte) {
                self.skipping = true;
                made.broken(Broken::Long, taker);
            }
        } else if !std::mem::take(&mut self.skipping) && !made.buffer.is_empty() {
            // It works in place, so keep what came until it is known to be right.
            match whole(&made.buffer).then(|| cobs::decode_in_place(&mut made.buffer)) {
                Some(Ok(0)) => made.buffer.clear(),
                Some(Ok(length)) => {
                    made.buffer.truncate(length);
                    made.frame(taker);
                }
                _ => made.broken(Broken::Encoding, taker),
            }
        }
    }
}

/// Whether the blocks end where the frame does.
fn whole(frame: &[u8]) -> bool {
    let mut at = 0;
    while let Some(code) = frame.get(at) {
        at += usize::from(*code);
    }
    at == frame.len()
}
