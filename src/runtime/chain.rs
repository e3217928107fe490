//! A pipeline's processes, one after another, over one event.

use super::{around::Around, meter::Meter, notify::Beat, watched::Watched};
use crate::{
    budget::Size,
    config::{Attempts, OnFail, PipelinePlan, PipelineSettings, ProcessPlan, Start},
    event::Event,
    expr::Expr,
    fault::Fault,
    kind::{Cx, Memory, Process, Timer, side_topic},
};
use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// The kind that cuts a pipeline in two.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// The processes of one pipeline, or of the part of one between two checkpoints.
pub(super) struct Chain {
    /// The consumer: `pipelines.NAME`; behind a checkpoint `pipelines.NAME/CHECKPOINT`.
    pub name: String,
    /// The topics it reads.
    pub from: Vec<String>,
    /// The topic of its output: the pipeline's name, or what leads to its next part.
    pub topic: Arc<str>,
    /// Other topics that the pipeline writes.
    pub writes: Vec<String>,
    /// Where it begins if it has never run before.
    pub start: Start,
    /// As configured; `from` and `start` are only the first part's.
    pub settings: Arc<PipelineSettings>,
    pub around: Around,
    /// Since when it works without a pause, if it never waits.
    pub beat: Beat,
    /// Whether an event may have to wait on its way.
    pub may_wait: bool,
    /// Whether any process remembers something, so that events are done one by one.
    pub keeps_state: bool,
    /// Whether every event is to be committed before the next begins: one that has been outside and is then held up would
    /// have to go outside again, if it made way for a commit of those before it.
    pub alone: bool,
    pipeline: Arc<str>,
    stages: Vec<Stage>,
}

/// A process with what the runtime does around it.
struct Stage {
    process: Box<dyn Process>,
    kind: &'static str,
    when: Option<Expr>,
    retry: Attempts,
    on_fail: OnFail,
    meter: Arc<Meter>,
    /// `pipelines.NAME.PROCESS`
    link: String,
    /// Whether it has a part outside.
    outside: bool,
}

/// What an event turned into.
#[derive(Default)]
pub(super) struct Effect {
    /// Events for the chain's own topic.
    pub out: Vec<Event>,
    /// Events for other topics.
    pub sent: Vec<(Arc<str>, Event)>,
}

/// Why an event did not get through. It left no trace in the memory and the effect.
pub(super) enum Unfinished {
    /// A process gave it up.
    Failed(Failure),
    /// It has to wait, and what was done before it should not.
    Later,
}

/// Why an event did not get through one process.
enum Held {
    Unfinished(Unfinished),
    /// The process wants to see it after that time.
    Early(Duration, Box<Event>),
}

impl From<Unfinished> for Held {
    fn from(unfinished: Unfinished) -> Self {
        Held::Unfinished(unfinished)
    }
}

/// Which process gave up an event, why, and what is to happen now.
#[derive(Clone)]
pub(super) struct Failure {
    pub process: Arc<str>,
    pub reason: String,
    pub on_fail: OnFail,
}

/// How long an event may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as it takes.
    Endless,
    /// Only as long as the configuration says; not without limit: something that is done waits to be committed.
    Short,
    /// As `Short`, but then it is failed: who sent it waits for an answer.
    Answer,
}

/// What an event is run with.
pub(super) struct Run<'a> {
    pub memory: &'a mut Memory,
    pub effect: &'a mut Effect,
    pub patience: Patience,
    /// The time that processes are given.
    now: i64,
    /// Whether it is recorded what they do, and what there is to say of the present one.
    pub traced: bool,
    pub said: String,
}

impl Chain {
    /// The chain of a pipeline or, if it has checkpoints, those of its parts in the order of flow.
    pub fn parts(plan: PipelinePlan<dyn Process>, around: &Around) -> Vec<Chain> {
        let pipeline: Arc<str> = plan.name.as_str().into();
        let settings = Arc::new(plan.settings);
        let part = |name: &str, from: Vec<String>, start: Start| Chain {
            name: format!("pipelines.{name}"),
            from,
            topic: pipeline.clone(),
            writes: plan.writes.clone(),
            start,
            settings: settings.clone(),
            around: around.clone(),
            beat: Beat::default(),
            may_wait: false,
            keeps_state: false,
            alone: false,
            pipeline: pipeline.clone(),
            stages: Vec::new(),
        };
        let mut parts = Vec::new();
        let mut chain = part(&pipeline, settings.from.clone(), settings.start);
        for process in plan.processes {
            if process.kind == CHECKPOINT {
                let between = side_topic(&pipeline, &process.name);
                chain.topic = between.as_str().into();
                let behind = part(&between, vec![between.clone()], Start::Oldest);
                parts.push(std::mem::replace(&mut chain, behind));
            } else {
                chain.stages.push(Stage::new(&pipeline, process));
            }
        }
        parts.push(chain);
        for part in &mut parts {
            let outside = part.stages.iter().position(|stage| stage.outside);
            part.keeps_state = part.stages.iter().any(|stage| stage.process.keeps_state());
            part.may_wait = part.keeps_state || outside.is_some();
            part.alone = outside.is_some_and(|at| part.stages[at..].iter().any(|stage| stage.process.delays()));
        }
        parts
    }

    /// What its processes remember: nothing yet.
    pub fn memory(&self) -> Memory {
        let processes: Vec<_> = self.stages.iter().map(|stage| (&*stage.meter.name, stage.kind)).collect();
        Memory::new(&self.pipeline, &processes, self.settings.state.map_or(PipelineSettings::STATE, Size::bytes))
    }

    /// The counters of its processes.
    pub fn meters(&self) -> impl Iterator<Item = &Arc<Meter>> {
        self.stages.iter().map(|stage| &stage.meter)
    }

    /// Whether any process has a part outside.
    pub fn reaches_out(&self) -> bool {
        self.stages.iter().any(|stage| stage.outside)
    }

    pub fn all(&self) -> Range<usize> {
        0..self.stages.len()
    }

    /// How many of its first processes may run for several events at once: up to the last one that reaches outside,
    /// unless one before that remembers something, which must see the events one by one.
    pub fn side_by_side(&self) -> usize {
        let front = self.stages.iter().rposition(|s| s.outside).map_or(0, |last| last + 1);
        let stateless = self.stages[..front].iter().all(|s| !s.process.keeps_state());
        if self.settings.workers > 1 && stateless { front } else { 0 }
    }

    /// Runs events through some of the processes. What it changed is taken back if it does not get through.
    pub async fn run(
        &self,
        range: Range<usize>,
        mut events: Vec<Event>,
        run: &mut Run<'_>,
    ) -> Result<Vec<Event>, Unfinished> {
        let (savepoint, before) = (run.memory.savepoint(), run.effect.sent.len());
        run.now = self.around.time.now();
        run.traced = events.iter().any(|event| self.around.trace.wants(event));
        for at in range {
            if let Err(unfinished) = self.stage(at, &mut events, run).await {
                run.memory.rollback(savepoint);
                run.effect.sent.truncate(before);
                return Err(unfinished);
            }
        }
        Ok(events)
    }

    /// Runs one event through the whole chain.
    pub async fn event(&self, event: Event, run: &mut Run<'_>) -> Result<(), Unfinished> {
        let mut out = self.run(self.all(), vec![event], run).await?;
        run.effect.out.append(&mut out);
        Ok(())
    }

    /// As `event`, for a chain that never waits: a plain call, since moving events into futures costs as much as a process.
    pub fn plain_event(&self, event: Event, run: &mut Run<'_>) -> Result<(), Unfinished> {
        let (savepoint, before, made) = (run.memory.savepoint(), run.effect.sent.len(), run.effect.out.len());
        run.now = self.around.time.now();
        run.traced = self.around.trace.wants(&event);
        let done = self.plain_from(0, event, run);
        if done.is_err() {
            run.memory.rollback(savepoint);
            run.effect.sent.truncate(before);
            run.effect.out.truncate(made);
        }
        done
    }

    fn plain_from(&self, at: usize, event: Event, run: &mut Run<'_>) -> Result<(), Unfinished> {
        let Some(stage) = self.stages.get(at) else {
            run.effect.out.push(event);
            return Ok(());
        };
        let mut next = Vec::with_capacity(1);
        let watched = self.watch(stage, &event, 0, run);
        let done = stage.pass(at, event, &mut next, run).map_err(|held| match held {
            Held::Unfinished(unfinished) => unfinished,
            Held::Early(..) => Unfinished::Later, // a process that delays keeps state, so this chain may wait
        });
        if let Some(watched) = watched {
            watched.tell(&self.around.trace, &stage.link, &next, &done, run);
        }
        done?;
        next.into_iter().try_for_each(|event| self.plain_from(at + 1, event, run))
    }

    /// Runs events through one process.
    async fn stage(&self, at: usize, events: &mut Vec<Event>, run: &mut Run<'_>) -> Result<(), Unfinished> {
        let (stage, mut next) = (&self.stages[at], Vec::with_capacity(events.len()));
        for event in events.drain(..) {
            let watched = self.watch(stage, &event, next.len(), run);
            let mut held = match stage.outside {
                true => stage.reach(at, event, &mut next, run, self).await,
                false => stage.pass(at, event, &mut next, run),
            };
            let done = loop {
                let (wait, event) = match held {
                    Ok(()) => break Ok(()),
                    Err(Held::Unfinished(unfinished)) => break Err(unfinished),
                    Err(Held::Early(..)) if run.patience == Patience::Short => break Err(Unfinished::Later),
                    Err(Held::Early(wait, event)) => (wait, event),
                };
                self.around.time.wait(wait).await;
                run.now = self.around.time.now();
                held = stage.pass(at, *event, &mut next, run);
            };
            if let Some(watched) = watched {
                watched.tell(&self.around.trace, &stage.link, &next, &done, run);
            }
            done?;
        }
        *events = next;
        Ok(())
    }

    /// An event that is recorded, before a process has it.
    fn watch(&self, stage: &Stage, event: &Event, made: usize, run: &Run<'_>) -> Option<Watched> {
        let skips = || stage.when.as_ref().is_some_and(|when| when.test(event) == Ok(false));
        run.traced.then(|| Watched::new(event, skips(), made, run.effect.sent.len()))
    }

    /// Tells a process that a timer of its has come. Gives what it emitted, for the processes from `at + 1` on.
    pub fn fire(&self, at: usize, timer: Timer, run: &mut Run<'_>) -> Vec<Event> {
        self.call(at, run, |process, cx| process.timer(timer, cx))
    }

    /// Tells a process that no more events will come.
    pub fn finish(&self, at: usize, run: &mut Run<'_>) -> Vec<Event> {
        self.call(at, run, |process, cx| process.finish(cx))
    }

    fn call(
        &self,
        at: usize,
        run: &mut Run<'_>,
        call: impl FnOnce(&dyn Process, &mut Cx<'_>) -> Result<(), Fault>,
    ) -> Vec<Event> {
        let Some(stage) = self.stages.get(at) else { return Vec::new() };
        let (savepoint, before, mut out) = (run.memory.savepoint(), run.effect.sent.len(), Vec::new());
        run.now = self.around.time.now();
        if let Err(fault) = call(&*stage.process, &mut run.cx(at, &mut out)) {
            run.memory.rollback(savepoint);
            run.effect.sent.truncate(before);
            stage.meter.failed.fetch_add(1, Relaxed);
            log::warn!("{}: without an event: {fault}", stage.link);
            return Vec::new();
        }
        stage.meter.emitted.fetch_add(out.len() as u64, Relaxed);
        stage.meter.tap.pass(&out);
        out
    }
}

impl<'a> Run<'a> {
    pub fn new(memory: &'a mut Memory, effect: &'a mut Effect, patience: Patience) -> Self {
        Run { memory, effect, patience, now: 0, traced: false, said: String::new() }
    }

    fn cx<'b>(&'b mut self, at: usize, out: &'b mut Vec<Event>) -> Cx<'b> {
        Cx { now: self.now, out, sent: &mut self.effect.sent, memory: self.memory, at }
    }
}

impl Stage {
    fn new(pipeline: &str, plan: ProcessPlan<dyn Process>) -> Stage {
        Stage {
            link: format!("pipelines.{pipeline}.{}", plan.name),
            meter: Arc::new(Meter::new(&plan.name)),
            outside: plan.process.outside().is_some(),
            process: plan.process,
            kind: plan.kind,
            when: plan.when,
            retry: plan.retry,
            on_fail: plan.on_fail,
        }
    }

    /// Runs one event through and adds what goes on to `next`.
    fn pass(&self, at: usize, event: Event, next: &mut Vec<Event>, run: &mut Run<'_>) -> Result<(), Held> {
        let (begun, before) = (self.meter.begin(false), next.len());
        let done = match self.enter(event, next, run)? {
            Some(event) => self.work(at, event, next, run),
            None => Ok(()),
        };
        self.meter.end(begun);
        self.meter.tap.pass(&next[before..]);
        done
    }

    /// As `pass`, after what is to be done outside.
    async fn reach(
        &self,
        at: usize,
        event: Event,
        next: &mut Vec<Event>,
        run: &mut Run<'_>,
        chain: &Chain,
    ) -> Result<(), Held> {
        let (begun, before) = (self.meter.begin(true), next.len());
        let Some(event) = self.enter(event, next, run)? else {
            self.meter.tap.pass(&next[before..]);
            return Ok(());
        };
        let done = match self.attempts(event.clone(), run, chain).await {
            Ok(changed) => self.work(at, changed, next, run),
            Err(Some(fault)) => self.fail(fault, event, next, run).map_err(Held::from),
            Err(None) => Err(Unfinished::Later.into()),
        };
        self.meter.end(begun);
        self.meter.tap.pass(&next[before..]);
        done
    }

    /// Gives the event back if the process is to see it, by its `when`; else it goes on, ends here, or is failed.
    fn enter(&self, event: Event, next: &mut Vec<Event>, run: &mut Run<'_>) -> Result<Option<Event>, Unfinished> {
        match self.when.as_ref().map_or(Ok(true), |when| when.test(&event)) {
            Ok(true) => return Ok(Some(event)),
            Ok(false) => {
                self.meter.skipped.fetch_add(1, Relaxed);
                next.extend((!self.process.stops()).then_some(event));
            }
            Err(error) => self.fail(Fault::reject(format!("when: {error}")), event, next, run)?,
        }
        Ok(None)
    }

    /// What the process itself does.
    fn work(&self, at: usize, event: Event, next: &mut Vec<Event>, run: &mut Run<'_>) -> Result<(), Held> {
        let (savepoint, sent, made) = (run.memory.savepoint(), run.effect.sent.len(), next.len());
        let spare = (self.on_fail == OnFail::Continue || self.process.delays()).then(|| event.clone());
        let fault = match self.process.process(event, &mut run.cx(at, next)) {
            Ok(()) => {
                self.meter.emitted.fetch_add((next.len() - made) as u64, Relaxed);
                return Ok(());
            }
            Err(fault) => fault,
        };
        run.memory.rollback(savepoint);
        run.effect.sent.truncate(sent);
        next.truncate(made);
        match (fault, spare) {
            (Fault::RetryAfter(wait, _), Some(event)) if self.process.delays() => {
                Err(Held::Early(wait, Box::new(event)))
            }
            (fault, Some(event)) => Ok(self.fail(fault, event, next, run)?),
            (fault, None) => Err(self.failed(fault).into()),
        }
    }

    /// The event is failed, or goes on as it came.
    fn fail(&self, fault: Fault, event: Event, next: &mut Vec<Event>, run: &mut Run<'_>) -> Result<(), Unfinished> {
        if self.on_fail == OnFail::Continue && run.traced {
            run.said = format!("failed and went on as it came: {fault}");
        }
        let failed = self.failed(fault);
        if self.on_fail != OnFail::Continue {
            return Err(failed);
        }
        self.meter.emitted.fetch_add(1, Relaxed);
        next.push(event);
        Ok(())
    }

    /// Does what is outside, again and again as configured. Gives the event as it is then, or the fault; without one, it is
    /// to be done later.
    async fn attempts(&self, mut event: Event, run: &mut Run<'_>, chain: &Chain) -> Result<Event, Option<Fault>> {
        let Some(outside) = self.process.outside() else { return Ok(event) };
        if let Some(stand_in) = &chain.around.stand_in
            && stand_in.answer(&self.meter.name, &mut event)?
        {
            return Ok(event);
        }
        let (patience, mut wait, mut tries) = (run.patience, self.retry.initial.0, 0);
        loop {
            let fault = match outside.reach(&mut event).await {
                Ok(()) => {
                    chain.around.links.up(&self.link);
                    return Ok(event);
                }
                Err(fault) => fault,
            };
            let again = match (self.retry.count, &fault) {
                (Some(count), _) => tries < count,
                (None, Fault::Retry(_) | Fault::RetryAfter(..)) => patience != Patience::Answer,
                (None, Fault::Reject(_) | Fault::Fatal(_)) => false,
            };
            if !again {
                return Err(Some(fault));
            }
            tries += 1;
            if run.traced {
                run.said = format!("tried {} times, at first: {fault}", tries + 1);
            }
            self.meter.retried.fetch_add(1, Relaxed);
            chain.around.links.down(&self.link, &fault.to_string());
            if self.retry.count.is_none() && patience == Patience::Short {
                return Err(None);
            }
            let asked = if let Fault::RetryAfter(asked, _) = fault { asked } else { Duration::ZERO };
            chain.around.time.wait(wait.max(asked.min(self.retry.max.0))).await;
            wait = wait.mul_f64(self.retry.factor).min(self.retry.max.0);
        }
    }

    fn failed(&self, fault: Fault) -> Unfinished {
        self.meter.failed.fetch_add(1, Relaxed);
        Unfinished::Failed(Failure {
            process: self.meter.name.clone(),
            reason: fault.to_string(),
            on_fail: self.on_fail.clone(),
        })
    }
}
