use super::*;
use serde_json::{Value, json};

/// A framing as configured, and how a device would make a frame of a content.
pub struct Case {
    pub name: &'static str,
    pub config: Value,
    pub check: Option<Check>,
    pub gap_ms: Option<u64>,
    pub encode: fn(&[u8]) -> Vec<u8>,
    /// What can be the content of a frame, from random bytes.
    content: fn(Vec<u8>) -> Vec<u8>,
}

fn modbus(frame: &[u8]) -> [u8; 2] {
    let crc = frame.iter().fold(0xffff_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    });
    crc.to_le_bytes()
}

fn checked(frame: Vec<u8>) -> Vec<u8> {
    let sum = modbus(&frame);
    [frame, sum.to_vec()].concat()
}

fn text(bytes: Vec<u8>) -> Vec<u8> {
    bytes.iter().map(|byte| b' ' + 1 + byte % 90).filter(|byte| !b"$!*".contains(byte)).chain([b'x']).collect()
}

fn eight(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().chain([7; 8]).take(8).collect()
}

fn object(bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    json!({ "a": { "text": text, "list": [1, -2.5e3, null, true, [], {}] }, "n": bytes }).to_string().into_bytes()
}

fn stuffed(content: &[u8], marks: &[u8], escape: u8, xor: u8) -> Vec<u8> {
    let escaped = |byte: &u8| if marks.contains(byte) { vec![escape, byte ^ xor] } else { vec![*byte] };
    content.iter().flat_map(escaped).collect()
}

fn slip(content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    for byte in content {
        match *byte {
            0xc0 => frame.extend([0xdb, 0xdc]),
            0xdb => frame.extend([0xdb, 0xdd]),
            byte => frame.push(byte),
        }
    }
    frame.push(0xc0);
    frame
}

/// The encoding of the paper, not of the crate that decodes.
fn cobs(content: &[u8]) -> Vec<u8> {
    let (mut frame, mut block) = (Vec::new(), Vec::new());
    let mut open = true;
    for byte in content {
        if *byte != 0 {
            block.push(*byte);
        }
        open = true;
        if *byte == 0 || block.len() == 254 {
            frame.push(block.len() as u8 + 1);
            open = *byte == 0;
            frame.append(&mut block);
        }
    }
    if open {
        frame.push(block.len() as u8 + 1);
        frame.append(&mut block);
    }
    frame.push(0);
    frame
}

fn nmea(content: &[u8]) -> Vec<u8> {
    let sum = content[1..].iter().fold(0, |sum, byte| sum ^ byte);
    [content, format!("*{sum:02X}\r\n").as_bytes()].concat()
}

pub fn cases() -> Vec<Case> {
    let case = |name, config, check, gap_ms, encode, content| Case { name, config, check, gap_ms, encode, content };
    let crc = Some(Check::Crc16Modbus);
    let any: fn(Vec<u8>) -> Vec<u8> = |bytes| bytes.into_iter().chain([1]).collect();
    vec![
        case("lines", json!("lines"), None, None, |c| [c, b"\r\n"].concat(), text),
        case("lines without return", json!("lines"), None, None, |c| [c, b"\n"].concat(), text),
        case("json", json!("json"), None, None, <[u8]>::to_vec, object),
        case("ndjson", json!("json"), None, None, |c| [c, b"\r\n"].concat(), object),
        case("nmea", json!("nmea"), None, None, nmea, |c| [b"$GPXYZ,", &text(c)[..]].concat()),
        case("slip", json!("slip"), None, None, slip, any),
        case("slip with crc", json!("slip"), crc, None, |c| slip(&checked(c.into())), any),
        case("cobs", json!("cobs"), None, None, cobs, any),
        case("cobs with crc", json!("cobs"), crc, None, |c| cobs(&checked(c.into())), any),
        case("fixed", json!({"fixed": {"length": 8}}), None, Some(50), <[u8]>::to_vec, eight),
        case(
            "fixed with start and crc",
            json!({"fixed": {"length": 12, "start": "0xaa55"}}),
            crc,
            None,
            |c| checked([&[0xaa, 0x55], c].concat()),
            eight,
        ),
        case(
            "text between STX and ETX",
            json!({"delimited": {"start": "\u{2}", "end": "\u{3}"}}),
            None,
            None,
            |c| [&[2], c, &[3]].concat(),
            text,
        ),
        case(
            "hdlc",
            json!({"delimited": {"start": "~", "end": "~", "escape": "0x7d", "escape_xor": 32}}),
            crc,
            None,
            |c| [b"~", &stuffed(&checked(c.into()), b"~}", b'}', 32)[..], b"~"].concat(),
            any,
        ),
        case(
            "dle stx",
            json!({"delimited": {"start": "0x1002", "end": "0x1003", "escape": "0x10"}}),
            crc,
            None,
            |c| [&[16, 2], &stuffed(&checked(c.into()), &[16], 16, 0)[..], &[16, 3]].concat(),
            any,
        ),
        case(
            "two bytes of length",
            json!({"length": {"size": 2}}),
            None,
            Some(50),
            |c| [&(c.len() as u16).to_be_bytes(), c].concat(),
            any,
        ),
        case(
            "length with all",
            json!({"length": {"size": 1, "offset": 3, "start": "0x5a", "counts": "itself", "more": 2}}),
            crc,
            None,
            |c| checked([&[0x5a, c[0], c[1], c.len() as u8 - 1], &c[2..]].concat()),
            |bytes| bytes.into_iter().chain([5; 3]).collect(),
        ),
        case(
            "length of the frame, in four bytes",
            json!({"length": {"size": 4, "little_endian": true, "counts": "frame", "start": "head"}}),
            None,
            None,
            |c| [b"head", &(c.len() as u32 + 8).to_le_bytes()[..], c].concat(),
            any,
        ),
    ]
}

const MAX: usize = 4096;

impl Case {
    fn framer(&self) -> Framer {
        let framing: Framing = serde_json::from_value(self.config.clone()).unwrap();
        framing.fits(MAX, self.check).unwrap();
        Framer::new(&framing, None, Limits { max: MAX, check: self.check, gap_ms: self.gap_ms, skip_first: false })
    }

    pub fn contents(&self, random: &mut fastrand::Rng, count: usize) -> Vec<Vec<u8>> {
        let mut bytes = |_| (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
        (0..count).map(&mut bytes).map(self.content).collect()
    }

    pub fn stream(&self, contents: &[Vec<u8>]) -> Vec<u8> {
        contents.iter().flat_map(|content| (self.encode)(content)).collect()
    }
}

/// What came out, and what was counted.
#[derive(Default, Debug, PartialEq)]
struct Out {
    frames: Vec<Vec<u8>>,
    counts: Counts,
}

impl Out {
    fn feed(&mut self, framer: &mut Framer, bytes: &[u8], quiet_ms: u64) {
        framer.feed(bytes, 0, quiet_ms, &mut |_, piece| match piece {
            Ok(frame) => self.frames.push(frame.to_vec()),
            Err((why, bytes)) => {
                assert!(bytes.len() <= MAX + SLACK);
                self.counts.add(why);
            }
        });
    }
}

#[test]
fn a_clean_stream_comes_through_every_split() {
    let mut random = fastrand::Rng::with_seed(1);
    for case in cases() {
        let contents = case.contents(&mut random, 6);
        let stream = case.stream(&contents);
        let want = Out { frames: contents, counts: Counts::default() };
        for at in 0..stream.len() {
            let (mut framer, mut out) = (case.framer(), Out::default());
            out.feed(&mut framer, &stream[..at], 0);
            out.feed(&mut framer, &stream[at..], 10);
            assert_eq!(out, want, "{} split at {at}", case.name);
        }
        let (mut framer, mut out) = (case.framer(), Out::default());
        stream.iter().for_each(|byte| out.feed(&mut framer, &[*byte], 10));
        assert_eq!(out, want, "{} byte by byte", case.name);
    }
}

#[test]
fn behind_a_torn_frame_the_next_ones_are_found() {
    let mut random = fastrand::Rng::with_seed(2);
    for case in cases() {
        // A length may have been cut, and another be read from what follows: that costs as many bytes as it says.
        let (count, lost) = if case.config["length"].is_null() { (5, 1) } else { (20, 16) };
        for _ in 0..5 {
            let contents = case.contents(&mut random, count);
            let (torn, rest) = ((case.encode)(&contents[0]), case.stream(&contents[1..]));
            for at in 1..torn.len() {
                // The end is missing, or the beginning.
                for part in [&torn[..at], &torn[at..]] {
                    let (mut framer, mut out) = (case.framer(), Out::default());
                    out.feed(&mut framer, part, 0);
                    out.feed(&mut framer, &rest, case.gap_ms.unwrap_or(0));
                    let want = &contents[1 + lost..];
                    assert!(out.frames.ends_with(want), "{} torn at {at}: {}", case.name, out.counts);
                }
            }
        }
    }
}

/// Random bytes, bytes out of a few, and good frames with wrong bytes in them.
pub fn garbage(case: &Case, random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    match random.u8(0..3) {
        0 => (0..length).map(|_| random.u8(..)).collect(),
        1 => {
            let few = case.stream(&case.contents(random, 1));
            (0..length).map(|_| few[random.usize(..few.len())]).collect()
        }
        _ => {
            let contents = case.contents(random, 4);
            let mut stream = case.stream(&contents);
            for _ in 0..random.usize(1..9) {
                let at = random.usize(..stream.len());
                stream[at] = random.u8(..);
            }
            stream.into_iter().cycle().take(length).collect()
        }
    }
}

fn survives_garbage(length: usize) {
    let mut random = fastrand::Rng::with_seed(3);
    for case in cases() {
        let (mut framer, mut fed) = (case.framer(), 0);
        while fed < length {
            let bytes = garbage(&case, &mut random, 1 << 14);
            let mut out = Out::default();
            out.feed(&mut framer, &bytes, 0);
            fed += bytes.len();
            // Behind it good frames are found again, at the latest when the longest has passed or there was silence.
            let contents = case.contents(&mut random, 400);
            let stream = case.stream(&contents);
            let mut out = Out::default();
            out.feed(&mut framer, &stream, case.gap_ms.unwrap_or(0));
            fed += stream.len();
            assert_eq!(out.frames.last(), contents.last(), "{}", case.name);
        }
    }
}

#[test]
fn garbage_harms_nothing() {
    survives_garbage(1_000_000);
}

/// As above, ten times as long.
#[test]
#[ignore = "takes a minute"]
fn much_garbage_harms_nothing() {
    survives_garbage(10_000_000);
}
