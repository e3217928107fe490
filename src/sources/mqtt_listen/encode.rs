//! What the server sends.

use super::{
    props,
    wire::{Version, kind, reason},
};
use crate::systems::mqtt::wire::{put, put_length};

/// Appends a packet whose body `fill` writes.
fn packet(out: &mut Vec<u8>, first: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    fill(&mut body);
    out.push(first);
    put_length(body.len(), out);
    out.extend_from_slice(&body);
}

/// Properties, after their length.
fn with_length(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put_length(inner.len(), out);
    out.extend_from_slice(&inner);
}

/// What the server tells a client of MQTT 5 about itself at the start.
#[derive(Debug, Default)]
pub struct Welcome<'a> {
    pub session_present: bool,
    /// Where it differs from what the client asked for.
    pub session_expiry: Option<u32>,
    pub keep_alive: Option<u16>,
    pub assigned_id: Option<&'a str>,
    pub receive_maximum: u16,
    pub alias_maximum: u16,
    pub packet_maximum: u32,
}

pub fn welcome(out: &mut Vec<u8>, version: Version, welcome: &Welcome<'_>) {
    packet(out, kind::CONNACK << 4, |body| {
        body.extend_from_slice(&[u8::from(welcome.session_present), 0]);
        if version == Version::V311 {
            return;
        }
        with_length(body, |p| {
            if let Some(seconds) = welcome.session_expiry {
                p.push(props::SESSION_EXPIRY);
                p.extend_from_slice(&seconds.to_be_bytes());
            }
            if let Some(seconds) = welcome.keep_alive {
                p.push(props::SERVER_KEEP_ALIVE);
                p.extend_from_slice(&seconds.to_be_bytes());
            }
            if let Some(id) = welcome.assigned_id {
                p.push(props::ASSIGNED_ID);
                put(id.as_bytes(), p);
            }
            for (id, n) in
                [(props::RECEIVE_MAXIMUM, welcome.receive_maximum), (props::ALIAS_MAXIMUM, welcome.alias_maximum)]
            {
                p.push(id);
                p.extend_from_slice(&n.to_be_bytes());
            }
            p.push(props::PACKET_MAXIMUM);
            p.extend_from_slice(&welcome.packet_maximum.to_be_bytes());
        });
    });
}

/// The CONNACK that refuses. MQTT 3.1.1 knows five reasons; for what it has no word, nothing is written.
pub fn refuse(out: &mut Vec<u8>, version: Version, code: u8) {
    match version {
        Version::V5 => out.extend_from_slice(&[kind::CONNACK << 4, 3, 0, code, 0]),
        Version::V311 => {
            let code = match code {
                reason::VERSION => 1,
                reason::CLIENT_ID => 2,
                reason::UNAVAILABLE | reason::QUOTA | reason::SHUTTING_DOWN => 3,
                reason::BAD_PASSWORD | reason::NOT_AUTHORIZED => 5,
                _ => return,
            };
            out.extend_from_slice(&[kind::CONNACK << 4, 2, 0, code]);
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. MQTT 3.1.1 has no reasons.
pub fn ack(out: &mut Vec<u8>, version: Version, kind: u8, packet_id: u16, code: u8) {
    let [high, low] = packet_id.to_be_bytes();
    let first = kind << 4 | if kind == super::wire::kind::PUBREL { 2 } else { 0 };
    if version == Version::V311 || code == reason::SUCCESS {
        out.extend_from_slice(&[first, 2, high, low]);
    } else {
        out.extend_from_slice(&[first, 3, high, low, code]);
    }
}

/// SUBACK, and for MQTT 5 UNSUBACK, with a code for each filter.
pub fn codes(out: &mut Vec<u8>, version: Version, kind: u8, packet_id: u16, codes: &[u8]) {
    packet(out, kind << 4, |body| {
        body.extend_from_slice(&packet_id.to_be_bytes());
        match version {
            Version::V5 => {
                body.push(0);
                body.extend_from_slice(codes);
            }
            Version::V311 if kind == super::wire::kind::SUBACK => {
                body.extend(codes.iter().map(|c| if *c > 2 { 0x80 } else { *c }));
            }
            Version::V311 => {}
        }
    });
}

pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGRESP << 4, 0]);
}

/// The server's goodbye; MQTT 3.1.1 has none.
pub fn disconnect(out: &mut Vec<u8>, version: Version, code: u8) {
    if version == Version::V5 {
        out.extend_from_slice(&[kind::DISCONNECT << 4, 2, code, 0]);
    }
}

/// A message on its way to one subscriber.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    /// Empty with an alias that the client knows.
    pub topic: &'a str,
    pub alias: Option<u16>,
    pub packet_id: u16,
    /// Seconds that are left.
    pub expiry: Option<u32>,
    /// Identifiers of the subscriptions that selected it.
    pub ids: &'a [u32],
    /// The properties that travel with it, written by [`props::Props::put_message`].
    pub props: &'a [u8],
    pub payload: &'a [u8],
}

/// Appends a PUBLISH; gives the bytes it took.
pub fn publish(out: &mut Vec<u8>, version: Version, message: &Delivery<'_>) -> usize {
    let start = out.len();
    let mut inner = Vec::new();
    if version == Version::V5 {
        if let Some(alias) = message.alias {
            inner.push(props::ALIAS);
            inner.extend_from_slice(&alias.to_be_bytes());
        }
        if let Some(seconds) = message.expiry {
            inner.push(props::EXPIRY);
            inner.extend_from_slice(&seconds.to_be_bytes());
        }
        for id in message.ids {
            inner.push(props::SUBSCRIPTION_ID);
            put_length(*id as usize, &mut inner);
        }
    }
    let mut head = Vec::with_capacity(message.topic.len() + 8);
    put(message.topic.as_bytes(), &mut head);
    if message.qos > 0 {
        head.extend_from_slice(&message.packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        put_length(inner.len() + message.props.len(), &mut head);
        head.extend_from_slice(&inner);
        head.extend_from_slice(message.props);
    }
    out.push(kind::PUBLISH << 4 | u8::from(message.dup) << 3 | message.qos << 1 | u8::from(message.retain));
    put_length(head.len() + message.payload.len(), out);
    out.extend_from_slice(&head);
    out.extend_from_slice(message.payload);
    out.len() - start
}
