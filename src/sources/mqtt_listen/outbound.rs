//! Messages to clients: out of the log, through the filters of the session, within what the client can take.

use super::{
    Shared,
    encode::{self, Delivery},
    link::{End, Link},
    payload::{self, Message},
    session::{Phase, Selected, Sender, Session},
    wire::{Broken, Frame, Version, kind, reason},
};
use crate::{
    clock,
    event::{Event, json::Json},
    store::{Lot, Refusal},
};

/// Events and bytes taken from the log at a time.
pub const LOT: (usize, usize) = (256, 64 << 10);
/// Messages of QoS 1 and 2 read ahead of those that are on their way.
const AHEAD: usize = 64;

fn sender(event: &Event) -> Sender {
    let meta = Json::trusted(&event.meta);
    let text = |name| meta.member(name).and_then(Json::as_str);
    Sender {
        client: text("client").unwrap_or_default().into_owned(),
        qos: meta.member("qos").and_then(Json::as_i64).map_or(1, |n| n.clamp(0, 2) as u8),
        retain: meta.member("retain").and_then(Json::as_bool) == Some(true),
    }
}

/// Hands what the session's filters select to `give`, and notes how far the log was read.
pub fn sift(
    shared: &Shared,
    session: &mut Session,
    lot: &Lot,
    mut give: impl FnMut(&mut Session, &Event, Selected, Message),
) {
    for event in &lot.events {
        let place = (lot.lane, event.seq);
        if !session.read(place) {
            continue;
        }
        let topic = payload::topic(event);
        match session.select(&shared.hub, place, &topic, || sender(event)) {
            Some(to) => give(session, event, to, Message::of(event)),
            None => session.unmatched(lot.lane),
        }
    }
}

impl Link {
    /// Reads on in the log, while there are subscriptions and the client keeps up.
    pub fn listen(&mut self) {
        let ahead = self.session.queue.len() < self.terms.receive_maximum.min(256) + AHEAD;
        let ready = self.shelf.is_empty() && ahead && self.waiting() < self.shared.out_full();
        if self.pull.is_none()
            && (ready || self.hurry)
            && let Some(mut reader) = self.reader.take()
        {
            self.pull = Some(Box::pin(async move {
                let lot = reader.next(LOT.0, LOT.1).await;
                (reader, lot)
            }));
        }
    }

    /// Takes events from the log.
    pub fn deliver(&mut self, lot: Result<Lot, Refusal>) -> Result<(), End> {
        let lot = match lot {
            Ok(lot) => lot,
            Err(refusal) => {
                log::warn!("sources.{}: the log cannot be read: {refusal}", self.shared.owner());
                return Err(Broken(reason::UNAVAILABLE, "the log cannot be read").into());
            }
        };
        let (shared, mut direct, mut dropped) = (self.shared.clone(), Vec::new(), 0);
        sift(&shared, &mut self.session, &lot, |session, event, to, message| match to.qos {
            0 => direct.push((message, to)),
            _ => dropped += session.enqueue(&shared.hub, Some((lot.lane, event.seq)), message, to),
        });
        self.slow(dropped);
        let now = clock::steady_ms();
        for (message, to) in direct {
            if self.sendable(&message, now) {
                self.send(&message, &to, 0, false, now);
            }
        }
        self.pump()
    }

    pub fn slow(&self, dropped: usize) {
        if dropped > 0 {
            self.shared.hub.slow.begins(|| {
                format!(
                    "sources.{}: client `{}` is slow: messages for it are dropped",
                    self.shared.owner(),
                    super::access::shown(&self.session.client)
                )
            });
        }
    }

    /// Puts out what waits, as much as the client allows.
    pub fn pump(&mut self) -> Result<(), End> {
        let now = clock::steady_ms();
        while self.waiting() < self.shared.out_full()
            && self.session.queue.len() < AHEAD + self.terms.receive_maximum
            && self.session.has_room(&self.shared.hub)
            && let Some((message, to)) = self.retained()
        {
            if to.qos > 0 {
                let dropped = self.session.enqueue(&self.shared.hub, None, message, to);
                self.slow(dropped);
            } else if self.sendable(&message, now) {
                self.send(&message, &to, 0, false, now);
            }
        }
        let mut room = self.terms.receive_maximum.saturating_sub(self.session.in_flight());
        let mut at = 0;
        while room > 0 && self.waiting() < self.shared.out_full() {
            let Some(found) = self.session.queue.iter().skip(at).position(|i| i.phase == Phase::Waiting) else { break };
            at += found;
            let Some(message) = self.session.queue.get(at).map(|i| i.message.clone()) else { break };
            if !self.sendable(&message, now) {
                let hub = self.shared.hub.clone();
                self.session.remove(&hub, at);
                continue;
            }
            let fresh = self.session.packet_id();
            let Some(item) = self.session.queue.get_mut(at) else { break };
            let dup = item.packet_id != 0;
            if !dup {
                item.packet_id = fresh;
            }
            item.phase = Phase::Sent;
            let (id, to) = (item.packet_id, item.to.clone());
            self.send(&message, &to, id, dup, now);
            room -= 1;
            at += 1;
        }
        Ok(())
    }

    /// The next retained message that a subscription asked for. It is looked up when it goes out: what waits takes no memory.
    fn retained(&mut self) -> Option<(Message, Selected)> {
        while let Some((sub, last)) = self.shelf.front_mut() {
            if let Some((topic, kept)) = self.shared.hub.retained(sub, last.as_deref()) {
                let message = Message::read(topic.to_string(), &kept.meta, &kept.body, kept.at);
                let qos = message.qos.min(sub.options & 3);
                let to = Selected { qos, retain: true, ids: sub.id.into_iter().collect() };
                *last = Some(topic);
                return Some((message, to));
            }
            self.shelf.pop_front();
        }
        None
    }

    /// Whether the message is still wanted, and not more than the client takes (MQTT-3.1.2-25).
    fn sendable(&self, message: &Message, now: i64) -> bool {
        let head = message.topic.len() + message.props.len() + 64;
        message.left(now).is_ok() && super::filter::is_topic(&message.topic) && {
            head + message.payload.len() <= self.terms.packet_maximum
                || self.terms.packet_maximum > message.payload.len() && self.exact(message) <= self.terms.packet_maximum
        }
    }

    /// Bytes of the packet, at most: without an alias, with an expiry, and the ids of all subscriptions.
    fn exact(&self, message: &Message) -> usize {
        let mut scratch = Vec::new();
        let ids: Vec<u32> = self.session.subs.iter().filter_map(|s| s.id).collect();
        let delivery = Delivery { ids: &ids, ..whole(message) };
        encode::publish(&mut scratch, self.version, &delivery)
    }

    fn send(&mut self, message: &Message, to: &Selected, packet_id: u16, dup: bool, now: i64) {
        let mut topic = message.topic.as_str();
        let mut alias = self.aliases_out.get(topic).copied();
        if alias.is_some() {
            topic = "";
        } else if self.aliases_out.len() < usize::from(self.terms.alias_maximum) {
            let fresh = self.aliases_out.len() as u16 + 1;
            self.aliases_out.insert(topic.to_owned(), fresh);
            alias = Some(fresh);
        }
        let expiry = message.left(now).unwrap_or_default();
        let delivery = Delivery {
            dup,
            qos: to.qos,
            retain: to.retain,
            topic,
            alias,
            packet_id,
            expiry,
            ids: &to.ids,
            ..whole(message)
        };
        encode::publish(&mut self.out, self.version, &delivery);
    }

    /// The client answers: PUBACK, PUBREC, PUBCOMP. Answers to nothing are let pass, they come after a restart.
    pub fn answered(&mut self, frame: &Frame<'_>) -> Result<(), End> {
        let (id, code) = super::decode::ack(frame, self.version)?;
        let kind = frame.first >> 4;
        let hub = self.shared.hub.clone();
        let at = self.session.queue.iter().position(|i| i.packet_id == id && i.phase != Phase::Waiting);
        let item = at.and_then(|at| Some((at, self.session.queue.get_mut(at)?)));
        match (kind, item) {
            (kind::PUBACK, Some((at, item))) if item.to.qos == 1 => self.session.remove(&hub, at),
            (kind::PUBREC, Some((at, item))) if item.to.qos == 2 && code >= 0x80 && item.phase == Phase::Sent => {
                self.session.remove(&hub, at);
            }
            (kind::PUBREC, Some((_, item))) if item.to.qos == 2 => {
                item.phase = Phase::Released;
                // The row says what to send after a restart.
                item.saved = false;
                encode::ack(&mut self.out, self.version, kind::PUBREL, id, reason::SUCCESS);
            }
            (kind::PUBREC, None) if code < 0x80 => {
                encode::ack(&mut self.out, self.version, kind::PUBREL, id, reason::NO_PACKET_ID);
            }
            (kind::PUBCOMP, Some((at, item))) if item.to.qos == 2 && item.phase == Phase::Released => {
                self.session.remove(&hub, at);
            }
            _ => {}
        }
        self.pump()
    }

    /// After a reconnect: what was not acknowledged goes out again, in its order.
    pub fn resume(&mut self) -> Result<(), End> {
        for item in self.session.queue.iter().filter(|i| i.phase == Phase::Released) {
            encode::ack(&mut self.out, self.version, kind::PUBREL, item.packet_id, reason::SUCCESS);
        }
        self.session.resend();
        self.pump()
    }

    /// Notes what was delivered; a lasting session that lags too far behind reads on, and drops.
    pub fn catch_up(&mut self) {
        if let Some(step) = self.session.step(self.shared.owner(), false) {
            self.shared.intake.store().ride(step).ok();
        }
        self.hurry = self.session.consumer.is_some() && self.pull.is_none() && {
            let end = self.shared.intake.store().tail(&[self.shared.intake.topic().clone()]);
            end.positions().any(|(lane, next)| self.session.behind(lane, next) > self.shared.config.backlog)
        };
    }
}

/// A message as it is, to nobody in particular.
fn whole(message: &Message) -> Delivery<'_> {
    Delivery {
        dup: false,
        qos: 1,
        retain: false,
        topic: &message.topic,
        alias: None,
        packet_id: 1,
        expiry: message.expiry,
        ids: &[],
        props: &message.props,
        payload: &message.payload,
    }
}

/// How many messages of QoS 1 and 2 a client that says nothing gets at a time.
pub fn window(version: Version, asked: Option<u16>) -> usize {
    match (version, asked) {
        (Version::V5, Some(n)) => usize::from(n).min(256),
        _ => 64,
    }
}
