//! What a client has beyond one packet: subscriptions, messages on their way, packet identifiers. A session belongs to
//! exactly one task at a time: its connection, or the one that keeps it while the client is away.

use super::{filter, hub::Hub, payload::Message};
use crate::store::{Move, Put, Step};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// A filter with its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sub {
    /// With `$share/GROUP/`, where it is shared.
    pub filter: String,
    /// As in the packet: QoS (bits 0 and 1), No Local (2), Retain As Published (3).
    pub options: u8,
    pub id: Option<u32>,
    /// By lane, the first event it selects.
    pub since: Vec<(u16, u64)>,
}

impl Sub {
    /// The filter without `$share/GROUP/`.
    pub fn bare(&self) -> &str {
        filter::shared(&self.filter).flatten().map_or(&self.filter, |(_, filter)| filter)
    }

    pub fn is_shared(&self) -> bool {
        self.filter.starts_with("$share/")
    }

    /// Whether it began after an event.
    pub fn is_after(&self, place: (u16, u64)) -> bool {
        self.since.iter().any(|(lane, seq)| *lane == place.0 && place.1 < *seq)
    }

    /// Bytes it takes in memory, at most: once more where it waits for retained messages, or is shared.
    fn size(&self) -> usize {
        2 * (size_of::<Sub>() + self.filter.len() + size_of_val(&*self.since))
    }
}

/// How a message goes to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    pub qos: u8,
    pub retain: bool,
    pub ids: Vec<u32>,
}

/// How far an item is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Waiting,
    /// Sent, not answered.
    Sent,
    /// QoS 2: received by the client; PUBREL was sent.
    Released,
}

/// A message with QoS 1 or 2 that the client has not acknowledged.
#[derive(Clone, Debug)]
pub struct Item {
    /// Rises within the session: the key of its row.
    pub n: u64,
    /// Lane and sequence number; `None` for retained messages sent at a subscription.
    pub place: Option<(u16, u64)>,
    pub message: Message,
    pub to: Selected,
    /// 0 before it is sent.
    pub packet_id: u16,
    pub phase: Phase,
    /// Whether a row holds it as it is, so that the cursor may pass it.
    pub saved: bool,
    /// Whether there is a row.
    pub row: bool,
    /// How often a look found it unsaved.
    pub looks: u8,
}

#[derive(Default)]
pub struct Session {
    pub client: Arc<str>,
    /// Seconds it outlives its connection.
    pub expiry: u32,
    /// The client said at its goodbye that nothing of it is needed any more.
    pub ends_now: bool,
    pub subs: Vec<Sub>,
    /// Packet identifiers of QoS 2 messages that the client has not released.
    pub received: BTreeSet<u16>,
    /// The consumer whose cursor holds what was not read yet; lasting sessions with subscriptions have one.
    pub consumer: Option<u32>,
    pub queue: VecDeque<Item>,
    bytes: usize,
    next: u64,
    last_packet_id: u16,
    /// By lane, what was read up to, and where the durable cursor is.
    read: BTreeMap<u16, u64>,
    moved: BTreeMap<u16, u64>,
    /// Since the last move: passed by without a match, dropped.
    unmatched: BTreeMap<u16, u64>,
    evicted: BTreeMap<u16, u64>,
    /// Rows of acknowledged items.
    gone: Vec<u64>,
}

/// Bytes of filters that every session has room for, so that most can subscribe whatever others keep; what is more is drawn.
pub const FILTERS: usize = 1 << 10;

/// An item is saved when this many looks found it unacknowledged: most are acknowledged by then and never written.
const LOOKS: u8 = 4;

impl Session {
    pub fn new(client: Arc<str>, expiry: u32) -> Self {
        Session { client, expiry, ..Session::default() }
    }

    pub fn lasts(&self) -> bool {
        self.expiry > 0
    }

    /// Whether and how a message goes to this client; also says, by remembering it, that the log was read this far.
    pub fn select(&self, hub: &Hub, place: (u16, u64), topic: &str, from: impl Fn() -> Sender) -> Option<Selected> {
        let mut found: Option<Selected> = None;
        let mut sender = None;
        for sub in &self.subs {
            if sub.is_after(place) || !filter::matches(sub.bare(), topic) {
                continue;
            }
            let sender = sender.get_or_insert_with(&from);
            if sub.options & 4 != 0 && *sender.client == *self.client {
                continue;
            }
            if sub.is_shared() && !hub.chosen(&sub.filter, &self.client, place.1) {
                continue;
            }
            let to = found.get_or_insert_default();
            to.qos = to.qos.max(sender.qos.min(sub.options & 3));
            to.retain |= sender.retain && sub.options & 8 != 0;
            to.ids.extend(sub.id);
        }
        found
    }

    fn filters(&self) -> usize {
        self.subs.iter().map(Sub::size).sum()
    }

    /// Bytes of filters that are drawn.
    fn drawn(&self) -> usize {
        self.filters().saturating_sub(FILTERS)
    }

    /// Whether there is room for one more subscription.
    pub fn fits(&self, hub: &Hub, sub: &Sub) -> bool {
        self.filters() + sub.size() <= FILTERS || !hub.queue_full()
    }

    /// Adds a subscription.
    pub fn begin(&mut self, hub: &Hub, sub: Sub) {
        let before = self.drawn();
        self.subs.push(sub);
        hub.queued_more(self.drawn() - before);
    }

    /// Takes one out.
    pub fn end(&mut self, hub: &Hub, at: usize) -> Sub {
        let before = self.drawn();
        let sub = self.subs.remove(at);
        hub.queued_less(before - self.drawn());
        sub
    }

    /// Whether an event was read before; if not, it counts as read now.
    pub fn read(&mut self, (lane, seq): (u16, u64)) -> bool {
        let next = self.read.entry(lane).or_insert(seq);
        if seq < *next {
            return false;
        }
        if seq > *next {
            // The log was trimmed in between.
            *self.evicted.entry(lane).or_default() += seq - *next;
        }
        *next = seq + 1;
        true
    }

    /// How many events there are up to `next` that were not read.
    pub fn behind(&self, lane: u16, next: u64) -> u64 {
        self.read.get(&lane).map_or(0, |read| next.saturating_sub(*read))
    }

    /// Forgets where it was in the log: its consumer is gone.
    pub fn restart(&mut self) {
        (self.read, self.moved) = (BTreeMap::new(), BTreeMap::new());
    }

    pub fn unmatched(&mut self, lane: u16) {
        *self.unmatched.entry(lane).or_default() += 1;
    }

    /// Puts a message at the end of the queue; what is then over the limits is dropped from the front, unless it is on
    /// its way. Gives the number of those.
    pub fn enqueue(&mut self, hub: &Hub, place: Option<(u16, u64)>, message: Message, to: Selected) -> usize {
        self.bytes += message.size();
        hub.queued_more(message.size());
        let (n, phase) = (self.next, Phase::Waiting);
        self.next += 1;
        self.queue.push_back(Item { n, place, message, to, packet_id: 0, phase, saved: false, row: false, looks: 0 });
        let mut dropped = 0;
        while (self.queue.len() > hub.session_events || self.bytes > hub.session_bytes || hub.queue_full())
            && let Some(at) = self.queue.iter().position(|i| i.phase == Phase::Waiting && i.packet_id == 0)
        {
            let lane = self.queue.get(at).and_then(|i| i.place).map(|p| p.0);
            self.remove(hub, at);
            if let Some(lane) = lane {
                *self.evicted.entry(lane).or_default() += 1;
            }
            dropped += 1;
        }
        dropped
    }

    /// Whether a message finds room without another's being dropped: what can wait elsewhere waits there.
    pub fn has_room(&self, hub: &Hub) -> bool {
        let room = self.queue.len() < hub.session_events && self.bytes < hub.session_bytes / 2 && !hub.queue_full();
        // Where nothing is on its way, nothing makes room.
        room || self.queue.is_empty()
    }

    /// Takes an item out: it is acknowledged, or dropped.
    pub fn remove(&mut self, hub: &Hub, at: usize) {
        if let Some(item) = self.queue.remove(at) {
            self.bytes -= item.message.size();
            hub.queued_less(item.message.size());
            if item.row {
                self.gone.push(item.n);
            }
        }
    }

    /// Puts back what a row held.
    pub fn restore(&mut self, hub: &Hub, item: Item) {
        self.bytes += item.message.size();
        hub.queued_more(item.message.size());
        self.next = self.next.max(item.n + 1);
        self.last_packet_id = self.last_packet_id.max(item.packet_id);
        self.queue.push_back(item);
    }

    pub fn in_flight(&self) -> usize {
        self.queue.iter().filter(|i| i.phase != Phase::Waiting).count()
    }

    /// A packet identifier that is not in use.
    pub fn packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if self.queue.iter().all(|i| i.packet_id != self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// After a new connection: what was sent is sent again, with the same packet identifier.
    pub fn resend(&mut self) {
        for item in self.queue.iter_mut().filter(|i| i.phase == Phase::Sent) {
            item.phase = Phase::Waiting;
        }
    }

    /// What the store is to know, if anything: rows of items that wait long (`all`: of all), rows that go, cursors.
    pub fn step(&mut self, owner: &str, all: bool) -> Option<Step> {
        let mut step = Step::default();
        for n in self.gone.drain(..) {
            step.state.push(Put { owner: owner.to_owned(), key: super::rows::item_key(&self.client, n), value: None });
        }
        let mut save = all;
        for item in self.queue.iter_mut().filter(|i| !i.saved) {
            item.looks = item.looks.saturating_add(1);
            save |= item.looks >= LOOKS;
        }
        if save {
            for item in self.queue.iter_mut().filter(|i| !i.saved) {
                (item.saved, item.row) = (true, true);
                step.state.push(super::rows::item(owner, &self.client, item));
            }
        }
        for (lane, read) in &self.read {
            let Some(consumer) = self.consumer else { break };
            let held = self.queue.iter().filter(|i| !i.saved).filter_map(|i| i.place).filter(|p| p.0 == *lane);
            let to = held.map(|p| p.1).min().unwrap_or(*read).min(*read);
            if self.moved.get(lane).is_some_and(|moved| *moved >= to) {
                continue;
            }
            self.moved.insert(*lane, to);
            let (evicted, stopped) = (self.evicted.remove(lane).unwrap_or(0), self.unmatched.remove(lane).unwrap_or(0));
            step.moves.push(Move { consumer, lane: *lane, to, evicted, stopped, ..Move::default() });
        }
        (!step.moves.is_empty() || !step.state.is_empty()).then_some(step)
    }

    /// Frees what it holds of shared budgets. To be called when it ends.
    pub fn release(&mut self, hub: &Hub) {
        hub.queued_less(std::mem::take(&mut self.bytes) + self.drawn());
        self.subs.clear();
        self.queue.clear();
    }
}

/// What selecting needs to know of a message; read from `meta` only when a filter matches.
pub struct Sender {
    pub client: String,
    pub qos: u8,
    pub retain: bool,
}
