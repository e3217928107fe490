//! A pipeline's step in the making.

use super::chain::{Effect, Failure};
use crate::{
    clock,
    config::OnFail,
    event::{Batch, Event},
    store::{Append, Dead, Dropped, Move, Step},
    trace::Trace,
};
use std::{collections::BTreeMap, sync::Arc};

/// What a step is made of: outputs gathered by topic and priority, moves by lane.
pub(super) struct Made {
    pub dead: Vec<Dead>,
    dropped: Vec<Dropped>,
    trace: Trace,
    outputs: BTreeMap<(Arc<str>, u8), Batch>,
    moves: BTreeMap<u16, Move>,
}

impl Made {
    pub fn new(trace: &Trace) -> Made {
        let (dead, dropped) = (Vec::new(), Vec::new());
        Made { dead, dropped, trace: trace.clone(), outputs: BTreeMap::new(), moves: BTreeMap::new() }
    }

    /// The consumer is done with the events of a lane before `to`; gives where to count what became of them.
    pub fn moved(&mut self, consumer: u32, lane: u16, to: u64) -> &mut Move {
        let moved = self.moves.entry(lane).or_insert(Move { consumer, lane, ..Move::default() });
        moved.to = to;
        moved
    }

    /// Takes over what came of an event.
    pub fn take(&mut self, topic: &Arc<str>, effect: &mut Effect) {
        for event in effect.out.drain(..) {
            self.push(topic, &event);
        }
        for (topic, event) in effect.sent.drain(..) {
            self.push(&topic, &event);
        }
    }

    /// Puts a failed event where its process says; gives whether it counts as dead.
    pub fn fail(&mut self, consumer: &str, event: &Event, failure: &Failure) -> bool {
        match &failure.on_fail {
            OnFail::Topic(topic) => {
                self.push(&Arc::from(topic.as_str()), event);
                return false;
            }
            OnFail::Drop => {
                let reason = format!("`on_fail` is `drop`: {}: {}", failure.process, failure.reason);
                let (topic, event) = (event.topic.to_string(), event.id.text().into_owned());
                self.dropped.push(Dropped { consumer: consumer.to_owned(), topic, event, reason });
            }
            OnFail::Dead | OnFail::Continue => {
                let reason = format!("{}: {}", failure.process, failure.reason);
                self.dead.push(letter(consumer, event, reason));
            }
        }
        true
    }

    /// Sets a batch aside whose CRC does not fit.
    pub fn broken(&mut self, consumer: &str, from: u64, to: u64, stored: Vec<u8>) {
        self.dead.push(broken(consumer, from, to, stored));
    }

    /// Bytes of the outputs.
    pub fn bytes(&self) -> usize {
        self.outputs.values().map(Batch::bytes).sum()
    }

    pub fn finish(self) -> Step {
        Step {
            inner: true,
            appends: self
                .outputs
                .into_iter()
                .map(|((topic, priority), batch)| Append { topic, priority, batch })
                .collect(),
            moves: self.moves.into_values().collect(),
            dead: self.dead,
            dropped: self.dropped,
            ..Step::default()
        }
    }

    fn push(&mut self, topic: &Arc<str>, event: &Event) {
        let batch = self.outputs.entry((topic.clone(), event.priority)).or_default();
        if self.trace.wants(event) {
            batch.will_trace(event);
        }
        match event.stamp.boot {
            // A process made it, and knows the steady clock only.
            0 => batch.push_event(&Event { stamp: clock::stamp_of(event.stamp.wall_ms), ..event.clone() }),
            _ => batch.push_event(event),
        }
    }
}

/// The dead letter of an event.
pub(super) fn letter(consumer: &str, event: &Event, reason: String) -> Dead {
    let mut body = Vec::new();
    event.write_envelope(&mut body);
    Dead {
        consumer: consumer.to_owned(),
        topic: event.topic.to_string(),
        seq: event.seq,
        event: event.id.text().into_owned(),
        reason,
        body,
    }
}

/// The dead letter of a batch whose CRC does not fit: its bytes as stored.
pub(super) fn broken(consumer: &str, from: u64, to: u64, body: Vec<u8>) -> Dead {
    log::error!("{consumer}: events {from} to {} are damaged on disk and were set aside", to - 1);
    let reason = format!("the checksum of the stored batch of {} events does not fit", to - from);
    Dead { consumer: consumer.to_owned(), topic: String::new(), seq: from, event: String::new(), reason, body }
}
