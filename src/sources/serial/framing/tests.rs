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
                assert!(bytes.len() <= LONGEST + SLACK);
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

#[test]
fn what_is_no_frame_is_counted_by_reason() {
    let stx = json!({"delimited": {"start": "\u{2}", "end": "\u{3}", "escape": "\\"}});
    let start = json!({"fixed": {"length": 4, "start": "ab"}});
    let prefix = json!({"length": {"size": 1, "counts": "frame"}});
    for (config, input, frames, counts) in [
        (json!("lines"), "one\n\r\n\ntwo\r\nthree", "one two", ""),
        (json!("lines"), "0123456789012345678901234567890123456789\nx\n", "x", "1 long"),
        (json!("lines"), "01234567890123456789\nx\n", "x", "1 long"),
        (json!("json"), "{\"a\":1}{\"b\":{}}\u{1e}{}", "{\"a\":1} {\"b\":{}} {}", ""),
        (json!("json"), "{\"a\":{\"b\":1}\n{\"c\":2}", "{\"c\":2}", "1 content"),
        (json!("json"), "{\"a\":1{\"c\":2}", "{\"c\":2}", "1 content"),
        (json!("json"), "{\"a\":\"te\n{\"c\":2}", "{\"c\":2}", "1 content"),
        (json!("json"), "\"a\":{\"inner\":1}}{\"c\":2}", "{\"c\":2}", "1 noise"),
        (json!("json"), "{\"a\":tru,,[{\"inner\":1}],{\"c\":2}\n{\"d\":3}", "{\"d\":3}", "1 content"),
        (json!("json"), "{\"a\":\"01234567890123456789012345678901\"}{}", "{}", "1 long"),
        (json!("nmea"), "$A*41\r\n$A*42\r\n$A\r\n!B*42\n", "$A !B", "2 checksum"),
        (json!("nmea"), "x\r\ny$A$A*41\n$\u{1}A*41\n$A*41\n", "$A $A", "1 torn, 1 encoding, 2 noise"),
        (json!("slip"), "one\u{fe}two\u{fe}\u{fe}x\u{fd}yz\u{fe}x\u{fd}\u{fe}z\u{fe}", "one two z", "2 encoding"),
        (json!("cobs"), "\u{3}ab\0\u{4}ab\0\u{1}\u{2}c\0\0", "ab \0c", "1 encoding"),
        (stx.clone(), "\u{2}a\u{3}\r\n\u{2}b\u{2}c\\\u{3}\\\\\u{3}zz\u{2}d\u{3}", "a c\u{3}\\ d", "1 torn, 1 noise"),
        (stx, "\u{2}01234567890123456789012345678901234567\u{3}\u{2}a\u{3}", "a", "1 long"),
        (start, "ab12xxab34ax", "12 34", "2 noise"),
        (prefix.clone(), "\u{3}ab\u{0}\u{0}\u{2}a", "ab a", "1 encoding"),
        (prefix, "\u{7f}\u{3}ab", "ab", "1 long"),
    ] {
        // Bytes that are no UTF-8 have stand-ins.
        let bytes: Vec<u8> = input.chars().map(|c| [c as u8, 0xdb, 0xc0][(c as usize).saturating_sub(0xfc)]).collect();
        let framing: Framing = serde_json::from_value(config.clone()).unwrap();
        let mut framer = Framer::new(&framing, None, Limits { max: 16, ..Limits::default() });
        let mut out = Out::default();
        out.feed(&mut framer, &bytes, 0);
        let got: Vec<_> = out.frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect();
        assert_eq!((got.join(" "), out.counts.to_string()), (frames.into(), counts.into()), "{config} {input:?}");
    }
}

#[test]
fn silence_and_beginnings_are_heeded() {
    let framer = |config: Value, skip_first| {
        let framing: Framing = serde_json::from_value(config).unwrap();
        Framer::new(&framing, None, Limits { max: 100, gap_ms: Some(50), skip_first, ..Limits::default() })
    };
    let mut got = Vec::new();
    let mut each = |time: u64, piece: Piece<'_>| got.push((time, piece.map(<[u8]>::to_vec).map_err(|(why, _)| why)));
    let mut lines = framer(json!("lines"), true);
    lines.feed(b".5\n21", 10, 0, &mut each);
    lines.feed(b".5\n22", 20, 49, &mut each);
    lines.feed(b"23\n", 30, 50, &mut each);
    let mut fixed = framer(json!({"fixed": {"length": 3}}), false);
    fixed.feed(b"abca", 40, 0, &mut each);
    fixed.feed(b"xyz", 50, 50, &mut each);
    fixed.feed(b"x", 60, 0, &mut each);
    fixed.cut(&mut each);
    let frame = |text: &str| Ok(text.as_bytes().to_vec());
    let torn = Err(Broken::Torn);
    assert_eq!(
        got,
        [
            (10, frame("21.5")),
            (20, torn.clone()),
            (30, frame("23")),
            (40, frame("abc")),
            (40, torn.clone()),
            (50, frame("xyz")),
            (60, torn)
        ]
    );
}

#[test]
fn frames_that_always_fail_cost_no_more_than_their_bytes() {
    // Each byte could begin a frame of the greatest length, and none has the right checksum.
    let framing = Framing::Fixed { length: LONGEST, start: Mark::of(b"a") };
    let limits = Limits { max: LONGEST, check: Some(Check::Crc16Modbus), ..Limits::default() };
    let mut framer = Framer::new(&framing, None, limits);
    let mut out = Out::default();
    let count = 20;
    out.feed(&mut framer, &vec![b'a'; count * LONGEST], 0);
    let failed = out.counts.total() as usize;
    assert!((count..=count * (1 + sized::AGAIN)).contains(&failed), "{failed}");
}
