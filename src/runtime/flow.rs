//! Events straight through: pipelines and sinks without a store, for `run --stateless`, `process` and `test`.

use super::{
    around::{Around, StandIn},
    chain::{Chain, Effect, Patience, Run, Unfinished},
    parts::in_order,
    time::Time,
};
use crate::{
    clock,
    config::{OnFail, PipelinePlan, SinkPlan},
    event::{
        Batch, Event,
        batch::{Place, Records},
    },
    fault::Fault,
    kind::{Before, Memory, Process, Sink},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex, watch},
    time,
};

/// All pipelines and sinks of a configuration. What processes remember is gone with it.
pub struct Flow {
    /// In an order in which none comes before one that it reads.
    stages: Vec<Stage>,
    drains: Vec<Drain>,
    time: Time,
    store: u64,
    seq: AtomicU64,
}

/// A chain with what its processes remember; without any, events need not wait for each other.
struct Stage {
    chain: Chain,
    memory: Mutex<Memory>,
}

/// A sink with what it reads; one delivery at a time.
struct Drain {
    name: String,
    from: Vec<String>,
    sink: Mutex<Box<dyn Sink>>,
}

impl Flow {
    /// Pipelines and sinks by the steady clock.
    pub fn new(pipelines: Vec<PipelinePlan<dyn Process>>, sinks: Vec<SinkPlan<dyn Sink>>) -> Flow {
        Flow::by(Time::Steady, None, pipelines, sinks)
    }

    /// Pipelines by a clock that stands at `now`, in milliseconds since 1970, until [`Flow::advance`], and with a stand-in
    /// for what is outside.
    pub fn still(now: i64, pipelines: Vec<PipelinePlan<dyn Process>>, stand_in: StandIn) -> Flow {
        Flow::by(Time::Still(Arc::new(AtomicI64::new(now))), Some(Arc::new(stand_in)), pipelines, Vec::new())
    }

    fn by(
        time: Time,
        stand_in: Option<Arc<StandIn>>,
        pipelines: Vec<PipelinePlan<dyn Process>>,
        sinks: Vec<SinkPlan<dyn Sink>>,
    ) -> Flow {
        let around = Around::alone(time.clone(), stand_in);
        let chains = pipelines.into_iter().flat_map(|plan| Chain::parts(plan, &around));
        let stage = |chain: Chain| Stage { memory: Mutex::new(chain.memory()), chain };
        let drain =
            |s: SinkPlan<_>| Drain { name: format!("sinks.{}", s.name), from: s.from, sink: Mutex::new(s.sink) };
        Flow {
            stages: in_order(chains.collect(), |chain| chain).into_iter().map(stage).collect(),
            drains: sinks.into_iter().map(drain).collect(),
            time,
            store: fastrand::u64(..),
            seq: AtomicU64::new(1),
        }
    }

    /// Runs an event through every pipeline that reads its topic, and on through those that read theirs. What reaches
    /// a topic is given to `reached`. The error names the pipeline and the process.
    pub async fn run(&self, event: Event, reached: impl FnMut(&Event)) -> Result<(), String> {
        self.pass_on(event, reached, Err).await
    }

    /// As `run`, and goes on where a pipeline fails; why, is given to `failed`.
    pub async fn run_all(&self, event: Event, reached: impl FnMut(&Event), mut failed: impl FnMut(String)) {
        let failed = |why| {
            failed(why);
            Ok(())
        };
        self.pass_on(event, reached, failed).await.ok();
    }

    async fn pass_on(
        &self,
        event: Event,
        mut reached: impl FnMut(&Event),
        mut failed: impl FnMut(String) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut waiting = VecDeque::from([event]);
        while let Some(event) = waiting.pop_front() {
            reached(&event);
            for stage in self.stages.iter().filter(|s| s.chain.from.iter().any(|t| **t == *event.topic)) {
                match stage.event(&event).await {
                    Ok(events) => waiting.extend(events),
                    Err(why) => failed(why)?,
                }
            }
        }
        Ok(())
    }

    /// Moves a clock that stands still, and fires the timers on the way.
    pub async fn advance(&self, by: Duration, reached: impl FnMut(&Event)) -> Result<(), String> {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.advance_to(self.time.now().saturating_add(by), reached).await
    }

    /// As that, to a time, in milliseconds since 1970. A clock that is later stays. After an error it may be called again.
    pub async fn advance_to(&self, to: i64, reached: impl FnMut(&Event)) -> Result<(), String> {
        self.fire(to, reached).await?;
        if let Time::Still(now) = &self.time {
            now.fetch_max(to, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fires the timers that are due until `to`, in order of time.
    async fn fire(&self, to: i64, mut reached: impl FnMut(&Event)) -> Result<(), String> {
        loop {
            let mut next: Option<(i64, &Stage)> = None;
            for stage in &self.stages {
                let due = stage.memory.lock().await.next_due();
                next = due.filter(|due| next.is_none_or(|(first, _)| *due < first)).map(|due| (due, stage)).or(next);
            }
            let Some((due, stage)) = next.filter(|(due, _)| *due <= to) else { return Ok(()) };
            if let Time::Still(now) = &self.time {
                now.fetch_max(due, Ordering::Relaxed);
            }
            for event in stage.timer(due).await? {
                self.run(event, &mut reached).await?;
            }
        }
    }

    /// Lets every process emit what it still holds, now that no more events come.
    pub async fn finish(&self, mut reached: impl FnMut(&Event)) -> Result<(), String> {
        for stage in &self.stages {
            for at in stage.chain.all() {
                for event in stage.finish(at).await? {
                    self.run(event, &mut reached).await?;
                }
            }
        }
        Ok(())
    }

    /// The events of a batch that no store has numbered.
    pub fn events(&self, topic: &Arc<str>, priority: u8, batch: &Batch) -> Vec<Event> {
        let data = Bytes::copy_from_slice(&batch.data);
        let place = Place { store: self.store, lane: 0, topic: topic.clone(), priority };
        let first = self.seq.fetch_add(u64::from(batch.count), Ordering::Relaxed);
        let mut records = Records::new(&data, &place, first);
        let stamp = match &self.time {
            Time::Steady => clock::stamp(),
            Time::Still(now) => clock::Stamp { wall_ms: now.load(Ordering::Relaxed), ..clock::stamp() },
        };
        std::iter::from_fn(|| records.next()).map(|event| Event { stamp, ..event }).collect()
    }
}

impl Stage {
    /// What becomes of an event: events with the topics they reach. The error names the pipeline and the process.
    async fn event(&self, event: &Event) -> Result<Vec<Event>, String> {
        let mut effect = Effect::default();
        let done = if self.chain.keeps_state {
            let mut memory = self.memory.lock().await;
            let mut run = Run::new(&mut memory, &mut effect, Patience::Answer);
            let done = self.chain.event(event.clone(), &mut run).await;
            memory.settle();
            done
        } else {
            let mut memory = Memory::default();
            let mut run = Run::new(&mut memory, &mut effect, Patience::Answer);
            match self.chain.may_wait {
                true => self.chain.event(event.clone(), &mut run).await,
                false => self.chain.plain_event(event.clone(), &mut run),
            }
        };
        self.ended(event, done, &mut effect)?;
        Ok(self.reached(effect))
    }

    async fn timer(&self, due: i64) -> Result<Vec<Event>, String> {
        let mut memory = self.memory.lock().await;
        let Some((at, timer)) = memory.take_due(due) else { return Ok(Vec::new()) };
        let mut effect = Effect::default();
        let mut run = Run::new(&mut memory, &mut effect, Patience::Answer);
        let events = self.chain.fire(at, timer, &mut run);
        self.rest(at + 1, events, &mut memory, effect).await
    }

    async fn finish(&self, at: usize) -> Result<Vec<Event>, String> {
        let (mut memory, mut effect) = (self.memory.lock().await, Effect::default());
        let mut run = Run::new(&mut memory, &mut effect, Patience::Answer);
        let events = self.chain.finish(at, &mut run);
        self.rest(at + 1, events, &mut memory, effect).await
    }

    /// Runs what a process emitted on its own through those after it.
    async fn rest(
        &self,
        from: usize,
        events: Vec<Event>,
        memory: &mut Memory,
        mut effect: Effect,
    ) -> Result<Vec<Event>, String> {
        for event in events {
            let mut run = Run::new(memory, &mut effect, Patience::Answer);
            let done = self.chain.run(from..self.chain.all().end, vec![event.clone()], &mut run).await;
            let done = done.map(|mut out| effect.out.append(&mut out));
            self.ended(&event, done, &mut effect)?;
        }
        memory.settle();
        Ok(self.reached(effect))
    }

    fn ended(&self, event: &Event, done: Result<(), Unfinished>, effect: &mut Effect) -> Result<(), String> {
        let Err(unfinished) = done else { return Ok(()) };
        let Unfinished::Failed(failure) = unfinished else { return Err(format!("{}: put off", self.chain.name)) };
        match &failure.on_fail {
            OnFail::Drop => {}
            OnFail::Topic(topic) => effect.sent.push((topic.as_str().into(), event.clone())),
            OnFail::Dead | OnFail::Continue => {
                return Err(format!("{}: {}: {}", self.chain.name, failure.process, failure.reason));
            }
        }
        Ok(())
    }

    fn reached(&self, effect: Effect) -> Vec<Event> {
        let own = effect.out.into_iter().map(|event| (self.chain.topic.clone(), event));
        own.chain(effect.sent).map(|(topic, event)| Event { topic, ..event }).collect()
    }
}

/// How often timers are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A sink whose connection needs care gets a moment now and then, as long as nobody delivers.
const CARE: u32 = 25;
const MOMENT: Duration = Duration::from_millis(50);

impl Flow {
    /// Keeps connections alive and timers running until the stop, then says goodbye.
    pub(super) async fn keep_alive(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut looked = 0;
        while time::timeout(LOOK, stop.wait_for(|stop| *stop)).await.is_err() {
            let mut by_topic: HashMap<Arc<str>, Vec<Event>> = HashMap::new();
            let reached = |e: &Event| by_topic.entry(e.topic.clone()).or_default().push(e.clone());
            let fired = self.fire(self.time.now(), reached).await;
            let delivered = match fired {
                Ok(()) => self.deliver(&by_topic).await,
                failed => failed,
            };
            if let Err(reason) = delivered {
                log::warn!("what a timer emitted is lost, since nothing is stored: {reason}");
            }
            looked = (looked + 1) % CARE;
            for drain in self.drains.iter().filter(|_| looked == 0) {
                if let Ok(mut sink) = drain.sink.try_lock() {
                    time::timeout(MOMENT, sink.idle()).await.ok();
                }
            }
        }
        for drain in &self.drains {
            drain.sink.lock().await.close().await;
        }
    }

    async fn deliver(&self, by_topic: &HashMap<Arc<str>, Vec<Event>>) -> Result<(), String> {
        let mut by_sink: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
        for (at, drain) in self.drains.iter().enumerate() {
            for topic in &drain.from {
                by_sink.entry(at).or_default().extend(by_topic.get(topic.as_str()).into_iter().flatten().cloned());
            }
        }
        for (at, events) in by_sink.into_iter().filter(|(_, events)| !events.is_empty()) {
            let drain = &self.drains[at];
            let mut sink = drain.sink.lock().await;
            let delivered = match sink.deliver(&events).await {
                // A connection that went stale while nobody delivered is made anew once.
                Err(Fault::Retry(_)) => sink.deliver(&events).await,
                done => done,
            };
            delivered.map_err(|fault| format!("{}: {fault}", drain.name))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Before for Flow {
    async fn pass(&self, topic: &Arc<str>, priority: u8, batch: &Batch) -> Result<(), String> {
        let mut by_topic: HashMap<Arc<str>, Vec<Event>> = HashMap::new();
        for event in self.events(topic, priority, batch) {
            self.run(event, |e| by_topic.entry(e.topic.clone()).or_default().push(e.clone())).await?;
        }
        self.deliver(&by_topic).await
    }
}
