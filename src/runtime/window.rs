//! Events side by side: several are outside at once, and leave in their order all the same.
//!
//! A window slides over the events: each is run through the first processes, which remember nothing, in a task of its own.
//! As soon as the foremost are through, they go, in order, through the rest of the chain, and are committed. So a slow
//! event holds back those behind it, but none is done twice because of it.

use super::{
    chain::{Chain, Effect, Failure, Patience, Run, Unfinished},
    pipeline::{Pipeline, due, stopped},
    step::Made,
};
use crate::{
    config::OnFail,
    event::Event,
    kind::Memory,
    store::{Lot, Refusal},
};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::Instant,
};

/// Events in the window for each worker: enough that none waits for the next lot.
const AHEAD: usize = 4;
/// Bytes of events in the window, and one event more.
const BYTES: usize = 1 << 20;

pub(super) struct Window {
    pipeline: Pipeline,
    /// How many of the processes run side by side.
    front: usize,
    slots: VecDeque<Slot>,
    /// The number of the first slot, and of events that are outside.
    first: u64,
    running: usize,
    tasks: JoinSet<(u64, Front)>,
}

/// What came of an event in the first processes.
type Front = Result<Effect, Failure>;

/// A place in the order of events.
struct Slot {
    lane: u16,
    /// One after its last event.
    to: u64,
    work: Work,
}

enum Work {
    Expired,
    Waiting(Event),
    Outside(Event),
    Done(Event, Front),
    /// A batch that is damaged on disk: from this event on.
    Broken(u64, Vec<u8>),
}

impl Slot {
    fn bytes(&self) -> usize {
        match &self.work {
            Work::Waiting(event) | Work::Outside(event) | Work::Done(event, _) => event.body.size() + event.meta.len(),
            Work::Broken(_, stored) => stored.len(),
            Work::Expired => 0,
        }
    }
}

impl Window {
    pub fn new(pipeline: Pipeline, front: usize) -> Self {
        Window { pipeline, front, slots: VecDeque::new(), first: 0, running: 0, tasks: JoinSet::new() }
    }

    /// Until the stop is signalled and what is outside has come back, or was given up.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let workers = self.pipeline.chain.settings.workers as usize;
        loop {
            let stopping = *stop.borrow();
            if self.pipeline.reader.is_moved() {
                self.drop_all();
            }
            if !stopping {
                self.start(workers);
            }
            if self.done() > 0 {
                if !self.commit(&mut stop).await {
                    return;
                }
                continue;
            }
            if stopping && self.running == 0 {
                return;
            }
            let room = (workers * AHEAD).saturating_sub(self.slots.len());
            let bytes = BYTES.saturating_sub(self.slots.iter().map(Slot::bytes).sum());
            let pipeline = &mut self.pipeline;
            let on = tokio::select! {
                biased;
                () = signalled(&mut stop, stopping) => !stopping,
                Some(ended) = self.tasks.join_next() => {
                    self.back(ended);
                    // One commit for all that are back.
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.back(ended);
                    }
                    true
                }
                () = due(&pipeline.chain, &pipeline.memory), if !stopping => pipeline.timers(&mut stop).await,
                Some(done) = pipeline.ending.recv(), if self.slots.is_empty() => pipeline.end(done, &mut stop).await,
                lot = pipeline.reader.next(room, bytes), if room > 0 && bytes > 0 && !stopping => match lot {
                    Ok(lot) => {
                        self.take(lot);
                        true
                    }
                    Err(Refusal::Moved) => {
                        self.drop_all();
                        true
                    }
                    Err(refusal) => pipeline.refused(&refusal, &mut stop).await,
                },
            };
            if !on {
                return;
            }
        }
    }

    /// What is in the window does not count any more. What is outside comes back to no slot.
    fn drop_all(&mut self) {
        self.first += self.slots.len() as u64;
        self.slots.clear();
    }

    fn take(&mut self, lot: Lot) {
        let lane = lot.lane;
        if let Some(stored) = lot.broken {
            self.slots.push_back(Slot { lane, to: lot.to, work: Work::Broken(lot.from, stored) });
        }
        let slots = lot.events.into_iter().map(|event| Slot {
            lane,
            to: event.seq + 1,
            work: if event.is_expired() { Work::Expired } else { Work::Waiting(event) },
        });
        self.slots.extend(slots);
        // What lies after the last event of a lot, if anything, holds none.
        if let Some(last) = self.slots.back_mut().filter(|slot| slot.lane == lane) {
            last.to = lot.to;
        }
    }

    /// Sends events outside, as many as may be.
    fn start(&mut self, workers: usize) {
        let mut busy = HashSet::new();
        for (number, slot) in (self.first..).zip(&mut self.slots) {
            if self.running >= workers {
                break;
            }
            let (event, waits) = match &slot.work {
                Work::Waiting(event) => (event, true),
                Work::Outside(event) => (event, false),
                _ => continue,
            };
            // An event waits for those of its key before it, those included that wait themselves.
            let key = event.key.as_str();
            let free = !self.pipeline.chain.settings.per_key || key.is_empty() || busy.insert(key.to_owned());
            if waits && free {
                let event = event.clone();
                self.tasks.spawn(outside(self.pipeline.chain.clone(), self.front, number, event.clone()));
                self.running += 1;
                slot.work = Work::Outside(event);
            }
        }
    }

    /// An event is back.
    fn back(&mut self, ended: Result<(u64, Front), JoinError>) {
        self.running -= 1;
        let (number, front) = match ended {
            Ok(back) => back,
            // A process panicked: a defect, and the gateway ends as it would without workers.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let Some(slot) = self.slots.get_mut(number.wrapping_sub(self.first) as usize) else { return };
        if let Work::Outside(event) = &slot.work {
            slot.work = Work::Done(event.clone(), front);
        }
    }

    /// How many of the foremost are through.
    fn done(&self) -> usize {
        self.slots
            .iter()
            .take_while(|slot| matches!(slot.work, Work::Done(..) | Work::Broken(..) | Work::Expired))
            .count()
    }

    /// Runs the foremost through the rest of the chain and commits; if the store refuses, they stay.
    async fn commit(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let (begun, mut made, mut through, done) = (Instant::now(), Made::default(), 0, self.done());
        let consumer = self.pipeline.consumer;
        for slot in self.slots.iter().take(done) {
            if through > 0 && self.pipeline.is_enough(begun, &made) {
                break;
            }
            let (event, front) = match &slot.work {
                Work::Done(event, front) => (event, front),
                Work::Broken(from, stored) => {
                    made.moved(consumer, slot.lane, slot.to).dead += slot.to - from;
                    made.broken(&self.pipeline.chain.name, *from, slot.to, stored.clone());
                    through += 1;
                    continue;
                }
                Work::Expired => {
                    made.moved(consumer, slot.lane, slot.to).expired += 1;
                    through += 1;
                    continue;
                }
                Work::Waiting(_) | Work::Outside(_) => break,
            };
            let patience = if through == 0 { Patience::Endless } else { Patience::Short };
            match rest(&mut self.pipeline, self.front, front, patience, stop).await {
                Ok(mut effect) => {
                    let stopped = effect.out.is_empty() && effect.sent.is_empty();
                    made.moved(consumer, slot.lane, slot.to).stopped += u64::from(stopped);
                    made.take(&self.pipeline.chain.topic, &mut effect);
                }
                Err(Unfinished::Failed(failure)) => {
                    let dead = made.fail(&self.pipeline.chain.name, event, &failure);
                    made.moved(consumer, slot.lane, slot.to).dead += u64::from(dead);
                }
                Err(Unfinished::Later) => break,
            }
            through += 1;
        }
        if through == 0 {
            return false; // only the stop keeps the foremost
        }
        let (on, committed) = self.pipeline.commit(made.finish(), stop).await;
        if committed {
            self.slots.drain(..through);
            self.first += through as u64;
        }
        on
    }
}

/// The part of the work that remembers nothing.
async fn outside(chain: Arc<Chain>, front: usize, number: u64, event: Event) -> (u64, Front) {
    let (mut memory, mut effect) = (Memory::default(), Effect::default());
    let mut run = Run::new(&mut memory, &mut effect, Patience::Endless);
    let done = chain.run(0..front, vec![event], &mut run).await;
    let front = match done {
        Ok(out) => Ok(Effect { out, ..effect }),
        Err(Unfinished::Failed(failure)) => Err(failure),
        // It is endlessly patient.
        Err(Unfinished::Later) => {
            Err(Failure { process: chain.topic.clone(), reason: "it was put off".into(), on_fail: OnFail::Dead })
        }
    };
    (number, front)
}

/// The rest of the work, one event after another.
async fn rest(
    pipeline: &mut Pipeline,
    front: usize,
    before: &Front,
    patience: Patience,
    stop: &mut watch::Receiver<bool>,
) -> Result<Effect, Unfinished> {
    let before = before.as_ref().map_err(|failure| Unfinished::Failed(failure.clone()))?;
    let mut effect = Effect { out: Vec::new(), sent: before.sent.clone() };
    let savepoint = pipeline.memory.savepoint();
    let mut run = Run::new(&mut pipeline.memory, &mut effect, patience);
    let range = front..pipeline.chain.all().end;
    tokio::select! {
        biased;
        done = pipeline.chain.run(range, before.out.clone(), &mut run) => {
            effect.out = done?;
            Ok(effect)
        }
        () = stopped(stop) => {
            pipeline.memory.rollback(savepoint);
            Err(Unfinished::Later)
        }
    }
}

/// Until the stop is signalled; if it is, until what is outside has had its time.
async fn signalled(stop: &mut watch::Receiver<bool>, stopping: bool) {
    if stopping {
        stopped(stop).await;
    } else {
        stop.wait_for(|stop| *stop).await.ok();
    }
}
