//! Starts what a configuration says, keeps it running, and stops it in the order of flow.

mod backoff;
mod chain;
mod flow;
mod links;
mod pipeline;
mod sink;
mod source;
mod status;

pub use flow::Flow;

use crate::{
    config::{self, SinkPlan, SourcePlan, Start},
    event::Path,
    kind::{Before, Fields, Intake, Process, Sink, Source},
    store::{self, Keep, Options, Store, Window},
};
use chain::Chain;
use links::Links;
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
    time,
};

/// A gateway ready to be started.
pub type Plan = config::Plan<dyn Source, dyn Process, dyn Sink>;

/// Pipelines may finish their step, and sinks their delivery, this long after the stop is signalled.
const STOP: Duration = Duration::from_secs(8);
/// How often a gateway whose sources have all ended looks whether everything is delivered.
const DRAINED: Duration = Duration::from_millis(50);

/// Runs the gateway until SIGTERM, SIGINT, or until all sources have ended and everything is delivered. With
/// `stateless` nothing is stored: a source's events go through pipelines and sinks before it is answered.
/// An error means exit code 1.
pub async fn run(plan: Plan, stateless: bool) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let store = open(&plan, stateless)?;
    let links = Links::default();
    let (fatal, mut failures) = mpsc::channel(1);
    let (stop, stopping) = watch::channel(false);
    let bounded = plan.sources.iter().all(|s| s.source.bounded());
    let fields = plan.sources.iter().map(fields).collect::<anyhow::Result<Vec<_>>>()?;

    let mut outlets = JoinSet::new();
    let mut pipelines = JoinSet::new();
    let before: Option<Arc<dyn Before>> = if stateless {
        let flow = Arc::new(flow(plan.pipelines, plan.sinks));
        outlets.spawn(flow.clone().keep_alive(stopping.clone()));
        Some(flow)
    } else {
        start_sinks(plan.sinks, &store, &links, &fatal, &stopping, &mut outlets).await?;
        start_pipelines(plan.pipelines, &store, &links, &stopping, &mut pipelines).await?;
        warn_of_strangers(&store);
        None
    };
    let mut sources = JoinSet::new();
    for (source, fields) in plan.sources.into_iter().zip(fields) {
        let intake = Intake::new(&source.name, fields, store.clone(), before.clone());
        let name = format!("sources.{}", source.name);
        sources.spawn(source::run(name, source.source, intake, links.clone(), fatal.clone()));
    }
    if std::io::stderr().is_terminal() {
        outlets.spawn(quiet_end(status::print(store.clone(), links.clone()), stopping.clone()));
    }
    log::info!("running");
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        Some(failure) = failures.recv() => Err(anyhow::anyhow!(failure)),
        ended = sources_ended(&mut sources, &store, bounded) => ended,
        failure = panicked(&mut pipelines) => Err(failure),
        failure = panicked(&mut outlets) => Err(failure),
    };
    log::info!("stopping");
    let orderly = async {
        sources.shutdown().await;
        stop.send_replace(true);
        while pipelines.join_next().await.is_some() {}
        while outlets.join_next().await.is_some() {}
    };
    tokio::select! {
        _ = time::timeout(STOP, orderly) => {}
        () = signals.next() => log::warn!("second signal: not waiting for deliveries in progress"),
    }
    store.close().await;
    if !stateless {
        log::info!("stopped: {}", status::summary(&store, &links));
    }
    ended
}

async fn quiet_end(work: impl Future<Output = ()>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Until every source has ended and, if that is their nature, every consumer is done with everything.
async fn sources_ended(sources: &mut JoinSet<()>, store: &Store, bounded: bool) -> anyhow::Result<()> {
    while let Some(ended) = sources.join_next().await {
        ended?;
    }
    if !bounded {
        std::future::pending::<()>().await;
    }
    while store.ledger().iter().any(|row| row.queued > 0 && is_ours(&row.consumer)) {
        time::sleep(DRAINED).await;
    }
    Ok(())
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

fn open(plan: &Plan, stateless: bool) -> anyhow::Result<Store> {
    let settings = &plan.settings;
    let path = (!stateless).then(|| PathBuf::from(&settings.store.path));
    let keep = |t: &config::TopicSettings| Keep { age: t.keep.age.map(|s| s.0), bytes: t.keep.bytes.map(|s| s.0) };
    let dedupe = &settings.store.dedupe;
    let options = Options {
        path: path.clone(),
        high: settings.store.disk.high.0,
        low: settings.store.disk.low().0,
        window: Window {
            ms: i64::try_from(dedupe.window.0.as_millis()).unwrap_or(i64::MAX),
            ids: usize::try_from(dedupe.ids).unwrap_or(usize::MAX),
        },
        keep: settings.topics.iter().map(|(name, topic)| (name.clone(), keep(topic))).collect(),
        ..Options::default()
    };
    let place = path.map_or_else(|| "memory".into(), |p| p.display().to_string());
    Store::open(options).map_err(|error| anyhow::anyhow!("store `{place}`: {error}"))
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
        priority: common.priority,
        max_event: common.max_event.bytes(),
    })
}

/// Pipelines and sinks without a store.
pub fn flow(pipelines: Vec<config::PipelinePlan<dyn Process>>, sinks: Vec<SinkPlan<dyn Sink>>) -> Flow {
    let stages = pipelines
        .into_iter()
        .map(|p| flow::Stage { from: p.from, chain: Chain::new(&p.name, p.processes, &p.on_fail) })
        .collect();
    let drains = sinks
        .into_iter()
        .map(|s| flow::Drain { name: format!("sinks.{}", s.name), from: s.from, sink: Mutex::new(s.sink) })
        .collect();
    Flow { stages, drains, store: fastrand::u64(..), seq: AtomicU64::new(1) }
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
    store: &Store,
    links: &Links,
    fatal: &mpsc::Sender<String>,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    for plan in sinks {
        let (name, topics) = (format!("sinks.{}", plan.name), names(&plan.from));
        let consumer = store.consumer(&name, &topics, start_of(plan.common.start)).await?;
        let outlet = sink::Outlet {
            name,
            sink: plan.sink,
            common: plan.common,
            consumer,
            reader: store.reader(consumer, &topics),
            store: store.clone(),
            links: links.clone(),
            fatal: fatal.clone(),
        };
        tasks.spawn(outlet.run(stop.clone()));
    }
    Ok(())
}

async fn start_pipelines(
    pipelines: Vec<config::PipelinePlan<dyn Process>>,
    store: &Store,
    links: &Links,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    for plan in pipelines {
        let (name, topics) = (format!("pipelines.{}", plan.name), names(&plan.from));
        let consumer = store.consumer(&name, &topics, start_of(plan.start)).await?;
        let pipeline = pipeline::Pipeline {
            name,
            chain: Chain::new(&plan.name, plan.processes, &plan.on_fail),
            links: links.clone(),
            consumer,
            reader: store.reader(consumer, &topics),
            store: store.clone(),
        };
        tasks.spawn(pipeline.run(stop.clone()));
    }
    Ok(())
}

/// Consumers that the configuration no longer names keep what they have not passed: a renamed sink must not lose its
/// queue in silence.
fn warn_of_strangers(store: &Store) {
    let mut queued: BTreeMap<String, u64> = BTreeMap::new();
    let known = store.registered();
    for row in store.ledger().into_iter().filter(|r| is_ours(&r.consumer) && !known.contains(&r.consumer)) {
        *queued.entry(row.consumer).or_default() += row.queued;
    }
    for (consumer, queued) in queued {
        log::warn!("`{consumer}` is not in the configuration any more; the store keeps its {queued} events for it");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
