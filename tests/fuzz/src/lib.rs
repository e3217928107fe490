//! Every way in, given bytes that nobody meant. A target panics where something is wrong.

use bytes::{Bytes, BytesMut};
use std::{cell::OnceCell, path::Path};
use tidegate::{
    event::{Batch, Body, Draft, batch, json},
    expr::{Expr, Scope, Value},
    kind::{Fields, Intake},
    sources::{
        http,
        mqtt_listen::{decode, wire},
        serial::framing::{Framer, Framing, LONGEST, Limits},
    },
    store::{Options, Store},
    systems::mqtt,
};

/// A target's name, itself, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static [u8]]);

pub const TARGETS: [Target; 7] = [
    (
        "mqtt_in",
        mqtt_in,
        &[
            b"\x10\x13\0\x04MQTT\x04\x02\0\x3c\0\x07machine",
            b"\x10\x1b\0\x04MQTT\x05\x06\0\x3c\x05\x11\0\0\0\x05\0\x01c\0\0\x01w\0\x01x",
            b"\x32\x12\0\x03a/b\0\x01{\"n\":12345}",
            b"\x33\x19\0\x03a/b\0\x01\x09\x26\0\x01a\0\x01b\x01\x01{\"n\":12}",
            b"\x82\x08\0\x01\0\x03a/+\x01",
            b"\xa2\x07\0\x01\0\x03a/+",
            b"\x62\x02\0\x06\x40\x02\0\x05\xc0\0\xe0\x02\x04\0",
        ],
    ),
    (
        "mqtt_client",
        mqtt_client,
        &[
            b"\x20\x02\0\0\x90\x03\0\x01\x01\x40\x02\0\x05",
            b"\x20\x09\0\0\x06\x21\0\x0a\x27\0\0\x10\0",
            b"\x32\x12\0\x03a/b\0\x01{\"n\":12345}\xd0\0",
            b"\x34\x0f\0\x03a/b\0\x01\x03\x01\x01\x01text\x62\x02\0\x01",
            b"\x50\x02\0\x01\x70\x02\0\x01\xe0\x02\x8b\0",
        ],
    ),
    (
        "http_body",
        http_body,
        &[
            b"\x00{\"n\":1}\n{\"n\":2,\"id\":\"b\"}",
            b"\x01[{\"n\":1,\"t\":{\"deep\":[1,2,3.5e7,null,true]}},{\"id\":\"a\\u00e9\"}]",
            b"\x02\x1f\x8b\x08\0\0\0\0\0\0\x03\xabV\xcaS\xb22\xac\x05\0\x1d\xd6\x1a\x1e\x07\0\0\0",
        ],
    ),
    (
        "serial",
        serial,
        &[
            b"\x00one\r\ntwo\nthree\r",
            b"\x01{\"n\":1}{\"n\":{\"a\":[1,\"}\"]}} [1] {\"n\":",
            b"\x02$GPGLL,5057.970,N,00146.110,E,142451,A*27\r\n!AIVDM,1,1,,A,x,0*00\r\n",
            b"\x03\xc0one\xc0\xdb\xdctwo\xdb\xdd\xc0",
            b"\x04\x03\x01\x02\0\x05one\x01\0",
            b"\x05\xaa\x05one12\xaa\x03two",
            b"\x06\xaa\0\x03one\xaa\0\x02tw",
            b"\x07\x02one\x10\x03\x02tw\x10\x10o\x03",
        ],
    ),
    (
        "config",
        config,
        &[
            include_bytes!("../../../configs/demo.jsonc"),
            include_bytes!("../../../configs/catalogue.jsonc"),
            include_bytes!("../../../configs/serial.jsonc"),
        ],
    ),
    (
        "expr",
        expr,
        &[
            b"event.temp > -40.0 && event.temp < 85.0 || has(event.a.b)",
            b"event.list[0] in [1, 2.5, \"x\"] ? size(event.text) : int('0x1f')",
            b"event.text.matches(\"^[a-z]+$\") && meta.topic.startsWith(r\"a\\b\")",
            b"{'l': [round(event.temp, 2), bitAnd(6, 3)], \"k\": event.find('a.b').split(\",\")}",
        ],
    ),
    (
        "batch",
        batch,
        &[b"\0\x02\x80\x01\x01\x01\x01\x07{\"n\":1}\x03\x01a\x07{\"n\":2}", b"\x3d\x01\x02\x01k\x04\x02{}\x02{}"],
    ),
];

/// What a listener reads from a client.
pub fn mqtt_in(mut bytes: &[u8]) {
    while let Ok(Some(frame)) = wire::frame(bytes, 1 << 16) {
        for version in [wire::Version::V311, wire::Version::V5] {
            decode::connect(frame.body).ok();
            decode::publish(&frame, version).ok();
            decode::ack(&frame, version).ok();
            decode::subscribe(frame.body, version).ok();
            decode::unsubscribe(frame.body, version).ok();
            decode::disconnect(frame.body, version).ok();
        }
        assert!(frame.len > 0 && frame.len <= bytes.len());
        bytes = &bytes[frame.len..];
    }
}

/// What a client reads from a broker.
pub fn mqtt_client(bytes: &[u8]) {
    for version in [mqtt::Version::V3, mqtt::Version::V5] {
        let (mut input, mut reader) = (BytesMut::from(bytes), mqtt::wire::Reader::new(version, 1 << 16));
        // One that is too large is told before it is passed over.
        let most = 2 * input.len() + 1;
        let packets = std::iter::from_fn(|| reader.next(&mut input).ok().flatten());
        assert!(packets.take(most).count() < most, "packets of no bytes");
    }
}

thread_local! {
    static INTAKE: OnceCell<Intake> = const { OnceCell::new() };
}

fn with_intake<T>(work: impl FnOnce(&Intake) -> T) -> T {
    let path = |text: &str| text.parse().ok();
    let fields = Fields {
        id: path("id"),
        time: path("t.at"),
        key: path("k"),
        ttl: path("ttl"),
        priority: 4,
        max_event: 1 << 16,
    };
    let open = || Intake::new("t", fields, Store::open(Options::default()).unwrap(), None);
    INTAKE.with(|intake| work(intake.get_or_init(open)))
}

/// The body of a request; the first byte says whether it is gzip and whether it has an id.
pub fn http_body(bytes: &[u8]) {
    let Some((how, body)) = bytes.split_first() else { return };
    let batch = with_intake(|intake| http::taken(body, how & 2 != 0, (how & 1 != 0).then_some("id"), intake));
    let Some(written) = batch.map(|batch| (batch.len(), batch.written())) else { return };
    let events = batch::decode(&written.1);
    assert_eq!(events.len(), written.0);
    for event in events {
        assert_eq!(json::check(&event.body.to_bytes()).ok(), Some(json::Kind::Object));
    }
}

/// What a serial port gives; the first byte says how it is framed. However it is cut into pieces, the frames are the same.
pub fn serial(bytes: &[u8]) {
    let framings = [
        r#""lines""#,
        r#""json""#,
        r#""nmea""#,
        r#""slip""#,
        r#""cobs""#,
        r#"{ "length": { "size": 1, "start": "0xaa" } }"#,
        r#"{ "length": { "size": 2, "counts": "frame", "more": 1 } }"#,
        r#"{ "delimited": { "start": "\u0002", "end": "\u0003", "escape": "0x10" } }"#,
        r#"{ "fixed": { "length": 5, "start": "0x5959" } }"#,
    ];
    let Some((how, stream)) = bytes.split_first() else { return };
    let framing: Framing = serde_json::from_str(framings[usize::from(*how) % framings.len()]).unwrap();
    let read = |piece: usize| {
        let mut framer =
            Framer::new(&framing, None, Limits { max: 200, skip_first: how & 64 != 0, ..Limits::default() });
        let mut frames = Vec::new();
        for part in stream.chunks(piece) {
            framer.feed(part, 0, 0, &mut |_, found| {
                frames.extend(found.ok().map(<[u8]>::to_vec));
            });
        }
        framer.cut(&mut |_, found| frames.extend(found.ok().map(<[u8]>::to_vec)));
        frames
    };
    let frames = read(stream.len().max(1));
    assert!(frames.iter().all(|frame| frame.len() <= LONGEST));
    assert_eq!(frames, read(1));
}

/// A configuration: right, or told why not, in lines.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(problems) = tidegate::config::load(Path::new("c.jsonc"), text, &tidegate::cli::catalogue()) {
        assert!(!problems.is_empty());
        assert!(problems.iter().all(|problem| !problem.to_string().contains('\n')));
    }
}

struct Seen(Body);

impl Scope for Seen {
    fn event(&self) -> &Body {
        &self.0
    }

    fn meta(&self, name: &str) -> Option<Value<'_>> {
        (name == "topic").then_some(Value::Int(7))
    }
}

/// An expression, parsed and evaluated.
pub fn expr(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(parsed) = Expr::parse(text) else { return };
    let mut batch = Batch::default();
    let body = br#"{"temp":21.5,"list":[1,"x"],"text":"a,b","a":{"b":null},"a.b":"1,2","n":-9223372036854775808}"#;
    batch.push(&Draft { body, ..Draft::default() }).unwrap();
    let event = batch::decode(&batch.written()).remove(0);
    let seen = Seen(event.body);
    parsed.eval(&seen).ok();
    parsed.test(&seen).ok();
}

/// A batch as it stands in the store.
pub fn batch(bytes: &[u8]) {
    let events = batch::decode(&Bytes::copy_from_slice(bytes));
    assert!(events.len() <= bytes.len());
    for event in events {
        event.write_envelope(&mut Vec::new());
    }
}
