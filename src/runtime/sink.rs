//! Reads batches, delivers them until the upstream has them, moves the cursor. A refused batch is halved until the bad
//! event stands alone.

use super::{
    ahead::Ahead,
    allowance::{self, Allowance},
    backoff::Backoff,
    gate::{Gate, Opening},
    governor::Governor,
    kick::Kick,
    late::Lateness,
    links::Links,
    names,
    pace::Pace,
    step::{broken, letter},
    windows::Windows,
};
use crate::{
    budget::{Size, Span},
    clock,
    config::{Batch, SinkCommon, SinkPlan},
    event::Event,
    fault::Fault,
    kind::Sink,
    store::{Append, Dead, Lot, Move, Reader, Refusal, Step, Store},
    tally,
    trace::Note,
};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    time,
};

/// How long to wait when the store cannot be read.
const REFUSED: Duration = Duration::from_millis(500);
/// After the stop is signalled, a delivery in progress may take this long; then it is dropped and done again at the
/// next start.
const LAST: Duration = Duration::from_secs(5);
/// Who is asked to come again after some time comes up to so much of it later: a fleet that was told the same does not
/// come back at once.
const SPREAD: f64 = 0.2;
/// How long a sink may take to say goodbye.
const CLOSE: Duration = Duration::from_secs(1);

pub(super) struct Outlet {
    /// `sinks.NAME`, which is also the consumer's name.
    pub name: String,
    pub sink: Box<dyn Sink>,
    pub common: SinkCommon,
    pub consumer: u32,
    pub reader: Reader,
    pub ahead: Ahead,
    pub gate: Gate,
    pub late: Option<Lateness>,
    pub pace: Pace,
    pub kick: Kick,
    pub store: Store,
    pub links: Links,
    pub counts: Arc<tally::Outlet>,
    pub fatal: mpsc::Sender<String>,
}

/// Batches taken together for one delivery.
#[derive(Default)]
pub(super) struct Gathered {
    pub events: Vec<Event>,
    /// By lane, up to where.
    pub moves: BTreeMap<u16, Move>,
    pub dead: Vec<Dead>,
    pub bytes: usize,
    /// They wait for nothing.
    pub urgent: bool,
    /// Where the reader stood before.
    pub begun: Vec<(u16, u64)>,
}

impl Outlet {
    /// The sink as a consumer of that number, with what it remembers.
    pub async fn open(
        plan: SinkPlan<dyn Sink>,
        consumer: u32,
        gateway: &str,
        store: &Store,
        links: &Links,
        fatal: &mpsc::Sender<String>,
    ) -> anyhow::Result<Outlet> {
        let (name, topics, common) = (format!("sinks.{}", plan.name), names(&plan.from), plan.common);
        // What goes in one delivery, or, if it is slower, in a second.
        let behind = u64::from(common.batch.max.min(common.drain.events.unwrap_or(u32::MAX)));
        let late = common.late.as_ref().map(|late| Lateness::new(&plan.name, late)).transpose()?;
        let used = store.state(&name, allowance::KEY, 1).await?.pop();
        let used = used.as_ref().map(|(_, value)| value.as_slice());
        let gate = Gate {
            governor: Governor::new(&common.drain),
            // A fleet begins its windows one after another, each gateway always at the same time.
            windows: Windows::new(common.windows.clone(), share_of(&format!("{gateway}/{name}"))),
            allowance: common.budget.as_ref().map(|budget| Allowance::new(name.clone(), budget, used)),
            urgent: common.urgent,
        };
        let counts = links.outlet(&name);
        let mut reader = store.reader(consumer, &topics);
        let ahead =
            Ahead::load(store, &name, (consumer, &mut reader), common.drain.live, common.urgent, behind).await?;
        Ok(Outlet {
            reader,
            ahead,
            gate,
            late,
            pace: Pace::new(common.batch.max as usize),
            kick: Kick::default(),
            name,
            sink: plan.sink,
            common,
            consumer,
            store: store.clone(),
            links: links.clone(),
            counts,
            fatal: fatal.clone(),
        })
    }

    /// Until the stop is signalled.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(self.common.retry.initial.0, self.common.retry.max.0);
        if !self.store.died() || self.try_suspects(&mut backoff, &mut stop).await.is_continue() {
            while self.turn(&mut backoff, &mut stop).await.is_continue() {}
        }
        time::timeout(CLOSE, self.sink.close()).await.ok();
    }

    /// One delivery, or none if the gate is closed or something stands in the way.
    async fn turn(&mut self, backoff: &mut Backoff, stop: &mut watch::Receiver<bool>) -> ControlFlow<()> {
        let step = self.ahead.look(&mut self.reader);
        if !step.moves.is_empty() && self.store.ride(step).is_err() {
            return ControlFlow::Break(());
        }
        let opening = self.gate.look(&clock::stamp());
        self.links.held(&self.name, opening.why.as_deref());
        self.reader.only_from(opening.floor);
        self.ahead.reader.only_from(opening.floor);
        let live = opening.floor == 0 && self.ahead.goes_first(&self.reader);
        let limits = self.limits(&opening, live);
        let reader = if live { &mut self.ahead.reader } else { &mut self.reader };
        let gathered = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return ControlFlow::Break(()),
            gathered = gather(reader, &limits, self.gate.urgent, self.consumer, &self.name) => Ok(gathered),
            () = time::sleep(opening.again), if opening.floor > 0 => return ControlFlow::Continue(()),
            fault = self.sink.idle(), if opening.why.is_none() => Err(fault),
        };
        let gathered = match gathered {
            Ok(Ok(gathered)) => gathered,
            Ok(Err(Refusal::Closed)) => return ControlFlow::Break(()),
            Ok(Err(Refusal::Moved)) => return ControlFlow::Continue(()),
            Ok(Err(refusal)) => {
                self.links.down(&self.name, &refusal.to_string());
                time::sleep(REFUSED).await;
                return ControlFlow::Continue(());
            }
            Err(fault) => return self.pause(&fault, backoff, stop).await,
        };
        self.send(gathered, live, backoff, stop).await
    }

    /// Delivers what may go of it, and commits that.
    pub async fn send(
        &mut self,
        gathered: Gathered,
        live: bool,
        backoff: &mut Backoff,
        stop: &mut watch::Receiver<bool>,
    ) -> ControlFlow<()> {
        let Some(mut gathered) = self.admit(gathered, live) else { return ControlFlow::Continue(()) };
        let late = self.late.as_ref();
        let appends = late.map_or_else(Vec::new, |late| late.treat(&mut gathered, self.store.ages()));
        self.gate.spend(gathered.events.len(), gathered.bytes);
        self.counts.in_flight.store(gathered.events.len() as u64, Relaxed);
        let delivered = self.deliver(&gathered, backoff, stop).await;
        self.counts.in_flight.store(0, Relaxed);
        let Some((dead, expired)) = delivered? else {
            let reader = if live { &mut self.ahead.reader } else { &mut self.reader };
            reader.restore(&gathered.begun);
            return ControlFlow::Continue(());
        };
        gathered.bury(dead, &expired);
        self.done(gathered, appends, live, stop).await
    }

    /// What one delivery may take. Nobody waits for a batch to fill while a backlog does that.
    fn limits(&self, opening: &Opening, live: bool) -> Batch {
        let max = (self.common.batch.max as usize).min(self.pace.size()).min(opening.events);
        let bytes = self.common.batch.bytes.map_or(Batch::BYTES, Size::bytes).min(opening.bytes);
        let wait = if live { Span::millis(0) } else { self.common.batch.wait };
        Batch { max: u32::try_from(max).unwrap_or(u32::MAX), bytes: Some(Size(bytes as u64)), wait }
    }

    /// What of it may still go: it may have taken long to come together. The rest is put back.
    fn admit(&mut self, mut gathered: Gathered, live: bool) -> Option<Gathered> {
        if gathered.urgent {
            return Some(gathered);
        }
        let now = clock::stamp();
        let reader = if live { &mut self.ahead.reader } else { &mut self.reader };
        if self.gate.shut(&now) {
            reader.restore(&gathered.begun);
            return None;
        }
        let Some(most) = self.gate.most(gathered.events.len(), gathered.bytes, &now) else { return Some(gathered) };
        gathered.cut(reader, most);
        if gathered.events.is_empty() && gathered.dead.is_empty() {
            self.gate.leave_rest();
            return None;
        }
        Some(gathered)
    }

    /// Commits that a delivery is over.
    pub async fn done(
        &mut self,
        gathered: Gathered,
        appends: Vec<Append>,
        live: bool,
        stop: &mut watch::Receiver<bool>,
    ) -> ControlFlow<()> {
        let Gathered { events, moves, dead, bytes, .. } = gathered;
        let mut step = Step { inner: true, appends, dead, ..Step::default() };
        if live {
            step.state = self.ahead.sent(&moves, events.len());
        } else {
            self.ahead.stood_back(events.len());
            step.moves = moves.into_values().collect();
        }
        step.state.extend(self.gate.sent(bytes, &clock::stamp()));
        if step.appends.is_empty() {
            return if self.store.ride(step).is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        self.fill(step, stop).await
    }

    /// Commits a step with events that go back into the store: these are not to run ahead of the disk, so it is waited for.
    async fn fill(&mut self, step: Step, stop: &mut watch::Receiver<bool>) -> ControlFlow<()> {
        loop {
            match self.store.commit(step.clone()).await {
                Ok(_) | Err(Refusal::Moved) => {
                    self.links.up(&self.name);
                    return ControlFlow::Continue(());
                }
                Err(Refusal::Closed) => return ControlFlow::Break(()),
                Err(refusal) => self.links.down(&self.name, &format!("what is late finds no place: {refusal}")),
            }
            tokio::select! {
                () = time::sleep(REFUSED) => {}
                () = last_call(stop) => return ControlFlow::Break(()),
            }
        }
    }

    /// Delivers all events, the halves of a refused batch one after another; gives the dead and the indexes of the expired, or nothing if a window closed
    /// meanwhile: then it is done again when one opens. It breaks when the gateway stops or cannot go on.
    async fn deliver(
        &mut self,
        gathered: &Gathered,
        backoff: &mut Backoff,
        stop: &mut watch::Receiver<bool>,
    ) -> ControlFlow<(), Option<(Vec<(u16, Dead)>, Vec<usize>)>> {
        let events = gathered.events.as_slice();
        let (mut dead, mut expired, mut told) = (Vec::new(), Vec::new(), String::new());
        let mut ranges: Vec<_> = std::iter::once(0..events.len()).collect();
        while let Some(range) = ranges.pop() {
            let part = &events[range.clone()];
            // Looked at before each attempt: an upstream may be away for long.
            if let Some(at) = part.iter().position(Event::is_expired) {
                let at = range.start + at;
                expired.push(at);
                self.store.trace().ended(Note::of(&events[at], &*self.name, "expired"));
                ranges.extend([at + 1..range.end, range.start..at]);
                continue;
            }
            if part.is_empty() {
                continue;
            }
            let begun = time::Instant::now();
            let result = tokio::select! {
                result = self.sink.deliver(part) => result,
                () = last_call(stop) => return ControlFlow::Break(()),
            };
            match result {
                Ok(()) => {
                    backoff.succeeded(Instant::now());
                    self.pace.took(part.len(), begun.elapsed());
                    self.counts.time.since(begun.into_std());
                    self.counts.events.add(part.len() as u64);
                    self.links.up(&self.name);
                    self.note(part, "acknowledged", begun.elapsed(), || self.sink.answer());
                }
                Err(fault @ Fault::Reject(_)) => match part {
                    [event] => {
                        dead.push((event.lane, letter(&self.name, event, format!("refused: {fault}"))));
                    }
                    _ => {
                        let middle = range.start + range.len() / 2;
                        ranges.extend([middle..range.end, range.start..middle]);
                    }
                },
                Err(fault) => {
                    let reason = fault.to_string();
                    if reason != told {
                        self.note(part, "failed", begun.elapsed(), || format!("{reason}; tried again"));
                        told = reason;
                    }
                    self.pause(&fault, backoff, stop).await?;
                    if !gathered.urgent && self.gate.shut(&clock::stamp()) {
                        return ControlFlow::Continue(None);
                    }
                    ranges.push(range);
                }
            }
        }
        ControlFlow::Continue(Some((dead, expired)))
    }

    /// What came of an attempt, for those of its events that are recorded.
    fn note(&self, part: &[Event], what: &'static str, took: Duration, said: impl FnOnce() -> String) {
        let trace = self.store.trace();
        let wanted: Vec<&Event> = part.iter().filter(|event| trace.wants(event)).collect();
        if wanted.is_empty() {
            return;
        }
        let said = said();
        for event in wanted {
            trace.note(Note::of(event, &*self.name, what).took(took).said(&*said));
        }
    }

    /// Waits before the next attempt; breaks if there is none. A sign that the link is back ends the wait, unless the
    /// other side asked for it.
    async fn pause(
        &mut self,
        fault: &Fault,
        backoff: &mut Backoff,
        stop: &mut watch::Receiver<bool>,
    ) -> ControlFlow<()> {
        if let Fault::Fatal(error) = fault {
            self.fatal.send(format!("{}: {error:#}", self.name)).await.ok();
            return ControlFlow::Break(());
        }
        self.links.down(&self.name, &fault.to_string());
        let wait = backoff.failed(Instant::now());
        let asked = if let Fault::RetryAfter(asked, _) = fault {
            Some(asked.mul_f64(1.0 + SPREAD * fastrand::f64()))
        } else {
            None
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => ControlFlow::Break(()),
            () = time::sleep(wait.max(asked.unwrap_or_default())) => ControlFlow::Continue(()),
            () = self.kick.wait(&self.links), if asked.is_none() => ControlFlow::Continue(()),
        }
    }
}

/// A number from 0 to 1, always the same for a name.
fn share_of(name: &str) -> f64 {
    f64::from(crc32fast::hash(name.as_bytes())) / f64::from(u32::MAX)
}

async fn last_call(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
    time::sleep(LAST).await;
}

/// What is there, up to the batch's limits, waiting for more as long as it says; urgent events go at once and alone.
/// Dropping the future loses at most what stands in the reader's memory: so nothing is taken out before the first await
/// after it is over.
async fn gather(
    reader: &mut Reader,
    limits: &Batch,
    urgent: u8,
    consumer: u32,
    name: &str,
) -> Result<Gathered, Refusal> {
    let (max, bytes) = (limits.max as usize, limits.bytes.map_or(Batch::BYTES, Size::bytes));
    let mut gathered = Gathered::default();
    let begun: Vec<(u16, u64)> = reader.positions().collect();
    let mut undo = Undo { reader, begun, armed: true };
    gathered.add(undo.reader.next(max, bytes).await?, consumer, name);
    gathered.urgent = gathered.events.first().is_some_and(|event| event.priority >= urgent);
    if gathered.urgent {
        undo.reader.only_from(urgent);
    }
    let deadline = time::Instant::now() + limits.wait.0;
    while gathered.events.len() < max && gathered.bytes < bytes {
        let (room, left) = (max - gathered.events.len(), bytes - gathered.bytes);
        let more = if limits.wait.0.is_zero() || gathered.events.last().is_some_and(|event| event.priority >= urgent) {
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
    gathered.begun = std::mem::take(&mut undo.begun);
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
    pub fn add(&mut self, lot: Lot, consumer: u32, name: &str) {
        let moved = self.moves.entry(lot.lane).or_insert(Move { consumer, lane: lot.lane, ..Move::default() });
        moved.to = lot.to;
        if let Some(stored) = lot.broken {
            moved.dead += lot.to - lot.from;
            self.dead.push(broken(name, lot.from, lot.to, stored));
        }
        self.bytes += lot.events.iter().map(|e| e.body.size() + e.meta.len()).sum::<usize>();
        self.events.extend(lot.events);
    }

    /// Puts back the last event if it is more than so many bytes: events are taken until they are enough, so that it is
    /// the last that is too much.
    fn cut(&mut self, reader: &mut Reader, bytes: usize) {
        let Some(event) = self.events.pop_if(|_| self.bytes > bytes) else { return };
        self.bytes -= event.body.size() + event.meta.len();
        if let Some(moved) = self.moves.get_mut(&event.lane) {
            moved.to = event.seq;
        }
        reader.rewind(event.lane, event.seq);
    }

    /// Counts dead letters and expired events towards the lane that each came from.
    fn bury(&mut self, dead: Vec<(u16, Dead)>, expired: &[usize]) {
        for event in expired.iter().filter_map(|at| self.events.get(*at)) {
            if let Some(moved) = self.moves.get_mut(&event.lane) {
                moved.expired += 1;
            }
        }
        for (lane, letter) in dead {
            if let Some(moved) = self.moves.get_mut(&lane) {
                moved.dead += 1;
            }
            self.dead.push(letter);
        }
    }
}
