//! What runs, part by part: each source, pipeline and sink is stopped and started while the others go on.

use super::{
    LATER, Plan, STOP, Sum,
    chain::Chain,
    fresh::{Fresh, Make, Seat},
    links::Links,
    meter::Meter,
    names,
    notify::{self, Beat},
    pipeline::{Finish, Pipeline},
    quiet_end, session_of,
    sink::Outlet,
    source, start_of,
};
use crate::{
    kind::{Before, Intake},
    store::{Refusal, Step, Store},
};
use anyhow::{bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinError, JoinSet},
    time::{sleep, timeout},
};

/// What is dropped is gone after this long, unless it is stuck.
const DROPPED: Duration = Duration::from_secs(2);
/// A disk that does not take how far consumers are is waited for so long; then they repeat what they did.
const FLUSH: Duration = Duration::from_secs(10);
/// Sorts of parts, in the order of flow.
const SORTS: [&str; 4] = ["sources.", "pipelines.", "sinks.", OFFLOAD];
/// The part that carries events elsewhere.
pub(super) const OFFLOAD: &str = "store.disk.offload";

/// Something of the configuration that runs on its own.
struct Part {
    make: Make,
    stop: watch::Sender<bool>,
    tasks: Vec<AbortHandle>,
    /// A source that ends by itself.
    bounded: bool,
    /// A source whose clients have consumers.
    sessions: bool,
    /// It cannot go on.
    failed: bool,
    chains: Vec<(Arc<Chain>, mpsc::Sender<oneshot::Sender<()>>)>,
    seats: Vec<Seat>,
}

/// What a change of parts did.
#[derive(Default)]
pub(super) struct Swapped {
    pub started: Vec<String>,
    pub stopped: Vec<String>,
    pub kept: usize,
}

/// Why it did not work.
pub(super) struct Failure {
    pub why: anyhow::Error,
    /// Whether some of the old parts are stopped already.
    pub torn: bool,
}

pub(super) struct Parts {
    pub store: Store,
    pub links: Links,
    fatal: mpsc::Sender<String>,
    pub gateway: String,
    /// Without a store.
    before: Option<Arc<dyn Before>>,
    parts: BTreeMap<String, Part>,
    sources: JoinSet<()>,
    consumers: JoinSet<()>,
    /// Consumers that may still hold places in topics which they read no more.
    joined: BTreeSet<String>,
    /// Consumers and owners that are gone, as far as it was told.
    pub(super) told: BTreeSet<String>,
    /// Some could not be stopped: nothing can be started in their place.
    stuck: bool,
    /// That one cannot go on, which came during a change and is still to be looked at.
    pub failure: Option<String>,
}

impl Parts {
    /// Nothing yet.
    pub fn new(
        store: Store,
        links: Links,
        fatal: mpsc::Sender<String>,
        gateway: &str,
        before: Option<Arc<dyn Before>>,
    ) -> Parts {
        let (parts, sources, consumers, joined, told) = Default::default();
        let gateway = gateway.to_owned();
        let (stuck, failure) = (false, None);
        Parts { store, links, fatal, gateway, before, parts, sources, consumers, joined, told, stuck, failure }
    }

    /// Makes what runs what a configuration says. What is in both runs on. All consumers are registered before anything is
    /// touched; then what is gone stops in the order of flow, and what is new starts against it. `patience` is how long a disk
    /// is waited for that does not take a consumer; without it, for ever.
    pub async fn swap(
        &mut self,
        plan: Plan,
        sum: &Sum,
        patience: Option<Duration>,
        failures: &mut mpsc::Receiver<String>,
    ) -> Result<Swapped, Failure> {
        let whole = |why| Failure { why, torn: false };
        if self.stuck {
            return Err(whole(anyhow::anyhow!("something that was stopped still works")));
        }
        let (fresh, kept) = Fresh::of(plan, sum, self).map_err(whole)?;
        let (seats, started) = (fresh.seats(), fresh.names());
        let numbers = match self.register(&seats, patience).await {
            Ok(numbers) => numbers,
            Err(why) => {
                self.unseat(&seats).await;
                return Err(whole(why));
            }
        };
        let stopped: Vec<String> = self.parts.keys().filter(|name| !kept.contains(name)).cloned().collect();
        let changed = async {
            if !stopped.is_empty() {
                self.stop(&stopped, &seats).await?;
            }
            // That one could not go on which is stopped by now is nothing to us any more.
            while let Ok(failure) = failures.try_recv() {
                if !stopped.iter().any(|name| is_of(&failure, name)) {
                    self.failure = Some(failure);
                }
            }
            self.start(fresh, &numbers).await
        };
        match changed.await {
            Ok(()) => Ok(Swapped { started, stopped, kept: kept.len() }),
            Err(why) => Err(Failure { why, torn: true }),
        }
    }

    /// A part cannot go on: it is not kept at the next change.
    pub fn fail(&mut self, failure: &str) {
        for (_, part) in self.parts.iter_mut().filter(|(name, _)| is_of(failure, name)) {
            part.failed = true;
        }
    }

    /// Gives the numbers of consumers. One that reads fewer topics than before keeps its place in all of them until
    /// [`Parts::settle`].
    async fn register(&mut self, seats: &[Seat], patience: Option<Duration>) -> anyhow::Result<BTreeMap<String, u32>> {
        let (mut numbers, until) = (BTreeMap::new(), patience.map(|patience| Instant::now() + patience));
        for seat in seats {
            let mut told = false;
            let number = loop {
                let (topics, start) = (&seat.topics, start_of(seat.start));
                match self.store.join(&seat.name, topics, start).await {
                    Err(refusal @ (Refusal::Full | Refusal::Failed(_))) => {
                        if !std::mem::replace(&mut told, true) {
                            log::error!("{}: it is new, and the disk does not take it; waiting", seat.name);
                        }
                        ensure!(until.is_none_or(|until| Instant::now() < until), "{}: {refusal}", seat.name);
                        notify::waiting();
                    }
                    joined => break joined?,
                }
                sleep(LATER).await;
            };
            self.joined.insert(seat.name.clone());
            numbers.insert(seat.name.clone(), number);
        }
        Ok(numbers)
    }

    /// Takes back that consumers were registered.
    async fn unseat(&self, seats: &[Seat]) {
        for seat in seats {
            let known = self.parts.values().flat_map(|part| &part.seats).find(|known| known.name == seat.name);
            match known {
                Some(known) => drop(self.store.join(&known.name, &known.topics, start_of(known.start)).await),
                None => drop(self.store.leave(&seat.name).await),
            }
        }
    }

    /// What runs stays: a consumer that reads a topic no more gives its place in it up. Those that are gone are told.
    pub async fn settle(&mut self) {
        let mut still = BTreeSet::new();
        for seat in self.parts.values().flat_map(|part| &part.seats).filter(|seat| self.joined.contains(&seat.name)) {
            // A disk that does not take it now is asked after the next change.
            if self.store.consumer(&seat.name, &seat.topics, start_of(seat.start)).await.is_err() {
                still.insert(seat.name.clone());
            }
        }
        self.joined = still;
        if let Err(error) = self.warn_of_strangers().await {
            log::warn!("what is not in the configuration any more could not be looked for: {error:#}");
        }
    }

    /// Forgets those of some consumers that are not in the configuration, with what they remember: only one that has gone back
    /// had them. What nobody else is to see of what was acknowledged stays with them. Gives those that the disk does not let go
    /// now.
    pub async fn forget(&self, made: &[String]) -> Vec<String> {
        let (mut left, ledger) = (Vec::new(), self.store.ledger());
        let runs = |name: &str| self.parts.values().flat_map(|part| &part.seats).any(|seat| seat.name == name);
        let shared = |topic: &str| ledger.iter().any(|row| row.topic == topic && runs(&row.consumer));
        let holds = |name: &str| {
            let mut rows = ledger.iter().filter(|row| row.consumer == name && row.queued + row.offloaded > 0);
            rows.any(|row| !shared(&row.topic))
        };
        for name in made.iter().filter(|name| !runs(name) && !holds(name)) {
            if self.store.forget_whole(name).await.is_err() {
                left.push(name.clone());
            }
        }
        left
    }

    /// Stops parts in the order of flow, each at the end of its step or delivery, and has on disk how far they are.
    async fn stop(&mut self, gone: &[String], seats: &[Seat]) -> anyhow::Result<()> {
        for sort in SORTS {
            let gone: Vec<&String> = gone.iter().filter(|name| name.starts_with(sort)).collect();
            let parts: Vec<&Part> = gone.iter().filter_map(|name| self.parts.get(*name)).collect();
            for part in &parts {
                part.stop.send_replace(true);
            }
            let all_ended = || async {
                for part in &parts {
                    part.stop.closed().await;
                }
            };
            if timeout(STOP, all_ended()).await.is_err() {
                parts.iter().flat_map(|part| &part.tasks).for_each(AbortHandle::abort);
                self.stuck |= timeout(DROPPED, all_ended()).await.is_err();
                ensure!(!self.stuck, "one of {gone:?} cannot be stopped");
            }
            for name in gone {
                let part = self.parts.remove(name);
                for seat in part.iter().flat_map(|part| &part.seats) {
                    self.links.forget(&seat.name);
                    if !seats.iter().any(|known| known.name == seat.name) {
                        self.store.leave(&seat.name).await.ok();
                    }
                }
                if part.is_some_and(|part| part.sessions) {
                    let registered = self.store.registered();
                    for session in registered
                        .iter()
                        .filter(|known| session_of(known).map(|(source, _)| source) == name.strip_prefix(sort))
                    {
                        self.store.leave(session).await.ok();
                    }
                }
                self.links.forget(name);
            }
        }
        let until = Instant::now() + FLUSH;
        // What they did last rides with the next commit: who takes over must know it.
        while let Err(refusal) = self.store.commit(Step::default()).await {
            if matches!(refusal, Refusal::Closed) {
                bail!(refusal);
            }
            if Instant::now() > until {
                log::warn!("some deliveries are repeated: how far they are could not be written down: {refusal}");
                break;
            }
            sleep(LATER).await;
        }
        Ok(())
    }

    async fn start(&mut self, fresh: Fresh, numbers: &BTreeMap<String, u32>) -> anyhow::Result<()> {
        let number = |name: &str| numbers.get(name).copied().unwrap_or_default();
        if let Some((make, offload)) = fresh.offload {
            let mut part = Part::new(make);
            let work = quiet_end(offload.run(), part.stop.subscribe());
            part.tasks.push(self.consumers.spawn(work));
            self.parts.insert(OFFLOAD.into(), part);
        }
        for (make, plan) in fresh.sinks {
            let (seat, mut part) = (Seat::of_sink(&plan), Part::new(make));
            let (store, links, fatal) = (&self.store, &self.links, &self.fatal);
            let outlet = Outlet::open(plan, number(&seat.name), &self.gateway, store, links, fatal).await?;
            part.tasks.push(self.consumers.spawn(outlet.run(part.stop.subscribe())));
            part.seats.push(seat.clone());
            self.parts.insert(seat.name, part);
        }
        for (name, make, chains) in fresh.pipelines {
            let mut part = Part::new(make);
            part.seats = chains.iter().map(Seat::of_chain).collect();
            for chain in chains {
                let consumer = number(&chain.name);
                let (chain, finisher, pipeline) = load(chain, consumer, &self.store).await?;
                part.tasks.push(self.consumers.spawn(pipeline.run(part.stop.subscribe())));
                part.chains.push((chain, finisher));
            }
            self.parts.insert(name, part);
        }
        for (make, plan, fields) in fresh.sources {
            let mut part = Part::new(make);
            (part.bounded, part.sessions) = (plan.source.bounded(), plan.source.has_sessions());
            let intake = Intake::new(&plan.name, fields, self.store.clone(), self.before.clone());
            let name = format!("sources.{}", plan.name);
            let run = source::run(name.clone(), plan.source, intake, self.links.clone(), self.fatal.clone());
            part.tasks.push(self.sources.spawn(quiet_end(run, part.stop.subscribe())));
            self.parts.insert(name, part);
        }
        Ok(())
    }

    /// Until every source has ended and all were bounded. The error is a defect: a task has panicked.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let bounded = self.parts.iter().filter(|(name, _)| name.starts_with(SORTS[0])).all(|(_, part)| part.bounded);
        loop {
            if bounded && self.sources.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(ended) = self.sources.join_next() => well(ended)?,
                Some(ended) = self.consumers.join_next() => well(ended)?,
                else => std::future::pending().await,
            }
        }
    }

    /// Until a task panics: the gateway ends and is started again, as after a crash.
    pub async fn panicked(&mut self) -> anyhow::Error {
        while let Some(ended) = self.consumers.join_next().await {
            if let Err(error) = well(ended) {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Who is asked, one after another in the order of flow, to emit what its processes still hold.
    pub fn finishers(&self) -> Vec<mpsc::Sender<oneshot::Sender<()>>> {
        let chains: Vec<_> = self.parts.values().flat_map(|part| &part.chains).cloned().collect();
        in_order(chains, |(chain, _)| chain).into_iter().map(|(_, finisher)| finisher).collect()
    }

    /// Stops all: sources first, then what is behind them.
    pub async fn stop_all(&mut self) {
        self.sources.shutdown().await;
        for part in self.parts.values() {
            part.stop.send_replace(true);
        }
        while self.consumers.join_next().await.is_some() {}
    }

    /// Whether a part runs that was made just so, and can go on.
    pub fn runs(&self, name: &str, make: &Make) -> bool {
        self.parts.get(name).is_some_and(|part| part.make == *make && !part.failed)
    }

    pub fn stateless(&self) -> bool {
        self.before.is_some()
    }

    /// The topics that sources write.
    pub fn sources(&self) -> Vec<String> {
        self.parts.keys().filter_map(|name| name.strip_prefix(SORTS[0])).map(str::to_owned).collect()
    }

    /// The sources whose clients have consumers.
    pub fn with_sessions(&self) -> Vec<String> {
        let parts = self.parts.iter().filter(|(_, part)| part.sessions);
        parts.filter_map(|(name, _)| name.strip_prefix(SORTS[0])).map(str::to_owned).collect()
    }

    pub(super) fn chains(&self) -> Vec<Arc<Chain>> {
        let chains: Vec<_> =
            self.parts.values().flat_map(|part| &part.chains).map(|(chain, _)| chain.clone()).collect();
        in_order(chains, |chain| chain)
    }

    /// What each process did, by pipeline.
    pub fn meters(&self) -> Vec<(String, Vec<Arc<Meter>>)> {
        self.chains().iter().map(|chain| (chain.name.clone(), chain.meters().cloned().collect())).collect()
    }

    pub fn beats(&self) -> Vec<(String, Beat)> {
        self.chains().iter().map(|chain| (chain.name.clone(), chain.beat.clone())).collect()
    }
}

impl Part {
    fn new(make: Make) -> Part {
        let (tasks, chains, seats) = Default::default();
        let (bounded, sessions, failed) = (false, false, false);
        Part { make, stop: watch::Sender::new(false), tasks, bounded, sessions, failed, chains, seats }
    }
}

/// A chain as a pipeline with what its processes remembered, and who asks it to emit what it holds.
pub(super) async fn load(
    chain: Chain,
    consumer: u32,
    store: &Store,
) -> anyhow::Result<(Arc<Chain>, mpsc::Sender<oneshot::Sender<()>>, Pipeline)> {
    let mut memory = chain.memory();
    let owners: Vec<String> = memory.owners().map(str::to_owned).collect();
    for (at, owner) in owners.iter().enumerate() {
        memory.load(at, store.state(owner, b"", usize::MAX).await?, store.timers(owner, usize::MAX).await?);
    }
    let (finisher, ending): (_, Finish) = mpsc::channel(1);
    let reader = store.reader(consumer, &names(&chain.from));
    let (chain, store) = (Arc::new(chain), store.clone());
    Ok((chain.clone(), finisher, Pipeline { chain, consumer, reader, store, memory, ending, suspects: None }))
}

/// A task may have been dropped; that it panicked is a defect.
fn well(ended: Result<(), JoinError>) -> anyhow::Result<()> {
    match ended {
        Err(error) if error.is_panic() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether a failure is of the part of this name.
fn is_of(failure: &str, name: &str) -> bool {
    failure.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
}

/// Chains in an order in which none comes before one whose events it reads.
pub(super) fn in_order<T>(mut all: Vec<T>, chain_of: impl Fn(&T) -> &Chain) -> Vec<T> {
    let mut ordered = Vec::new();
    while !all.is_empty() {
        let feeds = |from: &Chain, to: &Chain| {
            from.name != to.name && to.from.iter().any(|topic| **topic == *from.topic || from.writes.contains(topic))
        };
        // The configuration has no circles; a chain that writes what only its own later part reads is no reason to wait.
        let first = all.iter().position(|to| !all.iter().any(|from| feeds(chain_of(from), chain_of(to))));
        ordered.push(all.remove(first.unwrap_or(0)));
    }
    ordered
}
