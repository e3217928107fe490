//! The properties of MQTT 5 packets (2.2.2).

use super::wire::{Broken, Input, malformed, protocol, reason};
use crate::systems::mqtt::{payload::About, wire::put};

pub const FORMAT: u8 = 0x01;
pub const EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0b;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_ID: u8 = 0x12;
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
pub const AUTH_METHOD: u8 = 0x15;
pub const AUTH_DATA: u8 = 0x16;
pub const REQUEST_PROBLEM: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const REQUEST_RESPONSE: u8 = 0x19;
pub const REASON_TEXT: u8 = 0x1f;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const ALIAS_MAXIMUM: u8 = 0x22;
pub const ALIAS: u8 = 0x23;
pub const USER: u8 = 0x26;
pub const PACKET_MAXIMUM: u8 = 0x27;

/// More user properties than this in one packet are refused; they become members of `meta`.
const MAX_USER: usize = 64;

/// Which properties a packet may carry, one bit each.
#[derive(Clone, Copy)]
pub struct Allowed(u64);

impl Allowed {
    const fn of(ids: &[u8]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < ids.len() {
            bits |= 1 << ids[at];
            at += 1;
        }
        Allowed(bits)
    }
}

pub const IN_CONNECT: Allowed = Allowed::of(&[
    SESSION_EXPIRY,
    AUTH_METHOD,
    AUTH_DATA,
    REQUEST_PROBLEM,
    REQUEST_RESPONSE,
    RECEIVE_MAXIMUM,
    ALIAS_MAXIMUM,
    USER,
    PACKET_MAXIMUM,
]);
pub const IN_WILL: Allowed =
    Allowed::of(&[FORMAT, EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, WILL_DELAY, USER]);
pub const IN_PUBLISH: Allowed = Allowed::of(&[FORMAT, EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, ALIAS, USER]);
pub const IN_SUBSCRIBE: Allowed = Allowed::of(&[SUBSCRIPTION_ID, USER]);
pub const IN_UNSUBSCRIBE: Allowed = Allowed::of(&[USER]);
pub const IN_ACK: Allowed = Allowed::of(&[REASON_TEXT, USER]);
pub const IN_DISCONNECT: Allowed = Allowed::of(&[SESSION_EXPIRY, REASON_TEXT, USER]);

/// What a packet said; absent ones are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Props<'a> {
    pub format: Option<u8>,
    pub expiry: Option<u32>,
    pub content_type: Option<&'a str>,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a [u8]>,
    pub subscription_id: Option<u32>,
    pub session_expiry: Option<u32>,
    pub auth_method: Option<&'a str>,
    pub will_delay: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub alias_maximum: Option<u16>,
    pub alias: Option<u16>,
    pub packet_maximum: Option<u32>,
    pub user: Vec<(&'a str, &'a str)>,
}

impl<'a> Props<'a> {
    /// Reads the properties at the front of `input`.
    pub fn read(input: &mut Input<'a>, allowed: Allowed) -> Result<Self, Broken> {
        let len = input.varint()? as usize;
        let mut input = Input(input.take(len)?);
        let (mut props, mut seen) = (Props::default(), 0u64);
        while !input.is_empty() {
            let id = input.u8()?;
            let bit = 1u64.checked_shl(id.into()).unwrap_or(0);
            if allowed.0 & bit == 0 {
                return malformed("a property does not belong into the packet");
            }
            if id != USER && seen & bit != 0 {
                return protocol("a property comes twice");
            }
            seen |= bit;
            props.one(id, &mut input)?;
        }
        if seen & 1 << AUTH_DATA != 0 && seen & 1 << AUTH_METHOD == 0 {
            return protocol("authentication data come without a method");
        }
        Ok(props)
    }

    fn one(&mut self, id: u8, input: &mut Input<'a>) -> Result<(), Broken> {
        match id {
            FORMAT => self.format = Some(flag(input)?),
            EXPIRY => self.expiry = Some(input.u32()?),
            CONTENT_TYPE => self.content_type = Some(input.text()?),
            RESPONSE_TOPIC => {
                let topic = input.text()?;
                if !super::filter::is_topic(topic) {
                    return protocol("the response topic is no topic");
                }
                self.response_topic = Some(topic);
            }
            CORRELATION => self.correlation = Some(input.binary()?),
            SUBSCRIPTION_ID => self.subscription_id = Some(not_zero(input.varint()?)?),
            SESSION_EXPIRY => self.session_expiry = Some(input.u32()?),
            AUTH_METHOD => self.auth_method = Some(input.text()?),
            AUTH_DATA => {
                input.binary()?;
            }
            REQUEST_PROBLEM | REQUEST_RESPONSE => {
                flag(input)?;
            }
            WILL_DELAY => self.will_delay = Some(input.u32()?),
            REASON_TEXT => {
                input.text()?;
            }
            RECEIVE_MAXIMUM => self.receive_maximum = Some(not_zero(input.u16()?)?),
            ALIAS_MAXIMUM => self.alias_maximum = Some(input.u16()?),
            ALIAS => self.alias = Some(input.u16()?),
            PACKET_MAXIMUM => self.packet_maximum = Some(not_zero(input.u32()?)?),
            USER if self.user.len() < MAX_USER => self.user.push((input.text()?, input.text()?)),
            USER => return Err(Broken(reason::QUOTA, "the packet has more than 64 user properties")),
            _ => return malformed("a property is unknown"),
        }
        Ok(())
    }

    /// Those that stay with a message, as its meta takes them.
    pub fn about(&self) -> About<'_> {
        About {
            content_type: self.content_type,
            response_topic: self.response_topic,
            correlation: self.correlation,
            format: self.format,
            expiry: self.expiry,
            user: &self.user,
            in_order: true,
            ..About::default()
        }
    }

    /// Writes those that go on with a message to its subscribers, without the message expiry.
    pub fn put_message(&self, out: &mut Vec<u8>) {
        if let Some(format) = self.format {
            out.extend_from_slice(&[FORMAT, format]);
        }
        for (id, text) in [(CONTENT_TYPE, self.content_type), (RESPONSE_TOPIC, self.response_topic)] {
            if let Some(text) = text {
                out.push(id);
                put(text.as_bytes(), out);
            }
        }
        if let Some(data) = self.correlation {
            out.push(CORRELATION);
            put(data, out);
        }
        for (name, value) in &self.user {
            out.push(USER);
            put(name.as_bytes(), out);
            put(value.as_bytes(), out);
        }
    }
}

fn flag(input: &mut Input<'_>) -> Result<u8, Broken> {
    match input.u8()? {
        flag @ (0 | 1) => Ok(flag),
        _ => protocol("a property is neither 0 nor 1"),
    }
}

fn not_zero<T: Default + PartialEq>(n: T) -> Result<T, Broken> {
    if n == T::default() { protocol("a property is 0") } else { Ok(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_read_where_it_belongs_and_once() {
        let malformed = Some(reason::MALFORMED);
        let protocol = Some(reason::PROTOCOL);
        for (bytes, allowed, want) in [
            (&[0][..], IN_PUBLISH, None),
            (&[2, FORMAT, 1], IN_PUBLISH, None),
            (&[2, FORMAT, 2], IN_PUBLISH, protocol),
            (&[4, FORMAT, 1, FORMAT, 1], IN_PUBLISH, protocol),
            (&[2, FORMAT, 1], IN_CONNECT, malformed),
            (&[2, SUBSCRIPTION_ID, 1], IN_PUBLISH, malformed),
            (&[2, SUBSCRIPTION_ID, 0], IN_SUBSCRIBE, protocol),
            (&[3, RECEIVE_MAXIMUM, 0, 0], IN_CONNECT, protocol),
            (&[3, ALIAS_MAXIMUM, 0, 0], IN_CONNECT, None),
            (&[4, RESPONSE_TOPIC, 0, 1, b'#'], IN_PUBLISH, protocol),
            (&[3, AUTH_DATA, 0, 0], IN_CONNECT, protocol),
            (&[2, 0xff, 0], IN_CONNECT, malformed),
            (&[9, FORMAT, 1], IN_PUBLISH, malformed),
            (&[0x80], IN_PUBLISH, malformed),
            (&[7, USER, 0, 1, b'a', 0, 1, b'b'], IN_PUBLISH, None),
            (&[7, USER, 0, 1, 0, 0, 1, b'b'], IN_PUBLISH, malformed),
        ] {
            let got = Props::read(&mut Input(bytes), allowed).map_err(|e| e.0).err();
            assert_eq!(got, want, "{bytes:?}");
        }
    }
}
