//! What clients send (chapter 3), read strictly: what the specification forbids is refused here.

use super::{
    filter,
    props::{self, Props},
    wire::{Broken, Frame, Input, Version, kind, malformed, protocol, reason},
};

/// A client wants in.
#[derive(Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    pub version: Version,
    /// Clean session of 3.1.1, clean start of 5.
    pub clean: bool,
    /// Seconds; 0 is off.
    pub keep_alive: u16,
    pub props: Props<'a>,
    pub client: &'a str,
    pub will: Option<Will<'a>>,
    pub user: Option<&'a str>,
    pub password: Option<&'a [u8]>,
}

/// What is published when the connection ends without a goodbye.
#[derive(Debug, PartialEq, Eq)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub retain: bool,
    pub props: Props<'a>,
}

/// Reads a CONNECT. `Err(Broken(VERSION, _))` deserves an answer, the others do not (3.1.4).
pub fn connect<'a>(body: &'a [u8]) -> Result<Connect<'a>, Broken> {
    let mut input = Input(body);
    let name = input.text()?;
    let level = input.u8()?;
    let version = match (name, level) {
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => return Err(Broken(reason::VERSION, "the protocol version is neither 3.1.1 nor 5")),
        _ => return malformed("the protocol is not MQTT"),
    };
    let flags = input.u8()?;
    let keep_alive = input.u16()?;
    let has = |bit: u8| flags & 1 << bit != 0;
    let qos = flags >> 3 & 3;
    if has(0) || qos == 3 || (!has(2) && (qos != 0 || has(5))) {
        return malformed("the connect flags are wrong");
    }
    if version == Version::V311 && has(6) && !has(7) {
        return malformed("a password comes without a user name");
    }
    let read = |input: &mut Input<'a>, allowed| match version {
        Version::V5 => Props::read(input, allowed),
        Version::V311 => Ok(Props::default()),
    };
    let props = read(&mut input, props::IN_CONNECT)?;
    let client = input.text()?;
    let will = if has(2) {
        let props = read(&mut input, props::IN_WILL)?;
        let topic = input.text()?;
        if !filter::is_topic(topic) {
            return malformed("the will's topic is no topic");
        }
        Some(Will { topic, payload: input.binary()?, qos, retain: has(5), props })
    } else {
        None
    };
    let user = if has(7) { Some(input.text()?) } else { None };
    let password = if has(6) { Some(input.binary()?) } else { None };
    input.end()?;
    Ok(Connect { version, clean: has(1), keep_alive, props, client, will, user, password })
}

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    /// Not checked yet beyond its length: most clients repeat themselves, see `inbound`. Empty with an alias.
    pub topic: &'a [u8],
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// `None`: MQTT 3.1.1, or no properties.
    pub props: Option<Box<Props<'a>>>,
    pub payload: &'a [u8],
}

pub fn publish<'a>(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, Broken> {
    let mut input = Input(frame.body);
    let qos = frame.first >> 1 & 3;
    let topic = input.binary()?;
    let packet_id = if qos > 0 { input.packet_id()? } else { 0 };
    let props = match version {
        Version::V5 if input.0.first() == Some(&0) => {
            input.0 = &input.0[1..];
            None
        }
        Version::V5 => Some(Box::new(Props::read(&mut input, props::IN_PUBLISH)?)),
        Version::V311 => None,
    };
    let (dup, retain) = (frame.first & 8 != 0, frame.first & 1 != 0);
    Ok(Publish { dup, qos, retain, topic, packet_id, props, payload: input.0 })
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP: packet identifier and reason code.
pub fn ack(frame: &Frame<'_>, version: Version) -> Result<(u16, u8), Broken> {
    let mut input = Input(frame.body);
    let id = input.packet_id()?;
    if version == Version::V311 || input.is_empty() {
        return input.end().map(|()| (id, reason::SUCCESS));
    }
    let code = input.u8()?;
    let known = match frame.first >> 4 {
        kind::PUBREL | kind::PUBCOMP => matches!(code, 0 | reason::NO_PACKET_ID),
        _ => matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
    };
    if !known {
        return malformed("the reason code is unknown");
    }
    if !input.is_empty() {
        Props::read(&mut input, props::IN_ACK)?;
    }
    input.end().map(|()| (id, code))
}

/// A filter that a client wants, with its options as the specification packs them (3.8.3.1).
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub filter: &'a str,
    pub options: u8,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub packet_id: u16,
    pub id: Option<u32>,
    pub wanted: Vec<Wanted<'a>>,
}

pub fn subscribe<'a>(body: &'a [u8], version: Version) -> Result<Subscribe<'a>, Broken> {
    let mut input = Input(body);
    let packet_id = input.packet_id()?;
    let id = match version {
        Version::V5 => Props::read(&mut input, props::IN_SUBSCRIBE)?.subscription_id,
        Version::V311 => None,
    };
    let mut wanted = Vec::new();
    while !input.is_empty() {
        let (filter, options) = (input.text()?, input.u8()?);
        let unused = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
        if options & unused != 0 || options & 3 == 3 || options & 0b11_0000 == 0b11_0000 {
            return malformed("the subscription options are wrong");
        }
        if !filter::is_filter(filter) {
            return malformed("a filter is not well-formed");
        }
        if filter.starts_with("$share/") && options & 4 != 0 {
            return protocol("No Local is set on a shared subscription");
        }
        wanted.push(Wanted { filter, options });
    }
    if wanted.is_empty() {
        return protocol("no filter");
    }
    Ok(Subscribe { packet_id, id, wanted })
}

pub fn unsubscribe(body: &[u8], version: Version) -> Result<(u16, Vec<&str>), Broken> {
    let mut input = Input(body);
    let packet_id = input.packet_id()?;
    if version == Version::V5 {
        Props::read(&mut input, props::IN_UNSUBSCRIBE)?;
    }
    let mut filters = Vec::new();
    while !input.is_empty() {
        filters.push(input.text()?);
    }
    if filters.is_empty() || filters.iter().any(|f| !filter::is_filter(f)) {
        return protocol("no filter, or one that is not well-formed");
    }
    Ok((packet_id, filters))
}

/// The reason code, and a new session expiry in seconds.
pub fn disconnect(body: &[u8], version: Version) -> Result<(u8, Option<u32>), Broken> {
    let mut input = Input(body);
    if version == Version::V311 || input.is_empty() {
        return input.end().map(|()| (0, None));
    }
    let code = input.u8()?;
    if !matches!(code, 0 | reason::WITH_WILL | 0x80..=0x83 | 0x90 | 0x93..=0x97 | 0x99) {
        return malformed("the reason code is unknown");
    }
    let expiry = if input.is_empty() { None } else { Props::read(&mut input, props::IN_DISCONNECT)?.session_expiry };
    input.end().map(|()| (code, expiry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn a_connect_is_read_strictly() {
        let v3 = b"\0\x04MQTT\x04";
        let v5 = b"\0\x04MQTT\x05";
        for (bytes, want) in [
            (body(&[v3, &[2, 0, 9, 0, 1, b'c']]), Ok(())),
            (body(&[v3, &[2, 0, 9, 0, 1, b'c', 0]]), Err(reason::MALFORMED)),
            (body(&[v3, &[3, 0, 9, 0, 1, b'c']]), Err(reason::MALFORMED)), // the reserved bit
            (body(&[v3, &[0x0a, 0, 9, 0, 1, b'c']]), Err(reason::MALFORMED)), // QoS without a will
            (body(&[v3, &[0x22, 0, 9, 0, 1, b'c']]), Err(reason::MALFORMED)), // retain without a will
            (body(&[v3, &[0x1e, 0, 9, 0, 1, b'c', 0, 1, b't', 0, 0]]), Err(reason::MALFORMED)), // QoS 3
            (body(&[v3, &[6, 0, 9, 0, 1, b'c', 0, 1, b't', 0, 0]]), Ok(())),
            (body(&[v3, &[6, 0, 9, 0, 1, b'c', 0, 1, b'#', 0, 0]]), Err(reason::MALFORMED)),
            (body(&[v3, &[0x42, 0, 9, 0, 1, b'c', 0, 1, b'p']]), Err(reason::MALFORMED)),
            (body(&[v5, &[0x42, 0, 9, 0, 0, 1, b'c', 0, 1, b'p']]), Ok(())),
            (body(&[v5, &[2, 0, 9, 3, props::ALIAS_MAXIMUM, 0, 0, 0, 0]]), Ok(())),
            (body(&[v5, &[2, 0, 9, 2, props::FORMAT, 0, 0, 0]]), Err(reason::MALFORMED)),
            (body(&[b"\0\x04MQTT\x06", &[2, 0, 9, 0, 0]]), Err(reason::VERSION)),
            (body(&[b"\0\x06MQIsdp\x03", &[2, 0, 9, 0, 0]]), Err(reason::VERSION)),
            (body(&[b"\0\x04HTTP\x04", &[2, 0, 9, 0, 0]]), Err(reason::MALFORMED)),
            (body(&[b"\0\x04MQ"]), Err(reason::MALFORMED)),
        ] {
            assert_eq!(connect(&bytes).map(|_| ()).map_err(|e| e.0), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_subscribe_is_read_strictly() {
        let one = |filter: &str, options: u8| body(&[&[0, 1], &[0, filter.len() as u8], filter.as_bytes(), &[options]]);
        let five = |filter: &str, options: u8| body(&[&[0, 1, 0], &one(filter, options)[2..]]);
        use Version::{V5, V311};
        for (bytes, version, want) in [
            (one("a", 2), V311, Ok(())),
            (one("a", 3), V311, Err(reason::MALFORMED)),
            (one("a", 4), V311, Err(reason::MALFORMED)),
            (one("a#", 0), V311, Err(reason::MALFORMED)),
            (vec![0, 1], V311, Err(reason::PROTOCOL)),
            (vec![0, 0, 0, 1, b'a', 0], V311, Err(reason::MALFORMED)),
            (five("a", 0x2e), V5, Ok(())),
            (five("a", 0x30), V5, Err(reason::MALFORMED)),
            (five("a", 0x40), V5, Err(reason::MALFORMED)),
            (five("$share/g/a", 4), V5, Err(reason::PROTOCOL)),
            (five("$share/g/a", 0), V5, Ok(())),
        ] {
            assert_eq!(subscribe(&bytes, version).map(|_| ()).map_err(|e| e.0), want, "{bytes:?}");
        }
    }
}
