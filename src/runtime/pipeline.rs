//! Reads a batch, runs the chain, commits the step whole: cursor, outputs and dead letters in one transaction.

use super::{
    chain::{Chain, Effect, Failure},
    links::Links,
};
use crate::{
    clock,
    config::Then,
    event::{Batch, Event},
    fault::Fault,
    store::{Append, Dead, Lot, Move, Reader, Refusal, Step, Store},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Events and bytes that one step works on: bounds memory, and what is done again after a crash.
const EVENTS: usize = 2048;
const BYTES: usize = 512 * 1024;
/// How long to wait when the store refuses a step.
const REFUSED: Duration = Duration::from_millis(500);
/// How long to wait before a process is tried again with an event that it could not do now; it doubles, up to 5 s.
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Pipeline {
    /// `pipelines.NAME`, which is also the consumer's name.
    pub name: String,
    pub chain: Chain,
    pub links: Links,
    pub consumer: u32,
    pub reader: Reader,
    pub store: Store,
}

impl Pipeline {
    /// Until the stop is signalled; the step in progress is finished.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let lot = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                lot = self.reader.next(EVENTS, BYTES) => lot,
            };
            let done = match lot {
                Ok(lot) => {
                    let (lane, from) = (lot.lane, lot.from);
                    let step = self.step(lot).await;
                    self.commit(step, lane, from, &mut stop).await
                }
                Err(Refusal::Closed) => return,
                Err(refusal) => {
                    self.links.down(&self.name, &refusal.to_string());
                    tokio::time::sleep(REFUSED).await;
                    true
                }
            };
            if !done {
                return;
            }
        }
    }

    /// Commits a step; if the store refuses it, the batch is read again. Gives whether to go on.
    async fn commit(&mut self, step: Step, lane: u16, from: u64, stop: &mut watch::Receiver<bool>) -> bool {
        if step.appends.is_empty() && step.dead.is_empty() {
            return self.store.ride(step).is_ok();
        }
        match self.store.commit(step).await {
            Ok(_) => self.links.up(&self.name),
            Err(Refusal::Closed) => return false,
            Err(refusal) => {
                self.links.down(&self.name, &refusal.to_string());
                self.reader.rewind(lane, from);
                return tokio::time::timeout(REFUSED, stop.wait_for(|stop| *stop)).await.is_err();
            }
        }
        true
    }

    async fn step(&self, lot: Lot) -> Step {
        let mut made = Made::default();
        let mut moved = Move { consumer: self.consumer, lane: lot.lane, to: lot.to, ..Move::default() };
        let now = clock::wall_ms();
        if let Some(stored) = lot.broken {
            moved.dead = lot.to - lot.from;
            made.step.dead.push(broken(&self.name, lot.from, lot.to, stored));
        }
        let mut effect = Effect::default();
        for event in lot.events {
            let before = (effect.out.len(), effect.sent.len());
            if let Err(failure) = self.attempt(&event, now, &mut effect).await {
                match &self.chain.then {
                    Then::Drop => moved.dead += 1,
                    Then::Topic(topic) => made.push(&Arc::from(topic.as_str()), &event),
                    Then::Dead => {
                        moved.dead += 1;
                        made.step.dead.push(letter(&self.name, &event, &failure));
                    }
                }
            } else if before == (effect.out.len(), effect.sent.len()) {
                moved.stopped += 1;
            }
        }
        made.push_all(&self.chain.topic, &effect);
        made.step.moves.push(moved);
        made.step.appends =
            made.outputs.into_iter().map(|((topic, priority), batch)| Append { topic, priority, batch }).collect();
        made.step
    }

    /// Runs the chain, again after a `Retry` as often as `on_fail` says.
    async fn attempt(&self, event: &Event, now: i64, effect: &mut Effect) -> Result<(), Failure> {
        let mut wait = RETRY;
        for _ in 0..self.chain.retries {
            match self.chain.run(event.clone(), now, effect) {
                Err(Failure { fault: Fault::Retry(_) | Fault::RetryAfter(..), .. }) => tokio::time::sleep(wait).await,
                done => return done,
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        self.chain.run(event.clone(), now, effect)
    }
}

/// A step in the making, its outputs gathered by topic and priority.
#[derive(Default)]
struct Made {
    step: Step,
    outputs: BTreeMap<(Arc<str>, u8), Batch>,
}

impl Made {
    fn push(&mut self, topic: &Arc<str>, event: &Event) {
        self.outputs.entry((topic.clone(), event.priority)).or_default().push_event(event);
    }

    fn push_all(&mut self, topic: &Arc<str>, effect: &Effect) {
        for event in &effect.out {
            self.push(topic, event);
        }
        for (topic, event) in &effect.sent {
            self.push(topic, event);
        }
    }
}

/// The dead letter of an event.
pub(super) fn letter(consumer: &str, event: &Event, failure: &Failure) -> Dead {
    let mut body = Vec::new();
    event.write_envelope(&mut body);
    Dead {
        consumer: consumer.to_owned(),
        topic: event.topic.to_string(),
        seq: event.seq,
        event: event.id.text().into_owned(),
        reason: format!("{}: {}", failure.process, failure.fault),
        body,
    }
}

/// The dead letter of a batch whose CRC does not fit: its bytes as stored.
pub(super) fn broken(consumer: &str, from: u64, to: u64, body: Vec<u8>) -> Dead {
    log::error!("{consumer}: events {from} to {} are damaged on disk and were set aside", to - 1);
    let reason = format!("the checksum of the stored batch of {} events does not fit", to - from);
    Dead { consumer: consumer.to_owned(), topic: String::new(), seq: from, event: String::new(), reason, body }
}
