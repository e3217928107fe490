//! Starts what a configuration says, keeps it running, and stops it in the order of flow.

mod ahead;
mod allowance;
mod backoff;
mod chain;
mod flow;
mod gate;
mod governor;
mod kick;
mod late;
mod links;
mod memory;
mod meter;
mod notify;
mod offload;
mod pace;
mod pipeline;
mod sink;
#[cfg(test)]
mod sink_tests;
mod source;
mod status;
mod step;
mod suspect;
mod tap;
#[cfg(test)]
mod tests;
mod time;
mod window;
mod windows;

pub use chain::StandIn;
pub use flow::Flow;
pub use memory::Sum;
pub use meter::Counts;
pub use status::Running;
pub use tap::Passing;

use crate::{
    config::{self, Settings, SinkPlan, SourcePlan, Start, WhenFull},
    event::Path,
    kind::{Before, Fields, Intake, Process, Sink, Source},
    store::{self, Keep, OpenError, Options, Policy, Refusal, Store, Window},
    systems::Systems,
};
use chain::{Around, Chain};
use links::Links;
use offload::Offload;
use sink::Outlet;
use status::View;
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use time::Time;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

/// A gateway ready to be started.
pub type Plan = config::Plan<dyn Source, dyn Process, dyn Sink>;

/// One pipeline of it.
pub type Pipeline = config::PipelinePlan<dyn Process>;

/// Pipelines may finish their step, and sinks their delivery, this long after the stop is signalled.
const STOP: Duration = Duration::from_secs(8);
/// How often a gateway whose sources have all ended looks whether everything is delivered.
const DRAINED: Duration = Duration::from_millis(50);

/// How long a disk that is full at the start is waited for before the next attempt.
const LATER: Duration = Duration::from_secs(1);

/// Why a gateway has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to, or all is done.
    Done,
    /// Its configuration is to be read again.
    Reload,
}

/// Runs the gateway until SIGTERM, SIGINT, or until all sources have ended and everything is delivered; or until SIGHUP,
/// if `reload` says that there is a right configuration. `face` runs beside it, for operators. With `stateless` nothing is stored: a source's events go
/// through pipelines and sinks before it is answered. An error means exit code 1.
pub async fn run<F: Future<Output = ()> + Send + 'static>(
    plan: Plan,
    stateless: bool,
    reload: impl Fn() -> bool,
    face: impl FnOnce(Running) -> F,
) -> anyhow::Result<End> {
    let (mut plan, mut signals) = (plan, Signals::new()?);
    let sum = Sum::of(&plan).map_err(|why| anyhow::anyhow!("gateway.memory: {why}"))?;
    sum.fill_in(&mut plan);
    let store = tokio::select! {
        store = open(&plan, &sum, stateless) => store?,
        end = signals.next(|| {}, &reload) => return Ok(end),
    };
    let links = Links::default();
    let (fatal, mut failures) = mpsc::channel(1);
    let (stop, stopping) = watch::channel(false);
    let bounded = plan.sources.iter().all(|s| s.source.bounded());
    let fields = plan.sources.iter().map(fields).collect::<anyhow::Result<Vec<_>>>()?;

    let sources = plan.sources.iter().map(|source| source.name.clone()).collect();
    let (mut outlets, mut pipelines) = (JoinSet::new(), JoinSet::new());
    let (mut meters, mut finishers, mut beats) = (Vec::new(), Vec::new(), Vec::new());
    let before: Option<Arc<dyn Before>> = if stateless {
        let flow = Arc::new(Flow::new(plan.pipelines, plan.sinks));
        outlets.spawn(flow.clone().keep_alive(stopping.clone()));
        Some(flow)
    } else {
        if let Some(offload) = offload(&plan.settings, &plan.systems, &store, &links)? {
            outlets.spawn(quiet_end(offload.run(), stopping.clone()));
        }
        start_sinks(plan.sinks, &plan.settings.gateway.id, &store, &links, &fatal, &stopping, &mut outlets).await?;
        let around = Around { time: Time::Steady, links: links.clone(), lot: sum.lot, stand_in: None };
        let chains = in_order(plan.pipelines.into_iter().flat_map(|p| Chain::parts(p, &around)).collect());
        meters.extend(chains.iter().map(|chain| (chain.name.clone(), chain.meters().cloned().collect())));
        beats.extend(chains.iter().map(|chain| (chain.name.clone(), chain.beat.clone())));
        let owners: Vec<String> =
            chains.iter().flat_map(|c| c.memory().owners().map(str::to_owned).collect::<Vec<_>>()).collect();
        finishers = start_pipelines(chains, &store, &stopping, &mut pipelines).await?;
        warn_of_strangers(&store, &owners).await?;
        None
    };
    let (gateway, since) = (plan.settings.gateway.id, Instant::now());
    let view = View { gateway, store: store.clone(), links: links.clone(), sources, meters, beats, since };
    let view = Running::of(view);
    let mut sources = start_sources(plan.sources.into_iter().zip(fields), &store, &before, &links, &fatal);
    start_faces(&view, face, &stopping, &mut outlets);
    log::info!("running");
    notify::ready();
    let ended = tokio::select! {
        end = signals.next(|| view.report(), reload) => Ok(end),
        Some(failure) = failures.recv() => Err(anyhow::anyhow!(failure)),
        ended = sources_ended(&mut sources, &store, &finishers, bounded) => ended.map(|()| End::Done),
        // A defect: what killed it is looked for at the next start, so this is no orderly end.
        failure = panicked(&mut pipelines) => return Err(failure),
        failure = panicked(&mut outlets) => return Err(failure),
    };
    match &ended {
        Ok(End::Reload) => notify::reloading(),
        _ => notify::stopping(),
    }
    log::info!("stopping");
    tokio::select! {
        _ = tokio::time::timeout(STOP, stop_in_order(sources, stop, pipelines, outlets)) => {}
        _ = signals.next(|| {}, || false) => log::warn!("second signal: not waiting for deliveries in progress"),
    }
    store.close().await;
    if !stateless {
        view.report_processes();
        log::info!("stopped: {}", view.summary());
    }
    ended
}

/// Starts what looks on: the operators' face, the lines for a person at a terminal, and what systemd is told.
fn start_faces<F: Future<Output = ()> + Send + 'static>(
    view: &Running,
    face: impl FnOnce(Running) -> F,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(quiet_end(face(view.clone()), stop.clone()));
    tasks.spawn(quiet_end(status::tell_repeats(), stop.clone()));
    if std::io::stderr().is_terminal() {
        tasks.spawn(quiet_end(view.clone().print(), stop.clone()));
    }
    if notify::listened_to() {
        tasks.spawn(quiet_end(notify::keep_telling(view.clone()), stop.clone()));
    }
}

async fn stop_in_order(
    mut sources: JoinSet<()>,
    stop: watch::Sender<bool>,
    mut pipelines: JoinSet<()>,
    mut outlets: JoinSet<()>,
) {
    sources.shutdown().await;
    stop.send_replace(true);
    while pipelines.join_next().await.is_some() {}
    while outlets.join_next().await.is_some() {}
}

async fn quiet_end(work: impl Future<Output = ()>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Until every source has ended and, if that is their nature, every consumer is done with everything. Then each pipeline,
/// in the order of flow, emits what its processes still hold.
async fn sources_ended(
    sources: &mut JoinSet<()>,
    store: &Store,
    finishers: &[mpsc::Sender<oneshot::Sender<()>>],
    bounded: bool,
) -> anyhow::Result<()> {
    while let Some(ended) = sources.join_next().await {
        ended?;
    }
    if !bounded {
        std::future::pending::<()>().await;
    }
    drained(store).await;
    for finisher in finishers {
        let (done, finished) = oneshot::channel();
        if finisher.send(done).await.is_ok() {
            finished.await.ok();
        }
        drained(store).await;
    }
    Ok(())
}

/// Until every consumer of this configuration is done with everything.
async fn drained(store: &Store) {
    let known = store.registered();
    while store
        .ledger()
        .iter()
        .any(|row| row.queued + row.offloaded > 0 && is_ours(&row.consumer) && known.contains(&row.consumer))
    {
        tokio::time::sleep(DRAINED).await;
    }
}

/// Chains in an order in which none comes before one whose events it reads.
fn in_order(mut chains: Vec<Chain>) -> Vec<Chain> {
    let mut ordered = Vec::new();
    while !chains.is_empty() {
        let feeds = |from: &Chain, to: &Chain| {
            from.name != to.name && to.from.iter().any(|topic| **topic == *from.topic || from.writes.contains(topic))
        };
        // The configuration has no circles; a chain that writes what only its own later part reads is no reason to wait.
        let first = chains.iter().position(|to| !chains.iter().any(|from| feeds(from, to)));
        ordered.push(chains.remove(first.unwrap_or(0)));
    }
    ordered
}

/// Until a task panics, which is a defect: the gateway ends and is started again, as after a crash.
async fn panicked(tasks: &mut JoinSet<()>) -> anyhow::Error {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error.into(),
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

fn is_ours(consumer: &str) -> bool {
    consumer.starts_with("pipelines.") || consumer.starts_with("sinks.")
}

/// Opens the store. A disk that is full or read-only is waited for.
async fn open(plan: &Plan, sum: &Sum, stateless: bool) -> anyhow::Result<Store> {
    let pools = sum.pools(plan.settings.gateway.memory.is_some());
    let Sum { waiting, tails, .. } = *sum;
    let options = Options { waiting, tails, pools, ..options(&plan.settings, stateless) };
    let place = options.path.as_ref().map_or_else(|| "memory".into(), |p| p.display().to_string());
    let mut waits = false;
    loop {
        match Store::open(options.clone()) {
            Err(OpenError::Later(why)) => {
                if !std::mem::replace(&mut waits, true) {
                    log::error!("store `{place}`: {why}; waiting until it can be opened");
                }
                notify::waiting();
            }
            opened => return opened.map_err(|error| anyhow::anyhow!("store `{place}`: {error}")),
        }
        tokio::time::sleep(LATER).await;
    }
}

/// Registers a consumer; a disk on which it cannot be written down is waited for.
async fn register(store: &Store, name: &str, topics: &[Arc<str>], start: Start) -> anyhow::Result<u32> {
    let mut waits = false;
    loop {
        match store.consumer(name, topics, start_of(start)).await {
            Err(Refusal::Full | Refusal::Failed(_)) => {
                if !std::mem::replace(&mut waits, true) {
                    log::error!("{name}: it is new, and the disk does not take it; waiting");
                }
                notify::waiting();
            }
            registered => return Ok(registered?),
        }
        tokio::time::sleep(LATER).await;
    }
}

/// How the store of a configuration is opened.
pub fn options(settings: &Settings, stateless: bool) -> Options {
    let path = (!stateless).then(|| PathBuf::from(&settings.store.path));
    let keep = |t: &config::TopicSettings| Keep { age: t.keep.age.map(|s| s.0), bytes: t.keep.bytes.map(|s| s.0) };
    let (dedupe, disk) = (&settings.store.dedupe, &settings.store.disk);
    Options {
        path,
        high: disk.high.0,
        low: disk.low().0,
        soft: disk.soft.map(|s| s.0),
        critical: disk.critical.map(|s| s.0),
        events: disk.events.as_ref().map(|events| (events.high, events.low())),
        free: disk.free.map(|s| s.0),
        endurance: disk.endurance.map(|s| s.0),
        when_full: policy(&disk.when_full),
        policies: settings
            .topics
            .iter()
            .filter_map(|(name, t)| Some((name.clone(), policy(t.when_full.as_ref()?))))
            .collect(),
        window: Window {
            ms: i64::try_from(dedupe.window.0.as_millis()).unwrap_or(i64::MAX),
            ids: usize::try_from(dedupe.ids).unwrap_or(usize::MAX),
        },
        keep: settings.topics.iter().map(|(name, topic)| (name.clone(), keep(topic))).collect(),
        ttl: settings.topics.iter().filter_map(|(name, topic)| Some((name.clone(), topic.ttl?.0))).collect(),
        ..Options::default()
    }
}

fn policy(when_full: &WhenFull) -> Policy {
    match when_full {
        WhenFull::Reject => Policy::Reject,
        WhenFull::DropOldest => Policy::DropOldest,
        WhenFull::DropNewest => Policy::DropNewest,
        WhenFull::Sample(n) => Policy::Sample(*n),
        WhenFull::Offload => Policy::Offload,
    }
}

/// What carries events to an object store and back, if there is one.
fn offload(settings: &Settings, systems: &Systems, store: &Store, links: &Links) -> anyhow::Result<Option<Offload>> {
    let Some(to) = &settings.store.disk.offload else { return Ok(None) };
    let objects = systems.objects(&to.to).map_err(|e| anyhow::anyhow!("store.disk.offload.to: {e}"))?;
    Ok(Some(Offload::new(store.clone(), objects, links.clone(), &to.prefix, &settings.gateway.id)))
}

fn fields(source: &SourcePlan<dyn Source>) -> anyhow::Result<Fields> {
    let path = |text: &Option<String>| {
        text.as_deref().map(str::parse::<Path>).transpose().map_err(|e| anyhow::anyhow!("sources.{}: {e}", source.name))
    };
    let common = &source.common;
    Ok(Fields {
        id: path(&common.id)?,
        time: path(&common.time)?,
        key: path(&common.key)?,
        ttl: path(&common.ttl)?,
        priority: common.priority,
        max_event: common.max_event.bytes(),
    })
}

fn names(topics: &[String]) -> Vec<Arc<str>> {
    topics.iter().map(|t| Arc::from(t.as_str())).collect()
}

fn start_of(start: Start) -> store::Start {
    match start {
        Start::Oldest => store::Start::Oldest,
        Start::Newest => store::Start::Newest,
    }
}

async fn start_sinks(
    sinks: Vec<SinkPlan<dyn Sink>>,
    gateway: &str,
    store: &Store,
    links: &Links,
    fatal: &mpsc::Sender<String>,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    for plan in sinks {
        let outlet = Outlet::open(plan, gateway, store, links, fatal).await?;
        tasks.spawn(outlet.run(stop.clone()));
    }
    Ok(())
}

/// Starts sources, each with what the configuration says about its events.
fn start_sources(
    plans: impl Iterator<Item = (SourcePlan<dyn Source>, Fields)>,
    store: &Store,
    before: &Option<Arc<dyn Before>>,
    links: &Links,
    fatal: &mpsc::Sender<String>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (plan, fields) in plans {
        let intake = Intake::new(&plan.name, fields, store.clone(), before.clone());
        let name = format!("sources.{}", plan.name);
        tasks.spawn(source::run(name, plan.source, intake, links.clone(), fatal.clone()));
    }
    tasks
}

/// Starts chains with what they remembered; what is given back asks each to emit what it holds.
async fn start_pipelines(
    chains: Vec<Chain>,
    store: &Store,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Vec<mpsc::Sender<oneshot::Sender<()>>>> {
    // All are known before the first one writes: the store does not keep what nobody reads.
    let mut consumers = Vec::new();
    for chain in &chains {
        consumers.push(register(store, &chain.name, &names(&chain.from), chain.start).await?);
    }
    let mut finishers = Vec::new();
    for (chain, consumer) in chains.into_iter().zip(consumers) {
        let mut memory = chain.memory();
        let owners: Vec<String> = memory.owners().map(str::to_owned).collect();
        for (at, owner) in owners.iter().enumerate() {
            memory.load(at, store.state(owner, b"", usize::MAX).await?, store.timers(owner, usize::MAX).await?);
        }
        let (finisher, ending) = mpsc::channel(1);
        let reader = store.reader(consumer, &names(&chain.from));
        let (chain, store) = (Arc::new(chain), store.clone());
        let pipeline = pipeline::Pipeline { chain, consumer, reader, store, memory, ending, suspects: None };
        tasks.spawn(pipeline.run(stop.clone()));
        finishers.push(finisher);
    }
    Ok(finishers)
}

/// What the configuration no longer names keeps what it has not passed, and what it remembers: a renamed sink must not
/// lose its queue in silence, nor a renamed process its figures.
async fn warn_of_strangers(store: &Store, owners: &[String]) -> anyhow::Result<()> {
    let mut queued: BTreeMap<String, u64> = BTreeMap::new();
    let known = store.registered();
    for row in store.ledger().into_iter().filter(|r| is_ours(&r.consumer) && !known.contains(&r.consumer)) {
        *queued.entry(row.consumer).or_default() += row.queued;
    }
    for (consumer, queued) in queued {
        log::warn!("`{consumer}` is not in the configuration any more; the store keeps its {queued} events for it");
    }
    for (owner, values) in store.owners("pipelines.").await? {
        if !owners.contains(&owner) {
            log::warn!(
                "`{owner}` is not in the configuration any more; the store keeps the {values} values it remembers"
            );
        }
    }
    Ok(())
}

/// SIGTERM and SIGINT, SIGHUP for another configuration, and SIGUSR1 for a report.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    report: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    /// Until it is time to stop, and why.
    async fn next(&mut self, report: impl Fn(), reload: impl Fn() -> bool) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Done,
                _ = self.interrupt.recv() => return End::Done,
                _ = self.reload.recv() => if reload() {
                    return End::Reload;
                },
                _ = self.report.recv() => report(),
            }
        }
    }
}
