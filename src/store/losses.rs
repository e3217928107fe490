//! How events end other than by being delivered, each end with its reason: for the ledger over time, and for who records what
//! happens to single events.

use super::{Append, Dead, Dropped, Step, dead::origin, schema, writer::Writer};
use crate::{
    budget::Span,
    trace::{Note, Stretch},
};
use std::{collections::BTreeMap, sync::Arc};

/// Characters of a reason that are kept: the quote of an answer may be long.
const REASON: usize = 160;

/// What was lost, and how many events.
pub(super) type Losses = BTreeMap<Loss, u64>;

/// Events of a topic that had one end for one reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Loss {
    pub topic: String,
    /// Empty where nobody reads the topic, and of what was never taken in.
    pub consumer: String,
    pub what: &'static str,
    pub reason: String,
}

/// How many events that a consumer passed ended how; `lost` ones are gone from the database.
#[derive(Clone, Copy, Default)]
pub(super) struct Ends {
    pub dead: u64,
    pub evicted: u64,
    pub expired: u64,
    pub lost: u64,
}

impl Loss {
    pub fn new(topic: &str, consumer: &str, what: &'static str, reason: &str) -> Loss {
        let reason = reason.chars().take(REASON).collect();
        Loss { topic: topic.to_owned(), consumer: consumer.to_owned(), what, reason }
    }
}

impl Writer {
    pub(super) fn lose(&mut self, (consumer, lane): (u32, u16), what: &'static str, reason: &str, count: u64) {
        let Some(topic) = self.index.lanes.get(&lane).map(|lane| &lane.topic).filter(|_| count > 0) else { return };
        let consumer = self.index.consumers.get(&consumer).map_or("", |consumer| &consumer.name);
        *self.open.lost.entry(Loss::new(topic, consumer, what, reason)).or_default() += count;
    }

    /// A consumer has passed events, not all of them well. What died has left letters, or said why it leaves none; of a batch
    /// that is damaged there is one for all.
    pub(super) fn note_ends(&mut self, at: (u32, u16), ends: &Ends, step: &Step) {
        if ends.expired > 0 {
            let reason = self.ttl_of(at.1);
            self.lose(at, "expired", &reason, ends.expired);
        }
        self.lose(at, "evicted", "passed over by a limit", ends.evicted);
        self.note_gone(at, ends.lost);
        if ends.dead == 0 {
            return;
        }
        let name = self.index.consumers.get(&at.0).map(|consumer| consumer.name.clone()).unwrap_or_default();
        if step.dead.iter().any(|letter| is_broken(letter) && letter.consumer == name) {
            let topic = self.index.lanes.get(&at.1).map(|lane| origin(&lane.topic)).unwrap_or_default();
            let ours = |consumer: &str, of: &str| consumer == name && of == &*topic;
            let letters = step.dead.iter().filter(|letter| ours(&letter.consumer, &letter.topic)).count();
            let dropped = step.dropped.iter().filter(|dropped| ours(&dropped.consumer, &dropped.topic)).count();
            let rest = ends.dead.saturating_sub((letters + dropped) as u64);
            self.lose(at, "dead", "the checksum of their stored batch does not fit", rest);
        }
    }

    pub(super) fn note_letter(&mut self, letter: &Dead, id: i64) {
        let known = self.index.consumer(&letter.consumer).is_some();
        if !letter.event.is_empty() && self.options.trace.is_on() {
            let who = if letter.consumer.is_empty() { "store" } else { &letter.consumer };
            let note = Note::new(&*letter.event, who, "dead").said(format!("letter {id}: {}", letter.reason));
            self.open.ended.push(note);
        }
        if !is_broken(letter) {
            // What no consumer had was not taken in.
            let (what, consumer) = if known { ("dead", &*letter.consumer) } else { ("refused", "") };
            *self.open.lost.entry(Loss::new(&letter.topic, consumer, what, &letter.reason)).or_default() += 1;
        }
    }

    pub(super) fn note_dropped(&mut self, dropped: &Dropped) {
        let Dropped { consumer, topic, event, reason } = dropped;
        if self.options.trace.is_on() {
            self.open.ended.push(Note::new(&**event, &**consumer, "dropped").said(&**reason));
        }
        *self.open.lost.entry(Loss::new(topic, consumer, "dead", reason)).or_default() += 1;
    }

    /// Before the oldest rows of a lane go.
    pub(super) fn note_evicted(&mut self, lane: u16, end: u64) {
        let Some(known) = self.index.lanes.get(&lane) else { return };
        let (first, reason) = (known.first, format!("store over `{}`, drop_oldest", mark(known.priority)));
        let cursors = self.index.cursors.iter().filter(|((_, l), cursor)| *l == lane && cursor.seq < end);
        let behind: Vec<((u32, u16), u64)> = cursors.map(|(at, cursor)| (*at, end - cursor.seq)).collect();
        let passed = self.index.passed(lane).clamp(first, end);
        self.note_left((lane, first, passed), "removed", || "everybody has passed it".into());
        self.left((lane, passed, end), "store".into(), "evicted", reason.clone(), (false, true));
        for (at, count) in behind {
            self.lose(at, "evicted", &reason, count);
        }
    }

    /// Events were taken and not stored, as the policy of their topic says.
    pub(super) fn note_thinned(&mut self, lane: u16, priority: u8, sampled: bool, count: u64) {
        let policy = if sampled { "sample" } else { "drop_newest" };
        let reason = format!("store over `{}`, {policy}", mark(priority));
        let mut readers: Vec<u32> = self.index.cursors.keys().filter(|(_, l)| *l == lane).map(|(c, _)| *c).collect();
        if readers.is_empty() {
            readers.push(0); // nobody
        }
        for consumer in readers {
            self.lose((consumer, lane), "evicted", &reason, count);
        }
    }

    /// Those of an append that are not stored, by their indexes; the ids of others would have been made of their places.
    pub(super) fn note_passed_over(&mut self, append: &Append, passed: &[u32]) {
        if !self.options.trace.is_on() {
            return;
        }
        let over = append.batch.own_ids().filter(|(index, _)| passed.binary_search(index).is_ok());
        let note =
            |(_, id)| Note::new(id, "store", "dropped").said(format!("topic `{}`: the store is full", append.topic));
        self.open.ended.extend(over.map(note));
    }

    /// A consumer was moved over rows that are too old.
    pub(super) fn note_expired(&mut self, at: (u32, u16), from: u64, to: u64) {
        let reason = self.ttl_of(at.1);
        self.lose(at, "expired", &reason, to - from);
        let who = self.index.consumers.get(&at.0).map_or("store", |consumer| &consumer.name);
        self.left((at.1, from, to), who.into(), "expired", reason, (true, true));
    }

    /// A consumer was moved over events that are gone from the database.
    pub(super) fn note_gone(&mut self, at: (u32, u16), lost: u64) {
        if lost > 0 {
            let quarantine = schema::meta(&self.db, "salvage:quarantine").ok().flatten();
            let number = quarantine.map(|number| format!(" (quarantine {number})")).unwrap_or_default();
            self.lose(at, "evicted", &format!("gone with a broken database{number}"), lost);
        }
    }

    /// Events that lay in a part of a lane do not lie there any more.
    pub(super) fn note_left(&mut self, part: (u16, u64, u64), what: &'static str, said: impl FnOnce() -> String) {
        if self.options.trace.is_on() {
            self.left(part, "store".into(), what, said(), (what != "removed", false));
        }
    }

    fn left(
        &mut self,
        (lane, from, to): (u16, u64, u64),
        who: Arc<str>,
        what: &'static str,
        said: String,
        (stays, badly): (bool, bool),
    ) {
        if self.options.trace.is_on() && to > from {
            self.open.left.push((Stretch { lane, from, to, who, what, said: said.into() }, stays, badly));
        }
    }

    fn ttl_of(&self, lane: u16) -> String {
        let topic = self.index.lanes.get(&lane).map(|lane| origin(&lane.topic)).unwrap_or_default();
        match self.options.ttl.get(&*topic) {
            Some(ttl) => format!("older than the `ttl` of its topic, {}, or than its own", Span(*ttl)),
            None => "older than its own `ttl`".into(),
        }
    }
}

/// The letter of a batch whose CRC does not fit.
fn is_broken(letter: &Dead) -> bool {
    letter.topic.is_empty() && letter.event.is_empty()
}

/// The mark that counts for a priority.
fn mark(priority: u8) -> &'static str {
    match priority {
        0 | 1 => "soft",
        2..=5 => "high",
        _ => "critical",
    }
}
