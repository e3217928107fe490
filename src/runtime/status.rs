//! One line now and then for a person who looks on.

use super::links::Links;
use crate::{budget::Size, store::Store};
use std::time::Duration;

/// Four lines a minute.
const EVERY: Duration = Duration::from_secs(15);

/// Prints the status for ever; only where a person looks on.
pub(super) async fn print(store: Store, links: Links) {
    let mut before = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let line = line(&store, &links, &mut before);
        log::info!("{line}");
    }
}

fn line(store: &Store, links: &Links, before: &mut u64) -> String {
    let ledger = store.ledger();
    let of = |prefix: &str| ledger.iter().filter(move |row| row.consumer.starts_with(prefix)).collect::<Vec<_>>();
    // A source's topic is read by nobody but pipelines, sinks and sessions: count each topic that is not an output once.
    let outputs: Vec<String> =
        of("pipelines.").iter().map(|row| row.consumer.trim_start_matches("pipelines.").to_owned()).collect();
    let mut topics: Vec<(&str, u64)> =
        ledger.iter().filter(|r| !outputs.contains(&r.topic)).map(|r| (r.topic.as_str(), r.accepted)).collect();
    topics.sort_unstable();
    topics.dedup_by_key(|(topic, _)| *topic);
    let taken: u64 = topics.iter().map(|(_, n)| n).sum();
    let rate = taken.saturating_sub(*before) as f64 / EVERY.as_secs_f64();
    *before = taken;
    let sum = |rows: &[&crate::store::Ledger], count: fn(&crate::store::Ledger) -> u64| {
        rows.iter().map(|r| count(r)).sum::<u64>()
    };
    let sinks = of("sinks.");
    let (pipelines, dead) = (of("pipelines."), ledger.iter().map(|r| r.dead).sum::<u64>());
    let (_, used) = store.progress();
    let down = links.all_down();
    let down = if down.is_empty() { String::new() } else { format!(", down: {}", down.join(" ")) };
    format!(
        "taken in {taken} ({rate:.0}/s), delivered {}, queued {}, stopped {}, dead {dead}, store {}{down}",
        sum(&sinks, |r| r.delivered),
        sum(&sinks, |r| r.queued) + sum(&pipelines, |r| r.queued),
        sum(&pipelines, |r| r.stopped),
        Size(used),
    )
}
