//! Reads events, runs the chain, commits steps whole: cursor, outputs, dead letters, state and timers in one transaction.

use super::{
    chain::{Chain, Effect, Patience, Run, Unfinished},
    step::{Made, letter},
    suspect::{Suspects, survived},
    window::Window,
};
use crate::{
    event::Event,
    kind::Memory,
    store::{Lot, Reader, Refusal, Step, Store},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};

/// Bytes of events that one step works on, with ample memory, and how many of so many bytes: bounds memory, and what is done
/// again after a crash.
pub(super) const LOT: usize = 512 * 1024;
const SMALL: usize = 256;
/// A step that takes longer is committed as far as it is.
const LONGEST: Duration = Duration::from_millis(200);
/// A step that holds more times these bytes, of outputs and of what its changes replaced, is committed as far as it is.
const HELD: usize = 4;
/// How long to wait when the store refuses a step.
const REFUSED: Duration = Duration::from_millis(500);
/// Timers that one step works on.
const TIMERS: usize = 1024;
/// The wall clock may be set at any time: a timer is late by so much at most.
const LOOK: Duration = Duration::from_millis(500);
/// What is outside may take this long to come back after the stop is signalled.
const GRACE: Duration = Duration::from_secs(3);

/// What a pipeline is asked, once every source has ended and everything is through: to emit what it still holds.
pub(super) type Finish = mpsc::Receiver<oneshot::Sender<()>>;

pub(super) struct Pipeline {
    pub chain: Arc<Chain>,
    pub consumer: u32,
    pub reader: Reader,
    pub store: Store,
    pub memory: Memory,
    pub ending: Finish,
    /// Those that are being tried.
    pub suspects: Option<Arc<Suspects>>,
}

/// Why a pipeline goes on.
enum Woken {
    Stop,
    Timer,
    Finish(oneshot::Sender<()>),
    Lot(Result<Lot, Refusal>),
}

impl Pipeline {
    /// Until the stop is signalled; the step in progress is finished, as far as it can be in a few seconds.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if self.store.died() {
            let on = self.try_suspects(&mut stop).await;
            self.suspects = None;
            if !on {
                return;
            }
        }
        let (apart, lot) = (self.chain.side_by_side(), self.chain.around.lot);
        if apart > 0 {
            return Window::new(self, apart).run(stop).await;
        }
        loop {
            let woken = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Woken::Stop,
                () = due(&self.chain, &self.memory) => Woken::Timer,
                Some(done) = self.ending.recv() => Woken::Finish(done),
                lot = self.reader.next(lot / SMALL, lot) => Woken::Lot(lot),
            };
            let on = match woken {
                Woken::Stop => false,
                Woken::Timer => self.timers(&mut stop).await,
                Woken::Finish(done) => self.end(done, &mut stop).await,
                Woken::Lot(Ok(lot)) => self.lot(lot, &mut stop).await,
                Woken::Lot(Err(refusal)) => self.refused(&refusal, &mut stop).await,
            };
            if !on {
                return;
            }
        }
    }

    /// Does what was in progress when the gateway died, with a record of it; gives whether to go on. Where the record cannot
    /// be written it goes without.
    async fn try_suspects(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let Ok(suspects) = Suspects::of(&self.store, &self.chain.name, &self.chain.around.links).await else {
            return true;
        };
        let suspects = Arc::new(suspects);
        self.suspects = Some(suspects.clone());
        let bytes = self.chain.around.lot;
        let most = if self.chain.reaches_out() { 1 } else { suspects.at_once(bytes / SMALL) };
        let Ok(Some(first)) = self.reader.poll(bytes / SMALL, bytes).await else { return true };
        let (lane, end) = (first.lane, first.to);
        self.reader.rewind(lane, first.from);
        let mut on = true;
        while on && self.reader.position(lane).is_some_and(|at| at < end) && !*stop.borrow() {
            // It may be of another lane, of which something came in meanwhile.
            let Ok(Some(lot)) = self.reader.poll(most, bytes).await else { break };
            if most == 1 && lot.events.first().is_some_and(|event| suspects.is_guilty(event)) {
                on = self.set_aside(lot, stop).await;
                continue;
            }
            if suspects.try_now(lot.lane, lot.from, lot.to).await.is_err() {
                self.reader.rewind(lot.lane, lot.from);
                break;
            }
            let chain = self.chain.clone();
            let work = self.lot(lot, stop);
            tokio::pin!(work);
            on = tokio::select! {
                on = &mut work => on,
                () = survived(&chain.around.links, &chain.name) => {
                    suspects.forget().await;
                    work.await
                }
            };
        }
        suspects.forget().await;
        on
    }

    /// Puts an event that kills the gateway among the dead letters; gives whether to go on.
    async fn set_aside(&mut self, lot: Lot, stop: &mut watch::Receiver<bool>) -> bool {
        let (name, mut made) = (&self.chain.name, Made::default());
        for event in &lot.events {
            log::error!("{name}: `{}` has killed the gateway again and again and is set aside", event.id.text());
            made.dead.push(letter(name, event, "the gateway died while it worked on it".into()));
        }
        made.moved(self.consumer, lot.lane, lot.to).dead = lot.to - lot.from;
        let (on, committed) = self.commit(made.finish(), stop).await;
        if !committed {
            self.reader.rewind(lot.lane, lot.from);
        }
        on
    }

    /// Runs events one by one and commits; gives whether to go on.
    async fn lot(&mut self, lot: Lot, stop: &mut watch::Receiver<bool>) -> bool {
        let (begun, mut made, mut effect) = (Instant::now(), Made::default(), Effect::default());
        let (lane, from) = (lot.lane, lot.from);
        if let Some(stored) = lot.broken {
            made.moved(self.consumer, lane, lot.to).dead = lot.to - from;
            made.broken(&self.chain.name, from, lot.to, stored);
        }
        if !self.chain.may_wait {
            self.chain.beat.works();
        }
        let mut to = from;
        let mut events = lot.events.into_iter();
        let done = loop {
            let Some(event) = events.next() else { break true };
            if event.is_expired() {
                to = event.seq + 1;
                made.moved(self.consumer, lane, to).expired += 1;
                continue;
            }
            if to > from && self.is_enough(begun, &made) {
                break false;
            }
            let patience = if to == from { Patience::Endless } else { Patience::Short };
            match self.attempt(&event, patience, &mut effect, stop).await {
                Ok(()) => {
                    let stopped = effect.out.is_empty() && effect.sent.is_empty();
                    made.moved(self.consumer, lane, event.seq + 1).stopped += u64::from(stopped);
                    made.take(&self.chain.topic, &mut effect);
                }
                Err(Unfinished::Failed(failure)) => {
                    let dead = made.fail(&self.chain.name, &event, &failure);
                    made.moved(self.consumer, lane, event.seq + 1).dead += u64::from(dead);
                }
                Err(Unfinished::Later) => break false,
            }
            to = event.seq + 1;
        };
        self.chain.beat.waits();
        if !done {
            self.reader.rewind(lane, to);
        }
        let step = made.finish();
        if step.moves.is_empty() {
            return true;
        }
        let (on, committed) = self.commit(step, stop).await;
        if !committed {
            self.reader.rewind(lane, from);
        }
        on
    }

    /// Whether a step is to be committed as far as it is.
    pub fn is_enough(&self, begun: Instant, made: &Made) -> bool {
        self.chain.alone
            || begun.elapsed() > LONGEST
            || made.bytes() + self.memory.unsettled() > HELD * self.chain.around.lot
    }

    /// Runs one event through. At the stop it is dropped where it is, after a while.
    async fn attempt(
        &mut self,
        event: &Event,
        patience: Patience,
        effect: &mut Effect,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Unfinished> {
        let savepoint = self.memory.savepoint();
        let mut run = Run::new(&mut self.memory, effect, patience);
        if !self.chain.may_wait {
            return self.chain.plain_event(event.clone(), &mut run);
        }
        let done = tokio::select! {
            biased;
            done = self.chain.event(event.clone(), &mut run) => Some(done),
            () = stopped(stop) => None,
        };
        done.unwrap_or_else(|| {
            self.memory.rollback(savepoint);
            effect.out.clear();
            effect.sent.clear();
            Err(Unfinished::Later)
        })
    }

    /// Calls the processes whose timers are due, and commits.
    pub async fn timers(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let (begun, mut made) = (Instant::now(), Made::default());
        for count in 0..TIMERS {
            if count > 0 && self.is_enough(begun, &made) {
                break;
            }
            let savepoint = self.memory.savepoint();
            let Some((at, timer)) = self.memory.take_due(self.chain.around.time.now()) else { break };
            let mut effect = Effect::default();
            let mut run = Run::new(&mut self.memory, &mut effect, Patience::Endless);
            let events = self.chain.fire(at, timer, &mut run);
            made.take(&self.chain.topic, &mut effect);
            if !self.rest(at + 1, events, &mut made, stop).await {
                self.memory.rollback(savepoint); // the timer is set again: it comes after the next start
                return false;
            }
        }
        self.commit(made.finish(), stop).await.0
    }

    /// Emits what the processes hold, and commits, again until the store takes it.
    pub async fn end(&mut self, done: oneshot::Sender<()>, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            let Some(made) = self.finish(stop).await else {
                self.memory.rollback(0);
                return false;
            };
            let (on, committed) = self.commit(made.finish(), stop).await;
            if committed {
                done.send(()).ok();
                return on;
            }
            if !on {
                return false;
            }
        }
    }

    /// What the processes emit at the end; `None` at the stop.
    async fn finish(&mut self, stop: &mut watch::Receiver<bool>) -> Option<Made> {
        let mut made = Made::default();
        for at in self.chain.all() {
            let mut effect = Effect::default();
            let mut run = Run::new(&mut self.memory, &mut effect, Patience::Endless);
            let events = self.chain.finish(at, &mut run);
            made.take(&self.chain.topic, &mut effect);
            if !self.rest(at + 1, events, &mut made, stop).await {
                return None;
            }
        }
        Some(made)
    }

    /// Runs what a process emitted on its own through those after it; false at the stop.
    async fn rest(
        &mut self,
        from: usize,
        events: Vec<Event>,
        made: &mut Made,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        for event in events {
            let mut effect = Effect::default();
            let mut run = Run::new(&mut self.memory, &mut effect, Patience::Endless);
            let range = from..self.chain.all().end;
            let done = tokio::select! {
                biased;
                done = self.chain.run(range, vec![event.clone()], &mut run) => done,
                () = stopped(stop) => return false,
            };
            match done {
                Ok(out) => {
                    effect.out = out;
                    made.take(&self.chain.topic, &mut effect);
                }
                Err(Unfinished::Failed(failure)) => {
                    made.fail(&self.chain.name, &event, &failure);
                }
                Err(Unfinished::Later) => return false,
            }
        }
        true
    }

    /// Commits a step with what the memory changed; gives whether to go on, and whether it is committed. If it is not, the
    /// memory is as before it.
    pub async fn commit(&mut self, mut step: Step, stop: &mut watch::Receiver<bool>) -> (bool, bool) {
        (step.state, step.timers) = self.memory.changes();
        let silent = step.appends.is_empty() && step.dead.is_empty();
        if silent && step.state.is_empty() && step.timers.is_empty() {
            let rides = step.moves.is_empty() || self.store.ride(step).is_ok();
            return (rides, rides);
        }
        match self.store.commit(step).await {
            Ok(_) => {
                self.memory.settle();
                self.chain.around.links.up(&self.chain.name);
                (true, true)
            }
            Err(refusal) => {
                // They did no harm; that they wait for the disk is not their fault.
                if let Some(suspects) = &self.suspects {
                    suspects.forget().await;
                }
                self.memory.rollback(0);
                (self.refused(&refusal, stop).await, false)
            }
        }
    }

    /// Waits before the store is asked again; gives whether to go on.
    pub async fn refused(&self, refusal: &Refusal, stop: &mut watch::Receiver<bool>) -> bool {
        match refusal {
            Refusal::Closed => return false,
            Refusal::Moved => return true,
            _ => {}
        }
        self.chain.around.links.down(&self.chain.name, &refusal.to_string());
        timeout(REFUSED, stop.wait_for(|stop| *stop)).await.is_err()
    }
}

/// Until a timer is due.
pub(super) async fn due(chain: &Chain, memory: &Memory) {
    let Some(due) = memory.next_due() else { return std::future::pending().await };
    loop {
        let ms = due.saturating_sub(chain.around.time.now());
        if ms <= 0 {
            return;
        }
        sleep(Duration::from_millis(ms.unsigned_abs()).min(LOOK)).await;
    }
}

/// Until a while after the stop is signalled.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
    sleep(GRACE).await;
}
