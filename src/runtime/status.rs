//! One line now and then for a person who looks on, and one at the end.

use super::{
    links::Links,
    meter::{Counts, Meter},
    notify::Beat,
    order::{Asked, Changed, Denied, Order, Origins},
    strangers::is_stranger,
};
use crate::{
    budget::Size,
    store::{Ledger, Store},
    tally,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// Four lines a minute.
const EVERY: Duration = Duration::from_secs(15);

/// How often lines of the log that came again and again are told.
const REPEATS: Duration = Duration::from_secs(60);

/// A gateway that runs, as operators see it; clones are the same.
#[derive(Clone)]
pub struct Running(Arc<View>);

/// What is looked at.
pub(super) struct View {
    pub gateway: String,
    pub store: Store,
    pub links: Links,
    pub parts: Mutex<Shown>,
    /// What is known of its configuration.
    pub config: Mutex<Origins>,
    /// Asks for another configuration.
    pub orders: mpsc::Sender<Asked>,
    pub since: Instant,
}

/// What is looked at of the parts that run now.
#[derive(Default)]
pub(super) struct Shown {
    /// The topics that sources write.
    pub sources: Vec<String>,
    /// Those whose clients have consumers.
    pub with_sessions: Vec<String>,
    /// What each process did, by pipeline.
    pub meters: Vec<(String, Vec<Arc<Meter>>)>,
    pub beats: Vec<(String, Beat)>,
}

impl View {
    fn parts(&self) -> MutexGuard<'_, Shown> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells for ever how often lines of the log came again.
pub(super) async fn tell_repeats() {
    loop {
        tokio::time::sleep(REPEATS).await;
        log::logger().flush();
    }
}

impl Running {
    pub(super) fn of(view: View) -> Self {
        Running(Arc::new(view))
    }

    /// Other parts run now.
    pub(super) fn show(&self, parts: Shown) {
        *self.0.parts() = parts;
    }

    /// What is known of its configuration.
    pub fn origins(&self) -> Origins {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Origins)) {
        change(&mut self.0.config.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks for another configuration, and waits until it runs or is refused.
    pub async fn order(&self, order: Order) -> Result<Changed, Denied> {
        let (reply, answer) = oneshot::channel();
        let stops = || Denied::Conflict("the gateway is stopping".into());
        self.0.orders.send(Asked { order, reply }).await.map_err(|_| stops())?;
        answer.await.map_err(|_| stops())?
    }

    /// Its id.
    pub fn gateway(&self) -> &str {
        &self.0.gateway
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Seconds since its start.
    pub fn seconds(&self) -> u64 {
        self.0.since.elapsed().as_secs()
    }

    /// What does not work: its name, why, and for how many seconds.
    pub fn down(&self) -> Vec<(String, String, u64)> {
        self.0.links.reasons()
    }

    /// Who does not send for a reason of its own, and why.
    pub fn held(&self) -> Vec<(String, String)> {
        self.0.links.all_held()
    }

    /// What came up again: how often, and for how long it was down in all.
    pub fn times(&self) -> BTreeMap<String, (u64, Duration)> {
        self.0.links.times()
    }

    /// Counts of all sinks.
    pub fn outlets(&self) -> Vec<(String, Arc<tally::Outlet>)> {
        self.0.links.outlets()
    }

    /// Whether a consumer is not in the configuration any more.
    pub fn is_stranger(&self, consumer: &str) -> bool {
        !self.store().registered().iter().any(|known| known == consumer)
            && is_stranger(consumer, &self.0.parts().with_sessions)
    }

    /// Names of all sources and sinks.
    pub fn edges(&self) -> Vec<String> {
        let sources: Vec<String> = self.0.parts().sources.iter().map(|name| format!("sources.{name}")).collect();
        sources.into_iter().chain(self.outlets().into_iter().map(|(name, _)| name)).collect()
    }

    /// Pipelines that should make progress and do not.
    pub fn stuck(&self) -> Vec<String> {
        self.0.parts().beats.iter().filter(|(_, beat)| beat.stuck()).map(|(name, _)| name.clone()).collect()
    }

    /// What every process did since the start, with its pipeline.
    pub fn processes(&self) -> Vec<(String, Counts)> {
        let parts = self.0.parts();
        parts
            .meters
            .iter()
            .flat_map(|(chain, meters)| meters.iter().map(|meter| (chain.clone(), meter.read())))
            .collect()
    }

    /// What each process did, by `PIPELINE.PROCESS`.
    pub(super) fn taps(&self) -> Vec<(String, Arc<Meter>)> {
        let name = |chain: &str, meter: &Meter| {
            let pipeline = chain.strip_prefix("pipelines.").unwrap_or(chain);
            format!("{}.{}", pipeline.split('/').next().unwrap_or_default(), meter.name)
        };
        let parts = self.0.parts();
        let meters = parts.meters.iter();
        meters.flat_map(|(chain, meters)| meters.iter().map(|meter| (name(chain, meter), meter.clone()))).collect()
    }

    /// The topics that there are, or will be.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        let stored = self.0.store.ledger().into_iter().map(|row| row.topic);
        let parts = self.0.parts();
        let pipelines = parts.beats.iter().filter_map(|(name, _)| name.strip_prefix("pipelines."));
        parts.sources.iter().cloned().chain(pipelines.map(str::to_owned)).chain(stored).collect()
    }

    /// Writes to the log what every process did.
    pub(super) fn report_processes(&self) {
        for (chain, meters) in &self.0.parts().meters {
            for meter in meters {
                log::info!("{chain}: {}: {meter}", meter.name);
            }
        }
    }

    /// Prints the status for ever; only where a person looks on.
    pub(super) async fn print(self) {
        let mut before = self.taken();
        loop {
            tokio::time::sleep(EVERY).await;
            let now = self.taken();
            let rate = now.saturating_sub(before) as f64 / EVERY.as_secs_f64();
            before = now;
            log::info!("{rate:.0} events/s; {}", self.summary());
        }
    }

    /// How many events sources have taken in.
    pub fn taken(&self) -> u64 {
        let sources = self.0.parts().sources.clone();
        sources.iter().map(|topic| self.0.store.taken(topic)).sum()
    }

    /// Writes to the log what every consumer has before it, what every process did, and what is down and why.
    pub(super) fn report(&self) {
        for row in self.0.store.ledger() {
            log::info!(
                "{}: of `{}` delivered {}, queued {}, stopped {}, dead {}, evicted {}, offloaded {}",
                row.consumer,
                row.topic,
                row.delivered,
                row.queued,
                row.stopped,
                row.dead,
                row.evicted,
                row.offloaded
            );
        }
        self.report_processes();
        for (name, reason, _) in self.0.links.reasons() {
            log::info!("{name}: down: {reason}");
        }
        for (name, why) in self.0.links.all_held() {
            log::info!("{name}: waits: {why}");
        }
        log::info!("{}", self.summary());
    }

    /// Where all events are, and what is down.
    pub(super) fn summary(&self) -> String {
        let ledger = self.0.store.ledger();
        let sum = |prefix: &str, count: fn(&Ledger) -> u64| -> u64 {
            ledger.iter().filter(|row| row.consumer.starts_with(prefix)).map(count).sum()
        };
        let (_, used) = self.0.store.progress();
        let mut line = format!(
            "taken in {}, delivered {}, queued {}, stopped {}, dead {}, store {}{}",
            self.taken(),
            sum("sinks.", |row| row.delivered),
            sum("sinks.", |row| row.queued) + sum("pipelines.", |row| row.queued),
            sum("pipelines.", |row| row.stopped),
            sum("", |row| row.dead),
            Size(used),
            [("offloaded", sum("", |row| row.offloaded)), ("evicted", sum("", |row| row.evicted))]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(what, count)| format!(", {what} {count}"))
                .collect::<String>(),
        );
        let held: Vec<String> =
            self.0.links.all_held().into_iter().map(|(name, why)| format!("{name} ({why})")).collect();
        if !held.is_empty() {
            line += &format!(", waiting: {}", held.join(" "));
        }
        let down = self.0.links.all_down();
        if !down.is_empty() {
            line += &format!(", down: {}", down.join(" "));
        }
        line
    }
}
