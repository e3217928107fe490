//! Bytes of MQTT packets: frames out of a stream, and the data types of section 1.5 of the specification.

use crate::systems::mqtt::wire::length;

/// The reason codes of MQTT 5 (2.4) that this server sends.
pub mod reason {
    pub const SUCCESS: u8 = 0x00;
    pub const NO_SUBSCRIPTION: u8 = 0x11;
    pub const WITH_WILL: u8 = 0x04;
    pub const MALFORMED: u8 = 0x81;
    pub const PROTOCOL: u8 = 0x82;
    pub const IMPLEMENTATION: u8 = 0x83;
    pub const VERSION: u8 = 0x84;
    pub const CLIENT_ID: u8 = 0x85;
    pub const BAD_PASSWORD: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const UNAVAILABLE: u8 = 0x88;
    pub const SHUTTING_DOWN: u8 = 0x8b;
    pub const AUTH_METHOD: u8 = 0x8c;
    pub const KEEP_ALIVE: u8 = 0x8d;
    pub const TAKEN_OVER: u8 = 0x8e;
    pub const FILTER: u8 = 0x8f;
    pub const TOPIC: u8 = 0x90;
    pub const NO_PACKET_ID: u8 = 0x92;
    pub const RECEIVE_MAXIMUM: u8 = 0x93;
    pub const ALIAS: u8 = 0x94;
    pub const TOO_LARGE: u8 = 0x95;
    pub const QUOTA: u8 = 0x97;
}

/// A packet that breaks the rules: the reason code for the goodbye, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub u8, pub &'static str);

pub fn malformed<T>(what: &'static str) -> Result<T, Broken> {
    Err(Broken(reason::MALFORMED, what))
}

pub fn protocol<T>(what: &'static str) -> Result<T, Broken> {
    Err(Broken(reason::PROTOCOL, what))
}

/// The version that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// Packet types (2.1.2), the high half of the first byte.
pub mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// One whole packet in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub first: u8,
    pub body: &'a [u8],
    /// Bytes with the fixed header.
    pub len: usize,
}

/// The first packet of `buf`, if all of it is there. What is over `max` or has impossible flags is refused from its
/// first bytes, before it is buffered.
pub fn frame(buf: &[u8], max: usize) -> Result<Option<Frame<'_>>, Broken> {
    let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
    let fits = match first >> 4 {
        kind::PUBLISH => first & 0b0110 != 0b0110 && first & 0b1110 != 0b1000,
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => first & 0b1111 == 0b0010,
        _ => first & 0b1111 == 0,
    };
    if !fits {
        return malformed("the flags of the fixed header are wrong");
    }
    let (len, at) = match length(rest) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(_) => return malformed("the remaining length has more than four bytes"),
    };
    let whole = 1 + at + len;
    if whole > max {
        return Err(Broken(reason::TOO_LARGE, "the packet is over the limit"));
    }
    Ok(buf.get(1 + at..whole).map(|body| Frame { first, body, len: whole }))
}

/// How long the first packet of `buf` will be, as soon as its first bytes say so.
pub fn whole(buf: &[u8]) -> Option<usize> {
    let (len, at) = length(buf.get(1..)?).ok()??;
    Some(1 + at + len)
}

/// Takes data types off the front of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        match self.0.split_at_checked(n) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => malformed("the packet ends too early"),
        }
    }

    pub fn u8(&mut self) -> Result<u8, Broken> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Broken> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Broken> {
        self.array().map(u32::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        match self.0.split_first_chunk() {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(*taken)
            }
            None => malformed("the packet ends too early"),
        }
    }

    /// A variable byte integer (1.5.5), in as few bytes as it needs.
    pub fn varint(&mut self) -> Result<u32, Broken> {
        let mut n = 0;
        for at in 0..4 {
            let byte = self.u8()?;
            n |= u32::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if byte == 0 && at > 0 {
                    return malformed("a number has more bytes than it needs");
                }
                return Ok(n);
            }
        }
        malformed("a number has more than four bytes")
    }

    pub fn binary(&mut self) -> Result<&'a [u8], Broken> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// UTF-8 without U+0000 (1.5.4).
    pub fn text(&mut self) -> Result<&'a str, Broken> {
        match std::str::from_utf8(self.binary()?) {
            Ok(text) if !text.as_bytes().contains(&0) => Ok(text),
            Ok(_) => malformed("a text contains U+0000"),
            Err(_) => malformed("a text is not UTF-8"),
        }
    }

    /// A packet identifier, which is never 0.
    pub fn packet_id(&mut self) -> Result<u16, Broken> {
        match self.u16()? {
            0 => malformed("the packet identifier is 0"),
            id => Ok(id),
        }
    }

    pub fn end(self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { malformed("the packet has bytes after its end") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_refused_from_its_first_bytes() {
        let large = Err(Broken(reason::TOO_LARGE, "the packet is over the limit"));
        for (bytes, want) in [
            (&[][..], Ok(None)),
            (&[0x30], Ok(None)),
            (&[0x30, 2, 0], Ok(None)),
            (&[0xc0, 0], Ok(Some(2))),
            (&[0xc0, 0x80, 0], Ok(Some(3))),
            (&[0x30, 0xff, 0x01], large),
            (&[0x30, 0x80, 0x80, 0x80], Ok(None)),
            (&[0x36], malformed("the flags of the fixed header are wrong")),
            (&[0x38], malformed("the flags of the fixed header are wrong")),
            (&[0x80], malformed("the flags of the fixed header are wrong")),
            (&[0x60], malformed("the flags of the fixed header are wrong")),
            (&[0x11], malformed("the flags of the fixed header are wrong")),
            (&[0xf1], malformed("the flags of the fixed header are wrong")),
            (&[0x30, 0xff, 0xff, 0xff, 0xff], malformed("the remaining length has more than four bytes")),
        ] {
            assert_eq!(frame(bytes, 100).map(|f| f.map(|f| f.len)), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_number_is_as_short_as_it_can_be() {
        for (bytes, want) in [
            (&[0][..], Some(0)),
            (&[0x7f], Some(127)),
            (&[0x80, 1], Some(128)),
            (&[0x80, 0], None),
            (&[0xff, 0xff, 0xff, 0x7f], Some(268_435_455)),
            (&[0xff, 0xff, 0xff, 0xff, 1], None),
            (&[0x80], None),
        ] {
            assert_eq!(Input(bytes).varint().ok(), want, "{bytes:?}");
        }
    }
}
