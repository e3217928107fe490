//! Starts what a configuration says, keeps it running, and stops it in the order of flow.

mod ahead;
mod allowance;
mod around;
mod backoff;
mod chain;
mod flow;
mod fresh;
mod gate;
mod governor;
mod kick;
mod late;
mod links;
mod memory;
mod meter;
mod notify;
mod offload;
#[cfg(test)]
mod offload_tests;
mod options;
mod order;
mod otlp;
mod pace;
mod parts;
mod pipeline;
mod reload;
#[cfg(test)]
mod reload_tests;
mod sink;
#[cfg(test)]
mod sink_tests;
mod source;
mod status;
mod step;
mod strangers;
mod suspect;
mod tap;
#[cfg(test)]
mod tests;
mod time;
mod trial;
mod versions;
mod watched;
mod window;
mod windows;

pub use ahead::sent_ahead;
pub use around::StandIn;
pub use flow::Flow;
pub use memory::Sum;
pub use meter::Counts;
pub use options::options;
pub use order::{Changed, Denied, Order, Origin, Origins};
pub use status::Running;
pub use strangers::session_of;
pub use tap::Passing;
pub use versions::{State, Version, Versions, at_start};

use crate::{
    config::{self, Before, Settings, SourcePlan, Start},
    event::Path,
    kind::{self, Fields, Process, Sink, Source},
    store::{self, OpenError, Store},
};
use links::Links;
use otlp::Exporter;
use parts::Parts;
use reload::{Live, Next, store_options};
use status::View;
use std::{
    future::pending,
    io::IsTerminal,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use strangers::is_ours;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// A gateway ready to be started.
pub type Plan = config::Plan<dyn Source, dyn Process, dyn Sink>;

/// One pipeline of it.
pub type Pipeline = config::PipelinePlan<dyn Process>;

/// Pipelines may finish their step, and sinks their delivery, this long after the stop is signalled.
const STOP: Duration = Duration::from_secs(8);
/// How often a gateway whose sources have all ended looks whether everything is delivered.
const DRAINED: Duration = Duration::from_millis(50);

/// After another admin listener was asked for, this one answers for so long.
const GOODBYE: Duration = Duration::from_secs(1);

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

/// Runs the gateway until SIGTERM, SIGINT, or until all sources have ended and everything is delivered; or until it is to be
/// started again as a whole. `text` is what the plan was made of; at SIGHUP, or when an operator says so, it becomes another,
/// and what is in both runs on. `face` runs beside it, for operators. With `stateless` nothing is stored: a source's events go
/// through pipelines and sinks before it is answered. An error means exit code 1.
pub async fn run<F: Future<Output = ()> + Send + 'static>(
    mut plan: Plan,
    text: String,
    origin: &Origin<'_>,
    stateless: bool,
    face: impl Fn(Settings, Running) -> F + Send + Clone + 'static,
) -> anyhow::Result<End> {
    let mut signals = Signals::new()?;
    let sum = Sum::of(&plan).map_err(|why| anyhow::anyhow!("gateway.memory: {why}"))?;
    sum.fill_in(&mut plan);
    let store = tokio::select! {
        store = open(&plan, &sum, stateless) => store?,
        end = signals.end(origin) => return Ok(end),
    };
    let (links, (fatal, mut failures), (orders, ordered)) = (Links::default(), mpsc::channel(1), mpsc::channel(1));
    let settings = plan.settings.clone();
    let before = Before { systems: plan.systems.clone(), buses: plan.buses.clone() };
    let (mut outlets, (stop, stopping)) = (JoinSet::new(), watch::channel(false));
    let flow = stateless.then(|| {
        let flow = Arc::new(Flow::new(std::mem::take(&mut plan.pipelines), std::mem::take(&mut plan.sinks)));
        outlets.spawn(flow.clone().keep_alive(stopping.clone()));
        flow as Arc<dyn kind::Before>
    });
    if let Some(exporter) = Exporter::of(&settings.gateway, &store, &links)? {
        outlets.spawn(exporter.run(stopping.clone()));
    }
    let mut parts = Parts::new(store.clone(), links.clone(), fatal, &settings.gateway.id, flow);
    let started = tokio::select! {
        started = parts.swap(plan, &sum, None, &mut failures) => started,
        end = signals.end(origin) => {
            store.close().await;
            return Ok(end);
        }
    };
    started.map_err(|failure| failure.why)?;
    let (gateway, config, shown) = (settings.gateway.id.clone(), Mutex::default(), Mutex::default());
    let view = View { gateway, store: store.clone(), links, parts: shown, config, orders, since: Instant::now() };
    let view = Running::of(view);
    let versions = (!stateless).then(|| Versions::beside(settings.store.path.as_ref()));
    let mut live = Live::new(origin, parts, view.clone(), (failures, ordered), text, (settings, before), versions);
    if !stateless {
        live.settle().await;
    }
    let mut faces = Faces::new(face);
    faces.start(&live.settings, &view);
    log::info!("running");
    notify::ready();
    let ended = tokio::select! {
        ended = serve(&mut live, &mut signals, &mut faces) => ended,
        // A defect: what killed it is looked for at the next start, so this is no orderly end.
        failure = panicked(&mut outlets) => return Err(failure),
    };
    let ended = match ended {
        Ok(Ended::Panicked(failure)) => return Err(failure),
        Ok(Ended::By(end)) => Ok(end),
        Err(failure) => Err(failure),
    };
    close(live, (outlets, stop), faces.0, &mut signals, ended).await
}

/// Stops all in the order of flow, and closes the store.
async fn close(
    mut live: Live<'_>,
    (mut outlets, stop): (JoinSet<()>, watch::Sender<bool>),
    mut faces: JoinSet<()>,
    signals: &mut Signals,
    mut ended: anyhow::Result<End>,
) -> anyhow::Result<End> {
    match ended {
        Ok(End::Reload) => notify::reloading(),
        _ => notify::stopping(),
    }
    log::info!("stopping");
    let stop_all = async {
        live.parts.stop_all().await;
        stop.send_replace(true);
        while outlets.join_next().await.is_some() {}
    };
    signals.while_stopping(async { drop(tokio::time::timeout(STOP, stop_all).await) }, &mut ended).await;
    faces.shutdown().await;
    live.store.close().await;
    // Who said so meanwhile.
    signals.while_stopping(std::future::ready(()), &mut ended).await;
    if !live.parts.stateless() {
        live.view.report_processes();
        log::info!("stopped: {}", live.view.summary());
    }
    ended
}

/// Why it does not go on.
enum Ended {
    By(End),
    Panicked(anyhow::Error),
}

/// Does what comes up until the end.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    live: &mut Live<'_>,
    signals: &mut Signals,
    faces: &mut Faces<impl Fn(Settings, Running) -> F + Send + Clone + 'static>,
) -> anyhow::Result<Ended> {
    while !live.restarts {
        let next = tokio::select! {
            told = signals.next() => match told {
                Told::Stop => return Ok(Ended::By(End::Done)),
                Told::Reload => None,
                Told::Report => {
                    live.view.report();
                    continue;
                }
            },
            next = live.next() => match next {
                Err(panicked) => return Ok(Ended::Panicked(panicked)),
                Ok(next) => Some(next),
            },
        };
        if let Some(Next::Drained) = next {
            let finish = finish(&live.store, live.parts.finishers());
            tokio::select! {
                () = finish => return Ok(Ended::By(End::Done)),
                () = signals.stop() => return Ok(Ended::By(End::Done)),
                Some(failure) = live.failures.recv() => anyhow::bail!(failure),
                failure = live.parts.panicked() => return Ok(Ended::Panicked(failure)),
            }
        }
        notify::reloading();
        tokio::select! {
            done = act(live, next) => done?,
            () = signals.stop() => return Ok(Ended::By(End::Done)),
        }
        faces.follow(&live.settings, &live.view);
        notify::ready();
    }
    Ok(Ended::By(End::Reload))
}

async fn act(live: &mut Live<'_>, next: Option<Next>) -> anyhow::Result<()> {
    match next {
        None => live.hangup().await,
        Some(Next::Asked(asked)) => live.obey(asked).await,
        Some(Next::Over) => live.over().await,
        Some(Next::Failed(failure)) => live.failed(failure).await,
        Some(Next::Drained) => Ok(()),
    }
}

/// What looks on: the operators' face, the lines for a person at a terminal, and what systemd is told.
struct Faces<M>(JoinSet<()>, M, Option<(String, AbortHandle)>);

impl<F: Future<Output = ()> + Send + 'static, M: Fn(Settings, Running) -> F + Send + Clone + 'static> Faces<M> {
    fn new(face: M) -> Self {
        Faces(JoinSet::new(), face, None)
    }

    fn start(&mut self, settings: &Settings, view: &Running) {
        self.follow(settings, view);
        self.0.spawn(status::tell_repeats());
        if std::io::stderr().is_terminal() {
            self.0.spawn(view.clone().print());
        }
        if notify::listened_to() {
            self.0.spawn(notify::keep_telling(view.clone()));
        }
    }

    /// Operators find the gateway where its settings say now. Who has just asked for them gets an answer before.
    fn follow(&mut self, settings: &Settings, view: &Running) {
        let place = serde_json::to_string(&settings.admin).unwrap_or_default();
        if self.2.as_ref().is_some_and(|(known, _)| *known == place) {
            return;
        }
        let old = self.2.take();
        let (face, settings, view) = (self.1.clone(), settings.clone(), view.clone());
        let task = self.0.spawn(async move {
            if let Some((_, old)) = old {
                sleep(GOODBYE).await;
                old.abort();
            }
            face(settings, view).await;
        });
        self.2 = Some((place, task));
    }
}

async fn quiet_end(work: impl Future<Output = ()>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Until every consumer is done with everything, and each pipeline, in the order of flow, has emitted what its processes
/// still held.
async fn finish(store: &Store, finishers: Vec<mpsc::Sender<oneshot::Sender<()>>>) {
    drained(store).await;
    for finisher in finishers {
        let (done, finished) = oneshot::channel();
        if finisher.send(done).await.is_ok() {
            finished.await.ok();
        }
        drained(store).await;
    }
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

/// Until a task panics, which is a defect: the gateway ends and is started again, as after a crash.
async fn panicked(tasks: &mut JoinSet<()>) -> anyhow::Error {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error.into(),
            Some(Ok(())) => {}
            None => pending().await,
        }
    }
}

/// Opens the store. A disk that is full or read-only is waited for.
async fn open(plan: &Plan, sum: &Sum, stateless: bool) -> anyhow::Result<Store> {
    let options = store_options(&plan.settings, sum, stateless);
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

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.reload.recv() => Told::Reload,
            _ = self.report.recv() => Told::Report,
        }
    }

    /// Until it is time to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// While it stops: who says so again does not want it to start again; after that, nor to wait.
    async fn while_stopping(&mut self, work: impl Future<Output = ()>, ended: &mut anyhow::Result<End>) {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stop() => match ended {
                    Ok(End::Reload) => {
                        log::info!("told to stop: not starting again");
                        notify::stopping();
                        *ended = Ok(End::Done);
                    }
                    _ => return log::warn!("second signal: not waiting for deliveries in progress"),
                },
                () = &mut work => return,
            }
        }
    }

    /// While the store cannot be opened, or takes no consumer: until it is time to stop, or the file says something right.
    async fn end(&mut self, origin: &Origin<'_>) -> End {
        loop {
            match self.next().await {
                Told::Stop => return End::Done,
                Told::Reload if config::read(origin.file).is_ok_and(|text| (origin.build)(&text, None).is_ok()) => {
                    return End::Reload;
                }
                Told::Reload => log::error!("the configuration is wrong; going on with the old one"),
                Told::Report => {}
            }
        }
    }
}

/// What a signal says.
enum Told {
    Stop,
    Reload,
    Report,
}
