//! Messages from clients: gathered from everything that one read brought, committed as one batch, acknowledged after.

use super::{
    Shared, encode, filter,
    link::{End, Link},
    payload::Kept,
    props::Props,
    rows,
    wire::{Broken, Frame, Version, kind, malformed, protocol, reason},
};
use crate::{
    clock,
    event::{Batch, Draft, Unfit},
    store::{Placed, Put, Refusal, Step},
    systems::mqtt::payload::{About, Form, wrap},
};
use bytes::Bytes;
use std::sync::Arc;

/// Messages with QoS 1 or 2 that a client may send without waiting; MQTT 5 clients are told.
pub const RECEIVE_MAXIMUM: u16 = 256;
/// Topic aliases that a client may set.
pub const ALIAS_MAXIMUM: u16 = 16;
/// Unreleased QoS 2 messages that a client of 3.1.1, which cannot be told a limit, may have.
const UNRELEASED: usize = 4096;

/// An acknowledgement that waits for the commit.
#[derive(Clone, Copy, Debug)]
struct Ack {
    kind: u8,
    id: u16,
    /// Not success: refused for a reason of its own.
    code: u8,
    /// Of a repeated QoS 2 message, whose first copy may fail to be stored.
    repeat: bool,
}

/// What was taken in and is not committed.
#[derive(Debug, Default)]
pub struct Gather {
    batch: Batch,
    acks: Vec<Ack>,
    puts: Vec<Put>,
    /// Index in the batch, topic, message or its end.
    retained: Vec<(u32, String, Option<Kept>)>,
    /// Bytes of packets: what the connection may have uncommitted.
    pub bytes: usize,
    /// Of messages to be retained, and of rows.
    beside: usize,
}

/// What a row takes besides its value, about.
const ROW: usize = 256;

impl Gather {
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.acks.is_empty() && self.puts.is_empty()
    }

    /// Bytes it takes in memory.
    pub fn memory(&self) -> usize {
        self.batch.memory() + self.acks.capacity() * size_of::<Ack>() + self.puts.len() * ROW + self.beside
    }

    /// Events, state and retained messages in one commit.
    pub async fn commit(mut self, shared: Arc<Shared>) -> (Gather, Result<(), Refusal>) {
        let gate = if self.retained.is_empty() { None } else { Some(shared.hub.gate.read().await) };
        let (batch, mut puts) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.puts));
        for (_, topic, kept) in &self.retained {
            let (owner, key) = (shared.owner().to_owned(), rows::retained_key(topic));
            puts.push(Put { owner, key, value: kept.as_ref().map(Kept::to_value) });
        }
        let result = if !batch.is_empty() {
            shared.intake.append_with(batch, puts).await
        } else if !puts.is_empty() {
            let step = Step { state: puts, ..Step::default() };
            shared.intake.store().commit(step).await.map(|_| Placed::default())
        } else {
            Ok(Placed::default())
        };
        let result = result.map(|placed| {
            for (index, topic, kept) in self.retained.drain(..) {
                shared.hub.retain(&topic, (placed.lane, placed.first + u64::from(index)), kept);
            }
        });
        drop(gate);
        (self, result)
    }
}

/// What a message is, whoever sends it: a client now, or its will.
pub struct Post<'a> {
    pub about: About<'a>,
    pub payload: &'a [u8],
    /// Known from the message before: topic, QoS and no properties.
    pub meta: Option<&'a [u8]>,
}

/// Adds a message to what will be committed. The error is the reason why it is not taken.
pub fn take(shared: &Shared, gather: &mut Gather, post: &Post<'_>) -> Result<(), u8> {
    let About { topic, retain, user, .. } = post.about;
    let id = shared
        .config
        .id_property
        .as_deref()
        .and_then(|name| user.iter().find(|(n, v)| *n == name && !v.is_empty()).map(|(_, v)| *v));
    let mut meta = Vec::new();
    let object = post.payload.trim_ascii_start().first() == Some(&b'{');
    let mut push = |body: &[u8], form: Form, meta: &mut Vec<u8>| {
        let known = post.meta.filter(|_| form == Form::Object);
        if known.is_none() {
            meta.clear();
            About { form, ..post.about }.write(meta);
        }
        let meta = known.unwrap_or(meta);
        shared.intake.push(&mut gather.batch, &Draft { id, key: topic, meta, body, ttl: post.about.expiry, time: None })
    };
    let mut result = Err(Unfit::NotObject);
    // It is checked as it is pushed, and only once.
    if object {
        result = push(post.payload, Form::Object, &mut meta);
    }
    let mut wrapped = Vec::new();
    if matches!(result, Err(Unfit::Json(_) | Unfit::NotObject)) {
        let (body, form) = wrap(post.payload, &mut wrapped);
        result = push(body, form, &mut meta);
    }
    if let Err(unfit) = result {
        shared.hub.unfit.begins(|| format!("sources.{}: a message was refused: {unfit}", shared.owner()));
        return Err(match unfit {
            Unfit::TooLong { part: "body", .. } => reason::TOO_LARGE,
            _ => reason::QUOTA,
        });
    }
    if retain {
        let index = gather.batch.len() as u32 - 1;
        if meta.is_empty() {
            post.about.write(&mut meta);
        }
        let body = if wrapped.is_empty() { Bytes::copy_from_slice(post.payload) } else { wrapped.into() };
        let kept = Kept { meta: meta.into(), body, at: clock::steady_ms() };
        gather.beside += 2 * (kept.body.len() + kept.meta.len() + ROW); // it, and its row
        gather.retained.push((index, topic.to_owned(), (!post.payload.is_empty()).then_some(kept)));
    }
    Ok(())
}

/// The topic of the last message, checked and allowed, and its `meta`: devices repeat themselves.
#[derive(Debug, Default)]
pub struct Last {
    topic: String,
    qos: u8,
    meta: Vec<u8>,
}

impl Link {
    /// Bytes of packets that are not committed.
    pub fn uncommitted(&self) -> usize {
        self.gather.bytes + self.flying_bytes
    }

    pub fn publish(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let packet = super::decode::publish(frame, self.version)?;
        self.published += 1;
        if packet.qos > 0 && self.version == Version::V5 {
            let known = packet.qos == 2 && self.session.received.contains(&packet.packet_id);
            if !known && self.gather.acks.len() + self.session.received.len() >= usize::from(RECEIVE_MAXIMUM) {
                return Err(Broken(reason::RECEIVE_MAXIMUM, "more messages than the receive maximum").into());
            }
        }
        self.topic(packet.topic, packet.props.as_deref())?;
        self.gather.bytes += frame.len;
        let (id, code) = (packet.packet_id, self.refusal(packet.retain, packet.payload.len()));
        if packet.qos == 2 && !self.session.received.insert(id) {
            self.gather.acks.push(Ack { kind: kind::PUBREC, id, code: reason::SUCCESS, repeat: true });
            return Ok(());
        }
        if packet.qos == 2 && self.session.received.len() > UNRELEASED {
            return Err(Broken(reason::QUOTA, "too many messages are not released").into());
        }
        let retain = packet.retain && self.may_retain(packet.payload.len());
        let result = match code {
            reason::SUCCESS => {
                let about = About {
                    topic: &self.last.topic,
                    client: Some(&self.session.client),
                    qos: packet.qos,
                    retain,
                    ..packet.props.as_deref().map(Props::about).unwrap_or_default()
                };
                let plain = packet.props.is_none() && !retain;
                if plain && (self.last.meta.is_empty() || self.last.qos != packet.qos) {
                    self.last.meta.clear();
                    about.write(&mut self.last.meta);
                    self.last.qos = packet.qos;
                }
                let meta = plain.then_some(&self.last.meta[..]);
                take(&self.shared, &mut self.gather, &Post { about, payload: packet.payload, meta })
            }
            code => Err(code),
        };
        self.note(packet.qos, id, result)
    }

    /// Plans the acknowledgement of a message that was taken, or not.
    fn note(&mut self, qos: u8, id: u16, result: Result<(), u8>) -> Result<(), End> {
        let code = result.err().unwrap_or(reason::SUCCESS);
        if code != reason::SUCCESS {
            if qos == 2 {
                self.session.received.remove(&id);
            }
            // 3.1.1 has no word for a refusal: a positive acknowledgement would be a lie (MQTT-3.3.5-2).
            if self.version == Version::V311 && qos > 0 {
                return Err(Broken(code, "the message was refused").into());
            }
        } else if qos == 2 && self.session.lasts() {
            self.gather.puts.push(rows::packet_id(self.shared.owner(), &self.session.client, id, true));
        }
        if qos > 0 {
            let kind = if qos == 1 { kind::PUBACK } else { kind::PUBREC };
            self.gather.acks.push(Ack { kind, id, code, repeat: false });
        }
        Ok(())
    }

    /// Finds the topic of a message, through its alias, and checks it, unless it is the same as before.
    fn topic(&mut self, topic: &[u8], props: Option<&Props<'_>>) -> Result<(), Broken> {
        let alias = props.and_then(|p| p.alias);
        let known;
        let topic = match alias {
            None if topic.is_empty() => return protocol("the topic is empty"),
            None => topic,
            Some(alias) if alias == 0 || alias > ALIAS_MAXIMUM => {
                return Err(Broken(reason::ALIAS, "the topic alias is out of range"));
            }
            Some(alias) if topic.is_empty() => match self.aliases_in.get(&alias) {
                Some(topic) => {
                    known = topic.clone();
                    known.as_bytes()
                }
                None => return protocol("the topic alias is unknown"),
            },
            Some(_) => topic,
        };
        if topic != self.last.topic.as_bytes() {
            let Ok(text) = std::str::from_utf8(topic) else { return malformed("the topic is not UTF-8") };
            if !filter::is_topic(text) {
                return malformed("the topic has wildcards or U+0000");
            }
            if filter::is_too_much(text) {
                return Err(Broken(reason::TOPIC, "the topic has more than 1024 bytes or 128 levels"));
            }
            text.clone_into(&mut self.last.topic);
            self.last.meta.clear();
            self.allowed = self.grant.may_publish(text);
        }
        if let Some(alias) = alias
            && self.aliases_in.get(&alias).is_none_or(|t| **t != *self.last.topic)
        {
            self.aliases_in.insert(alias, self.last.topic.as_str().into());
        }
        Ok(())
    }

    fn refusal(&self, retain: bool, size: usize) -> u8 {
        if !self.allowed {
            reason::NOT_AUTHORIZED
        } else if retain && self.version == Version::V5 && !self.may_retain(size) {
            reason::QUOTA
        } else {
            reason::SUCCESS
        }
    }

    /// Whether the retained messages have room. Clients of 3.1.1 cannot be told: theirs go on as if not retained.
    fn may_retain(&self, size: usize) -> bool {
        let hub = &self.shared.hub;
        let room = size == 0 || hub.admits(&self.last.topic, size + self.last.topic.len() + 64);
        if !room {
            hub.shelf_full
                .begins(|| format!("sources.{}: there is no room for more retained messages", self.shared.owner()));
        }
        room
    }

    /// PUBREL: the packet identifier is free again, once that is on disk.
    pub fn released(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let (id, _) = super::decode::ack(frame, self.version)?;
        let held = self.session.received.remove(&id);
        if held && self.session.lasts() {
            self.gather.puts.push(rows::packet_id(self.shared.owner(), &self.session.client, id, false));
        }
        let code = if held { reason::SUCCESS } else { reason::NO_PACKET_ID };
        self.gather.acks.push(Ack { kind: kind::PUBCOMP, id, code, repeat: false });
        self.gather.bytes += frame.len;
        Ok(())
    }

    /// Answers what was committed, or why it was not.
    pub fn landed(&mut self, gather: Gather, result: Result<(), Refusal>) -> Result<(), End> {
        self.flying_memory = 0;
        let hub = &self.shared.hub;
        hub.landed(std::mem::take(&mut self.flying_bytes));
        let failed = match result {
            Ok(()) => {
                hub.full.ends(|n| {
                    format!("sources.{}: messages are taken again; {n} batches were not", self.shared.owner())
                });
                None
            }
            Err(Refusal::Closed) => return Err(Broken(reason::SHUTTING_DOWN, "the gateway is stopping").into()),
            Err(refusal) => {
                hub.full.begins(|| format!("sources.{}: messages are refused: {refusal}", self.shared.owner()));
                Some(if matches!(refusal, Refusal::Failed(_)) { reason::IMPLEMENTATION } else { reason::QUOTA })
            }
        };
        for ack in gather.acks {
            let code = match failed {
                Some(failed) if ack.code == reason::SUCCESS && ack.kind != kind::PUBCOMP => failed,
                _ => ack.code,
            };
            if failed.is_some() {
                if self.version == Version::V311 || ack.kind == kind::PUBCOMP {
                    return Err(Broken(reason::UNAVAILABLE, "the store does not take the message").into());
                }
                if ack.kind == kind::PUBREC {
                    self.session.received.remove(&ack.id);
                }
            }
            if ack.repeat && !self.session.received.contains(&ack.id) {
                continue;
            }
            encode::ack(&mut self.out, self.version, ack.kind, ack.id, code);
        }
        Ok(())
    }
}
