//! One line now and then for a person who looks on, and one at the end.

use super::{links::Links, meter::Meter};
use crate::{
    budget::Size,
    store::{Ledger, Store},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Four lines a minute.
const EVERY: Duration = Duration::from_secs(15);

/// Prints the status for ever; only where a person looks on.
pub(super) async fn print(store: Store, links: Links) {
    let mut before = taken(&store.ledger());
    loop {
        tokio::time::sleep(EVERY).await;
        let now = taken(&store.ledger());
        let rate = now.saturating_sub(before) as f64 / EVERY.as_secs_f64();
        before = now;
        log::info!("{rate:.0} events/s; {}", summary(&store, &links));
    }
}

/// What sources have taken in: the topics that are no pipeline's output.
pub(super) fn taken(ledger: &[Ledger]) -> u64 {
    let outputs: Vec<&str> = ledger.iter().filter_map(|row| row.consumer.strip_prefix("pipelines.")).collect();
    let mut topics: BTreeMap<&str, u64> = BTreeMap::new();
    for row in ledger.iter().filter(|row| !outputs.contains(&row.topic.as_str())) {
        let most = topics.entry(&row.topic).or_default();
        *most = row.accepted.max(*most); // a consumer that began later saw fewer
    }
    topics.values().sum()
}

/// What each process did, by pipeline.
pub(super) type Meters = [(String, Vec<Arc<Meter>>)];

/// Writes to the log what every consumer has before it, what every process did, and what is down and why.
pub(super) fn report(store: &Store, links: &Links, meters: &Meters) {
    for row in store.ledger() {
        log::info!(
            "{}: of `{}` delivered {}, queued {}, stopped {}, dead {}",
            row.consumer,
            row.topic,
            row.delivered,
            row.queued,
            row.stopped,
            row.dead
        );
    }
    processes(meters);
    for (name, reason) in links.reasons() {
        log::info!("{name}: down: {reason}");
    }
    log::info!("{}", summary(store, links));
}

/// Writes to the log what every process did.
pub(super) fn processes(meters: &Meters) {
    for (chain, meters) in meters {
        for meter in meters {
            log::info!("{chain}: {}: {meter}", meter.name);
        }
    }
}

/// Where all events are, and what is down.
pub(super) fn summary(store: &Store, links: &Links) -> String {
    let ledger = store.ledger();
    let sum = |prefix: &str, count: fn(&Ledger) -> u64| -> u64 {
        ledger.iter().filter(|row| row.consumer.starts_with(prefix)).map(count).sum()
    };
    let (_, used) = store.progress();
    let mut line = format!(
        "taken in {}, delivered {}, queued {}, stopped {}, dead {}, store {}",
        taken(&ledger),
        sum("sinks.", |row| row.delivered),
        sum("sinks.", |row| row.queued) + sum("pipelines.", |row| row.queued),
        sum("pipelines.", |row| row.stopped),
        sum("", |row| row.dead),
        Size(used),
    );
    let down = links.all_down();
    if !down.is_empty() {
        line += &format!(", down: {}", down.join(" "));
    }
    line
}
