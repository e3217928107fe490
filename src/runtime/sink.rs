//! Reads batches, delivers them until the upstream has them, moves the cursor. A refused batch is halved until the bad
//! event stands alone.

use super::{
    backoff::Backoff,
    links::Links,
    step::{broken, letter},
};
use crate::{
    config::{Batch, SinkCommon},
    event::Event,
    fault::Fault,
    kind::Sink,
    store::{Dead, Lot, Move, Reader, Refusal, Step, Store},
};
use std::{collections::BTreeMap, time::Duration, time::Instant};
use tokio::{sync::watch, time};

/// How long to wait when the store cannot be read.
const REFUSED: Duration = Duration::from_millis(500);
/// After the stop is signalled, a delivery in progress may take this long; then it is dropped and done again at the
/// next start.
const LAST: Duration = Duration::from_secs(5);
/// How long a sink may take to say goodbye.
const CLOSE: Duration = Duration::from_secs(1);

pub(super) struct Outlet {
    /// `sinks.NAME`, which is also the consumer's name.
    pub name: String,
    pub sink: Box<dyn Sink>,
    pub common: SinkCommon,
    pub consumer: u32,
    pub reader: Reader,
    pub store: Store,
    pub links: Links,
    pub fatal: tokio::sync::mpsc::Sender<String>,
}

/// What became of a delivery.
enum Outcome {
    /// All of it is elsewhere, dead or expired: the dead, and of the expired their indexes.
    Done(Vec<Dead>, Vec<usize>),
    /// The gateway stops, or cannot go on.
    Stopped,
}

/// Batches taken together for one delivery.
#[derive(Default)]
struct Gathered {
    events: Vec<Event>,
    /// By lane, up to where.
    moves: BTreeMap<u16, Move>,
    dead: Vec<Dead>,
    bytes: usize,
}

impl Outlet {
    /// Until the stop is signalled.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(self.common.retry.initial.0, self.common.retry.max.0);
        loop {
            let gathered = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                gathered = gather(&mut self.reader, &self.common.batch, self.consumer, &self.name) => Ok(gathered),
                fault = self.sink.idle() => Err(fault),
            };
            let mut gathered = match gathered {
                Ok(Ok(gathered)) => gathered,
                Ok(Err(Refusal::Closed)) => break,
                Ok(Err(refusal)) => {
                    self.links.down(&self.name, &refusal.to_string());
                    time::sleep(REFUSED).await;
                    continue;
                }
                Err(fault) => match self.pause(&fault, &mut backoff, &mut stop).await {
                    Some(()) => continue,
                    None => break,
                },
            };
            match self.deliver(&gathered.events, &mut backoff, &mut stop).await {
                Outcome::Stopped => break,
                Outcome::Done(dead, expired) => gathered.bury(dead, &expired),
            }
            let step = Step { moves: gathered.moves.into_values().collect(), dead: gathered.dead, ..Step::default() };
            if self.store.ride(step).is_err() {
                break;
            }
        }
        time::timeout(CLOSE, self.sink.close()).await.ok();
    }

    /// Delivers all events, the halves of a refused batch one after another.
    async fn deliver(&mut self, events: &[Event], backoff: &mut Backoff, stop: &mut watch::Receiver<bool>) -> Outcome {
        let (mut dead, mut expired) = (Vec::new(), Vec::new());
        let mut ranges: Vec<_> = std::iter::once(0..events.len()).collect();
        while let Some(range) = ranges.pop() {
            let part = &events[range.clone()];
            // Looked at before each attempt: an upstream may be away for long.
            if let Some(at) = part.iter().position(Event::is_expired) {
                let at = range.start + at;
                expired.push(at);
                ranges.extend([at + 1..range.end, range.start..at]);
                continue;
            }
            if part.is_empty() {
                continue;
            }
            let result = tokio::select! {
                result = self.sink.deliver(part) => result,
                () = last_call(stop) => return Outcome::Stopped,
            };
            match result {
                Ok(()) => {
                    backoff.succeeded(Instant::now());
                    self.links.up(&self.name);
                }
                Err(fault @ Fault::Reject(_)) => match part {
                    [event] => {
                        dead.push(letter(&self.name, event, format!("refused: {fault}")));
                    }
                    _ => {
                        let middle = range.start + range.len() / 2;
                        ranges.extend([middle..range.end, range.start..middle]);
                    }
                },
                Err(fault) => {
                    if self.pause(&fault, backoff, stop).await.is_none() {
                        return Outcome::Stopped;
                    }
                    ranges.push(range);
                }
            }
        }
        Outcome::Done(dead, expired)
    }

    /// Waits before the next attempt; `None` if there is none.
    async fn pause(&mut self, fault: &Fault, backoff: &mut Backoff, stop: &mut watch::Receiver<bool>) -> Option<()> {
        if let Fault::Fatal(error) = fault {
            self.fatal.send(format!("{}: {error:#}", self.name)).await.ok();
            return None;
        }
        self.links.down(&self.name, &fault.to_string());
        let wait = backoff.failed(Instant::now());
        let wait = if let Fault::RetryAfter(asked, _) = fault { wait.max(*asked) } else { wait };
        time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_err().then_some(())
    }
}

async fn last_call(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
    time::sleep(LAST).await;
}

/// What is there, up to the batch's limits, waiting for more as long as it says. Dropping the future loses at most
/// what stands in the reader's memory: so nothing is taken out before the first await after it is over.
async fn gather(reader: &mut Reader, limits: &Batch, consumer: u32, name: &str) -> Result<Gathered, Refusal> {
    let (max, bytes) = (limits.max as usize, limits.bytes.bytes());
    let mut gathered = Gathered::default();
    let begun: Vec<(u16, u64)> = reader.positions().collect();
    let mut undo = Undo { reader, begun, armed: true };
    gathered.add(undo.reader.next(max, bytes).await?, consumer, name);
    let deadline = time::Instant::now() + limits.wait.0;
    while gathered.events.len() < max && gathered.bytes < bytes {
        let (room, left) = (max - gathered.events.len(), bytes - gathered.bytes);
        let more = if limits.wait.0.is_zero() {
            undo.reader.poll(room, left).await?
        } else {
            match time::timeout_at(deadline, undo.reader.next(room, left)).await {
                Ok(lot) => Some(lot?),
                Err(_) => None,
            }
        };
        let Some(lot) = more else { break };
        gathered.add(lot, consumer, name);
    }
    undo.armed = false;
    Ok(gathered)
}

/// Puts the reader back when a gathering is dropped half way, so that nothing it took is passed over.
struct Undo<'a> {
    reader: &'a mut Reader,
    begun: Vec<(u16, u64)>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.reader.restore(&self.begun);
        }
    }
}

impl Gathered {
    fn add(&mut self, lot: Lot, consumer: u32, name: &str) {
        let moved = self.moves.entry(lot.lane).or_insert(Move { consumer, lane: lot.lane, ..Move::default() });
        moved.to = lot.to;
        if let Some(stored) = lot.broken {
            moved.dead += lot.to - lot.from;
            self.dead.push(broken(name, lot.from, lot.to, stored));
        }
        self.bytes += lot.events.iter().map(|e| e.body.size() + e.meta.len()).sum::<usize>();
        self.events.extend(lot.events);
    }

    /// Counts dead letters and expired events towards the lane that each came from.
    fn bury(&mut self, dead: Vec<Dead>, expired: &[usize]) {
        for event in expired.iter().filter_map(|at| self.events.get(*at)) {
            if let Some(moved) = self.moves.get_mut(&event.lane) {
                moved.expired += 1;
            }
        }
        for letter in &dead {
            let lane = self.events.iter().find(|e| e.seq == letter.seq && *e.topic == *letter.topic).map(|e| e.lane);
            if let Some(moved) = lane.and_then(|lane| self.moves.get_mut(&lane)) {
                moved.dead += 1;
            }
        }
        self.dead.extend(dead);
    }
}
