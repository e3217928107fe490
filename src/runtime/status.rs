//! One line now and then for a person who looks on, and one at the end.

use super::{links::Links, meter::Meter};
use crate::{
    budget::Size,
    store::{Ledger, Store},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Four lines a minute.
const EVERY: Duration = Duration::from_secs(15);

/// What is looked at.
#[derive(Clone)]
pub(super) struct View {
    pub store: Store,
    pub links: Links,
    /// The topics that sources write.
    pub sources: Vec<String>,
}

/// What each process did, by pipeline.
pub(super) type Meters = [(String, Vec<Arc<Meter>>)];

/// Writes to the log what every process did.
pub(super) fn processes(meters: &Meters) {
    for (chain, meters) in meters {
        for meter in meters {
            log::info!("{chain}: {}: {meter}", meter.name);
        }
    }
}

impl View {
    /// Prints the status for ever; only where a person looks on.
    pub async fn print(self) {
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
        let mut topics: BTreeMap<String, u64> = BTreeMap::new();
        for row in self.store.ledger().into_iter().filter(|row| self.sources.contains(&row.topic)) {
            let most = topics.entry(row.topic).or_default();
            *most = row.accepted.max(*most); // a consumer that began later saw fewer
        }
        topics.values().sum()
    }

    /// Writes to the log what every consumer has before it, what every process did, and what is down and why.
    pub fn report(&self, meters: &Meters) {
        for row in self.store.ledger() {
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
        processes(meters);
        for (name, reason) in self.links.reasons() {
            log::info!("{name}: down: {reason}");
        }
        for (name, why) in self.links.all_held() {
            log::info!("{name}: waits: {why}");
        }
        log::info!("{}", self.summary());
    }

    /// Where all events are, and what is down.
    pub fn summary(&self) -> String {
        let ledger = self.store.ledger();
        let sum = |prefix: &str, count: fn(&Ledger) -> u64| -> u64 {
            ledger.iter().filter(|row| row.consumer.starts_with(prefix)).map(count).sum()
        };
        let (_, used) = self.store.progress();
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
            self.links.all_held().into_iter().map(|(name, why)| format!("{name} ({why})")).collect();
        if !held.is_empty() {
            line += &format!(", waiting: {}", held.join(" "));
        }
        let down = self.links.all_down();
        if !down.is_empty() {
            line += &format!(", down: {}", down.join(" "));
        }
        line
    }
}
