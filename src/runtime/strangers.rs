//! What the store keeps for consumers that the configuration does not name any more.

use super::parts::Parts;
use std::collections::{BTreeMap, BTreeSet};

impl Parts {
    /// What the configuration no longer names keeps what it has not passed, and what it remembers: a renamed sink must not
    /// lose its queue in silence, nor a renamed process its figures.
    pub(super) async fn warn_of_strangers(&mut self) -> anyhow::Result<()> {
        let mut queued: BTreeMap<String, u64> = BTreeMap::new();
        let (known, mut gone) = (self.store.registered(), BTreeSet::new());
        let with_sessions = self.with_sessions();
        for row in self.store.ledger().into_iter().filter(|r| !known.contains(&r.consumer)) {
            if is_stranger(&row.consumer, &with_sessions) {
                *queued.entry(row.consumer).or_default() += row.queued;
            }
        }
        // By source: how many sessions, the most that one of them has to go, and one of their names.
        let mut sessions: BTreeMap<String, (usize, u64, String)> = BTreeMap::new();
        for (consumer, queued) in queued {
            if let Some((source, _)) = session_of(&consumer) {
                let (count, most, name) = sessions.entry(source.to_owned()).or_default();
                (*count, *most, *name) = (*count + 1, queued.max(*most), consumer);
                continue;
            }
            if !self.told.contains(&consumer) {
                log::warn!(
                    "`{consumer}` is not in the configuration any more; the store keeps its {queued} events for it"
                );
            }
            gone.insert(consumer);
        }
        for (source, (count, queued, name)) in sessions {
            if !self.told.contains(&source) {
                log::warn!(
                    "`{source}`: MQTT sessions are not in the configuration any more, {count} of them; the store keeps \
                     {queued} events for them; `tidegate forget {name}`"
                );
            }
            gone.insert(source);
        }
        let chains = self.chains();
        let owners: BTreeSet<String> =
            chains.iter().flat_map(|c| c.memory().owners().map(str::to_owned).collect::<Vec<_>>()).collect();
        for (owner, values) in self.store.owners("pipelines.").await? {
            if owners.contains(&owner) {
                continue;
            }
            if !self.told.contains(&owner) {
                log::warn!(
                    "`{owner}` is not in the configuration any more; the store keeps the {values} values it remembers"
                );
            }
            gone.insert(owner);
        }
        self.told = gone;
        Ok(())
    }
}

/// Whether a consumer is one of the configuration.
pub(super) fn is_ours(consumer: &str) -> bool {
    consumer.starts_with("pipelines.") || consumer.starts_with("sinks.")
}

/// The source and its client, of a consumer that holds what a client's session has not read.
pub fn session_of(consumer: &str) -> Option<(&str, &str)> {
    consumer.split_once('/').filter(|_| !is_ours(consumer))
}

/// Whether a consumer that is not registered is not in the configuration either; sessions register when their source does.
pub(super) fn is_stranger(consumer: &str, with_sessions: &[String]) -> bool {
    session_of(consumer)
        .map_or_else(|| is_ours(consumer), |(source, _)| !with_sessions.iter().any(|name| name == source))
}
