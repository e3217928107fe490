//! Packets as bytes. What carries the load is written straight into the buffer that goes out; the properties of what
//! comes in are read by rumqttc's codec.

use super::{Dial, Message, Version};
use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, PublishProperties};

pub const PINGREQ: [u8; 2] = [0xc0, 0];
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What a packet is (2.1.2), as far as a broker sends it or it answers one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::PubAck => "PUBACK",
            Kind::PubRec => "PUBREC",
            Kind::PubRel => "PUBREL",
            Kind::PubComp => "PUBCOMP",
        }
    }
}

/// A packet from the broker.
#[derive(Debug)]
pub enum Packet {
    ConnAck {
        code: u8,
        session: bool,
        limits: Limits,
    },
    Publish(Publish),
    /// A PUBLISH over the limit of this connection; it was passed over.
    Oversized {
        topic: String,
        qos: u8,
        id: u16,
        size: usize,
    },
    Ack {
        kind: Kind,
        id: u16,
        code: u8,
    },
    SubAck {
        codes: Bytes,
    },
    Pong,
    Disconnect(u8),
}

/// A message from the broker.
#[derive(Debug)]
pub struct Publish {
    pub topic: Bytes,
    pub qos: u8,
    pub retain: bool,
    /// 0 for quality of service 0.
    pub id: u16,
    pub properties: Option<PublishProperties>,
    pub payload: Bytes,
}

/// What the broker allows (3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages above quality of service 0 that may be in flight.
    pub receive: u16,
    pub qos: u8,
    pub retain: bool,
    /// Bytes of a packet.
    pub packet: usize,
    /// Seconds that the broker dictates.
    pub keepalive: Option<u16>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { receive: u16::MAX, qos: 2, retain: true, packet: MAX_REMAINING + 5, keepalive: None }
    }
}

/// What four bytes of length can say (1.5.5).
const MAX_REMAINING: usize = 268_435_455;

/// A message to the broker.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub qos: u8,
    pub retain: bool,
    /// 0 for quality of service 0.
    pub id: u16,
    /// Names and values of user properties; not in 3.1.1.
    pub user: [Option<(&'a str, &'a str)>; 2],
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Appends the packet, unless it has more than `limit` bytes: then the error says how many.
    pub fn write(&self, version: Version, limit: usize, out: &mut Vec<u8>) -> Result<(), usize> {
        let user = self.user.iter().flatten();
        let properties = user.clone().map(|(name, value)| 5 + name.len() + value.len()).sum();
        let mut remaining = 2 + self.topic.len() + self.payload.len() + if self.qos > 0 { 2 } else { 0 };
        if version == Version::V5 {
            remaining += length_of(properties) + properties;
        }
        let size = 1 + length_of(remaining) + remaining;
        if size > limit || remaining > MAX_REMAINING {
            return Err(size);
        }
        out.push(0x30 | self.qos << 1 | u8::from(self.retain));
        put_length(remaining, out);
        put(self.topic.as_bytes(), out);
        if self.qos > 0 {
            out.extend_from_slice(&self.id.to_be_bytes());
        }
        if version == Version::V5 {
            put_length(properties, out);
            for (name, value) in user {
                out.push(0x26);
                put(name.as_bytes(), out);
                put(value.as_bytes(), out);
            }
        }
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP with success.
pub fn put_ack(kind: Kind, id: u16, out: &mut Vec<u8>) {
    let [high, low] = id.to_be_bytes();
    let flags = if kind == Kind::PubRel { 2 } else { 0 };
    out.extend_from_slice(&[(kind as u8) << 4 | flags, 2, high, low]);
}

/// Appends CONNECT (3.1).
pub fn put_connect(dial: &Dial, out: &mut Vec<u8>) {
    let Dial { client_id, username, password, will, .. } = dial;
    let v5 = dial.version == Version::V5;
    let mut body = Vec::with_capacity(256);
    put(b"MQTT", &mut body);
    let mut flags = u8::from(dial.clean) << 1 | u8::from(username.is_some()) << 7 | u8::from(password.is_some()) << 6;
    if let Some(will) = will {
        flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
    }
    body.extend_from_slice(&[if v5 { 5 } else { 4 }, flags]);
    body.extend_from_slice(&u16::try_from(dial.keepalive.as_secs()).unwrap_or(u16::MAX).to_be_bytes());
    if v5 {
        let mut properties = vec![0x21];
        properties.extend_from_slice(&dial.receive.to_be_bytes());
        properties.push(0x27);
        properties.extend_from_slice(&u32::try_from(dial.max_packet).unwrap_or(u32::MAX).to_be_bytes());
        if !dial.clean {
            // The session outlives any outage (3.1.2.11.2); how long really is up to the broker.
            properties.push(0x11);
            properties.extend_from_slice(&u32::MAX.to_be_bytes());
        }
        put_length(properties.len(), &mut body);
        body.extend_from_slice(&properties);
    }
    put(client_id.as_bytes(), &mut body);
    if let Some(Message { topic, payload, .. }) = will {
        if v5 {
            put_length(0, &mut body);
        }
        put(topic.as_bytes(), &mut body);
        put(payload.as_bytes(), &mut body);
    }
    for text in [username, password].into_iter().flatten() {
        put(text.as_bytes(), &mut body);
    }
    out.push(0x10);
    put_length(body.len(), out);
    out.extend_from_slice(&body);
}

/// Appends SUBSCRIBE (3.8). With `retained`, in MQTT 5, retained messages come once for a new subscription, and all that is
/// published keeps its flag; else none come, and none has the flag. In 3.1.1 they come in any case, alone with the flag.
pub fn put_subscribe(version: Version, id: u16, filters: &[String], qos: u8, retained: bool, out: &mut Vec<u8>) {
    let mut body = id.to_be_bytes().to_vec();
    let v5 = version == Version::V5;
    if v5 {
        put_length(0, &mut body);
    }
    for filter in filters {
        put(filter.as_bytes(), &mut body);
        body.push(match retained {
            true if v5 => qos | 1 << 3 | 1 << 4,
            false if v5 => qos | 2 << 4,
            _ => qos,
        });
    }
    out.push(0x82);
    put_length(body.len(), out);
    out.extend_from_slice(&body);
}

/// Appends text or bytes with their length (1.5.4). What is longer than it can say is cut, which no caller makes: it was
/// refused by a constructor or a check.
pub fn put(bytes: &[u8], out: &mut Vec<u8>) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a variable byte integer (1.5.5).
pub fn put_length(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn length_of(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// The variable byte integer at the start and how many bytes it takes; `None` while bytes are missing.
pub fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, &'static str> {
    let mut n = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        n |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((n, i + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err("a length of more than four bytes") }
}

/// Takes packets from the bytes of a connection.
#[derive(Debug)]
pub struct Reader {
    pub version: Version,
    /// Bytes of the largest packet that is taken.
    pub limit: usize,
    /// Bytes of a packet over the limit that are still to be passed over.
    skip: usize,
}

impl Reader {
    pub fn new(version: Version, limit: usize) -> Self {
        Reader { version, limit, skip: 0 }
    }

    /// The next packet, if all of it is there. An error says what is wrong with it; nothing after it makes sense.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, &'static str> {
        let skipped = self.skip.min(input.len());
        input.advance(skipped);
        self.skip -= skipped;
        let Some(first) = input.first().copied() else { return Ok(None) };
        let Some((remaining, width)) = length(&input[1..])? else { return Ok(None) };
        let (head, size) = (1 + width, 1 + width + remaining);
        if size > self.limit {
            return self.pass_over(first, head, size, input);
        }
        if input.len() < size {
            return Ok(None);
        }
        let packet = match (first >> 4, &input[head..size]) {
            (kind @ 4..=7, [high, low, code @ ..]) => {
                let kind = [Kind::PubAck, Kind::PubRec, Kind::PubRel, Kind::PubComp][usize::from(kind - 4)];
                let id = u16::from_be_bytes([*high, *low]);
                let packet = Packet::Ack { kind, id, code: code.first().copied().unwrap_or(0) };
                input.advance(size);
                packet
            }
            _ => {
                let mut body = input.split_to(size).freeze();
                body.advance(head);
                self.read(first, body)?
            }
        };
        Ok(Some(packet))
    }

    /// A PUBLISH over the limit is passed over, so that it can be refused and does not come again for ever.
    fn pass_over(
        &mut self,
        first: u8,
        head: usize,
        size: usize,
        input: &mut BytesMut,
    ) -> Result<Option<Packet>, &'static str> {
        if first >> 4 != 3 {
            return Err("a packet over the size limit");
        }
        let rest = &input[head..];
        let Some(length) = rest.first_chunk().map(|l| usize::from(u16::from_be_bytes(*l))) else { return Ok(None) };
        if rest.len() < 2 + length + 2 {
            return Ok(None);
        }
        let qos = first >> 1 & 3;
        let topic = String::from_utf8_lossy(&rest[2..2 + length]).into_owned();
        let id = if qos == 0 { 0 } else { u16::from_be_bytes([rest[2 + length], rest[3 + length]]) };
        self.skip = size;
        Ok(Some(Packet::Oversized { topic, qos, id, size }))
    }

    fn read(&self, first: u8, mut body: Bytes) -> Result<Packet, &'static str> {
        const SHORT: &str = "a packet that ends too early";
        let v5 = self.version == Version::V5;
        match first >> 4 {
            2 => {
                let [flags, code] = *body.first_chunk().ok_or(SHORT)?;
                body.advance(2);
                let limits = if v5 { read_limits(&mut body)? } else { Limits::default() };
                Ok(Packet::ConnAck { code, session: flags & 1 == 1, limits })
            }
            3 => self.read_publish(first, body).map(Packet::Publish),
            4..=7 => Err(SHORT),
            9 => {
                body.try_advance(2).ok_or(SHORT)?;
                if v5 {
                    let (properties, width) = length(&body)?.ok_or(SHORT)?;
                    body.try_advance(properties + width).ok_or(SHORT)?;
                }
                Ok(Packet::SubAck { codes: body })
            }
            13 => Ok(Packet::Pong),
            14 => Ok(Packet::Disconnect(body.first().copied().unwrap_or(0))),
            15 => Err("a demand for enhanced authentication, which is not supported"),
            _ => Err("a packet that brokers do not send"),
        }
    }

    fn read_publish(&self, first: u8, mut body: Bytes) -> Result<Publish, &'static str> {
        const SHORT: &str = "a PUBLISH that ends too early";
        let length_of_topic = usize::from(u16::from_be_bytes(*body.first_chunk().ok_or(SHORT)?));
        body.advance(2);
        if body.len() < length_of_topic {
            return Err(SHORT);
        }
        let topic = body.split_to(length_of_topic);
        if topic.is_empty() || std::str::from_utf8(&topic).is_err() {
            // No topic alias was allowed, so an empty topic has no meaning (3.3.2.3.4).
            return Err("a PUBLISH without a valid topic");
        }
        let qos = first >> 1 & 3;
        let id = match qos {
            0 => 0,
            1 | 2 => {
                let id = u16::from_be_bytes(*body.first_chunk().ok_or(SHORT)?);
                body.advance(2);
                id
            }
            _ => return Err("a PUBLISH with quality of service 3"),
        };
        let mut properties = None;
        if self.version == Version::V5 {
            let (length, width) = length(&body)?.ok_or(SHORT)?;
            if body.len() < length + width {
                return Err(SHORT);
            }
            let mut part = body.split_to(length + width);
            properties = PublishProperties::read(&mut part).map_err(|_| "a PUBLISH with broken properties")?;
        }
        Ok(Publish { topic, qos, retain: first & 1 == 1, id, properties, payload: body })
    }
}

fn read_limits(body: &mut Bytes) -> Result<Limits, &'static str> {
    let default = Limits::default();
    let Some(p) = ConnAckProperties::read(body).map_err(|_| "a CONNACK with broken properties")? else {
        return Ok(default);
    };
    Ok(Limits {
        receive: p.receive_max.unwrap_or(default.receive).max(1),
        qos: p.max_qos.unwrap_or(default.qos),
        retain: p.retain_available != Some(0),
        packet: p.max_packet_size.map_or(default.packet, |n| n as usize),
        keepalive: p.server_keep_alive.filter(|seconds| *seconds > 0),
    })
}

/// `Bytes::advance` that fails instead of panicking.
trait TryAdvance {
    fn try_advance(&mut self, n: usize) -> Option<()>;
}

impl TryAdvance for Bytes {
    fn try_advance(&mut self, n: usize) -> Option<()> {
        (n <= self.len()).then(|| self.advance(n))
    }
}

/// What a reason code means (2.4), or a return code of 3.1.1 (its 3.2.2.3).
pub fn reason(code: u8) -> &'static str {
    match code {
        0x01 | 0x84 => "unsupported protocol version",
        0x02 | 0x85 => "client id not valid",
        0x03 | 0x88 => "server unavailable",
        0x04 | 0x86 => "bad user name or password",
        0x05 | 0x87 => "not authorized",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep-alive timeout",
        0x8e => "another client connected with the same id",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "quality of service not supported",
        0x9c | 0x9d => "use another server",
        0x9e => "shared subscriptions not supported",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa2 => "wildcard subscriptions not supported",
        _ => "unspecified error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::tls::ClientTls;
    use rumqttc::{mqttbytes::v4, v5::mqttbytes::v5};
    use std::time::Duration;

    fn dial(version: Version) -> Dial {
        Dial {
            broker: "mqtt://localhost".parse().unwrap(),
            tls: ClientTls::default(),
            version,
            client_id: "c".into(),
            username: Some("u".into()),
            password: Some("p".into()),
            clean: false,
            keepalive: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            receive: 7,
            max_packet: 100_000,
            will: Some(Message { topic: "w".into(), payload: "off".into(), qos: 1, retain: true }),
        }
    }

    /// rumqttc reads what was written here.
    #[test]
    fn what_is_written_reads_back() {
        let long = "x".repeat(300);
        for payload in ["", "{}", &long] {
            for qos in 0..3 {
                let id = if qos == 0 { 0 } else { 513 };
                let outgoing = Outgoing {
                    topic: "a/b",
                    qos,
                    retain: qos == 1,
                    id,
                    user: [Some(("event-id", &long)), Some(("b", ""))],
                    payload: payload.as_bytes(),
                };
                let mut out = Vec::new();
                outgoing.write(Version::V5, 1000, &mut out).unwrap();
                assert_eq!(outgoing.write(Version::V5, out.len() - 1, &mut Vec::new()), Err(out.len()));
                let v5::Packet::Publish(p) = v5::Packet::read(&mut BytesMut::from(&out[..]), None).unwrap() else {
                    panic!()
                };
                assert_eq!((&*p.topic, p.qos as u8, p.retain, p.pkid), (&b"a/b"[..], qos, qos == 1, id));
                let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
                assert_eq!(p.properties.unwrap().user_properties, [pair("event-id", &long), pair("b", "")]);
                assert_eq!(p.payload, payload);
                out.clear();
                outgoing.write(Version::V3, 1000, &mut out).unwrap();
                let v4::Packet::Publish(p) = v4::Packet::read(&mut BytesMut::from(&out[..]), 1000).unwrap() else {
                    panic!()
                };
                assert_eq!((&*p.topic, p.qos as u8, p.pkid, &*p.payload), ("a/b", qos, id, payload.as_bytes()));
            }
        }
        let mut out = Vec::new();
        put_connect(&dial(Version::V5), &mut out);
        put_subscribe(Version::V5, 9, &["a/#".into(), "+".into()], 1, true, &mut out);
        put_ack(Kind::PubRel, 258, &mut out);
        let mut out = BytesMut::from(&out[..]);
        let v5::Packet::Connect(c, Some(will), Some(login)) = v5::Packet::read(&mut out, None).unwrap() else {
            panic!()
        };
        let properties = c.properties.unwrap();
        assert_eq!((c.keep_alive, &*c.client_id, c.clean_start), (30, "c", false));
        assert_eq!((properties.receive_maximum, properties.max_packet_size), (Some(7), Some(100_000)));
        assert_eq!(properties.session_expiry_interval, Some(u32::MAX));
        assert_eq!((&*will.topic, &*will.message, will.retain), (&b"w"[..], &b"off"[..], true));
        assert_eq!((&*login.username, &*login.password), ("u", "p"));
        let v5::Packet::Subscribe(s) = v5::Packet::read(&mut out, None).unwrap() else { panic!() };
        assert_eq!((s.pkid, s.filters.len(), &*s.filters[1].path), (9, 2, "+"));
        assert!(s.filters[0].preserve_retain);
        assert_eq!(v5::Packet::read(&mut out, None).unwrap(), v5::Packet::PubRel(v5::PubRel::new(258, None)));
        let mut out = Vec::new();
        put_connect(&dial(Version::V3), &mut out);
        let v4::Packet::Connect(c) = v4::Packet::read(&mut BytesMut::from(&out[..]), 1000).unwrap() else { panic!() };
        assert_eq!((c.keep_alive, c.clean_session, c.last_will.is_some(), c.login.is_some()), (30, false, true, true));
    }

    fn read_all(version: Version, bytes: &[u8]) -> Result<Vec<String>, &'static str> {
        let (mut reader, mut input) = (Reader::new(version, 200), BytesMut::from(bytes));
        let mut packets = Vec::new();
        while let Some(packet) = reader.next(&mut input)? {
            packets.push(format!("{packet:?}"));
        }
        Ok(packets)
    }

    #[test]
    fn what_a_broker_says_is_read_or_refused() {
        let v5 = Version::V5;
        for (version, bytes, want) in [
            (v5, &[][..], ""),
            (v5, &[0x40], ""),
            (v5, &[0x40, 2, 1], ""),
            (v5, &[0x40, 2, 1, 2, 0x40, 3, 1, 3, 0x97], "id: 258, code: 0 } Ack { kind: PubAck, id: 259, code: 151"),
            (v5, &[0x40, 1, 1], "a packet that ends too early"),
            (v5, &[0x40, 0x80, 0x80, 0x80, 0x80, 1], "a length of more than four bytes"),
            (v5, &[0x40, 0xff, 0xff, 0xff, 0x7f], "a packet over the size limit"),
            (v5, &[0x20, 3, 1, 0, 0], "ConnAck { code: 0, session: true"),
            (v5, &[0x20, 6, 0, 0, 3, 0x21, 0, 0], "receive: 1,"),
            (v5, &[0x20, 5, 0, 0, 9, 0x21, 0], "a CONNACK with broken properties"),
            (Version::V3, &[0x20, 2, 0, 5], "ConnAck { code: 5"),
            (v5, &[0x20, 1, 0], "a packet that ends too early"),
            (v5, &[0xe0, 0], "Disconnect(0)"),
            (v5, &[0xe0, 2, 0x8b, 0], "Disconnect(139)"),
            (v5, &[0xd0, 0], "Pong"),
            (v5, &[0xf0, 0], "a demand for enhanced authentication"),
            (v5, &[0x10, 0], "a packet that brokers do not send"),
            (v5, &[0x90, 5, 0, 1, 0, 1, 0x87], "SubAck { codes: b\"\\x01\\x87\" }"),
            (v5, &[0x90, 3, 0, 1, 9], "a packet that ends too early"),
            (v5, &[0x36, 4, 0, 1, b'a', 0], "quality of service 3"),
            (v5, &[0x30, 5, 0, 9, b'a', 0, 0], "a PUBLISH that ends too early"),
            (v5, &[0x30, 3, 0, 0, 0], "a PUBLISH without a valid topic"),
            (v5, &[0x30, 4, 0, 1, 0xff, 0], "a PUBLISH without a valid topic"),
            (v5, &[0x30, 5, 0, 1, b'a', 1, 0x7f], "a PUBLISH with broken properties"),
            (v5, &[0x30, 5, 0, 1, b'a', 2, 0x26], "a PUBLISH that ends too early"),
            (v5, &[0x31, 5, 0, 1, b'a', 0, b'x'], "retain: true, id: 0, properties: None, payload: b\"x\""),
            (Version::V3, &[0x32, 6, 0, 1, b'a', 0, 7, b'x'], "qos: 1, retain: false, id: 7,"),
        ] {
            let got = read_all(version, bytes).map_or_else(str::to_owned, |p| p.join(" "));
            assert!(got.contains(want) && (!want.is_empty() || got.is_empty()), "{bytes:x?}: {got}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_passed_over() {
        let mut bytes = vec![0x32, 0xac, 2, 0, 1, b'a', 0, 7];
        bytes.resize(3 + 300, 0x40);
        bytes.extend_from_slice(&[0xd0, 0]);
        let (mut reader, mut input) = (Reader::new(Version::V3, 200), BytesMut::new());
        let mut packets = Vec::new();
        for chunk in bytes.chunks(11) {
            input.extend_from_slice(chunk);
            while let Some(packet) = reader.next(&mut input).unwrap() {
                packets.push(format!("{packet:?}"));
            }
            assert!(input.len() < 20, "it is not kept");
        }
        assert_eq!(packets, [r#"Oversized { topic: "a", qos: 1, id: 7, size: 303 }"#, "Pong"]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut rng = fastrand::Rng::with_seed(7);
        let seeds: [&[u8]; 4] = [
            &[0x20, 6, 0, 0, 3, 0x21, 0, 9],
            &[0x32, 20, 0, 1, b'a', 0, 1, 12, 0x26, 0, 1, b'k', 0, 1, b'v', 3, 0, 1, b'c', 0x0b, 1, b'x'],
            &[0x90, 5, 0, 1, 0, 1, 0x87],
            &[0x40, 3, 1, 3, 0x97],
        ];
        for round in 0..200_000 {
            let mut bytes = seeds[round % 4].to_vec();
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(0..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(1..=bytes.len()));
            for version in [Version::V5, Version::V3] {
                read_all(version, &bytes).ok();
            }
        }
    }
}
